/* Tests of client/toll.h as a worker uses it: frames, refusals, totals, ids, options. */
#include "tests/unit/fake_daemon.h"

#include <math.h>

static struct fake_daemon daemon_;
static struct fake_daemon *d = &daemon_;
static struct toll *t;

static void setup(void)
{
    fake_daemon_start(d);
    t = fake_open(d, NULL);
}

static void teardown(void)
{
    toll_close(t, 0);
    fake_daemon_stop(d);
}

/* The next frame, decoded in full; its strings live until the next call. */
static struct toll_frame next_frame(void)
{
    static uint8_t buf[TOLL_DATAGRAM_MAX];
    ssize_t n = recv(d->fd, buf, sizeof buf, 0);
    ck_assert_int_gt(n, 0);
    const void *bytes;
    size_t pos = 0, size;
    struct toll_frame frame;
    char reason[TOLL_REASON_MAX];
    ck_assert_int_eq(toll_walk_next(buf, (size_t)n, &pos, &bytes, &size), 1);
    ck_assert_int_eq(toll_walk_next(buf, (size_t)n, &pos, &bytes, &size), 1);
    ck_assert_msg(toll_frame_decode(d->decoder, bytes, size, &frame, reason) == 0, "%s", reason);
    ck_assert_uint_eq(pos, (size_t)n);
    return frame;
}

#define CHECK_STR(str, expected)                                                                                       \
    do {                                                                                                               \
        struct toll_str str_ = (str);                                                                                  \
        ck_assert_uint_eq(str_.len, strlen(expected));                                                                 \
        ck_assert_mem_eq(str_.ptr, expected, str_.len);                                                                \
    } while (0)

START_TEST(session_start_carries_metadata)
{
    static const struct toll_pair pairs[] = {{"user_id", "u_42"}, {"region", "eu-central-and-forty-more-characters-x"}};
    ck_assert_int_eq(toll_session_start(t, fake_call,
                                        &(struct toll_session_info){.started_at_us = 1700000000000000,
                                                                    .metadata = {.pairs = pairs, .count = 2}}),
                     0);
    struct toll_frame f = next_frame();
    ck_assert_int_eq(f.type, TOLL_FRAME_SESSION_START);
    ck_assert_mem_eq(f.session_id, fake_call, 16);
    ck_assert_int_eq(f.time_us, 1700000000000000);
    CHECK_STR(f.metadata, "{\"user_id\":\"u_42\",\"region\":\"eu-central-and-forty-more-characters-x\"}");

    static const char ready[] = "\x81\xa1k\x92\x01\xc3"; /* {"k": [1, true]} */
    ck_assert_int_eq(toll_session_start(t, fake_call,
                                        &(struct toll_session_info){.metadata = {.msgpack = ready, .msgpack_size = 6}}),
                     0);
    f = next_frame();
    CHECK_STR(f.metadata, "{\"k\":[1,true]}");
    ck_assert_int_eq(toll_session_start(t, fake_call, NULL), 0);
    f = next_frame();
    ck_assert_int_ne(f.time_us, TOLL_TIME_MISSING); /* stamped by the library */
}
END_TEST

START_TEST(llm_carries_every_field)
{
    static const unsigned char turn[16] = {9};
    static const struct toll_pair raw[] = {{"system_fingerprint", "fp_1"}};
    ck_assert_int_eq(toll_llm(t, fake_call,
                              &(struct toll_llm_usage){.provider = "openai",
                                                       .model = "gpt-4o-realtime",
                                                       .input_tokens = 100,
                                                       .output_tokens = 50,
                                                       .cached_input_tokens = 30,
                                                       .cache_write_tokens = 10,
                                                       .audio_input_tokens = 40,
                                                       .cached_audio_tokens = 20,
                                                       .audio_output_tokens = 25,
                                                       .reasoning_tokens = 5,
                                                       .estimated = true,
                                                       .interrupted = true,
                                                       .turn_id = turn,
                                                       .agent = "router",
                                                       .request_id = "r-1",
                                                       .ttfb_us = 412345,
                                                       .duration_us = 1500000,
                                                       .occurred_at_us = 5,
                                                       .raw = {.pairs = raw, .count = 1}}),
                     0);
    struct toll_frame f = next_frame();
    CHECK_STR(f.provider, "openai");
    CHECK_STR(f.model, "gpt-4o-realtime");
    CHECK_STR(f.agent, "router");
    CHECK_STR(f.request_id, "r-1");
    CHECK_STR(f.raw_json, "{\"system_fingerprint\":\"fp_1\"}");
    ck_assert_int_eq(f.input_tokens, 100);
    ck_assert_int_eq(f.output_tokens, 50);
    ck_assert_int_eq(f.cached_input_tokens, 30);
    ck_assert_int_eq(f.cache_write_tokens, 10);
    ck_assert_int_eq(f.audio_input_tokens, 40);
    ck_assert_int_eq(f.cached_audio_tokens, 20);
    ck_assert_int_eq(f.audio_output_tokens, 25);
    ck_assert_int_eq(f.reasoning_tokens, 5);
    ck_assert(f.estimated && f.interrupted && f.has_turn_id);
    ck_assert_mem_eq(f.turn_id, turn, 16);
    ck_assert_int_eq(f.ttfb_us, 412345);
    ck_assert_int_eq(f.duration_us, 1500000);
    ck_assert_int_eq(f.time_us, 5);
}
END_TEST

