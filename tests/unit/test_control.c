/* The control socket against clients good and bad. Server and clients share one thread: the loop is turned by hand until what a
 * test waits for has happened, or its time is up. */
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

static void run_echo(void *context, const msgpack_object *args, struct control_request *request)
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

static void run_fail(void *context, const msgpack_object *args, struct control_request *request)
{
    (void)context;
    (void)args;
    control_reply_error(request, "no %s today", "luck");
}

static void run_hold(void *context, const msgpack_object *args, struct control_request *request)
{
    (void)context;
    (void)args;
    ck_assert_ptr_null(held);
    held = request;
}

/* An answer that there was no memory to pack. */
static void run_short(void *context, const msgpack_object *args, struct control_request *request)
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
static void run_large(void *context, const msgpack_object *args, struct control_request *request)
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

static int work_square(void *context, const msgpack_object *args, msgpack_packer *data,
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

static int work_nothing(void *context, const msgpack_object *args, msgpack_packer *data,
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

static void on_tick(uv_timer_t *timer)
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

static struct control_options options(void)
{
    return (struct control_options){
        .path = path, .mode = 0660, .commands = commands, .context = &loop, .idle_timeout_ms = 60000};
}

static void open_server(uint64_t idle_timeout_ms)
{
    struct control_options with = options();

    if (idle_timeout_ms)
        with.idle_timeout_ms = idle_timeout_ms;
    ck_assert_int_eq(control_open(&control, &loop, &with), 0);
}

static void on_closed(void *context)
{
    ck_assert_ptr_eq(context, &closed);
    closed = true;
}

static void setup(void)
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

static void teardown(void)
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

static struct peer peer_new(void)
{
    struct peer peer = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(connect(peer.fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return peer;
}

static void peer_send(struct peer *peer, const void *bytes, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(peer->fd, (const char *)bytes + sent, size - sent, MSG_NOSIGNAL);

        ck_assert_msg(n >= 0 || errno == EAGAIN, "send: %s", strerror(errno));
        if (n > 0)
            sent += (size_t)n;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

static bool peer_receive(struct peer *peer)
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
static size_t request(char *buf, const char *command, const char *key, int64_t value)
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

static void ask(struct peer *peer, const char *command, const char *key, int64_t value)
{
    char buf[128];

    peer_send(peer, buf, request(buf, command, key, value));
}

/* Takes one reply: {"ok": true, "data": an integer or nil (-1)} or {"ok": false, "error": …}, which goes to error[]. */
static char error[CONTROL_ERROR_MAX];

static bool take_reply(struct peer *peer, int64_t *ret_data)
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

static int64_t answer(struct peer *peer)
{
    int64_t data = INT64_MIN;
    bool got = false;

    PUMP(got || (peer_receive(peer), got = take_reply(peer, &data)));
    return data;
}

static const char *answer_error(struct peer *peer)
{
    ck_assert_int_eq(answer(peer), INT64_MIN);
    return error;
}

/* --- tests --- */

START_TEST(control_answers_requests_one_after_another)
{
    struct peer peer;

    open_server(0);
    peer = peer_new();
    ask(&peer, "echo", "text", 42);
    ck_assert_int_eq(answer(&peer), 42);
    ask(&peer, "echo", NULL, 0);
    ck_assert_int_eq(answer(&peer), -1);
    ask(&peer, "fail", NULL, 0);
    ck_assert_str_eq(answer_error(&peer), "no luck today");
    ask(&peer, "short", NULL, 0);
    ck_assert_str_eq(answer_error(&peer), "out of memory: try again later");
    ask(&peer, "echo", "text", 43);
    ck_assert_int_eq(answer(&peer), 43);
    close(peer.fd);
}
END_TEST

START_TEST(control_refuses_what_is_no_command)
{
    struct peer peer;

    open_server(0);
    peer = peer_new();
    ask(&peer, "frobnicate", NULL, 0);
    ck_assert_str_eq(answer_error(&peer), "unknown command \"frobnicate\"");
    peer_send(&peer, "\x80", 1);
    ck_assert_str_eq(answer_error(&peer), "the request names no command");
    peer_send(&peer,
              "\x81\xa7"
              "command\x05",
              10);
    ck_assert_str_eq(answer_error(&peer), "the request names no command");
    peer_send(&peer, "\x07", 1);
    ck_assert_str_eq(answer_error(&peer), "a request is a map");
    ask(&peer, "echo", "text", 1); /* none of this cost the connection */
    ck_assert_int_eq(answer(&peer), 1);
    close(peer.fd);
}
END_TEST

START_TEST(control_takes_requests_in_any_pieces)
{
    struct peer peer;
    char buf[256];
    size_t size;

    open_server(0);
    peer = peer_new();
    size = request(buf, "echo", "text", 70000);
    for (size_t i = 0; i < size; i++) {
        ck_assert_uint_eq(peer.have, 0);
        peer_send(&peer, buf + i, 1);
    }
    ck_assert_int_eq(answer(&peer), 70000);

    size += request(buf + size, "echo", "text", 2); /* two at once */
    size += request(buf + size, "fail", NULL, 0);
    peer_send(&peer, buf, size);
    ck_assert_int_eq(answer(&peer), 70000);
    ck_assert_int_eq(answer(&peer), 2);
    ck_assert_str_eq(answer_error(&peer), "no luck today");
    close(peer.fd);
}
END_TEST

START_TEST(control_answers_a_client_that_has_shut_its_side)
{
    struct peer peer;

    open_server(0);
    peer = peer_new();
    ask(&peer, "echo", "text", 5);
    shutdown(peer.fd, SHUT_WR);
    ck_assert_int_eq(answer(&peer), 5);
    PEER_CLOSED(&peer);
    close(peer.fd);
}
END_TEST

START_TEST(control_refuses_bombs_at_once)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *error;
    } bombs[] = {
        {"\xdd\xff\xff\xff\xff", 5, "malformed or longer than 65536 bytes"},
        {"\xdf\xff\xff\xff\xff", 5, "malformed or longer than 65536 bytes"},
        {"\xc6\x00\x01\x00\x00", 5, "malformed or longer than 65536 bytes"},
        {"\x81\xa7"
         "command\xdb\x7f\xff\xff\xff",
         14, "malformed or longer than 65536 bytes"},
        {"\xc1", 1, "malformed or longer than 65536 bytes"},
        {"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91", 11, "nested deeper than 8"},
    };

    open_server(0);
    for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++) {
        struct peer peer = peer_new();

        peer_send(&peer, bombs[i].bytes, bombs[i].size);
        ck_assert_str_eq(answer_error(&peer), bombs[i].error);
        PEER_CLOSED(&peer);
        close(peer.fd);
    }
}
END_TEST

START_TEST(control_request_may_have_64_kib_and_no_more)
{
    static char buf[70000];
    const size_t head = 2 + 7 + 5 + 2 + 3; /* {"command": "echo", "x": bin16 */
    struct peer peer;

    open_server(0);
    for (size_t total = CONTROL_REQUEST_MAX - 1; total <= CONTROL_REQUEST_MAX; total++) {
        size_t body = total - head;

        memcpy(buf,
               "\x82\xa7"
               "command\xa4"
               "echo\xa1x\xc5",
               head - 2);
        buf[head - 2] = (char)(body >> 8);
        buf[head - 1] = (char)body;
        peer = peer_new();
        peer_send(&peer, buf, total);
        ck_assert_int_eq(answer(&peer), -1);
        ask(&peer, "echo", "text", 9); /* the buffer is clean again */
        ck_assert_int_eq(answer(&peer), 9);
        close(peer.fd);
    }
    buf[head - 2] = (char)((CONTROL_REQUEST_MAX + 1 - head) >> 8);
    buf[head - 1] = (char)(CONTROL_REQUEST_MAX + 1 - head);
    peer = peer_new();
    peer_send(&peer, buf, head); /* its length is known from the start */
    ck_assert_str_eq(answer_error(&peer), "malformed or longer than 65536 bytes");
    PEER_CLOSED(&peer);
    close(peer.fd);
}
END_TEST

START_TEST(control_many_elements_byte_by_byte_stay_cheap)
{
    struct peer peer;
    int64_t began = clock_monotonic_us();

    open_server(0);
    peer = peer_new();
    peer_send(&peer,
              "\x82\xa7"
              "command\xa4"
              "echo\xa1x\xdc\x4e\x20",
              19); /* an array of 20,000 */
    for (int i = 0; i < 20000; i++) {
        peer_send(&peer, "\xa1", 1);
        peer_send(&peer, "z", 1);
    }
    ck_assert_int_eq(answer(&peer), -1);
    ck_assert_int_lt(clock_monotonic_us() - began, PATIENCE_US);
    close(peer.fd);
}
END_TEST

START_TEST(control_drops_a_client_that_does_not_finish_its_request)
{
    struct peer peer, silent;

    open_server(100);
    silent = peer_new();
    peer = peer_new();
    peer_send(&peer,
              "\x81\xa7"
              "com",
              5);
    PEER_CLOSED(&peer);
    PEER_CLOSED(&silent);
    ck_assert_uint_eq(peer.have, 0);
    close(peer.fd);
    close(silent.fd);
}
END_TEST

/* Sends a byte every 20 ms of a key of 128 bytes that never comes to an end; true when the daemon has had enough. */
static bool trickle(struct peer *peer, size_t *sent)
{
    static const char buf[128] = "\x81\xd9\x80";
    static int64_t last;

    if (clock_monotonic_us() - last >= 20000 && *sent < sizeof(buf)) {
        last = clock_monotonic_us();
        if (send(peer->fd, buf + *sent, 1, MSG_NOSIGNAL) == 1)
            (*sent)++;
    }
    peer_receive(peer);
    return peer->eof;
}

START_TEST(control_slow_bytes_do_not_prolong_a_request)
{
    struct peer peer;
    size_t sent = 0;

    open_server(200);
    peer = peer_new();
    PUMP(trickle(&peer, &sent));
    ck_assert_uint_lt(sent, 100);
    close(peer.fd);
}
END_TEST

START_TEST(control_drops_a_client_that_never_reads)
{
    struct peer peer;

    open_server(100);
    peer = peer_new();
    ask(&peer, "large", "size", 3 << 20);
    /* It is gone when writing to it fails. */
    PUMP(send(peer.fd, "\x80", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    close(peer.fd);
}
END_TEST

START_TEST(control_replies_not_taken_are_bounded)
{
    struct peer peers[8], last;
    char byte;

    open_server(0);
    for (int i = 0; i < 5; i++) {
        peers[i] = peer_new();
        ask(&peers[i], "large", "size", (4 << 20) - 100);
        /* Taken in part only: the rest waits in the daemon. */
        PUMP(recv(peers[i].fd, &byte, 1, MSG_PEEK) == 1);
    }
    last = peer_new();
    ask(&last, "large", "size", (4 << 20) - 100);
    ck_assert_str_eq(answer_error(&last), "other clients have not read their replies yet: try again later");
    ask(&last, "large", "size", 5 << 20);
    ck_assert_str_eq(answer_error(&last), "the reply is too large: ask for less (--limit)");
    for (int i = 0; i < 5; i++)
        close(peers[i].fd);
    ask(&last, "echo", "text", 1);
    ck_assert_int_eq(answer(&last), 1);
    close(last.fd);
}
END_TEST

START_TEST(control_takes_32_clients)
{
    struct peer peers[CONTROL_CLIENTS_MAX + 1];

    open_server(0);
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        peers[i] = peer_new();
        ask(&peers[i], "echo", "text", i);
        ck_assert_int_eq(answer(&peers[i]), i);
    }
    peers[CONTROL_CLIENTS_MAX] = peer_new();
    PEER_CLOSED(&peers[CONTROL_CLIENTS_MAX]);
    close(peers[CONTROL_CLIENTS_MAX].fd);
    close(peers[0].fd);
    uv_run(&loop, UV_RUN_NOWAIT);
    uv_run(&loop, UV_RUN_NOWAIT);
    peers[0] = peer_new();
    ask(&peers[0], "echo", "text", 7);
    ck_assert_int_eq(answer(&peers[0]), 7);
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
        close(peers[i].fd);
}
END_TEST

START_TEST(control_command_may_answer_later)
{
    struct peer peer, other;

    open_server(50); /* the time limit is not the command's */
    peer = peer_new();
    ask(&peer, "hold", NULL, 0);
    PUMP(held != NULL);
    other = peer_new();
    PEER_CLOSED(&other); /* so more than 50 ms have passed */
    ck_assert(!peer_receive(&peer) && !peer.eof);
    control_reply(held, "\x2a", 1);
    held = NULL;
    ck_assert_int_eq(answer(&peer), 42);
    close(peer.fd);
    close(other.fd);
}
END_TEST

START_TEST(control_answers_to_clients_that_went_away_are_dropped)
{
    struct peer peer;

    open_server(0);
    for (int i = 0; i < 2; i++) {
        peer = peer_new();
        ask(&peer, "hold", NULL, 0);
        PUMP(held != NULL);
        close(peer.fd);
        uv_run(&loop, UV_RUN_NOWAIT);
        if (i == 0)
            control_reply(held, "\x2a", 1);
        else
            control_reply_error(held, "too late");
        held = NULL;
    }
    peer = peer_new();
    ask(&peer, "echo", "text", 3);
    ck_assert_int_eq(answer(&peer), 3);
    close(peer.fd);
}
END_TEST

/* Who has only said that it will ask no more waits for the reply still. */
START_TEST(control_tells_when_nobody_waits_any_more)
{
    struct peer peer;

    open_server(0);
    peer = peer_new();
    ask(&peer, "hold", NULL, 0);
    PUMP(held != NULL);
    ck_assert(!control_abandoned(held));
    shutdown(peer.fd, SHUT_WR);
    uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert(!control_abandoned(held));
    close(peer.fd);
    ck_assert(control_abandoned(held));
    control_reply(held, "\x2a", 1);
    held = NULL;
}
END_TEST

START_TEST(control_close_waits_for_requests_that_are_held)
{
    struct peer peer;

    open_server(0);
    peer = peer_new();
    ask(&peer, "hold", NULL, 0);
    PUMP(held != NULL);
    control_close(control, on_closed, &closed);
    control = NULL;
    PEER_CLOSED(&peer);
    ck_assert(!closed);
    control_reply(held, "\x2a", 1);
    held = NULL;
    ck_assert(closed);
    close(peer.fd);
}
END_TEST

START_TEST(control_work_runs_on_threads_one_at_a_time)
{
    struct peer peers[4];

    open_server(0);
    working_most = 0;
    for (int i = 0; i < 4; i++) {
        peers[i] = peer_new();
        ask(&peers[i], "square", "n", i + 10);
    }
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(answer(&peers[i]), (int64_t)(i + 10) * (i + 10));
    ck_assert_int_eq(working_most, 1);

    ask(&peers[0], "square", "n", 1001);
    ck_assert_str_eq(answer_error(&peers[0]), "n is above 1000");
    ask(&peers[0], "nothing", NULL, 0);
    ck_assert_str_eq(answer_error(&peers[0]), strerror(ENOTSUP));
    for (int i = 0; i < 4; i++)
        close(peers[i].fd);
}
END_TEST

START_TEST(control_close_waits_for_work)
{
    struct peer peers[2];

    open_server(0);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < 2; i++) {
        peers[i] = peer_new();
        ask(&peers[i], "square", "n", 2);
    }
    PUMP(working == 1);
    control_close(control, on_closed, &closed);
    control = NULL;
    PEER_CLOSED(&peers[0]);
    ck_assert(!closed);
    pthread_mutex_unlock(&gate);
    PUMP(closed);
    close(peers[0].fd);
    close(peers[1].fd);
}
END_TEST

START_TEST(control_socket_has_its_mode_and_goes_away)
{
    struct stat st;

    open_server(0);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0660);
    control_close(control, on_closed, &closed);
    control = NULL;
    PUMP(closed);
    ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

START_TEST(control_replaces_only_a_socket_that_nobody_listens_on)
{
    struct control_options with = options();
    struct control *second;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct peer peer;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd); /* as a daemon that was killed leaves it */
    open_server(0);

    ck_assert_int_eq(control_open(&second, &loop, &with), -EADDRINUSE);
    peer = peer_new();
    ask(&peer, "echo", "text", 8);
    ck_assert_int_eq(answer(&peer), 8);
    close(peer.fd);
    control_close(control, on_closed, &closed);
    control = NULL;
    PUMP(closed);

    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ck_assert_int_eq(control_open(&control, &loop, &with), -EEXIST);
    ck_assert_int_eq(access(path, F_OK), 0);
    close(fd);
    unlink(path);
    with.path = "/tmp/a/path/that/is/much/too/long/for/a/socket/address/because/it/goes/on/and/on/and/on/and/on/and/on/"
                "and/on/and/on";
    ck_assert_int_eq(control_open(&control, &loop, &with), -ENAMETOOLONG);
    with.path = "/nonexistent/control.sock";
    ck_assert_int_lt(control_open(&control, &loop, &with), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *tcase = tcase_create("control");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, control_answers_requests_one_after_another);
    tcase_add_test(tcase, control_refuses_what_is_no_command);
    tcase_add_test(tcase, control_takes_requests_in_any_pieces);
    tcase_add_test(tcase, control_answers_a_client_that_has_shut_its_side);
    tcase_add_test(tcase, control_refuses_bombs_at_once);
    tcase_add_test(tcase, control_request_may_have_64_kib_and_no_more);
    tcase_add_test(tcase, control_many_elements_byte_by_byte_stay_cheap);
    tcase_add_test(tcase, control_drops_a_client_that_does_not_finish_its_request);
    tcase_add_test(tcase, control_slow_bytes_do_not_prolong_a_request);
    tcase_add_test(tcase, control_drops_a_client_that_never_reads);
    tcase_add_test(tcase, control_replies_not_taken_are_bounded);
    tcase_add_test(tcase, control_takes_32_clients);
    tcase_add_test(tcase, control_command_may_answer_later);
    tcase_add_test(tcase, control_answers_to_clients_that_went_away_are_dropped);
    tcase_add_test(tcase, control_tells_when_nobody_waits_any_more);
    tcase_add_test(tcase, control_close_waits_for_requests_that_are_held);
    tcase_add_test(tcase, control_work_runs_on_threads_one_at_a_time);
    tcase_add_test(tcase, control_close_waits_for_work);
    tcase_add_test(tcase, control_socket_has_its_mode_and_goes_away);
    tcase_add_test(tcase, control_replaces_only_a_socket_that_nobody_listens_on);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
