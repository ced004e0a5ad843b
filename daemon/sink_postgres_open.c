/* See sink_postgres_internal.h. The connection, and whose the watermark is: what comes before the first batch. Read together with
 * daemon/DESIGN.md, "Exactly once". */
#include "daemon/sink_postgres_internal.h"

#include "daemon/log.h"
#include "daemon/migrate.h"
#include "daemon/version.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

static void log_migration(void *context, int priority, const char *line)
{
    (void)context;
    log_write(priority <= 4 /* LOG_WARNING of syslog(3) */ ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "%s", line);
}

/* An empty database is filled with tables, but not where ours should be full: it is the wrong one, or about to be restored. */
static int prepare_schema(struct sink_postgres *s, const struct sink_journal *journal)
{
    char reason[MIGRATE_REASON_MAX];
    int r = migrate_check(s->pg.conn, reason);

    if (r == -ENOENT && journal->registered) {
        snprintf(
            s->error, sizeof(s->error),
            "this database has no tables of toll's, though journal %s was stored in one before: is it the right database? If it is being "
            "restored, go on: storing begins by itself. To begin anew in it, run: tolld --migrate",
            s->journal);
        return r;
    }
    if ((r == -ENOENT || r == -ESTALE) && s->options.auto_migrate)
        r = migrate_run(s->pg.conn, log_migration, NULL, reason);
    if (r == 0)
        return 0;
    snprintf(s->error, sizeof(s->error), "checking the schema: %s", reason);
    return r == -EAGAIN || r == -ENOTCONN ? -EAGAIN : -ENOTRECOVERABLE;
}

/* Foreign keys are checked once per session and batch where this role may set session_replication_role (PostgreSQL 15: GRANT SET ON PARAMETER). */
static int find_privileges(struct sink_postgres *s)
{
    PGresult *result;
    int r = pg_query(&s->pg, &result, "SELECT has_parameter_privilege('session_replication_role', 'SET')", 0, NULL);

    if (r < 0)
        return sink_postgres_failed(s, "reading privileges", r);
    s->may_bypass = PQgetvalue(result, 0, 0)[0] == 't';
    PQclear(result);
    if (!s->may_bypass && !s->told && strcmp(s->writer, "0") == 0)
        log_info(
            "foreign keys are checked row by row, which takes PostgreSQL about twice the time: "
            "to change that, run as a superuser: GRANT SET ON PARAMETER session_replication_role TO the daemon's role");
    s->told = true;
    return 0;
}

static int prepare_connection(struct sink_postgres *s, const struct sink_journal *journal)
{
    const struct pg_options options = {
        .url = s->url,
        .connect_timeout_s = s->options.connect_timeout_s,
        .tcp_user_timeout_ms = s->options.tcp_user_timeout_ms,
    };
    int r;

    if (s->prepared && pg_connected(&s->pg))
        return 0;
    s->prepared = false;
    r = sink_postgres_failed(s, "connecting", pg_connect(&s->pg, &options));
    if (r == 0)
        r = prepare_schema(s, journal);
    if (r == 0)
        r = sink_postgres_failed(s, "looking up a type", pg_sessions_prepare(&s->sessions, &s->pg));
    if (r == 0)
        r = find_privileges(s);
    s->prepared = r == 0;
    return r;
}

static int register_journal(struct sink_postgres *s, const struct sink_journal *journal)
{
    const char *parameters[] = {s->journal, NULL, journal->host, TOLL_VERSION};
    struct pg_array lsns = {0};
    int r;

    pg_array_begin(&lsns);
    for (int i = 0; i < journal->writers; i++)
        pg_array_add_int(&lsns, (int64_t)journal->register_lsns[i]);
    parameters[1] = pg_array_end(&lsns);
    r = parameters[1]
            ? pg_run(&s->pg, NULL, "SELECT toll.register_journal($1::uuid, $2::bigint[], $3, $4)", 4, parameters)
            : -ENOMEM;
    pg_array_done(&lsns);
    return sink_postgres_failed(s, "registering the journal", r);
}

