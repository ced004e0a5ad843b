/* See pg_rows.h. The order of the calls, for events of the list below, is the order of the columns. */
#include "daemon/pg_rows.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

const char PG_COPY_TRANSCRIPTS[] =
    "COPY public.session_transcripts (session_id, turn_id, role, text, language, interrupted, occurred_at, batch_id, "
    "occurred_at_reported, raw_json) FROM STDIN (FORMAT binary)";
enum { TRANSCRIPT_COLUMNS = 10 };

const char PG_COPY_GAPS[] =
    "COPY toll.gaps (batch_id, stream_id, seq, uid, pid, session_id, count, since, until, received_at, "
    "raw_json) FROM STDIN (FORMAT binary)";
enum { GAP_COLUMNS = 11 };

const char PG_COPY_QUARANTINE[] =
    "COPY toll.quarantine (batch_id, journal_id, lsn, frame_index, stream_id, seq, uid, pid, received_at, reason, bytes) "
    "FROM STDIN (FORMAT binary)";
enum { QUARANTINE_COLUMNS = 11 };

/* What a field takes at most besides FIELD_MOST. */
static inline size_t room(const struct toll_str *str)
{
    return str->len; /* 0 where there is none */
}

static inline char *field_str(char *at, const struct toll_str *str)
{
    return field_text(at, str->ptr, str->len);
}

static inline char *field_uuid_or_null(char *at, bool present, const uint8_t uuid[static 16])
{
    return present ? field_uuid(at, uuid) : field_null(at);
}

static void copy_uuid_or_null(struct copy_buffer *buf, bool present, const uint8_t uuid[static 16])
{
    if (present)
        copy_uuid(buf, uuid);
    else
        copy_null(buf);
}

static void copy_number(struct copy_buffer *buf, uint64_t seq)
{
    if (seq)
        copy_int8(buf, (int64_t)seq);
    else
        copy_null(buf);
}

/* The columns of billing_events that rows have values for: name, whether this one has, and the field. */
#define COUNT(name)    X(name, frame->name != TOLL_ABSENT, field_int4(at, frame->name))
#define MS(name, from) X(name, frame->from != TOLL_ABSENT, field_float8(at, (double)frame->from / 1000.0))
#define STR(name)      X(name, frame->name.ptr, field_str(at, &frame->name))
#define EVENT_COLUMNS                                                                                                  \
    X(session_id, frame->has_session_id, field_uuid(at, frame->session_id))                                            \
    X(event_type, true, field_str(at, &type))                                                                          \
    STR(provider)                                                                                                      \
    STR(model)                                                                                                         \
    COUNT(input_tokens)                                                                                                \
    COUNT(output_tokens)                                                                                               \
    X(estimated, frame->type == TOLL_FRAME_LLM, field_bool(at, frame->estimated))                                      \
    COUNT(char_count)                                                                                                  \
    STR(voice)                                                                                                         \
    MS(audio_duration_ms, audio_duration_us)                                                                           \
    X(occurred_at, true, field_time(at, row->occurred_us))                                                             \
    X(raw_json, frame->raw_json.ptr, field_jsonb(at, frame->raw_json.ptr, frame->raw_json.len))                        \
    X(batch_id, true, field_int8(at, batch_id))                                                                        \
    X(turn_id, frame->has_turn_id, field_uuid(at, frame->turn_id))                                                     \
    STR(agent)                                                                                                         \
    STR(request_id)                                                                                                    \
    STR(language)                                                                                                      \
    COUNT(cached_input_tokens)                                                                                         \
    COUNT(cache_write_tokens)                                                                                          \
    COUNT(audio_input_tokens)                                                                                          \
    COUNT(cached_audio_tokens)                                                                                         \
    COUNT(audio_output_tokens)                                                                                         \
    COUNT(reasoning_tokens)                                                                                            \
    MS(ttfb_ms, ttfb_us)                                                                                               \
    MS(duration_ms, duration_us)                                                                                       \
    X(interrupted, frame->has_interrupted, field_bool(at, frame->interrupted))                                         \
    STR(meter)                                                                                                         \
    X(quantity, frame->type == TOLL_FRAME_USAGE, field_numeric(at, frame->quantity))                                   \
    STR(account)                                                                                                       \
    X(occurred_at_reported, row->reported_us != TOLL_TIME_MISSING, field_time(at, row->reported_us))

#define X(name, has, field) EVENT_##name,
enum { EVENT_COLUMNS EVENT_COLUMN_COUNT };
#undef X
_Static_assert(EVENT_COLUMN_COUNT < 32, "sets of columns are 32-bit masks");

const struct pg_columns pg_columns_all = {.set = (UINT32_C(1) << EVENT_COLUMN_COUNT) - 1, .count = EVENT_COLUMN_COUNT};

