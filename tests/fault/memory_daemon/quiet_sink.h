/* The sink in memory of the unit tests; its own memory never runs out. */
#ifndef TOLL_TESTS_MEMORY_QUIET_SINK_H
#define TOLL_TESTS_MEMORY_QUIET_SINK_H

#include "tests/fault/memory/failing.h"
#include "tests/unit/fake_sink.h"

#define QUIET(name, parameters, arguments)                                                                             \
    static inline int quiet_##name parameters                                                                          \
    {                                                                                                                  \
        int r;                                                                                                         \
                                                                                                                       \
        failing_quiet++;                                                                                               \
        r = fake_##name arguments;                                                                                     \
        failing_quiet--;                                                                                               \
        return r;                                                                                                      \
    }
QUIET(open, (struct sink * sink, const struct sink_journal *journal, uint64_t *ret), (sink, journal, ret))
QUIET(share, (struct sink * sink, uint64_t lsn, int writers), (sink, lsn, writers))
QUIET(begin, (struct sink * sink, uint64_t from, uint64_t to), (sink, from, to))
QUIET(load_streams, (struct sink * sink, struct sink_stream *const *streams, size_t count), (sink, streams, count))
QUIET(attempt, (struct sink * sink, bool careful), (sink, careful))
QUIET(add, (struct sink * sink, const struct sink_row *row), (sink, row))
QUIET(push, (struct sink * sink), (sink))
QUIET(store, (struct sink * sink, struct session_change *const *changes, size_t count), (sink, changes, count))
QUIET(settle, (struct sink * sink, bool keep), (sink, keep))
QUIET(finish, (struct sink * sink, const struct sink_batch *batch), (sink, batch))
QUIET(commit, (struct sink * sink), (sink))

static inline void quiet_abort(struct sink *sink)
{
    failing_quiet++;
    fake_abort(sink);
    failing_quiet--;
}

/* open_sessions() stays as it is: it allocates nothing, and what it finds is the writer's business again. */
static inline void quiet_sink_init(struct fake_sink *sink, struct fake_db *db)
{
    static struct sink_ops ops;

    ops = fake_sink_ops;
    ops.open = quiet_open;
    ops.share = quiet_share;
    ops.begin = quiet_begin;
    ops.load_streams = quiet_load_streams;
    ops.attempt = quiet_attempt;
    ops.add = quiet_add;
    ops.push = quiet_push;
    ops.store = quiet_store;
    ops.settle = quiet_settle;
    ops.finish = quiet_finish;
    ops.commit = quiet_commit;
    ops.abort = quiet_abort;
    fake_sink_init(sink, db);
    sink->sink.ops = &ops;
}

#endif
