/* See writer_core_internal.h. Where the writer begins: what the sink has, what the journal has, and which of them went back. */
#include "daemon/writer_core_internal.h"

#include "daemon/log.h"
#include "daemon/registration.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <uuid/uuid.h>

#define TAKEN_BACK "the journal was taken back: the sink's watermark is above what it can account for"
#define USED_TWICE                                                                                                                       \
    "this journal is in use twice: another tolld with a copy of this state directory stores under its name (was the machine cloned, or " \
    "a backup of it started? each tolld needs a state directory of its own)"

static int file_trouble(struct writer_core *core, const char *done, int r)
{
    char error[128];

    snprintf(error, sizeof(error), "a file in the state directory can't be %s: %s", done, strerror(-r));
    writer_core_trouble(core, writer_core_state_after(r), error);
    return r;
}

static bool is_retrying(const struct writer_core *core)
{
    return core->status.state == WRITER_RETRYING || core->status.state == WRITER_STOPPED;
}

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
        writer_core_publish(core, core->status.state, core->status.error);
    else
        writer_core_publish(core, WRITER_HOLDING, "");
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
        writer_core_trouble(core, WRITER_STOPPED, error);
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
        writer_core_trouble(core, writer_core_state_after(r), ops->error(core->sink));
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

int writer_core_start(struct writer_core *core, int64_t realtime_us)
{
    char which[24] = "";
    int r = journal_unconfirmed_lsn(core->journal) == UINT64_MAX ? 0 : journal_confirm(core->journal);

    if (r == 0 && !core->reader)
        r = journal_reader_new(&core->reader, core->journal);
    if (r < 0) {
        writer_core_trouble(core, writer_core_state_after(r), strerror(-r));
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
        writer_core_trouble(core, writer_core_state_after(r), strerror(-r));
        return r;
    }
    core->started = true;
    core->tend_due_us = 0;
    core->chores_at_us = 0;
    core->behind_us = 0;
    if (core->unproven && writer_core_goal(core) > core->watermark) { /* connecting was not what had failed */
        writer_core_publish(core, core->status.state, core->status.error);
        return 0;
    }
    if (core->order.writers > 1)
        snprintf(which, sizeof(which), " writer=%u", core->order.writer);
    log_info("storing sink=%s%s watermark=%" PRIu64 " backlog_bytes=%" PRIu64, core->sink->ops->name, which,
             core->watermark, journal_durable_lsn(core->journal) - core->watermark);
    writer_core_publish(core, WRITER_OK, "");
    return 0;
}

int writer_core_open(struct writer_core *core, int64_t realtime_us)
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
        return writer_core_start(core, realtime_us);
    hold(core, &notes);
    return 0;
}

void writer_core_tell_sink(struct writer_core *core)
{
    struct writer_notes *notes = &core->status.notes;
    int r = core->sink->ops->share(core->sink, core->watermark, (int)core->order.count);

    notes->order = core->order.number;
    notes->shared = r == 0 ? 1 : r;
    core->failed = r < 0;
    if (r == -EAGAIN || r == -ENOMEM || r == -ENOTRECOVERABLE)
        writer_core_trouble(core, writer_core_state_after(r), core->sink->ops->error(core->sink));
    else
        writer_core_publish(core, WRITER_HOLDING, "");
}
