/* load: the benchmark's workers. Each is a process with its own handle of libtoll, which records the events of many calls
 * at a time, in turn, and counts what it recorded, so that who runs it can check that every row is there.
 *
 * The calls are those that tollsim plays (client/sim/call.h), planned before the clock runs: what a frame costs here is
 * libtoll's cost. Contents follow from the seed; times are the real ones. It knows nothing of the daemon but its socket. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/sim/call.h"
#include "client/toll.h"
#include "tests/bench/options.h"

enum { PLANS = 64, ROOM_EVERY = 16, NAP_US = 500, FULL_US = 100, TICK_US = 20000 };

/* A worker's figures; the parent adds them up. Shared memory: each worker writes its own. */
struct report {
    uint64_t frames[SIM_KINDS]; /* accepted */
    uint64_t refused, acked, datagrams, blocked, resent, gaps;
    uint64_t input_tokens, output_tokens, tts_chars, stt_audio_us, text_bytes;
    uint64_t cpu_ns; /* while it recorded */
    uint64_t failed;
};

struct shared {
    pthread_barrier_t barrier;
    struct report report[];
};

struct session {
    unsigned char id[16];
    uint32_t number;
    uint16_t plan, next; /* step */
};

struct worker {
    struct toll *toll;
    struct report *r;
    struct session *sessions;
    unsigned index, count; /* of sessions */
    uint32_t started;      /* sessions, ever */
    uint64_t frames;       /* its share */
};

static struct options o;
static struct sim_call plans[PLANS];
static uint16_t events[PLANS][SIM_STEPS_MAX], event_count[PLANS]; /* a plan's steps that make a row of billing_events */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void sleep_us(uint64_t us)
{
    nanosleep(&(struct timespec){.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)}, NULL);
}

