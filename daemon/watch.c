/* See watch.h. */
#include "daemon/watch.h"

#include "daemon/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <uuid/uuid.h>

enum { LOOK_MS = 1000, SECOND_US = 1000 * 1000, STUCK_US = 10 * SECOND_US, BEHIND_US = 60 * SECOND_US };

/* --- storing ------------------------------------------------------------------------------------------------------ */

/* The backlog's age, from marks of where the log stood when. Half of them go when there are too many. */
static void note_backlog(struct watch_memory *m, const struct watch_facts *f)
{
    size_t stored = 0, kept = 0;

    while (stored < m->mark_count && m->marks[stored].lsn <= f->applied_lsn)
        stored++;
    m->mark_count -= stored;
    memmove(m->marks, m->marks + stored, m->mark_count * sizeof(*m->marks));
    if (m->mark_count == 0)
        m->mark_every_us = SECOND_US;
    if (f->durable_lsn <= (m->mark_count ? m->marks[m->mark_count - 1].lsn : f->applied_lsn))
        return;
    if (m->mark_count && f->monotonic_us - m->marks[m->mark_count - 1].at_us < m->mark_every_us)
        return;
    if (m->mark_count == WATCH_MARKS) {
        for (size_t i = 0; i < WATCH_MARKS; i += 2)
            m->marks[kept++] = m->marks[i];
        m->mark_count = kept;
        m->mark_every_us *= 2;
    }
    m->marks[m->mark_count++] = (struct watch_mark){.lsn = f->durable_lsn, .at_us = f->monotonic_us};
}

static int64_t backlog_age_us(const struct watch_memory *m, int64_t monotonic_us)
{
    return m->mark_count ? monotonic_us - m->marks[0].at_us : 0;
}

int64_t watch_backlog_age_us(const struct watch *watch)
{
    return backlog_age_us(&watch->memory, clock_monotonic_us());
}

static void raise_storing(struct watch *w, const struct watch_facts *f, enum alarm_kind kind, const char *text)
{
    char figures[ALARM_FIGURES_MAX];

    snprintf(figures, sizeof(figures),
             "tries=%" PRIu64 " from_lsn=%" PRIu64 " backlog_bytes=%" PRIu64 " backlog_age_s=%" PRId64,
             f->failures - w->memory.failures_before, f->applied_lsn, f->durable_lsn - f->applied_lsn,
             backlog_age_us(&w->memory, f->monotonic_us) / SECOND_US);
    alarm_raise(&w->alarms, kind, f->now_us, text, figures);
    for (enum alarm_kind other = ALARM_storing_stopped; other <= ALARM_batch_stuck; other++)
        if (other != kind)
            alarm_clear(&w->alarms, other, f->now_us);
}

static void judge_storing(struct watch *w, const struct watch_facts *f)
{
    struct watch_memory *m = &w->memory;
    bool failing = f->storing == WRITER_STOPPED || f->storing == WRITER_RETRYING;
    char text[ALARM_TEXT_MAX];

    if (f->applied_lsn != m->applied_lsn || f->durable_lsn <= f->applied_lsn)
        m->moved_us = f->monotonic_us;
    m->applied_lsn = f->applied_lsn;
    if (failing && !m->storing_failed)
        m->failures_before = m->seen_failures;
    m->storing_failed = failing;
    m->seen_failures = f->failures;
    if (f->storing == WRITER_STOPPED) {
        snprintf(
            text, sizeof(text),
            "storing has stopped, receiving goes on: %s. It is tried again every few seconds and goes on by itself once that is mended",
            f->error);
        raise_storing(w, f, ALARM_storing_stopped, text);
    } else if (f->storing == WRITER_RETRYING) {
        snprintf(
            text, sizeof(text),
            "nothing can be stored now, receiving goes on: %s. It is tried again by itself; is the database server up, and is database.url "
            "right?",
            f->error);
        raise_storing(w, f, ALARM_storing_retrying, text);
    } else if (f->monotonic_us - m->moved_us >= STUCK_US + w->batch_age_us) {
        raise_storing(
            w, f, ALARM_batch_stuck,
            "a batch does not get through, receiving goes on: the database server does not answer, or somebody holds a lock. See who: SELECT "
            "pid, state, wait_event, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE application_name = 'tolld'");
    } else {
        for (enum alarm_kind kind = ALARM_storing_stopped; kind <= ALARM_batch_stuck; kind++)
            alarm_clear(&w->alarms, kind, f->now_us);
    }
}

/* --- rating ------------------------------------------------------------------------------------------------------- */

