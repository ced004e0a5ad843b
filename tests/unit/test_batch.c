/* Tests of daemon/batch: COPY bytes against bytes computed by hand from PostgreSQL's documentation. */
#include "daemon/batch.h"

#include "tests/unit/datagrams.h"

#include <math.h>
#include <stdlib.h>

enum { HEADER_BYTES = 19 };

static struct copy_buffer buf;

static void setup(void)
{
    buf = (struct copy_buffer){0};
    copy_begin(&buf);
}

static void teardown(void)
{
    copy_done(&buf);
}

/* What was written since the header; then begins anew. */
static void check_bytes(const char *hex)
{
    char text[512] = "";

    ck_assert(!buf.failed);
    for (size_t i = HEADER_BYTES; i < buf.size && i < HEADER_BYTES + sizeof(text) / 2 - 1; i++)
        snprintf(text + 2 * (i - HEADER_BYTES), 3, "%02x", (unsigned char)buf.data[i]);
    ck_assert_str_eq(text, hex);
    copy_begin(&buf);
}

START_TEST(stream_has_header_and_trailer)
{
    static const char expected[] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0\377\377";

    copy_end(&buf);
    ck_assert_uint_eq(buf.size, sizeof(expected) - 1);
    ck_assert_mem_eq(buf.data, expected, sizeof(expected) - 1);
    ck_assert_uint_eq(buf.rows, 0);
}
END_TEST

START_TEST(rows_are_counted_and_name_their_columns)
{
    copy_row(&buf, 30);
    copy_null(&buf);
    copy_row(&buf, 258);
    ck_assert_uint_eq(buf.rows, 2);
    check_bytes("001e"
                "ffffffff"
                "0102");
    ck_assert_uint_eq(buf.rows, 0);
}
END_TEST

START_TEST(plain_fields)
{
    const uint8_t uuid[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255};

    copy_bool(&buf, true);
    copy_bool(&buf, false);
    check_bytes("0000000101"
                "0000000100");
    copy_int4(&buf, 2147483647);
    copy_int4(&buf, -2);
    check_bytes("000000047fffffff"
                "00000004fffffffe");
    copy_int8(&buf, INT64_MAX);
    copy_int8(&buf, -1);
    check_bytes("000000087fffffffffffffff"
                "00000008ffffffffffffffff");
    copy_float8(&buf, 1.5);
    copy_float8(&buf, 0.0);
    check_bytes("000000083ff8000000000000"
                "000000080000000000000000");
    copy_uuid(&buf, uuid);
    check_bytes("00000010"
                "000102030405060708090a0b0c0d0eff");
}
END_TEST

START_TEST(text_and_json)
{
    copy_text(&buf, "h\xC3\xA9", 3);
    copy_text(&buf, "", 0);
    copy_text(&buf, NULL, 0);
    check_bytes("0000000368c3a9"
                "00000000"
                "ffffffff");
    copy_jsonb(&buf, "{\"a\":1}", 7);
    copy_jsonb(&buf, NULL, 0);
    check_bytes("00000008017b2261223a317d"
                "ffffffff");
}
END_TEST

/* µs since 2000-01-01 00:00 UTC. */
START_TEST(times)
{
    copy_time(&buf, INT64_C(946684800000000)); /* 2000-01-01 */
    copy_time(&buf, INT64_C(946684800000001));
    copy_time(&buf, 0); /* 1970-01-01: 10,957 days before: -946,684,800 s */
    check_bytes("000000080000000000000000"
                "000000080000000000000001"
                "00000008fffca2fec4c82000");
    copy_time(&buf, INT64_MIN);
    check_bytes("ffffffff");
}
END_TEST

START_TEST(times_at_the_ends_of_the_range)
{
    const int64_t first =
        INT64_C(-211813488000000000) + INT64_C(946684800000000); /* 4714-11-24 BC, the first that PostgreSQL knows */

    copy_time(&buf, first);
    copy_time(&buf, first - 1);
    copy_time(&buf, INT64_MIN + 1);
    check_bytes("00000008fd0f7cc1411fa000"
                "000000088000000000000000"
                "000000088000000000000000");
    /* INT64_MAX µs after 1970 is within PostgreSQL's range, which ends in 294277. */
    copy_time(&buf, INT64_MAX);
    check_bytes("000000087ffca2fec4c81fff");
}
END_TEST

