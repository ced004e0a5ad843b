/* See intake.h. When it reads, syncs, acknowledges, pauses and stops. */
#include "daemon/intake_internal.h"

#include "daemon/clock.h"
#include "daemon/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    LARGE = 8192,       /* bytes */
    READ_AT_ONCE = 512, /* datagrams, before the loop looks at its other handles */
    DRAIN_MOST = 20000, /* datagrams, when somebody asked to flush */
    TEND_MS = 250,      /* heartbeats, pages of dead workers, retries while paused */
    COLLECT_MS = 250,
    MARK_MS = 20,       /* an idle log gets its mark after that */
    GROUP_LEAST_MS = 2, /* from one sync's beginning to the next: on a fast disk they would cost more than the frames */
    GROUP_MOST_MS = 5,
    GROUP_PART = 20,         /* of a batch's age: who wants rows soon gets them soon */
    QUEUE_LONG = 64,         /* a socket that holds as many datagrams may be left alone for a group, … */
    REST_PART = 8,           /* … while no more than this part of it comes meanwhile, … */
    REST_AGE_US = 20 * 1000, /* … and where batches are not to be younger */
    DESCRIPTORS_MOST = 4096, /* waiting to be closed, and … */
    DESCRIPTORS_PART = 4,    /* a quarter of all that this process may have, see descriptors_most() */
};

static void start_sync(struct intake *intake);

static void break_down(struct intake *intake, int error)
{
    if (intake->broken)
        return;
    intake->broken = true;
    if (!intake->stopping)
        uv_poll_stop(&intake->readable);
    log_error("the journal can't be written any more, nothing more is acknowledged error=%s", strerror(-error));
    intake->options.broken(intake->options.context, error);
}

/* --- acknowledging -------------------------------------------------------------------------------------------------------- */

static void acknowledge(struct intake *intake)
{
    uint64_t lsn = 0;

    switch (intake->options.ack) {
    case INTAKE_ACK_SYNC:
        lsn = journal_durable_lsn(intake->journal);
        break;
    case INTAKE_ACK_WRITE:
        lsn = journal_written_lsn(intake->journal);
        break;
    case INTAKE_ACK_COMMIT:
        lsn = intake->committed_lsn;
        break;
    }
    streams_publish(intake->streams, lsn);
    intake_show_credit(intake);
}

static enum ackpage_state page_state(const struct intake *intake)
{
    return intake->stopping || intake->broken ? ACKPAGE_STOPPING : intake->paused ? ACKPAGE_BUSY : ACKPAGE_OK;
}

/* --- pausing -------------------------------------------------------------------------------------------------------------- */

