/* Applies the SQL files that the binary carries. What they say is not known here, but for schema toll and
 * toll.migrations. */
#include "daemon/migrate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#define ADVISORY_KEY "hashtextextended('toll.migrate', 0)"

/* Everything in the files is qualified; the settings keep a session's own from leaking into definitions. */
static const char transaction_begin[] = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
                                        "SET LOCAL search_path = pg_catalog, pg_temp;"
                                        "SET LOCAL client_min_messages = notice;"
                                        "SET LOCAL statement_timeout = 0;"
                                        "SET LOCAL lock_timeout = '10s'";

/* Objects belong to whoever owns the schema, also when another member of that role or a superuser makes them.
 */
static const char become_owner[] =
    "SELECT pg_catalog.set_config('role', pg_catalog.pg_get_userbyid(nspowner), true) FROM "
    "pg_catalog.pg_namespace"
    " WHERE nspname = 'toll' AND pg_catalog.pg_get_userbyid(nspowner) <> current_user"
    " AND pg_catalog.pg_has_role(nspowner, 'MEMBER')";

static const char create_table[] = "CREATE TABLE toll.migrations (name text PRIMARY KEY, checksum text NOT "
                                   "NULL, applied_at timestamptz NOT NULL DEFAULT now())";

static const char record[] =
    "INSERT INTO toll.migrations (name, checksum) VALUES ($1, $2)"
    " ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = excluded.applied_at";

static int failure_code(PGconn *conn, const char *sqlstate)
{
    if (PQstatus(conn) != CONNECTION_OK)
        return -ENOTCONN;
    if (!sqlstate)
        return -EIO;
    if (strcmp(sqlstate, "42501") == 0)
        return -EACCES;
    if (strcmp(sqlstate, "55P03") == 0 || strcmp(sqlstate, "40P01") == 0 || strcmp(sqlstate, "25006") == 0)
        return -EAGAIN;
    return -EIO;
}

/* Turns a failed result into a code and a reason of one line. */
static int failure(PGconn *conn, const PGresult *result, const char *what, char reason[static MIGRATE_REASON_MAX])
{
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

    if (!message)
        message = PQerrorMessage(conn);
    snprintf(reason, MIGRATE_REASON_MAX, "%s: %s%s%s%s%s", what, message, detail ? ": " : "", detail ? detail : "",
             hint ? ": " : "", hint ? hint : "");
    for (char *c = reason; *c; c++)
        if (*c == '\n')
            *c = ' ';
    return failure_code(conn, PQresultErrorField(result, PG_DIAG_SQLSTATE));
}

/* Runs one or several statements. ret_result may be NULL; else the caller clears it. */
static int execute(PGconn *conn, const char *what, const char *sql, PGresult **ret_result,
                   char reason[static MIGRATE_REASON_MAX])
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    int r = 0;

    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        r = failure(conn, result, what, reason);
    if (r < 0 || !ret_result)
        PQclear(result);
    else
        *ret_result = result;
    return r;
}

/* The first column of the only row, a boolean. */
static int ask(PGconn *conn, const char *what, const char *sql, bool *ret, char reason[static MIGRATE_REASON_MAX])
{
    PGresult *result;
    int r = execute(conn, what, sql, &result, reason);

    if (r < 0)
        return r;
    *ret = PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), "t") == 0;
    PQclear(result);
    return 0;
}

/* --- what is recorded --- */

enum { CHECKSUM_SIZE = 17 };

/* FNV-1a: tells a changed file, keeps nobody from anything. */
static void checksum(const char *text, char ret[static CHECKSUM_SIZE])
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    snprintf(ret, CHECKSUM_SIZE, "%016" PRIx64, hash);
}

static int read_recorded(PGconn *conn, PGresult **ret, char reason[static MIGRATE_REASON_MAX])
{
    return execute(conn, "reading toll.migrations", "SELECT name, checksum FROM toll.migrations ORDER BY name", ret,
                   reason);
}

enum state { MISSING, CHANGED, APPLIED };

static enum state migration_state(const PGresult *recorded, const struct toll_migration *migration)
{
    char sum[CHECKSUM_SIZE];

