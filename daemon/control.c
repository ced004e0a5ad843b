/* The control socket's server. See control.h.
 *
 * A client is in one of three states: reading (a request is awaited), running (a command has it), writing (a
 * reply is on its way). Reading stops in the other two, so a client costs one request's buffer and one reply
 * at most. The timer runs in the first and the last. */
#include "daemon/control.h"

#include "daemon/control_value.h"
#include "daemon/log.h"
#include "proto/walk.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

enum { ERROR_REPLY_MAX = CONTROL_ERROR_MAX + 32 };

struct client {
    struct control *control;
    struct client *prev, *next;
    uv_pipe_t pipe;
    uv_timer_t timer;
    uv_write_t write;
    struct control_request *request; /* running */
    struct pack_buffer reply;        /* writing */
    char error[ERROR_REPLY_MAX];     /* in its place: an error is told without taking memory */
    size_t reply_size;               /* counted in control->replies */
    bool closing, last;              /* last: close after this reply */
    int handles;                     /* not closed yet */
    size_t have, need;               /* bytes of the request read; how many it has at least */
    /* Zero beyond `have`: see request_measure(). */
    char buf[CONTROL_REQUEST_MAX];
};

struct control_request {
    struct control *control;
    struct client *client; /* NULL: went away */
    const struct control_command *command;
    msgpack_zone zone;
    msgpack_object args;
    /* work */
    struct control_request *prev, *next;
    uv_work_t work;
    struct pack_buffer data;
    int result;
    char error[CONTROL_ERROR_MAX];
    char bytes[]; /* what args point into */
};

struct control {
    uv_pipe_t listener;
    uv_pipe_t refused; /* takes a connection that there is no memory for, to close it */
    bool refusing, refuse_next;
    const struct control_command *commands;
    void *context;
    uint64_t idle_timeout_ms;
    struct client *clients;
    int client_count;
    size_t replies;                  /* bytes not taken yet */
    int requests;                    /* not answered yet */
    struct control_request *waiting; /* for their turn to work */
    bool working;
    bool closing, listener_closed;
    void (*closed)(void *context);
    void *closed_context;
};

static const char OUT_OF_MEMORY[] = "out of memory: try again later";

static void client_read(struct client *client);

/* --- the end of things --- */

static void control_free_if_done(struct control *control)
{
    if (!control->listener_closed || control->refusing || control->clients || control->requests > 0)
        return;
    if (control->closed)
        control->closed(control->closed_context);
    free(control);
}

static void client_handle_closed(uv_handle_t *handle)
{
    struct client *client = handle->data;
    struct control *control = client->control;

    if (--client->handles > 0)
        return;
    DL_DELETE(control->clients, client);
    control->client_count--;
    control->replies -= client->reply_size;
    pack_buffer_done(&client->reply);
    free(client);
    if (control->closing)
        control_free_if_done(control);
}

static void client_close(struct client *client)
{
    if (client->closing)
        return;
    client->closing = true;
    if (client->request) {
        client->request->client = NULL;
        client->request = NULL;
    }
    uv_close((uv_handle_t *)&client->timer, client_handle_closed);
    uv_close((uv_handle_t *)&client->pipe, client_handle_closed);
}

static void on_timeout(uv_timer_t *timer)
{
    client_close(timer->data);
}

static void request_free(struct control_request *request)
{
    struct control *control = request->control;

    msgpack_zone_destroy(&request->zone);
    pack_buffer_done(&request->data);
    free(request);
    control->requests--;
    if (control->closing)
        control_free_if_done(control);
}

/* --- replies --- */

static void on_written(uv_write_t *write, int status)
{
    struct client *client = write->data;

    if (client->closing)
        return;
    client->control->replies -= client->reply_size;
    client->reply_size = 0;
    pack_buffer_done(&client->reply);
    if (status < 0 || client->last)
        client_close(client);
    else
        client_read(client);
}

/* Sends a reply, whose bytes are the client's. */
static void client_send(struct client *client, char *bytes, size_t size)
{
    uv_buf_t buf = uv_buf_init(bytes, (unsigned)size);

    client->reply_size = size;
    client->control->replies += client->reply_size;
    uv_read_stop((uv_stream_t *)&client->pipe);
    uv_timer_start(&client->timer, on_timeout, client->control->idle_timeout_ms, 0);
    client->write.data = client;
    if (uv_write(&client->write, (uv_stream_t *)&client->pipe, &buf, 1, on_written) < 0)
        client_close(client);
}

