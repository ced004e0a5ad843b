/* Tests of daemon/streams: what is forgotten where there is too much, and what an operator is told. */
#include "tests/unit/streamstest.h"

START_TEST(streams_of_a_uid_above_its_limit_are_forgotten_longest_idle_first)
{
    options.max_per_uid = 3;
    remake();
    get(UID + 1, 50, 1);
    for (unsigned n = 1; n <= 3; n++)
        get(UID, n, 1);
    get(UID, 1, 1); /* not idle any more */
    get(UID, 4, 1);
    ck_assert(!view_of(UID, 2).found);
    ck_assert(view_of(UID, 1).found && view_of(UID, 3).found && view_of(UID, 4).found && view_of(UID + 1, 50).found);
    ck_assert_uint_eq(streams_count(streams), 4);
}
END_TEST

START_TEST(streams_above_the_total_are_forgotten_where_most_are)
{
    options.max = 6;
    remake();
    for (unsigned n = 1; n <= 4; n++)
        get(UID, n, 1);
    get(UID + 1, 1, 1);
    get(UID + 2, 1, 1);
    get(UID + 3, 1, 1);
    ck_assert_uint_eq(streams_count(streams), 6);
    ck_assert(!view_of(UID, 1).found);
    ck_assert(view_of(UID + 1, 1).found && view_of(UID + 2, 1).found && view_of(UID + 3, 1).found);
    options.max_per_uid = 1;
    remake();
    for (unsigned n = 1; n <= 10; n++)
        get(UID, n, 1); /* each takes the only place of its uid */
    ck_assert_uint_eq(streams_count(streams), 1);
    ck_assert(view_of(UID, 10).found);
}
END_TEST

START_TEST(stream_forgotten_with_a_promise_is_known_again_and_acknowledged)
{
    options.max_per_uid = 1;
    remake();
    journal_datagram(1, 1, 5);
    journal_for(UID, 2, 1, 1, 2); /* the first is forgotten */
    streams_publish(streams, lsn);
    ck_assert_uint_eq(view_of(UID, 2).view.acked, 1);
    journal_datagram(1, 1, 5); /* sent again for want of an acknowledgement */
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 4);
}
END_TEST

START_TEST(stream_with_more_holes_than_allowed_is_refused)
{
    struct stream *stream = get(UID, 1, 1);

    /* The numbers below the base are a range themselves. */
    for (uint64_t i = 1; i < RANGESET_MAX; i++)
        ck_assert_int_eq(stream_note(stream, 1 + 2 * i, 2 + 2 * i), 0);
    ck_assert_int_eq(stream_note(stream, 5000, 5001), -E2BIG);
    ck_assert_int_eq(stream_note(stream, 1, 3), 0); /* closes a hole: that helps */
    ck_assert_int_eq(stream_note(stream, 5000, 5001), 0);
    ck_assert_int_eq(stream_note(stream, 6000, 6001), -E2BIG);
    ck_assert_uint_eq(view_of(UID, 1).view.holes, RANGESET_MAX - 1);
    stream = get(UID, 1, 4000); /* a base above all holes mends the stream */
    ck_assert_int_eq(stream_note(stream, 6000, 6001), 0);
}
END_TEST

static enum stream_state state_of(unsigned n)
{
    return view_of(UID, n).view.state;
}

