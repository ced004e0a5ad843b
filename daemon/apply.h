/* The writer's order: reads the journal, takes datagrams apart, drops what was stored before, keeps session totals, and hands batches to the
 * sink. One step is one batch; steady state, catching up and recovery are the same steps.
 *
 * All it keeps in memory is a cache. After a batch that was not confirmed it forgets everything and goes on from the sink's watermark. */
#ifndef TOLL_DAEMON_APPLY_H
#define TOLL_DAEMON_APPLY_H

#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/session.h"
#include "daemon/share.h"
#include "daemon/sink.h"

#include <stdbool.h>
#include <stdint.h>

struct apply_options {
    unsigned writer, writers;       /* sessions are shared out: this one, from 0, of so many; 0: of one */
    size_t batch_rows, batch_bytes; /* a batch closes at either */
    int64_t idle_timeout_us;        /* a session without a frame for so long is an orphan */
    int64_t future_tolerance_us, past_tolerance_us; /* times beyond these, around the receive time, are clamped */
    size_t sessions_max, streams_max;               /* kept in memory */
    uint64_t quarantine_rows;                       /* above that the quarantine counts as full */
};

/* What was counted in this run of the daemon when the writers were another number: of each one's share, frames of datagrams below its LSN. */
struct apply_counted {
    const struct apply_counted *next; /* NULL: no other numbers */
    unsigned writers;
    uint64_t lsns[SHARE_WRITERS_MAX];
};

struct apply; /* opaque; belongs to the writer's thread, but for apply_sessions() and apply_session() */

/* Does not take ownership of the sink or the metrics. NULL: out of memory. */
struct apply *apply_new(const struct apply_options *options, struct sink *sink, struct metrics *metrics);
void apply_free(struct apply *apply); /* takes NULL */
void apply_set_options(struct apply *apply,
                       const struct apply_options *options); /* but for batch_bytes and who shares */

/* Which writer this is from now on: apply_start() must come next. Borrows `counted`, which may be NULL; it must not change before the next call. */
void apply_share(struct apply *apply, unsigned writer, unsigned writers, const struct apply_counted *counted);
/* No batch goes beyond lsn. At first there is no such limit. */
void apply_limit(struct apply *apply, uint64_t lsn);

/* Forgets everything and goes on at lsn of the reader's journal. Frames of datagrams below counted_lsn are counted as received when they are applied: nobody
 * has done so in this run, or they have been applied and counted before. 0 or the reader's -errno. */
int apply_start(struct apply *apply, struct journal_reader *reader, uint64_t lsn, uint64_t counted_lsn, int64_t now_us)
    __attribute__((warn_unused_result));

/* The journal was renewed with all from `from` on. */
void apply_renewed(struct apply *apply, uint64_t from);
/* Where to go on is not known until apply_start(): apply_lsn() is 0. */
void apply_forget_lsn(struct apply *apply);

/* Applies the next batch. 1: done, there may be more. 0: nothing durable is left to apply, or only what other writers store: this is passed over, for a
 * transaction now and then is enough; `advance`: now. Negative: the sink's results (sink.h) or the
 * reader's (journal.h: -EBADMSG and others); the batch is undone, and but for -EINVAL apply_start() must come next. -EINVAL: every frame
 * of the batch is refused alike, so the fault is not theirs; calling again tries again, with what has come since. */
int apply_step(struct apply *apply, int64_t now_us, bool advance) __attribute__((warn_unused_result));

/* Whether nothing can come after what is durable, for the journal is full: then a few frames that are refused alike have waited long enough for others to
 * show that their table is not at fault. Not at first. */
void apply_set_last(struct apply *apply, bool last);

/* When apply_step() has returned 0: closes sessions that have been idle for too long. Results as apply_step(). */
int apply_orphans(struct apply *apply, int64_t now_us) __attribute__((warn_unused_result));

/* Looks now and then how full the quarantine is, for the metrics. Between batches. */
void apply_look_at_quarantine(struct apply *apply, int64_t monotonic_us);

/* No session counts as idle before now: the wall clock was stepped, say. */
void apply_idle_from(struct apply *apply, int64_t now_us);
/* The wall clock was stepped by so much and shows now_us: sessions stay as idle as they were. Those that only the database knows count
 * as active from now. */
void apply_clock_stepped(struct apply *apply, int64_t step_us, int64_t now_us);

uint64_t apply_lsn(const struct apply *apply);    /* the watermark: where the next batch begins */
uint64_t apply_passed(const struct apply *apply); /* the same, marks and others' frames after it counted as applied */
bool apply_behind(const struct apply *apply);     /* others' frames were passed over that no watermark covers yet */

/* Live sessions, for tollctl: thread-safe, waits while a batch is being built (never while the sink is busy). Latest activity first, until
 * visit() returns false. */
void apply_sessions(struct apply *apply, bool (*visit)(void *context, const struct session *session), void *context);
/* One of them: true and a copy. */
bool apply_session(struct apply *apply, const uint8_t id[static 16], struct session *ret);
size_t apply_session_count(struct apply *apply);

#endif
