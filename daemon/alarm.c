/* See alarm.h. */
#include "daemon/alarm.h"

#include "daemon/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *over;
    enum log_level level;
} kinds[] = {
#define ALARM_ROW(name, level, over) [ALARM_##name] = {#name, over, LOG_LEVEL_##level},
    ALARMS_TABLE(ALARM_ROW)
#undef ALARM_ROW
};

void alarms_init(struct alarms *alarms)
{
    /* Some troubles come and go as a worker likes. */
    static const struct log_limit limit = LOG_LIMIT(5, 60 * 1000000);

    memset(alarms, 0, sizeof(*alarms));
    for (size_t i = 0; i < ALARM_KINDS; i++)
        alarms->of[i].limit = limit;
}

static void log_raised(struct alarm *alarm, enum alarm_kind kind)
{
    unsigned dropped;

    alarm->logged = log_limit_pass(&alarm->limit, clock_monotonic_us(), &dropped);
    if (dropped)
        log_write(kinds[kind].level, "this alarm was raised more often than the log tells alarm=%s dropped=%u",
                  kinds[kind].name, dropped);
    if (alarm->logged)
        log_write(kinds[kind].level, "%s alarm=%s%s%s", alarm->text, kinds[kind].name, alarm->figures[0] ? " " : "",
                  alarm->figures);
}

void alarm_raise(struct alarms *alarms, enum alarm_kind kind, int64_t now_us, const char *text, const char *figures)
{
    struct alarm *alarm = &alarms->of[kind];
    bool same = alarm->raised && strncmp(alarm->text, text, sizeof(alarm->text) - 1) == 0;

    if (!alarm->raised)
        alarm->since_us = now_us;
    alarm->raised = true;
    snprintf(alarm->text, sizeof(alarm->text), "%s", text);
    snprintf(alarm->figures, sizeof(alarm->figures), "%s", figures);
    if (!same)
        log_raised(alarm, kind);
}

void alarm_clear(struct alarms *alarms, enum alarm_kind kind, int64_t now_us)
{
    struct alarm *alarm = &alarms->of[kind];

    if (!alarm->raised)
        return;
    alarm->raised = false;
    if (alarm->logged)
        log_info("%s alarm=%s after_s=%" PRId64, kinds[kind].over, kinds[kind].name,
                 (now_us - alarm->since_us) / 1000000);
}

size_t alarms_raised(const struct alarms *alarms)
{
    size_t count = 0;

    for (size_t i = 0; i < ALARM_KINDS; i++)
        count += alarms->of[i].raised;
    return count;
}

const char *alarm_name(enum alarm_kind kind)
{
    return kinds[kind].name;
}
