/* See writers.h. Read writers_look() first. */
#include "daemon/writers.h"

#include "daemon/log.h"
#include "daemon/registration.h"
#include "daemon/share.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum phase {
    MUSTERING, /* they open the sink, compare notes and hold */
    RENEWING,  /* they hold until the journal is another */
    LEVELLING, /* the number is to change: they come to one LSN */
    SHARING,   /* … and the sink is told */
    STORING,
    ENDING, /* there is nothing that they could still do */
};

struct member {
    struct writer *writer;
    struct sink *sink;
    struct writer_status status; /* at the last look */
};

struct writers {
    struct writers_options options;
    char host[256];
    struct journal *journal;
    struct metrics *metrics;
    struct member members[SHARE_WRITERS_MAX];
    _Atomic unsigned made; /* of these; they are never taken away */
    unsigned count;        /* so many store */
    enum phase phase;
    struct writer_order order; /* the last, without whom it went to */
    bool postponed;            /* the change of their number: one of them is stopped, and a limit may be why */
    bool own_known;            /* how many there were in the run before has been looked at */
    bool stopping;
    uint64_t hurry_lsn;
    struct apply_counted counted[SHARE_WRITERS_MAX]; /* by their number, from 1 */
    struct writer_status worst;
};

/* --- members --------------------------------------------------------------------------------------------------------------- */

/* What is for all of them, each has its part of. */
static struct writer_options member_options(const struct writers *w)
{
    struct writer_options options = w->options.writer;

    options.host = w->host;
    options.apply.sessions_max = (options.apply.sessions_max + w->options.count - 1) / w->options.count;
    return options;
}

static int make_member(struct writers *w)
{
    unsigned index = w->made;
    struct member *member = &w->members[index];
    const struct writer_options options = member_options(w);
    int r;

    member->sink = w->options.sink(w->options.sink_context);
    if (!member->sink)
        return -ENOMEM;
    r = writer_new(&member->writer, &options, w->journal, member->sink, w->metrics);
    if (r < 0) {
        member->sink->ops->free(member->sink);
        return r;
    }
    w->made = index + 1;
    if (w->stopping)
        writer_stop(member->writer);
    return 0;
}

/* --- orders ---------------------------------------------------------------------------------------------------------------- */

static void order_one(struct writers *w, unsigned index)
{
    struct writer_order order = w->order;

    order.writer = index;
    if (index >= w->count) {
        order.what = WRITER_REST;
        order.writer = 0;
        order.writers = 1;
        journal_hold(w->journal, index, UINT64_MAX);
    }
    writer_order(w->members[index].writer, &order);
}

static void order_all(struct writers *w)
{
    w->order.number++;
    w->order.writers = w->count;
    for (unsigned i = 0; i < w->made; i++)
        order_one(w, i);
}

/* They all hold, and their number is to change: how far each has counted its share's frames is kept, for should the database go back, others store these
 * frames once more. */
static void keep_counted(struct writers *w)
{
    struct apply_counted *counted = &w->counted[w->count - 1];

    if (counted->writers == 0) {
        counted->writers = w->count;
        counted->next = w->order.counted;
        w->order.counted = counted;
    }
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.counted_lsn > counted->lsns[i])
            counted->lsns[i] = w->members[i].status.counted_lsn;
}

static uint64_t renewed_lsn(uint64_t lsn, uint64_t from)
{
    return lsn > from ? lsn - from : 0; /* records keep their distances */
}

/* All compare notes, as so many. */
static void muster(struct writers *w, unsigned count, bool sink_said)
{
    int r = 0;

    while (r == 0 && w->made < count)
        r = make_member(w);
    if (r < 0) { /* as few as there are: they find out that the sink knows another number, and this comes again */
        static struct log_limit limit = LOG_LIMIT(5, 60 * 1000000);

        log_limited(&limit, LOG_LEVEL_ERROR, "a writer can't be started writers=%u error=%s", count, strerror(-r));
        count = w->made;
    }
    if (w->count && w->count != count)
        keep_counted(w);
    w->count = count;
    w->phase = MUSTERING;
    w->order.what = WRITER_MUSTER;
    w->order.counted_lsn = w->options.writer.counted_lsn;
    w->order.sink_said = sink_said;
    order_all(w);
}

