/* tollctl prices import: a price list from a file into the price book. The database makes sense of it, so that a price is never a double and all of a list is taken
 * or nothing. */
#include "daemon/ctl.h"

#include "daemon/ctl_csv.h"
#include "daemon/ctl_database.h"
#include "daemon/ctl_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX_BYTES = 64 << 20 };

/* The whole file, NUL-terminated; "-": standard input. */
static int read_file(const char *path, char **ret, size_t *ret_size)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *text = NULL, *grown;
    size_t size = 0, cap = 0, got;
    int r = 0;

    if (!file)
        return -errno;
    do {
        if (size + 1 >= cap) {
            cap = cap ? cap * 2 : 1 << 16;
            grown = realloc(text, cap);
            if (!grown) {
                r = -ENOMEM;
                break;
            }
            text = grown;
        }
        got = fread(text + size, 1, cap - size - 1, file);
        size += got;
        if (size > FILE_MAX_BYTES)
            r = -EFBIG;
    } while (got > 0 && r == 0);
    if (r == 0 && ferror(file))
        r = errno ? -errno : -EIO;
    if (file != stdin)
        fclose(file);
    if (r < 0) {
        free(text);
        return r;
    }
    text[size] = '\0';
    *ret = text;
    *ret_size = size;
    return 0;
}

/* clang-format off */
#define OPTIONS_SQL CTL_TIMESTAMP("$2") ", $3::text, $4::text, $5::numeric"
#define UNITS_SQL "coalesce($8::text, 'refuse')"
#define TABLE_SQL \
    "SELECT *, NULL::bigint AS models FROM toll.import_prices($1::jsonb, " OPTIONS_SQL ", " UNITS_SQL ")" \
    " WHERE $6::text IS NULL OR true"
#define LIST_SQL "SELECT * FROM toll.import_price_list($1::json, " OPTIONS_SQL ", $6::text, " UNITS_SQL ")"
#define JSON_SQL(sql) \
    "SELECT json_build_object('dry_run', $7::boolean," \
    " 'prices', coalesce(json_agg(json_build_object('place', place, 'action', action, 'price_id', price_id," \
    " 'ended_price_id', ended_price_id, 'price', description)) FILTER (WHERE models IS NULL), '[]')," \
    " 'keys', coalesce(json_agg(json_build_object('key', place, 'fate', action, 'models', models, 'example', description))" \
    " FILTER (WHERE models IS NOT NULL), '[]')) FROM (" sql ") AS q"
#define TEXT_SQL(sql) "SELECT * FROM (" sql ") AS q WHERE $7::text IS NULL OR true"
/* clang-format on */

struct tally {
    const char *action, *what;
    long long count;
};

/* The prices that change anything, then how many there were of each kind. */
static void print_prices(struct ctl *ctl, const PGresult *result, bool dry_run)
{
    struct tally tallies[] = {{"new", "new", 0},
                              {"changed", "changed, of which the predecessor ends", 0},
                              {"unchanged", "unchanged", 0},
                              {"ended", "ended, as the list counts by another unit", 0},
                              {"kept", "passed over, as the book counts by another unit", 0},
                              {"withdrawn", "passed over, as they were withdrawn", 0}};
    const char *between = "";

    for (int row = 0; row < PQntuples(result); row++) {
        const char *action = PQgetvalue(result, row, 0), *ended = PQgetvalue(result, row, 3);

        for (size_t i = 0; i < sizeof(tallies) / sizeof(tallies[0]); i++)
            if (strcmp(tallies[i].action, action) == 0)
                tallies[i].count++;
        if (strcmp(action, "unchanged") == 0 || strcmp(action, "withdrawn") == 0)
            continue;
        fprintf(ctl->out, "%-8s ", action);
        ctl_print_clean(PQgetvalue(result, row, 4), strlen(PQgetvalue(result, row, 4)), ctl->out);
        if (ended[0] && strcmp(action, "ended") != 0)
            fprintf(ctl->out, "; ends price %s", ended);
        fputc('\n', ctl->out);
    }
    for (size_t i = 0; i < sizeof(tallies) / sizeof(tallies[0]); i++) {
        if (tallies[i].count == 0 && i > 2)
            continue;
        fprintf(ctl->out, "%s%lld %s", between, tallies[i].count, tallies[i].what);
        between = ", ";
    }
    fputs(dry_run ? ". A dry run: nothing was changed\n" : "\n", ctl->out);
}

