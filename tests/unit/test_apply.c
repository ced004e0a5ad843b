/* Tests of daemon/apply: frames are stored once, whatever fails. The sink fails at every call in turn, and
 * what it holds in the end is compared with what was sent. */
#include "tests/unit/applytest.h"

/* --- a call, as most tests use it ---------------------------------------------------------------------- */

static const uint8_t NOT_A_FRAME[] = {0x81, 0xa4, 't', 'y', 'p', 'e', 0xa3, 'f', 'a', 'x'};
static const uint8_t MALFORMED[] = {0xdd, 0xff, 0xff, 0xff, 0xff};

/* Two sequenced workers, one without numbers, bad frames between good ones, and a datagram sent twice: 22
 * frames, of which 3 are bad and 3 are duplicates. */
enum { CALL_FRAMES = 22, CALL_BAD = 3, CALL_DUPLICATES = 3, CALL_ROWS = 12 };

static void send_call(void)
{
    struct bytes twice;

    add_envelope(&datagram, 1, 1, 1, 3);
    add_start(&datagram, 1, NOW - HOUR);
    add_llm(&datagram, 1, NOW - 50 * MINUTE, 100, 10, "one");
    add_transcript(&datagram, 1, NOW - 49 * MINUTE, "hello");
    twice = datagram;
    send_now();
    add_envelope(&datagram, 1, 4, 4, 4); /* acknowledged meanwhile: its base is above what is not stored yet */
    add_tts(&datagram, 1, NOW - 48 * MINUTE, 55);
    add_bytes(&datagram, NOT_A_FRAME, sizeof(NOT_A_FRAME));
    add_stt(&datagram, 1, NOW - 47 * MINUTE, 1234567);
    add_llm(&datagram, 2, NOW - 46 * MINUTE, 7, 3, "two"); /* of a session without a start */
    send_now();
    datagram = twice;
    send_now();
    add_llm(&datagram, 3, NOW, 5, 5, "plain");
    add_gap(&datagram, 9);
    add_usage(&datagram, "acme", 0.5);
    add_bytes(&datagram, MALFORMED, sizeof(MALFORMED));
    send_now();
    add_envelope(&datagram, 1, 8, 8, 2);
    add_end(&datagram, 1, NOW - 40 * MINUTE, "stop");
    add_llm(&datagram, 1, NOW - 41 * MINUTE, 1000, 1, "late");
    send_now();
    add_envelope(&datagram, 2, 1, 1, 4);
    add_start(&datagram, 4, NOW);
    add_llm(&datagram, 4, NOW, 1, 1, "four");
    add_bytes(&datagram, MALFORMED, sizeof(MALFORMED)); /* uses up numbers 3 and 4 */
    send_now();
    add_llm(&datagram, 4, NOW, 2, 2, "four b");
    add_end(&datagram, 4, NOW, "end");
    add_end(&datagram, 4, NOW, "again");
    send_now();
}

static void check_call(void)
{
    static const char *const tags[] = {"one", "hello", "two", "plain", "late", "four", "four b"};

    check_db();
    ck_assert_uint_eq(db.now.row_count, CALL_ROWS - 1);
    for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++)
        ck_assert_msg(rows_tagged(tags[i]) == 1, "%s: stored %zu times", tags[i], rows_tagged(tags[i]));
    ck_assert_uint_eq(db.now.refused_count, CALL_BAD);
    check_seen(1, "{[1,10)}");
    check_seen(2, "{[1,5)}");
    ck_assert_uint_eq(db.now.session_count, 4);
    ck_assert(session(1)->ended && session(4)->ended && !session(2)->ended && !session(3)->ended);
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 1100);
    ck_assert_int_eq(session(1)->totals.llm_calls, 2);
    ck_assert_int_eq(session(1)->totals.stt_audio_us, 1234567);
    ck_assert_int_eq(session(1)->totals.tts_chars, 55);
    ck_assert_int_eq(session(1)->started_us, NOW - HOUR);
    ck_assert_int_eq(session(1)->ended_us, NOW - 40 * MINUTE);
    ck_assert_str_eq(session(1)->finish_reason, "stop");
    ck_assert_uint_eq(session(1)->starts, 1);
    ck_assert_int_eq(session(4)->totals.llm_input_tokens, 3);
    ck_assert_uint_eq(session(4)->ends, 2);
    ck_assert_str_eq(session(4)->finish_reason, "end");
    ck_assert(session(2)->start_missing && !session(1)->start_missing);
}

