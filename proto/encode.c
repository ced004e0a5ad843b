/* What a sender needs of the wire format: empty frames, the rules a frame must keep, and its bytes.
 *
 * libtoll links this file and libc, nothing else: of msgpack-c it uses the packer's inline functions only. It
 * runs on the audio path, so it allocates nothing, and looks at each row of the frame table twice. */
#include "proto/frame.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <msgpack/pack.h>

#include "proto/fields.h"

static const char *const type_names[] = {
    [TOLL_FRAME_SESSION_START] = "session_start",
    [TOLL_FRAME_SESSION_END] = "session_end",
    [TOLL_FRAME_LLM] = "llm",
    [TOLL_FRAME_TTS] = "tts",
    [TOLL_FRAME_STT] = "stt",
    [TOLL_FRAME_USAGE] = "usage",
    [TOLL_FRAME_TRANSCRIPT] = "transcript",
    [TOLL_FRAME_GAP] = "gap",
    [TOLL_FRAME_STREAM] = "stream",
};

static bool is_type(enum toll_frame_type type)
{
    return type >= TOLL_FRAME_SESSION_START && type <= TOLL_FRAME_STREAM;
}

const char *toll_frame_type_name(enum toll_frame_type type)
{
    return is_type(type) ? type_names[type] : "unknown";
}

enum toll_frame_type toll_frame_type_from_name(const char *name, size_t size)
{
    for (enum toll_frame_type type = TOLL_FRAME_SESSION_START; type <= TOLL_FRAME_STREAM; type++)
        if (strlen(type_names[type]) == size && memcmp(type_names[type], name, size) == 0)
            return type;
    return 0;
}

void toll_frame_init(struct toll_frame *frame, enum toll_frame_type type)
{
    *frame = (struct toll_frame){
        .type = type,
        .time_us = TOLL_TIME_MISSING,
        .gap_since_us = TOLL_TIME_MISSING,
        .gap_until_us = TOLL_TIME_MISSING,
        .input_tokens = TOLL_ABSENT,
        .output_tokens = TOLL_ABSENT,
        .char_count = TOLL_ABSENT,
        .cached_input_tokens = TOLL_ABSENT,
        .cache_write_tokens = TOLL_ABSENT,
        .audio_input_tokens = TOLL_ABSENT,
        .cached_audio_tokens = TOLL_ABSENT,
        .audio_output_tokens = TOLL_ABSENT,
        .reasoning_tokens = TOLL_ABSENT,
        .audio_duration_us = TOLL_ABSENT,
        .duration_us = TOLL_ABSENT,
        .ttfb_us = TOLL_ABSENT,
        .quantity_value = TOLL_ABSENT,
    };
}

int toll_refuse(char reason[static TOLL_REASON_MAX], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(reason, TOLL_REASON_MAX, format, args);
    va_end(args);
    return -EINVAL;
}

/* --- rules that tie keys together --- */

static int64_t or_zero(int32_t count)
{
    return count == TOLL_ABSENT ? 0 : count;
}

static int check_subset(const char *subset, int64_t n, const char *whole, int64_t max,
                        char reason[static TOLL_REASON_MAX])
{
    if (n <= max)
        return 0;
    return toll_refuse(reason, "llm: %s: %lld is above %s, which is %lld", subset, (long long)n, whole, (long long)max);
}

static int check_llm(const struct toll_frame *f, char reason[static TOLL_REASON_MAX])
{
    int64_t input = or_zero(f->input_tokens), output = or_zero(f->output_tokens);
    int64_t cached = or_zero(f->cached_input_tokens), audio = or_zero(f->audio_input_tokens);
    int64_t cached_audio = or_zero(f->cached_audio_tokens);
    /* Cached audio is in both cached and audio, so it counts once. */
    int64_t parts = cached + or_zero(f->cache_write_tokens) + audio - cached_audio;
    int r;

    if ((r = check_subset("cached_audio_tokens", cached_audio, "cached_input_tokens", cached, reason)) < 0 ||
        (r = check_subset("cached_audio_tokens", cached_audio, "audio_input_tokens", audio, reason)) < 0 ||
        (r = check_subset("cached + cache_write + audio_input - cached_audio tokens", parts, "input_tokens", input,
                          reason)) < 0 ||
        (r = check_subset("audio_output_tokens", or_zero(f->audio_output_tokens), "output_tokens", output, reason)) < 0)
        return r;
    return check_subset("reasoning_tokens", or_zero(f->reasoning_tokens), "output_tokens", output, reason);
}

