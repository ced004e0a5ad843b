/* See pg_streams.h. */
#include "daemon/pg_streams.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

/* A row of a stream that another number of writers kept. */
static int add_other(struct sink_stream *stream, unsigned writer, unsigned writers, const char *seen)
{
    struct sink_stream_other *others = realloc(stream->others, (stream->other_count + 1) * sizeof(*others));
    int r;

    if (!others)
        return -ENOMEM;
    stream->others = others;
    others += stream->other_count;
    *others = (struct sink_stream_other){.writer = writer, .writers = writers};
    r = rangeset_parse(&others->seen, seen);
    if (r == 0)
        stream->other_count++;
    return r;
}

static int load_row(struct sink_stream *stream, const PGresult *result, int row)
{
    const char *seen = PQgetvalue(result, row, 1), *revision = PQgetvalue(result, row, 2);
    int r;

    if (PQgetisnull(result, row, 2))
        return add_other(stream, (unsigned)atoi(PQgetvalue(result, row, 3)), (unsigned)atoi(PQgetvalue(result, row, 4)),
                         seen);
    rangeset_done(&stream->seen);
    r = rangeset_parse(&stream->seen, seen);
    stream->revision = strtoll(revision, NULL, 10);
    return r;
}

static int load_some(struct pg *pg, const char *writer, const char *writers, struct sink_stream *const *streams,
                     size_t count, struct pg_array *uids, struct pg_array *ids)
{
    const char *parameters[] = {NULL, NULL, writer, writers};
    PGresult *result;
    int r;

    pg_array_begin(uids);
    pg_array_begin(ids);
    for (size_t i = 0; i < count; i++) {
        pg_array_add_int(uids, streams[i]->uid);
        pg_array_add_uuid(ids, streams[i]->id);
        sink_stream_forget_others(streams[i]);
    }
    parameters[0] = pg_array_end(uids);
    parameters[1] = pg_array_end(ids);
    if (!parameters[0] || !parameters[1])
        return -ENOMEM;
    r = pg_query(pg, &result,
                 "SELECT u.n - 1, t.seen, CASE WHEN t.writers = $4::integer THEN t.revision END, t.writer, t.writers "
                 "FROM unnest($1::bigint[], $2::uuid[]) WITH ORDINALITY AS u (uid, stream_id, n) "
                 "CROSS JOIN LATERAL (SELECT s.seen, s.revision, s.writer, s.writers FROM toll.streams AS s "
                 "WHERE s.uid = u.uid AND s.stream_id = u.stream_id OFFSET 0) AS t "
                 "WHERE t.writers <> $4::integer OR t.writer = $3::integer",
                 4, parameters);
    if (r < 0)
        return r;
    for (int i = 0; r == 0 && i < PQntuples(result); i++)
        r = load_row(streams[strtoul(PQgetvalue(result, i, 0), NULL, 10)], result, i);
    PQclear(result);
    return r;
}

int pg_streams_load(struct pg *pg, const char *writer, const char *writers, struct sink_stream *const *streams,
                    size_t count)
{
    struct pg_array uids = {0}, ids = {0};
    int r = count ? load_some(pg, writer, writers, streams, count, &uids, &ids) : 0;

    pg_array_done(&uids);
    pg_array_done(&ids);
    return r;
}

struct stream_arrays {
    struct pg_array uids, ids, bases, seen, revisions, clients, pids;
};

