/* tollsim: simulated voice workers, linked with libtoll, that play calls for a daemon to meter.
 *
 * Each worker is a process: it plans calls (client/sim/call.h), records their frames when they are due, and keeps
 * count of what the library accepted, so that the parent can say what the daemon must have. It knows nothing of
 * the daemon but its socket. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/sim/call.h"
#include "client/sim/options.h"
#include "client/sim/record.h"

enum { LATENCY_US = 1000, TICK_US = 20000 };

/* What a worker has done; the parent adds them up. Shared memory: each worker writes its own. */
struct report {
    uint64_t frames[SIM_KINDS]; /* accepted, by kind */
    uint64_t accepted, refused_full, refused_other, acked, outstanding, gaps, gap_pending;
    uint64_t datagrams, resent, reconnects;
    uint64_t input_tokens, output_tokens, cached_input_tokens, tts_chars, stt_audio_us;
    uint64_t started, ended, abandoned, interrupted;
    uint64_t snapshots_wrong;         /* the library's totals differed from the worker's own */
    uint64_t latency[LATENCY_US + 1]; /* calls that recording took so many µs for; the last: all slower ones */
    uint64_t latency_max_us;
};

static volatile sig_atomic_t stopping;

static void on_signal(int number)
{
    (void)number;
    stopping = 1;
}

static int64_t time_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void sleep_us(int64_t us)
{
    if (us > 0 && !stopping)
        nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL);
}

/* --- one worker --- */

struct playing {
    struct sim_call call;
    bool live, abandoned;
    unsigned number, next;           /* step */
    int64_t due_us;                  /* CLOCK_MONOTONIC, of the next step; only with a pace */
    int64_t began_us, began_real_us; /* CLOCK_MONOTONIC; and the time the frames tell */
    struct toll_snapshot sums;
};

struct worker {
    const struct sim_options *o;
    unsigned index, calls_started, abandon;
    struct toll *toll;
    struct report *report;
    FILE *record;
    struct playing *playing;
    int64_t frame_due_us; /* with a rate */
};

static int send_step(struct worker *w, const struct playing *p, const struct sim_step *step, const char *request_id,
                     int64_t at_us)
{
    const unsigned char *session = p->call.id, *turn_id = step->in_turn ? step->turn_id : NULL;
    struct sim_step s = *step;
    switch (step->kind) {
    case SIM_START:
        return toll_session_start(
            w->toll, session,
            &(struct toll_session_info){.started_at_us = at_us,
                                        .metadata = {.pairs = p->call.metadata, .count = SIM_PAIRS}});
    case SIM_STT:
        s.stt.turn_id = turn_id;
        s.stt.request_id = request_id;
        s.stt.occurred_at_us = at_us;
        return toll_stt(w->toll, session, &s.stt);
    case SIM_LLM:
        s.llm.turn_id = turn_id;
        s.llm.request_id = request_id;
        s.llm.occurred_at_us = at_us;
        return toll_llm(w->toll, session, &s.llm);
    case SIM_TTS:
        s.tts.turn_id = turn_id;
        s.tts.request_id = request_id;
        s.tts.occurred_at_us = at_us;
        return toll_tts(w->toll, session, &s.tts);
    case SIM_TRANSCRIPT:
        s.turn.turn_id = turn_id;
        s.turn.occurred_at_us = at_us;
        return toll_transcript(w->toll, session, &s.turn);
    case SIM_USAGE:
        s.usage.turn_id = turn_id;
        s.usage.request_id = request_id;
        s.usage.occurred_at_us = at_us;
        return toll_usage(w->toll, s.usage.account ? NULL : session, &s.usage);
    case SIM_END:
        s.end.ended_at_us = at_us;
        return toll_session_end(w->toll, session, &s.end);
    case SIM_KINDS:
        break;
    }
    return -EINVAL;
}

