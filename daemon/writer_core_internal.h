/* What the files of the writer's core share; nobody else includes it.
 *
 * writer_core.c       what is next and when, and doing it
 * writer_core_open.c  opening the sink, comparing its watermark with the journal, and going on from there */
#ifndef TOLL_DAEMON_WRITER_CORE_INTERNAL_H
#define TOLL_DAEMON_WRITER_CORE_INTERNAL_H

#include "daemon/clock.h"
#include "daemon/writer_core.h"

#include <stdbool.h>
#include <stdint.h>

struct writer_core {
    struct writer_options options;
    char host[256];
    struct journal *journal;
    struct sink *sink;
    struct apply *apply;
    void (*report)(void *context, const struct writer_status *status);
    void *context;
    struct writer_status status;
    struct writer_order order;

    struct journal_reader *reader;
    bool open;              /* the sink is, and notes were compared … */
    bool started;           /* … and apply goes on from there */
    bool holding;           /* until the next order there is nothing to do */
    uint64_t watermark;     /* of the last open */
    uint64_t limit;         /* nothing beyond is this order's */
    uint64_t counted_lsn;   /* frames below were counted as received in this run */
    uint64_t attempted_lsn; /* no watermark of ours can be above */
    uint64_t hurry_lsn;     /* the last batch was full: what was left then does not wait for company */
    bool advance;           /* with the next batch, over others' frames too */
    int64_t behind_us;      /* since when it has been due; 0: it is not */
    unsigned stale_in_a_row;
    bool failed;   /* the pause before the next try has not begun */
    bool unproven; /* a batch has failed, and none got through since */
    int64_t retry_at_us, retry_us;
    int64_t chores_due_us, tend_due_us;
    struct clock_watch clock;
    bool applied;        /* since the last chores */
    uint64_t chores_lsn; /* what was durable at the last chores, and when that was */
    int64_t chores_at_us;
};

/* writer_core.c */
void writer_core_publish(struct writer_core *core, enum writer_state state, const char *error);
/* Notes a state that is not WRITER_OK. Whoever watches raises the alarm, and logs it. */
void writer_core_trouble(struct writer_core *core, enum writer_state state, const char *error);
/* A lack of memory passes by itself, as the sink's troubles do that are -EAGAIN. */
enum writer_state writer_core_state_after(int r);
/* What is this order's: all that is durable, or up to the limit. */
uint64_t writer_core_goal(const struct writer_core *core);

/* writer_core_open.c */
/* Opens the sink and compares notes; holds where others must, too, else goes on. 0, or a negative errno with the trouble noted. */
int writer_core_open(struct writer_core *core, int64_t realtime_us) __attribute__((warn_unused_result));
/* All writers have compared notes: goes on from there. Results as writer_core_open(). */
int writer_core_start(struct writer_core *core, int64_t realtime_us) __attribute__((warn_unused_result));
/* Tells the sink how many writers there are from now on; the result is in the notes. */
void writer_core_tell_sink(struct writer_core *core);

#endif
