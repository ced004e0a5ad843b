/* See writer.h. */
#include "daemon/writer.h"

#include "daemon/clock.h"
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

enum {
    RETRY_FIRST_US = 50 * 1000,
    CHORES_US = 1000 * 1000,
    TEND_US = 60 * 1000 * 1000,
    CLOCK_STEP_US = 60 * 1000 * 1000
};

struct writer {
    struct writer_options options;
    char host[256];
    struct journal *journal;
    struct sink *sink;
    struct metrics *metrics;
    struct apply *apply;
    pthread_t thread;

    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t cond;
    struct writer_status status;
    bool stopping, options_changed, renewed;
    uint64_t hurry_lsn;
    int64_t pending_since_us; /* monotonic; 0: nothing durable waits */

    /* The thread's own. */
    struct journal_reader *reader;
    bool open;
    uint64_t counted_lsn;   /* frames below were counted as received in this run */
    uint64_t attempted_lsn; /* no watermark of ours can be above */
    unsigned stale_in_a_row;
    int64_t retry_us, tend_due_us, chores_due_us, clock_difference_us;
    uint64_t chores_lsn; /* what was durable at the last chores, and when that was */
    int64_t chores_at_us;
};

const char *writer_state_name(enum writer_state state)
{
    static const char *const names[] = {
        [WRITER_CONNECTING] = "connecting", [WRITER_OK] = "ok",       [WRITER_RETRYING] = "retrying",
        [WRITER_STOPPED] = "stopped",       [WRITER_RENEW] = "renew", [WRITER_DONE] = "done",
    };

    return names[state];
}

/* --- shared with the main thread ----------------------------------------------------------------------------------------- */

static void publish(struct writer *w, enum writer_state state, const char *error)
{
    pthread_mutex_lock(&w->mutex);
    w->status.state = state;
    w->status.committed_lsn = apply_lsn(w->apply);
    w->status.applied_lsn = apply_passed(w->apply);
    snprintf(w->status.error, sizeof(w->status.error), "%s", error);
    pthread_mutex_unlock(&w->mutex);
    w->options.progress(w->options.context);
}

void writer_get_status(struct writer *w, struct writer_status *ret)
{
    pthread_mutex_lock(&w->mutex);
    *ret = w->status;
    pthread_mutex_unlock(&w->mutex);
}

