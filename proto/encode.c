/* What a sender needs of the wire format: empty frames, the rules a frame must keep, and its bytes.
 *
 * libtoll links this file and libc, nothing else. It runs on the audio path, in a process whose caches are full of
 * other things: so it allocates nothing, looks at each row of the frame table once, and keeps its code short. */
#include "proto/frame.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/hot.h"

static const char type_names[][16] = {
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

TOLL_HOT static bool is_type(enum toll_frame_type type)
{
    return type >= TOLL_FRAME_SESSION_START && type <= TOLL_FRAME_STREAM;
}

const char *toll_frame_type_name(enum toll_frame_type type)
{
    return is_type(type) ? type_names[type] : "unknown";
}

enum toll_frame_type toll_frame_type_from_name(const char *name, size_t size)
{
    if (size == 0)
        return 0;
    for (enum toll_frame_type type = TOLL_FRAME_SESSION_START; type <= TOLL_FRAME_STREAM; type++) {
        const char *text = type_names[type];
        size_t same = 0;

        while (same < size && text[same] == name[same] && text[same] != '\0')
            same++; /* memcmp() would take longer to call */
        if (same == size && text[size] == '\0')
            return type;
    }
    return 0;
}

TOLL_HOT void toll_frame_init(struct toll_frame *frame, enum toll_frame_type type)
{
    *frame = (struct toll_frame){
        .type = type,
        TOLL_FRAME_ABSENT,
    };
}

TOLL_COLD int toll_refuse(char reason[static TOLL_REASON_MAX], const char *format, ...)
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

TOLL_HOT static int check_subset(const char *subset, int64_t n, const char *whole, int64_t max,
                                 char reason[static TOLL_REASON_MAX])
{
    if (n <= max)
        return 0;
    return toll_refuse(reason, "llm: %s: %lld is above %s, which is %lld", subset, (long long)n, whole, (long long)max);
}

TOLL_HOT static int check_llm(const struct toll_frame *f, char reason[static TOLL_REASON_MAX])
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

TOLL_HOT int toll_frame_check(const struct toll_frame *frame, char reason[static TOLL_REASON_MAX])
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
    uint8_t *at, *end;
    bool full; /* and stays so: a later, shorter piece must not be written */
};

/* Room for size bytes, or NULL. */
TOLL_HOT static uint8_t *take(struct writer *w, size_t size)
{
    if (w->full || size > (size_t)(w->end - w->at)) {
        w->full = true;
        return NULL;
    }
    uint8_t *p = w->at;
    w->at += size;
    return p;
}

TOLL_HOT static void put_bytes(struct writer *w, const void *bytes, size_t size)
{
    uint8_t *p = take(w, size);
    if (p)
        memcpy(p, bytes, size);
}

/* A byte that says what follows, and the low `size` bytes of n. */
TOLL_HOT static void put_head(struct writer *w, uint8_t first, uint64_t n, unsigned size)
{
    uint8_t *p = take(w, 1 + size);
    if (!p)
        return;
    *p = first;
    while (size > 0) {
        p[size--] = (uint8_t)n;
        n >>= 8;
    }
}

/* A number in the fewest bytes: their codes are `first`, and one, two, three more for 2, 4, 8 bytes. */
TOLL_HOT static void put_sized(struct writer *w, uint8_t first, uint64_t n)
{
    unsigned wider = n <= UINT8_MAX ? 0 : n <= UINT16_MAX ? 1 : n <= UINT32_MAX ? 2 : 3;
    put_head(w, (uint8_t)(first + wider), n, 1u << wider);
}

TOLL_HOT static void put_uint(struct writer *w, uint64_t n)
{
    if (n <= 0x7f)
        put_head(w, (uint8_t)n, 0, 0);
    else
        put_sized(w, 0xcc, n);
}

TOLL_HOT static void put_int(struct writer *w, int64_t n)
{
    if (n >= 0)
        put_uint(w, (uint64_t)n);
    else if (n >= -32)
        put_head(w, (uint8_t)n, 0, 0);
    else
        put_head(w,
                 n >= INT8_MIN    ? 0xd0
                 : n >= INT16_MIN ? 0xd1
                 : n >= INT32_MIN ? 0xd2
                                  : 0xd3,
                 (uint64_t)n,
                 n >= INT8_MIN    ? 1
                 : n >= INT16_MIN ? 2
                 : n >= INT32_MIN ? 4
                                  : 8);
}

/* Integers are the shorter form; up to 2⁵³ every double that is whole is one. */
TOLL_HOT static void put_number(struct writer *w, double value)
{
    uint64_t bits;
    if (value <= 0x1p53 && value == (double)(int64_t)value) {
        put_int(w, (int64_t)value);
        return;
    }
    memcpy(&bits, &value, sizeof(bits));
    put_head(w, 0xcb, bits, sizeof(bits));
}

