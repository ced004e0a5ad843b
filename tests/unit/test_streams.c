/* Tests of daemon/streams: what is acknowledged when, on real ack pages that a worker's side reads. */
#include "tests/unit/streamstest.h"

START_TEST(numbers_are_acknowledged_when_the_journal_is_safe_up_to_them)
{
    struct worker_page page = page_new();

    attach(1, &page);
    uint64_t first = journal_datagram(1, 1, 4);
    uint64_t second = journal_datagram(1, 4, 6);
    ck_assert_uint_eq(page_acked(&page), 0);
    streams_publish(streams, first - 1);
    ck_assert_uint_eq(page_acked(&page), 0);
    streams_publish(streams, first);
    ck_assert_uint_eq(page_acked(&page), 3);
    streams_publish(streams, second - 1);
    ck_assert_uint_eq(page_acked(&page), 3);
    streams_publish(streams, second);
    ck_assert_uint_eq(page_acked(&page), 5);
    page_free(&page);
}
END_TEST

START_TEST(number_above_a_hole_waits_for_it)
{
    journal_datagram(1, 1, 3);
    journal_datagram(1, 5, 7);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 2);
    ck_assert_uint_eq(view_of(UID, 1).view.holes, 1);
    journal_datagram(1, 3, 5);
    ck_assert_uint_eq(acked(), 2); /* the hole's filling is not safe yet */
    streams_publish(streams, lsn - 1);
    ck_assert_uint_eq(acked(), 2);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 6);
    ck_assert_uint_eq(view_of(UID, 1).view.holes, 0);
}
END_TEST

/* The base tells what an earlier run acknowledged: numbers below it hold nothing back. */
START_TEST(base_closes_holes_below_it)
{
    journal_datagram(1, 1, 3);
    journal_datagram(1, 5, 7);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 2);
    journal_datagram(5, 7, 8);
    ck_assert_uint_eq(acked(), 4);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 7);
}
END_TEST

START_TEST(stream_first_seen_in_its_middle_is_acknowledged_from_its_base)
{
    struct worker_page page = page_new();

    journal_datagram(1000, 1002, 1003);
    attach(1, &page);
    ck_assert_uint_eq(page_acked(&page), 999);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 999); /* 1000 and 1001 did not come yet */
    journal_datagram(1000, 1000, 1002);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 1002);
    page_free(&page);
}
END_TEST

/* What was promised before the base rose is less than the base tells. */
START_TEST(promise_kept_late_takes_no_acknowledgement_back)
{
    struct worker_page page = page_new();

    uint64_t promised = journal_datagram(1, 1, 3);
    journal_datagram(6, 8, 9);
    attach(1, &page);
    ck_assert_uint_eq(page_acked(&page), 5);
    streams_publish(streams, promised);
    ck_assert_uint_eq(acked(), 5);
    ck_assert_uint_eq(page_acked(&page), 5);
    page_free(&page);
}
END_TEST

START_TEST(base_that_goes_back_takes_no_acknowledgement_back)
{
    struct worker_page page = page_new();

    attach(1, &page);
    journal_datagram(1, 1, 10);
    streams_publish(streams, lsn);
    journal_datagram(3, 3, 5);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 9);
    journal_datagram(1, 1, 2);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 9);
    page_free(&page);
}
END_TEST

/* Against a model that remembers every datagram: acks never exceed what is journaled below the safe LSN,
 * never go down, and reach all in the end. */
START_TEST(acknowledgements_keep_to_the_model)
{
    enum { NUMBERS = 300, STEPS = 4000 };
    uint64_t journaled_at[NUMBERS + 1] = {0}, safe = 0, before = 0;
    struct worker_page page = page_new();
    unsigned seed = (unsigned)getpid();

    printf("seed %u\n", seed);
    srand(seed);
    attach(1, &page);
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t seq = before + 1 + (uint64_t)rand() % 12, end = seq + 1 + (uint64_t)rand() % 4, promised = 0;

        if (end > NUMBERS + 1)
            end = NUMBERS + 1;
        if (seq < end && rand() % 3) {
            journal_datagram(before + 1, seq, end);
            for (uint64_t n = seq; n < end; n++)
                if (!journaled_at[n])
                    journaled_at[n] = lsn;
        } else {
            safe += (lsn - safe) * (uint64_t)(rand() % 3) / 2;
            streams_publish(streams, safe);
        }
        while (promised < NUMBERS && journaled_at[promised + 1] && journaled_at[promised + 1] <= safe)
            promised++;
        ck_assert_uint_le(page_acked(&page), promised);
        ck_assert_uint_ge(page_acked(&page), before);
        before = page_acked(&page);
    }
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), NUMBERS);
    page_free(&page);
}
END_TEST

