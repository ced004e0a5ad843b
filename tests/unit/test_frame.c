/* Tests of proto/encode and proto/decode beyond the vectors: what the encoder refuses, hostile frames in bounded time, and
 * what reasons may say. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/utf8.h"

static struct toll_decoder *decoder;
static char reason[TOLL_REASON_MAX];
static uint8_t bytes[TOLL_DATAGRAM_MAX];

static void setup(void)
{
    decoder = toll_decoder_new();
}

static void teardown(void)
{
    toll_decoder_free(decoder);
}

#define STR(text) ((struct toll_str){text, sizeof(text) - 1})

static void init_llm(struct toll_frame *frame)
{
    toll_frame_init(frame, TOLL_FRAME_LLM);
    frame->has_session_id = true;
    frame->provider = STR("openai");
    frame->model = STR("gpt-4o");
    frame->input_tokens = 10;
    frame->output_tokens = 5;
}

static void init_usage(struct toll_frame *frame)
{
    toll_frame_init(frame, TOLL_FRAME_USAGE);
    frame->has_session_id = true;
    frame->meter = STR("sms");
    frame->quantity_value = 1;
}

static void init_speech(struct toll_frame *frame)
{
    toll_frame_init(frame, TOLL_FRAME_TRANSCRIPT);
    frame->has_session_id = true;
    frame->role = STR("user");
    frame->text = STR("Hello");
}

static void init_stream(struct toll_frame *frame)
{
    toll_frame_init(frame, TOLL_FRAME_STREAM);
    frame->stream_seq = frame->stream_base = 1;
}

START_TEST(types_have_names)
{
    for (enum toll_frame_type type = TOLL_FRAME_SESSION_START; type <= TOLL_FRAME_STREAM; type++) {
        const char *name = toll_frame_type_name(type);
        ck_assert_int_eq(toll_frame_type_from_name(name, strlen(name)), type);
        ck_assert_int_eq(toll_frame_type_from_name(name, strlen(name) - 1), 0);
        char padded[32] = "";
        memcpy(padded, name, strlen(name));
        for (size_t size = strlen(name) + 1; size < sizeof(padded); size++)
            ck_assert_int_eq(toll_frame_type_from_name(padded, size), 0);
    }
    ck_assert_str_eq(toll_frame_type_name(TOLL_FRAME_SESSION_START), "session_start");
    ck_assert_str_eq(toll_frame_type_name(0), "unknown");
    ck_assert_str_eq(toll_frame_type_name(TOLL_FRAME_STREAM + 1), "unknown");
    ck_assert_int_eq(toll_frame_type_from_name("", 0), 0);
    ck_assert_int_eq(toll_frame_type_from_name("unknown", 7), 0);
}
END_TEST

/* --- the encoder --- */

START_TEST(encode_needs_room_for_all)
{
    struct toll_frame frame;

    init_llm(&frame);
    int size = toll_frame_encode(&frame, bytes, sizeof(bytes));
    ck_assert_int_gt(size, 0);
    for (int cap = 0; cap < size; cap++) {
        uint8_t *exact = malloc((size_t)cap + 1);
        ck_assert_int_eq(toll_frame_encode(&frame, exact, (size_t)cap), -ENOBUFS);
        free(exact);
    }
    ck_assert_int_eq(toll_frame_encode(&frame, bytes, (size_t)size), size);

    init_speech(&frame); /* and no room helps where a datagram has none */
    char *text = calloc(1, TOLL_DATAGRAM_MAX), *room = malloc(2 * (size_t)TOLL_DATAGRAM_MAX);
    frame.text = (struct toll_str){text, TOLL_DATAGRAM_MAX};
    ck_assert_int_eq(toll_frame_encode(&frame, room, 2 * (size_t)TOLL_DATAGRAM_MAX), -ENOBUFS);
    free(text);
    free(room);
}
END_TEST

