/* See sink_log.h. */
#include "daemon/sink_log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uuid/uuid.h>

struct watermark { /* what is saved: of which journal, how far */
    uint8_t journal[16];
    uint64_t lsn;
};

struct sink_log {
    struct sink sink;
    struct sink_log_options options;
    struct watermark watermark;
    uint64_t to;
    char *text; /* the batch's lines */
    size_t size, capacity;
    bool failed; /* out of memory since begin */
    char error[160];
};

static struct sink_log *self(struct sink *sink)
{
    return (struct sink_log *)(void *)sink;
}

static void put(struct sink_log *s, const char *data, size_t size)
{
    if (s->capacity - s->size < size) {
        size_t capacity = (s->size + size) * 2;
        char *grown = realloc(s->text, capacity);

        if (!grown) {
            s->failed = true;
            return;
        }
        s->text = grown;
        s->capacity = capacity;
    }
    memcpy(s->text + s->size, data, size);
    s->size += size;
}

__attribute__((format(printf, 2, 3))) static void print(struct sink_log *s, const char *format, ...)
{
    char buf[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(buf, sizeof(buf), format, arguments);
    va_end(arguments);
    put(s, buf, strlen(buf));
}

/* A JSON string. Frames' strings are valid UTF-8 without U+0000. */
static void put_string(struct sink_log *s, const char *text, size_t size)
{
    put(s, "\"", 1);
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '"' || c == '\\')
            put(s, "\\", 1);
        if (c < 0x20)
            print(s, "\\u%04x", c);
        else
            put(s, text + i, 1);
    }
    put(s, "\"", 1);
}

static void field_str(struct sink_log *s, const char *key, const struct toll_str *str)
{
    if (!str->ptr)
        return;
    print(s, ",\"%s\":", key);
    put_string(s, str->ptr, str->len);
}

static void field_json(struct sink_log *s, const char *key, const char *json, size_t size)
{
    if (!json)
        return;
    print(s, ",\"%s\":", key);
    put(s, json, size);
}

static void field_count(struct sink_log *s, const char *key, int64_t count)
{
    if (count != TOLL_ABSENT)
        print(s, ",\"%s\":%" PRId64, key, count);
}

static void field_ms(struct sink_log *s, const char *key, int64_t us)
{
    if (us != TOLL_ABSENT)
        print(s, ",\"%s\":%" PRId64 ".%03" PRId64, key, us / 1000, us % 1000);
}

static void field_uuid(struct sink_log *s, const char *key, const uint8_t uuid[16])
{
    char text[37];

    uuid_unparse_lower(uuid, text);
    print(s, ",\"%s\":\"%s\"", key, text);
}

static void field_time(struct sink_log *s, const char *key, int64_t us)
{
    int64_t rest = us % 1000000;

    if (us == TOLL_TIME_MISSING)
        return;
    print(s, ",\"%s\":%s%" PRId64 ".%06" PRId64, key, us < 0 ? "-" : "", us < 0 ? -(us / 1000000) : us / 1000000,
          rest < 0 ? -rest : rest);
}

static void line_begin(struct sink_log *s, const char *type)
{
    print(s, "{\"level\":\"INFO\",\"type\":\"%s\"", type);
}

static void line_end(struct sink_log *s)
{
    put(s, "}\n", 2);
}

static int op_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    struct sink_log *s = self(sink);
    struct watermark saved;
    long size = s->options.load(s->options.context, &saved, sizeof(saved));
    bool ours = size == (long)sizeof(saved) && memcmp(saved.journal, journal->uuid, sizeof(saved.journal)) == 0;
    bool known = memcmp(s->watermark.journal, journal->uuid, sizeof(s->watermark.journal)) == 0;
    uint64_t lsn = journal->register_lsns[0];

    if (size < 0 && size != -ENOENT && size != -EBADMSG) { /* it may be there: all of it would be written again */
        snprintf(s->error, sizeof(s->error), "reading the watermark: %s", strerror((int)-size));
        return -EAGAIN;
    }
    if (ours && saved.lsn > lsn)
        lsn = saved.lsn;
    if (known && s->watermark.lsn > lsn) /* written in this run, though it could not be saved */
        lsn = s->watermark.lsn;
    memcpy(s->watermark.journal, journal->uuid, sizeof(s->watermark.journal));
    s->watermark.lsn = lsn;
    *ret_lsn = s->watermark.lsn;
    return 0;
}

