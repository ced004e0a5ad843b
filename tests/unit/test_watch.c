/* Tests of daemon/alarm and of the rules in daemon/watch: what raises an alarm, what the log says of it, and when it is over. */
#include "daemon/watch.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND INT64_C(1000000)

static int reader, writer;
static struct metrics metrics;
static struct watch watch;
static struct streams_trouble streams;
static struct watch_facts facts;

static void setup(void)
{
    int fds[2];

    ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    reader = fds[0];
    writer = fds[1];
    log_open(writer, LOG_LEVEL_INFO);
    memset(&metrics, 0, sizeof(metrics));
    memset(&watch, 0, sizeof(watch));
    memset(&streams, 0, sizeof(streams));
    alarms_init(&watch.alarms);
    watch.metrics = &metrics;
    facts = (struct watch_facts){.now_us = INT64_C(1800000000000000),
                                 .monotonic_us = 1000 * SECOND,
                                 .storing = WRITER_OK,
                                 .error = "",
                                 .quarantine_limit = 100,
                                 .streams = &streams};
    watch.memory.moved_us = facts.monotonic_us;
}

static void teardown(void)
{
    log_open(STDERR_FILENO, LOG_LEVEL_INFO);
    close(reader);
    close(writer);
}

/* How many lines the log has got, each with `text` in it. */
static int logged(const char *text)
{
    static char got[64 * LOG_LINE_MAX];
    ssize_t size = read(reader, got, sizeof(got) - 1);
    int lines = 0;

    got[size > 0 ? size : 0] = '\0';
    for (char *line = strtok(got, "\n"); line; line = strtok(NULL, "\n"), lines++)
        ck_assert_msg(strstr(line, text), "\"%s\" is not in: %s", text, line);
    return lines;
}

static void look(void)
{
    watch_judge(&watch, &facts);
}

static void look_after(int64_t us)
{
    facts.now_us += us;
    facts.monotonic_us += us;
    look();
}

static const struct alarm *of(enum alarm_kind kind)
{
    return &watch.alarms.of[kind];
}

START_TEST(alarm_is_logged_once_when_raised_and_once_when_over)
{
    facts.paused = -ENOSPC;
    facts.journal_bytes = 4096;
    look();
    ck_assert(of(ALARM_intake_paused)->raised);
    ck_assert_int_eq(of(ALARM_intake_paused)->since_us, facts.now_us);
    ck_assert_str_eq(of(ALARM_intake_paused)->figures, "journal_bytes=4096");
    ck_assert_int_eq(logged("journal.max_bytes"), 1);
    facts.journal_bytes = 8192;
    for (int i = 0; i < 100; i++)
        look_after(SECOND);
    ck_assert_str_eq(of(ALARM_intake_paused)->figures, "journal_bytes=8192");
    ck_assert_int_eq(logged(""), 0);
    ck_assert_uint_eq(metrics_get(&metrics.alarms), 1);
    facts.paused = 0;
    look_after(SECOND);
    ck_assert(!of(ALARM_intake_paused)->raised);
    ck_assert_int_eq(logged("receiving goes on alarm=intake_paused after_s=101"), 1);
    ck_assert_uint_eq(metrics_get(&metrics.alarms), 0);
}
END_TEST

START_TEST(alarm_with_other_words_is_logged_again)
{
    facts.storing = WRITER_STOPPED;
    facts.error = "no table";
    look();
    ck_assert_int_eq(logged("no table"), 1);
    facts.error = "no column";
    look();
    ck_assert_int_eq(logged("no column"), 1);
    ck_assert_ptr_nonnull(strstr(of(ALARM_storing_stopped)->text, "no column"));
}
END_TEST

/* A worker may be able to make a trouble come and go. */
START_TEST(alarm_that_comes_and_goes_does_not_flood_the_log)
{
    for (int i = 0; i < 1000; i++) {
        facts.paused = i % 2 ? -ENOSPC : 0;
        look();
    }
    ck_assert_int_le(logged("alarm=intake_paused"), 10);
}
END_TEST

START_TEST(storing_in_trouble_tells_how_often_and_since_when)
{
    facts.storing = WRITER_RETRYING;
    facts.error = "server away";
    facts.failures = 7;
    facts.durable_lsn = 500;
    look();
    for (int i = 0; i < 20; i++) {
        facts.failures++;
        look_after(SECOND);
    }
    ck_assert_str_eq(of(ALARM_storing_retrying)->figures, "tries=27 from_lsn=0 backlog_bytes=500 backlog_age_s=20");
    ck_assert_int_eq(of(ALARM_storing_retrying)->since_us, facts.now_us - 20 * SECOND);
    facts.storing = WRITER_STOPPED; /* one alarm of storing at a time */
    look();
    ck_assert(!of(ALARM_storing_retrying)->raised && of(ALARM_storing_stopped)->raised);
    facts.storing = WRITER_OK;
    facts.applied_lsn = 500;
    look();
    ck_assert_uint_eq(alarms_raised(&watch.alarms), 0);
    facts.storing = WRITER_RETRYING; /* counted anew */
    facts.failures++;
    look();
    ck_assert_ptr_nonnull(strstr(of(ALARM_storing_retrying)->figures, "tries=1 "));
}
END_TEST

