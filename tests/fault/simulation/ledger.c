/* What was sent and what was promised, frame by frame, and whether the database holds it: once, unchanged, and added up. Shares no code with
 * the daemon but the frames' encoding. */
#include "tests/fault/simulation/sim.h"

#include "proto/frame.h"
#include "tests/unit/fake_db.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARK_SIZE = 9 };

struct entry {
    enum toll_frame_type type; /* TOLL_FRAME_STREAM: a frame that is none */
    bool poison, sequenced, acked;
    bool excused;    /* its loss is nobody's fault: an older copy of the disk, the database beyond retention … */
    bool was_stored; /* in a database that was replaced by an older copy … */
    bool was_gone;   /* … and not in the log any more when the daemon heard of it */
    unsigned worker, session;
    uint64_t number;
    uint64_t acked_as; /* the how manieth of all that were acknowledged */
    struct session_totals adds;
    char mark[MARK_SIZE + 1]; /* stands in its bytes, and in those of no other */
    uint8_t *bytes;
    size_t size;
    unsigned rows, refused;
};

static struct entry *entries;
static size_t entry_count, entry_capacity;

void session_id(unsigned session, uint8_t ret[16])
{
    uint64_t mixed = session * 0x9E3779B97F4A7C15u;

    memcpy(ret, &mixed, 8);
    memset(ret + 8, 0x5A, 4);
    memcpy(ret + 12, &session, 4);
}

static unsigned session_of(const uint8_t id[16])
{
    unsigned session;
    uint8_t again[16];

    memcpy(&session, id + 12, 4);
    session_id(session, again);
    return memcmp(again, id, 16) == 0 ? session : 0;
}

/* --- sending ---------------------------------------------------------------------------------------------------------------- */

static struct toll_str str(const char *text)
{
    return (struct toll_str){text, (uint32_t)strlen(text)};
}

static void fill(struct entry *entry, struct toll_frame *frame, uint8_t metadata[32])
{
    switch (frame->type) {
    case TOLL_FRAME_SESSION_START: /* {"mark": mark} */
        memcpy(metadata, "\x81\xa4mark\xa9", 7);
        memcpy(metadata + 7, entry->mark, MARK_SIZE);
        frame->metadata = (struct toll_str){(const char *)metadata, 7 + MARK_SIZE};
        break;
    case TOLL_FRAME_SESSION_END:
        frame->finish_reason = str(entry->mark);
        break;
    case TOLL_FRAME_LLM:
        frame->provider = str("p");
        frame->model = str("m");
        entry->adds.llm_input_tokens = frame->input_tokens = (int32_t)sim_below(1000);
        entry->adds.llm_output_tokens = frame->output_tokens = (int32_t)sim_below(1000);
        entry->adds.llm_calls = 1;
        break;
    case TOLL_FRAME_TTS:
        frame->provider = str("p");
        entry->adds.tts_chars = frame->char_count = (int32_t)sim_below(1000);
        entry->adds.tts_calls = 1;
        break;
    case TOLL_FRAME_STT:
        frame->provider = str("p");
        entry->adds.stt_audio_us = frame->audio_duration_us = (int64_t)sim_below(100000000);
        entry->adds.stt_calls = 1;
        break;
    case TOLL_FRAME_USAGE:
        frame->meter = str("sms");
        frame->quantity_value = 1;
        break;
    case TOLL_FRAME_TRANSCRIPT:
        frame->role = str("user");
        frame->text = str(entry->mark);
        break;
    case TOLL_FRAME_GAP: /* its mark is a time that no other has */
        frame->gap_since_us = (int64_t)strtoull(entry->mark + 1, NULL, 16) + INT64_C(0x5000000000000);
        break;
    case TOLL_FRAME_STREAM:
        break;
    }
    if (frame->type != TOLL_FRAME_SESSION_START && frame->type != TOLL_FRAME_SESSION_END &&
        frame->type != TOLL_FRAME_TRANSCRIPT)
        frame->request_id = str(entry->mark);
}

