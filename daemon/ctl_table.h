/* Plain tables for a terminal: columns as wide as their widest cell, numbers to the right. Widths are those of a terminal (UTF-8, wide and
 * combining characters); what would move the cursor, a name with an escape sequence say, is shown as '?'. */
#ifndef TOLL_DAEMON_CTL_TABLE_H
#define TOLL_DAEMON_CTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { CTL_COLUMNS_MAX = 16 };

/* {.columns = n} is a valid empty one. */
struct ctl_table {
    size_t columns;
    struct ctl_cell {
        char *text;
        size_t width; /* on a terminal */
        bool right;
    } * cells;
    size_t count, cap;
    bool failed; /* out of memory: prints nothing */
};

/* Adds the next cell, row by row. size bytes are copied. A header is right-aligned where the cell below it is. */
void ctl_table_add(struct ctl_table *table, const char *text, size_t size, bool right);
void ctl_table_add_text(struct ctl_table *table, const char *text);   /* to the left */
void ctl_table_add_number(struct ctl_table *table, const char *text); /* to the right */

/* Prints all rows and frees the cells. Columns stand two spaces apart, lines have no trailing spaces. header: the first row is one. Returns 0 or -ENOMEM. */
int ctl_table_print(struct ctl_table *table, bool header, FILE *out);

/* Prints text with what would disturb a terminal made harmless. */
void ctl_print_clean(const char *text, size_t size, FILE *out);

#endif
