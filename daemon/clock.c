/* Reads the kernel's clocks as plain integers. See clock.h. */
#include "daemon/clock.h"

#include <assert.h>
#include <time.h>

enum { STEP_US = 60 * 1000 * 1000 };

static int64_t clock_us(clockid_t id)
{
    struct timespec ts;
    int r = clock_gettime(id, &ts);

    assert(r == 0);
    (void)r;
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_realtime_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

int64_t clock_monotonic_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

int64_t clock_boottime_ms(void)
{
    return clock_us(CLOCK_BOOTTIME) / 1000;
}

void clock_watch_init(struct clock_watch *watch, int64_t realtime_us, int64_t monotonic_us)
{
    watch->difference_us = realtime_us - monotonic_us;
}

int64_t clock_watch_step(struct clock_watch *watch, int64_t realtime_us, int64_t monotonic_us)
{
    int64_t step_us = realtime_us - monotonic_us - watch->difference_us;

    clock_watch_init(watch, realtime_us, monotonic_us);
    return step_us > STEP_US || step_us < -STEP_US ? step_us : 0;
}
