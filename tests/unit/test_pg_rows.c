/* Tests of daemon/pg_rows: each value stands in the column that the COPY command names for it. */
#include "daemon/pg_rows.h"

#include "tests/unit/datagrams.h"

#include <ctype.h>
#include <stdlib.h>

enum { COLUMNS_MAX = 40 };

struct column {
    char name[40];
    int32_t size; /* -1: NULL */
    const uint8_t *data;
};

static struct copy_buffer buf;
static struct column columns[COLUMNS_MAX];
static size_t column_count;

static void setup(void)
{
    buf = (struct copy_buffer){0};
    copy_begin(&buf);
}

static void teardown(void)
{
    copy_done(&buf);
}

static uint64_t read_int(const uint8_t *data, size_t size)
{
    uint64_t value = 0;

    for (size_t i = 0; i < size; i++)
        value = value << 8 | data[i];
    return value;
}

/* Takes the one row apart by the column list of its COPY command; begins anew. */
static void read_row(const char *sql)
{
    const uint8_t *p = (const uint8_t *)buf.data + 19, *end = (const uint8_t *)buf.data + buf.size;
    const char *name = strchr(sql, '(');

    ck_assert(!buf.failed);
    ck_assert_uint_eq(buf.rows, 1);
    column_count = (size_t)read_int(p, 2);
    p += 2;
    for (size_t i = 0; i < column_count; i++) {
        struct column *column = &columns[i];
        size_t length = 0;

        ck_assert_msg(*name != ')', "more fields than columns");
        for (name++; *name == ' '; name++)
            ;
        while (isalnum((unsigned char)*name) || *name == '_')
            column->name[length++] = *name++;
        column->name[length] = '\0';
        column->size = (int32_t)read_int(p, 4);
        column->data = p + 4;
        p += 4 + (column->size > 0 ? column->size : 0);
        ck_assert(p <= end);
    }
    ck_assert_msg(*name == ')', "more columns than fields");
    ck_assert(p == end);
}

static void read_event(struct pg_columns of)
{
    char sql[PG_COPY_EVENTS_MAX];

    read_row(pg_copy_events(of, sql));
}

static const struct column *column(const char *name)
{
    for (size_t i = 0; i < column_count; i++)
        if (strcmp(columns[i].name, name) == 0)
            return &columns[i];
    ck_abort_msg("no column %s", name);
}

static void check_null(const char *name)
{
    ck_assert_msg(column(name)->size == -1, "%s is not NULL", name);
}

static void check_nulls(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_null(names[i]);
}

static void check_int(const char *name, size_t size, int64_t value)
{
    ck_assert_msg(column(name)->size == (int32_t)size, "%s has %d bytes", name, column(name)->size);
    ck_assert_msg(read_int(column(name)->data, size) == ((uint64_t)value & (UINT64_MAX >> (64 - 8 * size))),
                  "%s is not %lld", name, (long long)value);
}

static void check_text(const char *name, const char *text)
{
    ck_assert_msg(column(name)->size == (int32_t)strlen(text) && memcmp(column(name)->data, text, strlen(text)) == 0,
                  "%s is not %s", name, text);
}

static void check_double(const char *name, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, 8);
    check_int(name, 8, (int64_t)bits);
}

static void check_id(const char *name, unsigned n)
{
    uint8_t id[16];

    id_of(id, n);
    ck_assert_int_eq(column(name)->size, 16);
    ck_assert_mem_eq(column(name)->data, id, 16);
}

#define EPOCH_2000 INT64_C(946684800000000)
#define NOW        INT64_C(1800000000000000)

START_TEST(event_with_every_field)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_LLM, 3, NOW);
    struct sink_origin origin = {.uid = 1};
    struct sink_row row = {.frame = &frame, .origin = &origin, .occurred_us = NOW, .reported_us = NOW + 5};

    frame.provider = str_of("openai");
    frame.model = str_of("gpt-4o");
    frame.input_tokens = 100;
    frame.output_tokens = 2147483647;
    frame.estimated = true;
    frame.cached_input_tokens = 1;
    frame.cache_write_tokens = 2;
    frame.audio_input_tokens = 3;
    frame.cached_audio_tokens = 4;
    frame.audio_output_tokens = 5;
    frame.reasoning_tokens = 0;
    frame.has_turn_id = true;
    id_of(frame.turn_id, 4);
    frame.agent = str_of("triage");
    frame.request_id = str_of("r1");
    frame.ttfb_us = 1500;
    frame.duration_us = 2000001;
    frame.has_interrupted = frame.interrupted = true;
    frame.raw_json = str_of("{\"a\":1}");
    ck_assert(pg_row_event(&buf, pg_columns_all, &row, 99));
    read_event(pg_columns_all);
    check_id("session_id", 3);
    check_text("event_type", "llm");
    check_text("provider", "openai");
    check_text("model", "gpt-4o");
    check_int("input_tokens", 4, 100);
    check_int("output_tokens", 4, 2147483647);
    check_int("estimated", 1, 1);
    check_int("occurred_at", 8, NOW - EPOCH_2000);
    check_int("occurred_at_reported", 8, NOW + 5 - EPOCH_2000);
    check_text("raw_json", "\1{\"a\":1}");
    check_int("batch_id", 8, 99);
    check_id("turn_id", 4);
    check_text("agent", "triage");
    check_text("request_id", "r1");
    check_int("cached_input_tokens", 4, 1);
    check_int("cache_write_tokens", 4, 2);
    check_int("audio_input_tokens", 4, 3);
    check_int("cached_audio_tokens", 4, 4);
    check_int("audio_output_tokens", 4, 5);
    check_int("reasoning_tokens", 4, 0);
    check_double("ttfb_ms", 1.5);
    check_double("duration_ms", 2000.001);
    check_int("interrupted", 1, 1);
    static const char *const nulls[] = {"char_count", "voice",  "audio_duration_ms", "language", "meter",
                                        "quantity",   "account"};
    check_nulls(nulls, sizeof(nulls) / sizeof(*nulls));
}
END_TEST

