/* What tollctl prints: numbers, times, tables, whatever a map brings. */
#include "daemon/control_value.h"
#include "daemon/ctl_format.h"
#include "daemon/ctl_print.h"
#include "daemon/ctl_table.h"

#include <check.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char *text;
static size_t size;
static FILE *out;

static void setup(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    setenv("TZ", "UTC", 1);
    tzset();
    out = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(out);
}

static void teardown(void)
{
    fclose(out);
    free(text);
}

static const char *printed(void)
{
    ck_assert_int_eq(fflush(out), 0);
    return text;
}

/* --- numbers --- */

static void shows(const char *key, int64_t value, const char *expected)
{
    char buf[CTL_TEXT_MAX];

    ck_assert_str_eq(ctl_format_number(key, value, buf), expected);
}

START_TEST(ctl_numbers_are_shown_by_their_keys)
{
    shows("frames_received", 1234567, "1234567");
    shows("journal_bytes", 0, "0 B");
    shows("journal_bytes", 1023, "1023 B");
    shows("journal_bytes", 1024, "1.0 KiB");
    shows("journal_bytes", 1536, "1.5 KiB");
    shows("journal_bytes", (1 << 20) - 1, "1.0 MiB");
    shows("journal_bytes", INT64_C(64) << 20, "64.0 MiB");
    shows("journal_bytes", INT64_MAX, "8.0 EiB");
    shows("journal_bytes", -1, "-1");
    shows("uptime_s", 59, "59.000 s");
    shows("uptime_s", 125, "2m05s");
    shows("uptime_s", 3 * 3600 + 60, "3h01m");
    shows("uptime_s", 86400 + 3 * 3600, "1d03h");
    shows("uptime_s", INT64_MAX, "9223372036854775807");
    shows("stt_audio_us", 0, "0 s");
    shows("stt_audio_us", 250, "250 us");
    shows("stt_audio_us", 1500, "1.500 ms");
    shows("stt_audio_us", 3004500, "3.004 s");
    shows("stt_audio_us", -1500, "-1.500 ms");
    shows("age_ms", 1500, "1.500 s");
    shows("started_at_us", INT64_C(1795238298117364), "2026-11-21 05:18:18.117");
    shows("last_activity_us", INT64_C(1795238298117364), "2026-11-21 05:18:18.117");
    shows("started_at_us", -1, "1969-12-31 23:59:59.999");
    shows("started_at_us", INT64_MIN, "-290308-12-21 19:59:05.224"); /* whatever comes, it is printed */
    shows("journal_sync_us_total", 6760, "6760");
}
END_TEST

START_TEST(ctl_times_are_local)
{
    char buf[CTL_TEXT_MAX];

    setenv("TZ", "Europe/Moscow", 1);
    tzset();
    ck_assert_str_eq(ctl_format_time(INT64_C(1795238298117364), buf), "2026-11-21 08:18:18.117");
}
END_TEST

