/* libtoll: how a voice worker tells the toll daemon what its calls used.
 *
 * Recording never blocks, never throws and never allocates: a frame is encoded into a ring in memory, sent at
 * once if the daemon's socket takes it, and kept in the ring until the daemon has it on disk. What is not
 * acknowledged is sent again, so a frame survives restarts of the daemon; it does not survive the death of
 * this process.
 *
 *     struct toll *t;
 *     if (toll_open(NULL, &t) == 0) {
 *         unsigned char call[16];
 *         toll_id_random(call);
 *         toll_session_start(t, call, NULL);
 *         toll_llm(t, call, &(struct toll_llm_usage){
 *             .provider = "openai", .model = "gpt-4o", .input_tokens = 812, .output_tokens = 64 });
 *         toll_session_end(t, call, &(struct toll_session_result){ .finish_reason = "end" });
 *         toll_close(t, 1000);
 *     }
 *
 * Conventions. Every function returns 0 or a negative errno. A handle may be used by any number of threads at
 * once, but not in a signal handler. In every struct 0 or NULL means "absent", so designated initializers
 * name only what is known. Times are µs since the Unix epoch, 0 meaning now; durations are µs; ids are 16
 * bytes (a uuid_t of libuuid will do). Strings are UTF-8; names (provider, model, meter …) are at most 256
 * bytes. Everything passed in is copied before the function returns.
 *
 * What drives it. Waiting frames and resends go out with the next record, with toll_tick(), with
 * toll_flush(), or from a thread that toll_open() starts if `thread_tick_ms` asks for one; without that
 * thread a worker should call toll_tick() about every 100 ms. A frame that finds the daemon's queue full, beside
 * a sender that floods say, waits for the next of these.
 *
 * What recording costs. A record takes under 4 KiB of stack, a lock for as long as it takes to copy the frame, and
 * one send() with no lock held. What waits goes out in datagrams of up to 64 KiB, at most one of them with a record.
 * While the daemon is gone, or its queue stays full, trying is left to the ticks, and a record is a copy into the ring.
 * Where nobody ticks, it makes a poll() or a try to connect now and then.
 *
 * Forking. The first use in a forked child gives the child a stream of its own, an empty ring and no
 * sessions; it never sends what its parent recorded. The tick thread, if there was one, is started anew.
 *
 * The library uses no signals, no atexit and nothing but libc. */
#ifndef TOLL_H
#define TOLL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TOLL_API __attribute__((visibility("default")))

struct toll;

/* ---- life ---- */

struct toll_options {
    const char *socket;      /* the daemon's; NULL: $TOLL_SOCKET, or /run/toll/toll.sock */
    const char *client;      /* this worker's name in the daemon's tables; NULL: the program's name */
    size_t ring_bytes;       /* 0: 1 MiB; rounded up to a power of two, at least 4 KiB, at most 1 GiB; all of it is
                                in memory from the start, so that recording never waits for a page */
    uint32_t max_sessions;   /* sessions toll_snapshot() can follow at once; 0: 1024; at most 1 Mi */
    uint32_t thread_tick_ms; /* not 0: a thread, all signals blocked, calls toll_tick() this often */
};

/* Opens a handle; options may be NULL. Succeeds although the daemon is absent: frames then wait in the ring.
 * Fails with -EINVAL, -ENAMETOOLONG (the socket's path), or what mmap, memfd_create, socket or pthread_create
 * said. */
TOLL_API int toll_open(const struct toll_options *options, struct toll **ret) __attribute__((warn_unused_result));

/* Flushes for at most timeout_ms (0: tries to send once, without waiting), then frees the handle whatever
 * happened. No other thread may use the handle any more. Returns 0 when every frame was acknowledged, else
 * -ETIMEDOUT. NULL is fine. */
TOLL_API int toll_close(struct toll *toll, uint32_t timeout_ms);

/* Waits until all that was recorded before the call is durable, for at most timeout_ms: 0 or -ETIMEDOUT. Not
 * for the audio path. */
TOLL_API int toll_flush(struct toll *toll, uint32_t timeout_ms) __attribute__((warn_unused_result));

