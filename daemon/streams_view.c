/* What an operator is told of the streams: how many there are, and what is wrong with which. See streams.h. */
#include "daemon/streams_internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static const int64_t REPORTED_US = INT64_C(3600) * 1000 * 1000;

size_t streams_count(const struct streams *streams)
{
    return HASH_COUNT(streams->table);
}

size_t streams_pages(const struct streams *streams)
{
    return streams->pages;
}

const char *stream_state_name(enum stream_state state)
{
    static const char *const names[] = {
        [STREAM_POISONED] = "poisoned", [STREAM_REFUSED] = "refused", [STREAM_DEAD] = "dead",
        [STREAM_STALLED] = "stalled",   [STREAM_OK] = "ok",
    };

    return names[state];
}

/* Another process may have taken the number: then the stream counts as stalled, not as dead. */
static bool is_gone(uint32_t pid)
{
    return pid && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

static enum stream_state state_of(const struct streams *streams, const struct stream *stream, int64_t now_us)
{
    if (now_us - stream->last_seen_us > REPORTED_US)
        return STREAM_OK;
    if (stream->poisoned)
        return STREAM_POISONED;
    if (stream->shut_out)
        return STREAM_REFUSED;
    if (count_holes(stream) == 0 || now_us - stream->hole_since_us < streams->options.stall_us)
        return STREAM_OK;
    return is_gone(stream->pid) ? STREAM_DEAD : STREAM_STALLED;
}

void streams_foreach(const struct streams *streams, int64_t now_us,
                     void (*visit)(void *context, const struct stream_view *view), void *context)
{
    for (const struct stream *stream = streams->table; stream; stream = stream->hh.next) {
        struct stream_view view = {
            .uid = stream->key.uid,
            .pid = stream->pid,
            .client = stream->client,
            .received = received_upto(stream),
            .acked = stream->acked,
            .holes = count_holes(stream),
            .refused = stream->refused,
            .last_seen_us = stream->last_seen_us,
            .page = stream->page,
            .state = state_of(streams, stream, now_us),
        };

        memcpy(view.id, stream->key.id, sizeof(view.id));
        visit(context, &view);
    }
}

static void count_state(void *context, const struct stream_view *view)
{
    struct streams_trouble *trouble = context;
    size_t before = trouble->count[view->state]++;

    if (view->state != STREAM_OK && (before == 0 || view->last_seen_us > trouble->example[view->state].last_seen_us))
        trouble->example[view->state] = *view;
}

void streams_look(const struct streams *streams, int64_t now_us, struct streams_trouble *ret)
{
    *ret = (struct streams_trouble){.count = {0}};
    streams_foreach(streams, now_us, count_state, ret);
}
