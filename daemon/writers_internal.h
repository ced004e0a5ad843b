/* What the files of the writers share; nobody else includes it.
 *
 * writers.c          what concerns all of them: the phases, the orders, the renewal
 * writers_members.c  each of them: what it has found out, how it stands; and what everybody asks of them */
#ifndef TOLL_DAEMON_WRITERS_INTERNAL_H
#define TOLL_DAEMON_WRITERS_INTERNAL_H

#include "daemon/share.h"
#include "daemon/writers.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum phase {
    MUSTERING, /* they open the sink, compare notes and hold */
    RENEWING,  /* they hold until the journal is another */
    LEVELLING, /* the number is to change: they come to one LSN */
    SHARING,   /* … and the sink is told */
    STORING,
    ENDING, /* there is nothing that they could still do */
};

struct member {
    struct writer *writer;
    struct sink *sink;
    struct writer_status status; /* at the last look */
};

struct writers {
    struct writers_options options;
    char host[256];
    struct journal *journal;
    struct metrics *metrics;
    struct member members[SHARE_WRITERS_MAX];
    _Atomic unsigned made; /* of these; they are never taken away */
    unsigned count;        /* so many store */
    enum phase phase;
    struct writer_order order; /* the last, without whom it went to */
    bool postponed;            /* the change of their number: one of them is stopped, and a limit may be why */
    bool own_known;            /* how many there were in the run before has been looked at */
    bool stopping;
    uint64_t hurry_lsn;
    struct apply_counted counted[SHARE_WRITERS_MAX]; /* by their number, from 1 */
    struct writer_status worst;
};

/* writers_members.c; where nothing else is said, of those that store, which are so many as `count`. */

/* The options of each: what is for all of them, it has its part of. */
struct writer_options members_options(const struct writers *w);
/* One more of them is made. 0 or -errno. */
int members_add(struct writers *w) __attribute__((warn_unused_result));
/* Asks each how it stands, and finds the worst. */
void members_look(struct writers *w);

const struct writer_notes *members_notes(const struct writers *w, unsigned index);
/* Holding, by the last order. */
bool members_holds(const struct writers *w, unsigned index);
bool members_all_hold(const struct writers *w);
bool members_any_diverted(const struct writers *w);
bool members_any_others_lack(const struct writers *w);
/* How many writers there were in the last run, if that is another number; else 0. */
unsigned members_own_number(const struct writers *w);
/* The same, of what the sink says. */
unsigned members_sink_number(const struct writers *w);
/* What all of them, and what the furthest of them, has stored. */
void members_range(const struct writers *w, uint64_t *ret_lowest, uint64_t *ret_highest);

/* As of the last look: all store and have come to that LSN; one has stopped; all store. */
bool members_all_stand_at(const struct writers *w, uint64_t lsn);
bool members_any_stopped(const struct writers *w);
bool members_all_store(const struct writers *w);

#endif
