/* tolld: start-up and shutdown order. What the parts do stands in their headers. */
#include "daemon/clock.h"
#include "daemon/commands.h"
#include "daemon/config.h"
#include "daemon/control.h"
#include "daemon/journal.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/offline.h"
#include "daemon/opening.h"
#include "daemon/options.h"
#include "daemon/pipeline.h"
#include "daemon/rating.h"
#include "daemon/rating_db.h"
#include "daemon/sink_log.h"
#include "daemon/sink_postgres.h"
#include "daemon/version.h"
#include "daemon/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <uv.h>

struct tolld {
    struct options options;
    struct config config;
    uv_loop_t loop;
    struct metrics metrics;
    struct journal *journal;
    struct pipeline *pipeline;
    struct rating *rating; /* NULL: there is none */
    struct control *control;
    struct commands commands;
    struct watch watch;
    int socket;
    bool own_socket; /* bound here: ours to remove */
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t deadline;
    bool stopping;
    int exit_status;
};

/* --- what stores ------------------------------------------------------------------------------------------------------------ */

static int save_watermark(void *context, const void *data, size_t size)
{
    return journal_state_write(context, "log_watermark", data, size);
}

static long load_watermark(void *context, void *data, size_t cap)
{
    return journal_state_read(context, "log_watermark", data, cap);
}

/* One writer's. */
static struct sink *make_sink(void *context)
{
    struct tolld *d = context;
    const struct config *config = &d->config;
    const struct sink_postgres_options postgres = {
        .url = config->database.url,
        .auto_migrate = config->database.auto_migrate,
        .connect_timeout_s = (int)(config->database.connect_timeout_us / 1000000),
        .tcp_user_timeout_ms = (int)(config->database.tcp_user_timeout_us / 1000),
        .takeover_s = (int)(config->sessions.takeover_after_us / 1000000),
    };
    const struct sink_log_options lines = {
        .fd = STDOUT_FILENO, .save = save_watermark, .load = load_watermark, .context = d->journal};

    return config->database.url[0] ? sink_postgres_new(&postgres) : sink_log_new(&lines);
}

static unsigned count_writers(const struct tolld *d)
{
    unsigned writers = (unsigned)d->config.database.writers;

    if (d->config.database.url[0])
        return writers;
    log_info("DATABASE_URL is not set: frames are written to standard output as lines of JSON");
    if (writers > 1)
        log_info("lines have one writer: database.writers is for PostgreSQL");
    return 1;
}

/* --- running ---------------------------------------------------------------------------------------------------------------- */

static void stop(struct tolld *d);

static void on_broken(void *context)
{
    struct tolld *d = context;

    d->exit_status = EXIT_JOURNAL;
    sd_notify(0, "STATUS=the journal can't be written: stopping");
    stop(d);
}