START_TEST(events_of_tts_stt_and_usage)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TTS, 3, NOW);
    struct sink_origin origin = {.uid = 1};
    struct sink_row row = {.frame = &frame, .origin = &origin, .occurred_us = NOW, .reported_us = TOLL_TIME_MISSING};

    frame.provider = str_of("cartesia");
    frame.char_count = 42;
    frame.voice = str_of("sonic");
    ck_assert(pg_row_event(&buf, pg_columns_all, &row, 1));
    read_event(pg_columns_all);
    check_text("event_type", "tts");
    check_int("char_count", 4, 42);
    check_text("voice", "sonic");
    static const char *const tts[] = {
        "model",    "input_tokens", "estimated", "audio_duration_ms", "interrupted", "quantity", "occurred_at_reported",
        "raw_json", "turn_id"};
    check_nulls(tts, sizeof(tts) / sizeof(*tts));

    copy_begin(&buf);
    frame = frame_of(TOLL_FRAME_STT, 3, NOW);
    frame.provider = str_of("deepgram");
    frame.language = str_of("ru");
    frame.audio_duration_us = TOLL_DURATION_MAX;
    ck_assert(pg_row_event(&buf, pg_columns_all, &row, 1));
    read_event(pg_columns_all);
    check_text("event_type", "stt");
    check_text("language", "ru");
    check_double("audio_duration_ms", (double)TOLL_DURATION_MAX / 1000.0);

    copy_begin(&buf);
    toll_frame_init(&frame, TOLL_FRAME_USAGE);
    frame.meter = str_of("storage_mb");
    frame.account = str_of("acme");
    strcpy(frame.quantity, "0.1");
    ck_assert(pg_row_event(&buf, pg_columns_all, &row, 1));
    read_event(pg_columns_all);
    check_null("session_id");
    check_text("meter", "storage_mb");
    check_text("account", "acme");
    ck_assert_int_eq(column("quantity")->size, 10);
    ck_assert_mem_eq(column("quantity")->data, "\0\1\xff\xff\0\0\0\1\3\xe8", 10);
    check_null("provider");
}
END_TEST

START_TEST(only_some_columns)
{
    struct toll_frame tts = frame_of(TOLL_FRAME_TTS, 3, NOW), llm = frame_of(TOLL_FRAME_LLM, 4, NOW);
    struct sink_origin origin = {.uid = 1};
    struct sink_row row = {.frame = &tts, .origin = &origin, .occurred_us = NOW, .reported_us = TOLL_TIME_MISSING};
    struct pg_columns usual = {0};
    size_t before;

    tts.provider = str_of("cartesia");
    tts.char_count = 42;
    pg_columns_add(&usual, &row);
    pg_columns_add(&usual, &row);
    ck_assert_int_eq(usual.count, 6);
    ck_assert(pg_row_event(&buf, usual, &row, 1));
    read_event(usual);
    ck_assert_uint_eq(column_count, 6);
    check_id("session_id", 3);
    check_text("event_type", "tts");
    check_text("provider", "cartesia");
    check_int("char_count", 4, 42);
    check_int("occurred_at", 8, NOW - EPOCH_2000);
    check_int("batch_id", 8, 1);

    /* One value that has no column there: nothing is written. */
    before = buf.size;
    row.reported_us = NOW + 1;
    ck_assert(!pg_row_event(&buf, usual, &row, 1));
    row.reported_us = TOLL_TIME_MISSING;
    tts.turn_id[0] = 1;
    tts.has_turn_id = true;
    ck_assert(!pg_row_event(&buf, usual, &row, 1));
    row.frame = &llm;
    ck_assert(!pg_row_event(&buf, usual, &row, 1));
    ck_assert_uint_eq(buf.size, before);
    ck_assert_uint_eq(buf.rows, 1);

    /* With its columns, too, it is; and what has no value is NULL there. */
    copy_begin(&buf);
    pg_columns_add(&usual, &row);
    ck_assert(pg_row_event(&buf, usual, &row, 2));
    read_event(usual);
    check_id("session_id", 4);
    check_int("estimated", 1, 0);
    check_null("char_count");
    check_null("provider");
    check_int("batch_id", 8, 2);
}
END_TEST

