/* One simulated call, planned in advance: who calls, what is said, what each step used. Everything follows from
 * the seed, the worker's and the call's number. No I/O; times are offsets from the call's start. Included by
 * tollsim.c only. */
#ifndef TOLL_CLIENT_SIM_CALL_H
#define TOLL_CLIENT_SIM_CALL_H

#include <stdio.h>
#include <string.h>

#include "client/sim/phrases.h"
#include "client/toll.h"

enum sim_kind { SIM_START, SIM_STT, SIM_LLM, SIM_TTS, SIM_TRANSCRIPT, SIM_USAGE, SIM_END, SIM_KINDS };
enum { SIM_STEPS_MAX = 120, SIM_PAIRS = 8 };

struct sim_step {
    enum sim_kind kind;
    int64_t at_us;
    bool in_turn; /* turn_id is set */
    unsigned char turn_id[16];
    union { /* without session, turn, request and time: those are filled in when it is played */
        struct toll_stt_usage stt;
        struct toll_llm_usage llm;
        struct toll_tts_usage tts;
        struct toll_turn turn;
        struct toll_meter_usage usage;
        struct toll_session_result end;
    };
};

struct sim_call {
    unsigned char id[16];
    char text[SIM_PAIRS][48]; /* the metadata's values */
    struct toll_pair metadata[SIM_PAIRS];
    struct sim_step step[SIM_STEPS_MAX];
    unsigned steps;
    int64_t length_us;
};

/* splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 */
static uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* From low to high, both included. */
static uint32_t sim_between(uint64_t *state, uint32_t low, uint32_t high)
{
    return low + (uint32_t)(sim_random(state) % (high - low + 1));
}

static bool sim_chance(uint64_t *state, uint32_t percent)
{
    return sim_random(state) % 100 < percent;
}

static void sim_id(uint64_t *state, unsigned char id[16])
{
    uint64_t half[2] = {sim_random(state), sim_random(state)};
    memcpy(id, half, 16);
    id[6] = (unsigned char)((id[6] & 0x0f) | 0x40);
    id[8] = (unsigned char)((id[8] & 0x3f) | 0x80);
}

static const struct sim_stack {
    const char *workflow, *enterprise;
    const char *stt_provider, *stt_model;
    const char *llm_provider, *llm_model;
    const char *tts_provider, *tts_model, *voice;
} sim_stacks[] = {
    {"support_triad", "app_456", "deepgram", "nova-3", "openai", "gpt-4o", "elevenlabs", "eleven_flash_v2_5", "Rachel"},
    {"support_triad", "app_456", "deepgram", "nova-2", "openai", "gpt-4o-mini", "cartesia", "sonic-2",
     "Barbershop Man"},
    {"booking", "app_789", "deepgram", "nova-3", "anthropic", "claude-sonnet-4", "elevenlabs", "eleven_turbo_v2_5",
     "Bella"},
    {"booking", "app_789", "openai", "whisper-1", "openai", "gpt-4o-mini", "openai", "tts-1", "alloy"},
    {"collections", "app_112", "deepgram", "nova-2", "anthropic", "claude-haiku-3-5", "cartesia", "sonic-2", "Newsman"},
};
static const char *const sim_regions[] = {"eu-central", "us-east", "ap-south", "sa-east"};
static const char *const sim_agents[] = {"support", "billing", "scheduler"};

#define SIM_PICK(state, array) ((array)[sim_random(state) % (sizeof(array) / sizeof((array)[0]))])

