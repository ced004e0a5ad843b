/* A journal's writers one by one: what each has found out and how it stands, and what is asked of all of them. See writers_internal.h. */
#include "daemon/writers_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

/* --- each ----------------------------------------------------------------------------------------------------------------- */

struct writer_options members_options(const struct writers *w)
{
    struct writer_options options = w->options.writer;

    options.host = w->host;
    options.apply.sessions_max = (options.apply.sessions_max + w->options.count - 1) / w->options.count;
    return options;
}

int members_add(struct writers *w)
{
    unsigned index = w->made;
    struct member *member = &w->members[index];
    const struct writer_options options = members_options(w);
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

/* --- what they have found out ---------------------------------------------------------------------------------------------- */

const struct writer_notes *members_notes(const struct writers *w, unsigned index)
{
    return &w->members[index].status.notes;
}

bool members_holds(const struct writers *w, unsigned index)
{
    return members_notes(w, index)->order == w->order.number;
}

bool members_all_hold(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (!members_holds(w, i))
            return false;
    return true;
}

bool members_any_diverted(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (members_notes(w, i)->diverted)
            return true;
    return false;
}

bool members_any_others_lack(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (members_notes(w, i)->others_lack)
            return true;
    return false;
}

unsigned members_own_number(const struct writers *w)
{
    unsigned own = 0;

    for (unsigned i = 0; i < w->count; i++)
        if (members_notes(w, i)->own_writers > (int)own)
            own = (unsigned)members_notes(w, i)->own_writers;
    return own == w->count || own > SHARE_WRITERS_MAX ? 0 : own;
}

unsigned members_sink_number(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        int said = members_notes(w, i)->sink_writers;

        if (said > 0 && said <= SHARE_WRITERS_MAX && (unsigned)said != w->count)
            return (unsigned)said;
    }
    return 0;
}

void members_range(const struct writers *w, uint64_t *ret_lowest, uint64_t *ret_highest)
{
    *ret_lowest = UINT64_MAX;
    *ret_highest = 0;
    for (unsigned i = 0; i < w->count; i++) {
        uint64_t lsn = members_notes(w, i)->stored_lsn;

        if (members_notes(w, i)->unknown)
            continue;
        if (lsn < *ret_lowest)
            *ret_lowest = lsn;
        if (lsn > *ret_highest)
            *ret_highest = lsn;
    }
    if (*ret_lowest == UINT64_MAX)
        *ret_lowest = journal_oldest_lsn(w->journal);
}

/* --- how they stand -------------------------------------------------------------------------------------------------------- */

bool members_all_stand_at(const struct writers *w, uint64_t lsn)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.state != WRITER_OK || w->members[i].status.committed_lsn != lsn)
            return false;
    return true;
}

bool members_any_stopped(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.state == WRITER_STOPPED)
            return true;
    return false;
}

bool members_all_store(const struct writers *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->members[i].status.state != WRITER_OK)
            return false;
    return true;
}

static int badness(enum writer_state state)
{
    static const int of[] = {
        [WRITER_DONE] = 0,     [WRITER_OK] = 1,    [WRITER_HOLDING] = 2, [WRITER_CONNECTING] = 3,
        [WRITER_RETRYING] = 4, [WRITER_RENEW] = 5, [WRITER_STOPPED] = 6,
    };

    return of[state];
}

void members_look(struct writers *w)
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

/* --- for everybody --------------------------------------------------------------------------------------------------------- */

void writers_get_status(struct writers *w, struct writer_status *ret)
{
    members_look(w);
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
    const struct writer_options mine = members_options(w);
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
