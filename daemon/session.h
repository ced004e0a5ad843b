/* Session totals: what the frames of a batch do to sessions, and what is known of live sessions. Pure: no I/O, time is passed in.
 *
 * A session in this table is a cache of its row in PostgreSQL. It is the whole story (`whole`) only if it was here from its first frame on and
 * nobody else stored events for it; otherwise totals are summed from the stored events when they are needed. */
#ifndef TOLL_DAEMON_SESSION_H
#define TOLL_DAEMON_SESSION_H

#include "daemon/idhash.h"
#include "proto/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session_totals { /* integers, so that sums are exact in any order */
    int64_t llm_input_tokens, llm_output_tokens;
    int64_t tts_chars;
    int64_t stt_audio_us;
    uint32_t llm_calls, tts_calls, stt_calls;
};

/* There may be a million of these, and each frame finds its own at random: what is looked at most stands first, and nothing is in here that only a
 * batch needs. */
struct session {
    uint8_t id[16];
    struct session *next;          /* in its bucket of the hash table */
    struct session *older, *newer; /* by last frame */
    uint32_t change;               /* in the batch being built: its number, from 1; or 0 */
    uint32_t host : 28; /* the sender of its last frame that had one: idhash_host() of the stream's key; or 0 */
    bool has_start : 1, ended : 1;
    bool stored : 1; /* its row is known to exist */
    bool whole : 1;  /* memory is the whole story */
    struct session_totals totals;
    int64_t started_us;       /* of its start; without one, of its first frame */
    int64_t last_us;          /* latest occurred_at of a frame: where an orphan ends */
    int64_t last_received_us; /* idleness is measured in receive time */
};

/* What one batch does to one session. Strings belong to the change. */
struct session_change {
    struct session *session;
    uint64_t order;              /* the id's first bytes, as a number: enough to sort by, nearly always */
    uint32_t starts, ends, rows; /* session_start, session_end and other frames in this batch */
    bool orphan;                 /* to be closed at its last activity … */
    int64_t idle_before_us;      /* … if nothing was received since; where memory can't know, the sink finds out */
    int64_t started_us,
        started_reported_us; /* of the earliest start; the sender's own time where it was clamped, or TOLL_TIME_MISSING */
    int64_t ended_us, ended_reported_us; /* of the first end */
    char *finish_reason;                 /* of the first end */
    char *metadata;                      /* JSON object: all starts merged, the earlier frame's values win; or NULL */
    char *raw_json;                      /* the same for keys that have no column */
    struct stream_key
        sender; /* of a session whose row is not known to exist: of its last frame that had one; uid and id 0: none */
    /* Set by the sink when it stores the change. */
    bool existed;   /* the row was there though memory did not know it: the totals here are not the whole story */
    bool finalized; /* the row is ended now: forget the session */
};

struct session_table; /* opaque */

struct session_table *session_table_new(void); /* NULL: out of memory */
void session_table_free(struct session_table *table);
void session_table_clear(struct session_table *table); /* forgets everything, changes too */

/* Applies a frame to its session, which is made known if need be. occurred_us is the time to store; reported_us the sender's own where that
 * was clamped; sender its stream and host what threads call that (see struct session), NULL and 0: without an envelope. 0 or -ENOMEM. */
int session_apply(struct session_table *table, const struct toll_frame *frame, int64_t occurred_us, int64_t reported_us,
                  int64_t received_us, uint32_t host, const struct stream_key *sender)
    __attribute__((warn_unused_result));

/* Plans to close every session without a frame since before_us (receive time), at most max. Returns how many, or -ENOMEM. */
int session_plan_orphans(struct session_table *table, int64_t before_us, size_t max)
    __attribute__((warn_unused_result));
/* The same for one session that memory does not know but the table has as live. Does nothing if memory knows it. */
int session_plan_orphan(struct session_table *table, const uint8_t id[static 16], int64_t before_us)
    __attribute__((warn_unused_result));

/* The wall clock was stepped by so much: sessions stay as idle as they were. */
void session_clock_stepped(struct session_table *table, int64_t step_us);

/* The changes planned since the last settle, in order of session id. Valid until the next one is planned. */
struct session_change *const *session_changes(struct session_table *table, size_t *ret_count);

/* After the commit: takes over what the sink found out, forgets ended sessions, and of the others the longest idle above max. */
void session_settle(struct session_table *table, size_t max);

const struct session *session_find(const struct session_table *table, const uint8_t id[static 16]);
size_t session_count(const struct session_table *table);
/* Latest activity first, until visit() returns false. */
void session_foreach(const struct session_table *table, bool (*visit)(void *context, const struct session *session),
                     void *context);

#endif
