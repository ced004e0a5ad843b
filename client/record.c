/* Recording: each function turns its struct into a frame; record() encodes it, keeps it, adds it to the
 * session's totals and lets it be sent. */
#include "client/toll.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "client/handle.h"
#include "client/map.h"
#include "proto/hot.h"
#include "proto/walk.h"

enum { RECORD_SMALL = 1024 }; /* bytes; on the stack of the worker's thread */

/* A frame in the making. Values that can't be told in it make it invalid or too large, found out in one
 * place. */
struct draft {
    struct toll_frame frame;
    const struct toll_map *map; /* its metadata or raw */
    int error;
};

TOLL_HOT static void draft_init(struct draft *d, enum toll_frame_type type, const unsigned char *session_id,
                                int64_t time_us)
{
    d->map = NULL;
    d->error = 0;
    toll_frame_init(&d->frame, type);
    if (session_id) {
        memcpy(d->frame.session_id, session_id, sizeof d->frame.session_id);
        d->frame.has_session_id = true;
    }
    if (time_us == 0) { /* stamped here, so that a frame sent again keeps its time */
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        time_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    }
    d->frame.time_us = time_us;
}

TOLL_HOT static void draft_turn(struct draft *d, const unsigned char *turn_id)
{
    if (turn_id) {
        memcpy(d->frame.turn_id, turn_id, sizeof d->frame.turn_id);
        d->frame.has_turn_id = true;
    }
}

/* Not strnlen(): names are short, and that lies in a page of its own. */
TOLL_HOT static struct toll_str name(const char *string)
{
    uint32_t size = 0;
    while (string && size <= TOLL_NAME_MAX && string[size])
        size++;
    return (struct toll_str){string, size};
}

TOLL_HOT static int32_t count(struct draft *d, uint32_t value)
{
    if (value > TOLL_COUNT_MAX)
        d->error = -EINVAL;
    return (int32_t)value;
}

TOLL_HOT static int32_t optional_count(struct draft *d, uint32_t value)
{
    return value ? count(d, value) : TOLL_ABSENT;
}

TOLL_HOT static int64_t duration(struct draft *d, uint64_t us)
{
    if (us > TOLL_DURATION_MAX)
        d->error = -EINVAL;
    return (int64_t)us;
}

TOLL_HOT static int64_t optional_duration(struct draft *d, uint64_t us)
{
    return us ? duration(d, us) : TOLL_ABSENT;
}

/* Encodes into toll->frame; the lock is held. Returns the size, -EINVAL or -EMSGSIZE. */
static int encode_large(struct toll *t, struct draft *d)
{
    struct toll_str map = {0};
    int r = d->map ? toll_map_encode(d->map, t->map, sizeof t->map, &map) : 0;
    if (r < 0)
        return r;
    *(d->frame.type == TOLL_FRAME_SESSION_START ? &d->frame.metadata : &d->frame.raw_json) = map;

    r = toll_frame_encode(&d->frame, t->frame, sizeof t->frame);
    if (r == -ENOBUFS)
        return -EMSGSIZE;
    if (r >= 0 && map.ptr) { /* a malformed map would take the datagram's other frames with it into quarantine */
        size_t size;
        if (toll_walk(t->frame, (size_t)r, &size) < 0 || size != (size_t)r)
            return -EINVAL;
    }
    return r;
}

TOLL_HOT static void add_to_totals(struct toll *t, const struct toll_frame *frame, int result)
{
    if (frame->type == TOLL_FRAME_SESSION_START && (result == 0 || result == -ENOBUFS))
        toll_totals_add(&t->totals, frame->session_id, frame->time_us);
    if (result < 0 || !frame->has_session_id)
        return;
    struct toll_snapshot *sums = toll_totals_find(&t->totals, frame->session_id);
    if (!sums)
        return;
    switch (frame->type) {
    case TOLL_FRAME_LLM:
        sums->llm_calls++;
        sums->llm_input_tokens += (uint64_t)frame->input_tokens;
        sums->llm_output_tokens += (uint64_t)frame->output_tokens;
        if (frame->cached_input_tokens != TOLL_ABSENT)
            sums->llm_cached_input_tokens += (uint64_t)frame->cached_input_tokens;
        break;
    case TOLL_FRAME_TTS:
        sums->tts_calls++;
        sums->tts_chars += (uint64_t)frame->char_count;
        break;
    case TOLL_FRAME_STT:
        sums->stt_calls++;
        sums->stt_audio_us += (uint64_t)frame->audio_duration_us;
        break;
    case TOLL_FRAME_USAGE:
        sums->usages++;
        break;
    case TOLL_FRAME_TRANSCRIPT:
        sums->transcripts++;
        break;
    case TOLL_FRAME_SESSION_END:
        toll_totals_remove(&t->totals, frame->session_id);
        break;
    default:
        break;
    }
}

TOLL_HOT static int record(struct toll *t, struct draft *d)
{
    struct toll_sender *sender = &t->sender;
    uint8_t small[RECORD_SMALL]; /* what fits, as nearly all frames do, is encoded here: other threads need not wait */
    const uint8_t *bytes = small;
    bool has_map = d->map && (d->map->count > 0 || d->map->msgpack_size > 0);

    toll_forkguard_fetch(&t->guard);
    toll_sender_fetch(sender);
    toll_totals_fetch(&t->totals, d->frame.session_id);
    int r = d->error;
    if (r == 0)
        r = has_map ? -ENOBUFS : toll_frame_encode(&d->frame, small, sizeof small);
    toll_enter(t);
    uint64_t now = sender->clock_us();

    pthread_mutex_lock(&sender->lock);
    if (r == -ENOBUFS) {
        r = encode_large(t, d);
        bytes = t->frame;
    }
    toll_sender_look(sender, now);
    if (r == -EINVAL)
        sender->stats.refused_invalid++;
    else if (r == -EMSGSIZE)
        sender->stats.refused_too_large++;
    else
        r = toll_sender_put(sender, bytes, (size_t)r, now);
    add_to_totals(t, &d->frame, r);
    toll_sender_push(sender, now); /* after a refusal too: what waits must not need luckier frames to get out */
    pthread_mutex_unlock(&sender->lock);
    return r;
}

