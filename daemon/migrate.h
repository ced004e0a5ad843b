/* Brings a database's schema up to what this binary carries, and tells whether it is there already.
 *
 * The SQL files of sql/ travel inside the binary (sql/embed.sh). Migrations are applied once each, in order
 * of their names; functions, views and roles again whenever their text has changed. toll.migrations records
 * what was applied. Blocking libpq; nothing here is thread-safe beyond what a PGconn is: one thread at a
 * time. */
#ifndef TOLL_DAEMON_MIGRATE_H
#define TOLL_DAEMON_MIGRATE_H

#include <stddef.h>
#include <libpq-fe.h>

/* In the order they are applied. */
enum toll_migration_kind {
    TOLL_MIGRATION = 1, /* once; its text never changes again */
    TOLL_FUNCTIONS,     /* CREATE OR REPLACE, so that grants and dependants survive */
    TOLL_VIEWS,         /* the same: columns are only ever appended. Other changes take a migration that drops the
                   view */
    TOLL_ROLES,         /* after anything else was applied, too */
};

struct toll_migration {
    const char *name; /* "migrations/001_core", "functions/totals", "roles" */
    enum toll_migration_kind kind;
    const char *sql;
};

/* Generated; in order of names, kinds mixed. */
extern const struct toll_migration toll_migrations[];
extern const size_t toll_migrations_count;

enum { MIGRATE_REASON_MAX = 512 }; /* bytes of a reason, its NUL included */

/* Progress, one line each; priority as of syslog(3). */
typedef void migrate_log_fn(void *context, int priority, const char *line);

/* Applies what is missing, each file in a transaction of its own, as the role that owns schema toll where this user may be it. Waits
 * for another migrator to finish; a lock that a table's user holds is waited for 10 s. Running it again, or after any
 * interruption, is safe. conn must be idle, and its notice receiver one that takes no argument. What this user may not do, such as
 * creating roles, is logged as a warning and left out.
 * Returns 0, or with a reason that a person can act on:
 *   -EPROTO     the database was migrated by a newer binary
 *   -EBADMSG    the text of a migration that was applied has changed
 *   -ENOTSUP    the server or the database can't hold the schema (older than 15, not UTF-8)
 *   -EACCES     this user may not
 *   -EAGAIN     a lock was not to be had, or the server takes no writes now
 *   -ENOTCONN   the connection is lost
 *   -EIO        any other error of the server's
 * What was applied before an error stays applied. log may be NULL. */
int migrate_run(PGconn *conn, migrate_log_fn *log, void *context, char reason[static MIGRATE_REASON_MAX])
    __attribute__((warn_unused_result));

/* Changes nothing. Returns 0 when the schema is exactly this binary's, -ENOENT when the database has none,
 * -ESTALE when it is older or its functions, views or roles differ, and migrate_run()'s -EPROTO, -EBADMSG,
 * -EACCES, -ENOTCONN, -EIO; with a reason. Works inside a transaction, too. */
int migrate_check(PGconn *conn, char reason[static MIGRATE_REASON_MAX]) __attribute__((warn_unused_result));

#endif
