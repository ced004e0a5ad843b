/* A sink in memory that keeps daemon/sink.h's contract: a database of rows, sessions, streams and watermarks
 * that change in transactions only, and connections to it that fail on demand. For one thread; time does not
 * pass in it.
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
 * - begin moves the watermark from `from` to `to` or says -ESTALE; all else waits for commit, abort undoes it.
 *   A late commit is not seen by the next open yet, as when a backend is frozen in COMMIT: begin finds out.
 * - A stream is inserted, or updated if its revision is still what the writer thinks, or else the batch is
 *   -ESTALE.
 * - Sessions follow R3 as daemon/pg_sessions.c does: totals come from memory only if memory is the whole
 *   story, else from the rows.
 * - Calls in an order that sink.h does not allow end the process.
 * Several sinks may share a database, one transaction at a time. */
#ifndef TOLL_TESTS_FAKE_SINK_H
#define TOLL_TESTS_FAKE_SINK_H

#include "daemon/sink.h"
#include "tests/unit/fake_db.h"

enum fake_op {
    FAKE_OPEN,
    FAKE_SHARE,
    FAKE_BEGIN,
    FAKE_LOAD_STREAMS,
    FAKE_ATTEMPT,
    FAKE_ADD,
    FAKE_PUSH,
    FAKE_STORE,
    FAKE_SETTLE,
    FAKE_FINISH,
    FAKE_COMMIT,
    FAKE_OPEN_SESSIONS,
    FAKE_TEND,
    FAKE_OPS,
};

struct fake_sink {
    struct sink sink;
    struct fake_db *db;
    /* Faults: call number fail_at from now on fails with fail_with; 0: none. fail_op: only calls of that kind
     * count. FAKE_OPS: all. */
    unsigned fail_at;
    int fail_with;
    enum fake_op fail_op;
    bool late;
    unsigned calls, op_calls[FAKE_OPS], failures;
    /* Its session. */
    uint8_t journal[16];
    int writer, writers;
    struct sink_claim claim;
    bool is_open, broken, in_attempt, careful, finished, refused, hidden;
    uint64_t from, to, hidden_lsn; /* the watermark that a late commit has moved, before */
    struct fake_state before, savepoint;
    const char *class;
    char error[200];
};

/* --- the calls --------------------------------------------------------------------------------------- */

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
    struct fake_watermark *watermark;
    int r = fake_fault(s, FAKE_OPEN), writers;

    assert(!s->db->in_transaction);
    s->is_open = false;
    if (r < 0)
        return r;
    memcpy(s->journal, journal->uuid, 16);
    s->writer = journal->writer;
    s->writers = journal->writers;
    writers = fake_db_writers(s->db, s->journal);
    if (writers == 0 && journal->registered)
        return -ENOENT;
    if (writers == 0)
        for (; writers < s->writers; writers++)
            fake_db_add_watermark(s->db, s->journal, writers, journal->register_lsns[writers]);
    watermark = fake_db_watermark(s->db, s->journal, s->writer);
    s->claim = (struct sink_claim){.writers = writers, .found = watermark != NULL};
    if (watermark)
        *ret_lsn = s->hidden ? s->hidden_lsn : watermark->lsn;
    for (int i = 0; i < s->writers && writers == s->writers; i++)
        s->claim.lsns[i] = fake_db_watermark(s->db, s->journal, i)->lsn;
    s->hidden = false;
    s->is_open = writers == s->writers;
    s->broken = false;
    return 0;
}

static inline const struct sink_claim *fake_claim(const struct sink *sink)
{
    return &((const struct fake_sink *)(const void *)sink)->claim;
}