static void go(struct writers *w, uint64_t limit)
{
    w->phase = limit == UINT64_MAX ? STORING : LEVELLING;
    w->order.what = WRITER_GO;
    w->order.limit = limit;
    order_all(w);
}

static void share(struct writers *w)
{
    w->phase = SHARING;
    w->order.what = WRITER_SHARE;
    w->order.count = w->options.count;
    w->order.number++;
    order_one(w, 0);
}

static void rest(struct writers *w)
{
    w->phase = ENDING;
    w->order.what = WRITER_REST;
    order_all(w);
}

/* --- what they have found out ---------------------------------------------------------------------------------------------- */

static const struct writer_notes *notes_of(const struct writers *w, unsigned index)
{
    return &w->members[index].status.notes;
}

/* Holding, by the last order. */
static bool holds(const struct writers *w, unsigned index)
{
    return notes_of(w, index)->order == w->order.number;
}

static bool all_hold(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (!holds(w, i))
            return false;
    return true;
}

static bool any_diverted(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (notes_of(w, i)->diverted)
            return true;
    return false;
}

static bool any_others_lack(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (notes_of(w, i)->others_lack)
            return true;
    return false;
}

/* How many writers there were in the last run, if that is another number. */
static unsigned other_own_number(const struct writers *w)
{
    unsigned own = 0;

    for (unsigned i = 0; i < w->count; i++)
        if (notes_of(w, i)->own_writers > (int)own)
            own = (unsigned)notes_of(w, i)->own_writers;
    return own == w->count || own > SHARE_WRITERS_MAX ? 0 : own;
}

/* The same, of what the sink says. */
static unsigned other_sink_number(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        int said = notes_of(w, i)->sink_writers;

        if (said > 0 && said <= SHARE_WRITERS_MAX && (unsigned)said != w->count)
            return (unsigned)said;
    }
    return 0;
}

/* What all of them, and what the furthest of them, has stored. */
static void find_range(const struct writers *w, uint64_t *ret_lowest, uint64_t *ret_highest)
{
    *ret_lowest = UINT64_MAX;
    *ret_highest = 0;
    for (unsigned i = 0; i < w->count; i++) {
        uint64_t lsn = notes_of(w, i)->stored_lsn;

        if (notes_of(w, i)->unknown)
            continue;
        if (lsn < *ret_lowest)
            *ret_lowest = lsn;
        if (lsn > *ret_highest)
            *ret_highest = lsn;
    }
    if (*ret_lowest == UINT64_MAX)
        *ret_lowest = journal_oldest_lsn(w->journal);
}

static void mustered(struct writers *w)
{
    unsigned own = w->own_known ? 0 : other_own_number(w), said = other_sink_number(w);
    uint64_t lowest, highest;

    w->own_known = true;
    find_range(w, &lowest, &highest);
    if (own && (any_diverted(w) || !said)) {
        /* How far our own writers had come was told of so many. */
        muster(w, own, false);
    } else if (any_diverted(w)) {
        w->phase = RENEWING;
    } else if (said) {
        muster(w, said, true);
    } else if (any_others_lack(w)) {
        muster(w, w->count, w->order.sink_said);
    } else if (w->count == w->options.count) {
        go(w, UINT64_MAX);
    } else if (lowest < highest) {
        log_info("the number of writers changes: bringing all to one LSN from=%u to=%u lowest=%" PRIu64 " lsn=%" PRIu64,
                 w->count, w->options.count, lowest, highest);
        go(w, highest);
    } else {
        share(w);
    }
}

static bool all_stand_at(const struct writers *w, uint64_t lsn)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.state != WRITER_OK || w->members[i].status.committed_lsn != lsn)
            return false;
    return true;
}

static bool any_stopped(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.state == WRITER_STOPPED)
            return true;
    return false;
}

static bool all_store(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.state != WRITER_OK)
            return false;
    return true;
}

static void shared(struct writers *w, int result)
{
    if (result > 0)
        log_info("the number of writers has changed from=%u to=%u", w->count, w->options.count);
    muster(w, result > 0 ? w->options.count : w->count, true);
}

/* --- how they stand -------------------------------------------------------------------------------------------------------- */

