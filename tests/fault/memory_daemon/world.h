/* The daemon's own receive loop, journal and writer between a socket and a sink, each turned by hand, and the workers that send. What has no memory
 * is tried again as the daemon does it: the loop reads again, the writer pauses (time is passed in), a worker attaches its page again. */
#ifndef TOLL_TESTS_MEMORY_DAEMON_WORLD_H
#define TOLL_TESTS_MEMORY_DAEMON_WORLD_H

#include "daemon/intake.h"
#include "tests/support/onewriter.h"
#include "tests/fault/memory/outcome.h"
#include "tests/fault/memory_daemon/directory.h"
#include "tests/fault/memory_daemon/quiet_sink.h"
#include "tests/fault/memory_daemon/workload.h"

#include <stdbool.h>
#include <stdint.h>

#define HOUR_US (INT64_C(3600) * 1000000)

struct world {
    struct outcome *outcome;
    struct workload load;
    struct directory directory;
    struct journal_io io;
    struct journal_options journal_options;
    struct streams_options streams_options;
    struct writer_options writer_options;
    int sockets[2]; /* the daemon's and the workers' */
    uint8_t *pages[STREAMS_MAX];
    int page_fds[STREAMS_MAX];
    struct fake_db db;
    int64_t ahead_us; /* of the real clock */

    /* The daemon. */
    bool up;
    uv_loop_t loop;
    struct journal *journal;
    struct fake_sink fake;
    struct sink *log;
    int log_fd; /* -1: the fake sink */
    struct metrics metrics;
    struct intake *intake;
    struct writer_core *writer;
    struct writer_wishes wishes;
    struct writer_status status;
};

/* Its workload is ready to be sent; the daemon is not up. poison: some rows are refused. */
struct world *world_new(struct outcome *outcome, unsigned streams, unsigned sessions, bool poison);
void world_free(struct world *w); /* kills the daemon */

/* Tries until there is memory. */
void world_start(struct world *w);
/* Without a word, as SIGKILL does: what was not given to the kernel is gone. */
void world_die(struct world *w);
/* One turn of everything. With nothing to do the clocks go on to where there is. */
void world_turn(struct world *w);
/* Turns until everything received is stored. */
void world_settle(struct world *w);

/* Sends [from, to) of the workload. */
void world_send(struct world *w, unsigned from, unsigned to);
/* A page that shows no progress is attached again, and then what it does not acknowledge is sent again. */
void world_await_acks(struct world *w);

#endif
