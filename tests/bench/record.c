/* What recording costs a worker: how long toll_llm() takes at human pace, at full speed, with the daemon frozen and with
 * none there, and how libtoll coalesces when workers flood the daemon.
 *
 * Beside it, alternating within every phase: a bare send() of the same bytes to the same daemon, or, where there is nobody
 * to send to, a bare copy of them into memory, and the bare clock loop (two clock_gettime() calls). As much time is measured in the clock loop as in the calls it stands beside, so that an
 * outlier of the machine, which hits both, can be told from one of the library's. Each phase has a fresh tolld on the log sink.
 *
 * It prints figures and judges nothing. */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/toll.h"
#include "proto/frame.h"
#include "proto/walk.h"
#include "tests/bench/latency.h"
#include "tests/bench/own_daemon.h"

static const char usage[] =
    "record [--tolld PATH] [--seconds S] [--only PHASE] [--human]\n"
    "  --tolld PATH   the daemon to start (tolld beside this program's build directory)\n"
    "  --seconds S    of each phase (3); four times as long at human pace\n"
    "  --only PHASE   only phases whose name begins so: paced, busy, full, frozen, absent, flood\n"
    "  --human        a table instead of a line of JSON\n";

enum {
    THREADS_MAX = 4,
    WORKERS_MAX = 16,
    BLOCK_NS = 1000000,
    BARE_RING = 1 << 20,
    FINE_NS = 16384,
    OCTAVE = 64,
    BINS = FINE_NS + 32 * OCTAVE
};
enum kind { RECORD, SEND, COPY, CLOCK, KINDS };
static const char *const kind_names[] = {"record", "send", "copy", "clock"};

/* A sender that does what libtoll does for one frame, as bare as it goes. */
struct bare {
    int fd;
    struct toll_frame envelope;
    uint8_t id[16], datagram[1024];
    size_t size;
    uint8_t *ring; /* where copies go, one after the other */
    size_t ring_at;
};

struct phase {
    const char *name;
    unsigned threads, rate; /* rate: of each kind a second; 0: full speed */
    size_t ring_bytes;
    bool busy; /* the worker computes between the calls, so its caches stay warm; else it sleeps */
    bool frozen, absent, until_full, full;
};

struct task {
    const struct phase *phase;
    const struct own_daemon *daemon;
    struct toll *toll;
    unsigned char call[16];
    uint64_t refused;
    bool ended; /* the ring was full */
    struct latency of[KINDS];
};

static char tolld[4096];
static double seconds = 3;
static bool human;
static const char *only = "";
static uint8_t frame_bytes[512];
static size_t frame_size;

/* --- what is measured --- */

static int record(struct toll *t, const unsigned char call[16])
{
    static const unsigned char turn[16] = {9, 9};
    return toll_llm(t, call,
                    &(struct toll_llm_usage){.provider = "openai",
                                             .model = "gpt-4o-mini",
                                             .input_tokens = 1812,
                                             .output_tokens = 164,
                                             .cached_input_tokens = 1024,
                                             .turn_id = turn,
                                             .agent = "support_triad",
                                             .ttfb_us = 312400,
                                             .duration_us = 1203100});
}

/* Takes the bytes of such a record from libtoll itself. */
static void capture(void)
{
    struct own_daemon d = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint8_t bytes[1024];
    size_t envelope, pos = 0;
    const void *first;
    struct toll *t;

    strcpy(d.dir, "/tmp/toll-record-XXXXXX");
    if (!mkdtemp(d.dir))
        die(d.dir);
    snprintf(d.socket, sizeof d.socket, "%s/toll.sock", d.dir);
    memcpy(address.sun_path, d.socket, sizeof d.socket);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(d.socket);
    int r = toll_open(&(struct toll_options){.socket = d.socket}, &t);
    if (r < 0 || record(t, (const unsigned char[16]){1}) < 0)
        die("toll_open");
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n < 0 || toll_walk_next(bytes, (size_t)n, &pos, &first, &envelope) != 1 || (size_t)n - pos > sizeof frame_bytes)
        die("recv");
    frame_size = (size_t)n - pos;
    memcpy(frame_bytes, bytes + pos, frame_size);
    toll_close(t, 0);
    close(fd);
    own_daemon_stop(&d);
}

