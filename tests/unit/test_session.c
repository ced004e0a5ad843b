/* Tests of daemon/session: what frames do to sessions, as far as memory decides it. The rules that need the
 * stored row are the sink's. */
#include "daemon/session.h"

#include "tests/unit/datagrams.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

enum { ALL = 1000000 };

static struct session_table *table;

static void setup(void)
{
    table = session_table_new();
    ck_assert_ptr_nonnull(table);
}

static void teardown(void)
{
    session_table_free(table);
}

static const struct session *session(unsigned n)
{
    uint8_t id[16];

    id_of(id, n);
    return session_find(table, id);
}

static void apply_frame(const struct toll_frame *frame, int64_t received_us)
{
    ck_assert_int_eq(session_apply(table, frame, frame->time_us, TOLL_TIME_MISSING, received_us, 0, NULL), 0);
}

static void apply_at(enum toll_frame_type type, unsigned n, int64_t time_us)
{
    struct toll_frame frame = frame_of(type, n, time_us);

    apply_frame(&frame, time_us);
}

static void apply_llm(unsigned n, int64_t time_us, int32_t input, int32_t output)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_LLM, n, time_us);

    frame.input_tokens = input;
    frame.output_tokens = output;
    apply_frame(&frame, time_us);
}

static void apply_start(unsigned n, int64_t time_us, const char *metadata, const char *raw)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_START, n, time_us);

    if (metadata)
        frame.metadata = str_of(metadata);
    if (raw)
        frame.raw_json = str_of(raw);
    apply_frame(&frame, time_us);
}

static void apply_end(unsigned n, int64_t time_us, const char *reason)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_END, n, time_us);

    if (reason)
        frame.finish_reason = str_of(reason);
    apply_frame(&frame, time_us);
}

/* The n-th of the changes planned, which must be so many. */
static struct session_change *change(size_t n, size_t expected)
{
    size_t count;
    struct session_change *const *changes = session_changes(table, &count);

    ck_assert_uint_eq(count, expected);
    return changes[n];
}

/* As jsonb reads it: of equal keys the last counts. */
static void check_json(const char *text, const char *expected)
{
    json_t *is = json_loads(text, 0, NULL), *should = json_loads(expected, 0, NULL);

    ck_assert_ptr_nonnull(text);
    ck_assert_msg(is && json_equal(is, should), "%s is not %s", text, expected);
    json_decref(is);
    json_decref(should);
}

START_TEST(totals_are_sums_of_llm_tts_and_stt)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TTS, 1, 20);
    const struct session_totals *totals;

    apply_llm(1, 10, 2147483647, 5);
    apply_llm(1, 11, 2147483647, 0);
    frame.char_count = 70;
    frame.input_tokens = frame.output_tokens = 1000; /* a tts's tokens are not an llm's */
    apply_frame(&frame, 20);
    frame = frame_of(TOLL_FRAME_STT, 1, 21);
    frame.audio_duration_us = TOLL_DURATION_MAX;
    frame.input_tokens = 1000;
    apply_frame(&frame, 21);
    apply_frame(&frame, 22);
    apply_at(TOLL_FRAME_TRANSCRIPT, 1, 23);
    apply_at(TOLL_FRAME_USAGE, 1, 24);
    totals = &session(1)->totals;
    ck_assert_int_eq(totals->llm_input_tokens, INT64_C(4294967294));
    ck_assert_int_eq(totals->llm_output_tokens, 5);
    ck_assert_int_eq(totals->llm_calls, 2);
    ck_assert_int_eq(totals->tts_chars, 70);
    ck_assert_int_eq(totals->tts_calls, 1);
    ck_assert_int_eq(totals->stt_audio_us, 2 * TOLL_DURATION_MAX);
    ck_assert_int_eq(totals->stt_calls, 2);
    ck_assert_uint_eq(change(0, 1)->rows, 7);
}
END_TEST

START_TEST(earliest_start_stays)
{
    apply_start(1, 100, NULL, NULL);
    apply_start(1, 50, NULL, NULL);
    apply_start(1, 70, NULL, NULL);
    ck_assert_int_eq(change(0, 1)->started_us, 50);
    ck_assert_uint_eq(change(0, 1)->starts, 3);
    ck_assert_int_eq(session(1)->started_us, 50);
}
END_TEST

