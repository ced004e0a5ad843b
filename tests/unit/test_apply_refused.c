/* Tests of daemon/apply: bad frames, and rows that the database refuses, go to quarantine without their
 * neighbours. */
#include "proto/utf8.h"
#include "tests/unit/applytest.h"

static const uint8_t NOT_A_FRAME[] = {0x81, 0xa4, 't', 'y', 'p', 'e', 0xa3, 'f', 'a', 'x'};

/* --- bad frames ---------------------------------------------------------------------------------------- */

START_TEST(envelope_that_is_not_first_is_refused_alone)
{
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_envelope(&datagram, 1, 1, 1, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(db.refused[0].index, 1);
    ck_assert_uint_eq(db.now.stream_count, 0);
}
END_TEST

/* Bytes after the frames that an envelope counts have no number: sent again they are a duplicate all the
 * same. */
START_TEST(trailing_bytes_of_a_resent_datagram_are_quarantined_once)
{
    for (unsigned i = 0; i < 3; i++) {
        add_envelope(&datagram, 1, 1, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "a");
        add_llm(&datagram, 1, NOW, 1, 1, "uncounted");
        send_now();
        drive();
    }
    ck_assert_uint_eq(db.now.row_count, 1);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "after the 1 frames"));
    check_counts(6);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 4);
}
END_TEST

START_TEST(truncated_datagram_keeps_what_came_through)
{
    add_envelope(&datagram, 1, 1, 1, 3);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    journal_raw(WORKER, JOURNAL_TRUNCATED, NOW, datagram.data, datagram.size - 5);
    datagram.size = 0;
    add_llm(&datagram, 1, NOW, 1, 1, "next");
    send_now();
    drive();
    ck_assert_uint_eq(rows_tagged("a") + rows_tagged("next"), 2);
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    check_seen(1, "{[1,4)}");
}
END_TEST

START_TEST(hole_in_the_journal_is_recorded)
{
    uint64_t end_lsn;

    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    ck_assert_int_eq(journal_append(journal, JOURNAL_HOLE, 0, 0, 0, NOW, "damaged", 7, &end_lsn), 0);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(db.refused[0].size, 7);
    check_counts(3);
}
END_TEST

/* A sender's name is text of its own choice; what is stored must be text that a database takes. */
START_TEST(name_of_a_client_is_made_clean)
{
    struct toll_frame frame;
    char name[64];
    uint8_t id[16];

    memset(name, 'x', sizeof(name));
    memcpy(name + 46, "\xC3\xA4", 2); /* ends beyond what is kept */
    name[3] = '\xFF';
    toll_frame_init(&frame, TOLL_FRAME_STREAM);
    id_of(frame.stream_id, 1);
    frame.stream_seq = frame.stream_base = frame.stream_count = 1;
    frame.client = (struct toll_str){name, sizeof(name)};
    add_frame(&datagram, &frame);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    drive();
    id_of(id, 1);
    ck_assert_mem_eq(fake_db_stream(&db, WORKER, id, 0)->client, "xxx\xEF\xBF\xBDxxx", 9);
    ck_assert_uint_eq(strlen(fake_db_stream(&db, WORKER, id, 0)->client), 47);
}
END_TEST

/* --- rows that the database refuses -------------------------------------------------------------------- */

static const char *refuse_tag_bad(const struct sink_row *row)
{
    const struct toll_str *tag = &row->frame->request_id;

    if (tag->len < 3 || memcmp(tag->ptr, "bad", 3) != 0)
        return NULL;
    return tag->len > 3 ? "22003" : "P0001";
}

START_TEST(refused_row_among_many_goes_alone)
{
    enum { COUNT = 100 };

    db.poison = refuse_tag_bad;
    for (unsigned at = 0; at < COUNT; at += 33) {
        send_tagged(COUNT, "bad", at);
        drive();
    }
    check_db();
    ck_assert_uint_eq(db.now.row_count, 4 * COUNT - 4);
    ck_assert_uint_eq(rows_tagged("bad"), 0);
    ck_assert_uint_eq(db.now.refused_count, 4);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "P0001"));
    check_counts(4 * (uint64_t)COUNT);
}
END_TEST

