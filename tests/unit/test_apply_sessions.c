/* Tests of daemon/apply: times, totals, orphans, and sessions that memory does not know whole. */
#include "tests/unit/applytest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* --- times --------------------------------------------------------------------------------------------- */

START_TEST(times_out_of_bounds_are_clamped_and_kept)
{
    const int64_t latest = NOW + options.future_tolerance_us, earliest = NOW - options.past_tolerance_us;

    add_llm(&datagram, 1, latest, 1, 1, "last");
    add_llm(&datagram, 1, latest + 1, 1, 1, "future");
    add_llm(&datagram, 1, earliest, 1, 1, "first");
    add_llm(&datagram, 1, earliest - 1, 1, 1, "past");
    add_llm(&datagram, 1, TOLL_TIME_MISSING, 1, 1, "none");
    add_start(&datagram, 1, INT64_MAX);
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 5);
    ck_assert_int_eq(db.rows[0].occurred_us, latest);
    ck_assert_int_eq(db.rows[0].reported_us, TOLL_TIME_MISSING);
    ck_assert_int_eq(db.rows[1].occurred_us, latest);
    ck_assert_int_eq(db.rows[1].reported_us, latest + 1);
    ck_assert_int_eq(db.rows[2].occurred_us, earliest);
    ck_assert_int_eq(db.rows[2].reported_us, TOLL_TIME_MISSING);
    ck_assert_int_eq(db.rows[3].occurred_us, earliest);
    ck_assert_int_eq(db.rows[3].reported_us, earliest - 1);
    ck_assert_int_eq(db.rows[4].occurred_us, NOW);
    ck_assert_int_eq(db.rows[4].reported_us, TOLL_TIME_MISSING);
    ck_assert_int_eq(session(1)->started_us, latest);
    ck_assert_int_eq(session(1)->started_reported_us, INT64_MAX);
}
END_TEST

START_TEST(end_before_the_start_gives_no_negative_duration)
{
    add_start(&datagram, 1, NOW);
    add_end(&datagram, 1, NOW - HOUR, "end");
    send_now();
    drive();
    check_db();
    ck_assert_int_eq(session(1)->ended_us, NOW);
}
END_TEST

/* --- orphans ------------------------------------------------------------------------------------------- */

START_TEST(idle_session_is_closed_at_its_last_activity)
{
    add_start(&datagram, 1, NOW - 5 * HOUR);
    add_llm(&datagram, 1, NOW - 4 * HOUR, 4, 2, "a");
    send_now();
    drive();
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR), 0); /* not longer than the time-out */
    ck_assert(!session(1)->ended);
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR + 1), 1);
    check_db();
    ck_assert(session(1)->ended);
    ck_assert_str_eq(session(1)->finish_reason, "orphaned");
    ck_assert_int_eq(session(1)->ended_us, NOW - 4 * HOUR);
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 4);
    ck_assert_uint_eq(metrics_get(&metrics.sessions_orphaned), 1);
    ck_assert_uint_eq(apply_lsn(apply), journal_durable_lsn(journal));
    add_end(&datagram, 1, NOW, "end"); /* a real end supersedes it */
    send_now();
    drive();
    ck_assert_str_eq(session(1)->finish_reason, "end");
    ck_assert_int_eq(session(1)->ended_us, NOW);
    check_db();
}
END_TEST

START_TEST(session_with_frames_is_not_idle)
{
    add_start(&datagram, 1, NOW);
    send_now();
    drive();
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_at(NOW + HOUR);
    drive();
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR + MINUTE), 0);
    ck_assert(!session(1)->ended);
}
END_TEST

START_TEST(session_of_before_a_restart_is_closed_when_it_stays_idle)
{
    add_start(&datagram, 1, NOW - HOUR);
    add_llm(&datagram, 1, NOW - MINUTE, 6, 2, "a");
    send_now();
    drive();
    ck_assert_int_eq(reopen(), 0); /* memory knows nothing of it now */
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR - 1), 0);
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR), 1);
    ck_assert_str_eq(session(1)->finish_reason, "orphaned");
    check_db();
}
END_TEST

START_TEST(session_counts_as_active_after_a_step_of_the_clock)
{
    add_start(&datagram, 1, NOW);
    send_now();
    drive();
    apply_idle_from(apply, NOW + 100 * DAY);
    ck_assert_int_eq(apply_orphans(apply, NOW + 100 * DAY + HOUR - 1), 0);
    ck_assert(!session(1)->ended);
    ck_assert_int_eq(apply_orphans(apply, NOW + 100 * DAY + HOUR), 1);
    ck_assert(session(1)->ended);
}
END_TEST

START_TEST(orphans_are_closed_once_whatever_call_fails)
{
    bool failed = true;

    for (unsigned n = 1; failed; n++) {
        world_close();
        world_open();
        if (n == 1) {
            add_start(&datagram, 1, NOW);
            add_llm(&datagram, 1, NOW, 6, 2, "a");
            add_start(&datagram, 2, NOW);
            send_now();
        }
        drive();
        sink.fail_at = n;
        sink.late = n % 2;
        for (unsigned tries = 0; tries < 5; tries++) {
            if (!sink.is_open)
                ck_assert(reopen() == 0 || sink.failures);
            (void)!apply_orphans(apply, NOW + (2 + tries * 2) * HOUR);
        }
        check_db();
        ck_assert(session(1)->ended && session(2)->ended);
        ck_assert_int_eq(session(1)->totals.llm_input_tokens, 6);
        failed = sink.failures > 0;
        ck_assert_uint_lt(n, 100);
    }
}
END_TEST

