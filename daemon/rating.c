/* See rating.h. What the thread does is rating_core's; here it waits and is woken. */
#include "daemon/rating.h"

#include "daemon/clock.h"
#include "daemon/rating_core.h"
#include "daemon/rating_db.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct rating {
    struct rating_core *core; /* the thread's */
    struct rating_db *db;     /* the thread's, but for cancelling */
    struct rating_options options;
    pthread_t thread;
    int wake_fd; /* ends the thread's wait */

    /* the loop's */
    uv_loop_t *loop;
    uv_async_t changed;
    uv_timer_t patience;
    uv_work_t cancelling;
    bool cancels, ended;

    pthread_mutex_t mutex; /* of all below */
    struct rating_status status;
    struct rating_wishes wishes;
    struct rating_options new_options;
    bool options_changed;
    struct credit_session *credit;
    size_t credit_count;
    bool credit_new;
};

const char *rating_state_name(enum rating_state state)
{
    static const char *const names[] = {
        [RATING_WAITING] = "waiting", [RATING_OK] = "ok",     [RATING_RETRYING] = "retrying",
        [RATING_STOPPED] = "stopped", [RATING_DONE] = "done",
    };

    return names[state];
}

/* --- for the loop's thread -------------------------------------------------------------------------------------------------- */

static void nudge(struct rating *rating)
{
    const uint64_t one = 1;

    (void)!write(rating->wake_fd, &one, sizeof(one)); /* can't fail: it is nowhere near 2^64 */
}

void rating_wake(struct rating *rating)
{
    bool first;

    pthread_mutex_lock(&rating->mutex);
    first = !rating->wishes.woken || !rating->wishes.begun;
    rating->wishes.begun = rating->wishes.woken = true;
    pthread_mutex_unlock(&rating->mutex);
    if (first)
        nudge(rating);
}

void rating_set_options(struct rating *rating, const struct rating_options *options)
{
    pthread_mutex_lock(&rating->mutex);
    rating->new_options = *options;
    rating->options_changed = true;
    pthread_mutex_unlock(&rating->mutex);
    nudge(rating);
}

void rating_get_status(struct rating *rating, struct rating_status *ret)
{
    pthread_mutex_lock(&rating->mutex);
    *ret = rating->status;
    pthread_mutex_unlock(&rating->mutex);
}

bool rating_take_credit(struct rating *rating, struct credit_session **ret, size_t *ret_count)
{
    bool any;

    pthread_mutex_lock(&rating->mutex);
    any = rating->credit_new;
    if (any) {
        *ret = rating->credit;
        *ret_count = rating->credit_count;
        rating->credit = NULL;
        rating->credit_new = false;
    }
    pthread_mutex_unlock(&rating->mutex);
    return any;
}

static void look_for_the_end(struct rating *rating)
{
    struct rating_status *status = &rating->status;
    bool done;

    pthread_mutex_lock(&rating->mutex);
    done = status->state == RATING_DONE;
    pthread_mutex_unlock(&rating->mutex);
    if (!done || rating->cancels || rating->ended)
        return;
    rating->ended = true;
    uv_timer_stop(&rating->patience);
    rating->options.ended(rating->options.context);
}

static void on_changed(uv_async_t *handle)
{
    struct rating *rating = handle->data;

    rating->options.changed(rating->options.context);
    look_for_the_end(rating);
}

/* Off the loop: it connects to the server. */
static void cancel_call(uv_work_t *work)
{
    struct rating *rating = work->data;

    rating->db->ops->cancel(rating->db);
}

static void after_cancel(uv_work_t *work, int status)
{
    struct rating *rating = work->data;

    (void)status;
    rating->cancels = false;
    look_for_the_end(rating);
}

static void on_impatient(uv_timer_t *timer)
{
    struct rating *rating = timer->data;

    rating->cancels = uv_queue_work(rating->loop, &rating->cancelling, cancel_call, after_cancel) == 0;
}

void rating_stop(struct rating *rating, int64_t patience_us)
{
    pthread_mutex_lock(&rating->mutex);
    rating->wishes.stopping = true;
    pthread_mutex_unlock(&rating->mutex);
    uv_timer_start(&rating->patience, on_impatient, (uint64_t)(patience_us / 1000), 0);
    nudge(rating);
}

/* --- the thread ------------------------------------------------------------------------------------------------------------- */

static void on_status(void *context, const struct rating_status *status)
{
    struct rating *rating = context;

    pthread_mutex_lock(&rating->mutex);
    rating->status = *status;
    pthread_mutex_unlock(&rating->mutex);
    uv_async_send(&rating->changed);
}

