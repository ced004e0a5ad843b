/* tollctl's side of the control socket against daemons that answer well, badly, or not at all. The daemon is a thread that plays a script. */
#include "daemon/clock.h"
#include "daemon/control_value.h"
#include "daemon/ctl_client.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char dir[] = "/tmp/toll-test-client-XXXXXX", path[64], error[CTL_ERROR_MAX];
static int listener;
static pthread_t thread;
static struct ctl_reply reply;

/* What the daemon does with its one connection. */
static struct {
    const char *bytes; /* sent after a request came */
    size_t size;
    bool piecewise; /* byte by byte */
    bool silent;    /* keeps the connection open until the client is gone */
    size_t padding; /* so many bytes of 'x' after that */
    char request[256];
    ssize_t request_size;
} script;

static void *play(void *unused)
{
    int fd = accept(listener, NULL, NULL);
    char x[4096];

    (void)unused;
    script.request_size = recv(fd, script.request, sizeof(script.request), 0);
    for (size_t i = 0; script.piecewise && i < script.size; i++)
        ck_assert_int_eq(send(fd, script.bytes + i, 1, MSG_NOSIGNAL), 1);
    if (!script.piecewise && script.size > 0)
        ck_assert_int_eq(send(fd, script.bytes, script.size, MSG_NOSIGNAL), (ssize_t)script.size);
    memset(x, 'x', sizeof(x));
    for (size_t sent = 0; sent < script.padding;) {
        size_t n = script.padding - sent < sizeof(x) ? script.padding - sent : sizeof(x);
        ssize_t r = send(fd, x, n, MSG_NOSIGNAL);

        if (r < 0)
            break;
        sent += (size_t)r;
    }
    if (script.silent) { /* POLLHUP: the client has closed the socket, not only its direction */
        struct pollfd poller = {.fd = fd};

        ck_assert_int_eq(poll(&poller, 1, 10000), 1);
    }
    close(fd);
    return NULL;
}

static void setup(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memset(&script, 0, sizeof(script));
    memcpy(dir + sizeof(dir) - 7, "XXXXXX", 7);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/control.sock", dir);
    memcpy(address.sun_path, path, strlen(path) + 1);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    error[0] = '\0';
}

static void teardown(void)
{
    close(listener);
    unlink(path);
    rmdir(dir);
}

static int ask_with(const struct ctl_request *request, int timeout_ms)
{
    int r;

    ck_assert_int_eq(pthread_create(&thread, NULL, play, NULL), 0);
    r = ctl_ask(path, request, timeout_ms, &reply, error);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    return r;
}

static int ask(const char *bytes, size_t size)
{
    const struct ctl_request request = {.command = "status"};

    script.bytes = bytes;
    script.size = size;
    return ask_with(&request, 10000);
}

#define ASK(bytes) ask(bytes, sizeof(bytes) - 1)

static void says(const char *format_of_path)
{
    char expected[CTL_ERROR_MAX];
    const char *mark = strchr(format_of_path, '@');

    snprintf(expected, sizeof(expected), "%.*s%s%s", (int)(mark - format_of_path), format_of_path, path, mark + 1);
    ck_assert_str_eq(error, expected);
}

START_TEST(ctl_client_sends_a_request_and_takes_the_reply)
{
    const struct ctl_request request = {.command = "c", .number_key = "n", .number = 5, .text_key = "t", .text = "x"};

    script.bytes = "\x82\xa2ok\xc3\xa4"
                   "data\x93\x01\x02\x03";
    script.size = 14;
    script.piecewise = true;
    ck_assert_int_eq(ask_with(&request, 10000), 0);
    ck_assert_int_eq((int)reply.data->type, MSGPACK_OBJECT_ARRAY);
    ck_assert_uint_eq(reply.data->via.array.size, 3);
    ck_assert_int_eq(reply.data->via.array.ptr[2].via.i64, 3);
    ctl_reply_done(&reply);
    ck_assert_int_eq(script.request_size, 18);
    ck_assert_mem_eq(script.request,
                     "\x83\xa7"
                     "command\xa1"
                     "c\xa1n\x05\xa1t\xa1x",
                     18);
}
END_TEST