static int badness(enum writer_state state)
{
    static const int of[] = {
        [WRITER_DONE] = 0,     [WRITER_OK] = 1,    [WRITER_HOLDING] = 2, [WRITER_CONNECTING] = 3,
        [WRITER_RETRYING] = 4, [WRITER_RENEW] = 5, [WRITER_STOPPED] = 6,
    };

    return of[state];
}

static void look_at_members(struct writers *w)
{
    struct writer_status *sum = &w->worst;
    unsigned worst = 0;
    bool done = true;

    *sum = (struct writer_status){.state = WRITER_DONE, .committed_lsn = UINT64_MAX, .applied_lsn = UINT64_MAX};
    for (unsigned i = 0; i < w->made; i++) {
        struct writer_status *status = &w->members[i].status;

        writer_get_status(w->members[i].writer, status);
        done = done && status->state == WRITER_DONE;
        sum->failures += status->failures;
        if (i >= w->count)
            continue;
        if (badness(status->state) > badness(sum->state)) {
            sum->state = status->state;
            worst = i;
        }
        if (status->renewals != w->order.renewals || status->writers != w->count)
            sum->committed_lsn = sum->applied_lsn = 0; /* it has not heard yet that it is another journal, or share */
        if (status->committed_lsn < sum->committed_lsn)
            sum->committed_lsn = status->committed_lsn;
        if (status->applied_lsn < sum->applied_lsn)
            sum->applied_lsn = status->applied_lsn;
    }
    if (sum->state == WRITER_DONE && !done)
        sum->state = WRITER_OK;
    if (w->count == 1 || !w->members[worst].status.error[0])
        snprintf(sum->error, sizeof(sum->error), "%s", w->members[worst].status.error);
    else
        snprintf(sum->error, sizeof(sum->error), "writer %u of %u: %.700s", worst, w->count,
                 w->members[worst].status.error);
    if (w->phase == RENEWING && !w->stopping) {
        sum->state = WRITER_RENEW;
        snprintf(sum->error, sizeof(sum->error), "the journal is being renewed");
    }
}

/* They store what is durable if they can do so at once; else it is for the next run. */
static void look_at_the_end(struct writers *w)
{
    uint64_t lowest, highest;
    bool away = false;

    for (unsigned i = 0; i < w->count; i++)
        away = away || w->members[i].status.state == WRITER_DONE;
    if (w->phase == RENEWING || w->phase == SHARING || (w->phase == MUSTERING && away))
        rest(w);
    if (w->phase != MUSTERING || !all_hold(w))
        return;
    find_range(w, &lowest, &highest);
    if (any_diverted(w) || any_others_lack(w) || other_sink_number(w) || other_own_number(w))
        rest(w);
    else
        go(w, w->count == w->options.count ? UINT64_MAX : highest);
}

void writers_look(struct writers *w)
{
    look_at_members(w);
    if (w->stopping) {
        look_at_the_end(w);
        return;
    }
    switch (w->phase) {
    case MUSTERING:
        if (all_hold(w))
            mustered(w);
        break;
    case LEVELLING:
    case STORING:
        for (unsigned i = 0; i < w->count; i++)
            if (holds(w, i)) { /* it has come upon something that concerns all */
                muster(w, w->count, false);
                break;
            }
        if (w->phase == LEVELLING && all_stand_at(w, w->order.limit)) {
            muster(w, w->count, true);
        } else if (w->phase == LEVELLING && any_stopped(w)) { /* refused frames, say, that wait for company */
            w->postponed = true;
            go(w, UINT64_MAX);
        } else if (w->phase == STORING && w->postponed && all_store(w)) {
            w->postponed = false;
            muster(w, w->count, true);
        }
        break;
    case SHARING:
        if (holds(w, 0) && notes_of(w, 0)->shared != 0)
            shared(w, notes_of(w, 0)->shared);
        break;
    case RENEWING:
    case ENDING:
        break;
    }
    look_at_members(w);
}

/* --- renewing the journal -------------------------------------------------------------------------------------------------- */

