/* See sink_postgres.h. Read together with daemon/DESIGN.md, "Exactly once". */
#include "daemon/sink_postgres.h"

#include "daemon/log.h"
#include "daemon/migrate.h"
#include "daemon/pg.h"
#include "daemon/pg_bypass.h"
#include "daemon/pg_rows.h"
#include "daemon/pg_send.h"
#include "daemon/pg_sessions.h"
#include "daemon/pg_streams.h"
#include "daemon/version.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

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

static struct sink_postgres *self(struct sink *sink)
{
    return (struct sink_postgres *)(void *)sink;
}

/* Says what was being done when pg failed. */
static int failed(struct sink_postgres *s, const char *doing, int r)
{
    if (r < 0 && r != -ENOMEM && r != -ESTALE)
        snprintf(s->error, sizeof(s->error), "%s: %s%s%s%s", doing, s->pg.error, s->pg.sqlstate[0] ? " (SQLSTATE " : "",
                 s->pg.sqlstate, s->pg.sqlstate[0] ? ")" : "");
    else if (r < 0)
        snprintf(s->error, sizeof(s->error), "%s: %s", doing,
                 r == -ENOMEM ? "out of memory" : "changed by somebody else meanwhile");
    return r;
}

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
        return failed(s, "reading privileges", r);
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
    r = failed(s, "connecting", pg_connect(&s->pg, &options));
    if (r == 0)
        r = prepare_schema(s, journal);
    if (r == 0)
        r = failed(s, "looking up a type", pg_sessions_prepare(&s->sessions, &s->pg));
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
    return failed(s, "registering the journal", r);
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
        return failed(s, "claiming the watermark", r);
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
        return failed(s, "reading the watermarks", r);
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

static int op_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    struct sink_postgres *s = self(sink);
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

static const struct sink_claim *op_claim(const struct sink *sink)
{
    return &((const struct sink_postgres *)(const void *)sink)->claim;
}

static int op_share(struct sink *sink, uint64_t lsn, int writers)
{
    struct sink_postgres *s = self(sink);
    char lsn_text[24], writers_text[12];
    const char *parameters[] = {s->journal, s->run, lsn_text, s->writers, writers_text};
    PGresult *result;
    int r;

    snprintf(lsn_text, sizeof(lsn_text), "%" PRIu64, lsn);
    snprintf(writers_text, sizeof(writers_text), "%d", writers);
    r = pg_query(&s->pg, &result, "SELECT toll.share_journal($1::uuid, $2::uuid, $3::bigint, $4::integer, $5::integer)",
                 5, parameters);
    if (r < 0)
        return failed(s, "changing the number of writers", r);
    r = PQgetvalue(result, 0, 0)[0] == 't' ? 0 : failed(s, "changing the number of writers", -ESTALE);
    PQclear(result);
    return r;
}

static int move_watermark(struct sink_postgres *s, uint64_t from, uint64_t to)
{
    char from_text[24], to_text[24];
    const char *parameters[] = {s->journal, s->writer, from_text, to_text, s->run};
    PGresult *result;
    int r;

    snprintf(from_text, sizeof(from_text), "%" PRIu64, from);
    snprintf(to_text, sizeof(to_text), "%" PRIu64, to);
    r = pg_query(
        &s->pg, &result,
        "UPDATE toll.journals SET lsn = $4::bigint, seen_at = now() WHERE journal_id = $1::uuid AND writer = $2::integer "
        "AND lsn = $3::bigint AND run = $5::uuid RETURNING nextval('toll.batch_id_seq'), nextval('public.billing_events_id_seq')",
        5, parameters);
    if (r < 0)
        return r;
    if (PQntuples(result) == 1) {
        s->batch_id = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
        s->event_id = strtoll(PQgetvalue(result, 0, 1), NULL, 10);
    } else {
        r = -ESTALE;
    }
    PQclear(result);
    return r;
}

