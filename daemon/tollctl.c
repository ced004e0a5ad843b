/* tollctl: asks a running tolld, and looks into its database. The words of the command line; what the commands do is in ctl_live.c, ctl_records.c,
 * ctl_prices.c, ctl_import.c and ctl_account.c. */
#include "daemon/clock.h"
#include "daemon/config.h"
#include "daemon/ctl.h"
#include "daemon/ctl_format.h"
#include "daemon/version.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uuid/uuid.h>

enum { LIMIT_MAX = 10000, TIMEOUT_MAX_S = 600 };

/* Options of commands: first those that have a place of their own in struct ctl, then those that are handed over as text. */
enum { LIMIT = CTL_OPTIONS, TIMEOUT, SINCE, BYTES, OPTIONS };
#define TAKES(option) (UINT64_C(1) << (option))

enum kind { FLAG, TEXT, NUMBER, TIME, AHEAD, MONTH };
static const struct option_row {
    const char *name;
    enum kind kind;
    const char *argument, *help;
} rows[OPTIONS] = {
    [LIMIT] = {"limit", TEXT, "N", "at most N lines (50)"},
    [TIMEOUT] = {"timeout", TEXT, "S", "seconds to wait for everything to be committed (10)"},
    [SINCE] = {"since", TIME, "TIME",
               "only what was stored since then: 2h, 7d (ago), 2026-01-31, \"2026-01-31 08:00\" (local time)"},
    [BYTES] = {"bytes", FLAG, NULL, "the refused frames' bytes too, in hexadecimal"},
    [CTL_FROM] = {"from", TIME, "TIME", "from then on, a time as above (prices: now)"},
    [CTL_TO] = {"to", TIME, "TIME", "up to then (now)"},
    [CTL_UNTIL] = {"until", AHEAD, "TIME", "until then; 14d is in 14 days"},
    [CTL_AT] = {"at", TIME, "TIME", "the prices of then (now)"},
    [CTL_PERIOD] = {"period", MONTH, "YYYY-MM", "the month, in the account's time zone"},
    [CTL_DRY_RUN] = {"dry-run", FLAG, NULL, "show what would change, and change nothing"},
    [CTL_ALL] = {"all", FLAG, NULL, "prices: those that don't apply now too; periods: of all accounts"},
    [CTL_COMPONENT] = {"component", TEXT, "NAME", "llm, tts, stt, telephony, meter or tariff"},
    [CTL_PROVIDER] = {"provider", TEXT, "NAME", "only this provider's"},
    [CTL_MODEL] = {"model", TEXT, "NAME", "only this model's"},
    [CTL_SIDE] = {"side", TEXT, "SIDE", "cost: what the provider takes; charge: what the customer pays"},
    [CTL_SCOPE] = {"scope", TEXT, "SCOPE", "for whom: default, account:ID or plan:ID (default)"},
    [CTL_VARIANT] = {"variant", TEXT, "NAME", "voice, language, channel, or the tariff's id (*: any)"},
    [CTL_TIER] = {"tier-above", NUMBER, "TOKENS", "for llm calls with more input tokens than this (0)"},
    [CTL_PER] = {"per", NUMBER, "N", "how many units PRICE is for (1)"},
    [CTL_CURRENCY] = {"currency", TEXT, "CODE", "ISO 4217 code, of prices that name none (USD; a table's must)"},
    [CTL_MINIMUM] = {"minimum", NUMBER, "S", "telephony: a call counts at least so many seconds (0)"},
    [CTL_INCREMENT] = {"increment", NUMBER, "S", "telephony: it counts in steps of so many seconds (0)"},
    [CTL_SOURCE] = {"source", TEXT, "TEXT", "where the price is from"},
    [CTL_SOURCE_DATE] = {"source-date", TEXT, "DATE", "when it was read there"},
    [CTL_MARKUP] = {"markup", NUMBER, "PERCENT", "prices to charge that are so much higher; account: than cost"},
    [CTL_OTHER_UNITS] = {"other-units", TEXT, "WHAT",
                         "of models that the book has by another unit: keep or replace the book's"},
    [CTL_RATE] = {"rate", FLAG, NULL, "try to rate them again"},
    [CTL_NAME] = {"name", TEXT, "TEXT", "its name for people"},
    [CTL_PLAN] = {"plan", TEXT, "PLAN", "its plan"},
    [CTL_TIME_ZONE] = {"time-zone", TEXT, "ZONE", "where its days and months are cut, such as Europe/Berlin"},
    [CTL_CHARGE_BY] = {"charge-by", TEXT, "SCHEME", "usage, minutes, prepaid_minutes or plan"},
    [CTL_TARIFF] = {"tariff", TEXT, "ID", "its minute tariff"},
    [CTL_ALLOWANCE] = {"allowance", NUMBER, "AMOUNT", "how much the trial waives (everything until it ends)"},
    [CTL_MINUTES] = {"minutes", FLAG, NULL, "AMOUNT is prepaid minutes, not money"},
    [CTL_METHOD] = {"method", TEXT, "TEXT", "how it was paid"},
    [CTL_REFERENCE] = {"reference", TEXT, "ID", "what is paid back"},
    [CTL_REASON] = {"reason", TEXT, "TEXT", "why"},
    [CTL_TRANSACTION] = {"transaction", TEXT, "ID", "books once, however often it is said (a new id)"},
};

