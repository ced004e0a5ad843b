/* A worker that asks for the credit of its calls. It does as told, a line at a time, and answers each with a line:
 *
 *     start NAME ACCOUNT     a call begins           ok UUID
 *     use NAME QUANTITY      usage of meter "unit"   ok
 *     end NAME               the call ends           ok
 *     credit NAME            toll_credit()           0, 1 or 2
 *     await NAME STATE MS    until that is so        yes US: after so many µs since the last `use` or `mark`; or no STATE
 *     mark                   now                     ok
 *     flush                  all is durable          ok, or no
 *
 * tests/support/payer.py is the other side. */
#include "client/toll.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>

enum { CALLS_MAX = 1024, LOOK_US = 2000 };

struct call {
    char name[32];
    unsigned char id[16];
};

static struct toll *toll;
static struct call calls[CALLS_MAX];
static unsigned call_count;
static int64_t marked_us;

static int64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static struct call *find(const char *name)
{
    for (unsigned i = 0; i < call_count; i++)
        if (strcmp(calls[i].name, name) == 0)
            return &calls[i];
    fprintf(stderr, "payer: no call %s\n", name);
    exit(EXIT_FAILURE);
}

static void answer(int r)
{
    if (r == 0)
        puts("ok");
    else
        printf("failed %s\n", strerror(-r));
}

static void start(const char *name, const char *account)
{
    const struct toll_pair pair = {"account_id", account};
    struct call *call = &calls[call_count];
    char text[37];
    int r;

    if (call_count == CALLS_MAX)
        exit(EXIT_FAILURE);
    call_count++;
    snprintf(call->name, sizeof(call->name), "%s", name);
    toll_id_random(call->id);
    toll_id_format(call->id, text);
    r = toll_session_start(toll, call->id, &(struct toll_session_info){.metadata = {.pairs = &pair, .count = 1}});
    if (r == 0)
        printf("ok %s\n", text);
    else
        answer(r);
}

static void await(const char *name, unsigned state, int64_t timeout_ms)
{
    const struct timespec pause = {.tv_nsec = LOOK_US * 1000L};
    const struct call *call = find(name);
    int64_t until_us = now_us() + timeout_ms * 1000;
    unsigned seen;

    while ((seen = toll_credit(toll, call->id)) != state && now_us() < until_us)
        nanosleep(&pause, NULL);
    if (seen == state)
        printf("yes %" PRId64 "\n", now_us() - marked_us);
    else
        printf("no %u\n", seen);
}

static void obey(const char *line)
{
    char word[16] = "", name[32] = "", rest[256] = "";
    unsigned state;
    long ms;

    sscanf(line, "%15s %31s %255[^\n]", word, name, rest);
    if (strcmp(word, "start") == 0) {
        start(name, rest);
    } else if (strcmp(word, "use") == 0) {
        marked_us = now_us();
        answer(toll_usage(toll, find(name)->id,
                          &(struct toll_meter_usage){.meter = "unit", .quantity = strtod(rest, NULL)}));
    } else if (strcmp(word, "end") == 0) {
        answer(toll_session_end(toll, find(name)->id, NULL));
    } else if (strcmp(word, "credit") == 0) {
        printf("%u\n", (unsigned)toll_credit(toll, find(name)->id));
    } else if (strcmp(word, "await") == 0 && sscanf(rest, "%u %ld", &state, &ms) == 2) {
        await(name, state, ms);
    } else if (strcmp(word, "mark") == 0) {
        marked_us = now_us();
        answer(0);
    } else if (strcmp(word, "flush") == 0) {
        puts(toll_flush(toll, 30000) == 0 ? "ok" : "no");
    } else {
        fprintf(stderr, "payer: what is this: %s\n", line);
        exit(EXIT_FAILURE);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[512];
    int r;

    if (argc != 2) {
        fputs("payer SOCKET\n", stderr);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    r = toll_open(&(struct toll_options){.socket = argv[1], .client = "payer", .thread_tick_ms = 20}, &toll);
    if (r < 0) {
        fprintf(stderr, "payer: %s\n", strerror(-r));
        return EXIT_FAILURE;
    }
    while (fgets(line, sizeof(line), stdin))
        obey(line);
    return toll_close(toll, 30000) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
