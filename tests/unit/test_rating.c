/* Tests of daemon/rating_core: what it does when, and after which failure, on a database that does as the test says. */
#include "daemon/rating_core.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECOND INT64_C(1000000)

enum { PLACES = 4 };

/* Where so many transactions are to be done. */
struct fake_place {
    uint64_t waits;
    int result;  /* of rating there */
    int results; /* so often; then 0 */
    bool busy;
    unsigned calls;
};

static struct {
    struct rating_db db;
    bool open, listening;
    int open_result, backlog_result, check_result, read_result, heard;
    int heard_meanwhile; /* what heard() is to say while a place is rated */
    unsigned opens, closes, backlogs, checks, reads;
    struct fake_place places[PLACES];
    int order[64]; /* places in the order in which they were rated */
    size_t ordered;
    size_t credits;
    bool goes_on; /* what meanwhile() said */
} fake;

static struct metrics metrics;
static struct rating_core *core;
static struct rating_wishes wishes;
static struct rating_status status;
static size_t told, told_hosts;
static int64_t now_us;

/* --- the database ----------------------------------------------------------------------------------------------------------- */

static int fake_open(struct rating_db *db)
{
    (void)db;
    fake.opens++;
    fake.open = fake.open_result == 0;
    return fake.open_result;
}

static void fake_close(struct rating_db *db)
{
    (void)db;
    fake.closes += fake.open;
    fake.open = false;
}

static int fake_backlog(struct rating_db *db, struct rating_place *places, size_t most, size_t *ret_count)
{
    (void)db;
    ck_assert(fake.open);
    fake.backlogs++;
    if (fake.backlog_result)
        return fake.backlog_result;
    *ret_count = 0;
    for (int i = 0; i < PLACES && *ret_count < most; i++)
        if (fake.places[i].waits)
            places[(*ret_count)++] = (struct rating_place){.journal = {(uint8_t)i},
                                                           .writer = i,
                                                           .waits = true,
                                                           .waiting_events = fake.places[i].waits,
                                                           .waiting_us = (int64_t)fake.places[i].waits * SECOND};
    return 0;
}

static int fake_rate(struct rating_db *db, const struct rating_place *place, int most_events, struct rating_step *ret)
{
    struct fake_place *there = &fake.places[place->writer];

    (void)db;
    ck_assert(fake.open);
    ck_assert_int_eq(most_events, 500);
    there->calls++;
    if (fake.heard_meanwhile) {
        fake.heard = fake.heard_meanwhile;
        fake.goes_on = db->meanwhile(db->context);
        fake.heard_meanwhile = 0;
    }
    if (there->results > 0) {
        there->results--;
        return there->result;
    }
    if (fake.ordered < sizeof(fake.order) / sizeof(*fake.order))
        fake.order[fake.ordered++] = place->writer;
    *ret = (struct rating_step){.busy = there->busy};
    if (there->busy)
        return 0;
    there->waits--;
    *ret =
        (struct rating_step){.more = there->waits > 0, .events = 10, .lines = 12, .lsn = UINT64_C(100) * there->calls};
    return 0;
}

static int fake_check(struct rating_db *db)
{
    (void)db;
    ck_assert(fake.open);
    fake.checks++;
    return fake.check_result;
}

static int fake_read(struct rating_db *db, struct credit_session **ret, size_t *ret_count)
{
    (void)db;
    ck_assert(fake.open);
    fake.reads++;
    if (fake.read_result < 0)
        return fake.read_result;
    *ret = calloc(fake.credits + 1, sizeof(**ret));
    ck_assert_ptr_nonnull(*ret);
    for (size_t i = 0; i < fake.credits; i++) {
        (*ret)[i].id[0] = (uint8_t)i;
        (*ret)[i].state = i == 0 ? CREDIT_EXHAUSTED : CREDIT_LOW;
    }
    *ret_count = fake.credits;
    return 0;
}

static int fake_heard(struct rating_db *db)
{
    int heard = fake.heard;

    (void)db;
    fake.heard = 0;
    return heard;
}

static const char *fake_error(const struct rating_db *db)
{
    (void)db;
    return "the fake says no";
}

static const struct rating_db_ops fake_ops = {
    .open = fake_open,
    .close = fake_close,
    .backlog = fake_backlog,
    .rate = fake_rate,
    .check_credit = fake_check,
    .read_credit = fake_read,
    .heard = fake_heard,
    .error = fake_error,
};

/* --- driving it ------------------------------------------------------------------------------------------------------------- */

static void on_status(void *context, const struct rating_status *now)
{
    (void)context;
    status = *now;
}

