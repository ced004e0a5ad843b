/* tollctl's commands to a whole daemon, with its threads. An answer is whole or an error, on a connection that lives on; only a connection that
 * there is no memory for is closed. */
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/clock.h"
#include "daemon/commands.h"
#include "daemon/control_value.h"
#include "daemon/pipeline.h"
#include "proto/walk.h"
#include "tests/fault/memory_daemon/directory.h"
#include "tests/fault/memory_daemon/quiet_sink.h"
#include "tests/fault/memory_daemon/workload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATIENCE_US = 20 * 1000000, REPLY_MAX = 1 << 20 };

struct house {
    struct outcome *outcome;
    struct workload load;
    struct directory directory;
    struct journal_io io;
    char path[64];
    int sockets[2], client; /* client: -1, none */
    struct fake_db db;
    struct fake_sink sink;
    struct metrics metrics;
    uv_loop_t loop;
    struct journal *journal;
    struct pipeline *pipeline;
    struct watch watch;
    struct commands commands;
    struct control *control;
    bool ended;
    char reply[REPLY_MAX];
    size_t have;
};

/* --- the daemon ---------------------------------------------------------------------------------------------------------------- */

static void on_progress(void *context, const struct writer_status *status)
{
    struct house *h = context;

    if (h->control)
        commands_progress(&h->commands, status);
}

static void on_broken(void *context)
{
    complain(((struct house *)context)->outcome, "the journal was given up");
}

static void on_ended(void *context)
{
    ((struct house *)context)->ended = true;
}

static void turn(struct house *h)
{
    uv_run(&h->loop, UV_RUN_NOWAIT);
    usleep(100);
}

static struct sink *make_sink(void *context)
{
    struct house *h = context;

    quiet_sink_init(&h->sink, &h->db);
    return &h->sink.sink;
}

static int start_pipeline(struct house *h)
{
    const struct pipeline_options options = {
        .intake = {.streams = {.max = 100, .max_per_uid = 100, .pages_max = 10, .pages_max_per_uid = 10, .epoch = 1}},
        .writers = {.writer = {.apply = {.batch_rows = 100,
                                         .batch_bytes = 65536,
                                         .idle_timeout_us = INT64_C(3600000000),
                                         .past_tolerance_us = INT64_C(3600000000),
                                         .sessions_max = 100,
                                         .streams_max = 100,
                                         .quarantine_rows = 1000},
                               .batch_age_us = 1000,
                               .retry_max_us = 10000,
                               .host = "test"},
                    .count = 1,
                    .sink = make_sink,
                    .sink_context = h},
        .progress = on_progress,
        .broken = on_broken,
        .ended = on_ended,
        .context = h,
    };
    int r = pipeline_new(&h->pipeline, &options, &h->loop, h->sockets[0], h->journal, &h->metrics);

    if (r < 0) {
        pipeline_close(h->pipeline);
        uv_run(&h->loop, UV_RUN_DEFAULT);
        pipeline_free(h->pipeline);
        h->pipeline = NULL;
    }
    return r;
}

static int start_control(struct house *h)
{
    const struct control_options options = {
        .path = h->path, .mode = 0600, .commands = commands_table, .context = &h->commands};

    return control_open(&h->control, &h->loop, &options);
}

static bool is_short(int r)
{
    return r == -ENOMEM || r == -EAGAIN;
}

static void start(struct house *h)
{
    const struct journal_options options = {.state_dir = h->directory.path, .segment_bytes = 131072, .io = &h->io};
    int r = -ENOMEM;

    for (int tries = 0; is_short(r) && tries < TRIES; tries++)
        r = journal_open(&h->journal, &options, NULL);
    if (r < 0 || uv_loop_init(&h->loop) < 0)
        abort();
    r = -ENOMEM;
    for (int tries = 0; is_short(r) && tries < TRIES; tries++)
        r = start_pipeline(h);
    if (r < 0)
        abort();
    h->watch = (struct watch){.intake = pipeline_intake(h->pipeline),
                              .writers = pipeline_writers(h->pipeline),
                              .journal = h->journal,
                              .metrics = &h->metrics,
                              .batch_age_us = 1000,
                              .quarantine_limit = 1000};
    watch_start(&h->watch, &h->loop);
    h->commands = (struct commands){.loop = &h->loop,
                                    .intake = pipeline_intake(h->pipeline),
                                    .writers = pipeline_writers(h->pipeline),
                                    .journal = h->journal,
                                    .metrics = &h->metrics,
                                    .watch = &h->watch,
                                    .sink_name = "fake",
                                    .ack_name = "sync",
                                    .started_us = clock_monotonic_us()};
    r = -ENOMEM;
    for (int tries = 0; is_short(r) && tries < TRIES; tries++)
        r = start_control(h);
    if (r < 0)
        abort();
}

static void close_handle(uv_handle_t *handle, void *context)
{
    (void)context;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void stop(struct house *h)
{
    pipeline_stop(h->pipeline);
    while (!h->ended)
        turn(h);
    pipeline_close(h->pipeline);
    commands_stop(&h->commands);
    control_close(h->control, NULL, NULL);
    uv_walk(&h->loop, close_handle, NULL);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    pipeline_free(h->pipeline);
    if (uv_loop_close(&h->loop) < 0)
        complain(h->outcome, "a handle is left open");
    journal_close(h->journal);
}

/* --- the client ---------------------------------------------------------------------------------------------------------------- */

static void hang_up(struct house *h)
{
    if (h->client >= 0)
        close(h->client);
    h->client = -1;
    h->have = 0;
}

static bool connect_to(struct house *h)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, h->path, sizeof(h->path));
    h->client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (h->client < 0)
        abort();
    if (connect(h->client, (struct sockaddr *)&address, sizeof(address)) == 0)
        return true;
    hang_up(h);
    return false;
}

