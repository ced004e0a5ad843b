/* See commands.h. The replies' keys are listed in control.h. */
#include "daemon/commands.h"

#include "daemon/clock.h"
#include "daemon/control_value.h"
#include "daemon/streams.h"
#include "daemon/version.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>
#include <uuid/uuid.h>

enum {
    LIST_DEFAULT = 50,
    LIST_MAX = 10000,
    FLUSH_DEFAULT_MS = 10000,
    FLUSH_MAX_MS = 600000,
    FLUSHES_MAX = 8 /* of the control socket's 32 clients: the others must get through */
};

/* --- status ------------------------------------------------------------------------------------------------------- */

/* A map whose size is known only when it is written. */
struct map {
    struct pack_buffer body;
    msgpack_packer packer;
    size_t pairs;
};

static void map_begin(struct map *map)
{
    pack_buffer_init(&map->body, &map->packer);
    map->pairs = 0;
}

static void put_text(struct map *map, const char *key, const char *value)
{
    pack_pair_text(&map->packer, key, value);
    map->pairs++;
}

static void put_uint(struct map *map, const char *key, uint64_t value)
{
    pack_pair_uint(&map->packer, key, value);
    map->pairs++;
}

static void map_reply(struct map *map, struct control_request *request)
{
    struct pack_buffer whole;
    msgpack_packer packer;

    pack_buffer_init(&whole, &packer);
    msgpack_pack_map(&packer, map->pairs);
    pack_buffer_add(&whole, map->body.bytes.data, map->body.bytes.size);
    whole.failed = whole.failed || map->body.failed;
    control_reply_packed(request, &whole);
    pack_buffer_done(&whole);
    pack_buffer_done(&map->body);
}

/* received = stored + duplicate + quarantined + pending: what is done is read first, so that pending is never negative. */
static void put_frames(struct map *map, const struct metrics *m)
{
    uint64_t stored = metrics_get(&m->frames_stored), duplicate = metrics_get(&m->frames_duplicate);
    uint64_t quarantined = metrics_get(&m->frames_quarantined), received = metrics_get(&m->frames_received);
    uint64_t done = stored + duplicate + quarantined;

    if (received < done)
        received = done;
    put_uint(map, "frames_received", received);
    put_uint(map, "frames_stored", stored);
    put_uint(map, "frames_duplicate", duplicate);
    put_uint(map, "frames_quarantined", quarantined);
    put_uint(map, "frames_pending", received - done);
}

static void put_journal(struct map *map, const struct journal *journal, const struct watch *watch,
                        const struct writer_status *status)
{
    uint64_t end = journal_end_lsn(journal);

    pack_pair_uuid(&map->packer, "journal_id", journal_uuid(journal));
    map->pairs++;
    put_uint(map, "journal_lsn", end);
    put_uint(map, "durable_lsn", journal_durable_lsn(journal));
    put_uint(map, "committed_lsn", status->applied_lsn);
    put_uint(map, "oldest_lsn", journal_oldest_lsn(journal));
    put_uint(map, "backlog_bytes", end > status->applied_lsn ? end - status->applied_lsn : 0);
    put_uint(map, "backlog_age_s", (uint64_t)watch_backlog_age_us(watch) / 1000000);
    put_uint(map, "journal_bytes", journal_disk_bytes(journal));
}

static void put_alarms(struct map *map, const struct alarms *alarms)
{
    pack_text(&map->packer, "alarms");
    msgpack_pack_array(&map->packer, alarms_raised(alarms));
    for (enum alarm_kind kind = 0; kind < ALARM_KINDS; kind++) {
        const struct alarm *alarm = &alarms->of[kind];

        if (!alarm->raised)
            continue;
        msgpack_pack_map(&map->packer, 4);
        pack_pair_text(&map->packer, "alarm", alarm_name(kind));
        pack_pair_int(&map->packer, "since_us", alarm->since_us);
        pack_pair_text(&map->packer, "text", alarm->text);
        pack_pair_text(&map->packer, "figures", alarm->figures);
    }
    map->pairs++;
}

