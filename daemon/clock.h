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

#endif