START_TEST(ctl_parses_times_people_type)
{
    const int64_t now_us = INT64_C(1795238298117364);
    int64_t us = 7;

    ck_assert_int_eq(ctl_parse_time("2h", now_us, &us), 0);
    ck_assert_int_eq(us, now_us - INT64_C(7200000000));
    ck_assert_int_eq(ctl_parse_time("2026-11-21", now_us, &us), 0);
    ck_assert_int_eq(us, INT64_C(1795219200000000));
    ck_assert_int_eq(ctl_parse_time("2026-11-21 05:18", now_us, &us), 0);
    ck_assert_int_eq(us, INT64_C(1795238280000000));
    ck_assert_int_eq(ctl_parse_time("2026-11-21T05:18:18Z", now_us, &us), 0);
    ck_assert_int_eq(us, INT64_C(1795238298000000));

    setenv("TZ", "Europe/Moscow", 1);
    tzset();
    ck_assert_int_eq(ctl_parse_time("2026-11-21 08:18:18", now_us, &us), 0);
    ck_assert_int_eq(us, INT64_C(1795238298000000));
    ck_assert_int_eq(ctl_parse_time("2026-11-21 05:18:18Z", now_us, &us), 0);
    ck_assert_int_eq(us, INT64_C(1795238298000000));

    us = 7;
    static const char *const bad[] = {"", "yesterday", "2026-13-01", "2026-02-30", "2026-11-21 05", "2026-11-21 05:18x",
                                      "5"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(ctl_parse_time(bad[i], now_us, &us) == -EINVAL, "\"%s\" was taken for a time", bad[i]);
    ck_assert_int_eq(us, 7);
}
END_TEST

/* --- tables --- */

START_TEST(ctl_table_aligns_columns)
{
    struct ctl_table table = {.columns = 3};

    ctl_table_add_text(&table, "NAME");
    ctl_table_add_text(&table, "N");
    ctl_table_add_text(&table, "REST");
    ctl_table_add_text(&table, "a");
    ctl_table_add_number(&table, "12345");
    ctl_table_add_text(&table, "x");
    ctl_table_add_text(&table, "longer");
    ctl_table_add_number(&table, "1");
    ctl_table_add_text(&table, "");
    ck_assert_int_eq(ctl_table_print(&table, true, out), 0);
    ck_assert_str_eq(printed(), "NAME        N  REST\n"
                                "a       12345  x\n"
                                "longer      1\n");
}
END_TEST

START_TEST(ctl_table_counts_columns_of_a_terminal)
{
    struct ctl_table table = {.columns = 2};

    ctl_table_add_text(&table, "Grüße");
    ctl_table_add_text(&table, "|");
    ctl_table_add_text(&table, "日本"); /* two columns each */
    ctl_table_add_text(&table, "|");
    ctl_table_add_text(&table, "e\xcc\x81"); /* e and a combining acute */
    ctl_table_add_text(&table, "|");
    ck_assert_int_eq(ctl_table_print(&table, false, out), 0);
    ck_assert_str_eq(printed(), "Grüße  |\n日本   |\ne\xcc\x81      |\n");
}
END_TEST

START_TEST(ctl_table_lets_nobody_write_to_the_terminal)
{
    struct ctl_table table = {.columns = 1};

    ctl_table_add(&table,
                  "a\0b\x1b[31m\n\xff\xe2\x80\xae\xc2\x9b"
                  "c",
                  16, false);
    ck_assert_int_eq(ctl_table_print(&table, false, out), 0);
    ck_assert_str_eq(printed(), "a?b?[31m????c\n");
}
END_TEST

START_TEST(ctl_table_may_be_empty)
{
    struct ctl_table table = {.columns = 2};

    ck_assert_int_eq(ctl_table_print(&table, true, out), 0);
    ck_assert_str_eq(printed(), "");
}
END_TEST

/* --- values --- */

static msgpack_sbuffer buffer;
static msgpack_packer packer;
static msgpack_unpacked unpacked;

static void pack_begin(void)
{
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
}

static const msgpack_object *pack_end(void)
{
    msgpack_unpacked_init(&unpacked);
    ck_assert_int_eq((int)msgpack_unpack_next(&unpacked, buffer.data, buffer.size, NULL), MSGPACK_UNPACK_SUCCESS);
    return &unpacked.data;
}

static void pack_done(void)
{
    msgpack_unpacked_destroy(&unpacked);
    msgpack_sbuffer_destroy(&buffer);
}

START_TEST(ctl_map_shows_every_key)
{
    static const uint8_t id[16] = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8};

    pack_begin();
    msgpack_pack_map(&packer, 11);
    pack_pair_text(&packer, "version", "1.2");
    pack_pair_text(&packer, "sink_error", "");
    pack_pair_uint(&packer, "uptime_s", 61);
    pack_pair_uint(&packer, "huge", UINT64_MAX);
    pack_pair_int(&packer, "drift_us", -5);
    pack_pair_bool(&packer, "ok", true);
    pack_pair_uuid(&packer, "journal_id", id);
    pack_text(&packer, "of_a_newer_daemon");
    msgpack_pack_map(&packer, 1);
    pack_pair_int(&packer, "x", 1);
    pack_text(&packer, "ratio");
    msgpack_pack_double(&packer, 0.5);
    pack_text(&packer, "alarms");
    msgpack_pack_array(&packer, 2);
    pack_text(&packer, "first");
    pack_text(&packer, "second");
    pack_text(&packer, "nothing");
    msgpack_pack_array(&packer, 0);
    ck_assert_int_eq(ctl_print_map(pack_end(), out), 0);
    pack_done();
    ck_assert_str_eq(printed(), "version            1.2\n"
                                "sink_error         -\n"
                                "uptime             1m01s\n"
                                "huge               18446744073709551615\n"
                                "drift              -5 us\n"
                                "ok                 yes\n"
                                "journal_id         12345678-9abc-def0-0102-030405060708\n"
                                "of_a_newer_daemon  {\"x\":1}\n"
                                "ratio              0.5\n"
                                "alarms             first\n"
                                "                   second\n"
                                "nothing            none\n");
}
END_TEST

