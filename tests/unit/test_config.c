/* The configuration as people meet it: a file, the environment, and messages that say what to change. */
#include "daemon/config.h"
#include "daemon/config_options.h"
#include "daemon/log.h"

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/toll-test-config-XXXXXX", path[64];
static char error[CONFIG_ERROR_MAX];
static struct config config;

static void setup(void)
{
    memcpy(dir + sizeof(dir) - 7, "XXXXXX", 7);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/c", dir);
    for (size_t i = 0; i < config_options_count; i++)
        if (config_options[i].env)
            unsetenv(config_options[i].env);
    memset(&config, 0, sizeof(config));
    error[0] = '\0';
}

static void teardown(void)
{
    config_free(&config);
    unlink(path);
    rmdir(dir);
}

static int load(const char *text)
{
    FILE *file = fopen(path, "w");

    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
    config_free(&config);
    memset(&config, 0, sizeof(config));
    return config_load(&config, path, error);
}

/* The file is refused with this message, after its path. */
static void refuses(const char *text, const char *message)
{
    ck_assert_int_eq(load(text), -EINVAL);
    ck_assert_mem_eq(error, path, strlen(path));
    ck_assert_str_eq(error + strlen(path), message);
}

START_TEST(config_defaults_are_those_documented)
{
    ck_assert_int_eq(load(""), 0);
    ck_assert_str_eq(config.daemon.socket, "/run/toll/toll.sock");
    ck_assert_str_eq(config.daemon.control, "/run/toll/control.sock");
    ck_assert_str_eq(config.daemon.state_dir, "/var/lib/toll");
    ck_assert_int_eq(config.daemon.socket_mode, 0660);
    ck_assert_int_eq(config.daemon.log_level, LOG_LEVEL_INFO);
    ck_assert_int_eq(config.daemon.shutdown_deadline_us, 10000000);
    ck_assert_str_eq(config.database.url, "");
    ck_assert(config.database.auto_migrate);
    ck_assert_int_eq(config.database.tcp_user_timeout_us, 15000000);
    ck_assert_int_eq(config.journal.ack, CONFIG_ACK_SYNC);
    ck_assert_int_eq(config.journal.segment_bytes, 64 << 20);
    ck_assert_int_eq(config.journal.max_bytes, INT64_C(16) << 30);
    ck_assert_int_eq(config.journal.retention_us, INT64_C(86400000000));
    ck_assert_int_eq(config.batch.rows, 50000);
    ck_assert_int_eq(config.batch.age_us, 100000);
    ck_assert_int_eq(config.sessions.past_tolerance_us, INT64_C(400) * 86400 * 1000000);
    ck_assert_int_eq(config.limits.streams, 65536);
}
END_TEST

START_TEST(config_file_sets_every_type)
{
    ck_assert_int_eq(load("[daemon]\nsocket = /tmp/a b.sock ; with a space\nsocket_mode=666\nlog_level: Debug\n"
                          "# comment\n; comment\n  shutdown_deadline = 12 s\n\n"
                          "[database]\nauto_migrate = off\nurl = host=/run/pg dbname=toll\n"
                          "[journal]\nack=commit\nretention=0\nsegment_bytes=131072\n[batch]\nage=1500us\nrows=1\n"),
                     0);
    ck_assert_str_eq(config.daemon.socket, "/tmp/a b.sock");
    ck_assert_int_eq(config.daemon.socket_mode, 0666);
    ck_assert_int_eq(config.daemon.log_level, LOG_LEVEL_DEBUG);
    ck_assert_int_eq(config.daemon.shutdown_deadline_us, 12000000);
    ck_assert(!config.database.auto_migrate);
    ck_assert_str_eq(config.database.url, "host=/run/pg dbname=toll");
    ck_assert_int_eq(config.journal.ack, CONFIG_ACK_COMMIT);
    ck_assert_int_eq(config.journal.retention_us, 0);
    ck_assert_int_eq(config.journal.segment_bytes, 131072);
    ck_assert_int_eq(config.batch.age_us, 1500);
    ck_assert_int_eq(config.batch.rows, 1);
}
END_TEST

