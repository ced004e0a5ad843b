/* Tests of proto/envelope beyond the vectors: what it takes for an envelope at all, and what it makes of odd
 * ones. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"

static struct toll_frame frame;
static char reason[TOLL_REASON_MAX];

/* toll_envelope_find() reads libtoll's envelopes in a way of its own. */
static void compare_find(const void *bytes, size_t size, int decoded)
{
    char other[TOLL_REASON_MAX];
    struct toll_frame found;
    size_t length = 0;
    int r = toll_envelope_find(bytes, size, &found, &length, other);

    if (decoded == -EINVAL && strstr(reason, "nested deeper")) {
        ck_assert_int_eq(r, -ENOENT); /* no frame can follow it */
        return;
    }
    ck_assert_int_eq(r, decoded);
    if (r != -ENOENT)
        ck_assert_uint_le(length, size);
    if (r == -EINVAL)
        ck_assert_str_eq(other, reason);
    if (r < 0)
        return;
    ck_assert_int_eq(found.type, TOLL_FRAME_STREAM);
    ck_assert_mem_eq(found.stream_id, frame.stream_id, sizeof(frame.stream_id));
    ck_assert_uint_eq(found.stream_seq, frame.stream_seq);
    ck_assert_uint_eq(found.stream_base, frame.stream_base);
    ck_assert_uint_eq(found.stream_count, frame.stream_count);
    ck_assert_ptr_eq(found.client.ptr, frame.client.ptr);
    ck_assert_uint_eq(found.client.len, frame.client.len);
    ck_assert_int_eq(found.time_us, TOLL_TIME_MISSING);
}

static int decode(const void *bytes, size_t size)
{
    unsigned char *exact = calloc(1, size ? size : 1); /* of just that size, for the address sanitizer */

    memcpy(exact, bytes, size);
    int r = toll_envelope_decode(exact, size, &frame, reason);
    compare_find(exact, size, r);
    free(exact); /* frame.client is not looked at after this */
    return r;
}
#define DECODE(bytes) decode(bytes, sizeof(bytes) - 1)

#define TYPE "\xa4type\xa6stream"
#define ID                                                                                                             \
    "\xa2id\xc4\x10"                                                                                                   \
    "0123456789abcdef"
#define SEQ "\xa3seq\x07"
#define BASE                                                                                                           \
    "\xa4"                                                                                                             \
    "base\x03"
#define LAST                                                                                                           \
    "\xa5"                                                                                                             \
    "count\x01"

START_TEST(envelope_is_decoded)
{
    ck_assert_int_eq(DECODE("\x85" TYPE ID SEQ BASE LAST), 0);
    ck_assert_int_eq(frame.type, TOLL_FRAME_STREAM);
    ck_assert_mem_eq(frame.stream_id, "0123456789abcdef", 16);
    ck_assert_uint_eq(frame.stream_seq, 7);
    ck_assert_uint_eq(frame.stream_base, 3);
    ck_assert_uint_eq(frame.stream_count, 1);
    ck_assert_ptr_null(frame.client.ptr);
}
END_TEST

START_TEST(envelope_keys_come_in_any_order)
{
    ck_assert_int_eq(DECODE("\x85" LAST BASE SEQ ID TYPE), 0);
    ck_assert_uint_eq(frame.stream_seq, 7);
    ck_assert_int_eq(DECODE("\xdf\x00\x00\x00\x05" SEQ TYPE ID BASE LAST), 0);
    ck_assert_uint_eq(frame.stream_base, 3);
}
END_TEST

START_TEST(envelope_only_of_stream_frames)
{
    ck_assert_int_eq(DECODE(""), -ENOENT);
    ck_assert_int_eq(DECODE("\x80"), -ENOENT);
    ck_assert_int_eq(DECODE("\xc0"), -ENOENT);
    ck_assert_int_eq(DECODE("\x90"), -ENOENT);
    ck_assert_int_eq(DECODE("\xa6stream"), -ENOENT);
    ck_assert_int_eq(DECODE("\x81\xa4type\xa3llm"), -ENOENT);
    ck_assert_int_eq(DECODE("\x81\xa4type\x05"), -ENOENT);
    ck_assert_int_eq(DECODE("\x81\xa4type\x81\xa4type\xa6stream"), -ENOENT);
    ck_assert_int_eq(DECODE("\x81\xa1x\x81" TYPE), -ENOENT);       /* inside another map */
    ck_assert_int_eq(DECODE("\x82\xa4type\xa3llm" TYPE), -ENOENT); /* the first one counts */
    ck_assert_int_eq(DECODE("\xdd\xff\xff\xff\xff"), -ENOENT);
    ck_assert_int_eq(DECODE("\x85" TYPE ID SEQ BASE), -ENOENT); /* truncated */
}
END_TEST

static void check_refused(const char *bytes, size_t size, const char *expected)
{
    ck_assert_int_eq(decode(bytes, size), -EINVAL);
    ck_assert_str_eq(reason, expected);
}
#define CHECK_REFUSED(bytes, expected) check_refused(bytes, sizeof(bytes) - 1, expected)