static ssize_t send_now(int fd, const struct msghdr *message, const void *data, size_t size, int flags)
{
    return message ? syscall(SYS_sendmsg, fd, message, flags) : syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

static ssize_t send_as_told(int fd, const struct msghdr *message, const void *data, size_t size, int flags)
{
    static bool sent;
    if (o.send == SEND_COALESCED && sent) {
        sent = false;
        errno = EAGAIN;
        return -1;
    }
    ssize_t n = send_now(fd, message, data, size, flags);
    while (n < 0 && errno == EAGAIN && o.send == SEND_SINGLE) {
        sleep_us(FULL_US); /* not poll(): each datagram taken would wake every worker */
        n = send_now(fd, message, data, size, flags);
    }
    sent = n >= 0;
    return n;
}

/* These two stand before libc's, for libtoll: what a worker finds in the socket decides how it sends. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return send_as_told(fd, message, NULL, 0, flags);
}

ssize_t send(int fd, const void *buf, size_t n, int flags)
{
    return send_as_told(fd, NULL, buf, n, flags);
}

/* --- what is recorded --- */

static bool makes_event(const struct sim_step *step)
{
    return step->kind == SIM_STT || step->kind == SIM_LLM || step->kind == SIM_TTS ||
           (step->kind == SIM_USAGE && !step->usage.account);
}

static void make_plans(void)
{
    for (unsigned p = 0; p < PLANS; p++) {
        sim_plan(&plans[p], o.seed, 0, p, false);
        for (unsigned i = 0; i < plans[p].steps; i++)
            if (makes_event(&plans[p].step[i]))
                events[p][event_count[p]++] = (uint16_t)i;
    }
}

static void begin_session(struct worker *w, struct session *s)
{
    s->number = w->started++;
    s->plan = (uint16_t)(s->number % PLANS);
    s->next = 0;
    uint64_t random = o.seed << 32 ^ (uint64_t)w->index << 56 ^ s->number;
    random = sim_random(&random);
    sim_id(&random, s->id);
}

/* Records one step of a session's plan, and counts it. */
static void record(struct worker *w, const struct session *s, const struct sim_step *plan)
{
    static const char hex[] = "0123456789abcdef";
    struct sim_step step = *plan;
    struct report *r = w->r;
    char request_id[17];
    unsigned char turn[16];
    const unsigned char *turn_id = NULL;
    uint64_t n = (uint64_t)w->index << 56 | (uint64_t)s->number << 16 | s->next;
    int result = -EINVAL;

    for (int i = 0; i < 16; i++)
        request_id[i] = hex[n >> (60 - 4 * i) & 15];
    request_id[16] = 0;
    if (step.in_turn) { /* a plan is played by many sessions: no two have a turn in common */
        for (int i = 0; i < 16; i++)
            turn[i] = step.turn_id[i] ^ (i < 6 ? s->id[i] : 0);
        turn_id = turn;
    }
    switch (step.kind) {
    case SIM_START: {
        struct toll_session_info info = {.metadata = {.pairs = plans[s->plan].metadata, .count = SIM_PAIRS}};
        result = toll_session_start(w->toll, s->id, o.bare ? NULL : &info);
        break;
    }
    case SIM_STT:
        step.stt.turn_id = turn_id;
        step.stt.request_id = request_id;
        result = toll_stt(w->toll, s->id, &step.stt);
        r->stt_audio_us += step.stt.audio_duration_us;
        break;
    case SIM_LLM:
        step.llm.turn_id = turn_id;
        step.llm.request_id = request_id;
        result = toll_llm(w->toll, s->id, &step.llm);
        r->input_tokens += step.llm.input_tokens;
        r->output_tokens += step.llm.output_tokens;
        break;
    case SIM_TTS:
        step.tts.turn_id = turn_id;
        step.tts.request_id = request_id;
        result = toll_tts(w->toll, s->id, &step.tts);
        r->tts_chars += step.tts.char_count;
        break;
    case SIM_TRANSCRIPT:
        step.turn.turn_id = turn_id;
        result = toll_transcript(w->toll, s->id, &step.turn);
        r->text_bytes += step.turn.text_size ? step.turn.text_size : strlen(step.turn.text);
        break;
    case SIM_USAGE:
        step.usage.turn_id = turn_id;
        step.usage.request_id = request_id;
        result = toll_usage(w->toll, step.usage.account ? NULL : s->id, &step.usage);
        break;
    case SIM_END:
        result = toll_session_end(w->toll, s->id, &step.end);
        break;
    case SIM_KINDS:
        break;
    }
    if (result == 0)
        r->frames[step.kind]++;
    else
        r->refused++;
}

/* Waits for room instead of making gaps. */
static void wait_for_room(struct worker *w)
{
    struct toll_stats stats;
    while (toll_stats(w->toll, &stats) == 0 && stats.ring_used > stats.ring_bytes / 4 * 3) {
        sleep_us(NAP_US);
        toll_tick(w->toll);
    }
}

/* Waits until the n-th frame of this worker is due, or for room. */
static void wait_for_turn(struct worker *w, uint64_t began_ns, uint64_t n)
{
    if (o.rate <= 0) {
        if (n % ROOM_EVERY == 0)
            wait_for_room(w);
        return;
    }
    double share = (double)n + (double)w->index / o.workers;
    uint64_t due = began_ns + (uint64_t)(share * 1e9 * o.workers / o.rate), now;
    while ((now = clock_ns(CLOCK_MONOTONIC)) < due) {
        uint64_t left_us = (due - now) / 1000 + 1;
        sleep_us(left_us < TICK_US ? left_us : TICK_US);
        toll_tick(w->toll);
    }
}

static void play_events(struct worker *w)
{
    uint64_t began = clock_ns(CLOCK_MONOTONIC);
    for (uint64_t n = 0; n < w->frames; n++) {
        struct session *s = &w->sessions[n % w->count];
        wait_for_turn(w, began, n);
        record(w, s, &plans[s->plan].step[events[s->plan][s->next % event_count[s->plan]]]);
        s->next++;
    }
}

static void play_calls(struct worker *w)
{
    uint64_t began = clock_ns(CLOCK_MONOTONIC), planned = 0, n = 0;
    unsigned live = 0;
    if (w->count == 0)
        return;
    for (unsigned i = 0; i < w->count; i++)
        w->sessions[i].plan = PLANS; /* none yet */
    for (uint64_t turn = 0; live > 0 || planned < w->frames; turn++) {
        struct session *s = &w->sessions[turn % w->count];
        if (s->plan == PLANS) {
            if (planned >= w->frames)
                continue;
            begin_session(w, s);
            planned += plans[s->plan].steps;
            live++;
        }
        wait_for_turn(w, began, n++);
        record(w, s, &plans[s->plan].step[s->next]);
        if (++s->next == plans[s->plan].steps) {
            s->plan = PLANS;
            live--;
        }
    }
}

/* --- one worker --- */

static void start_sessions(struct worker *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        wait_for_room(w);
        begin_session(w, &w->sessions[i]);
        record(w, &w->sessions[i], &plans[w->sessions[i].plan].step[0]);
    }
}

static void end_sessions(struct worker *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        struct sim_call *plan = &plans[w->sessions[i].plan];
        wait_for_room(w);
        record(w, &w->sessions[i], &plan->step[plan->steps - 1]);
    }
}

/* Waits until all is acknowledged, then for the others, the parent included. */
static void meet(struct worker *w, struct shared *shared)
{
    struct toll_stats stats;
    if (toll_flush(w->toll, o.flush_ms) < 0)
        w->r->failed = 1;
    if (toll_stats(w->toll, &stats) == 0) {
        w->r->acked = stats.acked;
        w->r->datagrams = stats.datagrams;
        w->r->blocked = stats.blocked;
        w->r->resent = stats.resent;
        w->r->gaps = stats.gaps + stats.gap_pending;
    }
    pthread_barrier_wait(&shared->barrier);
}

