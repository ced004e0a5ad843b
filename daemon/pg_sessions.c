/* See pg_sessions.h. The rules for what is written stand in sql/functions/sessions.sql. */
#include "daemon/pg_sessions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The columns of toll.session_change, and their types (src/include/catalog/pg_type.dat). */
enum { CHANGE_COLUMNS = 23 };
enum { BOOL = 16, INT8 = 20, INT4 = 23, TEXT = 25, FLOAT8 = 701, TIMESTAMPTZ = 1184, UUID = 2950, JSONB = 3802 };

/* FOR SHARE is enough to store events; FOR UPDATE where the row will be written. In order of session_id, so that two batches never wait for each
 * other. (FOR KEY SHARE, which the foreign key takes, does not conflict with an update of totals: a sum was lost.) Told are how many were found, and of
 * those only what is out of the ordinary: ended, or another's and not yet marked as shared. */
#define LOCK_ROWS(strength)                                                                                             \
    "WITH locked AS (SELECT session_id, ended_at IS NOT NULL AS ended, NOT shared AND (owner_journal IS DISTINCT FROM " \
    "$1::uuid OR owner_writer IS DISTINCT FROM $2::integer) AS others FROM public.billing_sessions "                    \
    "WHERE session_id = ANY ($3::uuid[]) ORDER BY session_id FOR " strength ") "                                        \
    "SELECT c.found, l.session_id, l.ended, l.others FROM (SELECT count(*) AS found FROM locked) AS c "                 \
    "LEFT JOIN locked AS l ON l.ended OR l.others"
static const char LOCK_SHARE[] = LOCK_ROWS("SHARE");
static const char LOCK_UPDATE[] = LOCK_ROWS("UPDATE");

enum { INSERTED = 1, ENDED = 2, FOREIGN = 4 /* another's, and not yet marked as shared */ };