/* An end's time stands last, after its key: what msgpack-c makes of the same number. */
START_TEST(encode_writes_integers_as_msgpack_c_does)
{
    static const int64_t edges[] = {0,          INT8_MAX,  UINT8_MAX,  INT16_MAX,
                                    UINT16_MAX, INT32_MAX, UINT32_MAX, INT64_MAX - 2};
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
        for (int64_t near = -34; near <= 2; near++)
            for (int sign = -1; sign <= 1; sign += 2) {
                struct toll_frame frame;
                msgpack_sbuffer expected;
                msgpack_packer packer;
                toll_frame_init(&frame, TOLL_FRAME_SESSION_END);
                frame.has_session_id = true;
                frame.time_us = sign * (edges[i] + near);
                msgpack_sbuffer_init(&expected);
                msgpack_packer_init(&packer, &expected, msgpack_sbuffer_write);
                msgpack_pack_int64(&packer, frame.time_us);
                int size = toll_frame_encode(&frame, bytes, sizeof(bytes));
                ck_assert_int_gt(size, (int)expected.size);
                ck_assert_mem_eq(bytes + size - expected.size, expected.data, expected.size);
                ck_assert_mem_eq(bytes + size - expected.size - 8, "ended_at", 8);
                msgpack_sbuffer_destroy(&expected);
            }
}
END_TEST

START_TEST(envelope_is_what_the_table_says)
{
    static const uint64_t numbers[] = {1,           127, 128, 255, 256, 65535, 65536, UINT32_MAX, UINT64_C(1) << 32,
                                       TOLL_SEQ_MAX};
    static char longest[TOLL_NAME_MAX + 1];
    const char *const clients[] = {NULL, "", "worker", "a name of more than thirty-one bytes", longest};
    memset(longest, 'x', TOLL_NAME_MAX);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        for (size_t j = 0; j <= i; j++)
            for (size_t c = 0; c < sizeof(clients) / sizeof(clients[0]); c++) {
                struct toll_frame frame;
                uint8_t direct[384];
                toll_frame_init(&frame, TOLL_FRAME_STREAM);
                memset(frame.stream_id, 0xa5, sizeof(frame.stream_id));
                frame.stream_seq = numbers[i];
                frame.stream_base = numbers[j];
                frame.stream_count = j;
                if (numbers[i] == TOLL_SEQ_MAX)
                    frame.stream_count = j > 0;
                if (clients[c])
                    frame.client = (struct toll_str){clients[c], (uint32_t)strlen(clients[c])};
                int size = toll_frame_encode(&frame, bytes, sizeof(bytes));
                ck_assert_int_gt(size, 0);
                for (int cap = 0; cap<size; cap += size - cap> 20 ? 7 : 1)
                    ck_assert_int_eq(toll_envelope_encode(frame.stream_id, frame.stream_seq, frame.stream_base,
                                                          frame.stream_count, clients[c], direct, (size_t)cap),
                                     -ENOBUFS);
                ck_assert_int_eq(toll_envelope_encode(frame.stream_id, frame.stream_seq, frame.stream_base,
                                                      frame.stream_count, clients[c], direct, sizeof(direct)),
                                 size);
                ck_assert_mem_eq(direct, bytes, (size_t)size);
            }
}
END_TEST

#define REFUSED(init, change)                                                                                          \
    do {                                                                                                               \
        struct toll_frame f;                                                                                           \
        init(&f);                                                                                                      \
        ck_assert_int_gt(toll_frame_encode(&f, bytes, sizeof(bytes)), 0);                                              \
        change;                                                                                                        \
        ck_assert_int_eq(toll_frame_encode(&f, bytes, sizeof(bytes)), -EINVAL);                                        \
    } while (0)

