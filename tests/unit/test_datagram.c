/* Tests of daemon/datagram: what a bad frame gets, with real bytes. What is counted here is what the receive
 * loop counts and what the writer stores, since both take datagrams apart with it. */
#include "daemon/datagram.h"

#include "tests/unit/datagrams.h"

#include <stdlib.h>

enum { PIECES_MAX = 70000 };

struct piece {
    size_t at, size; /* where in the datagram */
    bool broken;
    uint64_t seq, seq_end;
    char reason[TOLL_REASON_MAX];
};

static struct bytes datagram;
static struct datagram_parts parts;
static struct piece pieces[PIECES_MAX];
static size_t count;

static void setup(void)
{
    datagram.size = 0;
    count = 0;
}

/* What comes back from the journal, where an index tells sizes, is the same. */
static void compare_indexed(const void *data, size_t size, bool truncated)
{
    struct datagram_parts first, again;
    struct datagram_piece piece;
    struct datagram_index index;
    uint8_t *longer = malloc(size + DATAGRAM_INDEX_MAX), *both;
    size_t bytes, n, well_formed = 0;

    ck_assert_ptr_nonnull(longer);
    memcpy(longer, data, size);
    datagram_index_begin(&index);
    datagram_open(&first, data, size, truncated);
    for (n = 0; datagram_next(&first, &piece); n++) {
        datagram_index_add(&index, &piece);
        well_formed += well_formed == n && !piece.broken && piece.size <= UINT16_MAX && n < DATAGRAM_INDEX_FRAMES;
    }
    ck_assert_uint_eq(index.count, well_formed);
    bytes = datagram_index_write(&index, longer, size);
    ck_assert_uint_eq(bytes, size + 2 * well_formed + 2);
    both = realloc(longer, bytes); /* of just that size, for the address sanitizer */
    ck_assert_ptr_nonnull(both);
    datagram_open_indexed(&again, both, bytes, truncated);
    ck_assert_int_eq(again.sequenced, parts.sequenced);
    for (n = 0; datagram_next(&again, &piece); n++) {
        ck_assert_uint_lt(n, count);
        ck_assert_uint_eq(pieces[n].at, (size_t)((const uint8_t *)piece.data - both));
        ck_assert_uint_eq(pieces[n].size, piece.size);
        ck_assert_uint_eq(pieces[n].seq, piece.seq);
        ck_assert_uint_eq(pieces[n].seq_end, piece.seq_end);
        ck_assert_int_eq(pieces[n].broken, piece.broken != NULL);
        ck_assert_str_eq(pieces[n].reason, piece.broken ? piece.broken : "");
    }
    ck_assert_uint_eq(n, count);
    free(both);
}

static void open_size(const void *data, size_t size, bool truncated)
{
    struct datagram_piece piece;

    datagram_open(&parts, data, size, truncated);
    for (count = 0; datagram_next(&parts, &piece); count++) {
        ck_assert_uint_lt(count, PIECES_MAX);
        pieces[count] = (struct piece){
            .at = (size_t)((const uint8_t *)piece.data - (const uint8_t *)data),
            .size = piece.size,
            .broken = piece.broken != NULL,
            .seq = piece.seq,
            .seq_end = piece.seq_end,
        };
        snprintf(pieces[count].reason, sizeof(pieces[count].reason), "%s", piece.broken ? piece.broken : "");
        ck_assert_uint_le(pieces[count].at + piece.size, size);
    }
    ck_assert(!datagram_next(&parts, &piece)); /* stays at the end */
    compare_indexed(data, size, truncated);
}

static void open_datagram(void)
{
    open_size(datagram.data, datagram.size, false);
}

static void check_frame(size_t i, uint64_t seq)
{
    ck_assert_uint_lt(i, count);
    ck_assert_msg(!pieces[i].broken, "piece %zu: %s", i, pieces[i].reason);
    ck_assert_uint_eq(pieces[i].seq, seq);
    if (seq)
        ck_assert_uint_eq(pieces[i].seq_end, seq + 1);
}

static void check_broken(size_t i, uint64_t seq, uint64_t seq_end, size_t size, const char *reason)
{
    ck_assert_uint_lt(i, count);
    ck_assert(pieces[i].broken);
    ck_assert_uint_eq(pieces[i].seq, seq);
    ck_assert_uint_eq(pieces[i].seq_end, seq_end);
    ck_assert_uint_eq(pieces[i].size, size);
    ck_assert_msg(strstr(pieces[i].reason, reason), "\"%s\" has no \"%s\"", pieces[i].reason, reason);
}

