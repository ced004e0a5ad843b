/* Streams in PostgreSQL: which of their numbers are stored. They are written in the transaction that stores the frames, so that a claim to
 * have a frame and the frame's row commit together or not at all. */
#ifndef TOLL_DAEMON_PG_STREAMS_H
#define TOLL_DAEMON_PG_STREAMS_H

#include "daemon/pg.h"
#include "daemon/sink.h"

/* writer: the writer's number, as text; writers: of how many. Replaces seen and revision of those that have a row, as sink.h says of load_streams. */
int pg_streams_load(struct pg *pg, const char *writer, const char *writers, struct sink_stream *const *streams,
                    size_t count) __attribute__((warn_unused_result));
/* Writes the rows and raises their revisions. -ESTALE: somebody else has written one of them since it was loaded. */
int pg_streams_store(struct pg *pg, const char *writer, const char *writers, struct sink_stream *const *streams,
                     size_t count) __attribute__((warn_unused_result));

#endif
