/* Tests of daemon/listener: binding, credentials, descriptors, and datagrams longer than the buffer, over
 * real sockets. */
#include "daemon/listener.h"

#include "tests/unit/datagrams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], path[108];
static int fd;
static char buffer[TOLL_DATAGRAM_MAX];
static struct datagram datagram;

static void setup(void)
{
    snprintf(dir, sizeof(dir), "/tmp/toll-test-listener.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/toll.sock", dir);
    fd = listener_bind(path, 0620);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(listener_prepare(fd), 0);
}

static void teardown(void)
{
    if (fd >= 0)
        close(fd);
    unlink(path);
    rmdir(dir);
}

static int connected(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sender = socket(AF_UNIX, SOCK_DGRAM, 0);

    memcpy(address.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(connect(sender, (struct sockaddr *)&address, sizeof(address)), 0);
    return sender;
}

static int receive(void)
{
    int r = listener_receive(fd, buffer, sizeof(buffer), 0, 1, &datagram);

    return r == 1 ? 0 : r;
}

START_TEST(datagram_comes_with_its_sender)
{
    int sender = connected(), status;
    pid_t child;

    ck_assert_int_eq(receive(), -EAGAIN);
    ck_assert_int_eq(send(sender, "abc", 3, 0), 3);
    ck_assert_int_eq(receive(), 0);
    ck_assert_uint_eq(datagram.size, 3);
    ck_assert_mem_eq(datagram.data, "abc", 3);
    ck_assert(!datagram.truncated);
    ck_assert_uint_eq(datagram.uid, getuid());
    ck_assert_uint_eq(datagram.pid, (uint32_t)getpid());
    ck_assert_int_eq(datagram.fd_count, 0);
    child = fork();
    if (child == 0)
        _exit(send(sender, "x", 1, 0) == 1 ? 0 : 1);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(receive(), 0);
    ck_assert_uint_eq(datagram.pid, (uint32_t)child); /* dead by now, known all the same */
    ck_assert_int_eq(receive(), -EAGAIN);
    close(sender);
}
END_TEST

/* Workers wait for a daemon that restarts, so they send as soon as there is a socket. */
START_TEST(datagram_sent_before_preparing_has_its_sender_too)
{
    int sender;

    close(fd);
    fd = listener_bind(path, 0600);
    ck_assert_int_ge(fd, 0);
    sender = connected();
    ck_assert_int_eq(send(sender, "abc", 3, 0), 3);
    ck_assert_int_eq(listener_prepare(fd), 0);
    ck_assert_int_eq(receive(), 0);
    ck_assert_uint_eq(datagram.uid, getuid());
    ck_assert_uint_eq(datagram.pid, (uint32_t)getpid());
    close(sender);
}
END_TEST

START_TEST(empty_datagram_is_a_datagram)
{
    int sender = connected();

    ck_assert_int_eq(send(sender, "", 0, 0), 0);
    ck_assert_int_eq(receive(), 0);
    ck_assert_uint_eq(datagram.size, 0);
    ck_assert_int_eq(receive(), -EAGAIN);
    close(sender);
}
END_TEST

START_TEST(oversized_datagram_is_cut_and_says_so)
{
    int sender = connected(), size = 1 << 20;
    char *large = calloc(1, TOLL_DATAGRAM_MAX + 1);

    ck_assert_int_eq(setsockopt(sender, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    ck_assert_int_eq(send(sender, large, TOLL_DATAGRAM_MAX, 0), TOLL_DATAGRAM_MAX);
    ck_assert_int_eq(send(sender, large, TOLL_DATAGRAM_MAX + 1, 0), TOLL_DATAGRAM_MAX + 1);
    ck_assert_int_eq(receive(), 0);
    ck_assert_uint_eq(datagram.size, TOLL_DATAGRAM_MAX);
    ck_assert(!datagram.truncated);
    ck_assert_int_eq(receive(), 0);
    ck_assert_uint_eq(datagram.size, TOLL_DATAGRAM_MAX);
    ck_assert(datagram.truncated);
    ck_assert_int_eq(receive(), -EAGAIN);
    free(large);
    close(sender);
}
END_TEST

static void send_descriptors(int sender, const int *fds, size_t count)
{
    union {
        char bytes[CMSG_SPACE(LISTENER_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec io = {.iov_base = "d", .iov_len = 1};
    struct msghdr message = {.msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c;

    memset(&control, 0, sizeof(control));
    c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    ck_assert_int_eq(sendmsg(sender, &message, 0), 1);
}

/* All of the kernel's maximum, beside the credentials: none may be lost, or nobody would close it. */
START_TEST(descriptors_are_received_up_to_the_kernels_limit)
{
    int sender = connected(), fds[LISTENER_FDS_MAX];

    for (size_t i = 0; i < LISTENER_FDS_MAX; i++)
        fds[i] = STDIN_FILENO;
    for (size_t count = 1; count <= LISTENER_FDS_MAX; count += 126) {
        send_descriptors(sender, fds, count);
        ck_assert_int_eq(receive(), 0);
        ck_assert_int_eq(datagram.fd_count, (int)count);
        ck_assert_uint_eq(datagram.uid, getuid());
        for (int i = 0; i < datagram.fd_count; i++) {
            ck_assert_int_eq(fcntl(datagram.fds[i], F_GETFD), FD_CLOEXEC);
            close(datagram.fds[i]);
        }
    }
    close(sender);
}
END_TEST

START_TEST(several_datagrams_come_with_one_call_each_with_its_own_descriptors)
{
    enum { CAP = 8, STRIDE = 64 };
    static struct datagram several[LISTENER_AT_ONCE];
    int sender = connected(), in = STDIN_FILENO;

    ck_assert_int_eq(send(sender, "first", 5, 0), 5);
    send_descriptors(sender, &in, 1);
    ck_assert_int_eq(send(sender, "longer than cap", 15, 0), 15);
    ck_assert_int_eq(send(sender, "last", 4, 0), 4);
    ck_assert_int_eq(listener_receive(fd, buffer, CAP, STRIDE, 3, several), 3);
    ck_assert_ptr_eq(several[0].data, buffer);
    ck_assert_uint_eq(several[0].size, 5);
    ck_assert_int_eq(several[0].fd_count, 0);
    ck_assert_int_eq(several[1].fd_count, 1);
    close(several[1].fds[0]);
    ck_assert_ptr_eq(several[2].data, &buffer[(size_t)2 * STRIDE]);
    ck_assert_uint_eq(several[2].size, CAP);
    ck_assert(several[2].truncated && !several[1].truncated);
    ck_assert_uint_eq(several[2].uid, getuid());
    ck_assert_int_eq(listener_receive(fd, buffer, CAP, STRIDE, LISTENER_AT_ONCE, several), 1);
    ck_assert_mem_eq(several[0].data, "last", 4);
    ck_assert_int_eq(listener_receive(fd, buffer, CAP, STRIDE, LISTENER_AT_ONCE, several), -EAGAIN);
    close(sender);
}
END_TEST

START_TEST(socket_file_has_the_mode_asked_for)
{
    struct stat status;

    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert(S_ISSOCK(status.st_mode));
    ck_assert_uint_eq(status.st_mode & 0777, 0620);
}
END_TEST

START_TEST(socket_in_use_is_not_replaced)
{
    int sender;

    ck_assert_int_eq(listener_bind(path, 0600), -EADDRINUSE);
    sender = connected(); /* it still is the first one's */
    ck_assert_int_eq(send(sender, "x", 1, 0), 1);
    ck_assert_int_eq(receive(), 0);
    close(sender);
}
END_TEST

START_TEST(socket_left_behind_is_replaced)
{
    close(fd);
    fd = listener_bind(path, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(listener_prepare(fd), 0);
    int sender = connected();
    ck_assert_int_eq(send(sender, "x", 1, 0), 1);
    ck_assert_int_eq(receive(), 0);
    close(sender);
}
END_TEST

START_TEST(other_files_are_not_replaced)
{
    char other[128];
    int file;

    snprintf(other, sizeof(other), "%s/file", dir);
    file = open(other, O_CREAT | O_WRONLY, 0600);
    ck_assert_int_ge(file, 0);
    close(file);
    ck_assert_int_eq(listener_bind(other, 0600), -EADDRINUSE);
    ck_assert_int_eq(unlink(other), 0);
    ck_assert_int_eq(symlink(path, other), 0); /* not even a link to a socket */
    ck_assert_int_eq(listener_bind(other, 0600), -EADDRINUSE);
    ck_assert_int_eq(unlink(other), 0);
}
END_TEST

START_TEST(path_has_a_length_limit)
{
    char name[200];
    int bound;

    memset(name, 'x', sizeof(name));
    memcpy(name, dir, strlen(dir));
    name[strlen(dir)] = '/';
    name[108] = '\0';
    ck_assert_int_eq(listener_bind(name, 0600), -ENAMETOOLONG);
    name[107] = '\0';
    bound = listener_bind(name, 0600);
    ck_assert_int_ge(bound, 0);
    close(bound);
    ck_assert_int_eq(unlink(name), 0);
    snprintf(name, sizeof(name), "%s/none/toll.sock", dir);
    ck_assert_int_eq(listener_bind(name, 0600), -ENOENT);
}
END_TEST

START_TEST(other_descriptors_can_not_be_prepared)
{
    int fds[2], stream = socket(AF_UNIX, SOCK_STREAM, 0), internet = socket(AF_INET, SOCK_DGRAM, 0);

    ck_assert_int_eq(pipe(fds), 0);
    ck_assert_int_eq(listener_prepare(fds[0]), -ENOTSOCK);
    ck_assert_int_eq(listener_prepare(stream), -EPROTOTYPE);
    ck_assert_int_eq(listener_prepare(internet), -EPROTOTYPE);
    close(fds[0]);
    close(fds[1]);
    close(stream);
    close(internet);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("listener");
    TCase *tests = tcase_create("listener");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, several_datagrams_come_with_one_call_each_with_its_own_descriptors);
    tcase_add_test(tests, datagram_comes_with_its_sender);
    tcase_add_test(tests, datagram_sent_before_preparing_has_its_sender_too);
    tcase_add_test(tests, empty_datagram_is_a_datagram);
    tcase_add_test(tests, oversized_datagram_is_cut_and_says_so);
    tcase_add_test(tests, descriptors_are_received_up_to_the_kernels_limit);
    tcase_add_test(tests, socket_file_has_the_mode_asked_for);
    tcase_add_test(tests, socket_in_use_is_not_replaced);
    tcase_add_test(tests, socket_left_behind_is_replaced);
    tcase_add_test(tests, other_files_are_not_replaced);
    tcase_add_test(tests, path_has_a_length_limit);
    tcase_add_test(tests, other_descriptors_can_not_be_prepared);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