static void bare_open(struct bare *b, const struct own_daemon *d)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, d->socket, sizeof d->socket);
    b->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (b->fd < 0 || connect(b->fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect");
    toll_frame_init(&b->envelope, TOLL_FRAME_STREAM);
    toll_id_random(b->envelope.stream_id);
    b->envelope.stream_base = 1;
    b->envelope.stream_count = 1;
}

/* Between measurements: numbers grow as libtoll's do, so that the daemon has the same to do. */
static void bare_prepare(struct bare *b)
{
    b->envelope.stream_base = ++b->envelope.stream_seq;
    int n = toll_frame_encode(&b->envelope, b->datagram, sizeof b->datagram);
    if (n < 0)
        die("toll_frame_encode");
    memcpy(b->datagram + n, frame_bytes, frame_size);
    b->size = (size_t)n + frame_size;
}

static void measure(struct task *k, struct bare *b, enum kind kind)
{
    int r = 0;
    uint64_t from = now_ns(CLOCK_MONOTONIC);
    if (kind == RECORD)
        r = record(k->toll, k->call);
    else if (kind == SEND)
        (void)!send(b->fd, b->datagram, b->size, MSG_NOSIGNAL);
    else if (kind == COPY)
        memcpy(b->ring + b->ring_at, frame_bytes, frame_size);
    latency_note(&k->of[kind], now_ns(CLOCK_MONOTONIC) - from);
    if (r == -ENOBUFS) {
        k->refused++;
        if (k->phase->until_full)
            k->ended = true;
        else if (!k->phase->full)
            usleep(200);
    }
}

/* One call after the other, at a rate. Before each record and each send stands a clock loop, so that the daemon and the
 * caches have had the same time to go cold. */
static void paced(struct task *k, struct bare *b)
{
    const enum kind turn[] = {CLOCK, RECORD, CLOCK, b->ring ? COPY : SEND};
    uint64_t step = UINT64_C(1000000000) / k->phase->rate / 4, due = now_ns(CLOCK_MONOTONIC);
    uint64_t end = due + (uint64_t)(seconds * (k->phase->rate < 100 ? 4e9 : 1e9));
    for (unsigned i = 0; due < end; i++) {
        enum kind kind = turn[i % 4];
        if (kind == SEND)
            bare_prepare(b);
        if (kind == COPY)
            b->ring_at = (b->ring_at + 256) % (BARE_RING - sizeof frame_bytes);
        due += step;
        struct timespec at = {.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
        if (!k->phase->busy)
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        while (now_ns(CLOCK_MONOTONIC) < due)
            ;
        measure(k, b, kind);
    }
}

/* Blocks of each kind in turn, until so much time lies in what was measured: so the same share of the machine's outliers
 * falls into each. */
static void full_speed(struct task *k, struct bare *b)
{
    uint64_t end = now_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    for (unsigned i = 0; now_ns(CLOCK_MONOTONIC) < end && !k->ended; i++) {
        enum kind kind = i % KINDS;
        if (kind == COPY || (kind == SEND && b->fd < 0))
            continue;
        struct latency *l = &k->of[kind];
        uint64_t cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), until = l->in_ns + BLOCK_NS;
        while (l->in_ns < until && !k->ended) {
            if (kind == SEND)
                bare_prepare(b);
            measure(k, b, kind);
        }
        l->cpu_ns += now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    }
}

static void *task_main(void *arg)
{
    struct task *k = arg;
    struct bare b = {.fd = -1};
    if (!k->phase->frozen && !k->phase->absent)
        bare_open(&b, k->daemon);
    else if (!(b.ring = calloc(1, BARE_RING)))
        die("calloc");
    else
        memset(b.ring, 1, BARE_RING); /* its pages are there, as libtoll's are */
    toll_id_random(k->call);
    (void)toll_session_start(k->toll, k->call, NULL);
    if (k->phase->rate)
        paced(k, &b);
    else
        full_speed(k, &b);
    if (b.fd >= 0)
        close(b.fd);
    free(b.ring);
    return NULL;
}

/* --- results --- */

static bool first_result = true;

static void result_begin(const char *name)
{
    if (human)
        printf("%-22s", name);
    else
        printf("%s{\"phase\": \"%s\"", first_result ? "" : ", ", name);
    first_result = false;
}

static void print_latency(enum kind kind, const struct latency *l)
{
    double p50 = latency_quantile_us(l, 0.5), p99 = latency_quantile_us(l, 0.99), p999 = latency_quantile_us(l, 0.999);
    double max = (double)l->max_ns / 1000, n = l->count ? (double)l->count : 1;
    if (human) {
        printf("%s%-7s %9llu %9.3f %9.3f %9.3f %10.3f", kind == RECORD ? " " : "                       ",
               kind_names[kind], (unsigned long long)l->count, p50, p99, p999, max);
        printf(" %7llu %6llu %6llu %7.3f\n", (unsigned long long)l->above[0], (unsigned long long)l->above[1],
               (unsigned long long)l->above[2], (double)l->cpu_ns / 1000 / n);
        return;
    }
    printf(", \"%s\": {\"calls\": %llu, \"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, \"max_us\": %.3f",
           kind_names[kind], (unsigned long long)l->count, p50, p99, p999, max);
    printf(", \"over_2us\": %llu, \"over_10us\": %llu, \"over_100us\": %llu, \"in_ms\": %.1f",
           (unsigned long long)l->above[0], (unsigned long long)l->above[1], (unsigned long long)l->above[2],
           (double)l->in_ns / 1e6);
    if (l->cpu_ns)
        printf(", \"cpu_us_per_call\": %.3f", (double)l->cpu_ns / 1000 / n);
    printf("}");
}

/* Stops the daemon, and records until libtoll has found the socket full, and for long enough to know that it stays so. */
static void freeze(const struct own_daemon *d, struct toll *t)
{
    struct toll_stats stats = {0};
    kill(d->pid, SIGSTOP);
    while (stats.blocked == 0) {
        if (record(t, (const unsigned char[16]){1}) < 0 || toll_stats(t, &stats) < 0)
            die("freeze");
    }
    for (int i = 0; i < 100; i++) {
        usleep(1000);
        toll_tick(t);
    }
}

static void run_phase(const struct phase *p)
{
    static struct task task[THREADS_MAX];
    struct own_daemon d = {0};
    struct toll *t;
    struct toll_stats stats;
    pthread_t thread[THREADS_MAX];

    own_daemon_start(&d, tolld);
    if (p->absent) {
        own_daemon_stop(&d);
        d.pid = 0;
    }
    int r =
        toll_open(&(struct toll_options){.socket = d.socket, .thread_tick_ms = 100, .ring_bytes = p->ring_bytes}, &t);
    if (r < 0)
        die("toll_open");
    if (!p->absent && (record(t, (const unsigned char[16]){1}) < 0 || toll_flush(t, 5000) < 0))
        die("toll_flush");
    if (p->frozen)
        freeze(&d, t);
    for (int i = 0; p->full && i < 10000000 && record(t, (const unsigned char[16]){1}) == 0; i++)
        ;
    memset(task, 0, sizeof task);
    for (unsigned i = 0; i < p->threads; i++) {
        task[i].phase = p;
        task[i].daemon = &d;
        task[i].toll = t;
        if (pthread_create(&thread[i], NULL, task_main, &task[i]) != 0)
            die("pthread_create");
    }
    for (unsigned i = 0; i < p->threads; i++) {
        pthread_join(thread[i], NULL);
        if (i > 0) {
            task[0].refused += task[i].refused;
            for (enum kind kind = 0; kind < KINDS; kind++)
                latency_merge(&task[0].of[kind], &task[i].of[kind]);
        }
    }
    toll_stats(t, &stats);

    result_begin(p->name);
    const struct latency *record_ = &task[0].of[RECORD], *send_ = &task[0].of[SEND];
    if (!human)
        printf(
            ", \"threads\": %u, \"rate_per_s\": %u, \"refused\": %llu, \"blocked\": %llu, \"frames_per_datagram\": %.1f",
            p->threads, p->rate, (unsigned long long)task[0].refused, (unsigned long long)stats.blocked,
            stats.datagrams ? (double)(stats.recorded + stats.resent) / (double)stats.datagrams : 0);
    if (!human && send_->count)
        printf(", \"ratio_p50\": %.2f, \"ratio_p99\": %.2f",
               latency_quantile_us(record_, 0.5) / latency_quantile_us(send_, 0.5),
               latency_quantile_us(record_, 0.99) / latency_quantile_us(send_, 0.99));
    for (enum kind kind = 0; kind < KINDS; kind++)
        if (task[0].of[kind].count)
            print_latency(kind, &task[0].of[kind]);
    if (human && send_->count)
        printf("%23sratio   p50 %.2f, p99 %.2f; refused %llu\n", "",
               latency_quantile_us(record_, 0.5) / latency_quantile_us(send_, 0.5),
               latency_quantile_us(record_, 0.99) / latency_quantile_us(send_, 0.99),
               (unsigned long long)task[0].refused);
    if (!human)
        printf("}");
    fflush(stdout);
    if (p->frozen || p->absent || p->full) /* nothing more to send to a daemon that is killed anyway */
        toll_close(t, 0);
    else
        toll_close(t, 2000);
    if (!p->absent)
        own_daemon_stop(&d);
}

/* --- many workers --- */

struct flood {
    struct toll_stats stats;
    uint64_t cpu_ns, wall_ns;
};

static void flood_worker(const struct own_daemon *d, struct flood *ret, uint64_t start)
{
    struct toll *t;
    unsigned char call[16];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (toll_open(&(struct toll_options){.socket = d->socket, .thread_tick_ms = 100}, &t) < 0)
        _exit(1);
    toll_id_random(call);
    while (now_ns(CLOCK_MONOTONIC) < start)
        usleep(1000);
    uint64_t end = start + (uint64_t)(seconds * 1e9);
    for (;;) {
        int r = record(t, call);
        if (r == -ENOBUFS)
            usleep(200);
        if (now_ns(CLOCK_MONOTONIC) >= end)
            break;
    }
    (void)!toll_flush(t, 20000);
    ret->wall_ns = now_ns(CLOCK_MONOTONIC) - start;
    ret->cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    toll_stats(t, &ret->stats);
    _exit(0);
}

static void run_flood(unsigned workers)
{
    struct own_daemon d;
    pid_t pid[WORKERS_MAX];
    struct flood sum = {0};
    struct flood *result =
        mmap(NULL, WORKERS_MAX * sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (result == MAP_FAILED)
        die("mmap");
    own_daemon_start(&d, tolld);
    uint64_t start = now_ns(CLOCK_MONOTONIC) + 200000000;
    for (unsigned i = 0; i < workers; i++)
        if ((pid[i] = fork()) == 0)
            flood_worker(&d, &result[i], start);
    for (unsigned i = 0; i < workers; i++) {
        if (pid[i] < 0 || waitpid(pid[i], NULL, 0) < 0)
            die("worker");
        sum.stats.recorded += result[i].stats.recorded;
        sum.stats.resent += result[i].stats.resent;
        sum.stats.datagrams += result[i].stats.datagrams;
        sum.stats.blocked += result[i].stats.blocked;
        sum.stats.refused_full += result[i].stats.refused_full;
        sum.cpu_ns += result[i].cpu_ns;
        sum.wall_ns = sum.wall_ns > result[i].wall_ns ? sum.wall_ns : result[i].wall_ns;
    }
    own_daemon_stop(&d);
    munmap(result, WORKERS_MAX * sizeof *result);

    char name[32];
    snprintf(name, sizeof name, human ? "flood, %u workers" : "flood", workers);
    double frames = (double)sum.stats.recorded, rate = frames / ((double)sum.wall_ns / 1e9);
    double per_datagram = (frames + (double)sum.stats.resent) / (double)sum.stats.datagrams;
    double cpu_us = (double)sum.cpu_ns / 1000 / frames;
    result_begin(name);
    printf(
        human
            ? " %.0f events/s durable, %.1f frames a datagram, worker CPU %.3f us/event, resent %llu, blocked %llu, refused %llu\n"
            : ", \"events_per_s\": %.0f, \"frames_per_datagram\": %.1f, \"cpu_us_per_event\": %.3f, \"resent\": %llu, "
              "\"blocked\": %llu, \"refused\": %llu",
        rate, per_datagram, cpu_us, (unsigned long long)sum.stats.resent, (unsigned long long)sum.stats.blocked,
        (unsigned long long)sum.stats.refused_full);
    if (!human)
        printf(", \"workers\": %u}", workers);
    fflush(stdout);
}

static const struct phase phases[] = {
    {.name = "paced_60", .threads = 1, .rate = 60},
    {.name = "paced_1000", .threads = 1, .rate = 1000},
    {.name = "busy_1000", .threads = 1, .rate = 1000, .busy = true},
    {.name = "full", .threads = 1},
    {.name = "full_2_threads", .threads = 2},
    {.name = "full_4_threads", .threads = 4},
    {.name = "frozen_paced_60", .threads = 1, .rate = 60, .frozen = true},
    {.name = "frozen", .threads = 1, .ring_bytes = 64 << 20, .frozen = true, .until_full = true},
    {.name = "frozen_2_threads", .threads = 2, .ring_bytes = 64 << 20, .frozen = true, .until_full = true},
    {.name = "frozen_4_threads", .threads = 4, .ring_bytes = 64 << 20, .frozen = true, .until_full = true},
    {.name = "frozen_ring_full", .threads = 1, .frozen = true, .full = true},
    {.name = "absent_paced_60", .threads = 1, .rate = 60, .absent = true},
    {.name = "absent", .threads = 1, .ring_bytes = 64 << 20, .absent = true, .until_full = true},
};

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"tolld", 1, 0, 't'}, {"seconds", 1, 0, 's'}, {"only", 1, 0, 'o'}, {"human", 0, 0, 'h'}, {0}};
    snprintf(tolld, sizeof tolld, "%.*s../../tolld",
             (int)(strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 - argv[0] : 0), argv[0]);
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 't')
            snprintf(tolld, sizeof tolld, "%s", optarg);
        else if (c == 's')
            seconds = atof(optarg);
        else if (c == 'o')
            only = optarg;
        else if (c == 'h')
            human = true;
        else {
            fputs(usage, stderr);
            return 2;
        }
    }
    capture();
    struct bare b = {.fd = -1};
    toll_frame_init(&b.envelope, TOLL_FRAME_STREAM);
    b.envelope.stream_count = 1;
    bare_prepare(&b);
    if (human)
        printf("a frame of %zu bytes, a datagram of %zu; µs\n%-22s %-7s %9s %9s %9s %9s %10s %7s %6s %6s %7s\n",
               frame_size, b.size, "phase", "", "calls", "p50", "p99", "p99.9", "max", ">2", ">10", ">100", "cpu");
    else
        printf("{\"benchmark\": \"record\", \"frame_bytes\": %zu, \"datagram_bytes\": %zu, \"phases\": [", frame_size,
               b.size);
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++)
        if (strncmp(phases[i].name, only, strlen(only)) == 0)
            run_phase(&phases[i]);
    if (strncmp("flood", only, strlen(only)) == 0)
        for (unsigned workers = 1; workers <= WORKERS_MAX; workers *= 4)
            run_flood(workers);
    if (!human)
        printf("]}\n");
    return 0;
}
