/* In place of libuv: a loop whose events come in any order that libuv might give them, and whose pool is fibers. Only what the daemon's
 * receive loop uses. */
#include "tests/fault/simulation/sim.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static struct handle *find(const void *handle)
{
    struct host *host = fiber_host();

    for (size_t i = 0; i < host->handle_count; i++)
        if (host->handles[i].handle == handle)
            return &host->handles[i];
    return NULL;
}

static int add(void *handle, int kind)
{
    struct host *host = fiber_host();

    assert(host->handle_count < HANDLES && !find(handle));
    host->handles[host->handle_count++] = (struct handle){.handle = handle, .kind = kind};
    return 0;
}

int uv_poll_init(uv_loop_t *loop, uv_poll_t *handle, int fd)
{
    (void)loop;
    (void)fd;
    return add(handle, HANDLE_POLL);
}

int uv_poll_start(uv_poll_t *handle, int events, uv_poll_cb callback)
{
    struct handle *h = find(handle);

    (void)events;
    assert(h && !h->closing);
    h->active = true;
    h->callback = (void (*)(void))callback;
    return 0;
}

int uv_poll_stop(uv_poll_t *handle)
{
    struct handle *h = find(handle);

    assert(h && !h->closing);
    h->active = false;
    return 0;
}

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return (uint64_t)sim.now_us / MS;
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *handle)
{
    (void)loop;
    return add(handle, HANDLE_TIMER);
}

int uv_timer_start(uv_timer_t *handle, uv_timer_cb callback, uint64_t timeout_ms, uint64_t repeat_ms)
{
    struct handle *h = find(handle);

    assert(h && !h->closing);
    h->active = true;
    h->callback = (void (*)(void))callback;
    h->due_us = sim.now_us + (int64_t)timeout_ms * MS;
    h->repeat_us = (int64_t)repeat_ms * MS;
    return 0;
}

int uv_timer_stop(uv_timer_t *handle)
{
    struct handle *h = find(handle);

    assert(h);
    h->active = false;
    return 0;
}

int uv_async_init(uv_loop_t *loop, uv_async_t *handle, uv_async_cb callback)
{
    struct handle *h;

    (void)loop;
    add(handle, HANDLE_ASYNC);
    h = find(handle);
    h->active = true;
    h->callback = (void (*)(void))callback;
    return 0;
}

int uv_async_send(uv_async_t *handle)
{
    struct handle *h = find(handle);

    assert(h && !h->closing);
    h->pending = true;
    return 0;
}

int uv_is_active(const uv_handle_t *handle)
{
    const struct handle *h = find(handle);

    return h && h->active;
}

int uv_is_closing(const uv_handle_t *handle)
{
    const struct handle *h = find(handle);

    return !h || h->closing;
}

void uv_close(uv_handle_t *handle, uv_close_cb callback)
{
    struct handle *h = find(handle);

    assert(h && !h->closing);
    h->closing = true;
    h->active = false;
    h->on_close = callback;
}

void uv_stop(uv_loop_t *loop)
{
    (void)loop;
    fiber_host()->loop_stop = true;
}

static void *run_work(void *argument)
{
    struct work *work = argument;

    work->run(work->work);
    work->done = true;
    return NULL;
}

int uv_queue_work(uv_loop_t *loop, uv_work_t *request, uv_work_cb run, uv_after_work_cb after)
{
    struct host *host = fiber_host();
    struct work *work = host->works;

    (void)loop;
    while (work < host->works + WORKS && work->work)
        work++;
    assert(work < host->works + WORKS);
    *work = (struct work){.work = request, .run = run, .after = after};
    fiber_new(host, run_work, work);
    return 0;
}

/* --- running ---------------------------------------------------------------------------------------------------------------- */

static bool is_due(const struct host *host, const struct handle *h)
{
    if (h->closing)
        return true;
    if (!h->active)
        return false;
    switch (h->kind) {
    case HANDLE_TIMER:
        return h->due_us <= sim.now_us;
    case HANDLE_POLL:
        return host->queue_count > 0 && !host->dead;
    case HANDLE_ASYNC:
        return h->pending;
    }
    return false;
}

static bool has_events(void *context)
{
    const struct host *host = context;

    if (host->signalled)
        return true;
    for (size_t i = 0; i < host->handle_count; i++)
        if (is_due(host, &host->handles[i]))
            return true;
    for (size_t i = 0; i < WORKS; i++)
        if (host->works[i].work && host->works[i].done)
            return true;
    return false;
}

static bool has_handles(const struct host *host)
{
    for (size_t i = 0; i < host->handle_count; i++)
        if (host->handles[i].active || host->handles[i].closing)
            return true;
    for (size_t i = 0; i < WORKS; i++)
        if (host->works[i].work)
            return true;
    return false;
}

static void close_now(struct host *host, struct handle *h)
{
    struct handle closed = *h;

    *h = host->handles[--host->handle_count];
    if (closed.on_close)
        closed.on_close(closed.handle);
}

static void fire(struct host *host, struct handle *h)
{
    void *handle = h->handle;
    void (*callback)(void) = h->callback;

    if (h->closing) {
        close_now(host, h);
        return;
    }
    switch (h->kind) {
    case HANDLE_TIMER:
        h->active = h->repeat_us > 0;
        h->due_us = sim.now_us + h->repeat_us;
        ((uv_timer_cb)callback)(handle);
        break;
    case HANDLE_POLL:
        ((uv_poll_cb)callback)(handle, 0, UV_READABLE);
        break;
    case HANDLE_ASYNC:
        h->pending = false;
        ((uv_async_cb)callback)(handle);
        break;
    }
}

static void one_event(struct host *host)
{
    size_t due[HANDLES + WORKS], count = 0;

    for (size_t i = 0; i < host->handle_count; i++)
        if (is_due(host, &host->handles[i]))
            due[count++] = i;
    for (size_t i = 0; i < WORKS; i++)
        if (host->works[i].work && host->works[i].done)
            due[count++] = HANDLES + i;
    if (count == 0)
        return;
    size_t chosen = due[sim_below(count)];
    if (chosen < HANDLES) {
        fire(host, &host->handles[chosen]);
    } else {
        struct work done = host->works[chosen - HANDLES];

        host->works[chosen - HANDLES].work = NULL;
        done.after(done.work, 0);
    }
}

static int64_t next_timer_us(const struct host *host)
{
    int64_t due_us = INT64_MAX;

    for (size_t i = 0; i < host->handle_count; i++)
        if (host->handles[i].active && host->handles[i].kind == HANDLE_TIMER && host->handles[i].due_us < due_us)
            due_us = host->handles[i].due_us;
    return due_us;
}

int uv_run(uv_loop_t *loop, uv_run_mode mode)
{
    struct host *host = fiber_host();
    unsigned events = 0;

    (void)loop;
    (void)mode;
    host->loop_stop = false;
    while (!host->loop_stop && has_handles(host)) {
        if (!has_events(host))
            fiber_wait(has_events, host, next_timer_us(host));
        else if (++events % 16 == 0) /* events that never end must not keep the others from running */
            fiber_wait(NULL, NULL, sim.now_us);
        else
            sim_point();
        if (host->signalled) { /* as uv_signal_t would */
            host->signalled = false;
            pipeline_stop(host->pipeline);
        }
        one_event(host);
    }
    return 0;
}
