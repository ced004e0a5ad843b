/* See writer_core.h. Read writer_look() and writer_do() first. */
#include "daemon/writer_core.h"

#include "daemon/clock.h"
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

enum { RETRY_FIRST_US = 50 * 1000, CHORES_US = 1000 * 1000, TEND_US = 60 * 1000 * 1000 };

#define TAKEN_BACK "the journal was taken back: the sink's watermark is above what it can account for"
#define USED_TWICE                                                                                                                       \
    "this journal is in use twice: another tolld with a copy of this state directory stores under its name (was the machine cloned, or " \
    "a backup of it started? each tolld needs a state directory of its own)"

struct writer_core {
    struct writer_options options;
    char host[256];
    struct journal *journal;
    struct sink *sink;
    struct apply *apply;
    void (*report)(void *context, const struct writer_status *status);
    void *context;
    struct writer_status status;

    struct journal_reader *reader;
    bool open;
    bool renewing;          /* until the journal is renewed there is nothing to do */
    uint64_t counted_lsn;   /* frames below were counted as received in this run */
    uint64_t attempted_lsn; /* no watermark of ours can be above */
    uint64_t hurry_lsn;     /* the last batch was full: what was left then does not wait for company */
    unsigned stale_in_a_row;
    bool failed;   /* the pause before the next try has not begun */
    bool unproven; /* a batch has failed, and none got through since */
    int64_t retry_at_us, retry_us;
    int64_t chores_due_us, tend_due_us;
    struct clock_watch clock;
    bool applied;        /* since the last chores */
    uint64_t chores_lsn; /* what was durable at the last chores, and when that was */
    int64_t chores_at_us;
};

/* --- how it stands --------------------------------------------------------------------------------------------------------- */

static void publish(struct writer_core *core, enum writer_state state, const char *error)
{
    core->status.state = state;
    core->status.committed_lsn = apply_lsn(core->apply);
    core->status.applied_lsn = apply_passed(core->apply);
    if (error != core->status.error)
        snprintf(core->status.error, sizeof(core->status.error), "%s", error);
    core->report(core->context, &core->status);
}

/* Notes a state that is not WRITER_OK. Whoever watches raises the alarm, and logs it. */
static void trouble(struct writer_core *core, enum writer_state state, const char *error)
{
    core->status.failures++;
    publish(core, state, error);
}

/* A lack of memory passes by itself, as the sink's troubles do that are -EAGAIN. */
static enum writer_state state_after(int r)
{
    return r == -EAGAIN || r == -ENOMEM ? WRITER_RETRYING : WRITER_STOPPED;
}

static void file_trouble(struct writer_core *core, const char *done, int r)
{
    char error[128];

    snprintf(error, sizeof(error), "a file in the state directory can't be %s: %s", done, strerror(-r));
    trouble(core, state_after(r), error);
}

/* --- opening the sink ------------------------------------------------------------------------------------------------------ */

/* The state file that says that a sink of this kind has a watermark of the journal, and by which name it knows the last run. */
struct registration {
    uint8_t journal[16], run[16];
};

static const char *registered_file(const struct writer_core *core, char name[static 32])
{
    snprintf(name, 32, "registered-%s", core->sink->ops->name);
    return name;
}

/* 0 and whether the sink knows this journal, as far as we know; or why that can't be told now. A file that is missing or damaged tells nothing. */
static int registration_read(const struct writer_core *core, struct registration *ret, bool *ret_registered)
{
    char name[32];
    ssize_t n;

    memset(ret, 0, sizeof(*ret));
    n = journal_state_read(core->journal, registered_file(core, name), ret, sizeof(*ret));
    if (n < 0 && n != -ENOENT && n != -EBADMSG && n != -EMSGSIZE)
        return (int)n;
    *ret_registered = n >= (ssize_t)sizeof(ret->journal) &&
                      memcmp(ret->journal, journal_uuid(core->journal), sizeof(ret->journal)) == 0;
    return 0;
}

static int registration_write(const struct writer_core *core, const struct registration *before, bool registered,
                              const struct sink_claim *claim)
{
    struct registration now = {0};
    char name[32];

    memcpy(now.journal, journal_uuid(core->journal), sizeof(now.journal));
    if (claim)
        memcpy(now.run, claim->run, sizeof(now.run));
    if (registered && memcmp(&now, before, sizeof(now)) == 0)
        return 0;
    return journal_state_write(core->journal, registered_file(core, name), &now, sizeof(now));
}

static void need_renewal(struct writer_core *core, uint64_t from, uint64_t watermark, const char *reason)
{
    log_error("%s: a new journal is begun and what this one has from there on is journaled again watermark=%" PRIu64
              " from=%" PRIu64,
              reason, watermark, from);
    journal_reader_free(core->reader);
    core->reader = NULL;
    core->renewing = true;
    core->status.renew_from = from;
    core->status.renewals++;
    publish(core, WRITER_RENEW, "the journal is being renewed");
}

