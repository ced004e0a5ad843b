/* Tests of client/sender: a socket or a ring that is full, and datagrams that many frames share. */
#include "tests/unit/sendertest.h"

START_TEST(full_socket_coalesces)
{
    toll_close(t, 0);
    t = fake_open(d, NULL);
    uint32_t recorded = fill_socket();
    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    recorded += 1000;
    uint64_t blocked = fake_stats(t).blocked;
    ck_assert_uint_eq(blocked, 1); /* not one try per record */

    uint64_t highest = 0;
    fake_daemon_drain(d, &highest);
    fake_advance_ms(2);
    uint32_t largest = 0, datagrams = 0;
    toll_tick(t);
    while (fake_daemon_read(d)) {
        ck_assert_uint_eq(d->envelope.stream_seq, highest + 1);
        highest += d->frames;
        largest = d->frames > largest ? d->frames : largest;
        datagrams++;
    }
    ck_assert_uint_eq(highest, recorded);
    ck_assert_uint_gt(largest, 200);
    ck_assert_uint_le(datagrams, 6);
}
END_TEST

/* Lets `ms` pass, one by one, ticking. */
static void tick_for(uint64_t ms)
{
    for (; ms > 0; ms--) {
        fake_advance_ms(1);
        toll_tick(t);
    }
}

START_TEST(full_socket_is_asked_less_often_the_longer_nobody_reads)
{
    (void)fill_socket_of_the_living();
    ck_assert_uint_eq(t->sender.blocked_wait_us, TOLL_BLOCKED_WAIT_MIN_US);
    tick_for(150);
    ck_assert_uint_eq(t->sender.blocked_wait_us, TOLL_BLOCKED_WAIT_MAX_US);
    for (int i = 0; i < 40; i++) {
        fake_advance_ms(100);
        toll_tick(t);
    }
    ck_assert_uint_eq(t->sender.blocked_wait_us, TOLL_BLOCKED_WAIT_STALE_US); /* the heartbeat has stopped */
    ck_assert_uint_eq(fake_stats(t).blocked, 1);                              /* nothing was copied to find out */

    uint64_t highest = 1;
    fake_daemon_drain(d, &highest);
    fake_advance_ms(1);
    toll_tick(t);
    read_none();                                    /* it does not know yet */
    ck_assert_int_eq(toll_flush(t, 0), -ETIMEDOUT); /* somebody waits: asks again at once */
    ck_assert(fake_daemon_read(d));
    ck_assert_uint_eq(t->sender.blocked_wait_us, 0);
}
END_TEST

START_TEST(full_socket_is_left_to_the_ticks)
{
    uint64_t sent = fill_socket_of_the_living(), highest = 1;
    tick_for(20); /* nobody reads */
    ck_assert_uint_eq(t->sender.blocked_wait_us, TOLL_BLOCKED_WAIT_MAX_US);
    fake_daemon_drain(d, &highest);
    ck_assert_uint_eq(highest, sent);
    for (int i = 0; i < 10; i++) {
        fake_advance_ms(10);
        ck_assert_int_eq(fake_record(t, NULL), 0); /* does not even ask */
    }
    read_none();
    toll_tick(t);
    read_one(11);
    ck_assert_int_eq(fake_record(t, NULL), 0); /* there is room again */
    read_one(1);
}
END_TEST

START_TEST(full_socket_is_tried_by_records_where_nobody_ticks)
{
    uint64_t sent = fill_socket_of_the_living(), highest = 1;
    tick_for(20);
    fake_daemon_drain(d, &highest);
    fake_advance_ms(TOLL_TICKS_US / 1000);
    ck_assert_uint_eq(highest, sent);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    ck_assert(
        fake_daemon_read(d)); /* from the first that is not acknowledged on: of a long queue a record sends a part */
}
END_TEST

START_TEST(full_socket_is_tried_by_records_that_no_ack_will_tell)
{
    uint64_t sent = fill_socket_of_the_living();
    fake_ack(d, 7, sent);
    ck_assert_uint_eq(fake_stats(t).outstanding, 1);
    tick_for(20); /* nothing of ours is in the queue, which others fill */
    ck_assert_uint_ne(t->sender.blocked_us, 0);
    while (recv(d->fd, d->frame, sizeof d->frame, 0) >= 0)
        ;
    fake_advance_ms(TOLL_BLOCKED_WAIT_MAX_US / 1000);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(2);
}
END_TEST

START_TEST(acks_end_the_wait_for_a_full_socket)
{
    uint32_t recorded = fill_socket();
    uint64_t highest = 0;
    fake_daemon_drain(d, &highest);
    ck_assert_uint_eq(highest, recorded - 1);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_none(); /* no time has passed */
    fake_ack(d, 7, highest);
    fake_heartbeat(d, t);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(3);
    ck_assert_uint_eq(d->envelope.stream_seq, highest + 1);
}
END_TEST

