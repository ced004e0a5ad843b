/* What intake's files share; nobody else includes it.
 *
 * intake.c           when it reads, syncs, acknowledges, pauses and stops
 * intake_datagram.c  what becomes of one datagram; and who is told whose credit is short */
#ifndef TOLL_DAEMON_INTAKE_INTERNAL_H
#define TOLL_DAEMON_INTAKE_INTERNAL_H

#include "daemon/clock.h"
#include "daemon/closer.h"
#include "daemon/datagram.h"
#include "daemon/door.h"
#include "daemon/intake.h"
#include "proto/frame.h"

/* Not a power of two: datagrams that are small would take each other's places in the processor's caches. */
enum { INBOX_STRIDE = TOLL_DATAGRAM_MAX + 9 * 64 };
_Static_assert(INBOX_STRIDE >= TOLL_DATAGRAM_MAX + DATAGRAM_INDEX_MAX, "an index goes behind a datagram");

struct intake {
    struct intake_options options;
    struct journal *journal;
    struct metrics *metrics;
    struct streams *streams;
    struct closer *closer;
    struct door *door;
    struct credit *credit;
    uv_loop_t *loop;
    int fd;
    size_t descriptors_most;

    uv_poll_t readable;
    uv_timer_t tend, collect, mark, group;
    uv_work_t sync_work, collect_work;
    bool syncing, collecting, stopping, stopped, broken;
    bool resting;     /* the socket is left alone until the next group */
    bool rewrite_due; /* a write failed while a sync was under way */
    int paused;       /* why it does not read, or 0 */
    int sync_result;
    int64_t sync_started_us;
    uint64_t sync_started_ms, read_ms; /* by the loop's clock; 0: never */
    uint64_t group_ms;                 /* between one group and the next */
    bool rests;                        /* may leave the socket alone until the next group */
    uint64_t committed_lsn, collect_below;
    int64_t collect_now_us;
    struct clock_watch clock;
    void (*on_stopped)(void *context);
    void (*on_renew)(void *context);

    unsigned at_once; /* datagrams that may be taken out of the socket with one call */
    bool large;       /* the last ones were large */
    bool emptied;     /* the last call found no more */

    /* What was taken out and is not journaled yet; where memory is short: the same again soon. */
    unsigned inbox_next, inbox_count;
    int64_t inbox_us; /* when it was */
    struct datagram inbox[LISTENER_AT_ONCE];
    char buffers[LISTENER_AT_ONCE][INBOX_STRIDE];
};

/* Writes to the ack pages whose credit is short, where that has changed. */
void intake_show_credit(struct intake *intake);
/* … to one page, of a sender. */
void intake_show_on_page(void *context, uint32_t host, struct ackpage *page);

#endif
