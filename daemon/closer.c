/* See closer.h. */
#include "daemon/closer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Shared by the thread and its owner; the last of the two frees it, since the thread may hang in close() for good. */
struct closer {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int *fds;
    size_t count, capacity;
    bool closing, ended;
};

static void free_closer(struct closer *closer)
{
    pthread_mutex_destroy(&closer->mutex);
    pthread_cond_destroy(&closer->cond);
    free(closer->fds);
    free(closer);
}

static void *run(void *argument)
{
    struct closer *closer = argument;

    pthread_mutex_lock(&closer->mutex);
    while (!closer->ended) {
        int fd;

        if (closer->count == 0) {
            pthread_cond_wait(&closer->cond, &closer->mutex);
            continue;
        }
        fd = closer->fds[--closer->count];
        closer->closing = true;
        pthread_mutex_unlock(&closer->mutex);
        close(fd);
        pthread_mutex_lock(&closer->mutex);
        closer->closing = false;
    }
    pthread_mutex_unlock(&closer->mutex);
    free_closer(closer);
    return NULL;
}

int closer_new(struct closer **ret)
{
    struct closer *closer = calloc(1, sizeof(*closer));
    sigset_t all, before;
    pthread_t thread;
    int r;

    if (!closer)
        return -ENOMEM;
    pthread_mutex_init(&closer->mutex, NULL);
    pthread_cond_init(&closer->cond, NULL);
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
    waiting = closer->count + closer->closing;
    pthread_mutex_unlock(&closer->mutex);
    return waiting;
}
