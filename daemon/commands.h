/* What tollctl can ask a running daemon: the commands that the control socket offers. They read; what they read belongs to others. */
#ifndef TOLL_DAEMON_COMMANDS_H
#define TOLL_DAEMON_COMMANDS_H

#include "daemon/control.h"
#include "daemon/intake.h"
#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/rating.h"
#include "daemon/watch.h"
#include "daemon/writers.h"

#include <stdint.h>
#include <uv.h>

struct flush_wait;

/* What the commands look at; all borrowed, alive as long as the control socket is. */
struct commands {
    uv_loop_t *loop;
    struct intake *intake;
    struct writers *writers;
    struct journal *journal;
    const struct metrics *metrics;
    struct watch *watch;      /* the alarms */
    struct rating *rating;    /* NULL: there is none */
    const char *sink_name;    /* "postgres", "log" */
    const char *ack_name;     /* "sync" … */
    int64_t started_us;       /* monotonic */
    struct flush_wait *waits; /* private */
};

extern const struct control_command commands_table[]; /* its context is a struct commands */

/* The writer's status has changed: answers flushes that are done. */
void commands_progress(struct commands *commands, const struct writer_status *status);
/* The daemon stops: answers all that still wait. */
void commands_stop(struct commands *commands);

#endif