static void put_writers(struct map *map, struct writers *writers)
{
    unsigned count = writers_count(writers);
    struct writer_status status;

    pack_text(&map->packer, "writers");
    msgpack_pack_array(&map->packer, count);
    for (unsigned i = 0; i < count; i++) {
        writers_get_one(writers, i, &status);
        msgpack_pack_map(&map->packer, 4);
        pack_pair_uint(&map->packer, "writer", i);
        pack_pair_text(&map->packer, "state", writer_state_name(status.state));
        pack_pair_text(&map->packer, "error", status.error);
        pack_pair_uint(&map->packer, "lsn", status.committed_lsn);
    }
    map->pairs++;
}

/* rated_lsn is comparable with committed_lsn: of the writers of this journal, the one that is rated least far. */
static void put_rating(struct map *map, struct rating *rating, const struct journal *journal)
{
    uint64_t lsn = UINT64_MAX;
    struct rating_status status;

    if (!rating) {
        put_text(map, "rating", "off");
        return;
    }
    rating_get_status(rating, &status);
    put_text(map, "rating", rating_state_name(status.state));
    put_text(map, "rating_error", status.error);
    for (size_t i = 0; i < status.place_count; i++)
        if (memcmp(status.places[i].journal, journal_uuid(journal), 16) == 0 && status.places[i].lsn < lsn)
            lsn = status.places[i].lsn;
    if (lsn != UINT64_MAX)
        put_uint(map, "rated_lsn", lsn);
}

static void put_other_metric(void *context, const char *name, enum metric_kind kind, const char *help, uint64_t value)
{
    static const char *const shown[] = {"frames_received", "frames_stored", "frames_duplicate", "frames_quarantined",
                                        "journal_bytes",   "sessions_live", "streams",          "ack_pages",
                                        "intake_paused",   "alarms"};

    (void)kind;
    (void)help;
    for (size_t i = 0; i < sizeof(shown) / sizeof(*shown); i++)
        if (strcmp(name, shown[i]) == 0)
            return;
    put_uint(context, name, value);
}

static void run_status(void *context, const msgpack_object *args, struct control_request *request)
{
    struct commands *c = context;
    const struct streams *streams = intake_streams(c->intake);
    struct writer_status status;
    struct map map;

    (void)args;
    writers_get_status(c->writers, &status);
    watch_look(c->watch, &status);
    map_begin(&map);
    put_text(&map, "version", TOLL_VERSION);
    put_uint(&map, "pid", (uint64_t)getpid());
    put_uint(&map, "uptime_s", (uint64_t)(clock_monotonic_us() - c->started_us) / 1000000);
    put_text(&map, "intake", intake_paused(c->intake) ? "paused" : "reading");
    put_text(&map, "ack", c->ack_name);
    put_text(&map, "sink", c->sink_name);
    put_text(&map, "sink_state", writer_state_name(status.state));
    put_text(&map, "sink_error", status.error);
    put_writers(&map, c->writers);
    put_frames(&map, c->metrics);
    put_journal(&map, c->journal, c->watch, &status);
    put_rating(&map, c->rating, c->journal);
    put_uint(&map, "sessions_live", writers_session_count(c->writers));
    put_uint(&map, "streams", streams_count(streams));
    put_uint(&map, "ack_pages", streams_pages(streams));
    put_uint(&map, "quarantine_limit", c->watch->quarantine_limit);
    metrics_foreach(c->metrics, put_other_metric, &map);
    put_alarms(&map, &c->watch->alarms);
    map_reply(&map, request);
}

/* --- live sessions ------------------------------------------------------------------------------------------------ */

static void pack_session(msgpack_packer *packer, const struct session *session)
{
    const struct session_totals *t = &session->totals;

    msgpack_pack_map(packer, 11);
    pack_pair_uuid(packer, "session_id", session->id);
    pack_pair_int(packer, "started_at_us", session->started_us);
    pack_pair_int(packer, "last_activity_us", session->last_us);
    pack_pair_int(packer, "llm_calls", t->llm_calls);
    pack_pair_int(packer, "llm_input_tokens", t->llm_input_tokens);
    pack_pair_int(packer, "llm_output_tokens", t->llm_output_tokens);
    pack_pair_int(packer, "tts_calls", t->tts_calls);
    pack_pair_int(packer, "tts_chars", t->tts_chars);
    pack_pair_int(packer, "stt_calls", t->stt_calls);
    pack_pair_int(packer, "stt_audio_us", t->stt_audio_us);
    pack_pair_bool(packer, "complete", session->whole);
}

