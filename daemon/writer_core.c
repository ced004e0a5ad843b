/* See writer_core.h. Read writer_look() and writer_do() first. */
#include "daemon/writer_core_internal.h"

#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_FIRST_US = 50 * 1000, CHORES_US = 1000 * 1000, TEND_US = 60 * 1000 * 1000 };
/* How long a watermark may stay where it is while only others' frames go by: retention waits for it, and after a restart they are passed over again. */
enum { ADVANCE_US = 1000 * 1000 };

/* --- how it stands --------------------------------------------------------------------------------------------------------- */

void writer_core_publish(struct writer_core *core, enum writer_state state, const char *error)
{
    core->status.state = state;
    core->status.committed_lsn = apply_lsn(core->apply);
    core->status.applied_lsn = apply_passed(core->apply);
    core->status.counted_lsn = core->counted_lsn;
    core->status.renewals = core->order.renewals;
    core->status.writers = core->order.writers;
    if (error != core->status.error)
        snprintf(core->status.error, sizeof(core->status.error), "%s", error);
    core->report(core->context, &core->status);
}

void writer_core_trouble(struct writer_core *core, enum writer_state state, const char *error)
{
    core->status.failures++;
    writer_core_publish(core, state, error);
}

enum writer_state writer_core_state_after(int r)
{
    return r == -EAGAIN || r == -ENOMEM ? WRITER_RETRYING : WRITER_STOPPED;
}

uint64_t writer_core_goal(const struct writer_core *core)
{
    uint64_t durable = journal_durable_lsn(core->journal);

    return durable < core->limit ? durable : core->limit;
}

/* --- what went wrong ------------------------------------------------------------------------------------------------------- */

