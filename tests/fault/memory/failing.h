/* Allocations that fail on demand: what stands behind the functions that the linker wraps (NAME.ldflags). In the manner of SQLite's tests: all
 * calls are counted, and those numbered from `from` to before `to` fail.
 *
 * A thread that is the test's own business, not the code's under test, counts as quiet: its allocations never fail. `live` counts what was
 * allocated and not freed, by whomever. */
#ifndef TOLL_TESTS_MEMORY_FAILING_H
#define TOLL_TESTS_MEMORY_FAILING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct failing {
    atomic_bool armed;
    uint64_t from, to;              /* set before it is armed */
    _Atomic uint64_t calls, failed; /* since the process began */
    _Atomic long live;
};

extern struct failing failing;
extern __thread int failing_quiet;

/* Counts a call; true: it is to fail. */
static inline bool failing_now(void)
{
    uint64_t call;

    if (!failing.armed || failing_quiet)
        return false;
    call = ++failing.calls;
    if (call < failing.from || call >= failing.to)
        return false;
    failing.failed++;
    return true;
}

#endif
