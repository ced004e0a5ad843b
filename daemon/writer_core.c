/* See writer_core.h. Read writer_look() and writer_do() first. */
#include "daemon/writer_core.h"

#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/registration.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

enum { RETRY_FIRST_US = 50 * 1000, CHORES_US = 1000 * 1000, TEND_US = 60 * 1000 * 1000 };
/* How long a watermark may stay where it is while only others' frames go by: retention waits for it, and after a restart they are passed over again. */
enum { ADVANCE_US = 1000 * 1000 };

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
    struct writer_order order;

    struct journal_reader *reader;
    bool open;              /* the sink is, and notes were compared … */
    bool started;           /* … and apply goes on from there */
    bool holding;           /* until the next order there is nothing to do */
    uint64_t watermark;     /* of the last open */
    uint64_t limit;         /* nothing beyond is this order's */
    uint64_t counted_lsn;   /* frames below were counted as received in this run */
    uint64_t attempted_lsn; /* no watermark of ours can be above */
    uint64_t hurry_lsn;     /* the last batch was full: what was left then does not wait for company */
    bool advance;           /* with the next batch, over others' frames too */
    int64_t behind_us;      /* since when it has been due; 0: it is not */
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
    core->status.counted_lsn = core->counted_lsn;
    core->status.renewals = core->order.renewals;
    core->status.writers = core->order.writers;
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

static int file_trouble(struct writer_core *core, const char *done, int r)
{
    char error[128];

    snprintf(error, sizeof(error), "a file in the state directory can't be %s: %s", done, strerror(-r));
    trouble(core, state_after(r), error);
    return r;
}

static bool is_retrying(const struct writer_core *core)
{
    return core->status.state == WRITER_RETRYING || core->status.state == WRITER_STOPPED;
}

/* What is this order's: all that is durable, or up to the limit. */
static uint64_t goal(const struct writer_core *core)
{
    uint64_t durable = journal_durable_lsn(core->journal);

    return durable < core->limit ? durable : core->limit;
}

/* --- opening the sink, and comparing notes ---------------------------------------------------------------------------------- */

/* Waits for the next order. */
static void hold(struct writer_core *core, const struct writer_notes *notes)
{
    journal_reader_free(core->reader);
    core->reader = NULL;
    core->holding = true;
    core->started = false;
    core->status.notes = *notes;
    core->status.notes.order = core->order.number;
    if (is_retrying(core) && core->unproven) /* connecting was not what had failed */
        publish(core, core->status.state, core->status.error);
    else
        publish(core, WRITER_HOLDING, "");
}

static void divert(struct writer_core *core, struct writer_notes *notes, uint64_t from, uint64_t watermark,
                   const char *reason)
{
    log_error(
        "%s: a new journal is begun and what this one has from there on is journaled again writer=%u watermark=%" PRIu64
        " from=%" PRIu64,
        reason, core->order.writer, watermark, from);
    notes->stored_lsn = from;
    notes->diverted = true;
}

/* Compares the sink's watermark with the journal. 0, with what the notes say; or trouble noted. */
static int compare(struct writer_core *core, struct writer_notes *notes, uint64_t watermark)
{
    uint64_t unconfirmed = journal_unconfirmed_lsn(core->journal), oldest = journal_oldest_lsn(core->journal);
    char error[512], id[37];

    uuid_unparse_lower(journal_uuid(core->journal), id);
    notes->stored_lsn = watermark;
    if (unconfirmed != UINT64_MAX && watermark > unconfirmed) {
        divert(core, notes, unconfirmed, watermark, TAKEN_BACK);
        return 0;
    }
    if (unconfirmed == UINT64_MAX && watermark > core->attempted_lsn && core->attempted_lsn) {
        divert(core, notes, apply_lsn(core->apply), watermark, TAKEN_BACK);
        return 0;
    }
    if (watermark < oldest) {
        snprintf(error, sizeof(error),
                 "the sink wants all from LSN %" PRIu64 ", but the journal keeps only what is above %" PRIu64
                 " (journal.retention): %" PRIu64
                 " bytes of frames are beyond it. Restore a younger copy of the database, or accept "
                 "the loss: UPDATE toll.journals SET lsn = %" PRIu64 " WHERE journal_id = '%s' AND lsn < %" PRIu64,
                 watermark, oldest, oldest - watermark, oldest, id, oldest);
        trouble(core, WRITER_STOPPED, error);
        return -ENOTRECOVERABLE;
    }
    return 0;
}

