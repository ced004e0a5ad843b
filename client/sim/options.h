/* tollsim's command line. Included by tollsim.c only. */
#ifndef TOLL_CLIENT_SIM_OPTIONS_H
#define TOLL_CLIENT_SIM_OPTIONS_H

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/toll.h"

enum { SIM_WORKERS_MAX = 1024 };

struct sim_options {
    unsigned workers, calls, concurrent, abandon;
    uint64_t seed;
    double pace, rate, duration_s;
    const char *socket, *record;
    uint32_t flush_ms;
    size_t ring_bytes;
    bool quiet, json;
};

static const char sim_help[] =
    "tollsim: plays simulated voice calls for tolld to meter, from several processes linked with libtoll.\n"
    "\n"
    "  --workers N      processes (default 2)\n"
    "  --calls N        calls each worker plays (default 10; with --duration: no limit)\n"
    "  --concurrent K   calls at a time in each worker (default 4)\n"
    "  --seed S         makes content and ids the same in every run (default: a random one)\n"
    "  --pace X         times as fast as real calls (default 60); 0: as fast as the daemon takes it, without gaps\n"
    "  --rate R         frames per second of all workers together, instead of a pace\n"
    "  --duration S     begin no more frames after so many seconds\n"
    "  --abandon N      so many of all calls never end (default 0)\n"
    "  --socket PATH    the daemon's (default $TOLL_SOCKET, or /run/toll/toll.sock)\n"
    "  --ring BYTES     of libtoll's ring (default 1 MiB)\n"
    "  --flush-ms N     how long each worker waits for its last acknowledgement (default 10000)\n"
    "  --record FILE    worker W writes what the library accepted to FILE.W, as JSON lines, and a summary\n"
    "  --json           the report as one JSON object in one line\n"
    "  --quiet          no table\n"
    "\n"
    "SIGTERM ends it early: calls in flight are hung up, frames flushed, the report printed.\n"
    "Exit status 0: every frame that was accepted is acknowledged as durable.\n";

/* A number from low to high, or the end of the program. */
static double sim_number(const char *option, const char *text, double low, double high)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno != 0 || *end || end == text || !(value >= low && value <= high)) {
        fprintf(stderr, "tollsim: --%s: \"%s\" is not a number from %g to %g\n", option, text, low, high);
        exit(2);
    }
    return value;
}

static uint64_t sim_random_seed(void)
{
    unsigned char id[16];
    uint32_t seed = (uint32_t)getpid();
    if (toll_id_random(id) == 0)
        memcpy(&seed, id, sizeof seed);
    return seed;
}

/* Reads the command line; ends the program where it asks for help or makes no sense. */
static struct sim_options sim_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"workers", required_argument, NULL, 'w'},
        {"calls", required_argument, NULL, 'c'},
        {"concurrent", required_argument, NULL, 'k'},
        {"seed", required_argument, NULL, 's'},
        {"pace", required_argument, NULL, 'p'},
        {"rate", required_argument, NULL, 'r'},
        {"duration", required_argument, NULL, 'd'},
        {"abandon", required_argument, NULL, 'a'},
        {"socket", required_argument, NULL, 'S'},
        {"ring", required_argument, NULL, 'R'},
        {"flush-ms", required_argument, NULL, 'f'},
        {"record", required_argument, NULL, 'o'},
        {"json", no_argument, NULL, 'j'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct sim_options o = {.workers = 2, .concurrent = 4, .pace = 60, .flush_ms = 10000, .seed = sim_random_seed()};
    bool calls_given = false;
    int c, row = 0;
    while ((c = getopt_long(argc, argv, "", names, &row)) != -1) {
        const char *name = c == '?' ? "" : names[row].name;
        switch (c) {
        case 'w':
            o.workers = (unsigned)sim_number(name, optarg, 1, SIM_WORKERS_MAX);
            break;
        case 'c':
            o.calls = (unsigned)sim_number(name, optarg, 1, 1e9);
            calls_given = true;
            break;
        case 'k':
            o.concurrent = (unsigned)sim_number(name, optarg, 1, 10000);
            break;
        case 's':
            o.seed = (uint64_t)sim_number(name, optarg, 0, 1e15);
            break;
        case 'p':
            o.pace = sim_number(name, optarg, 0, 1e6);
            break;
        case 'r':
            o.rate = sim_number(name, optarg, 0.001, 1e7);
            o.pace = 0;
            break;
        case 'd':
            o.duration_s = sim_number(name, optarg, 0.001, 1e6);
            break;
        case 'a':
            o.abandon = (unsigned)sim_number(name, optarg, 0, 1e5);
            break;
        case 'S':
            o.socket = optarg;
            break;
        case 'R':
            o.ring_bytes = (size_t)sim_number(name, optarg, 4096, 1 << 30);
            break;
        case 'f':
            o.flush_ms = (uint32_t)sim_number(name, optarg, 0, 1e9);
            break;
        case 'o':
            o.record = optarg;
            break;
        case 'j':
            o.json = true;
            break;
        case 'q':
            o.quiet = true;
            break;
        case 'h':
            fputs(sim_help, stdout);
            exit(EXIT_SUCCESS);
        default:
            exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "tollsim: \"%s\"? see tollsim --help\n", argv[optind]);
        exit(2);
    }
    if (!calls_given && o.duration_s == 0)
        o.calls = 10;
    return o;
}

#endif