/* Sends what waits, resends what is overdue, reconnects if it is time: never blocks. For a worker's own
 * timer, about every 100 ms. */
TOLL_API void toll_tick(struct toll *toll);

/* ---- recording ----
 * Results of every function below:
 *   0          the frame is in the ring and will be sent until the daemon has it
 *   -ENOBUFS   the ring is full: refused, and the daemon is told by a `gap` frame as soon as there is room
 *   -EMSGSIZE  too large for any datagram (about 65,000 bytes), or for this ring even if it were empty
 *   -EINVAL    the daemon would not accept it: a required field is missing, a count is above 2³¹−1, a subset
 *              exceeds its whole, a name is too long, ready msgpack is not exactly one well-formed map
 * Refusals are counted in toll_stats(), so the audio path may ignore the result. */

/* Arbitrary key-values: at most 256 pairs of strings with different keys, or one ready msgpack map (for
 * nested or typed values), not both. */
struct toll_pair {
    const char *key, *value; /* both required */
};
struct toll_map {
    const struct toll_pair *pairs;
    size_t count;
    const void *msgpack;
    size_t msgpack_size;
};

struct toll_session_info {
    int64_t started_at_us;
    struct toll_map metadata; /* user_id, tenant_id, phone_number, region … */
};
TOLL_API int toll_session_start(struct toll *toll, const unsigned char session_id[16],
                                const struct toll_session_info *info); /* info may be NULL */

/* input_tokens and output_tokens are gross; the others count subsets of them. */
struct toll_llm_usage {
    const char *provider, *model; /* required */
    uint32_t input_tokens, output_tokens;
    uint32_t cached_input_tokens, cache_write_tokens, audio_input_tokens, cached_audio_tokens; /* of input */
    uint32_t audio_output_tokens, reasoning_tokens;                                            /* of output */
    bool estimated;               /* counted by the worker, not reported by the provider */
    bool interrupted;             /* the caller cut the answer short */
    const unsigned char *turn_id; /* 16 bytes: links the frames of one turn with its audio segment */
    const char *agent, *request_id;
    uint64_t ttfb_us, duration_us; /* time to the first byte; of the whole request */
    int64_t occurred_at_us;
    struct toll_map raw; /* anything else worth keeping, e.g. the provider's own usage object */
};
TOLL_API int toll_llm(struct toll *toll, const unsigned char session_id[16], const struct toll_llm_usage *usage);

struct toll_tts_usage {
    const char *provider; /* required */
    uint32_t char_count;
    const char *voice, *model;
    uint64_t audio_duration_us; /* of the speech made */
    uint32_t input_tokens, output_tokens;
    bool interrupted;
    const unsigned char *turn_id;
    const char *agent, *request_id;
    uint64_t ttfb_us, duration_us;
    int64_t occurred_at_us;
    struct toll_map raw;
};
TOLL_API int toll_tts(struct toll *toll, const unsigned char session_id[16], const struct toll_tts_usage *usage);

struct toll_stt_usage {
    const char *provider;       /* required */
    uint64_t audio_duration_us; /* of the audio transcribed */
    const char *model, *language;
    uint32_t input_tokens, output_tokens;
    const unsigned char *turn_id;
    const char *request_id;
    uint64_t ttfb_us, duration_us;
    int64_t occurred_at_us;
    struct toll_map raw;
};
TOLL_API int toll_stt(struct toll *toll, const unsigned char session_id[16], const struct toll_stt_usage *usage);

/* Any other metered usage: telephony minutes, API calls, messages, storage … */
struct toll_meter_usage {
    const char *meter;   /* required, e.g. "telephony_inbound" */
    double quantity;     /* finite, ≥ 0 */
    const char *account; /* required where there is no session */
    const char *provider, *model;
    const unsigned char *turn_id;
    const char *agent, *request_id;
    uint64_t duration_us;
    int64_t occurred_at_us;
    struct toll_map raw;
};
TOLL_API int toll_usage(struct toll *toll, const unsigned char *session_id /* or NULL */,
                        const struct toll_meter_usage *usage);