    checksum(migration->sql, sum);
    for (int row = 0; row < PQntuples(recorded); row++)
        if (strcmp(PQgetvalue(recorded, row, 0), migration->name) == 0)
            return strcmp(PQgetvalue(recorded, row, 1), sum) == 0 ? APPLIED : CHANGED;
    return MISSING;
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < toll_migrations_count; i++)
        if (strcmp(toll_migrations[i].name, name) == 0)
            return true;
    return false;
}

/* Refuses a database that this binary must not touch. */
static int check_recorded(const PGresult *recorded, char reason[static MIGRATE_REASON_MAX])
{
    for (int row = 0; row < PQntuples(recorded); row++) {
        const char *name = PQgetvalue(recorded, row, 0);

        if (strncmp(name, "migrations/", strlen("migrations/")) == 0 && !is_known(name)) {
            snprintf(reason, MIGRATE_REASON_MAX,
                     "the database has %s, which this version does not know: it was migrated by a newer one", name);
            return -EPROTO;
        }
    }
    for (size_t i = 0; i < toll_migrations_count; i++) {
        const struct toll_migration *migration = &toll_migrations[i];

        if (migration->kind == TOLL_MIGRATION && migration_state(recorded, migration) == CHANGED) {
            snprintf(reason, MIGRATE_REASON_MAX,
                     "%s has changed since it was applied to this database: restore its text, and make the "
                     "change a "
                     "migration of its own",
                     migration->name);
            return -EBADMSG;
        }
    }
    return 0;
}

/* --- applying --- */

static int store_record(PGconn *conn, const struct toll_migration *migration, char reason[static MIGRATE_REASON_MAX])
{
    char sum[CHECKSUM_SIZE];
    const char *const values[] = {migration->name, sum};
    PGresult *result;
    int r = 0;

    checksum(migration->sql, sum);
    result = PQexecParams(conn, record, 2, NULL, values, NULL, NULL, 0);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        r = failure(conn, result, migration->name, reason);
    PQclear(result);
    return r;
}

/* Ends a transaction: commits after success, else rolls back and keeps the first error. */
static int finish(PGconn *conn, const char *what, int r, char reason[static MIGRATE_REASON_MAX])
{
    if (r == 0)
        r = execute(conn, what, "COMMIT", NULL, reason);
    if (r < 0)
        PQclear(PQexec(conn, "ROLLBACK"));
    return r;
}

static int apply(PGconn *conn, const struct toll_migration *migration, char reason[static MIGRATE_REASON_MAX])
{
    int r = execute(conn, migration->name, transaction_begin, NULL, reason);

    /* Creating roles and giving tables away takes the user's own rights. */
    if (r == 0 && migration->kind != TOLL_ROLES)
        r = execute(conn, migration->name, become_owner, NULL, reason);
    if (r == 0)
        r = execute(conn, migration->name, migration->sql, NULL, reason);
    if (r == 0)
        r = store_record(conn, migration, reason);
    return finish(conn, migration->name, r, reason);
}

/* Schema toll and its table of migrations: needed before anything can be recorded. */
static int bootstrap(PGconn *conn, char reason[static MIGRATE_REASON_MAX])
{
    static const char what[] = "creating schema toll";
    bool there, has_schema;
    int r = ask(conn, what, "SELECT pg_catalog.to_regclass('toll.migrations') IS NOT NULL", &there, reason);

    if (r < 0 || there)
        return r;
    r = execute(conn, what, transaction_begin, NULL, reason);
    if (r == 0)
        r = ask(conn, what, "SELECT to_regnamespace('toll') IS NOT NULL", &has_schema, reason);
    if (r == 0 && !has_schema)
        r = execute(conn, what, "CREATE SCHEMA toll", NULL, reason);
    if (r == 0)
        r = execute(conn, what, become_owner, NULL, reason);
    if (r == 0)
        r = execute(conn, what, create_table, NULL, reason);
    return finish(conn, what, r, reason);
}

static void say(migrate_log_fn *log, void *context, int priority, const char *line)
{
    if (log)
        log(context, priority, line);
}

struct listener {
    migrate_log_fn *log;
    void *context;
};

/* What roles.sql may not do is for a person to know; the rest is PostgreSQL's small talk. */
static void take_notice(void *context, const PGresult *result)
{
    const struct listener *listener = context;
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

    if (message && strncmp(message, "toll: ", 6) == 0)
        say(listener->log, listener->context, LOG_WARNING, message + 6);
}

