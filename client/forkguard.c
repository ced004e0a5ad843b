/* One integer says whose the handle is: `mine` in the process that owns it, anything else in a child, and
 * `taking` while one thread of the child makes it new. With the wiped page these are 1, 0 and -1; with
 * getpid() the pid, the parent's pid and the pid negated. */
#include "client/forkguard.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/hot.h"

TOLL_HOT static atomic_int *guard_word(struct toll_forkguard *guard)
{
    return guard->wiped ? guard->wiped : &guard->owner;
}

TOLL_HOT static int guard_mine(const struct toll_forkguard *guard)
{
    return guard->wiped ? 1 : (int)getpid();
}

void toll_forkguard_init(struct toll_forkguard *guard, void *page, size_t page_bytes, bool use_page)
{
    guard->wiped = use_page && madvise(page, page_bytes, MADV_WIPEONFORK) == 0 ? page : NULL;
    atomic_init(guard_word(guard), guard_mine(guard));
}

TOLL_HOT bool toll_forkguard_forked(struct toll_forkguard *guard)
{
    atomic_int *word = guard_word(guard);
    int mine = guard_mine(guard);
    for (;;) {
        int now = atomic_load_explicit(word, memory_order_acquire);
        if (now == mine)
            return false;
        if (now == -mine)
            sched_yield();
        else if (atomic_compare_exchange_weak_explicit(word, &now, -mine, memory_order_acquire, memory_order_relaxed))
            return true;
    }
}

void toll_forkguard_taken(struct toll_forkguard *guard)
{
    atomic_store_explicit(guard_word(guard), guard_mine(guard), memory_order_release);
}
