/* One run: some machines, a database, workers, and by chance everything that may go wrong. Then all is mended, and when nothing moves any more
 * the ledger is compared with the database. */
#include "tests/fault/simulation/sim.h"

#include "daemon/clock.h"
#include "proto/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIVE_MAX = 6, FRAMES_MAX = 900, STEPS_MAX = 4000000 };

/* What may happen in this run, and how often, as weights. */
enum event {
    NOTHING,
    KILL,
    POWER_CUT,
    STOP,
    DISK_ERRORS,
    DISK_BROKEN,
    DISK_FULL,
    SLOW_DISK,
    OUTAGE,
    LOST_CONNECTIONS,
    FAILED_COMMITS,
    SLOW_DATABASE,
    BROKEN_TABLE,
    SAVE_DATABASE,
    RESTORE_DATABASE,
    SAVE_STATE,
    RESTORE_STATE,
    CLOCK_STEP,
    WORKER_DEATH,
    INTERLEAVE,
    EVENTS,
};

static struct story {
    unsigned weights[EVENTS], weight;
    int64_t end_us, next_us, pace_us;
    bool mending;
    /* When trouble that lasts is over. */
    int64_t disk_until_us[HOSTS], full_until_us[HOSTS], slow_disk_until_us[HOSTS];
    int64_t away_until_us, lost_until_us, slow_until_us, table_until_us;
} story;

/* --- what goes wrong -------------------------------------------------------------------------------------------------------- */

static int64_t some(int64_t most_us)
{
    return 1 + (int64_t)sim_below((uint64_t)most_us);
}

static void later(struct host *host)
{
    host->restart_us = sim.now_us + (sim_chance(1, 3) ? some(50 * MS) : some(4 * SECOND));
}

static void kill_host(struct host *host)
{
    if (!host_up(host))
        return;
    sim.troubles.kills++;
    host_kill(host);
    later(host);
}

static void cut_power(struct host *host)
{
    static const enum fakedisk_crash kinds[] = {FAKEDISK_DROP, FAKEDISK_KEEP, FAKEDISK_TEAR, FAKEDISK_REORDER};
    enum fakedisk_crash kind = kinds[sim_below(4)];

    if (host_up(host))
        host_kill(host);
    sim.troubles.power_cuts++;
    sim_note("power cut", host->index, kind);
    if (host->options.intake.ack == INTAKE_ACK_WRITE)
        ledger_excuse(host, 0, "not on the disk");
    fakedisk_crash(host->disk, kind, sim_random());
    queue_clear(host);
    if (sim_chance(3, 4)) /* else as if they had been elsewhere: a harder case */
        for (unsigned i = 0; i < worker_count; i++)
            if (workers[i].alive && workers[i].host == host)
                worker_die(&workers[i]);
    later(host);
}

static void stop_host(struct host *host)
{
    if (!host_up(host) || host->stopping)
        return;
    sim.troubles.stops++;
    host_stop(host);
}

static void restore_state(struct host *host)
{
    if (!host->old_disk)
        return;
    if (host_up(host))
        host_kill(host);
    fakedisk_free(host->disk);
    host->disk = fakedisk_clone(host->old_disk);
    host->was_taken_back = true;
    sim.troubles.taken_back++;
    sim_note("state taken back", host->index, 0);
    ledger_excuse(host, host->copied_at, "taken back");
    later(host);
}

static void save_state(struct host *host)
{
    if (host->old_disk)
        fakedisk_free(host->old_disk);
    host->old_disk = fakedisk_clone(host->disk);
    host->copied_at = sim.acked + 1;
    sim_note("state copied", host->index, 0);
}

static void full_disk(struct host *host)
{
    host->disk->capacity = fakedisk_used(host->disk) + sim_below(4 * host->journal_options.segment_bytes + (80 << 10));
    story.full_until_us[host->index] = sim.now_us + some(6 * SECOND);
    sim.troubles.disk_full++;
    sim_note("disk full", host->index, host->disk->capacity);
}

static void worker_leaves(void)
{
    unsigned chosen = (unsigned)sim_below(worker_count);

    if (workers[chosen].alive)
        worker_die(&workers[chosen]);
}

static enum event choose(void)
{
    uint64_t at = sim_below(story.weight);

    for (enum event event = NOTHING; event < EVENTS; event++) {
        if (at < story.weights[event])
            return event;
        at -= story.weights[event];
    }
    return NOTHING;
}

