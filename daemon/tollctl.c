/* tollctl: asks a running tolld, and looks into its database. The words of the command line; what the commands do is in ctl_live.c and ctl_records.c. */
#include "daemon/clock.h"
#include "daemon/config.h"
#include "daemon/ctl.h"
#include "daemon/ctl_format.h"
#include "daemon/version.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>

enum { LIMIT = 1 << 0, TIMEOUT = 1 << 1, SINCE = 1 << 2, BYTES = 1 << 3, ID = 1 << 4 };
enum { LIMIT_MAX = 10000, TIMEOUT_MAX_S = 600 };

static const struct command {
    const char *name;
    int (*run)(struct ctl *ctl);
    unsigned takes; /* options and arguments of its own */
    const char *usage, *help;
} commands[] = {
    {"status", ctl_status, 0, "status", "is it receiving, is it storing, how much waits, what is wrong and what to do"},
    {"sessions", ctl_sessions, LIMIT, "sessions [--limit N]",
     "the live calls with their totals, latest activity first"},
    {"session", ctl_session, ID, "session UUID", "one call's totals, live or ended"},
    {"streams", ctl_streams, LIMIT, "streams [--limit N]",
     "who sends, what is acknowledged, and which frames never came"},
    {"verify", ctl_verify, SINCE | TIMEOUT, "verify [--since TIME] [--timeout S]",
     "prove that totals equal the sum of events and that nothing is missing or double"},
    {"quarantine", ctl_quarantine, LIMIT | BYTES, "quarantine [--limit N] [--bytes]",
     "the frames that were refused, newest first, and why"},
    {"flush", ctl_flush, TIMEOUT, "flush [--timeout S]", "wait until everything received so far is committed"},
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_help(FILE *out)
{
    fputs("tollctl asks a running tolld, and looks into its database.\n"
          "\n"
          "Usage: tollctl [OPTION]... COMMAND\n"
          "\n"
          "Commands:\n",
          out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-36s %s\n", commands[i].usage, commands[i].help);
    fputs("\n"
          "Options, before or after the command:\n"
          "  --json              print JSON, for programs\n"
          "  --control PATH      the daemon's control socket (else TOLL_CONTROL, the configuration file, "
          "/run/toll/control.sock)\n"
          "  --database URL      libpq connection string or URI (else DATABASE_URL, the configuration file)\n"
          "  --config FILE       the daemon's configuration file (else " CONFIG_DEFAULT_PATH ", if it is there)\n"
          "  --limit N           at most N lines (50)\n"
          "  --timeout S         seconds to wait for everything to be committed (10)\n"
          "  --since TIME        only what was stored since then: 2h, 7d (ago), 2026-01-31, \"2026-01-31 08:00\" "
          "(local time)\n"
          "  --bytes             the refused frames' bytes too, in hexadecimal\n"
          "  --help, --version\n"
          "\n"
          "Exit status: 0 done; 1 the answer is bad (verify found a fault, no such session, not committed in time);\n"
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
    unsigned given; /* LIMIT … */
    const char *control, *database, *config;
    const struct command *command;
};

/* 0: go on. Else the exit status + 1. */
static int parse_words(struct words *w, int argc, char **argv)
{
    enum { JSON = 256, CONTROL, DATABASE, CONFIG, LIMIT_, TIMEOUT_, SINCE_, BYTES_, HELP, VERSION };
    static const struct option options[] = {
        {"json", no_argument, NULL, JSON},
        {"control", required_argument, NULL, CONTROL},
        {"database", required_argument, NULL, DATABASE},
        {"config", required_argument, NULL, CONFIG},
        {"limit", required_argument, NULL, LIMIT_},
        {"timeout", required_argument, NULL, TIMEOUT_},
        {"since", required_argument, NULL, SINCE_},
        {"bytes", no_argument, NULL, BYTES_},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    uint64_t seconds;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
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
        case LIMIT_:
            w->given |= LIMIT;
            if (!parse_number(optarg, 1, LIMIT_MAX, &w->ctl.limit))
                return 1 + usage_error("--limit: not a number from 1 to 10000", optarg);
            break;
        case TIMEOUT_:
            w->given |= TIMEOUT;
            if (!parse_number(optarg, 0, TIMEOUT_MAX_S, &seconds))
                return 1 + usage_error("--timeout: not a number of seconds from 0 to 600", optarg);
            w->ctl.timeout_us = (int64_t)seconds * 1000000;
            break;
        case SINCE_:
            w->given |= SINCE;
            if (ctl_parse_time(optarg, clock_realtime_us(), &w->ctl.since_us) < 0)
                return 1 + usage_error("--since: neither a time nor a duration such as 2h", optarg);
            break;
        case BYTES_:
            w->given |= BYTES;
            w->ctl.bytes = true;
            break;
        case HELP:
            print_help(stdout);
            return 1 + CTL_OK;
        case VERSION:
            printf("tollctl %s\n", TOLL_VERSION);
            return 1 + CTL_OK;
        default: /* getopt has named it */
            fputs("Try 'tollctl --help'.\n", stderr);
            return 1 + CTL_USAGE;
        }
    }
    return 0;
}

/* The command and its argument. 0: go on. Else the exit status + 1. */
static int parse_command(struct words *w, int argc, char **argv)
{
    int left = argc - optind;
    uuid_t id;

    if (left == 0) {
        print_help(stderr);
        return 1 + CTL_USAGE;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(argv[optind], commands[i].name) == 0)
            w->command = &commands[i];
    if (!w->command)
        return 1 + usage_error("unknown command", argv[optind]);
    if (w->given & ~w->command->takes)
        return 1 + usage_error("this command does not take that option; its usage", w->command->usage);
    if (left != (w->command->takes & ID ? 2 : 1))
        return 1 + usage_error("too few or too many words; usage", w->command->usage);
    if (w->command->takes & ID) {
        w->ctl.id = argv[optind + 1];
        if (uuid_parse(w->ctl.id, id) < 0)
            return 1 + usage_error("not a UUID", w->ctl.id);
    }
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
