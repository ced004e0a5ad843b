/* Parsing and printing of single values. See config_value.h. */
#include "daemon/config_value.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    int64_t factor;
};

/* Largest first: the largest that divides a number is the one it is printed with. */
static const struct unit byte_units[] = {{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"", 1}};
static const struct unit duration_units[] = {
    {"d", INT64_C(86400000000)}, {"h", INT64_C(3600000000)}, {"m", 60000000}, {"s", 1000000}, {"ms", 1000}, {"us", 1}};
static const struct unit no_units[] = {{"", 1}};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct unit *units_of(enum config_type type, size_t *ret_count)
{
    switch (type) {
    case CONFIG_BYTES:
        *ret_count = COUNT(byte_units);
        return byte_units;
    case CONFIG_DURATION:
        *ret_count = COUNT(duration_units);
        return duration_units;
    default:
        *ret_count = COUNT(no_units);
        return no_units;
    }
}

/* Digits and a unit, nothing else. 0, -EINVAL, or -ERANGE. "0" needs no unit. */
static int parse_number(enum config_type type, const char *text, int64_t *ret)
{
    int base = type == CONFIG_MODE ? 8 : 10;
    int64_t number = 0;
    size_t count;
    const struct unit *units = units_of(type, &count);
    const char *p = text;
    bool overflow = false;

    for (; *p >= '0' && *p < '0' + base; p++)
        overflow |= __builtin_mul_overflow(number, base, &number) || __builtin_add_overflow(number, *p - '0', &number);
    if (p == text)
        return -EINVAL;
    while (*p == ' ')
        p++;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(p, units[i].name) != 0)
            continue;
        overflow |= __builtin_mul_overflow(number, units[i].factor, &number);
        if (overflow)
            return -ERANGE;
        *ret = number;
        return 0;
    }
    if (*p == '\0' && number == 0 && !overflow) {
        *ret = 0;
        return 0;
    }
    return -EINVAL;
}

int config_parse_duration(const char *text, int64_t *ret_us)
{
    return parse_number(CONFIG_DURATION, text, ret_us) < 0 ? -EINVAL : 0;
}

const char *config_number_text(enum config_type type, int64_t number, char buf[static CONFIG_TEXT_MAX])
{
    size_t count;
    const struct unit *unit = units_of(type, &count);

    if (type == CONFIG_MODE) {
        snprintf(buf, CONFIG_TEXT_MAX, "%04" PRIo64, (uint64_t)number);
        return buf;
    }
    while (unit->factor > 1 && (number == 0 || number % unit->factor != 0))
        unit++;
    snprintf(buf, CONFIG_TEXT_MAX, "%" PRId64 "%s", number / unit->factor, number == 0 ? "" : unit->name);
    return buf;
}

static int parse_bool(const char *text, bool *ret)
{
    static const char *const names[] = {"false", "no", "off", "0", "true", "yes", "on", "1"};

    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcasecmp(text, names[i]) == 0) {
            *ret = i >= COUNT(names) / 2;
            return 0;
        }
    }
    return -EINVAL;
}

static void *field(const struct config *config, const struct config_option *option)
{
    return (char *)(uintptr_t)config + option->offset;
}

static int set_string(char **to, const struct config_option *option, const char *text,
                      char reason[static CONFIG_REASON_MAX])
{
    char *copy;

    if (strlen(text) < (size_t)option->min) {
        snprintf(reason, CONFIG_REASON_MAX, "must not be empty");
        return -EINVAL;
    }
    if (strlen(text) > (size_t)option->max) {
        if (option->type == CONFIG_PATH)
            snprintf(reason, CONFIG_REASON_MAX, "\"%.300s\" is longer than %" PRId64 " bytes", text, option->max);
        else
            snprintf(reason, CONFIG_REASON_MAX, "is longer than %" PRId64 " bytes", option->max);
        return -EINVAL;
    }
    copy = strdup(text);
    if (!copy) {
        snprintf(reason, CONFIG_REASON_MAX, "out of memory");
        return -ENOMEM;
    }
    free(*to);
    *to = copy;
    return 0;
}

