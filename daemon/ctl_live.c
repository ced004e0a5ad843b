/* tollctl's commands that ask the daemon only: status, sessions, flush. */
#include "daemon/ctl.h"

#include "daemon/clock.h"
#include "daemon/control_value.h"
#include "daemon/ctl_client.h"
#include "daemon/ctl_format.h"
#include "daemon/ctl_print.h"
#include "daemon/ctl_table.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { PATIENCE_MS = 10000 };

/* The reply, or a message on standard error and false. */
static bool ask(struct ctl *ctl, const struct ctl_request *request, int timeout_ms, struct ctl_reply *ret,
                int *ret_status)
{
    char error[CTL_ERROR_MAX];
    int r = ctl_ask(ctl->control, request, timeout_ms, ret, error);

    if (r == 0)
        return true;
    fprintf(stderr, "tollctl: %s\n", error);
    *ret_status = r == -EREMOTEIO ? CTL_BAD : CTL_NO_DAEMON;
    return false;
}

static int finish(struct ctl_reply *reply, int r)
{
    ctl_reply_done(reply);
    if (r < 0)
        fprintf(stderr, "tollctl: can't print the reply: %s\n", strerror(-r));
    return r < 0 ? CTL_BAD : CTL_OK;
}

static void print_text(const msgpack_object *map, const char *key, FILE *out)
{
    const msgpack_object *value = value_get(map, key);

    if (value && value->type == MSGPACK_OBJECT_STR)
        ctl_print_clean(value->via.str.ptr, value->via.str.size, out);
}

/* Under a heading of their own, at the end, where the eye rests. */
static void print_alarms(const msgpack_object *alarms, FILE *out)
{
    char since[CTL_TEXT_MAX], lasted[CTL_TEXT_MAX];

    if (!alarms || alarms->type != MSGPACK_OBJECT_ARRAY || alarms->via.array.size == 0) {
        fputs("\nnothing needs attention\n", out);
        return;
    }
    fputs("\nneeds attention:\n", out);
    for (uint32_t i = 0; i < alarms->via.array.size; i++) {
        const msgpack_object *alarm = &alarms->via.array.ptr[i];
        uint64_t since_us;

        if (value_uint(alarm, "since_us", 0, INT64_MAX, &since_us) < 0)
            since_us = 0;
        fputs("  ", out);
        print_text(alarm, "alarm", out);
        fprintf(out, " since %s (%s): ", ctl_format_time((int64_t)since_us, since),
                ctl_format_duration((clock_realtime_us() - (int64_t)since_us) / 1000000 * 1000000, lasted));
        print_text(alarm, "figures", out);
        fputs("\n      ", out);
        print_text(alarm, "text", out);
        fputc('\n', out);
    }
}

/* A map's pairs without one of them, whose value is returned, NULL if it was not there. */
static const msgpack_object *take_out(msgpack_object *map, const char *key)
{
    const msgpack_object *value = value_get(map, key);
    msgpack_object_kv *pairs, taken;

    if (!value)
        return NULL;
    pairs = map->via.map.ptr;
    for (uint32_t i = 0; i + 1 < map->via.map.size; i++) /* to the end, which is then cut off */
        if (&pairs[i].val == value) {
            taken = pairs[i];
            pairs[i] = pairs[i + 1];
            pairs[i + 1] = taken;
            value = &pairs[i + 1].val;
        }
    map->via.map.size--;
    return value;
}

int ctl_status(struct ctl *ctl)
{
    const struct ctl_request request = {.command = "status"};
    struct ctl_reply reply;
    int status, r;

    if (!ask(ctl, &request, PATIENCE_MS, &reply, &status))
        return status;
    if (ctl->json) {
        r = ctl_print_json(reply.data, ctl->out);
        fputc('\n', ctl->out);
    } else {
        msgpack_object status_map = *reply.data;
        const msgpack_object *alarms = take_out(&status_map, "alarms");

        r = ctl_print_map(&status_map, ctl->out);
        print_alarms(alarms, ctl->out);
    }
    return finish(&reply, r);
}

int ctl_sessions(struct ctl *ctl)
{
    static const struct ctl_column columns[] = {
        {"session_id", "SESSION"},
        {"started_at_us", "STARTED"},
        {"last_activity_us", "LAST ACTIVITY"},
        {"llm_calls", "LLM"},
        {"llm_input_tokens", "TOKENS IN"},
        {"llm_output_tokens", "TOKENS OUT"},
        {"tts_calls", "TTS"},
        {"tts_chars", "CHARS"},
        {"stt_calls", "STT"},
        {"stt_audio_us", "AUDIO"},
        {"complete", "COMPLETE"},
        {NULL, NULL},
    };
    const struct ctl_request request = {.command = "sessions", .number_key = "limit", .number = ctl->limit};
    struct ctl_reply reply;
    int status, r;

    if (!ask(ctl, &request, PATIENCE_MS, &reply, &status))
        return status;
    if (ctl->json) {
        r = ctl_print_json(reply.data, ctl->out);
        fputc('\n', ctl->out);
    } else if (reply.data->type == MSGPACK_OBJECT_ARRAY && reply.data->via.array.size == 0) {
        r = 0;
        fputs("no live sessions\n", ctl->out);
    } else {
        r = ctl_print_list(columns, reply.data, ctl->out);
        if (reply.data->type == MSGPACK_OBJECT_ARRAY && reply.data->via.array.size == ctl->limit)
            fprintf(ctl->out, "(the first %" PRIu64 ", latest activity first: more with --limit)\n", ctl->limit);
    }
    return finish(&reply, r);
}

int ctl_flush(struct ctl *ctl)
{
    const struct ctl_request request = {
        .command = "flush", .number_key = "timeout_ms", .number = (uint64_t)(ctl->timeout_us / 1000)};
    struct ctl_reply reply;
    uint64_t lsn = 0;
    int status, r = 0;

    if (!ask(ctl, &request, (int)(ctl->timeout_us / 1000) + PATIENCE_MS, &reply, &status))
        return status;
    if (ctl->json) {
        r = ctl_print_json(reply.data, ctl->out);
        fputc('\n', ctl->out);
    } else if (value_uint(reply.data, "committed_lsn", 0, UINT64_MAX, &lsn) == 0) {
        fprintf(ctl->out, "everything received so far is committed, up to LSN %" PRIu64 "\n", lsn);
    }
    return finish(&reply, r);
}
