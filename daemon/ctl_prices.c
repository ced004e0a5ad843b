/* tollctl's commands about the price book, but for import: set, end, withdraw, list, unrated, explain; and rerate, which applies what has changed in it. */
#include "daemon/ctl.h"

#include "daemon/ctl_database.h"
#include "daemon/ctl_print.h"
#include "daemon/ctl_table.h"

#include <inttypes.h>
#include <string.h>

/* --- set, end, withdraw --- */

/* clang-format off */
/* "account:u_42", "plan:pro", "default" */
#define SCOPE_KIND(scope) "split_part(" scope "::text, ':', 1)"
#define SCOPE_ID(scope) "coalesce(nullif(substr(" scope "::text, strpos(" scope "::text || ':', ':') + 1), ''), '*')"

#define SET_SQL \
    "WITH made AS (SELECT public.set_price($1, $2, $3, $4, coalesce($6, CASE WHEN $1 = 'tariff' THEN 'charge' ELSE 'cost' END), $5::numeric," \
    "  coalesce($7, '1')::numeric, coalesce($8, 'USD'), coalesce(" CTL_TIMESTAMP("$9") ", now())," \
    "  coalesce(" SCOPE_KIND("$11") ", 'default'), coalesce(" SCOPE_ID("$11") ", '*'), coalesce($12, '*'), coalesce($13, '0')::bigint," \
    "  coalesce($14, '0')::integer, coalesce($15, '0')::integer, $16, $17::date, " CTL_TIMESTAMP("$10") ") AS price_id)"
/* A row is only seen by the next statement. */
#define SHOW_SQL \
    "SELECT p.price_id, toll.price_text(p) AS price, lower(p.valid) < now() - interval '1 minute' AS past" \
    " FROM public.pricing_config p WHERE p.price_id = $1::bigint"
/* clang-format on */

static int show_price(struct ctl *ctl, const char *id, const char *what)
{
    const char *values[] = {id};
    PGresult *result = NULL;
    int status = ctl_run(ctl, true, SHOW_SQL, 1, values, &result);

    if (status == CTL_OK && PQntuples(result) == 1) {
        fprintf(ctl->out, "%s %s: ", what, id);
        ctl_print_clean(PQgetvalue(result, 0, 1), strlen(PQgetvalue(result, 0, 1)), ctl->out);
        fputc('\n', ctl->out);
        if (PQgetvalue(result, 0, 2)[0] == 't')
            fputs(
                "Usage that was rated already keeps its lines: tollctl rerate --dry-run --from ... shows what it would change\n",
                ctl->out);
    }
    PQclear(result);
    return status;
}

int ctl_prices_set(struct ctl *ctl)
{
    const char *values[] = {
        ctl->words[0],
        ctl->words[1],
        ctl->words[2],
        ctl->words[3],
        ctl->words[4],
        ctl->option[CTL_SIDE],
        ctl->option[CTL_PER],
        ctl->option[CTL_CURRENCY],
        ctl->option[CTL_FROM],
        ctl->option[CTL_UNTIL],
        ctl->option[CTL_SCOPE],
        ctl->option[CTL_VARIANT],
        ctl->option[CTL_TIER],
        ctl->option[CTL_MINIMUM],
        ctl->option[CTL_INCREMENT],
        ctl->option[CTL_SOURCE],
        ctl->option[CTL_SOURCE_DATE],
    };
    bool keep = !ctl->option[CTL_DRY_RUN];
    PGresult *result = NULL;
    int status = ctl_run(ctl, keep, SET_SQL " SELECT price_id FROM made", 17, values, &result);

    if (status == CTL_OK && ctl->json)
        fprintf(ctl->out, "{\"dry_run\":%s,\"price_id\":%s}\n", keep ? "false" : "true",
                keep ? PQgetvalue(result, 0, 0) : "null");
    else if (status == CTL_OK && !keep)
        fputs("it could be set. A dry run: nothing was changed\n", ctl->out);
    else if (status == CTL_OK)
        status = show_price(ctl, PQgetvalue(result, 0, 0), "set price");
    PQclear(result);
    return status;
}

