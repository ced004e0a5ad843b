/* Tests of libtoll across fork(): the child gets a stream of its own, and nothing of its parent's is sent twice. */
#include "tests/unit/fake_daemon.h"

#include <pthread.h>
#include <sys/wait.h>

static struct fake_daemon daemon_;
static struct fake_daemon *d = &daemon_;
static struct toll *t;

static void setup(void)
{
    fake_daemon_start(d);
    t = fake_open(d, NULL);
}

static void teardown(void)
{
    toll_close(t, 0);
    fake_daemon_stop(d);
}

/* Forks; the child runs body and exits with what it returns, without check's own exit handlers. */
static pid_t fork_child(int (*body)(void))
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(body());
    return pid;
}

static void wait_child(pid_t pid)
{
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %#x", (unsigned)status);
}

/* Records one frame: it must be number 1 of an empty ring. Returns what went wrong, 0 if nothing. */
static int child_records(void)
{
    struct toll_stats stats;
    struct toll_snapshot snapshot;
    if (fake_record(t, "child") != 0)
        return 1;
    if (toll_stats(t, &stats) != 0 || stats.recorded != 1 || stats.outstanding != 1 || stats.datagrams != 1 ||
        stats.refused_full != 0)
        return 2;
    if (toll_snapshot(t, fake_call, &snapshot) != -ENOENT)
        return 3;
    return toll_close(t, 0) == -ETIMEDOUT ? 0 : 4; /* nobody acknowledged */
}

/* Reads what came: exactly one frame, the child's, in a stream that is not `parent`. */
static void check_child_stream(const uint8_t parent[16])
{
    ck_assert(fake_daemon_read(d));
    ck_assert_mem_ne(d->stream_id, parent, 16);
    ck_assert_uint_eq(d->envelope.stream_seq, 1);
    ck_assert_uint_eq(d->envelope.stream_base, 1);
    ck_assert_uint_eq(d->frames, 1);
    ck_assert_str_eq(d->frame[0].request_id, "child");
    ck_assert(d->attached);
    ck_assert(!fake_daemon_read(d));
}

START_TEST(child_begins_a_stream_of_its_own)
{
    uint8_t parent[16];
    ck_assert_int_eq(toll_session_start(t, fake_call, NULL), 0);
    ck_assert(fake_daemon_read(d));
    memcpy(parent, d->stream_id, 16);
    fake_daemon_unbind(d);
    for (int i = 0; i < 5; i++) /* outstanding, and not even sent */
        ck_assert_int_eq(fake_record(t, "parent"), 0);
    fake_daemon_bind(d);

    fake_advance_ms(10000);
    wait_child(fork_child(child_records));
    check_child_stream(parent);

    ck_assert_int_eq(fake_record(t, "parent"), 0); /* the parent goes on as if nothing had been */
    ck_assert(fake_daemon_read(d));
    ck_assert_mem_eq(d->stream_id, parent, 16);
    ck_assert_uint_eq(d->frames, 7);
    ck_assert_uint_eq(d->envelope.stream_seq, 1);
}
END_TEST

static int ring_is_empty(void)
{
    for (size_t i = 0; i < t->sender.ring.size; i++)
        if (t->sender.ring.data[i] != 0)
            return 1;
    return child_records();
}

START_TEST(child_does_not_inherit_the_ring)
{
    uint8_t parent[16];
    ck_assert_int_eq(fake_record(t, "parent"), 0);
    ck_assert(fake_daemon_read(d));
    memcpy(parent, d->stream_id, 16);
    ck_assert_uint_ne(t->sender.ring.data[0], 0);
    wait_child(fork_child(ring_is_empty));
    check_child_stream(parent);
}
END_TEST

static pthread_barrier_t locked, release;

static void *hold_lock(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&t->sender.lock);
    t->sender.sending = true; /* as in the middle of a sendmsg */
    t->sender.ring.pinned = true;
    pthread_barrier_wait(&locked);
    pthread_barrier_wait(&release);
    t->sender.sending = t->sender.ring.pinned = false;
    pthread_mutex_unlock(&t->sender.lock);
    return NULL;
}

static void fork_while_locked(void)
{
    pthread_t thread;
    uint8_t parent[16];
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(fake_record(t, "parent"), 0);
    for (int i = 0; i < 5; i++)
        ck_assert(fake_daemon_read(d));
    memcpy(parent, d->stream_id, 16);
    pthread_barrier_init(&locked, NULL, 2);
    pthread_barrier_init(&release, NULL, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, hold_lock, NULL), 0);
    pthread_barrier_wait(&locked);
    pid_t pid = fork_child(child_records);
    wait_child(pid);
    pthread_barrier_wait(&release);
    pthread_join(thread, NULL);
    check_child_stream(parent);
    ck_assert_int_eq(fake_record(t, "parent"), 0);
    ck_assert(fake_daemon_read(d));
    ck_assert_uint_eq(d->envelope.stream_seq, 6);
}

