/* Threads that take turns: each runs until it comes to a scheduling point, and chance says who is next. So a run is one thread to the
 * system, and depends on its seed alone.
 *
 * Stands in for pthread_create and what else the daemon's threads wait in (the linker's --wrap, simulation.ldflags). A mutex is a real one
 * that is only ever tried. */
#include "tests/fault/simulation/sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

enum { FIBERS = 16, STACK_BYTES = 512 * 1024 };

struct fiber {
    ucontext_t context;
    void *stack, *fake_stack, *tsan;
    struct host *host;
    void *(*run)(void *);
    void *argument;
    /* What it waits for. */
    int64_t wake_us;              /* INT64_MAX: no time-out */
    bool (*ready)(void *context); /* NULL: only time */
    void *ready_context;
    const pthread_cond_t *cond; /* a signal of */
    bool waits, used, ended, joined;
};

static struct fiber fibers[FIBERS + 1];
static struct fiber *running;
static ucontext_t scheduler;
#if defined(__SANITIZE_ADDRESS__)
static void *scheduler_fake_stack;
static const void *scheduler_stack;
static size_t scheduler_stack_size;
#endif
#if defined(__SANITIZE_THREAD__)
static void *scheduler_tsan;
#endif

static void switch_context(ucontext_t *from, const ucontext_t *to)
{
#if defined(                                                                                                           \
    __SANITIZE_ADDRESS__) /* the C library's own: AddressSanitizer's only warns, and is told of the switch anyway */
    static int (*own)(ucontext_t *, const ucontext_t *);

    if (!own) {
        void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), *symbol = dlsym(library, "swapcontext");

        assert(symbol);
        memcpy(&own, &symbol, sizeof(own));
        dlclose(library);
    }
    own(from, to);
#else
    swapcontext(from, to);
#endif
}

struct fiber *fiber_self(void)
{
    return running;
}

struct host *fiber_host(void)
{
    return running ? running->host : NULL;
}

static void to_scheduler(struct fiber *fiber)
{
    running = NULL;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fiber->ended ? NULL : &fiber->fake_stack, scheduler_stack, scheduler_stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(scheduler_tsan, 0);
#endif
    switch_context(&fiber->context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->fake_stack, NULL, NULL);
#endif
}

static void run_fiber(struct fiber *fiber)
{
    fiber->waits = false;
    running = fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    scheduler_tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->tsan, 0);
#endif
    switch_context(&scheduler, &fiber->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, NULL, NULL);
#endif
    if (!fiber->ended)
        return;
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(fiber->tsan);
#endif
    fiber->host = NULL;
    if (fiber->joined)
        fiber->used = false;
}

static void fiber_main(void)
{
    struct fiber *fiber = running;

#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_size);
#endif
    fiber->run(fiber->argument);
    fiber->ended = true;
    to_scheduler(fiber);
    abort();
}

struct fiber *fiber_new(struct host *host, void *(*run)(void *), void *argument)
{
    struct fiber *fiber = fibers;
    void *stack;

    while (fiber->used)
        fiber++;
    assert(fiber < fibers + FIBERS); /* the last is never used */
    stack = fiber->stack ? fiber->stack : malloc(STACK_BYTES);
    assert(stack);
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack, STACK_BYTES);
#endif
    *fiber =
        (struct fiber){.stack = stack, .host = host, .run = run, .argument = argument, .used = true, .joined = true};
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_main, 0);
#if defined(__SANITIZE_THREAD__)
    fiber->tsan = __tsan_create_fiber(0);
#endif
    return fiber;
}

static bool can_run(const struct fiber *fiber)
{
    if (!fiber->used || fiber->ended)
        return false;
    return !fiber->waits || fiber->wake_us <= sim.now_us || (fiber->ready && fiber->ready(fiber->ready_context));
}

bool fibers_step(const struct host *only)
{
    struct fiber *able[FIBERS];
    size_t count = 0;

    for (struct fiber *fiber = fibers; fiber < fibers + FIBERS; fiber++)
        if ((!only || fiber->host == only) && can_run(fiber))
            able[count++] = fiber;
    if (count == 0)
        return false;
    struct fiber *chosen = able[sim_below(count)];
    sim.steps++;
    sim.digest = (sim.digest ^ (uint64_t)(chosen - fibers)) * 0x100000001B3u;
    run_fiber(chosen);
    return true;
}

int64_t fibers_wake_us(void)
{
    int64_t wake_us = INT64_MAX;

    for (const struct fiber *fiber = fibers; fiber < fibers + FIBERS; fiber++)
        if (fiber->used && !fiber->ended && fiber->waits && fiber->wake_us < wake_us)
            wake_us = fiber->wake_us;
    return wake_us;
}

