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

static void copy_str(struct copy_buffer *buf, const struct toll_str *str)
{
    copy_text(buf, str->ptr, str->len);
}

static void copy_count(struct copy_buffer *buf, int32_t count)
{
    if (count == TOLL_ABSENT)
        copy_null(buf);
    else
        copy_int4(buf, count);
}

static void copy_ms(struct copy_buffer *buf, int64_t us)
{
    if (us == TOLL_ABSENT)
        copy_null(buf);
    else
        copy_float8(buf, (double)us / 1000.0);
}

static void copy_uuid_or_null(struct copy_buffer *buf, bool present, const uint8_t uuid[static 16])
{
    if (present)
        copy_uuid(buf, uuid);
    else
        copy_null(buf);
}

static void copy_flag(struct copy_buffer *buf, bool present, bool value)
{
    if (present)
        copy_bool(buf, value);
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

    copy_row(buf, EVENT_COLUMNS);
    copy_uuid_or_null(buf, frame->has_session_id, frame->session_id);
    copy_text(buf, type, strlen(type));
    copy_str(buf, &frame->provider);
    copy_str(buf, &frame->model);
    copy_count(buf, frame->input_tokens);
    copy_count(buf, frame->output_tokens);
    copy_flag(buf, frame->type == TOLL_FRAME_LLM, frame->estimated);
    copy_count(buf, frame->char_count);
    copy_str(buf, &frame->voice);
    copy_ms(buf, frame->audio_duration_us);
    copy_time(buf, row->occurred_us);
    copy_jsonb(buf, frame->raw_json.ptr, frame->raw_json.len);
    copy_int8(buf, batch_id);
    copy_uuid_or_null(buf, frame->has_turn_id, frame->turn_id);
    copy_str(buf, &frame->agent);
    copy_str(buf, &frame->request_id);
    copy_str(buf, &frame->language);
    copy_count(buf, frame->cached_input_tokens);
    copy_count(buf, frame->cache_write_tokens);
    copy_count(buf, frame->audio_input_tokens);
    copy_count(buf, frame->cached_audio_tokens);
    copy_count(buf, frame->audio_output_tokens);
    copy_count(buf, frame->reasoning_tokens);
    copy_ms(buf, frame->ttfb_us);
    copy_ms(buf, frame->duration_us);
    copy_flag(buf, frame->has_interrupted, frame->interrupted);
    copy_str(buf, &frame->meter);
    copy_numeric(buf, frame->type == TOLL_FRAME_USAGE ? frame->quantity : "");
    copy_str(buf, &frame->account);
    copy_time(buf, row->reported_us);
}

void pg_row_transcript(struct copy_buffer *buf, const struct sink_row *row, int64_t batch_id)
{
    const struct toll_frame *frame = row->frame;

    copy_row(buf, TRANSCRIPT_COLUMNS);
    copy_uuid(buf, frame->session_id);
    copy_uuid_or_null(buf, frame->has_turn_id, frame->turn_id);
    copy_str(buf, &frame->role);
    copy_str(buf, &frame->text);
    copy_str(buf, &frame->language);
    copy_bool(buf, frame->interrupted);
    copy_time(buf, row->occurred_us);
    copy_int8(buf, batch_id);
    copy_time(buf, row->reported_us);
    copy_jsonb(buf, frame->raw_json.ptr, frame->raw_json.len);
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