static int worker_main(struct shared *shared, unsigned index)
{
    struct worker w = {.r = &shared->report[index],
                       .index = index,
                       .count = o.sessions / o.workers + (index < o.sessions % o.workers),
                       .frames = o.frames / o.workers + (index < o.frames % o.workers)};
    struct toll_options options = {
        .socket = o.socket, .client = "load", .ring_bytes = o.ring_bytes, .max_sessions = w.count + 16};
    if (options.max_sessions > 1 << 20)
        options.max_sessions = 1 << 20;
    w.sessions = calloc(w.count, sizeof *w.sessions);
    if (!w.sessions || toll_open(&options, &w.toll) < 0) {
        fprintf(stderr, "load: worker %u can't begin\n", index);
        return EXIT_FAILURE;
    }
    if (!o.calls)
        start_sessions(&w);
    meet(&w, shared); /* ready */
    pthread_barrier_wait(&shared->barrier);

    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (o.calls)
        play_calls(&w);
    else
        play_events(&w);
    int r = toll_flush(w.toll, o.flush_ms);
    w.r->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    w.r->failed = r < 0;
    meet(&w, shared); /* sent */
    pthread_barrier_wait(&shared->barrier);

    if (!o.calls)
        end_sessions(&w);
    meet(&w, shared); /* over */
    (void)toll_close(w.toll, 0);
    free(w.sessions);
    return w.r->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- the parent --- */

static void print_report(const char *phase, const struct shared *shared, double seconds)
{
    static const char *const kinds[SIM_KINDS] = {"session_start", "stt",   "llm",        "tts",
                                                 "transcript",    "usage", "session_end"};
    struct report sum = {0};
    uint64_t all = 0;
    for (unsigned i = 0; i < o.workers; i++)
        for (size_t k = 0; k < sizeof sum / sizeof(uint64_t); k++)
            ((uint64_t *)&sum)[k] += ((const uint64_t *)&shared->report[i])[k];
    printf("{\"phase\": \"%s\", \"seconds\": %.6f", phase, seconds);
    for (int i = 0; i < SIM_KINDS; i++) {
        printf(", \"%s\": %" PRIu64, kinds[i], sum.frames[i]);
        all += sum.frames[i];
    }
    printf(", \"frames\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"acked\": %" PRIu64 ", \"datagrams\": %" PRIu64
           ", \"blocked\": %" PRIu64 ", \"resent\": %" PRIu64 ", \"gaps\": %" PRIu64,
           all, sum.refused, sum.acked, sum.datagrams, sum.blocked, sum.resent, sum.gaps);
    printf(", \"input_tokens\": %" PRIu64 ", \"output_tokens\": %" PRIu64 ", \"tts_chars\": %" PRIu64
           ", \"stt_audio_us\": %" PRIu64 ", \"text_bytes\": %" PRIu64 ", \"cpu_s\": %.6f, \"failed\": %" PRIu64 "}\n",
           sum.input_tokens, sum.output_tokens, sum.tts_chars, sum.stt_audio_us, sum.text_bytes,
           (double)sum.cpu_ns / 1e9, sum.failed);
    fflush(stdout);
}

/* Waits to be told to go on; the end of standard input is the end. */
static void wait_for_word(void)
{
    char line[64];
    if (!fgets(line, sizeof line, stdin))
        exit(EXIT_FAILURE);
}

static void on_death(int number_)
{
    (void)number_;
    static const char text[] = "load: a worker died\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(EXIT_FAILURE); /* the others follow */
}

int main(int argc, char **argv)
{
    o = read_options(argc, argv);
    make_plans();
    size_t bytes = sizeof(struct shared) + o.workers * sizeof(struct report);
    struct shared *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (shared == MAP_FAILED || pthread_barrier_init(&shared->barrier, &attributes, o.workers + 1) != 0)
        return EXIT_FAILURE;
    struct sigaction death = {.sa_handler = on_death, .sa_flags = SA_NOCLDSTOP};
    sigaction(SIGCHLD, &death, NULL);

    for (unsigned i = 0; i < o.workers; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            signal(SIGCHLD, SIG_DFL);
            _exit(worker_main(shared, i));
        }
        if (pid < 0)
            return EXIT_FAILURE;
    }
    pthread_barrier_wait(&shared->barrier);
    print_report("ready", shared, 0);
    wait_for_word();

    uint64_t began = clock_ns(CLOCK_MONOTONIC);
    pthread_barrier_wait(&shared->barrier);
    pthread_barrier_wait(&shared->barrier);
    print_report("sent", shared, (double)(clock_ns(CLOCK_MONOTONIC) - began) / 1e9);
    wait_for_word();

    signal(SIGCHLD, SIG_DFL); /* from here on they end */
    pthread_barrier_wait(&shared->barrier);
    pthread_barrier_wait(&shared->barrier);
    bool well = true;
    int status;
    while (wait(&status) > 0)
        well = well && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
    print_report("over", shared, (double)(clock_ns(CLOCK_MONOTONIC) - began) / 1e9);
    return well ? EXIT_SUCCESS : EXIT_FAILURE;
}