static const struct command {
    const char *name;
    int (*run)(struct ctl *ctl);
    uint64_t takes;  /* options of its own */
    int least, most; /* words after it */
    const char *usage, *help;
} commands[] = {
    {"status", ctl_status, 0, 0, 0, "status",
     "is it receiving, is it storing, how much waits, what is wrong and what to do"},
    {"sessions", ctl_sessions, TAKES(LIMIT), 0, 0, "sessions [--limit N]",
     "the live calls with their totals, latest activity first"},
    {"session", ctl_session, 0, 1, 1, "session UUID", "one call's totals, live or ended"},
    {"streams", ctl_streams, TAKES(LIMIT), 0, 0, "streams [--limit N]",
     "who sends, what is acknowledged, and which frames never came"},
    {"verify", ctl_verify, TAKES(SINCE) | TAKES(TIMEOUT), 0, 0, "verify [--since TIME] [--timeout S]",
     "prove that totals equal the sum of events, nothing missing, nothing double"},
    {"quarantine", ctl_quarantine, TAKES(LIMIT) | TAKES(BYTES), 0, 0, "quarantine [--limit N] [--bytes]",
     "the frames that were refused, newest first, and why"},
    {"flush", ctl_flush, TAKES(TIMEOUT), 0, 0, "flush [--timeout S]",
     "wait until everything received so far is committed"},
    {"prices import", ctl_prices_import,
     TAKES(CTL_FROM) | TAKES(CTL_MARKUP) | TAKES(CTL_SIDE) | TAKES(CTL_CURRENCY) | TAKES(CTL_SOURCE) |
         TAKES(CTL_OTHER_UNITS) | TAKES(CTL_DRY_RUN),
     1, 1, "prices import FILE [--dry-run] ...",
     "set the prices of a CSV table or of LiteLLM's JSON list; all or nothing"},
    {"prices set", ctl_prices_set,
     TAKES(CTL_FROM) | TAKES(CTL_UNTIL) | TAKES(CTL_SIDE) | TAKES(CTL_CURRENCY) | TAKES(CTL_PER) | TAKES(CTL_SCOPE) |
         TAKES(CTL_VARIANT) | TAKES(CTL_TIER) | TAKES(CTL_MINIMUM) | TAKES(CTL_INCREMENT) | TAKES(CTL_SOURCE) |
         TAKES(CTL_SOURCE_DATE) | TAKES(CTL_DRY_RUN),
     5, 5, "prices set COMPONENT PROVIDER MODEL DIMENSION PRICE ...",
     "set one price, which ends the one before; '*' is any provider or model"},
    {"prices end", ctl_prices_end, TAKES(CTL_UNTIL), 1, 1, "prices end ID [--until TIME]",
     "end a price without setting another"},
    {"prices withdraw", ctl_prices_withdraw, TAKES(CTL_REASON), 1, 1, "prices withdraw ID --reason TEXT",
     "take back a price that was never right"},
    {"prices list", ctl_prices_list,
     TAKES(CTL_COMPONENT) | TAKES(CTL_PROVIDER) | TAKES(CTL_MODEL) | TAKES(CTL_SIDE) | TAKES(CTL_SCOPE) |
         TAKES(CTL_AT) | TAKES(CTL_ALL) | TAKES(LIMIT),
     0, 0, "prices list [--component NAME] ...", "the prices that apply now, or --at a time"},
    {"prices unrated", ctl_prices_unrated, TAKES(CTL_RATE) | TAKES(LIMIT), 0, 0, "prices unrated [--rate]",
     "what could not be rated, and what is missing for it"},
    {"prices explain", ctl_prices_explain, 0, 1, 1, "prices explain EVENT",
     "how an event (billing_events.id) was rated, line by line"},
    {"account create", ctl_account_create,
     TAKES(CTL_NAME) | TAKES(CTL_PLAN) | TAKES(CTL_CURRENCY) | TAKES(CTL_TIME_ZONE) | TAKES(CTL_CHARGE_BY) |
         TAKES(CTL_TARIFF) | TAKES(CTL_MARKUP),
     1, 1, "account create ID ...", "make an account; what is not said is as the defaults say"},
    {"account plan", ctl_account_plan, 0, 2, 2, "account plan ID PLAN", "put it on another plan"},
    {"account scheme", ctl_account_scheme, TAKES(CTL_TARIFF), 2, 2, "account scheme ID SCHEME [--tariff ID]",
     "charge it by usage, minutes, prepaid_minutes or plan"},
    {"account trial", ctl_account_trial, TAKES(CTL_UNTIL) | TAKES(CTL_ALLOWANCE), 1, 1,
     "account trial ID --until TIME [--allowance AMOUNT]", "waive what it uses until then"},
    {"account top-up", ctl_account_top_up, TAKES(CTL_MINUTES) | TAKES(CTL_METHOD) | TAKES(CTL_TRANSACTION), 2, 2,
     "account top-up ID AMOUNT [--minutes] ...", "add to its wallet, in units of its currency"},
    {"account refund", ctl_account_refund, TAKES(CTL_REFERENCE) | TAKES(CTL_TRANSACTION), 2, 2,
     "account refund ID AMOUNT ...", "give back to its wallet"},
    {"account adjust", ctl_account_adjust, TAKES(CTL_MINUTES) | TAKES(CTL_REASON) | TAKES(CTL_TRANSACTION), 2, 2,
     "account adjust ID AMOUNT --reason TEXT ...", "correct its wallet, by a negative amount too"},
    {"account statement", ctl_account_statement, TAKES(CTL_PERIOD) | TAKES(CTL_FROM) | TAKES(CTL_TO), 1, 1,
     "account statement ID --period YYYY-MM", "its lines and its wallet's ledger as CSV, by when they were booked"},
    {"period close", ctl_period_close, TAKES(CTL_PERIOD) | TAKES(CTL_ALL), 0, 1,
     "period close ACCOUNT|--all --period YYYY-MM", "close a month: later lines are booked after it"},
    {"rerate", ctl_rerate, TAKES(CTL_FROM) | TAKES(CTL_TO) | TAKES(CTL_DRY_RUN), 0, 0,
     "rerate [--dry-run] --from TIME [--to TIME]", "rate usage again by today's price book, by adjusting lines"},
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* Words that are numbers. */
static const struct {
    int (*run)(struct ctl *ctl);
    const char *name;
    int word; /* from 0 */
    bool id;
} numbers[] = {
    {ctl_prices_set, "PRICE", 4, false},      {ctl_prices_end, "ID", 0, true},
    {ctl_prices_withdraw, "ID", 0, true},     {ctl_prices_explain, "EVENT", 0, true},
    {ctl_account_top_up, "AMOUNT", 1, false}, {ctl_account_refund, "AMOUNT", 1, false},
    {ctl_account_adjust, "AMOUNT", 1, false},
};

static void print_help(FILE *out)
{
    char option[40];

    fputs("tollctl asks a running tolld, and looks into its database.\n"
          "\n"
          "Usage: tollctl [OPTION]... COMMAND\n"
          "\n"
          "Commands:\n",
          out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-50s %s\n", commands[i].usage, commands[i].help);
    fputs("\n"
          "Options, before or after the command:\n"
          "  --json              print JSON, for programs\n"
          "  --control PATH      the daemon's control socket (else TOLL_CONTROL, the configuration file, "
          "/run/toll/control.sock)\n"
          "  --database URL      libpq connection string or URI (else DATABASE_URL, the configuration file)\n"
          "  --config FILE       the daemon's configuration file (else " CONFIG_DEFAULT_PATH ", if it is there)\n"
          "  --help, --version\n",
          out);
    for (size_t n = 0; n < OPTIONS; n++) {
        size_t i = (n + LIMIT) % OPTIONS; /* the daemon's commands come first */

        snprintf(option, sizeof(option), "--%s%s%s", rows[i].name, rows[i].argument ? " " : "",
                 rows[i].argument ? rows[i].argument : "");
        fprintf(out, "  %-19s %s\n", option, rows[i].help);
    }
    fputs("\n"
          "Exit status: 0 done; 1 the answer is bad (verify found a fault, no such session, not committed in time, "
          "a price was refused);\n"
          "2 usage; 3 the daemon can't be asked; 4 the database can't be asked.\n",
          out);
}

static int usage_error(const char *what, const char *which)
{
    fprintf(stderr, "tollctl: %s%s%s\nTry 'tollctl --help'.\n", what, which ? ": " : "", which ? which : "");
    return CTL_USAGE;
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || n < min || n > max)
        return false;
    *ret = n;
    return true;
}

struct words {
    struct ctl ctl;
    uint64_t given; /* TAKES(LIMIT) … */
    const char *control, *database, *config;
    const struct command *command;
    char times[OPTIONS][24];
};

/* As PostgreSQL's numeric reads it, which says itself what is wrong with NaN and infinity. */
static bool is_decimal(const char *text)
{
    size_t digits, fraction = 0;

    text += strspn(text, " "); /* see shield_amounts() */
    text += *text == '-' || *text == '+';
    if (strcasecmp(text, "nan") == 0 || strcasecmp(text, "inf") == 0 || strcasecmp(text, "infinity") == 0)
        return true;
    digits = strspn(text, "0123456789");
    text += digits;
    if (*text == '.') {
        fraction = strspn(text + 1, "0123456789");
        text += 1 + fraction;
    }
    if (digits + fraction > 0 && (*text == 'e' || *text == 'E')) {
        text += text[1] == '-' || text[1] == '+' ? 2 : 1;
        digits = strspn(text, "0123456789");
        text += digits;
    }
    return digits + fraction > 0 && digits < 1000 && *text == '\0';
}

/* Of a row. */
static bool is_id(const char *text)
{
    size_t digits = strspn(text, "0123456789");

    return digits > 0 && digits < 19 && text[digits] == '\0';
}

/* YYYY-MM */
static bool is_month(const char *text)
{
    return strncmp(text, "0000", 4) != 0 && strspn(text, "0123456789") == 4 && text[4] == '-' &&
           strspn(text + 5, "0123456789") == 2 && strlen(text) == 7 && strcmp(text + 5, "01") >= 0 &&
           strcmp(text + 5, "12") <= 0;
}

/* What is a time is handed over as µs. 0, or the exit status + 1. */
static int parse_option(struct words *w, size_t which, char *text)
{
    const struct option_row *row = &rows[which];
    int64_t now = clock_realtime_us(), us = 0, ago;
    char error[80];
    uint64_t seconds;

    w->given |= TAKES(which);
    if (row->kind == TIME || row->kind == AHEAD) {
        if (ctl_parse_time(text, now, &us) < 0) {
            snprintf(error, sizeof(error), "--%s: neither a time nor a duration such as 2h", row->name);
            return 1 + usage_error(error, text);
        }
        if (row->kind == AHEAD && config_parse_duration(text, &ago) == 0)
            us = now + ago;
        snprintf(w->times[which], sizeof(w->times[which]), "%" PRId64, us);
        text = w->times[which];
    } else if (row->kind == NUMBER && !is_decimal(text)) {
        snprintf(error, sizeof(error), "--%s: not a number such as 12.5", row->name);
        return 1 + usage_error(error, text);
    } else if (row->kind == MONTH && !is_month(text)) {
        return 1 + usage_error("--period: not a month such as 2026-01", text);
    }
    switch (which) {
    case LIMIT:
        if (!parse_number(text, 1, LIMIT_MAX, &w->ctl.limit))
            return 1 + usage_error("--limit: not a number from 1 to 10000", text);
        break;
    case TIMEOUT:
        if (!parse_number(text, 0, TIMEOUT_MAX_S, &seconds))
            return 1 + usage_error("--timeout: not a number of seconds from 0 to 600", text);
        w->ctl.timeout_us = (int64_t)seconds * 1000000;
        break;
    case SINCE:
        w->ctl.since_us = us;
        break;
    case BYTES:
        w->ctl.bytes = true;
        break;
    default:
        w->ctl.option[which] = row->kind == FLAG ? "" : text;
    }
    return 0;
}

/* 0: go on. Else the exit status + 1. */
static int parse_words(struct words *w, int argc, char **argv)
{
    enum { JSON = 256 + OPTIONS, CONTROL, DATABASE, CONFIG, HELP, VERSION };
    struct option options[OPTIONS + 7] = {
        {"json", no_argument, NULL, JSON},
        {"control", required_argument, NULL, CONTROL},
        {"database", required_argument, NULL, DATABASE},
        {"config", required_argument, NULL, CONFIG},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
    };
    int option, status = 0;

    for (int i = 0; i < OPTIONS; i++)
        options[6 + i] =
            (struct option){rows[i].name, rows[i].kind == FLAG ? no_argument : required_argument, NULL, 256 + i};
    while (status == 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case JSON:
            w->ctl.json = true;
            break;
        case CONTROL:
            w->control = optarg;
            break;
        case DATABASE:
            w->database = optarg;
            break;
        case CONFIG:
            w->config = optarg;
            break;
        case HELP:
            print_help(stdout);
            return 1 + CTL_OK;
        case VERSION:
            printf("tollctl %s\n", TOLL_VERSION);
            return 1 + CTL_OK;
        case '?': /* getopt has named it */
            fputs("Try 'tollctl --help'.\n", stderr);
            return 1 + CTL_USAGE;
        default:
            status = parse_option(w, (size_t)option - 256, optarg);
        }
    }
    return status;
}

