/* See pg_send.h. */
#include "daemon/pg_send.h"

/* Transcripts wait in memory while events are sent on the same connection; so much of them is enough to take turns. (Each COPY costs the backend
 * 1.5 ms by itself. By turns of 1 MiB whole calls cost it 3 % more.) */
enum { TRANSCRIPTS_MOST = 4 << 20 };

void pg_send_begin(struct pg_send *send, enum pg_bypass bypass, bool careful)
{
    copy_begin(&send->events);
    copy_begin(&send->wide);
    copy_begin(&send->transcripts);
    copy_begin(&send->gaps);
    send->columns = send->learned == PG_SEND_LEARNED ? send->carried : pg_columns_all;
    send->bypass = bypass;
    send->early = bypass != PG_BYPASS_NONE && !careful;
    send->bypassing = send->widened = false;
    send->copying = NULL;
}

void pg_send_done(struct pg_send *send)
{
    copy_done(&send->events);
    copy_done(&send->wide);
    copy_done(&send->transcripts);
    copy_done(&send->gaps);
}

static void learn(struct pg_send *send, const struct sink_row *row)
{
    if (send->learned == PG_SEND_LEARNED)
        return;
    pg_columns_add(&send->carried, row);
    send->learned++;
}

static void add_event(struct pg_send *send, const struct sink_row *row, int64_t batch_id)
{
    if (!send->widened && !pg_row_event(&send->events, send->columns, row, batch_id)) {
        send->widened = true;
        send->carried = (struct pg_columns){0};
        send->learned = 0;
    }
    learn(send, row);
    if (send->widened)
        (void)pg_row_event(&send->wide, pg_columns_all, row, batch_id);
}

void pg_send_add(struct pg_send *send, const struct sink_row *row, int64_t batch_id)
{
    switch (row->frame->type) {
    case TOLL_FRAME_TRANSCRIPT:
        pg_row_transcript(&send->transcripts, row, batch_id);
        break;
    case TOLL_FRAME_GAP:
        pg_row_gap(&send->gaps, row, batch_id);
        break;
    default:
        add_event(send, row, batch_id);
        break;
    }
}

int pg_send_copy(struct pg *pg, const char *sql, struct copy_buffer *buf)
{
    if (buf->rows == 0)
        return 0;
    copy_end(buf);
    return pg_copy(pg, sql, buf);
}

static int begin_bypass(struct pg_send *send, struct pg *pg)
{
    int r = send->bypass == PG_BYPASS_ROWS ? pg_exec(pg, "SET LOCAL session_replication_role = replica") : 0;

    send->bypassing = r == 0 && send->bypass != PG_BYPASS_NONE;
    return r;
}

static int end_bypass(struct pg_send *send, struct pg *pg)
{
    if (!send->bypassing)
        return 0;
    send->bypassing = false;
    return send->bypass == PG_BYPASS_ROWS ? pg_exec(pg, "SET LOCAL session_replication_role = origin") : 0;
}

static int copy_transcripts(struct pg_send *send, struct pg *pg)
{
    int r = pg_send_copy(pg, PG_COPY_TRANSCRIPTS, &send->transcripts);

    copy_begin(&send->transcripts);
    return r;
}

/* Ends the COPY of events that is open, if one is. */
static int end_events(struct pg_send *send, struct pg *pg)
{
    struct copy_buffer *buf = send->copying;
    int r;

    if (!buf)
        return 0;
    copy_end(buf);
    r = pg_copy_send(pg, buf);
    send->copying = NULL;
    copy_begin(buf);
    return r < 0 ? r : pg_copy_end(pg);
}

static int send_events(struct pg_send *send, struct pg *pg, struct copy_buffer *buf, struct pg_columns columns)
{
    char sql[PG_COPY_EVENTS_MAX];
    int r = 0;

    if (buf->rows == 0)
        return 0;
    if (send->copying != buf) {
        r = end_events(send, pg);
        if (r == 0)
            r = pg_copy_begin(pg, pg_copy_events(columns, sql));
        if (r == 0)
            send->copying = buf;
    }
    if (r == 0)
        r = pg_copy_send(pg, buf);
    copy_drain(buf);
    return r;
}

static int send_all_events(struct pg_send *send, struct pg *pg)
{
    int r = send_events(send, pg, &send->events, send->columns);

    return r < 0 ? r : send_events(send, pg, &send->wide, pg_columns_all);
}

static size_t event_rows(const struct pg_send *send)
{
    return send->events.rows + send->wide.rows;
}

int pg_send_early(struct pg_send *send, struct pg *pg)
{
    int r = 0;

    if (!send->early || event_rows(send) + send->transcripts.rows == 0)
        return 0;
    if (!send->bypassing)
        r = begin_bypass(send, pg);
    if (r < 0)
        return r;
    r = send_all_events(send, pg);
    if (r < 0 || send->transcripts.size < TRANSCRIPTS_MOST)
        return r;
    r = end_events(send, pg);
    return r < 0 ? r : copy_transcripts(send, pg);
}

int pg_send_before_sessions(struct pg_send *send, struct pg *pg)
{
    int r = pg_send_early(send, pg);

    if (r < 0 || !send->bypassing)
        return r;
    r = end_events(send, pg);
    if (r == 0)
        r = copy_transcripts(send, pg);
    return r < 0 ? r : end_bypass(send, pg); /* nothing of a user's on billing_sessions is to be silenced */
}

int pg_send_after_sessions(struct pg_send *send, struct pg *pg)
{
    int r = 0;

    if (event_rows(send) + send->transcripts.rows > 0) {
        r = begin_bypass(send, pg);
        if (r == 0)
            r = send_all_events(send, pg);
        if (r == 0)
            r = end_events(send, pg);
        if (r == 0)
            r = copy_transcripts(send, pg);
        if (r == 0)
            r = end_bypass(send, pg);
    }
    return r < 0 ? r : pg_send_copy(pg, PG_COPY_GAPS, &send->gaps);
}