START_TEST(encode_refuses_what_no_daemon_takes)
{
    static char long_name[TOLL_NAME_MAX + 1];

    REFUSED(init_llm, f.type = 0);
    REFUSED(init_llm, f.type = TOLL_FRAME_STREAM + 1);
    REFUSED(init_llm, f.has_session_id = false);
    REFUSED(init_llm, f.provider.ptr = NULL);
    REFUSED(init_llm, f.input_tokens = TOLL_ABSENT);
    REFUSED(init_llm, f.input_tokens = -2);
    REFUSED(init_llm, f.reasoning_tokens = -5);
    REFUSED(init_llm, f.reasoning_tokens = 6);
    REFUSED(init_llm, f.cached_input_tokens = 11);
    REFUSED(init_llm, f.cached_audio_tokens = 1);
    REFUSED(init_llm, f.ttfb_us = -2);
    REFUSED(init_llm, f.duration_us = TOLL_DURATION_MAX + 1);
    REFUSED(init_llm, f.agent = ((struct toll_str){long_name, TOLL_NAME_MAX + 1}));
    REFUSED(init_llm, f.raw_json = STR("\x90"));
    REFUSED(init_llm, f.raw_json = STR(""));
    REFUSED(init_usage, f.has_session_id = false);
    REFUSED(init_usage, f.quantity_value = TOLL_ABSENT);
    REFUSED(init_usage, f.quantity_value = -0.001);
    REFUSED(init_usage, f.quantity_value = NAN);
    REFUSED(init_usage, f.quantity_value = INFINITY);
    REFUSED(init_speech, f.role = STR("system"));
    REFUSED(init_speech, f.text.ptr = NULL);
    REFUSED(init_stream, f.stream_base = 0);
    REFUSED(init_stream, f.stream_base = 2);
    REFUSED(init_stream, f.stream_seq = TOLL_SEQ_MAX + 1);
    REFUSED(init_stream, f.stream_count = TOLL_DATAGRAM_MAX + 1);
    REFUSED(init_stream, (f.stream_seq = TOLL_SEQ_MAX, f.stream_count = 2));
}
END_TEST

START_TEST(encode_takes_the_limits)
{
    static char long_name[TOLL_NAME_MAX];
    struct toll_frame frame, found;

    init_llm(&frame);
    frame.input_tokens = frame.output_tokens = frame.cached_input_tokens = frame.reasoning_tokens = TOLL_COUNT_MAX;
    frame.duration_us = TOLL_DURATION_MAX;
    frame.ttfb_us = 0;
    memset(long_name, 'x', sizeof(long_name));
    frame.agent = (struct toll_str){long_name, sizeof(long_name)};
    frame.text = STR("not a field of llm, so it is not looked at");
    int size = toll_frame_encode(&frame, bytes, sizeof(bytes));
    ck_assert_int_gt(size, 0);
    ck_assert_int_eq(toll_frame_decode(decoder, bytes, (size_t)size, &found, reason), 0);
    ck_assert_int_eq(found.duration_us, TOLL_DURATION_MAX);
    ck_assert_int_eq(found.ttfb_us, 0);
    ck_assert_int_eq(found.input_tokens, TOLL_COUNT_MAX);
    ck_assert_ptr_null(found.text.ptr);
    ck_assert_ptr_null(found.raw_json.ptr);
}
END_TEST

/* What the limit of durations rests on: milliseconds stored as float8 give back the same microseconds, in C
 * and in SQL. */
START_TEST(durations_survive_milliseconds)
{
    for (int64_t us = TOLL_DURATION_MAX; us > TOLL_DURATION_MAX - 100000; us--) {
        double ms = (double)us / 1000.0;
        ck_assert_int_eq(llround(ms * 1000.0), us);
        ck_assert_int_eq((int64_t)rint(ms * 1000.0), us);
    }
}
END_TEST

/* --- the decoder --- */

