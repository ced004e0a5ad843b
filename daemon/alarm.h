/* What needs somebody's attention: the one picture that the log, tollctl and the metrics show.
 *
 * Whoever finds a trouble raises its alarm, again and again while it lasts, and clears it when it is over. The log gets one line for each of
 * the two, and one when the words change. What the trouble is and when it begins is not known here. For one thread. */
#ifndef TOLL_DAEMON_ALARM_H
#define TOLL_DAEMON_ALARM_H

#include "daemon/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ONE table: kind, level in the log, what the log says when it is over. The worst first: so they are shown. */
#define ALARMS_TABLE(X)                                                                                                \
    X(storing_stopped, ERROR, "storing goes on")                                                                       \
    X(storing_retrying, WARNING, "storing goes on")                                                                    \
    X(batch_stuck, WARNING, "storing goes on")                                                                         \
    X(intake_paused, WARNING, "receiving goes on")                                                                     \
    X(quarantine_full, ERROR, "the quarantine has room again")                                                         \
    X(rating_stopped, ERROR, "rating goes on")                                                                         \
    X(rating_retrying, WARNING, "rating goes on")                                                                      \
    X(rating_behind, WARNING, "rating has caught up")                                                                  \
    X(streams_poisoned, WARNING, "no stream is poisoned any more")                                                     \
    X(streams_dead, WARNING, "no dead stream is left")                                                                 \
    X(streams_stalled, WARNING, "no stream is stalled any more")                                                       \
    X(descriptors_stuck, WARNING, "descriptors are closed again")                                                      \
    X(quarantined, WARNING, "the quarantine is empty")

enum alarm_kind {
#define ALARM_KIND(name, level, over) ALARM_##name,
    ALARMS_TABLE(ALARM_KIND)
#undef ALARM_KIND
        ALARM_KINDS
};

enum { ALARM_TEXT_MAX = 1024, ALARM_FIGURES_MAX = 512 };

struct alarm {
    bool raised;
    int64_t since_us;                /* since the epoch */
    char text[ALARM_TEXT_MAX];       /* what is wrong, and what to do */
    char figures[ALARM_FIGURES_MAX]; /* "key=value key=value": how bad it is now */
    /* private */
    bool logged;
    struct log_limit limit;
};

struct alarms {
    struct alarm of[ALARM_KINDS];
};

void alarms_init(struct alarms *alarms);
/* Raises it, or notes how it is by now. text and figures are copied, and cut to what fits. */
void alarm_raise(struct alarms *alarms, enum alarm_kind kind, int64_t now_us, const char *text, const char *figures);
void alarm_clear(struct alarms *alarms, enum alarm_kind kind, int64_t now_us);

size_t alarms_raised(const struct alarms *alarms);
const char *alarm_name(enum alarm_kind kind); /* "storing_stopped" … */

#endif