/* ndigits, weight, sign, dscale, then groups of four decimal digits. */
START_TEST(numerics)
{
    copy_numeric(&buf, "");
    check_bytes("ffffffff");
    copy_numeric(&buf, "0");
    check_bytes("00000008"
                "0000"
                "0000"
                "0000"
                "0000");
    copy_numeric(&buf, "0.0");
    check_bytes("000000080000000000000000");
    copy_numeric(&buf, "1");
    check_bytes("0000000a"
                "0001"
                "0000"
                "0000"
                "0000"
                "0001");
    copy_numeric(&buf, "0.1"); /* 1000 / 10000 */
    check_bytes("0000000a"
                "0001"
                "ffff"
                "0000"
                "0001"
                "03e8");
    copy_numeric(&buf, "1e-7"); /* 10 / 10000² */
    check_bytes("0000000a"
                "0001"
                "fffe"
                "0000"
                "0007"
                "000a");
    copy_numeric(&buf, "123456789.000001"); /* 1 2345 6789 . 0000 0100 */
    check_bytes("00000012"
                "0005"
                "0002"
                "0000"
                "0006"
                "0001"
                "0929"
                "1a85"
                "0000"
                "0064");
    copy_numeric(&buf, "18446744073709551615"); /* 1844 6744 0737 0955 1615 */
    check_bytes("00000012"
                "0005"
                "0004"
                "0000"
                "0000"
                "0734"
                "1a58"
                "02e1"
                "03bb"
                "064f");
    copy_numeric(&buf, "1.7976931348623157e308"); /* 309 digits: 1 7976 9313 4862 3157 and 292 zeros, so 77
                                                     groups after the first: 1 7976 … */
    check_bytes("00000012"
                "0005"
                "004d"
                "0000"
                "0000"
                "0001"
                "1f28"
                "2461"
                "12fe"
                "0c55");
    copy_numeric(&buf, "1e+21"); /* 10 × 10000⁵ × … : 1 followed by 21 zeros is 10 and five groups */
    check_bytes("0000000a"
                "0001"
                "0005"
                "0000"
                "0000"
                "000a");
    copy_numeric(&buf, "10000"); /* a trailing group of zeros is not written */
    check_bytes("0000000a"
                "0001"
                "0001"
                "0000"
                "0000"
                "0001");
    copy_numeric(&buf, "12.50"); /* 12 . 5000 */
    check_bytes("0000000c"
                "0002"
                "0000"
                "0000"
                "0001"
                "000c"
                "1388");
}
END_TEST

/* The value of a numeric as it was written. */
static double numeric_value(void)
{
    const unsigned char *p = (const unsigned char *)buf.data + HEADER_BYTES + 4;
    int groups = p[0] << 8 | p[1], weight = (int16_t)(p[2] << 8 | p[3]);
    char text[128] = "", *end = text;

    ck_assert_int_lt(groups, 20);
    for (int i = 0; i < groups; i++)
        end += snprintf(end, 5, "%04d", p[8 + 2 * i] << 8 | p[9 + 2 * i]);
    snprintf(end, 20, "e%d", 4 * (weight - groups + 1));
    return strtod(text, NULL);
}

START_TEST(numerics_read_back_as_the_same_number)
{
    unsigned seed = 42;
    char text[64];

    printf("seed %u\n", seed);
    srand(seed);
    for (unsigned i = 0; i < 20000; i++) {
        double value = ldexp((double)rand() / RAND_MAX, rand() % 2000 - 1000);

        snprintf(text, sizeof(text), "%.17g", value);
        copy_begin(&buf);
        copy_numeric(&buf, text);
        ck_assert_msg(numeric_value() == value, "%s", text);
        const unsigned char *groups = (const unsigned char *)buf.data + HEADER_BYTES + 12;
        if (value > 0) /* neither end holds a group of zeros: numeric_recv would keep it */
            ck_assert(groups[0] | groups[1]);
    }
}
END_TEST

START_TEST(buffer_grows_and_keeps_its_memory)
{
    char text[5000];
    size_t capacity;

    memset(text, 'x', sizeof(text));
    for (unsigned i = 0; i < 1000; i++)
        copy_text(&buf, text, sizeof(text));
    ck_assert_uint_eq(buf.size, HEADER_BYTES + 1000 * (4 + sizeof(text)));
    capacity = buf.capacity;
    copy_begin(&buf);
    ck_assert_uint_eq(buf.capacity, capacity);
    ck_assert_uint_eq(buf.size, HEADER_BYTES);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batch");
    TCase *tests = tcase_create("batch");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, stream_has_header_and_trailer);
    tcase_add_test(tests, rows_are_counted_and_name_their_columns);
    tcase_add_test(tests, plain_fields);
    tcase_add_test(tests, text_and_json);
    tcase_add_test(tests, times);
    tcase_add_test(tests, times_at_the_ends_of_the_range);
    tcase_add_test(tests, numerics);
    tcase_add_test(tests, numerics_read_back_as_the_same_number);
    tcase_add_test(tests, buffer_grows_and_keeps_its_memory);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
