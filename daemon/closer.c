/* See closer.h. */
#include "daemon/closer.h"

#include "daemon/clock.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id /* of timer_create(2); not in older headers */
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { INTERRUPT_NS = 50 * 1000, STUCK_US = 3 * 1000 * 1000 };

/* Shared by the thread and its owner; the last of the two frees it, since the thread may hang in close() for good. */
struct closer {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int *fds;
    size_t count, capacity;
    int64_t closing_since_us; /* monotonic; 0: no close() is under way */
    bool ended;
};

static void free_closer(struct closer *closer)
{
    pthread_mutex_destroy(&closer->mutex);
    pthread_cond_destroy(&closer->cond);
    free(closer->fds);
    free(closer);
}

/* A timer that interrupts this thread's system calls. False: there is none, closing may then take long. */
static bool make_timer(timer_t *ret)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    sigset_t set;

    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return timer_create(CLOCK_MONOTONIC, &event, ret) == 0;
}

static void set_timer(timer_t timer, long interval_ns)
{
    const struct itimerspec spec = {.it_value.tv_nsec = interval_ns, .it_interval.tv_nsec = interval_ns};

    (void)timer_settime(timer, 0, &spec, NULL);
}

static void close_one(int fd)
{
    static const struct linger off = {.l_onoff = 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off)); /* saves the wait for a signal */
    close(fd);
}

static void *run(void *argument)
{
    struct closer *closer = argument;
    timer_t timer;
    bool timed = make_timer(&timer), ticking = false;

    pthread_mutex_lock(&closer->mutex);
    while (!closer->ended) {
        bool work = closer->count > 0;

        if (timed && ticking != work) {
            set_timer(timer, work ? INTERRUPT_NS : 0);
            ticking = work;
        }
        if (work) {
            int fd = closer->fds[--closer->count];

            closer->closing_since_us = clock_monotonic_us();
            pthread_mutex_unlock(&closer->mutex);
            close_one(fd);
            pthread_mutex_lock(&closer->mutex);
            closer->closing_since_us = 0;
        } else {
            pthread_cond_wait(&closer->cond, &closer->mutex);
        }
    }
    pthread_mutex_unlock(&closer->mutex);
    if (timed)
        timer_delete(timer);
    free_closer(closer);
    return NULL;
}

static void on_interrupt(int number)
{
    (void)number; /* that it came is enough */
}

int closer_new(struct closer **ret)
{
    struct closer *closer = calloc(1, sizeof(*closer));
    struct sigaction action = {.sa_handler = on_interrupt};
    sigset_t all, before;
    pthread_t thread;
    int r;

    if (!closer)
        return -ENOMEM;
    pthread_mutex_init(&closer->mutex, NULL);
    pthread_cond_init(&closer->cond, NULL);
    sigaction(SIGRTMIN, &action, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, NULL, run, closer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0) {
        free_closer(closer);
        return -r;
    }
    pthread_detach(thread);
    *ret = closer;
    return 0;
}

void closer_free(struct closer *closer)
{
    if (!closer)
        return;
    pthread_mutex_lock(&closer->mutex);
    closer->ended = true;
    pthread_cond_signal(&closer->cond);
    pthread_mutex_unlock(&closer->mutex);
}

static bool remember(struct closer *closer, const int *fds, size_t count)
{
    if (closer->capacity - closer->count < count) {
        size_t capacity = (closer->count + count) * 2;
        int *grown = realloc(closer->fds, capacity * sizeof(*grown));

        if (!grown)
            return false;
        closer->fds = grown;
        closer->capacity = capacity;
    }
    memcpy(closer->fds + closer->count, fds, count * sizeof(*fds));
    closer->count += count;
    return true;
}

void closer_close(struct closer *closer, const int *fds, size_t count)
{
    bool remembered;

    pthread_mutex_lock(&closer->mutex);
    remembered = remember(closer, fds, count);
    pthread_cond_signal(&closer->cond);
    pthread_mutex_unlock(&closer->mutex);
    for (size_t i = 0; !remembered && i < count; i++)
        close(fds[i]);
}

size_t closer_waiting(struct closer *closer)
{
    size_t waiting;

    pthread_mutex_lock(&closer->mutex);
    waiting = closer->count + (closer->closing_since_us != 0);
    pthread_mutex_unlock(&closer->mutex);
    return waiting;
}

bool closer_stuck(struct closer *closer)
{
    bool stuck;

    pthread_mutex_lock(&closer->mutex);
    stuck = closer->closing_since_us && clock_monotonic_us() - closer->closing_since_us > STUCK_US;
    pthread_mutex_unlock(&closer->mutex);
    return stuck;
}
