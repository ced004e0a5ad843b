/* See offline.h. */
#include "daemon/offline.h"

#include "daemon/migrate.h"
#include "daemon/options.h"
#include "daemon/pg.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_line(void *context, int priority, const char *line)
{
    (void)context;
    (void)priority;
    printf("%s\n", line);
}

int offline_migrate(const struct config *config)
{
    const struct pg_options options = {
        .url = config->database.url,
        .connect_timeout_s = (int)(config->database.connect_timeout_us / 1000000),
        .tcp_user_timeout_ms = (int)(config->database.tcp_user_timeout_us / 1000),
    };
    char reason[MIGRATE_REASON_MAX];
    struct pg pg = {.conn = NULL};
    int r;

    if (!config->database.url[0]) {
        fprintf(stderr, "tolld: no database to migrate: set DATABASE_URL, or url in section [database]\n");
        return EXIT_CONFIGURATION;
    }
    if (pg_connect(&pg, &options) < 0) {
        fprintf(stderr, "tolld: connecting to the database: %s\n", pg.error);
        return EXIT_FAILURE;
    }
    r = migrate_run(pg.conn, print_line, NULL, reason);
    pg_disconnect(&pg);
    if (r < 0) {
        fprintf(stderr, "tolld: migrating: %s\n", reason);
        return EXIT_FAILURE;
    }
    printf("The schema is up to date.\n");
    return EXIT_SUCCESS;
}

static void print_damage(void *context, uint64_t from, uint64_t to, const char *path)
{
    (void)context;
    printf("Damaged: LSN %" PRIu64 " to %" PRIu64 ", %" PRIu64
           " bytes. They are kept in %s, and go to quarantine when tolld runs again.\n",
           from, to, to - from, path);
}

int offline_repair(const struct journal_options *options)
{
    int r = journal_repair(options, print_damage, NULL);

    if (r == -EBUSY)
        fprintf(stderr, "tolld: a daemon is running on %s: stop it first\n", options->state_dir);
    else if (r < 0)
        fprintf(stderr, "tolld: repairing the journal in %s: %s\n", options->state_dir, strerror(-r));
    else
        printf("%d damaged range%s set aside.\n", r, r == 1 ? "" : "s");
    return r < 0 ? EXIT_JOURNAL : EXIT_SUCCESS;
}
