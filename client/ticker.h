/* The optional thread: calls a function at an interval until it is stopped. All signals are blocked in it. */
#ifndef TOLL_CLIENT_TICKER_H
#define TOLL_CLIENT_TICKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct toll_ticker {
    void (*tick)(void *arg);
    void *arg;
    uint32_t interval_ms;
    bool running, stop; /* stop: under the lock */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* Starts the thread; interval_ms 0 starts none. Whatever was in *ticker (a dead thread of the parent's) is
 * forgotten. 0 or -errno. */
int toll_ticker_start(struct toll_ticker *ticker, uint32_t interval_ms, void (*tick)(void *), void *arg)
    __attribute__((warn_unused_result));

/* Ends the thread and waits for it, which takes no longer than one tick. Fine if none is running. */
void toll_ticker_stop(struct toll_ticker *ticker);

#endif
