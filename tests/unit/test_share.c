/* Tests of proto/peek and daemon/share: the session that a look at the bytes finds is the one that decoding finds, and shares are even, and stay what
 * they are. */
#include "daemon/share.h"

#include "proto/frame.h"
#include "proto/peek.h"
#include "tests/support/journaltest.h"
#include "tests/unit/datagrams.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct bytes frame;
static struct toll_decoder *decoder;

static void setup(void)
{
    frame.size = 0;
    decoder = toll_decoder_new();
}

static void teardown(void)
{
    toll_decoder_free(decoder);
}

static void put(const void *data, size_t size)
{
    memcpy(frame.data + frame.size, data, size);
    frame.size += size;
}
#define PUT(text) put(text, sizeof(text) - 1)

static bool peeks(uint8_t ret[16])
{
    return toll_peek_session(frame.data, frame.size, ret);
}

/* Of a frame that decodes, both find the same. */
static void check_same(void)
{
    char reason[TOLL_REASON_MAX];
    struct toll_frame decoded;
    uint8_t id[16];
    bool found = peeks(id);

    if (toll_frame_decode(decoder, frame.data, frame.size, &decoded, reason) < 0)
        return;
    ck_assert_int_eq(found, decoded.has_session_id);
    if (found)
        ck_assert_mem_eq(id, decoded.session_id, 16);
}

START_TEST(session_is_found_in_both_forms)
{
    uint8_t binary[16], lower[16], upper[16];

    PUT("\x82\xa4type\xadsession_start\xaasession_id\xc4\x10\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef");
    ck_assert(peeks(binary));
    check_same();
    frame.size = 0;
    PUT("\x82\xaasession_id\xd9\x24"
        "01234567-89ab-cdef-0123-456789abcdef\xa4type\xadsession_start");
    ck_assert(peeks(lower));
    check_same();
    frame.size = 0;
    PUT("\x82\xaasession_id\xd9\x24"
        "01234567-89AB-CDEF-0123-456789ABCDEF\xa4type\xadsession_start");
    ck_assert(peeks(upper));
    check_same();
    ck_assert_mem_eq(binary, lower, 16);
    ck_assert_mem_eq(binary, upper, 16);
}
END_TEST

START_TEST(session_elsewhere_is_none)
{
    uint8_t id[16];

    PUT("\x82\xa4type\xa5usage\xa3raw\x81\xaasession_id\xc4\x10"
        "0123456789abcdef"); /* not at the top */
    ck_assert(!peeks(id));
    frame.size = 0;
    PUT("\x82\xa4type\xa5usage\xaasession_id\xc0");
    ck_assert(!peeks(id));
    frame.size = 0;
    PUT("\x82\xa4type\xa5usage\xaasession_id\xc4\x0f"
        "0123456789abcde");
    ck_assert(!peeks(id));
    frame.size = 0;
    PUT("\x93\xaasession_id\xc4\x10"
        "0123456789abcdef\x01"); /* no map */
    ck_assert(!peeks(id));
    frame.size = 0;
    PUT("\x80");
    ck_assert(!peeks(id));
    ck_assert_uint_eq(share_of_frame(frame.data, frame.size, 7), 0);
}
END_TEST

/* Well-formed maps of whatever keys and values. */
START_TEST(random_frames_are_read_as_the_decoder_reads_them)
{
    static const char account[] = "\xa7"
                                  "account";
    static const char *const keys[] = {"\xaasession_id", "\xa4type", "\xa5meter", "\xa8quantity",
                                       account,          "\xa3raw",  "\x01"};
    static const char *const values[] = {
        "\xa5usage", "\x07", "\xc0", "\xa1x", "\x81\xaasession_id\xa1y", "\x92\x01\x02", "\xcb\x3f\xf0\0\0\0\0\0\0"};
    static const size_t sizes[] = {6, 1, 1, 2, 14, 3, 9};
    unsigned decoded = 0;

    srand((unsigned)_i + 1);
    for (int n = 0; n < 20000; n++) {
        unsigned pairs = (unsigned)rand() % 6;

        frame.size = 0;
        frame.data[frame.size++] = (uint8_t)(0x80 | pairs);
        for (unsigned i = 0; i < pairs; i++) {
            const char *key = keys[(unsigned)rand() % 7];
            unsigned value = (unsigned)rand() % 9;

            put(key, key[0] == 1 ? 1 : strlen(key));
            if (value == 7)
                PUT("\xc4\x10"
                    "0123456789abcdef");
            else if (value == 8)
                PUT("\xd9\x24"
                    "01234567-89Ab-cdef-0123-456789abcdef");
            else
                put(values[value], sizes[value]);
        }
        check_same();
        decoded += share_of_frame(frame.data, frame.size, 5) > 0;
    }
    ck_assert_uint_gt(decoded, 100);
}
END_TEST

START_TEST(shares_are_even)
{
    for (unsigned writers = 2; writers <= SHARE_WRITERS_MAX; writers *= 2) {
        unsigned counts[SHARE_WRITERS_MAX] = {0};

        for (uint64_t n = 0; n < 64000; n++) { /* ids that count up */
            uint8_t id[16] = {0};

            memcpy(id + 8 * (n % 2), &n, sizeof(n));
            counts[share_of_session(id, writers)]++;
        }
        for (unsigned i = 0; i < writers; i++) {
            ck_assert_uint_gt(counts[i], 64000 / writers * 8 / 10);
            ck_assert_uint_lt(counts[i], 64000 / writers * 12 / 10);
        }
    }
}
END_TEST

/* Rows in toll.streams are understood by it: it may never change. */
START_TEST(shares_stay_what_they_are)
{
    const uint8_t *id = (const uint8_t *)"0123456789abcdef", none[16] = {0};

    ck_assert_uint_eq(share_of_session(none, 64), 0);
    ck_assert_uint_eq(share_of_session(id, 2), 0);
    ck_assert_uint_eq(share_of_session(id, 64), 42);
    ck_assert_uint_eq(share_of_session(id, 1), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("share");
    TCase *tests = tcase_create("share");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, session_is_found_in_both_forms);
    tcase_add_test(tests, session_elsewhere_is_none);
    tcase_add_loop_test(tests, random_frames_are_read_as_the_decoder_reads_them, 0, 3);
    tcase_add_test(tests, shares_are_even);
    tcase_add_test(tests, shares_stay_what_they_are);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
