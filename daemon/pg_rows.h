/* Frames to rows: which field goes into which column of billing_events, session_transcripts, toll.gaps and toll.quarantine. Pure. */
#ifndef TOLL_DAEMON_PG_ROWS_H
#define TOLL_DAEMON_PG_ROWS_H

#include "daemon/batch.h"
#include "daemon/sink.h"

/* Columns of billing_events; {0}: none. One costs PostgreSQL 13 to 20 ns a row, NULL or not, so events are written with fewer than all. */
struct pg_columns {
    uint32_t set;
    int count;
};
extern const struct pg_columns pg_columns_all;
void pg_columns_add(struct pg_columns *columns, const struct sink_row *row); /* those that an event has values for */

/* COPY commands whose column lists belong to the rows below. */
enum { PG_COPY_EVENTS_MAX = 640 };
const char *pg_copy_events(struct pg_columns columns, char ret[static PG_COPY_EVENTS_MAX]); /* returns ret */
extern const char PG_COPY_TRANSCRIPTS[], PG_COPY_GAPS[], PG_COPY_QUARANTINE[];

/* False: it has a value for another column; nothing is written. */
bool pg_row_event(struct copy_buffer *buf, struct pg_columns columns, const struct sink_row *row, int64_t batch_id);
void pg_row_transcript(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id);
void pg_row_gap(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id);
void pg_row_quarantine(struct copy_buffer *buf, const struct sink_refused *refused, const uint8_t journal[static 16],
                       int64_t batch_id);

#endif
