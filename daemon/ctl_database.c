/* See ctl_database.h. */
#include "daemon/ctl_database.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        return "; connect as a member of toll_reader (quarantined bytes: of toll_ingest)";
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
