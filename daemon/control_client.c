/* A client of the control socket. See control_internal.h. */
#include "daemon/control_internal.h"

#include "proto/walk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* --- from beginning to end --- */

struct client *client_new(struct control *control)
{
    struct client *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    client->control = control;
    uv_pipe_init(control->listener.loop, &client->pipe, 0);
    uv_timer_init(control->listener.loop, &client->timer);
    client->pipe.data = client->timer.data = client;
    client->handles = 2;
    DL_APPEND(control->clients, client);
    control->client_count++;
    return client;
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

void client_close(struct client *client)
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

void client_send(struct client *client, char *bytes, size_t size)
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

void client_send_error(struct client *client, const char *error)
{
    struct error_reply reply = {.bytes = client->error};
    msgpack_packer packer;

    msgpack_packer_init(&packer, &reply, write_error);
    msgpack_pack_map(&packer, 2);
    pack_pair_bool(&packer, "ok", false);
    pack_pair_text(&packer, "error", error);
    client_send(client, reply.bytes, reply.size);
}

/* --- requests --- */

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

void client_read(struct client *client)
{
    /* The time is for the whole request: a byte now and then does not prolong it. */
    uv_timer_start(&client->timer, on_timeout, client->control->idle_timeout_ms, 0);
    if (client_advance(client))
        return;
    if (uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read) < 0)
        client_close(client);
}