/* --- sessions that memory does not know whole ---------------------------------------------------------- */

START_TEST(session_across_a_restart_has_whole_totals)
{
    add_start(&datagram, 1, NOW);
    add_llm(&datagram, 1, NOW, 100, 1, "a");
    send_now();
    drive();
    ck_assert_int_eq(reopen(), 0);
    add_llm(&datagram, 1, NOW, 10, 1, "b");
    send_now();
    drive();
    add_llm(&datagram, 1, NOW, 1, 1, "c");
    add_end(&datagram, 1, NOW, "end");
    send_now();
    drive();
    check_db();
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 111);
}
END_TEST

START_TEST(session_evicted_from_memory_has_whole_totals)
{
    options.sessions_max = 2;
    world_close();
    world_open();
    for (unsigned round = 0; round < 3; round++)
        for (unsigned n = 1; n <= 5; n++) {
            add_llm(&datagram, n, NOW, 1 << round, 1, "x");
            send_now();
            drive();
            ck_assert_uint_le(apply_session_count(apply), 2);
        }
    for (unsigned n = 1; n <= 5; n++)
        add_end(&datagram, n, NOW, "end");
    send_now();
    drive();
    check_db();
    for (unsigned n = 1; n <= 5; n++)
        ck_assert_int_eq(session(n)->totals.llm_input_tokens, 7);
}
END_TEST

START_TEST(event_after_the_end_corrects_the_totals)
{
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_end(&datagram, 1, NOW, "end");
    send_now();
    drive();
    add_llm(&datagram, 1, NOW, 2, 1, "late");
    send_now();
    drive();
    check_db();
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 3);
    ck_assert_uint_eq(session(1)->revision, 1);
    ck_assert_uint_eq(apply_session_count(apply), 0);
}
END_TEST

START_TEST(live_sessions_can_be_looked_at)
{
    struct session found;
    uint8_t id[16];

    add_start(&datagram, 1, NOW);
    add_llm(&datagram, 1, NOW, 12, 3, "a");
    send_now();
    drive();
    id_of(id, 1);
    ck_assert(apply_session(apply, id, &found));
    ck_assert_int_eq(found.totals.llm_input_tokens, 12);
    ck_assert_uint_eq(apply_session_count(apply), 1);
    id_of(id, 2);
    ck_assert(!apply_session(apply, id, &found));
}
END_TEST

/* --- looking at sessions ------------------------------------------------------------------------------- */

static const char *refuse_bad(const struct sink_row *row)
{
    return row->frame->request_id.len == 3 ? "P0001" : NULL;
}

static atomic_bool looking;

static bool add_input(void *context, const struct session *found)
{
    *(int64_t *)context += found->totals.llm_input_tokens;
    return true;
}

static void *look_at_sessions(void *argument)
{
    struct session found;
    uint8_t id[16];
    int64_t sum;

    (void)argument;
    id_of(id, 1);
    while (looking) {
        sum = 0;
        apply_sessions(apply, add_input, &sum);
        if (apply_session(apply, id, &found))
            sum += found.totals.llm_calls;
        (void)apply_session_count(apply);
        sched_yield();
    }
    return NULL;
}

/* Meant for ThreadSanitizer: tollctl looks while the writer works. */
START_TEST(live_sessions_can_be_looked_at_from_another_thread)
{
    pthread_t thread;

    db.poison = refuse_bad;
    looking = true;
    ck_assert_int_eq(pthread_create(&thread, NULL, look_at_sessions, NULL), 0);
    for (unsigned round = 0; round < 100; round++) {
        add_llm(&datagram, 1 + round % 7, NOW, 1, 1, round % 10 == 3 ? "bad" : "x");
        add_llm(&datagram, 1, NOW, 1, 1, "y");
        if (round % 5 == 4)
            add_end(&datagram, 1 + round % 7, NOW, "end");
        send_now();
        if (round % 9 == 0) {
            sink.fail_at = 1 + round % 8;
            sink.fail_with = -EAGAIN;
        }
        drive();
        (void)!apply_orphans(apply, NOW + round * HOUR);
    }
    looking = false;
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    check_db();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply_sessions");
    TCase *tests = tcase_create("apply_sessions");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, times_out_of_bounds_are_clamped_and_kept);
    tcase_add_test(tests, end_before_the_start_gives_no_negative_duration);
    tcase_add_test(tests, idle_session_is_closed_at_its_last_activity);
    tcase_add_test(tests, session_with_frames_is_not_idle);
    tcase_add_test(tests, session_of_before_a_restart_is_closed_when_it_stays_idle);
    tcase_add_test(tests, session_counts_as_active_after_a_step_of_the_clock);
    tcase_add_test(tests, orphans_are_closed_once_whatever_call_fails);
    tcase_add_test(tests, session_across_a_restart_has_whole_totals);
    tcase_add_test(tests, session_evicted_from_memory_has_whole_totals);
    tcase_add_test(tests, event_after_the_end_corrects_the_totals);
    tcase_add_test(tests, live_sessions_can_be_looked_at);
    tcase_add_test(tests, live_sessions_can_be_looked_at_from_another_thread);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
