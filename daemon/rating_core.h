/* What rating does, without its thread: no lock, no waiting, the time passed in. rating.c waits and wakes.
 *
 * A turn is rating_look(), which is cheap and says what is to be done and when, and then rating_do(), which does it and may take as long as the
 * database likes. All functions are for one thread. */
#ifndef TOLL_DAEMON_RATING_CORE_H
#define TOLL_DAEMON_RATING_CORE_H

#include "daemon/rating.h"
#include "daemon/rating_db.h"

enum rating_next {
    RATING_WAIT, /* nothing, until a moment or until the wishes change or something is heard */
    RATING_OPEN,
    RATING_READ_CREDIT,
    RATING_CHECK_CREDIT,
    RATING_LOOK_ROUND, /* where is something to be rated? */
    RATING_RATE,       /* at the next place */
    RATING_END,
};

/* What others want of it. `woken` is written by both sides. */
struct rating_wishes {
    bool begun; /* storing works */
    bool woken; /* something may have been stored */
    bool stopping;
};

/* On rating's thread. */
struct rating_reports {
    void (*status)(void *context, const struct rating_status *status);        /* with every change */
    void (*credit)(void *context, struct credit_session *list, size_t count); /* the list is the callee's to free() */
    uint32_t (*host)(void *context, const uint8_t id[static 16]);
    void *context;
};

struct rating_core; /* opaque */

/* Borrows database and metrics. NULL: out of memory. */
struct rating_core *rating_core_new(const struct rating_options *options, struct rating_db *db, struct metrics *metrics,
                                    const struct rating_reports *reports);
void rating_core_free(struct rating_core *core); /* takes NULL */
void rating_core_set_options(struct rating_core *core, const struct rating_options *options);

/* What is next. With RATING_WAIT, *ret_until_us is a monotonic time, or INT64_MAX. */
enum rating_next rating_look(struct rating_core *core, struct rating_wishes *wishes, int64_t now_us,
                             int64_t *ret_until_us);
/* Does what rating_look() said; not for RATING_WAIT. */
void rating_do(struct rating_core *core, enum rating_next next, int64_t now_us);

#endif
