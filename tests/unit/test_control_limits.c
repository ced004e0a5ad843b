/* The control socket against clients that ask for too much, never end, or never read. */
#include "tests/unit/controltest.h"

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

int main(void)
{
    Suite *suite = suite_create("control_limits");
    TCase *tcase = tcase_create("control_limits");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, control_refuses_bombs_at_once);
    tcase_add_test(tcase, control_request_may_have_64_kib_and_no_more);
    tcase_add_test(tcase, control_many_elements_byte_by_byte_stay_cheap);
    tcase_add_test(tcase, control_drops_a_client_that_does_not_finish_its_request);
    tcase_add_test(tcase, control_slow_bytes_do_not_prolong_a_request);
    tcase_add_test(tcase, control_drops_a_client_that_never_reads);
    tcase_add_test(tcase, control_replies_not_taken_are_bounded);
    tcase_add_test(tcase, control_takes_32_clients);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