START_TEST(config_errors_name_line_option_and_value)
{
    refuses("[batch]\n\nrows = 12x\n", ":3: batch.rows: \"12x\" is not a whole number");
    refuses("[batch]\nrows = 0\n", ":2: batch.rows: \"0\" is below 1");
    refuses("[batch]\nrows = 1000001\n", ":2: batch.rows: \"1000001\" is above 1000000");
    refuses("[batch]\nrows = 99999999999999999999\n", ":2: batch.rows: \"99999999999999999999\" is above 1000000");
    refuses("[batch]\nrows = -1\n", ":2: batch.rows: \"-1\" is not a whole number");
    refuses("[batch]\nrows =\n", ":2: batch.rows: \"\" is not a whole number");
    refuses("[batch]\nage = 5\n", ":2: batch.age: \"5\" is not a duration: a whole number with us, ms, s, m, h or d");
    refuses("[batch]\nage = 2h\n", ":2: batch.age: \"2h\" is above 1m");
    refuses("[batch]\nbytes = 1T\n",
            ":2: batch.bytes: \"1T\" is not a size: a whole number of bytes, or with K, M or G");
    refuses("[batch]\nbytes = 9999999999G\n", ":2: batch.bytes: \"9999999999G\" is above 256M");
    refuses("[journal]\nsegment_bytes = 127K\n", ":2: journal.segment_bytes: \"127K\" is below 128K");
    refuses("[journal]\nack = perhaps\n", ":2: journal.ack: \"perhaps\" is not one of sync, write, commit");
    refuses("[database]\nauto_migrate = maybe\n", ":2: database.auto_migrate: \"maybe\" is not true or false");
    refuses("[daemon]\nsocket_mode = 0888\n", ":2: daemon.socket_mode: \"0888\" is not an octal mode");
    refuses("[daemon]\nsocket_mode = 4777\n", ":2: daemon.socket_mode: \"4777\" is above 0777");
    refuses("[daemon]\nsocket =\n", ":2: daemon.socket: must not be empty");
}
END_TEST

START_TEST(config_unknown_options_are_errors)
{
    refuses("\n[daemon]\nsokcet = /x\n",
            ":3: unknown option \"sokcet\" in section [daemon] (value \"/x\"); tolld --help lists the options");
    refuses("[deamon]\nsocket = /x\n",
            ":2: unknown option \"socket\" in section [deamon] (value \"/x\"); tolld --help lists the options");
    refuses("ack = perhaps\n",
            ":1: unknown option \"ack\" in no section (value \"perhaps\"); tolld --help lists the options");
}
END_TEST

START_TEST(config_lines_that_are_no_options_are_errors)
{
    refuses("[batch]\nrows 5\n", ":2: neither a [section] nor an option = value");
    refuses("[batch\nrows = 5\n", ":1: neither a [section] nor an option = value");
    refuses("[batch]\nwhat is this\nrows = 12x\n", ":2: neither a [section] nor an option = value");
    refuses("[batch]\nrows = 12x\nwhat is this\n", ":2: batch.rows: \"12x\" is not a whole number");
    refuses("[batch]\nrows = 5\nage = 1s\nrows = 6\n", ":4: batch.rows is set on line 2 already");
    refuses("[batch]\nrows = 5\n   age = 12x\n",
            ":3: batch.age: \"12x\" is not a duration: a whole number with us, ms, s, m, h or d");
}
END_TEST

START_TEST(config_options_are_checked_together)
{
    ck_assert_int_eq(load("[journal]\nmax_bytes = 127M\n"), -EINVAL);
    ck_assert_str_eq(error, "journal.max_bytes must be at least twice journal.segment_bytes");
    ck_assert_int_eq(load("[limits]\npages = 10\n"), -EINVAL);
    ck_assert_str_eq(error, "limits.pages_per_uid is above limits.pages");
    ck_assert_int_eq(load("[daemon]\nsocket = /s\ncontrol = /s\n"), -EINVAL);
    ck_assert_str_eq(error, "daemon.socket and daemon.control are the same path");
}
END_TEST

