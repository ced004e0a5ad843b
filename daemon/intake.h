/* The receive loop's order: receive ▶ look at the envelope ▶ the quarantine's door ▶ journal ▶ sync, off the loop ▶ acknowledge.
 *
 * It never waits for the sink and knows nothing of frames beyond where they end. All functions are for the loop's thread. */
#ifndef TOLL_DAEMON_INTAKE_H
#define TOLL_DAEMON_INTAKE_H

#include "daemon/credit.h"
#include "daemon/journal.h"
#include "daemon/listener.h"
#include "daemon/metrics.h"
#include "daemon/streams.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum intake_ack {                    /* what a frame must have reached to be acknowledged */
                  INTAKE_ACK_SYNC,   /* the disk */
                  INTAKE_ACK_WRITE,  /* the kernel: survives the daemon's death, not the machine's */
                  INTAKE_ACK_COMMIT, /* the sink */
};

struct intake_options {
    enum intake_ack ack;
    unsigned queue; /* datagrams that the socket holds; where that is many it is read in groups. 0: it is not */
    struct streams_options streams;
    /* On the loop's thread: the durable LSN has moved. */
    void (*durable)(void *context);
    /* The journal is closed for good: nothing more can be acknowledged. Stop, and exit with a distinct status. */
    void (*broken)(void *context, int error);
    void *context;
};

struct intake; /* opaque */

/* Watches fd (of listener_prepare()), which stays the caller's. 0 or -errno. */
int intake_new(struct intake **ret, const struct intake_options *options, uv_loop_t *loop, int fd,
               struct journal *journal, struct metrics *metrics) __attribute__((warn_unused_result));
/* After intake_stop(), once the loop has run its closing handles. Takes NULL. */
void intake_free(struct intake *intake);

/* The sink has committed all below: what may be deleted, and with INTAKE_ACK_COMMIT acknowledged. */
void intake_set_committed(struct intake *intake, uint64_t committed_lsn);

/* Reads what waits in the socket, within reason, and begins to sync it. */
void intake_sync(struct intake *intake);

/* Stops reading, tells the workers, and syncs what was read; then calls stopped(). Datagrams in the socket stay there for the next daemon. */
void intake_stop(struct intake *intake, void (*stopped)(void *context));

/* Takes a renewed journal into use: `renew` is called when no sync is under way. */
void intake_renew(struct intake *intake, void (*renew)(void *context));

/* How old a batch may become: frames are synced, and so acknowledged, in groups a 20th part of it apart, 2 to 5 ms; 2 ms before this is called.
 * Below 20 ms it is set for latency's sake: then the socket is read at once, never in groups. */
void intake_set_batch_age(struct intake *intake, int64_t age_us);

/* Above so many rows the door is closed to what would be quarantined: see door.h. */
void intake_set_quarantine_limit(struct intake *intake, uint64_t rows);

/* Which sessions are short of credit: what the ack pages say from now on. Takes the list over. While it is not empty, frames that pass by are looked at for
 * their session: their sender's page is told of it. */
void intake_set_credit(struct intake *intake, struct credit_session *list, size_t count);

/* Not reading: -ENOSPC, the journal has no space; -EAGAIN, out of memory, for a moment. 0: reading. */
int intake_paused(const struct intake *intake);
/* Descriptors that workers should not have sent and that are not closed yet; whether closing one takes seconds. */
size_t intake_descriptors(const struct intake *intake, bool *ret_stuck);
const struct streams *intake_streams(const struct intake *intake);

/* One datagram, as the loop would: for tests. 0; -ENOSPC or -EAGAIN: not taken, the same again later; other -errno: the journal is closed. */
int intake_datagram(struct intake *intake, const struct datagram *datagram, int64_t now_us)
    __attribute__((warn_unused_result));

#endif
