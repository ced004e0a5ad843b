/* The journal's room: retention, limits, a full disk, and readers that are left behind. */
#include "daemon/crc32c.h"
#include "tests/support/journaltest.h"

#include <stdlib.h>
#include <unistd.h>

static struct world w;

static void setup(void)
{
    world_init(&w);
    ck_assert_int_eq(world_open(&w), 0);
}

static void teardown(void)
{
    world_done(&w);
}

START_TEST(retention_keeps_committed_segments_for_a_time)
{
    journal_set_limits(w.journal, 0, 0, 1000000);
    uint64_t end = append_range(w.journal, 0, 100); /* received at 1000 … 1099 µs */
    ck_assert_int_eq(flush(w.journal), 0);
    uint64_t bytes = journal_disk_bytes(w.journal);
    ck_assert_uint_eq(bytes, 2048 * (bytes / 2048));
    ck_assert_int_eq(journal_collect(w.journal, end, 1000000), 0);
    ck_assert_uint_eq(journal_oldest_lsn(w.journal), 0);
    ck_assert_int_eq(journal_collect(w.journal, 0, 90000000), 0);
    ck_assert_uint_eq(journal_oldest_lsn(w.journal), 0);

    world_reopen(&w); /* how old a segment is is known after a restart too */
    journal_set_limits(w.journal, 0, 0, 1000000);
    ck_assert_int_eq(journal_collect(w.journal, end, 1001050), 0);
    uint64_t oldest = journal_oldest_lsn(w.journal);
    ck_assert_uint_gt(oldest, 0);
    ck_assert_uint_lt(read_all(w.journal).first, 60);
    ck_assert_int_eq(journal_collect(w.journal, end, 9000000), 0);
    ck_assert_uint_gt(journal_oldest_lsn(w.journal), oldest);
    ck_assert_uint_eq(read_all(w.journal).end, 100);
    ck_assert_uint_lt(journal_disk_bytes(w.journal), bytes);

    struct journal_reader *reader;
    ck_assert_int_eq(journal_reader_new(&reader, w.journal), 0);
    ck_assert_int_eq(journal_reader_seek(reader, oldest), -ERANGE);
    journal_reader_free(reader);
}
END_TEST

START_TEST(retention_outlasts_steps_of_the_clock)
{
    const int64_t steps_us[] = {3600000000, -90000000000, 500};
    int64_t now_us = 1100;

    journal_set_limits(w.journal, 0, 0, 1000000);
    uint64_t end = append_range(w.journal, 0, 100); /* received at 1000 … 1099 µs */
    ck_assert_int_eq(flush(w.journal), 0);
    for (size_t i = 0; i < sizeof steps_us / sizeof *steps_us; i++) {
        now_us += steps_us[i];
        journal_clock_stepped(w.journal, steps_us[i]);
        ck_assert_int_eq(journal_collect(w.journal, end, now_us), 0);
        ck_assert_uint_eq(journal_oldest_lsn(w.journal), 0);
    }
    ck_assert_int_eq(journal_collect(w.journal, end, now_us + 1000000), 0);
    ck_assert_uint_gt(journal_oldest_lsn(w.journal), 0);
}
END_TEST

/* What was committed is wanted again: the database went back. */
START_TEST(held_segments_stay_whatever_is_committed)
{
    append_range(w.journal, 0, 120);
    ck_assert_int_eq(flush(w.journal), 0);
    uint64_t durable = journal_durable_lsn(w.journal);
    journal_hold(w.journal, 0, 0);
    ck_assert_int_eq(journal_collect(w.journal, durable, INT64_MAX / 2), 0);
    ck_assert_uint_eq(journal_oldest_lsn(w.journal), 0);
    journal_hold(w.journal, 0, durable / 2);
    ck_assert_int_eq(journal_collect(w.journal, durable, INT64_MAX / 2), 0);
    ck_assert_uint_gt(journal_oldest_lsn(w.journal), 0);
    ck_assert_uint_le(journal_oldest_lsn(w.journal), durable / 2);
    journal_hold(w.journal, 0, UINT64_MAX);
    ck_assert_int_eq(journal_collect(w.journal, durable, INT64_MAX / 2), 0);
    ck_assert_uint_gt(journal_oldest_lsn(w.journal), durable / 2);
}
END_TEST

START_TEST(reader_left_behind_is_told)
{
    struct journal_reader *reader;
    struct journal_record record;

    ck_assert_int_eq(journal_reader_new(&reader, w.journal), 0);
    uint64_t end = append_range(w.journal, 0, 100);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_int_eq(journal_collect(w.journal, end, 5000000), 0);
    ck_assert_int_eq(journal_reader_next(reader, &record), -ERANGE);
    ck_assert_int_eq(journal_reader_seek(reader, journal_oldest_lsn(w.journal)), 0);
    ck_assert_int_eq(journal_reader_next(reader, &record), 0);
    journal_reader_free(reader);
}
END_TEST