START_TEST(ctl_list_shows_the_columns_asked_for)
{
    static const struct ctl_column columns[] = {{"name", "NAME"}, {"n", "COUNT"}, {"gone", "GONE"}, {NULL, NULL}};

    pack_begin();
    msgpack_pack_array(&packer, 3);
    msgpack_pack_map(&packer, 2);
    pack_pair_uint(&packer, "n", 7);
    pack_pair_text(&packer, "name", "seven");
    msgpack_pack_map(&packer, 2);
    pack_pair_uint(&packer, "n", 1000000);
    pack_pair_text(&packer, "other", "not shown");
    msgpack_pack_nil(&packer); /* no map at all */
    ck_assert_int_eq(ctl_print_list(columns, pack_end(), out), 0);
    pack_done();
    ck_assert_str_eq(printed(), "NAME     COUNT  GONE\n"
                                "seven        7  -\n"
                                "-      1000000  -\n"
                                "-      -        -\n");
}
END_TEST

START_TEST(ctl_json_is_written_as_it_came)
{
    pack_begin();
    msgpack_pack_map(&packer, 2);
    pack_pair_uint(&packer, "n", UINT64_MAX);
    pack_pair_text(&packer, "s", "\"é\n");
    ck_assert_int_eq(ctl_print_json(pack_end(), out), 0);
    pack_done();
    ck_assert_str_eq(printed(), "{\"n\":18446744073709551615,\"s\":\"\\\"é\\n\"}");
}
END_TEST

START_TEST(control_values_are_checked_where_they_are_taken)
{
    const msgpack_object *map;
    uint64_t n = 1;
    char word[5] = "";

    pack_begin();
    msgpack_pack_map(&packer, 5);
    pack_pair_uint(&packer, "n", 100);
    pack_pair_int(&packer, "negative", -1);
    pack_pair_text(&packer, "four", "four");
    pack_pair_text(&packer, "five5", "five5");
    pack_text(&packer, "nul");
    msgpack_pack_str_with_body(&packer, "a\0b", 3);
    map = pack_end();
    ck_assert_int_eq(value_uint(map, "n", 5, 100, &n), 0);
    ck_assert_uint_eq(n, 100);
    ck_assert_int_eq(value_uint(map, "absent", 5, 100, &n), 0);
    ck_assert_uint_eq(n, 5);
    ck_assert_int_eq(value_uint(map, "n", 5, 99, &n), -EINVAL);
    ck_assert_int_eq(value_uint(map, "negative", 5, 99, &n), -EINVAL);
    ck_assert_int_eq(value_uint(map, "four", 5, 99, &n), -EINVAL);
    ck_assert_uint_eq(n, 5);
    ck_assert_int_eq(value_text(map, "four", word, sizeof(word)), 0);
    ck_assert_str_eq(word, "four");
    ck_assert_int_eq(value_text(map, "five5", word, sizeof(word)), -EINVAL);
    ck_assert_int_eq(value_text(map, "nul", word, sizeof(word)), -EINVAL);
    ck_assert_int_eq(value_text(map, "n", word, sizeof(word)), -EINVAL);
    ck_assert_int_eq(value_text(map, "absent", word, sizeof(word)), -ENOENT);
    ck_assert_str_eq(word, "four");
    ck_assert_ptr_null(value_get(value_get(map, "n"), "n"));
    pack_done();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ctl");
    TCase *tcase = tcase_create("ctl");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, ctl_numbers_are_shown_by_their_keys);
    tcase_add_test(tcase, ctl_times_are_local);
    tcase_add_test(tcase, ctl_parses_times_people_type);
    tcase_add_test(tcase, ctl_table_aligns_columns);
    tcase_add_test(tcase, ctl_table_counts_columns_of_a_terminal);
    tcase_add_test(tcase, ctl_table_lets_nobody_write_to_the_terminal);
    tcase_add_test(tcase, ctl_table_may_be_empty);
    tcase_add_test(tcase, ctl_map_shows_every_key);
    tcase_add_test(tcase, ctl_list_shows_the_columns_asked_for);
    tcase_add_test(tcase, ctl_json_is_written_as_it_came);
    tcase_add_test(tcase, control_values_are_checked_where_they_are_taken);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