void writer_set_options(struct writer *w, const struct writer_options *options)
{
    pthread_mutex_lock(&w->mutex);
    w->options.apply = options->apply;
    w->options.batch_age_us = options->batch_age_us;
    w->options.retry_max_us = options->retry_max_us;
    w->options_changed = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

void writer_wake(struct writer *w)
{
    pthread_mutex_lock(&w->mutex);
    if (w->pending_since_us == 0) {
        w->pending_since_us = clock_monotonic_us();
        pthread_cond_signal(&w->cond);
    }
    pthread_mutex_unlock(&w->mutex);
}

void writer_hurry(struct writer *w, uint64_t lsn)
{
    pthread_mutex_lock(&w->mutex);
    if (w->hurry_lsn < lsn)
        w->hurry_lsn = lsn;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

void writer_stop(struct writer *w)
{
    pthread_mutex_lock(&w->mutex);
    w->stopping = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

void writer_renewed(struct writer *w)
{
    pthread_mutex_lock(&w->mutex);
    w->renewed = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

struct apply *writer_apply(struct writer *w)
{
    return w->apply;
}

/* Waits on the condition until a monotonic time. The mutex is held. */
static void wait_until(struct writer *w, int64_t until_us)
{
    struct timespec until = {.tv_sec = until_us / 1000000, .tv_nsec = until_us % 1000000 * 1000};

    pthread_cond_timedwait(&w->cond, &w->mutex, &until);
}

/* Pauses before the next try, longer each time. Ends early when the writer is to stop. */
static void pause_before_retry(struct writer *w)
{
    int64_t until_us = clock_monotonic_us() + w->retry_us;

    pthread_mutex_lock(&w->mutex);
    w->retry_us = w->retry_us * 2 < w->options.retry_max_us ? w->retry_us * 2 : w->options.retry_max_us;
    while (!w->stopping && clock_monotonic_us() < until_us)
        wait_until(w, until_us);
    pthread_mutex_unlock(&w->mutex);
}

/* --- opening the sink ----------------------------------------------------------------------------------------------------- */

/* The state file that says that a sink of this kind has a watermark of the journal: it holds the journal's UUID. */
static const char *registered_file(const struct writer *w, char name[static 32])
{
    snprintf(name, 32, "registered-%s", w->sink->ops->name);
    return name;
}

static bool is_registered(const struct writer *w)
{
    uint8_t uuid[16];
    char name[32];

    return journal_state_read(w->journal, registered_file(w, name), uuid, sizeof(uuid)) == (ssize_t)sizeof(uuid) &&
           memcmp(uuid, journal_uuid(w->journal), sizeof(uuid)) == 0;
}

/* Notes a state that is not WRITER_OK; logs it once. */
static void trouble(struct writer *w, enum writer_state state, const char *error)
{
    struct writer_status before;

    writer_get_status(w, &before);
    if (before.state != state || strcmp(before.error, error) != 0)
        log_write(state == WRITER_STOPPED ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
                  "storing has stopped, receiving goes on state=%s reason=%s", writer_state_name(state), error);
    publish(w, state, error);
}

static void need_renewal(struct writer *w, uint64_t from, uint64_t watermark)
{
    log_error(
        "the journal was taken back: the sink's watermark is above what this journal can account for, so a new one is begun and the "
        "frames of this run are journaled again watermark=%" PRIu64 " from=%" PRIu64,
        watermark, from);
    journal_reader_free(w->reader);
    w->reader = NULL;
    pthread_mutex_lock(&w->mutex);
    w->status.renew_from = from;
    w->renewed = false;
    pthread_mutex_unlock(&w->mutex);
    publish(w, WRITER_RENEW, "the journal is being renewed");
    pthread_mutex_lock(&w->mutex);
    while (!w->renewed && !w->stopping)
        pthread_cond_wait(&w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
    w->counted_lsn = 0;
    w->attempted_lsn = 0;
}

/* Compares the sink's watermark with the journal and starts there. 0, -EAGAIN after a renewal, or trouble noted. */
static int start_at(struct writer *w, uint64_t watermark)
{
    uint64_t unconfirmed = journal_unconfirmed_lsn(w->journal), oldest = journal_oldest_lsn(w->journal);
    char error[512], id[37];
    int r;

    uuid_unparse_lower(journal_uuid(w->journal), id);
    if (unconfirmed != UINT64_MAX && watermark > unconfirmed) {
        need_renewal(w, unconfirmed, watermark);
        return -EAGAIN;
    }
    if (unconfirmed == UINT64_MAX && watermark > w->attempted_lsn && w->attempted_lsn) {
        need_renewal(w, apply_lsn(w->apply), watermark);
        return -EAGAIN;
    }
    if (watermark < oldest) {
        snprintf(error, sizeof(error),
                 "the sink wants all from LSN %" PRIu64 ", but the journal keeps only what is above %" PRIu64
                 " (journal.retention): %" PRIu64
                 " bytes of frames are beyond it. Restore a younger copy of the database, or accept "
                 "the loss: UPDATE toll.journals SET lsn = %" PRIu64 " WHERE journal_id = '%s' AND writer = 0",
                 watermark, oldest, oldest - watermark, oldest, id);
        trouble(w, WRITER_STOPPED, error);
        return -ENOTRECOVERABLE;
    }
    if (unconfirmed != UINT64_MAX) {
        r = journal_confirm(w->journal);
        if (r < 0)
            return r;
        w->attempted_lsn = watermark;
    }
    if (!w->reader) {
        r = journal_reader_new(&w->reader, w->journal);
        if (r < 0)
            return r;
    }
    if (watermark < apply_lsn(w->apply))
        log_warning("the sink's watermark went back, replaying from the journal from=%" PRIu64 " to=%" PRIu64,
                    watermark, apply_lsn(w->apply));
    return apply_start(w->apply, w->reader, watermark, w->counted_lsn, clock_realtime_us());
}

static int open_sink(struct writer *w)
{
    const struct sink_journal identity = {
        .writer = 0,
        .host = w->host,
        .registered = is_registered(w),
        .register_lsn = journal_oldest_lsn(w->journal),
    };
    struct sink_journal journal = identity;
    uint64_t watermark;
    char name[32];
    int r;

    memcpy(journal.uuid, journal_uuid(w->journal), sizeof(journal.uuid));
    r = w->sink->ops->open(w->sink, &journal, &watermark);
    /* What the database lacks must not be deleted as committed while it is stored again, or an operator is thinking. */
    if (r == 0 || r == -ENOENT)
        journal_hold(w->journal, r == 0 ? watermark : 0);
    if (r == 0 && !journal.registered)
        r = journal_state_write(w->journal, registered_file(w, name), journal.uuid, sizeof(journal.uuid));
    else if (r < 0) {
        trouble(w, r == -EAGAIN ? WRITER_RETRYING : WRITER_STOPPED, w->sink->ops->error(w->sink));
        return r;
    }
    if (r == 0)
        r = start_at(w, watermark);
    if (r < 0) {
        if (r != -EAGAIN && r != -ENOTRECOVERABLE)
            trouble(w, WRITER_STOPPED, strerror(-r));
        return r;
    }
    w->open = true;
    w->tend_due_us = 0;
    w->chores_at_us = 0;
    log_info("storing sink=%s watermark=%" PRIu64 " backlog_bytes=%" PRIu64, w->sink->ops->name, watermark,
             journal_durable_lsn(w->journal) - watermark);
    publish(w, WRITER_OK, "");
    return 0;
}

/* --- the loop -------------------------------------------------------------------------------------------------------------- */

static void take_options(struct writer *w)
{
    pthread_mutex_lock(&w->mutex);
    if (w->options_changed)
        apply_set_options(w->apply, &w->options.apply);
    w->options_changed = false;
    pthread_mutex_unlock(&w->mutex);
}

static bool ready(const struct writer *w, int64_t now_us)
{
    uint64_t applied = apply_passed(w->apply), durable = journal_durable_lsn(w->journal);

    if (durable <= applied)
        return false;
    return w->stopping || applied < w->hurry_lsn || durable - applied >= w->options.apply.batch_bytes ||
           (w->pending_since_us && now_us - w->pending_since_us >= w->options.batch_age_us);
}

/* Waits until a batch is due, a chore is, or the writer is to stop. True if a batch is due. */
static bool wait_for_work(struct writer *w)
{
    bool due;

    pthread_mutex_lock(&w->mutex);
    for (;;) {
        int64_t now_us = clock_monotonic_us(), until_us = w->chores_due_us;

        if (journal_durable_lsn(w->journal) <= apply_passed(w->apply))
            w->pending_since_us = 0;
        else if (w->pending_since_us == 0)
            w->pending_since_us = now_us;
        due = ready(w, now_us);
        if (due || w->stopping || now_us >= w->chores_due_us)
            break;
        if (w->pending_since_us && w->pending_since_us + w->options.batch_age_us < until_us)
            until_us = w->pending_since_us + w->options.batch_age_us;
        wait_until(w, until_us);
    }
    if (due)
        w->pending_since_us = 0;
    pthread_mutex_unlock(&w->mutex);
    return due;
}

static void fail(struct writer *w, int r)
{
    w->open = r == -EINVAL; /* a refused batch is tried again where it stands */
    switch (r) {
    case -ESTALE:
        log_info("the watermark or a stream was changed by somebody else, reading it again");
        if (w->stale_in_a_row++ == 0)
            return;
        break;
    case -EAGAIN:
    case -ENOMEM:
        trouble(w, WRITER_RETRYING, r == -ENOMEM ? "out of memory" : w->sink->ops->error(w->sink));
        break;
    case -EBADMSG:
        trouble(
            w, WRITER_STOPPED,
            "the journal is damaged below its durable LSN: acknowledged frames do not read back. Nothing was skipped. To set the damaged "
            "bytes aside and store what follows, stop tolld and run: tolld --repair-journal");
        break;
    case -EINVAL: {
        char error[640];

        snprintf(
            error, sizeof(error),
            "every waiting row is refused, so the table is at fault, not the rows; nothing was quarantined: %.500s",
            w->sink->ops->error(w->sink));
        trouble(w, WRITER_STOPPED, error);
        break;
    }
    case -ENOTRECOVERABLE:
        trouble(w, WRITER_STOPPED, w->sink->ops->error(w->sink));
        break;
    default: {
        char error[128];

        snprintf(error, sizeof(error), "reading the journal: %s", strerror(-r));
        trouble(w, WRITER_STOPPED, error);
        break;
    }
    }
    pause_before_retry(w);
}

/* A step of the wall clock must not make live sessions look idle. */
static void watch_clock(struct writer *w)
{
    int64_t difference_us = clock_realtime_us() - clock_monotonic_us();
    int64_t step_us = difference_us - w->clock_difference_us;

    w->clock_difference_us = difference_us;
    if (step_us > CLOCK_STEP_US || step_us < -CLOCK_STEP_US) {
        log_warning("the clock was stepped, sessions count as active from now step_s=%" PRId64, step_us / 1000000);
        apply_idle_from(w->apply, clock_realtime_us());
        w->chores_at_us = 0;
    }
}

/* Sessions may be closed as idle only as of a moment up to which everything that was durable has been applied. */
static int close_orphans(struct writer *w)
{
    bool caught_up = apply_passed(w->apply) >= w->chores_lsn;
    int64_t as_of_us = w->chores_at_us;

    w->chores_lsn = journal_durable_lsn(w->journal);
    w->chores_at_us = clock_realtime_us();
    return caught_up && as_of_us ? apply_orphans(w->apply, as_of_us) : 0;
}

static void do_chores(struct writer *w)
{
    int64_t now_us = clock_monotonic_us();
    int r;

    w->chores_due_us = now_us + CHORES_US;
    watch_clock(w);
    r = close_orphans(w);
    if (r < 0) {
        fail(w, r);
        return;
    }
    if (now_us < w->tend_due_us)
        return;
    w->tend_due_us = now_us + TEND_US;
    r = w->sink->ops->tend(w->sink);
    if (r == -EAGAIN)
        fail(w, r);
    else if (r < 0)
        log_warning("housekeeping failed, trying again later reason=%s", w->sink->ops->error(w->sink));
}

static void work(struct writer *w)
{
    struct writer_status before;
    uint64_t durable;
    int r;

    if (!wait_for_work(w)) {
        do_chores(w);
        return;
    }
    take_options(w);
    durable = journal_durable_lsn(w->journal);
    r = apply_step(w->apply, clock_realtime_us());
    w->attempted_lsn = journal_durable_lsn(w->journal); /* after the step, which reads up to what is durable by then */
    if (r < 0) {
        fail(w, r);
        return;
    }
    if (apply_passed(w->apply) < durable) /* the batch was full: what is left does not wait for company */
        writer_hurry(w, durable);
    if (apply_lsn(w->apply) > w->counted_lsn)
        w->counted_lsn = apply_lsn(w->apply);
    journal_hold(w->journal, apply_lsn(w->apply));
    w->retry_us = RETRY_FIRST_US;
    w->stale_in_a_row = 0;
    writer_get_status(w, &before);
    if (before.state == WRITER_STOPPED)
        log_info("storing goes on");
    publish(w, WRITER_OK, "");
    if (clock_monotonic_us() >= w->chores_due_us)
        do_chores(w);
}

static bool finished(struct writer *w)
{
    bool stopping;

    pthread_mutex_lock(&w->mutex);
    stopping = w->stopping;
    pthread_mutex_unlock(&w->mutex);
    return stopping &&
           (!w->open || w->status.state != WRITER_OK || journal_durable_lsn(w->journal) <= apply_passed(w->apply));
}

static void *run(void *argument)
{
    struct writer *w = argument;

    while (!finished(w)) {
        if (w->open)
            work(w);
        else if (open_sink(w) < 0)
            pause_before_retry(w);
    }
    journal_reader_free(w->reader);
    publish(w, WRITER_DONE, "");
    return NULL;
}

static int start_thread(struct writer *w)
{
    sigset_t all, before;
    int r;

    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

int writer_new(struct writer **ret, const struct writer_options *options, struct journal *journal, struct sink *sink,
               struct metrics *metrics)
{
    struct writer *w = calloc(1, sizeof(*w));
    pthread_condattr_t attributes;
    int r;

    if (!w)
        return -ENOMEM;
    w->options = *options;
    snprintf(w->host, sizeof(w->host), "%s", options->host);
    w->journal = journal;
    w->sink = sink;
    w->metrics = metrics;
    w->retry_us = RETRY_FIRST_US;
    w->counted_lsn = journal_end_lsn(journal);
    w->clock_difference_us = clock_realtime_us() - clock_monotonic_us();
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->cond, &attributes);
    pthread_condattr_destroy(&attributes);
    w->apply = apply_new(&options->apply, sink, metrics);
    r = w->apply ? start_thread(w) : -ENOMEM;
    if (r < 0) {
        apply_free(w->apply);
        free(w);
        return r;
    }
    *ret = w;
    return 0;
}

void writer_free(struct writer *w)
{
    if (!w)
        return;
    pthread_join(w->thread, NULL);
    apply_free(w->apply);
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}
