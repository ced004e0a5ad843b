/* Tests of client/sender: what goes out when, against a fake daemon and a fake clock. */
#include "tests/unit/sendertest.h"

START_TEST(record_is_sent_at_once_with_an_envelope)
{
    read_none(); /* opening alone says nothing */
    ck_assert_int_eq(fake_record(t, "r1"), 0);
    read_one(1);
    ck_assert_uint_eq(d->envelope.stream_seq, 1);
    ck_assert_uint_eq(d->envelope.stream_base, 1);
    ck_assert_str_eq(d->client, "tester");
    ck_assert_str_eq(d->frame[0].request_id, "r1");
    uint8_t first[16];
    memcpy(first, d->stream_id, 16);

    ck_assert_int_eq(fake_record(t, "r2"), 0);
    read_one(1);
    ck_assert_uint_eq(d->envelope.stream_seq, 2);
    ck_assert_uint_eq(d->envelope.stream_base, 1);
    ck_assert_mem_eq(d->stream_id, first, 16);
    ck_assert_str_eq(d->client, ""); /* said once is enough */
    ck_assert_uint_eq(fake_stats(t).datagrams, 2);
}
END_TEST

START_TEST(page_comes_once_with_its_seals)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    ck_assert(d->attached);
    ck_assert_int_eq(d->page_bytes, 4096);
    ck_assert_int_eq(d->page_seals, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    fake_ack(d, 7, 0);
    fake_heartbeat(d, t);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    ck_assert(!d->attached);
}
END_TEST

START_TEST(ack_frees_the_ring_and_moves_base)
{
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    for (int i = 0; i < 5; i++)
        read_one(1);
    ck_assert_uint_eq(fake_stats(t).outstanding, 5);
    fake_ack(d, 7, 3);
    struct toll_stats stats = fake_stats(t);
    ck_assert_uint_eq(stats.outstanding, 2);
    ck_assert_uint_eq(stats.acked, 3);
    ck_assert_uint_eq(stats.epoch, 7);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    ck_assert_uint_eq(d->envelope.stream_base, 4);
    ck_assert_uint_eq(d->envelope.stream_seq, 6);
    fake_ack(d, 7, 6);
    stats = fake_stats(t);
    ck_assert_uint_eq(stats.ring_used, 0);
    ck_assert_uint_eq(stats.acked, stats.recorded);
}
END_TEST

START_TEST(hostile_acks_change_nothing)
{
    static const uint64_t lies[] = {3, 1000, UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 62, 0};
    ck_assert_int_eq(fake_record(t, NULL), 0);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    read_one(1);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        fake_ack(d, 7, lies[i]);
        ck_assert_uint_eq(fake_stats(t).outstanding, 2);
    }
    fake_ack(d, 7, 2);
    ck_assert_uint_eq(fake_stats(t).outstanding, 0);
    fake_ack(d, 7, 1); /* backwards */
    ck_assert_int_eq(fake_record(t, "after"), 0);
    read_one(1);
    ck_assert_uint_eq(d->envelope.stream_seq, 3);
    ck_assert_uint_eq(d->envelope.stream_base, 3);
    ck_assert_str_eq(d->frame[0].request_id, "after");
}
END_TEST

START_TEST(page_of_another_version_or_magic_is_not_believed)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    fake_ack(d, 7, 1);
    fake_store32(d, 4, 2);
    ck_assert_uint_eq(fake_stats(t).outstanding, 1);
    fake_store32(d, 4, 1);
    fake_store32(d, 0, 0);
    ck_assert_uint_eq(fake_stats(t).outstanding, 1);
    fake_ack(d, 7, 1);
    ck_assert_uint_eq(fake_stats(t).outstanding, 0);
}
END_TEST

START_TEST(page_of_random_bytes_corrupts_nothing)
{
    uint64_t highest = 0;
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    highest = 1;
    srand(3);
    for (int i = 0; i < 3000; i++) {
        for (size_t at = 8; at < 64; at += 8)
            fake_store64(d, at, rand() % 3 ? (uint64_t)rand() % 64 : (uint64_t)rand() << 33 | (uint64_t)rand());
        fake_store32(d, 0, 0x4C4C4F54);
        fake_store32(d, 4, 1);
        int r = fake_record(t, NULL);
        ck_assert(r == 0 || r == -ENOBUFS);
        fake_advance_ms((uint64_t)rand() % 300);
        fake_daemon_drain(d, &highest); /* every frame decodes, numbers never skip */
    }
    fake_state(d, 0);
    fake_ack(d, 1, highest);
    fake_advance_ms(10000);
    toll_tick(t);
    fake_daemon_drain(d, &highest);
    fake_ack(d, 1, highest);
    ck_assert_uint_eq(fake_stats(t).outstanding, 0);
}
END_TEST

