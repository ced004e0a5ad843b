/* tollctl's look into PostgreSQL: one connection, one query at a time, errors in words. */
#ifndef TOLL_DAEMON_CTL_DATABASE_H
#define TOLL_DAEMON_CTL_DATABASE_H

#include "daemon/ctl.h"
#include "daemon/ctl_client.h"

#include <libpq-fe.h>

/* A query whose one row has the rows of another as one JSON array of objects. */
#define CTL_JSON_ROWS(sql) "SELECT coalesce(json_agg(q), '[]'::json) FROM (" sql ") q"
/* A timestamptz as µs since the epoch. */
#define CTL_MICROSECONDS(time) "(extract(epoch FROM " time ") * 1000000)::bigint"

/* The way back, of text; NULL stays NULL. */
#define CTL_TIMESTAMP(us) "('epoch'::timestamptz + " us "::bigint * interval '1 microsecond')"

/* url "": none is configured. 0, or -ENOTCONN with a reason that has no password in it and says what to do. */
int ctl_database_open(PGconn **ret, const char *url, char error[static CTL_ERROR_MAX])
    __attribute__((warn_unused_result));

/* A query with text parameters ($1 …). The result is the caller's to PQclear(). 0, or -EIO with a reason. */
int ctl_query(PGconn *conn, const char *sql, int count, const char *const *values, PGresult **ret,
              char error[static CTL_ERROR_MAX]) __attribute__((warn_unused_result));

/* Connects, runs one query and commits, unless keep is false: then what it did is taken back. After a deadlock
 * a query to be kept is run again, ten times in all at most. Says on standard error what went wrong, with all that
 * the database says of it. Returns CTL_OK and a result to PQclear(), CTL_BAD where the database understood and refused, or CTL_NO_DATABASE. */
int ctl_run(struct ctl *ctl, bool keep, const char *sql, int count, const char *const *values, PGresult **ret)
    __attribute__((warn_unused_result));

/* Runs a query as ctl_run() does and prints whatever it answers: a table, lines of text, or with --json an array of objects. Without rows: says
 * `nothing`. */
int ctl_call(struct ctl *ctl, bool keep, const char *sql, int count, const char *const *values, const char *nothing)
    __attribute__((warn_unused_result));

/* Copies what a COPY … TO STDOUT says to ctl->out. The same statuses. */
int ctl_copy_out(struct ctl *ctl, PGconn *conn, const char *sql) __attribute__((warn_unused_result));

/* What went wrong with the last statement, on standard error; its exit status. */
int ctl_complain_of(PGconn *conn, const PGresult *result);

#endif
