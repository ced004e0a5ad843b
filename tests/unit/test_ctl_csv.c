/* CSV to JSON: what RFC 4180 allows, what it does not, and which line is at fault. */
#include "daemon/ctl_csv.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void expect(const char *text, size_t size, const char *json)
{
    char error[CTL_CSV_ERROR_MAX] = "", *made = NULL;

    ck_assert_int_eq(ctl_csv_to_json(text, size, &made, error), 0);
    ck_assert_str_eq(made, json);
    free(made);
}

static void refuse(const char *text, size_t size, const char *why)
{
    char error[CTL_CSV_ERROR_MAX] = "", *made = NULL;

    ck_assert_int_eq(ctl_csv_to_json(text, size, &made, error), -EINVAL);
    ck_assert_str_eq(error, why);
    ck_assert_ptr_null(made);
}

#define EXPECT(text, json) expect(text, sizeof(text) - 1, json)
#define REFUSE(text, why)  refuse(text, sizeof(text) - 1, why)

START_TEST(csv_rows_become_objects)
{
    EXPECT("a,b\n1,2\n", "[{\"place\":\"line 2\",\"a\":\"1\",\"b\":\"2\"}]");
    EXPECT("a,b\r\n1,\r\n,2", "[{\"place\":\"line 2\",\"a\":\"1\"},{\"place\":\"line 3\",\"b\":\"2\"}]");
    EXPECT("a\n", "[]");
    EXPECT("a", "[]");
    EXPECT("\xef\xbb\xbf# note\n\na\n# note, with a comma and a \"\n\n7\n", "[{\"place\":\"line 6\",\"a\":\"7\"}]");
}
END_TEST

START_TEST(csv_cells_may_be_quoted)
{
    EXPECT("a,b\n\"1,2\",\"\"\"\"\n", "[{\"place\":\"line 2\",\"a\":\"1,2\",\"b\":\"\\\"\"}]");
    EXPECT("\"a\"\n\"1\r\n2\"\n3\n",
           "[{\"place\":\"line 2\",\"a\":\"1\\u000d\\u000a2\"},{\"place\":\"line 4\",\"a\":\"3\"}]");
    EXPECT("a,b\n\"\",x\n", "[{\"place\":\"line 2\",\"b\":\"x\"}]");
    EXPECT("a\nb\\c\t\xc3\xa9\n", "[{\"place\":\"line 2\",\"a\":\"b\\\\c\\u0009\xc3\xa9\"}]");
}
END_TEST

START_TEST(csv_faults_are_named_by_line)
{
    REFUSE("", "line 1: there is no header that names the columns");
    REFUSE("a,b\n1\n", "line 2: fewer cells than columns");
    REFUSE("a\n1,2\n", "line 2: more cells than columns");
    REFUSE("a\n\n\"1\n2", "line 3: a cell's closing quotation mark is missing");
    REFUSE("a\n\"1\"2\n", "line 2: something follows a cell's closing quotation mark");
    REFUSE("a\n1\"2\n", "line 2: a quotation mark within a cell that does not begin with one");
    REFUSE("a;b\n1;2\n", "line 1: a column's name has a semicolon or a tab in it; cells are separated by commas");
    REFUSE("a\tb\n1\t2\n", "line 1: a column's name has a semicolon or a tab in it; cells are separated by commas");
    REFUSE("a,b\r1,2\r", "line 1: a carriage return without a line feed: lines end with a line feed");
    REFUSE("a,a\n", "line 1: two columns have the same name");
    REFUSE("a,\n", "line 1: a column's name is empty or too long; the first line names the columns");
    REFUSE("a\n\xff\n", "the file is not clean UTF-8");
    REFUSE("a\n\0\n", "the file is not clean UTF-8");
}
END_TEST

/* Every prefix of a table is read to its end and not beyond: the sanitizers look. */
START_TEST(csv_prefixes_are_read_to_their_end)
{
    static const char text[] = "\xef\xbb\xbf"
                               "a,\"b\"\r\n# x\r\n\"1\"\"\",2\r\n\r\n,\"\n\"";

    for (size_t size = 0; size < sizeof(text); size++) {
        char error[CTL_CSV_ERROR_MAX], *made = NULL, *copy = malloc(size + 1);

        memcpy(copy, text, size);
        if (ctl_csv_to_json(copy, size, &made, error) == 0)
            ck_assert_int_eq(made[strlen(made) - 1], ']');
        free(made);
        free(copy);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ctl_csv");
    TCase *tests = tcase_create("csv");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, csv_rows_become_objects);
    tcase_add_test(tests, csv_cells_may_be_quoted);
    tcase_add_test(tests, csv_faults_are_named_by_line);
    tcase_add_test(tests, csv_prefixes_are_read_to_their_end);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
