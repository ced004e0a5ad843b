/* Tests of daemon/writer_core that need no thread: opening the sink when the state directory can't be read, and when the database went back. What it does
 * with batches is tested with apply, and by the fault tests. */
#include "tests/support/journaltest.h"
#include "tests/support/onewriter.h"
#include "tests/unit/fake_sink.h"

static struct world world;
static struct fake_db db;
static struct fake_sink sink;
static struct metrics metrics;
static struct writer_core *core;
static struct writer_wishes wishes;
static struct writer_status status;
static int64_t now_us;

static void report(void *context, const struct writer_status *now)
{
    (void)context;
    status = *now;
}

enum { BATCH_AGE_US = 100000 };

static void core_start(void)
{
    const struct writer_options options = {.apply = {.batch_rows = 10, .batch_bytes = 65536, .streams_max = 10},
                                           .batch_age_us = BATCH_AGE_US,
                                           .retry_max_us = 1000000,
                                           .host = "test"};
    const struct writer_time now = {now_us, now_us};

    core = writer_core_new(&options, world.journal, &sink.sink, &metrics, now, report, NULL);
    ck_assert_ptr_nonnull(core);
    wishes = (struct writer_wishes){.stopping = false};
    one_writer_muster(&wishes);
}

/* Until it has tried to open the sink once. */
static void core_open(void)
{
    enum writer_next next;
    int64_t until_us;

    while ((next = writer_look(core, &wishes, now_us, &until_us)) == WRITER_WAIT)
        now_us = until_us;
    ck_assert_int_eq(next, WRITER_OPEN);
    writer_do(core, next, (struct writer_time){now_us, now_us});
}

static void setup(void)
{
    int64_t until_us;

    now_us = INT64_C(1800000000000000);
    db = (struct fake_db){.in_transaction = false};
    world_init(&world);
    ck_assert_int_eq(world_open(&world), 0);
    fake_sink_init(&sink, &db);
    core_start();
    core_open();
    ck_assert_int_eq(status.state, WRITER_HOLDING);
    ck_assert(!one_writer_renews(&wishes, &status));
    ck_assert_int_eq(writer_look(core, &wishes, now_us, &until_us), WRITER_START);
    writer_do(core, WRITER_START, (struct writer_time){now_us, now_us});
    ck_assert_int_eq(status.state, WRITER_OK);
    writer_core_free(core);
}

static void teardown(void)
{
    writer_core_free(core);
    sink.sink.ops->free(&sink.sink);
    fake_db_done(&db);
    world_done(&world);
}

/* A journal that had a watermark must not get a new one from a database that has none, only because it can't be read that it had. */
static void never_registers_again(int error, enum writer_state expected)
{
    uint64_t call = 0;

    db.now.watermark_count = 0; /* another database */
    core_start();
    do {
        world.disk->calls = 0;
        world.disk->fail_at = ++call;
        world.disk->fail_errno = error;
        world.disk->failed = false;
        core_open();
        ck_assert_uint_eq(db.now.watermark_count, 0);
        if (world.disk->failed)
            ck_assert_int_eq(status.state, expected);
    } while (world.disk->failed && call < 100);
    ck_assert_uint_gt(call, 1);
    ck_assert_int_eq(status.state, WRITER_STOPPED); /* and says that the watermark is gone */
    world.disk->fail_at = 0;
}

START_TEST(unreadable_registration_is_not_taken_for_none)
{
    never_registers_again(EIO, WRITER_STOPPED);
}
END_TEST

START_TEST(registration_that_takes_memory_is_read_later)
{
    never_registers_again(ENOMEM, WRITER_RETRYING);
}
END_TEST

/* Turns it until it has done that. */
static void core_do(enum writer_next expected)
{
    enum writer_next next;
    int64_t until_us;

    while ((next = writer_look(core, &wishes, now_us, &until_us)) == WRITER_WAIT || next == WRITER_CHORES) {
        if (next == WRITER_CHORES) {
            writer_do(core, next, (struct writer_time){now_us, now_us});
            continue;
        }
        ck_assert_int_lt(until_us, INT64_MAX);
        now_us = until_us;
    }
    ck_assert_int_eq(next, expected);
    writer_do(core, next, (struct writer_time){now_us, now_us});
}

#define lsn_of(n) (fake_db_watermark(&db, journal_uuid(world.journal), n)->lsn)