uint32_t ledger_frame(struct worker *worker, struct toll_frame *frame, unsigned session, bool poison)
{
    uint8_t metadata[32], bytes[512];
    struct entry *entry;
    int size;

    entries = fake_grow(entries, &entry_capacity, entry_count, sizeof(*entries));
    entry = &entries[entry_count];
    *entry = (struct entry){.type = frame->type,
                            .poison = poison,
                            .sequenced = worker->sequenced,
                            .worker = worker->index,
                            .session = session,
                            .number = worker->sequenced ? worker->next : 0};
    snprintf(entry->mark, sizeof(entry->mark), "%c%08x", poison ? 'p' : 'f', (unsigned)entry_count);
    fill(entry, frame, metadata);
    if (frame->type == TOLL_FRAME_STREAM) /* {"type": "fax", "mark": mark} */
        size = snprintf((char *)bytes, sizeof(bytes),
                        "\x82\xa4type\xa3"
                        "fax\xa4mark\xa9%s",
                        entry->mark);
    else
        size = toll_frame_encode(frame, bytes, sizeof(bytes));
    assert(size > 0);
    entry->size = (size_t)size;
    entry->bytes = malloc(entry->size);
    assert(entry->bytes);
    memcpy(entry->bytes, bytes, entry->size);
    sim.troubles.poison += poison;
    sim.frames++;
    return (uint32_t)entry_count++;
}

size_t ledger_encode(uint32_t index, void *buf, size_t cap)
{
    assert(entries[index].size <= cap);
    memcpy(buf, entries[index].bytes, entries[index].size);
    return entries[index].size;
}

/* --- where it is ------------------------------------------------------------------------------------------------------------ */

static bool is_stored(const struct entry *entry)
{
    const struct worker *worker = &workers[entry->worker];

    return entry->sequenced && database_seen(worker->uid, worker->stream, entry->number, entry->bytes, entry->size);
}

static bool on_disk(const struct entry *entry, bool seen)
{
    const struct host *host = workers[entry->worker].host;
    uint8_t time[8];
    uint64_t mark;

    if (entry->type != TOLL_FRAME_GAP)
        return disk_has(host, entry->mark, MARK_SIZE, seen);
    mark = strtoull(entry->mark + 1, NULL, 16) + UINT64_C(0x5000000000000);
    for (int i = 0; i < 8; i++)
        time[i] = (uint8_t)(mark >> (56 - 8 * i));
    return disk_has(host, time, sizeof(time), seen);
}

/* The moment of truth: the worker may forget these frames now. */
void ledger_acked(struct worker *worker, uint64_t upto, struct host *by)
{
    enum intake_ack mode = by->options.intake.ack;

    if (upto >= worker->next) {
        sim_violation(&sim.false_acks, "worker %u: number %lu was acknowledged and never sent", worker->index, upto);
        return;
    }
    if (worker->acked < upto)
        sim_note("acked", worker->index, upto);
    for (; worker->acked < upto; worker->acked++) {
        struct entry *entry = &entries[worker->frames[worker->acked]];

        entry->acked = true;
        entry->acked_as = ++sim.acked;
        if (is_stored(entry) || entry->was_stored ||
            (mode != INTAKE_ACK_COMMIT && on_disk(entry, mode == INTAKE_ACK_WRITE)))
            continue;
        sim_violation(&sim.false_acks, "worker %u: number %lu (%s) was acknowledged and is not durable", worker->index,
                      entry->number, entry->mark);
    }
}

void ledger_excuse(const struct host *host, uint64_t acked_after, const char *why)
{
    for (size_t i = 0; i < entry_count; i++) {
        struct entry *entry = &entries[i];

        if (entry->excused || !entry->acked || workers[entry->worker].host != host || is_stored(entry))
            continue;
        if (acked_after ? entry->acked_as < acked_after : on_disk(entry, false))
            continue;
        entry->excused = true;
        sim_note(why, entry->worker, entry->number);
    }
}

void ledger_forgotten(void)
{
    for (size_t i = 0; i < entry_count; i++)
        entries[i].was_stored = entries[i].was_stored || is_stored(&entries[i]);
}

/* Of those that it had stored of this host, what the database has forgotten, and the log does not have. */
static bool is_gone(const struct entry *entry, const struct host *host)
{
    return entry->was_stored && !entry->excused && workers[entry->worker].host == host && !is_stored(entry) &&
           !on_disk(entry, true);
}

/* One of its writers has connected to the older copy: from now on the log must keep what that lacks. Before, nobody could know. */
void ledger_heard(struct host *host)
{
    if (host->restores_heard == host->restores_met || host->restores_met != database_state.restores)
        return;
    host->restores_heard = host->restores_met;
    for (size_t i = 0; i < entry_count; i++)
        entries[i].was_gone = entries[i].was_gone || is_gone(&entries[i], host);
}

/* A daemon goes on with a database that may be an older copy. What that had forgotten must still be in the log, unless an operator has
 * accepted that it is not. */
