/* See ctl_table.h. */
#include "daemon/ctl_table.h"

#include "proto/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

/* The character that size bytes of well-formed UTF-8 stand for. */
static wchar_t decode(const char *s, size_t size)
{
    wchar_t c = size == 1 ? s[0] : s[0] & (0x7f >> size);

    for (size_t i = 1; i < size; i++)
        c = c << 6 | (s[i] & 0x3f);
    return c;
}

/* Turns away from the reader what changes the direction or order of what it sees. */
static bool reorders(wchar_t c)
{
    return c == 0x61c || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* Copies text with control characters and bad bytes replaced by '?', which never makes it longer. Returns the columns it takes; without a UTF-8 locale
 * every character counts as one. */
static size_t clean(const char *text, size_t size, char *out, size_t *ret_size)
{
    size_t width = 0, used = 0, step;

    for (size_t i = 0; i < size; i += step) {
        bool good = toll_utf8_next(text + i, size - i, &step);
        wchar_t c = good ? decode(text + i, step) : 0;

        if (!good || c < 0x20 || (c >= 0x7f && c < 0xa0) || reorders(c)) {
            out[used++] = '?';
            width++;
            continue;
        }
        memcpy(out + used, text + i, step);
        used += step;
        width += wcwidth(c) >= 0 ? (size_t)wcwidth(c) : 1;
    }
    out[used] = '\0';
    *ret_size = used;
    return width;
}

void ctl_table_add(struct ctl_table *table, const char *text, size_t size, bool right)
{
    struct ctl_cell cell = {.right = right};

    if (table->failed)
        return;
    if (table->count == table->cap) {
        size_t cap = table->cap ? table->cap * 2 : 64;
        struct ctl_cell *cells = reallocarray(table->cells, cap, sizeof(*cells));

        if (!cells)
            goto fail;
        table->cells = cells;
        table->cap = cap;
    }
    cell.text = malloc(size + 1);
    if (!cell.text)
        goto fail;
    cell.width = clean(text, size, cell.text, &size);
    table->cells[table->count++] = cell;
    return;
fail:
    table->failed = true;
}

void ctl_table_add_text(struct ctl_table *table, const char *text)
{
    ctl_table_add(table, text, strlen(text), false);
}

void ctl_table_add_number(struct ctl_table *table, const char *text)
{
    ctl_table_add(table, text, strlen(text), true);
}

static void print_row(const struct ctl_cell *row, const size_t *widths, size_t columns, FILE *out)
{
    size_t last = columns;

    while (last > 0 && row[last - 1].width == 0)
        last--;
    for (size_t i = 0; i < last; i++) {
        int padding = (int)(widths[i] - row[i].width);

        if (row[i].right)
            fprintf(out, "%*s", padding, "");
        fputs(row[i].text, out);
        if (i + 1 < last)
            fprintf(out, "%*s", (row[i].right ? 0 : padding) + 2, "");
    }
    fputc('\n', out);
}

int ctl_table_print(struct ctl_table *table, bool header, FILE *out)
{
    size_t widths[CTL_COLUMNS_MAX] = {0}, columns = table->columns;

    assert(columns > 0 && columns <= CTL_COLUMNS_MAX && (table->failed || table->count % columns == 0));
    for (size_t i = 0; i < table->count; i++)
        if (table->cells[i].width > widths[i % columns])
            widths[i % columns] = table->cells[i].width;
    if (header && table->count >= 2 * columns)
        for (size_t i = 0; i < columns; i++)
            table->cells[i].right = table->cells[columns + i].right;
    if (!table->failed)
        for (size_t i = 0; i < table->count; i += columns)
            print_row(&table->cells[i], widths, columns, out);
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i].text);
    free(table->cells);
    table->cells = NULL;
    table->count = table->cap = 0;
    return table->failed ? -ENOMEM : 0;
}

void ctl_print_clean(const char *text, size_t size, FILE *out)
{
    char *copy = malloc(size + 1);

    if (!copy)
        return;
    clean(text, size, copy, &size);
    fwrite(copy, 1, size, out);
    free(copy);
}
