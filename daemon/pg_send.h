/* How a batch's events, transcripts and gaps travel: when they are COPYed, and whether foreign keys are checked row by row.
 *
 * Every session that they name is inserted or locked by pg_sessions_claim() in the same transaction. Where foreign keys are not checked by row, rows
 * may come before that, and events are sent while the batch is being built (daemon/DESIGN.md, "Foreign keys", has the reasons). Results as in
 * pg.h. */
#ifndef TOLL_DAEMON_PG_SEND_H
#define TOLL_DAEMON_PG_SEND_H

#include "daemon/pg.h"
#include "daemon/pg_bypass.h"
#include "daemon/pg_rows.h"
#include "daemon/sink.h"

#include <stdbool.h>
#include <stdint.h>

/* Columns that so many events had no value for are left out from the next batch on, until one has. */
enum { PG_SEND_LEARNED = 10000 };

struct pg_send {
    struct copy_buffer events, transcripts, gaps;
    struct copy_buffer wide; /* events, from the first on that needs more columns than are usual */
    bool widened;
    struct pg_columns columns; /* the usual ones */
    struct pg_columns carried; /* those that events had values for, */
    unsigned learned;          /* of which so many were looked at */
    enum pg_bypass bypass;
    bool early;                  /* rows may come before their sessions */
    bool bypassing;              /* triggers are off */
    struct copy_buffer *copying; /* events or wide, whose COPY is open; or NULL */
};

/* Begins an attempt. careful: one under a savepoint, in which the order is sessions first. */
void pg_send_begin(struct pg_send *send, enum pg_bypass bypass, bool careful);
void pg_send_done(struct pg_send *send); /* frees */

void pg_send_add(struct pg_send *send, const struct sink_row *row, int64_t batch_id);

/* Sends the events so far, if they may come before their sessions. May block. */
int pg_send_early(struct pg_send *send, struct pg *pg) __attribute__((warn_unused_result));
/* Then, before and after the sessions are claimed. */
int pg_send_before_sessions(struct pg_send *send, struct pg *pg) __attribute__((warn_unused_result));
int pg_send_after_sessions(struct pg_send *send, struct pg *pg) __attribute__((warn_unused_result));

/* Ends a buffer that copy_begin() began and sends it, unless it has no rows. */
int pg_send_copy(struct pg *pg, const char *sql, struct copy_buffer *buf) __attribute__((warn_unused_result));

#endif
