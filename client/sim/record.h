/* tollsim --record: a JSON line for each frame, for whoever checks what the daemon stored. Included by tollsim.c
 * only. */
#ifndef TOLL_CLIENT_SIM_RECORD_H
#define TOLL_CLIENT_SIM_RECORD_H

#include <inttypes.h>
#include <stdio.h>

#include "client/sim/call.h"

static void sim_write_text(FILE *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '"' || text[i] == '\\')
            putc('\\', out);
        putc(text[i], out);
    }
}

/* One line: the n-th frame that the library accepted from this worker. */
static void sim_write_record(FILE *out, uint64_t n, const struct sim_call *call, const struct sim_step *step,
                             const char *request_id, int64_t at_us)
{
    static const char *const types[SIM_KINDS] = {"session_start", "stt",   "llm",        "tts",
                                                 "transcript",    "usage", "session_end"};
    char id[37];
    fprintf(out, "{\"n\": %" PRIu64 ", \"type\": \"%s\", \"occurred_at\": %" PRId64, n, types[step->kind], at_us);
    if (step->kind != SIM_USAGE || !step->usage.account) {
        toll_id_format(call->id, id);
        fprintf(out, ", \"session_id\": \"%s\"", id);
    }
    if (step->in_turn) {
        toll_id_format(step->turn_id, id);
        fprintf(out, ", \"turn_id\": \"%s\"", id);
    }
    if (step->kind == SIM_STT || step->kind == SIM_LLM || step->kind == SIM_TTS || step->kind == SIM_USAGE)
        fprintf(out, ", \"request_id\": \"%s\"", request_id);
    switch (step->kind) {
    case SIM_START:
        fputs(", \"metadata\": {", out);
        for (int i = 0; i < SIM_PAIRS; i++)
            fprintf(out, "%s\"%s\": \"%s\"", i ? ", " : "", call->metadata[i].key, call->metadata[i].value);
        putc('}', out);
        break;
    case SIM_STT:
        fprintf(out, ", \"provider\": \"%s\", \"model\": \"%s\", \"audio_us\": %" PRIu64, step->stt.provider,
                step->stt.model, step->stt.audio_duration_us);
        break;
    case SIM_LLM:
        fprintf(out,
                ", \"provider\": \"%s\", \"model\": \"%s\", \"input_tokens\": %u, \"output_tokens\": %u, "
                "\"cached_input_tokens\": %u",
                step->llm.provider, step->llm.model, step->llm.input_tokens, step->llm.output_tokens,
                step->llm.cached_input_tokens);
        break;
    case SIM_TTS:
        fprintf(out, ", \"provider\": \"%s\", \"model\": \"%s\", \"chars\": %u, \"audio_us\": %" PRIu64,
                step->tts.provider, step->tts.model, step->tts.char_count, step->tts.audio_duration_us);
        break;
    case SIM_TRANSCRIPT:
        fprintf(out, ", \"role\": \"%s\", \"interrupted\": %s, \"text\": \"", step->turn.role,
                step->turn.interrupted ? "true" : "false");
        sim_write_text(out, step->turn.text, step->turn.text_size ? step->turn.text_size : strlen(step->turn.text));
        putc('"', out);
        break;
    case SIM_USAGE:
        fprintf(out, ", \"meter\": \"%s\", \"quantity\": %.17g", step->usage.meter, step->usage.quantity);
        if (step->usage.account)
            fprintf(out, ", \"account\": \"%s\"", step->usage.account);
        break;
    case SIM_END:
        fprintf(out, ", \"finish_reason\": \"%s\"", step->end.finish_reason);
        break;
    case SIM_KINDS:
        break;
    }
    fputs("}\n", out);
}

#endif