START_TEST(record_sends_no_more_than_one_large_datagram_of_what_waits)
{
    toll_close(t, 0);
    t = fake_open(d, NULL);
    fake_daemon_unbind(d);
    uint32_t recorded = 1000;
    for (uint32_t i = 1; i < recorded; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    fake_daemon_bind(d);
    fake_advance_ms(10000);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    ck_assert(fake_daemon_read(d));
    ck_assert_uint_gt(d->frames, 200);
    read_none();
    uint64_t highest = d->frames;
    toll_tick(t); /* not the audio path: all of it */
    fake_daemon_drain(d, &highest);
    ck_assert_uint_eq(highest, recorded);
}
END_TEST

START_TEST(frames_at_the_seam_of_the_ring_arrive_whole)
{
    toll_close(t, 0);
    t = fake_open(d, &(struct toll_options){.ring_bytes = 4096});
    for (uint64_t seq = 1; seq <= 300; seq++) { /* one is always kept, so the ring never begins anew */
        char id[24];
        snprintf(id, sizeof id, "%llu", (unsigned long long)seq);
        ck_assert_int_eq(fake_record(t, id), 0);
        read_one(1);
        ck_assert_str_eq(d->frame[0].request_id, id);
        fake_ack(d, 7, seq - 1);
        fake_heartbeat(d, t);
    }
    ck_assert_uint_eq(fake_stats(t).datagrams, 300);
}
END_TEST

START_TEST(coalesced_datagrams_keep_the_limit)
{
    toll_close(t, 0);
    t = fake_open(d, NULL);
    static char text[30000];
    memset(text, 'x', sizeof text - 1);
    fake_daemon_unbind(d);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(toll_transcript(t, fake_call, &(struct toll_turn){.role = "user", .text = text}), 0);
    fake_daemon_bind(d);
    fake_advance_ms(10000);
    for (int i = 0; i < 5; i++) { /* two of 30,000 bytes each; the reader checks 65,536 */
        toll_tick(t);
        fake_advance_ms(2);
        read_one(2);
        ck_assert_uint_gt(d->bytes, 60000);
    }
    read_none();
}
END_TEST

START_TEST(full_ring_refuses_counts_and_tells_by_a_gap)
{
    uint64_t highest = 0;
    fake_daemon_unbind(d);
    uint32_t kept = fill_ring();
    for (int i = 0; i < 9; i++)
        ck_assert_int_eq(fake_record(t, NULL), -ENOBUFS);
    struct toll_stats stats = fake_stats(t);
    ck_assert_uint_eq(stats.refused_full, 10);
    ck_assert_uint_eq(stats.gap_pending, 10);
    ck_assert_uint_eq(stats.gaps, 0);
    ck_assert_uint_ge(stats.ring_bytes - stats.ring_used, TOLL_GAP_RESERVE);

    fake_daemon_bind(d);
    fake_advance_ms(10000);
    toll_tick(t);
    ck_assert_uint_eq(fake_daemon_drain(d, &highest), kept);
    fake_ack(d, 7, kept);
    fake_heartbeat(d, t);
    toll_tick(t); /* there is room now */
    read_one(1);
    ck_assert_int_eq(d->frame[0].type, TOLL_FRAME_GAP);
    ck_assert_uint_eq(d->frame[0].gap_count, 10);
    ck_assert_uint_eq(d->frame[0].seq, kept + 1);
    fake_ack(d, 7, kept + 1);
    stats = fake_stats(t);
    ck_assert_uint_eq(stats.gap_pending, 0);
    ck_assert_uint_eq(stats.gaps, 1);
    ck_assert_uint_eq(stats.recorded, kept);
    ck_assert_uint_eq(stats.acked, kept); /* gap frames are not the worker's */
    ck_assert_int_eq(fake_record(t, "next"), 0);
}
END_TEST

START_TEST(flush_writes_the_gap_into_the_room_kept_for_it)
{
    uint64_t highest = 0;
    fake_daemon_unbind(d);
    uint32_t kept = fill_ring();
    fake_daemon_bind(d);
    fake_advance_ms(10000);
    ck_assert_int_eq(toll_flush(t, 0), -ETIMEDOUT);
    ck_assert_uint_eq(fake_daemon_drain(d, &highest), kept + 1); /* though nothing was acknowledged */
    ck_assert_uint_eq(highest, kept + 1);
    ck_assert_uint_eq(fake_stats(t).gap_pending, 0);
    ck_assert_int_eq(fake_record(t, NULL), -ENOBUFS); /* and no frame takes the next gap's room */
    ck_assert_uint_eq(fake_stats(t).gap_pending, 1);
}
END_TEST

START_TEST(busy_daemon_gets_fewer_larger_datagrams)
{
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    fake_state(d, 1);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(fake_record(t, NULL), 0);
    read_none();
    fake_advance_ms(20);
    toll_tick(t);
    read_one(10);
    ck_assert_int_eq(fake_record(t, NULL), 0);
    read_none();
    ck_assert_int_eq(toll_flush(t, 0), -ETIMEDOUT); /* somebody waits: at once */
    read_one(1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("toll_sender_full");
    TCase *tcase = tcase_create("sender");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, full_socket_coalesces);
    tcase_add_test(tcase, full_socket_is_asked_less_often_the_longer_nobody_reads);
    tcase_add_test(tcase, full_socket_is_left_to_the_ticks);
    tcase_add_test(tcase, full_socket_is_tried_by_records_where_nobody_ticks);
    tcase_add_test(tcase, full_socket_is_tried_by_records_that_no_ack_will_tell);
    tcase_add_test(tcase, acks_end_the_wait_for_a_full_socket);
    tcase_add_test(tcase, record_sends_no_more_than_one_large_datagram_of_what_waits);
    tcase_add_test(tcase, frames_at_the_seam_of_the_ring_arrive_whole);
    tcase_add_test(tcase, coalesced_datagrams_keep_the_limit);
    tcase_add_test(tcase, full_ring_refuses_counts_and_tells_by_a_gap);
    tcase_add_test(tcase, flush_writes_the_gap_into_the_room_kept_for_it);
    tcase_add_test(tcase, busy_daemon_gets_fewer_larger_datagrams);
    suite_add_tcase(suite, tcase);
    return fake_run(suite);
}
