/* tollctl's commands. Each asks the daemon or the database, prints to ctl->out, says on standard error what went wrong, and returns the exit
 * status. */
#ifndef TOLL_DAEMON_CTL_H
#define TOLL_DAEMON_CTL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    CTL_OK = 0,
    CTL_BAD = 1, /* the answer is bad: verify found a fault, there is no such session, flush was not done in time */
    CTL_USAGE = 2,
    CTL_NO_DAEMON = 3,
    CTL_NO_DATABASE = 4,
};

struct ctl {
    FILE *out;
    bool json;
    const char *control;  /* path of the daemon's control socket */
    const char *database; /* libpq URL, "": none */
    uint64_t limit;
    int64_t timeout_us; /* flush, and the flush before verify */
    int64_t since_us;   /* verify: µs since the epoch, INT64_MIN: everything */
    bool bytes;         /* quarantine */
    const char *id;     /* session: a UUID in text form */
};

int ctl_status(struct ctl *ctl);
int ctl_sessions(struct ctl *ctl);
int ctl_session(struct ctl *ctl);
int ctl_streams(struct ctl *ctl);
int ctl_verify(struct ctl *ctl);
int ctl_quarantine(struct ctl *ctl);
int ctl_flush(struct ctl *ctl);

#endif