START_TEST(limit_stops_appending_until_commits_make_room)
{
    uint64_t end = 0, before = 0;
    unsigned n = 0;
    int r;

    journal_set_limits(w.journal, 5 * UINT64_C(2048), 0, 1000000000);
    for (; (r = nth_append(w.journal, n, &end)) == 0; n++) {
        ck_assert_int_eq(flush(w.journal), 0);
        r = journal_collect(w.journal, 0, 0);
        ck_assert(r == 0 || r == -ENOSPC);
    }
    ck_assert_int_eq(r, -ENOSPC);
    ck_assert_uint_eq(journal_disk_bytes(w.journal), 5 * UINT64_C(2048));
    uint64_t calls = w.disk->calls;
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(nth_append(w.journal, n, &end), -ENOSPC);
    ck_assert_uint_eq(w.disk->calls, calls); /* refusing costs nothing */
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), -ENOSPC);
    ck_assert_int_eq(nth_append(w.journal, n, &end), -ENOSPC);
    before = journal_durable_lsn(w.journal);
    ck_assert_int_eq(journal_collect(w.journal, before, 0), 0); /* retention yields */
    ck_assert_uint_gt(journal_oldest_lsn(w.journal), 0);
    ck_assert_uint_eq(journal_disk_bytes(w.journal), 5 * UINT64_C(2048));
    ck_assert_int_eq(nth_append(w.journal, n, &end), 0);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(read_all(w.journal).end, n + 1);
}
END_TEST

START_TEST(free_space_stops_appending_and_resumes_by_itself)
{
    uint64_t end;
    unsigned n = 0;
    int r;

    w.disk->capacity = 136 * UINT64_C(1024);
    journal_set_limits(w.journal, 0, 128 * UINT64_C(1024), 0);
    for (; (r = nth_append(w.journal, n, &end)) == 0; n++)
        ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_int_eq(r, -ENOSPC);
    ck_assert_uint_gt(n, 30);
    ck_assert_uint_ge(w.disk->capacity - fakedisk_used(w.disk), 128 * UINT64_C(1024));
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), -ENOSPC);
    w.disk->capacity = 256 * UINT64_C(1024);
    ck_assert_int_eq(nth_append(w.journal, n, &end), -ENOSPC);
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), 0);
    ck_assert_int_eq(nth_append(w.journal, n, &end), 0);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(read_all(w.journal).end, n + 1);
}
END_TEST

START_TEST(full_disk_is_no_error_of_the_journal)
{
    uint64_t end;
    unsigned n = 0;
    int r;

    w.disk->capacity = 73 * UINT64_C(1024) + 100; /* no limit of our own, but small files need some room */
    for (; (r = nth_append(w.journal, n, &end)) == 0; n++)
        ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_int_eq(r, -ENOSPC);
    ck_assert_int_eq(journal_state_write(w.journal, "fact", "known", 5), 0);
    ck_assert_uint_eq(read_all(w.journal).end, n);
    w.disk->capacity = fakedisk_used(w.disk); /* somebody else takes all that is left */
    world_reopen(&w);                         /* which does not keep us from what is there */
    ck_assert_uint_eq(read_all(w.journal).end, n);
    ck_assert_int_eq(nth_append(w.journal, n, &end), -ENOSPC);
    w.disk->capacity = 73 * UINT64_C(1024) + 100;
    ck_assert_int_eq(journal_collect(w.journal, journal_durable_lsn(w.journal), 5000000), 0);
    append_range(w.journal, n, n + 20);
    ck_assert_int_eq(flush(w.journal), 0);
}
END_TEST

START_TEST(spare_is_ready_before_it_is_needed)
{
    append_range(w.journal, 0, 15);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), 0);
    ck_assert_uint_eq(journal_disk_bytes(w.journal), 2 * UINT64_C(2048));
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), 0);
    ck_assert_uint_eq(journal_disk_bytes(w.journal), 2 * UINT64_C(2048));
    w.disk->capacity = fakedisk_used(w.disk);
    append_range(w.journal, 15, 25);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(journal_disk_bytes(w.journal), 2 * UINT64_C(2048));
    world_reopen(&w);
    ck_assert_uint_eq(journal_disk_bytes(w.journal), 2 * UINT64_C(2048));
    ck_assert_uint_eq(read_all(w.journal).end, 25);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal_space");
    TCase *tcase = tcase_create("journal");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, retention_keeps_committed_segments_for_a_time);
    tcase_add_test(tcase, retention_outlasts_steps_of_the_clock);
    tcase_add_test(tcase, held_segments_stay_whatever_is_committed);
    tcase_add_test(tcase, reader_left_behind_is_told);
    tcase_add_test(tcase, limit_stops_appending_until_commits_make_room);
    tcase_add_test(tcase, free_space_stops_appending_and_resumes_by_itself);
    tcase_add_test(tcase, full_disk_is_no_error_of_the_journal);
    tcase_add_test(tcase, spare_is_ready_before_it_is_needed);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
