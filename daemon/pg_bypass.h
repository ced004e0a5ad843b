/* Which triggers a batch may do without. Every session that its rows name is inserted or locked by pg_sessions_claim() in the same transaction, so the foreign keys
 * need no trigger per row. But session_replication_role, which switches them off, silences what users have put on the tables, too. */
#ifndef TOLL_DAEMON_PG_BYPASS_H
#define TOLL_DAEMON_PG_BYPASS_H

#include "daemon/pg.h"

enum pg_bypass {
    PG_BYPASS_NONE, /* never: a user's trigger or constraint is on events or transcripts, or this role may not */
    PG_BYPASS_ROWS, /* while they are COPYed only: there is one on another table that a batch writes */
    PG_BYPASS_ALL,  /* there is none */
};

/* Locks all tables that a batch writes against changes of their definition, until the transaction ends. */
int pg_bypass_lock(struct pg *pg) __attribute__((warn_unused_result));

/* Finds out, under that lock, what this transaction may do without, and sets session_replication_role of the connection: it stays as long as the answer does, for
 * PostgreSQL throws away every plan of the connection when it changes. */
int pg_bypass_choose(struct pg *pg, enum pg_bypass *ret) __attribute__((warn_unused_result));

/* Every trigger fires again, for what is not a batch. */
int pg_bypass_end(struct pg *pg) __attribute__((warn_unused_result));

#endif
