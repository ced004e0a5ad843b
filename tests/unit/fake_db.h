/* The database behind fake_sink.h: tables in memory, copies of them to go back to, and what must always hold
 * of them. Tables are searched from end to end: meant for thousands of rows. */
#ifndef TOLL_TESTS_FAKE_DB_H
#define TOLL_TESTS_FAKE_DB_H

#include "daemon/sink.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    int owner_writer;
    bool shared, start_missing, ended;
    int64_t started_us, started_reported_us, ended_us;
    char finish_reason[32], metadata[160];
    uint32_t starts, ends, revision; /* session_start and session_end frames that were stored */
    struct session_totals totals;    /* 0 until it ends */
};

struct fake_stream {
    uint32_t uid;
    uint8_t id[16];
    int writer, writers;
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
    int writer;
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
    /* Rows the database refuses: an SQLSTATE, or NULL. For session_start and session_end, which are no rows,
     * the session is asked about. */
    const char *(*poison)(const struct sink_row *row);
    const char *(*poison_session)(const struct session_change *change);
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
    struct fake_db old = *db;

    *db = (struct fake_db){0};
    fake_state_done(&old.now);
    free(old.rows);
    free(old.refused);
    free(old.batches);
}

static inline struct fake_session *fake_db_session(struct fake_db *db, const uint8_t id[16])
{
    for (size_t i = 0; i < db->now.session_count; i++)
        if (memcmp(db->now.sessions[i].id, id, 16) == 0)
            return &db->now.sessions[i];
    return NULL;
}

static inline struct fake_stream *fake_db_stream_of(struct fake_db *db, uint32_t uid, const uint8_t id[16], int writer,
                                                    int writers)
{
    for (size_t i = 0; i < db->now.stream_count; i++) {
        struct fake_stream *stream = &db->now.streams[i];

        if (stream->uid == uid && stream->writer == writer && stream->writers == writers &&
            memcmp(stream->id, id, 16) == 0)
            return stream;
    }
    return NULL;
}

/* Of one writer. */
static inline struct fake_stream *fake_db_stream(struct fake_db *db, uint32_t uid, const uint8_t id[16], int writer)
{
    return fake_db_stream_of(db, uid, id, writer, 1);
}

static inline int fake_db_writers(const struct fake_db *db, const uint8_t journal[16])
{
    int count = 0;

    for (size_t i = 0; i < db->now.watermark_count; i++)
        count += memcmp(db->now.watermarks[i].journal, journal, 16) == 0;
    return count;
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

static inline void fake_db_add_watermark(struct fake_db *db, const uint8_t journal[16], int writer, uint64_t lsn)
{
    struct fake_state *now = &db->now;

    now->watermarks = realloc(now->watermarks, (now->watermark_count + 1) * sizeof(*now->watermarks));
    assert(now->watermarks);
    now->watermarks[now->watermark_count] = (struct fake_watermark){.writer = writer, .lsn = lsn};
    memcpy(now->watermarks[now->watermark_count++].journal, journal, 16);
}

static inline bool fake_totals_equal(const struct session_totals *a, const struct session_totals *b)
{
    return a->llm_input_tokens == b->llm_input_tokens && a->llm_output_tokens == b->llm_output_tokens &&
           a->llm_calls == b->llm_calls && a->tts_chars == b->tts_chars && a->tts_calls == b->tts_calls &&
           a->stt_audio_us == b->stt_audio_us && a->stt_calls == b->stt_calls;
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

        if (!fake_totals_equal(&session->totals, session->ended ? &sum : &none))
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

#endif