TOLL_HOT static void put_str(struct writer *w, const char *text, size_t size)
{
    if (size < 32)
        put_head(w, (uint8_t)(0xa0 | size), 0, 0);
    else
        put_sized(w, 0xd9, size);
    put_bytes(w, text, size);
}

/* A field's key. Half of a frame's bytes are keys, so they are copied whole, by a few plain stores. */
TOLL_HOT static void put_key(struct writer *w, const struct toll_field *field)
{
    if (w->full || (size_t)(w->end - w->at) < 1 + sizeof(field->name)) {
        put_str(w, field->name, field->name_size);
        return;
    }
    *w->at = (uint8_t)(0xa0 | field->name_size);
    memcpy(w->at + 1, field->name, sizeof(field->name));
    w->at += 1 + field->name_size;
}

TOLL_HOT static void put_bin16(struct writer *w, const uint8_t bytes[16])
{
    put_head(w, 0xc4, 16, 1);
    put_bytes(w, bytes, 16);
}

#define MEMBER(type) (*(const type *)((const char *)frame + field->offset))

/* Whether the frame has a value for this field: 1, 0, or -EINVAL where the value is out of its range. */
TOLL_HOT static int field_present(const struct toll_field *field, const struct toll_frame *frame)
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

TOLL_HOT static void put_field(struct writer *w, const struct toll_field *field, const struct toll_frame *frame)
{
    put_key(w, field);
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
        put_str(w, type_names[frame->type], strlen(type_names[frame->type]));
        break;
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        put_bin16(w, &MEMBER(uint8_t));
        break;
    case TOLL_KIND_TIME:
        put_int(w, MEMBER(int64_t));
        break;
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
        put_str(w, MEMBER(struct toll_str).ptr, MEMBER(struct toll_str).len);
        break;
    case TOLL_KIND_COUNT:
        put_int(w, MEMBER(int32_t));
        break;
    case TOLL_KIND_NUMBER:
        put_uint(w, MEMBER(uint64_t));
        break;
    case TOLL_KIND_DURATION:
        put_number(w, (double)MEMBER(int64_t) / 1000.0);
        break;
    case TOLL_KIND_QUANTITY:
        put_number(w, MEMBER(double));
        break;
    case TOLL_KIND_BOOL:
        put_head(w, MEMBER(bool) ? 0xc3 : 0xc2, 0, 0);
        break;
    case TOLL_KIND_MAP:
        put_bytes(w, MEMBER(struct toll_str).ptr, MEMBER(struct toll_str).len);
        break;
    }
}

TOLL_HOT int toll_frame_encode(const struct toll_frame *frame, void *buf, size_t cap)
{
    struct writer w = {.at = buf, .end = (uint8_t *)buf + (cap < TOLL_DATAGRAM_MAX ? cap : TOLL_DATAGRAM_MAX)};
    char reason[TOLL_REASON_MAX];
    unsigned pairs = 0;

    if (!is_type(frame->type))
        return -EINVAL;
    uint8_t *head = take(&w, 1);
    for (const struct toll_field *field = toll_fields; field < toll_fields + TOLL_FIELDS; field++) {
        unsigned bit = TOLL_TYPE_BIT(frame->type);
        if (!((field->required | field->optional) & bit))
            continue;
        int r = field_present(field, frame);
        if (r < 0 || (r == 0 && (field->required & bit)))
            return -EINVAL;
        if (r == 0)
            continue;
        put_field(&w, field, frame);
        pairs++;
    }
    if (toll_frame_check(frame, reason) < 0)
        return -EINVAL;
    if (pairs > 15)
        (void)take(&w, 2); /* for a longer head */
    if (w.full)
        return -ENOBUFS;
    if (pairs > 15) {
        memmove(head + 3, head + 1, (size_t)(w.at - head) - 3);
        put_head(&(struct writer){.at = head, .end = head + 3}, 0xde, pairs, 2);
    } else {
        *head = (uint8_t)(0x80 | pairs);
    }
    return (int)(w.at - head);
}

TOLL_HOT int toll_envelope_encode(const uint8_t id[16], uint64_t seq, uint64_t base, uint64_t count, const char *client,
                                  void *buf, size_t cap)
{
    /* the same bytes as toll_frame_encode()'s, without the walk: one is written for nearly every frame */
    static const uint8_t start[] = "\x85\xa4type\xa6stream\xa2id\xc4\x10";
    struct writer w = {.at = buf, .end = (uint8_t *)buf + cap};

    put_bytes(&w, start, sizeof(start) - 1);
    put_bytes(&w, id, 16);
    put_str(&w, "seq", 3);
    put_uint(&w, seq);
    put_str(&w, "base", 4);
    put_uint(&w, base);
    put_str(&w, "count", 5);
    put_uint(&w, count);
    if (client) {
        put_str(&w, "client", 6);
        put_str(&w, client, strlen(client));
    }
    if (w.full)
        return -ENOBUFS;
    *(uint8_t *)buf = client ? 0x86 : 0x85;
    return (int)(w.at - (uint8_t *)buf);
}