START_TEST(call_is_stored_once)
{
    send_call();
    ck_assert_uint_eq(drive(), 1);
    check_call();
    ck_assert_uint_eq(apply_lsn(apply), journal_durable_lsn(journal));
}
END_TEST

START_TEST(bad_frames_go_alone_and_keep_their_reason)
{
    send_call();
    drive();
    /* What is no frame is known before anything is decoded, so the two malformed rests come first. */
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "malformed"));
    ck_assert_uint_eq(db.refused[0].seq, 0);
    ck_assert_ptr_nonnull(strstr(db.refused[1].reason, "malformed"));
    ck_assert_uint_eq(db.refused[1].seq, 3);
    ck_assert_ptr_nonnull(strstr(db.refused[2].reason, "fax"));
    ck_assert_uint_eq(db.refused[2].seq, 5);
    ck_assert_uint_eq(db.refused[2].size, sizeof(NOT_A_FRAME));
    check_counts(CALL_FRAMES);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), CALL_DUPLICATES);
    ck_assert_uint_eq(metrics_get(&metrics.frames_received), 0); /* intake counted them */
}
END_TEST

/* --- once ---------------------------------------------------------------------------------------------- */

/* One run with a failure at call n; false when the run ended before. */
static bool run_with_failure(unsigned n, int with, bool late)
{
    world_close();
    world_open();
    sink.fail_at = n;
    sink.fail_with = with;
    sink.late = late;
    drive();
    check_call();
    check_counts(metrics_get(&metrics.frames_stored) + CALL_BAD + metrics_get(&metrics.frames_duplicate));
    return sink.failures > 0;
}

static void run_every_failure(size_t batch_rows)
{
    static const int results[] = {-EAGAIN, -ESTALE, -EINVAL, -ENOTRECOVERABLE, -ENOMEM};

    options.batch_rows = batch_rows;
    send_call();
    for (size_t i = 0; i < sizeof(results) / sizeof(*results); i++)
        for (unsigned n = 1; run_with_failure(n, results[i], false); n++)
            ck_assert_uint_lt(n, 1000);
    for (unsigned n = 1; run_with_failure(n, -EAGAIN, true); n++)
        ck_assert_uint_lt(n, 1000);
}

START_TEST(call_is_stored_once_whatever_call_fails_in_one_batch)
{
    run_every_failure(1000);
}
END_TEST

START_TEST(call_is_stored_once_whatever_call_fails_in_many_batches)
{
    run_every_failure(1);
}
END_TEST

/* A commit that was done though it failed is counted like any other. */
START_TEST(commit_of_unknown_outcome_is_counted)
{
    send_call();
    for (unsigned late = 0; late < 2; late++) {
        world_close();
        world_open();
        counted_lsn = journal_durable_lsn(journal);
        sink.fail_op = FAKE_COMMIT;
        sink.fail_at = 1;
        sink.late = late;
        drive();
        check_call();
        check_counts(CALL_FRAMES);
        ck_assert_uint_eq(metrics_get(&metrics.batches_committed), 1);
        ck_assert_uint_eq(metrics_get(&metrics.frames_replayed), CALL_FRAMES);
        ck_assert_uint_eq(metrics_get(&metrics.gap_frames), 9);
    }
}
END_TEST

START_TEST(frames_are_once_in_any_order_of_resends)
{
    enum { FRAMES = 40, SENDS = 200 };
    unsigned seed = (unsigned)getpid();
    char tag[16];

    printf("seed %u\n", seed);
    srand(seed);
    options.batch_rows = 7;
    for (unsigned i = 0; i < SENDS + FRAMES; i++) {
        unsigned seq = i < SENDS ? (unsigned)rand() % FRAMES + 1 : i - SENDS + 1; /* in the end all of them */
        unsigned count = 1 + (unsigned)rand() % 3;

        if (seq + count > FRAMES + 1)
            count = FRAMES + 1 - seq;
        add_envelope(&datagram, 1, seq, 1, count);
        for (unsigned n = seq; n < seq + count; n++) {
            snprintf(tag, sizeof(tag), "n%u", n);
            add_llm(&datagram, 1, NOW, (int32_t)n, 0, tag);
        }
        send_now();
        if (rand() % 8 == 0)
            drive();
        if (rand() % 20 == 0)
            sink.is_open = false; /* begin from the watermark, with nothing in memory */
    }
    drive();
    check_db();
    ck_assert_uint_eq(db.now.row_count, FRAMES);
    check_seen(1, "{[1,41)}");
}
END_TEST

