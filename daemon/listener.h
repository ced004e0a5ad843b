/* The workers' socket: binds or adopts it, and receives datagrams with the sender's credentials. Knows nothing of what is in them. */
#ifndef TOLL_DAEMON_LISTENER_H
#define TOLL_DAEMON_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { LISTENER_FDS_MAX = 253 }; /* the kernel's SCM_MAX_FD: a full control buffer, so that none is dropped unseen */

struct datagram {
    void *data; /* the caller's buffer */
    size_t size;
    bool truncated;    /* it was longer than the buffer */
    uint32_t uid, pid; /* the sender, from the kernel; pid 0: not visible from here */
    int fd_count;
    int fds[LISTENER_FDS_MAX]; /* the receiver's to close */
};

/* Binds a datagram socket at path, replacing a socket file nobody listens on. Returns the descriptor or -errno: -EADDRINUSE when somebody does
 * listen, -ENAMETOOLONG for a path over 107 bytes. */
int listener_bind(const char *path, mode_t mode) __attribute__((warn_unused_result));

/* Prepares a socket that came from listener_bind() or from the service manager: non-blocking, credentials on. 0, or -ENOTSOCK or -EPROTOTYPE for
 * what is no AF_UNIX datagram socket. (Its receive buffer plays no part: datagrams are charged to the sender, and counted by
 * net.unix.max_dgram_qlen; unix(7).) */
int listener_prepare(int fd) __attribute__((warn_unused_result));

/* The size of the next datagram, which stays where it is; -EAGAIN when there is none, other -errno. */
ssize_t listener_peek(int fd) __attribute__((warn_unused_result));

/* Receives up to `most` datagrams without blocking, with one call of the kernel: the i-th into buf + i * stride, cap bytes of it. Returns how many;
 * -EAGAIN when there is none, other -errno. */
enum { LISTENER_AT_ONCE = 16 }; /* most ≤ that */
int listener_receive(int fd, void *buf, size_t cap, size_t stride, unsigned most, struct datagram *ret)
    __attribute__((warn_unused_result));

#endif
