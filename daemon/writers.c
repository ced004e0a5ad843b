/* See writers.h. Read writers_look() first. */
#include "daemon/writers.h"

#include "daemon/log.h"
#include "daemon/registration.h"
#include "daemon/writers_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        r = members_add(w);
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

/* --- what follows from what they found out --------------------------------------------------------------------------------- */

static void mustered(struct writers *w)
{
    unsigned own = w->own_known ? 0 : members_own_number(w), said = members_sink_number(w);
    uint64_t lowest, highest;

    w->own_known = true;
    members_range(w, &lowest, &highest);
    if (own && (members_any_diverted(w) || !said)) {
        /* How far our own writers had come was told of so many. */
        muster(w, own, false);
    } else if (members_any_diverted(w)) {
        w->phase = RENEWING;
    } else if (said) {
        muster(w, said, true);
    } else if (members_any_others_lack(w)) {
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

static void shared(struct writers *w, int result)
{
    if (result > 0)
        log_info("the number of writers has changed from=%u to=%u", w->count, w->options.count);
    muster(w, result > 0 ? w->options.count : w->count, true);
}

/* --- looking --------------------------------------------------------------------------------------------------------------- */

/* They store what is durable if they can do so at once; else it is for the next run. */
static void look_at_the_end(struct writers *w)
{
    uint64_t lowest, highest;
    bool away = false;

    for (unsigned i = 0; i < w->count; i++)
        away = away || w->members[i].status.state == WRITER_DONE;
    if (w->phase == RENEWING || w->phase == SHARING || (w->phase == MUSTERING && away))
        rest(w);
    if (w->phase != MUSTERING || !members_all_hold(w))
        return;
    members_range(w, &lowest, &highest);
    if (members_any_diverted(w) || members_any_others_lack(w) || members_sink_number(w) || members_own_number(w))
        rest(w);
    else
        go(w, w->count == w->options.count ? UINT64_MAX : highest);
}

void writers_look(struct writers *w)
{
    members_look(w);
    if (w->stopping) {
        look_at_the_end(w);
        return;
    }
    switch (w->phase) {
    case MUSTERING:
        if (members_all_hold(w))
            mustered(w);
        break;
    case LEVELLING:
    case STORING:
        for (unsigned i = 0; i < w->count; i++)
            if (members_holds(w, i)) { /* it has come upon something that concerns all */
                muster(w, w->count, false);
                break;
            }
        if (w->phase == LEVELLING && members_all_stand_at(w, w->order.limit)) {
            muster(w, w->count, true);
        } else if (w->phase == LEVELLING && members_any_stopped(w)) { /* refused frames, say, that wait for company */
            w->postponed = true;
            go(w, UINT64_MAX);
        } else if (w->phase == STORING && w->postponed && members_all_store(w)) {
            w->postponed = false;
            muster(w, w->count, true);
        }
        break;
    case SHARING:
        if (members_holds(w, 0) && members_notes(w, 0)->shared != 0)
            shared(w, members_notes(w, 0)->shared);
        break;
    case RENEWING:
    case ENDING:
        break;
    }
    members_look(w);
}

/* --- renewing the journal -------------------------------------------------------------------------------------------------- */

int writers_renew(struct writers *w)
{
    struct renewal renewal = {.writers = w->count};
    uint64_t from, highest;
    int r;

    if (w->phase != RENEWING)
        return -EAGAIN;
    members_range(w, &from, &highest);
    for (unsigned i = 0; i < w->count; i++)
        renewal.lsns[i] = members_notes(w, i)->unknown ? 0 : members_notes(w, i)->stored_lsn - from;
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
        r = members_add(w);
    if (r < 0) {
        writers_stop(w); /* none has begun */
        writers_free(w);
        *ret = NULL;
        return r;
    }
    muster(w, options->count, false);
    return 0;
}

void writers_stop(struct writers *w)
{
    w->stopping = true;
    for (unsigned i = 0; i < w->made; i++)
        writer_stop(w->members[i].writer);
    writers_look(w);
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
