/* Tests of daemon/sink_log: every line is JSON with the frame's fields, and no line comes twice while the
 * process lives. */
#include "daemon/sink_log.h"

#include "tests/unit/datagrams.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { LINES_MAX = 64 };

static struct sink *sink;
static int fds[2];
static json_t *lines[LINES_MAX];
static size_t line_count;
static struct session_table *sessions;

/* Where the watermark is kept. */
static char saved[64];
static size_t saved_size;
static int save_result, load_result;

static int save(void *context, const void *data, size_t size)
{
    (void)context;
    if (save_result < 0)
        return save_result;
    ck_assert_uint_le(size, sizeof(saved));
    memcpy(saved, data, size);
    saved_size = size;
    return 0;
}

static long load(void *context, void *data, size_t cap)
{
    (void)context;
    if (load_result < 0)
        return load_result;
    if (saved_size == 0)
        return -ENOENT;
    ck_assert_uint_ge(cap, saved_size);
    memcpy(data, saved, saved_size);
    return (long)saved_size;
}

static void make_sink(void)
{
    const struct sink_log_options options = {.fd = fds[1], .save = save, .load = load};

    sink = sink_log_new(&options);
    ck_assert_ptr_nonnull(sink);
}

static void setup(void)
{
    ck_assert_int_eq(pipe(fds), 0);
    ck_assert_int_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    saved_size = line_count = 0;
    save_result = load_result = 0;
    sessions = session_table_new();
    make_sink();
}

static void forget_lines(void)
{
    while (line_count > 0)
        json_decref(lines[--line_count]);
}

static void teardown(void)
{
    sink->ops->free(sink);
    session_table_free(sessions);
    forget_lines();
    close(fds[0]);
    close(fds[1]);
}

/* Reads what was written since; every line must be an object at level INFO. */
static void read_lines(void)
{
    static char text[1 << 20];
    ssize_t size = read(fds[0], text, sizeof(text) - 1);
    char *line = text, *end;

    forget_lines();
    text[size > 0 ? size : 0] = '\0';
    for (; (end = strchr(line, '\n')); line = end + 1) {
        json_error_t error;

        ck_assert_uint_lt(line_count, LINES_MAX);
        lines[line_count] = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, &error);
        ck_assert_msg(lines[line_count] != NULL, "%s: %.*s", error.text, (int)(end - line), line);
        ck_assert_str_eq(json_string_value(json_object_get(lines[line_count], "level")), "INFO");
        line_count++;
    }
    ck_assert_str_eq(line, ""); /* no half line */
}

static const char *text_of(size_t i, const char *key)
{
    ck_assert_uint_lt(i, line_count);
    ck_assert_msg(json_is_string(json_object_get(lines[i], key)), "line %zu: no %s", i, key);
    return json_string_value(json_object_get(lines[i], key));
}

static double number_of(size_t i, const char *key)
{
    ck_assert_uint_lt(i, line_count);
    ck_assert_msg(json_is_number(json_object_get(lines[i], key)), "line %zu: no %s", i, key);
    return json_number_value(json_object_get(lines[i], key));
}

static bool has(size_t i, const char *key)
{
    return json_object_get(lines[i], key) != NULL;
}

static uint64_t open_at(uint64_t register_lsn, uint8_t uuid)
{
    struct sink_journal journal = {.register_lsns = &register_lsn, .writers = 1, .host = "test"};
    uint64_t lsn;

    memset(journal.uuid, uuid, sizeof(journal.uuid));
    ck_assert_int_eq(sink->ops->open(sink, &journal, &lsn), 0);
    return lsn;
}

static void begin(uint64_t from, uint64_t to)
{
    ck_assert_int_eq(sink->ops->begin(sink, from, to), 0);
    ck_assert_int_eq(sink->ops->load_streams(sink, NULL, 0), 0);
    ck_assert_int_eq(sink->ops->attempt(sink, false), 0);
}

static void add(const struct toll_frame *frame)
{
    struct sink_origin origin = {.uid = 1};
    struct sink_row row = {
        .frame = frame, .origin = &origin, .occurred_us = frame->time_us, .reported_us = TOLL_TIME_MISSING};

    if (frame->type != TOLL_FRAME_SESSION_START && frame->type != TOLL_FRAME_SESSION_END)
        ck_assert_int_eq(sink->ops->add(sink, &row), 0);
    if (frame->has_session_id)
        ck_assert_int_eq(session_apply(sessions, frame, frame->time_us, TOLL_TIME_MISSING, frame->time_us, 0, NULL), 0);
}

