/* See listener.h. */
#include "daemon/listener.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fill_address(struct sockaddr_un *address, const char *path)
{
    size_t length = strlen(path);

    if (length >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, path, length + 1);
    return 0;
}

/* Whether a process holds the other end of that path. */
static bool somebody_listens(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool listens;

    if (fd < 0)
        return true;
    listens = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno != ECONNREFUSED;
    close(fd);
    return listens;
}

int listener_bind(const char *path, mode_t mode)
{
    const int on = 1;
    struct sockaddr_un address;
    struct stat status;
    int fd, r;

    r = fill_address(&address, path);
    if (r < 0)
        return r;
    if (lstat(path, &status) == 0) {
        if (!S_ISSOCK(status.st_mode) || somebody_listens(&address))
            return -EADDRINUSE;
        (void)unlink(path);
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* Both before binding. The mode, so that the file never has a wider one. Credentials, because what is sent while the receiver does not ask
     * for them comes from nobody: a worker's stream would be another one then, and what it sends again be stored twice. */
    if (fchmod(fd, mode) < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, mode) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static int check_option(int fd, int option, int expected, int error)
{
    int value;
    socklen_t size = sizeof(value);

    if (getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0)
        return -errno;
    return value == expected ? 0 : error;
}

int listener_prepare(int fd)
{
    const int on = 1;
    int r;

    r = check_option(fd, SO_DOMAIN, AF_UNIX, -EPROTOTYPE);
    if (r == 0)
        r = check_option(fd, SO_TYPE, SOCK_DGRAM, -EPROTOTYPE);
    if (r < 0)
        return r;
    if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

static void read_control(struct msghdr *message, struct datagram *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(struct ucred))) {
            struct ucred credentials;

            memcpy(&credentials, CMSG_DATA(c), sizeof(credentials));
            ret->uid = credentials.uid;
            ret->pid = (uint32_t)credentials.pid;
        } else if (c->cmsg_type == SCM_RIGHTS) {
            size_t bytes = c->cmsg_len - CMSG_LEN(0);

            ret->fd_count = (int)(bytes / sizeof(int));
            memcpy(ret->fds, CMSG_DATA(c), (size_t)ret->fd_count * sizeof(int));
        }
    }
}

ssize_t listener_peek(int fd)
{
    ssize_t size;
    char byte;

    do
        size = recv(fd, &byte, sizeof(byte), MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
    return size < 0 ? -errno : size;
}

int listener_receive(int fd, void *buf, size_t cap, size_t stride, unsigned most, struct datagram *ret)
{
    union {
        char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(LISTENER_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control[LISTENER_AT_ONCE];
    struct mmsghdr messages[LISTENER_AT_ONCE];
    struct iovec io[LISTENER_AT_ONCE];
    int count;

    assert(most >= 1 && most <= LISTENER_AT_ONCE);
    for (unsigned i = 0; i < most; i++) {
        io[i] = (struct iovec){.iov_base = (char *)buf + i * stride, .iov_len = cap};
        messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &io[i],
            .msg_iovlen = 1,
            .msg_control = control[i].bytes,
            .msg_controllen = sizeof(control[i].bytes),
        };
    }
    do
        count = recvmmsg(fd, messages, most, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL);
    while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++) {
        ret[i].data = io[i].iov_base;
        ret[i].size = messages[i].msg_len;
        ret[i].truncated = messages[i].msg_hdr.msg_flags & MSG_TRUNC;
        ret[i].uid = UINT32_MAX;
        ret[i].pid = 0;
        ret[i].fd_count = 0;
        read_control(&messages[i].msg_hdr, &ret[i]);
    }
    return count;
}