START_TEST(envelope_that_breaks_a_rule_is_refused)
{
    CHECK_REFUSED("\x81" TYPE, "stream: id is missing");
    CHECK_REFUSED("\x85" TYPE "\xa2id\xc0" SEQ BASE LAST, "stream: id is missing");
    CHECK_REFUSED("\x86" TYPE ID SEQ BASE LAST TYPE, "stream: repeated key \"type\"");
    CHECK_REFUSED("\x86" TYPE ID SEQ BASE LAST LAST, "stream: repeated key \"count\"");
    CHECK_REFUSED("\x86" TYPE ID SEQ BASE LAST "\x05\x05", "stream: a key is an integer, not a string");
    CHECK_REFUSED("\x86" TYPE ID SEQ BASE LAST "\x80\x05", "stream: a key is a map, not a string");
    CHECK_REFUSED("\x86" TYPE ID SEQ BASE LAST "\xa1x\x91\x91\x91\x91\x91\x91\x91\x90", "stream: nested deeper than 8");
    CHECK_REFUSED("\x86" TYPE ID SEQ BASE LAST "\xa6"
                  "client\x90",
                  "stream: client: expected a string, got an array");
    CHECK_REFUSED("\x85" TYPE "\xa2id\xc4\x01x" SEQ BASE LAST, "stream: id: expected 16 bytes, got 1");
}
END_TEST

/* A datagram full of keys from a version to come costs neither memory nor much time. */
START_TEST(envelope_with_many_unknown_keys_is_refused)
{
    char *bytes = malloc(TOLL_DATAGRAM_MAX);

    for (int keys = 16; keys <= 13000; keys += 13000 - 16) {
        char *end = bytes;
        int pairs = 5 + keys;
        *end++ = (char)0xde;
        *end++ = (char)(pairs >> 8);
        *end++ = (char)pairs;
        memcpy(end, TYPE ID SEQ BASE LAST, sizeof(TYPE ID SEQ BASE LAST) - 1);
        end += sizeof(TYPE ID SEQ BASE LAST) - 1;
        for (int i = 0; i < keys; i++) {
            *end++ = (char)0xa3;
            memcpy(end, (char[]){(char)('A' + i / 676 % 26), (char)('a' + i / 26 % 26), (char)('a' + i % 26)}, 3);
            end += 3;
            *end++ = (char)0xc0;
        }
        if (keys == 16)
            ck_assert_int_eq(decode(bytes, (size_t)(end - bytes)), 0);
        else
            check_refused(bytes, (size_t)(end - bytes), "stream: more than 16 unknown keys");
    }
    free(bytes);
}
END_TEST

START_TEST(envelope_client_is_as_it_was_sent)
{
    const char bytes[] = "\x86" TYPE ID SEQ BASE LAST "\xa6"
                         "client\xa3"
                         "a\xff"
                         "b";
    struct toll_decoder *decoder = toll_decoder_new();

    ck_assert_int_eq(toll_envelope_decode(bytes, sizeof(bytes) - 1, &frame, reason), 0);
    ck_assert_uint_eq(frame.client.len, 3);
    ck_assert_mem_eq(frame.client.ptr,
                     "a\xff"
                     "b",
                     3);
    ck_assert_int_eq(toll_frame_decode(decoder, bytes, sizeof(bytes) - 1, &frame, reason), 0);
    ck_assert_uint_eq(frame.client.len, 5);
    ck_assert_mem_eq(frame.client.ptr,
                     "a\xef\xbf\xbd"
                     "b",
                     5);
    ck_assert_uint_eq(frame.replaced, 1);
    toll_decoder_free(decoder);
}
END_TEST

START_TEST(envelope_of_libtoll_is_found)
{
    static const char name[] = "0123456789012345678901234567890123456789";
    const uint64_t numbers[] = {
        0, 1, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, (uint64_t)UINT32_MAX + 1, TOLL_SEQ_MAX, UINT64_MAX};
    enum { NUMBERS = sizeof(numbers) / sizeof(numbers[0]) };
    unsigned char bytes[256];
    unsigned good = 0;

    for (unsigned i = 0; i < NUMBERS * NUMBERS * NUMBERS; i++) {
        struct toll_frame envelope;

        toll_frame_init(&envelope, TOLL_FRAME_STREAM);
        memcpy(envelope.stream_id, "0123456789abcdef", 16);
        envelope.stream_seq = numbers[i % NUMBERS];
        envelope.stream_base = numbers[i / NUMBERS % NUMBERS];
        envelope.stream_count = numbers[i / NUMBERS / NUMBERS];
        if (i % 3 > 0)
            envelope.client = (struct toll_str){name, i % 41};
        int size = toll_frame_encode(&envelope, bytes, sizeof(bytes));
        if (size < 0)
            continue;
        ck_assert_int_eq(decode(bytes, (size_t)size), 0);
        ck_assert_uint_eq(frame.stream_seq, envelope.stream_seq);
        good++;
        for (size_t cut = 0; cut < (size_t)size; cut++)
            ck_assert_int_eq(decode(bytes, cut), -ENOENT);
        for (int at = 0; at < size; at++) { /* one byte is another: both ways make the same of it */
            bytes[at] ^= (unsigned char)(1 + i % 255);
            (void)!decode(bytes, (size_t)size);
            bytes[at] ^= (unsigned char)(1 + i % 255);
        }
    }
    ck_assert_uint_gt(good, 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("envelope");
    TCase *tcase = tcase_create("envelope");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tcase, envelope_is_decoded);
    tcase_add_test(tcase, envelope_of_libtoll_is_found);
    tcase_add_test(tcase, envelope_keys_come_in_any_order);
    tcase_add_test(tcase, envelope_only_of_stream_frames);
    tcase_add_test(tcase, envelope_that_breaks_a_rule_is_refused);
    tcase_add_test(tcase, envelope_with_many_unknown_keys_is_refused);
    tcase_add_test(tcase, envelope_client_is_as_it_was_sent);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
