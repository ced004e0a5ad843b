/* Datagrams for tests, built of real frames. */
#ifndef TOLL_TESTS_DATAGRAMS_H
#define TOLL_TESTS_DATAGRAMS_H

#include "proto/frame.h"

#include <assert.h>
#include <check.h>
#include <stdio.h>
#include <string.h>

struct bytes {
    uint8_t data[TOLL_DATAGRAM_MAX];
    size_t size;
};

/* An id that tests recognise; they are in order of n. */
static inline void id_of(uint8_t ret[16], unsigned n)
{
    memset(ret, 0, 16);
    ret[0] = (uint8_t)(n >> 8);
    ret[1] = (uint8_t)n;
    ret[15] = 0xAA;
}

static inline void add_bytes(struct bytes *to, const void *data, size_t size)
{
    assert(size <= sizeof(to->data) - to->size); /* not of check: programs without it build datagrams too */
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static inline void add_frame(struct bytes *to, const struct toll_frame *frame)
{
    int n = toll_frame_encode(frame, to->data + to->size, sizeof(to->data) - to->size);

    assert(n > 0);
    to->size += (size_t)n;
}

static inline struct toll_str str_of(const char *text)
{
    return (struct toll_str){text, (uint32_t)strlen(text)};
}

static inline void add_envelope(struct bytes *to, unsigned stream, uint64_t seq, uint64_t base, uint64_t count)
{
    struct toll_frame frame;

    toll_frame_init(&frame, TOLL_FRAME_STREAM);
    id_of(frame.stream_id, stream);
    frame.stream_seq = seq;
    frame.stream_base = base;
    frame.stream_count = count;
    add_frame(to, &frame);
}

static inline struct toll_frame frame_of(enum toll_frame_type type, unsigned session, int64_t time_us)
{
    struct toll_frame frame;

    toll_frame_init(&frame, type);
    frame.has_session_id = true;
    id_of(frame.session_id, session);
    frame.time_us = time_us;
    return frame;
}

static inline void add_start(struct bytes *to, unsigned session, int64_t time_us)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_START, session, time_us);

    add_frame(to, &frame);
}

static inline void add_end(struct bytes *to, unsigned session, int64_t time_us, const char *reason)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_END, session, time_us);

    frame.finish_reason = str_of(reason);
    add_frame(to, &frame);
}

/* request_id is what the frame is recognised by. */
static inline struct toll_frame llm_of(unsigned session, int64_t time_us, int32_t input, int32_t output,
                                       const char *request_id)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_LLM, session, time_us);

    frame.provider = str_of("openai");
    frame.model = str_of("gpt-4o");
    frame.input_tokens = input;
    frame.output_tokens = output;
    frame.request_id = str_of(request_id);
    return frame;
}

static inline void add_llm(struct bytes *to, unsigned session, int64_t time_us, int32_t input, int32_t output,
                           const char *request_id)
{
    struct toll_frame frame = llm_of(session, time_us, input, output, request_id);

    add_frame(to, &frame);
}

static inline void add_tts(struct bytes *to, unsigned session, int64_t time_us, int32_t chars)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TTS, session, time_us);

    frame.provider = str_of("cartesia");
    frame.char_count = chars;
    add_frame(to, &frame);
}

static inline void add_stt(struct bytes *to, unsigned session, int64_t time_us, int64_t audio_us)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_STT, session, time_us);

    frame.provider = str_of("deepgram");
    frame.audio_duration_us = audio_us;
    add_frame(to, &frame);
}

static inline void add_transcript(struct bytes *to, unsigned session, int64_t time_us, const char *text)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TRANSCRIPT, session, time_us);

    frame.role = str_of("user");
    frame.text = str_of(text);
    add_frame(to, &frame);
}

static inline void add_gap(struct bytes *to, uint64_t count)
{
    struct toll_frame frame;

    toll_frame_init(&frame, TOLL_FRAME_GAP);
    frame.gap_count = count;
    add_frame(to, &frame);
}

static inline void add_usage(struct bytes *to, const char *account, double quantity)
{
    struct toll_frame frame;

    toll_frame_init(&frame, TOLL_FRAME_USAGE);
    frame.meter = str_of("storage_mb");
    frame.account = str_of(account);
    frame.quantity_value = quantity;
    add_frame(to, &frame);
}

/* Runs a test program's suite: its exit status. */
static inline int suite_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

#endif
