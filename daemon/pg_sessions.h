/* Sessions in PostgreSQL: inserting and locking the rows that a batch refers to, and writing what the batch does to them.
 *
 * The order within a transaction is what makes totals exact (daemon/DESIGN.md, "Session totals"):
 *   1. pg_sessions_claim(): every session row of the batch is inserted by us or locked, in order of session_id;
 *   2. the caller stores events and transcripts;
 *   3. pg_sessions_settle(): starts, ends and totals are written; totals that memory does not know whole are summed in a later statement,
 *      which sees the rows of every transaction that held the lock before. */
#ifndef TOLL_DAEMON_PG_SESSIONS_H
#define TOLL_DAEMON_PG_SESSIONS_H

#include "daemon/pg.h"
#include "daemon/session.h"

struct pg_sessions {
    uint32_t change_type;     /* OID of toll.session_change in this database */
    struct copy_buffer array; /* of changes or ids, for one statement */
    unsigned char *states;    /* of each change, while a batch is stored */
    size_t capacity;
};

/* Once per connection. */
int pg_sessions_prepare(struct pg_sessions *sessions, struct pg *pg) __attribute__((warn_unused_result));
void pg_sessions_done(struct pg_sessions *sessions);

/* -ESTALE: a row that memory took for stored is gone. */
int pg_sessions_claim(struct pg_sessions *sessions, struct pg *pg, const char *journal, const char *writer,
                      struct session_change *const *changes, size_t count) __attribute__((warn_unused_result));
/* Sets `existed` and `finalized` in every change. */
int pg_sessions_settle(struct pg_sessions *sessions, struct pg *pg, const char *journal, const char *writer,
                       struct session_change *const *changes, size_t count) __attribute__((warn_unused_result));

#endif
