/* tollctl's commands that look into the database, most of them after asking the daemon: session, streams, verify, quarantine. */
#include "daemon/ctl.h"

#include "daemon/control_value.h"
#include "daemon/ctl_client.h"
#include "daemon/ctl_database.h"
#include "daemon/ctl_print.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_MS = 10000 };

static void complain(const char *what)
{
    fprintf(stderr, "tollctl: %s\n", what);
}

/* Connects and runs one query; says what went wrong. The connection may be closed at once: the result stands alone. */
static int look_up(struct ctl *ctl, const char *sql, int count, const char *const *values, PGresult **ret)
{
    char error[CTL_ERROR_MAX];
    PGconn *conn = NULL;
    int r = ctl_database_open(&conn, ctl->database, error);

    if (r == 0)
        r = ctl_query(conn, sql, count, values, ret, error);
    PQfinish(conn);
    if (r < 0)
        complain(error);
    return r;
}

static int printed(int r)
{
    if (r == 0)
        return CTL_OK;
    fprintf(stderr, "tollctl: can't print the answer: %s\n", strerror(-r));
    return CTL_BAD;
}

/* --- session --- */

/* clang-format off */
#define SESSION_SQL \
    "SELECT session_id, live, " CTL_MICROSECONDS("started_at") " AS started_at_us," \
    " " CTL_MICROSECONDS("ended_at") " AS ended_at_us, " CTL_MICROSECONDS("last_activity_at") " AS last_activity_us," \
    " round(duration_secs * 1000000)::bigint AS duration_us, finish_reason," \
    " llm_calls, llm_input_tokens, llm_output_tokens, tts_calls, tts_chars," \
    " stt_calls, round((stt_audio_ms * 1000)::numeric) AS stt_audio_us, metadata" \
    " FROM public.session_totals WHERE session_id = $1::uuid"
/* clang-format on */

static int print_session_reply(struct ctl *ctl, const msgpack_object *session)
{
    int r;

    if (!ctl->json) {
        fputs("live, from the daemon's memory\n", ctl->out);
        return ctl_print_map(session, ctl->out);
    }
    fputs("{\"source\":\"daemon\",\"session\":", ctl->out);
    r = ctl_print_json(session, ctl->out);
    fputs("}\n", ctl->out);
    return r;
}

static int print_session_row(struct ctl *ctl, const PGresult *result)
{
    if (ctl->json) {
        fprintf(ctl->out, "{\"source\":\"database\",\"session\":%s}\n", PQgetvalue(result, 0, 0));
        return 0;
    }
    fputs("from the database\n", ctl->out);
    return ctl_print_row(result, 0, ctl->out);
}

/* Memory is asked first: it is ahead of the database. But it is the whole story only of a call that it has followed from the start. */
int ctl_session(struct ctl *ctl)
{
    const struct ctl_request request = {.command = "session", .text_key = "session_id", .text = ctl->id};
    struct ctl_reply reply = {.data = NULL};
    PGresult *result = NULL;
    const msgpack_object *complete;
    char error[CTL_ERROR_MAX];
    int asked = ctl_ask(ctl->control, &request, PATIENCE_MS, &reply, error), status, r;
    bool live = asked == 0 && reply.data->type == MSGPACK_OBJECT_MAP;

    complete = live ? value_get(reply.data, "complete") : NULL;
    if (complete && complete->type == MSGPACK_OBJECT_BOOLEAN && complete->via.boolean) {
        status = printed(print_session_reply(ctl, reply.data));
        goto done;
    }
    if (asked < 0)
        complain(error);
    r = look_up(ctl, ctl->json ? "SELECT row_to_json(q) FROM (" SESSION_SQL ") q" : SESSION_SQL, 1, &ctl->id, &result);
    if (r == 0 && PQntuples(result) > 0) {
        status = printed(print_session_row(ctl, result));
    } else if (live) {
        complain("these totals are not complete: the rest is in the database only");
        r = print_session_reply(ctl, reply.data);
        status = result ? printed(r) : CTL_NO_DATABASE;
    } else if (r < 0) {
        status = asked < 0 ? CTL_NO_DAEMON : CTL_NO_DATABASE;
    } else {
        fprintf(stderr, "tollctl: there is no session %s\n", ctl->id);
        status = CTL_BAD;
    }
done:
    PQclear(result);
    if (asked == 0)
        ctl_reply_done(&reply);
    return status;
}

/* --- streams --- */

/* clang-format off */
#define HOLES_SQL \
    "SELECT uid, pid, stream_id, client, host, writer, from_seq, to_seq, missing," \
    " " CTL_MICROSECONDS("last_seen_at") " AS last_seen_us" \
    " FROM toll.stream_holes ORDER BY last_seen_at DESC, stream_id, from_seq LIMIT $1::bigint"
/* clang-format on */