/* Alone in its batch it would look like a table at fault, for ever. */
START_TEST(refused_row_finds_company_beyond_a_small_batch)
{
    options.batch_rows = 1;
    apply_set_options(apply, &options);
    db.poison = refuse_tag_bad;
    send_tagged(4, "bad", 0);
    drive();
    ck_assert_uint_eq(db.now.row_count, 3);
    ck_assert_uint_eq(db.now.refused_count, 1);
    check_counts(4);
}
END_TEST

/* Its sender sends it again and again until it is stored: the copies are no company, and must not keep others from being it. */
START_TEST(refused_row_finds_company_beyond_its_copies)
{
    unsigned copies = 0;

    options.batch_rows = 1;
    apply_set_options(apply, &options);
    db.poison = refuse_tag_bad;
    for (size_t bytes = 0; bytes < 2 * options.batch_bytes; copies++) {
        add_envelope(&datagram, 7, 1, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "bad");
        bytes += datagram.size;
        send_now();
    }
    add_envelope(&datagram, 7, 2, 1, 2);
    add_llm(&datagram, 1, NOW, 1, 1, "good");
    add_llm(&datagram, 1, NOW, 1, 1, "fine");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), copies - 1);
    check_counts(copies + 2);
}
END_TEST

START_TEST(two_refused_rows_of_different_classes_go_alone)
{
    db.poison = refuse_tag_bad;
    add_llm(&datagram, 1, NOW, 1, 1, "bad");
    add_llm(&datagram, 1, NOW, 1, 1, "bad number");
    send_now();
    drive(); /* nothing succeeds, but not alike */
    ck_assert_uint_eq(db.now.row_count, 0);
    ck_assert_uint_eq(db.now.refused_count, 2);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "P0001"));
    ck_assert_ptr_nonnull(strstr(db.refused[1].reason, "22003"));
}
END_TEST

START_TEST(rows_all_refused_alike_are_not_at_fault)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 9; i++)
        add_llm(&datagram, i, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1); /* will look closer */
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(apply_step(apply, NOW, false), -EINVAL);
    ck_assert_uint_eq(db.now.row_count + db.now.refused_count + db.now.session_count, 0);
    ck_assert_uint_eq(apply_lsn(apply), 0);
    add_llm(&datagram, 1, NOW, 1, 1, "fine"); /* what has come since shows that it is the rows after all */
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
    check_db();
    ck_assert_uint_eq(db.now.row_count, 1);
    ck_assert_uint_eq(db.now.refused_count, 9);
    check_counts(10);
}
END_TEST

/* The journal is full, of other writers' frames, say: no company can come. But twenty are enough to show that the table is at fault. */
START_TEST(few_rows_refused_alike_go_where_nothing_can_follow)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 19; i++)
        add_llm(&datagram, i, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1); /* will look closer */
    ck_assert_int_eq(apply_step(apply, NOW, false), -EINVAL);
    apply_set_last(apply, true);
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
    ck_assert_uint_eq(db.now.refused_count, 19);
    check_counts(19);
    add_llm(&datagram, 1, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(apply_step(apply, NOW, false), -EINVAL);
    ck_assert_uint_eq(db.now.refused_count, 19);
}
END_TEST

START_TEST(table_mended_takes_what_it_had_refused)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 3; i++)
        add_llm(&datagram, 1, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
    ck_assert_int_eq(apply_step(apply, NOW, false), -EINVAL);
    db.poison = NULL;
    drive();
    ck_assert_uint_eq(db.now.row_count, 3);
    ck_assert_uint_eq(db.now.refused_count, 0);
    check_counts(3);
}
END_TEST

/* Of 20 events none is taken, while sessions' starts are: no frame is at fault. */
START_TEST(table_that_refuses_all_its_rows_is_at_fault_though_others_take_theirs)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 20; i++) {
        add_start(&datagram, i, NOW);
        add_llm(&datagram, i, NOW, 1, 1, "bad");
    }
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
    ck_assert_int_eq(apply_step(apply, NOW, false), -EINVAL);
    ck_assert_uint_eq(db.now.row_count + db.now.refused_count + db.now.session_count, 0);
    add_llm(&datagram, 1, NOW, 1, 1, "fine"); /* one that is taken: so it is the rows */
    send_now();
    drive();
    ck_assert_uint_eq(db.now.refused_count, 20);
    ck_assert_uint_eq(db.now.row_count, 1);
    check_counts(41);
}
END_TEST

START_TEST(few_refused_rows_do_not_keep_others_waiting)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    add_llm(&datagram, 1, NOW, 1, 1, "bad");
    add_start(&datagram, 2, NOW);
    send_now();
    drive();
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_ptr_nonnull(session(2));
}
END_TEST