START_TEST(page_shows_everything_when_attached)
{
    struct worker_page page = page_new();

    journal_datagram(1, 1, 9);
    streams_publish(streams, lsn);
    streams_tend(streams, ACKPAGE_BUSY, 1);
    attach(1, &page);
    ck_assert_uint_eq(page_u64(&page, 0), 0x4C4C4F54u | UINT64_C(1) << 32);
    ck_assert_uint_eq(page_u64(&page, 8), EPOCH);
    ck_assert_uint_eq(page_acked(&page), 8);
    ck_assert_uint_eq(page_u64(&page, 24), ACKPAGE_BUSY);
    ck_assert_uint_eq(page_u64(&page, 48), 5000);
    streams_tend(streams, ACKPAGE_OK, 6000);
    ck_assert_uint_eq(page_u64(&page, 24), ACKPAGE_OK);
    ck_assert_uint_eq(page_u64(&page, 48), 6000);
    page_free(&page);
}
END_TEST

START_TEST(page_attached_again_replaces_the_old_one)
{
    struct worker_page first = page_new(), second = page_new();

    attach(1, &first);
    attach(1, &second);
    ck_assert_uint_eq(streams_pages(streams), 1);
    journal_datagram(1, 1, 2);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&first), 0);
    ck_assert_uint_eq(page_acked(&second), 1);
    page_free(&first);
    page_free(&second);
}
END_TEST

START_TEST(pages_are_limited_per_uid)
{
    struct worker_page page = page_new();

    attach_as(UID + 1, 99, &page, 0);
    for (unsigned n = 1; n <= 15; n++)
        attach(n, &page);
    ck_assert_uint_eq(streams_pages(streams), 11);
    ck_assert(view_of(UID + 1, 99).view.page); /* another's page is not taken */
    ck_assert(!view_of(UID, 5).view.page);
    ck_assert(view_of(UID, 6).view.page);
    ck_assert_uint_eq(streams_count(streams), 16); /* the streams stay */
    page_free(&page);
}
END_TEST

START_TEST(pages_are_limited_in_total_at_the_cost_of_who_has_most)
{
    struct worker_page page = page_new();

    options.pages_max = 12;
    remake();
    for (unsigned n = 1; n <= 9; n++)
        attach(n, &page);
    for (unsigned n = 1; n <= 6; n++)
        ck_assert_int_eq(attach_as(UID + 1, n, &page, 0), 0);
    ck_assert_uint_eq(streams_pages(streams), 12);
    for (unsigned n = 1; n <= 6; n++)
        ck_assert(view_of(UID + 1, n).view.page);
    for (unsigned n = 1; n <= 3; n++)
        ck_assert(!view_of(UID, n).view.page);
    options.pages_max = 0;
    remake();
    ck_assert_int_eq(attach_as(UID, 1, &page, 0), -ENOSPC);
    options.pages_max = 5;
    options.pages_max_per_uid = 0;
    remake();
    ck_assert_int_eq(attach_as(UID, 1, &page, 0), -ENOSPC);
    page_free(&page);
}
END_TEST

static pid_t spawn(void)
{
    pid_t child = fork();

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        pause();
        _exit(0);
    }
    return child;
}

static void finish(pid_t child)
{
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

START_TEST(pages_of_dead_workers_are_dropped)
{
    enum { WORKERS = 70 }; /* more than are looked at in one go */
    struct worker_page page = page_new();
    pid_t children[2] = {spawn(), spawn()};

    options.pages_max = options.pages_max_per_uid = options.max = options.max_per_uid = 100;
    remake();
    for (unsigned n = 0; n < WORKERS; n++)
        ck_assert_int_eq(attach_as(UID, n, &page, (uint32_t)children[n % 2]), 0);
    ck_assert_int_eq(attach_as(UID, WORKERS, &page, 0), 0); /* not visible from here: stays */
    streams_tend(streams, ACKPAGE_OK, 1);
    ck_assert_uint_eq(streams_pages(streams), WORKERS + 1);
    finish(children[0]);
    streams_tend(streams, ACKPAGE_OK, 2);
    ck_assert_uint_eq(streams_pages(streams), WORKERS / 2 + 1);
    ck_assert(!view_of(UID, 0).view.page && view_of(UID, 1).view.page);
    finish(children[1]);
    streams_tend(streams, ACKPAGE_OK, 3);
    ck_assert_uint_eq(streams_pages(streams), 1);
    ck_assert_uint_eq(streams_count(streams), WORKERS + 1);
    page_free(&page);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("streams");
    TCase *tests = tcase_create("streams");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, numbers_are_acknowledged_when_the_journal_is_safe_up_to_them);
    tcase_add_test(tests, number_above_a_hole_waits_for_it);
    tcase_add_test(tests, base_closes_holes_below_it);
    tcase_add_test(tests, stream_first_seen_in_its_middle_is_acknowledged_from_its_base);
    tcase_add_test(tests, promise_kept_late_takes_no_acknowledgement_back);
    tcase_add_test(tests, base_that_goes_back_takes_no_acknowledgement_back);
    tcase_add_test(tests, acknowledgements_keep_to_the_model);
    tcase_add_test(tests, page_shows_everything_when_attached);
    tcase_add_test(tests, page_attached_again_replaces_the_old_one);
    tcase_add_test(tests, pages_are_limited_per_uid);
    tcase_add_test(tests, pages_are_limited_in_total_at_the_cost_of_who_has_most);
    tcase_add_test(tests, pages_of_dead_workers_are_dropped);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