/* Ours is writer 1 of 2. The other has stored what an older copy of the database lacks, and is idle; of ours it lacks nothing. */
START_TEST(database_that_went_back_for_another_writer_is_noticed)
{
    int64_t until_us;

    fake_db_add_watermark(&db, journal_uuid(world.journal), 1, 0);
    core_start();
    wishes.order.writer = 1;
    wishes.order.writers = 2;
    wishes.order.sink_said = true;
    core_do(WRITER_OPEN);
    ck_assert_uint_eq(status.notes.order, wishes.order.number);
    ck_assert(!one_writer_renews(&wishes, &status));
    core_do(WRITER_START);
    ck_assert_int_eq(status.state, WRITER_OK);

    append_range(world.journal, 0, 50);
    ck_assert_int_eq(flush(world.journal), 0);
    lsn_of(0) = journal_durable_lsn(world.journal);
    journal_hold(world.journal, 0, lsn_of(0)); /* as it does with a commit */
    wishes.hurry_lsn = UINT64_MAX;
    while (lsn_of(1) < lsn_of(0))
        core_do(WRITER_APPLY);
    ck_assert_uint_eq(journal_held(world.journal, 1), lsn_of(1));

    lsn_of(0) -= 100;
    sink.fail_at = 1;
    sink.fail_op = FAKE_TEND;
    now_us += 120 * INT64_C(1000000);
    core_do(WRITER_OPEN);
    ck_assert(status.notes.others_lack);
    ck_assert_uint_eq(status.notes.order, wishes.order.number);
    ck_assert_int_eq(writer_look(core, &wishes, now_us, &until_us),
                     WRITER_WAIT);                                /* holds, till all have compared notes */
    ck_assert_uint_eq(journal_held(world.journal, 1), lsn_of(0)); /* and what the other needs is kept */

    journal_hold(world.journal, 0, lsn_of(0)); /* it has */
    ck_assert(!one_writer_renews(&wishes, &status));
    core_do(WRITER_OPEN);
    ck_assert(!status.notes.others_lack);
    ck_assert_uint_eq(journal_held(world.journal, 1), lsn_of(1));
}
END_TEST

/* Appends so many bytes at least, and makes them durable. */
static void add_bytes(uint64_t bytes)
{
    static unsigned next;
    uint64_t from = journal_end_lsn(world.journal);

    while (journal_end_lsn(world.journal) - from < bytes) {
        append_range(world.journal, next, next + 1);
        next++;
    }
    ck_assert_int_eq(flush(world.journal), 0);
}

START_TEST(quarter_of_a_batch_waits_for_no_company)
{
    enum { QUARTER = 65536 / 4 };
    int64_t until_us;

    if (_i == 2)
        fake_db_add_watermark(&db, journal_uuid(world.journal), 1, 0);
    core_start();
    wishes.order.writer = (unsigned)_i - 1;
    wishes.order.writers = (unsigned)_i;
    wishes.order.sink_said = true;
    core_do(WRITER_OPEN);
    ck_assert(!one_writer_renews(&wishes, &status));
    core_do(WRITER_START);
    while (writer_look(core, &wishes, now_us, &until_us) == WRITER_CHORES)
        writer_do(core, WRITER_CHORES, (struct writer_time){now_us, now_us});

    add_bytes((uint64_t)_i * QUARTER - 1000);
    ck_assert(!writer_core_has_enough(core, status.applied_lsn));
    ck_assert_int_eq(writer_look(core, &wishes, now_us, &until_us), WRITER_WAIT);
    ck_assert_int_eq(until_us, now_us + BATCH_AGE_US);
    add_bytes(1000);
    ck_assert(writer_core_has_enough(core, status.applied_lsn));
    ck_assert_int_eq(writer_look(core, &wishes, now_us, &until_us), WRITER_APPLY);
    do
        core_do(WRITER_APPLY);
    while (status.applied_lsn < journal_durable_lsn(world.journal));
    ck_assert(!writer_core_has_enough(core, status.applied_lsn));
    ck_assert(!writer_core_has_enough(core, UINT64_MAX));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer_core");
    TCase *tests = tcase_create("opening");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, unreadable_registration_is_not_taken_for_none);
    tcase_add_test(tests, registration_that_takes_memory_is_read_later);
    tcase_add_test(tests, database_that_went_back_for_another_writer_is_noticed);
    tcase_add_loop_test(tests, quarter_of_a_batch_waits_for_no_company, 1, 3); /* of so many writers the last */
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
