/* What intake's files share; nobody else includes it.
 *
 * intake.c           when it reads, syncs, acknowledges, pauses and stops
 * intake_datagram.c  what becomes of one datagram; and who is told whose credit is short */
#ifndef TOLL_DAEMON_INTAKE_INTERNAL_H
#define TOLL_DAEMON_INTAKE_INTERNAL_H

#include "daemon/clock.h"
#include "daemon/closer.h"
#include "daemon/door.h"
#include "daemon/intake.h"

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
    bool rewrite_due; /* a write failed while a sync was under way */
    int paused;       /* why it does not read, or 0 */
    int sync_result;
    int64_t sync_started_us;
    uint64_t sync_started_ms; /* by the loop's clock; 0: never */
    uint64_t committed_lsn, collect_below;
    int64_t collect_now_us;
    struct clock_watch clock;
    void (*on_stopped)(void *context);
    void (*on_renew)(void *context);

    bool held; /* a datagram that was read, but memory was short: the same again soon */
    struct datagram datagram;
    char buffer[TOLL_DATAGRAM_MAX];
};

/* Writes to the ack pages whose credit is short, where that has changed. */
void intake_show_credit(struct intake *intake);
/* … to one page, of a sender. */
void intake_show_on_page(void *context, uint32_t host, struct ackpage *page);

#endif