START_TEST(every_column_is_one_of_all)
{
    char sql[PG_COPY_EVENTS_MAX];
    size_t commas = 0;

    ck_assert_int_eq(pg_columns_all.count, __builtin_popcount(pg_columns_all.set));
    pg_copy_events(pg_columns_all, sql);
    for (const char *p = sql; *p; p++)
        commas += *p == ',';
    ck_assert_int_eq(commas + 1, pg_columns_all.count);
    ck_assert_ptr_nonnull(strstr(sql, ", occurred_at_reported) FROM STDIN (FORMAT binary)"));
}
END_TEST

START_TEST(transcript)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TRANSCRIPT, 3, NOW);
    struct sink_origin origin = {.uid = 1};
    struct sink_row row = {.frame = &frame, .origin = &origin, .occurred_us = NOW, .reported_us = TOLL_TIME_MISSING};

    frame.role = str_of("assistant");
    frame.text = (struct toll_str){"", 0}; /* cut short before a word was heard */
    frame.interrupted = true;
    pg_row_transcript(&buf, &row, 7);
    read_row(PG_COPY_TRANSCRIPTS);
    check_id("session_id", 3);
    check_text("role", "assistant");
    check_text("text", "");
    check_int("interrupted", 1, 1);
    check_int("occurred_at", 8, NOW - EPOCH_2000);
    check_int("batch_id", 8, 7);
    static const char *const nulls[] = {"turn_id", "language", "occurred_at_reported", "raw_json"};
    check_nulls(nulls, sizeof(nulls) / sizeof(*nulls));
}
END_TEST

START_TEST(gap)
{
    struct toll_frame frame;
    struct sink_origin origin = {
        .uid = UINT32_MAX, .pid = 4194304, .received_us = NOW, .sequenced = true, .seq = TOLL_SEQ_MAX};
    struct sink_row row = {.frame = &frame, .origin = &origin, .occurred_us = NOW, .reported_us = TOLL_TIME_MISSING};

    toll_frame_init(&frame, TOLL_FRAME_GAP);
    frame.gap_count = INT64_MAX;
    frame.gap_since_us = NOW - 10;
    id_of(origin.stream_id, 6);
    pg_row_gap(&buf, &row, 7);
    read_row(PG_COPY_GAPS);
    check_id("stream_id", 6);
    check_int("seq", 8, (int64_t)TOLL_SEQ_MAX);
    check_int("uid", 8, UINT32_MAX);
    check_int("pid", 4, 4194304);
    check_int("count", 8, INT64_MAX);
    check_int("since", 8, NOW - 10 - EPOCH_2000);
    check_int("received_at", 8, NOW - EPOCH_2000);
    check_null("until");
    check_null("session_id");
}
END_TEST

START_TEST(quarantine)
{
    struct sink_refused refused = {
        .origin = {.data = "\xc1\x00\xff", .size = 3, .lsn = 1234, .index = 2, .uid = 5, .pid = 6, .received_us = NOW},
        .reason = "why"};
    const uint8_t journal[16] = {9};

    pg_row_quarantine(&buf, &refused, journal, 7);
    read_row(PG_COPY_QUARANTINE);
    ck_assert_mem_eq(column("journal_id")->data, journal, 16);
    check_int("batch_id", 8, 7);
    check_int("lsn", 8, 1234);
    check_int("frame_index", 4, 2);
    check_text("reason", "why");
    ck_assert_int_eq(column("bytes")->size, 3);
    ck_assert_mem_eq(column("bytes")->data, "\xc1\x00\xff", 3);
    check_null("stream_id");
    check_null("seq");
    copy_begin(&buf);
    refused.origin.data = NULL; /* a datagram that was cut between two frames: no bytes, which is not NULL */
    refused.origin.size = 0;
    refused.origin.sequenced = true;
    refused.origin.seq = 3;
    pg_row_quarantine(&buf, &refused, journal, 7);
    read_row(PG_COPY_QUARANTINE);
    ck_assert_int_eq(column("bytes")->size, 0);
    check_int("seq", 8, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pg_rows");
    TCase *tests = tcase_create("pg_rows");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, event_with_every_field);
    tcase_add_test(tests, events_of_tts_stt_and_usage);
    tcase_add_test(tests, only_some_columns);
    tcase_add_test(tests, every_column_is_one_of_all);
    tcase_add_test(tests, transcript);
    tcase_add_test(tests, gap);
    tcase_add_test(tests, quarantine);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
