/* Tests of daemon/rangeset: by hand at the edges, and against a plain array of flags. */
#include "daemon/rangeset.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct rangeset set;

static void setup(void)
{
    rangeset_init(&set);
}

static void teardown(void)
{
    rangeset_done(&set);
}

static void check_text(const char *expected)
{
    char buf[256];

    ck_assert_uint_eq(rangeset_format(&set, buf, sizeof(buf)), strlen(expected));
    ck_assert_str_eq(buf, expected);
}

START_TEST(ranges_touching_become_one)
{
    ck_assert_int_eq(rangeset_add(&set, 1, 5), 0);
    ck_assert_int_eq(rangeset_add(&set, 5, 9), 0);
    check_text("{[1,9)}");
    ck_assert_ptr_null(set.many); /* no allocation for a stream without loss */
}
END_TEST

START_TEST(ranges_apart_stay_apart_until_the_hole_is_filled)
{
    ck_assert_int_eq(rangeset_add(&set, 7, 9), 0);
    ck_assert_int_eq(rangeset_add(&set, 1, 3), 0);
    check_text("{[1,3),[7,9)}");
    ck_assert(!rangeset_contains(&set, 3));
    ck_assert_uint_eq(rangeset_first_missing(&set, 1), 3);
    ck_assert_uint_eq(rangeset_first_missing(&set, 3), 3);
    ck_assert_uint_eq(rangeset_first_missing(&set, 8), 9);
    ck_assert_int_eq(rangeset_add(&set, 2, 8), 0);
    check_text("{[1,9)}");
}
END_TEST

START_TEST(empty_set_has_nothing)
{
    check_text("{}");
    ck_assert(!rangeset_contains(&set, 0));
    ck_assert_uint_eq(rangeset_first_missing(&set, 4), 4);
    ck_assert_int_eq(rangeset_add(&set, 4, 4), 0);
    ck_assert_uint_eq(set.count, 0);
}
END_TEST

START_TEST(too_many_ranges_are_refused_and_nothing_changes)
{
    for (uint64_t i = 0; i < RANGESET_MAX; i++)
        ck_assert_int_eq(rangeset_add(&set, i * 2, i * 2 + 1), 0);
    ck_assert_int_eq(rangeset_add(&set, 1000000, 1000001), -E2BIG);
    ck_assert_uint_eq(set.count, RANGESET_MAX);
    ck_assert_int_eq(rangeset_add(&set, 1, 2), 0); /* filling a hole still works */
    ck_assert_uint_eq(set.count, RANGESET_MAX - 1);
}
END_TEST

START_TEST(text_reads_back)
{
    struct rangeset other;

    ck_assert_int_eq(rangeset_parse(&other, "{[1,5),[7,9)}"), 0);
    rangeset_done(&set);
    set = other;
    check_text("{[1,5),[7,9)}");
}
END_TEST

START_TEST(bad_text_is_refused)
{
    static const char *bad[] = {"",        "{", "[1,2)", "{[1,2)", "{[1,2]}", "{[a,2)}", "{[1,99999999999999999999)}",
                                "{[1,2)}x"};
    struct rangeset other;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        ck_assert_msg(rangeset_parse(&other, bad[i]) == -EINVAL, "%s", bad[i]);
}
END_TEST

START_TEST(random_ranges_equal_a_plain_array)
{
    unsigned seed = 42, different = 0;

    for (int round = 0; round < 200; round++) {
        unsigned char flags[220] = {0};

        rangeset_done(&set);
        for (int i = 0; i < 60; i++) {
            unsigned from = (unsigned)rand_r(&seed) % 190, to = from + 1 + (unsigned)rand_r(&seed) % 8;

            ck_assert_int_eq(rangeset_add(&set, from, to), 0);
            for (unsigned n = from; n < to; n++)
                flags[n] = 1;
            different += rangeset_overlaps(&set, from + 10, to + 10) != !!memchr(flags + from + 10, 1, to - from);
            for (unsigned n = 0; n < 200; n++)
                different += rangeset_contains(&set, n) != flags[n];
        }
        for (uint32_t i = 1; i < set.count; i++)
            ck_assert_uint_gt(rangeset_ranges(&set)[i].from, rangeset_ranges(&set)[i - 1].to);
    }
    ck_assert_uint_eq(different, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rangeset");
    TCase *tcase = tcase_create("rangeset");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, ranges_touching_become_one);
    tcase_add_test(tcase, ranges_apart_stay_apart_until_the_hole_is_filled);
    tcase_add_test(tcase, empty_set_has_nothing);
    tcase_add_test(tcase, too_many_ranges_are_refused_and_nothing_changes);
    tcase_add_test(tcase, text_reads_back);
    tcase_add_test(tcase, bad_text_is_refused);
    tcase_add_test(tcase, random_ranges_equal_a_plain_array);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
