/* The frames of toll's wire format: their fields, their limits, encoding and decoding.
 *
 * No I/O and no globals. Encoding needs libc only (libtoll uses it); decoding is the daemon's and uses
 * msgpack-c. PROTOCOL.md describes the format in prose; fields.h is the table of keys behind both directions.
 */
#ifndef TOLL_PROTO_FRAME_H
#define TOLL_PROTO_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TOLL_DATAGRAM_MAX = 65536, /* bytes of a datagram */
    TOLL_NAME_MAX = 256,       /* bytes on the wire of every string but a transcript's text */
    TOLL_NESTING_MAX = 8,      /* containers inside each other, the frame's own map included */
    TOLL_COUNT_MAX = 2147483647,
    TOLL_REASON_MAX = 256, /* bytes of a reason for quarantine, its NUL included */
};

/* The largest frame number of a stream. */
#define TOLL_SEQ_MAX ((UINT64_C(1) << 62) - 1)

/* µs, 71 years. Up to here round(us / 1000.0 * 1000) gives us back, so milliseconds stored as float8 are
 * exact; from 2⁵¹ on they are not. */
#define TOLL_DURATION_MAX ((INT64_C(1) << 51) - 1)

#define TOLL_TIME_MISSING INT64_MIN

enum toll_frame_type {
    TOLL_FRAME_SESSION_START = 1,
    TOLL_FRAME_SESSION_END,
    TOLL_FRAME_LLM,
    TOLL_FRAME_TTS,
    TOLL_FRAME_STT,
    TOLL_FRAME_USAGE,
    TOLL_FRAME_TRANSCRIPT,
    TOLL_FRAME_GAP,
    TOLL_FRAME_STREAM,
};

/* Bytes that belong to somebody else; ptr is NULL where the frame has no such key. Not NUL-terminated. */
struct toll_str {
    const char *ptr;
    uint32_t len;
};

enum { TOLL_ABSENT = -1 }; /* of every count, duration and quantity below: the frame has no such key */

/* One frame, whatever its type. Fields that its type does not have are absent, and ignored by the encoder. */
struct toll_frame {
    enum toll_frame_type type;
    bool has_session_id, has_turn_id;
    bool estimated;       /* llm; default false */
    bool interrupted;     /* transcript: default false */
    bool has_interrupted; /* llm, tts: false where the sender said nothing; not used by transcript */
    uint8_t session_id[16], turn_id[16];
    int64_t time_us; /* started_at, ended_at, occurred_at: µs since the epoch, or TOLL_TIME_MISSING */

    struct toll_str provider, model, voice, language, agent, request_id;
    struct toll_str meter, account; /* usage */
    struct toll_str role, text;     /* transcript; role is "user" or "assistant" */
    struct toll_str finish_reason;  /* session_end; decoding gives "end" where the wire has none */
    struct toll_str client;         /* stream */

    int32_t input_tokens, output_tokens, char_count;
    int32_t cached_input_tokens, cache_write_tokens; /* subsets of input */
    int32_t audio_input_tokens, cached_audio_tokens; /* subsets of input */
    int32_t audio_output_tokens, reasoning_tokens;   /* subsets of output */
    int64_t audio_duration_us, duration_us, ttfb_us; /* 0 … TOLL_DURATION_MAX */

    /* usage. Decoding gives both: the text, a decimal that NUMERIC and JSON read ("0.1", "3", "1e+21"), is
     * exact for integers and otherwise the shortest that reads back as the same double. Encoding reads only
     * the value. */
    char quantity[32];
    double quantity_value;

    uint64_t gap_count;                 /* gap; at most INT64_MAX */
    int64_t gap_since_us, gap_until_us; /* gap; or TOLL_TIME_MISSING */

    uint8_t stream_id[16];                          /* stream */
    uint64_t stream_seq, stream_base, stream_count; /* stream */