static int commit(uint64_t from, uint64_t to, const struct sink_refused *refused, size_t refused_count)
{
    struct sink_batch batch = {.from = from, .to = to, .refused = refused, .refused_count = refused_count};
    struct session_change *const *changes;
    size_t count;

    changes = session_changes(sessions, &count);
    ck_assert_int_eq(sink->ops->store(sink, changes, count), 0);
    ck_assert_int_eq(sink->ops->finish(sink, &batch), 0);
    return sink->ops->commit(sink);
}

static struct toll_frame llm(int64_t time_us)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_LLM, 1, time_us);

    frame.provider = str_of("openai");
    frame.model = str_of("gpt-4o");
    frame.input_tokens = 100;
    frame.output_tokens = 0;
    return frame;
}

START_TEST(frame_becomes_a_line_with_its_fields)
{
    struct toll_frame frame = llm(INT64_C(1800000000123456));

    open_at(0, 1);
    begin(0, 10);
    frame.estimated = true;
    frame.ttfb_us = 1005;
    frame.agent = str_of("quo\"te \\ \n\x01 \xD0\xBF\xD1\x80");
    frame.raw_json = str_of("{\"x\":[1,{}]}");
    frame.has_turn_id = true;
    add(&frame);
    ck_assert_int_eq(commit(0, 10, NULL, 0), 0);
    read_lines();
    ck_assert_uint_eq(line_count, 1);
    ck_assert_str_eq(text_of(0, "type"), "llm");
    ck_assert_str_eq(text_of(0, "provider"), "openai");
    ck_assert_str_eq(text_of(0, "agent"), "quo\"te \\ \n\x01 \xD0\xBF\xD1\x80");
    ck_assert_str_eq(text_of(0, "session_id"), "00010000-0000-0000-0000-0000000000aa");
    ck_assert_str_eq(text_of(0, "turn_id"), "00000000-0000-0000-0000-000000000000");
    ck_assert(number_of(0, "occurred_at") == 1800000000.123456);
    ck_assert(number_of(0, "input_tokens") == 100);
    ck_assert(number_of(0, "output_tokens") == 0);
    ck_assert(number_of(0, "ttfb_ms") == 1.005);
    ck_assert(json_is_true(json_object_get(lines[0], "estimated")));
    ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(lines[0], "raw_json"), "x")), 2);
    ck_assert(!has(0, "voice") && !has(0, "char_count") && !has(0, "interrupted") && !has(0, "quantity"));
}
END_TEST

START_TEST(every_type_has_its_line)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TTS, 1, 5);

    open_at(0, 1);
    begin(0, 10);
    frame.char_count = 7;
    frame.voice = str_of("v");
    add(&frame);
    frame = frame_of(TOLL_FRAME_STT, 1, 5);
    frame.audio_duration_us = 1234567;
    add(&frame);
    frame = frame_of(TOLL_FRAME_TRANSCRIPT, 1, -1500000);
    frame.role = str_of("assistant");
    frame.text = str_of("hello");
    add(&frame);
    toll_frame_init(&frame, TOLL_FRAME_USAGE);
    frame.meter = str_of("sms");
    frame.account = str_of("acme");
    strcpy(frame.quantity, "1e+21");
    add(&frame);
    toll_frame_init(&frame, TOLL_FRAME_GAP);
    frame.gap_count = INT64_MAX;
    frame.time_us = -1;
    add(&frame);
    ck_assert_int_eq(commit(0, 10, NULL, 0), 0);
    read_lines();
    ck_assert_uint_eq(line_count, 5);
    ck_assert(number_of(0, "char_count") == 7);
    ck_assert_str_eq(text_of(0, "voice"), "v");
    ck_assert(number_of(1, "audio_duration_ms") == 1234.567);
    ck_assert_str_eq(text_of(2, "text"), "hello");
    ck_assert(json_is_false(json_object_get(lines[2], "interrupted")));
    ck_assert(number_of(2, "occurred_at") == -1.5);
    ck_assert(number_of(3, "quantity") == 1e21);
    ck_assert(!has(3, "session_id") && !has(3, "occurred_at"));
    ck_assert_int_eq(json_integer_value(json_object_get(lines[4], "count")), INT64_MAX);
    ck_assert(number_of(4, "occurred_at") == -0.000001);
}
END_TEST

