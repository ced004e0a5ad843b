/* What the state directory remembers of the sink, for each writer: that it has a watermark there, by which name the sink knows the last run, and how many
 * writers there were. Losing it is safe where nothing else is wrong; it is what tells a first time from a database that was lost, and a journal that is
 * used twice from one that is not. Also: where each writer is to go on in a journal that was renewed, until the sink knows. */
#ifndef TOLL_DAEMON_REGISTRATION_H
#define TOLL_DAEMON_REGISTRATION_H

#include "daemon/journal.h"
#include "daemon/share.h"

#include <stdbool.h>
#include <stdint.h>

struct registration {
    uint8_t journal[16], run[16];
    unsigned writers; /* 0: the file is of a version that had one */
};

/* 0 and whether the sink of that name knows this journal, as far as we know; or why that can't be told now. A file that is missing or damaged tells
 * nothing. */
int registration_read(struct journal *journal, const char *sink, unsigned writer, struct registration *ret,
                      bool *ret_registered) __attribute__((warn_unused_result));
int registration_write(struct journal *journal, const char *sink, unsigned writer,
                       const struct registration *registration) __attribute__((warn_unused_result));

/* Where the writers go on in a journal that is about to be renewed as `uuid`; written before. */
struct renewal {
    uint8_t journal[16];
    unsigned writers;
    uint64_t lsns[SHARE_WRITERS_MAX];
};
/* 0 and whether the journal as it is now came from that renewal; or why that can't be told now. */
int renewal_read(struct journal *journal, struct renewal *ret, bool *ret_applies) __attribute__((warn_unused_result));
int renewal_write(struct journal *journal, const struct renewal *renewal) __attribute__((warn_unused_result));

#endif
