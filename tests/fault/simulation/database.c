/* The database: tests/unit/fake_sink.h, a model of what a transaction promises, shared by all hosts. Every call is a place where other threads
 * run, takes time, and may find the connection lost. One transaction at a time, as if all held the same row's lock. */
#include "tests/fault/simulation/sim.h"

#include "daemon/share.h"
#include "tests/unit/fake_sink.h"

#include <stdlib.h>
#include <string.h>

struct fake_db database;
struct database_state database_state;

enum { COPIES = 3 };
static struct fake_state copies[COPIES];
static size_t copy_count;

struct connection {
    struct fake_sink fake; /* first: its sink is ours */
    struct host *host;
    uint64_t generation;
    bool transaction;
};

static struct connection *self(struct sink *sink)
{
    return (struct connection *)(void *)sink;
}

static bool is_idle(void *context)
{
    const struct host *host = context;

    return !database.in_transaction || host->dead;
}

/* Whether the connection is gone. */
static bool gone(struct connection *c, bool opening)
{
    if (c->host->dead || database_state.away)
        return true;
    if (!opening && c->generation != database_state.generation)
        return true;
    if (database_state.lost == 0 || !sim_chance(database_state.lost, 1000))
        return false;
    sim.troubles.lost_connections++;
    return true;
}

/* Which writer of which host it is, for the trace. */
static uint64_t name_of(const struct connection *c)
{
    return UINT64_C(10) * c->host->index + (uint64_t)c->fake.writer;
}

/* Before every call. After it, the fake fails the call if the connection is gone. */
static void enter(struct connection *c, enum fake_op op)
{
    sim_point();
    if (database_state.slow_us && sim_chance(1, 4))
        sim_sleep((int64_t)sim_below((uint64_t)database_state.slow_us));
    if ((op == FAKE_BEGIN || op == FAKE_OPEN || op == FAKE_TEND || op == FAKE_OPEN_SESSIONS || op == FAKE_SHARE) &&
        database.in_transaction)
        fiber_wait(is_idle, c->host, INT64_MAX);
    c->fake.fail_at = 0;
    c->fake.fail_op = FAKE_OPS;
    c->fake.fail_with = -EAGAIN;
    c->fake.late = false;
    if (gone(c, op == FAKE_OPEN))
        c->fake.fail_at = 1;
}

static int op_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    struct connection *c = self(sink);
    int r;

    enter(c, FAKE_OPEN);
    if (c->host->dead) /* even looking must not bring a first row about */
        return -EAGAIN;
    if (c->generation != database_state.generation) /* what a backend was still to commit went with its server */
        c->fake.hidden = false;
    r = fake_open(sink, journal, ret_lsn);
    c->generation = database_state.generation;
    if (r == 0 || r == -ENOENT)
        c->host->restores_met = database_state.restores;
    if (r == 0 && *ret_lsn >= journal_oldest_lsn(c->host->journal)) /* else it waits for the operator */
        c->host->generations[journal->writer] = c->generation;
    sim_note("open", name_of(c), r < 0 ? (uint64_t)-r : *ret_lsn);
    if (r == -ENOENT)
        snprintf(c->fake.error, sizeof(c->fake.error), "the watermark is gone");
    return r;
}

static int op_share(struct sink *sink, uint64_t lsn, int writers)
{
    struct connection *c = self(sink);
    int r;

    enter(c, FAKE_SHARE);
    if (c->fake.fail_at == 1 && (c->host->dead || database_state.away || c->generation != database_state.generation)) {
        fake_fault(&c->fake, FAKE_SHARE);
        return -EAGAIN;
    }
    if (c->fake.fail_at == 1) { /* the connection is lost: perhaps it is done, and nobody hears of it */
        c->fake.fail_at = 0;
        if (sim_chance(1, 2))
            (void)!fake_share(sink, lsn, writers);
        c->fake.is_open = false;
        return -EAGAIN;
    }
    r = fake_share(sink, lsn, writers);
    sim.troubles.shares += r == 0;
    sim_note("share", lsn, r < 0 ? (uint64_t)-r : (uint64_t)writers);
    return r;
}