static void set_paused(struct intake *intake, int reason)
{
    bool changes = (reason != 0) != (intake->paused != 0);

    intake->paused = reason;
    if (!changes)
        return;
    metrics_set(&intake->metrics->intake_paused, reason != 0);
    streams_tend(intake->streams, page_state(intake), (uint64_t)clock_boottime_ms());
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

/* A datagram is taken out of the socket only when the journal has a place for it: what waits there outlives this process. Returns for how many it has, -EAGAIN
 * with nothing to read, or why the journal has no place. */
static int make_room(struct intake *intake, bool *ret_empty)
{
    /* Many large ones would fall out of the caches before they are looked at. */
    unsigned most = intake->large ? 1 : intake->at_once;
    const size_t longest = TOLL_DATAGRAM_MAX + DATAGRAM_INDEX_MAX;
    ssize_t size;
    int r;

    *ret_empty = false;
    if (journal_room(intake->journal, longest, most, true) == 0)
        return (int)most;
    if (most > 1 && journal_room(intake->journal, longest, 1, true) == 0)
        return 1;
    size = listener_peek(intake->fd);
    if (size < 0) {
        *ret_empty = true;
        return -EAGAIN;
    }
    size += DATAGRAM_INDEX_MAX;
    r = journal_room(intake->journal, (size_t)size < longest ? (size_t)size : longest, 1, false);
    return r < 0 ? r : 1;
}

/* Takes datagrams out of the socket. False: there are none, or there is no place for them. */
static bool fill_inbox(struct intake *intake)
{
    unsigned most;
    bool empty;
    int r;

    if (closer_waiting(intake->closer) >= intake->descriptors_most)
        return false;
    r = make_room(intake, &empty);
    if (r < 0 && !empty && r != -ENOSPC && r != -EAGAIN)
        break_down(intake, r);
    if (r < 0) {
        set_paused(intake, empty ? 0 : r);
        return false;
    }
    most = (unsigned)r;
    r = listener_receive(intake->fd, intake->buffers, TOLL_DATAGRAM_MAX, INBOX_STRIDE, most, intake->inbox);
    if (r == -EAGAIN) {
        set_paused(intake, 0);
        return false;
    }
    if (r < 0) {
        static struct log_limit limit = LOG_LIMIT(5, 60 * 1000000);

        log_limited(&limit, LOG_LEVEL_ERROR, "receiving failed error=%s", strerror(-r));
        return false;
    }
    intake->inbox_us = clock_realtime_us();
    intake->inbox_next = 0;
    intake->emptied = (unsigned)r < most;
    intake->inbox_count = (unsigned)r;
    intake->large = intake->inbox[0].size > LARGE;
    return true;
}

/* One datagram of the inbox. False: there is no place for it after all. */
static bool take_one(struct intake *intake)
{
    int r = intake_datagram(intake, &intake->inbox[intake->inbox_next], intake->inbox_us);
    bool held = r == -ENOSPC || r == -EAGAIN;

    if (r < 0 && !held)
        break_down(intake, r);
    set_paused(intake, held ? r : 0);
    intake->inbox_next += !held;
    return r == 0;
}

static void write_and_sync(struct intake *intake)
{
    int r = journal_write(intake->journal);

    if (r < 0 && intake->syncing) { /* the descriptor is in use: rewrite when that is over */
        intake->rewrite_due = true;
        return;
    }
    if (r < 0)
        r = journal_rewrite(intake->journal);
    if (r < 0) {
        break_down(intake, r);
        return;
    }
    if (intake->options.ack == INTAKE_ACK_WRITE)
        acknowledge(intake);
    start_sync(intake);
}

static bool may_read(const struct intake *intake)
{
    return !intake->stopping && !intake->broken && !intake->on_renew && !intake->rewrite_due;
}

/* Returns how many datagrams came out of the socket, about `most` at most. */
static unsigned read_some(struct intake *intake, unsigned most)
{
    unsigned received = 0;
    bool any = false;

    if (!may_read(intake))
        return 0;
    intake->emptied = false;
    for (;;) {
        if (intake->inbox_next == intake->inbox_count) {
            if (received >= most || intake->emptied || !fill_inbox(intake))
                break;
            received += intake->inbox_count;
        }
        if (!take_one(intake))
            break;
        any = true;
    }
    if (any)
        write_and_sync(intake);
    return received;
}

static void on_readable(uv_poll_t *handle, int status, int events);

/* Level-triggered: while paused the socket would wake the loop for nothing. */
static void watch_socket(struct intake *intake)
{
    if (intake->stopping) /* its handles are closed */
        return;
    if (intake->paused || intake->resting || !may_read(intake))
        uv_poll_stop(&intake->readable);
    else if (!uv_is_active((uv_handle_t *)&intake->readable))
        uv_poll_start(&intake->readable, UV_READABLE, on_readable);
}

static void on_group(uv_timer_t *timer);

/* Where datagrams come so fast that they meet in one group, and not so fast that they would fill the socket's queue until then, each would wake this loop to
 * wait for the others: so the socket is left alone until the next group. It wakes nobody meanwhile, which is cheaper for the workers as well. */
static void rest_after(struct intake *intake, unsigned received, bool rested)
{
    uint64_t now_ms = uv_now(intake->loop), next_ms = intake->sync_started_ms + intake->group_ms;
    uint64_t rest_ms = now_ms < next_ms ? next_ms - now_ms : intake->group_ms;
    unsigned most = intake->options.queue / REST_PART;
    bool close = rested || now_ms - intake->read_ms <= intake->group_ms;

    if (received == 0 || intake->stopping) /* its handles are closed */
        return;
    intake->read_ms = now_ms;
    if (intake->large) /* three fill a sender's buffer, and then it waits for us */
        return;
    if (!close || !intake->rests || received > most * intake->group_ms / GROUP_LEAST_MS)
        return;
    if (received > most && rest_ms > GROUP_LEAST_MS) /* too much for a whole group */
        rest_ms = GROUP_LEAST_MS;
    intake->resting = true;
    uv_timer_start(&intake->group, on_group, rest_ms, 0);
}

static void on_readable(uv_poll_t *handle, int status, int events)
{
    struct intake *intake = handle->data;

    (void)status;
    (void)events;
    rest_after(intake, read_some(intake, READ_AT_ONCE), false);
    watch_socket(intake);
}

/* --- syncing, off the loop -------------------------------------------------------------------------------------------------- */

static void check_stopped(struct intake *intake)
{
    bool quiet = !intake->syncing && !intake->collecting;

    if (intake->on_renew && quiet) {
        void (*renew)(void *) = intake->on_renew;

        intake->on_renew = NULL;
        intake->committed_lsn = 0;
        renew(intake->options.context);
        watch_socket(intake);
    }
    if (!intake->stopping || intake->stopped || !quiet)
        return;
    intake->stopped = true;
    intake->on_stopped(intake->options.context);
}

static void sync_off_loop(uv_work_t *work)
{
    struct intake *intake = work->data;

    intake->sync_result = journal_sync(intake->journal);
}

static void after_sync(uv_work_t *work, int status)
{
    struct intake *intake = work->data;
    int r = status < 0 ? status : intake->sync_result;

    intake->syncing = false;
    metrics_add(&intake->metrics->journal_syncs, 1);
    metrics_add(&intake->metrics->journal_sync_us_total, (uint64_t)(clock_monotonic_us() - intake->sync_started_us));
    if (r < 0 || intake->rewrite_due) {
        log_error("writing or syncing the journal failed, writing what is not durable into a new segment error=%s",
                  strerror(r < 0 ? -r : EIO));
        intake->rewrite_due = false;
        r = journal_rewrite(intake->journal);
        if (r < 0)
            break_down(intake, r);
    }
    if (intake->options.ack != INTAKE_ACK_COMMIT)
        acknowledge(intake);
    intake->options.durable(intake->options.context);
    if (intake->paused)
        read_some(intake, READ_AT_ONCE);
    watch_socket(intake);
    start_sync(intake);
    check_stopped(intake);
}

static void on_mark(uv_timer_t *timer)
{
    struct intake *intake = timer->data;
    uint64_t end_lsn;

    if (intake->syncing || intake->stopping || intake->broken || !journal_wants_mark(intake->journal))
        return;
    if (journal_append(intake->journal, JOURNAL_MARK, 0, 0, 0, clock_realtime_us(), NULL, 0, &end_lsn) == 0)
        write_and_sync(intake);
    else /* no memory, or no space: nobody else asks again while the log is idle */
        uv_timer_start(timer, on_mark, TEND_MS, 0);
}

static void on_group(uv_timer_t *timer)
{
    struct intake *intake = timer->data;

    if (intake->resting) {
        intake->resting = false;
        rest_after(intake, read_some(intake, READ_AT_ONCE), true);
        watch_socket(intake);
    }
    start_sync(intake);
}

static void start_sync(struct intake *intake)
{
    uint64_t next_ms = intake->sync_started_ms + intake->group_ms, now_ms = uv_now(intake->loop);

    if (intake->syncing || intake->broken)
        return;
    if (journal_written_lsn(intake->journal) <= journal_durable_lsn(intake->journal)) {
        if (journal_wants_mark(intake->journal) && !intake->stopping)
            uv_timer_start(&intake->mark, on_mark, MARK_MS, 0);
        return;
    }
    if (intake->sync_started_ms && now_ms < next_ms && !intake->stopping && !intake->on_renew) {
        if (!uv_is_active((uv_handle_t *)&intake->group))
            uv_timer_start(&intake->group, on_group, next_ms - now_ms, 0);
        return;
    }
    intake->syncing = true;
    intake->sync_started_us = clock_monotonic_us();
    intake->sync_started_ms = now_ms;
    uv_queue_work(intake->loop, &intake->sync_work, sync_off_loop, after_sync);
}

void intake_sync(struct intake *intake)
{
    read_some(intake, DRAIN_MOST);
}

/* --- timers ---------------------------------------------------------------------------------------------------------------- */

static void on_tend(uv_timer_t *timer)
{
    struct intake *intake = timer->data;

    streams_tend(intake->streams, page_state(intake), (uint64_t)clock_boottime_ms());
    metrics_set(&intake->metrics->streams, streams_count(intake->streams));
    metrics_set(&intake->metrics->ack_pages, streams_pages(intake->streams));
    metrics_set(&intake->metrics->journal_bytes, journal_disk_bytes(intake->journal));
    if (intake->paused) {
        read_some(intake, READ_AT_ONCE);
        watch_socket(intake);
    }
}

static void collect_off_loop(uv_work_t *work)
{
    static struct log_limit limit = LOG_LIMIT(2, 60 * 1000000);
    struct intake *intake = work->data;
    int r = journal_collect(intake->journal, intake->collect_below, intake->collect_now_us);

    if (r < 0 && r != -ENOSPC)
        log_limited(&limit, LOG_LEVEL_WARNING, "preparing or deleting journal segments failed error=%s", strerror(-r));
}

static void after_collect(uv_work_t *work, int status)
{
    struct intake *intake = work->data;

    (void)status;
    intake->collecting = false;
    check_stopped(intake);
}

static void on_collect(uv_timer_t *timer)
{
    struct intake *intake = timer->data;
    int64_t step_us;

    if (intake->collecting || intake->stopping || intake->broken || intake->on_renew)
        return;
    intake->collecting = true;
    intake->collect_below = intake->committed_lsn;
    intake->collect_now_us = clock_realtime_us();
    step_us = clock_watch_step(&intake->clock, intake->collect_now_us, clock_monotonic_us());
    if (step_us)
        journal_clock_stepped(intake->journal, step_us);
    uv_queue_work(intake->loop, &intake->collect_work, collect_off_loop, after_collect);
}

/* --- start and end --------------------------------------------------------------------------------------------------------- */

/* Descriptors that wait to be closed must not fill the table: those that do not fit, the kernel closes in the receiving thread, where a
 * lingering socket blocks. */
static size_t descriptors_most(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / DESCRIPTORS_PART > DESCRIPTORS_MOST)
        return DESCRIPTORS_MOST;
    return limit.rlim_cur / DESCRIPTORS_PART;
}

