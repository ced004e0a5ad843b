/* See pg_rows.h. The order of the calls is the order of the columns. */
#include "daemon/pg_rows.h"

#include <string.h>

const char PG_COPY_EVENTS[] =
    "COPY public.billing_events (session_id, event_type, provider, model, input_tokens, output_tokens, estimated, char_count, "
    "voice, audio_duration_ms, occurred_at, raw_json, batch_id, turn_id, agent, request_id, language, cached_input_tokens, "
    "cache_write_tokens, audio_input_tokens, cached_audio_tokens, audio_output_tokens, reasoning_tokens, ttfb_ms, duration_ms, "
    "interrupted, meter, quantity, account, occurred_at_reported) FROM STDIN (FORMAT binary)";
enum { EVENT_COLUMNS = 30 };

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

static inline char *field_count(char *at, int32_t count)
{
    return count == TOLL_ABSENT ? field_null(at) : field_int4(at, count);
}

static inline char *field_ms(char *at, int64_t us)
{
    return us == TOLL_ABSENT ? field_null(at) : field_float8(at, (double)us / 1000.0);
}

static inline char *field_uuid_or_null(char *at, bool present, const uint8_t uuid[static 16])
{
    return present ? field_uuid(at, uuid) : field_null(at);
}

static inline char *field_flag(char *at, bool present, bool value)
{
    return present ? field_bool(at, value) : field_null(at);
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

void pg_row_event(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id)
{
    const struct toll_frame *frame = row->frame;
    const char *type = toll_frame_type_name(frame->type);
    size_t most = 2 + EVENT_COLUMNS * FIELD_MOST + FIELD_NUMERIC_MOST + room(&frame->provider) + room(&frame->model) +
                  room(&frame->voice) + room(&frame->raw_json) + room(&frame->agent) + room(&frame->request_id) +
                  room(&frame->language) + room(&frame->meter) + room(&frame->account);
    char *at = copy_row_begin(buf, most, EVENT_COLUMNS);

    if (!at)
        return;
    at = field_uuid_or_null(at, frame->has_session_id, frame->session_id);
    at = field_text(at, type, strlen(type));
    at = field_str(at, &frame->provider);
    at = field_str(at, &frame->model);
    at = field_count(at, frame->input_tokens);
    at = field_count(at, frame->output_tokens);
    at = field_flag(at, frame->type == TOLL_FRAME_LLM, frame->estimated);
    at = field_count(at, frame->char_count);
    at = field_str(at, &frame->voice);
    at = field_ms(at, frame->audio_duration_us);
    at = field_time(at, row->occurred_us);
    at = field_jsonb(at, frame->raw_json.ptr, frame->raw_json.len);
    at = field_int8(at, batch_id);
    at = field_uuid_or_null(at, frame->has_turn_id, frame->turn_id);
    at = field_str(at, &frame->agent);
    at = field_str(at, &frame->request_id);
    at = field_str(at, &frame->language);
    at = field_count(at, frame->cached_input_tokens);
    at = field_count(at, frame->cache_write_tokens);
    at = field_count(at, frame->audio_input_tokens);
    at = field_count(at, frame->cached_audio_tokens);
    at = field_count(at, frame->audio_output_tokens);
    at = field_count(at, frame->reasoning_tokens);
    at = field_ms(at, frame->ttfb_us);
    at = field_ms(at, frame->duration_us);
    at = field_flag(at, frame->has_interrupted, frame->interrupted);
    at = field_str(at, &frame->meter);
    at = field_numeric(at, frame->type == TOLL_FRAME_USAGE ? frame->quantity : "");
    at = field_str(at, &frame->account);
    at = field_time(at, row->reported_us);
    copy_row_end(buf, at);
}

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
