/* Notices that this process is a forked child of the one that opened the handle.
 *
 * A page that the kernel wipes in the child (MADV_WIPEONFORK, Linux 4.14) tells without a system call; where
 * there is none, getpid() does. pthread_atfork() would not do: handlers can't be taken back by close, and
 * _Fork() and clone() skip them. */
#ifndef TOLL_CLIENT_FORKGUARD_H
#define TOLL_CLIENT_FORKGUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct toll_forkguard {
    atomic_int *wiped; /* in the page; 0 after a fork; NULL: no such page, then: */
    atomic_int owner;  /* the process it belongs to, or the opposite of its pid while a child takes it over */
};

/* page: a page of private anonymous memory that is used for nothing else. use_page: false only to test the
 * other way. */
void toll_forkguard_init(struct toll_forkguard *guard, void *page, size_t page_bytes, bool use_page);

/* A hint: toll_forkguard_forked() comes soon. */
static inline void toll_forkguard_fetch(const struct toll_forkguard *guard)
{
    __builtin_prefetch(guard->wiped);
}

/* True in exactly one thread of a forked child: it must make everything new and then call
 * toll_forkguard_taken(). Other threads wait in here until it has. False otherwise; then what the taker wrote
 * is visible. */
bool toll_forkguard_forked(struct toll_forkguard *guard) __attribute__((warn_unused_result));
void toll_forkguard_taken(struct toll_forkguard *guard);

#endif