START_TEST(other_types_carry_their_fields)
{
    ck_assert_int_eq(toll_tts(t, fake_call,
                              &(struct toll_tts_usage){.provider = "elevenlabs",
                                                       .char_count = 77,
                                                       .voice = "Rachel",
                                                       .audio_duration_us = 4200001,
                                                       .interrupted = true}),
                     0);
    struct toll_frame f = next_frame();
    ck_assert_int_eq(f.type, TOLL_FRAME_TTS);
    ck_assert_int_eq(f.char_count, 77);
    ck_assert_int_eq(f.audio_duration_us, 4200001);
    ck_assert_int_eq(f.input_tokens, TOLL_ABSENT);
    CHECK_STR(f.voice, "Rachel");

    ck_assert_int_eq(
        toll_stt(t, fake_call,
                 &(struct toll_stt_usage){
                     .provider = "deepgram", .audio_duration_us = 3141593, .model = "nova-3", .language = "de"}),
        0);
    f = next_frame();
    ck_assert_int_eq(f.type, TOLL_FRAME_STT);
    ck_assert_int_eq(f.audio_duration_us, 3141593);
    CHECK_STR(f.language, "de");

    ck_assert_int_eq(
        toll_usage(t, fake_call, &(struct toll_meter_usage){.meter = "telephony_inbound", .quantity = 0.1}), 0);
    f = next_frame();
    CHECK_STR(f.meter, "telephony_inbound");
    ck_assert_str_eq(f.quantity, "0.1");
    ck_assert_int_eq(
        toll_usage(t, NULL, &(struct toll_meter_usage){.meter = "storage_mb", .quantity = 3, .account = "acme"}), 0);
    f = next_frame();
    ck_assert(!f.has_session_id);
    CHECK_STR(f.account, "acme");

    ck_assert_int_eq(
        toll_transcript(
            t, fake_call,
            &(struct toll_turn){
                .role = "user", .text = "привет, мир", .text_size = 12, .language = "ru", .interrupted = true}),
        0);
    f = next_frame();
    CHECK_STR(f.text, "привет");
    CHECK_STR(f.role, "user");
    ck_assert(f.interrupted);
    ck_assert_int_eq(toll_transcript(t, fake_call, &(struct toll_turn){.role = "assistant", .text = ""}), 0);
    f = next_frame();
    ck_assert_uint_eq(f.text.len, 0);

    ck_assert_int_eq(toll_session_end(t, fake_call, &(struct toll_session_result){.finish_reason = "cancel"}), 0);
    f = next_frame();
    CHECK_STR(f.finish_reason, "cancel");
    ck_assert_int_eq(toll_session_end(t, fake_call, NULL), 0);
    f = next_frame();
    CHECK_STR(f.finish_reason, "end");
}
END_TEST

START_TEST(missing_time_is_the_time_of_recording)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    struct toll_frame f = next_frame();
    ck_assert_int_ge(f.time_us, (int64_t)now.tv_sec * 1000000);
    ck_assert_int_le(f.time_us, (int64_t)(now.tv_sec + 60) * 1000000);
}
END_TEST