/* One turn of the conversation, when it is complete. */
struct toll_turn {
    const char *role;     /* required: "user" or "assistant" */
    const char *text;     /* required; of an interrupted answer: what the caller actually heard */
    size_t text_size;     /* in bytes; 0: up to the NUL */
    const char *language; /* of a user's turn, e.g. "en" */
    bool interrupted;
    const unsigned char *turn_id;
    int64_t occurred_at_us;
};
TOLL_API int toll_transcript(struct toll *toll, const unsigned char session_id[16], const struct toll_turn *turn);

struct toll_session_result {
    const char *finish_reason; /* NULL: "end"; others: "stop", "cancel" … */
    int64_t ended_at_us;
};
TOLL_API int toll_session_end(struct toll *toll, const unsigned char session_id[16],
                              const struct toll_session_result *result); /* result may be NULL */

/* ---- reading ---- */

/* What this process has recorded of a session (accepted frames only): no round trip. */
struct toll_snapshot {
    int64_t started_at_us;
    uint64_t llm_calls, llm_input_tokens, llm_output_tokens, llm_cached_input_tokens;
    uint64_t tts_calls, tts_chars;
    uint64_t stt_calls, stt_audio_us;
    uint64_t usages, transcripts; /* frames */
};

/* Totals from the session's start in this process until its end. -ENOENT: not a session that was started here
 * and goes on; -ENOSPC: the same, while sessions were started that found the table full (max_sessions). */
TOLL_API int toll_snapshot(struct toll *toll, const unsigned char session_id[16], struct toll_snapshot *ret)
    __attribute__((warn_unused_result));

/* Whether a call's account can still pay for it, where accounts are prepaid. */
enum toll_credit {
    TOLL_CREDIT_OK = 0,
    TOLL_CREDIT_LOW = 1,       /* at or below the account's threshold: time to tell the caller */
    TOLL_CREDIT_EXHAUSTED = 2, /* nothing is left: time to end the call */
};

/* What the daemon has said last, within a second of the usage or the top-up that changed it: an atomic read without lock, system call or round trip, for
 * before every turn. Any thread; of sessions that this process has recorded something of. TOLL_CREDIT_OK also for an account that pays afterwards, before the
 * daemon has first answered, and with a daemon that does not rate; while the daemon is away, what it said last stands. Where more than 168 sessions of
 * this process are short at once, the exhausted ones are told of first, and TOLL_CREDIT_LOW is said of those that it can't tell. */
TOLL_API enum toll_credit toll_credit(struct toll *toll, const unsigned char session_id[16]);

struct toll_stats {
    uint64_t recorded;          /* frames accepted */
    uint64_t acked;             /* of those: durable */
    uint64_t outstanding;       /* frames in the ring, gap frames included: waiting, or sent and not yet acknowledged */
    uint64_t refused_full;      /* -ENOBUFS */
    uint64_t refused_too_large; /* -EMSGSIZE */
    uint64_t refused_invalid;   /* -EINVAL */
    uint64_t datagrams;         /* sent */
    uint64_t resent;            /* frames sent again */
    uint64_t blocked;           /* sends that found the socket full */
    uint64_t reconnects;        /* connections after the first */
    uint64_t gaps;              /* gap frames written */
    uint64_t gap_pending;       /* refused frames no gap frame tells of yet */
    uint64_t ring_bytes, ring_used;
    uint64_t epoch; /* of the daemon last seen, 0: none yet */
    unsigned char stream_id[16];
};
TOLL_API int toll_stats(struct toll *toll, struct toll_stats *ret);

/* ---- ids ---- */

/* A random UUID (version 4) from getrandom(). */
TOLL_API int toll_id_random(unsigned char ret[16]);
/* From text such as "6ba7b810-9dad-11d1-80b4-00c04fd430c8", either case: 0 or -EINVAL. */
TOLL_API int toll_id_parse(const char *text, unsigned char ret[16]) __attribute__((warn_unused_result));
/* Writes 36 characters and a NUL. */
TOLL_API void toll_id_format(const unsigned char id[16], char ret[37]);

#ifdef __cplusplus
}
#endif

#endif