static void on_credit(void *context, struct credit_session *list, size_t count)
{
    (void)context;
    told = count;
    for (size_t i = 0; i < count; i++)
        told_hosts += list[i].hosts[0];
    free(list);
}

static uint32_t host_of(void *context, const uint8_t id[static 16])
{
    (void)context;
    return id[0] == 0 ? 7 : 0;
}

static void setup(void)
{
    const struct rating_options options = {.batch_events = 500, .poll_us = 10 * SECOND, .retry_max_us = 5 * SECOND};
    const struct rating_reports reports = {.status = on_status, .credit = on_credit, .host = host_of};

    memset(&fake, 0, sizeof(fake));
    memset(&metrics, 0, sizeof(metrics));
    memset(&status, 0, sizeof(status));
    fake.db.ops = &fake_ops;
    wishes = (struct rating_wishes){.begun = true};
    now_us = 1000 * SECOND;
    told = told_hosts = 0;
    core = rating_core_new(&options, &fake.db, &metrics, &reports);
    ck_assert_ptr_nonnull(core);
}

static void teardown(void)
{
    rating_core_free(core);
}

/* Until there is nothing to do now; returns when there is. */
static int64_t run(void)
{
    int64_t until_us = INT64_MAX;
    enum rating_next next;

    for (int turns = 0; (next = rating_look(core, &wishes, now_us, &until_us)) != RATING_WAIT; turns++) {
        ck_assert_int_lt(turns, 1000);
        rating_do(core, next, now_us);
        if (next == RATING_END)
            break;
    }
    return until_us;
}

/* So much time goes by, in the steps that it asks for. */
static void run_for(int64_t us)
{
    int64_t end_us = now_us + us, until_us;

    while ((until_us = run()) < end_us)
        now_us = until_us > now_us ? until_us : now_us + 1;
    now_us = end_us;
}

/* --- the tests -------------------------------------------------------------------------------------------------------------- */

