/* The socket to the daemon: connecting with back-off, and sending without ever waiting.
 *
 * Knows nothing of frames. Used by one thread at a time (the sender), with no lock held: every call here may
 * be a system call. */
#ifndef TOLL_CLIENT_LINK_H
#define TOLL_CLIENT_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

enum {
    TOLL_CONNECT_WAIT_MIN_US = 50 * 1000,
    TOLL_CONNECT_WAIT_MAX_US = 1000 * 1000, /* a try costs microseconds, a full ring costs frames */
};

struct toll_link {
    struct sockaddr_un address;
    int fd;         /* -1: not connected */
    uint64_t inode; /* of fd */
    uint64_t next_try_us, wait_us;
    uint64_t random; /* for jitter: the owner seeds it, not with 0 */
};

/* Takes the path over, which -ENAMETOOLONG or -EINVAL refuse. Connects nothing yet. */
int toll_link_init(struct toll_link *link, const char *path) __attribute__((warn_unused_result));

/* Closes the socket (if it is still ours: see toll_fd_close_own) and forgets the back-off. */
void toll_link_done(struct toll_link *link);

/* Connects if it is time. Returns 0 when connected now, -EAGAIN when it is too early, else why it failed;
 * then the next try waits longer. */
int toll_link_connect(struct toll_link *link, uint64_t now_us) __attribute__((warn_unused_result));

/* Sends one datagram, with fd attached if it is not -1. Returns 0; -EAGAIN: the socket or the daemon's queue
 * is full; anything else: the connection is closed, connect again. */
int toll_link_send(struct toll_link *link, const struct iovec *iov, int iovs, int attach_fd)
    __attribute__((warn_unused_result));

/* Whether a datagram would go through now: 0, or -EAGAIN. Finding out by sending costs three times as much where it would
 * not, and twelve times as much with a large datagram, which the kernel copies before it looks. */
int toll_link_room(const struct toll_link *link) __attribute__((warn_unused_result));

/* The largest datagram a socket of this system sends, at most TOLL_DATAGRAM_MAX (net.core.wmem_default may be
 * lower): bytes or -errno. */
int toll_link_datagram_max(void) __attribute__((warn_unused_result));

/* wait_us doubled, up to max_us, and then up to a quarter more at random, so that a thousand workers do not
 * return at one moment. */
uint64_t toll_backoff(uint64_t wait_us, uint64_t max_us, uint64_t *random);

#endif
