/* tollsim's report: what the workers have done, added up and printed. Included by tollsim.c only. */
#ifndef TOLL_CLIENT_SIM_REPORT_H
#define TOLL_CLIENT_SIM_REPORT_H

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "client/sim/call.h"
#include "client/sim/options.h"

enum { SIM_LATENCY_US = 1000 };

/* What a worker has done; the parent adds them up. Shared memory: each worker writes its own. */
struct sim_report {
    uint64_t frames[SIM_KINDS]; /* accepted, by kind */
    uint64_t accepted, refused_full, refused_other, acked, outstanding, gaps, gap_pending;
    uint64_t datagrams, resent, reconnects;
    uint64_t input_tokens, output_tokens, cached_input_tokens, tts_chars, stt_audio_us;
    uint64_t started, ended, abandoned, interrupted;
    uint64_t snapshots_wrong;             /* the library's totals differed from the worker's own */
    uint64_t latency[SIM_LATENCY_US + 1]; /* calls that recording took so many µs for; the last: all slower ones */
    uint64_t latency_max_us;
};

static void sim_add_reports(struct sim_report *sum, const struct sim_report *reports, unsigned count)
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
static uint64_t sim_percentile(const struct sim_report *r, double share)
{
    uint64_t all = 0, below = 0;
    for (int i = 0; i <= SIM_LATENCY_US; i++)
        all += r->latency[i];
    for (uint64_t i = 0; i < SIM_LATENCY_US; i++) {
        below += r->latency[i];
        if ((double)below >= share * (double)all)
            return i + 1;
    }
    return r->latency_max_us;
}

struct sim_row {
    const char *key, *text;
    uint64_t value;
};

static void sim_print_report(const struct sim_options *o, const struct sim_report *r, double seconds)
{
    const struct sim_row rows[] = {
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
        {"record_p50_us", "recording, median (us)", sim_percentile(r, 0.5)},
        {"record_p99_us", "recording, 99 % (us)", sim_percentile(r, 0.99)},
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

#endif