void ledger_found(struct host *host, bool by_operator)
{
    bool heard = host->restores_heard == database_state.restores;

    if (host->restores_seen == database_state.restores)
        return;
    if (!by_operator || heard) /* an operator who is quicker than the daemon has to come again */
        host->restores_seen = database_state.restores;
    for (size_t i = 0; i < entry_count; i++) {
        struct entry *entry = &entries[i];

        if (!is_gone(entry, host) || (by_operator && heard && !entry->was_gone))
            continue;
        entry->excused = true;
        sim_note("beyond the log", entry->worker, entry->number);
        if (!by_operator && !host->was_taken_back)
            sim_violation(NULL, "host %u goes on over an older copy of the database without number %lu of worker %u",
                          host->index, entry->number, entry->worker);
    }
}

/* --- the oracle ------------------------------------------------------------------------------------------------------------- */

static struct entry *entry_of(const uint8_t stream[16], uint64_t number)
{
    const struct worker *worker = stream[0] < worker_count ? &workers[stream[0]] : NULL;

    if (!worker || !worker->sequenced || memcmp(worker->stream, stream, 16) != 0 || number == 0 ||
        number >= worker->next)
        return NULL;
    return &entries[worker->frames[number - 1]];
}

static struct entry *entry_of_row(const struct fake_row *row)
{
    unsigned long index;

    if (row->sequenced)
        return entry_of(row->stream_id, row->seq);
    index = strtoul(row->tag[0] ? row->tag + 1 : "", NULL, 16);
    return index < entry_count && !entries[index].sequenced ? &entries[index] : NULL;
}

static void check_rows(void)
{
    for (size_t i = 0; i < database.now.row_count; i++) {
        const struct fake_row *row = &database.rows[i];
        struct entry *entry = entry_of_row(row);

        if (!entry || entry->type != row->type || !fake_totals_equal(&entry->adds, &row->adds) ||
            (row->has_session && session_of(row->session_id) != entry->session) ||
            (entry->type != TOLL_FRAME_GAP && strcmp(row->tag, entry->mark) != 0)) {
            sim_violation(NULL, "row %zu (%s) is nothing that anybody sent", i, row->tag);
            continue;
        }
        /* A log that was taken back is journaled again as another; frames without numbers can't be told to be the same. */
        if (entry->rows++ > 0 && (entry->sequenced || !workers[entry->worker].host->was_taken_back))
            sim_violation(&sim.duplicated, "worker %u: number %lu (%s) is stored twice", entry->worker, entry->number,
                          entry->mark);
    }
    for (size_t i = 0; i < database.now.refused_count; i++) {
        const struct fake_refused *row = &database.refused[i];
        struct entry *entry = row->seq ? entry_of(row->stream_id, row->seq) : NULL;

        if (row->seq == 0 && strstr(row->reason, "P0001"))
            continue; /* a broken table's, and of a sender without numbers */
        if (!entry || row->size != entry->size)
            sim_violation(NULL, "quarantine holds what nobody sent: %s", row->reason);
        else if (entry->refused++ > 0 || entry->rows > 0)
            sim_violation(&sim.duplicated, "worker %u: number %lu (%s) is in quarantine and stored", entry->worker,
                          entry->number, entry->mark);
        else if (!entry->poison && entry->type != TOLL_FRAME_STREAM &&
                 !strstr(row->reason, "P0001")) /* a broken table's */
            sim_violation(&sim.lost, "worker %u: number %lu (%s) is in quarantine, and nothing is wrong with it: %s",
                          entry->worker, entry->number, entry->mark, row->reason);
    }
}

static bool is_row(const struct entry *entry)
{
    return entry->type != TOLL_FRAME_SESSION_START && entry->type != TOLL_FRAME_SESSION_END;
}

static void check_frames(void)
{
    for (size_t i = 0; i < entry_count; i++) {
        const struct entry *entry = &entries[i];
        bool stored = is_stored(entry), there = entry->rows + entry->refused > 0;

        if (!entry->sequenced)
            continue;
        if (there && !stored)
            sim_violation(NULL, "worker %u: number %lu (%s) is stored, but not in the stream's numbers", entry->worker,
                          entry->number, entry->mark);
        if (entry->excused)
            continue;
        if (entry->acked && !stored)
            sim_violation(&sim.lost, "worker %u: number %lu (%s) was acknowledged and is lost", entry->worker,
                          entry->number, entry->mark);
        else if (stored && !there && (is_row(entry) || entry->poison))
            sim_violation(&sim.lost, "worker %u: number %lu (%s) counts as stored and is lost", entry->worker,
                          entry->number, entry->mark);
    }
    for (size_t i = 0; i < database.now.stream_count; i++) {
        const struct fake_stream *stream = &database.now.streams[i];
        const struct range *ranges = rangeset_ranges(&stream->seen);

        for (uint32_t j = 0; j < stream->seen.count; j++)
            if (!entry_of(stream->id, ranges[j].from) || !entry_of(stream->id, ranges[j].to - 1))
                sim_violation(NULL, "stream of worker %u has seen [%lu, %lu), which was not sent", stream->id[0],
                              ranges[j].from, ranges[j].to);
    }
}

