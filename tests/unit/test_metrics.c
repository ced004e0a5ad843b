/* The table of metrics: every name is visited once, with the value its owner counted. */
#include "daemon/metrics.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

struct seen {
    size_t count, gauges, without_help;
    uint64_t frames_received, gap_frames, intake_paused;
};

static void visit(void *context, const char *name, enum metric_kind kind, const char *help, uint64_t value)
{
    struct seen *seen = context;

    seen->count++;
    seen->gauges += kind == METRIC_GAUGE;
    seen->without_help += help[0] == '\0';
    if (strcmp(name, "frames_received") == 0)
        seen->frames_received = value;
    if (strcmp(name, "gap_frames") == 0)
        seen->gap_frames = value;
    if (strcmp(name, "intake_paused") == 0)
        seen->intake_paused = value;
}

START_TEST(metrics_foreach_visits_every_field_with_its_value)
{
    static struct metrics metrics;
    struct seen seen = {0};

    metrics_add(&metrics.frames_received, 40);
    metrics_add(&metrics.frames_received, 2);
    metrics_add(&metrics.gap_frames, UINT64_MAX);
    metrics_set(&metrics.intake_paused, 1);
    metrics_foreach(&metrics, visit, &seen);

    ck_assert_uint_eq(seen.count, sizeof(metrics) / sizeof(uint64_t));
    ck_assert_uint_gt(seen.gauges, 0);
    ck_assert_uint_eq(seen.without_help, 0);
    ck_assert_uint_eq(seen.frames_received, 42);
    ck_assert_uint_eq(seen.gap_frames, UINT64_MAX);
    ck_assert_uint_eq(seen.intake_paused, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("metrics");
    TCase *tcase = tcase_create("metrics");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, metrics_foreach_visits_every_field_with_its_value);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
