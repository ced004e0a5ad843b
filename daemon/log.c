/* Formats and writes log lines. See log.h.
 *
 * The format is walked here rather than given to vsnprintf as a whole, because only so is it known which
 * bytes are foreign and must be escaped or quoted. */
#include "daemon/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int log_fd = STDERR_FILENO;
static bool log_to_journal;
static _Atomic int log_threshold = LOG_LEVEL_INFO;

static const char *const level_names[] = {"error", "warning", "info", "debug"};
static const int level_priorities[] = {3, 4, 6, 7}; /* syslog(3) */

/* systemd sets JOURNAL_STREAM to "device:inode" of the journal's socket; a child may inherit it with another
 * stderr. */
static bool is_journal(int fd)
{
    const char *text = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    return text && sscanf(text, "%llu:%llu", &device, &inode) == 2 && fstat(fd, &st) == 0 && st.st_dev == device &&
           st.st_ino == inode;
}

void log_open(int fd, enum log_level level)
{
    log_fd = fd;
    log_to_journal = is_journal(fd);
    log_level_set(level);
}

void log_level_set(enum log_level level)
{
    atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_threshold, memory_order_relaxed);
}

/* A line under construction. Room for the end mark and the newline is kept, so whole pieces are added or
 * refused. */
struct line {
    char text[LOG_LINE_MAX];
    size_t len;
    bool full;
};
static const char end_mark[] = "…\n";
enum { LINE_ROOM = LOG_LINE_MAX - (sizeof(end_mark) - 1) };

static void line_add(struct line *line, const char *bytes, size_t size)
{
    if (line->full || size > LINE_ROOM - line->len) {
        line->full = true;
        return;
    }
    memcpy(line->text + line->len, bytes, size);
    line->len += size;
}

/* Bytes of the printable character at s, 0 if it is a control character or not UTF-8. */
static size_t printable(const unsigned char *s, size_t size)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c;
    size_t len;

    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || len > size)
        return 0;
    c = s[0] & (0x7f >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < smallest[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) || (c >= 0x80 && c < 0xa0) || c == 0x2028 ||
        c == 0x2029)
        return 0;
    return len;
}

static bool wants_quotes(const char *s, size_t size)
{
    if (size == 0)
        return true;
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)s[i] <= ' ' || s[i] == '"' || s[i] == '=' || s[i] == '\\' || s[i] == 0x7f)
            return true;
    return false;
}

static void line_add_foreign(struct line *line, const char *s, size_t size, bool value)
{
    bool quoted = value && wants_quotes(s, size);

    if (quoted)
        line_add(line, "\"", 1);
    for (size_t i = 0; i < size && !line->full;) {
        size_t n = printable((const unsigned char *)s + i, size - i);
        char escape[5];

        if (quoted && (s[i] == '"' || s[i] == '\\')) {
            line_add(line, (const char[]){'\\', s[i++]}, 2);
        } else if (n > 0) {
            line_add(line, s + i, n);
            i += n;
        } else {
            snprintf(escape, sizeof(escape), "\\x%02x", (unsigned char)s[i++]);
            line_add(line, escape, 4);
        }
    }
    if (quoted)
        line_add(line, "\"", 1);
}

/* One conversion: its text without width, precision and length, and those. */
struct conversion {
    char flags[8];
    int width, precision; /* -1: none */
    char length;          /* 0, 'l' (also ll, j, z, t: all 64 bits on Linux), 'h' (also hh: promoted to int) */
    char type;
};

static int read_number(const char **p, va_list *args)
{
    int n = 0;

    if (**p == '*') {
        (*p)++;
        return va_arg(*args, int);
    }
    for (; **p >= '0' && **p <= '9'; (*p)++)
        n = n * 10 + (**p - '0');
    return n;
}

/* p stands after the '%'. Returns where the conversion ends. */
static const char *conversion_read(const char *p, va_list *args, struct conversion *ret)
{
    size_t n = 0;

    *ret = (struct conversion){.width = -1, .precision = -1};
    while (*p && strchr("-+ #0", *p)) {
        if (n + 1 < sizeof(ret->flags))
            ret->flags[n++] = *p;
        p++;
    }
    if (*p == '*' || (*p >= '1' && *p <= '9'))
        ret->width = read_number(&p, args);
    if (*p == '.') {
        p++;
        ret->precision = read_number(&p, args);
    }
    for (; *p && strchr("hljzt", *p); p++)
        ret->length = *p == 'h' ? 'h' : 'l';
    ret->type = *p;
    return *p ? p + 1 : p;
}

_Static_assert(sizeof(long) == sizeof(long long) && sizeof(long) == sizeof(size_t), "one 'l' must stand for all");