static void on_credit(void *context, struct credit_session *list, size_t count)
{
    struct rating *rating = context;

    pthread_mutex_lock(&rating->mutex);
    free(rating->credit); /* nobody took it */
    rating->credit = list;
    rating->credit_count = count;
    rating->credit_new = true;
    pthread_mutex_unlock(&rating->mutex);
    uv_async_send(&rating->changed);
}

static uint32_t on_host(void *context, const uint8_t id[static 16])
{
    struct rating *rating = context;

    return rating->options.host(rating->options.context, id);
}

/* Until a moment, or somebody wakes us, or the database says something. */
static void wait_until(struct rating *rating, int64_t until_us)
{
    struct pollfd fds[] = {{.fd = rating->wake_fd, .events = POLLIN},
                           {.fd = rating->db->ops->fd(rating->db), .events = POLLIN}};
    int64_t left_us = until_us == INT64_MAX ? -1 : until_us - clock_monotonic_us();
    struct timespec timeout = {.tv_sec = left_us / 1000000, .tv_nsec = left_us % 1000000 * 1000};
    uint64_t count;

    if (until_us != INT64_MAX && left_us <= 0)
        return;
    if (ppoll(fds, 2, until_us == INT64_MAX ? NULL : &timeout, NULL) > 0 && fds[0].revents)
        (void)!read(rating->wake_fd, &count, sizeof(count));
}

static enum rating_next wait_for_work(struct rating *rating)
{
    for (;;) {
        int64_t until_us = INT64_MAX;
        enum rating_next next;
        struct rating_wishes wishes;

        pthread_mutex_lock(&rating->mutex);
        if (rating->options_changed)
            rating_core_set_options(rating->core, &rating->new_options);
        rating->options_changed = false;
        wishes = rating->wishes;
        pthread_mutex_unlock(&rating->mutex);
        next = rating_look(rating->core, &wishes, clock_monotonic_us(),
                           &until_us); /* it may report, which takes the mutex */
        if (next == RATING_LOOK_ROUND) {
            pthread_mutex_lock(&rating->mutex);
            rating->wishes.woken = false;
            pthread_mutex_unlock(&rating->mutex);
        }
        if (next != RATING_WAIT)
            return next;
        wait_until(rating, until_us);
    }
}

static void *run(void *argument)
{
    struct rating *rating = argument;
    enum rating_next next;

    do {
        next = wait_for_work(rating);
        rating_do(rating->core, next, clock_monotonic_us());
    } while (next != RATING_END);
    return NULL;
}

static int start_thread(struct rating *rating)
{
    sigset_t all, before;
    int r;

    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&rating->thread, NULL, run, rating);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

/* --- start and end ---------------------------------------------------------------------------------------------------------- */

static int make_core(struct rating *rating, struct metrics *metrics)
{
    const struct rating_reports reports = {
        .status = on_status, .credit = on_credit, .host = on_host, .context = rating};

    rating->core = rating_core_new(&rating->options, rating->db, metrics, &reports);
    return rating->core ? 0 : -ENOMEM;
}

int rating_new(struct rating **ret, const struct rating_options *options, uv_loop_t *loop, struct rating_db *db,
               struct metrics *metrics)
{
    struct rating *rating = calloc(1, sizeof(*rating));
    int r;

    if (!rating)
        return -ENOMEM;
    rating->options = *options;
    rating->loop = loop;
    rating->db = db;
    rating->changed.data = rating->patience.data = rating->cancelling.data = rating;
    rating->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = rating->wake_fd < 0 ? -errno : make_core(rating, metrics);
    if (r == 0)
        r = uv_async_init(loop, &rating->changed, on_changed);
    if (r < 0)
        goto fail;
    uv_timer_init(loop, &rating->patience);
    pthread_mutex_init(&rating->mutex, NULL);
    r = start_thread(rating);
    if (r < 0) { /* the handles are the loop's by now: the process ends, as no other thread can be started either */
        uv_close((uv_handle_t *)&rating->changed, NULL);
        uv_close((uv_handle_t *)&rating->patience, NULL);
        return r;
    }
    *ret = rating;
    return 0;

fail:
    rating_core_free(rating->core);
    if (rating->wake_fd >= 0)
        close(rating->wake_fd);
    free(rating);
    return r;
}

void rating_close(struct rating *rating)
{
    if (!rating)
        return;
    pthread_join(rating->thread, NULL);
    uv_close((uv_handle_t *)&rating->changed, NULL);
    uv_close((uv_handle_t *)&rating->patience, NULL);
}

void rating_free(struct rating *rating)
{
    if (!rating)
        return;
    rating->db->ops->free(rating->db);
    rating_core_free(rating->core);
    pthread_mutex_destroy(&rating->mutex);
    close(rating->wake_fd);
    free(rating->credit);
    free(rating);
}
