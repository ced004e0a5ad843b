/* The command line of load. Included by load.c only. */
#ifndef TOLL_TESTS_BENCH_OPTIONS_H
#define TOLL_TESTS_BENCH_OPTIONS_H

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS_MAX = 256 };
enum send_mode { SEND_FREE, SEND_SINGLE, SEND_COALESCED };

struct options {
    const char *socket;
    unsigned workers, sessions;
    uint64_t frames, seed;
    double rate;
    bool calls, bare;
    enum send_mode send;
    size_t ring_bytes;
    uint32_t flush_ms;
};

static const char usage[] =
    "load --socket PATH [options]: workers that record through libtoll as fast as it goes, or at a rate.\n"
    "  --workers N    processes (4)\n"
    "  --sessions K   live at a time, in all workers together (1000)\n"
    "  --frames N     recorded in all (100000): events of sessions that were started before and end afterwards\n"
    "  --calls        whole calls instead: starts, events, transcripts, ends; about N frames, the last calls are played to their end\n"
    "  --rate R       frames per second in all (0: as fast as there is room)\n"
    "  --send HOW     free: as libtoll does; single: never finds the socket full, so one frame a datagram;\n"
    "                 coalesced: finds it full after every datagram (free)\n"
    "  --bare         sessions without metadata\n"
    "  --ring BYTES   of each worker (1 MiB)\n"
    "  --seed S       (1)\n"
    "  --flush-ms N   how long to wait for the last acknowledgement (60000)\n"
    "\n"
    "Prints a JSON object in a line when it is ready, when all was sent and acknowledged, and when all sessions have ended, and\n"
    "waits for a line on standard input in between.\n";

static double number(const char *option, const char *text, double high)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno != 0 || end == text || *end || !(value >= 0 && value <= high)) {
        fprintf(stderr, "load: --%s: \"%s\" is not a number from 0 to %g\n", option, text, high);
        exit(2);
    }
    return value;
}

static enum send_mode send_mode(const char *text)
{
    static const char *const names[] = {"free", "single", "coalesced"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0)
            return (enum send_mode)i;
    fprintf(stderr, "load: --send: \"%s\" is none of free, single, coalesced\n", text);
    exit(2);
}

/* Reads the command line; ends the program where it makes no sense. */
static struct options read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"socket", required_argument, NULL, 'S'},   {"workers", required_argument, NULL, 'w'},
        {"sessions", required_argument, NULL, 'k'}, {"frames", required_argument, NULL, 'n'},
        {"calls", no_argument, NULL, 'c'},          {"rate", required_argument, NULL, 'r'},
        {"send", required_argument, NULL, 'm'},     {"bare", no_argument, NULL, 'b'},
        {"ring", required_argument, NULL, 'R'},     {"seed", required_argument, NULL, 's'},
        {"flush-ms", required_argument, NULL, 'f'}, {NULL, 0, NULL, 0},
    };
    struct options o = {.workers = 4, .sessions = 1000, .frames = 100000, .seed = 1, .flush_ms = 60000};
    int c, row = 0;
    while ((c = getopt_long(argc, argv, "", names, &row)) != -1) {
        const char *name = c == '?' ? "" : names[row].name;
        switch (c) {
        case 'S':
            o.socket = optarg;
            break;
        case 'w':
            o.workers = (unsigned)number(name, optarg, WORKERS_MAX);
            break;
        case 'k':
            o.sessions = (unsigned)number(name, optarg, 1 << 22);
            break;
        case 'n':
            o.frames = (uint64_t)number(name, optarg, 1e12);
            break;
        case 'c':
            o.calls = true;
            break;
        case 'r':
            o.rate = number(name, optarg, 1e7);
            break;
        case 'm':
            o.send = send_mode(optarg);
            break;
        case 'b':
            o.bare = true;
            break;
        case 'R':
            o.ring_bytes = (size_t)number(name, optarg, 1 << 30);
            break;
        case 's':
            o.seed = (uint64_t)number(name, optarg, 1e15);
            break;
        case 'f':
            o.flush_ms = (uint32_t)number(name, optarg, 1e9);
            break;
        default:
            fputs(usage, stderr);
            exit(2);
        }
    }
    if (optind < argc || !o.socket || o.workers == 0 || o.sessions < o.workers) {
        fputs(usage, stderr);
        exit(2);
    }
    return o;
}

#endif
