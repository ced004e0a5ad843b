/* Steps of the wall clock are told from its running. */
#include "daemon/clock.h"

#include <check.h>
#include <stdlib.h>

#define SECOND INT64_C(1000000)
#define HOUR   (3600 * SECOND)

START_TEST(running_clocks_show_no_step)
{
    struct clock_watch watch;

    clock_watch_init(&watch, 1000 * HOUR, 5 * HOUR);
    ck_assert_int_eq(clock_watch_step(&watch, 1001 * HOUR, 6 * HOUR), 0);
    ck_assert_int_eq(clock_watch_step(&watch, 1001 * HOUR + SECOND, 6 * HOUR + SECOND), 0);
}
END_TEST

START_TEST(step_is_told_once)
{
    struct clock_watch watch;

    clock_watch_init(&watch, 1000 * HOUR, 5 * HOUR);
    ck_assert_int_eq(clock_watch_step(&watch, 1001 * HOUR + SECOND, 5 * HOUR + SECOND), HOUR);
    ck_assert_int_eq(clock_watch_step(&watch, 1001 * HOUR + 2 * SECOND, 5 * HOUR + 2 * SECOND), 0);
    ck_assert_int_eq(clock_watch_step(&watch, 900 * HOUR, 5 * HOUR + 2 * SECOND), -101 * HOUR - 2 * SECOND);
}
END_TEST

START_TEST(slewing_is_no_step)
{
    struct clock_watch watch;
    int64_t wall = 1000 * HOUR;

    clock_watch_init(&watch, wall, 0);
    for (int64_t i = 1; i < 100; i++)
        ck_assert_int_eq(clock_watch_step(&watch, wall += 60 * SECOND, i * SECOND), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("clock");
    TCase *tcase = tcase_create("watch");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tcase, running_clocks_show_no_step);
    tcase_add_test(tcase, step_is_told_once);
    tcase_add_test(tcase, slewing_is_no_step);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
