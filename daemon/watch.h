/* Looks at the daemon once a second, and whenever the writer's state changes, and raises the alarms (alarm.h): the rules of what is a
 * trouble, in which words, and what to do about it. It changes nothing but the alarms. Everything is the loop thread's. */
#ifndef TOLL_DAEMON_WATCH_H
#define TOLL_DAEMON_WATCH_H

#include "daemon/alarm.h"
#include "daemon/intake.h"
#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/rating.h"
#include "daemon/streams.h"
#include "daemon/writers.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* What is looked at. */
struct watch_facts {
    int64_t now_us;       /* since the epoch */
    int64_t monotonic_us; /* for intervals */
    enum writer_state storing;
    const char *error; /* of storing */
    uint64_t applied_lsn, durable_lsn;
    uint64_t failures; /* of storing, since start */
    int paused;        /* as intake_paused() */
    uint64_t journal_bytes;
    uint64_t quarantine_rows, quarantine_limit;
    const struct streams_trouble *streams;
    size_t descriptors; /* not closed yet */
    bool descriptors_stuck;
    const struct rating_status *rating; /* NULL: there is none */
};

enum { WATCH_MARKS = 64 };

/* What the past has shown. */
struct watch_memory {
    bool storing_failed; /* at the last look */
    uint64_t failures_before, seen_failures;
    uint64_t applied_lsn;
    int64_t moved_us;        /* monotonic: when applied_lsn was last another, or nothing waited */
    int64_t rating_since_us; /* monotonic: since when rating has been failing; 0: it is not */
    /* Where the durable LSN stood when: how old the backlog is. Thinned out as it grows. */
    struct watch_mark {
        uint64_t lsn;
        int64_t at_us;
    } marks[WATCH_MARKS];
    size_t mark_count;
    int64_t mark_every_us;
};

struct watch {
    struct intake *intake;
    struct writers *writers;
    struct journal *journal;
    struct metrics *metrics;
    struct rating *rating; /* NULL: there is none */
    struct alarms alarms;
    struct watch_memory memory;
    int64_t batch_age_us;      /* a frame may wait for so long on purpose */
    uint64_t quarantine_limit; /* rows */
    uv_timer_t timer;
};

/* Takes the pointers above, borrowed, and the two limits from *watch; begins to look. The loop closes the timer. */
void watch_start(struct watch *watch, uv_loop_t *loop);
void watch_look(struct watch *watch, const struct writer_status *status);

/* How long the oldest frame that is not stored has waited, as far as this run knows. */
int64_t watch_backlog_age_us(const struct watch *watch);

/* The rules alone, for tests. */
void watch_judge(struct watch *watch, const struct watch_facts *facts);

#endif
