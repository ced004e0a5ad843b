/* What the writer does, without its thread: no lock, no waiting, the time passed in. writer.c waits and wakes; a simulation may drive this too.
 *
 * A turn is writer_look(), which is cheap and says what is to be done and when, and then writer_do(), which does it and may take as long as
 * the sink's server likes. All functions are for one thread. */
#ifndef TOLL_DAEMON_WRITER_CORE_H
#define TOLL_DAEMON_WRITER_CORE_H

#include "daemon/writer.h"

#include <stdbool.h>
#include <stdint.h>

enum writer_next {
    WRITER_WAIT, /* nothing, until a moment or until the wishes change */
    WRITER_OPEN,
    WRITER_TELL_SINK, /* the order to share */
    WRITER_START,
    WRITER_APPLY,
    WRITER_CHORES,
    WRITER_END, /* it was asked to stop, and there is nothing left that it could do */
};

/* What others want of the writer. pending_since_us is written by both sides. */
struct writer_wishes {
    bool stopping;
    struct writer_order order;
    uint64_t hurry_lsn;       /* don't wait for company up to there */
    int64_t pending_since_us; /* monotonic; 0: nothing durable waits */
};

/* Now, by both clocks. */
struct writer_time {
    int64_t monotonic_us, realtime_us;
};

struct writer_core; /* opaque */

/* report() is called with every change of the status. Borrows journal, sink and metrics. NULL: out of memory. */
struct writer_core *writer_core_new(const struct writer_options *options, struct journal *journal, struct sink *sink,
                                    struct metrics *metrics, struct writer_time now,
                                    void (*report)(void *context, const struct writer_status *status), void *context);
void writer_core_free(struct writer_core *core); /* takes NULL */
void writer_core_set_options(struct writer_core *core, const struct writer_options *options);

/* What is next. With WRITER_WAIT, *ret_until_us is a monotonic time, or INT64_MAX. */
enum writer_next writer_look(struct writer_core *core, struct writer_wishes *wishes, int64_t now_us,
                             int64_t *ret_until_us);
/* Whether so much is durable above this LSN that its batch need not be old. From any thread, under the lock under which writer_look() is called. */
bool writer_core_has_enough(const struct writer_core *core, uint64_t applied_lsn);
/* Does what writer_look() said; not for WRITER_WAIT. */
void writer_do(struct writer_core *core, enum writer_next next, struct writer_time now);

struct apply *writer_core_apply(struct writer_core *core);

#endif
