/* The sender: decides what goes out when. It joins the ring (what is kept), the link (the socket) and the ack
 * page (what the daemon has), and it keeps the protocol's promises: numbers, base, resending, attaching
 * again, gaps.
 *
 * Thread-safe by two rules. Bookkeeping happens under `lock`, which is never held across a system call. One
 * thread at a time is the sender (`sending`); others leave their frames in the ring, and the sender looks
 * again, under the lock, before it goes. The lock also guards the caller's own bookkeeping about the same
 * frames, so it is taken by the caller. */
#ifndef TOLL_CLIENT_SENDER_H
#define TOLL_CLIENT_SENDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/ackpage.h"
#include "client/link.h"
#include "client/ring.h"
#include "client/toll.h"
#include "proto/frame.h"

enum {
    TOLL_SEND_IOVS = 256,    /* pieces of one datagram; the kernel takes 1,024 */
    TOLL_ENVELOPE_MAX = 384, /* bytes of a stream frame with the longest client name */
    TOLL_GATHER_MAX = 1024,  /* bytes of a datagram that is sent in one piece */
    TOLL_GAP_RESERVE = 96,   /* bytes of the ring kept for one gap frame */

    TOLL_RESEND_WAIT_MIN_US = 200 * 1000, /* without progress, then resend; doubled up to */
    TOLL_RESEND_WAIT_MAX_US = 5 * 1000 * 1000,
    TOLL_RESEND_WAIT_URGENT_US = 1000 * 1000,  /* or only to this while somebody waits */
    TOLL_HEARTBEAT_STALE_US = 3 * 1000 * 1000, /* then attach again, at most this often */
    TOLL_BLOCKED_WAIT_MIN_US = 1000,           /* after a full socket; doubled up to the next, or to the one after */
    TOLL_BLOCKED_WAIT_MAX_US = 4 * 1000,     /* where the heartbeat is stale. Acks, which show that the daemon reads, */
    TOLL_BLOCKED_WAIT_STALE_US = 128 * 1000, /* end the wait, and somebody who waits makes it short */
    TOLL_TICKS_US = 500 * 1000,              /* a tick within this time: somebody ticks */
    TOLL_BUSY_WAIT_US = 20 * 1000,           /* while the daemon is busy: a datagram this often, or when */
    TOLL_BUSY_BYTES = 16 * 1024,             /* so much waits */
    TOLL_PUSH_BYTES = 16 * 1024,             /* once so much has gone out with a record, the rest waits for the next */
    TOLL_SEND_BUDGET = 128,                  /* datagrams in one call, so that no thread sends for others for ever */
};

struct toll_sender {
    pthread_mutex_t lock;
    uint64_t (*clock_us)(void); /* CLOCK_BOOTTIME, which the heartbeat is in; a seam for tests */

    /* under the lock */
    struct toll_ring ring;
    struct toll_acks acks; /* last read */
    struct toll_stats stats;
    uint64_t gap_count;
    int64_t gap_since_us, gap_until_us;
    uint64_t progress_us; /* when acked last grew, or the ring was last empty */
    uint64_t resend_wait_us;
    uint64_t ticked_us;   /* the last toll_sender_pump() */
    bool sending, rewind; /* rewind: a new epoch was seen */

    /* of the thread that is sending */
    struct toll_link link;
    struct toll_ackpage page; /* set under the lock */
    bool attach;              /* the next datagram carries the page */
    uint64_t attached_us, sent_us, connections;
    uint64_t blocked_us, blocked_wait_us; /* the socket was full: when, and how long to leave it alone; 0: it was not */
    uint8_t head[TOLL_GATHER_MAX];        /* the envelope, and what goes out in one piece with it */

    /* never changes */
    size_t frame_max;  /* bytes of the largest frame that can be sent and kept */
    size_t frames_max; /* bytes of frames in one datagram */
    uint8_t stream_id[16];
    char client[TOLL_NAME_MAX + 1];

    struct iovec
        iov[TOLL_SEND_IOVS]; /* of the thread that is sending; last, so that what every record() uses is close */
};

/* Makes a sender over ring memory (a power of two of bytes, the caller's), and its page and socket; an absent
 * daemon is no failure. client is cut to TOLL_NAME_MAX bytes. 0 or -errno; after a failure nothing is left to
 * free. */
int toll_sender_init(struct toll_sender *sender, const char *path, const char *client, void *ring, size_t ring_bytes)
    __attribute__((warn_unused_result));

/* In a forked child, alone: closes what was inherited and begins a new stream with an empty ring, whatever
 * state the parent's threads left the sender in. */
void toll_sender_reborn(struct toll_sender *sender);

void toll_sender_done(struct toll_sender *sender);

/* Has what the next steps touch fetched meanwhile: a process that records at human pace finds its caches cold, and one
 * page of memory after the other costs as much as all of the work. Any thread, without the lock. */
static inline void toll_sender_fetch(const struct toll_sender *sender)
{
    __builtin_prefetch(&sender->lock, 1);
    __builtin_prefetch(__atomic_load_n(&sender->page.map, __ATOMIC_RELAXED));
}

/* The three steps of recording, with the lock held and one reading of sender->clock_us() for all of them.
 * _look: takes in what the daemon has said.
 * _put: keeps one frame for sending: 0, -ENOBUFS or -EMSGSIZE, counted.
 * _push: sends what there is to send, but no more than one large datagram of what waits, unless another thread is at it;
 *     gives up the lock around system calls. Where the daemon is gone or reads nothing, trying is left to the ticks, if there are any. */
void toll_sender_look(struct toll_sender *sender, uint64_t now_us);
int toll_sender_put(struct toll_sender *sender, const void *frame, size_t size, uint64_t now_us)
    __attribute__((warn_unused_result));
void toll_sender_push(struct toll_sender *sender, uint64_t now_us);

/* Without the lock: looks and sends. Never blocks. urgent: a waiter wants everything out now, pending gap included. */
void toll_sender_pump(struct toll_sender *sender, bool urgent);

/* Without the lock: pumps until all that was put before, and its gap frame, are acknowledged: 0, or
 * -ETIMEDOUT after timeout_ms. */
int toll_sender_flush(struct toll_sender *sender, uint32_t timeout_ms) __attribute__((warn_unused_result));

/* With the lock held: the statistics as of now. */
void toll_sender_stats(struct toll_sender *sender, struct toll_stats *ret);

#endif
