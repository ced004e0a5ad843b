/* The parts that stand alone: the configuration, and the bytes of a batch for PostgreSQL. */
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/config.h"
#include "daemon/pg.h"
#include "daemon/pg_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- configuration -------------------------------------------------------------------------------------------------------- */

static void write_config(char path[static 32])
{
    static const char text[] = "[daemon]\nstate_dir = /srv/toll\nlog_level = debug\n[journal]\nsegment_bytes = 8M\n"
                               "[batch]\nrows = 123\n[database]\nurl = host=/nowhere\n";
    int fd;

    failing_quiet++;
    snprintf(path, 32, "/tmp/toll-test-memory.XXXXXX");
    fd = mkstemp(path);
    if (fd < 0 || write(fd, text, sizeof(text) - 1) != (ssize_t)sizeof(text) - 1)
        abort();
    close(fd);
    failing_quiet--;
}

void config_story(struct outcome *outcome)
{
    char path[32], error[CONFIG_ERROR_MAX], applied[CONFIG_NAMES_MAX], restart[CONFIG_NAMES_MAX];
    struct config config, fresh;
    int r = -ENOMEM;

    write_config(path);
    setenv("TOLL_SOCKET", "/run/elsewhere.sock", 1);
    unsetenv("DATABASE_URL");
    unsetenv("TOLL_STATE_DIR");
    for (int loads = 0; loads < 2; loads++) { /* at start-up, and as SIGHUP does */
        r = -ENOMEM;
        for (int tries = 0; r < 0 && tries < TRIES; tries++) {
            error[0] = '\0';
            r = config_load(loads ? &fresh : &config, path, error);
            if (r < 0 && (r != -ENOMEM || !error[0]))
                complain(outcome, "loading the configuration: %d \"%s\"", r, error);
        }
        if (r < 0) {
            complain(outcome, "the configuration never loads");
            break;
        }
        if (loads)
            config_reload(&config, &fresh, applied, restart);
    }
    if (r == 0) {
        if (strcmp(config.daemon.state_dir, "/srv/toll") != 0 || config.batch.rows != 123 ||
            config.journal.segment_bytes != 8 << 20 || strcmp(config.database.url, "host=/nowhere") != 0 ||
            strcmp(config.daemon.socket, "/run/elsewhere.sock") != 0)
            complain(outcome, "the configuration is not what the file says");
        config_free(&config);
    }
    unlink(path);
}

/* --- a batch's rows ------------------------------------------------------------------------------------------------------- */

enum { ROWS = 300 };

static void fill_rows(struct copy_buffer bufs[static 4])
{
    struct toll_frame frame;
    struct sink_origin origin = {.data = "bytes", .size = 5, .sequenced = true, .seq = 7};
    struct sink_row row = {.frame = &frame, .origin = &origin, .occurred_us = 5, .reported_us = TOLL_TIME_MISSING};
    struct sink_refused refused = {.origin = origin, .reason = (char *)(uintptr_t) "why"};
    static const uint8_t journal[16] = {1};

    for (int i = 0; i < 4; i++)
        copy_begin(&bufs[i]);
    for (int i = 0; i < ROWS; i++) {
        toll_frame_init(&frame, i % 2 ? TOLL_FRAME_LLM : TOLL_FRAME_USAGE);
        frame.provider = (struct toll_str){"provider", 8};
        frame.has_session_id = true;
        snprintf(frame.quantity, sizeof(frame.quantity), "%d.5", i);
        frame.raw_json = (struct toll_str){"{\"key\":\"value value value value value value value value value\"}", 62};
        (void)pg_row_event(&bufs[0], pg_columns_all, &row, i);
        toll_frame_init(&frame, TOLL_FRAME_TRANSCRIPT);
        frame.role = (struct toll_str){"user", 4};
        frame.text = frame.raw_json = (struct toll_str){"\"hello hello hello hello hello hello hello hello\"", 49};
        pg_row_transcript(&bufs[1], &row, i);
        toll_frame_init(&frame, TOLL_FRAME_GAP);
        frame.gap_count = 3;
        frame.raw_json = (struct toll_str){"{\"key\":\"value value value value value value value value value\"}", 62};
        pg_row_gap(&bufs[2], &row, i);
        pg_row_quarantine(&bufs[3], &refused, journal, i);
    }
    for (int i = 0; i < 4; i++)
        copy_end(&bufs[i]);
}

static void fill_array(struct pg_array *array)
{
    static const uint8_t uuid[16] = {2};

    pg_array_begin(array);
    for (int i = 0; i < 20; i++) {
        pg_array_add(array, i % 3 ? "a \"quoted\" \\ text" : NULL);
        pg_array_add_uuid(array, uuid);
        pg_array_add_int(array, i);
    }
}

/* A batch that was cut short must say so; one that does not must be the same as always. */
void rows_story(struct outcome *outcome)
{
    struct copy_buffer expected[4] = {{0}}, bufs[4] = {{0}};
    struct pg_array expected_array = {0}, array = {0};
    const char *expected_text;
    bool whole = false;

    failing_quiet++;
    fill_rows(expected);
    fill_array(&expected_array);
    expected_text = pg_array_end(&expected_array);
    failing_quiet--;
    for (int tries = 0; !whole && tries < TRIES; tries++) {
        fill_rows(bufs);
        whole = true;
        for (int i = 0; i < 4; i++) {
            whole = whole && !bufs[i].failed;
            if (!bufs[i].failed && (bufs[i].rows != ROWS || bufs[i].size != expected[i].size ||
                                    memcmp(bufs[i].data, expected[i].data, bufs[i].size) != 0))
                outcome->lost++;
        }
    }
    if (!whole)
        complain(outcome, "the rows never fit");
    whole = false;
    for (int tries = 0; !whole && tries < TRIES; tries++) {
        const char *text;

        fill_array(&array);
        text = pg_array_end(&array);
        whole = text != NULL;
        outcome->lost += text && strcmp(text, expected_text) != 0;
    }
    if (!whole)
        complain(outcome, "the array never fits");
    for (int i = 0; i < 4; i++) {
        copy_done(&expected[i]);
        copy_done(&bufs[i]);
    }
    pg_array_done(&expected_array);
    pg_array_done(&array);
}
