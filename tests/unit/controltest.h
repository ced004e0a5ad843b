/* What the tests of the control socket share: commands, a server and its clients on one thread. The loop is turned by hand until what a
 * test waits for has happened, or its time is up. */
#ifndef TOLL_TESTS_CONTROLTEST_H
#define TOLL_TESTS_CONTROLTEST_H

#include "daemon/clock.h"
#include "daemon/control.h"
#include "daemon/control_value.h"
#include "daemon/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATIENCE_US = 10 * 1000000 };

static char dir[] = "/tmp/toll-test-control-XXXXXX", path[64];
static uv_loop_t loop;
static struct control *control;
static struct control_request *held;
static bool closed;
static int runs;
static _Atomic int working, working_most;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

/* --- the commands --- */

static inline void run_echo(void *context, const msgpack_object *args, struct control_request *request)
{
    const msgpack_object *text = value_get(args, "text");
    msgpack_sbuffer data;
    msgpack_packer packer;

    ck_assert_ptr_eq(context, &loop);
    runs++;
    msgpack_sbuffer_init(&data);
    msgpack_packer_init(&packer, &data, msgpack_sbuffer_write);
    if (text)
        msgpack_pack_object(&packer, *text);
    control_reply(request, data.data, data.size);
    msgpack_sbuffer_destroy(&data);
}

static inline void run_fail(void *context, const msgpack_object *args, struct control_request *request)
{
    (void)context;
    (void)args;
    control_reply_error(request, "no %s today", "luck");
}

static inline void run_hold(void *context, const msgpack_object *args, struct control_request *request)
{
    (void)context;
    (void)args;
    ck_assert_ptr_null(held);
    held = request;
}

/* An answer that there was no memory to pack. */
static inline void run_short(void *context, const msgpack_object *args, struct control_request *request)
{
    struct pack_buffer data;
    msgpack_packer packer;

    (void)context, (void)args;
    pack_buffer_init(&data, &packer);
    pack_text(&packer, "what was");
    data.failed = true;
    pack_text(&packer, "what comes after it is left out");
    ck_assert_uint_eq(data.bytes.size, 9);
    control_reply_packed(request, &data);
    pack_buffer_done(&data);
}

/* A string of as many bytes as asked for. */
static inline void run_large(void *context, const msgpack_object *args, struct control_request *request)
{
    uint64_t size;
    msgpack_sbuffer data;
    msgpack_packer packer;
    char *bytes;

    (void)context;
    ck_assert_int_eq(value_uint(args, "size", 0, 64 << 20, &size), 0);
    bytes = calloc(1, size);
    msgpack_sbuffer_init(&data);
    msgpack_packer_init(&packer, &data, msgpack_sbuffer_write);
    msgpack_pack_bin_with_body(&packer, bytes, size);
    control_reply(request, data.data, data.size);
    msgpack_sbuffer_destroy(&data);
    free(bytes);
}

static inline int work_square(void *context, const msgpack_object *args, msgpack_packer *data,
                              char error[static CONTROL_ERROR_MAX])
{
    uint64_t n;
    int now = ++working;

    ck_assert_ptr_eq(context, &loop);
    if (now > working_most)
        working_most = now;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    working--;
    if (value_uint(args, "n", 1, 1000, &n) < 0) {
        snprintf(error, CONTROL_ERROR_MAX, "n is above 1000");
        return -EINVAL;
    }
    msgpack_pack_uint64(data, n * n);
    return 0;
}

static inline int work_nothing(void *context, const msgpack_object *args, msgpack_packer *data,
                               char error[static CONTROL_ERROR_MAX])
{
    (void)context, (void)args, (void)data;
    error[0] = '\0';
    return -ENOTSUP;
}

static const struct control_command commands[] = {
    {"echo", run_echo, NULL},        {"fail", run_fail, NULL},   {"hold", run_hold, NULL},
    {"large", run_large, NULL},      {"short", run_short, NULL}, {"square", NULL, work_square},
    {"nothing", NULL, work_nothing}, {NULL, NULL, NULL},
};

/* --- turning the loop --- */

static inline void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

