/* The control socket's requests: commands, and what they answer. See control_internal.h. */
#include "daemon/control_internal.h"

#include <assert.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

static const char OUT_OF_MEMORY[] = "out of memory: try again later";

/* --- the end of a request --- */

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

/* --- work off the loop --- */

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

/* --- its beginning --- */

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

void request_start(struct client *client, size_t size)
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
