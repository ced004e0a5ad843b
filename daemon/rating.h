/* Rating's thread: drives toll.rate_free() over what is stored, in SQL, on a connection of its own, and brings back which live sessions are short of
 * credit, which it hears of on another one. What usage costs is decided in SQL; here is only when.
 *
 * It never makes a writer wait and never slows the receive loop: it is told that something was stored, and looks for itself now and then. Several daemons on
 * one database share the work. Everything it does is in single transactions with a watermark of its own, so it may end or fail at any time. All functions are
 * for the loop's thread, unless they say otherwise. */
#ifndef TOLL_DAEMON_RATING_H
#define TOLL_DAEMON_RATING_H

#include "daemon/credit.h"
#include "daemon/metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum { RATING_PLACES = 64 };
#define RATING_APPLICATION "tolld-rating" /* its connection, in pg_stat_activity */
#define CREDIT_APPLICATION "tolld-credit" /* the one that listens meanwhile */

struct rating_options {
    int batch_events;     /* about so many in one transaction */
    int64_t poll_us;      /* how often it looks for what nobody told of */
    int64_t retry_max_us; /* longest pause between tries */
    /* Thread-safe, on rating's thread: which sender a session's last frame came from, as memory knows; 0: it does not. */
    uint32_t (*host)(void *context, const uint8_t id[static 16]);
    /* On the loop's thread: the status or the list of credit has changed. */
    void (*changed)(void *context);
    /* On the loop's thread, after rating_stop(): nothing more is under way. */
    void (*ended)(void *context);
    void *context;
};

enum rating_state {
    RATING_WAITING, /* for storing to begin */
    RATING_OK,
    RATING_RETRYING, /* the database is away or short of something: tries go on */
    RATING_STOPPED,  /* somebody must do something; tries go on at leisure */
    RATING_DONE,
};

/* One writer of one journal: what is stored by it is rated in order. */
struct rating_place {
    uint8_t journal[16];
    int writer;
    bool waits;              /* something is stored, or a session changed, that is not rated */
    uint64_t lsn;            /* rated below */
    uint64_t waiting_events; /* stored and not rated, at least */
    int64_t waiting_us;      /* how long the oldest batch of these has waited */
};

struct rating_status {
    enum rating_state state;
    uint64_t failures; /* since start */
    char error[768];   /* why it is not RATING_OK */
    int64_t lag_us;    /* how long the oldest stored batch has waited to be rated, at the last look */
    struct rating_place places[RATING_PLACES]; /* that have moved lately, or wait; of this daemon and of others */
    size_t place_count;
};

struct rating;    /* opaque */
struct rating_db; /* rating_db.h */

/* Starts the thread, which waits for rating_wake(). Owns the database from then on; borrows the metrics. 0 or -errno: then the database is the caller's
 * still. */
int rating_new(struct rating **ret, const struct rating_options *options, uv_loop_t *loop, struct rating_db *db,
               struct metrics *metrics) __attribute__((warn_unused_result));

void rating_wake(struct rating *rating); /* storing works, and something may have been stored */
void rating_set_options(struct rating *rating, const struct rating_options *options); /* the numbers */
void rating_get_status(struct rating *rating, struct rating_status *ret);
/* The sessions that are short, if they were read anew since the last call: true, and the list is the caller's to free(). */
bool rating_take_credit(struct rating *rating, struct credit_session **ret, size_t *ret_count);

/* Rates once more what is stored, unless the database is away, and ends. A call of the database that is under way after patience_us is cancelled. */
void rating_stop(struct rating *rating, int64_t patience_us);
/* Once ended() was called: waits for the thread and closes the handles. Then run the loop once more, then rating_free(). Both take NULL. */
void rating_close(struct rating *rating);
void rating_free(struct rating *rating);

const char *rating_state_name(enum rating_state state); /* "ok", "retrying" … */

#endif
