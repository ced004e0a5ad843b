/* See rating_core.h. Read rating_look() and rating_do() first. */
#include "daemon/rating_core.h"

#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RETRY_FIRST_US = 50 * 1000,
    CHECK_US = 1000 * 1000, /* started minutes and lapsed holds count within that */
    READ_US =
        10 * 1000 * 1000,    /* the list is read anew although nobody said that it changed: a pooler may swallow that */
    CONFLICTS_IN_A_ROW = 20, /* then it pauses, as after any failure */
    REFUSED_PLACES = 16,
};

/* A place that failed by itself: the others go on. */
struct refusal {
    uint8_t journal[16];
    int writer; /* -1: none */
    int64_t until_us;
};

struct rating_core {
    struct rating_options options;
    struct rating_db *db;
    struct metrics *metrics;
    struct rating_reports reports;
    struct rating_status status;

    bool open;
    bool failed; /* the pause before the next try has not begun */
    int64_t retry_at_us, retry_us;
    unsigned conflicts; /* in a row */

    /* One round: every place that waits gets a transaction. */
    size_t next_place;
    bool round_due, round_failed, more;
    bool last_round; /* asked to stop: after this one it ends */
    int64_t poll_due_us, check_due_us, read_due_us;
    bool read_due, check_failed;
    int64_t now_us; /* when what is being done began */
    struct refusal refusals[REFUSED_PLACES];
};

/* --- how it stands --------------------------------------------------------------------------------------------------------- */

static void publish(struct rating_core *core, enum rating_state state, const char *error)
{
    core->status.state = state;
    if (error != core->status.error)
        snprintf(core->status.error, sizeof(core->status.error), "%s", error);
    core->reports.status(core->reports.context, &core->status);
}

static void trouble(struct rating_core *core, enum rating_state state, const char *error)
{
    core->status.failures++;
    metrics_add(&core->metrics->rating_failures, 1);
    publish(core, state, error);
}

/* The connection goes with it; the next try comes later. */
static void fail(struct rating_core *core, int r)
{
    core->failed = true;
    core->conflicts = 0;
    trouble(core, r == -ENOTRECOVERABLE || r == -EINVAL ? RATING_STOPPED : RATING_RETRYING,
            r == -ENOMEM ? "out of memory" : core->db->ops->error(core->db));
    core->db->ops->close(core->db);
    core->open = false;
    core->status.place_count = core->next_place = 0;
}

/* Whether the same is to be tried again at once. */
static bool conflicted(struct rating_core *core, int r)
{
    if (r != -EDEADLK || ++core->conflicts >= CONFLICTS_IN_A_ROW)
        return false;
    metrics_add(&core->metrics->rating_conflicts, 1);
    return true;
}

/* --- places that failed ---------------------------------------------------------------------------------------------------- */

static struct refusal *refusal_of(struct rating_core *core, const struct rating_place *place)
{
    for (size_t i = 0; i < REFUSED_PLACES; i++) {
        struct refusal *refusal = &core->refusals[i];

        if (refusal->writer == place->writer && memcmp(refusal->journal, place->journal, sizeof(place->journal)) == 0)
            return refusal;
    }
    return NULL;
}

/* It is left alone for a while. With more of them than there is room for, the one that is due first is tried too early. */
static void refuse(struct rating_core *core, const struct rating_place *place, int64_t now_us)
{
    struct refusal *refusal = refusal_of(core, place);

    for (size_t i = 0; !refusal && i < REFUSED_PLACES; i++)
        if (core->refusals[i].writer < 0)
            refusal = &core->refusals[i];
    for (size_t i = 0; !refusal && i < REFUSED_PLACES; i++)
        if (i == 0 || core->refusals[i].until_us < refusal->until_us)
            refusal = &core->refusals[i];
    memcpy(refusal->journal, place->journal, sizeof(refusal->journal));
    refusal->writer = place->writer;
    refusal->until_us = now_us + core->options.retry_max_us;
}

static bool is_refused(struct rating_core *core, const struct rating_place *place, int64_t now_us)
{
    const struct refusal *refusal = refusal_of(core, place);

    return refusal && now_us < refusal->until_us;
}

/* Places that are not listed any more were rated by somebody else. */
static void forget_refusals(struct rating_core *core)
{
    for (size_t i = 0; i < REFUSED_PLACES; i++) {
        struct refusal *refusal = &core->refusals[i];
        size_t n = 0;

        while (n < core->status.place_count && refusal_of(core, &core->status.places[n]) != refusal)
            n++;
        if (n == core->status.place_count)
            refusal->writer = -1;
    }
}