static void add_frames(unsigned n)
{
    while (n-- > 0)
        add_tts(&datagram, 1, 0, 5);
}

static const uint8_t BOMB[] = {0xdd, 0xff, 0xff, 0xff, 0xff};

START_TEST(empty_datagram_has_no_piece)
{
    open_datagram();
    ck_assert_uint_eq(count, 0);
    ck_assert(!parts.sequenced);
}
END_TEST

START_TEST(frames_without_an_envelope_have_no_numbers)
{
    add_frames(3);
    open_datagram();
    ck_assert_uint_eq(count, 3);
    for (size_t i = 0; i < count; i++)
        check_frame(i, 0);
    ck_assert(!parts.sequenced);
}
END_TEST

START_TEST(envelope_numbers_the_frames_after_it)
{
    add_envelope(&datagram, 9, 41, 40, 3);
    add_frames(3);
    open_datagram();
    ck_assert(parts.sequenced);
    ck_assert_uint_eq(parts.envelope.stream_seq, 41);
    ck_assert_uint_eq(parts.envelope.stream_base, 40);
    ck_assert_uint_eq(count, 3);
    for (size_t i = 0; i < 3; i++)
        check_frame(i, 41 + i);
}
END_TEST

START_TEST(envelope_alone_has_no_piece)
{
    add_envelope(&datagram, 9, 1, 1, 0);
    open_datagram();
    ck_assert(parts.sequenced);
    ck_assert_uint_eq(count, 0);
}
END_TEST

START_TEST(envelope_of_the_last_numbers_is_valid)
{
    add_envelope(&datagram, 9, TOLL_SEQ_MAX, 1, 1);
    add_frames(1);
    open_datagram();
    ck_assert_uint_eq(count, 1);
    check_frame(0, TOLL_SEQ_MAX);
    ck_assert_uint_eq(pieces[0].seq_end, TOLL_SEQ_MAX + 1);
}
END_TEST

/* Puts a raw envelope with these numbers; the encoder would refuse them. */
static void add_raw_envelope(uint8_t seq, uint8_t base, uint8_t frames)
{
    const uint8_t head[] = {0x85, 0xa4, 't', 'y', 'p',  'e', 0xa6, 's',  't',
                            'r',  'e',  'a', 'm', 0xa2, 'i', 'd',  0xc4, 16};
    const uint8_t id[16] = {1};
    const uint8_t tail[] = {0xa3, 's',  'e',  'q', seq, 0xa4, 'b', 'a', 's',
                            'e',  base, 0xa5, 'c', 'o', 'u',  'n', 't', frames};

    add_bytes(&datagram, head, sizeof(head));
    add_bytes(&datagram, id, sizeof(id));
    add_bytes(&datagram, tail, sizeof(tail));
}

START_TEST(invalid_envelope_is_quarantined_and_its_frames_go_without_numbers)
{
    static const uint8_t numbers[][3] = {{0, 0, 2},   {1, 0, 2}, {1, 2, 2}, {0, 1, 2}, {5, 5, 0xff /* -1 */},
                                         {0xc0, 1, 2}};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        datagram.size = 0;
        add_raw_envelope(numbers[i][0], numbers[i][1], numbers[i][2]);
        size_t envelope_size = datagram.size;
        add_frames(2);
        open_datagram();
        ck_assert(!parts.sequenced);
        ck_assert_uint_eq(count, 3);
        check_broken(0, 0, 0, envelope_size, "stream");
        check_frame(1, 0);
        check_frame(2, 0);
    }
    datagram.size = 0;
    add_raw_envelope(5, 5, 2);
    add_frames(2);
    open_datagram(); /* the same bytes with good numbers are an envelope */
    ck_assert(parts.sequenced);
    ck_assert_uint_eq(count, 2);
}
END_TEST

/* An envelope elsewhere is a frame like others here; the writer refuses it as invalid. */
START_TEST(envelope_that_is_not_first_is_a_piece)
{
    add_envelope(&datagram, 1, 7, 7, 3);
    add_frames(1);
    add_envelope(&datagram, 2, 100, 100, 1);
    add_frames(1);
    open_datagram();
    ck_assert_uint_eq(count, 3);
    check_frame(1, 8);
    check_frame(2, 9);
    ck_assert_uint_eq(parts.envelope.stream_seq, 7);
}
END_TEST

START_TEST(frames_counted_but_missing_use_up_their_numbers)
{
    add_envelope(&datagram, 1, 10, 10, 5);
    add_frames(2);
    open_datagram();
    ck_assert_uint_eq(count, 3);
    check_frame(1, 11);
    check_broken(2, 12, 15, datagram.size, "counts 5 frames, the last 3 are not there");
}
END_TEST

