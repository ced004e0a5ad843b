/* See ctl_format.h. */
#include "daemon/ctl_format.h"

#include "daemon/config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const char *ctl_format_bytes(uint64_t bytes, char buf[static CTL_TEXT_MAX])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;

    if (bytes < 1024) {
        snprintf(buf, CTL_TEXT_MAX, "%d B", (int)bytes);
        return buf;
    }
    /* 1023.95 would print as 1024.0 */
    for (value /= 1024; value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
        value /= 1024;
    snprintf(buf, CTL_TEXT_MAX, "%.1f %s", value, units[unit]);
    return buf;
}

const char *ctl_format_duration(int64_t us, char buf[static CTL_TEXT_MAX])
{
    const char *sign = us < 0 ? "-" : "";
    uint64_t n = us < 0 ? -(uint64_t)us : (uint64_t)us, s = n / 1000000;

    if (n == 0)
        snprintf(buf, CTL_TEXT_MAX, "0 s");
    else if (n < 1000)
        snprintf(buf, CTL_TEXT_MAX, "%s%" PRIu64 " us", sign, n);
    else if (n < 1000000)
        snprintf(buf, CTL_TEXT_MAX, "%s%" PRIu64 ".%03" PRIu64 " ms", sign, n / 1000, n % 1000);
    else if (s < 60)
        snprintf(buf, CTL_TEXT_MAX, "%s%" PRIu64 ".%03" PRIu64 " s", sign, s, n % 1000000 / 1000);
    else if (s < 3600)
        snprintf(buf, CTL_TEXT_MAX, "%s%" PRIu64 "m%02" PRIu64 "s", sign, s / 60, s % 60);
    else if (s < 86400)
        snprintf(buf, CTL_TEXT_MAX, "%s%" PRIu64 "h%02" PRIu64 "m", sign, s / 3600, s % 3600 / 60);
    else
        snprintf(buf, CTL_TEXT_MAX, "%s%" PRIu64 "d%02" PRIu64 "h", sign, s / 86400, s % 86400 / 3600);
    return buf;
}

const char *ctl_format_time(int64_t us, char buf[static CTL_TEXT_MAX])
{
    int64_t micros = us % 1000000;
    time_t seconds = us / 1000000;
    struct tm tm;
    size_t n;

    if (micros < 0) { /* before 1970 */
        micros += 1000000;
        seconds--;
    }
    if (!localtime_r(&seconds, &tm)) {
        snprintf(buf, CTL_TEXT_MAX, "%" PRId64 " us", us);
        return buf;
    }
    n = strftime(buf, CTL_TEXT_MAX, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(buf + n, CTL_TEXT_MAX - n, ".%03d", (int)(micros / 1000));
    return buf;
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

static const char *format_scaled(int64_t value, int64_t factor, char buf[static CTL_TEXT_MAX])
{
    int64_t us;

    if (__builtin_mul_overflow(value, factor, &us))
        snprintf(buf, CTL_TEXT_MAX, "%" PRId64, value);
    else
        ctl_format_duration(us, buf);
    return buf;
}

const char *ctl_format_number(const char *key, int64_t value, char buf[static CTL_TEXT_MAX])
{
    if (ends_with(key, "_bytes") && value >= 0)
        return ctl_format_bytes((uint64_t)value, buf);
    if (ends_with(key, "_at_us") || (strncmp(key, "last_", 5) == 0 && ends_with(key, "_us")))
        return ctl_format_time(value, buf);
    if (ends_with(key, "_us"))
        return ctl_format_duration(value, buf);
    if (ends_with(key, "_ms"))
        return format_scaled(value, 1000, buf);
    if (ends_with(key, "_s") || ends_with(key, "_secs"))
        return format_scaled(value, 1000000, buf);
    snprintf(buf, CTL_TEXT_MAX, "%" PRId64, value);
    return buf;
}

int ctl_parse_time(const char *text, int64_t now_us, int64_t *ret_us)
{
    static const char *const formats[] = {"%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M",
                                          "%Y-%m-%d"};
    int64_t ago;

    if (config_parse_duration(text, &ago) == 0) {
        *ret_us = now_us - ago;
        return 0;
    }
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct tm tm = {.tm_isdst = -1}, given;
        const char *end = strptime(text, formats[i], &tm);
        bool utc = end && strcmp(end, "Z") == 0;
        time_t seconds;

        if (!end || (*end && !utc))
            continue;
        given = tm;
        seconds = utc ? timegm(&tm) : mktime(&tm);
        /* 31 February becomes March: not what was typed */
        if (tm.tm_mday != given.tm_mday || tm.tm_mon != given.tm_mon)
            return -EINVAL;
        *ret_us = (int64_t)seconds * 1000000;
        return 0;
    }
    return -EINVAL;
}
