/* A seeded simulation of the daemon: the production code of journal, intake, apply, writer and the wiring between them (daemon/pipeline), in one
 * thread, over a disk, a socket, clocks and a database in memory that fail by chance. What happens, and who runs when, follows from the seed alone, so
 * a run that fails can be run again as it was.
 *
 *     simulation [--seeds N] [--first SEED] [--trace] [--all] [--break WHAT]
 *
 * Each run: one or two daemons share a database; workers send, die, come back; the daemons are killed, stopped, lose power; disks fail, fill up,
 * are put back to an older copy; the database goes away, is slow, commits without saying so, refuses rows, is restored from an older copy; the
 * clock jumps. The daemon's threads are fibers that change at every call of disk and database and at every lock (simulation/fibers.c). Then all is mended, and
 * within a bounded time everything that was acknowledged must be stored, once, with the right totals (simulation/ledger.c). Every single ack is checked
 * when it is given: is the frame on the disk, or in the database, as the mode promises?
 *
 * TOLL_SEED is the first seed, TOLL_LONG=1 runs many. --break breaks a mechanism at the seams, to see that this is noticed: sync-lies (fdatasync says
 * yes and does nothing, now and then), no-seen-update (a transaction forgets its streams), no-watermark-check (begin takes any watermark).
 *
 * What it does not do: the real sink (the model of a transaction's contract is tests/unit/fake_sink.h), libtoll, the control socket, memory
 * that runs out, bytes that rot. */
#include "tests/fault/simulation/sim.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEEDS_SHORT = 500, SEEDS_LONG = 10000, TWICE = 5 };

const char *break_what = "";

bool breaks(const char *what)
{
    return strcmp(break_what, what) == 0;
}

struct sum {
    unsigned violations, lost, duplicated, wrong_totals, false_acks;
    uint64_t frames, acked, steps;
    struct troubles troubles;
};

static void add(struct sum *sum)
{
    sum->violations += sim.violations;
    sum->lost += sim.lost;
    sum->duplicated += sim.duplicated;
    sum->wrong_totals += sim.wrong_totals;
    sum->false_acks += sim.false_acks;
    sum->frames += sim.frames;
    sum->acked += sim.acked;
    sum->steps += sim.steps;
#define FIELD(name) sum->troubles.name += sim.troubles.name;
    TROUBLES(FIELD)
#undef FIELD
}

static void report(const struct sum *sum, uint64_t seeds)
{
    printf("simulation lost %u duplicated %u wrong_totals %u seeds %" PRIu64
           " false_acks %u violations %u frames %" PRIu64 " acked %" PRIu64 " switches %" PRIu64,
           sum->lost, sum->duplicated, sum->wrong_totals, seeds, sum->false_acks, sum->violations, sum->frames,
           sum->acked, sum->steps);
#define FIELD(name) printf(" " #name " %" PRIu64, sum->troubles.name);
    TROUBLES(FIELD)
#undef FIELD
    printf("\n");
}

static int usage(int status)
{
    fprintf(
        status ? stderr : stdout,
        "usage: simulation [--seeds N] [--first SEED] [--trace] [--all] [--break sync-lies|no-seen-update|no-watermark-check]\n"
        "  --seeds N     so many runs (default %d; with TOLL_LONG=1 in the environment %d)\n"
        "  --first SEED  seed of the first (default: TOLL_SEED, or 1)\n"
        "  --trace       show what happens\n"
        "  --all         show every run that fails, not only the first five\n"
        "  --break WHAT  break a mechanism, to see that it is noticed\n",
        SEEDS_SHORT, SEEDS_LONG);
    return status;
}

int main(int argc, char **argv)
{
    const char *seed = getenv("TOLL_SEED"), *is_long = getenv("TOLL_LONG");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : 1;
    uint64_t seeds = is_long && strcmp(is_long, "1") == 0 ? SEEDS_LONG : SEEDS_SHORT;
    struct sum sum = {.violations = 0};
    unsigned shown = 0, shown_most = 5;
    bool trace = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0)
            return usage(EXIT_SUCCESS);
        if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--all") == 0)
            shown_most = UINT_MAX;
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
            seeds = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc)
            first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--break") == 0 && i + 1 < argc)
            break_what = argv[++i];
        else
            return usage(EXIT_FAILURE);
    }
    for (uint64_t n = 0; n < seeds; n++) {
        story_run(first + n, trace);
        if (n < TWICE && !trace) { /* the same seed is the same run, or a failure could not be looked into */
            uint64_t digest = sim.digest;

            story_run(first + n, false);
            if (sim.digest != digest)
                sim_violation(NULL, "the seed does not determine the run");
        }
        add(&sum);
        if (sim.violations && shown++ < shown_most)
            printf("seed %" PRIu64 ": %s (and %u more)\n    again: %s --first %" PRIu64 " --seeds 1 --trace%s%s\n",
                   sim.seed, sim.violation, sim.violations - 1, argv[0], sim.seed, break_what[0] ? " --break " : "",
                   break_what);
        fflush(stdout);
    }
    fibers_done();
    report(&sum, seeds);
    return sum.violations ? EXIT_FAILURE : EXIT_SUCCESS;
}
