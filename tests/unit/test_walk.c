/* Tests of proto/walk and proto/reader: each form of msgpack at its edges, bombs, depth, and msgpack-c's
 * opinion on random bytes. */
#include "proto/walk.h"

#include <check.h>
#include <errno.h>
#include <msgpack.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/reader.h"

static int walk(const void *data, size_t size, size_t *ret_size)
{
    uint8_t *exact = malloc(size ? size : 1); /* of just that size, for the address sanitizer */
    memcpy(exact, data, size);
    int r = toll_walk(exact, size, ret_size);
    free(exact);
    return r;
}

/* `head` and `rest` zero bytes are one value; one byte less is none; what follows is not looked at. */
static void check_form(const char *head, size_t head_size, size_t rest)
{
    uint8_t *bytes = calloc(1, head_size + rest + 1);
    size_t size = 0;

    memcpy(bytes, head, head_size);
    bytes[head_size + rest] = 0xc1;
    ck_assert_int_eq(walk(bytes, head_size + rest + 1, &size), 0);
    ck_assert_uint_eq(size, head_size + rest);
    for (size_t cut = 0; cut<head_size + rest; cut += rest> 100 ? rest / 50 : 1)
        ck_assert_int_eq(walk(bytes, cut, &size), -EBADMSG);
    ck_assert_int_eq(walk(bytes, head_size + rest - 1, &size), -EBADMSG);
    ck_assert_uint_eq(size, head_size + rest); /* untouched by failures */
    free(bytes);
}
#define CHECK_FORM(head, rest) check_form(head, sizeof(head) - 1, rest)

START_TEST(walk_measures_every_form)
{
    for (unsigned first = 0; first < 256; first++)
        if (first < 0x80 || first >= 0xe0)
            check_form((char[]){(char)first}, 1, 0);
    for (unsigned n = 0; n < 16; n++) {
        check_form((char[]){(char)(0x80 | n)}, 1, 2 * (size_t)n);
        check_form((char[]){(char)(0x90 | n)}, 1, n);
    }
    for (unsigned n = 0; n < 32; n++)
        check_form((char[]){(char)(0xa0 | n)}, 1, n);
    CHECK_FORM("\xc0", 0);
    CHECK_FORM("\xc2", 0);
    CHECK_FORM("\xc3", 0);
    CHECK_FORM("\xc4\x00", 0);
    CHECK_FORM("\xc4\xff", 255);
    CHECK_FORM("\xc5\x01\x00", 256);
    CHECK_FORM("\xc6\x00\x01\x00\x00", 65536);
    CHECK_FORM("\xc7\x00\x05", 0);
    CHECK_FORM("\xc7\xff\x05", 255);
    CHECK_FORM("\xc8\x01\x00\x05", 256);
    CHECK_FORM("\xc9\x00\x01\x00\x00\x05", 65536);
    CHECK_FORM("\xca", 4);
    CHECK_FORM("\xcb", 8);
    CHECK_FORM("\xcc", 1);
    CHECK_FORM("\xcd", 2);
    CHECK_FORM("\xce", 4);
    CHECK_FORM("\xcf", 8);
    CHECK_FORM("\xd0", 1);
    CHECK_FORM("\xd1", 2);
    CHECK_FORM("\xd2", 4);
    CHECK_FORM("\xd3", 8);
    CHECK_FORM("\xd4", 2);
    CHECK_FORM("\xd5", 3);
    CHECK_FORM("\xd6", 5);
    CHECK_FORM("\xd7", 9);
    CHECK_FORM("\xd8", 17);
    CHECK_FORM("\xd9\xff", 255);
    CHECK_FORM("\xda\x01\x00", 256);
    CHECK_FORM("\xdb\x00\x01\x00\x00", 65536);
    CHECK_FORM("\xdc\x01\x00", 256);
    CHECK_FORM("\xdd\x00\x00\x01\x00", 256);
    CHECK_FORM("\xde\x01\x00", 512);
    CHECK_FORM("\xdf\x00\x00\x01\x00", 512);
}
END_TEST

START_TEST(walk_refuses_malformed_bytes)
{
    static const struct {
        const char *bytes;
        size_t size;
    } cases[] = {
        {"", 0},
        {"\xc1", 1},
        {"\x91\xc1", 2},
        {"\xdd\xff\xff\xff\xff", 5},
        {"\xdf\xff\xff\xff\xff", 5},
        {"\xdf\x80\x00\x00\x00", 5}, /* twice the count does not fit 32 bits */
        {"\xdc\xff\xff\x00\x00\x00", 6},
        {"\xde\x00\x02\x00\x00\x00", 6},
        {"\xdb\xff\xff\xff\xff", 5},
        {"\xc6\xff\xff\xff\xff", 5},
        {"\xc9\xff\xff\xff\xff\x05", 6},
        {"\x92\x92\x00\x00", 4}, /* enough for each array alone, not for both */
    };
    size_t size = 7;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_int_eq(walk(cases[i].bytes, cases[i].size, &size), -EBADMSG);
    ck_assert_uint_eq(size, 7);
}
END_TEST