int intake_new(struct intake **ret, const struct intake_options *options, uv_loop_t *loop, int fd,
               struct journal *journal, struct metrics *metrics)
{
    struct intake *intake = calloc(1, sizeof(*intake));
    int r;

    if (!intake)
        return -ENOMEM;
    intake->options = *options;
    intake->journal = journal;
    intake->metrics = metrics;
    intake->loop = loop;
    intake->fd = fd;
    intake->descriptors_most = descriptors_most();
    intake->group_ms = GROUP_LEAST_MS;
    intake->rests = options->queue >= QUEUE_LONG;
    intake->at_once = (size_t)LISTENER_FDS_MAX * LISTENER_AT_ONCE <= intake->descriptors_most ? LISTENER_AT_ONCE : 1;
    intake->options.streams.attached = intake_show_on_page;
    intake->options.streams.context = intake;
    intake->streams = streams_new(&intake->options.streams);
    intake->credit = credit_new();
    intake->door = door_new(metrics);
    r = intake->streams && intake->door && intake->credit ? closer_new(&intake->closer) : -ENOMEM;
    if (r == 0)
        r = uv_poll_init(loop, &intake->readable, fd);
    if (r < 0) {
        closer_free(intake->closer);
        door_free(intake->door);
        credit_free(intake->credit);
        streams_free(intake->streams);
        free(intake);
        return r;
    }
    intake->readable.data = intake->tend.data = intake->collect.data = intake->mark.data = intake->group.data = intake;
    intake->sync_work.data = intake->collect_work.data = intake;
    clock_watch_init(&intake->clock, clock_realtime_us(), clock_monotonic_us());
    uv_timer_init(loop, &intake->tend);
    uv_timer_init(loop, &intake->collect);
    uv_timer_init(loop, &intake->mark);
    uv_timer_init(loop, &intake->group);
    uv_timer_start(&intake->tend, on_tend, TEND_MS, TEND_MS);
    uv_timer_start(&intake->collect, on_collect, 0, COLLECT_MS);
    uv_poll_start(&intake->readable, UV_READABLE, on_readable);
    *ret = intake;
    return 0;
}