/* One failure after another, of any kind at any call, and restarts in between. */
START_TEST(any_row_of_failures_loses_and_doubles_nothing)
{
    static const int results[] = {-EAGAIN, -EAGAIN, -ESTALE, -EINVAL, -ENOTRECOVERABLE, -ENOMEM};
    unsigned seed = (unsigned)getpid(), failures = 0;

    printf("seed %u\n", seed);
    srand(seed);
    send_call();
    for (unsigned round = 0; round < 150; round++) {
        world_close();
        options.batch_rows = 1 + (size_t)rand() % 12;
        world_open();
        counted_lsn = journal_durable_lsn(journal);
        for (unsigned tries = 0; tries < 12; tries++) {
            unsigned before = sink.failures;

            sink.fail_at = 1 + (unsigned)rand() % 40;
            sink.fail_with = results[(size_t)rand() % (sizeof(results) / sizeof(*results))];
            sink.late = rand() % 2;
            while (sink.failures == before && (sink.is_open || reopen() == 0) && apply_step(apply, NOW, false) != 0)
                ;
            check_db();
        }
        failures += sink.failures;
        sink.fail_at = 0;
        drive();
        check_call();
        check_counts(CALL_FRAMES);
        ck_assert_uint_eq(metrics_get(&metrics.frames_received), CALL_FRAMES);
    }
    ck_assert_uint_gt(failures, 100);
}
END_TEST

/* Numbers below the base of a later datagram are not stored yet when both are in one batch. */
START_TEST(base_of_a_later_datagram_says_nothing_about_earlier_ones)
{
    add_envelope(&datagram, 1, 1, 1, 2);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    add_envelope(&datagram, 1, 3, 3, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "c");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 3);
    check_seen(1, "{[1,4)}");
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 0);
}
END_TEST

/* What is below it was acknowledged: perhaps by another daemon, whose journal brings it later. */
START_TEST(base_of_an_unknown_stream_says_nothing_of_what_is_stored)
{
    add_envelope(&datagram, 1, 12, 10, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    drive();
    check_seen(1, "{[12,13)}");
    add_envelope(&datagram, 1, 13, 13, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    check_seen(1, "{[12,14)}");
    sink.is_open = false;
    add_envelope(&datagram, 1, 5, 5, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "old");
    send_now();
    drive();
    check_seen(1, "{[5,6),[12,14)}");
    ck_assert_uint_eq(rows_tagged("old"), 1);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 0);
}
END_TEST

START_TEST(streams_of_two_uids_are_two_streams)
{
    for (uint32_t uid = 1; uid <= 2; uid++) {
        add_envelope(&datagram, 1, 1, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "x");
        journal_raw(uid, 0, NOW, datagram.data, datagram.size);
        datagram.size = 0;
    }
    make_durable();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    check_db();
}
END_TEST

START_TEST(streams_forgotten_for_want_of_memory_are_known_again)
{
    options.streams_max = 2;
    world_close();
    world_open();
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned n = 1; n <= 5; n++) {
            add_envelope(&datagram, n, 1, 1, 1);
            add_llm(&datagram, 1, NOW, 1, 1, "x");
            send_now();
            drive();
        }
    }
    ck_assert_uint_eq(db.now.row_count, 5);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 5);
}
END_TEST

/* 1,024 holes are kept, the next one is refused with a reason. */
START_TEST(stream_with_too_many_holes_loses_the_frame_not_the_batch)
{
    options.batch_rows = 5000;
    world_close();
    world_open();
    for (unsigned i = 0; i < RANGESET_MAX + 2; i++) {
        add_envelope(&datagram, 1, 1 + 2 * (uint64_t)i, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "x");
        journal_raw(WORKER, 0, NOW, datagram.data, datagram.size);
        datagram.size = 0;
    }
    add_llm(&datagram, 1, NOW, 1, 1, "neighbour");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, RANGESET_MAX + 1);
    ck_assert_uint_eq(db.now.refused_count, 2);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "1024 holes"));
}
END_TEST