/* Compares the sink's watermark with the journal and starts there. 0, -EAGAIN before a renewal, or trouble noted. */
static int start_at(struct writer_core *core, uint64_t watermark, int64_t realtime_us)
{
    uint64_t unconfirmed = journal_unconfirmed_lsn(core->journal), oldest = journal_oldest_lsn(core->journal);
    char error[512], id[37];
    int r;

    uuid_unparse_lower(journal_uuid(core->journal), id);
    if (unconfirmed != UINT64_MAX && watermark > unconfirmed) {
        need_renewal(core, unconfirmed, watermark, TAKEN_BACK);
        return -EAGAIN;
    }
    if (unconfirmed == UINT64_MAX && watermark > core->attempted_lsn && core->attempted_lsn) {
        need_renewal(core, apply_lsn(core->apply), watermark, TAKEN_BACK);
        return -EAGAIN;
    }
    if (watermark < oldest) {
        snprintf(error, sizeof(error),
                 "the sink wants all from LSN %" PRIu64 ", but the journal keeps only what is above %" PRIu64
                 " (journal.retention): %" PRIu64
                 " bytes of frames are beyond it. Restore a younger copy of the database, or accept "
                 "the loss: UPDATE toll.journals SET lsn = %" PRIu64 " WHERE journal_id = '%s' AND writer = 0",
                 watermark, oldest, oldest - watermark, oldest, id);
        trouble(core, WRITER_STOPPED, error);
        return -ENOTRECOVERABLE;
    }
    if (unconfirmed != UINT64_MAX) {
        r = journal_confirm(core->journal);
        if (r < 0)
            return r;
        core->attempted_lsn = watermark;
    }
    if (!core->reader) {
        r = journal_reader_new(&core->reader, core->journal);
        if (r < 0)
            return r;
    }
    if (watermark < apply_lsn(core->apply))
        log_warning("the sink's watermark went back, replaying from the journal from=%" PRIu64 " to=%" PRIu64,
                    watermark, apply_lsn(core->apply));
    if (watermark > core->counted_lsn) /* a commit that seemed to fail */
        core->counted_lsn = watermark;
    return apply_start(core->apply, core->reader, watermark, core->counted_lsn, realtime_us);
}

/* Somebody else has a copy of this journal and has moved the watermark. Below our own LSN all of ours is stored; above, none. */
static int leave_journal(struct writer_core *core, const struct sink_claim *claim, uint64_t watermark)
{
    uint64_t unconfirmed = journal_unconfirmed_lsn(core->journal);

    need_renewal(core, claim->own_lsn < unconfirmed ? claim->own_lsn : unconfirmed, watermark, USED_TWICE);
    return -EAGAIN;
}

static int open_sink(struct writer_core *core, int64_t realtime_us)
{
    struct registration registration;
    struct sink_journal journal = {
        .writer = 0,
        .host = core->host,
        .register_lsn = journal_oldest_lsn(core->journal),
    };
    const struct sink_claim *claim;
    uint64_t watermark;
    int r;

    r = registration_read(core, &registration, &journal.registered);
    if (r < 0) {
        file_trouble(core, "read", r);
        return r;
    }
    memcpy(journal.uuid, journal_uuid(core->journal), sizeof(journal.uuid));
    if (journal.registered)
        memcpy(journal.last_run, registration.run, sizeof(journal.last_run));
    r = core->sink->ops->open(core->sink, &journal, &watermark);
    claim = r == 0 && core->sink->ops->claim ? core->sink->ops->claim(core->sink) : NULL;
    if (claim && claim->contested)
        return leave_journal(core, claim, watermark);
    /* What the database lacks must not be deleted as committed while it is stored again, or an operator is thinking. */
    if (r == 0 || r == -ENOENT)
        journal_hold(core->journal, r == 0 ? watermark : 0);
    if (r < 0) {
        trouble(core, state_after(r), core->sink->ops->error(core->sink));
        return r;
    }
    r = registration_write(core, &registration, journal.registered, claim);
    if (r < 0) {
        file_trouble(core, "written", r);
        return r;
    }
    r = start_at(core, watermark, realtime_us);
    if (r < 0) {
        if (r != -EAGAIN && r != -ENOTRECOVERABLE)
            trouble(core, state_after(r), strerror(-r));
        return r;
    }
    core->open = true;
    core->tend_due_us = 0;
    core->chores_at_us = 0;
    if (core->unproven && journal_durable_lsn(core->journal) > watermark) { /* connecting was not what had failed */
        publish(core, core->status.state, core->status.error);
        return 0;
    }
    log_info("storing sink=%s watermark=%" PRIu64 " backlog_bytes=%" PRIu64, core->sink->ops->name, watermark,
             journal_durable_lsn(core->journal) - watermark);
    publish(core, WRITER_OK, "");
    return 0;
}

