/* Tests of proto/json: the form of each kind of value, and repeated keys. */
#include "proto/json.h"

#include <check.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct toll_json json;
static msgpack_zone zone;

static void setup(void)
{
    json = (struct toll_json){0};
    msgpack_zone_init(&zone, 8192);
}

static void teardown(void)
{
    toll_json_done(&json);
    msgpack_zone_destroy(&zone);
}

static int write_bytes(const char *bytes, size_t size)
{
    msgpack_object object;
    size_t offset = 0;

    ck_assert_int_eq(msgpack_unpack(bytes, size, &offset, &zone, &object), MSGPACK_UNPACK_SUCCESS);
    toll_json_clear(&json);
    return toll_json_value(&json, &object);
}

static void check_json(const char *bytes, size_t size, const char *expected)
{
    ck_assert_int_eq(write_bytes(bytes, size), 0);
    ck_assert_msg(json.size == strlen(expected) && memcmp(json.data, expected, json.size) == 0, "%.*s, expected %s",
                  (int)json.size, json.data, expected);
}
#define CHECK_JSON(bytes, expected) check_json(bytes, sizeof(bytes) - 1, expected)

START_TEST(json_of_scalars)
{
    CHECK_JSON("\xc0", "null");
    CHECK_JSON("\xc2", "false");
    CHECK_JSON("\xc3", "true");
    CHECK_JSON("\x05", "5");
    CHECK_JSON("\xff", "-1");
    CHECK_JSON("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615");
    CHECK_JSON("\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808");
    CHECK_JSON("\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "0.1");
    CHECK_JSON("\xca\x3f\xc0\x00\x00", "1.5");
    CHECK_JSON("\xcb\x40\x14\x00\x00\x00\x00\x00\x00", "5");
    CHECK_JSON("\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "\"NaN\"");
    CHECK_JSON("\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", "\"Infinity\"");
    CHECK_JSON("\xcb\xff\xf0\x00\x00\x00\x00\x00\x00", "\"-Infinity\"");
}
END_TEST

START_TEST(json_of_strings)
{
    CHECK_JSON("\xa0", "\"\"");
    CHECK_JSON("\xa5"
               "a\"b\\/",
               "\"a\\\"b\\\\/\"");
    CHECK_JSON("\xa7\b\f\n\r\t\x01\x1f", "\"\\b\\f\\n\\r\\t\\u0001\\u001f\"");
    CHECK_JSON("\xa1\x7f", "\"\x7f\"");
    CHECK_JSON("\xa4\xf0\x9f\x91\x8b", "\"👋\"");
    ck_assert_uint_eq(json.replaced, 0);
    CHECK_JSON("\x92\xa3\x00x\xff\xa1\x00", "[\"\xef\xbf\xbdx\xef\xbf\xbd\",\"\xef\xbf\xbd\"]");
    ck_assert_uint_eq(json.replaced, 2);
}
END_TEST

START_TEST(json_of_binary_data)
{
    CHECK_JSON("\xc4\x00", "\"\"");
    CHECK_JSON("\xc4\x01\xff", "\"/w==\"");
    CHECK_JSON("\xc4\x02\xff\xfe", "\"//4=\"");
    CHECK_JSON("\xc4\x03\xff\xfe\x00", "\"//4A\"");
    CHECK_JSON("\xc4\x04\x00\x10\x83\x10", "\"ABCDEA==\"");
    CHECK_JSON("\xd4\x05\x01", "{\"ext\":5,\"data\":\"AQ==\"}");
    CHECK_JSON("\xc7\x00\x80", "{\"ext\":-128,\"data\":\"\"}");
}
END_TEST

START_TEST(json_of_timestamps)
{
    CHECK_JSON("\xd6\xff\x65\x53\xf1\x00", "1700000000");
    CHECK_JSON("\xd7\xff\x1d\x6f\x34\x54\x65\x53\xf1\x00", "1700000000.123456789");
    CHECK_JSON("\xc7\x0c\xff\x1d\xcd\x65\x00\x00\x00\x00\x00\x00\x00\x00\x01", "1.5");
    CHECK_JSON("\xc7\x0c\xff\x1d\xcd\x65\x00\xff\xff\xff\xff\xff\xff\xff\xff", "-0.5");
    CHECK_JSON("\xc7\x0c\xff\x1d\xcd\x65\x00\xff\xff\xff\xff\xff\xff\xff\xfe", "-1.5");
    CHECK_JSON("\xc7\x0c\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", "-1");
    CHECK_JSON("\xc7\x0c\xff\x00\x00\x00\x01\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775807.999999999");
    /* Not one that the specification knows: too many nanoseconds, another size. */
    CHECK_JSON("\xc7\x0c\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00",
               "{\"ext\":-1,\"data\":\"/////wAAAAAAAAAA\"}");
    CHECK_JSON("\xd4\xff\x01", "{\"ext\":-1,\"data\":\"AQ==\"}");
}
END_TEST

START_TEST(json_of_containers)
{
    CHECK_JSON("\x80", "{}");
    CHECK_JSON("\x90", "[]");
    CHECK_JSON("\x93\x01\x90\x80", "[1,[],{}]");
    CHECK_JSON("\x82\xa1"
               "b\x01\xa1"
               "a\x81\xa1"
               "b\x02",
               "{\"b\":1,\"a\":{\"b\":2}}");
}
END_TEST

START_TEST(json_keys_are_strings)
{
    CHECK_JSON("\x87\x01\xc0\xff\xc0\xc3\xc0\xc0\xc0\xca\x3f\xc0\x00\x00\xc0\xc4\x01\xff\xc0\xd6\xff\x00\x00"
               "\x00\x07\xc0",
               "{\"1\":null,\"-1\":null,\"true\":null,\"null\":null,\"1.5\":null,\"/w==\":null,\"7\":null}");
    CHECK_JSON("\x81\xd4\x05\x01\xc0", "{\"{\\\"ext\\\":5,\\\"data\\\":\\\"AQ==\\\"}\":null}");
    ck_assert_int_eq(write_bytes("\x81\x80\xc0", 3), -EINVAL);
    ck_assert_int_eq(write_bytes("\x81\x90\xc0", 3), -EINVAL);
}
END_TEST

/* An extension as a key is longer than the buffer that turns it into a string at first. */
START_TEST(json_key_of_any_length)
{
    char bytes[300] = "\x81\xc7\xff\x05", *end = bytes + 4 + 255;
    *end++ = (char)0xc0;

    ck_assert_int_eq(write_bytes(bytes, (size_t)(end - bytes)), 0);
    json_t *object = json_loadb(json.data, json.size, 0, NULL);
    ck_assert_ptr_nonnull(object);
    json_decref(object);
}
END_TEST

static void check_repeated(const char *bytes, size_t size, const char *key)
{
    ck_assert_int_eq(write_bytes(bytes, size), -EEXIST);
    ck_assert_uint_eq(json.repeated_size, strlen(key));
    ck_assert_mem_eq(json.data + json.repeated_at, key, strlen(key));
}
#define CHECK_REPEATED(bytes, key) check_repeated(bytes, sizeof(bytes) - 1, key)

START_TEST(json_repeated_keys_are_refused)
{
    CHECK_REPEATED("\x82\xa1x\x01\xa1x\x01", "\"x\"");
    CHECK_REPEATED("\x83\xa1x\x01\xa1y\x01\xa1x\x02", "\"x\"");
    CHECK_REPEATED("\x81\xa1z\x82\xa1x\x01\xa1x\x01", "\"x\"");
    CHECK_REPEATED("\x91\x82\x01\x01\xa1"
                   "1\x01",
                   "\"1\"");
    CHECK_REPEATED("\x82\xa1\xff\x01\xa1\xfe\x01", "\"\xef\xbf\xbd\"");
    CHECK_REPEATED("\x82\xa0\x01\xa0\x01", "\"\"");
    /* The same key in maps inside and beside each other is none. */
    CHECK_JSON("\x92\x81\xa1x\x81\xa1x\x01\x81\xa1x\x02", "[{\"x\":{\"x\":1}},{\"x\":2}]");
}
END_TEST

/* Thousands of keys, all alike up to their last bytes: sorted, not compared each with each. */
START_TEST(json_of_many_keys_is_quick)
{
    enum { N = 65535, KEY = 21 };
    char *bytes = malloc(3 + (size_t)N * (1 + KEY + 1)), text[KEY + 8];

    bytes[0] = (char)0xde;
    bytes[1] = bytes[2] = (char)0xff;
    for (int round = 0; round < 3; round++) {
        char *end = bytes + 3;
        for (int i = 0; i < N; i++) {
            snprintf(text, sizeof(text), "prefix-prefix-%07d", round == 2 && i == N - 1 ? 0 : i);
            *end++ = (char)(0xa0 | KEY);
            memcpy(end, text, KEY);
            end += KEY;
            *end++ = (char)0xc0;
        }
        ck_assert_int_eq(write_bytes(bytes, (size_t)(end - bytes)), round == 2 ? -EEXIST : 0);
    }
    free(bytes);
}
END_TEST

START_TEST(json_numbers_read_back)
{
    static const double values[] = {
        0.1,  1.0 / 3, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 1e21, 123456789012345680.0, 0x1p53,
        -1.5, 1e-5,    4.35,   0.30000000000000004};
    char text[TOLL_JSON_NUMBER_MAX];
    unsigned seed = 1;

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        toll_json_number(values[i], text);
        ck_assert_msg(strtod(text, NULL) == values[i], "%s", text);
    }
    for (int i = 0; i < 100000; i++) {
        uint64_t bits = (uint64_t)rand_r(&seed) << 42 ^ (uint64_t)rand_r(&seed) << 21 ^ (uint64_t)rand_r(&seed);
        double value;
        memcpy(&value, &bits, sizeof(value));
        if (!isfinite(value))
            continue;
        toll_json_number(value, text);
        if (strtod(text, NULL) != value ||
            strlen(text) >= sizeof(text)) /* an assertion that holds is noted in a file: slow */
            ck_abort_msg("%s", text);
    }
    toll_json_number(5e-324, text);
    ck_assert_str_eq(text, "5e-324");
    toll_json_number(4.35, text);
    ck_assert_str_eq(text, "4.35");
    toll_json_number(-2.2250738585072011e-308, text);
    ck_assert_str_eq(text, "-2.225073858507201e-308");
}
END_TEST

START_TEST(json_buffer_is_used_again)
{
    CHECK_JSON("\xa1x", "\"x\"");
    char *data = json.data;
    CHECK_JSON("\xa1y", "\"y\"");
    ck_assert_ptr_eq(json.data, data);
    toll_json_done(&json);
    ck_assert_ptr_null(json.data);
    CHECK_JSON("\x01", "1");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json");
    TCase *tcase = tcase_create("json");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, json_of_scalars);
    tcase_add_test(tcase, json_of_strings);
    tcase_add_test(tcase, json_of_binary_data);
    tcase_add_test(tcase, json_of_timestamps);
    tcase_add_test(tcase, json_of_containers);
    tcase_add_test(tcase, json_keys_are_strings);
    tcase_add_test(tcase, json_key_of_any_length);
    tcase_add_test(tcase, json_repeated_keys_are_refused);
    tcase_add_test(tcase, json_of_many_keys_is_quick);
    tcase_add_test(tcase, json_numbers_read_back);
    tcase_add_test(tcase, json_buffer_is_used_again);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