/* Keys of a list that became no price: how often, and why. */
static void print_keys(struct ctl *ctl, const PGresult *result)
{
    static const struct {
        const char *fate, *why;
    } fates[] = {
        {"not mapped", "Prices that nothing here is counted by, not imported"},
        {"several units", "More than one unit or price for one synthesis or transcription, not imported"},
        {"several prices", "One model under two names at two prices, not imported"},
        {"zero", "0.0 beside a real price is no price"},
        {"output", "The price of output again"},
        {"no price", "Not prices"},
    };

    for (size_t i = 0; i < sizeof(fates) / sizeof(fates[0]); i++) {
        const char *between = "";

        for (int row = 0; row < PQntuples(result); row++) {
            if (PQgetisnull(result, row, 5) || strcmp(PQgetvalue(result, row, 0), fates[i].fate) != 0)
                continue;
            if (!between[0])
                fprintf(ctl->out, "%s, with the number of models:\n   ", fates[i].why);
            fputs(between[0] ? between : " ", ctl->out);
            ctl_print_clean(PQgetvalue(result, row, 1), strlen(PQgetvalue(result, row, 1)), ctl->out);
            fprintf(ctl->out, " %s", PQgetvalue(result, row, 5));
            between = ", ";
        }
        if (between[0])
            fputc('\n', ctl->out);
    }
}

/* text: the list as it is, or the table's rows as JSON. */
static int import(struct ctl *ctl, bool list, const char *text)
{
    bool dry_run = ctl->option[CTL_DRY_RUN] != NULL;
    const char *source = ctl->option[CTL_SOURCE] ? ctl->option[CTL_SOURCE] : basename(ctl->id);
    const char *values[] = {text,
                            ctl->option[CTL_FROM],
                            ctl->option[CTL_SIDE],
                            ctl->option[CTL_CURRENCY],
                            ctl->option[CTL_MARKUP],
                            source,
                            dry_run ? "true" : "false",
                            ctl->option[CTL_OTHER_UNITS]};
    static const char *const queries[2][2] = {{TEXT_SQL(TABLE_SQL), TEXT_SQL(LIST_SQL)},
                                              {JSON_SQL(TABLE_SQL), JSON_SQL(LIST_SQL)}};
    PGresult *result = NULL;
    int status = ctl_run(ctl, !dry_run, queries[ctl->json][list], 8, values, &result);

    if (status == CTL_OK && ctl->json) {
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 0));
    } else if (status == CTL_OK) {
        print_prices(ctl, result, dry_run);
        print_keys(ctl, result);
    }
    PQclear(result);
    return status;
}

/* What a file holds shows in its first character. */
int ctl_prices_import(struct ctl *ctl)
{
    char *text = NULL, *rows = NULL, error[CTL_CSV_ERROR_MAX], first;
    const char *start;
    size_t size = 0;
    int status = CTL_BAD, r;

    r = read_file(ctl->id, &text, &size);
    if (!text) {
        fprintf(stderr, "tollctl: can't read %s: %s\n", ctl->id, strerror(-r));
        return CTL_BAD;
    }
    start = text + (strncmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0); /* a byte order mark */
    first = start[strspn(start, " \t\r\n")];
    if (memchr(text, '\0', size)) {
        fprintf(stderr, "tollctl: %s is neither CSV nor JSON\n", ctl->id);
    } else if (first == '[') {
        fprintf(stderr, "tollctl: %s is a JSON array; a price list is an object, model name -> prices\n", ctl->id);
    } else if (first == '{') {
        status = import(ctl, true, start);
    } else {
        r = ctl_csv_to_json(text, size, &rows, error);
        if (r < 0)
            fprintf(stderr, "tollctl: %s: %s; nothing was changed\n", ctl->id, r == -EINVAL ? error : strerror(-r));
        else if (strcmp(rows, "[]") == 0)
            fprintf(stderr, "tollctl: %s: there is no row below the header; nothing was changed\n", ctl->id);
        else
            status = import(ctl, false, rows);
    }
    free(rows);
    free(text);
    return status;
}
