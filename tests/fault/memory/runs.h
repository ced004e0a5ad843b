/* The runs of a scenario: without a failure, then with the 1st, 2nd … n-th allocation failing, once or for a while, until a run sees no
 * failure. Each run is a process of its own, so that a crash is one run's, and is counted; what it found comes back in shared memory.
 *
 * In the short version a sample of the numbers, by seed. */
#ifndef TOLL_TESTS_MEMORY_RUNS_H
#define TOLL_TESTS_MEMORY_RUNS_H

#include "tests/fault/memory/outcome.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUN_SECONDS = 120, FEW_CALLS = 20 /* all of them, always */ };

static struct {
    struct outcome sum;
    uint64_t runs, crashes, allocations;
    uint64_t random;
    bool is_long;
    const char *only; /* "scenario number length": that run alone, in this process, for a debugger */
} runs;

/* In a sanitizer's build: whether something leaked that is not ours to count. */
__attribute__((weak)) int __lsan_do_recoverable_leak_check(void);

static uint64_t runs_random(void)
{
    runs.random ^= runs.random << 13; /* xorshift64: Marsaglia, "Xorshift RNGs", 2003 */
    runs.random ^= runs.random >> 7;
    runs.random ^= runs.random << 17;
    return runs.random;
}

/* Threads that were told to end may take a moment to free what is theirs. */
static void count_leaks(struct outcome *outcome, long before)
{
    for (int waits = 0; failing.live != before && waits < 5000; waits++)
        usleep(1000);
    if (failing.live != before) {
        outcome->leaks += (uint64_t)labs(failing.live - before);
        fprintf(stderr, "  %ld allocations too many are left\n", failing.live - before);
    }
    if (__lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check())
        outcome->leaks++;
}

static void run_here(const struct scenario *scenario, uint64_t from, uint64_t length, struct outcome *ret)
{
    long before = failing.live;

    failing.from = from;
    failing.to = from + length;
    failing.armed = true;
    scenario->run(ret);
    failing.armed = false;
    count_leaks(ret, before);
    ret->calls = failing.calls;
    ret->failed = failing.failed;
}

static struct outcome run_once(const struct scenario *scenario, uint64_t from, uint64_t length)
{
    struct outcome *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                   found;
    int status = 0;
    pid_t pid;

    if (shared == MAP_FAILED)
        abort();
    pid = fork();
    if (pid == 0) {
        alarm(RUN_SECONDS); /* a hang is a crash */
        run_here(scenario, from, length, shared);
        fflush(stdout);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        abort();
    found = *shared;
    munmap(shared, sizeof(*shared));
    runs.runs++;
    if (status != 0) {
        runs.crashes++;
        fprintf(stderr, "  it ended with %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    if (status != 0 || found.lost || found.duplicated || found.wrong_totals || found.leaks || found.complaints)
        fprintf(stderr,
                "%s %" PRIu64 " %" PRIu64 ": lost %" PRIu64 " duplicated %" PRIu64 " wrong_totals %" PRIu64
                " leaks %" PRIu64 " complaints %" PRIu64 " (TOLL_RUN='%s %" PRIu64 " %" PRIu64 "' repeats it)\n",
                scenario->name, from, length, found.lost, found.duplicated, found.wrong_totals, found.leaks,
                found.complaints, scenario->name, from, length);
    runs.sum.lost += found.lost;
    runs.sum.duplicated += found.duplicated;
    runs.sum.wrong_totals += found.wrong_totals;
    runs.sum.leaks += found.leaks;
    runs.sum.complaints += found.complaints;
    if (status != 0)
        found.failed = 1; /* it may have died before it could say so */
    return found;
}

/* In the long version all numbers fail once, and every few begin a lack; else about `sample` of each. */
static void run_scenario(const struct scenario *scenario, unsigned sample)
{
    static const uint64_t lengths[] = {1, 8, 64};
    uint64_t calls = run_once(scenario, UINT64_MAX / 2, 1).calls;

    runs.allocations += calls;
    if (calls == 0) {
        complain(&runs.sum, "%s allocates nothing", scenario->name);
        return;
    }
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        uint64_t usual = !runs.is_long ? 1 + calls * 3 / sample : i == 0 ? 1 : 6;
        uint64_t stride = calls <= FEW_CALLS ? 1 : usual, number = 1 + runs_random() % stride;

        for (; run_once(scenario, number, lengths[i]).failed > 0;
             number += 1 + (stride - 1) / 2 + runs_random() % stride)
            if (runs.crashes + runs.sum.complaints > 50)
                return;
    }
}

/* Runs them all and prints the fault's line: the exit status. */
static int run_all(const char *name, const struct scenario *scenarios, size_t count, unsigned sample)
{
    const char *seed = getenv("TOLL_SEED"), *is_long = getenv("TOLL_LONG"), *only = getenv("TOLL_RUN");
    const struct outcome *sum = &runs.sum;
    char which[32];
    uint64_t from, length;

    runs.random = (seed ? strtoull(seed, NULL, 10) : (uint64_t)getpid()) * UINT64_C(0x9E3779B97F4A7C15) + 1;
    runs.is_long = is_long && strcmp(is_long, "1") == 0;
    for (size_t i = 0; i < count; i++) {
        if (!only) {
            run_scenario(&scenarios[i], sample);
        } else if (sscanf(only, "%31s %" SCNu64 " %" SCNu64, which, &from, &length) == 3 &&
                   strcmp(which, scenarios[i].name) == 0) {
            run_here(&scenarios[i], from, length, &runs.sum);
            runs.runs++;
            runs.allocations += runs.sum.calls;
        }
    }
    printf("%s lost %" PRIu64 " duplicated %" PRIu64 " wrong_totals %" PRIu64 " allocations %" PRIu64 " runs %" PRIu64
           " crashes %" PRIu64 " leaks %" PRIu64 " complaints %" PRIu64 "\n",
           name, sum->lost, sum->duplicated, sum->wrong_totals, runs.allocations, runs.runs, runs.crashes, sum->leaks,
           sum->complaints);
    return sum->lost || sum->duplicated || sum->wrong_totals || runs.crashes || sum->leaks || sum->complaints ||
           runs.runs == 0;
}

#endif
