/* A sink in memory that keeps daemon/sink.h's contract: a database of rows, sessions, streams and watermarks that change in transactions
 * only, and connections to it that fail on demand. For one thread; time does not pass in it.
 *
 *     struct fake_db db = {0};
 *     struct fake_sink sink;
 *     fake_sink_init(&sink, &db);          sink.sink is what apply takes
 *     sink.fail_at = 7;                    the 7th call from now on fails with sink.fail_with ...
 *     sink.late = true;                    ... and if that is a commit, it is done all the same
 *     db.poison = refuses;                 rows that the database refuses
 *     ck_assert_str_eq(fake_db_check(&db), "");
 *
 * The model:
 * - begin moves the watermark from `from` to `to` or says -ESTALE; all else waits for commit, abort undoes it. A late commit is not seen by the
 *   next open yet, as when a backend is frozen in COMMIT: begin finds out.
 * - A stream is inserted, or updated if its revision is still what the writer thinks, or the batch is -ESTALE.
 * - Sessions follow R3 as daemon/pg_sessions.c does: totals come from memory only if memory is the whole story, else from the rows.
 * - Calls in an order that sink.h does not allow end the process.
 * Several sinks may share a database, one transaction at a time. Tables are searched from end to end: meant for thousands of rows. */
#ifndef TOLL_TESTS_FAKE_SINK_H
#define TOLL_TESTS_FAKE_SINK_H

#include "daemon/sink.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum fake_op {
    FAKE_OPEN,
    FAKE_BEGIN,
    FAKE_LOAD_STREAMS,
    FAKE_ATTEMPT,
    FAKE_ADD,
    FAKE_STORE,
    FAKE_SETTLE,
    FAKE_FINISH,
    FAKE_COMMIT,
    FAKE_OPEN_SESSIONS,
    FAKE_TEND,
    FAKE_OPS,
};

struct fake_row {
    enum toll_frame_type type;
    bool has_session, sequenced;
    uint8_t session_id[16], stream_id[16];
    uint32_t uid;
    uint64_t seq, lsn;
    uint32_t index;
    int64_t occurred_us, reported_us;
    struct session_totals adds; /* to its session's totals */
    char tag[32];               /* request_id, or the start of a transcript's text */
};

struct fake_session {
    uint8_t id[16], owner[16];
    bool shared, start_missing, ended;
    int64_t started_us, started_reported_us, ended_us;
    char finish_reason[32], metadata[160];
    uint32_t starts, ends, revision; /* session_start and session_end frames that were stored */
    struct session_totals totals;    /* 0 until it ends */
};

struct fake_stream {
    uint32_t uid;
    uint8_t id[16];
    int writer;
    struct rangeset seen;
    int64_t revision;
    char client[48];
};

struct fake_watermark {
    uint8_t journal[16];
    int writer;
    uint64_t lsn;
};

struct fake_refused {
    uint64_t lsn, seq;
    uint32_t uid, index;
    uint8_t stream_id[16];
    size_t size;
    char reason[TOLL_REASON_MAX];
};

struct fake_batch {
    uint8_t journal[16];
    uint64_t from, to;
    struct sink_counts counts;
};

/* What a transaction can change; of tables that only grow, how long they are. */
struct fake_state {
    struct fake_session *sessions;
    struct fake_stream *streams;
    struct fake_watermark *watermarks;
    size_t session_count, stream_count, watermark_count, row_count, refused_count, batch_count;
};

struct fake_db {
    struct fake_state now;
    struct fake_row *rows;
    struct fake_refused *refused;
    struct fake_batch *batches;
    size_t row_capacity, refused_capacity, batch_capacity;
    bool in_transaction;
    /* Rows the database refuses: an SQLSTATE, or NULL. For session_start and session_end, which are no rows, the session is asked about. */
    const char *(*poison)(const struct sink_row *row);
    const char *(*poison_session)(const struct session_change *change);
};