int pg_sessions_prepare(struct pg_sessions *sessions, struct pg *pg)
{
    PGresult *result;
    int r = pg_query(pg, &result, "SELECT 'toll.session_change'::regtype::oid", 0, NULL);

    if (r < 0)
        return r;
    sessions->change_type = (uint32_t)strtoul(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return 0;
}

void pg_sessions_done(struct pg_sessions *sessions)
{
    copy_done(&sessions->array);
    free(sessions->states);
}

static struct copy_buffer *column(struct copy_buffer *buf, uint32_t type)
{
    copy_type(buf, type);
    return buf;
}

static void add_change(struct copy_buffer *buf, const struct session_change *change)
{
    static const struct stream_key nobody;
    const struct session *session = change->session;
    const struct session_totals *totals = &session->totals;
    size_t record = copy_record_begin(buf, CHANGE_COLUMNS);

    copy_uuid(column(buf, UUID), session->id);
    copy_bool(column(buf, BOOL),
              session->whole &&
                  session->stored); /* else, when it is settled, the row was there before memory knew of it */
    copy_time(column(buf, TIMESTAMPTZ), change->orphan ? change->idle_before_us : TOLL_TIME_MISSING);
    copy_int4(column(buf, INT4), (int32_t)change->starts);
    copy_int4(column(buf, INT4), (int32_t)change->ends);
    copy_int4(column(buf, INT4), (int32_t)change->rows);
    copy_time(column(buf, TIMESTAMPTZ), change->starts ? change->started_us : session->started_us);
    copy_time(column(buf, TIMESTAMPTZ), change->started_reported_us);
    copy_time(column(buf, TIMESTAMPTZ), session->last_us);
    copy_time(column(buf, TIMESTAMPTZ), change->ended_us);
    copy_time(column(buf, TIMESTAMPTZ), change->ended_reported_us);
    copy_text(column(buf, TEXT), change->finish_reason, change->finish_reason ? strlen(change->finish_reason) : 0);
    copy_jsonb(column(buf, JSONB), change->metadata, change->metadata ? strlen(change->metadata) : 0);
    copy_jsonb(column(buf, JSONB), change->raw_json, change->raw_json ? strlen(change->raw_json) : 0);
    copy_int8(column(buf, INT8), totals->llm_input_tokens);
    copy_int8(column(buf, INT8), totals->llm_output_tokens);
    copy_int8(column(buf, INT8), totals->llm_calls);
    copy_int8(column(buf, INT8), totals->tts_chars);
    copy_int8(column(buf, INT8), totals->tts_calls);
    copy_float8(column(buf, FLOAT8), (double)totals->stt_audio_us / 1000.0);
    copy_int8(column(buf, INT8), totals->stt_calls);
    if (memcmp(&change->sender, &nobody, sizeof(nobody)) == 0) {
        copy_null(column(buf, INT8));
        copy_null(column(buf, UUID));
    } else {
        copy_int8(column(buf, INT8), change->sender.uid);
        copy_uuid(column(buf, UUID), change->sender.id);
    }
    copy_record_end(buf, record);
}

/* Asks with the array that was filled as the last parameter; the result is the caller's. */
static int query_array(struct pg_sessions *sessions, struct pg *pg, PGresult **ret, const char *sql, int count,
                       const char **parameters)
{
    struct copy_buffer *array = &sessions->array;

    copy_array_end(array);
    if (array->failed)
        return -ENOMEM;
    parameters[count - 1] = array->data;
    return pg_query_binary(pg, ret, sql, count, parameters, array->size);
}

/* Calls a function of sessions.sql with the changes that `wanted` picks, if any; the result is the caller's. */
static int call_with_changes(struct pg_sessions *sessions, struct pg *pg, PGresult **ret, const char *sql,
                             const char *journal, const char *writer, struct session_change *const *changes,
                             size_t count, bool (*wanted)(const struct session_change *change, unsigned char state))
{
    const char *parameters[] = {journal, writer, NULL};

    copy_array_begin(&sessions->array, sessions->change_type);
    for (size_t i = 0; i < count; i++)
        if (wanted(changes[i], sessions->states[i]))
            add_change(&sessions->array, changes[i]);
    return query_array(sessions, pg, ret, sql, 3, parameters);
}

static bool is_new(const struct session_change *change, unsigned char state)
{
    (void)state;
    return !change->session->stored;
}

/* Whether the row must be written though it is not new: what is told to it, or what was found in it. */
static bool needs_update(const struct session_change *change, unsigned char state)
{
    if (state & INSERTED)
        return false;
    return change->starts || change->ends || change->orphan || ((state & ENDED) && change->rows) || (state & FOREIGN);
}

/* The index of the change with that id, in changes sorted by id; count if there is none. */
static size_t find_change(struct session_change *const *changes, size_t count, const char *uuid_text)
{
    uint8_t id[16];
    size_t low = 0, high = count;

    if (pg_uuid_parse(uuid_text, id) < 0)
        return count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = memcmp(changes[middle]->session->id, id, sizeof(id));

        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return count;
}

static int insert_new(struct pg_sessions *sessions, struct pg *pg, const char *journal, const char *writer,
                      struct session_change *const *changes, size_t count)
{
    PGresult *result;
    int r = call_with_changes(sessions, pg, &result,
                              "SELECT toll.insert_sessions($1::uuid, $2::integer, $3::toll.session_change[])", journal,
                              writer, changes, count, is_new);

    if (r < 0)
        return r;
    for (int i = 0; i < PQntuples(result); i++) {
        size_t at = find_change(changes, count, PQgetvalue(result, i, 0));

        if (at < count)
            sessions->states[at] |= INSERTED;
    }
    PQclear(result);
    return 0;
}

/* Takes in a row of what LOCK_ROWS tells. */
static void note_state(struct pg_sessions *sessions, struct session_change *const *changes, size_t count,
                       const PGresult *result, int row)
{
    size_t at = PQgetisnull(result, row, 1) ? count : find_change(changes, count, PQgetvalue(result, row, 1));
    bool ended = PQgetvalue(result, row, 2)[0] == 't', others = PQgetvalue(result, row, 3)[0] == 't';

    if (at < count)
        sessions->states[at] |= (unsigned char)((ended ? ENDED : 0) | (others ? FOREIGN : 0));
}

/* Locks the rows of all changes that `wanted` picks and notes their states. -ESTALE if one is not there. */
static int lock_rows(struct pg_sessions *sessions, struct pg *pg, const char *sql, const char *journal,
                     const char *writer, struct session_change *const *changes, size_t count,
                     bool (*wanted)(const struct session_change *change, unsigned char state))
{
    struct copy_buffer *ids = &sessions->array;
    const char *parameters[] = {journal, writer, NULL};
    PGresult *result;
    int r;

    copy_array_begin(ids, UUID);
    for (size_t i = 0; i < count; i++)
        if (wanted(changes[i], sessions->states[i]))
            copy_array_uuid(ids, changes[i]->session->id);
    if (ids->rows == 0)
        return 0;
    r = query_array(sessions, pg, &result, sql, 3, parameters);
    if (r < 0)
        return r;
    if (strtoull(PQgetvalue(result, 0, 0), NULL, 10) != ids->rows)
        r = -ESTALE;
    for (int i = 0; i < PQntuples(result); i++)
        note_state(sessions, changes, count, result, i);
    PQclear(result);
    return r;
}

static bool not_inserted(const struct session_change *change, unsigned char state)
{
    (void)change;
    return !(state & INSERTED);
}

static int reset(struct pg_sessions *sessions, size_t count)
{
    if (count > sessions->capacity) {
        unsigned char *states = realloc(sessions->states, count);

        if (!states)
            return -ENOMEM;
        sessions->states = states;
        sessions->capacity = count;
    }
    if (count)
        memset(sessions->states, 0, count);
    return 0;
}

int pg_sessions_claim(struct pg_sessions *sessions, struct pg *pg, const char *journal, const char *writer,
                      struct session_change *const *changes, size_t count)
{
    bool any_new = false, share_will_do = true;
    int r = reset(sessions, count);

    for (size_t i = 0; i < count; i++)
        any_new = any_new || is_new(changes[i], 0);
    if (r == 0 && any_new)
        r = insert_new(sessions, pg, journal, writer, changes, count);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        const struct session_change *change = changes[i];

        if (not_inserted(change, sessions->states[i]) &&
            (is_new(change, 0) || change->starts || change->ends || change->orphan))
            share_will_do = false;
    }
    r = lock_rows(sessions, pg, share_will_do ? LOCK_SHARE : LOCK_UPDATE, journal, writer, changes, count,
                  not_inserted);
    /* A share lock may show that the row must be written after all: ended, or taken over by somebody else meanwhile. */
    if (r == 0 && share_will_do)
        r = lock_rows(sessions, pg, LOCK_UPDATE, journal, writer, changes, count, needs_update);
    return r;
}