static int check_stream(const struct toll_frame *f, char reason[static TOLL_REASON_MAX])
{
    unsigned long long seq = f->stream_seq, base = f->stream_base, count = f->stream_count;

    if (base < 1)
        return toll_refuse(reason, "stream: base: 0 is below 1");
    if (base > seq)
        return toll_refuse(reason, "stream: base: %llu is above seq, which is %llu", base, seq);
    if (seq > TOLL_SEQ_MAX)
        return toll_refuse(reason, "stream: seq: %llu is above %llu", seq, (unsigned long long)TOLL_SEQ_MAX);
    if (count > TOLL_DATAGRAM_MAX)
        return toll_refuse(reason, "stream: count: %llu is above %d", count, TOLL_DATAGRAM_MAX);
    if (count > TOLL_SEQ_MAX + 1 - seq)
        return toll_refuse(reason, "stream: seq + count: %llu is above %llu", seq + count,
                           (unsigned long long)TOLL_SEQ_MAX + 1);
    return 0;
}

static bool is_text(const struct toll_str *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->ptr, text, s->len) == 0;
}

int toll_frame_check(const struct toll_frame *frame, char reason[static TOLL_REASON_MAX])
{
    switch (frame->type) {
    case TOLL_FRAME_LLM:
        return check_llm(frame, reason);
    case TOLL_FRAME_USAGE:
        if (!frame->has_session_id && !frame->account.ptr)
            return toll_refuse(reason, "usage: session_id or account is missing");
        return 0;
    case TOLL_FRAME_TRANSCRIPT:
        if (!is_text(&frame->role, "user") && !is_text(&frame->role, "assistant"))
            return toll_refuse(reason, "transcript: role: must be \"user\" or \"assistant\"");
        return 0;
    case TOLL_FRAME_STREAM:
        return check_stream(frame, reason);
    default:
        return 0;
    }
}

/* --- encoding --- */

struct writer {
    char *data;
    size_t size, cap;
    bool full;
};

static int write_bytes(void *context, const char *bytes, size_t size)
{
    struct writer *w = context;

    if (w->full || size > w->cap - w->size) {
        w->full = true; /* and stays so: a later, shorter piece must not be written */
        return -1;
    }
    memcpy(w->data + w->size, bytes, size);
    w->size += size;
    return 0;
}

#define MEMBER(type) (*(const type *)((const char *)frame + field->offset))

/* Whether the frame has a value for this field: 1, 0, or -EINVAL where the value is out of its range. */
static int field_present(const struct toll_field *field, const struct toll_frame *frame)
{
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
    case TOLL_KIND_BIN16:
        return 1;
    case TOLL_KIND_UUID:
        return *((const bool *)frame + field->has);
    case TOLL_KIND_BOOL:
        return MEMBER(bool) || (field->has && *((const bool *)frame + field->has));
    case TOLL_KIND_TIME:
        return MEMBER(int64_t) != TOLL_TIME_MISSING;
    case TOLL_KIND_NAME:
        return MEMBER(struct toll_str).len > TOLL_NAME_MAX ? -EINVAL : MEMBER(struct toll_str).ptr != NULL;
    case TOLL_KIND_TEXT:
        return MEMBER(struct toll_str).ptr != NULL;
    case TOLL_KIND_COUNT:
        return MEMBER(int32_t) < TOLL_ABSENT ? -EINVAL : MEMBER(int32_t) != TOLL_ABSENT;
    case TOLL_KIND_NUMBER:
        return MEMBER(uint64_t) > INT64_MAX ? -EINVAL : 1;
    case TOLL_KIND_DURATION: {
        int64_t us = MEMBER(int64_t);
        return us < TOLL_ABSENT || us > TOLL_DURATION_MAX ? -EINVAL : us != TOLL_ABSENT;
    }
    case TOLL_KIND_QUANTITY:
        return isfinite(MEMBER(double)) && MEMBER(double) >= 0 ? 1 : -EINVAL;
    case TOLL_KIND_MAP: {
        const struct toll_str *map = &MEMBER(struct toll_str);
        if (!map->ptr)
            return 0;
        uint8_t first = map->len > 0 ? (uint8_t)map->ptr[0] : 0;
        return (first & 0xf0) == 0x80 || first == 0xde || first == 0xdf ? 1 : -EINVAL;
    }
    }
    return -EINVAL;
}