START_TEST(batch_is_stuck_when_nothing_moves_though_something_waits)
{
    look_after(3600 * (int64_t)SECOND); /* nothing waits */
    ck_assert_uint_eq(alarms_raised(&watch.alarms), 0);
    facts.durable_lsn = 1000;
    for (int i = 0; i < 9; i++) {
        look_after(SECOND);
        ck_assert(!of(ALARM_batch_stuck)->raised);
    }
    look_after(SECOND);
    ck_assert(of(ALARM_batch_stuck)->raised);
    ck_assert_ptr_nonnull(strstr(of(ALARM_batch_stuck)->text, "pg_blocking_pids"));
    facts.applied_lsn = 400; /* it moves, though there is more */
    look_after(SECOND);
    ck_assert(!of(ALARM_batch_stuck)->raised);
}
END_TEST

START_TEST(batch_that_waits_for_company_is_not_stuck)
{
    watch.batch_age_us = 60 * (int64_t)SECOND;
    facts.durable_lsn = 1000;
    look_after(SECOND);
    look_after(59 * (int64_t)SECOND);
    ck_assert(!of(ALARM_batch_stuck)->raised);
    look_after(20 * (int64_t)SECOND);
    ck_assert(of(ALARM_batch_stuck)->raised);
}
END_TEST

/* Marks are few; the age is right all the same, to a part in thirty or so. */
START_TEST(backlog_age_is_known_after_hours)
{
    int64_t age_s;
    int seconds = 5 * 3600;

    for (int i = 1; i <= seconds; i++) {
        facts.durable_lsn += 10;
        look_after(SECOND);
    }
    facts.storing = WRITER_RETRYING;
    for (int stored_s = 0; stored_s < seconds; stored_s += 977) {
        facts.applied_lsn = (uint64_t)stored_s * 10;
        look();
        ck_assert_int_eq(
            sscanf(strstr(of(ALARM_storing_retrying)->figures, "backlog_age_s="), "backlog_age_s=%ld", &age_s), 1);
        ck_assert_int_le(age_s, seconds - stored_s);
        ck_assert_int_ge(age_s, seconds - stored_s - 600);
    }
    facts.applied_lsn = facts.durable_lsn;
    look();
    ck_assert_ptr_nonnull(strstr(of(ALARM_storing_retrying)->figures, "backlog_age_s=0"));
}
END_TEST

START_TEST(streams_in_trouble_are_told_with_an_example)
{
    streams.count[STREAM_POISONED] = 3;
    streams.count[STREAM_DEAD] = 1;
    streams.example[STREAM_POISONED] =
        (struct stream_view){.uid = 1000, .pid = 42, .client = "a b=c", .received = 5, .holes = 1023, .refused = 9};
    streams.example[STREAM_DEAD] = (struct stream_view){.client = ""};
    look();
    ck_assert_str_eq(
        of(ALARM_streams_poisoned)->figures,
        "streams=3 uid=1000 pid=42 client=a_b_c stream=00000000-0000-0000-0000-000000000000 received=5 holes=1023 "
        "refused=9");
    ck_assert(of(ALARM_streams_dead)->raised && !of(ALARM_streams_stalled)->raised);
    ck_assert_int_eq(logged("alarm=streams_"), 2);
    streams.count[STREAM_POISONED] = streams.count[STREAM_DEAD] = 0;
    look();
    ck_assert_uint_eq(alarms_raised(&watch.alarms), 0);
}
END_TEST

START_TEST(quarantine_is_told_when_used_and_when_full)
{
    facts.quarantine_rows = 1;
    look();
    ck_assert(of(ALARM_quarantined)->raised && !of(ALARM_quarantine_full)->raised);
    facts.quarantine_rows = 100;
    look();
    ck_assert(of(ALARM_quarantined)->raised && of(ALARM_quarantine_full)->raised);
    ck_assert_ptr_nonnull(strstr(of(ALARM_quarantine_full)->text, "toll.drop_quarantine"));
    facts.quarantine_rows = 0;
    look();
    ck_assert_uint_eq(alarms_raised(&watch.alarms), 0);
}
END_TEST

START_TEST(alarm_texts_fit)
{
    char error[768];

    memset(error, 'e', sizeof(error) - 1);
    error[sizeof(error) - 1] = '\0';
    facts.error = error;
    for (enum writer_state state = WRITER_RETRYING; state <= WRITER_STOPPED; state++) {
        facts.storing = state;
        look();
        ck_assert_uint_eq(alarms_raised(&watch.alarms), 1);
    }
    ck_assert_ptr_nonnull(strstr(of(ALARM_storing_stopped)->text, "once that is mended"));
    ck_assert_int_eq(logged("alarm=storing_"), 2 + 1); /* one is over */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("watch");
    TCase *tests = tcase_create("watch");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, alarm_is_logged_once_when_raised_and_once_when_over);
    tcase_add_test(tests, alarm_with_other_words_is_logged_again);
    tcase_add_test(tests, alarm_that_comes_and_goes_does_not_flood_the_log);
    tcase_add_test(tests, storing_in_trouble_tells_how_often_and_since_when);
    tcase_add_test(tests, batch_is_stuck_when_nothing_moves_though_something_waits);
    tcase_add_test(tests, batch_that_waits_for_company_is_not_stuck);
    tcase_add_test(tests, backlog_age_is_known_after_hours);
    tcase_add_test(tests, streams_in_trouble_are_told_with_an_example);
    tcase_add_test(tests, quarantine_is_told_when_used_and_when_full);
    tcase_add_test(tests, alarm_texts_fit);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
