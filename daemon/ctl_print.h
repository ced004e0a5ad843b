/* Prints what the daemon or the database answered: as tables for people, or as JSON. */
#ifndef TOLL_DAEMON_CTL_PRINT_H
#define TOLL_DAEMON_CTL_PRINT_H

#include <libpq-fe.h>
#include <msgpack.h>
#include <stdio.h>

/* A column of a list: the key (or the query's column) and the word above it. A table of columns ends with {NULL, NULL}. */
struct ctl_column {
    const char *key, *header;
};

/* All return 0 or -ENOMEM. What is absent or NULL is shown as "-"; numbers as their keys say (ctl_format.h). */
int ctl_print_list(const struct ctl_column *columns, const msgpack_object *array, FILE *out); /* an array of maps */
int ctl_print_result(const struct ctl_column *columns, const PGresult *result, FILE *out);
int ctl_print_map(const msgpack_object *map, FILE *out);       /* a line a key; of a list of strings, a line a string */
int ctl_print_row(const PGresult *result, int row, FILE *out); /* the same, of all columns that are not NULL */
int ctl_print_json(const msgpack_object *value,
                   FILE *out); /* without a newline; also -EINVAL, -EEXIST: no JSON for it */

#endif
