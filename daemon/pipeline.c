/* See pipeline.h. */
#include "daemon/pipeline.h"

#include "daemon/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pipeline {
    struct pipeline_options options;
    struct journal *journal;
    struct intake *intake;
    struct writers *writers;
    uv_async_t progress;
    bool stopping, ended;
    bool renewing;
};

/* --- the receive loop's events --------------------------------------------------------------------------------------------- */

static void on_durable(void *context)
{
    struct pipeline *p = context;

    writers_wake(p->writers);
}

static void on_broken(void *context, int error)
{
    struct pipeline *p = context;

    (void)error; /* intake has said so */
    p->options.broken(p->options.context);
}

static void on_intake_stopped(void *context)
{
    struct pipeline *p = context;

    writers_hurry(p->writers, UINT64_MAX);
    writers_stop(p->writers);
}

/* --- the writers' events -------------------------------------------------------------------------------------------------- */

static void renew_journal(void *context)
{
    struct pipeline *p = context;
    int r = writers_renew(p->writers);

    p->renewing = false;
    if (r < 0) {
        log_error(
            r == -EBADMSG
                ? "the journal can't be renewed, for it is damaged: run tolld --repair-journal, then start again error=%s"
                : "the journal can't be renewed error=%s",
            strerror(-r));
        p->options.broken(p->options.context);
    }
}

static void on_progress(uv_async_t *handle)
{
    struct pipeline *p = handle->data;
    struct writer_status status;

    writers_look(p->writers);
    writers_get_status(p->writers, &status);
    if (status.state != WRITER_RENEW) /* also while one of them is in trouble: what all have committed may be deleted */
        intake_set_committed(p->intake, status.committed_lsn);
    if (status.state == WRITER_RENEW && !p->renewing && !p->stopping) {
        p->renewing = true;
        intake_renew(p->intake, renew_journal);
    }
    p->options.progress(p->options.context, &status);
    if (status.state == WRITER_DONE && !p->ended) {
        p->ended = true;
        p->options.ended(p->options.context);
    }
}

static void on_progress_from_thread(void *context)
{
    struct pipeline *p = context;

    uv_async_send(&p->progress);
}

/* --- start and end --------------------------------------------------------------------------------------------------------- */

int pipeline_new(struct pipeline **ret, const struct pipeline_options *options, uv_loop_t *loop, int fd,
                 struct journal *journal, struct metrics *metrics)
{
    struct pipeline *p = calloc(1, sizeof(*p));
    int r;

    *ret = NULL;
    if (!p)
        return -ENOMEM;
    p->options = *options;
    p->journal = journal;
    p->options.intake.durable = on_durable;
    p->options.intake.broken = on_broken;
    p->options.writers.writer.progress = on_progress_from_thread;
    p->options.writers.writer.prompt = options->intake.ack == INTAKE_ACK_COMMIT;
    p->options.intake.context = p->options.writers.writer.context = p->progress.data = p;
    r = uv_async_init(loop, &p->progress, on_progress);
    if (r < 0) {
        free(p);
        return r;
    }
    r = intake_new(&p->intake, &p->options.intake, loop, fd, journal, metrics);
    if (r == 0)
        r = writers_new(&p->writers, &p->options.writers, journal, metrics);
    p->options.writers.writer.host = NULL; /* the caller's */
    *ret = p;
    return r;
}

void pipeline_stop(struct pipeline *p)
{
    if (p->stopping)
        return;
    p->stopping = true;
    intake_stop(p->intake, on_intake_stopped);
}

static void ignore(void *context)
{
    (void)context;
}

void pipeline_close(struct pipeline *p)
{
    if (!p)
        return;
    writers_free(p->writers);
    p->writers = NULL;
    if (p->intake && !p->stopping) /* it did not start */
        intake_stop(p->intake, ignore);
    uv_close((uv_handle_t *)&p->progress, NULL);
}

void pipeline_free(struct pipeline *p)
{
    if (!p)
        return;
    intake_free(p->intake);
    free(p);
}

struct intake *pipeline_intake(struct pipeline *p)
{
    return p->intake;
}

struct writers *pipeline_writers(struct pipeline *p)
{
    return p->writers;
}