START_TEST(clamped_times_keep_what_the_sender_said)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_START, 1, 0);

    ck_assert_int_eq(session_apply(table, &frame, 500, 9999, 500, 0, NULL), 0);
    ck_assert_int_eq(change(0, 1)->started_reported_us, 9999);
    ck_assert_int_eq(session_apply(table, &frame, 400, TOLL_TIME_MISSING, 500, 0, NULL),
                     0); /* an earlier one that was not clamped */
    ck_assert_int_eq(change(0, 1)->started_us, 400);
    ck_assert_int_eq(change(0, 1)->started_reported_us, TOLL_TIME_MISSING);
    frame = frame_of(TOLL_FRAME_SESSION_END, 1, 0);
    ck_assert_int_eq(session_apply(table, &frame, 600, 7777, 600, 0, NULL), 0);
    ck_assert_int_eq(session_apply(table, &frame, 700, TOLL_TIME_MISSING, 700, 0, NULL), 0);
    ck_assert_int_eq(change(0, 1)->ended_us, 600);
    ck_assert_int_eq(change(0, 1)->ended_reported_us, 7777);
}
END_TEST

START_TEST(session_without_a_start_begins_with_its_first_frame)
{
    apply_llm(1, 80, 1, 1);
    apply_llm(1, 60, 1, 1);
    ck_assert(!session(1)->has_start);
    ck_assert_int_eq(session(1)->started_us, 80);
    ck_assert_int_eq(session(1)->last_us, 80);
    ck_assert_uint_eq(change(0, 1)->starts, 0);
    apply_start(1, 90, NULL, NULL); /* a real start, though later, is the start */
    ck_assert_int_eq(change(0, 1)->started_us, 90);
    ck_assert_int_eq(session(1)->started_us, 90);
    ck_assert(session(1)->has_start);
}
END_TEST

START_TEST(metadata_of_all_starts_is_merged_and_the_earlier_wins)
{
    apply_start(1, 100, "{\"a\":1,\"b\":\"x\"}", NULL);
    apply_start(1, 50, "{\"b\":\"y\",\"c\":[2]}", NULL);
    apply_start(1, 60, "{}", NULL);
    apply_start(1, 60, NULL, NULL);
    apply_start(1, 70, "{\"c\":null,\"d\":{\"e\":3}}", NULL);
    check_json(change(0, 1)->metadata, "{\"a\":1,\"b\":\"x\",\"c\":[2],\"d\":{\"e\":3}}");
}
END_TEST

START_TEST(metadata_after_none_is_taken)
{
    apply_start(1, 1, "{}", NULL);
    apply_start(1, 2, "{\"a\":1}", NULL);
    check_json(change(0, 1)->metadata, "{\"a\":1}");
    apply_start(2, 1, NULL, NULL);
    apply_start(2, 2, "{\"a\":1}", NULL);
    check_json(change(1, 2)->metadata, "{\"a\":1}");
}
END_TEST

START_TEST(unknown_keys_of_starts_and_ends_are_merged)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_END, 1, 9);

    apply_start(1, 1, NULL, "{\"k\":1}");
    frame.raw_json = str_of("{\"k\":2,\"l\":3}");
    apply_frame(&frame, 9);
    check_json(change(0, 1)->raw_json, "{\"k\":1,\"l\":3}");
    ck_assert_ptr_null(change(0, 1)->metadata);
}
END_TEST

START_TEST(first_end_counts)
{
    apply_end(1, 200, "stop");
    apply_end(1, 100, "cancel");
    ck_assert_int_eq(change(0, 1)->ended_us, 200);
    ck_assert_str_eq(change(0, 1)->finish_reason, "stop");
    ck_assert_uint_eq(change(0, 1)->ends, 2);
    ck_assert(session(1)->ended);
    apply_end(2, 200, NULL);
    ck_assert_str_eq(change(1, 2)->finish_reason, "end");
}
END_TEST