void intake_set_committed(struct intake *intake, uint64_t committed_lsn)
{
    intake->committed_lsn = committed_lsn;
    if (intake->options.ack == INTAKE_ACK_COMMIT)
        acknowledge(intake);
}

void intake_stop(struct intake *intake, void (*stopped)(void *context))
{
    if (intake->stopping)
        return;
    intake->stopping = true;
    intake->on_stopped = stopped;
    streams_tend(intake->streams, page_state(intake), (uint64_t)clock_boottime_ms());
    uv_close((uv_handle_t *)&intake->readable, NULL);
    uv_close((uv_handle_t *)&intake->collect, NULL);
    uv_close((uv_handle_t *)&intake->mark, NULL);
    uv_close((uv_handle_t *)&intake->group, NULL);
    uv_close((uv_handle_t *)&intake->tend, NULL);
    if (!intake->broken)
        write_and_sync(intake);
    check_stopped(intake);
}

void intake_renew(struct intake *intake, void (*renew)(void *context))
{
    intake->on_renew = renew;
    watch_socket(intake);
    start_sync(intake); /* what waits for company must be durable first */
    check_stopped(intake);
}

void intake_set_batch_age(struct intake *intake, int64_t age_us)
{
    int64_t part_ms = age_us / GROUP_PART / 1000;

    if (part_ms < GROUP_LEAST_MS)
        part_ms = GROUP_LEAST_MS;
    intake->group_ms = part_ms < GROUP_MOST_MS ? (uint64_t)part_ms : GROUP_MOST_MS;
    intake->rests = intake->options.queue >= QUEUE_LONG && age_us >= REST_AGE_US;
}

void intake_set_quarantine_limit(struct intake *intake, uint64_t rows)
{
    door_set_limit(intake->door, rows);
}

size_t intake_descriptors(const struct intake *intake, bool *ret_stuck)
{
    *ret_stuck = closer_stuck(intake->closer);
    return closer_waiting(intake->closer);
}

int intake_paused(const struct intake *intake)
{
    return intake->paused;
}

const struct streams *intake_streams(const struct intake *intake)
{
    return intake->streams;
}

void intake_free(struct intake *intake)
{
    if (!intake)
        return;
    streams_free(intake->streams);
    closer_free(intake->closer);
    door_free(intake->door);
    credit_free(intake->credit);
    free(intake);
}