struct fake_sink {
    struct sink sink;
    struct fake_db *db;
    /* Faults: call number fail_at from now on fails with fail_with; 0: none. fail_op: only calls of that kind count. FAKE_OPS: all. */
    unsigned fail_at;
    int fail_with;
    enum fake_op fail_op;
    bool late;
    unsigned calls, op_calls[FAKE_OPS], failures;
    /* Its session. */
    uint8_t journal[16];
    int writer;
    bool is_open, broken, in_attempt, careful, finished, refused, hidden;
    uint64_t from, to, hidden_lsn; /* the watermark that a late commit has moved, before */
    struct fake_state before, savepoint;
    const char *class;
    char error[200];
};

static inline void *fake_grow(void *array, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity ? *capacity * 2 : 64;
    array = realloc(array, *capacity * size);
    assert(array);
    return array;
}

static inline void *fake_copy(const void *from, size_t count, size_t size)
{
    void *to = malloc((count + 1) * size);

    assert(to);
    if (count)
        memcpy(to, from, count * size);
    return to;
}

static inline void fake_rangeset_copy(struct rangeset *to, const struct rangeset *from)
{
    const struct range *ranges = rangeset_ranges(from);

    rangeset_init(to);
    for (uint32_t i = 0; i < from->count; i++) {
        int r = rangeset_add(to, ranges[i].from, ranges[i].to);

        assert(r == 0);
        (void)r;
    }
}

static inline void fake_state_done(struct fake_state *state)
{
    for (size_t i = 0; i < state->stream_count; i++)
        rangeset_done(&state->streams[i].seen);
    free(state->sessions);
    free(state->streams);
    free(state->watermarks);
    *state = (struct fake_state){0};
}

/* A copy to go back to with fake_db_restore(). */
static inline struct fake_state fake_state_copy(const struct fake_state *from)
{
    struct fake_state to = *from;

    to.sessions = fake_copy(from->sessions, from->session_count, sizeof(*from->sessions));
    to.streams = fake_copy(from->streams, from->stream_count, sizeof(*from->streams));
    to.watermarks = fake_copy(from->watermarks, from->watermark_count, sizeof(*from->watermarks));
    for (size_t i = 0; i < to.stream_count; i++)
        fake_rangeset_copy(&to.streams[i].seen, &from->streams[i].seen);
    return to;
}

/* Puts an older copy of the database in its place, as restoring a backup does. Takes the copy over. */
static inline void fake_db_restore(struct fake_db *db, struct fake_state *copy)
{
    fake_state_done(&db->now);
    db->now = *copy;
    *copy = (struct fake_state){0};
}

static inline void fake_db_done(struct fake_db *db)
{
    fake_state_done(&db->now);
    free(db->rows);
    free(db->refused);
    free(db->batches);
    *db = (struct fake_db){0};
}

static inline struct fake_session *fake_db_session(struct fake_db *db, const uint8_t id[16])
{
    for (size_t i = 0; i < db->now.session_count; i++)
        if (memcmp(db->now.sessions[i].id, id, 16) == 0)
            return &db->now.sessions[i];
    return NULL;
}

static inline struct fake_stream *fake_db_stream(struct fake_db *db, uint32_t uid, const uint8_t id[16], int writer)
{
    for (size_t i = 0; i < db->now.stream_count; i++) {
        struct fake_stream *stream = &db->now.streams[i];

        if (stream->uid == uid && stream->writer == writer && memcmp(stream->id, id, 16) == 0)
            return stream;
    }
    return NULL;
}

static inline struct fake_watermark *fake_db_watermark(struct fake_db *db, const uint8_t journal[16], int writer)
{
    for (size_t i = 0; i < db->now.watermark_count; i++)
        if (db->now.watermarks[i].writer == writer && memcmp(db->now.watermarks[i].journal, journal, 16) == 0)
            return &db->now.watermarks[i];
    return NULL;
}

static inline void fake_totals_add(struct session_totals *to, const struct session_totals *from)
{
    to->llm_input_tokens += from->llm_input_tokens;
    to->llm_output_tokens += from->llm_output_tokens;
    to->llm_calls += from->llm_calls;
    to->tts_chars += from->tts_chars;
    to->tts_calls += from->tts_calls;
    to->stt_audio_us += from->stt_audio_us;
    to->stt_calls += from->stt_calls;
}