/* A few in every batch, and never one that is taken: seen in the end. */
START_TEST(table_at_fault_is_found_over_many_small_batches)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 19; i++) {
        add_start(&datagram, i, NOW);
        add_llm(&datagram, i, NOW, 1, 1, "bad");
        send_now();
        drive();
        ck_assert_uint_eq(db.now.refused_count, i + 1);
    }
    add_start(&datagram, 50, NOW);
    add_llm(&datagram, 50, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW, false), 1);
    ck_assert_int_eq(apply_step(apply, NOW, false), -EINVAL);
    ck_assert_uint_eq(db.now.refused_count, 19);
    db.poison = NULL;
    drive();
    ck_assert_uint_eq(db.now.refused_count, 19);
    ck_assert_uint_eq(db.now.row_count, 1);
}
END_TEST

static const char *refuse_session_two(const struct session_change *change)
{
    return change->session->id[1] == 2 && change->starts ? "P0001" : NULL;
}

START_TEST(refused_session_start_leaves_its_events)
{
    db.poison_session = refuse_session_two;
    add_start(&datagram, 1, NOW);
    add_start(&datagram, 2, NOW);
    add_llm(&datagram, 2, NOW, 3, 1, "a");
    add_end(&datagram, 2, NOW, "end");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    check_db();
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(db.refused[0].index, 1);
    ck_assert(session(2)->start_missing && session(2)->ended);
    ck_assert_int_eq(session(2)->totals.llm_input_tokens, 3);
    check_counts(5);
}
END_TEST

/* Bisecting itself fails at every call, too. */
START_TEST(bisecting_survives_every_failure)
{
    static const int results[] = {-EAGAIN, -ESTALE, -ENOMEM};

    send_tagged(12, "bad", 5);
    add_bytes(&datagram, NOT_A_FRAME, sizeof(NOT_A_FRAME));
    send_now();
    for (size_t i = 0; i < sizeof(results) / sizeof(*results); i++) {
        bool failed = true;

        for (unsigned n = 1; failed; n++) {
            world_close();
            world_open();
            db.poison = refuse_tag_bad;
            sink.fail_at = n;
            sink.fail_with = results[i];
            drive();
            check_db();
            ck_assert_uint_eq(db.now.row_count, 11);
            ck_assert_uint_eq(db.now.refused_count, 2);
            check_counts(13);
            failed = sink.failures > 0;
        }
    }
}
END_TEST

START_TEST(reason_of_a_server_is_made_clean)
{
    db.poison = refuse_tag_bad;
    send_tagged(4, "bad", 1);
    drive();
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert(toll_utf8_clean(db.refused[0].reason, strlen(db.refused[0].reason)));
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "abgelehnt \xEF\xBF\xBD (SQLSTATE P0001)"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply_refused");
    TCase *tests = tcase_create("apply_refused");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, envelope_that_is_not_first_is_refused_alone);
    tcase_add_test(tests, trailing_bytes_of_a_resent_datagram_are_quarantined_once);
    tcase_add_test(tests, truncated_datagram_keeps_what_came_through);
    tcase_add_test(tests, hole_in_the_journal_is_recorded);
    tcase_add_test(tests, name_of_a_client_is_made_clean);
    tcase_add_test(tests, refused_row_among_many_goes_alone);
    tcase_add_test(tests, refused_row_finds_company_beyond_a_small_batch);
    tcase_add_test(tests, refused_row_finds_company_beyond_its_copies);
    tcase_add_test(tests, two_refused_rows_of_different_classes_go_alone);
    tcase_add_test(tests, rows_all_refused_alike_are_not_at_fault);
    tcase_add_test(tests, few_rows_refused_alike_go_where_nothing_can_follow);
    tcase_add_test(tests, table_mended_takes_what_it_had_refused);
    tcase_add_test(tests, table_that_refuses_all_its_rows_is_at_fault_though_others_take_theirs);
    tcase_add_test(tests, few_refused_rows_do_not_keep_others_waiting);
    tcase_add_test(tests, table_at_fault_is_found_over_many_small_batches);
    tcase_add_test(tests, refused_session_start_leaves_its_events);
    tcase_add_test(tests, bisecting_survives_every_failure);
    tcase_add_test(tests, reason_of_a_server_is_made_clean);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