/* The sink knows another number of writers. Should the journal be in use twice as well, how far our own had come is told. */
static void note_other_number(struct writer_core *core, struct writer_notes *notes, const struct sink_claim *claim,
                              uint64_t watermark)
{
    uint64_t unconfirmed = journal_unconfirmed_lsn(core->journal);

    if (claim->contested)
        divert(core, notes, claim->own_lsn < unconfirmed ? claim->own_lsn : unconfirmed, watermark, USED_TWICE);
    else
        notes->stored_lsn = watermark < unconfirmed ? watermark : unconfirmed;
    notes->unknown = !claim->found;
    hold(core, notes);
}

/* A database that went back has done so for all writers, but it may show in the watermarks of some only, and those may be idle: who opens it looks at
 * all of them. held: what the others had stored, as they knew before. Returns the lowest LSN that any of them needs. */
static uint64_t look_at_others(const struct writer_core *core, const struct sink_claim *claim, const uint64_t *held,
                               uint64_t watermark, bool *ret_lack)
{
    uint64_t lowest = watermark;

    for (unsigned i = 0; i < core->order.writers; i++) {
        if (i == core->order.writer || held[i] == UINT64_MAX || claim->lsns[i] >= held[i])
            continue;
        *ret_lack = true;
        if (claim->lsns[i] < lowest)
            lowest = claim->lsns[i];
    }
    return lowest;
}

/* Opens the sink for the journal as it is now. 0: it is open; 1: holding, for something must be done first; or trouble noted. */
static int open_sink(struct writer_core *core, uint64_t *ret_watermark, struct writer_notes *notes)
{
    const struct sink_ops *ops = core->sink->ops;
    uint64_t lsns[SHARE_WRITERS_MAX], held[SHARE_WRITERS_MAX], unconfirmed = journal_unconfirmed_lsn(core->journal),
                                                               watermark = 0, needed;
    struct registration before, now = {.writers = core->order.writers};
    struct renewal renewal;
    struct sink_journal journal = {.writer = (int)core->order.writer,
                                   .writers = (int)core->order.writers,
                                   .host = core->host,
                                   .register_lsns = lsns};
    const struct sink_claim *claim;
    bool renewed = false;
    int r = registration_read(core->journal, ops->name, core->order.writer, &before, &journal.registered);

    for (unsigned i = 0; r == 0 && !journal.registered && i < core->order.writers; i++) {
        r = registration_read(core->journal, ops->name, i, &before, &journal.registered);
        memset(before.run, 0, sizeof(before.run)); /* another writer's */
    }
    if (r == 0 && !journal.registered)
        r = renewal_read(core->journal, &renewal, &renewed);
    if (r < 0)
        return file_trouble(core, "read", r);
    notes->own_writers = (int)(!journal.registered ? (renewed ? renewal.writers : 0)
                               : before.writers    ? before.writers
                                                   : 1);
    if (renewed && renewal.writers != core->order.writers && !core->order.sink_said) {
        hold(core, notes);
        return 1;
    }
    for (unsigned i = 0; i < core->order.writers; i++)
        lsns[i] = renewed && i < renewal.writers ? renewal.lsns[i] : journal_oldest_lsn(core->journal);
    memcpy(journal.uuid, journal_uuid(core->journal), sizeof(journal.uuid));
    if (journal.registered)
        memcpy(journal.last_run, before.run, sizeof(journal.last_run));
    for (unsigned i = 0; i < core->order.writers; i++)
        held[i] = journal_held(core->journal, i);
    r = ops->open(core->sink, &journal, &watermark);
    claim = r == 0 && ops->claim ? ops->claim(core->sink) : NULL;
    if (claim) {
        notes->sink_writers = claim->writers;
        memcpy(now.run, claim->run, sizeof(now.run));
    }
    if (claim && claim->writers != journal.writers) {
        note_other_number(core, notes, claim, watermark);
        return 1;
    }
    if (claim && claim->contested) {
        /* Somebody else has a copy of this journal and has moved the watermark. Below our own LSN all of ours is stored; above, none. */
        divert(core, notes, claim->own_lsn < unconfirmed ? claim->own_lsn : unconfirmed, watermark, USED_TWICE);
        hold(core, notes);
        return 1;
    }
    /* What the database lacks must not be deleted as committed while it is stored again, or an operator is thinking. */
    needed = claim ? look_at_others(core, claim, held, watermark, &notes->others_lack) : watermark;
    if (r == 0 || r == -ENOENT)
        journal_hold(core->journal, core->order.writer, r == 0 ? needed : 0);
    if (r < 0) {
        trouble(core, state_after(r), ops->error(core->sink));
        return r;
    }
    memcpy(now.journal, journal.uuid, sizeof(now.journal));
    if (!journal.registered || memcmp(&now, &before, sizeof(now)) != 0) {
        r = registration_write(core->journal, ops->name, core->order.writer, &now);
        if (r < 0)
            return file_trouble(core, "written", r);
    }
    *ret_watermark = watermark;
    return 0;
}

