/* insert: stores ready-made rows with INSERT over one connection, as a collector inside the worker's process does, with the
 * statement prepared and all of its parameters made before the clock runs.
 *
 *     insert DSN row|multi|unnest|upsert ROWS TRANSACTION FILE COLUMN:TYPE,…
 *
 * row: a statement a row. multi: 100 rows a statement. unnest: 1,000 rows a statement, a column an array. upsert: two statements a
 * row, the first adds the row to its session's totals. TRANSACTION: rows in one transaction, 0: each statement is one.
 * FILE: rows as COPY … TO writes them. Prints "ready", waits for a line on standard input, prints {"rows": n}. */
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 64, MULTI = 100, UNNEST = 1000 };

static char *column[COLUMNS_MAX], *type[COLUMNS_MAX];
static int columns;
static char **value; /* rows × columns; NULL for NULL */

static void die(const char *what, const char *why)
{
    fprintf(stderr, "insert: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void *allocate(size_t count, size_t size)
{
    void *p = calloc(count, size);
    if (!p)
        die("memory", "there is none");
    return p;
}

static void read_columns(char *list)
{
    for (char *save, *each = strtok_r(list, ",", &save); each; each = strtok_r(NULL, ",", &save)) {
        char *colon = strchr(each, ':');
        if (!colon || columns == COLUMNS_MAX)
            die("columns", each);
        *colon = 0;
        column[columns] = each;
        type[columns++] = colon + 1;
    }
}

/* In place. Only what COPY writes for characters that would end a field. */
static void unescape(char *text)
{
    static const char from[] = "bfnrtv\\", to[] = "\b\f\n\r\t\v\\";
    char *out = text;
    for (char *in = text; *in; in++) {
        const char *at = *in == '\\' && in[1] ? strchr(from, in[1]) : NULL;
        *out++ = at ? to[at - from] : *in;
        in += at != NULL;
    }
    *out = 0;
}

static void read_rows(const char *path, long rows)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    if (!file)
        die(path, "can't be read");
    value = allocate((size_t)rows * (size_t)columns, sizeof *value);
    for (long r = 0; r < rows; r++) {
        ssize_t length = getline(&line, &size, file);
        if (length <= 0)
            die(path, "has too few rows");
        line[length - 1] = 0;
        char *rest = line;
        for (int c = 0; c < columns; c++) {
            char *field = strsep(&rest, "\t");
            if (!field)
                die(path, "has a row with too few columns");
            if (strcmp(field, "\\N") == 0)
                continue;
            unescape(field);
            if (!(value[r * columns + c] = strdup(field)))
                die("memory", "there is none");
        }
    }
    free(line);
    fclose(file);
}

/* An array literal of one column of some rows. */
static char *make_array(long first, long rows, int c)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        die("memory", "there is none");
    for (long r = first; r < first + rows; r++) {
        putc(r == first ? '{' : ',', out);
        const char *field = value[r * columns + c];
        if (!field) {
            fputs("NULL", out);
            continue;
        }
        putc('"', out);
        for (; *field; field++) {
            if (*field == '"' || *field == '\\')
                putc('\\', out);
            putc(*field, out);
        }
        putc('"', out);
    }
    putc('}', out);
    if (fclose(out) != 0)
        die("memory", "there is none");
    return text;
}

/* A statement for so many rows. */
static char *make_statement(long rows, bool unnest)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        die("memory", "there is none");
    fputs("INSERT INTO billing_events (", out);
    for (int c = 0; c < columns; c++)
        fprintf(out, "%s%s", c ? ", " : "", column[c]);
    fputs(unnest ? ") SELECT * FROM unnest(" : ") VALUES ", out);
    if (unnest) {
        for (int c = 0; c < columns; c++)
            fprintf(out, "%s$%d::%s[]", c ? ", " : "", c + 1, type[c]);
        putc(')', out);
    } else {
        for (long r = 0; r < rows; r++)
            for (int c = 0; c < columns; c++)
                fprintf(out, "%s$%ld%s", c ? ", " : r ? ", (" : "(", r * columns + c + 1, c + 1 == columns ? ")" : "");
    }
    if (fclose(out) != 0)
        die("memory", "there is none");
    return text;
}

