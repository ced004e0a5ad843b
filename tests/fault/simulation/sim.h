/* What the parts of the simulation share: chance, time, the trace, and who is who. See tests/fault/simulation.c for the whole.
 *
 *   chance.c     chance, the trace
 *   fibers.c     threads that take turns, in place of pthreads
 *   loop.c       in place of libuv
 *   outside.c    in place of clock, log, idhash, closer, listener, ackpage
 *   disk.c       the disk that the journal is on
 *   database.c   the sink
 *   host.c       one daemon: start, stop, kill
 *   sender.c     workers
 *   ledger.c     what was sent and acknowledged, and what must be true of it
 *   story.c      what goes wrong, and when */
#ifndef TOLL_TESTS_SIM_H
#define TOLL_TESTS_SIM_H

#include "daemon/pipeline.h"
#include "tests/support/fakedisk.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum { HOSTS = 2, WORKERS = 24, QUEUE_MAX = 128, HANDLES = 16, WORKS = 4, RING_MAX = 64, WRITERS_MOST = 4 };
#define MS     INT64_C(1000)
#define SECOND (1000 * MS)
#define HOUR   (3600 * SECOND)

struct fiber;

/* Kinds of trouble, counted. */
#define TROUBLES(X)                                                                                                    \
    X(kills)                                                                                                           \
    X(power_cuts)                                                                                                      \
    X(stops)                                                                                                           \
    X(disk_errors)                                                                                                     \
    X(disk_full)                                                                                                       \
    X(outages)                                                                                                         \
    X(lost_connections)                                                                                                \
    X(late_commits)                                                                                                    \
    X(restores)                                                                                                        \
    X(refusals)                                                                                                        \
    X(taken_back)                                                                                                      \
    X(renewals)                                                                                                        \
    X(clock_steps)                                                                                                     \
    X(worker_deaths)                                                                                                   \
    X(poison)                                                                                                          \
    X(broken_tables)                                                                                                   \
    X(shares)

struct troubles {
#define FIELD(name) uint64_t name;
    TROUBLES(FIELD)
#undef FIELD
};

/* --- one run --------------------------------------------------------------------------------------------------------------- */

struct sim {
    uint64_t seed, random, digest;
    bool trace;
    int64_t now_us, wall_us; /* monotonic; what the wall clock shows more */
    unsigned interleave;     /* of 256 scheduling points, so many are taken */
    unsigned violations, lost, duplicated, wrong_totals, false_acks;
    char violation[400]; /* the first */
    struct troubles troubles;
    uint64_t steps, frames, acked;
};
extern struct sim sim;

