/* See writer.h. What the thread does is writer_core's; here it waits and is woken. */
#include "daemon/writer.h"

#include "daemon/clock.h"
#include "daemon/writer_core.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct writer {
    struct writer_core *core; /* the thread's */
    void (*progress)(void *context);
    void *context;
    pthread_t thread;

    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t cond;
    struct writer_status status;
    struct writer_wishes wishes;
    struct writer_options options; /* to be taken over */
    bool options_changed;
};

const char *writer_state_name(enum writer_state state)
{
    static const char *const names[] = {
        [WRITER_CONNECTING] = "connecting",
        [WRITER_HOLDING] = "connecting",
        [WRITER_OK] = "ok",
        [WRITER_RETRYING] = "retrying",
        [WRITER_STOPPED] = "stopped",
        [WRITER_RENEW] = "renew",
        [WRITER_DONE] = "done",
    };

    return names[state];
}

/* --- for the main thread --------------------------------------------------------------------------------------------------- */

void writer_get_status(struct writer *w, struct writer_status *ret)
{
    pthread_mutex_lock(&w->mutex);
    *ret = w->status;
    pthread_mutex_unlock(&w->mutex);
}

void writer_set_options(struct writer *w, const struct writer_options *options)
{
    pthread_mutex_lock(&w->mutex);
    w->options = *options;
    w->options_changed = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

void writer_wake(struct writer *w)
{
    pthread_mutex_lock(&w->mutex);
    if (w->wishes.pending_since_us == 0) {
        w->wishes.pending_since_us = clock_monotonic_us();
        pthread_cond_signal(&w->cond);
    } else if (w->status.state == WRITER_OK && writer_core_has_enough(w->core, w->status.applied_lsn)) {
        pthread_cond_signal(&w->cond); /* it may be waiting for the batch to be old enough */
    }
    pthread_mutex_unlock(&w->mutex);
}

void writer_hurry(struct writer *w, uint64_t lsn)
{
    pthread_mutex_lock(&w->mutex);
    if (w->wishes.hurry_lsn < lsn)
        w->wishes.hurry_lsn = lsn;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

void writer_stop(struct writer *w)
{
    pthread_mutex_lock(&w->mutex);
    w->wishes.stopping = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

void writer_order(struct writer *w, const struct writer_order *order)
{
    pthread_mutex_lock(&w->mutex);
    w->wishes.order = *order;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

struct apply *writer_apply(struct writer *w)
{
    return writer_core_apply(w->core);
}

/* --- the thread ------------------------------------------------------------------------------------------------------------ */

static void on_report(void *context, const struct writer_status *status)
{
    struct writer *w = context;

    pthread_mutex_lock(&w->mutex);
    w->status = *status;
    pthread_mutex_unlock(&w->mutex);
    w->progress(w->context);
}

static struct writer_time time_now(void)
{
    return (struct writer_time){.monotonic_us = clock_monotonic_us(), .realtime_us = clock_realtime_us()};
}

/* Waits until there is something to do. */
static enum writer_next wait_for_work(struct writer *w)
{
    enum writer_next next;

    pthread_mutex_lock(&w->mutex);
    for (;;) {
        int64_t until_us = INT64_MAX;

        if (w->options_changed)
            writer_core_set_options(w->core, &w->options);
        w->options_changed = false;
        next = writer_look(w->core, &w->wishes, clock_monotonic_us(), &until_us);
        if (next != WRITER_WAIT)
            break;
        if (until_us == INT64_MAX) {
            pthread_cond_wait(&w->cond, &w->mutex);
        } else {
            struct timespec until = {.tv_sec = until_us / 1000000, .tv_nsec = until_us % 1000000 * 1000};

            pthread_cond_timedwait(&w->cond, &w->mutex, &until);
        }
    }
    pthread_mutex_unlock(&w->mutex);
    return next;
}

static void *run(void *argument)
{
    struct writer *w = argument;
    enum writer_next next;

    do {
        next = wait_for_work(w);
        writer_do(w->core, next, time_now());
    } while (next != WRITER_END);
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
    w->progress = options->progress;
    w->context = options->context;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->cond, &attributes);
    pthread_condattr_destroy(&attributes);
    w->core = writer_core_new(options, journal, sink, metrics, time_now(), on_report, w);
    r = w->core ? start_thread(w) : -ENOMEM;
    if (r < 0) {
        writer_core_free(w->core);
        pthread_cond_destroy(&w->cond);
        pthread_mutex_destroy(&w->mutex);
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
    writer_core_free(w->core);
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}
