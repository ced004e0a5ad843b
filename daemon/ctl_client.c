/* See ctl_client.h. */
#include "daemon/ctl_client.h"

#include "daemon/clock.h"
#include "daemon/control_value.h"
#include "proto/walk.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ_BYTES = 65536, REPLY_MAX = 64 << 20 };

static void explain(int r, const char *path, int timeout_ms, char error[static CTL_ERROR_MAX])
{
    switch (r) {
    case -ENOENT:
    case -ECONNREFUSED:
        snprintf(error, CTL_ERROR_MAX, "can't reach tolld at %s: is it running? (systemctl status tolld)", path);
        break;
    case -EACCES:
    case -EPERM:
        snprintf(error, CTL_ERROR_MAX,
                 "can't reach tolld at %s: permission denied; run tollctl as root or as a member of the socket's group",
                 path);
        break;
    case -ETIMEDOUT:
    case -EAGAIN: /* connect: its queue of connections is full */
        snprintf(error, CTL_ERROR_MAX, "tolld at %s has not answered within %d s: is it stuck? (journalctl -u tolld)",
                 path, (timeout_ms + 999) / 1000);
        break;
    case -ECONNRESET:
    case -EPIPE:
        snprintf(error, CTL_ERROR_MAX,
                 "tolld at %s closed the connection: it is stopping, or too many clients ask at once; try again", path);
        break;
    case -EBADMSG:
        snprintf(error, CTL_ERROR_MAX, "what answers at %s is not tolld, or not of this version", path);
        break;
    default:
        snprintf(error, CTL_ERROR_MAX, "can't ask tolld at %s: %s", path, strerror(-r));
    }
}

/* Waits until the socket is ready. 0, -ETIMEDOUT or -errno. */
static int await(int fd, short events, int64_t deadline_us)
{
    for (;;) {
        int64_t left_us = deadline_us - clock_monotonic_us();
        struct pollfd poller = {.fd = fd, .events = events};
        int n = left_us > 0 ? poll(&poller, 1, (int)((left_us + 999) / 1000)) : 0;

        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

static int open_socket(const char *path, int *ret)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, r;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    *ret = fd;
    return 0;
}

static int send_request(int fd, const struct ctl_request *request, int64_t deadline_us)
{
    msgpack_sbuffer bytes;
    msgpack_packer packer;
    size_t sent = 0;
    int r = 0;

    msgpack_sbuffer_init(&bytes);
    msgpack_packer_init(&packer, &bytes, msgpack_sbuffer_write);
    msgpack_pack_map(&packer, 1 + (request->number_key != NULL) + (request->text_key != NULL));
    pack_pair_text(&packer, "command", request->command);
    if (request->number_key)
        pack_pair_uint(&packer, request->number_key, request->number);
    if (request->text_key)
        pack_pair_text(&packer, request->text_key, request->text);
    while (r == 0 && sent < bytes.size) {
        ssize_t n = send(fd, bytes.data + sent, bytes.size - sent, MSG_NOSIGNAL);

        if (n >= 0)
            sent += (size_t)n;
        else if (errno == EAGAIN)
            r = await(fd, POLLOUT, deadline_us);
        else if (errno != EINTR)
            r = -errno;
    }
    if (r == 0 && shutdown(fd, SHUT_WR) < 0)
        r = -errno;
    msgpack_sbuffer_destroy(&bytes);
    return r;
}

/* Reads until the daemon closes, which it does after the reply, because the client has closed its own direction. */
static int receive_reply(int fd, int64_t deadline_us, char **ret, size_t *ret_size)
{
    char *bytes = NULL;
    size_t size = 0, cap = 0;
    int r = 0;

    for (;;) {
        ssize_t n;

        if (size == cap) {
            char *more = cap < REPLY_MAX ? realloc(bytes, cap + READ_BYTES + cap / 2) : NULL;

            if (!more) {
                r = cap < REPLY_MAX ? -ENOMEM : -EBADMSG;
                break;
            }
            bytes = more;
            cap += READ_BYTES + cap / 2;
        }
        r = await(fd, POLLIN, deadline_us);
        if (r < 0)
            break;
        n = recv(fd, bytes + size, cap - size, 0);
        if (n == 0) {
            *ret = bytes;
            *ret_size = size;
            return 0;
        }
        if (n > 0) {
            size += (size_t)n;
        } else if (errno != EINTR && errno != EAGAIN) {
            r = -errno;
            break;
        }
    }
    free(bytes);
    return r;
}

/* Lengths are checked before msgpack-c believes them. */
static int unpack_reply(const char *bytes, size_t size, msgpack_unpacked *ret)
{
    enum { MAP_OF_TWO = 0x82 }; /* how a reply begins: then it was cut short */
    size_t end;

    if (toll_walk(bytes, size, &end) < 0)
        return size == 0 || (unsigned char)bytes[0] == MAP_OF_TWO ? -ECONNRESET : -EBADMSG;
    end = 0;
    return msgpack_unpack_next(ret, bytes, size, &end) == MSGPACK_UNPACK_SUCCESS ? 0 : -ENOMEM;
}

static int read_verdict(struct ctl_reply *reply, char error[static CTL_ERROR_MAX])
{
    const msgpack_object *map = &reply->unpacked.data, *ok = value_get(map, "ok");

    if (!ok || ok->type != MSGPACK_OBJECT_BOOLEAN)
        return -EBADMSG;
    if (!ok->via.boolean)
        return value_text(map, "error", error, CTL_ERROR_MAX) < 0 ? -EBADMSG : -EREMOTEIO;
    reply->data = value_get(map, "data");
    return reply->data ? 0 : -EBADMSG;
}

int ctl_ask(const char *path, const struct ctl_request *request, int timeout_ms, struct ctl_reply *ret,
            char error[static CTL_ERROR_MAX])
{
    int64_t deadline_us = clock_monotonic_us() + (int64_t)timeout_ms * 1000;
    struct ctl_reply reply = {.data = NULL};
    char *bytes = NULL;
    size_t size = 0;
    int fd = -1, r;

    msgpack_unpacked_init(&reply.unpacked);
    r = open_socket(path, &fd);
    if (r == 0)
        r = send_request(fd, request, deadline_us);
    /* A daemon that refuses the connection may have said why before it closed it. */
    if (r == 0 || r == -EPIPE)
        r = receive_reply(fd, deadline_us, &bytes, &size);
    if (fd >= 0)
        close(fd);
    if (r == 0)
        r = unpack_reply(bytes, size, &reply.unpacked);
    if (r == 0)
        r = read_verdict(&reply, error);
    if (r < 0) {
        msgpack_unpacked_destroy(&reply.unpacked);
        free(bytes);
        if (r != -EREMOTEIO)
            explain(r, path, timeout_ms, error);
        return r;
    }
    reply.bytes = bytes;
    *ret = reply;
    return 0;
}

void ctl_reply_done(struct ctl_reply *reply)
{
    msgpack_unpacked_destroy(&reply->unpacked);
    free(reply->bytes);
}