START_TEST(session_ends_with_its_totals)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_START, 1, 1000000);

    open_at(0, 1);
    begin(0, 10);
    frame.metadata = str_of("{\"user_id\":\"u_42\"}");
    add(&frame);
    frame = llm(2000000);
    add(&frame);
    ck_assert_int_eq(commit(0, 10, NULL, 0), 0);
    session_settle(sessions, 100);
    read_lines();
    ck_assert_uint_eq(line_count, 2);
    begin(10, 20);
    frame = llm(3000000);
    add(&frame);
    frame = frame_of(TOLL_FRAME_SESSION_END, 1, 4000000);
    frame.finish_reason = str_of("stop");
    add(&frame);
    ck_assert_int_eq(commit(10, 20, NULL, 0), 0);
    session_settle(sessions, 100);
    read_lines();
    ck_assert_uint_eq(line_count, 2);
    ck_assert_str_eq(text_of(1, "type"), "session_end");
    ck_assert_str_eq(text_of(1, "finish_reason"), "stop");
    ck_assert(number_of(1, "ended_at") == 4.0);
    ck_assert(number_of(1, "llm_input_tokens") == 200);
    ck_assert(number_of(1, "llm_calls") == 2);
    ck_assert(number_of(1, "stt_audio_ms") == 0);
    ck_assert_uint_eq(session_count(sessions), 0); /* finalized: forgotten */
}
END_TEST

START_TEST(orphan_ends_at_its_last_activity)
{
    struct toll_frame frame = llm(3000000);

    open_at(0, 1);
    begin(0, 10);
    add(&frame);
    ck_assert_int_eq(commit(0, 10, NULL, 0), 0);
    session_settle(sessions, 100);
    read_lines();
    ck_assert_int_eq(session_plan_orphans(sessions, 3000001, 10), 1);
    begin(10, 10);
    ck_assert_int_eq(commit(10, 10, NULL, 0), 0);
    read_lines();
    ck_assert_uint_eq(line_count, 1);
    ck_assert_str_eq(text_of(0, "finish_reason"), "orphaned");
    ck_assert(number_of(0, "ended_at") == 3.0);
}
END_TEST

START_TEST(quarantine_gives_the_reason_not_the_bytes)
{
    struct sink_refused refused = {.origin = {.data = "secret", .size = 6, .uid = 7, .pid = 8},
                                   .reason = "llm: \"model\" is missing"};

    open_at(0, 1);
    begin(0, 10);
    ck_assert_int_eq(commit(0, 10, &refused, 1), 0);
    read_lines();
    ck_assert_uint_eq(line_count, 1);
    ck_assert_str_eq(text_of(0, "reason"), "llm: \"model\" is missing");
    ck_assert(number_of(0, "bytes") == 6 && number_of(0, "uid") == 7 && number_of(0, "pid") == 8);
}
END_TEST

START_TEST(watermark_is_kept_between_runs_of_one_journal)
{
    ck_assert_uint_eq(open_at(3, 1), 3);
    begin(3, 10);
    ck_assert_int_eq(commit(3, 10, NULL, 0), 0);
    ck_assert_int_eq(sink->ops->begin(sink, 3, 10), -ESTALE);
    sink->ops->abort(sink);
    sink->ops->free(sink);
    make_sink();
    ck_assert_uint_eq(open_at(0, 1), 10);
    ck_assert_uint_eq(open_at(50, 1), 50); /* the journal keeps no more than that */
    ck_assert_uint_eq(open_at(0, 2), 0);   /* another journal begins at its own beginning */
}
END_TEST

/* Or every line of the journal would be written again. */
START_TEST(watermark_that_cannot_be_read_now_is_not_none)
{
    const uint64_t oldest = 0;
    struct sink_journal journal = {.uuid = {1}, .writers = 1, .register_lsns = &oldest};
    uint64_t lsn = 7;

    load_result = -ENOMEM;
    ck_assert_int_eq(sink->ops->open(sink, &journal, &lsn), -EAGAIN);
    ck_assert_str_eq(sink->ops->error(sink), "reading the watermark: Cannot allocate memory");
    ck_assert_uint_eq(lsn, 7);
    load_result = -EBADMSG; /* for good: then all is written again */
    ck_assert_int_eq(sink->ops->open(sink, &journal, &lsn), 0);
    ck_assert_uint_eq(lsn, 0);
}
END_TEST