struct session_list {
    struct session *sessions;
    size_t count, limit;
};

/* Keeps the latest of all writers; each shows its own latest first. */
static bool copy_session(void *context, const struct session *session)
{
    struct session_list *list = context;
    size_t at = list->count;

    while (at > 0 && list->sessions[at - 1].last_us < session->last_us)
        at--;
    if (at == list->limit)
        return false;
    if (list->count < list->limit)
        list->count++;
    memmove(list->sessions + at + 1, list->sessions + at, (list->count - 1 - at) * sizeof(*list->sessions));
    list->sessions[at] = *session;
    return true;
}

static int work_sessions(void *context, const msgpack_object *args, msgpack_packer *data,
                         char error[static CONTROL_ERROR_MAX])
{
    struct commands *c = context;
    struct session_list list = {.count = 0};
    uint64_t limit;

    if (value_uint(args, "limit", LIST_DEFAULT, LIST_MAX, &limit) < 0) {
        snprintf(error, CONTROL_ERROR_MAX, "limit: expected a number up to %d", LIST_MAX);
        return -EINVAL;
    }
    list.limit = (size_t)limit;
    list.sessions = calloc(list.limit + 1, sizeof(*list.sessions));
    if (!list.sessions)
        return -ENOMEM;
    writers_sessions(c->writers, copy_session, &list);
    msgpack_pack_array(data, list.count);
    for (size_t i = 0; i < list.count; i++)
        pack_session(data, &list.sessions[i]);
    free(list.sessions);
    return 0;
}

static int work_session(void *context, const msgpack_object *args, msgpack_packer *data,
                        char error[static CONTROL_ERROR_MAX])
{
    struct commands *c = context;
    struct session session;
    char text[VALUE_UUID_TEXT];
    uint8_t id[16];

    if (value_text(args, "session_id", text, sizeof(text)) < 0 || uuid_parse(text, id) < 0) {
        snprintf(error, CONTROL_ERROR_MAX, "session_id: expected a UUID");
        return -EINVAL;
    }
    if (writers_session(c->writers, id, &session))
        pack_session(data, &session);
    else
        msgpack_pack_nil(data);
    return 0;
}

/* --- streams ------------------------------------------------------------------------------------------------------ */

struct stream_list {
    msgpack_packer packer;
    size_t left;
    bool troubled; /* those, or the others */
};

static void pack_stream(void *context, const struct stream_view *view)
{
    struct stream_list *list = context;

    if (list->left == 0 || list->troubled != (view->state != STREAM_OK))
        return;
    list->left--;
    msgpack_pack_map(&list->packer, 11);
    pack_pair_text(&list->packer, "state", stream_state_name(view->state));
    pack_pair_uint(&list->packer, "refused", view->refused);
    pack_pair_uint(&list->packer, "uid", view->uid);
    pack_pair_uint(&list->packer, "pid", view->pid);
    pack_pair_uuid(&list->packer, "stream_id", view->id);
    pack_pair_text(&list->packer, "client", view->client);
    pack_pair_uint(&list->packer, "received", view->received);
    pack_pair_uint(&list->packer, "acked", view->acked);
    pack_pair_uint(&list->packer, "holes", view->holes);
    pack_pair_int(&list->packer, "last_seen_us", view->last_seen_us);
    pack_pair_bool(&list->packer, "page", view->page);
}

