/* See session.h. */
#include "daemon/session.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

_Static_assert(sizeof(struct session) <= 224,
               "with the allocator's and the hash table's share, a live session stays under 256 bytes");

struct session_table {
    struct session *sessions; /* uthash's head */
    struct session *oldest;   /* list by last frame */
    struct session_change **changes;
    size_t change_count, change_capacity;
};

struct session_table *session_table_new(void)
{
    return calloc(1, sizeof(struct session_table));
}

static void change_free(struct session_change *change)
{
    free(change->finish_reason);
    free(change->metadata);
    free(change->raw_json);
    free(change);
}

static void forget(struct session_table *table, struct session *session)
{
    assert(table->oldest && session->older);
    HASH_DEL(table->sessions, session);
    DL_DELETE2(table->oldest, session, older, newer);
    free(session);
}

void session_table_clear(struct session_table *table)
{
    struct session *session, *next;

    for (size_t i = 0; i < table->change_count; i++)
        change_free(table->changes[i]);
    table->change_count = 0;
    HASH_CLEAR(hh, table->sessions); /* the hash table alone; reached through an entry, so before they go */
    for (session = table->oldest; session; session = next) {
        next = session->newer;
        free(session);
    }
    table->oldest = NULL;
}

void session_table_free(struct session_table *table)
{
    if (!table)
        return;
    session_table_clear(table);
    free(table->changes);
    free(table);
}

static struct session *find(const struct session_table *table, const uint8_t id[static 16])
{
    struct session *session;

    HASH_FIND(hh, table->sessions, id, sizeof(session->id), session);
    return session;
}

const struct session *session_find(const struct session_table *table, const uint8_t id[static 16])
{
    return find(table, id);
}

size_t session_count(const struct session_table *table)
{
    return HASH_COUNT(table->sessions);
}

void session_foreach(const struct session_table *table, bool (*visit)(void *context, const struct session *session),
                     void *context)
{
    const struct session *session =
        table->oldest ? table->oldest->older : NULL; /* utlist: the head's older is the tail */

    while (session && visit(context, session))
        session = session == table->oldest ? NULL : session->older;
}

/* The session's change in this batch, made if there is none yet. */
static struct session_change *plan(struct session_table *table, struct session *session)
{
    struct session_change *change;

    if (session->change)
        return session->change;
    if (table->change_count == table->change_capacity) {
        size_t capacity = table->change_capacity ? table->change_capacity * 2 : 64;
        struct session_change **changes = realloc(table->changes, capacity * sizeof(struct session_change *));

        if (!changes)
            return NULL;
        table->changes = changes;
        table->change_capacity = capacity;
    }
    change = calloc(1, sizeof(*change));
    if (!change)
        return NULL;
    change->session = session;
    change->started_us = change->started_reported_us = TOLL_TIME_MISSING;
    change->ended_us = change->ended_reported_us = TOLL_TIME_MISSING;
    session->change = change;
    table->changes[table->change_count++] = change;
    return change;
}

static struct session *get(struct session_table *table, const uint8_t id[static 16])
{
    struct session *session = find(table, id);

    if (session)
        return session;
    session = calloc(1, sizeof(*session));
    if (!session)
        return NULL;
    memcpy(session->id, id, sizeof(session->id));
    session->started_us = session->last_us = TOLL_TIME_MISSING;
    session->whole = true;
    if (idhash_add(table->sessions, id, session) < 0) {
        free(session);
        return NULL;
    }
    DL_APPEND2(table->oldest, session, older, newer);
    return session;
}

