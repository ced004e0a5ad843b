/* The ack page: 4,096 bytes that the daemon shares with one worker, so that acknowledging costs neither side a system call.
 *
 * proto/PROTOCOL.md has its layout. What the worker writes into it is never read back. Not thread-safe. */
#ifndef TOLL_DAEMON_ACKPAGE_H
#define TOLL_DAEMON_ACKPAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ackpage_state { ACKPAGE_OK = 0, ACKPAGE_BUSY = 1, ACKPAGE_STOPPING = 2 };

struct ackpage; /* opaque */

/* Maps the page behind a descriptor that a worker sent. The descriptor stays the caller's. 0, -EINVAL: not a memfd of 4,096 bytes sealed against
 * shrinking and growing (without the seals, a page cut short would kill the daemon with SIGBUS), -ENOMEM, other -errno of mmap. */
int ackpage_map(struct ackpage **ret, int fd) __attribute__((warn_unused_result));
void ackpage_unmap(struct ackpage *page); /* takes NULL */

/* Writes everything: magic, version, acked, state, heartbeat, an empty credit table, and last the epoch (µs since 1970). */
void ackpage_begin(struct ackpage *page, uint64_t epoch, uint64_t acked, enum ackpage_state state,
                   uint64_t now_boottime_ms);

/* Stores with release: what the worker reads there has happened before. */
void ackpage_set_acked(struct ackpage *page, uint64_t acked);
void ackpage_set_state(struct ackpage *page, enum ackpage_state state);
void ackpage_set_heartbeat(struct ackpage *page, uint64_t now_boottime_ms);

enum { ACKPAGE_CREDITS = 168 };

struct ackpage_credit {
    uint8_t session[16];
    uint32_t state; /* 1 low, 2 exhausted */
};

/* Replaces the credit table, in such a way that a worker sees all of the old one or all of the new one. more: there are others that did not fit. */
void ackpage_set_credit(struct ackpage *page, const struct ackpage_credit *entries, size_t count, bool more);

#endif