/* A function that answers nothing. */
static int change_price(struct ctl *ctl, const char *sql, const char *argument, const char *what)
{
    const char *values[] = {ctl->id, argument};
    PGresult *result = NULL;
    int status = ctl_run(ctl, true, sql, 2, values, &result);

    PQclear(result);
    if (status == CTL_OK && ctl->json)
        fprintf(ctl->out, "{\"price_id\":%s}\n", ctl->id);
    else if (status == CTL_OK)
        status = show_price(ctl, ctl->id, what);
    return status;
}

int ctl_prices_end(struct ctl *ctl)
{
    return change_price(ctl, "SELECT public.end_price($1::bigint, coalesce(" CTL_TIMESTAMP("$2") ", now()))",
                        ctl->option[CTL_UNTIL], "ended price");
}

int ctl_prices_withdraw(struct ctl *ctl)
{
    if (!ctl->option[CTL_REASON]) {
        fputs("tollctl: say why, it is kept with the price: prices withdraw ID --reason TEXT\n", stderr);
        return CTL_USAGE;
    }
    return change_price(ctl, "SELECT public.withdraw_price($1::bigint, $2)", ctl->option[CTL_REASON], "withdrew price");
}

/* --- list --- */

/* clang-format off */
#define DAY(time) "regexp_replace(to_char(" time " AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), ' 00:00:00$', '')"
#define LIST_TEXT \
    "price_id, side, CASE scope_kind WHEN 'default' THEN 'default' ELSE scope_kind || ':' || scope_id END AS scope, component, provider, model," \
    " variant, dimension || CASE WHEN tier_above > 0 THEN ' above ' || tier_above ELSE '' END AS dimension," \
    " price || ' ' || currency || ' / ' || unit_quantity || CASE WHEN minimum_seconds + increment_seconds > 0" \
    "  THEN ' (' || minimum_seconds || '/' || increment_seconds || ' s)' ELSE '' END AS price," \
    " " DAY("lower(valid)") " AS starts, CASE WHEN withdrawn_at IS NOT NULL THEN 'withdrawn' ELSE " DAY("upper(valid)") " END AS ends," \
    " source, source_date"
#define LIST_FROM \
    " FROM public.pricing_config WHERE ($1::text IS NULL OR component = $1) AND ($2::text IS NULL OR provider = $2)" \
    " AND ($3::text IS NULL OR model = $3) AND ($4::text IS NULL OR side = $4)" \
    " AND ($5::text IS NULL OR (scope_kind = " SCOPE_KIND("$5") " AND scope_id = " SCOPE_ID("$5") "))" \
    " AND ($7::text IS NOT NULL OR (withdrawn_at IS NULL AND valid @> coalesce(" CTL_TIMESTAMP("$6") ", now())))" \
    " ORDER BY component, provider, model, variant, dimension, tier_above, side, scope_kind, scope_id, lower(valid), price_id" \
    " LIMIT $8::bigint"
/* clang-format on */

int ctl_prices_list(struct ctl *ctl)
{
    static const struct ctl_column columns[] = {
        {"price_id", "ID"},
        {"side", "SIDE"},
        {"scope", "SCOPE"},
        {"component", "COMPONENT"},
        {"provider", "PROVIDER"},
        {"model", "MODEL"},
        {"variant", "VARIANT"},
        {"dimension", "DIMENSION"},
        {"price", "PRICE / UNITS"},
        {"starts", "FROM (UTC)"},
        {"ends", "TO"},
        {"source", "SOURCE"},
        {"source_date", "READ"},
        {NULL, NULL},
    };
    char limit[24];
    const char *values[] = {
        ctl->option[CTL_COMPONENT], ctl->option[CTL_PROVIDER], ctl->option[CTL_MODEL], ctl->option[CTL_SIDE],
        ctl->option[CTL_SCOPE],     ctl->option[CTL_AT],       ctl->option[CTL_ALL],   limit};
    PGresult *result = NULL;
    int status;

    snprintf(limit, sizeof(limit), "%" PRIu64, ctl->limit);
    status =
        ctl_run(ctl, true,
                ctl->json ? CTL_JSON_ROWS("SELECT *, lower(valid) AS valid_from, upper(valid) AS valid_until" LIST_FROM)
                          : "SELECT " LIST_TEXT LIST_FROM,
                8, values, &result);
    if (status != CTL_OK)
        return status;
    if (ctl->json) {
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 0));
    } else if (PQntuples(result) == 0) {
        fputs(
            "no such prices; 'tollctl prices import' and 'tollctl prices set' make some, --all shows those that don't apply now too\n",
            ctl->out);
    } else {
        if (ctl_print_result(columns, result, ctl->out) < 0)
            status = CTL_BAD;
        if ((uint64_t)PQntuples(result) == ctl->limit)
            fprintf(ctl->out, "the first %s; --limit N for more\n", limit);
    }
    PQclear(result);
    return status;
}

