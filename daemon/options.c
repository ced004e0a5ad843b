/* See options.h. */
#include "daemon/options.h"

#include "daemon/config.h"
#include "daemon/version.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static void print_help(void)
{
    printf(
        "tolld receives what voice calls used, journals it, and stores it in PostgreSQL, each frame once.\n"
        "\n"
        "Usage: tolld [--config FILE] [--check-config | --migrate | --repair-journal] [--adopt-journal]\n"
        "\n"
        "  --config FILE      read FILE instead of " CONFIG_DEFAULT_PATH " (which may be absent)\n"
        "  --check-config     read the configuration, say what is wrong with it, and exit\n"
        "  --migrate          bring the database's schema up to date and exit\n"
        "  --repair-journal   with tolld stopped: set damaged bytes of the journal aside, so that what follows can be stored\n"
        "  --adopt-journal    go on with a journal that another machine wrote: this disk was moved here on purpose\n"
        "  --version          print the version\n"
        "  --help             print this\n"
        "\n"
        "It runs in the foreground and logs to stderr. SIGTERM: store what is there and exit; SIGHUP: read the configuration again.\n"
        "Environment: DATABASE_URL (not set: lines of JSON on standard output), TOLL_SOCKET, TOLL_STATE_DIR, TOLL_CONTROL.\n"
        "Exit status: 0 stopped, 1 failed, 2 usage, %d journal unusable, %d bad configuration.\n"
        "\n"
        "Options of the configuration file:\n",
        EXIT_JOURNAL, EXIT_CONFIGURATION);
    config_print_options(stdout);
}

bool options_parse(struct options *ret, int argc, char **argv, int *ret_status)
{
    enum { CONFIG = 1, CHECK, MIGRATE, REPAIR, ADOPT, VERSION, HELP };
    static const struct option words[] = {
        {"config", required_argument, NULL, CONFIG}, {"check-config", no_argument, NULL, CHECK},
        {"migrate", no_argument, NULL, MIGRATE},     {"repair-journal", no_argument, NULL, REPAIR},
        {"adopt-journal", no_argument, NULL, ADOPT}, {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},           {NULL, 0, NULL, 0},
    };
    int word;

    *ret = (struct options){.mode = OPTIONS_RUN};
    while ((word = getopt_long(argc, argv, "", words, NULL)) != -1) {
        switch (word) {
        case CONFIG:
            ret->config_path = optarg;
            break;
        case CHECK:
            ret->mode = OPTIONS_CHECK_CONFIG;
            break;
        case MIGRATE:
            ret->mode = OPTIONS_MIGRATE;
            break;
        case REPAIR:
            ret->mode = OPTIONS_REPAIR_JOURNAL;
            break;
        case ADOPT:
            ret->adopt_journal = true;
            break;
        case VERSION:
            printf("tolld %s\n", TOLL_VERSION);
            *ret_status = EXIT_SUCCESS;
            return false;
        case HELP:
            print_help();
            *ret_status = EXIT_SUCCESS;
            return false;
        default: /* getopt has named the word */
            fprintf(stderr, "Try 'tolld --help'.\n");
            *ret_status = EXIT_USAGE;
            return false;
        }
    }
    if (optind == argc)
        return true;
    fprintf(stderr, "tolld: unexpected argument: %s\nTry 'tolld --help'.\n", argv[optind]);
    *ret_status = EXIT_USAGE;
    return false;
}
