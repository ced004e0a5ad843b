/* See rangeset.h. */
#include "daemon/rangeset.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct range *ranges_of(struct rangeset *set)
{
    return set->many ? set->many : &set->one;
}

void rangeset_init(struct rangeset *set)
{
    *set = (struct rangeset){.capacity = 1};
}

void rangeset_done(struct rangeset *set)
{
    free(set->many);
    rangeset_init(set);
}

const struct range *rangeset_ranges(const struct rangeset *set)
{
    return set->many ? set->many : &set->one;
}

/* The index of the first range that ends at or after `number`: the one that holds or touches it, or the next. */
static uint32_t find(const struct rangeset *set, uint64_t number)
{
    const struct range *ranges = rangeset_ranges(set);
    uint32_t low = 0, high = set->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (ranges[middle].to < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool rangeset_contains(const struct rangeset *set, uint64_t number)
{
    const struct range *ranges = rangeset_ranges(set);
    uint32_t i = find(set, number);

    if (i < set->count && ranges[i].to == number)
        i++;
    return i < set->count && ranges[i].from <= number;
}

uint64_t rangeset_first_missing(const struct rangeset *set, uint64_t from)
{
    const struct range *ranges = rangeset_ranges(set);
    uint32_t i = find(set, from);

    if (i < set->count && ranges[i].to == from)
        i++;
    return i < set->count && ranges[i].from <= from ? ranges[i].to : from;
}

bool rangeset_overlaps(const struct rangeset *set, uint64_t from, uint64_t to)
{
    const struct range *ranges = rangeset_ranges(set);
    uint32_t i = find(set, from);

    if (i < set->count && ranges[i].to == from)
        i++;
    return from < to && i < set->count && ranges[i].from < to;
}

static int reserve_one(struct rangeset *set)
{
    uint32_t capacity;
    struct range *many;

    if (set->count < set->capacity)
        return 0;
    if (set->count >= RANGESET_MAX)
        return -E2BIG;
    capacity = set->capacity < 4 ? 4 : set->capacity * 2;
    many = realloc(set->many, capacity * sizeof(*many));
    if (!many)
        return -ENOMEM;
    if (!set->many)
        many[0] = set->one;
    set->many = many;
    set->capacity = capacity;
    return 0;
}

int rangeset_add(struct rangeset *set, uint64_t from, uint64_t to)
{
    struct range *ranges = ranges_of(set);
    uint32_t first = find(set, from), last = first;
    int r;

    if (from >= to)
        return 0;
    /* [first, last) are the ranges that overlap or touch the new one: they become one. */
    while (last < set->count && ranges[last].from <= to)
        last++;
    if (first == last) {
        r = reserve_one(set);
        if (r < 0)
            return r;
        ranges = ranges_of(set);
        memmove(ranges + first + 1, ranges + first, (set->count - first) * sizeof(*ranges));
        ranges[first] = (struct range){from, to};
        set->count++;
        return 0;
    }
    if (ranges[first].from < from)
        from = ranges[first].from;
    if (ranges[last - 1].to > to)
        to = ranges[last - 1].to;
    ranges[first] = (struct range){from, to};
    memmove(ranges + first + 1, ranges + last, (set->count - last) * sizeof(*ranges));
    set->count -= last - first - 1;
    return 0;
}

size_t rangeset_format(const struct rangeset *set, char *buf, size_t cap)
{
    const struct range *ranges = rangeset_ranges(set);
    size_t length = 0;

    for (uint32_t i = 0; i <= set->count; i++) {
        char piece[64];
        int n = i < set->count ? snprintf(piece, sizeof(piece), "%s[%" PRIu64 ",%" PRIu64 ")", i ? "," : "{",
                                          ranges[i].from, ranges[i].to)
                               : snprintf(piece, sizeof(piece), "%s}", set->count ? "" : "{");

        if (length < cap)
            snprintf(buf + length, cap - length, "%s", piece);
        length += (size_t)n;
    }
    return length;
}

static int parse_number(const char **text, char after, uint64_t *ret)
{
    char *end;
    unsigned long long value;

    if (**text < '0' || **text > '9')
        return -EINVAL;
    errno = 0;
    value = strtoull(*text, &end, 10);
    if (errno || value > INT64_MAX || *end != after)
        return -EINVAL;
    *text = end + 1;
    *ret = value;
    return 0;
}

int rangeset_parse(struct rangeset *ret, const char *text)
{
    struct rangeset set;
    int r = -EINVAL;

    rangeset_init(&set);
    if (*text++ != '{')
        return -EINVAL;
    while (*text == '[') {
        uint64_t from, to;

        text++;
        r = parse_number(&text, ',', &from);
        if (r == 0)
            r = parse_number(&text, ')', &to);
        if (r == 0)
            r = rangeset_add(&set, from, to);
        if (r < 0)
            goto fail;
        if (*text == ',')
            text++;
    }
    if (strcmp(text, "}") != 0) {
        r = -EINVAL;
        goto fail;
    }
    *ret = set;
    return 0;
fail:
    rangeset_done(&set);
    return r;
}