START_TEST(database_restored_from_an_older_copy_gets_all_again_once)
{
    struct fake_state copy;

    add_envelope(&datagram, 1, 1, 1, 2);
    add_start(&datagram, 1, NOW);
    add_llm(&datagram, 1, NOW, 1, 1, "before");
    send_now();
    drive();
    copy = fake_state_copy(&db.now);
    add_envelope(&datagram, 1, 3, 3, 1);
    add_llm(&datagram, 1, NOW, 2, 2, "after");
    send_now();
    drive();
    fake_db_restore(&db, &copy);
    ck_assert_uint_eq(rows_tagged("after"), 0);
    add_envelope(&datagram, 1, 4, 4, 1);
    add_end(&datagram, 1, NOW, "end");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), -ESTALE);
    drive();
    check_db();
    ck_assert_uint_eq(rows_tagged("before"), 1);
    ck_assert_uint_eq(rows_tagged("after"), 1);
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 3);
}
END_TEST

/* --- the order within a batch -------------------------------------------------------------------------- */

/* Of 400 frames of 20 sessions in turns, whose ids differ in the byte `at`: how often a row's session is another than the row's before. Within a session
 * they must stay in order. */
static unsigned changes_of_session(int64_t apart_us, unsigned at)
{
    enum { FRAMES = 400, SESSIONS = 20 };
    unsigned last[SESSIONS] = {0}, changes = 0;
    char tag[16];

    for (unsigned i = 0; i < FRAMES; i++) {
        struct toll_frame frame;

        snprintf(tag, sizeof(tag), "%u", i + 1);
        frame = llm_of(0, NOW, 1, 1, tag);
        frame.session_id[at] = (uint8_t)(i % SESSIONS);
        add_frame(&datagram, &frame);
        send_at(NOW + i * apart_us);
    }
    drive();
    check_db();
    ck_assert_uint_eq(db.now.row_count, FRAMES);
    for (size_t i = 0; i < FRAMES; i++) {
        unsigned number = (unsigned)atoi(db.rows[i].tag), which = (number - 1) % SESSIONS;

        ck_assert_uint_gt(number, last[which]);
        last[which] = number;
        changes += i > 0 && memcmp(db.rows[i].session_id, db.rows[i - 1].session_id, 16) != 0;
    }
    return changes;
}

START_TEST(rows_of_a_session_are_neighbours_in_their_order)
{
    ck_assert_uint_eq(changes_of_session(0, (unsigned)_i), 19);
}
END_TEST

/* The longest idle session is looked for at one end of the table. */
START_TEST(frames_that_came_over_a_long_time_stay_as_they_came)
{
    ck_assert_uint_eq(changes_of_session(MINUTE, 0), 399);
}
END_TEST

/* --- batches and positions ----------------------------------------------------------------------------- */

START_TEST(batch_closes_at_rows)
{
    options.batch_rows = 10;
    world_close();
    world_open();
    send_tagged(100, "", 1000); /* 25 datagrams of 4 frames */
    drive();
    ck_assert_uint_eq(db.now.batch_count, 9); /* 12 frames are the first number of whole datagrams at or above 10 */
    ck_assert_uint_eq(db.batches[0].counts.received, 12);
    ck_assert_uint_eq(db.now.row_count, 100);
    for (size_t i = 1; i < db.now.batch_count; i++)
        ck_assert_uint_eq(db.batches[i].from, db.batches[i - 1].to);
}
END_TEST

/* Where the daemon lives shorter than a full batch takes, something must get stored. */
START_TEST(batches_begin_small_and_grow_fourfold)
{
    options.batch_rows = 64000;
    options.batch_bytes = 64 << 20;
    world_close();
    world_open();
    send_tagged(5600, "", UINT32_MAX);
    drive();
    ck_assert_uint_eq(db.now.batch_count, 3);
    ck_assert_uint_eq(db.batches[0].counts.received, 1000);
    ck_assert_uint_eq(db.batches[1].counts.received, 4000);
    send_tagged(1200, "", UINT32_MAX);
    ck_assert_int_eq(reopen(), 0);
    drive();
    ck_assert_uint_eq(db.now.batch_count, 5);
    ck_assert_uint_eq(db.batches[3].counts.received, 1000);
}
END_TEST