/* What a session's row must say. */
struct expected {
    struct session_totals totals;
    unsigned starts, ends, plain, excused;
    bool end_named;
};

static void check_session(const struct fake_session *row)
{
    static const struct session_totals none;
    unsigned session = session_of(row->id);
    struct expected e = {.starts = 0};

    for (size_t i = 0; i < entry_count; i++) {
        const struct entry *entry = &entries[i];

        if (entry->session != session)
            continue;
        for (unsigned n = 0; n < entry->rows; n++)
            fake_totals_add(&e.totals, &entry->adds);
        if (is_row(entry))
            continue;
        e.plain += !entry->sequenced;
        e.excused += entry->excused;
        if (is_stored(entry) || !entry->sequenced) {
            e.starts += entry->type == TOLL_FRAME_SESSION_START;
            e.ends += entry->type == TOLL_FRAME_SESSION_END;
            e.end_named = e.end_named || strcmp(row->finish_reason, entry->mark) == 0;
        }
    }
    if (session == 0)
        sim_violation(NULL, "a session is stored that nobody sent");
    if (!fake_totals_equal(&row->totals, row->ended ? &e.totals : &none))
        sim_violation(&sim.wrong_totals, "session %u: its totals are not the sum of its events", session);
    if (row->ended && row->ended_us < row->started_us)
        sim_violation(&sim.wrong_totals, "session %u ends before it starts", session);
    /* Frames without a number may be lost before they are read, and those that are excused later. */
    if (e.plain == 0 && (row->starts > e.starts || row->ends > e.ends))
        sim_violation(&sim.duplicated, "session %u: %u starts and %u ends are stored, of %u and %u", session,
                      row->starts, row->ends, e.starts, e.ends);
    else if (e.plain + e.excused == 0 && (row->starts != e.starts || row->ends != e.ends))
        sim_violation(&sim.lost, "session %u: %u starts and %u ends are stored, of %u and %u", session, row->starts,
                      row->ends, e.starts, e.ends);
    if (row->ends > 0 && (!row->ended || !e.end_named))
        sim_violation(&sim.wrong_totals, "session %u has %u ends, but its reason is \"%s\"", session, row->ends,
                      row->finish_reason);
}

static void check_sessions(void)
{
    for (size_t i = 0; i < database.now.session_count; i++)
        check_session(&database.now.sessions[i]);
    for (size_t i = 0; i < database.now.row_count; i++)
        if (database.rows[i].has_session && !fake_db_session(&database, database.rows[i].session_id))
            sim_violation(&sim.lost, "row %zu (%s) has no session", i, database.rows[i].tag);
}

static void check_batches(void)
{
    uint64_t stored = 0, quarantined = 0, here = database.now.row_count;

    for (size_t i = 0; i < database.now.batch_count; i++) {
        const struct sink_counts *c = &database.batches[i].counts;

        if (c->received != c->stored + c->quarantined + c->duplicates)
            sim_violation(NULL, "batch %zu: received %u, stored %u, quarantined %u, duplicates %u", i, c->received,
                          c->stored, c->quarantined, c->duplicates);
        stored += c->stored;
        quarantined += c->quarantined;
    }
    for (size_t i = 0; i < database.now.session_count; i++)
        here += database.now.sessions[i].starts + database.now.sessions[i].ends;
    if (stored != here || quarantined != database.now.refused_count)
        sim_violation(NULL, "batches say %lu frames are stored and %lu quarantined, there are %lu and %zu", stored,
                      quarantined, here, database.now.refused_count);
}

void ledger_check(void)
{
    check_rows();
    check_frames();
    check_sessions();
    check_batches();
}

void ledger_done(void)
{
    for (size_t i = 0; i < entry_count; i++)
        free(entries[i].bytes);
    free(entries);
    entries = NULL;
    entry_count = entry_capacity = 0;
}