/* All writers have compared notes: goes on from there. */
static int start(struct writer_core *core, int64_t realtime_us)
{
    char which[24] = "";
    int r = journal_unconfirmed_lsn(core->journal) == UINT64_MAX ? 0 : journal_confirm(core->journal);

    if (r == 0 && !core->reader)
        r = journal_reader_new(&core->reader, core->journal);
    if (r < 0) {
        trouble(core, state_after(r), strerror(-r));
        return r;
    }
    if (core->attempted_lsn < core->watermark)
        core->attempted_lsn = core->watermark;
    if (core->watermark < apply_lsn(core->apply))
        log_warning("the sink's watermark went back, replaying from the journal from=%" PRIu64 " to=%" PRIu64,
                    core->watermark, apply_lsn(core->apply));
    if (core->watermark > core->counted_lsn) /* a commit that seemed to fail */
        core->counted_lsn = core->watermark;
    apply_share(core->apply, core->order.writer, core->order.writers, core->order.counted);
    apply_limit(core->apply, core->limit);
    r = apply_start(core->apply, core->reader, core->watermark, core->counted_lsn, realtime_us);
    if (r < 0) {
        trouble(core, state_after(r), strerror(-r));
        return r;
    }
    core->started = true;
    core->tend_due_us = 0;
    core->chores_at_us = 0;
    core->behind_us = 0;
    if (core->unproven && goal(core) > core->watermark) { /* connecting was not what had failed */
        publish(core, core->status.state, core->status.error);
        return 0;
    }
    if (core->order.writers > 1)
        snprintf(which, sizeof(which), " writer=%u", core->order.writer);
    log_info("storing sink=%s%s watermark=%" PRIu64 " backlog_bytes=%" PRIu64, core->sink->ops->name, which,
             core->watermark, journal_durable_lsn(core->journal) - core->watermark);
    publish(core, WRITER_OK, "");
    return 0;
}

static int open_and_compare(struct writer_core *core, int64_t realtime_us)
{
    struct writer_notes notes = {.order = 0};
    uint64_t watermark;
    int r = open_sink(core, &watermark, &notes);

    if (r == 0)
        r = compare(core, &notes, watermark);
    if (r != 0)
        return r < 0 ? r : 0;
    core->open = true;
    core->watermark = watermark;
    /* A database that went back has done so for all: before anybody stores again, all must say what they lack. */
    if (core->order.what == WRITER_GO && !notes.diverted && !notes.others_lack && watermark >= apply_lsn(core->apply))
        return start(core, realtime_us);
    hold(core, &notes);
    return 0;
}

static void tell_sink(struct writer_core *core)
{
    struct writer_notes *notes = &core->status.notes;
    int r = core->sink->ops->share(core->sink, core->watermark, (int)core->order.count);

    notes->order = core->order.number;
    notes->shared = r == 0 ? 1 : r;
    core->failed = r < 0;
    if (r == -EAGAIN || r == -ENOMEM || r == -ENOTRECOVERABLE)
        trouble(core, state_after(r), core->sink->ops->error(core->sink));
    else
        publish(core, WRITER_HOLDING, "");
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
        publish(core, core->status.state, core->status.error);
        return;
    }
    if (apply_lsn(core->apply) > core->counted_lsn)
        core->counted_lsn = apply_lsn(core->apply);
    journal_hold(core->journal, core->order.writer, apply_lsn(core->apply));
    core->retry_us = RETRY_FIRST_US;
    core->stale_in_a_row = 0;
    core->unproven = false;
    publish(core, WRITER_OK, "");
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

static bool batch_due(const struct writer_core *core, const struct writer_wishes *wishes, int64_t now_us)
{
    uint64_t applied = apply_passed(core->apply), durable = goal(core);

    if (durable <= applied)
        return false;
    return wishes->stopping || core->limit != UINT64_MAX || applied < wishes->hurry_lsn || applied < core->hurry_lsn ||
           durable - applied >= core->options.apply.batch_bytes ||
           (wishes->pending_since_us && now_us - wishes->pending_since_us >= core->options.batch_age_us);
}

/* Storing: a batch, a chore, or a wait for either. */
static enum writer_next look_for_work(struct writer_core *core, struct writer_wishes *wishes, int64_t now_us,
                                      int64_t *ret_until_us)
{
    bool due;

    *ret_until_us = core->chores_due_us;
    if (goal(core) <= apply_passed(core->apply))
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
           (goal(core) <= apply_passed(core->apply) && !apply_behind(core->apply));
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
        core->failed = open_and_compare(core, now.realtime_us) < 0;
        core->open = core->open && !core->failed && !core->status.notes.diverted;
        break;
    case WRITER_TELL_SINK:
        core->holding = true;
        tell_sink(core);
        break;
    case WRITER_START:
        core->failed = start(core, now.realtime_us) < 0;
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