START_TEST(ctl_client_takes_large_replies)
{
    script.padding = 3 << 20;
    ck_assert_int_eq(ASK("\x82\xa2ok\xc3\xa4"
                         "data\xdb\x00\x30\x00\x00"),
                     0);
    ck_assert_uint_eq(reply.data->via.str.size, 3 << 20);
    ck_assert_int_eq(reply.data->via.str.ptr[(3 << 20) - 1], 'x');
    ctl_reply_done(&reply);
}
END_TEST

START_TEST(ctl_client_hands_on_the_daemons_words)
{
    ck_assert_int_eq(ASK("\x82\xa2ok\xc2\xa5"
                         "error\xa7no luck"),
                     -EREMOTEIO);
    ck_assert_str_eq(error, "no luck");
}
END_TEST

START_TEST(ctl_client_says_that_nobody_is_there)
{
    const struct ctl_request request = {.command = "status"};

    close(listener);
    ck_assert_int_eq(ctl_ask(path, &request, 1000, &reply, error), -ECONNREFUSED);
    says("can't reach tolld at @: is it running? (systemctl status tolld)");
    unlink(path);
    ck_assert_int_eq(ctl_ask(path, &request, 1000, &reply, error), -ENOENT);
    says("can't reach tolld at @: is it running? (systemctl status tolld)");
    listener = -1;
}
END_TEST

START_TEST(ctl_client_gives_up_on_a_daemon_that_is_silent)
{
    const struct ctl_request request = {.command = "status"};
    int64_t began = clock_monotonic_us();

    script.silent = true;
    script.bytes = "\x82\xa2ok";
    script.size = 4;
    ck_assert_int_eq(ask_with(&request, 100), -ETIMEDOUT);
    ck_assert_int_ge(clock_monotonic_us() - began, 100000);
    says("tolld at @ has not answered within 1 s: is it stuck? (journalctl -u tolld)");
}
END_TEST

START_TEST(ctl_client_says_that_the_connection_was_closed)
{
    ck_assert_int_eq(ASK(""), -ECONNRESET);
    says("tolld at @ closed the connection: it is stopping, or too many clients ask at once; try again");
    ck_assert_int_eq(ASK("\x82\xa2ok\xc3"), -ECONNRESET);
}
END_TEST

START_TEST(ctl_client_is_not_misled_by_strangers)
{
    ck_assert_int_eq(ASK("HTTP/1.1 400 Bad Request\r\n\r\n"), -EBADMSG);
    says("what answers at @ is not tolld, or not of this version");
    ck_assert_int_eq(ASK("\xc1"), -EBADMSG);
    ck_assert_int_eq(ASK("\x80"), -EBADMSG);
    ck_assert_int_eq(ASK("\x81\xa2ok\x01"), -EBADMSG);
    ck_assert_int_eq(ASK("\x81\xa2ok\xc3"), -EBADMSG);
    ck_assert_int_eq(ASK("\x81\xa2ok\xc2"), -EBADMSG);
    ck_assert_int_lt(ASK("\xdf\xff\xff\xff\xff"), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ctl_client");
    TCase *tcase = tcase_create("ctl_client");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, ctl_client_sends_a_request_and_takes_the_reply);
    tcase_add_test(tcase, ctl_client_takes_large_replies);
    tcase_add_test(tcase, ctl_client_hands_on_the_daemons_words);
    tcase_add_test(tcase, ctl_client_says_that_nobody_is_there);
    tcase_add_test(tcase, ctl_client_gives_up_on_a_daemon_that_is_silent);
    tcase_add_test(tcase, ctl_client_says_that_the_connection_was_closed);
    tcase_add_test(tcase, ctl_client_is_not_misled_by_strangers);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