static int fill_stream_arrays(struct stream_arrays *arrays, struct sink_stream *const *streams, size_t count,
                              bool fresh, size_t *ret_count)
{
    char *text = NULL;
    size_t capacity = 0, picked = 0;

    pg_array_begin(&arrays->uids);
    pg_array_begin(&arrays->ids);
    pg_array_begin(&arrays->bases);
    pg_array_begin(&arrays->seen);
    pg_array_begin(&arrays->revisions);
    pg_array_begin(&arrays->clients);
    pg_array_begin(&arrays->pids);
    for (size_t i = 0; i < count; i++) {
        const struct sink_stream *stream = streams[i];
        size_t length;

        if ((stream->revision == 0) != fresh)
            continue;
        length = rangeset_format(&stream->seen, text, capacity);
        if (length >= capacity) {
            char *grown = realloc(text, length + 1);

            if (!grown) {
                free(text);
                return -ENOMEM;
            }
            text = grown;
            capacity = length + 1;
            rangeset_format(&stream->seen, text, capacity);
        }
        pg_array_add_int(&arrays->uids, stream->uid);
        pg_array_add_uuid(&arrays->ids, stream->id);
        pg_array_add_int(&arrays->bases, (int64_t)stream->base);
        pg_array_add(&arrays->seen, text);
        pg_array_add_int(&arrays->revisions, stream->revision);
        pg_array_add(&arrays->clients, stream->client[0] ? stream->client : NULL);
        pg_array_add_int(&arrays->pids, stream->pid);
        picked++;
    }
    free(text);
    *ret_count = picked;
    return 0;
}

/* Writes the numbers seen, in the same transaction as the rows. A stream that somebody else wrote meanwhile makes the batch stale. */
static int write_streams(struct pg *pg, const char *writer, const char *writers, struct stream_arrays *arrays,
                         struct sink_stream *const *streams, size_t count, bool fresh)
{
    static const char insert[] =
        "INSERT INTO toll.streams (uid, stream_id, writer, writers, base, seen, client, pid, first_seen_at, last_seen_at) "
        "SELECT uid, stream_id, $8::integer, $9::integer, base, seen, client, pid, now(), now() FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], "
        "$4::int8multirange[], $5::bigint[], $6::text[], $7::integer[]) AS u (uid, stream_id, base, seen, revision, client, pid) "
        "ORDER BY uid, stream_id ON CONFLICT DO NOTHING";
    static const char update[] =
        "UPDATE toll.streams AS t SET base = least(t.base, u.base), seen = u.seen, revision = t.revision + 1, "
        "client = coalesce(u.client, t.client), pid = u.pid, last_seen_at = now() FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], "
        "$4::int8multirange[], $5::bigint[], $6::text[], $7::integer[]) AS u (uid, stream_id, base, seen, revision, client, pid) "
        "CROSS JOIN LATERAL (SELECT s.ctid FROM toll.streams AS s WHERE s.uid = u.uid AND s.stream_id = u.stream_id "
        "AND s.writer = $8::integer AND s.writers = $9::integer OFFSET 0) AS found "
        "WHERE t.ctid = found.ctid AND t.revision = u.revision";
    int64_t written;
    size_t picked;
    int r = fill_stream_arrays(arrays, streams, count, fresh, &picked);

    if (r < 0 || picked == 0)
        return r;
    const char *parameters[] = {
        pg_array_end(&arrays->uids),
        pg_array_end(&arrays->ids),
        pg_array_end(&arrays->bases),
        pg_array_end(&arrays->seen),
        pg_array_end(&arrays->revisions),
        pg_array_end(&arrays->clients),
        pg_array_end(&arrays->pids),
        writer,
        writers,
    };
    for (size_t i = 0; i < 7; i++)
        if (!parameters[i])
            return -ENOMEM;
    r = pg_run(pg, &written, fresh ? insert : update, 9, parameters);
    if (r < 0)
        return r;
    return (size_t)written == picked ? 0 : -ESTALE;
}

int pg_streams_store(struct pg *pg, const char *writer, const char *writers, struct sink_stream *const *streams,
                     size_t count)
{
    struct stream_arrays arrays = {0};
    int r = write_streams(pg, writer, writers, &arrays, streams, count, false);

    if (r == 0)
        r = write_streams(pg, writer, writers, &arrays, streams, count, true);
    pg_array_done(&arrays.uids);
    pg_array_done(&arrays.ids);
    pg_array_done(&arrays.bases);
    pg_array_done(&arrays.seen);
    pg_array_done(&arrays.revisions);
    pg_array_done(&arrays.clients);
    pg_array_done(&arrays.pids);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        streams[i]->revision++;
    return 0;
}