static const struct ctl_column stream_columns[] = {
    {"uid", "UID"},          {"pid", "PID"},           {"client", "CLIENT"},
    {"stream_id", "STREAM"}, {"received", "RECEIVED"}, {"acked", "ACKNOWLEDGED"},
    {"holes", "HOLES"},      {"refused", "REFUSED"},   {"last_seen_us", "LAST SEEN"},
    {"page", "ACK PAGE"},    {"state", "STATE"},       {NULL, NULL},
};
static const struct ctl_column hole_columns[] = {
    {"uid", "UID"},       {"pid", "PID"},   {"client", "CLIENT"},   {"stream_id", "STREAM"},
    {"from_seq", "FROM"}, {"to_seq", "TO"}, {"missing", "MISSING"}, {"last_seen_us", "LAST SEEN"},
    {NULL, NULL},
};

static int print_streams(struct ctl *ctl, const msgpack_object *streams)
{
    if (ctl->json)
        return ctl_print_json(streams, ctl->out);
    if (streams->type == MSGPACK_OBJECT_ARRAY && streams->via.array.size == 0) {
        fputs("no streams in memory\n", ctl->out);
        return 0;
    }
    return ctl_print_list(stream_columns, streams, ctl->out);
}

static int print_holes(struct ctl *ctl, const PGresult *result)
{
    if (PQntuples(result) == 0) {
        fputs("\nno holes in the database: no numbered frame is missing\n", ctl->out);
        return 0;
    }
    fputs("\nHoles in the database, frames that were numbered and never came:\n", ctl->out);
    return ctl_print_result(hole_columns, result, ctl->out);
}

int ctl_streams(struct ctl *ctl)
{
    const struct ctl_request request = {.command = "streams", .number_key = "limit", .number = ctl->limit};
    struct ctl_reply reply;
    PGresult *result = NULL;
    char error[CTL_ERROR_MAX], limit[24];
    const char *values[] = {limit};
    int r, status = CTL_OK;

    r = ctl_ask(ctl->control, &request, PATIENCE_MS, &reply, error);
    if (ctl->json)
        fputs("{\"streams\":", ctl->out);
    if (r == 0) {
        status = printed(print_streams(ctl, reply.data));
        ctl_reply_done(&reply);
    } else {
        complain(error);
        status = CTL_NO_DAEMON;
        if (ctl->json)
            fputs("null", ctl->out);
    }

    snprintf(limit, sizeof(limit), "%" PRIu64, ctl->limit);
    /* Without a database (the log sink) there is nowhere to look, and nothing to complain of. */
    if (ctl->database[0] && look_up(ctl, ctl->json ? CTL_JSON_ROWS(HOLES_SQL) : HOLES_SQL, 1, values, &result) < 0 &&
        status == CTL_OK)
        status = CTL_NO_DATABASE;
    if (ctl->json)
        fprintf(ctl->out, ",\"holes\":%s}\n", result ? PQgetvalue(result, 0, 0) : "null");
    else if (result && print_holes(ctl, result) < 0)
        status = CTL_BAD;
    PQclear(result);
    return status;
}

/* --- verify --- */

#define VERIFY_SQL "SELECT check_name, checked, wrong, detail FROM toll.verify(to_timestamp($1::bigint / 1000000.0))"

/* NULL, or why what is on its way was not waited for. */
static const char *flush(struct ctl *ctl, char error[static CTL_ERROR_MAX])
{
    const struct ctl_request request = {
        .command = "flush", .number_key = "timeout_ms", .number = (uint64_t)(ctl->timeout_us / 1000)};
    struct ctl_reply reply;

    if (ctl_ask(ctl->control, &request, (int)(ctl->timeout_us / 1000) + PATIENCE_MS, &reply, error) < 0)
        return error;
    ctl_reply_done(&reply);
    return NULL;
}

static void print_json_text(const char *text, FILE *out)
{
    msgpack_object value = {.type = MSGPACK_OBJECT_NIL};

    if (text) {
        value.type = MSGPACK_OBJECT_STR;
        value.via.str.ptr = text;
        value.via.str.size = (uint32_t)strlen(text);
    }
    if (ctl_print_json(&value, out) < 0)
        fputs("null", out);
}

static void print_verdict(struct ctl *ctl, const PGresult *result, long long wrong)
{
    static const struct ctl_column columns[] = {
        {"check_name", "CHECK"}, {"checked", "CHECKED"}, {"wrong", "WRONG"}, {"detail", "DETAIL"}, {NULL, NULL}};

    if (ctl_print_result(columns, result, ctl->out) < 0)
        complain("out of memory");
    if (wrong == 0)
        fprintf(ctl->out, "OK: %d checks, nothing is wrong\n", PQntuples(result));
    else
        fprintf(ctl->out, "WRONG: %lld %s; see the lines above\n", wrong, wrong == 1 ? "fault" : "faults");
}