struct error_reply {
    char *bytes;
    size_t size;
};

static int write_error(void *data, const char *bytes, size_t size)
{
    struct error_reply *reply = data;

    assert(size <= ERROR_REPLY_MAX - reply->size);
    memcpy(reply->bytes + reply->size, bytes, size);
    reply->size += size;
    return 0;
}

/* error: shorter than CONTROL_ERROR_MAX. */
static void client_send_error(struct client *client, const char *error)
{
    struct error_reply reply = {.bytes = client->error};
    msgpack_packer packer;

    msgpack_packer_init(&packer, &reply, write_error);
    msgpack_pack_map(&packer, 2);
    pack_pair_bool(&packer, "ok", false);
    pack_pair_text(&packer, "error", error);
    client_send(client, reply.bytes, reply.size);
}

/* Ends a request; its client, if it is still there, is the caller's to answer. */
static struct client *request_end(struct control_request *request)
{
    struct client *client = request->client;

    if (client)
        client->request = NULL;
    request->client = NULL;
    return client;
}

void control_reply(struct control_request *request, const void *data, size_t size)
{
    struct client *client = request_end(request);
    msgpack_packer packer;

    if (!client)
        goto done;
    if (size > CONTROL_REPLY_MAX) {
        client_send_error(client, "the reply is too large: ask for less (--limit)");
        goto done;
    }
    if (client->control->replies + size > CONTROL_REPLIES_MAX) {
        client_send_error(client, "other clients have not read their replies yet: try again later");
        goto done;
    }
    pack_buffer_init(&client->reply, &packer);
    msgpack_pack_map(&packer, 2);
    pack_pair_bool(&packer, "ok", true);
    pack_text(&packer, "data");
    if (size == 0)
        msgpack_pack_nil(&packer);
    else
        pack_buffer_add(&client->reply, data, size);
    if (client->reply.failed)
        client_send_error(client, OUT_OF_MEMORY);
    else
        client_send(client, client->reply.bytes.data, client->reply.bytes.size);
done:
    request_free(request);
}

void control_reply_packed(struct control_request *request, const struct pack_buffer *data)
{
    if (data->failed)
        control_reply_error(request, OUT_OF_MEMORY);
    else
        control_reply(request, data->bytes.data, data->bytes.size);
}

void control_reply_error(struct control_request *request, const char *format, ...)
{
    struct client *client = request_end(request);
    char error[CONTROL_ERROR_MAX];
    va_list args;

    if (client) {
        va_start(args, format);
        vsnprintf(error, sizeof(error), format, args);
        va_end(args);
        client_send_error(client, error);
    }
    request_free(request);
}

bool control_abandoned(const struct control_request *request)
{
    struct pollfd pollfd = {.fd = -1};

    if (!request->client)
        return true;
    /* Reading has stopped, so libuv does not tell. One that has only shut its side still waits for the reply: no POLLHUP. */
    if (uv_fileno((const uv_handle_t *)&request->client->pipe, &pollfd.fd) < 0)
        return false;
    return poll(&pollfd, 1, 0) > 0 && pollfd.revents & (POLLHUP | POLLERR);
}

/* --- requests --- */

/* One at a time: the thread pool is also the journal's, and its syncs must not stand in line behind tollctl. */
static void work_next(struct control *control);

static void work_run(uv_work_t *work)
{
    struct control_request *request = work->data;
    msgpack_packer packer;

    pack_buffer_init(&request->data, &packer);
    request->result = request->command->work(request->control->context, &request->args, &packer, request->error);
}

static void work_done(uv_work_t *work, int status)
{
    struct control_request *request = work->data;
    struct control *control = request->control;

    control->working = false;
    work_next(control);
    if (status < 0)
        control_reply_error(request, "%s", uv_strerror(status));
    else if (request->result < 0)
        control_reply_error(request, "%s", request->error[0] ? request->error : strerror(-request->result));
    else
        control_reply_packed(request, &request->data);
}

static void work_next(struct control *control)
{
    struct control_request *request = control->waiting;
    int r;

    if (!request || control->working)
        return;
    DL_DELETE(control->waiting, request);
    control->working = true;
    r = uv_queue_work(control->listener.loop, &request->work, work_run, work_done);
    assert(r == 0); /* only a missing work_run would fail it */
    (void)r;
}

