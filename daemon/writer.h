/* One writer's thread: drives apply as long as the sink takes batches, waits when there is nothing to do or the sink is away, and says how it stands.
 * It stores the sessions that are its share of a journal; several of them are a group (writers.h), which gives the orders.
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
    int64_t batch_age_us; /* how long a frame may wait for company */
    int64_t retry_max_us; /* longest pause between tries */
    bool prompt; /* the watermark is waited for: it moves within batch_age_us also where others store what went by */
    uint64_t counted_lsn; /* of the journal: frames below were not counted as received in this run of the daemon */
    const char *host;     /* for toll.journals; copied */
    void (*progress)(void *context); /* called on the writer's thread after every change of writer_status() */
    void *context;
};

enum writer_state {
    WRITER_CONNECTING,
    WRITER_HOLDING, /* it has compared notes with the sink, and waits for the next order */
    WRITER_OK,
    WRITER_RETRYING, /* the sink is away: tries go on */
    WRITER_STOPPED,  /* somebody must do something; tries go on at leisure */
    WRITER_RENEW,    /* the journal is being renewed */
    WRITER_DONE,     /* after writer_stop() */
};

/* What comparing notes with the sink has shown. */
struct writer_notes {
    unsigned order;      /* the number of the order to do so */
    uint64_t stored_lsn; /* below, all of this log that is the writer's share is stored … */
    bool unknown;        /* … or that can't be told, for the sink has no such writer */
    bool diverted;       /* what the sink has beyond is of another log: this one must be renewed */
    bool others_lack;    /* the sink went back, and another writer may not know it yet: it must compare notes again */
    int sink_writers;    /* so many the sink knows of this journal; 0: it doesn't count */
    int own_writers;     /* so many there were in the run before, as its file says; 0: not known */
    int shared;          /* the order to share: 1 done, 0 under way, or a negative result */
};

struct writer_status {
    enum writer_state state;
    uint64_t committed_lsn;     /* the sink's watermark: what the journal may delete below; 0: not known yet */
    uint64_t applied_lsn;       /* the same, counting what needs no storing after it */
    unsigned renewals, writers; /* its LSNs are of the journal after so many, and of the share of one of so many */
    uint64_t failures;          /* since start: how often storing failed and was put off */
    char error[768];            /* why it is not WRITER_OK, and what to do */
    uint64_t counted_lsn;       /* its own frames below were counted in this run, or are when they are stored */
    struct writer_notes notes;
};

/* Orders of the group, one at a time. */
struct writer_order {
    unsigned number; /* a new one is a new order */
    enum {
        WRITER_REST,   /* nothing is its share */
        WRITER_MUSTER, /* open the sink, compare notes, and hold */
        WRITER_GO,     /* holding, and so do all: store, as the last muster has said */
        WRITER_SHARE,  /* holding: tell the sink that from now on there are `count` writers */
    } what;
    unsigned writer, writers; /* muster: which share is its own */
    bool sink_said;           /* muster: that there are so many */
    uint64_t limit;           /* go: not beyond this LSN */
    unsigned count;           /* share */
    /* What was counted as received in this run by nobody, and what when they were another number. Changes only with the number, when all hold. */
    uint64_t counted_lsn;
    const struct apply_counted *counted;
    unsigned renewals;     /* of the journal, so far, … */
    uint64_t renewed_from; /* … the last from here */
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
void writer_stop(struct writer *writer); /* apply what is durable, then end; at once if the sink is away */
void writer_order(struct writer *writer, const struct writer_order *order);
void writer_get_status(struct writer *writer, struct writer_status *ret);

/* The live sessions: see apply.h. */
struct apply *writer_apply(struct writer *writer);

const char *writer_state_name(enum writer_state state); /* as tollctl shows it: "ok", "retrying" … */

#endif