static void check(PGconn *pg, PGresult *result)
{
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        die("PostgreSQL", PQerrorMessage(pg));
    PQclear(result);
}

static const char *field(long row, const char *name)
{
    for (int c = 0; c < columns; c++)
        if (strcmp(column[c], name) == 0)
            return value[row * columns + c];
    return NULL;
}

static const char UPSERT[] =
    "INSERT INTO billing_sessions AS s (session_id, started_at, llm_input_tokens, llm_output_tokens, llm_calls, tts_chars, tts_calls,"
    " stt_audio_ms, stt_calls) VALUES ($1, $2, coalesce($3::bigint, 0), coalesce($4::bigint, 0), ($6 = 'llm')::integer,"
    " coalesce($5::bigint, 0), ($6 = 'tts')::integer, CASE $6 WHEN 'stt' THEN coalesce($7::float8, 0) ELSE 0 END, ($6 = 'stt')::integer)"
    " ON CONFLICT (session_id) DO UPDATE SET llm_input_tokens = s.llm_input_tokens + excluded.llm_input_tokens,"
    " llm_output_tokens = s.llm_output_tokens + excluded.llm_output_tokens, llm_calls = s.llm_calls + excluded.llm_calls,"
    " tts_chars = s.tts_chars + excluded.tts_chars, tts_calls = s.tts_calls + excluded.tts_calls,"
    " stt_audio_ms = s.stt_audio_ms + excluded.stt_audio_ms, stt_calls = s.stt_calls + excluded.stt_calls, updated_at = now()";

int main(int argc, char **argv)
{
    if (argc != 7)
        die("usage", "insert DSN row|multi|unnest|upsert ROWS TRANSACTION FILE COLUMN:TYPE,...");
    const char *way = argv[2];
    long rows = atol(argv[3]), transaction = atol(argv[4]);
    bool unnest = strcmp(way, "unnest") == 0, upsert = strcmp(way, "upsert") == 0;
    long step = unnest ? UNNEST : strcmp(way, "multi") == 0 ? MULTI : 1;
    if (rows <= 0 || rows % step != 0)
        die("rows", "must be a multiple of a statement's");
    read_columns(argv[6]);
    read_rows(argv[5], rows);

    long parameters = unnest ? columns : step * columns;
    char **arrays = NULL;
    if (unnest) {
        arrays = allocate((size_t)(rows / step * columns), sizeof *arrays);
        for (long s = 0; s < rows / step; s++)
            for (int c = 0; c < columns; c++)
                arrays[s * columns + c] = make_array(s * step, step, c);
    }
    PGconn *pg = PQconnectdb(argv[1]);
    if (PQstatus(pg) != CONNECTION_OK)
        die("PostgreSQL", PQerrorMessage(pg));
    char *statement = make_statement(step, unnest);
    check(pg, PQprepare(pg, "event", statement, 0, NULL));
    if (upsert)
        check(pg, PQprepare(pg, "session", UPSERT, 0, NULL));

    char line[16];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        die("stdin", "closed before the word to go");
    for (long r = 0; r < rows; r += step) {
        if (transaction > 0 && r % transaction == 0)
            check(pg, PQexec(pg, "BEGIN"));
        if (upsert) {
            const char *const session[] = {field(r, "session_id"),       field(r, "occurred_at"),
                                           field(r, "input_tokens"),     field(r, "output_tokens"),
                                           field(r, "char_count"),       field(r, "event_type"),
                                           field(r, "audio_duration_ms")};
            check(pg, PQexecPrepared(pg, "session", 7, session, NULL, NULL, 0));
        }
        char **values = unnest ? &arrays[r / step * columns] : &value[r * columns];
        check(pg, PQexecPrepared(pg, "event", (int)parameters, (const char *const *)values, NULL, NULL, 0));
        if (transaction > 0 && ((r + step) % transaction == 0 || r + step == rows))
            check(pg, PQexec(pg, "COMMIT"));
    }
    printf("{\"rows\": %ld}\n", rows);
    fflush(stdout);
    (void)!fgets(line, sizeof line, stdin); /* whoever reads how much CPU the server used needs it there */
    PQfinish(pg);
    return EXIT_SUCCESS;
}