static int op_begin(struct sink *sink, uint64_t from, uint64_t to)
{
    struct connection *c = self(sink);
    int r;

    enter(c, FAKE_BEGIN);
    if (c->fake.fail_at == 1) { /* nothing has begun */
        fake_fault(&c->fake, FAKE_BEGIN);
        return -EAGAIN;
    }
    if (database_noticed(c->host)) /* else nobody knows yet what the others miss */
        ledger_found(c->host, false);
    if (to > journal_durable_lsn(c->host->journal)) /* a power cut could take back what is stored */
        sim_violation(NULL, "host %u stores up to %lu, above what is durable", c->host->index, to);
    c->transaction = true;
    r = fake_begin(sink, from, to);
    sim_note("begin", name_of(c), to);
    if (r == -ESTALE && breaks("no-watermark-check")) {
        c->fake.broken = false;
        r = 0;
    }
    return r;
}

static int op_load_streams(struct sink *sink, struct sink_stream *const *streams, size_t count)
{
    enter(self(sink), FAKE_LOAD_STREAMS);
    return fake_load_streams(sink, streams, count);
}

static int op_attempt(struct sink *sink, bool careful)
{
    enter(self(sink), FAKE_ATTEMPT);
    return fake_attempt(sink, careful);
}

static int op_add(struct sink *sink, const struct sink_row *row)
{
    /* Rows wait in memory: chance strikes in push and in store. */
    self(sink)->fake.fail_at = 0;
    return fake_add(sink, row);
}

static int op_push(struct sink *sink)
{
    enter(self(sink), FAKE_PUSH);
    return fake_push(sink);
}

static int op_store(struct sink *sink, struct session_change *const *changes, size_t count)
{
    enter(self(sink), FAKE_STORE);
    return fake_store(sink, changes, count);
}

static int op_settle(struct sink *sink, bool keep)
{
    enter(self(sink), FAKE_SETTLE);
    return fake_settle(sink, keep);
}

static int op_finish(struct sink *sink, const struct sink_batch *batch)
{
    struct sink_batch forgetful = *batch;

    enter(self(sink), FAKE_FINISH);
    if (breaks("no-seen-update") && sim_chance(1, 8))
        forgetful.stream_count = 0;
    return fake_finish(sink, &forgetful);
}

/* A connection that is lost in COMMIT leaves open whether it happened; and it may happen later than the next one looks. */
static int op_commit(struct sink *sink)
{
    struct connection *c = self(sink);
    int r;

    enter(c, FAKE_COMMIT);
    if (database_state.commits_lost && sim_chance(database_state.commits_lost, 1000))
        c->fake.fail_at = 1;
    if (c->fake.fail_at == 1 && c->generation == database_state.generation && sim_chance(1, 2)) {
        c->fake.late = true;
        sim.troubles.late_commits++;
    }
    r = fake_commit(sink);
    if (r < 0 && c->fake.hidden && sim_chance(1, 2))
        c->fake.hidden = false;
    c->transaction = r < 0 && !c->fake.late;
    sim_note("commit", name_of(c), r < 0 ? (uint64_t)-r : 0);
    if (r == 0)
        sim_point();
    return r;
}

static void op_abort(struct sink *sink)
{
    struct connection *c = self(sink);
    bool others = database.in_transaction && !c->transaction;

    if (others)
        database.in_transaction = false; /* not ours to undo */
    fake_abort(sink);
    if (others)
        database.in_transaction = true;
    c->transaction = false;
}

static int op_open_sessions(struct sink *sink, int64_t idle_before_us, size_t max,
                            void (*found)(void *context, const uint8_t id[16]), void *context)
{
    struct connection *c = self(sink);

    enter(c, FAKE_OPEN_SESSIONS);
    if (c->fake.fail_at == 1)
        return fake_fault(&c->fake, FAKE_OPEN_SESSIONS);
    return fake_open_sessions(sink, idle_before_us, max, found, context);
}

static int op_tend(struct sink *sink)
{
    enter(self(sink), FAKE_TEND);
    return fake_tend(sink);
}

static void op_free(struct sink *sink)
{
    op_abort(sink);
    free(sink);
}