START_TEST(bytes_beyond_the_counted_frames_are_one_piece_without_a_number)
{
    add_envelope(&datagram, 1, 10, 10, 1);
    add_frames(1);
    size_t counted = datagram.size;
    add_frames(3);
    open_datagram();
    ck_assert_uint_eq(count, 2);
    check_frame(0, 10);
    check_broken(1, 0, 0, datagram.size - counted, "after the 1 frames");
    ck_assert_uint_eq(pieces[1].at, counted);
    datagram.size = 0;
    add_envelope(&datagram, 1, 10, 10, 0);
    add_frames(1);
    open_datagram();
    ck_assert_uint_eq(count, 1);
    ck_assert(pieces[0].broken);
}
END_TEST

START_TEST(malformed_rest_is_one_piece_and_uses_up_the_numbers_left)
{
    add_envelope(&datagram, 1, 10, 10, 4);
    add_frames(1);
    size_t good = datagram.size;
    add_bytes(&datagram, BOMB, sizeof(BOMB));
    add_frames(2);
    open_datagram();
    ck_assert_uint_eq(count, 2);
    check_frame(0, 10);
    check_broken(1, 11, 14, datagram.size - good, "malformed");
    ck_assert_uint_eq(pieces[1].at, good);
}
END_TEST

START_TEST(malformed_rest_without_an_envelope_is_one_piece)
{
    static const uint8_t bombs[][5] = {{0xdd, 0xff, 0xff, 0xff, 0xff},
                                       {0xdf, 0xff, 0xff, 0xff, 0xff},
                                       {0xc6, 0xff, 0xff, 0xff, 0xff},
                                       {0xc1, 0, 0, 0, 0},
                                       {0xdb, 0, 0, 0, 9}};

    for (size_t i = 0; i < sizeof(bombs) / sizeof(*bombs); i++) {
        datagram.size = 0;
        add_frames(2);
        add_bytes(&datagram, bombs[i], sizeof(bombs[i]));
        open_datagram();
        ck_assert_uint_eq(count, 3);
        check_broken(2, 0, 0, 5, "malformed");
        open_size(bombs[i], sizeof(bombs[i]), false); /* nothing but that */
        ck_assert_uint_eq(count, 1);
        check_broken(0, 0, 0, 5, "malformed");
    }
}
END_TEST

START_TEST(datagram_cut_anywhere_keeps_its_whole_frames)
{
    size_t frame_size, envelope_size;

    add_envelope(&datagram, 1, 1, 1, 3);
    envelope_size = datagram.size;
    add_frames(1);
    frame_size = datagram.size - envelope_size;
    add_frames(2);
    for (size_t size = 0; size <= datagram.size; size++) {
        uint8_t *exact = malloc(size ? size : 1); /* so that a sanitizer sees every byte read beyond */
        size_t whole = size < envelope_size ? 0 : (size - envelope_size) / frame_size;

        memcpy(exact, datagram.data, size);
        open_size(exact, size, size < datagram.size);
        if (size < envelope_size) {
            ck_assert(!parts.sequenced);
            ck_assert_uint_eq(count, 1); /* an empty one that was cut is told, too */
            ck_assert(pieces[0].broken);
        } else if (whole < 3) {
            ck_assert_uint_eq(count, whole + 1);
            check_broken(whole, whole + 1, 4, pieces[whole].size, "");
        } else
            ck_assert_uint_eq(count, 3);
        for (size_t i = 0; size >= envelope_size && i < whole; i++)
            check_frame(i, i + 1);
        free(exact);
    }
}
END_TEST

START_TEST(cut_between_two_frames_is_told_without_an_envelope_too)
{
    add_frames(2);
    open_size(datagram.data, datagram.size, true);
    ck_assert_uint_eq(count, 3);
    check_frame(1, 0);
    check_broken(2, 0, 0, 0, "lost its end");
}
END_TEST

START_TEST(any_value_is_a_piece_of_its_own)
{
    static const uint8_t values[] = {0xc0, 0x01, 0x80, 0x90, 0xa1, 'x', 0xca, 0, 0, 0, 0, 0x81, 0xa1, 'x', 0xc3};

    add_bytes(&datagram, values, sizeof(values));
    add_frames(1);
    open_datagram();
    ck_assert_uint_eq(count, 8);
    for (size_t i = 0; i < count; i++)
        check_frame(i, 0);
}
END_TEST