/* A command's name has one word or two. */
static bool is_named(const struct command *command, char **words, int count, int *ret_words)
{
    size_t first = strlen(words[0]);

    if (strcmp(words[0], command->name) == 0) {
        *ret_words = 1;
        return true;
    }
    *ret_words = 2;
    return count >= 2 && strncmp(words[0], command->name, first) == 0 && command->name[first] == ' ' &&
           strcmp(words[1], command->name + first + 1) == 0;
}

/* The command and its words. 0: go on. Else the exit status + 1. */
static int parse_command(struct words *w, int argc, char **argv)
{
    int left = argc - optind, used = 0;
    char error[80];
    uuid_t id;

    if (left == 0) {
        print_help(stderr);
        return 1 + CTL_USAGE;
    }
    for (size_t i = 0; i < COMMANDS && !w->command; i++)
        if (is_named(&commands[i], argv + optind, left, &used))
            w->command = &commands[i];
    if (!w->command)
        return 1 + usage_error("unknown command", argv[optind]);
    if (w->given & ~w->command->takes)
        return 1 + usage_error("this command does not take that option; its usage", w->command->usage);
    left -= used;
    if (left < w->command->least || left > w->command->most)
        return 1 + usage_error("too few or too many words; usage", w->command->usage);
    w->ctl.words = argv + optind + used;
    w->ctl.id = left > 0 ? w->ctl.words[0] : NULL;
    if (w->command->run == ctl_session && uuid_parse(w->ctl.id, id) < 0)
        return 1 + usage_error("not a UUID", w->ctl.id);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const char *word;

        if (w->command->run != numbers[i].run)
            continue;
        word = w->ctl.words[numbers[i].word];
        if (numbers[i].id ? is_id(word) : is_decimal(word))
            continue;
        snprintf(error, sizeof(error), "%s: not a number such as %s", numbers[i].name, numbers[i].id ? "42" : "12.50");
        return 1 + usage_error(error, word);
    }
    return 0;
}

