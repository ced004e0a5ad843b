/* Numbers as people read them: sizes, durations, times. What a number is follows from its key's ending, so that a key that a newer daemon adds
 * is shown right too. */
#ifndef TOLL_DAEMON_CTL_FORMAT_H
#define TOLL_DAEMON_CTL_FORMAT_H

#include <stdint.h>

enum { CTL_TEXT_MAX = 64 };

/* All return buf. */
const char *ctl_format_bytes(uint64_t bytes, char buf[static CTL_TEXT_MAX]); /* "17 B", "1.5 KiB", "64.0 MiB" */
const char *ctl_format_duration(int64_t us, char buf[static CTL_TEXT_MAX]);  /* "250 us", "1.500 s", "2m05s", "1d03h" */
const char *
ctl_format_time(int64_t us,
                char buf[static CTL_TEXT_MAX]); /* µs since the epoch: "2026-11-21 05:10:28.123" in the local zone */

/* By key: *_bytes is a size; *_at_us and last_*_us are times; *_us, *_ms, *_s and *_secs are durations; everything else is the number itself. */
const char *ctl_format_number(const char *key, int64_t value, char buf[static CTL_TEXT_MAX]);

/* A time that somebody typed, as µs since the epoch: "2h", "7d" (so long before now_us), or "2026-11-21", "2026-11-21 05:10[:28]" (also with T)
 * in the local zone, or with Z in UTC. -EINVAL otherwise. */
int ctl_parse_time(const char *text, int64_t now_us, int64_t *ret_us) __attribute__((warn_unused_result));

#endif