static const struct control_command *command_find(const struct control *control, const msgpack_object *name)
{
    for (const struct control_command *command = control->commands; command->name; command++)
        if (value_is(name, command->name))
            return command;
    return NULL;
}

/* Takes the first `size` bytes, a well-formed value, out of the client's buffer. NULL: out of memory, and they are gone. */
static struct control_request *request_take(struct client *client, size_t size)
{
    struct control_request *request = calloc(1, sizeof(*request) + size);
    size_t used = 0;

    if (request)
        memcpy(request->bytes, client->buf, size);
    memmove(client->buf, client->buf + size, client->have - size);
    client->have -= size;
    memset(client->buf + client->have, 0, size);
    client->need = 0;
    if (!request)
        return NULL;
    request->control = client->control;
    if (!msgpack_zone_init(&request->zone, MSGPACK_ZONE_CHUNK_SIZE)) {
        free(request);
        return NULL;
    }
    if (msgpack_unpack(request->bytes, size, &used, &request->zone, &request->args) != MSGPACK_UNPACK_SUCCESS) {
        msgpack_zone_destroy(&request->zone);
        free(request);
        return NULL;
    }
    client->control->requests++;
    return request;
}

static void request_start(struct client *client, size_t size)
{
    struct control_request *request = request_take(client, size);
    const msgpack_object *name;

    if (!request) {
        client_send_error(client, OUT_OF_MEMORY);
        return;
    }
    request->client = client;
    client->request = request;
    uv_timer_stop(&client->timer);
    if (request->args.type != MSGPACK_OBJECT_MAP) {
        control_reply_error(request, "a request is a map");
        return;
    }
    name = value_get(&request->args, "command");
    if (!name || name->type != MSGPACK_OBJECT_STR) {
        control_reply_error(request, "the request names no command");
        return;
    }
    request->command = command_find(client->control, name);
    if (!request->command) {
        control_reply_error(request, "unknown command \"%.*s\"",
                            (int)(name->via.str.size < 40 ? name->via.str.size : 40), name->via.str.ptr);
        return;
    }
    if (request->command->run) {
        request->command->run(client->control->context, &request->args, request);
        return;
    }
    request->work.data = request;
    DL_APPEND(client->control->waiting, request);
    work_next(client->control);
}

/* Where the request in the buffer ends: 1 and its size, 0 if more must be read, or -errno of toll_walk().
 * Behind what was read the buffer is zero, and zero is the shortest value there is: so whatever comes, the
 * request is at least as long as the walk says now, and a walk that fails now fails for good. Below that
 * length nothing needs to be looked at again. */
static int request_measure(struct client *client, size_t *ret_size)
{
    int r;

    if (client->have == 0 || client->have < client->need)
        return 0;
    r = toll_walk(client->buf, sizeof(client->buf), &client->need);
    if (r < 0)
        return r;
    if (client->need > client->have)
        return 0;
    *ret_size = client->need;
    return 1;
}

/* Runs the request in the buffer, if it is whole. True: the client is not reading any more. */
static bool client_advance(struct client *client)
{
    size_t size = 0;
    int r = request_measure(client, &size);

    if (r == 0)
        return false;
    uv_read_stop((uv_stream_t *)&client->pipe);
    if (r > 0) {
        request_start(client, size);
    } else {
        client->last = true; /* there is no next request to be found */
        client_send_error(client, r == -E2BIG ? toll_walk_strerror(r) : "malformed or longer than 65536 bytes");
    }
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    struct client *client = handle->data;

    (void)suggested;
    *ret = uv_buf_init(client->buf + client->have, (unsigned)(sizeof(client->buf) - client->have));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *client = stream->data;

    (void)buf;
    if (n > 0) {
        client->have += (size_t)n;
        client_advance(client);
    } else if (n < 0) {
        client_close(client);
    }
}

static void client_read(struct client *client)
{
    /* The time is for the whole request: a byte now and then does not prolong it. */
    uv_timer_start(&client->timer, on_timeout, client->control->idle_timeout_ms, 0);
    if (client_advance(client))
        return;
    if (uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read) < 0)
        client_close(client);
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
    client = calloc(1, sizeof(*client));
    if (!client) {
        refuse_connection(control);
        return;
    }
    client->control = control;
    uv_pipe_init(listener->loop, &client->pipe, 0);
    uv_timer_init(listener->loop, &client->timer);
    client->pipe.data = client->timer.data = client;
    client->handles = 2;
    DL_APPEND(control->clients, client);
    control->client_count++;
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
