/* Tests of daemon/apply as one of several writers: whose a frame is, which numbers are noted, what is sent again, and what happens when their number is
 * another. All of them share the fake database; each has its own sink and reads the whole journal. */
#include "tests/unit/applytest.h"

#include "daemon/share.h"

#include <check.h>

enum { MOST = 4 };

static struct group {
    unsigned count;
    struct fake_sink sinks[MOST];
    struct journal_reader *readers[MOST];
    struct apply *applies[MOST];
    uint64_t counted_lsn;
    const struct apply_counted *counted;
} group;

static void group_close(void)
{
    for (unsigned i = 0; i < group.count; i++) {
        apply_free(group.applies[i]);
        journal_reader_free(group.readers[i]);
        group.sinks[i].sink.ops->free(&group.sinks[i].sink);
    }
    group.count = 0;
}

static void open_one(unsigned writer)
{
    const uint64_t lsns[MOST] = {0};
    struct sink_journal identity = {
        .writer = (int)writer, .writers = (int)group.count, .host = "test", .register_lsns = lsns};
    struct sink *s = &group.sinks[writer].sink;
    uint64_t lsn;

    memcpy(identity.uuid, journal_uuid(journal), 16);
    ck_assert_int_eq(s->ops->open(s, &identity, &lsn), 0);
    ck_assert_int_eq(s->ops->claim(s)->writers, (int)group.count);
    apply_share(group.applies[writer], writer, group.count, group.counted);
    ck_assert_int_eq(apply_start(group.applies[writer], group.readers[writer], lsn, group.counted_lsn, NOW), 0);
}

static void group_open(unsigned count)
{
    group_close();
    group.count = count;
    for (unsigned i = 0; i < count; i++) {
        fake_sink_init(&group.sinks[i], &db);
        ck_assert_int_eq(journal_reader_new(&group.readers[i], journal), 0);
        options.writer = i;
        options.writers = count;
        group.applies[i] = apply_new(&options, &group.sinks[i].sink, &metrics);
        ck_assert_ptr_nonnull(group.applies[i]);
        open_one(i);
    }
}

/* Writer by writer, the last first; over others' frames only if told to. */
static void group_drive(bool advance)
{
    for (unsigned i = group.count; i-- > 0;)
        while (apply_step(group.applies[i], NOW, advance) != 0)
            ;
}

static void shared_setup(void)
{
    setup();
    group = (struct group){.counted_lsn = UINT64_MAX};
}

static void shared_teardown(void)
{
    group_close();
    teardown();
}

static unsigned owner_of(unsigned session)
{
    uint8_t id[16];

    id_of(id, session);
    return share_of_session(id, group.count);
}

static uint64_t lsn_of(unsigned writer)
{
    return fake_db_watermark(&db, journal_uuid(journal), (int)writer)->lsn;
}

static void check_seen_by(unsigned writer, unsigned stream, const char *expected)
{
    struct fake_stream *row;
    uint8_t id[16];
    char text[256];

    id_of(id, stream);
    row = fake_db_stream_of(&db, WORKER, id, (int)writer, (int)group.count);
    ck_assert_ptr_nonnull(row);
    rangeset_format(&row->seen, text, sizeof(text));
    ck_assert_str_eq(text, expected);
}

/* Sums over all batches. */
static void check_sums(uint64_t stored, uint64_t duplicates, uint64_t quarantined)
{
    struct sink_counts sum = {0};

    for (size_t i = 0; i < db.now.batch_count; i++) {
        sum.stored += db.batches[i].counts.stored;
        sum.duplicates += db.batches[i].counts.duplicates;
        sum.quarantined += db.batches[i].counts.quarantined;
    }
    ck_assert_uint_eq(sum.stored, stored);
    ck_assert_uint_eq(sum.duplicates, duplicates);
    ck_assert_uint_eq(sum.quarantined, quarantined);
    ck_assert_uint_eq(metrics_get(&metrics.frames_received), stored + duplicates + quarantined);
    ck_assert_str_eq(fake_db_check(&db), "");
}

static void send_twelve(uint64_t seq, uint64_t base)
{
    add_envelope(&datagram, 1, seq, base, 12);
    for (unsigned i = 0; i < 12; i++)
        add_llm(&datagram, i, NOW, 1, 1, "");
    send_now();
}

