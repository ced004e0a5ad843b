/* Tests of daemon/closer: descriptors are closed, also those whose close() would block for an hour. */
#include "daemon/closer.h"

#include "tests/unit/datagrams.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 10000 };

static struct closer *closer;

static void setup(void)
{
    ck_assert_int_eq(closer_new(&closer), 0);
}

static void teardown(void)
{
    closer_free(closer);
    closer_free(NULL);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void wait_until_closed(void)
{
    for (int64_t until = now_ms() + WAIT_MS; closer_waiting(closer) > 0;) {
        ck_assert_int_lt(now_ms(), until);
        poll(NULL, 0, 1);
    }
}

/* The other end sees the close. */
START_TEST(descriptors_are_closed)
{
    enum { PIPES = 300 };
    struct pollfd ends[PIPES];

    for (size_t i = 0; i < PIPES; i++) {
        int fds[2];

        ck_assert_int_eq(pipe(fds), 0);
        ends[i] = (struct pollfd){.fd = fds[0]};
        closer_close(closer, &fds[1], 1);
    }
    for (size_t i = 0; i < PIPES; i++) {
        ck_assert_int_eq(poll(&ends[i], 1, WAIT_MS), 1);
        ck_assert(ends[i].revents & POLLHUP);
        close(ends[i].fd);
    }
    wait_until_closed();
}
END_TEST

START_TEST(many_at_once_and_none)
{
    int fds[253];

    for (size_t i = 0; i < 253; i++)
        ck_assert_int_ge(fds[i] = fcntl(STDIN_FILENO, F_DUPFD, 3), 0);
    closer_close(closer, fds, 253);
    closer_close(closer, fds, 0);
    wait_until_closed();
    for (size_t i = 0; i < 253; i++)
        ck_assert_int_eq(fcntl(fds[i], F_GETFD), -1);
}
END_TEST

/* A TCP socket with unsent data and SO_LINGER: its close() blocks until the time is over, here an hour. */
static int lingering_socket(int *ret_peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct linger linger = {.l_onoff = 1, .l_linger = 3600};
    socklen_t size = sizeof(address);
    char filler[65536] = {0};
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, size), 0);
    *ret_peer = accept(listener, NULL, NULL); /* never reads */
    ck_assert_int_ge(*ret_peer, 0);
    close(listener);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    while (send(fd, filler, sizeof(filler), MSG_DONTWAIT) > 0)
        ;
    return fd;
}

START_TEST(socket_that_lingers_blocks_nobody)
{
    enum { SOCKETS = 20 };
    int peers[SOCKETS], fds[SOCKETS];

    for (size_t i = 0; i < SOCKETS; i++)
        fds[i] = lingering_socket(&peers[i]);
    closer_close(closer, fds, SOCKETS);
    wait_until_closed();
    ck_assert(!closer_stuck(closer));
    for (size_t i = 0; i < SOCKETS; i++)
        close(peers[i]);
}
END_TEST

static void send_descriptor(int socket, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {.bytes = {0}};
    struct iovec io = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};

    control.align.cmsg_level = SOL_SOCKET;
    control.align.cmsg_type = SCM_RIGHTS;
    control.align.cmsg_len = CMSG_LEN(sizeof(fd));
    memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
    ck_assert_int_eq(sendmsg(socket, &message, 0), 1);
    close(fd);
}

/* It waits in the queue of a socket that waits in the queue of another: nobody can reach it to set an option. */
START_TEST(socket_that_lingers_inside_another_blocks_nobody)
{
    enum { SOCKETS = 20 };
    int outer[2], inner[2], peers[SOCKETS];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, outer), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, inner), 0);
    for (size_t i = 0; i < SOCKETS; i++)
        send_descriptor(inner[0], lingering_socket(&peers[i]));
    send_descriptor(outer[0], inner[1]);
    closer_close(closer, &outer[1], 1);
    wait_until_closed();
    for (size_t i = 0; i < SOCKETS; i++)
        close(peers[i]);
    close(outer[0]);
    close(inner[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("closer");
    TCase *tests = tcase_create("closer");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, descriptors_are_closed);
    tcase_add_test(tests, many_at_once_and_none);
    tcase_add_test(tests, socket_that_lingers_blocks_nobody);
    tcase_add_test(tests, socket_that_lingers_inside_another_blocks_nobody);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
