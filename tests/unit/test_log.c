/* Log lines as they leave the process: through a pipe in place of stderr. */
#include "daemon/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int reader, writer;
static char got[8 * LOG_LINE_MAX];

static void setup(void)
{
    int fds[2];

    ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    reader = fds[0];
    writer = fds[1];
    unsetenv("JOURNAL_STREAM");
    log_open(writer, LOG_LEVEL_INFO);
}

static void teardown(void)
{
    log_open(STDERR_FILENO, LOG_LEVEL_INFO);
    close(reader);
    close(writer);
}

static const char *output(void)
{
    ssize_t n = read(reader, got, sizeof(got) - 1);

    got[n > 0 ? n : 0] = '\0';
    return got;
}

/* Everything after time and level of one line, without its newline. */
static const char *message(void)
{
    char *text = strchr(output(), ' ');
    char *end;

    ck_assert_ptr_nonnull(text);
    text = strchr(text + 1, ' ');
    ck_assert_ptr_nonnull(text);
    end = strchr(text, '\n');
    ck_assert_ptr_nonnull(end);
    ck_assert_str_eq(end, "\n");
    *end = '\0';
    return text + 1;
}

START_TEST(log_line_has_time_and_level)
{
    regex_t regex;

    ck_assert_int_eq(regcomp(&regex,
                             "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z warning "
                             "disk is low free=5\n$",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    log_warning("disk is low free=%d", 5);
    ck_assert_int_eq(regexec(&regex, output(), 0, NULL, 0), 0);
    regfree(&regex);
}
END_TEST

START_TEST(log_line_for_the_journal_has_a_priority)
{
    struct stat st;
    char stream[64];

    ck_assert_int_eq(fstat(writer, &st), 0);
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_open(writer, LOG_LEVEL_DEBUG);
    log_error("a");
    log_warning("b");
    log_info("c");
    log_debug("d");
    ck_assert_str_eq(output(), "<3>a\n<4>b\n<6>c\n<7>d\n");

    setenv("JOURNAL_STREAM", "1:1", 1); /* inherited, but stderr is something else */
    log_open(writer, LOG_LEVEL_INFO);
    log_info("e");
    ck_assert_int_ne(output()[0], '<');
}
END_TEST

START_TEST(log_level_drops_what_is_below)
{
    log_debug("x");
    ck_assert_str_eq(output(), "");
    log_level_set(LOG_LEVEL_ERROR);
    log_warning("x");
    ck_assert_str_eq(output(), "");
    log_level_set(LOG_LEVEL_DEBUG);
    log_debug("x=%d", 1);
    ck_assert_str_eq(message(), "x=1");
}
END_TEST

START_TEST(log_numbers_are_printed_like_printf)
{
    log_info("a=%d b=%u c=%" PRIu64 " d=%" PRId64 " e=%zu f=%04x g=%.2f h=%5d| i=%-3d| %% j=%hhu k=%*d l=%c", -1,
             4000000000u, UINT64_MAX, INT64_MIN, (size_t)7, 0xabu, 1.005, 42, 1, 255, 4, 9, 'x');
    ck_assert_str_eq(message(), "a=-1 b=4000000000 c=18446744073709551615 d=-9223372036854775808 e=7 f=00ab g=1.00 "
                                "h=   42| i=1  | % j=255 k=   9 l=x");
}
END_TEST

static const char *volatile nobody; /* NULL, without the compiler knowing */

START_TEST(log_values_are_quoted_where_they_need_it)
{
    log_info("event a=%s b=%s c=%s d=%s e=%s f=%.*s", "plain", "two words", "", "say \"hi\" \\", "k=v", 3, "abcdef");
    ck_assert_str_eq(message(), "event a=plain b=\"two words\" c=\"\" d=\"say \\\"hi\\\" \\\\\" e=\"k=v\" f=abc");
    log_info("text with %s in it", "two words");
    ck_assert_str_eq(message(), "text with two words in it");
    log_info("a=%s", nobody);
    ck_assert_str_eq(message(), "a=-");
}
END_TEST

START_TEST(log_foreign_bytes_cannot_make_lines_or_move_cursors)
{
    log_info("a=%s b=%s", "x\ny=1\r\x1b[2J", "\x7f");
    ck_assert_str_eq(message(), "a=\"x\\x0ay=1\\x0d\\x1b[2J\" b=\"\\x7f\"");
    log_info("a=%s", "Grüße-мир-🙂");
    ck_assert_str_eq(message(), "a=Grüße-мир-🙂");
    log_info("a=%s", "\xc2\x85|\xe2\x80\xa8|\xff|\xc0\x80|\xed\xa0\x80|\xe2\x82");
    ck_assert_str_eq(message(), "a=\\xc2\\x85|\\xe2\\x80\\xa8|\\xff|\\xc0\\x80|\\xed\\xa0\\x80|\\xe2\\x82");
}
END_TEST

START_TEST(log_long_line_is_cut_between_characters)
{
    static char text[3 * LOG_LINE_MAX];
    size_t len;

    for (size_t i = 0; i < sizeof(text) / 3 * 3 - 3; i++)
        text[i] = "€"[i % 3];
    log_info("a=%s b=%d", text, 1);
    output();
    len = strlen(got);
    ck_assert_uint_le(len, LOG_LINE_MAX);
    ck_assert_uint_gt(len, LOG_LINE_MAX - 8);
    ck_assert_str_eq(got + len - strlen("€…\n"), "€…\n");
}
END_TEST

START_TEST(log_keeps_errno)
{
    errno = EPIPE;
    log_info("x");
    ck_assert_int_eq(errno, EPIPE);
    log_open(-1, LOG_LEVEL_INFO);
    log_info("nowhere to go");
    ck_assert_int_eq(errno, EPIPE);
}
END_TEST

START_TEST(log_limit_passes_a_burst_and_counts_the_rest)
{
    struct log_limit limit = LOG_LIMIT(2, 1000);
    unsigned dropped;

    ck_assert(log_limit_pass(&limit, 50, &dropped));
    ck_assert(log_limit_pass(&limit, 51, &dropped));
    ck_assert(!log_limit_pass(&limit, 52, &dropped));
    ck_assert(!log_limit_pass(&limit, 1049, &dropped));
    ck_assert(log_limit_pass(&limit, 1050, &dropped));
    ck_assert_uint_eq(dropped, 2);
    ck_assert(log_limit_pass(&limit, 1051, &dropped));
    ck_assert_uint_eq(dropped, 0);
    ck_assert(!log_limit_pass(&limit, 1052, &dropped));
    ck_assert(log_limit_pass(&limit, 9000, &dropped));
    ck_assert_uint_eq(dropped, 1);
}
END_TEST

START_TEST(log_limited_reports_what_it_dropped)
{
    struct log_limit limit = LOG_LIMIT(1, 3600 * INT64_C(1000000));

    for (int i = 0; i < 5; i++)
        log_limited(&limit, LOG_LEVEL_INFO, "n=%d", i);
    ck_assert_str_eq(message(), "n=0");
    limit.since_us -= limit.interval_us;
    log_limited(&limit, LOG_LEVEL_INFO, "n=%d", 5);
    output();
    ck_assert_ptr_nonnull(strstr(got, "info lines like the next one were left out dropped=4\n"));
    ck_assert_ptr_nonnull(strstr(got, "info n=5\n"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tcase = tcase_create("log");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, log_line_has_time_and_level);
    tcase_add_test(tcase, log_line_for_the_journal_has_a_priority);
    tcase_add_test(tcase, log_level_drops_what_is_below);
    tcase_add_test(tcase, log_numbers_are_printed_like_printf);
    tcase_add_test(tcase, log_values_are_quoted_where_they_need_it);
    tcase_add_test(tcase, log_foreign_bytes_cannot_make_lines_or_move_cursors);
    tcase_add_test(tcase, log_long_line_is_cut_between_characters);
    tcase_add_test(tcase, log_keeps_errno);
    tcase_add_test(tcase, log_limit_passes_a_burst_and_counts_the_rest);
    tcase_add_test(tcase, log_limited_reports_what_it_dropped);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