static bool any_refused(const struct rating_core *core)
{
    for (size_t i = 0; i < REFUSED_PLACES; i++)
        if (core->refusals[i].writer >= 0)
            return true;
    return false;
}

/* --- rounds ---------------------------------------------------------------------------------------------------------------- */

static void note_lag(struct rating_core *core)
{
    uint64_t waiting = 0;

    core->status.lag_us = 0;
    for (size_t i = 0; i < core->status.place_count; i++) {
        waiting += core->status.places[i].waiting_events;
        if (core->status.places[i].waiting_us > core->status.lag_us)
            core->status.lag_us = core->status.places[i].waiting_us;
    }
    metrics_set(&core->metrics->rating_waiting, waiting);
    metrics_set(&core->metrics->rating_lag_ms, (uint64_t)(core->status.lag_us / 1000));
}

static void end_round(struct rating_core *core)
{
    note_lag(core);
    core->round_due = core->more && !core->last_round;
    if (core->round_failed || core->check_failed || any_refused(core)) {
        publish(core, core->status.state, core->status.error);
        return;
    }
    core->retry_us = RETRY_FIRST_US;
    publish(core, RATING_OK, "");
}

static void look_round(struct rating_core *core, int64_t now_us)
{
    int r = core->db->ops->backlog(core->db, core->status.places, RATING_PLACES, &core->status.place_count);

    core->next_place = 0;
    core->more = core->round_failed = false;
    if (conflicted(core, r))
        return;
    if (r < 0) {
        fail(core, r);
        return;
    }
    core->conflicts = 0;
    forget_refusals(core);
    core->round_due = false;
    core->poll_due_us = now_us + core->options.poll_us;
    if (core->status.place_count == 0)
        end_round(core);
}

static void note_step(struct rating_core *core, struct rating_place *place, const struct rating_step *step)
{
    struct refusal *refusal = refusal_of(core, place);

    if (step->busy)
        return;
    if (refusal)
        refusal->writer = -1;
    place->lsn = step->lsn;
    if (!step->more) {
        place->waits = false;
        place->waiting_events = 0;
        place->waiting_us = 0;
    }
    core->more = core->more || step->more;
    metrics_add(&core->metrics->events_rated, step->events);
    metrics_add(&core->metrics->lines_written, step->lines);
}

static void rate(struct rating_core *core, int64_t now_us)
{
    struct rating_place *place = &core->status.places[core->next_place];
    struct rating_step step = {.busy = true};
    int r = 0;

    if (place->waits && !is_refused(core, place, now_us))
        r = core->db->ops->rate(core->db, place, core->options.batch_events, &step);
    if (conflicted(core, r))
        return;
    if (r < 0 && r != -EINVAL) {
        fail(core, r == -EDEADLK ? -EAGAIN : r);
        return;
    }
    core->conflicts = 0;
    if (r < 0) {
        refuse(core, place, now_us);
        core->round_failed = true;
        trouble(core, RATING_STOPPED, core->db->ops->error(core->db));
    } else {
        note_step(core, place, &step);
    }
    if (++core->next_place == core->status.place_count)
        end_round(core);
}

/* --- credit ---------------------------------------------------------------------------------------------------------------- */

static void check_credit(struct rating_core *core, int64_t now_us)
{
    int r = core->db->ops->check_credit(core->db);

    if (conflicted(core, r))
        return;
    core->check_due_us = now_us + CHECK_US;
    core->check_failed = r == -EINVAL;
    if (r == -EINVAL) {
        core->check_due_us = now_us + core->options.retry_max_us;
        trouble(core, RATING_STOPPED, core->db->ops->error(core->db));
    } else if (r < 0) {
        fail(core, r == -EDEADLK ? -EAGAIN : r);
    } else {
        core->conflicts = 0;
    }
}

static int try_read_credit(struct rating_core *core, int64_t now_us)
{
    struct credit_session *list;
    size_t count, exhausted = 0;
    int r = core->db->ops->read_credit(core->db, &list, &count);

    if (r < 0)
        return r;
    core->read_due = false;
    core->read_due_us = now_us + READ_US;
    for (size_t i = 0; i < count; i++) {
        list[i].hosts[0] = core->reports.host(core->reports.context, list[i].id);
        exhausted += list[i].state == CREDIT_EXHAUSTED;
    }
    metrics_set(&core->metrics->credit_exhausted, exhausted);
    metrics_set(&core->metrics->credit_low, count - exhausted);
    core->reports.credit(core->reports.context, list, count);
    return 0;
}