/* Waits for one whole value: its size; 0: the connection was closed, or nothing came. */
static size_t await_reply(struct house *h)
{
    int64_t until_us = clock_monotonic_us() + PATIENCE_US;

    while (clock_monotonic_us() < until_us) {
        ssize_t n = recv(h->client, h->reply + h->have, sizeof(h->reply) - h->have, MSG_DONTWAIT);
        size_t size;

        if (n == 0 || (n < 0 && errno != EAGAIN))
            return 0;
        if (n > 0)
            h->have += (size_t)n;
        if (h->have && toll_walk(h->reply, h->have, &size) == 0)
            return size;
        turn(h);
    }
    complain(h->outcome, "no answer, or half of one, in %d s", PATIENCE_US / 1000000);
    return 0;
}

/* One request and its answer: true if that is not an error. */
static bool ask(struct house *h, const msgpack_sbuffer *request, const char *command)
{
    uint64_t failed_before = failing.failed;
    msgpack_unpacked unpacked;
    const msgpack_object *ok, *error;
    bool good = false;
    size_t size;

    if (h->client < 0 && !connect_to(h))
        return false;
    (void)!send(h->client, request->data, request->size, MSG_NOSIGNAL);
    size = await_reply(h);
    if (size == 0) {
        if (failing.failed == failed_before)
            complain(h->outcome, "%s: the connection was closed", command);
        hang_up(h);
        return false;
    }
    if (size != h->have)
        complain(h->outcome, "%s: bytes after the reply", command);
    failing_quiet++;
    msgpack_unpacked_init(&unpacked);
    if (msgpack_unpack_next(&unpacked, h->reply, size, NULL) != MSGPACK_UNPACK_SUCCESS)
        complain(h->outcome, "%s: a malformed reply", command);
    ok = value_get(&unpacked.data, "ok");
    error = value_get(&unpacked.data, "error");
    if (!ok || ok->type != MSGPACK_OBJECT_BOOLEAN || (!ok->via.boolean && (!error || !error->via.str.size)))
        complain(h->outcome, "%s: a reply that is neither data nor an error", command);
    else
        good = ok->via.boolean && value_get(&unpacked.data, "data");
    msgpack_unpacked_destroy(&unpacked);
    failing_quiet--;
    h->have = 0;
    return good;
}

static void ask_until_answered(struct house *h, const char *command, const char *key, const char *value)
{
    msgpack_sbuffer request;
    msgpack_packer packer;
    bool good = false;

    failing_quiet++;
    msgpack_sbuffer_init(&request);
    msgpack_packer_init(&packer, &request, msgpack_sbuffer_write);
    msgpack_pack_map(&packer, key ? 2 : 1);
    pack_pair_text(&packer, "command", command);
    if (key)
        pack_pair_text(&packer, key, value);
    failing_quiet--;
    for (int tries = 0; !good && tries < TRIES; tries++)
        good = ask(h, &request, command);
    if (!good)
        complain(h->outcome, "%s is never answered", command);
    failing_quiet++;
    msgpack_sbuffer_destroy(&request);
    failing_quiet--;
}

/* --- the story ----------------------------------------------------------------------------------------------------------------- */

static void send_all(struct house *h)
{
    uint64_t frames = h->load.plain;
    int64_t until_us = clock_monotonic_us() + PATIENCE_US;

    for (unsigned i = 0; i < h->load.count; i++) {
        while (send(h->sockets[1], h->load.sent[i].data, h->load.sent[i].size, MSG_DONTWAIT) < 0 &&
               clock_monotonic_us() < until_us)
            turn(h);
    }
    for (unsigned stream = 0; stream < h->load.streams; stream++)
        for (unsigned seq = 1; seq <= h->load.last[stream]; seq++)
            frames += h->load.fate[stream][seq] != NOTHING;
    while (metrics_get(&h->metrics.frames_stored) + metrics_get(&h->metrics.frames_quarantined) < frames) {
        if (clock_monotonic_us() > until_us) {
            h->outcome->lost++;
            return;
        }
        turn(h);
    }
    h->outcome->duplicated +=
        metrics_get(&h->metrics.frames_stored) + metrics_get(&h->metrics.frames_quarantined) - frames;
}

void control_story(struct outcome *outcome)
{
    struct house *h;

    failing_quiet++;
    h = calloc(1, sizeof(*h));
    if (!h || socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, h->sockets) < 0 || listener_prepare(h->sockets[0]) < 0)
        abort();
    h->outcome = outcome;
    h->client = -1;
    h->directory = directory_make();
    h->io = directory_io();
    snprintf(h->path, sizeof(h->path), "%s/control.sock", h->directory.path);
    h->load = (struct workload){.streams = 10, .sessions = 30};
    workload_begin(&h->load, clock_realtime_us());
    workload_fill(&h->load, 10, clock_realtime_us());
    failing_quiet--;

    start(h);
    send_all(h);
    ask_until_answered(h, "status", NULL, NULL);
    ask_until_answered(h, "sessions", NULL, NULL);
    ask_until_answered(h, "session", "session_id", "00010000-0000-0000-0000-0000000000aa");
    hang_up(h);
    ask_until_answered(h, "streams", NULL, NULL);
    ask_until_answered(h, "flush", NULL, NULL);
    hang_up(h);
    stop(h);

    failing_quiet++;
    close(h->sockets[0]);
    close(h->sockets[1]);
    directory_remove(&h->directory);
    workload_done(&h->load);
    fake_db_done(&h->db);
    free(h);
    failing_quiet--;
}