/* Nested arrays: too deep for a frame, but their end is known, so the neighbours are kept. */
START_TEST(value_nested_too_deep_costs_its_neighbours_nothing)
{
    add_envelope(&datagram, 1, 1, 1, 3);
    add_frames(1);
    for (unsigned i = 0; i < 4000; i++)
        add_bytes(&datagram, "\x91", 1);
    add_bytes(&datagram, "\xc0", 1);
    add_frames(1);
    open_datagram();
    ck_assert_uint_eq(count, 3);
    check_frame(1, 2);
    ck_assert_uint_eq(pieces[1].size, 4001);
    check_frame(2, 3);
}
END_TEST

START_TEST(datagram_of_one_byte_frames_is_bounded)
{
    memset(datagram.data, 0xc0, sizeof(datagram.data));
    datagram.size = sizeof(datagram.data);
    open_datagram();
    ck_assert_uint_eq(count, TOLL_DATAGRAM_MAX);
}
END_TEST

/* Whatever the bytes: every byte belongs to the envelope or to one piece, and every number of the envelope is
 * used once. */
START_TEST(random_bytes_are_covered_exactly)
{
    unsigned seed = 20270115, changed = 0;

    printf("seed %u\n", seed);
    srand(seed);
    for (unsigned round = 0; round < 3000; round++) {
        uint64_t next = 5;
        size_t covered = 0, frames = (size_t)rand() % 5;

        datagram.size = 0;
        add_envelope(&datagram, 1, 5, 5, frames);
        size_t envelope_size = datagram.size;
        add_frames((unsigned)rand() % 5);
        for (int flips = rand() % 4; flips > 0; flips--)
            datagram.data[envelope_size + (size_t)rand() % (datagram.size - envelope_size + 1)] = (uint8_t)rand();
        open_datagram();
        ck_assert(parts.sequenced);
        for (size_t i = 0; i < count; i++) {
            bool whole = pieces[i].size == datagram.size; /* what is counted but missing shows all */

            covered += whole ? 0 : pieces[i].size;
            changed += pieces[i].broken;
            if (pieces[i].seq) {
                ck_assert_uint_eq(pieces[i].seq, next);
                next = pieces[i].seq_end;
            }
        }
        ck_assert_uint_eq(next, 5 + frames);
        ck_assert_uint_eq(covered, datagram.size - envelope_size);
    }
    ck_assert_uint_gt(changed, 1000);
}
END_TEST

START_TEST(index_that_is_none_stays_within_its_bytes)
{
    unsigned seed = 20261122;

    srand(seed);
    for (unsigned round = 0; round < 20000; round++) {
        struct datagram_piece piece;
        size_t size = (size_t)rand() % 40, pieces_seen = 0;
        uint8_t *bytes = malloc(size + 1);

        ck_assert_ptr_nonnull(bytes);
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)(rand() % 3 ? rand() % 4 : rand());
        datagram_open_indexed(&parts, bytes, size, rand() % 2);
        while (datagram_next(&parts, &piece)) {
            ck_assert_uint_le(++pieces_seen, size + 1);
            ck_assert((const uint8_t *)piece.data >= bytes);
            ck_assert((const uint8_t *)piece.data + piece.size <= bytes + size);
        }
        free(bytes);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("datagram");
    TCase *tests = tcase_create("datagram");

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, empty_datagram_has_no_piece);
    tcase_add_test(tests, frames_without_an_envelope_have_no_numbers);
    tcase_add_test(tests, envelope_numbers_the_frames_after_it);
    tcase_add_test(tests, envelope_alone_has_no_piece);
    tcase_add_test(tests, envelope_of_the_last_numbers_is_valid);
    tcase_add_test(tests, invalid_envelope_is_quarantined_and_its_frames_go_without_numbers);
    tcase_add_test(tests, envelope_that_is_not_first_is_a_piece);
    tcase_add_test(tests, frames_counted_but_missing_use_up_their_numbers);
    tcase_add_test(tests, bytes_beyond_the_counted_frames_are_one_piece_without_a_number);
    tcase_add_test(tests, malformed_rest_is_one_piece_and_uses_up_the_numbers_left);
    tcase_add_test(tests, malformed_rest_without_an_envelope_is_one_piece);
    tcase_add_test(tests, datagram_cut_anywhere_keeps_its_whole_frames);
    tcase_add_test(tests, cut_between_two_frames_is_told_without_an_envelope_too);
    tcase_add_test(tests, any_value_is_a_piece_of_its_own);
    tcase_add_test(tests, value_nested_too_deep_costs_its_neighbours_nothing);
    tcase_add_test(tests, datagram_of_one_byte_frames_is_bounded);
    tcase_add_test(tests, random_bytes_are_covered_exactly);
    tcase_add_test(tests, index_that_is_none_stays_within_its_bytes);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
