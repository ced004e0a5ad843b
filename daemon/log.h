/* The daemon's log: one line to stderr per event, free text first, then key=value pairs.
 *
 *     log_info("journal opened path=%s durable_lsn=%" PRIu64, path, lsn);
 *
 * Under systemd (stderr is the journal) a line begins with its syslog priority, <6>; elsewhere with an ISO
 * time and the level. No files, no rotation, no secrets, no transcript text: that is for callers to keep. */
#ifndef TOLL_DAEMON_LOG_H
#define TOLL_DAEMON_LOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR, /* somebody must do something */
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO, /* the default */
    LOG_LEVEL_DEBUG,
};

enum { LOG_LINE_MAX = 2048 }; /* bytes of a line; a longer one is cut and ends in … */

/* Where lines go (STDERR_FILENO before the first call) and from which level on. Call it before there are
 * threads. */
void log_open(int fd, enum log_level level);
void log_level_set(enum log_level level); /* thread-safe */
bool log_enabled(enum log_level level);   /* thread-safe */

/* Writes one line with one write(). Thread-safe; errors of the write are ignored and errno is kept. The
 * format is printf's without %n, %m, positional arguments, wide characters and long double. What %s brings is
 * treated as foreign: control characters and invalid UTF-8 are escaped, and right after a '=' it is quoted
 * where a reader could not tell where it ends. A NULL for %s prints as "-". */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                                                 \
    do {                                                                                                               \
        if (log_enabled(LOG_LEVEL_DEBUG))                                                                              \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                                                   \
    } while (0)

/* What a peer can trigger is limited per call site: `burst` lines per interval. The first line of a later
 * interval is preceded by one that says how many were dropped.
 *
 *     static struct log_limit limit = LOG_LIMIT(10, 60 * 1000000);
 *     log_limited(&limit, LOG_LEVEL_WARNING, "descriptor refused uid=%u", uid);
 */
struct log_limit {
    unsigned burst;
    int64_t interval_us;
    pthread_mutex_t mutex;
    int64_t since_us; /* start of the interval, monotonic */
    unsigned passed, dropped;
};
#define LOG_LIMIT(lines, us)                                                                                           \
    {                                                                                                                  \
        .burst = (lines), .interval_us = (int64_t)(us), .mutex = PTHREAD_MUTEX_INITIALIZER                             \
    }

/* True if a line may be written at now_us (monotonic µs). *ret_dropped is the number of lines dropped in an
 * earlier interval and not reported yet. Thread-safe. */
bool log_limit_pass(struct log_limit *limit, int64_t now_us, unsigned *ret_dropped) __attribute__((warn_unused_result));

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