START_TEST(changes_come_in_order_of_id_and_once_per_session)
{
    static const unsigned order[] = {5, 1, 300, 3, 5, 299, 1};
    static const unsigned sorted[] = {1, 3, 5, 299, 300};

    for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++)
        apply_llm(order[i], (int64_t)i, 1, 1);
    for (size_t i = 0; i < 5; i++) {
        uint8_t id[16];

        id_of(id, sorted[i]);
        ck_assert_mem_eq(change(i, 5)->session->id, id, 16);
    }
}
END_TEST

START_TEST(settle_takes_over_what_the_sink_found)
{
    for (unsigned n = 1; n <= 4; n++)
        apply_llm(n, n, 1, 1);
    change(1, 4)->existed = true;
    change(2, 4)->finalized = true;
    session_settle(table, ALL);
    ck_assert_uint_eq(session_count(table), 3);
    ck_assert(session(1)->whole && session(1)->stored);
    ck_assert(!session(2)->whole && session(2)->stored);
    ck_assert_ptr_null(session(3));
    size_t count;
    session_changes(table, &count);
    ck_assert_uint_eq(count, 0);
    apply_llm(1, 9, 5, 5); /* memory goes on from there */
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 6);
    ck_assert_uint_eq(change(0, 1)->rows, 1);
    apply_llm(3, 9, 5, 5); /* forgotten: begins anew, not known to be stored */
    ck_assert_int_eq(session(3)->totals.llm_input_tokens, 5);
    ck_assert(!session(3)->stored);
}
END_TEST

START_TEST(longest_idle_are_evicted)
{
    for (unsigned n = 1; n <= 5; n++)
        apply_llm(n, n, 1, 1);
    apply_llm(1, 6, 1, 1); /* not idle any more */
    session_settle(table, 2);
    ck_assert_uint_eq(session_count(table), 2);
    ck_assert_ptr_nonnull(session(1));
    ck_assert_ptr_nonnull(session(5));
}
END_TEST

START_TEST(orphans_are_those_idle_in_receive_time)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_LLM, 1, 1000000);

    frame.input_tokens = frame.output_tokens = 1;
    apply_frame(&frame, 100); /* its own time says nothing about idleness */
    frame = frame_of(TOLL_FRAME_TRANSCRIPT, 2, 1);
    apply_frame(&frame, 200);
    session_settle(table, ALL);
    ck_assert_int_eq(session_plan_orphans(table, 100, ALL), 0);
    ck_assert_int_eq(session_plan_orphans(table, 101, ALL), 1);
    ck_assert(change(0, 1)->orphan);
    ck_assert_ptr_eq(change(0, 1)->session, session(1));
    ck_assert_int_eq(session(1)->last_us, 1000000);
    ck_assert_int_eq(session_plan_orphans(table, 201, 1), 1); /* at most so many */
    ck_assert_int_eq(session_plan_orphans(table, 201, ALL), 2);
}
END_TEST

START_TEST(idle_time_outlasts_a_step_of_the_clock)
{
    struct toll_frame frame = frame_of(TOLL_FRAME_TRANSCRIPT, 1, 1);
    const int64_t step_us = -1000000;

    apply_frame(&frame, 100);
    session_settle(table, ALL);
    session_clock_stepped(table, step_us);
    ck_assert_int_eq(session_plan_orphans(table, step_us + 100, ALL), 0);
    frame = frame_of(TOLL_FRAME_TRANSCRIPT, 2, 1);
    apply_frame(&frame, step_us + 200);
    session_settle(table, ALL);
    ck_assert_int_eq(session_plan_orphans(table, step_us + 101, ALL), 1);
    ck_assert_ptr_eq(change(0, 1)->session, session(1));
}
END_TEST

START_TEST(orphan_that_memory_does_not_know_is_not_whole)
{
    uint8_t id[16];

    id_of(id, 9);
    ck_assert_int_eq(session_plan_orphan(table, id, 100), 0);
    ck_assert(change(0, 1)->orphan);
    ck_assert(session(9)->stored && !session(9)->whole);
    change(0, 1)->finalized = true;
    session_settle(table, ALL);
    ck_assert_uint_eq(session_count(table), 0);
    apply_llm(9, 5, 1, 1);
    session_settle(table, ALL);
    ck_assert_int_eq(session_plan_orphan(table, id, 100), 0); /* memory knows it, and knows better */
    size_t count;
    session_changes(table, &count);
    ck_assert_uint_eq(count, 0);
}
END_TEST

