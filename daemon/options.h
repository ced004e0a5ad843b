/* tolld's command line and exit statuses. */
#ifndef TOLL_DAEMON_OPTIONS_H
#define TOLL_DAEMON_OPTIONS_H

#include <stdbool.h>

enum { /* besides 0 and 1; numbers of sysexits.h where it has one */
       EXIT_USAGE = 2,
       EXIT_JOURNAL = 74, /* the journal can't be written or read */
       EXIT_CONFIGURATION = 78,
};

enum options_mode { OPTIONS_RUN, OPTIONS_CHECK_CONFIG, OPTIONS_MIGRATE, OPTIONS_REPAIR_JOURNAL };

struct options {
    enum options_mode mode;
    const char *config_path; /* NULL: the default */
    bool adopt_journal;
};

/* True: go on with *ret. False: --help or --version was answered, or the words made no sense; then exit with *ret_status. */
bool options_parse(struct options *ret, int argc, char **argv, int *ret_status);

#endif