static void raise_rating(struct watch *w, const struct watch_facts *f, enum alarm_kind kind, const char *text)
{
    char figures[ALARM_FIGURES_MAX];

    snprintf(figures, sizeof(figures), "failures=%" PRIu64 " lag_s=%" PRId64 " waiting_events=%" PRIu64,
             f->rating->failures, f->rating->lag_us / SECOND_US, metrics_get(&w->metrics->rating_waiting));
    alarm_raise(&w->alarms, kind, f->now_us, text, figures);
    for (enum alarm_kind other = ALARM_rating_stopped; other <= ALARM_rating_behind; other++)
        if (other != kind)
            alarm_clear(&w->alarms, other, f->now_us);
}

/* What keeps storing from its work keeps rating from it too, and has its own alarm. */
static void judge_rating(struct watch *w, const struct watch_facts *f)
{
    const struct rating_status *rating = f->rating;
    bool failing = rating && (rating->state == RATING_STOPPED || rating->state == RATING_RETRYING);
    struct watch_memory *m = &w->memory;
    char text[ALARM_TEXT_MAX];

    if (!failing || f->storing != WRITER_OK)
        m->rating_since_us = 0;
    else if (m->rating_since_us == 0)
        m->rating_since_us = f->monotonic_us;
    if (m->rating_since_us && rating->state == RATING_STOPPED) {
        snprintf(
            text, sizeof(text),
            "rating has stopped, or a part of it has: usage is stored, but neither rated nor debited, and nobody is cut off: %s. It is tried "
            "again every few seconds and goes on where it was once that is mended",
            rating->error);
        raise_rating(w, f, ALARM_rating_stopped, text);
    } else if (m->rating_since_us && f->monotonic_us - m->rating_since_us >= STUCK_US) {
        snprintf(text, sizeof(text),
                 "rating does not get through, though storing does: %s. It is tried again by itself; has the server "
                 "connections left?",
                 rating->error);
        raise_rating(w, f, ALARM_rating_retrying, text);
    } else if (!failing && rating && rating->lag_us >= BEHIND_US) {
        raise_rating(
            w, f, ALARM_rating_behind,
            "rating is behind: usage that was stored more than a minute ago is not rated, so that balances are too high and cut-offs late. "
            "After an outage, or for usage from before rating, this passes; else the database needs another core, or rating waits for a "
            "lock: SELECT pid, state, wait_event, pg_blocking_pids(pid), query FROM pg_stat_activity "
            "WHERE application_name = '" RATING_APPLICATION "'");
    } else if (!failing) {
        for (enum alarm_kind kind = ALARM_rating_stopped; kind <= ALARM_rating_behind; kind++)
            alarm_clear(&w->alarms, kind, f->now_us);
    }
}

/* --- receiving ---------------------------------------------------------------------------------------------------- */

static void judge_intake(struct watch *w, const struct watch_facts *f)
{
    char figures[ALARM_FIGURES_MAX];

    if (f->paused) {
        snprintf(figures, sizeof(figures), "journal_bytes=%" PRIu64, f->journal_bytes);
        alarm_raise(
            &w->alarms, ALARM_intake_paused, f->now_us,
            f->paused != -ENOSPC
                ? "receiving is paused: out of memory. Workers keep their frames until their rings are full; give tolld more memory"
                : "receiving is paused: the journal is full. Workers keep their frames until their rings are full, then count what they refuse. Make "
                  "room on its disk, raise journal.max_bytes or lower journal.min_free_bytes (reload), or mend what keeps storing behind",
            figures);
    } else {
        alarm_clear(&w->alarms, ALARM_intake_paused, f->now_us);
    }
    if (f->descriptors_stuck) {
        snprintf(figures, sizeof(figures), "descriptors=%zu", f->descriptors);
        alarm_raise(
            &w->alarms, ALARM_descriptors_stuck, f->now_us,
            "a descriptor that a worker sent can't be closed: its file system does not answer. Those that came after it wait and pile "
            "up. Which one: ls -l /proc/$(pidof tolld)/fd; unmount that file system",
            figures);
    } else {
        alarm_clear(&w->alarms, ALARM_descriptors_stuck, f->now_us);
    }
}

/* --- streams ------------------------------------------------------------------------------------------------------ */

static void judge_streams_in(struct watch *w, const struct watch_facts *f, enum stream_state state,
                             enum alarm_kind kind, const char *text)
{
    const struct stream_view *view = &f->streams->example[state];
    char figures[ALARM_FIGURES_MAX], client[64], id[37];

    if (f->streams->count[state] == 0) {
        alarm_clear(&w->alarms, kind, f->now_us);
        return;
    }
    uuid_unparse_lower(view->id, id);
    snprintf(client, sizeof(client), "%s", view->client);
    for (char *c = client; *c; c++) /* it stands among key=value */
        if (*c == ' ' || *c == '=')
            *c = '_';
    snprintf(figures, sizeof(figures),
             "streams=%zu uid=%" PRIu32 " pid=%" PRIu32 " client=%s stream=%s received=%" PRIu64 " holes=%" PRIu32
             " refused=%" PRIu64,
             f->streams->count[state], view->uid, view->pid, client[0] ? client : "-", id, view->received, view->holes,
             view->refused);
    alarm_raise(&w->alarms, kind, f->now_us, text, figures);
}