int toll_session_start(struct toll *t, const unsigned char session_id[16], const struct toll_session_info *info)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_SESSION_START, session_id, info ? info->started_at_us : 0);
    if (info)
        d.map = &info->metadata;
    return record(t, &d);
}

TOLL_HOT int toll_llm(struct toll *t, const unsigned char session_id[16], const struct toll_llm_usage *u)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_LLM, session_id, u->occurred_at_us);
    draft_turn(&d, u->turn_id);
    d.map = &u->raw;
    d.frame.provider = name(u->provider);
    d.frame.model = name(u->model);
    d.frame.input_tokens = count(&d, u->input_tokens);
    d.frame.output_tokens = count(&d, u->output_tokens);
    d.frame.cached_input_tokens = optional_count(&d, u->cached_input_tokens);
    d.frame.cache_write_tokens = optional_count(&d, u->cache_write_tokens);
    d.frame.audio_input_tokens = optional_count(&d, u->audio_input_tokens);
    d.frame.cached_audio_tokens = optional_count(&d, u->cached_audio_tokens);
    d.frame.audio_output_tokens = optional_count(&d, u->audio_output_tokens);
    d.frame.reasoning_tokens = optional_count(&d, u->reasoning_tokens);
    d.frame.estimated = u->estimated;
    d.frame.interrupted = u->interrupted;
    d.frame.agent = name(u->agent);
    d.frame.request_id = name(u->request_id);
    d.frame.ttfb_us = optional_duration(&d, u->ttfb_us);
    d.frame.duration_us = optional_duration(&d, u->duration_us);
    return record(t, &d);
}

int toll_tts(struct toll *t, const unsigned char session_id[16], const struct toll_tts_usage *u)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_TTS, session_id, u->occurred_at_us);
    draft_turn(&d, u->turn_id);
    d.map = &u->raw;
    d.frame.provider = name(u->provider);
    d.frame.char_count = count(&d, u->char_count);
    d.frame.voice = name(u->voice);
    d.frame.model = name(u->model);
    d.frame.audio_duration_us = optional_duration(&d, u->audio_duration_us);
    d.frame.input_tokens = optional_count(&d, u->input_tokens);
    d.frame.output_tokens = optional_count(&d, u->output_tokens);
    d.frame.interrupted = u->interrupted;
    d.frame.agent = name(u->agent);
    d.frame.request_id = name(u->request_id);
    d.frame.ttfb_us = optional_duration(&d, u->ttfb_us);
    d.frame.duration_us = optional_duration(&d, u->duration_us);
    return record(t, &d);
}

int toll_stt(struct toll *t, const unsigned char session_id[16], const struct toll_stt_usage *u)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_STT, session_id, u->occurred_at_us);
    draft_turn(&d, u->turn_id);
    d.map = &u->raw;
    d.frame.provider = name(u->provider);
    d.frame.audio_duration_us = duration(&d, u->audio_duration_us);
    d.frame.model = name(u->model);
    d.frame.language = name(u->language);
    d.frame.input_tokens = optional_count(&d, u->input_tokens);
    d.frame.output_tokens = optional_count(&d, u->output_tokens);
    d.frame.request_id = name(u->request_id);
    d.frame.ttfb_us = optional_duration(&d, u->ttfb_us);
    d.frame.duration_us = optional_duration(&d, u->duration_us);
    return record(t, &d);
}

int toll_usage(struct toll *t, const unsigned char *session_id, const struct toll_meter_usage *u)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_USAGE, session_id, u->occurred_at_us);
    draft_turn(&d, u->turn_id);
    d.map = &u->raw;
    d.frame.meter = name(u->meter);
    d.frame.quantity_value = u->quantity;
    d.frame.account = name(u->account);
    d.frame.provider = name(u->provider);
    d.frame.model = name(u->model);
    d.frame.agent = name(u->agent);
    d.frame.request_id = name(u->request_id);
    d.frame.duration_us = optional_duration(&d, u->duration_us);
    return record(t, &d);
}

int toll_transcript(struct toll *t, const unsigned char session_id[16], const struct toll_turn *turn)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_TRANSCRIPT, session_id, turn->occurred_at_us);
    draft_turn(&d, turn->turn_id);
    if (turn->text) {
        size_t size = turn->text_size ? turn->text_size : strnlen(turn->text, TOLL_DATAGRAM_MAX + 1);
        if (size > TOLL_DATAGRAM_MAX)
            d.error = -EMSGSIZE;
        d.frame.text = (struct toll_str){turn->text, (uint32_t)size};
    }
    d.frame.role = name(turn->role);
    d.frame.language = name(turn->language);
    d.frame.interrupted = turn->interrupted;
    return record(t, &d);
}

int toll_session_end(struct toll *t, const unsigned char session_id[16], const struct toll_session_result *result)
{
    struct draft d;
    draft_init(&d, TOLL_FRAME_SESSION_END, session_id, result ? result->ended_at_us : 0);
    if (result)
        d.frame.finish_reason = name(result->finish_reason);
    return record(t, &d);
}