static uint32_t sim_characters(const char *text, size_t size)
{
    uint32_t n = 0;
    for (size_t i = 0; i < size; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

/* Where an answer was cut short: after `percent` of its bytes, moved back to the start of a character. */
static size_t sim_cut(const char *text, uint32_t percent)
{
    size_t size = strlen(text) * percent / 100;
    while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80)
        size--;
    return size > 0 ? size : strlen(text);
}

static struct sim_step *sim_add(struct sim_call *call, enum sim_kind kind, int64_t at_us, const unsigned char *turn_id)
{
    struct sim_step *step = &call->step[call->steps++];
    memset(step, 0, sizeof *step);
    step->kind = kind;
    step->at_us = at_us;
    if (turn_id) {
        step->in_turn = true;
        memcpy(step->turn_id, turn_id, 16);
    }
    return step;
}

static void sim_metadata(struct sim_call *call, const struct sim_stack *stack, uint64_t *random)
{
    static const char *const keys[SIM_PAIRS] = {"user_id", "tenant_id",     "phone_number",  "region",
                                                "call_id", "enterprise_id", "workflow_name", "direction"};
    snprintf(call->text[0], sizeof call->text[0], "u_%u", sim_between(random, 1, 60));
    snprintf(call->text[1], sizeof call->text[1], "t_%u", sim_between(random, 1, 8));
    snprintf(call->text[2], sizeof call->text[2], "+1555%07u", sim_between(random, 0, 9999999));
    snprintf(call->text[3], sizeof call->text[3], "%s", SIM_PICK(random, sim_regions));
    snprintf(call->text[4], sizeof call->text[4], "CA%016llx", (unsigned long long)sim_random(random));
    snprintf(call->text[5], sizeof call->text[5], "%s", stack->enterprise);
    snprintf(call->text[6], sizeof call->text[6], "%s", stack->workflow);
    snprintf(call->text[7], sizeof call->text[7], "inbound");
    for (int i = 0; i < SIM_PAIRS; i++)
        call->metadata[i] = (struct toll_pair){keys[i], call->text[i]};
}

/* The model reads the whole conversation with each turn, most of it from its cache. Returns the time it ends. */
static int64_t sim_plan_llm(struct sim_call *call, const struct sim_stack *stack, const unsigned char *turn_id,
                            const char *agent, uint32_t *context, uint32_t output, bool interrupted, int64_t now,
                            uint64_t *random)
{
    bool claude = strcmp(stack->llm_provider, "anthropic") == 0;
    uint32_t before = *context, cached = 0, written = 0;
    *context += sim_between(random, 20, 60);
    if (before >= 1024 && sim_chance(random, 85))
        cached = before / 128 * 128; /* providers cache in blocks */
    else if (claude)
        written = before / 128 * 128;
    uint64_t ttfb_us = sim_between(random, 180000, 900000),
             rest_us = output * (uint64_t)sim_between(random, 8000, 20000);
    int64_t end = now + (int64_t)(ttfb_us + rest_us);
    struct sim_step *step = sim_add(call, SIM_LLM, end, turn_id);
    step->llm = (struct toll_llm_usage){.provider = stack->llm_provider,
                                        .model = stack->llm_model,
                                        .input_tokens = *context,
                                        .output_tokens = output,
                                        .cached_input_tokens = cached,
                                        .cache_write_tokens = written,
                                        .estimated = interrupted && sim_chance(random, 60),
                                        .interrupted = interrupted,
                                        .agent = agent,
                                        .ttfb_us = ttfb_us,
                                        .duration_us = ttfb_us + rest_us};
    *context += output;
    return end;
}

/* Speech, then the transcript of what the caller heard of it. Returns the time it ends. */
static int64_t sim_plan_answer(struct sim_call *call, const struct sim_stack *stack, const unsigned char *turn_id,
                               const char *agent, const char *text, bool interrupted, int64_t now, uint64_t *random)
{
    size_t size = strlen(text), heard = interrupted ? sim_cut(text, sim_between(random, 20, 80)) : size;
    uint32_t characters = sim_characters(text, size);
    uint64_t ttfb_us = sim_between(random, 90000, 350000),
             audio_us = characters * (uint64_t)sim_between(random, 55000, 70000);
    struct sim_step *step = sim_add(call, SIM_TTS, now + (int64_t)ttfb_us * 2, turn_id);
    step->tts = (struct toll_tts_usage){.provider = stack->tts_provider,
                                        .char_count = characters,
                                        .voice = stack->voice,
                                        .model = stack->tts_model,
                                        .audio_duration_us = audio_us,
                                        .interrupted = interrupted,
                                        .agent = agent,
                                        .ttfb_us = ttfb_us,
                                        .duration_us = ttfb_us * 2};
    now += (int64_t)(ttfb_us + audio_us * heard / size);
    step = sim_add(call, SIM_TRANSCRIPT, now > step->at_us ? now : step->at_us, turn_id);
    step->turn = (struct toll_turn){.role = "assistant", .text = text, .text_size = heard, .interrupted = interrupted};
    return step->at_us;
}

static int64_t sim_plan_question(struct sim_call *call, const struct sim_stack *stack, const unsigned char *turn_id,
                                 const struct sim_language *language, const char *text, int64_t now, uint64_t *random)
{
    uint32_t characters = sim_characters(text, strlen(text));
    uint64_t audio_us = 600000 + characters * (uint64_t)sim_between(random, 58000, 75000) + sim_between(random, 0, 999);
    uint64_t ttfb_us = sim_between(random, 120000, 400000);
    now += (int64_t)(audio_us + ttfb_us);
    struct sim_step *step = sim_add(call, SIM_STT, now, turn_id);
    step->stt = (struct toll_stt_usage){.provider = stack->stt_provider,
                                        .audio_duration_us = audio_us,
                                        .model = stack->stt_model,
                                        .language = language->code,
                                        .ttfb_us = ttfb_us,
                                        .duration_us = audio_us + ttfb_us};
    step = sim_add(call, SIM_TRANSCRIPT, now + 1000, turn_id);
    step->turn = (struct toll_turn){.role = "user", .text = text, .language = language->code};
    return step->at_us;
}

/* Plans a call. One that is abandoned stops somewhere in the middle, without an end, as when a worker's host is
 * lost. */
static void sim_plan(struct sim_call *call, uint64_t seed, unsigned worker, unsigned number, bool abandoned)
{
    static const char *const reasons[] = {"end", "end", "end", "stop", "cancel"};
    uint64_t state = seed, *random = &state;
    state = sim_random(random) ^ (uint64_t)worker << 40 ^ number;
    const struct sim_stack *stack = &SIM_PICK(random, sim_stacks);
    const struct sim_language *language =
        &sim_languages[sim_chance(random, 40) ? 0 : sim_random(random) % SIM_LANGUAGES];
    unsigned char turn_id[16];

    call->steps = 0;
    sim_id(random, call->id);
    sim_metadata(call, stack, random);
    sim_add(call, SIM_START, 0, NULL);
    sim_id(random, turn_id);
    int64_t now = sim_plan_answer(call, stack, turn_id, "router", language->greeting, false, 300000, random);

    uint32_t context = sim_between(random, 600, 1500), turns = sim_between(random, 3, 10);
    const char *agent = "router";
    for (uint32_t turn = 0; turn < turns; turn++) {
        const struct sim_exchange *exchange =
            &language->exchange[turn + 1 == turns ? SIM_EXCHANGES - 1 : turn % SIM_EXCHANGES];
        bool interrupted = turn + 1 < turns && sim_chance(random, 20);
        uint32_t output = sim_characters(exchange->assistant, strlen(exchange->assistant)) / 4 + 3;
        sim_id(random, turn_id);
        now = sim_plan_question(call, stack, turn_id, language, exchange->user,
                                now + sim_between(random, 200000, 1500000), random);
        if (turn == 1 || sim_chance(random, 10)) { /* the router hands over before the answer is made */
            now =
                sim_plan_llm(call, stack, turn_id, "router", &context, sim_between(random, 8, 16), false, now, random);
            agent = SIM_PICK(random, sim_agents);
        }
        now = sim_plan_llm(call, stack, turn_id, agent, &context, output, interrupted, now, random);
        now = sim_plan_answer(call, stack, turn_id, agent, exchange->assistant, interrupted, now, random);
        if (sim_chance(random, 8))
            sim_add(call, SIM_USAGE, now, turn_id)->usage =
                (struct toll_meter_usage){.meter = "api_call", .quantity = 1, .agent = agent};
    }
    if (abandoned) {
        call->steps = sim_between(random, 2, call->steps - 1);
        call->length_us = call->step[call->steps - 1].at_us;
        return;
    }
    now += sim_between(random, 300000, 2000000);
    int64_t minutes_e4 = now / 6000; /* carriers bill four decimals */
    sim_add(call, SIM_USAGE, now, NULL)->usage = (struct toll_meter_usage){.meter = "telephony_inbound",
                                                                           .quantity = (double)minutes_e4 / 10000.0,
                                                                           .provider = "twilio",
                                                                           .duration_us = (uint64_t)now};
    if (sim_chance(random, 10)) /* goes to the account, not to the call */
        sim_add(call, SIM_USAGE, now, NULL)->usage = (struct toll_meter_usage){
            .meter = "storage_mb", .quantity = sim_between(random, 1, 40) / 10.0, .account = stack->enterprise};
    sim_add(call, SIM_END, now, NULL)->end = (struct toll_session_result){.finish_reason = SIM_PICK(random, reasons)};
    call->length_us = now;
}

#endif