START_TEST(no_progress_resends_from_base_with_backoff_and_the_page)
{
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    for (int i = 0; i < 3; i++)
        read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    toll_tick(t);
    fake_advance_ms(199);
    toll_tick(t);
    read_none();
    fake_advance_ms(1);
    toll_tick(t);
    read_one(2); /* 2 and 3, coalesced */
    ck_assert_uint_eq(d->envelope.stream_seq, 2);
    ck_assert_uint_eq(d->envelope.stream_base, 2);
    ck_assert(d->attached);
    ck_assert_uint_eq(fake_stats(t).resent, 2);

    uint64_t waits[6];
    for (int i = 0; i < 6; i++) {
        for (waits[i] = 0; !fake_daemon_read(d); waits[i] += 10) {
            ck_assert_uint_lt(waits[i], 7000);
            fake_advance_ms(10);
            fake_heartbeat(d, t);
            toll_tick(t);
        }
        ck_assert_uint_eq(d->frames, 2);
    }
    ck_assert_uint_ge(waits[0], 400);
    ck_assert_uint_ge(waits[1], 800);
    ck_assert_uint_ge(waits[5], 5000);
    ck_assert_uint_le(waits[5], 6260); /* 5 s and up to a quarter of jitter */

    fake_ack(d, 7, 2); /* progress: the wait is short again */
    toll_tick(t);
    fake_advance_ms(200);
    toll_tick(t);
    read_one(1);
    ck_assert_uint_eq(d->envelope.stream_seq, 3);
}
END_TEST

START_TEST(frame_sent_again_is_the_same_frame)
{
    ck_assert_int_eq(fake_record(t, "same"), 0);
    read_one(1);
    struct fake_frame first = d->frame[0];
    fake_advance_ms(250);
    toll_tick(t);
    read_one(1);
    ck_assert_uint_eq(d->frame[0].seq, first.seq);
    ck_assert_int_eq(d->frame[0].time_us, first.time_us);
    ck_assert_str_eq(d->frame[0].request_id, "same");
}
END_TEST

START_TEST(old_idleness_is_not_lack_of_progress)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    toll_tick(t);
    fake_advance_ms(60000);
    fake_heartbeat(d, t);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    ck_assert(!d->attached);
    read_none();
    fake_advance_ms(150);
    toll_tick(t);
    read_none();
}
END_TEST

START_TEST(new_epoch_resends_what_is_above_acked)
{
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    for (int i = 0; i < 4; i++)
        read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    toll_tick(t);
    read_none(); /* the first epoch is no restart */
    fake_ack(d, 8, 2);
    toll_tick(t);
    read_one(2);
    ck_assert_uint_eq(d->envelope.stream_seq, 3);
    ck_assert_uint_eq(d->envelope.stream_base, 3);
    fake_ack(d, 9, 0); /* a daemon that lost what another had: what was freed stays freed */
    toll_tick(t);
    read_one(2);
    ck_assert_uint_eq(d->envelope.stream_base, 3);
}
END_TEST

START_TEST(stale_heartbeat_on_an_idle_worker_attaches_again)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    toll_tick(t);
    fake_advance_ms(3000);
    toll_tick(t);
    read_none();
    fake_advance_ms(1);
    toll_tick(t);
    read_one(0); /* an envelope and the page, nothing else */
    ck_assert(d->attached);
    ck_assert_uint_eq(d->envelope.stream_seq, 2);
    ck_assert_uint_eq(d->envelope.stream_base, 2);
    ck_assert_str_eq(d->client, "tester");
    toll_tick(t);
    fake_advance_ms(2000);
    toll_tick(t);
    read_none(); /* not with every tick */
    fake_advance_ms(1000);
    toll_tick(t);
    read_one(0);
    fake_heartbeat(d, t);
    fake_advance_ms(2999);
    toll_tick(t);
    read_none();
}
END_TEST

START_TEST(absent_daemon_then_present)
{
    fake_daemon_unbind(d);
    toll_close(t, 0);
    t = fake_open(d, NULL);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    ck_assert_uint_eq(fake_stats(t).outstanding, 3);
    fake_daemon_bind(d);
    fake_advance_ms(2000);
    toll_tick(t);
    read_one(3);
    ck_assert(d->attached);
    ck_assert_uint_eq(fake_stats(t).reconnects, 0);
}
END_TEST

