/* See ctl_csv.h. */
#include "daemon/ctl_csv.h"

#include "proto/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 64, NAME_MAX_BYTES = 63 };

struct reader {
    const char *at, *end;
    int line; /* of `at`, from 1 */
    FILE *out;
    char names[COLUMNS_MAX][NAME_MAX_BYTES + 1];
    size_t columns, rows;
    char *cell; /* as long as the whole text */
    size_t cell_size;
    char *error;
};

static int refuse(struct reader *r, int line, const char *what)
{
    snprintf(r->error, CTL_CSV_ERROR_MAX, "line %d: %s", line, what);
    return -EINVAL;
}

static void print_string(FILE *out, const char *text, size_t size)
{
    fputc('"', out);
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < 0x20)
            fprintf(out, "\\u%04x", c);
        else if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static bool at_line_end(const struct reader *r)
{
    return r->at == r->end || *r->at == '\n' || (*r->at == '\r' && r->at + 1 < r->end && r->at[1] == '\n');
}

static void pass_line_end(struct reader *r)
{
    if (r->at < r->end && *r->at == '\r')
        r->at++;
    if (r->at < r->end) {
        r->at++;
        r->line++;
    }
}

/* One cell into r->cell, up to the comma or the line's end after it. */
static int read_cell(struct reader *r)
{
    int line = r->line;

    r->cell_size = 0;
    if (r->at == r->end || *r->at != '"') {
        while (!at_line_end(r) && *r->at != ',') {
            if (*r->at == '"')
                return refuse(r, line, "a quotation mark within a cell that does not begin with one");
            if (*r->at == '\r')
                return refuse(r, line, "a carriage return without a line feed: lines end with a line feed");
            r->cell[r->cell_size++] = *r->at++;
        }
        return 0;
    }
    for (r->at++;; r->at++) {
        if (r->at == r->end)
            return refuse(r, line, "a cell's closing quotation mark is missing");
        if (*r->at == '"' && (r->at + 1 == r->end || r->at[1] != '"'))
            break;
        if (*r->at == '"')
            r->at++;
        else if (*r->at == '\n')
            r->line++;
        r->cell[r->cell_size++] = *r->at;
    }
    r->at++;
    if (!at_line_end(r) && *r->at != ',')
        return refuse(r, line, "something follows a cell's closing quotation mark");
    return 0;
}

static int add_name(struct reader *r, size_t column, int line)
{
    if (column == COLUMNS_MAX)
        return refuse(r, line, "too many columns");
    if (memchr(r->cell, ';', r->cell_size) || memchr(r->cell, '\t', r->cell_size))
        return refuse(r, line, "a column's name has a semicolon or a tab in it; cells are separated by commas");
    if (r->cell_size == 0 || r->cell_size > NAME_MAX_BYTES)
        return refuse(r, line, "a column's name is empty or too long; the first line names the columns");
    memcpy(r->names[column], r->cell, r->cell_size);
    r->names[column][r->cell_size] = '\0';
    for (size_t i = 0; i < column; i++)
        if (strcmp(r->names[i], r->names[column]) == 0)
            return refuse(r, line, "two columns have the same name");
    return 0;
}

static int read_row(struct reader *r, bool header)
{
    int line = r->line, error;
    size_t column = 0;

    if (!header)
        fprintf(r->out, "%s{\"place\":\"line %d\"", r->rows++ > 0 ? "," : "", line);
    for (;; r->at++) {
        error = read_cell(r);
        if (error == 0 && header)
            error = add_name(r, column, line);
        else if (error == 0 && column == r->columns)
            error = refuse(r, line, "more cells than columns");
        if (error < 0)
            return error;
        if (!header && r->cell_size > 0) {
            fprintf(r->out, ",");
            print_string(r->out, r->names[column], strlen(r->names[column]));
            fprintf(r->out, ":");
            print_string(r->out, r->cell, r->cell_size);
        }
        column++;
        if (at_line_end(r))
            break;
    }
    pass_line_end(r);
    if (header)
        r->columns = column;
    else if (column < r->columns)
        return refuse(r, line, "fewer cells than columns");
    else
        fputc('}', r->out);
    return 0;
}

int ctl_csv_to_json(const char *text, size_t size, char **ret, char error[static CTL_CSV_ERROR_MAX])
{
    struct reader r = {.at = text, .end = text + size, .line = 1, .error = error};
    char *made = NULL;
    size_t made_size;
    bool header = true;
    int result = 0;

    if (!toll_utf8_clean(text, size)) {
        snprintf(error, CTL_CSV_ERROR_MAX, "the file is not clean UTF-8");
        return -EINVAL;
    }
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        r.at += 3;
    r.cell = malloc(size + 1);
    r.out = open_memstream(&made, &made_size);
    if (!r.cell || !r.out) {
        result = -ENOMEM;
        goto done;
    }
    fputc('[', r.out);
    while (r.at < r.end && result == 0) {
        if (at_line_end(&r)) {
            pass_line_end(&r);
        } else if (*r.at == '#') {
            while (!at_line_end(&r))
                r.at++;
        } else {
            result = read_row(&r, header);
            header = false;
        }
    }
    if (result == 0 && header)
        result = refuse(&r, 1, "there is no header that names the columns");
    fputc(']', r.out);
done:
    if (r.out && fclose(r.out) != 0 && result == 0)
        result = -ENOMEM;
    free(r.cell);
    if (result < 0)
        free(made);
    else
        *ret = made;
    return result;
}