/* Integers are the shorter form; up to 2⁵³ every double that is whole is one. */
static void pack_number(msgpack_packer *packer, double value)
{
    if (value <= 0x1p53 && value == (double)(int64_t)value)
        msgpack_pack_int64(packer, (int64_t)value);
    else
        msgpack_pack_double(packer, value);
}

/* Half of what is written are keys: in one piece, a byte of length and the name. */
static void pack_key(struct writer *w, const struct toll_field *field)
{
    char key[32];

    assert(field->name_size < sizeof(key));
    key[0] = (char)(0xa0 | field->name_size);
    memcpy(key + 1, field->name, field->name_size);
    (void)write_bytes(w, key, 1 + (size_t)field->name_size);
}

static void pack_field(msgpack_packer *packer, const struct toll_field *field, const struct toll_frame *frame)
{
    pack_key(packer->data, field);
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE: {
        const char *name = type_names[frame->type];
        msgpack_pack_str_with_body(packer, name, strlen(name));
        break;
    }
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        msgpack_pack_bin_with_body(packer, &MEMBER(uint8_t), 16);
        break;
    case TOLL_KIND_TIME:
        msgpack_pack_int64(packer, MEMBER(int64_t));
        break;
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
        msgpack_pack_str_with_body(packer, MEMBER(struct toll_str).ptr, MEMBER(struct toll_str).len);
        break;
    case TOLL_KIND_COUNT:
        msgpack_pack_int32(packer, MEMBER(int32_t));
        break;
    case TOLL_KIND_NUMBER:
        msgpack_pack_uint64(packer, MEMBER(uint64_t));
        break;
    case TOLL_KIND_DURATION:
        pack_number(packer, (double)MEMBER(int64_t) / 1000.0);
        break;
    case TOLL_KIND_QUANTITY:
        pack_number(packer, MEMBER(double));
        break;
    case TOLL_KIND_BOOL:
        if (MEMBER(bool))
            msgpack_pack_true(packer);
        else
            msgpack_pack_false(packer);
        break;
    case TOLL_KIND_MAP:
        (void)write_bytes(packer->data, MEMBER(struct toll_str).ptr, MEMBER(struct toll_str).len);
        break;
    }
}

int toll_frame_encode(const struct toll_frame *frame, void *buf, size_t cap)
{
    struct writer writer = {.data = buf, .cap = cap < TOLL_DATAGRAM_MAX ? cap : TOLL_DATAGRAM_MAX};
    msgpack_packer packer;
    char reason[TOLL_REASON_MAX];
    uint64_t present = 0;
    unsigned pairs = 0;

    if (!is_type(frame->type))
        return -EINVAL;
    for (unsigned i = 0; i < TOLL_FIELDS; i++) {
        const struct toll_field *field = &toll_fields[i];
        unsigned bit = TOLL_TYPE_BIT(frame->type);
        if (!((field->required | field->optional) & bit))
            continue;
        int r = field_present(field, frame);
        if (r < 0 || (r == 0 && (field->required & bit)))
            return -EINVAL;
        present |= (uint64_t)r << i;
        pairs += (unsigned)r;
    }
    if (toll_frame_check(frame, reason) < 0)
        return -EINVAL;

    msgpack_packer_init(&packer, &writer, write_bytes);
    msgpack_pack_map(&packer, pairs);
    for (; present; present &= present - 1)
        pack_field(&packer, &toll_fields[__builtin_ctzll(present)], frame);
    return writer.full ? -ENOBUFS : (int)writer.size;
}
