/* See session.h. Sessions are found by a hash table of chains, and ordered by a list. Not by uthash: its handle was 56 bytes of each session's 192, and
 * its longer chains, which lead through more cache lines, half of the time a frame took here. */
#include "daemon/session.h"

#include "daemon/idhash.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

_Static_assert(sizeof(struct session) <= 120, "with malloc's 8 bytes a live session takes two cache lines");

struct session_table {
    struct session *
        *buckets; /* bucket_count of them, a power of two and no less than count; NULL before the first session */
    size_t count, bucket_count;
    struct session *oldest;         /* list by last frame */
    struct session *recent;         /* found last, or NULL: a batch's frames of a session come one after the other */
    struct session_change *changes; /* of the batch; reused by the next */
    struct session_change **sorted; /* the first sorted_count of them, in order of id */
    size_t change_count, change_capacity, sorted_count;
};

struct session_table *session_table_new(void)
{
    return calloc(1, sizeof(struct session_table));
}

static struct session **bucket_of(const struct session_table *table, const uint8_t id[static 16])
{
    return &table->buckets[idhash(id, 16) & (table->bucket_count - 1)];
}

/* Room for one more session. */
static int make_room(struct session_table *table)
{
    size_t bucket_count = table->bucket_count ? table->bucket_count * 2 : 64;
    struct session **buckets, *session;

    if (table->count < table->bucket_count)
        return 0;
    buckets = calloc(bucket_count, sizeof(struct session *));
    if (!buckets)
        return table->buckets ? 0 : -ENOMEM; /* longer chains will do */
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = bucket_count;
    DL_FOREACH2(table->oldest, session, newer)
    {
        LL_PREPEND2(*bucket_of(table, session->id), session, next);
    }
    return 0;
}

static void forget(struct session_table *table, struct session *session)
{
    struct session **bucket = bucket_of(table, session->id);

    assert(table->oldest && session->older);
    LL_DELETE2(*bucket, session, next);
    DL_DELETE2(table->oldest, session, older, newer);
    table->count--;
    if (table->recent == session)
        table->recent = NULL;
    free(session);
}

static void clear_changes(struct session_table *table)
{
    for (size_t i = 0; i < table->change_count; i++) {
        free(table->changes[i].finish_reason);
        free(table->changes[i].metadata);
        free(table->changes[i].raw_json);
    }
    table->change_count = table->sorted_count = 0;
}

void session_table_clear(struct session_table *table)
{
    struct session *session, *next;

    clear_changes(table);
    for (session = table->oldest; session; session = next) {
        next = session->newer;
        free(session);
    }
    free(table->buckets);
    table->buckets = NULL;
    table->oldest = table->recent = NULL;
    table->count = table->bucket_count = 0;
}

void session_table_free(struct session_table *table)
{
    if (!table)
        return;
    session_table_clear(table);
    free(table->changes);
    free(table->sorted);
    free(table);
}

static struct session *find(const struct session_table *table, const uint8_t id[static 16])
{
    struct session *session = table->recent;

    if (session && memcmp(session->id, id, sizeof(session->id)) == 0)
        return session;
    session = table->buckets ? *bucket_of(table, id) : NULL;
    while (session && memcmp(session->id, id, sizeof(session->id)) != 0)
        session = session->next;
    return session;
}

const struct session *session_find(const struct session_table *table, const uint8_t id[static 16])
{
    return find(table, id);
}

size_t session_count(const struct session_table *table)
{
    return table->count;
}

void session_foreach(const struct session_table *table, bool (*visit)(void *context, const struct session *session),
                     void *context)
{
    const struct session *session =
        table->oldest ? table->oldest->older : NULL; /* utlist: the head's older is the tail */

    while (session && visit(context, session))
        session = session == table->oldest ? NULL : session->older;
}

static int make_room_for_change(struct session_table *table)
{
    size_t capacity = table->change_capacity ? table->change_capacity * 2 : 64;
    struct session_change *changes, **sorted;

    if (table->change_count < table->change_capacity)
        return 0;
    changes = realloc(table->changes, capacity * sizeof(*changes));
    if (!changes)
        return -ENOMEM;
    table->changes = changes;
    table->sorted_count = 0;
    sorted = realloc(table->sorted, capacity * sizeof(struct session_change *));
    if (!sorted)
        return -ENOMEM;
    table->sorted = sorted;
    table->change_capacity = capacity;
    return 0;
}