static void happen(void)
{
    struct host *host = &hosts[sim_below(host_count)];
    enum event event = choose();

    sim_note("event", event, host->index);
    switch (event) {
    case KILL:
        kill_host(host);
        break;
    case POWER_CUT:
        cut_power(host);
        break;
    case STOP:
        stop_host(host);
        break;
    case DISK_ERRORS:
        host->disk_fails = 1 + (unsigned)sim_below(60);
        story.disk_until_us[host->index] = sim.now_us + some(3 * SECOND);
        break;
    case DISK_BROKEN:
        host->disk_broken = true;
        story.disk_until_us[host->index] = sim.now_us + some(SECOND);
        break;
    case DISK_FULL:
        full_disk(host);
        break;
    case SLOW_DISK:
        host->sync_us = some(SECOND);
        story.slow_disk_until_us[host->index] = sim.now_us + some(5 * SECOND);
        break;
    case OUTAGE:
        database_state.away = true;
        database_state.generation++;
        story.away_until_us = sim.now_us + some(8 * SECOND);
        sim.troubles.outages++;
        break;
    case LOST_CONNECTIONS:
        database_state.lost = 1 + (unsigned)sim_below(150);
        story.lost_until_us = sim.now_us + some(8 * SECOND);
        break;
    case FAILED_COMMITS:
        database_state.commits_lost = 50 + (unsigned)sim_below(500);
        story.lost_until_us = sim.now_us + some(8 * SECOND);
        break;
    case SLOW_DATABASE:
        database_state.slow_us = some(2 * SECOND);
        story.slow_until_us = sim.now_us + some(5 * SECOND);
        break;
    case BROKEN_TABLE:
        database_state.table_broken = true;
        story.table_until_us = sim.now_us + some(4 * SECOND);
        sim.troubles.broken_tables++;
        break;
    case SAVE_DATABASE:
        (void)database_save();
        break;
    case RESTORE_DATABASE:
        (void)database_restore();
        break;
    case SAVE_STATE:
        save_state(host);
        break;
    case RESTORE_STATE:
        restore_state(host);
        break;
    case CLOCK_STEP:
        sim.wall_us += sim_chance(1, 2) ? HOUR : -HOUR;
        sim.troubles.clock_steps++;
        break;
    case WORKER_DEATH:
        worker_leaves();
        break;
    case INTERLEAVE:
        sim.interleave = (unsigned)sim_below(200);
        break;
    case NOTHING:
    case EVENTS:
        break;
    }
}

/* Ends trouble whose time has come; with `all`, every trouble. */
static void mend(bool all)
{
    for (unsigned i = 0; i < host_count; i++) {
        if (all || sim.now_us >= story.disk_until_us[i]) {
            hosts[i].disk_fails = 0;
            hosts[i].disk_broken = false;
        }
        if (all || sim.now_us >= story.full_until_us[i])
            hosts[i].disk->capacity = 0;
        if (all || sim.now_us >= story.slow_disk_until_us[i])
            hosts[i].sync_us = 2 * MS;
    }
    if (all || sim.now_us >= story.away_until_us)
        database_state.away = false;
    if (all || sim.now_us >= story.lost_until_us)
        database_state.lost = database_state.commits_lost = 0;
    if (all || sim.now_us >= story.slow_until_us)
        database_state.slow_us = 0;
    if (all || sim.now_us >= story.table_until_us)
        database_state.table_broken = false;
}

/* --- what goes on ----------------------------------------------------------------------------------------------------------- */

static unsigned workers_alive(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < worker_count; i++)
        count += workers[i].alive;
    return count;
}

static void tick(struct worker *worker)
{
    if (!story.mending && sim.frames < FRAMES_MAX)
        for (unsigned n = (unsigned)sim_below(sim_chance(1, 20) ? 20 : 3); n > 0; n--)
            worker_record(worker);
    worker_tick(worker);
}

/* systemd, a deadline, and the operator. */
static void attend(struct host *host)
{
    if (host_reap(host))
        later(host);
    if (!host->fiber && sim.now_us >= host->restart_us)
        host_start(host);
    if (host->stopping && host->fiber && host->stop_deadline_us && sim.now_us >= host->stop_deadline_us)
        kill_host(host);
    if (host->fiber && host->status.state == WRITER_STOPPED && sim.now_us - host->status_since_us > 3 * SECOND &&
        database_state.restores > 0 && database_repair(host))
        ledger_found(host, true);
}

