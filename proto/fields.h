/* The protocol's frame table: every key, what it holds, where it goes, and which types require or allow it.
 *
 * Internal to proto/: encode.c writes frames from it (keys in this order), value.c and decode.c read them by
 * it. Limits of single values belong to the kinds; rules that tie several keys together are in
 * toll_frame_check(). */
#ifndef TOLL_PROTO_FIELDS_H
#define TOLL_PROTO_FIELDS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"

enum toll_kind {
    TOLL_KIND_TYPE,     /* str: the frame's type */
    TOLL_KIND_UUID,     /* bin 16, or str 36              → uint8_t[16] */
    TOLL_KIND_BIN16,    /* bin 16                         → uint8_t[16] */
    TOLL_KIND_TIME,     /* int µs, float s, timestamp ext → int64_t µs */
    TOLL_KIND_NAME,     /* str of ≤ TOLL_NAME_MAX bytes   → struct toll_str */
    TOLL_KIND_TEXT,     /* str                            → struct toll_str */
    TOLL_KIND_COUNT,    /* int 0 … TOLL_COUNT_MAX         → int32_t */
    TOLL_KIND_NUMBER,   /* int 0 … INT64_MAX              → uint64_t */
    TOLL_KIND_DURATION, /* int or float, ms               → int64_t µs, 0 … TOLL_DURATION_MAX */
    TOLL_KIND_QUANTITY, /* int or float ≥ 0               → quantity, quantity_value */
    TOLL_KIND_BOOL,     /* bool                           → bool */
    TOLL_KIND_MAP,      /* map                            → struct toll_str */
};

struct toll_field {
    char name[20]; /* in the row itself, and so no pointers: an encoder in a cold process touches fewer pages */
    uint8_t name_size, kind;
    uint16_t offset;             /* in struct toll_frame */
    uint16_t has;                /* of a bool that says whether the key is there; 0: the value itself tells */
    uint16_t required, optional; /* bits of types; no type has both */
};

#define TOLL_TYPE_BIT(type) (1u << (type))

#define START  TOLL_TYPE_BIT(TOLL_FRAME_SESSION_START)
#define END    TOLL_TYPE_BIT(TOLL_FRAME_SESSION_END)
#define LLM    TOLL_TYPE_BIT(TOLL_FRAME_LLM)
#define TTS    TOLL_TYPE_BIT(TOLL_FRAME_TTS)
#define STT    TOLL_TYPE_BIT(TOLL_FRAME_STT)
#define USAGE  TOLL_TYPE_BIT(TOLL_FRAME_USAGE)
#define SPEECH TOLL_TYPE_BIT(TOLL_FRAME_TRANSCRIPT)
#define GAP    TOLL_TYPE_BIT(TOLL_FRAME_GAP)
#define STREAM TOLL_TYPE_BIT(TOLL_FRAME_STREAM)
#define CALLS  (LLM | TTS | STT)
#define ALL    (START | END | CALLS | USAGE | SPEECH | GAP | STREAM)

#define FIELD_HAS(name, kind, member, has, required, optional)                                                         \
    {                                                                                                                  \
        name, sizeof(name) - 1, TOLL_KIND_##kind, offsetof(struct toll_frame, member), has, required, optional         \
    }
#define FIELD(name, kind, member, required, optional) FIELD_HAS(name, kind, member, 0, required, optional)
#define HAS(member)                                   offsetof(struct toll_frame, has_##member)

