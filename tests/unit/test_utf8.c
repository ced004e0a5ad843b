/* Tests of proto/utf8: by hand at the edges of every range, and each code point there is. */
#include "proto/utf8.h"

#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FFFD "\xef\xbf\xbd"

static void check_mended(const char *text, size_t size, const char *expected)
{
    char *exact = malloc(size + 1), out[256]; /* of just that size, for the address sanitizer */

    memcpy(exact, text, size);
    ck_assert(!toll_utf8_clean(exact, size));
    size_t mended = toll_utf8_mend(exact, size, out);
    ck_assert_uint_le(mended, TOLL_UTF8_GROWTH * size);
    ck_assert_uint_eq(mended, strlen(expected));
    ck_assert_mem_eq(out, expected, mended);
    ck_assert(toll_utf8_clean(out, mended));
    free(exact);
}
#define CHECK_MENDED(text, expected) check_mended(text, sizeof(text) - 1, expected)

static void check_clean(const char *text, size_t size)
{
    char *exact = malloc(size + 1), out[256];

    memcpy(exact, text, size);
    ck_assert(toll_utf8_clean(exact, size));
    ck_assert_uint_eq(toll_utf8_mend(exact, size, out), size);
    ck_assert_mem_eq(out, text, size);
    free(exact);
}

/* The encoding of a number as if every number had one. */
static size_t encode(uint32_t c, char out[static 4])
{
    if (c < 0x80)
        return out[0] = (char)c, 1;
    if (c < 0x800)
        return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63)),
               3;
    return out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63)),
           out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63)), 4;
}

START_TEST(every_code_point_is_judged_rightly)
{
    char text[4];

    for (uint32_t c = 0; c < 0x140000; c++) {
        size_t size = encode(c, text);
        bool good = c > 0 && c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
        if (toll_utf8_clean(text, size) != good)
            ck_abort_msg("U+%04X", c);
    }
}
END_TEST

START_TEST(clean_text_stays)
{
    check_clean("", 0);
    check_clean("plain", 5);
    check_clean("Здравствуйте, 您好 👋", strlen("Здравствуйте, 您好 👋"));
    check_clean("\x01\x7f", 2);
    check_clean("\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 24);
}
END_TEST

START_TEST(a_bad_byte_is_found_at_every_place)
{
    char text[40];

    for (size_t size = 1; size <= sizeof(text); size++) {
        for (size_t at = 0; at < size; at++) {
            memset(text, 'a', sizeof(text));
            ck_assert(toll_utf8_clean(text, size));
            text[at] = 0;
            ck_assert(!toll_utf8_clean(text, size));
            text[at] = (char)0x80;
            ck_assert(!toll_utf8_clean(text, size));
            text[at] = (char)0xff;
            ck_assert(!toll_utf8_clean(text, size));
        }
    }
}
END_TEST

START_TEST(bad_sequences_become_one_replacement_each)
{
    CHECK_MENDED("\0", FFFD);
    CHECK_MENDED("a\0b\0", "a" FFFD "b" FFFD);
    CHECK_MENDED("\x80", FFFD);
    CHECK_MENDED("\xfe\xff", FFFD FFFD);
    CHECK_MENDED("\xc0\x80", FFFD FFFD);          /* overlong NUL */
    CHECK_MENDED("\xc1\xbf", FFFD FFFD);          /* overlong */
    CHECK_MENDED("\xe0\x9f\xbf", FFFD FFFD FFFD); /* overlong */
    CHECK_MENDED("\xf0\x8f\xbf\xbf", FFFD FFFD FFFD FFFD);
    CHECK_MENDED("\xed\xa0\x80", FFFD FFFD FFFD); /* surrogate */
    CHECK_MENDED("\xed\xbf\xbf", FFFD FFFD FFFD);
    CHECK_MENDED("\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD); /* U+110000 */
    CHECK_MENDED("\xf5\x80", FFFD FFFD);
    CHECK_MENDED("\xc3", FFFD); /* cut */
    CHECK_MENDED("\xe2\x82", FFFD);
    CHECK_MENDED("\xf0\x9f\x91", FFFD);
    CHECK_MENDED("\xe2\x82x\xf0\x9f\x91y", FFFD "x" FFFD "y");
    CHECK_MENDED("\xe2\xe2\x82\xac", FFFD "€");
}
END_TEST

START_TEST(copy_cuts_between_characters)
{
    char out[8];

    toll_utf8_copy("abc", 3, out, sizeof(out));
    ck_assert_str_eq(out, "abc");
    toll_utf8_copy("abcdefgh", 8, out, sizeof(out));
    ck_assert_str_eq(out, "abcdefg");
    toll_utf8_copy("abcdef€", 9, out, sizeof(out));
    ck_assert_str_eq(out, "abcdef");
    toll_utf8_copy("abcdefж", 8, out, sizeof(out));
    ck_assert_str_eq(out, "abcdef");
    toll_utf8_copy("a\xff\0b", 4, out, sizeof(out));
    ck_assert_str_eq(out, "a" FFFD FFFD);
    toll_utf8_copy("a", 1, out, 1);
    ck_assert_str_eq(out, "");
    toll_utf8_copy("", 0, out, sizeof(out));
    ck_assert_str_eq(out, "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("utf8");
    TCase *tcase = tcase_create("utf8");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tcase, every_code_point_is_judged_rightly);
    tcase_add_test(tcase, clean_text_stays);
    tcase_add_test(tcase, a_bad_byte_is_found_at_every_place);
    tcase_add_test(tcase, bad_sequences_become_one_replacement_each);
    tcase_add_test(tcase, copy_cuts_between_characters);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