static int op_begin(struct sink *sink, uint64_t from, uint64_t to)
{
    struct sink_log *s = self(sink);

    s->size = 0;
    s->failed = false;
    s->to = to;
    return from == s->watermark.lsn ? 0 : -ESTALE;
}

static int op_load_streams(struct sink *sink, struct sink_stream *const *streams, size_t count)
{
    (void)sink;
    (void)streams;
    (void)count;
    return 0;
}

static int op_attempt(struct sink *sink, bool careful)
{
    (void)sink;
    (void)careful;
    return 0;
}

static int op_add(struct sink *sink, const struct sink_row *row)
{
    struct sink_log *s = self(sink);
    const struct toll_frame *f = row->frame;

    line_begin(s, toll_frame_type_name(f->type));
    field_time(s, "occurred_at", row->occurred_us);
    if (f->has_session_id)
        field_uuid(s, "session_id", f->session_id);
    if (f->has_turn_id)
        field_uuid(s, "turn_id", f->turn_id);
    field_str(s, "account", &f->account);
    field_str(s, "provider", &f->provider);
    field_str(s, "model", &f->model);
    field_str(s, "voice", &f->voice);
    field_str(s, "language", &f->language);
    field_str(s, "agent", &f->agent);
    field_str(s, "request_id", &f->request_id);
    field_count(s, "input_tokens", f->input_tokens);
    field_count(s, "output_tokens", f->output_tokens);
    field_count(s, "cached_input_tokens", f->cached_input_tokens);
    field_count(s, "cache_write_tokens", f->cache_write_tokens);
    field_count(s, "audio_input_tokens", f->audio_input_tokens);
    field_count(s, "cached_audio_tokens", f->cached_audio_tokens);
    field_count(s, "audio_output_tokens", f->audio_output_tokens);
    field_count(s, "reasoning_tokens", f->reasoning_tokens);
    if (f->type == TOLL_FRAME_LLM)
        print(s, ",\"estimated\":%s", f->estimated ? "true" : "false");
    field_count(s, "char_count", f->char_count);
    field_ms(s, "audio_duration_ms", f->audio_duration_us);
    field_ms(s, "ttfb_ms", f->ttfb_us);
    field_ms(s, "duration_ms", f->duration_us);
    field_str(s, "meter", &f->meter);
    if (f->type == TOLL_FRAME_USAGE)
        print(s, ",\"quantity\":%s", f->quantity);
    field_str(s, "role", &f->role);
    field_str(s, "text", &f->text);
    if (f->has_interrupted || f->type == TOLL_FRAME_TRANSCRIPT)
        print(s, ",\"interrupted\":%s", f->interrupted ? "true" : "false");
    if (f->type == TOLL_FRAME_GAP)
        print(s, ",\"count\":%" PRIu64, f->gap_count);
    field_json(s, "raw_json", f->raw_json.ptr, f->raw_json.len);
    line_end(s);
    return 0;
}

static void print_totals(struct sink_log *s, const struct session *session)
{
    const struct session_totals *t = &session->totals;

    print(s,
          ",\"llm_input_tokens\":%" PRId64 ",\"llm_output_tokens\":%" PRId64 ",\"llm_calls\":%" PRIu32
          ",\"tts_chars\":%" PRId64 ",\"tts_calls\":%" PRIu32 ",\"stt_calls\":%" PRIu32,
          t->llm_input_tokens, t->llm_output_tokens, t->llm_calls, t->tts_chars, t->tts_calls, t->stt_calls);
    field_ms(s, "stt_audio_ms", t->stt_audio_us);
}