/* clang-format off */
static const struct toll_field toll_fields[] = {
    /*        key                    kind      member                        required by            allowed in */
    FIELD    ("type",                TYPE,     type,                         ALL,                   0),
    FIELD_HAS("session_id",          UUID,     session_id, HAS(session_id),  START | END | CALLS | SPEECH, USAGE | GAP),

    FIELD    ("started_at",          TIME,     time_us,                      0,                     START),
    FIELD    ("ended_at",            TIME,     time_us,                      0,                     END),
    FIELD    ("occurred_at",         TIME,     time_us,                      0,                     CALLS | USAGE | SPEECH),

    FIELD    ("metadata",            MAP,      metadata,                     0,                     START),
    FIELD    ("finish_reason",       NAME,     finish_reason,                0,                     END),

    FIELD    ("meter",               NAME,     meter,                        USAGE,                 0),
    FIELD    ("quantity",            QUANTITY, quantity_value,               USAGE,                 0),
    FIELD    ("account",             NAME,     account,                      0,                     USAGE),

    FIELD    ("provider",            NAME,     provider,                     CALLS,                 USAGE),
    FIELD    ("model",               NAME,     model,                        LLM,                   TTS | STT | USAGE),
    FIELD    ("voice",               NAME,     voice,                        0,                     TTS),
    FIELD    ("char_count",          COUNT,    char_count,                   TTS,                   0),
    FIELD    ("audio_duration_ms",   DURATION, audio_duration_us,            STT,                   TTS),
    FIELD    ("input_tokens",        COUNT,    input_tokens,                 LLM,                   TTS | STT),
    FIELD    ("output_tokens",       COUNT,    output_tokens,                LLM,                   TTS | STT),
    FIELD    ("estimated",           BOOL,     estimated,                    0,                     LLM),
    FIELD    ("cached_input_tokens", COUNT,    cached_input_tokens,          0,                     LLM),
    FIELD    ("cache_write_tokens",  COUNT,    cache_write_tokens,           0,                     LLM),
    FIELD    ("audio_input_tokens",  COUNT,    audio_input_tokens,           0,                     LLM),
    FIELD    ("cached_audio_tokens", COUNT,    cached_audio_tokens,          0,                     LLM),
    FIELD    ("audio_output_tokens", COUNT,    audio_output_tokens,          0,                     LLM),
    FIELD    ("reasoning_tokens",    COUNT,    reasoning_tokens,             0,                     LLM),

    FIELD    ("role",                NAME,     role,                         SPEECH,                0),
    FIELD    ("text",                TEXT,     text,                         SPEECH,                0),

    FIELD_HAS("turn_id",             UUID,     turn_id, HAS(turn_id),        0,                     CALLS | USAGE | SPEECH),
    FIELD    ("language",            NAME,     language,                     0,                     STT | SPEECH),
    FIELD    ("agent",               NAME,     agent,                        0,                     LLM | TTS | USAGE),
    FIELD    ("request_id",          NAME,     request_id,                   0,                     CALLS | USAGE),
    FIELD    ("ttfb_ms",             DURATION, ttfb_us,                      0,                     CALLS),
    FIELD    ("duration_ms",         DURATION, duration_us,                  0,                     CALLS | USAGE),
    FIELD_HAS("interrupted",         BOOL,     interrupted, HAS(interrupted), 0,                    LLM | TTS),
    FIELD    ("interrupted",         BOOL,     interrupted,                  0,                     SPEECH),
    FIELD    ("raw",                 MAP,      raw_json,                     0,                     CALLS | USAGE),

    FIELD    ("count",               NUMBER,   gap_count,                    GAP,                   0),
    FIELD    ("since",               TIME,     gap_since_us,                 0,                     GAP),
    FIELD    ("until",               TIME,     gap_until_us,                 0,                     GAP),

    FIELD    ("id",                  BIN16,    stream_id,                    STREAM,                0),
    FIELD    ("seq",                 NUMBER,   stream_seq,                   STREAM,                0),
    FIELD    ("base",                NUMBER,   stream_base,                  STREAM,                0),
    FIELD    ("count",               NUMBER,   stream_count,                 STREAM,                0),
    FIELD    ("client",              NAME,     client,                       0,                     STREAM),
};
/* clang-format on */

#undef START
#undef END
#undef LLM
#undef TTS
#undef STT
#undef USAGE
#undef SPEECH
#undef GAP
#undef STREAM
#undef CALLS
#undef ALL
#undef FIELD
#undef FIELD_HAS
#undef HAS

/* What a frame holds where nothing was said, for an initializer. */
#define TOLL_FRAME_ABSENT                                                                                              \
    .time_us = TOLL_TIME_MISSING, .gap_since_us = TOLL_TIME_MISSING, .gap_until_us = TOLL_TIME_MISSING,                \
    .input_tokens = TOLL_ABSENT, .output_tokens = TOLL_ABSENT, .char_count = TOLL_ABSENT,                              \
    .cached_input_tokens = TOLL_ABSENT, .cache_write_tokens = TOLL_ABSENT, .audio_input_tokens = TOLL_ABSENT,          \
    .cached_audio_tokens = TOLL_ABSENT, .audio_output_tokens = TOLL_ABSENT, .reasoning_tokens = TOLL_ABSENT,           \
    .audio_duration_us = TOLL_ABSENT, .duration_us = TOLL_ABSENT, .ttfb_us = TOLL_ABSENT,                              \
    .quantity_value = TOLL_ABSENT

enum { TOLL_FIELDS = sizeof(toll_fields) / sizeof(toll_fields[0]) };
_Static_assert(TOLL_FIELDS <= 64, "sets of fields are 64-bit masks");

/* The rules that tie several keys together; every single value is in its range already. 0, or -EINVAL and the
 * reason. */
int toll_frame_check(const struct toll_frame *frame, char reason[static TOLL_REASON_MAX])
    __attribute__((warn_unused_result));

/* Writes a reason for refusing a frame, cut to fit; returns -EINVAL. */
int toll_refuse(char reason[static TOLL_REASON_MAX], const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