/* --- what went wrong ------------------------------------------------------------------------------------------------------- */

static void fail(struct writer_core *core, int r)
{
    char error[640];

    core->failed = true;
    core->unproven = core->unproven || r != -ESTALE;
    core->open = r == -EINVAL; /* a refused batch is tried again where it stands */
    switch (r) {
    case -ESTALE:
        log_info("the watermark or a stream was changed by somebody else, reading it again");
        core->failed = core->stale_in_a_row++ > 0; /* the first time is no reason to pause */
        break;
    case -EAGAIN:
    case -ENOMEM:
        trouble(core, WRITER_RETRYING, r == -ENOMEM ? "out of memory" : core->sink->ops->error(core->sink));
        break;
    case -EBADMSG:
        trouble(
            core, WRITER_STOPPED,
            "the journal is damaged below its durable LSN: acknowledged frames do not read back. Nothing was skipped. To set the damaged "
            "bytes aside and store what follows, stop tolld and run: tolld --repair-journal");
        break;
    case -EINVAL:
        snprintf(
            error, sizeof(error),
            "a table refuses all rows alike, so it is at fault, not the rows; they wait, and are not quarantined: %.500s",
            core->sink->ops->error(core->sink));
        trouble(core, WRITER_STOPPED, error);
        break;
    case -ENOTRECOVERABLE:
        trouble(core, WRITER_STOPPED, core->sink->ops->error(core->sink));
        break;
    default:
        snprintf(error, sizeof(error), "reading the journal: %s", strerror(-r));
        trouble(core, WRITER_STOPPED, error);
        break;
    }
}

/* --- chores ---------------------------------------------------------------------------------------------------------------- */

/* A step of the wall clock must not make live sessions look idle. */
static void watch_clock(struct writer_core *core, struct writer_time now)
{
    int64_t step_us = clock_watch_step(&core->clock, now.realtime_us, now.monotonic_us);

    if (step_us) {
        log_warning("the clock was stepped: idle times and retention go by what has really passed step_s=%" PRId64,
                    step_us / 1000000);
        apply_clock_stepped(core->apply, step_us, now.realtime_us);
        core->chores_at_us = 0;
    }
}

/* Sessions may be closed as idle only as of a moment up to which everything that was durable has been applied. */
static int close_orphans(struct writer_core *core, int64_t realtime_us)
{
    bool caught_up = apply_passed(core->apply) >= core->chores_lsn;
    int64_t as_of_us = core->chores_at_us;

    core->chores_lsn = journal_durable_lsn(core->journal);
    core->chores_at_us = realtime_us;
    return caught_up && as_of_us ? apply_orphans(core->apply, as_of_us) : 0;
}

static void do_chores(struct writer_core *core, struct writer_time now)
{
    int r;

    core->chores_due_us = now.monotonic_us + CHORES_US;
    core->applied = false;
    watch_clock(core, now);
    r = close_orphans(core, now.realtime_us);
    if (r < 0) {
        fail(core, r);
        return;
    }
    apply_look_at_quarantine(core->apply, now.monotonic_us);
    if (now.monotonic_us < core->tend_due_us)
        return;
    core->tend_due_us = now.monotonic_us + TEND_US;
    r = core->sink->ops->tend(core->sink);
    if (r == -EAGAIN)
        fail(core, r);
    else if (r < 0)
        log_warning("housekeeping failed, trying again later reason=%s", core->sink->ops->error(core->sink));
}

/* --- one batch ------------------------------------------------------------------------------------------------------------- */

static void apply_batch(struct writer_core *core, int64_t realtime_us)
{
    uint64_t durable = journal_durable_lsn(core->journal);
    int r = apply_step(core->apply, realtime_us);

    core->applied = true;
    core->attempted_lsn =
        journal_durable_lsn(core->journal); /* after the step, which reads up to what is durable by then */
    if (r < 0) {
        fail(core, r);
        return;
    }
    if (apply_passed(core->apply) < durable)
        core->hurry_lsn = durable;
    if (apply_lsn(core->apply) > core->counted_lsn)
        core->counted_lsn = apply_lsn(core->apply);
    journal_hold(core->journal, apply_lsn(core->apply));
    core->retry_us = RETRY_FIRST_US;
    core->stale_in_a_row = 0;
    core->unproven = false;
    publish(core, WRITER_OK, "");
}

/* --- what is next ---------------------------------------------------------------------------------------------------------- */

