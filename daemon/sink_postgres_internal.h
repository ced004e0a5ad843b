/* What the PostgreSQL sink's files share; nobody else includes it.
 *
 * sink_postgres.c       a batch as a transaction, and housekeeping
 * sink_postgres_open.c  the connection, and whose the watermark is */
#ifndef TOLL_DAEMON_SINK_POSTGRES_INTERNAL_H
#define TOLL_DAEMON_SINK_POSTGRES_INTERNAL_H

#include "daemon/pg.h"
#include "daemon/pg_bypass.h"
#include "daemon/pg_send.h"
#include "daemon/pg_sessions.h"
#include "daemon/sink_postgres.h"

#include <stdbool.h>
#include <stdint.h>

struct sink_postgres {
    struct sink sink;
    struct sink_postgres_options options;
    char *url;
    struct pg pg;
    bool prepared;   /* of this connection: schema and privileges checked */
    bool may_bypass; /* this role may switch the foreign keys' triggers off */
    bool told;       /* … and the log knows if it may not */
    char journal[PG_UUID_TEXT], writer[12], writers[12];
    uint8_t journal_id[16];
    char run[PG_UUID_TEXT]; /* empty: none has begun */
    bool claimed;           /* … and has been the one that moves the watermark */
    struct sink_claim claim;
    int64_t batch_id;
    int64_t event_id; /* below those of its events: this connection takes them in ascending order */
    bool careful;     /* in this transaction */
    enum pg_bypass bypass;
    struct pg_send rows;
    struct copy_buffer quarantine;
    struct pg_sessions sessions;
    char error[768];
};

static inline struct sink_postgres *sink_postgres_self(struct sink *sink)
{
    return (struct sink_postgres *)(void *)sink;
}

/* Says what was being done when pg failed. Returns r. */
int sink_postgres_failed(struct sink_postgres *s, const char *doing, int r);

/* sink_postgres_open.c: these of struct sink_ops. */
int sink_postgres_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn);
const struct sink_claim *sink_postgres_claim(const struct sink *sink);
int sink_postgres_share(struct sink *sink, uint64_t lsn, int writers);

#endif