START_TEST(each_frame_is_one_writers_and_every_number_is_noted_by_all)
{
    group_open((unsigned)_i);
    send_twelve(1, 1);
    send_twelve(13, 1);
    send_twelve(1, 1);                  /* again */
    for (unsigned i = 0; i < 12; i++) { /* without an envelope */
        add_tts(&datagram, i, NOW, 5);
        send_now();
    }
    add_usage(&datagram, "account", 1);
    send_now();
    group_drive(true);
    check_sums(24 + 12 + 1, 12, 0);
    ck_assert_uint_eq(db.now.row_count, 37);
    for (unsigned i = 0; i < group.count; i++) {
        check_seen_by(i, 1, "{[1,25)}");
        ck_assert_uint_eq(lsn_of(i), journal_end_lsn(journal));
    }
    for (size_t i = 0; i < db.now.session_count; i++)
        ck_assert_int_eq(db.now.sessions[i].owner_writer, (int)share_of_session(db.now.sessions[i].id, group.count));
}
END_TEST

START_TEST(idle_writer_moves_its_watermark_only_when_told)
{
    unsigned busy, idle;

    group_open(2);
    busy = owner_of(3);
    idle = 1 - busy;
    for (unsigned i = 0; i < 5; i++) {
        add_envelope(&datagram, 1, i + 1, 1, 1);
        add_llm(&datagram, 3, NOW, 1, 1, "");
        send_now();
        group_drive(false);
        ck_assert_uint_eq(lsn_of(busy), journal_end_lsn(journal));
        ck_assert_uint_eq(lsn_of(idle), 0);
        ck_assert_uint_eq(apply_passed(group.applies[idle]), journal_end_lsn(journal));
        ck_assert(apply_behind(group.applies[idle]));
    }
    ck_assert_uint_eq(db.now.batch_count, 5);
    group_drive(true);
    ck_assert_uint_eq(db.now.batch_count, 6);
    ck_assert_uint_eq(lsn_of(idle), journal_end_lsn(journal));
    ck_assert(!apply_behind(group.applies[idle]));
    check_seen_by(idle, 1, "{[1,6)}");
    check_sums(5, 0, 0);
}
END_TEST

START_TEST(own_frame_takes_what_went_by_before_along)
{
    unsigned writer, other = 0;

    group_open(2);
    writer = owner_of(3);
    while (owner_of(other) == writer)
        other++;
    add_envelope(&datagram, 1, 1, 1, 1);
    add_llm(&datagram, other, NOW, 1, 1, "");
    send_now();
    ck_assert_int_eq(apply_step(group.applies[writer], NOW, false), 0);
    add_envelope(&datagram, 1, 2, 1, 1);
    add_llm(&datagram, 3, NOW, 1, 1, "");
    send_now();
    ck_assert_int_eq(apply_step(group.applies[writer], NOW, false), 1);
    check_seen_by(writer, 1, "{[1,3)}");
    ck_assert_uint_eq(db.now.batch_count, 1);
    ck_assert_uint_eq(db.batches[0].from, 0);
    ck_assert_uint_eq(db.batches[0].counts.received, 1);
}
END_TEST

/* Bytes behind the frames that an envelope counts have no number: they are new if their datagram is. */
START_TEST(bytes_too_many_are_quarantined_once)
{
    group_open(3);
    for (unsigned again = 0; again < 3; again++) {
        add_envelope(&datagram, 1, 7, 7, 2);
        add_llm(&datagram, 1, NOW, 1, 1, "");
        add_llm(&datagram, 2, NOW, 1, 1, "");
        add_bytes(&datagram, "\x01", 1);
        send_now();
        if (again == 1) /* between: new numbers, which do not make it new */
            send_twelve(9, 9);
    }
    group_drive(true);
    ck_assert_uint_eq(db.now.refused_count, 1);
    check_sums(2 + 12, 4 + 2, 1);
}
END_TEST

/* Other bytes under the same number: whichever came first has it, at all writers alike. */
START_TEST(number_that_is_used_twice_is_the_firsts)
{
    group_open(4);
    for (unsigned session = 0; session < 12; session++) {
        add_envelope(&datagram, 1, 1, 1, 1);
        add_llm(&datagram, session, NOW, 1, 1, "");
        send_now();
    }
    group_drive(true);
    ck_assert_uint_eq(db.now.row_count, 1);
    check_sums(1, 11, 0);
}
END_TEST