static void judge_streams(struct watch *w, const struct watch_facts *f)
{
    judge_streams_in(
        w, f, STREAM_POISONED, ALARM_streams_poisoned,
        "a stream is poisoned: its numbers have more than 1024 holes, so its datagrams are neither stored nor acknowledged. Its worker is "
        "broken or hostile: end it, and mend it. See tollctl streams");
    judge_streams_in(
        w, f, STREAM_DEAD, ALARM_streams_dead,
        "a stream is dead: its worker is gone, and frames below others that it sent never came. They were not acknowledged, and are lost; "
        "tollctl streams shows which. Nothing is left to do but to find out why; shown for an hour");
    judge_streams_in(
        w, f, STREAM_STALLED, ALARM_streams_stalled,
        "a stream is stalled: numbers are missing and do not come, so nothing after them can be acknowledged. Its worker does not send them "
        "again as it should: restart it, and mend it. See tollctl streams");
}

/* --- quarantine --------------------------------------------------------------------------------------------------- */

static void judge_quarantine(struct watch *w, const struct watch_facts *f)
{
    char figures[ALARM_FIGURES_MAX];

    snprintf(figures, sizeof(figures), "rows=%" PRIu64 " limit=%" PRIu64 " refused_streams=%zu", f->quarantine_rows,
             f->quarantine_limit, f->streams->count[STREAM_REFUSED]);
    if (f->quarantine_rows >= f->quarantine_limit)
        alarm_raise(
            &w->alarms, ALARM_quarantine_full, f->now_us,
            "the quarantine is full: datagrams with invalid frames are refused whole and not acknowledged until it has room; all that was "
            "acknowledged is still kept. Look at it (tollctl quarantine), mend who sends them, then empty it: SELECT "
            "toll.drop_quarantine(now()); or raise limits.quarantine_rows (reload)",
            figures);
    else
        alarm_clear(&w->alarms, ALARM_quarantine_full, f->now_us);
    if (f->quarantine_rows > 0)
        alarm_raise(
            &w->alarms, ALARM_quarantined, f->now_us,
            "frames are in quarantine: they could not be stored, their bytes are kept. See why: tollctl quarantine; when that is settled: "
            "SELECT toll.drop_quarantine(now())",
            figures);
    else
        alarm_clear(&w->alarms, ALARM_quarantined, f->now_us);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

void watch_judge(struct watch *w, const struct watch_facts *f)
{
    note_backlog(&w->memory, f);
    judge_storing(w, f);
    judge_rating(w, f);
    judge_intake(w, f);
    judge_streams(w, f);
    judge_quarantine(w, f);
    metrics_set(&w->metrics->alarms, alarms_raised(&w->alarms));
}

void watch_look(struct watch *w, const struct writer_status *status)
{
    struct rating_status rating;
    struct streams_trouble streams;
    struct watch_facts facts = {
        .now_us = clock_realtime_us(),
        .monotonic_us = clock_monotonic_us(),
        .storing = status->state,
        .error = status->error,
        .applied_lsn = status->applied_lsn,
        .durable_lsn = journal_durable_lsn(w->journal),
        .failures = status->failures,
        .paused = intake_paused(w->intake),
        .journal_bytes = journal_disk_bytes(w->journal),
        .quarantine_rows = metrics_get(&w->metrics->quarantine_rows),
        .quarantine_limit = w->quarantine_limit,
        .streams = &streams,
    };

    if (facts.durable_lsn < facts.applied_lsn) /* the writer was ahead of this look */
        facts.durable_lsn = facts.applied_lsn;
    if (w->rating) {
        rating_get_status(w->rating, &rating);
        facts.rating = &rating;
    }
    facts.descriptors = intake_descriptors(w->intake, &facts.descriptors_stuck);
    streams_look(intake_streams(w->intake), facts.now_us, &streams);
    watch_judge(w, &facts);
}

static void on_timer(uv_timer_t *timer)
{
    struct watch *w = timer->data;
    struct writer_status status;

    writers_get_status(w->writers, &status);
    watch_look(w, &status);
}

void watch_start(struct watch *w, uv_loop_t *loop)
{
    alarms_init(&w->alarms);
    w->memory = (struct watch_memory){.moved_us = clock_monotonic_us()};
    uv_timer_init(loop, &w->timer);
    w->timer.data = w;
    uv_timer_start(&w->timer, on_timer, 0, LOOK_MS);
}