static void run_streams(void *context, const msgpack_object *args, struct control_request *request)
{
    struct commands *c = context;
    const struct streams *streams = intake_streams(c->intake);
    int64_t now_us = clock_realtime_us();
    struct stream_list list;
    struct pack_buffer data;
    uint64_t limit;

    if (value_uint(args, "limit", LIST_DEFAULT, LIST_MAX, &limit) < 0) {
        control_reply_error(request, "limit: expected a number up to %d", LIST_MAX);
        return;
    }
    pack_buffer_init(&data, &list.packer);
    list.left = streams_count(streams) < limit ? streams_count(streams) : (size_t)limit;
    msgpack_pack_array(&list.packer, list.left);
    list.troubled = true;
    streams_foreach(streams, now_us, pack_stream, &list);
    list.troubled = false;
    streams_foreach(streams, now_us, pack_stream, &list);
    control_reply_packed(request, &data);
    pack_buffer_done(&data);
}

/* --- flush -------------------------------------------------------------------------------------------------------- */

struct flush_wait {
    struct flush_wait *prev, *next;
    struct commands *commands;
    struct control_request *request;
    uint64_t lsn;
    uv_timer_t deadline;
};

static void free_wait(uv_handle_t *handle)
{
    free(handle->data);
}

static struct control_request *end_wait(struct flush_wait *wait)
{
    struct control_request *request = wait->request;

    DL_DELETE(wait->commands->waits, wait);
    uv_close((uv_handle_t *)&wait->deadline, free_wait);
    return request;
}

static void on_flush_deadline(uv_timer_t *timer)
{
    struct flush_wait *wait = timer->data;
    struct commands *c = wait->commands;
    struct writer_status status;

    writers_get_status(c->writers, &status);
    control_reply_error(end_wait(wait), "not everything was committed in time; storing is %s%s%.120s",
                        writer_state_name(status.state), status.error[0] ? ": " : "", status.error);
}

static void reply_flushed(struct control_request *request, uint64_t committed_lsn)
{
    struct map map;

    map_begin(&map);
    put_uint(&map, "committed_lsn", committed_lsn);
    map_reply(&map, request);
}

void commands_progress(struct commands *c, const struct writer_status *status)
{
    struct flush_wait *wait, *next;

    DL_FOREACH_SAFE (c->waits, wait, next) {
        if (status->applied_lsn >= wait->lsn)
            reply_flushed(end_wait(wait), status->applied_lsn);
    }
}

static void drop_abandoned(struct commands *c)
{
    struct flush_wait *wait, *next;

    DL_FOREACH_SAFE (c->waits, wait, next) {
        if (control_abandoned(wait->request))
            control_reply_error(end_wait(wait), "nobody waits for this");
    }
}

void commands_stop(struct commands *c)
{
    struct flush_wait *wait, *next;

    DL_FOREACH_SAFE (c->waits, wait, next) {
        control_reply_error(end_wait(wait), "the daemon is stopping");
    }
}

static void run_flush(void *context, const msgpack_object *args, struct control_request *request)
{
    struct commands *c = context;
    struct writer_status status;
    struct flush_wait *wait;
    uint64_t timeout_ms;
    int waiting;

    if (value_uint(args, "timeout_ms", FLUSH_DEFAULT_MS, FLUSH_MAX_MS, &timeout_ms) < 0) {
        control_reply_error(request, "timeout_ms: expected a number up to %d", FLUSH_MAX_MS);
        return;
    }
    drop_abandoned(c);
    DL_COUNT(c->waits, wait, waiting);
    if (waiting >= FLUSHES_MAX) {
        control_reply_error(request, "%d others wait for a flush already", waiting);
        return;
    }
    wait = calloc(1, sizeof(*wait));
    if (!wait) {
        control_reply_error(request, "out of memory");
        return;
    }
    intake_sync(c->intake);
    wait->commands = c;
    wait->request = request;
    wait->lsn = journal_end_lsn(c->journal);
    uv_timer_init(c->loop, &wait->deadline);
    wait->deadline.data = wait;
    uv_timer_start(&wait->deadline, on_flush_deadline, timeout_ms, 0);
    DL_APPEND(c->waits, wait);
    writers_hurry(c->writers, wait->lsn);
    writers_get_status(c->writers, &status);
    commands_progress(c, &status);
}

const struct control_command commands_table[] = {
    {.name = "status", .run = run_status},     {.name = "sessions", .work = work_sessions},
    {.name = "session", .work = work_session}, {.name = "streams", .run = run_streams},
    {.name = "flush", .run = run_flush},       {.name = NULL},
};