/* Does one thing whose time has come; false: there is none. */
static bool world_step(void)
{
    unsigned first = (unsigned)sim_below(worker_count ? worker_count : 1);

    for (unsigned i = 0; i < worker_count; i++) {
        struct worker *worker = &workers[(first + i) % worker_count];

        if (worker->alive && worker->tick_us <= sim.now_us) {
            tick(worker);
            return true;
        }
    }
    if (sim.now_us < story.next_us)
        return false;
    story.next_us = sim.now_us + some(story.pace_us);
    if (!story.mending) {
        happen();
        if (workers_alive() < ALIVE_MAX && worker_count < WORKERS - HOSTS && sim_chance(1, 2))
            worker_new(&hosts[sim_below(host_count)]);
    }
    mend(story.mending);
    for (unsigned i = 0; i < host_count; i++)
        attend(&hosts[i]);
    return true;
}

static int64_t next_us(void)
{
    int64_t next = fibers_wake_us();

    if (story.next_us < next)
        next = story.next_us;
    for (unsigned i = 0; i < worker_count; i++)
        if (workers[i].alive && workers[i].tick_us < next)
            next = workers[i].tick_us;
    return next;
}

static void step(void)
{
    if (sim.steps > STEPS_MAX && sim.violations == 0)
        sim_violation(NULL, "the threads do not come to rest");
    if (sim_chance(7, 8) && fibers_step(NULL)) {
        sim.now_us += (int64_t)sim_below(40);
        return;
    }
    if (world_step() || fibers_step(NULL))
        return;
    if (next_us() > sim.now_us)
        sim.now_us = next_us();
}

/* --- afterwards ------------------------------------------------------------------------------------------------------------- */

static bool is_quiet(const struct host *host)
{
    return host->pipeline && !host->stopping && host->queue_count == 0 && host->status.state == WRITER_OK &&
           database_noticed(host) && /* that it is another */
           journal_end_lsn(host->journal) == journal_durable_lsn(host->journal) &&
           host->status.applied_lsn >= journal_durable_lsn(host->journal);
}

static const char *what_is_left(void)
{
    static char text[300];

    for (unsigned i = 0; i < worker_count; i++)
        if (!worker_idle(&workers[i])) {
            snprintf(text, sizeof(text), "worker %u of host %u waits for acknowledgement of %lu to %lu", i,
                     workers[i].host->index, workers[i].base, workers[i].next - 1);
            return text;
        }
    for (unsigned i = 0; i < host_count; i++)
        if (!is_quiet(&hosts[i])) {
            snprintf(text, sizeof(text), "host %u: state %s, %zu datagrams wait, %.180s", i,
                     writer_state_name(hosts[i].status.state), hosts[i].queue_count, hosts[i].status.error);
            return text;
        }
    return NULL;
}

/* A frame with which nothing is wrong: a lone refused one waits for company. */
static void send_company(struct worker *worker)
{
    worker_record_good(worker);
    worker_tick(worker);
}

static void settle(void)
{
    int64_t began_us = sim.now_us, company_us = began_us;
    struct worker *company[HOSTS] = {NULL};

    story.mending = true;
    mend(true);
    for (unsigned i = 0; i < host_count; i++)
        (company[i] = worker_new(&hosts[i]))->sequenced = true;
    while (sim.violations == 0 && what_is_left() && sim.now_us - began_us < 300 * SECOND) {
        if (sim.now_us >= company_us) {
            for (unsigned i = 0; i < host_count; i++)
                send_company(company[i]);
            company_us = sim.now_us + 3 * SECOND;
        }
        step();
    }
    if (sim.violations == 0 && what_is_left())
        sim_violation(NULL, "not settled after %ld s: %s", (long)((sim.now_us - began_us) / SECOND), what_is_left());
}

static void check_metrics(const struct host *host)
{
    const struct metrics *m = &host->metrics;
    uint64_t received = metrics_get(&m->frames_received), stored = metrics_get(&m->frames_stored),
             duplicate = metrics_get(&m->frames_duplicate), quarantined = metrics_get(&m->frames_quarantined);

    if (received != stored + duplicate + quarantined)
        sim_violation(NULL, "host %u: %lu frames received, but %lu stored, %lu duplicate, %lu quarantined", host->index,
                      received, stored, duplicate, quarantined);
}

static void finish(void)
{
    for (unsigned i = 0; i < host_count; i++) {
        struct host *host = &hosts[i];
        int64_t until_us = sim.now_us + 60 * SECOND;

        if (host_up(host))
            host_stop(host);
        while (host_up(host) && sim.now_us < until_us) {
            bool ran = fibers_step(NULL);
            int64_t wake_us = fibers_wake_us();

            if (ran)
                sim.now_us += (int64_t)sim_below(40);
            else
                sim.now_us = wake_us > sim.now_us && wake_us < until_us ? wake_us : sim.now_us + MS;
        }
        if (host_up(host)) {
            sim_violation(NULL, "host %u: does not stop", i);
            host_kill(host);
        }
        (void)host_reap(host);
        ledger_found(host, false); /* it may have had nothing to store since the database went back */
        check_metrics(host);
    }
}

