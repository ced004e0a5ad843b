/* A blocking PostgreSQL connection for the writer: connecting with sane time-outs, queries, binary COPY, and what an error means. */
#ifndef TOLL_DAEMON_PG_H
#define TOLL_DAEMON_PG_H

#include "daemon/batch.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct pg_options {
    const char *url;  /* libpq's connection string or URI; what it sets itself wins over what is below */
    const char *name; /* in pg_stat_activity.application_name; NULL: tolld */
    int connect_timeout_s;
    int tcp_user_timeout_ms;
};

enum { PG_STATEMENTS = 32, PG_PARAMETERS = 12 };
enum pg_role { PG_ROLE_UNKNOWN, PG_ROLE_ORIGIN, PG_ROLE_REPLICA };

/* All functions: 0 or -EAGAIN, -EINVAL, -ENOTRECOVERABLE, -ENOMEM with the meanings of sink.h; then `error` and `sqlstate` say more. */
struct pg {
    PGconn *conn;
    const char *statements[PG_STATEMENTS]; /* prepared on this connection, as s0, s1 …; NULL: that name is spent */
    int statement_count;
    enum pg_role role; /* session_replication_role, as far as we know */
    char error[512];   /* one line, never a row's contents */
    char sqlstate[6];
};

int pg_connect(struct pg *pg, const struct pg_options *options) __attribute__((warn_unused_result));
void pg_disconnect(struct pg *pg);
int pg_connected(const struct pg *pg); /* as far as libpq knows */

/* One or more statements without parameters. */
int pg_exec(struct pg *pg, const char *sql) __attribute__((warn_unused_result));
/* One statement with text parameters ($1 …); the result, in text form, is the caller's to PQclear(). `sql` is a constant: the statement is prepared
 * when it is first run, and known again by its address. */
int pg_query(struct pg *pg, PGresult **ret, const char *sql, int count, const char *const *values)
    __attribute__((warn_unused_result));
/* The same with the last parameter, of `size` bytes, in binary form. */
int pg_query_binary(struct pg *pg, PGresult **ret, const char *sql, int count, const char *const *values, size_t size)
    __attribute__((warn_unused_result));
/* What pg_query_watching() calls while the server is at work and fd is readable. False: no more in this call. */
struct pg_watch {
    int fd; /* -1: nothing is watched */
    bool (*readable)(void *context);
    void *context;
};
/* pg_query() for what may take long. */
int pg_query_watching(struct pg *pg, PGresult **ret, const char *sql, int count, const char *const *values,
                      const struct pg_watch *watch) __attribute__((warn_unused_result));
/* pg_query() for statements whose rows do not matter; the number of rows affected goes to *ret_rows (may be NULL). */
int pg_run(struct pg *pg, int64_t *ret_rows, const char *sql, int count, const char *const *values)
    __attribute__((warn_unused_result));
int pg_commit(struct pg *pg) __attribute__((warn_unused_result));
void pg_abort(struct pg *pg); /* the transaction, if there is one */
/* COPY … FROM STDIN (FORMAT binary) with bytes that copy_begin() … copy_end() made. */
int pg_copy(struct pg *pg, const char *sql, const struct copy_buffer *buf) __attribute__((warn_unused_result));
/* The same in pieces. Sending may block for as long as the server does not read. What the server says of the rows is known at the end; after
 * a failure there is only ROLLBACK, with which libpq also ends a COPY that is still open. */
int pg_copy_begin(struct pg *pg, const char *sql) __attribute__((warn_unused_result));
int pg_copy_send(struct pg *pg, const struct copy_buffer *buf) __attribute__((warn_unused_result));
int pg_copy_end(struct pg *pg) __attribute__((warn_unused_result));

/* What an SQLSTATE means: -EAGAIN (connection, resources, locks), -ENOTRECOVERABLE (schema, privileges), -EINVAL (the data). */
int pg_classify(const char *sqlstate);

/* PostgreSQL array literals in text form, e.g. {"a","b"}: growing strings. */
struct pg_array {
    char *text;
    size_t size, capacity;
    int failed;
};
void pg_array_begin(struct pg_array *array);
void pg_array_add(struct pg_array *array, const char *element); /* NULL: NULL */
void pg_array_add_uuid(struct pg_array *array, const uint8_t uuid[static 16]);
void pg_array_add_int(struct pg_array *array, int64_t value);
const char *pg_array_end(struct pg_array *array); /* NULL: out of memory; else the text, the array's */
void pg_array_done(struct pg_array *array);

enum { PG_UUID_TEXT = 37 };
void pg_uuid_format(const uint8_t uuid[static 16], char ret[static PG_UUID_TEXT]);
int pg_uuid_parse(const char *text, uint8_t ret[static 16]) __attribute__((warn_unused_result));

#endif