START_TEST(config_long_connection_strings_fit)
{
    char text[5000], url[3000];

    memset(url, 'u', sizeof(url) - 1);
    url[sizeof(url) - 1] = '\0';
    snprintf(text, sizeof(text), "[database]\nurl = %s\n", url);
    ck_assert_int_eq(load(text), 0);
    ck_assert_str_eq(config.database.url, url);

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    refuses(text, ":1: the line is longer than 4094 bytes");
}
END_TEST

START_TEST(config_socket_paths_fit_a_socket_address)
{
    char text[256], expected[256], long_path[110];

    memset(long_path, 'p', sizeof(long_path));
    snprintf(text, sizeof(text), "[daemon]\nsocket = %.107s\n", long_path);
    ck_assert_int_eq(load(text), 0);
    snprintf(text, sizeof(text), "[daemon]\nsocket = %.108s\n", long_path);
    snprintf(expected, sizeof(expected), ":2: daemon.socket: \"%.108s\" is longer than 107 bytes", long_path);
    refuses(text, expected);
}
END_TEST

START_TEST(config_environment_wins_over_the_file)
{
    setenv("DATABASE_URL", "host=env", 1);
    setenv("TOLL_SOCKET", "/env/toll.sock", 1);
    setenv("TOLL_STATE_DIR", "/env/state", 1);
    setenv("TOLL_CONTROL", "", 1); /* empty: not set */
    ck_assert_int_eq(load("[database]\nurl = host=file\n[daemon]\nsocket = /file\ncontrol = /file2\n"), 0);
    ck_assert_str_eq(config.database.url, "host=env");
    ck_assert_str_eq(config.daemon.socket, "/env/toll.sock");
    ck_assert_str_eq(config.daemon.state_dir, "/env/state");
    ck_assert_str_eq(config.daemon.control, "/file2");

    setenv("TOLL_SOCKET",
           "/a/very/long/path/for/a/socket/that/goes/on/and/on/and/on/and/on/and/on/and/on/and/on/and/"
           "on/and/on/and/on/and/on/and/on",
           1);
    ck_assert_int_eq(load(""), -EINVAL);
    ck_assert_str_eq(
        error,
        "environment variable TOLL_SOCKET: \"/a/very/long/path/for/a/socket/that/goes/on/and/on/and/on/and/on/and/on/"
        "and/on/and/on/and/on/and/on/and/on/and/on/and/on\" is longer than 107 bytes");
}
END_TEST

START_TEST(config_file_asked_for_must_be_there)
{
    char missing[80], expected[160];

    snprintf(missing, sizeof(missing), "%s/missing", dir);
    snprintf(expected, sizeof(expected), "%s: No such file or directory", missing);
    ck_assert_int_eq(config_load(&config, missing, error), -ENOENT);
    ck_assert_str_eq(error, expected);
    ck_assert_int_lt(config_load(&config, dir, error), 0);
    if (access(CONFIG_DEFAULT_PATH, F_OK) < 0) /* the default one needs not */
        ck_assert_int_eq(config_load(&config, NULL, error), 0);
}
END_TEST

START_TEST(config_secrets_are_never_printed)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    ck_assert_int_eq(load("[database]\nurl = postgres://u:hunter2@h/db\n"), 0);
    config_print(&config, out);
    fclose(out);
    ck_assert_ptr_null(strstr(text, "hunter2"));
    ck_assert_ptr_nonnull(strstr(text, "# url = (set)\n"));
    free(text);

    ck_assert_int_eq(load("[daemon]\nurl = postgres://u:hunter2@h/db\n"), -EINVAL);
    ck_assert_ptr_null(strstr(error, "hunter2"));
    ck_assert_int_eq(load("[database]\nuri = user=u password=hunter2\n"), -EINVAL);
    ck_assert_ptr_null(strstr(error, "hunter2"));
}
END_TEST

