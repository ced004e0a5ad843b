/* tollctl's commands about accounts, their money and their periods. */
#include "daemon/ctl.h"

#include "daemon/ctl_database.h"
#include "daemon/ctl_print.h"

#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

/* --- what an account is --- */

#define SHOW_SQL                                                                                                       \
    "SELECT account_id, name, plan_id, currency, time_zone, charge_by, tariff_id, trial_ends_at, trial_allowance,"     \
    " trial_used, markup_percent, closed_until FROM public.accounts WHERE account_id = $1"

/* Changes it, then shows what it is now. */
static int change_account(struct ctl *ctl, const char *sql, int count, const char *const *values)
{
    PGresult *result = NULL;
    int status = ctl_run(ctl, true, sql, count, values, &result);

    PQclear(result);
    result = NULL;
    if (status == CTL_OK)
        status = ctl_run(ctl, true, ctl->json ? "SELECT row_to_json(q) FROM (" SHOW_SQL ") q" : SHOW_SQL, 1, values,
                         &result);
    if (status == CTL_OK && ctl->json)
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 0));
    else if (status == CTL_OK && ctl_print_row(result, 0, ctl->out) < 0)
        status = CTL_BAD;
    PQclear(result);
    return status;
}

int ctl_account_create(struct ctl *ctl)
{
    const char *values[] = {ctl->id,
                            ctl->option[CTL_NAME],
                            ctl->option[CTL_PLAN],
                            ctl->option[CTL_CURRENCY],
                            ctl->option[CTL_TIME_ZONE],
                            ctl->option[CTL_CHARGE_BY],
                            ctl->option[CTL_TARIFF],
                            ctl->option[CTL_MARKUP]};

    return change_account(ctl, "SELECT public.create_account($1, $2, $3, $4, $5, $6, $7, $8::numeric)", 8, values);
}

int ctl_account_plan(struct ctl *ctl)
{
    const char *values[] = {ctl->id, ctl->words[1]};

    return change_account(ctl, "SELECT public.set_plan($1, $2)", 2, values);
}

int ctl_account_scheme(struct ctl *ctl)
{
    const char *values[] = {ctl->id, ctl->words[1], ctl->option[CTL_TARIFF]};

    return change_account(ctl, "SELECT public.set_scheme($1, $2, $3)", 3, values);
}

int ctl_account_trial(struct ctl *ctl)
{
    const char *values[] = {ctl->id, ctl->option[CTL_UNTIL], ctl->option[CTL_ALLOWANCE]};

    if (!ctl->option[CTL_UNTIL]) {
        fputs("tollctl: say when the trial ends: account trial ID --until TIME\n", stderr);
        return CTL_USAGE;
    }
    return change_account(ctl, "SELECT public.start_trial($1, " CTL_TIMESTAMP("$2") ", $3::numeric)", 3, values);
}

/* --- its money --- */

#define BOOKED_SQL                                                                                                     \
    "SELECT * FROM jsonb_to_record(coalesce($1::jsonb -> 'data', $1::jsonb))"                                          \
    " AS r (transaction_id text, user_id text, amount numeric, currency text, balance numeric, repeated boolean)"

/* The functions of wallets answer {"success": …, "error" or "data"}. The transaction's id is made here when none is given: it is printed, and the same
 * again with it books nothing twice. */
static int book(struct ctl *ctl, const char *call, const char *note)
{
    char made[8 + UUID_STR_LEN] = "tollctl:", sql[600];
    const char *transaction = ctl->option[CTL_TRANSACTION];
    const char *values[] = {ctl->id, ctl->words[1], note, transaction ? transaction : made};
    PGresult *result = NULL;
    uuid_t id;
    int status;

    uuid_generate(id);
    uuid_unparse_lower(id, made + strlen("tollctl:"));
    snprintf(sql, sizeof(sql), "SELECT r ->> 'success', r ->> 'error', r FROM (SELECT to_jsonb(%s) AS r) AS q", call);
    status = ctl_run(ctl, true, sql, 4, values, &result);
    if (status != CTL_OK)
        return status;
    if (strcmp(PQgetvalue(result, 0, 0), "true") != 0) {
        const char *error = PQgetvalue(result, 0, 1), *amount = ctl->words[1] + strspn(ctl->words[1], " ");

        if (strncmp(error, "amount_cents ", strlen("amount_cents ")) == 0)
            fprintf(stderr, "tollctl: %s: a hundred times the AMOUNT %s\n", error, amount);
        else
            fprintf(stderr, "tollctl: %s\n", error);
        status = CTL_BAD;
    } else if (!ctl->json) {
        const char *answer[] = {PQgetvalue(result, 0, 2)};
        PGresult *booked = NULL;

        status = ctl_run(ctl, true, BOOKED_SQL, 1, answer, &booked);
        if (status == CTL_OK && ctl_print_row(booked, 0, ctl->out) < 0)
            status = CTL_BAD;
        PQclear(booked);
    }
    if (ctl->json)
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 2));
    PQclear(result);
    return status;
}

int ctl_account_top_up(struct ctl *ctl)
{
    return book(ctl,
                ctl->option[CTL_MINUTES] ? "public.add_minutes($1, $2::numeric, $3, $4)"
                                         : "public.add_credits($1, $2::numeric * 100, $3, $4)",
                ctl->option[CTL_METHOD] ? ctl->option[CTL_METHOD] : "tollctl");
}