/* The sum of a session's stored rows. */
static inline struct session_totals fake_db_sum(const struct fake_db *db, const uint8_t id[16])
{
    struct session_totals sum = {0};

    for (size_t i = 0; i < db->now.row_count; i++)
        if (db->rows[i].has_session && memcmp(db->rows[i].session_id, id, 16) == 0)
            fake_totals_add(&sum, &db->rows[i].adds);
    return sum;
}

/* What must hold of every database at any time: "" or what does not. The text lives until the next call. */
static inline const char *fake_db_check(struct fake_db *db)
{
    static char text[200];

    text[0] = '\0';
    for (size_t i = 0; i < db->now.row_count; i++) {
        const struct fake_row *row = &db->rows[i];

        if (row->has_session && row->type != TOLL_FRAME_GAP && !fake_db_session(db, row->session_id))
            snprintf(text, sizeof(text), "row %zu has no session", i);
        for (size_t j = 0; j < i; j++) {
            const struct fake_row *other = &db->rows[j];

            if (row->seq && other->seq == row->seq && other->uid == row->uid &&
                memcmp(other->stream_id, row->stream_id, 16) == 0)
                snprintf(text, sizeof(text), "number %llu of a stream is stored twice", (unsigned long long)row->seq);
            if (!row->seq && other->lsn == row->lsn && other->index == row->index)
                snprintf(text, sizeof(text), "frame %u of LSN %llu is stored twice", row->index,
                         (unsigned long long)row->lsn);
        }
    }
    for (size_t i = 0; i < db->now.session_count; i++) {
        const struct fake_session *session = &db->now.sessions[i];
        struct session_totals sum = fake_db_sum(db, session->id), none = {0};

        if (memcmp(&session->totals, session->ended ? &sum : &none, sizeof(sum)) != 0)
            snprintf(text, sizeof(text), "session %zu: totals are not the sum of its rows", i);
        if (session->ended && session->ended_us < session->started_us)
            snprintf(text, sizeof(text), "session %zu ends before it starts", i);
    }
    for (size_t i = 0; i < db->now.batch_count; i++) {
        const struct sink_counts *c = &db->batches[i].counts;

        if (c->received != c->stored + c->quarantined + c->duplicates)
            snprintf(text, sizeof(text), "batch %zu: received %u, stored %u, quarantined %u, duplicates %u", i,
                     c->received, c->stored, c->quarantined, c->duplicates);
    }
    return text;
}

/* --- a connection ----------------------------------------------------------------------------------------------------------- */

static inline struct fake_sink *fake_self(struct sink *sink)
{
    return (struct fake_sink *)(void *)sink;
}

/* Whether this call is to fail; then with what. */
static inline int fake_fault(struct fake_sink *s, enum fake_op op)
{
    s->calls++;
    s->op_calls[op]++;
    if (s->fail_at == 0 || (s->fail_op != FAKE_OPS && s->fail_op != op) || --s->fail_at > 0)
        return 0;
    s->failures++;
    s->class = "XX000";
    snprintf(s->error, sizeof(s->error), "injected into call %u", s->calls);
    s->broken = s->fail_with != -EINVAL;
    return s->fail_with;
}

static inline int fake_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    struct fake_sink *s = fake_self(sink);
    struct fake_state *now = &s->db->now;
    struct fake_watermark *watermark;
    int r = fake_fault(s, FAKE_OPEN);

    assert(!s->db->in_transaction);
    s->is_open = false;
    if (r < 0)
        return r;
    memcpy(s->journal, journal->uuid, 16);
    s->writer = journal->writer;
    watermark = fake_db_watermark(s->db, s->journal, s->writer);
    if (!watermark && journal->registered)
        return -ENOENT;
    if (!watermark) {
        now->watermarks = realloc(now->watermarks, (now->watermark_count + 1) * sizeof(*now->watermarks));
        assert(now->watermarks);
        watermark = &now->watermarks[now->watermark_count++];
        *watermark = (struct fake_watermark){.writer = s->writer, .lsn = journal->register_lsn};
        memcpy(watermark->journal, s->journal, 16);
    }
    *ret_lsn = s->hidden ? s->hidden_lsn : watermark->lsn;
    s->hidden = false;
    s->is_open = true;
    s->broken = false;
    return 0;
}

