/* What tolld opens before anything runs: its journal and the workers' socket. What is wrong is logged here, with what to do. */
#ifndef TOLL_DAEMON_OPENING_H
#define TOLL_DAEMON_OPENING_H

#include "daemon/config.h"
#include "daemon/journal.h"

#include <stdbool.h>

/* Descriptors are what pages, segments and what hostile workers send are made of: as many as we may. */
void opening_raise_descriptor_limit(void);

/* The journal that the configuration describes; borrows its strings. adopt: also where another machine wrote it. */
void opening_journal_options(struct journal_options *ret, const struct config *config, bool adopt);

/* 0, or journal_open()'s results. */
int opening_journal(struct journal **ret, const struct config *config, bool adopt) __attribute__((warn_unused_result));

/* The workers' socket: from the service manager, or bound here; then it is our own, to be removed at the end. 0 or -errno. */
int opening_socket(int *ret_fd, bool *ret_own, const struct config *config) __attribute__((warn_unused_result));

/* How many datagrams the kernel lets wait in a socket that is made now; 0: unknown. Says so where they are few. */
unsigned opening_queue_length(void);

#endif