static void close_handle(uv_handle_t *handle, void *context)
{
    (void)context;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void on_progress(void *context, const struct writer_status *status)
{
    struct tolld *d = context;

    if (d->rating && status->state == WRITER_OK)
        rating_wake(d->rating);
    watch_look(&d->watch, status);
    commands_progress(&d->commands, status);
}

static void on_all_ended(void *context)
{
    struct tolld *d = context;

    uv_stop(&d->loop);
}

/* All is stored that could be: rating may have a last look, for half of the time that is left at most. */
static void on_pipeline_ended(void *context)
{
    struct tolld *d = context;

    if (d->rating)
        rating_stop(d->rating, d->config.daemon.shutdown_deadline_us / 2);
    else
        on_all_ended(d);
}

static void on_rating_changed(void *context)
{
    struct tolld *d = context;
    struct credit_session *list;
    size_t count;

    if (rating_take_credit(d->rating, &list, &count))
        intake_set_credit(pipeline_intake(d->pipeline), list, count);
}

/* On rating's thread: whose frames of the session came last. */
static uint32_t host_of_session(void *context, const uint8_t id[static 16])
{
    struct tolld *d = context;
    struct session session;

    return writers_session(pipeline_writers(d->pipeline), id, &session) ? session.host : 0;
}

static struct rating_options rating_options_of(struct tolld *d)
{
    return (struct rating_options){
        .batch_events = (int)d->config.rating.batch_events,
        .poll_us = d->config.rating.poll_us,
        .retry_max_us = d->config.database.retry_max_us,
        .host = host_of_session,
        .changed = on_rating_changed,
        .ended = on_all_ended,
        .context = d,
    };
}

static struct writer_options writer_options_of(struct tolld *d)
{
    const struct config *config = &d->config;

    return (struct writer_options){
        .apply = {.batch_rows = (size_t)config->batch.rows,
                  .batch_bytes = (size_t)config->batch.bytes,
                  .idle_timeout_us = config->sessions.idle_timeout_us,
                  .future_tolerance_us = config->sessions.future_tolerance_us,
                  .past_tolerance_us = config->sessions.past_tolerance_us,
                  .sessions_max = (size_t)config->sessions.max_in_memory,
                  .streams_max = (size_t)config->limits.streams,
                  .quarantine_rows = (uint64_t)config->limits.quarantine_rows},
        .batch_age_us = config->batch.age_us,
        .retry_max_us = config->database.retry_max_us,
    };
}

/* --- signals ---------------------------------------------------------------------------------------------------------------- */

static void remove_sockets(struct tolld *d)
{
    if (d->own_socket && d->socket >= 0)
        unlink(d->config.daemon.socket);
    if (d->control)
        unlink(d->config.daemon.control);
}

static void on_deadline(uv_timer_t *timer)
{
    struct tolld *d = timer->data;

    log_warning(
        "not everything could be stored before the deadline: the rest is in the journal and is stored after the next start");
    remove_sockets(d);
    _exit(d->exit_status); /* the writer may hang in a call to a frozen server */
}

static void stop(struct tolld *d)
{
    if (d->stopping)
        return;
    d->stopping = true;
    sd_notify(0, "STOPPING=1");
    uv_timer_start(&d->deadline, on_deadline, (uint64_t)(d->config.daemon.shutdown_deadline_us / 1000), 0);
    pipeline_stop(d->pipeline);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    struct tolld *d = handle->data;

    if (d->stopping) {
        log_warning("second signal, ending at once: what is not stored is in the journal signal=%s", strsignal(number));
        remove_sockets(d);
        _exit(EXIT_FAILURE);
    }
    log_info("stopping signal=%s", strsignal(number));
    stop(d);
}

static void set_watch_limits(struct tolld *d)
{
    d->watch.batch_age_us = d->config.batch.age_us;
    intake_set_batch_age(pipeline_intake(d->pipeline), d->watch.batch_age_us);
    d->watch.quarantine_limit = (uint64_t)d->config.limits.quarantine_rows;
    intake_set_quarantine_limit(pipeline_intake(d->pipeline), d->watch.quarantine_limit);
}

static void on_reload(uv_signal_t *handle, int number)
{
    struct tolld *d = handle->data;
    char error[CONFIG_ERROR_MAX], applied[CONFIG_NAMES_MAX], restart[CONFIG_NAMES_MAX];
    struct writer_options options;
    struct config config;

    (void)number;
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRId64, clock_monotonic_us());
    if (config_load(&config, d->options.config_path, error) < 0) {
        log_error("the configuration was not reloaded, the old one stays: %s", error);
    } else {
        config_reload(&d->config, &config, applied, restart);
        options = writer_options_of(d);
        options.host = "";
        writers_set_options(pipeline_writers(d->pipeline), &options);
        if (d->rating) {
            const struct rating_options rating = rating_options_of(d);

            rating_set_options(d->rating, &rating);
        }
        set_watch_limits(d);
        journal_set_limits(d->journal, (uint64_t)d->config.journal.max_bytes,
                           (uint64_t)d->config.journal.min_free_bytes, d->config.journal.retention_us);
        log_level_set((enum log_level)d->config.daemon.log_level);
        log_info("configuration reloaded applied=%s restart_needed_for=%s", applied[0] ? applied : "none",
                 restart[0] ? restart : "none");
    }
    sd_notify(0, "READY=1");
}

static int watch_signal(struct tolld *d, uv_signal_t *handle, uv_signal_cb callback, int number)
{
    int r = uv_signal_init(&d->loop, handle);

    handle->data = d;
    return r < 0 ? r : uv_signal_start(handle, callback, number);
}

/* --- from start to end ------------------------------------------------------------------------------------------------------ */

static int start_pipeline(struct tolld *d)
{
    const struct config *config = &d->config;
    struct pipeline_options options = {
        .intake = {.ack = (enum intake_ack)config->journal.ack,
                   .queue = opening_queue_length(),
                   .streams = {.max = (size_t)config->limits.streams,
                               .max_per_uid = (size_t)config->limits.streams_per_uid,
                               .pages_max = (size_t)config->limits.pages,
                               .pages_max_per_uid = (size_t)config->limits.pages_per_uid,
                               .epoch = (uint64_t)clock_realtime_us(),
                               .stall_us = config->limits.stream_stall_us}},
        .writers = {.writer = writer_options_of(d), .count = count_writers(d), .sink = make_sink, .sink_context = d},
        .progress = on_progress,
        .broken = on_broken,
        .ended = on_pipeline_ended,
        .context = d,
    };
    char host[256] = "";

    (void)gethostname(host, sizeof(host) - 1);
    options.writers.writer.host = host;
    return pipeline_new(&d->pipeline, &options, &d->loop, d->socket, d->journal, &d->metrics);
}

static int start_rating(struct tolld *d)
{
    const struct rating_options options = rating_options_of(d);
    const struct rating_db_options postgres = {
        .url = d->config.database.url,
        .connect_timeout_s = (int)(d->config.database.connect_timeout_us / 1000000),
        .tcp_user_timeout_ms = (int)(d->config.database.tcp_user_timeout_us / 1000),
    };
    struct rating_db *db;
    int r;

    if (!d->config.database.url[0] || !d->config.rating.enabled)
        return 0;
    db = rating_db_new(&postgres);
    r = db ? rating_new(&d->rating, &options, &d->loop, db, &d->metrics) : -ENOMEM;
    if (r < 0 && db)
        db->ops->free(db);
    return r;
}