START_TEST(invalid_frames_are_refused_and_counted)
{
    static char long_name[258];
    memset(long_name, 'n', sizeof long_name - 1);
    static const struct toll_pair twice[] = {{"k", "1"}, {"k", "2"}}, half[] = {{"k", NULL}};
    static const char truncated[] = "\x82\xa1k\x01", two[] = "\x80\x80", array[] = "\x90";
    static const char deep[] = "\x81\xa1k\x91\x91\x91\x91\x91\x91\x91\x90";
    struct toll_llm_usage llm = {.provider = "p", .model = "m", .input_tokens = 1};
#define REFUSED(call) ck_assert_int_eq(call, -EINVAL)
    REFUSED(toll_llm(t, NULL, &llm));
    REFUSED(toll_llm(t, fake_call, &(struct toll_llm_usage){.provider = "p"}));
    REFUSED(toll_llm(t, fake_call, &(struct toll_llm_usage){.provider = long_name, .model = "m"}));
    REFUSED(toll_llm(t, fake_call, &(struct toll_llm_usage){.provider = "p", .model = "m", .input_tokens = 1u << 31}));
    REFUSED(
        toll_llm(t, fake_call,
                 &(struct toll_llm_usage){.provider = "p", .model = "m", .input_tokens = 5, .cached_input_tokens = 6}));
    REFUSED(toll_stt(t, fake_call, &(struct toll_stt_usage){.provider = "p", .audio_duration_us = UINT64_MAX}));
    REFUSED(toll_usage(t, NULL, &(struct toll_meter_usage){.meter = "m", .quantity = 1}));
    REFUSED(toll_usage(t, fake_call, &(struct toll_meter_usage){.meter = "m", .quantity = (double)NAN}));
    REFUSED(toll_usage(t, fake_call, &(struct toll_meter_usage){.meter = "m", .quantity = -1}));
    REFUSED(toll_transcript(t, fake_call, &(struct toll_turn){.role = "bot", .text = "x"}));
    REFUSED(toll_transcript(t, fake_call, &(struct toll_turn){.role = "user"}));
    REFUSED(toll_session_start(t, fake_call, &(struct toll_session_info){.metadata = {.pairs = twice, .count = 2}}));
    REFUSED(toll_session_start(t, fake_call, &(struct toll_session_info){.metadata = {.pairs = half, .count = 1}}));
    llm.raw = (struct toll_map){.msgpack = truncated, .msgpack_size = 4};
    REFUSED(toll_llm(t, fake_call, &llm));
    llm.raw = (struct toll_map){.msgpack = two, .msgpack_size = 2};
    REFUSED(toll_llm(t, fake_call, &llm));
    llm.raw = (struct toll_map){.msgpack = array, .msgpack_size = 1};
    REFUSED(toll_llm(t, fake_call, &llm));
    llm.raw = (struct toll_map){.msgpack = deep, .msgpack_size = 11};
    REFUSED(toll_llm(t, fake_call, &llm));
    ck_assert_uint_eq(fake_stats(t).refused_invalid, 17);
    ck_assert_uint_eq(fake_stats(t).recorded, 0);
    ck_assert(!fake_daemon_read(d));
    ck_assert_int_eq(fake_record(t, NULL), 0); /* and the neighbours are fine */
}
END_TEST

START_TEST(large_frames_up_to_the_limit)
{
    static char text[70000];
    memset(text, 'x', sizeof text);
    struct toll_turn turn = {.role = "user", .text = text, .text_size = 65000};
    ck_assert_int_eq(toll_transcript(t, fake_call, &turn), 0);
    ck_assert_uint_eq(next_frame().text.len, 65000);
    turn.text_size = 65200;
    ck_assert_int_eq(toll_transcript(t, fake_call, &turn), -EMSGSIZE);
    turn.text_size = sizeof text;
    ck_assert_int_eq(toll_transcript(t, fake_call, &turn), -EMSGSIZE);
    turn.text_size = SIZE_MAX;
    ck_assert_int_eq(toll_transcript(t, fake_call, &turn), -EMSGSIZE);
    ck_assert_int_eq(
        toll_session_start(t, fake_call,
                           &(struct toll_session_info){.metadata = {.msgpack = text, .msgpack_size = SIZE_MAX}}),
        -EMSGSIZE);
    ck_assert_uint_eq(fake_stats(t).refused_too_large, 4);
    ck_assert_uint_eq(fake_stats(t).gap_pending, 0);
}
END_TEST

START_TEST(frame_larger_than_the_ring_is_too_large)
{
    static char text[4096];
    memset(text, 'x', sizeof text - 1);
    struct toll *small = fake_open(d, &(struct toll_options){.ring_bytes = 1});
    ck_assert_int_eq(toll_transcript(small, fake_call, &(struct toll_turn){.role = "user", .text = text}), -EMSGSIZE);
    ck_assert_int_eq(
        toll_transcript(small, fake_call, &(struct toll_turn){.role = "user", .text = text, .text_size = 3800}), 0);
    ck_assert_uint_eq(fake_stats(small).ring_bytes, 4096);
    toll_close(small, 0);
}
END_TEST

