/* The control socket's server: who may connect, and the end of it all. See control.h. */
#include "daemon/control.h"

#include "daemon/control_internal.h"
#include "daemon/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

void control_free_if_done(struct control *control)
{
    if (!control->listener_closed || control->refusing || control->clients || control->requests > 0)
        return;
    if (control->closed)
        control->closed(control->closed_context);
    free(control);
}

/* --- the listener --- */

static void refuse_connection(struct control *control);

static void on_refused(uv_handle_t *handle)
{
    struct control *control = handle->data;

    control->refusing = false;
    if (control->closing)
        control_free_if_done(control);
    else if (control->refuse_next)
        refuse_connection(control);
}

/* libuv accepts nothing more until the connection that it holds is taken. */
static void refuse_connection(struct control *control)
{
    control->refuse_next = control->refusing;
    if (control->refusing)
        return;
    control->refusing = true;
    uv_pipe_init(control->listener.loop, &control->refused, 0);
    control->refused.data = control;
    (void)uv_accept((uv_stream_t *)&control->listener, (uv_stream_t *)&control->refused);
    uv_close((uv_handle_t *)&control->refused, on_refused);
}

static void on_connection(uv_stream_t *listener, int status)
{
    static struct log_limit limit = LOG_LIMIT(3, 60 * 1000000);
    struct control *control = listener->data;
    struct client *client;

    if (status < 0)
        return;
    client = client_new(control);
    if (!client) {
        refuse_connection(control);
        return;
    }
    if (uv_accept(listener, (uv_stream_t *)&client->pipe) < 0) {
        client_close(client);
    } else if (control->client_count > CONTROL_CLIENTS_MAX) {
        log_limited(&limit, LOG_LEVEL_WARNING, "control client refused clients=%d", control->client_count - 1);
        client_close(client);
    } else {
        client_read(client);
    }
}

/* 0: the path is free now. Only a connection that is refused proves that nobody listens. */
static int remove_stale(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    int fd, r;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    memcpy(address.sun_path, path, strlen(path) + 1);
    r = connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    close(fd);
    if (r == -ECONNREFUSED)
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
    return r == -ENOENT ? 0 : -EADDRINUSE;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct control *control = handle->data;

    control->listener_closed = true;
    control_free_if_done(control);
}

void control_close(struct control *control, void (*closed)(void *context), void *context)
{
    struct client *client, *next;

    if (!control)
        return;
    assert(!control->closing);
    control->closing = true;
    control->closed = closed;
    control->closed_context = context;
    DL_FOREACH_SAFE (control->clients, client, next)
        client_close(client);
    uv_close((uv_handle_t *)&control->listener, on_listener_closed);
}

int control_open(struct control **ret, uv_loop_t *loop, const struct control_options *options)
{
    struct control *control;
    int r;

    if (strlen(options->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -ENAMETOOLONG;
    r = remove_stale(options->path);
    if (r < 0)
        return r;
    control = calloc(1, sizeof(*control));
    if (!control)
        return -ENOMEM;
    control->commands = options->commands;
    control->context = options->context;
    control->idle_timeout_ms = options->idle_timeout_ms ? options->idle_timeout_ms : 30000;
    uv_pipe_init(loop, &control->listener, 0);
    control->listener.data = control;
    /* Nobody can connect before listen(), so the mode is right before it matters. */
    r = uv_pipe_bind(&control->listener, options->path);
    if (r == 0 && chmod(options->path, (mode_t)options->mode) < 0)
        r = -errno;
    if (r == 0)
        r = uv_listen((uv_stream_t *)&control->listener, CONTROL_CLIENTS_MAX, on_connection);
    if (r < 0) {
        control_close(control, NULL, NULL);
        return r;
    }
    *ret = control;
    return 0;
}
