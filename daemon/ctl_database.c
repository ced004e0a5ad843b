/* See ctl_database.h. */
#include "daemon/ctl_database.h"

#include "daemon/ctl_print.h"
#include "daemon/ctl_table.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES_MAX = 10 };

/* libpq's messages have several lines; the first says it. */
static void first_line(const char *message, char *ret, size_t size)
{
    snprintf(ret, size, "%.*s", (int)strcspn(message, "\n"), message);
}

int ctl_database_open(PGconn **ret, const char *url, char error[static CTL_ERROR_MAX])
{
    /* What stands later wins: the connection string over our time-out. */
    const char *const keywords[] = {"connect_timeout", "fallback_application_name", "dbname", NULL};
    const char *const values[] = {"5", "tollctl", url, NULL};
    PQconninfoOption *parsed;
    PGconn *conn;
    char reason[300];

    if (!url[0]) {
        snprintf(error, CTL_ERROR_MAX,
                 "no database is configured: give --database URL, or DATABASE_URL, or [database] url in the "
                 "configuration file");
        return -ENOTCONN;
    }
    parsed = PQconninfoParse(url, NULL);
    PQconninfoFree(parsed);
    if (!parsed) { /* libpq would quote what it does not understand, and that may be a password */
        snprintf(error, CTL_ERROR_MAX, "the database URL is neither a libpq connection string nor a URI");
        return -ENOTCONN;
    }
    conn = PQconnectdbParams(keywords, values, 1);
    if (PQstatus(conn) != CONNECTION_OK) {
        first_line(PQerrorMessage(conn), reason, sizeof(reason));
        snprintf(error, CTL_ERROR_MAX, "can't connect to the database: %s", reason[0] ? reason : "out of memory");
        PQfinish(conn);
        return -ENOTCONN;
    }
    *ret = conn;
    return 0;
}

static const char *advice(const char *sqlstate)
{
    if (strcmp(sqlstate, "42P01") == 0 || strcmp(sqlstate, "42883") == 0 || strcmp(sqlstate, "3F000") == 0)
        return "; has tolld ever stored anything here? (tolld --migrate makes the tables)";
    if (strcmp(sqlstate, "42501") == 0)
        return "; connect as a member of toll_reader (quarantined bytes: of toll_ingest; to set prices and book money: of toll_billing)";
    return "";
}

int ctl_query(PGconn *conn, const char *sql, int count, const char *const *values, PGresult **ret,
              char error[static CTL_ERROR_MAX])
{
    PGresult *result = PQexecParams(conn, sql, count, NULL, values, NULL, NULL, 0);
    const char *sqlstate;
    char reason[300];

    if (PQresultStatus(result) == PGRES_TUPLES_OK) {
        *ret = result;
        return 0;
    }
    sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    first_line(PQerrorMessage(conn), reason, sizeof(reason));
    snprintf(error, CTL_ERROR_MAX, "the database refused: %s%s", reason, advice(sqlstate ? sqlstate : ""));
    PQclear(result);
    return -EIO;
}

int ctl_complain_of(PGconn *conn, const PGresult *result)
{
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *context = PQresultErrorField(result, PG_DIAG_CONTEXT);

    if (!message || !sqlstate) {
        fprintf(stderr, "tollctl: the connection to the database was lost: %s\n", PQerrorMessage(conn));
        return CTL_NO_DATABASE;
    }
    if (strncmp(message, "toll: ", 6) == 0)
        message += 6;
    fprintf(stderr, "tollctl: %s%s\n", message, advice(sqlstate));
    if (detail)
        fprintf(stderr, "%s\n", detail);
    if (context && strncmp(context, "JSON data, ", 11) == 0) /* which line */
        fprintf(stderr, "%.*s\n", (int)strcspn(context, "\n"), context);
    if (hint)
        fprintf(stderr, "%s\n", hint);
    /* Classes of what the database makes of what it was told: data, constraints, what functions raise. */
    return strncmp(sqlstate, "22", 2) == 0 || strncmp(sqlstate, "23", 2) == 0 || strncmp(sqlstate, "P0", 2) == 0 ||
                   strcmp(sqlstate, "55000") == 0
               ? CTL_BAD
               : CTL_NO_DATABASE;
}