int writers_renew(struct writers *w)
{
    struct renewal renewal = {.writers = w->count};
    uint64_t from, highest;
    int r;

    if (w->phase != RENEWING)
        return -EAGAIN;
    find_range(w, &from, &highest);
    for (unsigned i = 0; i < w->count; i++)
        renewal.lsns[i] = notes_of(w, i)->unknown ? 0 : notes_of(w, i)->stored_lsn - from;
    r = journal_draw_uuid(w->journal, renewal.journal);
    if (r == 0)
        r = renewal_write(w->journal, &renewal);
    if (r == 0)
        r = journal_renew(w->journal, from, renewal.journal);
    if (r < 0)
        return r;
    w->order.renewals++;
    w->order.renewed_from = from;
    w->options.writer.counted_lsn = renewed_lsn(w->options.writer.counted_lsn, from);
    for (unsigned i = 0; i < SHARE_WRITERS_MAX; i++)
        for (unsigned j = 0; j < w->counted[i].writers; j++)
            w->counted[i].lsns[j] = renewed_lsn(w->counted[i].lsns[j], from);
    for (unsigned i = 0; i < JOURNAL_HOLDERS; i++)
        journal_hold(w->journal, i, UINT64_MAX);
    muster(w, w->count, false);
    return 0;
}

/* --- for everybody --------------------------------------------------------------------------------------------------------- */

void writers_get_status(struct writers *w, struct writer_status *ret)
{
    look_at_members(w);
    *ret = w->worst;
}

void writers_set_options(struct writers *w, const struct writer_options *options)
{
    const struct writer_options before = w->options.writer;

    w->options.writer = *options;
    w->options.writer.progress = before.progress;
    w->options.writer.context = before.context;
    w->options.writer.counted_lsn = before.counted_lsn;
    w->options.writer.prompt = before.prompt;
    const struct writer_options mine = member_options(w);
    for (unsigned i = 0; i < w->made; i++)
        writer_set_options(w->members[i].writer, &mine);
}

void writers_wake(struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        writer_wake(w->members[i].writer);
}

void writers_hurry(struct writers *w, uint64_t lsn)
{
    for (unsigned i = 0; i < w->made; i++)
        writer_hurry(w->members[i].writer, lsn);
}

void writers_stop(struct writers *w)
{
    w->stopping = true;
    for (unsigned i = 0; i < w->made; i++)
        writer_stop(w->members[i].writer);
    writers_look(w);
}

unsigned writers_count(const struct writers *w)
{
    return w->count;
}

void writers_get_one(struct writers *w, unsigned writer, struct writer_status *ret)
{
    assert(writer < w->made);
    writer_get_status(w->members[writer].writer, ret);
}

const char *writers_sink_name(const struct writers *w)
{
    return w->members[0].sink->ops->name;
}

void writers_sessions(struct writers *w, bool (*visit)(void *context, const struct session *session), void *context)
{
    for (unsigned i = 0; i < w->made; i++)
        apply_sessions(writer_apply(w->members[i].writer), visit, context);
}

bool writers_session(struct writers *w, const uint8_t id[static 16], struct session *ret)
{
    for (unsigned i = 0; i < w->made; i++) /* one that had a share before may know it still */
        if (apply_session(writer_apply(w->members[i].writer), id, ret))
            return true;
    return false;
}

size_t writers_session_count(struct writers *w)
{
    size_t count = 0;

    for (unsigned i = 0; i < w->made; i++)
        count += apply_session_count(writer_apply(w->members[i].writer));
    return count;
}

/* --- start and end --------------------------------------------------------------------------------------------------------- */

int writers_new(struct writers **ret, const struct writers_options *options, struct journal *journal,
                struct metrics *metrics)
{
    struct writers *w = calloc(1, sizeof(*w));
    int r = 0;

    if (!w)
        return -ENOMEM;
    w->options = *options;
    snprintf(w->host, sizeof(w->host), "%s", options->writer.host);
    w->options.writer.counted_lsn = journal_end_lsn(journal);
    w->journal = journal;
    w->metrics = metrics;
    *ret = w;
    while (r == 0 && w->made < options->count)
        r = make_member(w);
    if (r < 0) {
        writers_stop(w); /* none has begun */
        writers_free(w);
        *ret = NULL;
        return r;
    }
    muster(w, options->count, false);
    return 0;
}

void writers_free(struct writers *w)
{
    if (!w)
        return;
    for (unsigned i = 0; i < w->made; i++)
        writer_free(w->members[i].writer);
    for (unsigned i = 0; i < w->made; i++)
        w->members[i].sink->ops->free(w->members[i].sink);
    free(w);
}
