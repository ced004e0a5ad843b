/* The writer's thread: drives apply as long as the sink takes batches, waits when there is nothing to do or the sink is away, and says how it stands.
 *
 * Plain blocking code: a frozen server stalls this thread and nothing else. All functions are for the main thread. */
#ifndef TOLL_DAEMON_WRITER_H
#define TOLL_DAEMON_WRITER_H

#include "daemon/apply.h"
#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/sink.h"

#include <stdbool.h>
#include <stdint.h>

struct writer_options {
    struct apply_options apply;
    int64_t batch_age_us;            /* how long a frame may wait for company */
    int64_t retry_max_us;            /* longest pause between tries */
    const char *host;                /* for toll.journals; copied */
    void (*progress)(void *context); /* called on the writer's thread after every change of writer_status() */
    void *context;
};

enum writer_state {
    WRITER_CONNECTING,
    WRITER_OK,
    WRITER_RETRYING, /* the sink is away: tries go on */
    WRITER_STOPPED,  /* somebody must do something; tries go on at leisure */
    WRITER_RENEW,    /* the journal must be renewed from renew_from: see writer_renewed() */
    WRITER_DONE,     /* after writer_stop() */
};

struct writer_status {
    enum writer_state state;
    uint64_t committed_lsn; /* the sink's watermark: what the journal may delete below */
    uint64_t applied_lsn;   /* the same, marks after it counted */
    uint64_t renew_from;
    unsigned renewals; /* … so many so far: the state may be seen again when that was done already */
    uint64_t failures; /* since start: how often storing failed and was put off */
    char error[768];   /* why it is not WRITER_OK, and what to do */
};

struct writer; /* opaque */

/* Starts the thread. Borrows journal, sink and metrics until writer_free(). 0, -ENOMEM or another -errno. */
int writer_new(struct writer **ret, const struct writer_options *options, struct journal *journal, struct sink *sink,
               struct metrics *metrics) __attribute__((warn_unused_result));
/* Waits for the thread to end: call it in state WRITER_DONE, or it waits for the sink. Takes NULL. */
void writer_free(struct writer *writer);

void writer_set_options(struct writer *writer,
                        const struct writer_options *options); /* the thread takes them over with its next batch */
void writer_wake(struct writer *writer);                       /* the durable LSN has moved */
void writer_hurry(struct writer *writer, uint64_t lsn);        /* don't wait for company up to there */
void writer_stop(struct writer *writer);    /* apply what is durable, then end; at once if the sink is away */
void writer_renewed(struct writer *writer); /* the journal has a new identity and holds what was not applied */
void writer_get_status(struct writer *writer, struct writer_status *ret);

/* The live sessions: see apply.h. */
struct apply *writer_apply(struct writer *writer);

const char *writer_state_name(enum writer_state state); /* as tollctl shows it: "ok", "retrying" … */

#endif