START_TEST(aborted_batch_writes_nothing)
{
    struct toll_frame frame = llm(1);

    open_at(0, 1);
    begin(0, 10);
    add(&frame);
    sink->ops->abort(sink);
    ck_assert_uint_eq(open_at(0, 1), 0);
    read_lines();
    ck_assert_uint_eq(line_count, 0);
    begin(0, 5); /* and leaves nothing for the next one */
    session_table_clear(sessions);
    ck_assert_int_eq(commit(0, 5, NULL, 0), 0);
    read_lines();
    ck_assert_uint_eq(line_count, 0);
}
END_TEST

/* What was written is not written again because its watermark could not be saved. */
START_TEST(watermark_that_cannot_be_saved_repeats_no_line)
{
    struct toll_frame frame = llm(1);

    open_at(0, 1);
    begin(0, 10);
    add(&frame);
    save_result = -ENOSPC;
    ck_assert_int_eq(commit(0, 10, NULL, 0), -EAGAIN);
    ck_assert_ptr_nonnull(strstr(sink->ops->error(sink), "No space"));
    sink->ops->abort(sink);
    read_lines();
    ck_assert_uint_eq(line_count, 1);
    save_result = 0;
    ck_assert_uint_eq(open_at(0, 1), 10);
}
END_TEST

START_TEST(reader_that_is_gone_means_trying_again)
{
    struct toll_frame frame = llm(1);

    signal(SIGPIPE, SIG_IGN);
    open_at(0, 1);
    begin(0, 10);
    add(&frame);
    close(fds[0]);
    ck_assert_int_eq(commit(0, 10, NULL, 0), -EAGAIN);
    sink->ops->abort(sink);
    ck_assert_uint_eq(open_at(0, 1), 0);
    fds[0] = open("/dev/null", O_RDONLY);
}
END_TEST

static void *read_slowly(void *argument)
{
    size_t *total = argument;
    char chunk[1000];

    for (ssize_t n = 1; n != 0;) {
        n = read(fds[0], chunk, sizeof(chunk));
        *total += n > 0 ? (size_t)n : 0;
    }
    return NULL;
}

START_TEST(slow_reader_gets_everything)
{
    static char text[50000];
    struct toll_frame frame = frame_of(TOLL_FRAME_TRANSCRIPT, 1, 1);
    pthread_t thread;
    size_t total = 0;

    memset(text, 'x', sizeof(text));
    frame.role = str_of("user");
    frame.text = (struct toll_str){text, sizeof(text)};
    ck_assert_int_eq(fcntl(fds[0], F_SETFL, 0), 0);
    ck_assert_int_eq(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, read_slowly, &total), 0);
    open_at(0, 1);
    begin(0, 10);
    for (unsigned i = 0; i < 20; i++)
        add(&frame);
    ck_assert_int_eq(commit(0, 10, NULL, 0), 0);
    close(fds[1]);
    pthread_join(thread, NULL);
    ck_assert_uint_gt(total, 20 * sizeof(text));
    fds[1] = open("/dev/null", O_WRONLY);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sink_log");
    TCase *tests = tcase_create("sink_log");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, frame_becomes_a_line_with_its_fields);
    tcase_add_test(tests, every_type_has_its_line);
    tcase_add_test(tests, session_ends_with_its_totals);
    tcase_add_test(tests, orphan_ends_at_its_last_activity);
    tcase_add_test(tests, quarantine_gives_the_reason_not_the_bytes);
    tcase_add_test(tests, watermark_is_kept_between_runs_of_one_journal);
    tcase_add_test(tests, watermark_that_cannot_be_read_now_is_not_none);
    tcase_add_test(tests, aborted_batch_writes_nothing);
    tcase_add_test(tests, watermark_that_cannot_be_saved_repeats_no_line);
    tcase_add_test(tests, reader_that_is_gone_means_trying_again);
    tcase_add_test(tests, slow_reader_gets_everything);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
