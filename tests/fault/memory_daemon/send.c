/* A batch's rows on their way to the server, which is played here: either all of them are sent, or the batch fails. */
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/pg_send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PLAIN = 300, LARGE = 100000, MANY = 50 };

static size_t sent;

/* NOLINTBEGIN(bugprone-reserved-identifier): the linker's names */

int __wrap_pg_exec(struct pg *pg, const char *sql);
int __wrap_pg_copy_begin(struct pg *pg, const char *sql);
int __wrap_pg_copy_send(struct pg *pg, const struct copy_buffer *buf);
int __wrap_pg_copy_end(struct pg *pg);
int __wrap_pg_copy(struct pg *pg, const char *sql, const struct copy_buffer *buf);

int __wrap_pg_exec(struct pg *pg, const char *sql)
{
    (void)pg;
    (void)sql;
    return 0;
}

int __wrap_pg_copy_begin(struct pg *pg, const char *sql)
{
    (void)pg;
    (void)sql;
    return 0;
}

int __wrap_pg_copy_send(struct pg *pg, const struct copy_buffer *buf)
{
    (void)pg;
    if (buf->failed)
        return -ENOMEM;
    sent += buf->size;
    return 0;
}

int __wrap_pg_copy_end(struct pg *pg)
{
    (void)pg;
    return 0;
}

int __wrap_pg_copy(struct pg *pg, const char *sql, const struct copy_buffer *buf)
{
    (void)sql;
    return __wrap_pg_copy_send(pg, buf);
}

/* NOLINTEND(bugprone-reserved-identifier) */

/* Plain events, then, if it has any, one that needs other columns, a transcript and a gap, each alone in its buffer and too long for its first piece of
 * memory; then so many transcripts that those which would wait for the end must go before, where they may. */
static int send_batch(enum pg_bypass bypass, bool others)
{
    static char text[LARGE];
    struct pg_send send = {.learned = PG_SEND_LEARNED};
    struct toll_frame tts, llm, said, gap, *const other[3] = {&llm, &said, &gap};
    const struct sink_origin origin = {.data = "bytes", .size = 5};
    struct sink_row row = {.origin = &origin, .occurred_us = 5, .reported_us = TOLL_TIME_MISSING};
    int r = 0;

    memset(text, 'x', sizeof(text));
    toll_frame_init(&tts, TOLL_FRAME_TTS);
    toll_frame_init(&llm, TOLL_FRAME_LLM);
    toll_frame_init(&said, TOLL_FRAME_TRANSCRIPT);
    toll_frame_init(&gap, TOLL_FRAME_GAP);
    tts.provider = (struct toll_str){"provider", 8};
    llm.raw_json = said.text = gap.raw_json = (struct toll_str){text, sizeof(text)};
    row.frame = &tts;
    pg_columns_add(&send.carried, &row);

    sent = 0;
    pg_send_begin(&send, bypass, false);
    for (int i = 0; r == 0 && i < PLAIN; i++) {
        pg_send_add(&send, &row, 1);
        if (i % 100 == 99)
            r = pg_send_early(&send, NULL);
    }
    for (int i = 0; others && i < 3; i++) {
        row.frame = other[i];
        pg_send_add(&send, &row, 1);
    }
    row.frame = &said;
    for (int i = 0; r == 0 && others && i < MANY; i++) {
        pg_send_add(&send, &row, 1);
        r = pg_send_early(&send, NULL);
    }
    if (r == 0)
        r = pg_send_before_sessions(&send, NULL);
    if (r == 0)
        r = pg_send_after_sessions(&send, NULL);
    pg_send_done(&send);
    return r;
}

void send_story(struct outcome *outcome)
{
    static const enum pg_bypass ways[] = {PG_BYPASS_NONE, PG_BYPASS_ROWS};

    for (int i = 0; i < 4; i++) {
        enum pg_bypass way = ways[i / 2];
        bool others = i % 2;
        size_t expected;
        int r = -ENOMEM;

        failing_quiet++;
        if (send_batch(way, others) < 0 || (others && sent < (size_t)(3 + MANY) * LARGE))
            abort();
        expected = sent;
        failing_quiet--;
        for (int tries = 0; r < 0 && tries < TRIES; tries++) {
            r = send_batch(way, others);
            outcome->lost += r == 0 && sent != expected;
        }
        if (r < 0)
            complain(outcome, "the batch is never sent");
    }
}