START_TEST(snapshot_is_the_sum_of_what_was_accepted)
{
    struct toll_snapshot s;
    ck_assert_int_eq(toll_snapshot(t, fake_call, &s), -ENOENT);
    ck_assert_int_eq(toll_session_start(t, fake_call, &(struct toll_session_info){.started_at_us = 77}), 0);
    for (uint32_t i = 1; i <= 10; i++) {
        ck_assert_int_eq(toll_llm(t, fake_call,
                                  &(struct toll_llm_usage){.provider = "p",
                                                           .model = "m",
                                                           .input_tokens = 2000000000,
                                                           .output_tokens = i,
                                                           .cached_input_tokens = 7}),
                         0);
        ck_assert_int_eq(toll_tts(t, fake_call, &(struct toll_tts_usage){.provider = "p", .char_count = i}), 0);
        ck_assert_int_eq(toll_stt(t, fake_call, &(struct toll_stt_usage){.provider = "p", .audio_duration_us = 333}),
                         0);
    }
    ck_assert_int_eq(toll_llm(t, fake_call, &(struct toll_llm_usage){.provider = "p"}), -EINVAL);
    ck_assert_int_eq(toll_usage(t, fake_call, &(struct toll_meter_usage){.meter = "m", .quantity = 1}), 0);
    ck_assert_int_eq(toll_transcript(t, fake_call, &(struct toll_turn){.role = "user", .text = "x"}), 0);
    ck_assert_int_eq(toll_session_start(t, fake_call, NULL), 0); /* a second start erases nothing */
    ck_assert_int_eq(toll_snapshot(t, fake_call, &s), 0);
    ck_assert_int_eq(s.started_at_us, 77);
    ck_assert_uint_eq(s.llm_calls, 10);
    ck_assert_uint_eq(s.llm_input_tokens, 20000000000);
    ck_assert_uint_eq(s.llm_output_tokens, 55);
    ck_assert_uint_eq(s.llm_cached_input_tokens, 70);
    ck_assert_uint_eq(s.tts_calls, 10);
    ck_assert_uint_eq(s.tts_chars, 55);
    ck_assert_uint_eq(s.stt_calls, 10);
    ck_assert_uint_eq(s.stt_audio_us, 3330);
    ck_assert_uint_eq(s.usages, 1);
    ck_assert_uint_eq(s.transcripts, 1);
    ck_assert_int_eq(toll_session_end(t, fake_call, NULL), 0);
    ck_assert_int_eq(toll_snapshot(t, fake_call, &s), -ENOENT);
}
END_TEST

START_TEST(snapshot_table_full_recording_goes_on)
{
    struct toll *small = fake_open(d, &(struct toll_options){.max_sessions = 2});
    struct toll_snapshot s;
    unsigned char id[3][16];
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(toll_id_random(id[i]), 0);
        ck_assert_int_eq(toll_session_start(small, id[i], NULL), 0);
    }
    ck_assert_int_eq(toll_snapshot(small, id[1], &s), 0);
    ck_assert_int_eq(toll_snapshot(small, id[2], &s), -ENOSPC);
    ck_assert_int_eq(toll_session_end(small, id[2], NULL), 0);
    ck_assert_int_eq(toll_session_end(small, id[0], NULL), 0);
    ck_assert_int_eq(toll_session_start(small, id[0], NULL), 0);
    ck_assert_int_eq(toll_snapshot(small, id[0], &s), 0);
    toll_close(small, 0);
}
END_TEST

START_TEST(ids_parse_and_format)
{
    unsigned char id[16], again[16];
    char text[37];
    ck_assert_int_eq(toll_id_parse("6BA7B810-9dad-11d1-80b4-00c04fd430c8", id), 0);
    ck_assert_uint_eq(id[0], 0x6b);
    ck_assert_uint_eq(id[15], 0xc8);
    toll_id_format(id, text);
    ck_assert_str_eq(text, "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    static const char *const bad[] = {"",
                                      "6ba7b810",
                                      "6ba7b810-9dad-11d1-80b4-00c04fd430c",
                                      "6ba7b8109dad11d180b400c04fd430c8",
                                      "6ba7b810-9dad-11d1-80b4-00c04fd430c8 ",
                                      "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
                                      "6ba7b810-9dad-11d1-80b4_00c04fd430c8"};
    memcpy(again, id, 16);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_int_eq(toll_id_parse(bad[i], again), -EINVAL);
    ck_assert_mem_eq(again, id, 16); /* untouched by failures */
    ck_assert_int_eq(toll_id_random(id), 0);
    ck_assert_int_eq(toll_id_random(again), 0);
    ck_assert_mem_ne(id, again, 16);
    ck_assert_uint_eq(id[6] >> 4, 4);
    ck_assert_uint_eq(id[8] >> 6, 2);
}
END_TEST