static inline int fake_begin(struct sink *sink, uint64_t from, uint64_t to)
{
    struct fake_sink *s = fake_self(sink);
    struct fake_watermark *watermark = fake_db_watermark(s->db, s->journal, s->writer);
    int r = fake_fault(s, FAKE_BEGIN);

    assert(s->is_open && !s->db->in_transaction && from <= to);
    s->before = fake_state_copy(&s->db->now);
    s->db->in_transaction = true;
    s->from = from;
    s->to = to;
    s->finished = s->in_attempt = s->refused = false;
    if (r < 0)
        return r;
    if (!watermark || watermark->lsn != from) {
        s->broken = true;
        return -ESTALE;
    }
    watermark->lsn = to;
    return 0;
}

static inline int fake_load_streams(struct sink *sink, struct sink_stream *const *streams, size_t count)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_LOAD_STREAMS);

    assert(s->db->in_transaction && !s->in_attempt);
    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct fake_stream *stored = fake_db_stream(s->db, streams[i]->uid, streams[i]->id, s->writer);

        assert(streams[i]->revision == 0);
        if (!stored)
            continue;
        rangeset_done(&streams[i]->seen);
        fake_rangeset_copy(&streams[i]->seen, &stored->seen);
        streams[i]->revision = stored->revision;
    }
    return r;
}

static inline int fake_attempt(struct sink *sink, bool careful)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_ATTEMPT);

    assert(s->db->in_transaction && !s->in_attempt && !s->finished);
    s->in_attempt = true;
    s->careful = careful;
    s->refused = false;
    if (careful)
        s->savepoint = fake_state_copy(&s->db->now);
    return r;
}

static inline void fake_refuse(struct fake_sink *s, const char *class)
{
    if (!class || s->refused)
        return;
    s->refused = true;
    s->class = class;
    snprintf(s->error, sizeof(s->error), "storing rows: refused (SQLSTATE %s)", class);
}

static inline int fake_add(struct sink *sink, const struct sink_row *row)
{
    struct fake_sink *s = fake_self(sink);
    struct fake_db *db = s->db;
    const struct toll_frame *frame = row->frame;
    const struct toll_str *tag = frame->type == TOLL_FRAME_TRANSCRIPT ? &frame->text : &frame->request_id;
    struct fake_row *new;
    int r = fake_fault(s, FAKE_ADD);

    assert(s->in_attempt);
    assert(frame->type != TOLL_FRAME_SESSION_START && frame->type != TOLL_FRAME_SESSION_END &&
           frame->type != TOLL_FRAME_STREAM);
    if (r < 0)
        return r;
    db->rows = fake_grow(db->rows, &db->row_capacity, db->now.row_count, sizeof(*db->rows));
    new = &db->rows[db->now.row_count++];
    *new = (struct fake_row){
        .type = frame->type,
        .has_session = frame->has_session_id,
        .sequenced = row->origin->sequenced,
        .uid = row->origin->uid,
        .seq = row->origin->seq,
        .lsn = row->origin->lsn,
        .index = row->origin->index,
        .occurred_us = row->occurred_us,
        .reported_us = row->reported_us,
    };
    memcpy(new->session_id, frame->session_id, 16);
    memcpy(new->stream_id, row->origin->stream_id, 16);
    snprintf(new->tag, sizeof(new->tag), "%.*s", (int)tag->len, tag->ptr ? tag->ptr : "");
    if (frame->type == TOLL_FRAME_LLM)
        new->adds = (struct session_totals){frame->input_tokens, frame->output_tokens, 1, 0, 0, 0, 0};
    else if (frame->type == TOLL_FRAME_TTS)
        new->adds = (struct session_totals){0, 0, 0, frame->char_count, 1, 0, 0};
    else if (frame->type == TOLL_FRAME_STT)
        new->adds = (struct session_totals){0, 0, 0, 0, 0, frame->audio_duration_us, 1};
    fake_refuse(s, db->poison ? db->poison(row) : NULL);
    return 0;
}