/* Adds an accepted step to the call's and the worker's sums. */
static void count_step(struct report *r, struct toll_snapshot *sums, const struct sim_step *step)
{
    r->accepted++;
    r->frames[step->kind]++;
    switch (step->kind) {
    case SIM_START:
        r->started++;
        break;
    case SIM_STT:
        sums->stt_calls++;
        sums->stt_audio_us += step->stt.audio_duration_us;
        r->stt_audio_us += step->stt.audio_duration_us;
        break;
    case SIM_LLM:
        sums->llm_calls++;
        sums->llm_input_tokens += step->llm.input_tokens;
        sums->llm_output_tokens += step->llm.output_tokens;
        sums->llm_cached_input_tokens += step->llm.cached_input_tokens;
        r->input_tokens += step->llm.input_tokens;
        r->output_tokens += step->llm.output_tokens;
        r->cached_input_tokens += step->llm.cached_input_tokens;
        break;
    case SIM_TTS:
        sums->tts_calls++;
        sums->tts_chars += step->tts.char_count;
        r->tts_chars += step->tts.char_count;
        break;
    case SIM_TRANSCRIPT:
        sums->transcripts++;
        r->interrupted += step->turn.interrupted;
        break;
    case SIM_USAGE:
        sums->usages += !step->usage.account;
        break;
    case SIM_END:
        r->ended++;
        break;
    case SIM_KINDS:
        break;
    }
}

/* The library's running totals of a call must be what this worker counted. A started call that the library did not
 * take is none. */
static void check_snapshot(struct worker *w, const struct playing *p)
{
    struct toll_snapshot s;
    if (toll_snapshot(w->toll, p->call.id, &s) < 0)
        return;
    s.started_at_us = 0;
    w->report->snapshots_wrong += memcmp(&s, &p->sums, sizeof s) != 0;
}

static void play_step(struct worker *w, struct playing *p, const struct sim_step *step)
{
    struct report *r = w->report;
    char request_id[64];
    int64_t at_us = p->began_real_us + step->at_us;
    snprintf(request_id, sizeof request_id, "%" PRIu64 "-%u-%u-%u", w->o->seed, w->index, p->number, p->next);
    if (step->kind == SIM_END)
        check_snapshot(w, p);

    int64_t before = time_us(CLOCK_MONOTONIC);
    int result = send_step(w, p, step, request_id, at_us);
    uint64_t took = (uint64_t)(time_us(CLOCK_MONOTONIC) - before);
    r->latency[took < LATENCY_US ? took : LATENCY_US]++;
    if (took > r->latency_max_us)
        r->latency_max_us = took;

    if (result == -ENOBUFS) {
        r->refused_full++;
    } else if (result < 0) {
        r->refused_other++;
    } else {
        count_step(r, &p->sums, step);
        if (w->record)
            sim_write_record(w->record, r->accepted, &p->call, step, request_id, at_us);
    }
}

/* Frames tell a call's own time, compressed by the pace, ending at the real end: never a time in the future. */
static void begin_call(struct worker *w, struct playing *p, int64_t now)
{
    p->number = w->calls_started++;
    p->abandoned = p->number < w->abandon;
    sim_plan(&p->call, w->o->seed, w->index, p->number, p->abandoned);
    p->next = 0;
    p->live = true;
    p->sums = (struct toll_snapshot){0};
    p->began_us = now;
    p->due_us = w->o->pace > 0 ? now : 0; /* else: all alike, and played in turn */
    int64_t takes_us = w->o->pace > 0 ? (int64_t)((double)p->call.length_us / w->o->pace) : 0;
    p->began_real_us = time_us(CLOCK_REALTIME) - (takes_us < p->call.length_us ? p->call.length_us - takes_us : 0);
}

static void advance(struct worker *w, struct playing *p)
{
    play_step(w, p, &p->call.step[p->next]);
    if (++p->next < p->call.steps) {
        if (w->o->pace > 0)
            p->due_us = p->began_us + (int64_t)((double)p->call.step[p->next].at_us / w->o->pace);
        return;
    }
    p->live = false;
    w->report->abandoned += p->abandoned;
}

