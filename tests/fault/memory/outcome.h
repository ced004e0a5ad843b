/* What a scenario is, and what a run of one finds. */
#ifndef TOLL_TESTS_MEMORY_OUTCOME_H
#define TOLL_TESTS_MEMORY_OUTCOME_H

#include "tests/fault/memory/failing.h"

#include <stdio.h>

/* What one run, or all of them together, found. */
struct outcome {
    uint64_t lost, duplicated, wrong_totals, leaks;
    uint64_t complaints; /* whatever else should not be */
    uint64_t calls, failed;
};

struct scenario {
    const char *name;
    void (*run)(struct outcome *outcome);
};

/* What a run says goes to standard error, which a failed test shows. */
#define complain(outcome, ...) (fprintf(stderr, "  " __VA_ARGS__), fputc('\n', stderr), (void)(outcome)->complaints++)

#endif
