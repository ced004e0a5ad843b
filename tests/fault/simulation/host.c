/* One machine with a daemon on it. host_main() has the order of daemon/main.c around the daemon's own pipeline. */
#include "tests/fault/simulation/sim.h"

#include "daemon/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNWIND_STEPS = 200000 };

struct host hosts[HOSTS];
unsigned host_count;

static void on_progress(void *context, const struct writer_status *status)
{
    struct host *host = context;

    if (host->dead)
        return;
    if (status->state != host->status.state)
        host->status_since_us = sim.now_us;
    if (status->state == WRITER_RENEW && host->status.state != WRITER_RENEW)
        sim.troubles.renewals++;
    host->status = *status;
    ledger_heard(host);
    sim_note("status", status->state, status->committed_lsn);
}

static void on_broken(void *context)
{
    struct host *host = context;

    if (!host->dead)
        sim_note("broken", host->index, 0);
    host->stopping = true;
    pipeline_stop(host->pipeline);
}

static void on_ended(void *context)
{
    struct host *host = context;

    uv_stop(&host->loop);
}

static int open_journal(struct host *host)
{
    struct journal_report report = {.created = false};
    int r = journal_open(&host->journal, &host->journal_options, &report);

    if (host->dead)
        return r;
    sim_note("journal", host->index, r < 0 ? (uint64_t)-r : journal_durable_lsn(host->journal));
    if (r == -EBADMSG || report.damaged_from != report.damaged_to)
        sim_violation(NULL, "host %u: the journal is damaged though nobody damaged it: %s", host->index,
                      report.damaged_path);
    return r;
}

static void *host_main(void *argument)
{
    struct host *host = argument;
    int r = open_journal(host);

    host->start_error = r;
    if (r < 0) {
        host->journal = NULL;
        return NULL;
    }
    host->options.intake.streams.epoch = (uint64_t)clock_realtime_us();
    r = pipeline_new(&host->pipeline, &host->options, &host->loop, 100, host->journal, &host->metrics);
    assert(r == 0);
    host->listening = true;
    if (host->stopping || host->dead)
        host->signalled = true;
    uv_run(&host->loop, UV_RUN_DEFAULT);
    pipeline_close(host->pipeline);
    uv_run(&host->loop, UV_RUN_DEFAULT);
    pipeline_free(host->pipeline);
    host->pipeline = NULL;
    journal_close(host->journal);
    host->journal = NULL;
    return NULL;
}

bool host_up(const struct host *host)
{
    return fibers_alive(host);
}

void host_init(struct host *host, unsigned index)
{
    *host = (struct host){.index = index, .disk = fakedisk_new()};
    host->disk->random = sim_random();
    host->io = disk_io(host);
    host->journal_options = (struct journal_options){.state_dir = "state", .io = &host->io};
    host->options =
        (struct pipeline_options){.writers = {.writer.host = "host", .sink = database_sink, .sink_context = host},
                                  .progress = on_progress,
                                  .broken = on_broken,
                                  .ended = on_ended,
                                  .context = host};
}

void host_start(struct host *host)
{
    assert(!host_up(host) && host->handle_count == 0);
    host->dead = host->signalled = host->stopping = false;
    host->metrics = (struct metrics){0};
    host->status = (struct writer_status){.state = WRITER_CONNECTING};
    host->status_since_us = sim.now_us;
    if (host->runs == 0 || sim_chance(1, 6))
        host->options.writers.count = 1u << sim_below(3);
    host->runs++;
    sim_note("start", host->index, host->options.writers.count);
    host->fiber = fiber_new(host, host_main, host);
}

void host_stop(struct host *host)
{
    host->stopping = true;
    host->signalled = host->pipeline != NULL;
    host->stop_deadline_us = sim.now_us + 10 * SECOND;
    sim_note("stop", host->index, 0);
}

/* What a process leaves behind when it is over, however it ended. */
static void leave(struct host *host)
{
    host->fiber = NULL;
    if (host->disk_failed && host->options.intake.ack == INTAKE_ACK_WRITE) /* which promises nothing about disks */
        ledger_excuse(host, 1, "the disk failed");
    host->disk_failed = false;
    if (!host->activated) {
        host->listening = false;
        queue_clear(host);
    }
    if (fakedisk_open_fds(host->disk) > 0)
        sim_violation(NULL, "host %u: %d descriptors of the disk are left open", host->index,
                      fakedisk_open_fds(host->disk));
    if (host->open_fds != 0)
        sim_violation(NULL, "host %u: %d received descriptors are left open", host->index, host->open_fds);
}

bool host_reap(struct host *host)
{
    if (!host->fiber || host_up(host))
        return false;
    leave(host);
    return true;
}

void host_kill(struct host *host)
{
    unsigned steps = 0;

    sim_note("kill", host->index, 0);
    host->dead = true;
    host->signalled = host->pipeline != NULL; /* unwinds, without effect */
    fibers_wake(host);
    while (host_up(host)) {
        bool ran = fibers_step(host);

        if (!ran || ++steps > UNWIND_STEPS) {
            /* Its threads can't be taken away from it, so no other run can follow. */
            printf("seed %" PRIu64 ": host %u does not come to its end\n", sim.seed, host->index);
            exit(EXIT_FAILURE);
        }
    }
    leave(host);
}

void host_done(struct host *host)
{
    queue_clear(host);
    fakedisk_free(host->disk);
    if (host->old_disk)
        fakedisk_free(host->old_disk);
}