/* A worker that is told to stop hangs up on its calls. */
static void hang_up(struct worker *w, struct playing *p)
{
    struct sim_step step = {
        .kind = SIM_END, .at_us = p->call.step[p->next - 1].at_us, .end = {.finish_reason = "cancel"}};
    if (!p->abandoned)
        play_step(w, p, &step);
    w->report->abandoned += p->abandoned;
    p->live = false;
}

/* As fast as the daemon takes it: waits for room instead of making gaps. */
static void wait_for_room(struct worker *w)
{
    struct toll_stats stats;
    while (!stopping && toll_stats(w->toll, &stats) == 0 && stats.ring_used > stats.ring_bytes / 4 * 3) {
        sleep_us(200);
        toll_tick(w->toll);
    }
}

static void wait_until(struct worker *w, int64_t due_us)
{
    for (;;) {
        int64_t left = due_us - time_us(CLOCK_MONOTONIC);
        if (left <= 0 || stopping)
            return;
        sleep_us(left < TICK_US ? left : TICK_US);
        toll_tick(w->toll);
    }
}

/* Which call goes next, beginning new ones while there are any to begin; NULL: all are played. */
static struct playing *next_call(struct worker *w, int64_t now, unsigned *turn)
{
    const struct sim_options *o = w->o;
    struct playing *first = NULL;
    for (unsigned i = 0; i < o->concurrent; i++) {
        struct playing *p = &w->playing[(*turn + i) % o->concurrent]; /* in turn, where nothing else decides */
        if (!p->live && (o->calls == 0 || w->calls_started < o->calls)) {
            begin_call(w, p, now);
            if (o->pace > 0) { /* calls do not come all at once */
                uint64_t random = o->seed ^ (uint64_t)w->index << 32 ^ p->number;
                p->began_us = p->due_us += (int64_t)(sim_between(&random, 0, 8000000) / o->pace);
                p->began_real_us += p->began_us - now;
            }
        }
        if (p->live && (!first || p->due_us < first->due_us))
            first = p;
    }
    *turn += 1;
    return first;
}

static void play(struct worker *w)
{
    const struct sim_options *o = w->o;
    int64_t began = time_us(CLOCK_MONOTONIC);
    unsigned turn = 0;
    w->frame_due_us = began;
    while (!stopping) {
        int64_t now = time_us(CLOCK_MONOTONIC);
        bool over = o->duration_s > 0 && (double)(now - began) >= o->duration_s * 1e6;
        struct playing *p = over ? NULL : next_call(w, now, &turn);
        if (!p)
            break;
        if (o->rate > 0) {
            wait_until(w, w->frame_due_us);
            w->frame_due_us += (int64_t)(1e6 * o->workers / o->rate);
        } else if (o->pace > 0) {
            wait_until(w, p->due_us);
        } else {
            wait_for_room(w);
        }
        if (!stopping)
            advance(w, p);
    }
    for (unsigned i = 0; i < o->concurrent; i++)
        if (w->playing[i].live && w->playing[i].next > 0)
            hang_up(w, &w->playing[i]);
}

static void report_stats(struct worker *w)
{
    struct report *r = w->report;
    struct toll_stats s;
    if (toll_stats(w->toll, &s) < 0)
        return;
    r->acked = s.acked;
    r->outstanding = s.outstanding;
    r->gaps = s.gaps;
    r->gap_pending = s.gap_pending;
    r->datagrams = s.datagrams;
    r->resent = s.resent;
    r->reconnects = s.reconnects;
    if (w->record) {
        char id[37];
        toll_id_format(s.stream_id, id);
        fprintf(w->record,
                "{\"summary\": {\"worker\": %u, \"stream_id\": \"%s\", \"recorded\": %" PRIu64 ", \"refused\": %" PRIu64
                ", \"acked\": %" PRIu64 ", \"outstanding\": %" PRIu64 ", \"gaps\": %" PRIu64
                ", \"gap_pending\": %" PRIu64 "}}\n",
                w->index, id, s.recorded, s.refused_full + s.refused_invalid + s.refused_too_large, s.acked,
                s.outstanding, s.gaps, s.gap_pending);
    }
}