/* "-5" is an amount, not an option: a space before it tells getopt so, and numbers may have one. */
static int shield_amounts(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-' && strchr(".0123456789", argv[i][1]) && argv[i][1] &&
            asprintf(&argv[i], " %s", argv[i]) < 0)
            return -ENOMEM;
    return 0;
}

/* The daemon's file may be wrong, or not for everybody to read: no reason to refuse to ask the daemon. */
static int load_config(struct config *ret, const char *path)
{
    char error[CONFIG_ERROR_MAX];
    int r = config_load(ret, path, error);

    if (r < 0 && !path) {
        fprintf(stderr, "tollctl: %s; going on with the defaults\n", error);
        r = config_load(ret, "/dev/null", error);
    }
    if (r < 0)
        fprintf(stderr, "tollctl: %s\n", error);
    return r;
}

int main(int argc, char **argv)
{
    struct words w = {.ctl = {.out = stdout, .limit = 50, .timeout_us = 10000000, .since_us = INT64_MIN}};
    struct config config;
    int status;

    setlocale(LC_CTYPE, "C.UTF-8"); /* widths of characters; everything else stays in the C locale */
    if (shield_amounts(argc, argv) < 0) {
        fputs("tollctl: out of memory\n", stderr);
        return CTL_BAD;
    }
    status = parse_words(&w, argc, argv);
    if (status == 0)
        status = parse_command(&w, argc, argv);
    if (status > 0)
        return status - 1;
    if (load_config(&config, w.config) < 0)
        return CTL_USAGE;
    w.ctl.control = w.control ? w.control : config.daemon.control;
    w.ctl.database = w.database ? w.database : config.database.url;
    status = w.command->run(&w.ctl);
    config_free(&config);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "tollctl: can't write to standard output: %s\n", strerror(errno));
        return CTL_BAD;
    }
    return status;
}
