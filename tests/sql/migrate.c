/* Migrates a database without the daemon, for the schema's tests: migrate run|check CONNINFO. Prints what was
 * done, and on failure the error's name and the reason; the exit status is 0 or 1. */
#include "daemon/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void print_line(void *context, int priority, const char *line)
{
    (void)context;
    (void)priority;
    printf("%s\n", line);
}

int main(int argc, char **argv)
{
    char reason[MIGRATE_REASON_MAX] = "";
    PGconn *conn;
    int r;

    if (argc != 3)
        return 2;
    conn = PQconnectdb(argv[2]);
    if (strcmp(argv[1], "run") == 0)
        r = migrate_run(conn, print_line, NULL, reason);
    else
        r = migrate_check(conn, reason);
    if (r < 0)
        printf("%s: %s\n", strerrorname_np(-r), reason);
    PQfinish(conn);
    return r < 0;
}