/* A statement by itself is a transaction: after a deadlock, with rating most likely, nothing of it was done, and it is done again. */
static PGresult *execute(PGconn *conn, const char *sql, int count, const char *const *values)
{
    PGresult *result;

    for (unsigned tries = 1;; tries++) {
        const char *sqlstate;

        result = PQexecParams(conn, sql, count, NULL, values, NULL, NULL, 0);
        sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        if (!sqlstate || strcmp(sqlstate, "40P01") != 0 || tries == TRIES_MAX ||
            PQtransactionStatus(conn) != PQTRANS_IDLE)
            return result;
        PQclear(result);
    }
}

int ctl_run(struct ctl *ctl, bool keep, const char *sql, int count, const char *const *values, PGresult **ret)
{
    PGconn *conn = NULL;
    PGresult *result = NULL;
    char error[CTL_ERROR_MAX];
    int status = CTL_OK;

    if (ctl_database_open(&conn, ctl->database, error) < 0) {
        fprintf(stderr, "tollctl: %s\n", error);
        return CTL_NO_DATABASE;
    }
    /* Without a COMMIT everything is taken back. */
    if (!keep)
        PQclear(PQexec(conn, "BEGIN"));
    if (keep || PQtransactionStatus(conn) == PQTRANS_INTRANS)
        result = execute(conn, sql, count, values);
    if (PQresultStatus(result) == PGRES_TUPLES_OK) {
        *ret = result;
    } else {
        status = ctl_complain_of(conn, result);
        PQclear(result);
    }
    PQfinish(conn);
    return status;
}

/* Column names are the headers. */
static int print_table(struct ctl *ctl, const PGresult *result)
{
    struct ctl_column columns[CTL_COLUMNS_MAX + 1] = {{NULL, NULL}};
    char headers[CTL_COLUMNS_MAX][64];
    int fields = PQnfields(result) < CTL_COLUMNS_MAX ? PQnfields(result) : CTL_COLUMNS_MAX;

    for (int i = 0; i < fields; i++) {
        snprintf(headers[i], sizeof(headers[i]), "%s", PQfname(result, i));
        for (char *c = headers[i]; *c; c++)
            *c = *c == '_' ? ' ' : (char)toupper((unsigned char)*c);
        columns[i] = (struct ctl_column){PQfname(result, i), headers[i]};
    }
    return ctl_print_result(columns, result, ctl->out);
}

int ctl_call(struct ctl *ctl, bool keep, const char *sql, int count, const char *const *values, const char *nothing)
{
    PGresult *result = NULL;
    char json[1200];
    int status;

    if (ctl->json) {
        snprintf(json, sizeof(json), CTL_JSON_ROWS("%s"), sql);
        sql = json;
    }
    status = ctl_run(ctl, keep, sql, count, values, &result);
    if (status != CTL_OK)
        return status;
    if (ctl->json) {
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 0));
    } else if (PQntuples(result) == 0) {
        fprintf(ctl->out, "%s\n", nothing);
    } else if (PQnfields(result) == 1) {
        for (int row = 0; row < PQntuples(result); row++) {
            ctl_print_clean(PQgetvalue(result, row, 0), (size_t)PQgetlength(result, row, 0), ctl->out);
            fputc('\n', ctl->out);
        }
    } else if (print_table(ctl, result) < 0) {
        status = CTL_BAD;
    }
    PQclear(result);
    return status;
}

int ctl_copy_out(struct ctl *ctl, PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    char *row;
    int size, status = CTL_OK;

    if (PQresultStatus(result) == PGRES_COPY_OUT) {
        while ((size = PQgetCopyData(conn, &row, 0)) > 0) {
            fwrite(row, 1, (size_t)size, ctl->out);
            PQfreemem(row);
        }
        PQclear(result);
        result = PQgetResult(conn);
    }
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        status = ctl_complain_of(conn, result);
    PQclear(result);
    return status;
}
