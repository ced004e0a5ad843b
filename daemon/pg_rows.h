/* Frames to rows: which field goes into which column of billing_events, session_transcripts, toll.gaps and toll.quarantine. Pure. */
#ifndef TOLL_DAEMON_PG_ROWS_H
#define TOLL_DAEMON_PG_ROWS_H

#include "daemon/batch.h"
#include "daemon/sink.h"

/* COPY commands whose column lists belong to the rows below. */
extern const char PG_COPY_EVENTS[], PG_COPY_TRANSCRIPTS[], PG_COPY_GAPS[], PG_COPY_QUARANTINE[];

void pg_row_event(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id);
void pg_row_transcript(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id);
void pg_row_gap(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id);
void pg_row_quarantine(struct copy_buffer *buf, const struct sink_refused *refused, const uint8_t journal[static 16],
                       int64_t batch_id);

#endif