uint64_t sim_random(void);
uint64_t sim_below(uint64_t n); /* 0 … n - 1 */
static inline bool sim_chance(unsigned n, unsigned of)
{
    return sim_below(of) < n;
}
/* Into the digest, and shown with --trace. */
void sim_note(const char *what, uint64_t a, uint64_t b);
void sim_violation(unsigned *kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* --- fibers.c --------------------------------------------------------------------------------------------------------------- */

struct host;
struct fiber *fiber_new(struct host *host, void *(*run)(void *), void *argument);
struct fiber *fiber_self(void); /* NULL: the story's own */
struct host *fiber_host(void);
bool fibers_step(const struct host *only); /* runs one that can run, of that host or (NULL) any; false: none can */
int64_t fibers_wake_us(void);              /* when the next one that sleeps wakes up; INT64_MAX: none */
bool fibers_alive(const struct host *host);
void fibers_wake(const struct host *host); /* ends their sleeps */
void fibers_done(void);
/* Where another thread may run. */
void sim_point(void);
void sim_sleep(int64_t us);
void fiber_wait(bool (*ready)(void *context), void *context, int64_t until_us);

/* --- hosts ------------------------------------------------------------------------------------------------------------------ */

struct handle {
    uv_handle_t *handle;
    enum { HANDLE_TIMER, HANDLE_POLL, HANDLE_ASYNC } kind;
    bool active, closing, pending;
    int64_t due_us, repeat_us;
    void (*callback)(void);
    uv_close_cb on_close;
};

struct work {
    uv_work_t *work; /* NULL: free */
    uv_work_cb run;
    uv_after_work_cb after;
    bool done;
};

struct queued {
    uint8_t *data;
    size_t size;
    uint32_t uid;
    int page; /* worker whose ack page comes along; -1: none */
    bool bad_fd;
};

struct page { /* a worker's, as it sees it */
    uint64_t epoch, acked;
    uint32_t state;
    int64_t heartbeat_ms;
    struct host *of;
};

struct host {
    unsigned index;
    /* the machine */
    struct fakedisk *disk, *old_disk;
    struct journal_io io;
    bool activated; /* the socket outlives the daemon */
    bool listening;
    struct queued queue[QUEUE_MAX];
    size_t queue_count, queue_max;
    unsigned disk_fails; /* of 1,000 calls that change something */
    bool disk_broken;    /* all of them */
    int64_t sync_us;     /* how long a sync may take */
    uint64_t copied_at;  /* so many frames were acknowledged when old_disk was made; 1 more, so that it is not 0 */
    bool disk_failed;    /* in this run of the daemon */
    bool was_taken_back; /* its state directory is an older copy */
    /* Of the database: looked at by ledger_found(); one of the writers has connected since; and what the log lacked then is noted. */
    uint64_t restores_seen, restores_met, restores_heard;
    /* the daemon */
    struct fiber *fiber;
    bool dead; /* killed: nothing that its threads still do has an effect */
    bool signalled, stopping;
    int64_t stop_deadline_us, restart_us;
    struct pipeline_options options;
    struct journal_options journal_options;
    struct journal *journal;
    struct pipeline *pipeline;
    struct metrics metrics;
    struct writer_status status;
    int64_t status_since_us;
    uint64_t generations[WRITERS_MOST]; /* of the database that each writer is connected to */
    unsigned runs;
    int start_error;
    /* its loop */
    uv_loop_t loop;
    struct handle handles[HANDLES];
    size_t handle_count;
    struct work works[WORKS];
    bool loop_stop;
    int open_fds; /* received and not closed */
};
extern struct host hosts[HOSTS];
extern unsigned host_count;

void host_init(struct host *host, unsigned index);
void host_start(struct host *host);
void host_stop(struct host *host); /* SIGTERM */
void host_kill(struct host *host); /* SIGKILL: returns when nothing of it is left */
bool host_up(const struct host *host);
bool host_reap(struct host *host); /* true: it has come to its end by itself, and is buried now */
void host_done(struct host *host);
bool queue_push(struct host *host, const void *data, size_t size, uint32_t uid, int page, bool bad_fd);
void queue_clear(struct host *host);

struct journal_io disk_io(struct host *host);
/* Whether these bytes are in the log as it stands on the disk, or (seen) as the kernel shows it. */
bool disk_has(const struct host *host, const void *needle, size_t size, bool seen);

/* --- the database ----------------------------------------------------------------------------------------------------------- */

struct fake_db;
extern struct fake_db database;
struct database_state { /* trouble */
    bool away, table_broken;
    unsigned lost, commits_lost; /* of 1,000 calls, of 1,000 commits */
    int64_t slow_us;             /* a call takes up to so long */
    uint64_t generation, restores;
};
extern struct database_state database_state;

struct sink *database_sink(void *context);
void database_init(void);
void database_done(void);
bool database_save(void);    /* a copy to go back to; false: not now */
bool database_restore(void); /* false: there is none */
/* Whether the frame with that number was marked by a writer whose share it was. */
bool database_seen(uint32_t uid, const uint8_t id[16], uint64_t number, const void *frame, size_t size);
bool database_noticed(const struct host *host); /* all its writers are connected to the database as it is */
bool database_repair(struct host *host);        /* what the operator does about a watermark that is gone or too old */

/* --- workers and the ledger ------------------------------------------------------------------------------------------------- */

struct worker {
    unsigned index;
    bool alive, sequenced;
    struct host *host;
    uint32_t uid;
    uint8_t stream[16];
    struct page page;
    uint64_t epoch;
    size_t ring;
    uint64_t next, base, sent; /* numbers: of the next frame; not acknowledged from here on; sent up to here */
    uint64_t acked;            /* by any daemon at any time */
    uint32_t *frames;          /* ledger index by number - 1 */
    size_t frame_capacity;
    bool attach;
    int64_t progress_us, tick_us, resend_us, heartbeat_us;
    uint64_t refused;
    unsigned sessions[3]; /* of its calls; 0: none */
    unsigned most;        /* frames in a datagram */
};
extern struct worker workers[WORKERS];
extern unsigned worker_count;

struct worker *worker_new(struct host *host);
void worker_record(struct worker *worker); /* anything */
void worker_record_good(struct worker *worker);
void worker_tick(struct worker *worker);
void worker_die(struct worker *worker);
bool worker_idle(const struct worker *worker);
void workers_done(void);

struct toll_frame;
/* A frame that is about to be sent: gives it its mark, and keeps what is to be stored of it. */
uint32_t ledger_frame(struct worker *worker, struct toll_frame *frame, unsigned session, bool poison);
size_t ledger_encode(uint32_t index, void *buf, size_t cap);
void ledger_acked(struct worker *worker, uint64_t upto, struct host *by);
/* Frames whose loss is nobody's fault: not stored, and acknowledged after so many others; or (0) not on the disk. */
void ledger_excuse(const struct host *host, uint64_t acked_after, const char *why);
void ledger_forgotten(void); /* the database went back: what it had forgotten is to come again */
void ledger_heard(struct host *host);
void ledger_found(struct host *host, bool by_operator);
void ledger_check(void);
void ledger_done(void);
void session_id(unsigned session, uint8_t ret[16]);

/* --- the story -------------------------------------------------------------------------------------------------------------- */

void story_run(uint64_t seed, bool trace);
extern const char *break_what; /* a mechanism to break at the seams, or "" */
bool breaks(const char *what);

#endif
