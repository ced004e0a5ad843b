/* What tolld does instead of running: migrate a database, repair a journal. */
#ifndef TOLL_DAEMON_OFFLINE_H
#define TOLL_DAEMON_OFFLINE_H

#include "daemon/config.h"
#include "daemon/journal.h"

/* Both tell on stdout what they do and on stderr what went wrong, and return an exit status. */
int offline_migrate(const struct config *config);
int offline_repair(const struct journal_options *options);

#endif
