/* Tests of client/ring and client/totals: bookkeeping, against a plain model. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "client/ring.h"
#include "client/totals.h"
#include "tests/unit/fake_daemon.h"

static uint8_t memory[4096];
static struct toll_ring ring;

static void setup(void)
{
    toll_ring_init(&ring, memory, sizeof memory);
}

static void put(const char *text)
{
    toll_ring_put(&ring, text, strlen(text), false);
}

/* What the next take gives, joined. */
static const char *take(int iovs, size_t bytes, uint32_t *ret_frames)
{
    static char out[8192];
    struct iovec iov[64];
    int used;
    *ret_frames = toll_ring_take(&ring, iov, iovs, bytes, &used);
    size_t size = 0;
    for (int i = 0; i < used; i++) {
        memcpy(out + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    out[size] = '\0';
    return out;
}

START_TEST(frames_come_out_in_order)
{
    uint32_t frames;
    put("one ");
    put("two ");
    put("three");
    ck_assert_str_eq(take(64, 100, &frames), "one two three");
    ck_assert_uint_eq(frames, 3);
    ck_assert_uint_eq(toll_ring_settle(&ring, 3), 0);
    ck_assert_str_eq(take(64, 100, &frames), "");
    ck_assert_uint_eq(frames, 0);
}
END_TEST

START_TEST(take_stops_at_bytes_and_at_pieces)
{
    uint32_t frames;
    put("aaaa");
    put("bbbb");
    put("cccc");
    ck_assert_str_eq(take(64, 11, &frames), "aaaabbbb");
    toll_ring_settle(&ring, 0);
    ck_assert_str_eq(take(2, 100, &frames), "aaaa");
    toll_ring_settle(&ring, 1);
    ck_assert_str_eq(take(64, 100, &frames), "bbbbcccc");
}
END_TEST

START_TEST(ack_frees_only_what_was_sent)
{
    uint32_t frames;
    uint64_t own = 0;
    put("a");
    put("b");
    take(2, 100, &frames);
    toll_ring_settle(&ring, 1);
    ck_assert_uint_eq(toll_ring_ack(&ring, 2, &own), 0); /* 2 was never sent */
    ck_assert_uint_eq(toll_ring_ack(&ring, UINT64_MAX, &own), 0);
    ck_assert_uint_eq(toll_ring_ack(&ring, 1, &own), 1);
    ck_assert_uint_eq(toll_ring_ack(&ring, 1, &own), 0);
    ck_assert_uint_eq(toll_ring_ack(&ring, 0, &own), 0);
    ck_assert_uint_eq(toll_ring_count(&ring), 1);
}
END_TEST

START_TEST(pinned_frames_stay_until_settled)
{
    uint32_t frames;
    uint64_t own = 0;
    put("a");
    put("b");
    take(64, 100, &frames);
    toll_ring_settle(&ring, 2);
    toll_ring_rewind(&ring);
    take(64, 100, &frames);
    ck_assert_uint_eq(toll_ring_ack(&ring, 2, &own), 0);
    ck_assert_uint_eq(toll_ring_settle(&ring, 2), 2); /* both went out a second time */
    ck_assert_uint_eq(toll_ring_ack(&ring, 2, &own), 2);
    ck_assert_uint_eq(toll_ring_free_bytes(&ring), sizeof memory);
}
END_TEST

START_TEST(ack_beyond_a_rewound_cursor_moves_it)
{
    uint32_t frames;
    uint64_t own = 0;
    put("a");
    put("b");
    put("c");
    take(64, 100, &frames);
    toll_ring_settle(&ring, 3);
    toll_ring_rewind(&ring);
    toll_ring_ack(&ring, 2, &own);
    ck_assert_str_eq(take(64, 100, &frames), "c");
    ck_assert_uint_eq(ring.cursor_seq, 3);
}
END_TEST

START_TEST(own_frames_are_told_apart)
{
    uint32_t frames;
    uint64_t own = 0;
    put("a");
    toll_ring_put(&ring, "gap", 3, true);
    ck_assert_str_eq(take(64, 100, &frames), "agap");
    toll_ring_settle(&ring, frames);
    ck_assert_uint_eq(toll_ring_ack(&ring, 2, &own), 2);
    ck_assert_uint_eq(own, 1);
}
END_TEST

START_TEST(empty_ring_begins_at_the_front_again)
{
    uint32_t frames;
    uint64_t own = 0;
    for (uint64_t n = 1; n <= 3; n++) {
        put("frame");
        struct iovec iov;
        int used;
        ck_assert_uint_eq(toll_ring_take(&ring, &iov, 2, 100, &used), 1);
        ck_assert_ptr_eq(iov.iov_base, memory + TOLL_RING_HEADER);
        toll_ring_settle(&ring, 1);
        ck_assert_uint_eq(toll_ring_ack(&ring, n, &own), 1);
        ck_assert_uint_eq(toll_ring_free_bytes(&ring), sizeof memory);
    }
    put("first");
    put("second");
    take(2, 100, &frames);
    toll_ring_settle(&ring, 1);
    toll_ring_ack(&ring, 4, &own);
    put("third"); /* not empty: behind the others */
    ck_assert_str_eq(take(64, 100, &frames), "secondthird");
}
END_TEST

/* Frames of every size pass the seam many times, with sends, refused sends, rewinds and acks in random order; what
 * comes out is what a plain array says. */
START_TEST(random_use_equals_a_plain_array)
{
    enum { FRAMES = 20000 };
    static uint16_t size_of[FRAMES + 1];
    uint64_t put_seq = 0, acked = 0, sent = 0, own = 0;
    srand(7);
    while (acked < FRAMES) {
        if (put_seq < FRAMES && rand() % 3) {
            uint8_t bytes[900];
            size_t size = 1 + (size_t)rand() % sizeof bytes;
            if (size + TOLL_RING_HEADER <= toll_ring_free_bytes(&ring)) {
                size_of[++put_seq] = (uint16_t)size;
                memset(bytes, (int)(put_seq % 251), size);
                toll_ring_put(&ring, bytes, size, false);
            }
        }
        struct iovec iov[8];
        int used, piece = 0;
        size_t at = 0;
        uint64_t seq = ring.cursor_seq;
        uint32_t frames = toll_ring_take(&ring, iov, 8, 2000, &used);
        for (uint32_t f = 0; f < frames; f++)
            for (size_t i = 0; i < size_of[seq + f]; i++, at++) {
                if (at == iov[piece].iov_len) {
                    piece++;
                    at = 0;
                }
                if (((uint8_t *)iov[piece].iov_base)[at] != (seq + f) % 251)
                    ck_abort_msg("frame %lu differs at byte %zu", (unsigned long)(seq + f), i);
            }
        ck_assert(frames == 0 || (piece == used - 1 && at == iov[piece].iov_len));
        if (rand() % 4 == 0)
            frames = 0;
        toll_ring_settle(&ring, frames);
        if (seq + frames - 1 > sent)
            sent = seq + frames - 1;
        if (rand() % 8 == 0)
            toll_ring_rewind(&ring);
        uint64_t ack = acked + (uint64_t)rand() % 6, before = acked;
        if (ack <= sent)
            acked = ack;
        ck_assert_uint_eq(toll_ring_ack(&ring, ack, &own), acked - before);
        ck_assert_uint_eq(ring.sent_seq, sent);
        ck_assert_uint_eq(toll_ring_count(&ring), put_seq - acked);
    }
    ck_assert_uint_eq(toll_ring_free_bytes(&ring), sizeof memory);
}
END_TEST

static void make_id(unsigned char id[16], uint32_t n)
{
    memset(id, 0, 16);
    memcpy(id, &n, sizeof n);
}

START_TEST(totals_full_table_says_so_and_recovers)
{
    struct toll_totals totals;
    struct toll_totals_slot *slots = calloc(toll_totals_slots(3), sizeof *slots);
    unsigned char id[16];
    toll_totals_init(&totals, slots, 3);
    for (uint32_t n = 0; n < 5; n++) {
        make_id(id, n);
        toll_totals_add(&totals, id, n);
    }
    make_id(id, 3);
    ck_assert_ptr_null(toll_totals_find(&totals, id));
    ck_assert(totals.overflown);
    make_id(id, 0);
    toll_totals_remove(&totals, id);
    ck_assert_ptr_null(toll_totals_find(&totals, id));
    toll_totals_add(&totals, id, 9);
    ck_assert_int_eq(toll_totals_find(&totals, id)->started_at_us, 9);
    free(slots);
}
END_TEST

START_TEST(totals_random_use_equals_a_plain_array)
{
    enum { IDS = 300, MAX = 100 };
    static int64_t model[IDS];
    uint32_t present = 0;
    struct toll_totals totals;
    struct toll_totals_slot *slots = calloc(toll_totals_slots(MAX), sizeof *slots);
    toll_totals_init(&totals, slots, MAX);
    srand(11);
    for (int64_t step = 1; step < 50000; step++) {
        uint32_t n = (uint32_t)rand() % IDS;
        unsigned char id[16];
        make_id(id, n);
        if (rand() % 2) {
            toll_totals_add(&totals, id, step);
            if (model[n] == 0 && present < MAX) {
                model[n] = step;
                present++;
            }
        } else {
            toll_totals_remove(&totals, id);
            present -= model[n] != 0;
            model[n] = 0;
        }
        n = (uint32_t)rand() % IDS;
        make_id(id, n);
        const struct toll_snapshot *sums = toll_totals_find(&totals, id);
        if (model[n] != (sums ? sums->started_at_us : 0))
            ck_abort_msg("step %ld: session %u", (long)step, n);
    }
    ck_assert_uint_eq(totals.sessions, present);
    free(slots);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("toll_ring");
    TCase *tcase = tcase_create("ring");
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, frames_come_out_in_order);
    tcase_add_test(tcase, take_stops_at_bytes_and_at_pieces);
    tcase_add_test(tcase, ack_frees_only_what_was_sent);
    tcase_add_test(tcase, pinned_frames_stay_until_settled);
    tcase_add_test(tcase, ack_beyond_a_rewound_cursor_moves_it);
    tcase_add_test(tcase, own_frames_are_told_apart);
    tcase_add_test(tcase, empty_ring_begins_at_the_front_again);
    tcase_add_test(tcase, random_use_equals_a_plain_array);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("totals");
    tcase_add_test(tcase, totals_full_table_says_so_and_recovers);
    tcase_add_test(tcase, totals_random_use_equals_a_plain_array);
    suite_add_tcase(suite, tcase);
    return fake_run(suite);
}