START_TEST(decode_takes_one_frame_only)
{
    struct toll_frame frame, found;

    init_llm(&frame);
    int size = toll_frame_encode(&frame, bytes, sizeof(bytes));
    bytes[size] = 0xc0;
    ck_assert_int_eq(toll_frame_decode(decoder, bytes, (size_t)size + 1, &found, reason), -EBADMSG);
    ck_assert_str_eq(reason, "malformed msgpack");
    ck_assert_int_eq(toll_frame_decode(decoder, bytes, 0, &found, reason), -EBADMSG);
    ck_assert_int_eq(toll_frame_decode(decoder, bytes, (size_t)size, &found, reason), 0);
    ck_assert_str_eq(reason, "");
}
END_TEST

struct builder {
    size_t size;
    uint32_t pairs;
};

static void put(struct builder *b, const void *data, size_t size)
{
    if (b->size + size > sizeof(bytes)) /* check notes where each of its assertions stands, in a file */
        ck_abort_msg("no room for %zu bytes", size);
    memcpy(bytes + b->size, data, size);
    b->size += size;
}

static void put_head(struct builder *b, uint8_t first, uint32_t count)
{
    put(b, (uint8_t[]){first, (uint8_t)(count >> 8), (uint8_t)count}, 3);
}

static const char gap[] = "\xa4type\xa3gap\xa5"
                          "count\x01";

static void put_keys(struct builder *b, int n, int repeat)
{
    for (int i = 0; i < n; i++) {
        char key[8];
        snprintf(key, sizeof(key), "\xa4%04x", (unsigned)(i == n - 1 && repeat >= 0 ? repeat : i) & 0xffff);
        put(b, key, 5);
        put(b, "\xc0", 1);
    }
}

/* 10,000 keys that are not known, ones that repeat, and as many in `raw`, a hundred times over: quadratic
 * work would take minutes. */
START_TEST(decode_of_hostile_keys_is_quick)
{
    struct toll_frame found;

    for (int round = 0; round < 100; round++) {
        struct builder b = {0};
        put_head(&b, 0xde, 2 + 10000);
        put(&b, gap, sizeof(gap) - 1);
        put_keys(&b, 10000, round % 2 ? 0 : -1);
        ck_assert_int_eq(toll_frame_decode(decoder, bytes, b.size, &found, reason), round % 2 ? -EINVAL : 0);
        ck_assert_str_eq(reason, round % 2 ? "gap: repeated key \"0000\"" : "");

        static const char usage[] = "\xa4type\xa5usage\xa5meter\xa1m\xa8quantity\x01\xa7"
                                    "account\xa1"
                                    "a\xa3raw";
        b = (struct builder){0};
        put_head(&b, 0xde, 5 + 5000);
        put(&b, usage, sizeof(usage) - 1);
        put_head(&b, 0xde, 5000);
        put_keys(&b, 5000, -1);
        put_keys(&b, 5000, -1);
        ck_assert_int_eq(toll_frame_decode(decoder, bytes, b.size, &found, reason), 0);
        ck_assert_ptr_nonnull(memmem(found.raw_json.ptr, found.raw_json.len, "\"frame.1387\"", 12));
    }
}
END_TEST

START_TEST(decode_of_bad_text_stays_within_its_memory)
{
    struct toll_frame frame, found;
    static char text[TOLL_DATAGRAM_MAX - 100];

    init_speech(&frame);
    memset(text, 0xff, sizeof(text));
    frame.text = (struct toll_str){text, sizeof(text)};
    int size = toll_frame_encode(&frame, bytes, sizeof(bytes));
    ck_assert_int_gt(size, 0);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(toll_frame_decode(decoder, bytes, (size_t)size, &found, reason), 0);
        ck_assert_uint_eq(found.text.len, 3 * sizeof(text));
        ck_assert(toll_utf8_clean(found.text.ptr, found.text.len));
        ck_assert_uint_eq(found.replaced, 1);
    }
}
END_TEST

/* Whatever is wrong with a transcript or with metadata, the reason does not repeat what was said. */
#define SPEECH                                                                                                         \
    "\xa4type\xaatranscript\xaasession_id\xc4\x10"                                                                     \
    "ABCDEFGHIJKLMNOP"