START_TEST(lock_held_by_another_thread_does_not_stop_the_child)
{
    fork_while_locked();
}
END_TEST

START_TEST(without_a_wiped_page_the_pid_tells)
{
    toll_forkguard_init(&t->guard, NULL, 0, false);
    fork_while_locked();
}
END_TEST

static int grandchild_records(void)
{
    if (fake_record(t, "ours") != 0)
        return 1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(child_records());
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 5;
}

START_TEST(every_generation_has_its_stream)
{
    uint8_t middle[16];
    ck_assert_int_eq(fake_record(t, "parent"), 0);
    ck_assert(fake_daemon_read(d));
    wait_child(fork_child(grandchild_records));
    ck_assert(fake_daemon_read(d));
    ck_assert_str_eq(d->frame[0].request_id, "ours");
    memcpy(middle, d->stream_id, 16);
    check_child_stream(middle);
}
END_TEST

/* A daemonizing child closes every descriptor and opens others: those are not libtoll's to close, nor to send to. */
static int child_reuses_descriptors(void)
{
    int socket_fd = t->sender.link.fd, page_fd = t->sender.page.fd, pair[2];
    close(socket_fd);
    close(page_fd);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) < 0 || dup2(pair[0], socket_fd) < 0 ||
        dup2(pair[0], page_fd) < 0)
        return 10;
    int r = child_records();
    if (r != 0)
        return r;
    char byte;
    if (recv(pair[1], &byte, 1, 0) != -1 || errno != EAGAIN)
        return 11;
    return fcntl(socket_fd, F_GETFD) >= 0 && fcntl(page_fd, F_GETFD) >= 0 ? 0 : 12;
}

START_TEST(descriptors_that_were_reused_are_left_alone)
{
    uint8_t parent[16];
    ck_assert_int_eq(fake_record(t, "parent"), 0);
    ck_assert(fake_daemon_read(d));
    memcpy(parent, d->stream_id, 16);
    wait_child(fork_child(child_reuses_descriptors));
    check_child_stream(parent);
}
END_TEST

static int child_closes_only(void)
{
    return toll_close(t, 1000); /* nothing recorded, nothing to wait for */
}

START_TEST(child_that_only_closes_sends_nothing)
{
    fake_daemon_unbind(d);
    ck_assert_int_eq(fake_record(t, "parent"), 0);
    fake_daemon_bind(d);
    fake_advance_ms(10000);
    wait_child(fork_child(child_closes_only));
    ck_assert(!fake_daemon_read(d));
}
END_TEST

#ifndef __SANITIZE_THREAD__ /* which refuses threads in the child of a process with threads */
/* Nobody else here sends again. */
static bool thread_ticks(void)
{
    struct toll_stats stats;
    for (int i = 0; i < 5000; i++, usleep(1000))
        if (toll_stats(t, &stats) == 0 && stats.resent > 0)
            return true;
    return false;
}

static int child_waits_for_its_thread(void)
{
    if (fake_record(t, "child") != 0)
        return 1;
    return thread_ticks() ? 0 : 2;
}

START_TEST(tick_thread_is_started_anew)
{
    toll_close(t, 0);
    ck_assert_int_eq(toll_open(&(struct toll_options){.socket = d->path, .thread_tick_ms = 5}, &t), 0);
    ck_assert_int_eq(fake_record(t, "parent"), 0);
    /* While a thread begins, a sanitizer's locks may be held, which nobody opens in a child. */
    ck_assert(thread_ticks());
    wait_child(fork_child(child_waits_for_its_thread));
}
END_TEST
#define WITH_THREAD
#endif

int main(void)
{
    Suite *suite = suite_create("toll_fork");
    TCase *tcase = tcase_create("fork");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, child_begins_a_stream_of_its_own);
    tcase_add_test(tcase, child_does_not_inherit_the_ring);
    tcase_add_test(tcase, lock_held_by_another_thread_does_not_stop_the_child);
    tcase_add_test(tcase, without_a_wiped_page_the_pid_tells);
    tcase_add_test(tcase, every_generation_has_its_stream);
    tcase_add_test(tcase, descriptors_that_were_reused_are_left_alone);
    tcase_add_test(tcase, child_that_only_closes_sends_nothing);
#ifdef WITH_THREAD
    tcase_add_test(tcase, tick_thread_is_started_anew);
#endif
    suite_add_tcase(suite, tcase);
    return fake_run(suite);
}
