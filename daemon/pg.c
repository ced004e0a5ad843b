/* See pg.h. */
#include "daemon/pg.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

/* The server's side of a broken connection: without these a dead host's row locks would outlive it by hours. And plans that are made once, not for every
 * batch (planning took longer than storing a small one), and that use an index though the table was empty when they were made. */
static const char *const SERVER_OPTIONS =
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 "
    "-c idle_in_transaction_session_timeout=60s -c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off";

enum { ANSWER_MS = 5000 };

/* One line of libpq's message, without DETAIL (it may show a row). */
static void set_error(struct pg *pg, const char *message)
{
    size_t length = strcspn(message, "\n");

    snprintf(pg->error, sizeof(pg->error), "%.*s", (int)(length < sizeof(pg->error) ? length : sizeof(pg->error) - 1),
             message);
}

int pg_classify(const char *sqlstate)
{
    static const struct {
        const char *prefix;
        int meaning;
    } table[] = {
        /* A column has another type than ours, so that binary COPY does not fit it. First, for 08 is not that. */
        {"08P01", -ENOTRECOVERABLE},
        {"22P03", -ENOTRECOVERABLE},
        {"08", -EAGAIN},    /* connection exception */
        {"0A000", -EAGAIN}, /* a prepared statement's result has another type than it had: prepared anew, it may pass */
        {"25006", -EAGAIN}, /* read-only: a standby, until it is promoted */
        {"25P03", -EAGAIN}, /* idle in transaction too long: the daemon was stopped for a while */
        {"40", -EAGAIN},    /* deadlock, serialization */
        {"53", -EAGAIN},    /* disk full, out of memory, too many connections */
        {"55P03", -EAGAIN}, /* lock not available */
        {"57", -EAGAIN},    /* operator intervention: shutdown, cancel */
        {"58", -EAGAIN},    /* system error */
        {"28", -ENOTRECOVERABLE}, /* authorization */
        {"3D", -ENOTRECOVERABLE}, /* no such database */
        {"42", -ENOTRECOVERABLE}, /* undefined table or column, privileges */
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if (strncmp(sqlstate, table[i].prefix, strlen(table[i].prefix)) == 0)
            return table[i].meaning;
    return -EINVAL;
}

/* A binary COPY does not fit the table. The context names the column; of binary data it shows no value. */
static void explain_mismatch(struct pg *pg, const PGresult *result)
{
    const char *context = PQresultErrorField(result, PG_DIAG_CONTEXT);
    size_t length = strlen(pg->error);

    if (strcmp(pg->sqlstate, "08P01") == 0 || strcmp(pg->sqlstate, "22P03") == 0)
        snprintf(pg->error + length, sizeof(pg->error) - length,
                 ": has the column another type than toll gave it? %.*s", (int)strcspn(context ? context : "", "\n"),
                 context ? context : "");
}

/* Notes a failure; takes the result, which may be NULL. */
static int fail(struct pg *pg, PGresult *result)
{
    const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *primary = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    int r;

    snprintf(pg->sqlstate, sizeof(pg->sqlstate), "%s", sqlstate ? sqlstate : "");
    set_error(pg, primary ? primary : PQerrorMessage(pg->conn));
    explain_mismatch(pg, result);
    r = sqlstate && PQstatus(pg->conn) == CONNECTION_OK ? pg_classify(sqlstate) : -EAGAIN;
    if (strcmp(pg->sqlstate, "0A000") == 0)
        memset(pg->statements, 0, sizeof(pg->statements));
    PQclear(result);
    return r;
}

static void ignore_notice(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

int pg_connect(struct pg *pg, const struct pg_options *options)
{
    char connect_timeout[16], user_timeout[16];
    /* The URL (dbname) overrides what stands before it, and is overridden by what stands after it. */
    const char *keys[] = {
        "connect_timeout", "tcp_user_timeout",          "keepalives_idle", "keepalives_interval", "keepalives_count",
        "options",         "fallback_application_name", "dbname",          "client_encoding",     NULL};
    const char *values[] = {
        connect_timeout, user_timeout, "10", "5", "3", SERVER_OPTIONS, options->name ? options->name : "tolld",
        options->url,    "UTF8",       NULL};

    pg_disconnect(pg);
    snprintf(connect_timeout, sizeof(connect_timeout), "%d", options->connect_timeout_s);
    snprintf(user_timeout, sizeof(user_timeout), "%d", options->tcp_user_timeout_ms);
    pg->conn = PQconnectdbParams(keys, values, 1);
    if (!pg->conn)
        return -ENOMEM;
    if (PQstatus(pg->conn) != CONNECTION_OK) {
        pg->sqlstate[0] = '\0';
        set_error(pg, PQerrorMessage(pg->conn));
        pg_disconnect(pg);
        return -EAGAIN;
    }
    PQsetNoticeReceiver(pg->conn, ignore_notice, NULL);
    return 0;
}

void pg_disconnect(struct pg *pg)
{
    PQfinish(pg->conn); /* takes NULL */
    pg->conn = NULL;
    pg->statement_count = 0;
    pg->role = PG_ROLE_UNKNOWN;
}

int pg_connected(const struct pg *pg)
{
    return pg->conn && PQstatus(pg->conn) == CONNECTION_OK;
}

static int check(struct pg *pg, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);

    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : fail(pg, result);
}

int pg_exec(struct pg *pg, const char *sql)
{
    PGresult *result = PQexec(pg->conn, sql);
    int r = check(pg, result);

    if (r == 0)
        PQclear(result);
    return r;
}

/* The statement's name on this connection. A name that was tried is spent: without memory for the answer we don't know whether the server has it. */
static int statement(struct pg *pg, const char *sql, int count, char ret_name[static 16])
{
    PGresult *result;
    int i = 0, r;

    while (i < pg->statement_count && pg->statements[i] != sql)
        i++;
    snprintf(ret_name, 16, "s%d", i);
    if (i < pg->statement_count)
        return 0;
    if (i == PG_STATEMENTS) { /* more than there are: after failures */
        pg_disconnect(pg);
        snprintf(pg->error, sizeof(pg->error), "too many statements were prepared: connecting again");
        pg->sqlstate[0] = '\0';
        return -EAGAIN;
    }
    pg->statements[i] = NULL;
    pg->statement_count++;
    result = PQprepare(pg->conn, ret_name, sql, count, NULL);
    r = check(pg, result);
    if (r == 0) {
        pg->statements[i] = sql;
        PQclear(result);
    }
    return r;
}

int pg_query_binary(struct pg *pg, PGresult **ret, const char *sql, int count, const char *const *values, size_t size)
{
    int sizes[PG_PARAMETERS] = {0}, binary[PG_PARAMETERS] = {0}, r;
    PGresult *result;
    char name[16];

    assert(count <= PG_PARAMETERS);
    if (size > INT_MAX)
        return -ENOMEM;
    if (size) {
        sizes[count - 1] = (int)size;
        binary[count - 1] = 1;
    }
    r = statement(pg, sql, count, name);
    if (r < 0)
        return r;
    result = PQexecPrepared(pg->conn, name, count, values, sizes, binary, 0);
    r = check(pg, result);
    if (r == 0)
        *ret = result;
    return r;
}

int pg_query(struct pg *pg, PGresult **ret, const char *sql, int count, const char *const *values)
{
    return pg_query_binary(pg, ret, sql, count, values, 0);
}

/* Until the answer is there, or the connection is gone. */
static void wait_watching(struct pg *pg, const struct pg_watch *watch)
{
    struct pollfd fds[] = {{.fd = PQsocket(pg->conn), .events = POLLIN}, {.fd = watch->fd, .events = POLLIN}};

    while (PQisBusy(pg->conn)) {
        if (poll(fds, 2, -1) <= 0)
            continue;
        if (fds[1].revents && !watch->readable(watch->context))
            fds[1].fd = -1;
        if (fds[0].revents && !PQconsumeInput(pg->conn))
            return;
    }
}

int pg_query_watching(struct pg *pg, PGresult **ret, const char *sql, int count, const char *const *values,
                      const struct pg_watch *watch)
{
    PGresult *result = NULL, *next;
    char name[16];
    int r = statement(pg, sql, count, name);

    if (r < 0)
        return r;
    if (PQsendQueryPrepared(pg->conn, name, count, values, NULL, NULL, 0)) {
        wait_watching(pg, watch);
        result = PQgetResult(pg->conn);
    }
    r = check(pg, result);
    while ((next = PQgetResult(pg->conn)))
        PQclear(next);
    if (r == 0)
        *ret = result;
    return r;
}

int pg_commit(struct pg *pg)
{
    PGresult *result = PQexec(pg->conn, "COMMIT");
    int r = check(pg, result);

    if (r < 0)
        return r;
    if (strcmp(PQcmdStatus(result), "COMMIT") !=
        0) { /* the server rolls back what had failed before, and says so only here */
        snprintf(pg->error, sizeof(pg->error), "the server answered %s", PQcmdStatus(result));
        pg->sqlstate[0] = '\0';
        r = -EAGAIN;
    }
    PQclear(result);
    return r;
}

void pg_abort(struct pg *pg)
{
    pg->role = PG_ROLE_UNKNOWN; /* what was set within the transaction goes with it */
    if (pg_connected(pg) && PQtransactionStatus(pg->conn) != PQTRANS_IDLE && pg_exec(pg, "ROLLBACK") < 0)
        pg_disconnect(pg);
}

int pg_run(struct pg *pg, int64_t *ret_rows, const char *sql, int count, const char *const *values)
{
    PGresult *result;
    int r = pg_query(pg, &result, sql, count, values);

    if (r != 0)
        return r;
    if (ret_rows)
        *ret_rows = strtoll(PQcmdTuples(result), NULL, 10);
    PQclear(result);
    return 0;
}

/* PQexec() for a COPY, but for one thing: where libpq has no memory for the server's answer, it takes it for one that is not complete
 * (getCopyStart() in src/interfaces/libpq/fe-protocol3.c) and waits for the rest, as the server does for rows. An answer is a few bytes: one that
 * has begun to come and is not there after seconds never will be. NULL: that, or libpq says why. */
static PGresult *begin_copy(struct pg *pg, const char *sql)
{
    struct pollfd wait = {.fd = PQsocket(pg->conn), .events = POLLIN};
    int timeout_ms = -1;

    if (!PQsendQuery(pg->conn, sql))
        return NULL;
    while (PQisBusy(pg->conn)) {
        int n = poll(&wait, 1, timeout_ms);

        if (n == 0) {
            pg_disconnect(pg);
            return NULL;
        }
        if (n > 0 && !PQconsumeInput(pg->conn))
            return NULL;
        if (n > 0)
            timeout_ms = ANSWER_MS;
    }
    return PQgetResult(pg->conn);
}

int pg_copy_begin(struct pg *pg, const char *sql)
{
    PGresult *result = begin_copy(pg, sql);

    if (!pg->conn) {
        snprintf(pg->error, sizeof(pg->error), "the server's answer never came whole: is this process out of memory?");
        pg->sqlstate[0] = '\0';
        return -EAGAIN;
    }
    if (PQresultStatus(result) != PGRES_COPY_IN)
        return fail(pg, result);
    PQclear(result);
    return 0;
}

int pg_copy_send(struct pg *pg, const struct copy_buffer *buf)
{
    /* The server reads a message as a whole before it looks at it: with messages of 1 MiB it took 8.6 to 9.6 µs a row, with 8 KiB, as psql has them, 6.2 to
     * 7.3, for they stay in its caches. So do these, and this thread makes fewer calls of the kernel. */
    enum { MESSAGE_BYTES = 32 * 1024 };

    if (buf->failed)
        return -ENOMEM;
    for (size_t pos = 0; pos < buf->size; pos += MESSAGE_BYTES) {
        size_t left = buf->size - pos;

        if (PQputCopyData(pg->conn, buf->data + pos, (int)(left < MESSAGE_BYTES ? left : MESSAGE_BYTES)) != 1)
            return fail(pg, NULL);
    }
    return 0;
}

int pg_copy_end(struct pg *pg)
{
    PGresult *result, *next;
    int r;

    if (PQputCopyEnd(pg->conn, NULL) != 1)
        return fail(pg, NULL);
    result = PQgetResult(pg->conn);
    r = check(pg, result);
    if (r == 0)
        PQclear(result);
    while ((next = PQgetResult(pg->conn)))
        PQclear(next);
    return r;
}

int pg_copy(struct pg *pg, const char *sql, const struct copy_buffer *buf)
{
    int r = buf->failed ? -ENOMEM : pg_copy_begin(pg, sql);

    if (r == 0)
        r = pg_copy_send(pg, buf);
    return r < 0 ? r : pg_copy_end(pg);
}

static void append(struct pg_array *array, const char *text, size_t size)
{
    if (array->capacity - array->size < size + 1) {
        size_t capacity = (array->size + size + 1) * 2;
        char *grown = realloc(array->text, capacity);

        if (!grown) {
            array->failed = 1;
            return;
        }
        array->text = grown;
        array->capacity = capacity;
    }
    memcpy(array->text + array->size, text, size);
    array->size += size;
    array->text[array->size] = '\0';
}

void pg_array_begin(struct pg_array *array)
{
    array->size = 0;
    array->failed = 0;
    append(array, "{", 1);
}

static void separate(struct pg_array *array)
{
    if (array->size > 1)
        append(array, ",", 1);
}

void pg_array_add(struct pg_array *array, const char *element)
{
    separate(array);
    if (!element) {
        append(array, "NULL", 4);
        return;
    }
    append(array, "\"", 1);
    for (; *element; element++) {
        if (*element == '"' || *element == '\\')
            append(array, "\\", 1);
        append(array, element, 1);
    }
    append(array, "\"", 1);
}

void pg_array_add_uuid(struct pg_array *array, const uint8_t uuid[static 16])
{
    char text[PG_UUID_TEXT];

    pg_uuid_format(uuid, text);
    separate(array);
    append(array, text, PG_UUID_TEXT - 1);
}

void pg_array_add_int(struct pg_array *array, int64_t value)
{
    char text[24];

    separate(array);
    append(array, text, (size_t)snprintf(text, sizeof(text), "%" PRId64, value));
}

const char *pg_array_end(struct pg_array *array)
{
    append(array, "}", 1);
    return array->failed ? NULL : array->text;
}

void pg_array_done(struct pg_array *array)
{
    free(array->text);
    *array = (struct pg_array){0};
}

void pg_uuid_format(const uint8_t uuid[static 16], char ret[static PG_UUID_TEXT])
{
    uuid_unparse_lower(uuid, ret);
}

int pg_uuid_parse(const char *text, uint8_t ret[static 16])
{
    return uuid_parse(text, ret) == 0 ? 0 : -EINVAL;
}