/* One session's row: made, or changed by R3's rules. */
static inline void fake_store_session(struct fake_sink *s, struct session_change *change)
{
    const struct session *known = change->session;
    struct fake_session *row = fake_db_session(s->db, known->id);
    struct fake_state *now = &s->db->now;
    bool is_new = !row, from_memory, end_now;

    if (is_new) {
        now->sessions = realloc(now->sessions, (now->session_count + 1) * sizeof(*now->sessions));
        assert(now->sessions);
        row = &now->sessions[now->session_count++];
        *row = (struct fake_session){.start_missing = true};
        memcpy(row->id, known->id, 16);
        memcpy(row->owner, s->journal, 16);
        row->started_us = known->started_us;
        row->started_reported_us = TOLL_TIME_MISSING;
    }
    row->shared = row->shared || memcmp(row->owner, s->journal, 16) != 0;
    from_memory = known->whole && (is_new || known->stored) && !row->shared;
    if (change->starts && (row->start_missing || change->started_us < row->started_us)) {
        row->started_us = change->started_us;
        row->started_reported_us = change->started_reported_us;
    }
    row->start_missing = row->start_missing && change->starts == 0;
    if (change->metadata && !row->metadata[0])
        snprintf(row->metadata, sizeof(row->metadata), "%s", change->metadata);
    row->starts += change->starts;
    row->ends += change->ends;
    row->revision += row->ended && change->rows;
    end_now = change->ends && (!row->ended || strcmp(row->finish_reason, "orphaned") == 0);
    if (end_now || (change->orphan && !row->ended)) {
        snprintf(row->finish_reason, sizeof(row->finish_reason), "%s",
                 change->ends ? change->finish_reason : "orphaned");
        row->ended_us = change->ends ? change->ended_us : known->last_us;
        row->ended = true;
    }
    if (row->ended && row->ended_us < row->started_us)
        row->ended_us = row->started_us;
    if (row->ended)
        row->totals = from_memory ? known->totals : fake_db_sum(s->db, row->id);
    change->existed = (!is_new && !known->stored) || row->shared;
    change->finalized = row->ended;
}

static inline int fake_store(struct sink *sink, struct session_change *const *changes, size_t count)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_STORE);

    assert(s->in_attempt);
    for (size_t i = 0; i < count; i++) {
        assert(i == 0 || memcmp(changes[i - 1]->session->id, changes[i]->session->id, 16) < 0);
        fake_refuse(s, s->db->poison_session ? s->db->poison_session(changes[i]) : NULL);
    }
    if (!s->careful)
        s->in_attempt = false;
    if (r < 0)
        return r;
    if (s->refused)
        return -EINVAL;
    for (size_t i = 0; i < count; i++)
        fake_store_session(s, changes[i]);
    return 0;
}

static inline int fake_settle(struct sink *sink, bool keep)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_SETTLE);

    assert(s->in_attempt && s->careful && !(keep && s->refused));
    s->in_attempt = false;
    if (keep)
        fake_state_done(&s->savepoint);
    else
        fake_db_restore(s->db, &s->savepoint);
    s->refused = false;
    return r;
}

static inline int fake_write_stream(struct fake_sink *s, struct sink_stream *stream)
{
    struct fake_state *now = &s->db->now;
    struct fake_stream *row = fake_db_stream(s->db, stream->uid, stream->id, s->writer);

    if (stream->revision != (row ? row->revision : 0))
        return -ESTALE;
    if (!row) {
        now->streams = realloc(now->streams, (now->stream_count + 1) * sizeof(*now->streams));
        assert(now->streams);
        row = &now->streams[now->stream_count++];
        *row = (struct fake_stream){.uid = stream->uid, .writer = s->writer};
        memcpy(row->id, stream->id, 16);
        rangeset_init(&row->seen);
    }
    rangeset_done(&row->seen);
    fake_rangeset_copy(&row->seen, &stream->seen);
    row->revision = ++stream->revision;
    memcpy(row->client, stream->client, sizeof(row->client));
    return 0;
}

