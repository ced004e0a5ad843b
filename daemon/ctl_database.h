/* tollctl's look into PostgreSQL: one connection, one query at a time, errors in words. It only reads. */
#ifndef TOLL_DAEMON_CTL_DATABASE_H
#define TOLL_DAEMON_CTL_DATABASE_H

#include "daemon/ctl_client.h"

#include <libpq-fe.h>

/* A query whose one row has the rows of another as one JSON array of objects. */
#define CTL_JSON_ROWS(sql) "SELECT coalesce(json_agg(q), '[]'::json) FROM (" sql ") q"
/* A timestamptz as µs since the epoch. */
#define CTL_MICROSECONDS(time) "(extract(epoch FROM " time ") * 1000000)::bigint"

/* url "": none is configured. 0, or -ENOTCONN with a reason that has no password in it and says what to do. */
int ctl_database_open(PGconn **ret, const char *url, char error[static CTL_ERROR_MAX])
    __attribute__((warn_unused_result));

/* A query with text parameters ($1 …). The result is the caller's to PQclear(). 0, or -EIO with a reason. */
int ctl_query(PGconn *conn, const char *sql, int count, const char *const *values, PGresult **ret,
              char error[static CTL_ERROR_MAX]) __attribute__((warn_unused_result));

#endif
