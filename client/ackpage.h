/* The worker's side of the ack page: a sealed memfd that the daemon writes and the worker reads without a
 * system call.
 *
 * protocol.md's table of offsets is the layout. Reading is safe from any thread; making and freeing is not.
 * What the page says is not believed here or anywhere: whoever uses a value checks it. */
#ifndef TOLL_CLIENT_ACKPAGE_H
#define TOLL_CLIENT_ACKPAGE_H

#include <stdbool.h>
#include <stdint.h>

enum { TOLL_ACKPAGE_BYTES = 4096, TOLL_ACKPAGE_VERSION = 1 };
#define TOLL_ACKPAGE_MAGIC UINT32_C(0x4C4C4F54) /* "TOLL" */

enum toll_ackpage_state { TOLL_DAEMON_OK = 0, TOLL_DAEMON_BUSY = 1, TOLL_DAEMON_STOPPING = 2 };

struct toll_ackpage {
    int fd;             /* -1: none */
    const uint8_t *map; /* NULL: none */
    uint64_t inode;
};

/* What the daemon has said last. */
struct toll_acks {
    uint64_t epoch, acked, heartbeat_ms;
    uint32_t state;
};

/* Makes a page, or does nothing if there is one: 0 or -errno. The caller sends page->fd to the daemon. */
int toll_ackpage_make(struct toll_ackpage *page) __attribute__((warn_unused_result));

/* Unmaps and closes; the page may be made again. In a forked child that closed descriptors and opened others,
 * only what is still the page's own descriptor is closed. */
void toll_ackpage_done(struct toll_ackpage *page);

/* Reads the page with acquire loads. False while no daemon has written it, and for a magic or version that is
 * not ours. */
bool toll_ackpage_read(const struct toll_ackpage *page, struct toll_acks *ret);

/* The state that the credit table gives a session: 0 (ok: it is not in the table), 1 low, 2 exhausted; 1 as well where it is not in a table that could not
 * hold all. Any thread, also while the daemon writes: then it is read again, but not for ever. A number that is none of these is 0. */
uint32_t toll_ackpage_credit(const struct toll_ackpage *page, const uint8_t session_id[static 16]);
/* One look for that: false if the daemon was writing, so that *ret may be of a table that never was. */
bool toll_ackpage_look(const struct toll_ackpage *page, const uint8_t session_id[static 16], uint32_t *ret);

/* Closes fd if it still is the file with this inode. Shared with the socket, for the same reason. */
void toll_fd_close_own(int fd, uint64_t inode);

/* The inode behind fd, 0 if there is none. */
uint64_t toll_fd_inode(int fd);

#endif