/* The session's change in this batch, made if there is none yet. */
static struct session_change *plan(struct session_table *table, struct session *session)
{
    struct session_change *change;

    if (session->change)
        return &table->changes[session->change - 1];
    if (make_room_for_change(table) < 0)
        return NULL;
    change = &table->changes[table->change_count++];
    *change = (struct session_change){.session = session,
                                      .started_us = TOLL_TIME_MISSING,
                                      .started_reported_us = TOLL_TIME_MISSING,
                                      .ended_us = TOLL_TIME_MISSING,
                                      .ended_reported_us = TOLL_TIME_MISSING};
    memcpy(&change->order, session->id, sizeof(change->order));
    change->order = be64toh(change->order);
    session->change = (uint32_t)table->change_count;
    return change;
}

static struct session *get(struct session_table *table, const uint8_t id[static 16])
{
    struct session *session = find(table, id);

    if (session)
        return session;
    if (make_room(table) < 0)
        return NULL;
    session = calloc(1, sizeof(*session));
    if (!session)
        return NULL;
    memcpy(session->id, id, sizeof(session->id));
    session->started_us = session->last_us = TOLL_TIME_MISSING;
    session->whole = true;
    LL_PREPEND2(*bucket_of(table, id), session, next);
    DL_APPEND2(table->oldest, session, older, newer);
    table->count++;
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

/* False: a sum does not fit. */
static bool add_usage(struct session_totals *totals, const struct toll_frame *frame)
{
    switch (frame->type) {
    case TOLL_FRAME_LLM:
        return !__builtin_add_overflow(totals->llm_calls, 1u, &totals->llm_calls) &&
               !__builtin_add_overflow(totals->llm_input_tokens, frame->input_tokens, &totals->llm_input_tokens) &&
               !__builtin_add_overflow(totals->llm_output_tokens, frame->output_tokens, &totals->llm_output_tokens);
    case TOLL_FRAME_TTS:
        return !__builtin_add_overflow(totals->tts_calls, 1u, &totals->tts_calls) &&
               !__builtin_add_overflow(totals->tts_chars, frame->char_count, &totals->tts_chars);
    case TOLL_FRAME_STT:
        return !__builtin_add_overflow(totals->stt_calls, 1u, &totals->stt_calls) &&
               !__builtin_add_overflow(totals->stt_audio_us, frame->audio_duration_us, &totals->stt_audio_us);
    default:
        return true;
    }
}

int session_apply(struct session_table *table, const struct toll_frame *frame, int64_t occurred_us, int64_t reported_us,
                  int64_t received_us, uint32_t host, const struct stream_key *sender)
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
    if (host)
        session->host = host & 0x0FFFFFFF;
    if (sender && !session->stored)
        change->sender = *sender;
    table->recent = session;
    if (session == table->oldest->older) /* utlist: the head's older is the tail */
        return 0;
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
    const struct session_change *left = *(const struct session_change *const *)a,
                                *right = *(const struct session_change *const *)b;

    if (left->order != right->order)
        return left->order < right->order ? -1 : 1;
    return memcmp(left->session->id, right->session->id, sizeof(left->session->id));
}

struct session_change *const *session_changes(struct session_table *table, size_t *ret_count)
{
    if (table->sorted_count != table->change_count) {
        for (size_t i = 0; i < table->change_count; i++)
            table->sorted[i] = &table->changes[i];
        qsort(table->sorted, table->change_count, sizeof(struct session_change *), compare_changes);
        table->sorted_count = table->change_count;
    }
    *ret_count = table->change_count;
    return table->sorted;
}

void session_settle(struct session_table *table, size_t max)
{
    for (size_t i = 0; i < table->change_count; i++) {
        const struct session_change *change = &table->changes[i];
        struct session *session = change->session;

        session->change = 0;
        session->stored = true;
        if (change->existed)
            session->whole = false;
        if (change->finalized ||
            change->orphan) /* an orphan that is none is busy elsewhere: its next frame makes it known again */
            forget(table, session);
    }
    clear_changes(table);
    while (table->count > max)
        forget(table, table->oldest);
}
