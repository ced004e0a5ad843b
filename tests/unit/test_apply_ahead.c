/* Tests of what daemon/apply reads of the next batch while it stores one: it is stored once, whatever happens in between. */
#include "daemon/apply_internal.h"

#include "tests/unit/applytest.h"

enum { STREAMS = 3, DATAGRAMS = 12, FRAMES = 4, ROWS = STREAMS * DATAGRAMS * FRAMES };

/* Three streams in turn, of which the last two come up late, and each of whose datagrams is sent twice. Batches of two datagrams. */
static void setup_streams(void)
{
    char tag[16];

    setup();
    options.batch_rows = (size_t)2 * FRAMES;
    apply_set_options(apply, &options);
    for (unsigned n = 0; n < DATAGRAMS; n++)
        for (unsigned stream = 0; stream < STREAMS; stream++)
            for (unsigned copy = 0; copy < 2; copy++) {
                add_envelope(&datagram, stream, 1 + n * FRAMES, 1, FRAMES);
                for (unsigned i = 0; i < FRAMES; i++) {
                    snprintf(tag, sizeof(tag), "%u.%u", stream, n * FRAMES + i);
                    add_llm(&datagram, i, NOW, 1, 1, tag);
                }
                send_now();
            }
}

static bool is_ahead(void)
{
    return apply->ahead.to > apply->ahead.from && apply->ahead.from == apply_lsn(apply);
}

static void check_all(void)
{
    check_db();
    ck_assert_uint_eq(db.now.row_count, ROWS);
    for (unsigned stream = 0; stream < STREAMS; stream++)
        check_seen(stream, "{[1,49)}");
    for (size_t i = 1; i < db.now.batch_count; i++)
        ck_assert_uint_eq(db.batches[i].from, db.batches[i - 1].to);
}

static void step(void)
{
    if (!sink.is_open)
        ck_assert_int_eq(reopen(), 0);
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
}

START_TEST(next_batch_begins_with_what_was_read_ahead)
{
    step();
    ck_assert(is_ahead());
    ck_assert_uint_eq(db.now.row_count, FRAMES); /* and its copy */
    drive();
    check_all();
    ck_assert(!is_ahead());
    check_counts(UINT64_C(2) * ROWS);
}
END_TEST

START_TEST(what_was_read_ahead_is_stored_once_whatever_call_fails)
{
    unsigned failures = 1;

    for (unsigned n = 1; failures > 0; n++) {
        world_close();
        world_open();
        counted_lsn = journal_durable_lsn(journal);
        sink.fail_op = FAKE_OPS;
        sink.fail_at = n;
        sink.fail_with = n % 3 == 0 ? -EINVAL : n % 3 == 1 ? -EAGAIN : -ESTALE;
        sink.late = n % 2;
        drive();
        failures = sink.failures;
        check_all();
        check_counts(UINT64_C(2) * ROWS);
    }
}
END_TEST

START_TEST(streams_that_are_forgotten_take_it_along)
{
    options.streams_max = 1;
    apply_set_options(apply, &options);
    step();
    step();
    ck_assert(!is_ahead());
    drive();
    check_all();
}
END_TEST

START_TEST(limit_below_it_holds)
{
    uint64_t limit;

    step();
    ck_assert(is_ahead());
    limit = apply_lsn(apply) + 1; /* within the next datagram */
    apply_limit(apply, limit);
    step();
    ck_assert_uint_ge(apply_lsn(apply), limit);
    ck_assert_uint_eq(db.now.row_count, UINT64_C(2) * FRAMES);
    ck_assert_int_eq(apply_step(apply, NOW, false), 0);
    apply_limit(apply, UINT64_MAX);
    drive();
    check_all();
}
END_TEST

START_TEST(orphans_are_closed_in_between)
{
    step();
    ck_assert_int_ge(apply_orphans(apply, NOW + 2 * HOUR), 0);
    drive();
    check_all();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply_ahead");
    TCase *tests = tcase_create("apply_ahead");

    tcase_add_checked_fixture(tests, setup_streams, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, next_batch_begins_with_what_was_read_ahead);
    tcase_add_test(tests, what_was_read_ahead_is_stored_once_whatever_call_fails);
    tcase_add_test(tests, streams_that_are_forgotten_take_it_along);
    tcase_add_test(tests, limit_below_it_holds);
    tcase_add_test(tests, orphans_are_closed_in_between);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