static void read_credit(struct rating_core *core, int64_t now_us)
{
    int r = try_read_credit(core, now_us);

    if (r < 0)
        fail(core, r);
}

/* While a place is rated: a top-up must not wait for that. What fails here is tried again, and dealt with, afterwards. */
static bool meanwhile(void *context)
{
    struct rating_core *core = context;
    int heard = core->db->ops->heard(core->db);

    core->read_due = core->read_due || heard > 0;
    return heard >= 0 && (!core->read_due || try_read_credit(core, core->now_us) == 0);
}

static void open_db(struct rating_core *core, int64_t now_us)
{
    int r = core->db->ops->open(core->db);

    if (r < 0) {
        fail(core, r);
        return;
    }
    core->open = true;
    core->read_due = core->round_due = true;
    core->check_due_us = now_us;
}

/* --- what is next ---------------------------------------------------------------------------------------------------------- */

static bool in_round(const struct rating_core *core)
{
    return core->next_place < core->status.place_count;
}

/* Asked to stop: what is stored gets one more round. */
static enum rating_next look_at_the_end(struct rating_core *core)
{
    if (!core->open || core->failed)
        return RATING_END;
    if (in_round(core))
        return RATING_RATE;
    if (core->last_round)
        return RATING_END;
    core->last_round = true;
    return RATING_LOOK_ROUND;
}

enum rating_next rating_look(struct rating_core *core, struct rating_wishes *wishes, int64_t now_us,
                             int64_t *ret_until_us)
{
    int heard;

    if (wishes->stopping)
        return look_at_the_end(core);
    *ret_until_us = INT64_MAX;
    if (!wishes->begun)
        return RATING_WAIT;
    if (core->failed) { /* the next pause is longer */
        core->failed = false;
        core->retry_at_us = now_us + core->retry_us;
        core->retry_us =
            core->retry_us * 2 < core->options.retry_max_us ? core->retry_us * 2 : core->options.retry_max_us;
    }
    *ret_until_us = core->retry_at_us;
    if (now_us < core->retry_at_us)
        return RATING_WAIT;
    if (!core->open)
        return RATING_OPEN;
    heard = core->db->ops->heard(core->db);
    if (heard < 0) {
        fail(core, heard);
        *ret_until_us = now_us;
        return RATING_WAIT;
    }
    if (heard > 0 || core->read_due || now_us >= core->read_due_us)
        return RATING_READ_CREDIT;
    if (now_us >= core->check_due_us)
        return RATING_CHECK_CREDIT;
    if (in_round(core))
        return RATING_RATE;
    if (wishes->woken || core->round_due || now_us >= core->poll_due_us) {
        wishes->woken = false;
        core->round_due = true;
        return RATING_LOOK_ROUND;
    }
    *ret_until_us = core->poll_due_us < core->check_due_us ? core->poll_due_us : core->check_due_us;
    return RATING_WAIT;
}

void rating_do(struct rating_core *core, enum rating_next next, int64_t now_us)
{
    core->now_us = now_us;
    switch (next) {
    case RATING_OPEN:
        open_db(core, now_us);
        break;
    case RATING_READ_CREDIT:
        read_credit(core, now_us);
        break;
    case RATING_CHECK_CREDIT:
        check_credit(core, now_us);
        break;
    case RATING_LOOK_ROUND:
        look_round(core, now_us);
        break;
    case RATING_RATE:
        rate(core, now_us);
        break;
    case RATING_END:
        core->db->ops->close(core->db);
        core->open = false;
        publish(core, RATING_DONE, "");
        break;
    case RATING_WAIT:
        break;
    }
}

/* --- start and end --------------------------------------------------------------------------------------------------------- */

struct rating_core *rating_core_new(const struct rating_options *options, struct rating_db *db, struct metrics *metrics,
                                    const struct rating_reports *reports)
{
    struct rating_core *core = calloc(1, sizeof(*core));

    if (!core)
        return NULL;
    core->options = *options;
    core->db = db;
    core->metrics = metrics;
    core->reports = *reports;
    core->retry_us = RETRY_FIRST_US;
    db->meanwhile = meanwhile;
    db->context = core;
    for (size_t i = 0; i < REFUSED_PLACES; i++)
        core->refusals[i].writer = -1;
    return core;
}

void rating_core_free(struct rating_core *core)
{
    free(core);
}

void rating_core_set_options(struct rating_core *core, const struct rating_options *options)
{
    core->options.batch_events = options->batch_events;
    core->options.poll_us = options->poll_us;
    core->options.retry_max_us = options->retry_max_us;
}
