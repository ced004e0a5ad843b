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
#include "client/sim/report.h"

enum { TICK_US = 20000 };

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
    struct sim_report *report;
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
static void count_step(struct sim_report *r, struct toll_snapshot *sums, const struct sim_step *step)
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
    struct sim_report *r = w->report;
    char request_id[64];
    int64_t at_us = p->began_real_us + step->at_us;
    snprintf(request_id, sizeof request_id, "%" PRIu64 "-%u-%u-%u", w->o->seed, w->index, p->number, p->next);
    if (step->kind == SIM_END)
        check_snapshot(w, p);

    int64_t before = time_us(CLOCK_MONOTONIC);
    int result = send_step(w, p, step, request_id, at_us);
    uint64_t took = (uint64_t)(time_us(CLOCK_MONOTONIC) - before);
    r->latency[took < SIM_LATENCY_US ? took : SIM_LATENCY_US]++;
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
    struct sim_report *r = w->report;
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
static int worker_main(const struct sim_options *o, unsigned index, struct sim_report *report)
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

/* Starts the workers; returns how many there are, which is fewer where fork failed. */
static unsigned start_workers(const struct sim_options *o, struct sim_report *reports, pid_t *pids)
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
    size_t bytes = (o->workers + 1) * sizeof(struct sim_report); /* the last one is the sum */
    struct sim_report *reports = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
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

    sim_add_reports(&reports[o->workers], reports, o->workers);
    if (o->json || !o->quiet)
        sim_print_report(o, &reports[o->workers], seconds);
    return well ? EXIT_SUCCESS : EXIT_FAILURE;
}