/* Turns the loop until the condition holds, or fails when it does not in time. A timer keeps a turn from waiting for ever. */
#define PUMP(condition)                                                                                                \
    do {                                                                                                               \
        int64_t pump_until = clock_monotonic_us() + PATIENCE_US;                                                       \
        bool pump_held;                                                                                                \
        uv_timer_t pump_tick;                                                                                          \
        uv_timer_init(&loop, &pump_tick);                                                                              \
        uv_timer_start(&pump_tick, on_tick, 1, 1);                                                                     \
        while (pump_held = (condition), !pump_held && clock_monotonic_us() < pump_until)                               \
            uv_run(&loop, UV_RUN_ONCE);                                                                                \
        uv_close((uv_handle_t *)&pump_tick, NULL);                                                                     \
        uv_run(&loop, UV_RUN_NOWAIT);                                                                                  \
        ck_assert_msg(pump_held, "waited too long for " #condition);                                                   \
    } while (0)

static inline struct control_options options(void)
{
    return (struct control_options){
        .path = path, .mode = 0660, .commands = commands, .context = &loop, .idle_timeout_ms = 60000};
}

static inline void open_server(uint64_t idle_timeout_ms)
{
    struct control_options with = options();

    if (idle_timeout_ms)
        with.idle_timeout_ms = idle_timeout_ms;
    ck_assert_int_eq(control_open(&control, &loop, &with), 0);
}

static inline void on_closed(void *context)
{
    ck_assert_ptr_eq(context, &closed);
    closed = true;
}

static inline void setup(void)
{
    memcpy(dir + sizeof(dir) - 7, "XXXXXX", 7);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/control.sock", dir);
    signal(SIGPIPE, SIG_IGN); /* as tolld does */
    log_open(-1, LOG_LEVEL_ERROR);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    control = NULL;
    held = NULL;
    closed = false;
}

static inline void teardown(void)
{
    if (held)
        control_reply(held, NULL, 0);
    if (control) {
        control_close(control, on_closed, &closed);
        PUMP(closed);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    ck_assert_int_lt(access(path, F_OK), 0);
    rmdir(dir);
}

/* --- the clients --- */

struct peer {
    int fd;
    bool eof;
    size_t have;
    char buf[1024];
};

static inline struct peer peer_new(void)
{
    struct peer peer = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(connect(peer.fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return peer;
}

static inline void peer_send(struct peer *peer, const void *bytes, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(peer->fd, (const char *)bytes + sent, size - sent, MSG_NOSIGNAL);

        ck_assert_msg(n >= 0 || errno == EAGAIN, "send: %s", strerror(errno));
        if (n > 0)
            sent += (size_t)n;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

static inline bool peer_receive(struct peer *peer)
{
    ssize_t n = recv(peer->fd, peer->buf + peer->have, sizeof(peer->buf) - peer->have, 0);

    if (n > 0)
        peer->have += (size_t)n;
    else if (n == 0 || errno == ECONNRESET)
        peer->eof = true;
    return n > 0;
}

#define PEER_CLOSED(peer) PUMP((peer_receive(peer), (peer)->eof))

/* {"command": command, key: value} */
static inline size_t request(char *buf, const char *command, const char *key, int64_t value)
{
    msgpack_sbuffer sbuffer;
    msgpack_packer packer;
    size_t size;

    msgpack_sbuffer_init(&sbuffer);
    msgpack_packer_init(&packer, &sbuffer, msgpack_sbuffer_write);
    msgpack_pack_map(&packer, key ? 2 : 1);
    pack_pair_text(&packer, "command", command);
    if (key)
        pack_pair_int(&packer, key, value);
    size = sbuffer.size;
    memcpy(buf, sbuffer.data, size);
    msgpack_sbuffer_destroy(&sbuffer);
    return size;
}

static inline void ask(struct peer *peer, const char *command, const char *key, int64_t value)
{
    char buf[128];

    peer_send(peer, buf, request(buf, command, key, value));
}

/* Takes one reply: {"ok": true, "data": an integer or nil (-1)} or {"ok": false, "error": …}, which goes to error[]. */
static char error[CONTROL_ERROR_MAX];

static inline bool take_reply(struct peer *peer, int64_t *ret_data)
{
    msgpack_unpacked unpacked;
    size_t end = 0;
    const msgpack_object *data;

    msgpack_unpacked_init(&unpacked);
    if (msgpack_unpack_next(&unpacked, peer->buf, peer->have, &end) != MSGPACK_UNPACK_SUCCESS) {
        msgpack_unpacked_destroy(&unpacked);
        return false;
    }
    error[0] = '\0';
    ck_assert_int_eq((int)unpacked.data.type, MSGPACK_OBJECT_MAP);
    data = value_get(&unpacked.data, "data");
    if (value_get(&unpacked.data, "ok")->via.boolean)
        *ret_data = data->type == MSGPACK_OBJECT_NIL ? -1 : data->via.i64;
    else
        ck_assert_int_eq(value_text(&unpacked.data, "error", error, sizeof(error)), 0);
    msgpack_unpacked_destroy(&unpacked);
    memmove(peer->buf, peer->buf + end, peer->have - end);
    peer->have -= end;
    return true;
}

static inline int64_t answer(struct peer *peer)
{
    int64_t data = INT64_MIN;
    bool got = false;

    PUMP(got || (peer_receive(peer), got = take_reply(peer, &data)));
    return data;
}

static inline const char *answer_error(struct peer *peer)
{
    ck_assert_int_eq(answer(peer), INT64_MIN);
    return error;
}

#endif