static const struct sink_ops ops = {
    .name = "simulated",
    .open = op_open,
    .claim = fake_claim,
    .share = op_share,
    .begin = op_begin,
    .load_streams = op_load_streams,
    .attempt = op_attempt,
    .add = op_add,
    .push = op_push,
    .store = op_store,
    .settle = op_settle,
    .finish = op_finish,
    .commit = op_commit,
    .abort = op_abort,
    .open_sessions = op_open_sessions,
    .tend = op_tend,
    .error = fake_error,
    .error_class = fake_error_class,
    .free = op_free,
};

struct sink *database_sink(void *context)
{
    struct host *host = context;
    struct connection *c = calloc(1, sizeof(*c));

    assert(c);
    fake_sink_init(&c->fake, &database);
    c->fake.sink.ops = &ops;
    c->host = host;
    return &c->fake.sink;
}

/* --- what is refused -------------------------------------------------------------------------------------------------------- */

static const char *poison(const struct sink_row *row)
{
    const struct toll_frame *frame = row->frame;
    const struct toll_str *mark = frame->type == TOLL_FRAME_TRANSCRIPT ? &frame->text : &frame->request_id;

    if (database_state.table_broken)
        return "P0001";
    return mark->len > 0 && mark->ptr[0] == 'p' ? "22003" : NULL;
}

/* --- copies ----------------------------------------------------------------------------------------------------------------- */

void database_init(void)
{
    database = (struct fake_db){.poison = poison};
    database_state = (struct database_state){.away = false};
}

void database_done(void)
{
    for (size_t i = 0; i < copy_count; i++)
        fake_state_done(&copies[i]);
    copy_count = 0;
    fake_db_done(&database);
}

bool database_save(void)
{
    if (database.in_transaction)
        return false;
    if (copy_count == COPIES) { /* the oldest stays: it is the hardest */
        fake_state_done(&copies[1]);
        memmove(&copies[1], &copies[2], (COPIES - 2) * sizeof(copies[0]));
        copy_count--;
    }
    copies[copy_count++] = fake_state_copy(&database.now);
    return true;
}

bool database_restore(void)
{
    size_t chosen;

    if (database.in_transaction || copy_count == 0)
        return false;
    chosen = sim_below(copy_count);
    struct fake_state copy = fake_state_copy(&copies[chosen]);
    /* Younger copies have rows that are written over now. */
    while (copy_count > chosen + 1)
        fake_state_done(&copies[--copy_count]);
    ledger_forgotten();
    fake_db_restore(&database, &copy);
    database_state.generation++;
    database_state.restores++;
    sim.troubles.restores++;
    sim_note("restored", database.now.row_count, chosen);
    return true;
}

bool database_noticed(const struct host *host)
{
    unsigned count = host->pipeline ? writers_count(pipeline_writers(host->pipeline)) : 0;

    for (unsigned i = 0; i < count; i++)
        if (host->generations[i] != database_state.generation)
            return false;
    return count > 0;
}

bool database_seen(uint32_t uid, const uint8_t id[16], uint64_t number, const void *frame, size_t size)
{
    for (int writers = 1; writers <= WRITERS_MOST; writers++) {
        int writer = (int)share_of_frame(frame, size, (unsigned)writers);
        const struct fake_stream *stream = fake_db_stream_of(&database, uid, id, writer, writers);

        if (stream && rangeset_contains(&stream->seen, number))
            return true;
    }
    return false;
}

bool database_repair(struct host *host)
{
    const uint8_t *journal = host->journal ? journal_uuid(host->journal) : NULL;
    uint64_t oldest;
    bool done = false;

    if (database.in_transaction || !journal)
        return false;
    oldest = journal_oldest_lsn(host->journal);
    for (size_t i = 0; i < database.now.watermark_count; i++) {
        struct fake_watermark *watermark = &database.now.watermarks[i];

        if (memcmp(watermark->journal, journal, 16) != 0 || watermark->lsn >= oldest)
            continue;
        watermark->lsn = oldest;
        done = true;
    }
    if (fake_db_writers(&database, journal) == 0) {
        for (int i = 0; i < (int)writers_count(pipeline_writers(host->pipeline)); i++)
            fake_db_add_watermark(&database, journal, i, oldest);
        done = true;
    }
    if (!done)
        return false;
    sim.troubles.refusals++;
    sim_note("operator", host->index, oldest);
    return true;
}