/* --- unrated, explain, rerate --- */

/* clang-format off */
#define UNRATED_SQL \
    "SELECT side, component, provider, model, variant, missing, count(*) AS events, min(occurred_at) AS first_at, max(occurred_at) AS last_at" \
    " FROM (SELECT side, component, provider, model, variant, missing, occurred_at FROM toll.unrated UNION ALL" \
    "  SELECT 'charge', 'tariff', '*', '*', tariff_id, 'tariff: no price that comes to ' || currency, ended_at FROM public.unrated_sessions) AS u" \
    " GROUP BY side, component, provider, model, variant, missing" \
    " ORDER BY count(*) DESC, side, component, provider, model, variant, missing LIMIT $1::bigint"
#define LEFT_SQL \
    "SELECT $1::bigint AS rated, (SELECT count(DISTINCT event_id) FROM toll.unrated) + (SELECT count(*) FROM public.unrated_sessions) AS left_over"
/* clang-format on */

/* What is left over is counted afterwards: a statement doesn't see what a function that it calls has done. */
static int rate_unrated(struct ctl *ctl)
{
    PGresult *result = NULL;
    int status = ctl_run(ctl, true, "SELECT toll.rate_unrated(100000)", 0, NULL, &result);

    if (status == CTL_OK) {
        const char *values[] = {PQgetvalue(result, 0, 0)};

        status = ctl_call(ctl, true, LEFT_SQL, 1, values, "");
    }
    PQclear(result);
    return status;
}

int ctl_prices_unrated(struct ctl *ctl)
{
    static const struct ctl_column columns[] = {
        {"side", "SIDE"},     {"component", "COMPONENT"}, {"provider", "PROVIDER"},
        {"model", "MODEL"},   {"variant", "VARIANT"},     {"missing", "MISSING"},
        {"events", "EVENTS"}, {"first_at", "FIRST"},      {"last_at", "LAST"},
        {NULL, NULL},
    };
    char limit[24];
    const char *values[] = {limit};
    PGresult *result = NULL;
    int status;

    if (ctl->option[CTL_RATE])
        return rate_unrated(ctl);
    snprintf(limit, sizeof(limit), "%" PRIu64, ctl->limit);
    status = ctl_run(ctl, true, ctl->json ? CTL_JSON_ROWS(UNRATED_SQL) : UNRATED_SQL, 1, values, &result);
    if (status != CTL_OK)
        return status;
    if (ctl->json)
        fprintf(ctl->out, "%s\n", PQgetvalue(result, 0, 0));
    else if (PQntuples(result) == 0)
        fputs("nothing is unrated\n", ctl->out);
    else if (ctl_print_result(columns, result, ctl->out) < 0)
        status = CTL_BAD;
    else
        fputs(
            "\nSet what is missing (tollctl prices set, with --from before FIRST), then rate these events: tollctl prices unrated --rate\n",
            ctl->out);
    PQclear(result);
    return status;
}

int ctl_prices_explain(struct ctl *ctl)
{
    const char *values[] = {ctl->id};

    return ctl_call(ctl, true, "SELECT * FROM toll.explain_event($1::bigint)", 1, values, "there is no such event");
}

int ctl_rerate(struct ctl *ctl)
{
    const char *values[] = {ctl->option[CTL_FROM], ctl->option[CTL_TO], ctl->option[CTL_DRY_RUN] ? "true" : "false"};

    if (!ctl->option[CTL_FROM]) {
        fputs("tollctl: say from when on: rerate --from TIME\n", stderr);
        return CTL_USAGE;
    }
    return ctl_call(
        ctl, true,
        "SELECT * FROM toll.rerate(" CTL_TIMESTAMP("$1") ", coalesce(" CTL_TIMESTAMP("$2") ", now()), $3::boolean)", 3,
        values, "nothing changes");
}