START_TEST(walk_counts_depth_not_breadth)
{
    uint8_t bytes[64];
    size_t size;

    /* Eight containers inside each other, empty or not, and many beside each other. */
    ck_assert_int_eq(walk("\x91\x91\x91\x91\x91\x91\x91\x90", 8, &size), 0);
    ck_assert_int_eq(walk("\x91\x91\x91\x91\x91\x91\x91\x91\x00", 9, &size), 0);
    ck_assert_int_eq(walk("\x91\x91\x91\x91\x91\x91\x91\x91\x90", 9, &size), -E2BIG);
    ck_assert_int_eq(walk("\x81\x00\x81\x00\x81\x00\x81\x00\x81\x00\x81\x00\x81\x00\x81\x00\x80", 17, &size), -E2BIG);
    bytes[0] = 0xdc, bytes[1] = 0, bytes[2] = 30; /* 30 arrays of one empty array */
    for (int i = 0; i < 30; i++)
        bytes[3 + 2 * i] = 0x91, bytes[4 + 2 * i] = 0x90;
    ck_assert_int_eq(walk(bytes, 63, &size), 0);
    ck_assert_uint_eq(size, 63);
    /* Down to the bottom, up, and down again: 92 91…90 91…90. */
    ck_assert_int_eq(walk("\x92\x91\x91\x91\x91\x91\x91\x90\x91\x91\x91\x91\x91\x91\x90", 15, &size), 0);
    ck_assert_int_eq(walk("\x92\x91\x91\x91\x91\x91\x91\x90\x91\x91\x91\x91\x91\x91\x91\x90", 16, &size), -E2BIG);
    ck_assert_str_eq(toll_walk_strerror(-E2BIG), "nested deeper than 8");
    ck_assert_str_eq(toll_walk_strerror(-EBADMSG), "malformed msgpack");
}
END_TEST

START_TEST(walk_of_a_deep_value_finds_its_end)
{
    uint8_t bytes[4003];
    const void *frame;
    size_t size, pos = 0;

    memset(bytes, 0x91, 4000);
    bytes[4000] = 0xc0;
    bytes[4001] = 0x80;
    bytes[4002] = 0x05;
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 1);
    ck_assert_uint_eq(size, 4001);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 1);
    ck_assert_uint_eq(size, 1);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 1);
    ck_assert_ptr_eq(frame, bytes + 4002);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 0);

    pos = 0; /* without its innermost element it is malformed */
    ck_assert_int_eq(toll_walk_next(bytes, 4000, &pos, &frame, &size), -EBADMSG);
    ck_assert_uint_eq(size, 4000);
}
END_TEST

START_TEST(walk_next_gives_a_malformed_rest_once)
{
    const uint8_t bytes[] = {0x80, 0x81, 0x00, 0x00, 0xc1, 0x80};
    const void *frame = NULL;
    size_t size = 0, pos = 0;

    ck_assert_int_eq(toll_walk_next(bytes, 0, &pos, &frame, &size), 0);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 1);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 1);
    ck_assert_ptr_eq(frame, bytes + 1);
    ck_assert_uint_eq(size, 3);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), -EBADMSG);
    ck_assert_ptr_eq(frame, bytes + 4);
    ck_assert_uint_eq(size, 2);
    ck_assert_int_eq(toll_walk_next(bytes, sizeof(bytes), &pos, &frame, &size), 0);
}
END_TEST

/* Every pending element costs a byte, so the worst a datagram can hold is a few passes over its bytes. */
START_TEST(walk_of_the_worst_datagram_is_quick)
{
    uint8_t *bytes = malloc(TOLL_DATAGRAM_MAX);
    size_t size, pos, n = 0;
    const void *frame;

    for (int round = 0; round < 300; round++) {
        memset(bytes, round % 3 == 0 ? 0x90 : round % 3 == 1 ? 0x91 : 0xdd, TOLL_DATAGRAM_MAX);
        pos = 0;
        while (toll_walk_next(bytes, TOLL_DATAGRAM_MAX, &pos, &frame, &size) != 0)
            n++;
    }
    ck_assert_uint_eq(n, (size_t)100 * (TOLL_DATAGRAM_MAX + 1 + 1));
    free(bytes);
}
END_TEST

/* --- against msgpack-c --- */

static unsigned seed;

/* Without the containers' long forms: msgpack-c believes their counts, and allocates for 2³² elements. */
static uint8_t random_byte(void)
{
    uint8_t byte = (uint8_t)rand_r(&seed);
    return byte >= 0xdc && byte <= 0xdf ? 0x91 : byte;
}