static inline int fake_finish(struct sink *sink, const struct sink_batch *batch)
{
    struct fake_sink *s = fake_self(sink);
    struct fake_db *db = s->db;
    int r = fake_fault(s, FAKE_FINISH);

    assert(db->in_transaction && !s->in_attempt && batch->from == s->from && batch->to == s->to);
    assert(batch->refused_count == batch->counts.quarantined);
    for (size_t i = 0; r == 0 && i < batch->stream_count; i++)
        r = fake_write_stream(s, batch->streams[i]);
    if (r < 0)
        return r;
    for (size_t i = 0; i < batch->refused_count; i++) {
        const struct sink_refused *refused = &batch->refused[i];
        struct fake_refused *row;

        db->refused = fake_grow(db->refused, &db->refused_capacity, db->now.refused_count, sizeof(*db->refused));
        row = &db->refused[db->now.refused_count++];
        *row = (struct fake_refused){.lsn = refused->origin.lsn,
                                     .seq = refused->origin.seq,
                                     .uid = refused->origin.uid,
                                     .index = refused->origin.index,
                                     .size = refused->origin.size};
        memcpy(row->stream_id, refused->origin.stream_id, 16);
        snprintf(row->reason, sizeof(row->reason), "%s", refused->reason);
    }
    s->finished = true;
    if (batch->from == batch->to)
        return 0;
    db->batches = fake_grow(db->batches, &db->batch_capacity, db->now.batch_count, sizeof(*db->batches));
    db->batches[db->now.batch_count] =
        (struct fake_batch){.from = batch->from, .to = batch->to, .counts = batch->counts};
    memcpy(db->batches[db->now.batch_count++].journal, s->journal, 16);
    return 0;
}

static inline int fake_commit(struct sink *sink)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_COMMIT);

    assert(s->finished && !s->in_attempt);
    if (r < 0 && !s->late)
        return r;
    fake_state_done(&s->before);
    s->db->in_transaction = false;
    if (r < 0) {
        s->hidden = true;
        s->hidden_lsn = s->from;
    }
    return r;
}

static inline void fake_abort(struct sink *sink)
{
    struct fake_sink *s = fake_self(sink);

    if (s->in_attempt && s->careful)
        fake_state_done(&s->savepoint);
    s->in_attempt = false;
    s->is_open = s->is_open && !s->broken;
    if (!s->db->in_transaction)
        return;
    fake_db_restore(s->db, &s->before);
    s->db->in_transaction = false;
}

static inline int fake_open_sessions(struct sink *sink, void (*found)(void *context, const uint8_t id[16]),
                                     void *context)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_OPEN_SESSIONS);

    assert(s->is_open && !s->db->in_transaction);
    for (size_t i = 0; r == 0 && i < s->db->now.session_count; i++)
        if (!s->db->now.sessions[i].ended && memcmp(s->db->now.sessions[i].owner, s->journal, 16) == 0)
            found(context, s->db->now.sessions[i].id);
    return r;
}

static inline int fake_tend(struct sink *sink)
{
    return fake_fault(fake_self(sink), FAKE_TEND);
}

static inline const char *fake_error(const struct sink *sink)
{
    return ((const struct fake_sink *)(const void *)sink)->error;
}

static inline const char *fake_error_class(const struct sink *sink)
{
    return ((const struct fake_sink *)(const void *)sink)->class;
}

static inline void fake_free(struct sink *sink)
{
    fake_abort(sink);
}

static const struct sink_ops fake_sink_ops = {
    .name = "fake",
    .open = fake_open,
    .begin = fake_begin,
    .load_streams = fake_load_streams,
    .attempt = fake_attempt,
    .add = fake_add,
    .store = fake_store,
    .settle = fake_settle,
    .finish = fake_finish,
    .commit = fake_commit,
    .abort = fake_abort,
    .open_sessions = fake_open_sessions,
    .tend = fake_tend,
    .error = fake_error,
    .error_class = fake_error_class,
    .free = fake_free,
};

/* Nothing is allocated until it begins a transaction; ops->free undoes that. */
static inline void fake_sink_init(struct fake_sink *s, struct fake_db *db)
{
    *s = (struct fake_sink){
        .sink = {.ops = &fake_sink_ops}, .db = db, .fail_op = FAKE_OPS, .fail_with = -EAGAIN, .class = ""};
}

#endif