static int op_store(struct sink *sink, struct session_change *const *changes, size_t count)
{
    struct sink_log *s = self(sink);

    for (size_t i = 0; i < count; i++) {
        struct session_change *change = changes[i];
        const struct session *session = change->session;

        if (change->starts) {
            line_begin(s, "session_start");
            field_uuid(s, "session_id", session->id);
            field_time(s, "started_at", change->started_us);
            field_json(s, "metadata", change->metadata, change->metadata ? strlen(change->metadata) : 0);
            line_end(s);
        }
        if (!change->ends && !change->orphan)
            continue;
        line_begin(s, "session_end");
        field_uuid(s, "session_id", session->id);
        field_time(s, "ended_at", change->ends ? change->ended_us : session->last_us);
        print(s, ",\"finish_reason\":");
        put_string(s, change->ends ? change->finish_reason : "orphaned",
                   strlen(change->ends ? change->finish_reason : "orphaned"));
        print_totals(s, session);
        line_end(s);
        change->finalized = true;
    }
    return 0;
}

static int op_settle(struct sink *sink, bool keep)
{
    (void)sink;
    (void)keep;
    return 0;
}

static int op_finish(struct sink *sink, const struct sink_batch *batch)
{
    struct sink_log *s = self(sink);

    for (size_t i = 0; i < batch->refused_count; i++) {
        const struct sink_refused *refused = &batch->refused[i];

        line_begin(s, "quarantine");
        print(s, ",\"uid\":%u,\"pid\":%u,\"bytes\":%zu,\"reason\":", refused->origin.uid, refused->origin.pid,
              refused->origin.size);
        put_string(s, refused->reason, strlen(refused->reason));
        line_end(s);
    }
    return s->failed ? -ENOMEM : 0;
}

/* All of it, waiting where the reader is slow. */
static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};

            poll(&wait, 1, -1);
        } else if (n < 0 && errno != EINTR)
            return -errno;
        else if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return 0;
}

static int op_commit(struct sink *sink)
{
    struct sink_log *s = self(sink);
    int r = write_all(s->options.fd, s->text, s->size);

    if (r == 0) {
        s->watermark.lsn = s->to;
        r = s->options.save(s->options.context, &s->watermark, sizeof(s->watermark));
    }
    if (r == 0)
        return 0;
    snprintf(s->error, sizeof(s->error), "writing the log: %s", strerror(-r));
    return -EAGAIN;
}

static void op_abort(struct sink *sink)
{
    self(sink)->size = 0;
}

static int op_open_sessions(struct sink *sink, int64_t idle_before_us, size_t max,
                            void (*found)(void *context, const uint8_t id[16]), void *context)
{
    (void)sink;
    (void)idle_before_us;
    (void)max;
    (void)found;
    (void)context;
    return 0;
}

static int op_tend(struct sink *sink)
{
    (void)sink;
    return 0;
}

static const char *op_error(const struct sink *sink)
{
    return ((const struct sink_log *)(const void *)sink)->error;
}

static const char *op_error_class(const struct sink *sink)
{
    (void)sink;
    return "";
}

static void op_free(struct sink *sink)
{
    struct sink_log *s = self(sink);

    free(s->text);
    free(s);
}

static const struct sink_ops ops = {
    .name = "log",
    .open = op_open,
    .begin = op_begin,
    .load_streams = op_load_streams,
    .attempt = op_attempt,
    .add = op_add,
    .store = op_store,
    .settle = op_settle,
    .finish = op_finish,
    .commit = op_commit,
    .abort = op_abort,
    .open_sessions = op_open_sessions,
    .tend = op_tend,
    .error = op_error,
    .error_class = op_error_class,
    .free = op_free,
};

struct sink *sink_log_new(const struct sink_log_options *options)
{
    struct sink_log *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->sink.ops = &ops;
    s->options = *options;
    return &s->sink;
}
