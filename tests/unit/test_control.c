/* The control socket: requests and their answers, at once and later, and how it begins and ends. */
#include "tests/unit/controltest.h"

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