static bool batch_due(const struct writer_core *core, const struct writer_wishes *wishes, int64_t now_us)
{
    uint64_t applied = apply_passed(core->apply), durable = journal_durable_lsn(core->journal);

    if (durable <= applied)
        return false;
    return wishes->stopping || applied < wishes->hurry_lsn || applied < core->hurry_lsn ||
           durable - applied >= core->options.apply.batch_bytes ||
           (wishes->pending_since_us && now_us - wishes->pending_since_us >= core->options.batch_age_us);
}

/* With the sink open: a batch, a chore, or a wait for either. */
static enum writer_next look_for_work(struct writer_core *core, struct writer_wishes *wishes, int64_t now_us,
                                      int64_t *ret_until_us)
{
    bool due;

    if (journal_durable_lsn(core->journal) <= apply_passed(core->apply))
        wishes->pending_since_us = 0;
    else if (wishes->pending_since_us == 0)
        wishes->pending_since_us = now_us;
    due = batch_due(core, wishes, now_us);
    /* Under a load that never ends the two take turns. */
    if (now_us >= core->chores_due_us && (!due || core->applied) && !wishes->stopping)
        return WRITER_CHORES;
    if (due) {
        wishes->pending_since_us = 0;
        return WRITER_APPLY;
    }
    *ret_until_us = core->chores_due_us;
    if (wishes->pending_since_us && wishes->pending_since_us + core->options.batch_age_us < *ret_until_us)
        *ret_until_us = wishes->pending_since_us + core->options.batch_age_us;
    return WRITER_WAIT;
}

enum writer_next writer_look(struct writer_core *core, struct writer_wishes *wishes, int64_t now_us,
                             int64_t *ret_until_us)
{
    if (wishes->stopping && (!core->open || core->status.state != WRITER_OK ||
                             journal_durable_lsn(core->journal) <= apply_passed(core->apply)))
        return WRITER_END;
    if (core->renewing) {
        *ret_until_us = INT64_MAX;
        if (!wishes->renewed)
            return WRITER_WAIT;
        core->renewing = wishes->renewed = false;
        /* The records keep their distances, so those of earlier runs still come first. */
        core->counted_lsn =
            core->counted_lsn > core->status.renew_from ? core->counted_lsn - core->status.renew_from : 0;
        core->attempted_lsn = 0;
    }
    if (core->failed) { /* the next pause is longer */
        core->failed = false;
        core->retry_at_us = now_us + core->retry_us;
        core->retry_us =
            core->retry_us * 2 < core->options.retry_max_us ? core->retry_us * 2 : core->options.retry_max_us;
    }
    if (now_us < core->retry_at_us && !wishes->stopping) {
        *ret_until_us = core->retry_at_us;
        return WRITER_WAIT;
    }
    return core->open ? look_for_work(core, wishes, now_us, ret_until_us) : WRITER_OPEN;
}

void writer_do(struct writer_core *core, enum writer_next next, struct writer_time now)
{
    switch (next) {
    case WRITER_OPEN:
        if (open_sink(core, now.realtime_us) < 0)
            core->failed = true;
        break;
    case WRITER_APPLY:
        apply_batch(core, now.realtime_us);
        break;
    case WRITER_CHORES:
        do_chores(core, now);
        break;
    case WRITER_END:
        journal_reader_free(core->reader);
        core->reader = NULL;
        publish(core, WRITER_DONE, "");
        break;
    case WRITER_WAIT:
        break;
    }
}

/* --- start and end --------------------------------------------------------------------------------------------------------- */

struct writer_core *writer_core_new(const struct writer_options *options, struct journal *journal, struct sink *sink,
                                    struct metrics *metrics, struct writer_time now,
                                    void (*report)(void *context, const struct writer_status *status), void *context)
{
    struct writer_core *core = calloc(1, sizeof(*core));

    if (!core)
        return NULL;
    core->options = *options;
    snprintf(core->host, sizeof(core->host), "%s", options->host);
    core->journal = journal;
    core->sink = sink;
    core->report = report;
    core->context = context;
    core->retry_us = RETRY_FIRST_US;
    core->counted_lsn = journal_end_lsn(journal);
    clock_watch_init(&core->clock, now.realtime_us, now.monotonic_us);
    core->apply = apply_new(&options->apply, sink, metrics);
    if (!core->apply) {
        free(core);
        return NULL;
    }
    return core;
}

void writer_core_free(struct writer_core *core)
{
    if (!core)
        return;
    journal_reader_free(core->reader);
    apply_free(core->apply);
    free(core);
}

void writer_core_set_options(struct writer_core *core, const struct writer_options *options)
{
    core->options.apply = options->apply;
    core->options.batch_age_us = options->batch_age_us;
    core->options.retry_max_us = options->retry_max_us;
    apply_set_options(core->apply, &core->options.apply);
}

struct apply *writer_core_apply(struct writer_core *core)
{
    return core->apply;
}
