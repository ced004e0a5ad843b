/* The database as rating sees it: a table of calls, so that tests can stand in for PostgreSQL.
 *
 * Calls may block for as long as the server does; all are for rating's thread but cancel(). Results are 0 or
 *   -EAGAIN          the server is away or short of something: close, and open again later
 *   -EDEADLK         a deadlock, or a conflict with somebody else's transaction: the same again at once
 *   -EINVAL          this call failed, others may not: an error in SQL, or data that it does not expect
 *   -ENOTRECOVERABLE schema or privileges are wrong: try again at leisure
 *   -ENOMEM          as -EAGAIN
 * and error() says in words what happened. */
#ifndef TOLL_DAEMON_RATING_DB_H
#define TOLL_DAEMON_RATING_DB_H

#include "daemon/credit.h"
#include "daemon/rating.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one transaction of rating did. */
struct rating_step {
    bool busy; /* nothing: somebody else is rating there */
    bool more; /* there is more to do */
    uint64_t events, lines, lsn;
};

struct rating_db_ops {
    int (*open)(struct rating_db *db); /* connects, and listens on a connection of its own */
    void (*close)(struct rating_db *db);
    /* Where something is stored and not rated, or was rated lately; at most `most`. */
    int (*backlog)(struct rating_db *db, struct rating_place *places, size_t most, size_t *ret_count);
    /* While the server rates, calls meanwhile() when something may be heard. */
    int (*rate)(struct rating_db *db, const struct rating_place *place, int most_events, struct rating_step *ret);
    /* Looks for credit that has run out, or lapsed, with time alone. */
    int (*check_credit)(struct rating_db *db);
    /* Beside rate(): all live sessions that are short, anybody's; the list is the caller's to free(). */
    int (*read_credit)(struct rating_db *db, struct credit_session **ret, size_t *ret_count);
    /* Beside rate(): whether credit was said to have changed since the last call: 1 or 0. Does not block. */
    int (*heard)(struct rating_db *db);
    int (*fd)(struct rating_db *db);      /* readable when something may be heard; -1: not open */
    void (*cancel)(struct rating_db *db); /* thread-safe: ends the call under way, if there is one, with -EAGAIN */
    const char *(*error)(const struct rating_db *db);
    void (*free)(struct rating_db *db);
};

struct rating_db {
    const struct rating_db_ops *ops;
    /* Set by who calls. It may call heard() and read_credit(); false: not again in this call. */
    bool (*meanwhile)(void *context);
    void *context;
};

struct rating_db_options {
    const char *url; /* copied */
    int connect_timeout_s, tcp_user_timeout_ms;
};

struct rating_db *
rating_db_new(const struct rating_db_options *options); /* PostgreSQL; NULL: out of memory; does not connect */

#endif
