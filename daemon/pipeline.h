/* Receive loop and writers, wired to each other: what is durable wakes the writers, what is committed may be deleted and acknowledged, a log that
 * was taken back is renewed, and the two stop in the right order. All functions and callbacks are for the loop's thread. */
#ifndef TOLL_DAEMON_PIPELINE_H
#define TOLL_DAEMON_PIPELINE_H

#include "daemon/intake.h"
#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/writers.h"

#include <uv.h>

struct pipeline_options {
    struct intake_options intake;   /* without its callbacks and context */
    struct writers_options writers; /* likewise */
    /* The writers' status has changed. */
    void (*progress)(void *context, const struct writer_status *status);
    /* The journal can't be written any more, nothing more is acknowledged: pipeline_stop(), and exit with a distinct status. */
    void (*broken)(void *context);
    /* After pipeline_stop(): all is done that could be done. */
    void (*ended)(void *context);
    void *context;
};

struct pipeline; /* opaque */

/* Borrows all it is given until pipeline_free(). 0 or -errno; after a failure *ret is NULL, or has handles that pipeline_close() closes. */
int pipeline_new(struct pipeline **ret, const struct pipeline_options *options, uv_loop_t *loop, int fd,
                 struct journal *journal, struct metrics *metrics) __attribute__((warn_unused_result));

/* Stops reading, syncs what was read, and stores what is durable if the sink takes it; then calls ended(). The sink may keep it
 * waiting: a deadline is the caller's business. Stopping twice is stopping once. */
void pipeline_stop(struct pipeline *pipeline);

/* Once ended() was called, or with a pipeline that did not start: waits for the writers' threads and closes the handles. Then run
 * the loop once more, then pipeline_free(). Both take NULL. */
void pipeline_close(struct pipeline *pipeline);
void pipeline_free(struct pipeline *pipeline);

struct intake *pipeline_intake(struct pipeline *pipeline);
struct writers *pipeline_writers(struct pipeline *pipeline); /* until pipeline_free() */

#endif
