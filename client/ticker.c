/* The tick thread: sleeps on a condition variable so that it can be ended at once. */
#include "client/ticker.h"

#include <signal.h>
#include <time.h>

static void *ticker_main(void *arg)
{
    struct toll_ticker *ticker = arg;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);

    pthread_mutex_lock(&ticker->lock);
    while (!ticker->stop) {
        next.tv_sec += ticker->interval_ms / 1000;
        next.tv_nsec += (long)(ticker->interval_ms % 1000) * 1000000;
        if (next.tv_nsec >= 1000000000) {
            next.tv_sec++;
            next.tv_nsec -= 1000000000;
        }
        while (!ticker->stop && pthread_cond_timedwait(&ticker->wake, &ticker->lock, &next) == 0)
            ;
        if (ticker->stop)
            break;
        pthread_mutex_unlock(&ticker->lock);
        ticker->tick(ticker->arg);
        clock_gettime(CLOCK_MONOTONIC, &next); /* a late tick is not caught up with */
        pthread_mutex_lock(&ticker->lock);
    }
    pthread_mutex_unlock(&ticker->lock);
    return NULL;
}

int toll_ticker_start(struct toll_ticker *ticker, uint32_t interval_ms, void (*tick)(void *), void *arg)
{
    pthread_condattr_t monotonic;
    sigset_t all, before;

    *ticker = (struct toll_ticker){.tick = tick, .arg = arg, .interval_ms = interval_ms};
    if (interval_ms == 0)
        return 0;
    pthread_mutex_init(&ticker->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&ticker->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);

    /* the worker's signals are for the worker's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = -pthread_create(&ticker->thread, NULL, ticker_main, ticker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    ticker->running = r == 0;
    return r;
}

void toll_ticker_stop(struct toll_ticker *ticker)
{
    if (!ticker->running)
        return;
    pthread_mutex_lock(&ticker->lock);
    ticker->stop = true;
    pthread_cond_signal(&ticker->wake);
    pthread_mutex_unlock(&ticker->lock);
    pthread_join(ticker->thread, NULL);
    pthread_cond_destroy(&ticker->wake);
    pthread_mutex_destroy(&ticker->lock);
    ticker->running = false;
}
