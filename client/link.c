/* The datagram socket: connect, send, notice that the daemon's socket is gone or was replaced. Never waits,
 * never raises a signal. */
#include "client/link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "client/ackpage.h"
#include "proto/hot.h"
#include "proto/frame.h"

int toll_link_init(struct toll_link *link, const char *path)
{
    size_t size = strlen(path);
    if (size == 0)
        return -EINVAL;
    if (size >= sizeof link->address.sun_path)
        return -ENAMETOOLONG;
    *link = (struct toll_link){.address.sun_family = AF_UNIX, .fd = -1, .random = 1};
    memcpy(link->address.sun_path, path, size);
    link->wait_us = TOLL_CONNECT_WAIT_MIN_US;
    return 0;
}

void toll_link_done(struct toll_link *link)
{
    toll_fd_close_own(link->fd, link->inode);
    link->fd = -1;
    link->next_try_us = 0;
    link->wait_us = TOLL_CONNECT_WAIT_MIN_US;
}

uint64_t toll_backoff(uint64_t wait_us, uint64_t max_us, uint64_t *random)
{
    *random ^= *random << 13; /* xorshift64: Marsaglia, "Xorshift RNGs", 2003 */
    *random ^= *random >> 7;
    *random ^= *random << 17;
    wait_us = wait_us > max_us / 2 ? max_us : wait_us * 2;
    return wait_us + *random % (wait_us / 4 + 1);
}

static int link_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

int toll_link_connect(struct toll_link *link, uint64_t now_us)
{
    if (now_us < link->next_try_us)
        return -EAGAIN;
    int fd = link_socket();
    int r = fd < 0 ? fd : 0;
    if (r == 0 && connect(fd, (const struct sockaddr *)&link->address, sizeof link->address) < 0) {
        r = -errno;
        close(fd);
    }
    /* the back-off stays until a datagram goes through: a socket nobody reads can be connected to as well */
    link->next_try_us = now_us + link->wait_us;
    link->wait_us = toll_backoff(link->wait_us, TOLL_CONNECT_WAIT_MAX_US, &link->random);
    if (r < 0)
        return r;
    link->fd = fd;
    link->inode = toll_fd_inode(fd);
    return 0;
}

TOLL_HOT int toll_link_send(struct toll_link *link, const struct iovec *iov, int iovs, int attach_fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovs};
    if (attach_fd >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof control.bytes;
        control.header =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &attach_fd, sizeof attach_fd);
    }

    ssize_t n;
    do { /* send() is a sixth cheaper: there is no header and no list to copy */
        n = iovs == 1 && attach_fd < 0 ? send(link->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                                       : sendmsg(link->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        link->wait_us = TOLL_CONNECT_WAIT_MIN_US;
        return 0;
    }
    int error = errno;
    switch (error) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
    case ETOOMANYREFS: /* too many ack pages in flight: unix(7) */
        return -EAGAIN;
    default: /* ECONNREFUSED, ECONNRESET, ENOTCONN, EPIPE …: whatever it is, a new socket is the only cure */
        toll_fd_close_own(link->fd, link->inode);
        link->fd = -1;
        return -error;
    }
}

int toll_link_room(const struct toll_link *link)
{
    struct pollfd pollfd = {.fd = link->fd, .events = POLLOUT};
    return poll(&pollfd, 1, 0) == 0 ? -EAGAIN : 0;
}

int toll_link_datagram_max(void)
{
    int fd = link_socket();
    if (fd < 0)
        return fd;
    int bytes = 0;
    socklen_t size = sizeof bytes;
    int r = getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size) < 0 ? -errno : 0;
    close(fd);
    if (r < 0)
        return r;
    bytes -= 32; /* what unix_dgram_sendmsg() in the kernel's net/unix/af_unix.c subtracts */
    return bytes < TOLL_DATAGRAM_MAX ? bytes : TOLL_DATAGRAM_MAX;
}
