/* See rating_db.h. Every call is one statement, and so one transaction, whose error says what to do next. */
#include "daemon/rating_db.h"

#include "daemon/idhash.h"
#include "daemon/pg.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More are not read: an ack page has room for 168. */
#define CREDIT_MOST "65536"

struct rating_pg {
    struct rating_db db;
    struct rating_db_options options;
    char *url;
    struct pg pg;        /* rates */
    struct pg listening; /* hears of credit while that one is at work, and reads it */
    char error[768];
    pthread_mutex_t mutex; /* of cancels */
    PGcancel *cancels[2];  /* of both connections; NULL: not connected */
};

static struct rating_pg *self(struct rating_db *db)
{
    return (struct rating_pg *)(void *)db;
}

static const char *get_error(const struct rating_db *db)
{
    return ((const struct rating_pg *)(const void *)db)->error;
}

/* Says what was being done when a connection failed, and what that means for rating. */
static int failed_on(struct rating_pg *p, const struct pg *pg, const char *doing, int r)
{
    if (r == 0)
        return 0;
    snprintf(p->error, sizeof(p->error), "%s: %s%s%s%s", doing, r == -ENOMEM ? "out of memory" : pg->error,
             pg->sqlstate[0] ? " (SQLSTATE " : "", pg->sqlstate, pg->sqlstate[0] ? ")" : "");
    if (r == -EAGAIN && (strcmp(pg->sqlstate, "40001") == 0 || strcmp(pg->sqlstate, "40P01") == 0))
        return -EDEADLK;
    return r;
}

static int failed(struct rating_pg *p, const char *doing, int r)
{
    return failed_on(p, &p->pg, doing, r);
}

/* --- the connection -------------------------------------------------------------------------------------------------------- */

static void set_cancels(struct rating_pg *p, PGcancel *rating, PGcancel *listening)
{
    pthread_mutex_lock(&p->mutex);
    PQfreeCancel(p->cancels[0]); /* takes NULL */
    PQfreeCancel(p->cancels[1]);
    p->cancels[0] = rating;
    p->cancels[1] = listening;
    pthread_mutex_unlock(&p->mutex);
}

static void close_db(struct rating_db *db)
{
    struct rating_pg *p = self(db);

    set_cancels(p, NULL, NULL);
    pg_disconnect(&p->pg);
    pg_disconnect(&p->listening);
}

static int open_db(struct rating_db *db)
{
    struct rating_pg *p = self(db);
    struct pg_options options = {
        .url = p->url,
        .name = RATING_APPLICATION,
        .connect_timeout_s = p->options.connect_timeout_s,
        .tcp_user_timeout_ms = p->options.tcp_user_timeout_ms,
    };
    int r;

    close_db(db);
    r = failed(p, "connecting", pg_connect(&p->pg, &options));
    options.name = CREDIT_APPLICATION;
    if (r == 0)
        r = failed_on(p, &p->listening, "connecting", pg_connect(&p->listening, &options));
    if (r == 0)
        set_cancels(p, PQgetCancel(p->pg.conn), PQgetCancel(p->listening.conn));
    if (r == 0)
        r = failed_on(p, &p->listening, "listening for changes of credit",
                      pg_exec(&p->listening, "LISTEN toll_credit"));
    return r;
}

static int get_fd(struct rating_db *db)
{
    struct rating_pg *p = self(db);

    return pg_connected(&p->listening) ? PQsocket(p->listening.conn) : -1;
}

static void cancel(struct rating_db *db)
{
    struct rating_pg *p = self(db);
    char error[256];

    pthread_mutex_lock(&p->mutex); /* closing waits for this */
    for (size_t i = 0; i < 2; i++)
        if (p->cancels[i])
            (void)PQcancel(p->cancels[i], error, sizeof(error));
    pthread_mutex_unlock(&p->mutex);
}

static int heard(struct rating_db *db)
{
    struct rating_pg *p = self(db);
    PGnotify *notify;
    int any = 0;

    if (!pg_connected(&p->listening) || !PQconsumeInput(p->listening.conn)) {
        snprintf(p->error, sizeof(p->error), "the connection is gone");
        return -EAGAIN;
    }
    while ((notify = PQnotifies(p->listening.conn))) {
        PQfreemem(notify);
        any = 1;
    }
    return any;
}

/* --- rating ---------------------------------------------------------------------------------------------------------------- */

static uint64_t get_uint(const PGresult *result, int row, int column)
{
    return strtoull(PQgetvalue(result, row, column), NULL, 10); /* NULL is "" */
}