START_TEST(config_prints_what_it_reads)
{
    struct config first = {0};
    char *text = NULL, buf[CONFIG_NAMES_MAX], buf2[CONFIG_NAMES_MAX];
    size_t size;
    FILE *out = open_memstream(&text, &size);

    ck_assert_int_eq(load("[batch]\nrows = 7\nage = 1500us\nbytes = 1025K\n[daemon]\nsocket_mode = 0600\n"), 0);
    config_print(&config, out);
    fclose(out);
    first = config;
    memset(&config, 0, sizeof(config));
    ck_assert_int_eq(load(text), 0);
    config_reload(&first, &config, buf, buf2);
    memset(&config, 0, sizeof(config));
    ck_assert_str_eq(buf, "");
    ck_assert_str_eq(buf2, "");
    config_free(&first);
    free(text);
}
END_TEST

START_TEST(config_help_lists_every_option)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    config_print_options(out);
    fclose(out);
    for (size_t i = 0; i < config_options_count; i++) {
        ck_assert_ptr_nonnull(strstr(text, config_options[i].key));
        ck_assert_ptr_nonnull(strstr(text, config_options[i].doc));
    }
    ck_assert_ptr_nonnull(
        strstr(text, "[batch]\n  rows = 50000\n      frames in one transaction at most; 1 to 1000000 (reloadable)\n"));
    free(text);
}
END_TEST

START_TEST(config_reload_takes_what_it_can)
{
    struct config running = {0};
    char applied[CONFIG_NAMES_MAX], restart[CONFIG_NAMES_MAX];

    ck_assert_int_eq(load("[daemon]\nsocket = /old\n"), 0);
    running = config;
    memset(&config, 0, sizeof(config));
    ck_assert_int_eq(load("[daemon]\nsocket = /new\nlog_level = debug\n[batch]\nrows = 5\n[journal]\nack = write\n"),
                     0);
    config_reload(&running, &config, applied, restart);
    memset(&config, 0, sizeof(config));
    ck_assert_str_eq(applied, "daemon.log_level, batch.rows");
    ck_assert_str_eq(restart, "daemon.socket, journal.ack");
    ck_assert_int_eq(running.daemon.log_level, LOG_LEVEL_DEBUG);
    ck_assert_int_eq(running.batch.rows, 5);
    ck_assert_str_eq(running.daemon.socket, "/old");
    ck_assert_int_eq(running.journal.ack, CONFIG_ACK_SYNC);
    config_free(&running);
}
END_TEST

START_TEST(config_durations_parse_by_themselves)
{
    int64_t us = -1;

    ck_assert_int_eq(config_parse_duration("90m", &us), 0);
    ck_assert_int_eq(us, INT64_C(5400000000));
    ck_assert_int_eq(config_parse_duration("yesterday", &us), -EINVAL);
    ck_assert_int_eq(config_parse_duration("9999999999999d", &us), -EINVAL);
    ck_assert_int_eq(us, INT64_C(5400000000));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tcase = tcase_create("config");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, config_defaults_are_those_documented);
    tcase_add_test(tcase, config_file_sets_every_type);
    tcase_add_test(tcase, config_errors_name_line_option_and_value);
    tcase_add_test(tcase, config_unknown_options_are_errors);
    tcase_add_test(tcase, config_lines_that_are_no_options_are_errors);
    tcase_add_test(tcase, config_options_are_checked_together);
    tcase_add_test(tcase, config_long_connection_strings_fit);
    tcase_add_test(tcase, config_socket_paths_fit_a_socket_address);
    tcase_add_test(tcase, config_environment_wins_over_the_file);
    tcase_add_test(tcase, config_file_asked_for_must_be_there);
    tcase_add_test(tcase, config_secrets_are_never_printed);
    tcase_add_test(tcase, config_prints_what_it_reads);
    tcase_add_test(tcase, config_help_lists_every_option);
    tcase_add_test(tcase, config_reload_takes_what_it_can);
    tcase_add_test(tcase, config_durations_parse_by_themselves);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