static int set_enum(int *to, const struct config_option *option, const char *text,
                    char reason[static CONFIG_REASON_MAX])
{
    int n;

    for (int i = 0; option->names[i]; i++) {
        if (strcasecmp(text, option->names[i]) == 0) {
            *to = i;
            return 0;
        }
    }
    n = snprintf(reason, CONFIG_REASON_MAX, "\"%.100s\" is not one of ", text);
    for (int i = 0; option->names[i]; i++)
        n += snprintf(reason + n, CONFIG_REASON_MAX - (size_t)n, "%s%s", i > 0 ? ", " : "", option->names[i]);
    return -EINVAL;
}

static int check_number(const struct config_option *option, const char *text, int64_t *ret,
                        char reason[static CONFIG_REASON_MAX])
{
    static const char *const kinds[] = {
        [CONFIG_INT] = "a whole number",
        [CONFIG_BYTES] = "a size: a whole number of bytes, or with K, M or G",
        [CONFIG_DURATION] = "a duration: a whole number with us, ms, s, m, h or d",
        [CONFIG_MODE] = "an octal mode",
    };
    char bound[CONFIG_TEXT_MAX];
    int64_t number = 0;
    int r = parse_number(option->type, text, &number);

    if (r == -EINVAL)
        snprintf(reason, CONFIG_REASON_MAX, "\"%.100s\" is not %s", text, kinds[option->type]);
    else if (r == -ERANGE || number > option->max)
        snprintf(reason, CONFIG_REASON_MAX, "\"%.100s\" is above %s", text,
                 config_number_text(option->type, option->max, bound));
    else if (number < option->min)
        snprintf(reason, CONFIG_REASON_MAX, "\"%.100s\" is below %s", text,
                 config_number_text(option->type, option->min, bound));
    else {
        *ret = number;
        return 0;
    }
    return -EINVAL;
}

int config_value_set(struct config *config, const struct config_option *option, const char *text,
                     char reason[static CONFIG_REASON_MAX])
{
    void *to = field(config, option);
    int64_t number;
    int r;

    switch (option->type) {
    case CONFIG_STRING:
    case CONFIG_PATH:
        return set_string(to, option, text, reason);
    case CONFIG_ENUM:
        return set_enum(to, option, text, reason);
    case CONFIG_BOOL:
        r = parse_bool(text, to);
        if (r < 0)
            snprintf(reason, CONFIG_REASON_MAX, "\"%.100s\" is not true or false", text);
        return r;
    default:
        r = check_number(option, text, &number, reason);
        if (r < 0)
            return r;
        if (option->type == CONFIG_MODE)
            *(int *)to = (int)number;
        else
            *(int64_t *)to = number;
        return 0;
    }
}

static bool is_text(const struct config_option *option)
{
    return option->type == CONFIG_STRING || option->type == CONFIG_PATH;
}

static size_t size_of(const struct config_option *option)
{
    switch (option->type) {
    case CONFIG_STRING:
    case CONFIG_PATH:
        return sizeof(char *);
    case CONFIG_BOOL:
        return sizeof(bool);
    case CONFIG_ENUM:
    case CONFIG_MODE:
        return sizeof(int);
    default:
        return sizeof(int64_t);
    }
}

bool config_value_equal(const struct config *a, const struct config *b, const struct config_option *option)
{
    if (is_text(option))
        return strcmp(*(char **)field(a, option), *(char **)field(b, option)) == 0;
    return memcmp(field(a, option), field(b, option), size_of(option)) == 0;
}

void config_value_swap(struct config *a, struct config *b, const struct config_option *option)
{
    char kept[sizeof(int64_t)];
    size_t size = size_of(option);

    assert(size <= sizeof(kept));
    memcpy(kept, field(a, option), size);
    memcpy(field(a, option), field(b, option), size);
    memcpy(field(b, option), kept, size);
}

void config_value_free(struct config *config, const struct config_option *option)
{
    char **text = field(config, option);

    if (!is_text(option))
        return;
    free(*text);
    *text = NULL;
}

const char *config_value_text(const struct config *config, const struct config_option *option,
                              char buf[static CONFIG_TEXT_MAX])
{
    const void *from = field(config, option);

    switch (option->type) {
    case CONFIG_STRING:
    case CONFIG_PATH: {
        const char *text = *(char *const *)from;

        return option->secret && text[0] ? "(set)" : text;
    }
    case CONFIG_ENUM:
        return option->names[*(const int *)from];
    case CONFIG_BOOL:
        return *(const bool *)from ? "true" : "false";
    case CONFIG_MODE:
        return config_number_text(option->type, *(const int *)from, buf);
    default:
        return config_number_text(option->type, *(const int64_t *)from, buf);
    }
}