static int op_begin(struct sink *sink, uint64_t from, uint64_t to)
{
    struct sink_postgres *s = self(sink);
    int r = pg_exec(&s->pg, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on");

    s->careful = false;
    s->bypass = PG_BYPASS_NONE;
    if (r < 0)
        return failed(s, "beginning a transaction", r);
    r = move_watermark(s, from, to);
    if (r < 0)
        return failed(s, "moving the watermark", r);
    /* No table changes under a batch: else a constraint dropped halfway would let rows be quarantined that are welcome by now, and a
     * trigger could appear unseen. */
    r = pg_bypass_lock(&s->pg);
    if (r == 0 && s->may_bypass)
        r = pg_bypass_choose(&s->pg, &s->bypass);
    return failed(s, "locking the tables", r);
}

static int op_load_streams(struct sink *sink, struct sink_stream *const *streams, size_t count)
{
    struct sink_postgres *s = self(sink);

    return failed(s, "reading streams", pg_streams_load(&s->pg, s->writer, s->writers, streams, count));
}

static int op_attempt(struct sink *sink, bool careful)
{
    struct sink_postgres *s = self(sink);

    pg_send_begin(&s->rows, s->bypass, careful);
    s->careful = careful;
    return careful ? failed(s, "setting a savepoint", pg_exec(&s->pg, "SAVEPOINT attempt")) : 0;
}

static int op_add(struct sink *sink, const struct sink_row *row)
{
    struct sink_postgres *s = self(sink);

    pg_send_add(&s->rows, row, s->batch_id);
    return 0;
}

static int op_push(struct sink *sink)
{
    struct sink_postgres *s = self(sink);

    return failed(s, "storing rows", pg_send_early(&s->rows, &s->pg));
}

static int op_store(struct sink *sink, struct session_change *const *changes, size_t count)
{
    struct sink_postgres *s = self(sink);
    int r = pg_send_before_sessions(&s->rows, &s->pg);

    if (r < 0)
        return failed(s, "storing rows", r);
    r = pg_sessions_claim(&s->sessions, &s->pg, s->journal, s->writer, changes, count);
    if (r < 0)
        return failed(s, "storing sessions", r);
    r = pg_send_after_sessions(&s->rows, &s->pg);
    if (r < 0)
        return failed(s, "storing rows", r);
    r = pg_sessions_settle(&s->sessions, &s->pg, s->journal, s->writer, changes, count);
    if (r == 0 && s->careful) /* a user's deferred constraint must fail here, where the frames at fault can be told */
        r = pg_exec(&s->pg, "SET CONSTRAINTS ALL IMMEDIATE");
    return failed(s, "writing sessions' ends and totals", r);
}

static int op_settle(struct sink *sink, bool keep)
{
    struct sink_postgres *s = self(sink);

    return failed(s, "ending a savepoint",
                  pg_exec(&s->pg, keep ? "RELEASE SAVEPOINT attempt"
                                       : "ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt"));
}

static int store_quarantine(struct sink_postgres *s, const struct sink_batch *batch)
{
    copy_begin(&s->quarantine);
    for (size_t i = 0; i < batch->refused_count; i++)
        pg_row_quarantine(&s->quarantine, &batch->refused[i], s->journal_id, s->batch_id);
    return pg_send_copy(&s->pg, PG_COPY_QUARANTINE, &s->quarantine);
}

static int store_batch(struct sink_postgres *s, const struct sink_batch *batch)
{
    const struct sink_counts *c = &batch->counts;
    char row[320], first[24] = "NULL", last[24] = "NULL", event[24] = "NULL";
    const char *parameters[] = {s->journal, row};

    if (c->received > 0) { /* else nothing in the range is this writer's */
        snprintf(first, sizeof(first), "%" PRId64, c->first_received_us);
        snprintf(last, sizeof(last), "%" PRId64, c->last_received_us);
    }
    if (c->events > 0)
        snprintf(event, sizeof(event), "%" PRId64, s->event_id + 1);
    /* One array, for it is all numbers. */
    snprintf(row, sizeof(row), "{%" PRId64 ",%s,%" PRIu64 ",%" PRIu64 ",%u,%u,%u,%u,%u,%u,%s,%s,%s}", s->batch_id,
             s->writer, batch->from, batch->to, c->received, c->stored, c->quarantined, c->duplicates, c->events,
             c->transcripts, first, last, event);
    return pg_run(
        &s->pg, NULL,
        "INSERT INTO toll.batches (journal_id, batch_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events, "
        "transcripts, first_received_at, last_received_at, first_event_id, last_event_id) "
        "SELECT $1::uuid, n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], to_timestamp(n[11] / 1e6), to_timestamp(n[12] / 1e6), "
        "n[13], CASE WHEN n[9] > 0 THEN currval('public.billing_events_id_seq') END FROM (SELECT $2::bigint[] AS n) AS counted",
        2, parameters);
}

static int op_finish(struct sink *sink, const struct sink_batch *batch)
{
    struct sink_postgres *s = self(sink);
    int r = pg_streams_store(&s->pg, s->writer, s->writers, batch->streams, batch->stream_count);

    if (r < 0)
        return failed(s, "writing streams", r);
    r = store_quarantine(s, batch);
    if (r < 0)
        return failed(s, "writing quarantine", r);
    if (batch->from == batch->to) /* orphans were closed: no frames */
        return 0;
    return failed(s, "recording the batch", store_batch(s, batch));
}

static int op_commit(struct sink *sink)
{
    struct sink_postgres *s = self(sink);

    return failed(s, "committing", pg_commit(&s->pg));
}

static void op_abort(struct sink *sink)
{
    pg_abort(&self(sink)->pg);
}

static int op_open_sessions(struct sink *sink, int64_t idle_before_us, size_t max,
                            void (*found)(void *context, const uint8_t id[16]), void *context)
{
    struct sink_postgres *s = self(sink);
    char silent_s[16], idle_before[32], limit[24];
    const char *parameters[] = {s->journal, s->writer, silent_s, idle_before, limit};
    PGresult *result;
    int r;

    snprintf(silent_s, sizeof(silent_s), "%d", s->options.takeover_s);
    snprintf(idle_before, sizeof(idle_before), "%" PRId64, idle_before_us);
    snprintf(limit, sizeof(limit), "%zu", max);
    r = pg_query(&s->pg, &result,
                 "SELECT toll.idle_sessions($1::uuid, $2::integer, $3::integer, $4::bigint, $5::bigint)", 5,
                 parameters);
    if (r < 0)
        return failed(s, "looking for live sessions", r);
    for (int i = 0; i < PQntuples(result); i++) {
        uint8_t id[16];

        if (pg_uuid_parse(PQgetvalue(result, i, 0), id) == 0)
            found(context, id);
    }
    PQclear(result);
    return 0;
}

static int op_tend(struct sink *sink)
{
    struct sink_postgres *s = self(sink);
    const char *parameters[] = {s->journal, s->writer};
    PGresult *result;
    int r = pg_bypass_end(&s->pg);

    if (r == 0)
        r = pg_run(&s->pg, NULL,
                   "UPDATE toll.journals SET seen_at = now() WHERE journal_id = $1::uuid AND writer = $2::integer", 2,
                   parameters);
    if (r < 0)
        return failed(s, "writing the heartbeat", r);
    if (strcmp(s->writer, "0") != 0) /* the rest is for one to do */
        return 0;
    r = pg_query(&s->pg, &result, "SELECT partition FROM toll.make_partitions(2) WHERE result = 'busy'", 0, NULL);
    if (r < 0)
        return failed(s, "making partitions ahead of time", r);
    for (int i = 0; i < PQntuples(result); i++)
        log_info("a partition could not be made ahead of time, its table was busy: trying again partition=%s",
                 PQgetvalue(result, i, 0));
    PQclear(result);
    return failed(s, "rolling up old batches",
                  pg_run(&s->pg, NULL, "SELECT toll.prune_batches(interval '1 day')", 0, NULL));
}

/* Ids come from a sequence, so their range is quick to ask for and no less than the rows. Only where that reaches the limit are rows counted. */
static int op_quarantined(struct sink *sink, uint64_t limit, uint64_t *ret_rows)
{
    struct sink_postgres *s = self(sink);
    char limit_text[24];
    const char *parameters[] = {limit_text};
    PGresult *result;
    int r;

    snprintf(limit_text, sizeof(limit_text), "%" PRIu64, limit);
    r = pg_query(&s->pg, &result,
                 "SELECT CASE WHEN span < $1::bigint THEN span ELSE (SELECT count(*) FROM toll.quarantine) END "
                 "FROM (SELECT coalesce(max(id) - min(id) + 1, 0) AS span FROM toll.quarantine) AS ids",
                 1, parameters);
    if (r < 0)
        return failed(s, "counting the quarantine", r);
    *ret_rows = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return 0;
}

static const char *op_error(const struct sink *sink)
{
    return ((const struct sink_postgres *)(const void *)sink)->error;
}

static const char *op_error_class(const struct sink *sink)
{
    return ((const struct sink_postgres *)(const void *)sink)->pg.sqlstate;
}

static void op_free(struct sink *sink)
{
    struct sink_postgres *s = self(sink);

    pg_disconnect(&s->pg);
    pg_send_done(&s->rows);
    copy_done(&s->quarantine);
    pg_sessions_done(&s->sessions);
    free(s->url);
    free(s);
}

static const struct sink_ops ops = {
    .name = "postgres",
    .open = op_open,
    .claim = op_claim,
    .share = op_share,
    .begin = op_begin,
    .load_streams = op_load_streams,
    .attempt = op_attempt,
    .add = op_add,
    .push = op_push,
    .store = op_store,
    .settle = op_settle,
    .finish = op_finish,
    .commit = op_commit,
    .abort = op_abort,
    .open_sessions = op_open_sessions,
    .tend = op_tend,
    .quarantined = op_quarantined,
    .error = op_error,
    .error_class = op_error_class,
    .free = op_free,
};

struct sink *sink_postgres_new(const struct sink_postgres_options *options)
{
    struct sink_postgres *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->sink.ops = &ops;
    s->options = *options;
    s->url = strdup(options->url);
    if (!s->url) {
        free(s);
        return NULL;
    }
    return &s->sink;
}
