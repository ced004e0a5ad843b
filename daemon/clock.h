/* The three clocks the daemon reads. It keeps no time of its own: everything that can be tested takes the
 * time as an argument. */
#ifndef TOLL_DAEMON_CLOCK_H
#define TOLL_DAEMON_CLOCK_H

#include <stdint.h>

/* All thread-safe; none can fail on Linux with these clock ids. */
int64_t clock_realtime_us(void);  /* µs since the Unix epoch (UTC); may jump */
int64_t clock_monotonic_us(void); /* µs, never goes back, stands still in suspend; for intervals */
int64_t
clock_boottime_ms(void); /* ms since boot, suspend included: the ack page's heartbeat, the same in every process */

/* Tells steps of the wall clock from its running: fed with both clocks now and then, the first time by clock_watch_init(). */
struct clock_watch {
    int64_t difference_us; /* wall clock less monotonic clock */
};
void clock_watch_init(struct clock_watch *watch, int64_t realtime_us, int64_t monotonic_us);
/* By how much the wall clock was stepped since the last call, µs; 0 unless that is more than a minute, which
 * leaves out slewing. Suspend looks the same and is taken alike: nothing has happened meanwhile. */
int64_t clock_watch_step(struct clock_watch *watch, int64_t realtime_us, int64_t monotonic_us);

#endif