static void start_watch(struct tolld *d)
{
    d->watch = (struct watch){.intake = pipeline_intake(d->pipeline),
                              .writers = pipeline_writers(d->pipeline),
                              .journal = d->journal,
                              .metrics = &d->metrics,
                              .rating = d->rating};
    set_watch_limits(d);
    watch_start(&d->watch, &d->loop);
}

static int start_control(struct tolld *d)
{
    struct control_options options;
    int r;

    d->commands = (struct commands){
        .loop = &d->loop,
        .intake = pipeline_intake(d->pipeline),
        .writers = pipeline_writers(d->pipeline),
        .journal = d->journal,
        .metrics = &d->metrics,
        .watch = &d->watch,
        .rating = d->rating,
        .sink_name = writers_sink_name(pipeline_writers(d->pipeline)),
        .ack_name = config_ack_name((enum config_ack)d->config.journal.ack),
        .started_us = clock_monotonic_us(),
    };
    options = (struct control_options){.path = d->config.daemon.control,
                                       .mode = d->config.daemon.control_mode,
                                       .commands = commands_table,
                                       .context = &d->commands};
    r = control_open(&d->control, &d->loop, &options);
    if (r < 0)
        log_error("the control socket can't be opened path=%s error=%s", d->config.daemon.control, strerror(-r));
    return r;
}

static int start_loop(struct tolld *d)
{
    int r = uv_loop_init(&d->loop);

    if (r < 0)
        return r;
    d->deadline.data = d;
    r = uv_timer_init(&d->loop, &d->deadline);
    if (r == 0)
        r = watch_signal(d, &d->sigterm, on_stop_signal, SIGTERM);
    if (r == 0)
        r = watch_signal(d, &d->sigint, on_stop_signal, SIGINT);
    if (r == 0)
        r = watch_signal(d, &d->sighup, on_reload, SIGHUP);
    return r;
}

static int start(struct tolld *d)
{
    const bool adopt = d->options.adopt_journal || d->config.daemon.adopt_journal;
    int r =
        opening_journal(&d->journal, &d->config, adopt); /* first: it holds the lock that keeps a second daemon out */

    if (r < 0) {
        d->exit_status = r == -EBUSY ? EXIT_FAILURE : EXIT_JOURNAL;
        return r;
    }
    r = opening_socket(&d->socket, &d->own_socket, &d->config);
    if (r < 0)
        return r;
    r = start_loop(d);
    if (r == 0)
        r = start_pipeline(d);
    if (r == 0)
        r = start_rating(d);
    if (r < 0) {
        log_error("tolld can't start error=%s", strerror(-r));
        return r;
    }
    start_watch(d);
    return start_control(d);
}

static int run(struct tolld *d)
{
    int r;

    signal(SIGPIPE, SIG_IGN);
    opening_raise_descriptor_limit();
    r = start(d);
    if (r < 0) /* the writer's thread may be at work, so nothing is taken from under its feet */
        _exit(r == -ENAMETOOLONG ? EXIT_CONFIGURATION : d->exit_status ? d->exit_status : EXIT_FAILURE);
    log_info("ready version=%s sink=%s ack=%s", TOLL_VERSION, d->commands.sink_name,
             config_ack_name((enum config_ack)d->config.journal.ack));
    sd_notify(0, "READY=1"); /* does not wait for PostgreSQL: receiving and acknowledging work without it */
    uv_run(&d->loop, UV_RUN_DEFAULT);

    rating_close(d->rating);
    pipeline_close(d->pipeline);
    commands_stop(&d->commands);
    control_close(d->control, NULL, NULL);
    uv_walk(&d->loop, close_handle, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    remove_sockets(d);
    rating_free(d->rating);
    pipeline_free(d->pipeline);
    uv_loop_close(&d->loop);
    journal_close(d->journal);
    log_info("stopped");
    return d->exit_status;
}

int main(int argc, char **argv)
{
    static struct tolld d; /* one per process, and large */
    struct journal_options journal;
    char error[CONFIG_ERROR_MAX];
    int status;

    if (!options_parse(&d.options, argc, argv, &status))
        return status;
    if (config_load(&d.config, d.options.config_path, error) < 0) {
        fprintf(stderr, "tolld: %s\n", error);
        return EXIT_CONFIGURATION;
    }
    log_open(STDERR_FILENO, (enum log_level)d.config.daemon.log_level);
    switch (d.options.mode) {
    case OPTIONS_CHECK_CONFIG:
        printf("tolld: the configuration is good\n");
        status = EXIT_SUCCESS;
        break;
    case OPTIONS_MIGRATE:
        status = offline_migrate(&d.config);
        break;
    case OPTIONS_REPAIR_JOURNAL:
        opening_journal_options(&journal, &d.config, false);
        status = offline_repair(&journal);
        break;
    case OPTIONS_RUN:
        status = run(&d);
        break;
    }
    config_free(&d.config);
    return status;
}