int ctl_verify(struct ctl *ctl)
{
    char error[CTL_ERROR_MAX], since[24];
    const char *values[] = {ctl->since_us == INT64_MIN ? NULL : since};
    const char *not_flushed = flush(ctl, error);
    PGresult *result = NULL;
    long long wrong = 0;

    snprintf(since, sizeof(since), "%" PRId64, ctl->since_us);
    if (not_flushed)
        fprintf(stderr, "tollctl: not flushed: %s\ntollctl: what has not been committed yet is not looked at\n",
                not_flushed);
    if (look_up(ctl,
                ctl->json
                    ? "SELECT coalesce(json_agg(q), '[]'::json), coalesce(sum(wrong), 0)::bigint FROM (" VERIFY_SQL
                      ") q"
                    : VERIFY_SQL,
                1, values, &result) < 0)
        return CTL_NO_DATABASE;
    if (ctl->json) {
        wrong = strtoll(PQgetvalue(result, 0, 1), NULL, 10);
        fprintf(ctl->out, "{\"ok\":%s,\"wrong\":%lld,\"flushed\":%s,\"flush_error\":", wrong == 0 ? "true" : "false",
                wrong, not_flushed ? "false" : "true");
        print_json_text(not_flushed, ctl->out);
        fprintf(ctl->out, ",\"checks\":%s}\n", PQgetvalue(result, 0, 0));
    } else {
        for (int row = 0; row < PQntuples(result); row++)
            wrong += strtoll(PQgetvalue(result, row, 2), NULL, 10);
        print_verdict(ctl, result, wrong);
    }
    PQclear(result);
    return wrong == 0 ? CTL_OK : CTL_BAD;
}

/* --- quarantine --- */

/* The bytes are asked for only when wanted: a plain reader may not see them. */
/* clang-format off */
#define QUARANTINE_SQL(more) \
    "SELECT id, " CTL_MICROSECONDS("received_at") " AS received_at_us, uid, pid, stream_id, seq," \
    " batch_id, journal_id, lsn, frame_index, reason" more \
    " FROM toll.quarantine ORDER BY id DESC LIMIT $1::bigint"
#define QUARANTINE_BYTES_SQL QUARANTINE_SQL(", encode(bytes, 'hex') AS bytes")
/* clang-format on */

/* How full it is, and how to make room. The limit is the daemon's to say. */
static int print_quarantine_size(struct ctl *ctl)
{
    const struct ctl_request request = {.command = "status"};
    struct ctl_reply reply;
    PGresult *result = NULL;
    char error[CTL_ERROR_MAX];
    uint64_t limit;

    if (look_up(ctl, "SELECT count(*) FROM toll.quarantine", 0, NULL, &result) < 0)
        return -EIO;
    fprintf(ctl->out, "\n%s in quarantine", PQgetvalue(result, 0, 0));
    PQclear(result);
    if (ctl_ask(ctl->control, &request, PATIENCE_MS, &reply, error) == 0) {
        if (value_uint(reply.data, "quarantine_limit", 0, UINT64_MAX, &limit) == 0)
            fprintf(ctl->out, "; it is full at %" PRIu64 " (limits.quarantine_rows)", limit);
        ctl_reply_done(&reply);
    }
    fputs(". To delete what is settled, by the time it was received:\n"
          "  SELECT toll.drop_quarantine('2026-01-31 12:00'), or toll.drop_quarantine(now()) for all of it\n",
          ctl->out);
    return 0;
}

int ctl_quarantine(struct ctl *ctl)
{
    static const struct ctl_column columns[] = {
        {"id", "ID"},   {"received_at_us", "RECEIVED"}, {"uid", "UID"}, {"pid", "PID"}, {"stream_id", "STREAM"},
        {"seq", "SEQ"}, {"reason", "REASON"},           {NULL, NULL},
    };
    static const struct ctl_column bytes_columns[] = {
        {"id", "ID"}, {"received_at_us", "RECEIVED"}, {"reason", "REASON"}, {"bytes", "BYTES"}, {NULL, NULL}};
    static const char *const queries[2][2] = {
        {QUARANTINE_SQL(""), QUARANTINE_BYTES_SQL},
        {CTL_JSON_ROWS(QUARANTINE_SQL("")), CTL_JSON_ROWS(QUARANTINE_BYTES_SQL)},
    };
    char limit[24];
    const char *values[] = {limit};
    PGresult *result = NULL;
    int status = CTL_OK;

    snprintf(limit, sizeof(limit), "%" PRIu64, ctl->limit);
    if (look_up(ctl, queries[ctl->json][ctl->bytes], 1, values, &result) < 0)
        return CTL_NO_DATABASE;
    if (ctl->json)
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 0));
    else if (PQntuples(result) == 0)
        fputs("nothing is in quarantine\n", ctl->out);
    else
        status = printed(ctl_print_result(ctl->bytes ? bytes_columns : columns, result, ctl->out));
    if (!ctl->json && PQntuples(result) > 0 && print_quarantine_size(ctl) < 0)
        status = CTL_NO_DATABASE;
    PQclear(result);
    return status;
}