    /* Decoding: JSON objects, absent (ptr NULL) when there is nothing to keep. `metadata` is session_start's
     * map; `raw_json` holds the keys of `raw` and, beside them, the keys this version does not know (as
     * "frame.<key>" where `raw` has the same). Encoding: one ready, well-formed msgpack map each, copied as
     * it is; only its first byte is checked. raw_json is written as `raw` by the types that have it. */
    struct toll_str metadata, raw_json;

    uint32_t replaced; /* decoding: strings in which U+0000 or invalid UTF-8 was replaced by U+FFFD */
};

/* An empty frame of a type: every optional field absent. */
void toll_frame_init(struct toll_frame *frame, enum toll_frame_type type);

/* Writes the frame as msgpack into buf. Returns its size in bytes, or -ENOBUFS when cap bytes (or a datagram)
 * do not hold it, or -EINVAL for a frame no daemon would accept (a missing required key, a count out of
 * range, subsets that do not fit, a name too long). What buf holds after a failure is unspecified. Allocates
 * nothing; thread-safe. */
int toll_frame_encode(const struct toll_frame *frame, void *buf, size_t cap) __attribute__((warn_unused_result));

/* Writes an envelope: the `stream` frame that toll_frame_encode() would write of these values, which must be in their
 * ranges. client may be NULL, and is at most TOLL_NAME_MAX bytes. Returns its size, or -ENOBUFS. */
int toll_envelope_encode(const uint8_t id[16], uint64_t seq, uint64_t base, uint64_t count, const char *client,
                         void *buf, size_t cap) __attribute__((warn_unused_result));

/* "llm", "session_start" …, "unknown" for a number that is no type; and back, 0 for an unknown name. */
const char *toll_frame_type_name(enum toll_frame_type type);
enum toll_frame_type toll_frame_type_from_name(const char *name, size_t size);

/* What a decoder needs again and again: msgpack-c's zone, and memory for JSON and mended strings. Belongs to
 * one thread. */
struct toll_decoder;
struct toll_decoder *toll_decoder_new(void); /* NULL: out of memory */
void toll_decoder_free(struct toll_decoder *decoder);

/* Decodes exactly one frame of size bytes, as toll_walk_next() found it. The strings in *ret point into data or into the
 * decoder and live until the decoder's next call. Returns
 *   0         a valid frame
 *   -EINVAL   well-formed but invalid, nested too deep, or of an unknown type
 *   -EBADMSG  not one well-formed msgpack value
 *   -ENOMEM   (reason is empty)
 * `reason` says what a person can act on, in printable ASCII, e.g. "llm: input_tokens: 2147483648 is above 2147483647"; it
 * holds names of keys but never a transcript's text or a value of metadata. *ret is unspecified on failure. Never logs,
 * never keeps a pointer to reason. */
int toll_frame_decode(struct toll_decoder *decoder, const void *data, size_t size, struct toll_frame *ret,
                      char reason[static TOLL_REASON_MAX]) __attribute__((warn_unused_result));

/* Only the envelope: decodes a `stream` frame without a decoder and without allocating, for the receive loop.
 * Returns 0, -EINVAL with a reason (a stream frame that breaks a rule), or -ENOENT when the frame is anything
 * else. Rules: 1 ≤ base ≤ seq, seq + count ≤ 2⁶², id of 16 bytes, count ≤ TOLL_DATAGRAM_MAX (no datagram
 * holds more frames). Keys it does not know are passed over. `client` is as it was sent: toll_frame_decode()
 * mends its UTF-8, this does not (toll_utf8_copy() does). */
int toll_envelope_decode(const void *data, size_t size, struct toll_frame *ret, char reason[static TOLL_REASON_MAX])
    __attribute__((warn_unused_result));

/* The same for what a datagram of `size` bytes begins with, and the envelope's size, unless it is -ENOENT: no well-formed stream frame. */
int toll_envelope_find(const void *data, size_t size, struct toll_frame *ret, size_t *ret_size,
                       char reason[static TOLL_REASON_MAX]) __attribute__((warn_unused_result));

#endif