/* --- one run ---------------------------------------------------------------------------------------------------------------- */

static uint64_t one_of(const uint64_t *choices, size_t count)
{
    return choices[sim_below(count)];
}
#define ONE_OF(...) one_of((const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void configure(struct host *host)
{
    struct journal_options *journal = &host->journal_options;
    struct intake_options *intake = &host->options.intake;
    struct writer_options *writer = &host->options.writers.writer;

    journal->segment_bytes = ONE_OF(4096, 4096, 8192, 32768, 200000);
    journal->max_bytes = sim_chance(1, 3) ? journal->segment_bytes * (4 + sim_below(8)) : 0;
    journal->retention_us = (int64_t)ONE_OF(0, 2 * SECOND, 10 * SECOND, 24 * HOUR);
    intake->ack =
        (enum intake_ack)ONE_OF(INTAKE_ACK_SYNC, INTAKE_ACK_SYNC, INTAKE_ACK_SYNC, INTAKE_ACK_WRITE, INTAKE_ACK_COMMIT);
    intake->queue = (unsigned)ONE_OF(10, 64, 512, 512);
    intake->streams.max = ONE_OF(8, 1000, 1000);
    intake->streams.max_per_uid = ONE_OF(6, 1000, 1000);
    intake->streams.pages_max = ONE_OF(8, 1000, 1000);
    intake->streams.pages_max_per_uid = ONE_OF(6, 1000, 1000);
    writer->apply.batch_rows = ONE_OF(1, 5, 20, 100, 1000);
    writer->apply.batch_bytes = ONE_OF(64 << 10, 1 << 20);
    writer->apply.idle_timeout_us = (int64_t)ONE_OF(2 * SECOND, 5 * SECOND, HOUR, HOUR);
    writer->apply.future_tolerance_us = 10 * SECOND;
    writer->apply.past_tolerance_us = 24 * HOUR;
    writer->apply.sessions_max = ONE_OF(2, 10, 1000, 1000);
    writer->apply.streams_max = ONE_OF(2, 1000, 1000);
    writer->batch_age_us = (int64_t)ONE_OF(1 * MS, 50 * MS, 300 * MS);
    writer->retry_max_us = (int64_t)ONE_OF(100 * MS, SECOND, 5 * SECOND);
    host->activated = sim_chance(2, 3);
    host->listening = host->activated;
    host->queue_max = ONE_OF(1, 4, 10, QUEUE_MAX);
    host->sync_us = 2 * MS;
}

static void begin(uint64_t seed, bool trace)
{
    bool calm = false;

    sim = (struct sim){.seed = seed, .random = seed * 0x2545F4914F6CDD1Du + 1, .digest = 1, .trace = trace};
    sim.now_us = 1000 * SECOND;
    sim.interleave = (unsigned)ONE_OF(0, 8, 32, 100, 200);
    story = (struct story){.pace_us = (int64_t)ONE_OF(50 * MS, 300 * MS, SECOND)};
    story.end_us = sim.now_us + 2 * SECOND + some(25 * SECOND);
    /* Few kinds of trouble at a time show more than all at once. */
    calm = sim_chance(1, 20);
    for (enum event event = NOTHING + 1; event < EVENTS && !calm; event++)
        story.weights[event] = sim_chance(1, 3) ? 1 + (unsigned)sim_below(4) : 0;
    if (story.weights[RESTORE_DATABASE])
        story.weights[SAVE_DATABASE] = 2;
    if (story.weights[RESTORE_STATE])
        story.weights[SAVE_STATE] = 2;
    story.weights[NOTHING] = 2;
    for (enum event event = NOTHING; event < EVENTS; event++)
        story.weight += story.weights[event];
    database_init();
    host_count = sim_chance(1, 4) ? 2 : 1;
    for (unsigned i = 0; i < host_count; i++) {
        host_init(&hosts[i], i);
        configure(&hosts[i]);
    }
    for (unsigned n = 1 + (unsigned)sim_below(ALIVE_MAX - 1); n > 0; n--)
        worker_new(&hosts[sim_below(host_count)]);
}

void story_run(uint64_t seed, bool trace)
{
    begin(seed, trace);
    while (sim.now_us < story.end_us && sim.violations == 0)
        step();
    if (sim.violations == 0)
        settle();
    finish();
    if (sim.violations == 0)
        ledger_check();
    sim_note("end", sim.frames, sim.violations);
    for (unsigned i = 0; i < host_count; i++)
        host_done(&hosts[i]);
    workers_done();
    ledger_done();
    database_done();
}