/* From every number to every other, with some of the frames sent again after it. */
START_TEST(number_of_writers_changes)
{
    const unsigned counts[] = {1, 3, 2, 4, 1, 2};
    uint64_t next = 1;

    group_open(counts[0]);
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        if (i > 0) {
            struct sink *first = &group.sinks[0].sink;

            ck_assert_int_eq(first->ops->share(first, lsn_of(0), (int)counts[i]), 0);
            group_open(counts[i]);
            send_twelve(next - 12, 1);
        }
        send_twelve(next, 1);
        next += 12;
        send_twelve(next, 1);
        next += 12;
        group_drive(true);
        for (unsigned writer = 0; writer < group.count; writer++)
            ck_assert_uint_eq(lsn_of(writer), journal_end_lsn(journal));
    }
    check_sums(144, 60, 0);
}
END_TEST

/* What one of two writers had stored is stored once more by the only one, for the database went back meanwhile: received counts it twice too. */
START_TEST(what_is_stored_again_is_counted_again_though_the_number_changed)
{
    struct fake_state before;
    struct apply_counted counted = {.writers = 2};
    struct sink *first = &group.sinks[0].sink;

    group.counted_lsn = 0;
    group_open(2);
    before = fake_state_copy(&db.now);
    send_twelve(1, 1);
    metrics_add(&metrics.frames_received, 12); /* intake's part */
    while (apply_step(group.applies[0], NOW, true) != 0)
        ;
    ck_assert_uint_gt(db.now.row_count, 0);
    ck_assert_uint_lt(db.now.row_count, 12);
    counted.lsns[0] = lsn_of(0);
    counted.lsns[1] = lsn_of(1);
    fake_db_restore(&db, &before);
    ck_assert_int_eq(first->ops->share(first, 0, 1), 0);
    group.counted = &counted;
    group_open(1);
    group_drive(true);
    ck_assert_uint_eq(db.now.row_count, 12);
    ck_assert_uint_gt(metrics_get(&metrics.frames_stored), 12);
    ck_assert_uint_eq(metrics_get(&metrics.frames_received), metrics_get(&metrics.frames_stored));
}
END_TEST

START_TEST(no_batch_goes_beyond_the_limit)
{
    uint64_t limit;

    group_open(2);
    send_twelve(1, 1);
    limit = journal_end_lsn(journal);
    send_twelve(13, 1);
    for (unsigned i = 0; i < 2; i++)
        apply_limit(group.applies[i], limit);
    group_drive(true);
    ck_assert_uint_eq(lsn_of(0), limit);
    ck_assert_uint_eq(lsn_of(1), limit);
    for (unsigned i = 0; i < 2; i++)
        apply_limit(group.applies[i], UINT64_MAX);
    group_drive(true);
    check_sums(24, 0, 0);
}
END_TEST

/* Every call to a sink fails once: nothing is lost, nothing twice. */
START_TEST(failing_sink_does_no_harm)
{
    unsigned failures = 0;

    group_open(3);
    for (unsigned round = 0; round < 60; round++) {
        struct fake_sink *s = &group.sinks[round % 3];

        send_twelve(round * 12 + 1, 1);
        s->fail_at = 1 + round % 11;
        s->late = round % 2;
        for (unsigned tries = 0; tries < 40; tries++)
            for (unsigned i = 0; i < 3; i++) {
                if (!group.sinks[i].is_open) {
                    open_one(i);
                    failures++;
                }
                (void)!apply_step(group.applies[i], NOW, true);
            }
        s->fail_at = 0;
    }
    ck_assert_uint_gt(failures, 30);
    ck_assert_uint_eq(db.now.row_count, 720);
    ck_assert_str_eq(fake_db_check(&db), "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply_shared");
    TCase *tests = tcase_create("apply_shared");

    tcase_add_checked_fixture(tests, shared_setup, shared_teardown);
    tcase_add_loop_test(tests, each_frame_is_one_writers_and_every_number_is_noted_by_all, 1, MOST + 1);
    tcase_add_test(tests, idle_writer_moves_its_watermark_only_when_told);
    tcase_add_test(tests, own_frame_takes_what_went_by_before_along);
    tcase_add_test(tests, bytes_too_many_are_quarantined_once);
    tcase_add_test(tests, number_that_is_used_twice_is_the_firsts);
    tcase_add_test(tests, number_of_writers_changes);
    tcase_add_test(tests, what_is_stored_again_is_counted_again_though_the_number_changed);
    tcase_add_test(tests, no_batch_goes_beyond_the_limit);
    tcase_add_test(tests, failing_sink_does_no_harm);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