static int apply_missing(PGconn *conn, const PGresult *recorded, migrate_log_fn *log, void *context,
                         char reason[static MIGRATE_REASON_MAX])
{
    bool applied = false;

    for (int kind = TOLL_MIGRATION; kind <= TOLL_ROLES; kind++)
        for (size_t i = 0; i < toll_migrations_count; i++) {
            const struct toll_migration *migration = &toll_migrations[i];
            char line[128];
            int r;

            if ((int)migration->kind != kind)
                continue;
            if (migration_state(recorded, migration) == APPLIED && !(kind == TOLL_ROLES && applied))
                continue;
            r = apply(conn, migration, reason);
            if (r < 0)
                return r;
            applied = true;
            snprintf(line, sizeof line, "applied %s", migration->name);
            say(log, context, LOG_INFO, line);
        }
    if (!applied)
        say(log, context, LOG_INFO, "the schema is up to date");
    return 0;
}

static int take_lock(PGconn *conn, migrate_log_fn *log, void *context, char reason[static MIGRATE_REASON_MAX])
{
    static const char what[] = "waiting for another migration";
    bool taken;
    int r = ask(conn, what, "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog." ADVISORY_KEY ")", &taken, reason);

    if (r < 0 || taken)
        return r;
    say(log, context, LOG_NOTICE, what);
    return execute(conn, what, "SELECT pg_catalog.pg_advisory_lock(pg_catalog." ADVISORY_KEY ")", NULL, reason);
}

int migrate_run(PGconn *conn, migrate_log_fn *log, void *context, char reason[static MIGRATE_REASON_MAX])
{
    const char *encoding = PQparameterStatus(conn, "server_encoding");
    struct listener listener = {.log = log, .context = context};
    PQnoticeReceiver receiver;
    PGresult *recorded = NULL;
    int r;

    if (PQstatus(conn) == CONNECTION_OK && PQserverVersion(conn) < 150000) {
        snprintf(reason, MIGRATE_REASON_MAX, "PostgreSQL 15 or newer is needed, this is %d",
                 PQserverVersion(conn) / 10000);
        return -ENOTSUP;
    }
    if (encoding && strcmp(encoding, "UTF8") != 0) {
        snprintf(reason, MIGRATE_REASON_MAX, "the database's encoding must be UTF8, it is %s", encoding);
        return -ENOTSUP;
    }
    r = take_lock(conn, log, context, reason);
    if (r < 0)
        return r;
    receiver = PQsetNoticeReceiver(conn, take_notice, &listener);
    r = bootstrap(conn, reason);
    if (r == 0)
        r = read_recorded(conn, &recorded, reason);
    if (r == 0)
        r = check_recorded(recorded, reason);
    if (r == 0)
        r = apply_missing(conn, recorded, log, context, reason);
    PQclear(recorded);
    PQclear(PQexec(conn, "SELECT pg_catalog.pg_advisory_unlock(pg_catalog." ADVISORY_KEY ")"));
    (void)PQsetNoticeReceiver(conn, receiver, NULL); /* libpq's own and the daemon's take no argument */
    return r;
}

int migrate_check(PGconn *conn, char reason[static MIGRATE_REASON_MAX])
{
    PGresult *recorded;
    bool there;
    int r = ask(conn, "looking for schema toll", "SELECT pg_catalog.to_regclass('toll.migrations') IS NOT NULL", &there,
                reason);

    if (r < 0)
        return r;
    if (!there) {
        snprintf(reason, MIGRATE_REASON_MAX, "the database has no schema toll: run tolld --migrate");
        return -ENOENT;
    }
    r = read_recorded(conn, &recorded, reason);
    if (r < 0)
        return r;
    r = check_recorded(recorded, reason);
    for (size_t i = 0; r == 0 && i < toll_migrations_count; i++) {
        enum state state = migration_state(recorded, &toll_migrations[i]);

        if (state == APPLIED)
            continue;
        snprintf(reason, MIGRATE_REASON_MAX, "%s %s: run tolld --migrate", toll_migrations[i].name,
                 state == MISSING ? "has not been applied" : "differs from what was applied");
        r = -ESTALE;
    }
    PQclear(recorded);
    return r;
}