/* Returns the process's exit status. */
static int worker_main(const struct sim_options *o, unsigned index, struct report *report)
{
    struct worker w = {.o = o, .index = index, .report = report};
    char name[32];
    int status = EXIT_FAILURE;

    w.abandon = o->abandon / o->workers + (index < o->abandon % o->workers);
    snprintf(name, sizeof name, "tollsim-%u", index);
    struct toll_options options = {.socket = o->socket,
                                   .client = name,
                                   .ring_bytes = o->ring_bytes,
                                   .max_sessions = o->concurrent + o->abandon + 16};
    int r = toll_open(&options, &w.toll);
    if (r < 0) {
        fprintf(stderr, "tollsim: worker %u: toll_open: %s\n", index, strerror(-r));
        return EXIT_FAILURE;
    }
    w.playing = calloc(o->concurrent, sizeof *w.playing);
    if (o->record) {
        char path[4096];
        snprintf(path, sizeof path, "%s.%u", o->record, index);
        w.record = fopen(path, "we");
        if (!w.record) {
            fprintf(stderr, "tollsim: worker %u: %s: %s\n", index, path, strerror(errno));
            goto done;
        }
        setvbuf(w.record, NULL, _IOLBF, 0); /* a line is there even if the worker is killed */
    }
    if (!w.playing)
        goto done;

    play(&w);
    r = toll_flush(w.toll, o->flush_ms);
    report_stats(&w);
    if (r < 0)
        fprintf(stderr, "tollsim: worker %u: %" PRIu64 " frames are not acknowledged after %u ms\n", index,
                report->outstanding, o->flush_ms);
    status = r == 0 && report->snapshots_wrong == 0 ? EXIT_SUCCESS : EXIT_FAILURE;

done:
    if (w.record && fclose(w.record) != 0)
        status = EXIT_FAILURE;
    (void)toll_close(w.toll, 0);
    free(w.playing);
    return status;
}

/* --- the parent --- */

static void add_reports(struct report *sum, const struct report *reports, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const uint64_t *from = (const uint64_t *)&reports[i];
        uint64_t *to = (uint64_t *)sum, max = sum->latency_max_us;
        for (size_t k = 0; k < sizeof *sum / sizeof *to; k++)
            to[k] += from[k];
        sum->latency_max_us = max > reports[i].latency_max_us ? max : reports[i].latency_max_us;
    }
}

/* The recording time that a share of all calls stayed within, in µs. */
static uint64_t percentile(const struct report *r, double share)
{
    uint64_t all = 0, below = 0;
    for (int i = 0; i <= LATENCY_US; i++)
        all += r->latency[i];
    for (uint64_t i = 0; i < LATENCY_US; i++) {
        below += r->latency[i];
        if ((double)below >= share * (double)all)
            return i + 1;
    }
    return r->latency_max_us;
}

struct row {
    const char *key, *text;
    uint64_t value;
};

