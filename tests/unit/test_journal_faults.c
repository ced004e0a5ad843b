/* The journal on a disk that fails: what a failed write or sync does to it, step by step. Every call failing in turn, and the
 * power going after every one, is told by tests/fault/io_errors.c and power_cut.c, down to the database. */
#include "tests/support/journaltest.h"

static struct world w;
static uint64_t ends[100]; /* LSN after record n */

static void setup(void)
{
    world_init(&w);
    ck_assert_int_eq(world_open(&w), 0);
}

static void teardown(void)
{
    world_done(&w);
}

static void append(unsigned from, unsigned to)
{
    for (unsigned n = from; n < to; n++)
        ck_assert_int_eq(nth_append(w.journal, n, &ends[n]), 0);
}

/* After a power cut without luck: these are there, and it goes on. */
static void check_after_cut(unsigned count)
{
    world_crash(&w, FAKEDISK_DROP, 0);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(w.report.damaged_from, w.report.damaged_to);
    struct found found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EAGAIN);
    ck_assert_uint_eq(found.end, count);
    append(count, count + 5);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(read_all(w.journal).end, count + 5);
}

START_TEST(failed_sync_is_rewritten_and_supersedes)
{
    append(0, 10);
    ck_assert_int_eq(flush(w.journal), 0);
    append(10, 70); /* over several segments */
    ck_assert_int_eq(journal_write(w.journal), 0);
    uint64_t durable = journal_durable_lsn(w.journal);
    w.disk->fail_at = w.disk->calls + 1;
    ck_assert_int_eq(journal_sync(w.journal), -EIO);
    ck_assert_int_eq(journal_sync(w.journal), -EIO); /* never again on that descriptor */
    ck_assert_int_eq(journal_write(w.journal), -EIO);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), durable);
    ck_assert_int_eq(journal_rewrite(w.journal), 0);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), journal_end_lsn(w.journal));
    ck_assert_uint_eq(read_all(w.journal).end, 70);
    append(70, 75);
    ck_assert_int_eq(flush(w.journal), 0);
    uint64_t bytes = journal_disk_bytes(w.journal);
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), 0); /* what was superseded goes at once */
    ck_assert_uint_lt(journal_disk_bytes(w.journal), bytes);
    ck_assert_uint_eq(read_all(w.journal).end, 75);
    check_after_cut(75);
}
END_TEST

START_TEST(failed_rewrite_closes_for_good)
{
    uint64_t end;

    append(0, 10);
    ck_assert_int_eq(journal_write(w.journal), 0);
    w.disk->fail_at = w.disk->calls + 1;
    w.disk->fail_forever = true;
    ck_assert_int_eq(journal_sync(w.journal), -EIO);
    ck_assert_int_eq(journal_rewrite(w.journal), -EIO);
    fakedisk_heal(w.disk);
    ck_assert_int_eq(nth_append(w.journal, 10, &end), -EIO);
    ck_assert_int_eq(journal_write(w.journal), -EIO);
    ck_assert_int_eq(journal_sync(w.journal), -EIO);
    ck_assert_int_eq(journal_rewrite(w.journal), -EIO);
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), -EIO);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), 0);
    check_after_cut(0);
}
END_TEST

/* Nothing was durable, so the segment that a rewrite begins takes the place of all there is. However far it gets on a disk that fails, the
 * log can be opened after the power has gone. */
START_TEST(failed_rewrite_of_the_whole_log_can_be_opened)
{
    static const enum fakedisk_crash kinds[] = {FAKEDISK_DROP, FAKEDISK_KEEP, FAKEDISK_TEAR, FAKEDISK_REORDER};
    bool failed = true;

    for (uint64_t call = 1; failed; call++)
        for (unsigned i = 0; i < 4; i++) {
            teardown();
            setup();
            append(0, 10);
            ck_assert_int_eq(journal_write(w.journal), 0);
            w.disk->fail_at = w.disk->calls + 1;
            ck_assert_int_eq(journal_sync(w.journal), -EIO);
            w.disk->fail_at = w.disk->calls + call;
            failed = journal_rewrite(w.journal) < 0;
            world_crash(&w, kinds[i], call);
            ck_assert_msg(world_open(&w) == 0, "call %lu, crash %u: %s", call, i, w.report.damaged_path);
            ck_assert_uint_eq(w.report.damaged_from, w.report.damaged_to);
            if (!failed)
                ck_assert_uint_eq(read_all(w.journal).end, 10);
            append(10, 15);
            ck_assert_int_eq(flush(w.journal), 0);
        }
}
END_TEST

START_TEST(torn_bytes_on_a_full_disk_do_not_keep_it_shut)
{
    append(0, 3);
    ck_assert_int_eq(flush(w.journal), 0);
    append(3, 6);
    ck_assert_int_eq(journal_write(w.journal), 0);
    world_crash(&w, FAKEDISK_KEEP, 0);
    fakedisk_bytes(w.disk, "journal/00000001-0000000000000000.seg", NULL)[64 + ends[2] + 9] ^= 1;
    w.disk->capacity = fakedisk_used(w.disk);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_gt(w.report.torn_bytes, 0);
    ck_assert_str_eq(w.report.torn_path, "");
    ck_assert_uint_eq(read_all(w.journal).end, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal_faults");
    TCase *tcase = tcase_create("journal_faults");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, failed_sync_is_rewritten_and_supersedes);
    tcase_add_test(tcase, failed_rewrite_closes_for_good);
    tcase_add_test(tcase, failed_rewrite_of_the_whole_log_can_be_opened);
    tcase_add_test(tcase, torn_bytes_on_a_full_disk_do_not_keep_it_shut);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