bool fibers_alive(const struct host *host)
{
    for (const struct fiber *fiber = fibers; fiber < fibers + FIBERS; fiber++)
        if (fiber->used && !fiber->ended && fiber->host == host)
            return true;
    return false;
}

void fibers_wake(const struct host *host)
{
    for (struct fiber *fiber = fibers; fiber < fibers + FIBERS; fiber++)
        if (fiber->used && fiber->host == host && fiber->waits && !fiber->ready && !fiber->cond)
            fiber->wake_us = sim.now_us;
}

void fibers_done(void)
{
    for (struct fiber *fiber = fibers; fiber < fibers + FIBERS; fiber++) {
        free(fiber->stack);
        *fiber = (struct fiber){.used = false};
    }
}

void fiber_wait(bool (*ready)(void *context), void *context, int64_t until_us)
{
    struct fiber *fiber = running;

    assert(fiber);
    fiber->waits = true;
    fiber->ready = ready;
    fiber->ready_context = context;
    fiber->wake_us = until_us;
    to_scheduler(fiber);
}

void sim_point(void)
{
    if (running && sim.interleave && sim_below(256) < sim.interleave)
        fiber_wait(NULL, NULL, sim.now_us);
}

void sim_sleep(int64_t us)
{
    if (running && us > 0 && !running->host->dead)
        fiber_wait(NULL, NULL, sim.now_us + us);
}

/* --- pthreads --------------------------------------------------------------------------------------------------------------- */

/* The linker leads the daemon's calls here. */
int stand_in_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, void *(*run)(void *),
                            void *argument) __asm__("__wrap_pthread_create");
int stand_in_pthread_join(pthread_t thread, void **ret) __asm__("__wrap_pthread_join");
int stand_in_pthread_mutex_lock(pthread_mutex_t *mutex) __asm__("__wrap_pthread_mutex_lock");
int stand_in_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex) __asm__("__wrap_pthread_cond_wait");
int stand_in_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                    const struct timespec *until) __asm__("__wrap_pthread_cond_timedwait");
int stand_in_pthread_cond_signal(pthread_cond_t *cond) __asm__("__wrap_pthread_cond_signal");
int stand_in_pthread_cond_broadcast(pthread_cond_t *cond) __asm__("__wrap_pthread_cond_broadcast");

int stand_in_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    struct fiber *fiber = fiber_new(fiber_host(), run, argument);

    (void)attributes;
    fiber->joined = false;
    *ret = (pthread_t)(fiber - fibers);
    return 0;
}

static bool has_ended(void *context)
{
    return ((const struct fiber *)context)->ended;
}

int stand_in_pthread_join(pthread_t thread, void **ret)
{
    struct fiber *fiber = &fibers[thread];

    (void)ret;
    while (!fiber->ended)
        fiber_wait(has_ended, fiber, INT64_MAX);
    fiber->used = false;
    return 0;
}

static bool is_free(void *context)
{
    pthread_mutex_t *mutex = context;

    if (pthread_mutex_trylock(mutex) != 0)
        return false;
    pthread_mutex_unlock(mutex);
    return true;
}

int stand_in_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    sim_point();
    while (pthread_mutex_trylock(mutex) != 0)
        fiber_wait(is_free, mutex, INT64_MAX);
    return 0;
}

/* Is woken by signal_one(), by time, or for nothing, as condition variables may be. */
static int wait_for_signal(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t until_us)
{
    struct fiber *fiber = running;

    fiber->cond = cond;
    pthread_mutex_unlock(mutex);
    fiber_wait(NULL, NULL, until_us);
    fiber->cond = NULL;
    stand_in_pthread_mutex_lock(mutex);
    return sim.now_us >= until_us ? ETIMEDOUT : 0;
}

int stand_in_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    return wait_for_signal(cond, mutex, INT64_MAX);
}

int stand_in_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
    return wait_for_signal(cond, mutex, until->tv_sec * SECOND + until->tv_nsec / 1000);
}

static void signal_some(const pthread_cond_t *cond, bool all)
{
    for (struct fiber *fiber = fibers; fiber < fibers + FIBERS; fiber++)
        if (fiber->used && !fiber->ended && fiber->waits && fiber->cond == cond) {
            fiber->cond = NULL;
            fiber->wake_us = sim.now_us;
            if (!all)
                return;
        }
}

int stand_in_pthread_cond_signal(pthread_cond_t *cond)
{
    signal_some(cond, false);
    return 0;
}

int stand_in_pthread_cond_broadcast(pthread_cond_t *cond)
{
    signal_some(cond, true);
    return 0;
}