/* Claims the watermark for this run and reads it: 0, -ENOENT, or a failure. */
static int claim_watermark(struct sink_postgres *s, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    static const uint8_t none[16];
    char last[PG_UUID_TEXT];
    const char *parameters[] = {s->journal, s->writer, s->writers, NULL, s->run};
    PGresult *result;
    int r;

    pg_uuid_format(s->claimed ? s->claim.run : journal->last_run, last);
    if (s->claimed || memcmp(journal->last_run, none, sizeof(none)) != 0)
        parameters[3] = last;
    r = pg_query(&s->pg, &result,
                 "SELECT lsn, taken_from, stored_writers "
                 "FROM toll.claim_journal($1::uuid, $2::integer, $3::integer, $4::uuid, $5::uuid)",
                 5, parameters);
    if (r < 0)
        return sink_postgres_failed(s, "claiming the watermark", r);
    if (PQntuples(result) == 1) {
        bool there = !PQgetisnull(result, 0, 0);
        uint64_t lsn = strtoull(PQgetvalue(result, 0, 0), NULL, 10), own = strtoull(PQgetvalue(result, 0, 1), NULL, 10);
        bool taken = !PQgetisnull(result, 0, 1);

        *ret_lsn = there ? lsn : taken ? own : 0;
        s->claim.contested = there && taken && lsn > own;
        s->claim.own_lsn = taken ? own : 0;
        s->claim.writers = atoi(PQgetvalue(result, 0, 2));
        s->claim.found = there || taken;
        s->claimed = s->claimed || (!s->claim.contested && s->claim.writers == journal->writers);
    } else {
        r = -ENOENT;
    }
    PQclear(result);
    return r;
}

/* What was said of a run's own watermark holds of the others' too: each is read after the call. */
static int read_watermarks(struct sink_postgres *s, const struct sink_journal *journal)
{
    const char *parameters[] = {s->journal};
    PGresult *result;
    int r;

    if (journal->writers == 1 || s->claim.writers != journal->writers)
        return 0;
    r = pg_query(&s->pg, &result, "SELECT writer, lsn FROM toll.journals WHERE journal_id = $1::uuid", 1, parameters);
    if (r < 0)
        return sink_postgres_failed(s, "reading the watermarks", r);
    memset(s->claim.lsns, 0, sizeof(s->claim.lsns));
    for (int i = 0; i < PQntuples(result); i++) {
        int writer = atoi(PQgetvalue(result, i, 0));

        if (writer >= 0 && writer < SHARE_WRITERS_MAX)
            s->claim.lsns[writer] = strtoull(PQgetvalue(result, i, 1), NULL, 10);
    }
    PQclear(result);
    return 0;
}

/* A run is one process on one journal. */
static void begin_run(struct sink_postgres *s, const struct sink_journal *journal)
{
    if (s->run[0] && memcmp(s->journal_id, journal->uuid, sizeof(s->journal_id)) == 0)
        return;
    memcpy(s->journal_id, journal->uuid, sizeof(s->journal_id));
    pg_uuid_format(journal->uuid, s->journal);
    uuid_generate_random(s->claim.run);
    pg_uuid_format(s->claim.run, s->run);
    s->claimed = false;
}

int sink_postgres_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    struct sink_postgres *s = sink_postgres_self(sink);
    int r;

    begin_run(s, journal);
    snprintf(s->writer, sizeof(s->writer), "%d", journal->writer);
    snprintf(s->writers, sizeof(s->writers), "%d", journal->writers);
    r = prepare_connection(s, journal);
    if (r < 0)
        return r;
    r = claim_watermark(s, journal, ret_lsn);
    if (r != -ENOENT)
        return r < 0 ? r : read_watermarks(s, journal);
    if (journal->registered) {
        snprintf(
            s->error, sizeof(s->error),
            "this database has no watermark for journal %s, though it had one before: is it the right database? If it is, say where to go on: "
            "INSERT INTO toll.journals (journal_id, writer, lsn) SELECT '%s', generate_series(0, %d), %" PRIu64
            " stores all that the journal still holds; should the rows be there already, frames of senders without an envelope come twice",
            s->journal, s->journal, journal->writers - 1, journal->register_lsns[journal->writer]);
        return -ENOENT;
    }
    r = register_journal(s, journal);
    if (r == 0)
        r = claim_watermark(s, journal, ret_lsn);
    return r < 0 ? r : read_watermarks(s, journal);
}

const struct sink_claim *sink_postgres_claim(const struct sink *sink)
{
    return &((const struct sink_postgres *)(const void *)sink)->claim;
}

int sink_postgres_share(struct sink *sink, uint64_t lsn, int writers)
{
    struct sink_postgres *s = sink_postgres_self(sink);
    char lsn_text[24], writers_text[12];
    const char *parameters[] = {s->journal, s->run, lsn_text, s->writers, writers_text};
    PGresult *result;
    int r;

    snprintf(lsn_text, sizeof(lsn_text), "%" PRIu64, lsn);
    snprintf(writers_text, sizeof(writers_text), "%d", writers);
    r = pg_query(&s->pg, &result, "SELECT toll.share_journal($1::uuid, $2::uuid, $3::bigint, $4::integer, $5::integer)",
                 5, parameters);
    if (r < 0)
        return sink_postgres_failed(s, "changing the number of writers", r);
    r = PQgetvalue(result, 0, 0)[0] == 't' ? 0 : sink_postgres_failed(s, "changing the number of writers", -ESTALE);
    PQclear(result);
    return r;
}
