/* See sink_postgres.h. A batch as a transaction: begin, rows, sessions, streams, commit. Read together with daemon/DESIGN.md, "Exactly once". */
#include "daemon/sink_postgres_internal.h"

#include "daemon/log.h"
#include "daemon/pg_rows.h"
#include "daemon/pg_streams.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sink_postgres_failed(struct sink_postgres *s, const char *doing, int r)
{
    if (r < 0 && r != -ENOMEM && r != -ESTALE)
        snprintf(s->error, sizeof(s->error), "%s: %s%s%s%s", doing, s->pg.error, s->pg.sqlstate[0] ? " (SQLSTATE " : "",
                 s->pg.sqlstate, s->pg.sqlstate[0] ? ")" : "");
    else if (r < 0)
        snprintf(s->error, sizeof(s->error), "%s: %s", doing,
                 r == -ENOMEM ? "out of memory" : "changed by somebody else meanwhile");
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
    struct sink_postgres *s = sink_postgres_self(sink);
    int r = pg_exec(&s->pg, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on");

    s->careful = false;
    s->bypass = PG_BYPASS_NONE;
    if (r < 0)
        return sink_postgres_failed(s, "beginning a transaction", r);
    r = move_watermark(s, from, to);
    if (r < 0)
        return sink_postgres_failed(s, "moving the watermark", r);
    /* No table changes under a batch: else a constraint dropped halfway would let rows be quarantined that are welcome by now, and a
     * trigger could appear unseen. */
    r = pg_bypass_lock(&s->pg);
    if (r == 0 && s->may_bypass)
        r = pg_bypass_choose(&s->pg, &s->bypass);
    return sink_postgres_failed(s, "locking the tables", r);
}

static int op_load_streams(struct sink *sink, struct sink_stream *const *streams, size_t count)
{
    struct sink_postgres *s = sink_postgres_self(sink);

    return sink_postgres_failed(s, "reading streams", pg_streams_load(&s->pg, s->writer, s->writers, streams, count));
}

static int op_attempt(struct sink *sink, bool careful)
{
    struct sink_postgres *s = sink_postgres_self(sink);

    pg_send_begin(&s->rows, s->bypass, careful);
    s->careful = careful;
    return careful ? sink_postgres_failed(s, "setting a savepoint", pg_exec(&s->pg, "SAVEPOINT attempt")) : 0;
}

static int op_add(struct sink *sink, const struct sink_row *row)
{
    struct sink_postgres *s = sink_postgres_self(sink);

    pg_send_add(&s->rows, row, s->batch_id);
    return 0;
}

static int op_push(struct sink *sink)
{
    struct sink_postgres *s = sink_postgres_self(sink);

    return sink_postgres_failed(s, "storing rows", pg_send_early(&s->rows, &s->pg));
}

static int op_store(struct sink *sink, struct session_change *const *changes, size_t count)
{
    struct sink_postgres *s = sink_postgres_self(sink);
    int r = pg_send_before_sessions(&s->rows, &s->pg);

    if (r < 0)
        return sink_postgres_failed(s, "storing rows", r);
    r = pg_sessions_claim(&s->sessions, &s->pg, s->journal, s->writer, changes, count);
    if (r < 0)
        return sink_postgres_failed(s, "storing sessions", r);
    r = pg_send_after_sessions(&s->rows, &s->pg);
    if (r < 0)
        return sink_postgres_failed(s, "storing rows", r);
    r = pg_sessions_settle(&s->sessions, &s->pg, s->journal, s->writer, changes, count);
    if (r == 0 && s->careful) /* a user's deferred constraint must fail here, where the frames at fault can be told */
        r = pg_exec(&s->pg, "SET CONSTRAINTS ALL IMMEDIATE");
    return sink_postgres_failed(s, "writing sessions' ends and totals", r);
}

static int op_settle(struct sink *sink, bool keep)
{
    struct sink_postgres *s = sink_postgres_self(sink);

    return sink_postgres_failed(s, "ending a savepoint",
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
    struct sink_postgres *s = sink_postgres_self(sink);
    int r = pg_streams_store(&s->pg, s->writer, s->writers, batch->streams, batch->stream_count);

    if (r < 0)
        return sink_postgres_failed(s, "writing streams", r);
    r = store_quarantine(s, batch);
    if (r < 0)
        return sink_postgres_failed(s, "writing quarantine", r);
    if (batch->from == batch->to) /* orphans were closed: no frames */
        return 0;
    return sink_postgres_failed(s, "recording the batch", store_batch(s, batch));
}

static int op_commit(struct sink *sink)
{
    struct sink_postgres *s = sink_postgres_self(sink);

    return sink_postgres_failed(s, "committing", pg_commit(&s->pg));
}

static void op_abort(struct sink *sink)
{
    pg_abort(&sink_postgres_self(sink)->pg);
}

static int op_open_sessions(struct sink *sink, int64_t idle_before_us, size_t max,
                            void (*found)(void *context, const uint8_t id[16]), void *context)
{
    struct sink_postgres *s = sink_postgres_self(sink);
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
        return sink_postgres_failed(s, "looking for live sessions", r);
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
    struct sink_postgres *s = sink_postgres_self(sink);
    const char *parameters[] = {s->journal, s->writer};
    PGresult *result;
    int r = pg_bypass_end(&s->pg);

    if (r == 0)
        r = pg_run(&s->pg, NULL,
                   "UPDATE toll.journals SET seen_at = now() WHERE journal_id = $1::uuid AND writer = $2::integer", 2,
                   parameters);
    if (r < 0)
        return sink_postgres_failed(s, "writing the heartbeat", r);
    if (strcmp(s->writer, "0") != 0) /* the rest is for one to do */
        return 0;
    r = pg_query(&s->pg, &result, "SELECT partition FROM toll.make_partitions(2) WHERE result = 'busy'", 0, NULL);
    if (r < 0)
        return sink_postgres_failed(s, "making partitions ahead of time", r);
    for (int i = 0; i < PQntuples(result); i++)
        log_info("a partition could not be made ahead of time, its table was busy: trying again partition=%s",
                 PQgetvalue(result, i, 0));
    PQclear(result);
    r = pg_run(&s->pg, NULL, "SELECT toll.prune_batches(interval '1 day')", 0, NULL);
    if (r < 0)
        return sink_postgres_failed(s, "rolling up old batches", r);
    return sink_postgres_failed(s, "summing up usage for reports",
                                pg_run(&s->pg, NULL, "SELECT toll.sum_usage(interval '6 hours')", 0, NULL));
}

/* Ids come from a sequence, so their range is quick to ask for and no less than the rows. Only where that reaches the limit are rows counted. */
static int op_quarantined(struct sink *sink, uint64_t limit, uint64_t *ret_rows)
{
    struct sink_postgres *s = sink_postgres_self(sink);
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
        return sink_postgres_failed(s, "counting the quarantine", r);
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
    struct sink_postgres *s = sink_postgres_self(sink);

    pg_disconnect(&s->pg);
    pg_send_done(&s->rows);
    copy_done(&s->quarantine);
    pg_sessions_done(&s->sessions);
    free(s->url);
    free(s);
}

static const struct sink_ops ops = {
    .name = "postgres",
    .open = sink_postgres_open,
    .claim = sink_postgres_claim,
    .share = sink_postgres_share,
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
