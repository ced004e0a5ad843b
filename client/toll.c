/* The life of a handle: open, flush, tick, close, and what can be read from it. Recording is in record.c. */
#include "client/toll.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/handle.h"
#include "proto/hot.h"

#define DEFAULT_SOCKET "/run/toll/toll.sock"

enum {
    RING_BYTES_MIN = 4096,
    RING_BYTES_DEFAULT = 1 << 20,
    RING_BYTES_MAX = 1 << 30,
    SESSIONS_DEFAULT = 1024,
    SESSIONS_MAX = 1 << 20,
};

static size_t pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static size_t power_of_two(size_t at_least)
{
    size_t n = RING_BYTES_MIN;
    while (n < at_least)
        n *= 2;
    return n;
}

static void tick(void *toll)
{
    toll_tick(toll);
}

int toll_open(const struct toll_options *options, struct toll **ret)
{
    static const struct toll_options defaults;
    const struct toll_options *o = options ? options : &defaults;
    const char *path = o->socket ? o->socket : secure_getenv("TOLL_SOCKET");
    if (o->ring_bytes > RING_BYTES_MAX || o->max_sessions > SESSIONS_MAX)
        return -EINVAL;
    uint32_t sessions = o->max_sessions ? o->max_sessions : SESSIONS_DEFAULT;
    size_t ring_bytes = power_of_two(o->ring_bytes ? o->ring_bytes : RING_BYTES_DEFAULT);

    size_t guard_at = 0, toll_at = pages(1), slots_at = toll_at + pages(sizeof(struct toll));
    size_t ring_at = slots_at + pages(toll_totals_slots(sessions) * sizeof(struct toll_totals_slot));
    size_t bytes = ring_at + ring_bytes;
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;

    /* Recording is to meet no page fault: neither the first time nor, in a parent, after a fork, for the child's ring is
     * empty anyway. Where the kernel can't, recording is slower, and nothing else. */
    (void)madvise(memory + ring_at, pages(ring_bytes), MADV_WIPEONFORK);
    (void)madvise(memory + ring_at, pages(ring_bytes), MADV_POPULATE_WRITE);
    (void)madvise(memory + toll_at, slots_at - toll_at, MADV_POPULATE_WRITE);

    struct toll *t = (struct toll *)(void *)(memory + toll_at);
    t->memory = memory;
    t->memory_bytes = bytes;
    toll_forkguard_init(&t->guard, memory + guard_at, pages(1), true);
    toll_totals_init(&t->totals, (struct toll_totals_slot *)(void *)(memory + slots_at), sessions);
    int r = toll_sender_init(&t->sender, path && *path ? path : DEFAULT_SOCKET,
                             o->client ? o->client : program_invocation_short_name, memory + ring_at, ring_bytes);
    if (r < 0)
        goto unmap;
    r = toll_ticker_start(&t->ticker, o->thread_tick_ms, tick, t);
    if (r < 0)
        goto done;
    *ret = t;
    return 0;

done:
    toll_sender_done(&t->sender);
unmap:
    munmap(memory, bytes);
    return r;
}

TOLL_HOT void toll_enter(struct toll *t)
{
    if (!toll_forkguard_forked(&t->guard))
        return;
    toll_sender_reborn(&t->sender);
    toll_totals_init(&t->totals, t->totals.slots, t->totals.max_sessions);
    uint32_t interval_ms = t->ticker.interval_ms;
    toll_forkguard_taken(&t->guard);
    /* last, as the new thread enters too; without it the child's own records still drive everything */
    (void)!toll_ticker_start(&t->ticker, interval_ms, tick, t);
}

int toll_close(struct toll *t, uint32_t timeout_ms)
{
    if (!t)
        return 0;
    toll_enter(t);
    toll_ticker_stop(&t->ticker);
    int r = toll_sender_flush(&t->sender, timeout_ms);
    toll_sender_done(&t->sender);
    munmap(t->memory, t->memory_bytes);
    return r;
}

int toll_flush(struct toll *t, uint32_t timeout_ms)
{
    toll_enter(t);
    return toll_sender_flush(&t->sender, timeout_ms);
}

void toll_tick(struct toll *t)
{
    toll_enter(t);
    toll_sender_pump(&t->sender, false);
}

int toll_snapshot(struct toll *t, const unsigned char session_id[16], struct toll_snapshot *ret)
{
    if (!session_id)
        return -EINVAL;
    toll_enter(t);
    pthread_mutex_lock(&t->sender.lock);
    const struct toll_snapshot *sums = toll_totals_find(&t->totals, session_id);
    int r = sums ? 0 : t->totals.overflown ? -ENOSPC : -ENOENT;
    if (sums)
        *ret = *sums;
    pthread_mutex_unlock(&t->sender.lock);
    return r;
}

enum toll_credit toll_credit(struct toll *t, const unsigned char session_id[16])
{
    if (!session_id)
        return TOLL_CREDIT_OK;
    toll_enter(t);
    return (enum toll_credit)toll_ackpage_credit(&t->sender.page, session_id);
}

int toll_stats(struct toll *t, struct toll_stats *ret)
{
    toll_enter(t);
    pthread_mutex_lock(&t->sender.lock);
    toll_sender_stats(&t->sender, ret);
    pthread_mutex_unlock(&t->sender.lock);
    return 0;
}
