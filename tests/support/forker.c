/* A worker that forks for fault tests: while frames are outstanding, while its threads record, while libtoll's own thread
 * ticks; its children record through the handle they inherited, and fork again. Some kill themselves, parents too. All write
 * one tally (tally.h).
 *
 * Everything is decided by the seed but the order in which processes and threads run. */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/tally.h"

enum { THREADS_MAX = 8, BURST = 8, PAUSE_US = 50000 };

/* What a process does when it has recorded its frames and forked its children. */
enum fate { FATE_FLUSH, FATE_DIE };

static struct {
    uint32_t children, depth, frames, threads;
} o;

static struct tally *tally;
static struct toll *toll;
static uint8_t shared_session[16]; /* the first process's; its children go on in it */

/* Of this process: */
static uint32_t slot;
static bool alone; /* no other thread puts frames into the ring */
static uint8_t session[16];
static uint64_t chance;

static void record(enum tally_type type, const uint8_t of[16])
{
    struct tally_entry *e = tally_claim(tally, slot, type, of);
    if (!e)
        tally_fail("entries", ENOSPC);
    (void)tally_record(tally, toll, e, alone);
}

static void *thread_main(void *arg)
{
    uint64_t random = tally_seed((uint64_t)(uintptr_t)arg);
    for (uint32_t i = 0; i < o.frames; i++) {
        record(TALLY_LLM, tally_random(&random, 2) ? session : shared_session);
        if (tally_random(&random, BURST) == 0)
            tally_sleep_us(tally_random(&random, PAUSE_US));
    }
    return NULL;
}

static void note_fork(void)
{
    struct toll_stats stats;
    (void)toll_stats(toll, &stats);
    tally->forks++;
    tally->forks_outstanding += stats.outstanding > 0;
}

static void process(uint32_t depth);

/* In the child it does not come back. A child draws its own chance, or siblings would all do the same. */
static void fork_child(uint32_t depth)
{
    uint64_t seed = tally_random(&chance, UINT64_MAX) | 1;
    note_fork();
    pid_t pid = fork();
    if (pid < 0)
        tally_fail("fork", errno);
    if (pid > 0)
        return;
    chance = seed;
    if (tally_random(&chance, 8) == 0) /* one that has no use for the handle, and closes it or not */
        _exit(tally_random(&chance, 2) ? (toll_close(toll, 0), EXIT_SUCCESS) : EXIT_SUCCESS);
    process(depth);
    _exit(EXIT_SUCCESS);
}

static void start_threads(pthread_t threads[])
{
    for (uint32_t i = 0; i < o.threads; i++) {
        void *seed = (void *)(uintptr_t)tally_random(&chance, UINT32_MAX);
        int r = pthread_create(&threads[i], NULL, thread_main, seed);
        if (r != 0)
            tally_fail("pthread_create", r);
    }
}

/* One process, from its first record on. Only the first one's session lies open to others. */
static void process(uint32_t depth)
{
    enum fate fate = tally_random(&chance, 3) == 0 ? FATE_DIE : FATE_FLUSH;
    bool threaded = o.threads > 0 && tally_random(&chance, 2) == 0;
    uint32_t children = depth == 0 ? o.children : depth < o.depth ? (uint32_t)tally_random(&chance, 3) : 0;
    pthread_t threads[THREADS_MAX];

    slot = tally_claim_slot(tally);
    alone = !threaded;
    toll_id_random(session);
    if (depth == 0)
        memcpy(session, shared_session, sizeof session);
    record(TALLY_START, session);
    if (threaded)
        start_threads(threads);
    for (uint32_t burst = 0; burst <= children; burst++) {
        for (uint32_t i = 0; i < o.frames / (children + 1) + 1; i++) {
            record(TALLY_LLM, tally_random(&chance, 2) ? session : shared_session);
            if (tally_random(&chance, BURST) == 0)
                tally_sleep_us(tally_random(&chance, PAUSE_US));
        }
        if (burst < children)
            fork_child(depth + 1);
    }
    if (fate == FATE_DIE) {
        tally->slot[slot].state = TALLY_DYING;
        (void)raise(SIGKILL);
    }
    for (uint32_t i = 0; threaded && i < o.threads; i++)
        pthread_join(threads[i], NULL);
    record(TALLY_END, session);
    tally_close(&tally->slot[slot], toll, 20000);
}

/* Sees all of them to their end, whoever their parents were. */
static int await_all(void)
{
    int status, result = EXIT_SUCCESS;
    while (wait(&status) > 0)
        if (!(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS) &&
            !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
            result = EXIT_FAILURE;
    return result;
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fputs("forker SOCKET TALLY SEED CHILDREN DEPTH FRAMES THREADS TICK_THREAD_MS\n", stderr);
        return 2;
    }
    tally = tally_map(argv[2]);
    chance = tally_seed(strtoull(argv[3], NULL, 10));
    o.children = (uint32_t)strtoul(argv[4], NULL, 10);
    o.depth = (uint32_t)strtoul(argv[5], NULL, 10);
    o.frames = (uint32_t)strtoul(argv[6], NULL, 10);
    o.threads = (uint32_t)strtoul(argv[7], NULL, 10);
    if (o.threads > THREADS_MAX)
        return 2;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t pid = fork();
    if (pid < 0)
        tally_fail("fork", errno);
    if (pid > 0)
        return await_all();
    int r = toll_open(&(struct toll_options){.socket = argv[1],
                                             .client = "forker",
                                             .thread_tick_ms = (uint32_t)strtoul(argv[8], NULL, 10)},
                      &toll);
    if (r < 0)
        tally_fail("toll_open", -r);
    toll_id_random(shared_session);
    process(0);
    return EXIT_SUCCESS;
}