int ctl_account_refund(struct ctl *ctl)
{
    return book(ctl, "public.refund_credits($1, $2::numeric * 100, $3, $4)", ctl->option[CTL_REFERENCE]);
}

int ctl_account_adjust(struct ctl *ctl)
{
    if (!ctl->option[CTL_REASON] || !ctl->option[CTL_REASON][0]) {
        fputs("tollctl: say why, it is kept in the ledger: account adjust ID AMOUNT --reason TEXT\n", stderr);
        return CTL_USAGE;
    }
    return book(ctl,
                ctl->option[CTL_MINUTES] ? "public.adjust_minutes($1, $2::numeric, $3, $4)"
                                         : "public.adjust_credits($1, $2::numeric * 100, $3, $4)",
                ctl->option[CTL_REASON]);
}

/* --- its statement and its periods --- */

/* clang-format off */
#define TIME_SQL(time) "to_char(" time " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
/* %1$s account, %2$s from, %3$s to. */
#define STATEMENT_SQL \
    "COPY (SELECT record, " TIME_SQL("at") " AS at, " TIME_SQL("occurred_at") " AS occurred_at, id, session_id, event_id, kind, component," \
    " provider, model, quantities, charge, waived, due, amount, balance_after, currency, note" \
    " FROM public.account_statement(%1$s, %2$s, %3$s)) TO STDOUT WITH (FORMAT csv, HEADER)"
/* A month in the account's time zone, or what was asked for. */
#define PERIOD_SQL \
    "SELECT quote_literal(since) || '::timestamptz', quote_literal(before) || '::timestamptz', since > before, since, before" \
    " FROM (SELECT coalesce(" CTL_TIMESTAMP("$3") ", toll.local_start(($2 || '-01')::date, time_zone)) AS since," \
    "              coalesce(" CTL_TIMESTAMP("$4") ", toll.local_start(($2 || '-01')::date + interval '1 month', time_zone), now()) AS before" \
    "       FROM public.accounts WHERE account_id = $1) AS q"
/* clang-format on */

int ctl_account_statement(struct ctl *ctl)
{
    const char *values[] = {ctl->id, ctl->option[CTL_PERIOD], ctl->option[CTL_FROM], ctl->option[CTL_TO]};
    PGconn *conn = NULL;
    PGresult *period = NULL;
    char error[CTL_ERROR_MAX], *account = NULL, *sql = NULL;
    int status = CTL_NO_DATABASE;

    if (!values[1] == !values[2] || (values[1] && values[3])) {
        fputs("tollctl: say which period: --period 2026-01, or --from TIME [--to TIME]\n", stderr);
        return CTL_USAGE;
    }
    if (ctl_database_open(&conn, ctl->database, error) < 0) {
        fprintf(stderr, "tollctl: %s\n", error);
        return CTL_NO_DATABASE;
    }
    period = PQexecParams(conn, PERIOD_SQL, 4, NULL, values, NULL, NULL, 0);
    if (PQresultStatus(period) != PGRES_TUPLES_OK) {
        status = ctl_complain_of(conn, period);
        goto done;
    }
    if (PQntuples(period) == 0) {
        fprintf(stderr, "tollctl: there is no account %s\n", ctl->id);
        status = CTL_BAD;
        goto done;
    }
    if (strcmp(PQgetvalue(period, 0, 2), "t") == 0) {
        fprintf(stderr, "tollctl: from %s is after to %s\n", PQgetvalue(period, 0, 3), PQgetvalue(period, 0, 4));
        status = CTL_BAD;
        goto done;
    }
    account = PQescapeLiteral(conn, ctl->id, strlen(ctl->id));
    if (!account || asprintf(&sql, STATEMENT_SQL, account, PQgetvalue(period, 0, 0), PQgetvalue(period, 0, 1)) < 0) {
        fprintf(stderr, "tollctl: %s", account ? "out of memory\n" : PQerrorMessage(conn));
        sql = NULL;
        status = CTL_BAD;
        goto done;
    }
    status = ctl_copy_out(ctl, conn, sql);
done:
    free(sql);
    PQfreemem(account);
    PQclear(period);
    PQfinish(conn);
    return status;
}

int ctl_period_close(struct ctl *ctl)
{
    const char *values[] = {ctl->option[CTL_ALL] ? NULL : ctl->id, ctl->option[CTL_PERIOD]};

    if (!values[1] || !ctl->id == !ctl->option[CTL_ALL]) {
        fputs(
            "tollctl: say whose period, and which: period close ACCOUNT --period 2026-01, or period close --all --period 2026-01\n",
            stderr);
        return CTL_USAGE;
    }
    return ctl_call(
        ctl, true,
        "SELECT a.account_id, $2 AS period, toll.close_period(a.account_id, ($2 || '-01')::date) AS closed"
        " FROM (SELECT account_id FROM public.accounts WHERE $1::text IS NULL UNION SELECT $1::text WHERE $1 IS NOT NULL) a"
        " WHERE NOT EXISTS (SELECT FROM public.accounts c WHERE c.account_id = a.account_id"
        "  AND c.closed_until >= toll.local_start(($2 || '-01')::date + interval '1 month', c.time_zone))"
        " ORDER BY 1",
        2, values, "it is closed already");
}