#define START "\xa4type\xadsession_start\xaasession_id\xc4\x10ZBCDEFGHIJKLMNOP"

START_TEST(reasons_keep_secrets)
{
    static const struct {
        const char *bytes, *reason;
    } cases[] = {
        {"\x84" SPEECH "\xa4text\xa6SECRET\xa4role\xa6SECRET", "transcript: role: must be \"user\" or \"assistant\""},
        {"\x83" SPEECH "\xa4text\x91\xa6SECRET", "transcript: text: expected a string, got an array"},
        {"\x84" SPEECH "\xa4text\xa6SECRET\xa4text\xa6SECRET", "transcript: repeated key \"text\""},
        {"\x83" START "\xa8metadata\xa6SECRET", "session_start: metadata: expected a map, got a string"},
        {"\x83" START "\xa8metadata\x82\xa1k\xa6SECRET\xa1k\xa6SECRET", "session_start: metadata: repeated key \"k\""},
        {"\x83" START "\xa8metadata\x81\x91\xa6SECRET\xc0", "session_start: metadata: a key is a map or an array"},
    };
    struct toll_frame found;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int r = toll_frame_decode(decoder, cases[i].bytes, strlen(cases[i].bytes), &found, reason);
        ck_assert_int_eq(r, -EINVAL);
        ck_assert_str_eq(reason, cases[i].reason);
    }
}
END_TEST

/* "stream" and a NUL passed for the envelope's type, and was none: an assertion failed. */
START_TEST(type_with_a_nul_is_unknown)
{
    static const char stream[] = "\x81\xa4type\xa7stream", llm[] = "\x81\xa4type\xa4llm"; /* and the string's NUL */
    struct toll_frame found;

    ck_assert_int_eq(toll_frame_decode(decoder, stream, sizeof(stream), &found, reason), -EINVAL);
    ck_assert_str_eq(reason, "unknown type \"stream\\x00\"");
    ck_assert_int_eq(toll_frame_decode(decoder, llm, sizeof(llm), &found, reason), -EINVAL);
    ck_assert_str_eq(reason, "unknown type \"llm\\x00\"");
}
END_TEST

START_TEST(reasons_are_short_and_printable)
{
    struct toll_frame found;

    for (int length = 0; length < 300; length++) {
        struct builder b = {0};
        put(&b, "\x81\xa4type", 6);
        put_head(&b, 0xda, (uint32_t)length);
        for (int i = 0; i < length; i++)
            put(&b, &(char){(char)(i * 7)}, 1);
        ck_assert_int_eq(toll_frame_decode(decoder, bytes, b.size, &found, reason), -EINVAL);
        ck_assert_uint_lt(strlen(reason), 128);
        for (const char *c = reason; *c; c++)
            ck_assert(*c >= 0x20 && *c < 0x7f);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("frame");
    TCase *tcase = tcase_create("frame");
    SRunner *runner = srunner_create(suite);

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, types_have_names);
    tcase_add_test(tcase, encode_needs_room_for_all);
    tcase_add_test(tcase, encode_writes_integers_as_msgpack_c_does);
    tcase_add_test(tcase, envelope_is_what_the_table_says);
    tcase_add_test(tcase, encode_refuses_what_no_daemon_takes);
    tcase_add_test(tcase, encode_takes_the_limits);
    tcase_add_test(tcase, durations_survive_milliseconds);
    tcase_add_test(tcase, decode_takes_one_frame_only);
    tcase_add_test(tcase, decode_of_hostile_keys_is_quick);
    tcase_add_test(tcase, decode_of_bad_text_stays_within_its_memory);
    tcase_add_test(tcase, reasons_keep_secrets);
    tcase_add_test(tcase, type_with_a_nul_is_unknown);
    tcase_add_test(tcase, reasons_are_short_and_printable);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