static bool collect(void *context, const struct session *found)
{
    char *text = context;

    snprintf(text + strlen(text), 8, "%u ", found->id[1]);
    return strlen(text) < 5;
}

START_TEST(foreach_goes_from_the_latest_activity)
{
    char text[64] = "";

    session_foreach(table, collect, text);
    ck_assert_str_eq(text, "");
    for (unsigned n = 1; n <= 4; n++)
        apply_llm(n, n, 1, 1);
    apply_llm(2, 5, 1, 1);
    session_foreach(table, collect, text);
    ck_assert_str_eq(text, "2 4 3 ");
}
END_TEST

START_TEST(clear_forgets_all_and_leaves_a_usable_table)
{
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned n = 1; n <= 100; n++)
            apply_start(n, n, "{\"a\":1}", NULL);
        session_table_clear(table);
        ck_assert_uint_eq(session_count(table), 0);
        ck_assert_ptr_null(session(1));
        size_t count;
        session_changes(table, &count);
        ck_assert_uint_eq(count, 0);
    }
    session_table_clear(table); /* an empty one */
    session_table_free(NULL);
}
END_TEST

/* Ids as workers make them: random, but some agree in their first half. */
static void scattered_id(uint8_t id[16], unsigned n)
{
    uint64_t halves[2] = {(n / 4 + 1) * UINT64_C(0x9E3779B97F4A7C15), (n + 1) * UINT64_C(0xBF58476D1CE4E5B9)};

    memcpy(id, halves, 16);
}

START_TEST(many_sessions_are_found_in_a_table_that_grows)
{
    enum { MANY = 3000, KEPT = 1000 };
    struct session_change *const *changes;
    struct toll_frame frame = frame_of(TOLL_FRAME_LLM, 0, 1);
    uint8_t id[16];
    size_t count;

    for (unsigned round = 0; round < 2; round++)
        for (unsigned n = 0; n < MANY; n++) {
            scattered_id(frame.session_id, n);
            frame.input_tokens = (int32_t)n;
            apply_frame(&frame, 1);
        }
    ck_assert_uint_eq(session_count(table), MANY);
    changes = session_changes(table, &count);
    ck_assert_uint_eq(count, MANY);
    for (size_t i = 1; i < count; i++)
        ck_assert_int_lt(memcmp(changes[i - 1]->session->id, changes[i]->session->id, 16), 0);
    session_settle(table, KEPT);
    ck_assert_uint_eq(session_count(table), KEPT);
    for (unsigned n = 0; n < MANY; n++) {
        const struct session *found;

        scattered_id(id, n);
        found = session_find(table, id);
        ck_assert(!found == (n < MANY - KEPT));
        ck_assert(!found || found->totals.llm_input_tokens == 2 * (int64_t)n);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("session");
    TCase *tests = tcase_create("session");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, totals_are_sums_of_llm_tts_and_stt);
    tcase_add_test(tests, earliest_start_stays);
    tcase_add_test(tests, clamped_times_keep_what_the_sender_said);
    tcase_add_test(tests, session_without_a_start_begins_with_its_first_frame);
    tcase_add_test(tests, metadata_of_all_starts_is_merged_and_the_earlier_wins);
    tcase_add_test(tests, metadata_after_none_is_taken);
    tcase_add_test(tests, unknown_keys_of_starts_and_ends_are_merged);
    tcase_add_test(tests, first_end_counts);
    tcase_add_test(tests, changes_come_in_order_of_id_and_once_per_session);
    tcase_add_test(tests, settle_takes_over_what_the_sink_found);
    tcase_add_test(tests, longest_idle_are_evicted);
    tcase_add_test(tests, orphans_are_those_idle_in_receive_time);
    tcase_add_test(tests, idle_time_outlasts_a_step_of_the_clock);
    tcase_add_test(tests, orphan_that_memory_does_not_know_is_not_whole);
    tcase_add_test(tests, foreach_goes_from_the_latest_activity);
    tcase_add_test(tests, clear_forgets_all_and_leaves_a_usable_table);
    tcase_add_test(tests, many_sessions_are_found_in_a_table_that_grows);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