START_TEST(options_are_checked_and_default)
{
    struct toll *x = NULL;
    static char long_path[200];
    memset(long_path, 'p', sizeof long_path - 1);
    ck_assert_int_eq(toll_open(&(struct toll_options){.socket = long_path}, &x), -ENAMETOOLONG);
    ck_assert_int_eq(toll_open(&(struct toll_options){.ring_bytes = SIZE_MAX}, &x), -EINVAL);
    ck_assert_int_eq(toll_open(&(struct toll_options){.max_sessions = UINT32_MAX}, &x), -EINVAL);
    ck_assert_ptr_null(x);
    ck_assert_int_eq(setenv("TOLL_SOCKET", d->path, 1), 0);
    ck_assert_int_eq(toll_open(NULL, &x), 0);
    ck_assert_uint_eq(fake_stats(x).ring_bytes, 1 << 20);
    ck_assert_int_eq(fake_record(x, NULL), 0);
    ck_assert(fake_daemon_read(d));
    ck_assert_str_eq(d->client, "test_toll"); /* the program's name */
    toll_close(x, 0);
}
END_TEST

START_TEST(thread_resends_by_itself)
{
    toll_close(t, 0);
    ck_assert_int_eq(toll_open(&(struct toll_options){.socket = d->path, .thread_tick_ms = 5}, &t), 0);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    ck_assert(fake_daemon_read(d));
    for (int i = 0; i < 5000 && !fake_daemon_read(d); i++)
        usleep(1000);
    ck_assert_uint_eq(d->envelope.stream_seq, 1);
    ck_assert(d->attached);
}
END_TEST

/* Sanitizers have an allocator of their own, which can't be counted this way. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNT_ALLOCATIONS
static volatile uint64_t allocations; /* volatile: compilers know that malloc changes nothing */
/* NOLINTBEGIN(bugprone-reserved-identifier): glibc's own names */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t nmemb, size_t size);
void *__libc_realloc(void *ptr, size_t size);
/* NOLINTEND(bugprone-reserved-identifier) */
void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}
void *calloc(size_t nmemb, size_t size)
{
    allocations++;
    return __libc_calloc(nmemb, size);
}
void *realloc(void *ptr, size_t size)
{
    allocations++;
    return __libc_realloc(ptr, size);
}

START_TEST(recording_allocates_nothing)
{
    struct toll_snapshot s;
    static const struct toll_pair pairs[] = {{"user_id", "u_42"}};
    uint64_t before = allocations;
    void *volatile some = malloc(1);
    free(some);
    ck_assert_uint_eq(allocations - before, 1); /* the counter counts */
    before = allocations;
    int r = 0;
    for (int i = 0; i < 20000; i++) { /* sent, blocked, coalesced, and in the end refused */
        r |= toll_session_start(t, fake_call, &(struct toll_session_info){.metadata = {.pairs = pairs, .count = 1}});
        fake_record(t, "r");
        toll_transcript(t, fake_call, &(struct toll_turn){.role = "user", .text = "hello"});
        r |= toll_snapshot(t, fake_call, &s);
        fake_advance_ms(1);
        toll_tick(t);
    }
    (void)!toll_flush(t, 1);
    uint64_t after = allocations;
    ck_assert_uint_eq(after, before);
    ck_assert_int_eq(r, -ENOBUFS);
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("toll");
    TCase *tcase = tcase_create("toll");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, session_start_carries_metadata);
    tcase_add_test(tcase, llm_carries_every_field);
    tcase_add_test(tcase, other_types_carry_their_fields);
    tcase_add_test(tcase, missing_time_is_the_time_of_recording);
    tcase_add_test(tcase, invalid_frames_are_refused_and_counted);
    tcase_add_test(tcase, large_frames_up_to_the_limit);
    tcase_add_test(tcase, frame_larger_than_the_ring_is_too_large);
    tcase_add_test(tcase, snapshot_is_the_sum_of_what_was_accepted);
    tcase_add_test(tcase, snapshot_table_full_recording_goes_on);
    tcase_add_test(tcase, ids_parse_and_format);
    tcase_add_test(tcase, options_are_checked_and_default);
    tcase_add_test(tcase, thread_resends_by_itself);
#ifdef COUNT_ALLOCATIONS
    tcase_add_test(tcase, recording_allocates_nothing);
#endif
    suite_add_tcase(suite, tcase);
    return fake_run(suite);
}