const char *pg_copy_events(struct pg_columns columns, char ret[static PG_COPY_EVENTS_MAX])
{
#define X(name, has, field) #name,
    static const char *const names[] = {EVENT_COLUMNS};
#undef X
    const char *between = "";
    int size = snprintf(ret, PG_COPY_EVENTS_MAX, "COPY public.billing_events (");

    for (unsigned i = 0; i < EVENT_COLUMN_COUNT; i++) {
        if (!(columns.set & UINT32_C(1) << i))
            continue;
        size += snprintf(ret + size, PG_COPY_EVENTS_MAX - (size_t)size, "%s%s", between, names[i]);
        between = ", ";
    }
    assert(size < PG_COPY_EVENTS_MAX - 32);
    snprintf(ret + size, PG_COPY_EVENTS_MAX - (size_t)size, ") FROM STDIN (FORMAT binary)");
    return ret;
}

void pg_columns_add(struct pg_columns *columns, const struct sink_row *row)
{
    const struct toll_frame *frame = row->frame;

#define X(name, has, field)                                                                                            \
    if ((has) && !(columns->set & UINT32_C(1) << EVENT_##name)) {                                                      \
        columns->set |= UINT32_C(1) << EVENT_##name;                                                                   \
        columns->count++;                                                                                              \
    }
    EVENT_COLUMNS
#undef X
}

bool pg_row_event(struct copy_buffer *buf, struct pg_columns columns, const struct sink_row *row, int64_t batch_id)
{
    const struct toll_frame *frame = row->frame;
    const char *type_name = toll_frame_type_name(frame->type);
    const struct toll_str type = {type_name, (uint32_t)strlen(type_name)};
    size_t most = 2 + EVENT_COLUMN_COUNT * FIELD_MOST + FIELD_NUMERIC_MOST + room(&frame->provider) +
                  room(&frame->model) + room(&frame->voice) + room(&frame->raw_json) + room(&frame->agent) +
                  room(&frame->request_id) + room(&frame->language) + room(&frame->meter) + room(&frame->account);
    char *at = copy_row_begin(buf, most, columns.count);

    if (!at)
        return true; /* buf->failed tells */
#define X(name, has, field)                                                                                            \
    if (columns.set & UINT32_C(1) << EVENT_##name)                                                                     \
        at = (has) ? (field) : field_null(at);                                                                         \
    else if (has)                                                                                                      \
        return false;
    EVENT_COLUMNS
#undef X
    copy_row_end(buf, at);
    return true;
}

#undef EVENT_COLUMNS
#undef STR
#undef MS
#undef COUNT

void pg_row_transcript(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id)
{
    const struct toll_frame *frame = row->frame;
    size_t most = 2 + TRANSCRIPT_COLUMNS * FIELD_MOST + room(&frame->role) + room(&frame->text) +
                  room(&frame->language) + room(&frame->raw_json);
    char *at = copy_row_begin(buf, most, TRANSCRIPT_COLUMNS);

    if (!at)
        return;
    at = field_uuid(at, frame->session_id);
    at = field_uuid_or_null(at, frame->has_turn_id, frame->turn_id);
    at = field_str(at, &frame->role);
    at = field_str(at, &frame->text);
    at = field_str(at, &frame->language);
    at = field_bool(at, frame->interrupted);
    at = field_time(at, row->occurred_us);
    at = field_int8(at, batch_id);
    at = field_time(at, row->reported_us);
    at = field_jsonb(at, frame->raw_json.ptr, frame->raw_json.len);
    copy_row_end(buf, at);
}

void pg_row_gap(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id)
{
    const struct toll_frame *frame = row->frame;
    const struct sink_origin *origin = row->origin;

    copy_row(buf, GAP_COLUMNS);
    copy_int8(buf, batch_id);
    copy_uuid_or_null(buf, origin->sequenced, origin->stream_id);
    copy_number(buf, origin->seq);
    copy_int8(buf, origin->uid);
    copy_int4(buf, (int32_t)origin->pid);
    copy_uuid_or_null(buf, frame->has_session_id, frame->session_id);
    copy_int8(buf, (int64_t)frame->gap_count);
    copy_time(buf, frame->gap_since_us);
    copy_time(buf, frame->gap_until_us);
    copy_time(buf, origin->received_us);
    copy_jsonb(buf, frame->raw_json.ptr, frame->raw_json.len);
}

void pg_row_quarantine(struct copy_buffer *buf, const struct sink_refused *refused, const uint8_t journal[static 16],
                       int64_t batch_id)
{
    const struct sink_origin *origin = &refused->origin;

    copy_row(buf, QUARANTINE_COLUMNS);
    copy_int8(buf, batch_id);
    copy_uuid(buf, journal);
    copy_int8(buf, (int64_t)origin->lsn);
    copy_int4(buf, (int32_t)origin->index);
    copy_uuid_or_null(buf, origin->sequenced, origin->stream_id);
    copy_number(buf, origin->seq);
    copy_int8(buf, origin->uid);
    copy_int4(buf, (int32_t)origin->pid);
    copy_time(buf, origin->received_us);
    copy_text(buf, refused->reason, strlen(refused->reason));
    copy_text(buf, origin->size ? origin->data : "", origin->size);
}
