/* tollctl's commands. Each asks the daemon or the database, prints to ctl->out, says on standard error what went wrong, and returns the exit
 * status. */
#ifndef TOLL_DAEMON_CTL_H
#define TOLL_DAEMON_CTL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    CTL_OK = 0,
    CTL_BAD =
        1, /* the answer is bad: verify found a fault, there is no such session, flush was not done in time, a price was refused */
    CTL_USAGE = 2,
    CTL_NO_DAEMON = 3,
    CTL_NO_DATABASE = 4,
};

/* Options that commands get as they were typed. */
enum ctl_option {
    CTL_FROM,
    CTL_TO,
    CTL_UNTIL,
    CTL_AT,
    CTL_PERIOD,
    CTL_DRY_RUN,
    CTL_ALL,
    CTL_COMPONENT,
    CTL_PROVIDER,
    CTL_MODEL,
    CTL_SIDE,
    CTL_SCOPE,
    CTL_VARIANT,
    CTL_TIER,
    CTL_PER,
    CTL_CURRENCY,
    CTL_MINIMUM,
    CTL_INCREMENT,
    CTL_SOURCE,
    CTL_SOURCE_DATE,
    CTL_MARKUP,
    CTL_OTHER_UNITS,
    CTL_RATE,
    CTL_NAME,
    CTL_PLAN,
    CTL_TIME_ZONE,
    CTL_CHARGE_BY,
    CTL_TARIFF,
    CTL_ALLOWANCE,
    CTL_MINUTES,
    CTL_METHOD,
    CTL_REFERENCE,
    CTL_REASON,
    CTL_TRANSACTION,
    CTL_OPTIONS,
};

struct ctl {
    FILE *out;
    bool json;
    const char *control;  /* path of the daemon's control socket */
    const char *database; /* libpq URL, "": none */
    uint64_t limit;
    int64_t timeout_us;              /* flush, and the flush before verify */
    int64_t since_us;                /* verify: µs since the epoch, INT64_MIN: everything */
    bool bytes;                      /* quarantine */
    const char *id;                  /* the word after the command; session: a UUID in text form */
    char **words;                    /* all words after it, as many as the command takes */
    const char *option[CTL_OPTIONS]; /* NULL: not given; of times, µs since the epoch in decimal */
};

int ctl_status(struct ctl *ctl);
int ctl_sessions(struct ctl *ctl);
int ctl_session(struct ctl *ctl);
int ctl_streams(struct ctl *ctl);
int ctl_verify(struct ctl *ctl);
int ctl_quarantine(struct ctl *ctl);
int ctl_flush(struct ctl *ctl);
int ctl_prices_import(struct ctl *ctl);
int ctl_prices_set(struct ctl *ctl);
int ctl_prices_end(struct ctl *ctl);
int ctl_prices_withdraw(struct ctl *ctl);
int ctl_prices_list(struct ctl *ctl);
int ctl_prices_unrated(struct ctl *ctl);
int ctl_prices_explain(struct ctl *ctl);
int ctl_account_create(struct ctl *ctl);
int ctl_account_plan(struct ctl *ctl);
int ctl_account_scheme(struct ctl *ctl);
int ctl_account_trial(struct ctl *ctl);
int ctl_account_top_up(struct ctl *ctl);
int ctl_account_refund(struct ctl *ctl);
int ctl_account_adjust(struct ctl *ctl);
int ctl_account_statement(struct ctl *ctl);
int ctl_period_close(struct ctl *ctl);
int ctl_rerate(struct ctl *ctl);

#endif