static void fail(struct writer_core *core, int r)
{
    char error[640];

    core->failed = true;
    core->unproven = core->unproven || r != -ESTALE;
    core->open = core->started = r == -EINVAL; /* a refused batch is tried again where it stands */
    switch (r) {
    case -ESTALE:
        log_info("the watermark or a stream was changed by somebody else, reading it again");
        core->failed = core->stale_in_a_row++ > 0; /* the first time is no reason to pause */
        break;
    case -EAGAIN:
    case -ENOMEM:
        writer_core_trouble(core, WRITER_RETRYING, r == -ENOMEM ? "out of memory" : core->sink->ops->error(core->sink));
        break;
    case -EBADMSG:
        writer_core_trouble(
            core, WRITER_STOPPED,
            "the journal is damaged below its durable LSN: acknowledged frames do not read back. Nothing was skipped. To set the damaged "
            "bytes aside and store what follows, stop tolld and run: tolld --repair-journal");
        break;
    case -EINVAL:
        snprintf(
            error, sizeof(error),
            "a table refuses all rows alike, so it is at fault, not the rows; they wait, and are not quarantined: %.500s",
            core->sink->ops->error(core->sink));
        writer_core_trouble(core, WRITER_STOPPED, error);
        break;
    case -ENOTRECOVERABLE:
        writer_core_trouble(core, WRITER_STOPPED, core->sink->ops->error(core->sink));
        break;
    default:
        snprintf(error, sizeof(error), "reading the journal: %s", strerror(-r));
        writer_core_trouble(core, WRITER_STOPPED, error);
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
    if (core->order.writer == 0)
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
    int r;

    apply_set_last(core->apply, journal_is_full(core->journal));
    r = apply_step(core->apply, realtime_us, core->advance);
    core->applied = true;
    core->attempted_lsn =
        journal_durable_lsn(core->journal); /* after the step, which reads up to what is durable by then */
    if (r < 0) {
        fail(core, r);
        return;
    }
    if (r > 0 && apply_passed(core->apply) < durable)
        core->hurry_lsn = durable;
    if (r == 0 && core->unproven && apply_behind(core->apply)) { /* passing over others' frames proves nothing */
        writer_core_publish(core, core->status.state, core->status.error);
        return;
    }
    if (apply_lsn(core->apply) > core->counted_lsn)
        core->counted_lsn = apply_lsn(core->apply);
    journal_hold(core->journal, core->order.writer, apply_lsn(core->apply));
    core->retry_us = RETRY_FIRST_US;
    core->stale_in_a_row = 0;
    core->unproven = false;
    writer_core_publish(core, WRITER_OK, "");
}

/* --- what is next ---------------------------------------------------------------------------------------------------------- */

/* What others store has gone by: whether the watermark should move over it now, and when it should. */
static bool advance_due(struct writer_core *core, const struct writer_wishes *wishes, int64_t now_us, int64_t *until_us)
{
    int64_t age_us = core->options.prompt ? core->options.batch_age_us : ADVANCE_US;

    if (!apply_behind(core->apply)) {
        core->behind_us = 0;
        return false;
    }
    if (core->behind_us == 0)
        core->behind_us = now_us;
    if (wishes->stopping || core->limit != UINT64_MAX || apply_lsn(core->apply) < wishes->hurry_lsn ||
        now_us - core->behind_us >= age_us)
        return true;
    if (core->behind_us + age_us < *until_us)
        *until_us = core->behind_us + age_us;
    return false;
}

/* Less than a whole batch: beginning and committing one takes the server some 0.5 ms, which is 2 % of what a quarter's rows take it by default. */
bool writer_core_has_enough(const struct writer_core *core, uint64_t applied_lsn)
{
    uint64_t durable = writer_core_goal(core);

    return durable > applied_lsn &&
           durable - applied_lsn >= (uint64_t)core->options.apply.batch_bytes / 4 * core->order.writers;
}

static bool batch_due(const struct writer_core *core, const struct writer_wishes *wishes, int64_t now_us)
{
    uint64_t applied = apply_passed(core->apply), durable = writer_core_goal(core);

    if (durable <= applied)
        return false;
    return wishes->stopping || core->limit != UINT64_MAX || applied < wishes->hurry_lsn || applied < core->hurry_lsn ||
           writer_core_has_enough(core, applied) ||
           (wishes->pending_since_us && now_us - wishes->pending_since_us >= core->options.batch_age_us);
}

/* Storing: a batch, a chore, or a wait for either. */
static enum writer_next look_for_work(struct writer_core *core, struct writer_wishes *wishes, int64_t now_us,
                                      int64_t *ret_until_us)
{
    bool due;

    *ret_until_us = core->chores_due_us;
    if (writer_core_goal(core) <= apply_passed(core->apply))
        wishes->pending_since_us = 0;
    else if (wishes->pending_since_us == 0)
        wishes->pending_since_us = now_us;
    due = batch_due(core, wishes, now_us);
    core->advance = advance_due(core, wishes, now_us, ret_until_us) || wishes->stopping || core->limit != UINT64_MAX;
    if (core->advance && apply_behind(core->apply))
        due = true;
    /* Under a load that never ends the two take turns. */
    if (now_us >= core->chores_due_us && (!due || core->applied) && !wishes->stopping)
        return WRITER_CHORES;
    if (due) {
        wishes->pending_since_us = 0;
        return WRITER_APPLY;
    }
    if (wishes->pending_since_us && wishes->pending_since_us + core->options.batch_age_us < *ret_until_us)
        *ret_until_us = wishes->pending_since_us + core->options.batch_age_us;
    return WRITER_WAIT;
}

static void obey(struct writer_core *core, const struct writer_order *order)
{
    bool renewed = order->renewals != core->order.renewals, other_share = order->writers != core->order.writers;

    if (order->number == core->order.number)
        return;
    if (renewed) {
        /* The records keep their distances, so those of earlier runs still come first. */
        core->counted_lsn = core->counted_lsn > order->renewed_from ? core->counted_lsn - order->renewed_from : 0;
        core->attempted_lsn = core->hurry_lsn = 0;
        apply_renewed(core->apply, order->renewed_from);
    }
    if (other_share && core->order.writers) /* what it counted as one of so many is kept elsewhere */
        core->counted_lsn = order->counted_lsn;
    if (renewed || other_share)
        apply_forget_lsn(core->apply);
    core->order = *order;
    core->holding = order->what == WRITER_REST;
    if (order->what == WRITER_MUSTER || order->what == WRITER_REST) {
        core->open = core->started = false;
        core->limit = UINT64_MAX;
        journal_reader_free(core->reader);
        core->reader = NULL;
    }
    if (order->what == WRITER_GO) {
        core->limit = order->limit;
        apply_limit(core->apply, core->limit);
    }
}

/* Of what is to be done before it stops. */
static bool nothing_left(const struct writer_core *core)
{
    if (core->open && !core->started) /* it begins, or the next order comes at once */
        return core->holding && core->order.what != WRITER_MUSTER;
    return !core->started || core->status.state != WRITER_OK ||
           (writer_core_goal(core) <= apply_passed(core->apply) && !apply_behind(core->apply));
}

enum writer_next writer_look(struct writer_core *core, struct writer_wishes *wishes, int64_t now_us,
                             int64_t *ret_until_us)
{
    obey(core, &wishes->order);
    if (wishes->stopping && nothing_left(core))
        return WRITER_END;
    if (core->holding || core->order.number == 0) {
        *ret_until_us = INT64_MAX;
        return WRITER_WAIT;
    }
    if (core->order.what == WRITER_SHARE)
        return WRITER_TELL_SINK;
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
    if (!core->open)
        return WRITER_OPEN;
    return core->started ? look_for_work(core, wishes, now_us, ret_until_us) : WRITER_START;
}

void writer_do(struct writer_core *core, enum writer_next next, struct writer_time now)
{
    switch (next) {
    case WRITER_OPEN:
        core->failed = writer_core_open(core, now.realtime_us) < 0;
        core->open = core->open && !core->failed && !core->status.notes.diverted;
        break;
    case WRITER_TELL_SINK:
        core->holding = true;
        writer_core_tell_sink(core);
        break;
    case WRITER_START:
        core->failed = writer_core_start(core, now.realtime_us) < 0;
        core->open = !core->failed;
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
        writer_core_publish(core, WRITER_DONE, "");
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
    core->counted_lsn = options->counted_lsn;
    core->limit = UINT64_MAX;
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
    core->options.prompt = options->prompt;
    core->options.batch_age_us = options->batch_age_us;
    core->options.retry_max_us = options->retry_max_us;
    apply_set_options(core->apply, &core->options.apply);
}

struct apply *writer_core_apply(struct writer_core *core)
{
    return core->apply;
}
