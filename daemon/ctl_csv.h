/* Reads a CSV table (RFC 4180) with a header into JSON, for PostgreSQL to make sense of. Nothing is taken for a number here. */
#ifndef TOLL_DAEMON_CTL_CSV_H
#define TOLL_DAEMON_CTL_CSV_H

#include <stddef.h>

enum { CTL_CSV_ERROR_MAX = 200 };

/* Makes an array of objects, one a row: "place" ("line 7") and the cells that are not empty, as text, by their column's name. Lines that are
 * empty or begin with # are passed over. *ret is NUL-terminated and the caller's to free.
 * 0, -ENOMEM, or -EINVAL with what is wrong in which line. */
int ctl_csv_to_json(const char *text, size_t size, char **ret, char error[static CTL_CSV_ERROR_MAX])
    __attribute__((warn_unused_result));

#endif