static void print_report(const struct sim_options *o, const struct report *r, double seconds)
{
    const struct row rows[] = {
        {"seed", "seed", o->seed},
        {"workers", "workers", o->workers},
        {"sessions_started", "sessions started", r->started},
        {"sessions_ended", "sessions ended", r->ended},
        {"sessions_abandoned", "sessions abandoned", r->abandoned},
        {"session_start", "session_start frames", r->frames[SIM_START]},
        {"llm", "llm frames", r->frames[SIM_LLM]},
        {"tts", "tts frames", r->frames[SIM_TTS]},
        {"stt", "stt frames", r->frames[SIM_STT]},
        {"usage", "usage frames", r->frames[SIM_USAGE]},
        {"transcript", "transcript frames", r->frames[SIM_TRANSCRIPT]},
        {"session_end", "session_end frames", r->frames[SIM_END]},
        {"interrupted", "answers interrupted", r->interrupted},
        {"accepted", "accepted by libtoll", r->accepted},
        {"refused", "refused", r->refused_full + r->refused_other},
        {"acked", "acknowledged as durable", r->acked},
        {"outstanding", "outstanding", r->outstanding},
        {"gaps", "gap frames", r->gaps},
        {"gap_pending", "refusals not told of", r->gap_pending},
        {"input_tokens", "llm input tokens", r->input_tokens},
        {"output_tokens", "llm output tokens", r->output_tokens},
        {"cached_input_tokens", "of input: cached", r->cached_input_tokens},
        {"tts_chars", "tts characters", r->tts_chars},
        {"stt_audio_us", "stt audio (us)", r->stt_audio_us},
        {"datagrams", "datagrams", r->datagrams},
        {"resent", "frames sent again", r->resent},
        {"reconnects", "reconnects", r->reconnects},
        {"snapshots_wrong", "snapshots that were wrong", r->snapshots_wrong},
        {"record_p50_us", "recording, median (us)", percentile(r, 0.5)},
        {"record_p99_us", "recording, 99 % (us)", percentile(r, 0.99)},
        {"record_max_us", "recording, slowest (us)", r->latency_max_us},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (o->json)
            printf("%s\"%s\": %" PRIu64, i ? ", " : "{", rows[i].key, rows[i].value);
        else
            printf("%-26s %15" PRIu64 "\n", rows[i].text, rows[i].value);
    }
    if (o->json)
        printf(", \"seconds\": %.3f}\n", seconds);
    else
        printf("%-26s %15.3f\n", "seconds", seconds);
}

/* Starts the workers; returns how many there are, which is fewer where fork failed. */
static unsigned start_workers(const struct sim_options *o, struct report *reports, pid_t *pids)
{
    pid_t parent = getpid();
    for (unsigned i = 0; i < o->workers; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            if (getppid() != parent)
                _exit(EXIT_FAILURE);
            _exit(worker_main(o, i, &reports[i]));
        }
        if (pid < 0) {
            perror("tollsim: fork");
            stopping = 1;
            return i;
        }
        pids[i] = pid;
    }
    return o->workers;
}

/* Waits for all of them, and tells them to stop when this process is told so. True if all succeeded. */
static bool wait_for_workers(const pid_t *pids, unsigned count)
{
    bool told = false, well = true;
    for (unsigned i = 0; i < count;) {
        int status = 0;
        if (stopping && !told) {
            for (unsigned k = i; k < count; k++)
                kill(pids[k], SIGTERM);
            told = true;
        }
        pid_t done = waitpid(pids[i], &status, WNOHANG);
        if (done == 0) { /* not blocking: a signal just before would be overslept */
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
            continue;
        }
        if (WIFSIGNALED(status))
            fprintf(stderr, "tollsim: worker %u: %s\n", i, strsignal(WTERMSIG(status)));
        well = well && done > 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
        i++;
    }
    return well;
}

int main(int argc, char **argv)
{
    struct sim_options options = sim_options(argc, argv), *o = &options;
    size_t bytes = (o->workers + 1) * sizeof(struct report); /* the last one is the sum */
    struct report *reports = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reports == MAP_FAILED) {
        perror("tollsim: mmap");
        return EXIT_FAILURE;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    pid_t pids[SIM_WORKERS_MAX];
    int64_t began = time_us(CLOCK_MONOTONIC);
    unsigned started = start_workers(o, reports, pids);
    bool well = wait_for_workers(pids, started) && started == o->workers;
    double seconds = (double)(time_us(CLOCK_MONOTONIC) - began) / 1e6;

    add_reports(&reports[o->workers], reports, o->workers);
    if (o->json || !o->quiet)
        print_report(o, &reports[o->workers], seconds);
    return well ? EXIT_SUCCESS : EXIT_FAILURE;
}