/* Any integer as long, which the specification is then made to say. */
static long read_integer(const struct conversion *c, va_list *args)
{
    if (c->length == 'l')
        return va_arg(*args, long);
    if (c->type == 'd' || c->type == 'i')
        return va_arg(*args, int);
    return (long)va_arg(*args, unsigned);
}

static void line_add_conversion(struct line *line, const struct conversion *c, va_list *args, bool value)
{
    char spec[48], text[512];
    int n = snprintf(spec, sizeof(spec), "%%%s", c->flags);

    if (c->width >= 0)
        n += snprintf(spec + n, sizeof(spec) - (size_t)n, "%d", c->width);
    if (c->precision >= 0)
        n += snprintf(spec + n, sizeof(spec) - (size_t)n, ".%d", c->precision);
    snprintf(spec + n, sizeof(spec) - (size_t)n, "%s%c", strchr("diuxXo", c->type) ? "l" : "", c->type);

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* spec is made of a checked format's parts */
    switch (c->type) {
    case 's': {
        const char *s = va_arg(*args, const char *);

        if (!s)
            s = "-";
        line_add_foreign(line, s, c->precision >= 0 ? strnlen(s, (size_t)c->precision) : strlen(s), value);
        return;
    }
    case 'c': {
        char byte = (char)va_arg(*args, int);

        line_add_foreign(line, &byte, 1, value);
        return;
    }
    case '%':
        line_add(line, "%", 1);
        return;
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        n = snprintf(text, sizeof(text), spec, read_integer(c, args));
        break;
    case 'f':
    case 'g':
    case 'e':
        n = snprintf(text, sizeof(text), spec, va_arg(*args, double));
        break;
    case 'p':
        n = snprintf(text, sizeof(text), "%p", va_arg(*args, void *));
        break;
    default: /* not in our format: what follows can't be read any more */
        line->full = true;
        return;
    }
#pragma GCC diagnostic pop
    line_add(line, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

static void line_add_prefix(struct line *line, enum log_level level)
{
    char text[64];
    struct timespec now;
    struct tm tm;
    size_t n;

    if (log_to_journal) {
        n = (size_t)snprintf(text, sizeof(text), "<%d>", level_priorities[level]);
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
        n += (size_t)snprintf(text + n, sizeof(text) - n, ".%06ldZ %s ", now.tv_nsec / 1000, level_names[level]);
    }
    line_add(line, text, n);
}

static void line_format(struct line *line, const char *format, va_list *args)
{
    const char *p = format;

    while (*p && !line->full) {
        size_t literal = strcspn(p, "%");
        struct conversion conversion;
        bool value;

        line_add(line, p, literal);
        p += literal;
        if (!*p)
            break;
        value = p > format && p[-1] == '=';
        p = conversion_read(p + 1, args, &conversion);
        line_add_conversion(line, &conversion, args, value);
    }
}

static void log_vwrite(enum log_level level, const char *format, va_list *args)
{
    struct line line;
    int saved_errno = errno;

    if (!log_enabled(level))
        return;
    line.len = 0;
    line.full = false;
    line_add_prefix(&line, level);
    line_format(&line, format, args);
    if (line.full) {
        memcpy(line.text + line.len, end_mark, sizeof(end_mark) - 1);
        line.len += sizeof(end_mark) - 1;
    } else {
        line.text[line.len++] = '\n';
    }
    if (write(log_fd, line.text, line.len) < 0) {
        /* There is nobody left to tell. */
    }
    errno = saved_errno;
}

void log_write(enum log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_vwrite(level, format, &args);
    va_end(args);
}

bool log_limit_pass(struct log_limit *limit, int64_t now_us, unsigned *ret_dropped)
{
    bool pass;

    pthread_mutex_lock(&limit->mutex);
    *ret_dropped = 0;
    if (limit->passed == 0 || now_us - limit->since_us >= limit->interval_us) {
        *ret_dropped = limit->dropped;
        limit->since_us = now_us;
        limit->passed = limit->dropped = 0;
    }
    pass = limit->passed < limit->burst;
    if (pass)
        limit->passed++;
    else
        limit->dropped++;
    pthread_mutex_unlock(&limit->mutex);
    return pass;
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
    struct timespec now;
    unsigned dropped;
    va_list args;

    if (!log_enabled(level))
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!log_limit_pass(limit, (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, &dropped))
        return;
    if (dropped > 0)
        log_write(level, "lines like the next one were left out dropped=%u", dropped);
    va_start(args, format);
    log_vwrite(level, format, &args);
    va_end(args);
}