START_TEST(nothing_is_done_before_storing_begins)
{
    wishes.begun = false;
    ck_assert_int_eq(run(), INT64_MAX);
    ck_assert_uint_eq(fake.opens, 0);
    wishes.begun = true;
    run();
    ck_assert_uint_eq(fake.opens, 1);
    ck_assert_uint_eq(fake.reads, 1); /* what was short before this daemon began */
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

/* One that has a long backlog does not keep the others waiting. */
START_TEST(places_take_turns)
{
    fake.places[0].waits = 3;
    fake.places[1].waits = 1;
    fake.places[2].waits = 2;
    run();
    ck_assert_uint_eq(fake.ordered, 6);
    ck_assert_mem_eq(fake.order, ((int[]){0, 1, 2, 0, 2, 0}), 6 * sizeof(int));
    ck_assert_uint_eq(metrics_get(&metrics.events_rated), 60);
    ck_assert_uint_eq(metrics_get(&metrics.lines_written), 72);
    ck_assert_uint_eq(metrics_get(&metrics.rating_waiting), 0);
    ck_assert_int_eq(status.lag_us, 0);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

START_TEST(commit_is_rated_at_once_and_others_within_the_poll)
{
    unsigned backlogs;

    run();
    backlogs = fake.backlogs;
    fake.places[0].waits = 1;
    ck_assert_int_gt(run(), now_us);
    ck_assert_uint_eq(fake.ordered, 0);
    wishes.woken = true;
    run();
    ck_assert_uint_eq(fake.ordered, 1);
    ck_assert(!wishes.woken);
    ck_assert_uint_eq(fake.backlogs, backlogs + 1);
    fake.places[3].waits = 1;
    run_for(11 * SECOND);
    ck_assert_uint_eq(fake.ordered, 2);
}
END_TEST

START_TEST(place_where_another_is_at_it_is_passed_by)
{
    fake.places[0] = (struct fake_place){.waits = 5, .busy = true};
    fake.places[1].waits = 1;
    run();
    ck_assert_uint_eq(fake.places[0].calls, 1);
    ck_assert_uint_eq(fake.places[1].waits, 0);
    ck_assert_int_eq(status.state, RATING_OK);
    ck_assert_int_eq(status.lag_us, 5 * SECOND); /* it waits all the same */
}
END_TEST

START_TEST(credit_is_checked_each_second_also_in_a_long_backlog)
{
    unsigned checks;
    int64_t until_us;

    run();
    checks = fake.checks;
    fake.places[0].waits = 50;
    wishes.woken = true;
    for (int i = 0; i < 30; i++, now_us += SECOND / 10) /* a transaction takes 0.1 s */
        rating_do(core, rating_look(core, &wishes, now_us, &until_us), now_us);
    ck_assert_uint_ge(fake.checks, checks + 2);
    ck_assert_uint_le(fake.checks, checks + 4);
    ck_assert_uint_gt(fake.places[0].calls, 10); /* and as often it asks where */
}
END_TEST

START_TEST(list_of_credit_is_read_when_something_is_heard)
{
    run();
    fake.credits = 3;
    fake.heard = 1;
    run();
    ck_assert_uint_eq(fake.reads, 2);
    ck_assert_uint_eq(told, 3);
    ck_assert_uint_eq(told_hosts, 7); /* of the one that memory knows */
    ck_assert_uint_eq(metrics_get(&metrics.credit_exhausted), 1);
    ck_assert_uint_eq(metrics_get(&metrics.credit_low), 2);
    fake.credits = 0; /* … and now and then though nothing was */
    run_for(15 * SECOND);
    ck_assert_uint_eq(told, 0);
}
END_TEST

START_TEST(list_of_credit_is_read_also_while_a_place_is_rated)
{
    run();
    fake.credits = 3;
    fake.places[0].waits = 1;
    fake.heard_meanwhile = 1;
    wishes.woken = true;
    run();
    ck_assert(fake.goes_on);
    ck_assert_uint_eq(fake.reads, 2); /* not once more afterwards */
    ck_assert_uint_eq(told, 3);
    ck_assert_uint_eq(fake.ordered, 1);
}
END_TEST

/* The connection that listens breaks while the other is rating. */
START_TEST(what_fails_meanwhile_is_dealt_with_afterwards)
{
    const int results[] = {-EAGAIN, 1};

    for (size_t i = 0; i < sizeof(results) / sizeof(*results); i++) {
        unsigned opens;

        run();
        opens = fake.opens;
        fake.places[0].waits = 1;
        fake.heard_meanwhile = results[i];
        fake.read_result = results[i] > 0 ? -EAGAIN : 0;
        wishes.woken = true;
        run();
        ck_assert(!fake.goes_on);
        ck_assert_uint_eq(fake.ordered, i + 1); /* what was rated is rated */
        if (results[i] > 0) {
            ck_assert_int_eq(status.state, RATING_RETRYING);
            fake.read_result = 0;
            run_for(10 * SECOND);
            ck_assert_uint_gt(fake.opens, opens);
        }
        ck_assert_int_eq(status.state, RATING_OK);
    }
}
END_TEST

START_TEST(conflict_is_repeated_at_once)
{
    fake.places[0] = (struct fake_place){.waits = 2, .result = -EDEADLK, .results = 5};
    run();
    ck_assert_uint_eq(fake.places[0].waits, 0);
    ck_assert_uint_eq(fake.opens, 1);
    ck_assert_uint_eq(metrics_get(&metrics.rating_conflicts), 5);
    ck_assert_uint_eq(metrics_get(&metrics.rating_failures), 0);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

START_TEST(conflict_without_end_is_a_failure)
{
    fake.places[0] = (struct fake_place){.waits = 1, .result = -EDEADLK, .results = 1000};
    ck_assert_int_gt(run(), now_us);
    ck_assert_int_eq(status.state, RATING_RETRYING);
    ck_assert_uint_eq(fake.closes, 1);
    ck_assert_uint_lt(fake.places[0].calls, 30);
    fake.places[0].results = 0;
    run_for(2 * SECOND);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

/* Pauses double up to the longest. */
START_TEST(database_that_is_away_is_tried_again)
{
    unsigned opens;

    fake.open_result = -EAGAIN;
    run_for(SECOND);
    ck_assert_int_eq(status.state, RATING_RETRYING);
    ck_assert_str_eq(status.error, "the fake says no");
    ck_assert_uint_ge(fake.opens, 4);
    ck_assert_uint_le(fake.opens, 8);
    run_for(60 * SECOND);
    opens = fake.opens;
    run_for(50 * SECOND);
    ck_assert_uint_ge(fake.opens, opens + 9);
    ck_assert_uint_le(fake.opens, opens + 11);
    fake.open_result = 0;
    fake.places[0].waits = 1;
    run_for(6 * SECOND);
    ck_assert_int_eq(status.state, RATING_OK);
    ck_assert_str_eq(status.error, "");
    ck_assert_uint_eq(fake.places[0].waits, 0);
    fake.heard = -EAGAIN; /* the connection breaks while nothing is asked */
    run();
    ck_assert_int_eq(status.state, RATING_RETRYING);
    run_for(SECOND);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

/* Connecting is not what had failed: the alarm stays until rating works. */
START_TEST(missing_function_stays_told_of)
{
    fake.backlog_result = -ENOTRECOVERABLE;
    for (int i = 0; i < 50; i++) {
        run_for(SECOND);
        ck_assert_int_eq(status.state, RATING_STOPPED);
    }
    ck_assert_uint_lt(fake.backlogs, 30);
    fake.backlog_result = 0;
    run_for(6 * SECOND);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

START_TEST(place_that_fails_does_not_keep_the_others)
{
    fake.places[0] = (struct fake_place){.waits = 1, .result = -EINVAL, .results = 1000};
    for (int i = 0; i < 200; i++) { /* ten commits a second */
        fake.places[1].waits = 1;
        wishes.woken = true;
        run_for(SECOND / 10);
        ck_assert_uint_eq(fake.places[1].waits, 0);
        ck_assert_int_eq(status.state, RATING_STOPPED);
    }
    ck_assert_uint_eq(fake.opens, 1);
    ck_assert_uint_ge(fake.places[0].calls, 4); /* at leisure */
    ck_assert_uint_le(fake.places[0].calls, 5);
    fake.places[0].results = 0;
    run_for(20 * SECOND);
    ck_assert_uint_eq(fake.places[0].waits, 0);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

START_TEST(place_that_failed_and_was_rated_by_another_is_forgotten)
{
    fake.places[0] = (struct fake_place){.waits = 1, .result = -EINVAL, .results = 1000};
    run();
    ck_assert_int_eq(status.state, RATING_STOPPED);
    fake.places[0].waits = 0;
    run_for(11 * SECOND);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

START_TEST(check_that_fails_does_not_keep_rating)
{
    fake.check_result = -EINVAL;
    run();
    fake.places[0].waits = 1;
    wishes.woken = true;
    run();
    ck_assert_uint_eq(fake.places[0].waits, 0);
    ck_assert_int_eq(status.state, RATING_STOPPED);
    fake.check_result = 0;
    run_for(20 * SECOND);
    ck_assert_int_eq(status.state, RATING_OK);
}
END_TEST

START_TEST(last_round_before_the_end)
{
    run();
    fake.places[0].waits = 5; /* one transaction of these */
    fake.places[1].waits = 1;
    wishes.stopping = true;
    run();
    ck_assert_uint_eq(fake.places[0].waits, 4);
    ck_assert_uint_eq(fake.places[1].waits, 0);
    ck_assert_int_eq(status.state, RATING_DONE);
    ck_assert(!fake.open);
}
END_TEST

START_TEST(end_does_not_wait_for_a_database_that_is_away)
{
    unsigned opens;

    fake.open_result = -EAGAIN;
    run();
    opens = fake.opens;
    wishes.stopping = true;
    run();
    ck_assert_uint_eq(fake.opens, opens);
    ck_assert_int_eq(status.state, RATING_DONE);
}
END_TEST

/* A call that fails during the last round is not tried again; that is how cancelling ends it. */
START_TEST(failure_in_the_last_round_ends_it)
{
    run();
    fake.places[0] = (struct fake_place){.waits = 1, .result = -EAGAIN, .results = 1000};
    wishes.stopping = true;
    run();
    ck_assert_uint_eq(fake.places[0].calls, 1);
    ck_assert_int_eq(status.state, RATING_DONE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rating");
    TCase *tests = tcase_create("rating");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, nothing_is_done_before_storing_begins);
    tcase_add_test(tests, places_take_turns);
    tcase_add_test(tests, commit_is_rated_at_once_and_others_within_the_poll);
    tcase_add_test(tests, place_where_another_is_at_it_is_passed_by);
    tcase_add_test(tests, credit_is_checked_each_second_also_in_a_long_backlog);
    tcase_add_test(tests, list_of_credit_is_read_when_something_is_heard);
    tcase_add_test(tests, list_of_credit_is_read_also_while_a_place_is_rated);
    tcase_add_test(tests, what_fails_meanwhile_is_dealt_with_afterwards);
    tcase_add_test(tests, conflict_is_repeated_at_once);
    tcase_add_test(tests, conflict_without_end_is_a_failure);
    tcase_add_test(tests, database_that_is_away_is_tried_again);
    tcase_add_test(tests, missing_function_stays_told_of);
    tcase_add_test(tests, place_that_fails_does_not_keep_the_others);
    tcase_add_test(tests, place_that_failed_and_was_rated_by_another_is_forgotten);
    tcase_add_test(tests, check_that_fails_does_not_keep_rating);
    tcase_add_test(tests, last_round_before_the_end);
    tcase_add_test(tests, end_does_not_wait_for_a_database_that_is_away);
    tcase_add_test(tests, failure_in_the_last_round_ends_it);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