START_TEST(poisoned_stream_is_told_until_it_is_mended)
{
    struct stream *stream = get(UID, 1, 1);

    ck_assert_int_eq(state_of(1), STREAM_OK);
    for (uint64_t i = 1; i < RANGESET_MAX; i++)
        ck_assert_int_eq(stream_note(stream, 1 + 2 * i, 2 + 2 * i), 0);
    ck_assert_int_eq(state_of(1), STREAM_OK); /* its holes are young */
    ck_assert_int_eq(stream_note(stream, 5000, 5001), -E2BIG);
    ck_assert_int_eq(stream_note(stream, 5000, 5001), -E2BIG);
    ck_assert_int_eq(state_of(1), STREAM_POISONED);
    ck_assert_uint_eq(view_of(UID, 1).view.refused, 2);
    stream = get(UID, 1, 4000);
    ck_assert_int_eq(stream_note(stream, 5000, 5001), 0);
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

START_TEST(poisoned_stream_that_is_silent_for_hours_is_told_no_more)
{
    struct stream *stream = get(UID, 1, 1);

    for (uint64_t i = 1; i <= RANGESET_MAX; i++)
        if (stream_note(stream, 1 + 2 * i, 2 + 2 * i) == -E2BIG)
            break;
    ck_assert_int_eq(state_of(1), STREAM_POISONED);
    now_us += INT64_C(2) * 3600 * 1000 * 1000;
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

/* Who sends on and on, but never what is missing. */
START_TEST(stream_whose_hole_stays_is_stalled)
{
    struct streams_trouble trouble;

    journal_datagram(1, 1, 3);
    journal_datagram(1, 5, 6);
    now_us += STALL - 1;
    journal_datagram(1, 6, 7);
    ck_assert_int_eq(state_of(1), STREAM_OK);
    now_us++;
    ck_assert_int_eq(state_of(1), STREAM_STALLED);
    streams_look(streams, now_us, &trouble);
    ck_assert_uint_eq(trouble.count[STREAM_STALLED], 1);
    ck_assert_uint_eq(trouble.example[STREAM_STALLED].received, 2);
    journal_datagram(1, 3, 4); /* progress, but another is missing */
    ck_assert_int_eq(state_of(1), STREAM_OK);
    now_us += STALL;
    ck_assert_int_eq(state_of(1), STREAM_STALLED);
    journal_datagram(1, 4, 5);
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

START_TEST(stream_with_a_hole_is_dead_when_its_worker_is_gone)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    for (unsigned n = 1; n <= 3; n++) {
        journal_for(UID, n, 1, 1, 3);
        stream_set_pid(get(UID, n, 1), n == 3 ? (uint32_t)getpid() : (uint32_t)pid);
    }
    journal_for(UID, 2, 1, 5, 6);
    journal_for(UID, 3, 1, 5, 6);
    now_us += STALL;
    ck_assert_int_eq(state_of(1), STREAM_OK); /* all that it sent is there */
    ck_assert_int_eq(state_of(2), STREAM_DEAD);
    ck_assert_int_eq(state_of(3), STREAM_STALLED);
    journal_for(UID, 2, 1, 3, 5);
    ck_assert_int_eq(state_of(2), STREAM_OK);
}
END_TEST

START_TEST(stream_shut_out_is_told_until_it_gets_through)
{
    struct stream *stream = get(UID, 1, 1);

    ck_assert_int_eq(stream_note(stream, 1, 4), 0);
    ck_assert(stream_has(stream, 1, 4) && stream_has(stream, 2, 3) && !stream_has(stream, 1, 5));
    stream_refuse(stream);
    ck_assert_int_eq(state_of(1), STREAM_REFUSED);
    ck_assert_int_eq(stream_note(stream, 4, 5), 0);
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

/* A thousand streams with a thousand holes each would be 16 MiB; nobody else's streams pay for it. */
START_TEST(holes_of_all_streams_are_bounded)
{
    enum { MANY = 400, KEPT = 131072 / (RANGESET_MAX - 1) };
    struct streams_trouble trouble;
    size_t holes = 0;

    options.max = options.max_per_uid = 1000;
    remake();
    journal_for(UID + 1, 1, 1, 1, 2);
    journal_for(UID + 1, 1, 1, 3, 4);
    for (unsigned n = 1; n <= MANY; n++)
        for (uint64_t i = 1; i < RANGESET_MAX; i++)
            journal_for(UID, n, 1, 1 + 2 * i, 2 + 2 * i);
    for (unsigned n = 1; n <= MANY; n++)
        if (view_of(UID, n).found)
            holes += view_of(UID, n).view.holes;
    ck_assert_uint_le(holes, 131072);
    ck_assert_uint_ge(holes, (KEPT - 1) * (uintmax_t)(RANGESET_MAX - 1));
    ck_assert(view_of(UID, MANY).found); /* the longest idle went first */
    ck_assert_uint_eq(view_of(UID + 1, 1).view.holes, 1);
    streams_look(streams, now_us, &trouble);
    ck_assert_uint_le(trouble.count[STREAM_OK], KEPT + 2);
}
END_TEST

START_TEST(client_names_are_cut_and_clean)
{
    char name[100];

    memset(name, 'n', sizeof(name));
    name[1] = '\xFF';
    name[46] = '\xC3'; /* half of a character where it is cut */
    name[47] = '\xA4';
    stream_set_client(get(UID, 1, 1), name, sizeof(name));
    ck_assert_uint_le(strlen(view_of(UID, 1).view.client), 47);
    ck_assert_mem_eq(view_of(UID, 1).view.client, "n\xEF\xBF\xBDn", 5);
    stream_set_client(get(UID, 1, 1), "", 0);
    ck_assert_str_eq(view_of(UID, 1).view.client, "");
}
END_TEST

START_TEST(view_tells_what_is_received_and_acknowledged)
{
    journal_datagram(1, 1, 4);
    ck_assert_uint_eq(view_of(UID, 1).view.received, 3);
    ck_assert_uint_eq(view_of(UID, 1).view.acked, 0);
    get(UID, 2, TOLL_SEQ_MAX);
    ck_assert_uint_eq(view_of(UID, 2).view.received, TOLL_SEQ_MAX - 1);
    ck_assert_uint_eq(view_of(UID, 2).view.acked, TOLL_SEQ_MAX - 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("streams_limits");
    TCase *tests = tcase_create("streams");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, streams_of_a_uid_above_its_limit_are_forgotten_longest_idle_first);
    tcase_add_test(tests, streams_above_the_total_are_forgotten_where_most_are);
    tcase_add_test(tests, stream_forgotten_with_a_promise_is_known_again_and_acknowledged);
    tcase_add_test(tests, stream_with_more_holes_than_allowed_is_refused);
    tcase_add_test(tests, poisoned_stream_is_told_until_it_is_mended);
    tcase_add_test(tests, poisoned_stream_that_is_silent_for_hours_is_told_no_more);
    tcase_add_test(tests, stream_whose_hole_stays_is_stalled);
    tcase_add_test(tests, stream_with_a_hole_is_dead_when_its_worker_is_gone);
    tcase_add_test(tests, stream_shut_out_is_told_until_it_gets_through);
    tcase_add_test(tests, holes_of_all_streams_are_bounded);
    tcase_add_test(tests, client_names_are_cut_and_clean);
    tcase_add_test(tests, view_tells_what_is_received_and_acknowledged);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
