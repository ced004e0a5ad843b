/* What the control server's files share; nobody else includes it.
 *
 * control.c          the listener: who may connect, and the end of it all
 * control_client.c   a connection: bytes in, a reply out
 * control_request.c  a request: its command, and what that answers
 *
 * A client is in one of three states: reading (a request is awaited), running (a command has it), writing (a
 * reply is on its way). Reading stops in the other two, so a client costs one request's buffer and one reply
 * at most. The timer runs in the first and the last. */
#ifndef TOLL_DAEMON_CONTROL_INTERNAL_H
#define TOLL_DAEMON_CONTROL_INTERNAL_H

#include "daemon/control.h"
#include "daemon/control_value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* Frees it once it is closing and nothing is left of it. */
void control_free_if_done(struct control *control);

/* control_client.c */
/* A client whose connection is still to be accepted, among the control's. NULL: out of memory. */
struct client *client_new(struct control *control);
/* Its request, if one is under way, goes on without it. */
void client_close(struct client *client);
/* Awaits the next request. */
void client_read(struct client *client);
/* Sends a reply, whose bytes are the client's. */
void client_send(struct client *client, char *bytes, size_t size);
/* error: shorter than CONTROL_ERROR_MAX. */
void client_send_error(struct client *client, const char *error);

/* control_request.c */
/* Runs the first `size` bytes in the client's buffer, a well-formed value, as its request. */
void request_start(struct client *client, size_t size);

#endif