START_TEST(connecting_backs_off)
{
    fake_daemon_unbind(d);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    fake_advance_ms(10000);
    toll_tick(t); /* fails, waits at least 50 ms */
    fake_daemon_bind(d);
    fake_advance_ms(40);
    toll_tick(t);
    read_none();
    fake_advance_ms(1300);
    toll_tick(t);
    read_one(1);
}
END_TEST

START_TEST(replaced_socket_gets_all_that_is_not_acknowledged)
{
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    for (int i = 0; i < 3; i++)
        read_one(1);
    fake_ack(d, 7, 1);
    toll_tick(t);
    fake_daemon_unbind(d);
    fake_daemon_bind(d);
    fake_advance_ms(100);
    ck_assert_int_eq(fake_record(t, "new"), 0); /* one call notices, connects, and sends it all */
    read_one(3);
    ck_assert_uint_eq(d->envelope.stream_seq, 2);
    ck_assert_str_eq(d->frame[2].request_id, "new");
    ck_assert(d->attached);
    ck_assert_uint_eq(fake_stats(t).reconnects, 1);
}
END_TEST

START_TEST(stopping_daemon_gets_nothing_until_the_resend_timer_asks)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    fake_state(d, 2);
    toll_tick(t);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    fake_advance_ms(150);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_none();
    fake_advance_ms(60);
    toll_tick(t);
    read_one(2);
    ck_assert(d->attached);
    fake_ack(d, 8, 3); /* the successor */
    fake_state(d, 0);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
}
END_TEST

START_TEST(flush_waits_for_acks_and_keeps_its_deadline)
{
    struct timespec from, to;
    ck_assert_int_eq(toll_flush(t, 1000), 0); /* nothing to wait for */
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    clock_gettime(CLOCK_MONOTONIC, &from);
    ck_assert_int_eq(toll_flush(t, 30), -ETIMEDOUT);
    clock_gettime(CLOCK_MONOTONIC, &to);
    int64_t took_us = (to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
    ck_assert_int_ge(took_us, 30000);
    ck_assert_int_lt(took_us, 1000000);
    fake_ack(d, 7, 1);
    ck_assert_int_eq(toll_flush(t, 1000), 0);
}
END_TEST

START_TEST(close_says_whether_all_was_acknowledged)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    ck_assert_int_eq(toll_close(t, 10), -ETIMEDOUT);
    t = fake_open(d, NULL);
    ck_assert_int_eq(toll_close(t, 10), 0);
    t = NULL; /* which close takes as well */
}
END_TEST

START_TEST(shrunken_or_foreign_page_cannot_be_made)
{
    ck_assert_int_eq(ftruncate(t->sender.page.fd, 0), -1);
    ck_assert_int_eq(ftruncate(t->sender.page.fd, 8192), -1);
    ck_assert_int_eq(fcntl(t->sender.page.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("toll_sender");
    TCase *tcase = tcase_create("sender");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, record_is_sent_at_once_with_an_envelope);
    tcase_add_test(tcase, page_comes_once_with_its_seals);
    tcase_add_test(tcase, ack_frees_the_ring_and_moves_base);
    tcase_add_test(tcase, hostile_acks_change_nothing);
    tcase_add_test(tcase, page_of_another_version_or_magic_is_not_believed);
    tcase_add_test(tcase, page_of_random_bytes_corrupts_nothing);
    tcase_add_test(tcase, no_progress_resends_from_base_with_backoff_and_the_page);
    tcase_add_test(tcase, frame_sent_again_is_the_same_frame);
    tcase_add_test(tcase, old_idleness_is_not_lack_of_progress);
    tcase_add_test(tcase, new_epoch_resends_what_is_above_acked);
    tcase_add_test(tcase, stale_heartbeat_on_an_idle_worker_attaches_again);
    tcase_add_test(tcase, absent_daemon_then_present);
    tcase_add_test(tcase, connecting_backs_off);
    tcase_add_test(tcase, replaced_socket_gets_all_that_is_not_acknowledged);
    tcase_add_test(tcase, stopping_daemon_gets_nothing_until_the_resend_timer_asks);
    tcase_add_test(tcase, flush_waits_for_acks_and_keeps_its_deadline);
    tcase_add_test(tcase, close_says_whether_all_was_acknowledged);
    tcase_add_test(tcase, shrunken_or_foreign_page_cannot_be_made);
    suite_add_tcase(suite, tcase);
    return fake_run(suite);
}