/* A copy with a NUL at its end. NULL: out of memory. */
static char *copy_text(const char *text, size_t size)
{
    char *copy = malloc(size + 1);

    if (!copy)
        return NULL;
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

/* Joins two JSON objects, as text: where a key stands in both, the earlier object's value comes last and so wins in jsonb. */
static int merge_json(char **object, const struct toll_str *later)
{
    size_t earlier_length, later_length;
    char *merged;

    if (!later->ptr)
        return 0;
    if (!*object) {
        *object = copy_text(later->ptr, later->len);
        return *object ? 0 : -ENOMEM;
    }
    earlier_length = strlen(*object);
    later_length = later->len;
    if (later_length <= 2) /* "{}" */
        return 0;
    merged = malloc(earlier_length + later_length + 1);
    if (!merged)
        return -ENOMEM;
    memcpy(merged, later->ptr, later_length - 1);
    if (earlier_length <= 2)
        memcpy(merged + later_length - 1, "}", 2);
    else {
        merged[later_length - 1] = ',';
        memcpy(merged + later_length, *object + 1, earlier_length); /* its NUL too */
    }
    free(*object);
    *object = merged;
    return 0;
}

static int apply_start(struct session *session, struct session_change *change, const struct toll_frame *frame,
                       int64_t occurred_us, int64_t reported_us)
{
    int r = merge_json(&change->metadata, &frame->metadata);

    if (r == 0)
        r = merge_json(&change->raw_json, &frame->raw_json);
    if (r < 0)
        return r;
    if (change->starts++ == 0 || occurred_us < change->started_us) {
        change->started_us = occurred_us;
        change->started_reported_us = reported_us;
    }
    if (!session->has_start || occurred_us < session->started_us)
        session->started_us = occurred_us;
    session->has_start = true;
    return 0;
}

static int apply_end(struct session *session, struct session_change *change, const struct toll_frame *frame,
                     int64_t occurred_us, int64_t reported_us)
{
    int r = merge_json(&change->raw_json, &frame->raw_json);

    if (r < 0)
        return r;
    if (change->ends == 0) {
        change->finish_reason = frame->finish_reason.ptr ? copy_text(frame->finish_reason.ptr, frame->finish_reason.len)
                                                         : copy_text("end", 3);
        if (!change->finish_reason)
            return -ENOMEM;
        change->ended_us = occurred_us;
        change->ended_reported_us = reported_us;
    }
    change->ends++;
    session->ended = true;
    return 0;
}

/* False: a sum does not fit; it is left as it was. */
static bool add_usage(struct session_totals *totals, const struct toll_frame *frame)
{
    switch (frame->type) {
    case TOLL_FRAME_LLM:
        totals->llm_calls++;
        return !__builtin_add_overflow(totals->llm_input_tokens, frame->input_tokens, &totals->llm_input_tokens) &&
               !__builtin_add_overflow(totals->llm_output_tokens, frame->output_tokens, &totals->llm_output_tokens);
    case TOLL_FRAME_TTS:
        totals->tts_calls++;
        return !__builtin_add_overflow(totals->tts_chars, frame->char_count, &totals->tts_chars);
    case TOLL_FRAME_STT:
        totals->stt_calls++;
        return !__builtin_add_overflow(totals->stt_audio_us, frame->audio_duration_us, &totals->stt_audio_us);
    default:
        return true;
    }
}

int session_apply(struct session_table *table, const struct toll_frame *frame, int64_t occurred_us, int64_t reported_us,
                  int64_t received_us)
{
    struct session *session = get(table, frame->session_id);
    struct session_change *change = session ? plan(table, session) : NULL;
    int r = 0;

    if (!change)
        return -ENOMEM;
    if (frame->type == TOLL_FRAME_SESSION_START)
        r = apply_start(session, change, frame, occurred_us, reported_us);
    else if (frame->type == TOLL_FRAME_SESSION_END)
        r = apply_end(session, change, frame, occurred_us, reported_us);
    else {
        if (!add_usage(&session->totals, frame))
            session->whole = false; /* absurd durations: let the database add them up */
        change->rows++;
    }
    if (r < 0)
        return r;
    if (session->started_us == TOLL_TIME_MISSING)
        session->started_us = occurred_us;
    if (session->last_us < occurred_us)
        session->last_us = occurred_us;
    session->last_received_us = received_us;
    DL_DELETE2(table->oldest, session, older, newer);
    DL_APPEND2(table->oldest, session, older, newer);
    return 0;
}

static int plan_orphan(struct session_table *table, struct session *session, int64_t before_us)
{
    struct session_change *change = plan(table, session);

    if (!change)
        return -ENOMEM;
    change->orphan = true;
    change->idle_before_us = before_us;
    return 0;
}

int session_plan_orphans(struct session_table *table, int64_t before_us, size_t max)
{
    struct session *session;
    size_t planned = 0;

    DL_FOREACH2(table->oldest, session, newer)
    {
        if (session->last_received_us >= before_us || planned == max)
            break;
        if (plan_orphan(table, session, before_us) < 0)
            return -ENOMEM;
        planned++;
    }
    return (int)planned;
}

int session_plan_orphan(struct session_table *table, const uint8_t id[static 16], int64_t before_us)
{
    struct session *session;

    if (find(table, id))
        return 0;
    session = get(table, id);
    if (!session)
        return -ENOMEM;
    session->whole = false;
    session->stored = true;
    return plan_orphan(table, session, before_us);
}

void session_clock_stepped(struct session_table *table, int64_t step_us)
{
    struct session *session;

    DL_FOREACH2(table->oldest, session, newer)
    {
        session->last_received_us += step_us;
    }
}

static int compare_changes(const void *a, const void *b)
{
    const struct session_change *const *left = a, *const *right = b;

    return memcmp((*left)->session->id, (*right)->session->id, sizeof((*left)->session->id));
}

struct session_change *const *session_changes(struct session_table *table, size_t *ret_count)
{
    if (table->change_count > 1)
        qsort(table->changes, table->change_count, sizeof(struct session_change *), compare_changes);
    *ret_count = table->change_count;
    return table->changes;
}

void session_settle(struct session_table *table, size_t max)
{
    for (size_t i = 0; i < table->change_count; i++) {
        struct session_change *change = table->changes[i];
        struct session *session = change->session;

        session->change = NULL;
        session->stored = true;
        if (change->existed)
            session->whole = false;
        if (change->finalized ||
            change->orphan) /* an orphan that is none is busy elsewhere: its next frame makes it known again */
            forget(table, session);
        change_free(change);
    }
    table->change_count = 0;
    while (HASH_COUNT(table->sessions) > max)
        forget(table, table->oldest);
}