/* Of the sessions whose ids the array has, if any. */
static int recompute(struct pg_sessions *sessions, struct pg *pg)
{
    const char *parameters[] = {NULL};
    PGresult *result;
    int r;

    if (sessions->array.rows == 0)
        return 0;
    r = query_array(sessions, pg, &result, "SELECT toll.recompute_totals($1::uuid[])", 1, parameters);
    if (r == 0)
        PQclear(result);
    return r;
}

static int update_rows(struct pg_sessions *sessions, struct pg *pg, const char *journal, const char *writer,
                       struct session_change *const *changes, size_t count, size_t expected)
{
    PGresult *result;
    int r = call_with_changes(
        sessions, pg, &result,
        "SELECT session_id, ended, to_sum FROM toll.settle_sessions($1::uuid, $2::integer, $3::toll.session_change[])",
        journal, writer, changes, count, needs_update);

    if (r < 0)
        return r;
    if ((size_t)PQntuples(result) != expected) {
        PQclear(result);
        return -ESTALE;
    }
    copy_array_begin(&sessions->array, UUID);
    for (int i = 0; i < PQntuples(result); i++) {
        size_t at = find_change(changes, count, PQgetvalue(result, i, 0));

        if (at < count)
            changes[at]->finalized = PQgetvalue(result, i, 1)[0] == 't';
        if (at < count && PQgetvalue(result, i, 2)[0] == 't')
            copy_array_uuid(&sessions->array, changes[at]->session->id);
    }
    PQclear(result);
    return recompute(sessions, pg);
}

int pg_sessions_settle(struct pg_sessions *sessions, struct pg *pg, const char *journal, const char *writer,
                       struct session_change *const *changes, size_t count)
{
    size_t updates = 0;

    for (size_t i = 0; i < count; i++) {
        unsigned char state = sessions->states[i];

        changes[i]->existed = !(state & INSERTED) && !changes[i]->session->stored;
        changes[i]->finalized = (state & INSERTED) ? changes[i]->ends > 0 : (state & ENDED) != 0;
        if (state & FOREIGN)
            changes[i]->existed = true; /* memory is not the whole story any more */
        updates += needs_update(changes[i], state);
    }
    return updates ? update_rows(sessions, pg, journal, writer, changes, count, updates) : 0;
}