static inline int fake_share(struct sink *sink, uint64_t lsn, int writers)
{
    struct fake_sink *s = fake_self(sink);
    struct fake_state *now = &s->db->now;
    int r = fake_fault(s, FAKE_SHARE);

    assert(s->is_open && !s->db->in_transaction && s->writer == 0);
    if (r < 0)
        return r;
    if (fake_db_writers(s->db, s->journal) != s->writers)
        return -ESTALE;
    for (int i = 0; i < s->writers; i++)
        if (fake_db_watermark(s->db, s->journal, i)->lsn != lsn)
            return -ESTALE;
    for (int i = s->writers; i < writers; i++)
        fake_db_add_watermark(s->db, s->journal, i, lsn);
    for (size_t i = 0; i < now->watermark_count; i++)
        if (now->watermarks[i].writer >= writers && memcmp(now->watermarks[i].journal, s->journal, 16) == 0)
            now->watermarks[i--] = now->watermarks[--now->watermark_count];
    for (size_t i = 0; i < now->session_count; i++)
        if (now->sessions[i].owner_writer >= writers && memcmp(now->sessions[i].owner, s->journal, 16) == 0)
            now->sessions[i].owner_writer = 0;
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

/* Rows that were kept when the writers were another number. */
static inline void fake_load_others(struct fake_sink *s, struct sink_stream *stream)
{
    sink_stream_forget_others(stream);
    for (size_t i = 0; i < s->db->now.stream_count; i++) {
        const struct fake_stream *row = &s->db->now.streams[i];
        struct sink_stream_other *other;

        if (row->uid != stream->uid || row->writers == s->writers || memcmp(row->id, stream->id, 16) != 0)
            continue;
        stream->others = realloc(stream->others, (stream->other_count + 1) * sizeof(*stream->others));
        assert(stream->others);
        other = &stream->others[stream->other_count++];
        *other = (struct sink_stream_other){.writer = (unsigned)row->writer, .writers = (unsigned)row->writers};
        fake_rangeset_copy(&other->seen, &row->seen);
    }
}

static inline int fake_load_streams(struct sink *sink, struct sink_stream *const *streams, size_t count)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_LOAD_STREAMS);

    assert(s->db->in_transaction && !s->in_attempt);
    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct fake_stream *stored =
            fake_db_stream_of(s->db, streams[i]->uid, streams[i]->id, s->writer, s->writers);

        assert(streams[i]->revision == 0);
        fake_load_others(s, streams[i]);
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
    /* A server speaks its own language in its own encoding. */
    snprintf(s->error, sizeof(s->error), "storing rows: abgelehnt \xE4 (SQLSTATE %s)", class);
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
        new->adds = (struct session_totals){
            .llm_input_tokens = frame->input_tokens, .llm_output_tokens = frame->output_tokens, .llm_calls = 1};
    else if (frame->type == TOLL_FRAME_TTS)
        new->adds = (struct session_totals){.tts_chars = frame->char_count, .tts_calls = 1};
    else if (frame->type == TOLL_FRAME_STT)
        new->adds = (struct session_totals){.stt_audio_us = frame->audio_duration_us, .stt_calls = 1};
    fake_refuse(s, db->poison ? db->poison(row) : NULL);
    return 0;
}

static inline int fake_push(struct sink *sink)
{
    struct fake_sink *s = fake_self(sink);

    assert(s->in_attempt);
    return fake_fault(s, FAKE_PUSH);
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
        row->owner_writer = s->writer;
        row->started_us = known->started_us;
        row->started_reported_us = TOLL_TIME_MISSING;
    }
    row->shared = row->shared || memcmp(row->owner, s->journal, 16) != 0 || row->owner_writer != s->writer;
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
    struct fake_stream *row = fake_db_stream_of(s->db, stream->uid, stream->id, s->writer, s->writers);

    if (stream->revision != (row ? row->revision : 0))
        return -ESTALE;
    if (!row) {
        now->streams = realloc(now->streams, (now->stream_count + 1) * sizeof(*now->streams));
        assert(now->streams);
        row = &now->streams[now->stream_count++];
        *row = (struct fake_stream){.uid = stream->uid, .writer = s->writer, .writers = s->writers};
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
        (struct fake_batch){.writer = s->writer, .from = batch->from, .to = batch->to, .counts = batch->counts};
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

static inline int fake_open_sessions(struct sink *sink, int64_t idle_before_us, size_t max,
                                     void (*found)(void *context, const uint8_t id[16]), void *context)
{
    struct fake_sink *s = fake_self(sink);
    int r = fake_fault(s, FAKE_OPEN_SESSIONS);

    (void)idle_before_us; /* which rows are idle is for the tests of the real sinks */
    (void)max;
    assert(s->is_open && !s->db->in_transaction);
    for (size_t i = 0; r == 0 && i < s->db->now.session_count; i++) {
        const struct fake_session row = s->db->now.sessions[i]; /* a copy: others may store sessions meanwhile */

        if (!row.ended && memcmp(row.owner, s->journal, 16) == 0 && row.owner_writer == s->writer)
            found(context, row.id);
    }
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
    .claim = fake_claim,
    .share = fake_share,
    .begin = fake_begin,
    .load_streams = fake_load_streams,
    .attempt = fake_attempt,
    .add = fake_add,
    .push = fake_push,
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
