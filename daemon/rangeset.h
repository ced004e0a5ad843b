/* Sets of 64-bit numbers as sorted, disjoint, half-open ranges: which frame numbers of a stream have been seen.
 *
 * A stream without loss is one range, which needs no allocation. */
#ifndef TOLL_DAEMON_RANGESET_H
#define TOLL_DAEMON_RANGESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RANGESET_MAX = 1024 }; /* ranges; a stream with more is broken or hostile */

struct range {
    uint64_t from, to; /* [from, to) */
};

struct rangeset {
    struct range *many; /* heap, when count > 1 was ever reached; else NULL */
    struct range one;
    uint32_t count, capacity;
};

void rangeset_init(struct rangeset *set); /* empty */
void rangeset_done(struct rangeset *set); /* takes what init left, or what done left */

const struct range *rangeset_ranges(const struct rangeset *set); /* set->count of them, ascending */
bool rangeset_contains(const struct rangeset *set, uint64_t number);

/* The first number ≥ from that is not in the set. */
uint64_t rangeset_first_missing(const struct rangeset *set, uint64_t from);

/* Whether any of [from, to) is in the set. */
bool rangeset_overlaps(const struct rangeset *set, uint64_t from, uint64_t to);

/* Adds [from, to). Returns 0; -E2BIG when that would make more than RANGESET_MAX ranges; -ENOMEM. The set is unchanged on failure. */
int rangeset_add(struct rangeset *set, uint64_t from, uint64_t to) __attribute__((warn_unused_result));

/* PostgreSQL's text of an int8multirange: "{[1,5),[7,9)}". Numbers above INT64_MAX do not occur. */
size_t rangeset_format(const struct rangeset *set, char *buf,
                       size_t cap); /* like snprintf: the length it has or would have */
int rangeset_parse(struct rangeset *ret, const char *text)
    __attribute__((warn_unused_result)); /* 0, -EINVAL, -ENOMEM, -E2BIG */

#endif
