/* See pg_send.h. */
#include "daemon/pg_send.h"

#include "daemon/pg_rows.h"

/* Transcripts wait in memory while events are sent on the same connection; so much of them is enough to take turns. */
enum { TRANSCRIPTS_MOST = 1 << 20 };

void pg_send_begin(struct pg_send *send, bool may_bypass, bool careful)
{
    copy_begin(&send->events);
    copy_begin(&send->transcripts);
    copy_begin(&send->gaps);
    send->may_bypass = may_bypass;
    send->early = may_bypass && !careful;
    send->bypassing = send->copying = false;
}

void pg_send_done(struct pg_send *send)
{
    copy_done(&send->events);
    copy_done(&send->transcripts);
    copy_done(&send->gaps);
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
        pg_row_event(&send->events, row, batch_id);
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

/* Whether a user has put a trigger on the tables we COPY into, partitions included; replica mode would silence it. (None can appear
 * before the transaction ends: the tables are locked.) */
static int user_triggers(struct pg *pg, bool *ret)
{
    PGresult *result;
    int r = pg_query(
        pg, &result,
        "SELECT EXISTS (SELECT FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'R') AND tgrelid IN ("
        "SELECT relid FROM pg_partition_tree('public.billing_events') UNION ALL "
        "SELECT relid FROM pg_partition_tree('public.session_transcripts')))",
        0, NULL);

    if (r != 0)
        return r;
    *ret = PQgetvalue(result, 0, 0)[0] == 't';
    PQclear(result);
    return 0;
}

/* Switches triggers off, if that may be: then `bypassing`. */
static int begin_bypass(struct pg_send *send, struct pg *pg)
{
    bool triggers;
    int r;

    if (!send->may_bypass)
        return 0;
    r = user_triggers(pg, &triggers);
    if (r == 0 && triggers)
        send->may_bypass = send->early = false;
    else if (r == 0)
        r = pg_exec(pg, "SET LOCAL session_replication_role = replica");
    send->bypassing = r == 0 && send->may_bypass;
    return r;
}

static int end_bypass(struct pg_send *send, struct pg *pg)
{
    if (!send->bypassing)
        return 0;
    send->bypassing = false;
    return pg_exec(pg, "SET LOCAL session_replication_role = origin");
}

static int copy_transcripts(struct pg_send *send, struct pg *pg)
{
    int r = pg_send_copy(pg, PG_COPY_TRANSCRIPTS, &send->transcripts);

    copy_begin(&send->transcripts);
    return r;
}

static int send_events(struct pg_send *send, struct pg *pg)
{
    int r = 0;

    if (!send->copying) {
        r = pg_copy_begin(pg, PG_COPY_EVENTS);
        send->copying = r == 0;
    }
    if (r == 0)
        r = pg_copy_send(pg, &send->events);
    copy_drain(&send->events);
    return r;
}

static int end_events(struct pg_send *send, struct pg *pg)
{
    int r;

    if (!send->copying)
        return 0;
    copy_end(&send->events);
    r = pg_copy_send(pg, &send->events);
    send->copying = false;
    copy_begin(&send->events);
    return r < 0 ? r : pg_copy_end(pg);
}

int pg_send_early(struct pg_send *send, struct pg *pg)
{
    int r = 0;

    if (!send->early || send->events.rows + send->transcripts.rows == 0)
        return 0;
    if (!send->bypassing)
        r = begin_bypass(send, pg);
    if (r < 0 || !send->early)
        return r;
    if (send->events.rows > 0)
        r = send_events(send, pg);
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

    if (send->events.rows + send->transcripts.rows > 0) {
        r = begin_bypass(send, pg);
        if (r == 0)
            r = pg_send_copy(pg, PG_COPY_EVENTS, &send->events);
        if (r == 0)
            r = copy_transcripts(send, pg);
        if (r == 0)
            r = end_bypass(send, pg);
    }
    return r < 0 ? r : pg_send_copy(pg, PG_COPY_GAPS, &send->gaps);
}