START_TEST(batch_closes_at_bytes)
{
    char text[1000];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    options.batch_bytes = 10000;
    world_close();
    world_open();
    for (unsigned i = 0; i < 100; i++) {
        add_transcript(&datagram, 1, NOW, text);
        send_now();
    }
    drive();
    ck_assert_uint_ge(db.now.batch_count, 10);
    ck_assert_uint_le(db.now.batch_count, 12);
    ck_assert_uint_eq(db.now.row_count, 100);
}
END_TEST

START_TEST(nothing_above_the_durable_lsn_is_applied)
{
    uint64_t durable;

    add_llm(&datagram, 1, NOW, 1, 1, "durable");
    send_now();
    durable = journal_durable_lsn(journal);
    add_llm(&datagram, 1, NOW, 1, 1, "not yet");
    journal_raw(WORKER, 0, NOW, datagram.data, datagram.size);
    datagram.size = 0;
    ck_assert_int_eq(journal_write(journal), 0);
    drive();
    ck_assert_uint_eq(db.now.row_count, 1);
    ck_assert_uint_eq(apply_lsn(apply), durable);
    ck_assert_int_eq(journal_sync(journal), 0);
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
}
END_TEST

START_TEST(marks_are_passed_without_a_batch)
{
    uint64_t end_lsn;

    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    drive();
    ck_assert_int_eq(journal_append(journal, JOURNAL_MARK, 0, 0, 0, NOW, NULL, 0, &end_lsn), 0);
    make_durable();
    drive();
    ck_assert_uint_eq(db.now.batch_count, 1);
    ck_assert_uint_eq(apply_passed(apply), end_lsn);
    ck_assert_uint_lt(apply_lsn(apply), end_lsn);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.batch_count, 2);
    ck_assert_uint_eq(db.batches[1].from, db.batches[0].to);
    ck_assert_uint_eq(db.now.row_count, 2);
}
END_TEST

/* Frames that another run had counted as received are counted again in this one, once, when they are applied.
 */
START_TEST(frames_of_an_earlier_run_are_counted_when_replayed)
{
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    counted_lsn = journal_durable_lsn(journal);
    add_llm(&datagram, 1, NOW, 1, 1, "c");
    send_now();
    sink.fail_op = FAKE_COMMIT;
    sink.fail_at = 1;
    drive();
    ck_assert_uint_eq(metrics_get(&metrics.frames_replayed), 2);
    ck_assert_uint_eq(metrics_get(&metrics.frames_received), 2);
    ck_assert_uint_eq(metrics_get(&metrics.frames_stored), 3);
    drive();
    ck_assert_uint_eq(metrics_get(&metrics.frames_replayed), 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply");
    TCase *tests = tcase_create("apply");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, call_is_stored_once);
    tcase_add_test(tests, bad_frames_go_alone_and_keep_their_reason);
    tcase_add_test(tests, call_is_stored_once_whatever_call_fails_in_one_batch);
    tcase_add_test(tests, call_is_stored_once_whatever_call_fails_in_many_batches);
    tcase_add_test(tests, commit_of_unknown_outcome_is_counted);
    tcase_add_test(tests, frames_are_once_in_any_order_of_resends);
    tcase_add_test(tests, any_row_of_failures_loses_and_doubles_nothing);
    tcase_add_test(tests, base_of_a_later_datagram_says_nothing_about_earlier_ones);
    tcase_add_test(tests, base_of_an_unknown_stream_says_nothing_of_what_is_stored);
    tcase_add_test(tests, streams_of_two_uids_are_two_streams);
    tcase_add_test(tests, streams_forgotten_for_want_of_memory_are_known_again);
    tcase_add_test(tests, stream_with_too_many_holes_loses_the_frame_not_the_batch);
    tcase_add_test(tests, database_restored_from_an_older_copy_gets_all_again_once);
    tcase_add_loop_test(tests, rows_of_a_session_are_neighbours_in_their_order, 0, 8); /* each byte of the key */
    tcase_add_test(tests, frames_that_came_over_a_long_time_stay_as_they_came);
    tcase_add_test(tests, batch_closes_at_rows);
    tcase_add_test(tests, batches_begin_small_and_grow_fourfold);
    tcase_add_test(tests, batch_closes_at_bytes);
    tcase_add_test(tests, nothing_above_the_durable_lsn_is_applied);
    tcase_add_test(tests, marks_are_passed_without_a_batch);
    tcase_add_test(tests, frames_of_an_earlier_run_are_counted_when_replayed);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
