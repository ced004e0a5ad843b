/* Reads the kernel's clocks as plain integers. See clock.h. */
#include "daemon/clock.h"

#include <assert.h>
#include <time.h>

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
