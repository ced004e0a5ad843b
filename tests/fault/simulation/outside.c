/* In place of what the daemon's logic touches of the world: clocks, the log, the hash's secret, the workers' socket, descriptors, ack pages.
 * What a killed daemon still does here has no effect. */
#include "tests/fault/simulation/sim.h"

#include "daemon/ackpage.h"
#include "daemon/clock.h"
#include "daemon/closer.h"
#include "daemon/idhash.h"
#include "daemon/listener.h"
#include "daemon/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- time, the log, the hash ------------------------------------------------------------------------------------------------ */

int64_t stand_in_clock_realtime_us(void) __asm__("__wrap_clock_realtime_us");
int64_t stand_in_clock_realtime_us(void)
{
    return INT64_C(1800000000000000) + sim.now_us + sim.wall_us;
}

int64_t stand_in_clock_monotonic_us(void) __asm__("__wrap_clock_monotonic_us");
int64_t stand_in_clock_monotonic_us(void)
{
    return sim.now_us;
}

int64_t stand_in_clock_boottime_ms(void) __asm__("__wrap_clock_boottime_ms");
int64_t stand_in_clock_boottime_ms(void)
{
    return sim.now_us / 1000;
}

void log_open(int fd, enum log_level level)
{
    (void)fd;
    (void)level;
}

void log_level_set(enum log_level level)
{
    (void)level;
}

bool log_enabled(enum log_level level)
{
    return sim.trace && level < LOG_LEVEL_DEBUG;
}

static void show(enum log_level level, const char *format, va_list arguments)
{
    const struct host *host = fiber_host();

    if (!log_enabled(level))
        return;
    printf("%12.6f   host %u%s: ", (double)sim.now_us / 1e6, host ? host->index : 0,
           host && host->dead ? " (dead)" : "");
    vprintf(format, arguments);
    printf("\n");
}

void log_write(enum log_level level, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    show(level, format, arguments);
    va_end(arguments);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
    va_list arguments;

    (void)limit;
    va_start(arguments, format);
    show(level, format, arguments);
    va_end(arguments);
}

bool log_limit_pass(struct log_limit *limit, int64_t now_us, unsigned *ret_dropped)
{
    (void)limit;
    (void)now_us;
    *ret_dropped = 0;
    return true;
}

uint32_t idhash(const void *data, size_t size)
{
    uint64_t hash = 0xCBF29CE484222325u;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001B3u;
    return (uint32_t)(hash ^ hash >> 32);
}

/* --- the socket ------------------------------------------------------------------------------------------------------------- */

enum { PAGE_FD = -1000, BAD_FD = -10 }; /* no descriptor of the system is negative */

bool queue_push(struct host *host, const void *data, size_t size, uint32_t uid, int page, bool bad_fd)
{
    struct queued *queued;

    if (!host->listening || host->queue_count >= host->queue_max)
        return false;
    queued = &host->queue[host->queue_count++];
    *queued = (struct queued){.data = malloc(size), .size = size, .uid = uid, .page = page, .bad_fd = bad_fd};
    memcpy(queued->data, data, size);
    return true;
}

void queue_clear(struct host *host)
{
    for (size_t i = 0; i < host->queue_count; i++)
        free(host->queue[i].data);
    host->queue_count = 0;
}

ssize_t listener_peek(int fd)
{
    const struct host *host = fiber_host();

    (void)fd;
    return host->dead || host->queue_count == 0 ? -EAGAIN : (ssize_t)host->queue[0].size;
}

static void queue_pop(struct host *host, void *buf, size_t cap, struct datagram *ret)
{
    struct queued queued = host->queue[0];

    memmove(host->queue, host->queue + 1, --host->queue_count * sizeof(queued));
    memcpy(buf, queued.data, queued.size < cap ? queued.size : cap);
    ret->data = buf;
    ret->size = queued.size;
    ret->truncated = false;
    ret->uid = queued.uid;
    ret->pid = 0;
    ret->fd_count = 0;
    if (queued.page >= 0)
        ret->fds[ret->fd_count++] = PAGE_FD - queued.page;
    if (queued.bad_fd)
        ret->fds[ret->fd_count++] = BAD_FD;
    host->open_fds += ret->fd_count;
    free(queued.data);
}

int listener_receive(int fd, void *buf, size_t cap, size_t stride, unsigned most, struct datagram *ret)
{
    struct host *host = fiber_host();
    unsigned count = 0;

    (void)fd;
    sim_point();
    for (; !host->dead && host->queue_count > 0 && count < most; count++)
        queue_pop(host, (char *)buf + count * stride, cap, &ret[count]);
    return count > 0 ? (int)count : -EAGAIN;
}

/* --- descriptors ------------------------------------------------------------------------------------------------------------ */

int real_close(int fd) __asm__("__real_close");
int stand_in_close(int fd) __asm__("__wrap_close");

int stand_in_close(int fd)
{
    if (fd > BAD_FD)
        return real_close(fd);
    fiber_host()->open_fds--;
    return 0;
}

struct closer {
    bool unused;
};

int closer_new(struct closer **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

void closer_free(struct closer *closer)
{
    free(closer);
}

void closer_close(struct closer *closer, const int *fds, size_t count)
{
    (void)closer;
    for (size_t i = 0; i < count; i++)
        stand_in_close(fds[i]);
}

size_t closer_waiting(struct closer *closer)
{
    (void)closer;
    return 0;
}

bool closer_stuck(struct closer *closer)
{
    (void)closer;
    return false;
}

/* --- ack pages -------------------------------------------------------------------------------------------------------------- */

struct ackpage { /* a mapping of a worker's page */
    struct host *host;
    struct worker *worker;
};

int ackpage_map(struct ackpage **ret, int fd)
{
    if (fd > PAGE_FD)
        return -EINVAL;
    *ret = malloc(sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    **ret = (struct ackpage){.host = fiber_host(), .worker = &workers[PAGE_FD - fd]};
    return 0;
}

void ackpage_unmap(struct ackpage *page)
{
    free(page);
}

void ackpage_begin(struct ackpage *page, uint64_t epoch, uint64_t acked, enum ackpage_state state,
                   uint64_t now_boottime_ms)
{
    if (page->host->dead)
        return;
    page->worker->page.acked = acked;
    ackpage_set_acked(page, acked);
    ackpage_set_state(page, state);
    ackpage_set_heartbeat(page, now_boottime_ms);
    page->worker->page.epoch = epoch;
}

void ackpage_set_acked(struct ackpage *page, uint64_t acked)
{
    struct worker *worker = page->worker;

    if (page->host->dead)
        return;
    if (acked < worker->page.acked)
        sim_violation(NULL, "worker %u: acked went back from %lu to %lu", worker->index, worker->page.acked, acked);
    ledger_acked(worker, acked, page->host);
    worker->page.acked = acked;
}

void ackpage_set_state(struct ackpage *page, enum ackpage_state state)
{
    if (!page->host->dead)
        page->worker->page.state = state;
}

void ackpage_set_heartbeat(struct ackpage *page, uint64_t now_boottime_ms)
{
    if (!page->host->dead)
        page->worker->page.heartbeat_ms = (int64_t)now_boottime_ms;
}

void ackpage_set_credit(struct ackpage *page, const struct ackpage_credit *entries, size_t count, bool more)
{
    (void)page; /* nobody rates here */
    (void)entries;
    (void)count;
    (void)more;
}