static size_t random_value(uint8_t *out, size_t cap, int depth)
{
    static const uint8_t heads[] = {0xc0, 0xc1, 0xc2, 0xc4, 0xc5, 0xc7, 0xc8, 0xca, 0xcb, 0xcc, 0xcd, 0xce,
                                    0xcf, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda};
    size_t size = 0;

    if (cap < 24)
        return 0;
    unsigned what = (unsigned)rand_r(&seed) % 8;
    if (what < 3 && depth < 6) {
        unsigned n = (unsigned)rand_r(&seed) % 4;
        out[size++] = (uint8_t)((what == 0 ? 0x80 : 0x90) | n);
        for (unsigned i = 0; i < (what == 0 ? 2 * n : n); i++)
            size += random_value(out + size, cap - size, depth + 1);
        return size;
    }
    if (what < 5) {
        out[0] = random_byte();
        return 1;
    }
    out[size++] = heads[(unsigned)rand_r(&seed) % sizeof(heads)];
    for (unsigned n = (unsigned)rand_r(&seed) % 20; n > 0; n--)
        out[size++] = rand_r(&seed) % 3 ? 0 : random_byte();
    return size;
}

START_TEST(walk_agrees_with_msgpack_c)
{
    uint8_t bytes[512];
    unsigned good = 0, bad = 0;
    msgpack_zone zone;

    seed = (unsigned)_i;
    msgpack_zone_init(&zone, 8192);
    for (int round = 0; round < 20000; round++) {
        size_t size = random_value(bytes, sizeof(bytes), 0), walked = 0, offset = 0;
        msgpack_object object;
        int w = toll_walk(bytes, size, &walked);
        msgpack_zone_clear(&zone);
        int m = msgpack_unpack((const char *)bytes, size, &offset, &zone, &object);
        bool ok = m == MSGPACK_UNPACK_SUCCESS || m == MSGPACK_UNPACK_EXTRA_BYTES;
        if (w == -E2BIG)
            continue;
        ck_assert_msg((w == 0) == ok, "seed %d round %d: walk %d, msgpack-c %d", _i, round, w, m);
        if (ok)
            ck_assert_uint_eq(walked, offset);
        good += ok;
        bad += !ok;
    }
    ck_assert_uint_gt(good, 1000);
    ck_assert_uint_gt(bad, 1000);
    msgpack_zone_destroy(&zone);
}
END_TEST

START_TEST(reader_agrees_with_msgpack_c)
{
    uint8_t bytes[512];
    unsigned compared = 0;
    msgpack_zone zone;

    seed = (unsigned)_i;
    msgpack_zone_init(&zone, 8192);
    for (int round = 0; round < 20000; round++) {
        struct toll_reader reader;
        struct toll_reader_value key, value;
        msgpack_object object, other;
        size_t size = random_value(bytes, sizeof(bytes), 0), walked, offset = 0;
        if (toll_walk(bytes, size, &walked) < 0)
            continue;
        msgpack_zone_clear(&zone);
        (void)msgpack_unpack((const char *)bytes, walked, &offset, &zone, &object);
        if (!toll_reader_open(&reader, bytes, walked, &other)) {
            ck_assert_int_eq(other.type, object.type);
            continue;
        }
        ck_assert_int_eq(object.type, MSGPACK_OBJECT_MAP);
        for (uint32_t i = 0; i < object.via.map.size; i++) {
            ck_assert(toll_reader_next(&reader, &key, &value));
            const struct toll_reader_value *mine[] = {&key, &value};
            const msgpack_object *theirs[] = {&object.via.map.ptr[i].key, &object.via.map.ptr[i].val};
            for (int side = 0; side < 2; side++) {
                ck_assert_int_eq(mine[side]->object.type, theirs[side]->type);
                if (theirs[side]->type == MSGPACK_OBJECT_MAP || theirs[side]->type == MSGPACK_OBJECT_ARRAY)
                    continue;
                bool nan =
                    theirs[side]->type >= MSGPACK_OBJECT_FLOAT64 && theirs[side]->via.f64 != theirs[side]->via.f64;
                ck_assert(nan || msgpack_object_equal(mine[side]->object, *theirs[side]));
                compared++;
            }
        }
        ck_assert(!toll_reader_next(&reader, &key, &value));
        ck_assert_ptr_eq(reader.pos, bytes + walked);
    }
    ck_assert_uint_gt(compared, 1000);
    msgpack_zone_destroy(&zone);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("walk");
    TCase *tcase = tcase_create("walk");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tcase, walk_measures_every_form);
    tcase_add_test(tcase, walk_refuses_malformed_bytes);
    tcase_add_test(tcase, walk_counts_depth_not_breadth);
    tcase_add_test(tcase, walk_of_a_deep_value_finds_its_end);
    tcase_add_test(tcase, walk_next_gives_a_malformed_rest_once);
    tcase_add_test(tcase, walk_of_the_worst_datagram_is_quick);
    tcase_add_loop_test(tcase, walk_agrees_with_msgpack_c, 0, 5);
    tcase_add_loop_test(tcase, reader_agrees_with_msgpack_c, 0, 5);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