static int backlog(struct rating_db *db, struct rating_place *places, size_t most, size_t *ret_count)
{
    struct rating_pg *p = self(db);
    PGresult *result;
    char limit[24];
    const char *values[] = {limit};
    size_t count = 0;
    int r;

    snprintf(limit, sizeof(limit), "%zu", most);
    r = failed(p, "looking for what is to be rated",
               pg_query(&p->pg, &result,
                        "SELECT journal_id, writer, lsn, waits, waiting_events, waiting_us FROM toll.rating_backlog()"
                        " ORDER BY waits DESC, waiting_us DESC LIMIT $1::int",
                        1, values));
    if (r < 0)
        return r;
    for (int row = 0; row < PQntuples(result); row++) {
        struct rating_place *place = &places[count];

        *place = (struct rating_place){
            .writer = (int)get_uint(result, row, 1),
            .lsn = get_uint(result, row, 2),
            .waits = PQgetvalue(result, row, 3)[0] == 't',
            .waiting_events = get_uint(result, row, 4),
            .waiting_us = strtoll(PQgetvalue(result, row, 5), NULL, 10),
        };
        count += pg_uuid_parse(PQgetvalue(result, row, 0), place->journal) == 0;
    }
    PQclear(result);
    *ret_count = count;
    return 0;
}

static int rate(struct rating_db *db, const struct rating_place *place, int most_events, struct rating_step *ret)
{
    struct rating_pg *p = self(db);
    char journal[PG_UUID_TEXT], writer[12], most[12], doing[64 + PG_UUID_TEXT];
    const char *values[] = {journal, writer, most};
    const struct pg_watch watch = {.fd = get_fd(db), .readable = db->meanwhile, .context = db->context};
    PGresult *result;
    int r;

    pg_uuid_format(place->journal, journal);
    snprintf(writer, sizeof(writer), "%d", place->writer);
    snprintf(most, sizeof(most), "%d", most_events);
    snprintf(doing, sizeof(doing), "rating what writer %d of journal %s has stored", place->writer, journal);
    r = failed(p, doing,
               pg_query_watching(&p->pg, &result,
                                 "SELECT events, lines, lsn, more FROM toll.rate_free($1::uuid, $2::int, $3::int)", 3,
                                 values, &watch));
    if (r < 0)
        return r;
    if (PQntuples(result) != 1 || PQgetisnull(result, 0, 2)) {
        *ret = (struct rating_step){.busy = true};
    } else {
        *ret = (struct rating_step){
            .events = get_uint(result, 0, 0),
            .lines = get_uint(result, 0, 1),
            .lsn = get_uint(result, 0, 2),
            .more = PQgetvalue(result, 0, 3)[0] == 't',
        };
    }
    PQclear(result);
    return 0;
}

/* --- credit ---------------------------------------------------------------------------------------------------------------- */

static int check_credit(struct rating_db *db)
{
    struct rating_pg *p = self(db);

    return failed(p, "checking credit", pg_run(&p->pg, NULL, "SELECT toll.check_credit()", 0, NULL));
}

static int read_credit(struct rating_db *db, struct credit_session **ret, size_t *ret_count)
{
    struct rating_pg *p = self(db);
    struct credit_session *list;
    size_t count = 0;
    PGresult *result;
    int r;

    /* 'exhausted' before 'low': if some must be left out, these. */
    r = failed_on(p, &p->listening, "reading whose credit is short",
                  pg_query(&p->listening, &result,
                           "SELECT c.session_id, c.state, o.sender_uid, o.sender_stream"
                           " FROM (SELECT session_id, state FROM toll.session_credit ORDER BY state LIMIT " CREDIT_MOST
                           ") AS c LEFT JOIN LATERAL (SELECT o.sender_uid, o.sender_stream FROM toll.open_sessions AS o"
                           " WHERE o.session_id = c.session_id OFFSET 0) AS o ON true",
                           0, NULL));
    if (r < 0)
        return r;
    list = calloc((size_t)PQntuples(result) + 1, sizeof(*list));
    for (int row = 0; list && row < PQntuples(result); row++) {
        struct stream_key sender = {.uid = (uint32_t)get_uint(result, row, 2)};

        list[count].state = PQgetvalue(result, row, 1)[0] == 'e' ? CREDIT_EXHAUSTED : CREDIT_LOW;
        if (!PQgetisnull(result, row, 3) && pg_uuid_parse(PQgetvalue(result, row, 3), sender.id) == 0)
            list[count].began = idhash_stream_host(&sender);
        count += pg_uuid_parse(PQgetvalue(result, row, 0), list[count].id) == 0;
    }
    PQclear(result);
    if (!list)
        return failed(p, "reading whose credit is short", -ENOMEM);
    *ret = list;
    *ret_count = count;
    return 0;
}

/* --- start and end --------------------------------------------------------------------------------------------------------- */

static void free_db(struct rating_db *db)
{
    struct rating_pg *p = self(db);

    close_db(db);
    pthread_mutex_destroy(&p->mutex);
    free(p->url);
    free(p);
}

static const struct rating_db_ops ops = {
    .open = open_db,
    .close = close_db,
    .backlog = backlog,
    .rate = rate,
    .check_credit = check_credit,
    .read_credit = read_credit,
    .heard = heard,
    .fd = get_fd,
    .cancel = cancel,
    .error = get_error,
    .free = free_db,
};

struct rating_db *rating_db_new(const struct rating_db_options *options)
{
    struct rating_pg *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->db.ops = &ops;
    p->options = *options;
    p->url = strdup(options->url);
    if (!p->url) {
        free(p);
        return NULL;
    }
    pthread_mutex_init(&p->mutex, NULL);
    return &p->db;
}
