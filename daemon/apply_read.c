/* See apply_internal.h. Which bytes of the journal are frames, and which of these are this writer's own. */
#include "daemon/apply_internal.h"

#include "daemon/datagram.h"
#include "daemon/share.h"
#include "proto/peek.h"
#include "proto/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COMPANY = 1000 }; /* frames in a careful batch, if there are as many */

/* Of each of them the database may know a thousand ranges of numbers, which are read into memory at once. */
enum { NEW_STREAMS_MAX = 512 };

/* What is read ahead at a time, in the time that the server takes for some hundred rows: it has more than that in its socket. */
enum { AHEAD_BYTES = 256 * 1024 };

static void clear_gathered(struct gathered *got, uint64_t lsn)
{
    for (size_t i = 0; got->any_broken && i < got->piece_count; i++)
        free(got->pieces[i].broken);
    *got = (struct gathered){.from = lsn,
                             .to = lsn,
                             .arena = got->arena,
                             .pieces = got->pieces,
                             .piece_capacity = got->piece_capacity,
                             .sources = got->sources,
                             .source_capacity = got->source_capacity};
}

void apply_origin(const struct apply *apply, const struct piece *piece, struct sink_origin *ret)
{
    const struct source *source = apply_source(apply, piece);

    ret->data = apply_bytes(apply, piece);
    ret->size = piece->size;
    ret->lsn = source->lsn;
    ret->index = piece->index;
    ret->uid = source->uid;
    ret->pid = source->pid;
    ret->received_us = source->received_us;
    ret->sequenced = source->stream != NULL;
    ret->seq = piece->seq;
    if (source->stream)
        memcpy(ret->stream_id, source->stream->stream.id, sizeof(ret->stream_id));
    else
        memset(ret->stream_id, 0, sizeof(ret->stream_id));
}

void apply_clear_batch(struct apply *apply)
{
    clear_gathered(&apply->got, apply->lsn);
    for (size_t i = 0; i < apply->refused_count; i++)
        free(apply->refused[i].reason);
    apply->refused_count = 0;
    apply->tally = (struct tally){.replayed = 0};
    for (struct known_stream *stream = apply->streams; stream; stream = stream->hh.next)
        rangeset_done(&stream->gathered);
}

void apply_drop_ahead(struct apply *apply)
{
    clear_gathered(&apply->ahead, 0);
}

void apply_forget_streams(struct apply *apply)
{
    struct known_stream *stream = apply->streams, *next;

    apply_drop_ahead(apply);        /* its pieces name them */
    HASH_CLEAR(hh, apply->streams); /* the table; its entries stay linked */
    for (; stream; stream = next) {
        next = stream->hh.next;
        rangeset_done(&stream->stream.seen);
        rangeset_done(&stream->gathered);
        sink_stream_forget_others(&stream->stream);
        free(stream);
    }
}

/* What is below the base counts as durable for the sender, and not as stored: another daemon's journal may have it still. */
static struct known_stream *know_stream(struct apply *apply, const struct journal_record *record,
                                        const struct toll_frame *envelope)
{
    struct known_stream *stream;
    struct stream_key key = {.uid = record->uid};

    memcpy(key.id, envelope->stream_id, sizeof(key.id));
    HASH_FIND(hh, apply->streams, &key, sizeof(key), stream);
    if (!stream) {
        stream = calloc(1, sizeof(*stream));
        if (!stream)
            return NULL;
        stream->key = key;
        stream->stream.uid = record->uid;
        memcpy(stream->stream.id, envelope->stream_id, sizeof(stream->stream.id));
        rangeset_init(&stream->stream.seen);
        rangeset_init(&stream->gathered);
        stream->stream.base = envelope->stream_base;
        if (idhash_add(apply->streams, key, stream) < 0) {
            free(stream);
            return NULL;
        }
        apply->got.new_streams++;
    }
    if (envelope->stream_base < stream->stream.base)
        stream->stream.base = envelope->stream_base;
    stream->stream.pid = record->pid;
    if (envelope->client.ptr)
        toll_utf8_copy(envelope->client.ptr, envelope->client.len, stream->stream.client,
                       sizeof(stream->stream.client));
    return stream;
}

/* The source of the pieces that come next. -ENOMEM. */
static int add_source(struct apply *apply, const struct source *source)
{
    struct gathered *got = &apply->got;
    struct source *sources = apply_grow(got->sources, &got->source_capacity, got->source_count, sizeof(*sources));

    if (!sources)
        return -ENOMEM;
    got->sources = sources;
    sources[got->source_count++] = *source;
    return 0;
}

/* A piece of the last source. NULL: out of memory. */
static struct piece *new_piece(struct apply *apply)
{
    struct gathered *got = &apply->got;
    struct piece *pieces = apply_grow(got->pieces, &got->piece_capacity, got->piece_count, sizeof(*pieces));

    if (!pieces)
        return NULL;
    got->pieces = pieces;
    return &pieces[got->piece_count++];
}

static int add_run(struct apply *apply, struct known_stream *stream, uint64_t to, uint64_t lsn)
{
    const struct source source = {.stream = stream, .lsn = lsn};
    struct piece *piece;

    if (stream->run_from >= to)
        return 0;
    piece = add_source(apply, &source) == 0 ? new_piece(apply) : NULL;
    if (!piece)
        return -ENOMEM;
    *piece = (struct piece){.seq = stream->run_from,
                            .seq_end = to,
                            .source = (uint32_t)apply->got.source_count - 1,
                            .others = true,
                            .dropped = true};
    stream->run_from = to;
    return 0;
}

/* The numbers of others' frames that went by become a piece; those of the datagram being read one of their own, for a piece without a number may
 * follow, which is new if its datagram is. */
static int close_run(struct apply *apply, struct known_stream *stream)
{
    uint64_t split = stream->run_split < stream->run_to ? stream->run_split : stream->run_to;
    int r = add_run(apply, stream, split, UINT64_MAX);

    return r == 0 ? add_run(apply, stream, stream->run_to, stream->run_lsn) : r;
}

static int begin_run(struct apply *apply, struct known_stream *stream, uint64_t seq, uint64_t lsn)
{
    int r = stream->run_to == seq ? 0 : close_run(apply, stream);

    if (stream->run_from == stream->run_to)
        stream->run_from = stream->run_to = seq;
    stream->run_split = seq;
    stream->run_lsn = lsn;
    return r;
}

/* Another writer's frame: its numbers are noted, in their order among this writer's own. */
static int pass_piece(struct apply *apply, struct known_stream *stream, const struct datagram_piece *piece)
{
    if (!stream || piece->seq == 0)
        return 0;
    if (stream->run_to != piece->seq) { /* own ones lie between */
        if (close_run(apply, stream) < 0)
            return -ENOMEM;
        stream->run_from = piece->seq;
    }
    stream->run_to = piece->seq_end;
    return 0;
}

/* Whether the frame is to be counted as received when it is stored: it never was, or has been stored before. */
static bool is_replayed(const struct apply *apply, const struct journal_record *record,
                        const struct datagram_piece *piece)
{
    if (record->lsn < apply->counted_lsn)
        return true;
    for (const struct apply_counted *counted = apply->counted; counted; counted = counted->next) {
        unsigned owner = piece->broken ? 0 : share_of_frame(piece->data, piece->size, counted->writers);

        if (record->lsn < counted->lsns[owner])
            return true;
    }
    return false;
}

static void note_received(struct gathered *got, int64_t received_us)
{
    if (got->first_received_us == 0 || received_us < got->first_received_us)
        got->first_received_us = received_us;
    if (received_us > got->last_received_us)
        got->last_received_us = received_us;
}

/* Where a record is kept. */
struct kept {
    bool is;
    uint32_t source, at;
};

/* Keeps a record's bytes: its first piece that is this writer's own needs them. -ENOMEM. */
static int keep_record(struct apply *apply, const struct journal_record *record, struct known_stream *stream,
                       struct kept *ret)
{
    const struct source source = {.stream = stream,
                                  .lsn = record->lsn,
                                  .received_us = record->received_us,
                                  .uid = record->uid,
                                  .pid = record->pid};
    struct gathered *got = &apply->got;

    if (add_source(apply, &source) < 0)
        return -ENOMEM;
    assert(record->size <= apply->arena_size - got->arena_used && got->arena_used <= UINT32_MAX);
    *ret = (struct kept){.is = true, .source = (uint32_t)got->source_count - 1, .at = (uint32_t)got->arena_used};
    memcpy(got->arena + got->arena_used, record->payload, record->size);
    got->arena_used += record->size;
    note_received(got, record->received_us);
    return 0;
}

/* session: apply_session_key() or 0. */
static int add_piece(struct apply *apply, const struct journal_record *record, struct known_stream *stream,
                     const struct datagram_piece *from, struct kept *kept, uint32_t index, uint64_t session)
{
    struct piece *piece;

    if (stream && close_run(apply, stream) < 0)
        return -ENOMEM;
    if (!kept->is && keep_record(apply, record, stream, kept) < 0)
        return -ENOMEM;
    piece = new_piece(apply);
    if (!piece)
        return -ENOMEM;
    *piece = (struct piece){.session = session,
                            .seq = from->seq,
                            .seq_end = from->seq_end,
                            .source = kept->source,
                            .at = kept->at + (uint32_t)((const char *)from->data - (const char *)record->payload),
                            .size = (uint32_t)from->size,
                            .index = index};
    if (from->broken) {
        apply->got.any_broken = true;
        piece->broken = strdup(from->broken);
        if (!piece->broken)
            return -ENOMEM;
    }
    apply->got.own_count++;
    apply->got.replayed += is_replayed(apply, record, from);
    return 0;
}

/* Whether it is this writer's; and its session, by which the batch will be in order. */
static bool is_own(const struct apply *apply, const struct datagram_piece *piece, uint64_t *ret_session)
{
    unsigned writers = apply->options.writers;
    uint8_t id[16];
    bool named = !piece->broken && toll_peek_session(piece->data, piece->size, id);

    *ret_session = named ? apply_session_key(id) : 0;
    return writers == 1 || (named ? share_of_session(id, writers) : 0) == apply->options.writer;
}

/* In a careful batch: whether the batch has all of the datagram's numbers already. A sender that waits for a refused frame to be stored sends it again
 * and again; the copies must not fill the batch, where it needs company. */
static int is_copy(struct apply *apply, struct known_stream *stream, const struct toll_frame *envelope, bool *ret)
{
    uint64_t end = envelope->stream_seq + envelope->stream_count;
    int r;

    *ret = false;
    if (!apply->careful || envelope->stream_count == 0)
        return 0;
    *ret = rangeset_first_missing(&stream->gathered, envelope->stream_seq) >= end;
    r = *ret ? 0 : rangeset_add(&stream->gathered, envelope->stream_seq, end);
    return r == -E2BIG ? 0 : r;
}

static void count_copies(struct apply *apply, const struct journal_record *record, struct datagram_parts *parts)
{
    struct datagram_piece piece;
    uint64_t session;

    while (datagram_next(parts, &piece)) {
        if (!is_own(apply, &piece, &session))
            continue;
        apply->got.own_count++;
        apply->tally.counts.duplicates++;
        apply->got.replayed += is_replayed(apply, record, &piece);
    }
    note_received(&apply->got, record->received_us);
}

static int add_datagram(struct apply *apply, const struct journal_record *record)
{
    bool copy = false;
    struct kept kept = {.is = false};
    struct known_stream *stream = NULL;
    struct datagram_parts parts;
    struct datagram_piece piece;
    uint64_t session;
    int r = 0;

    if (record->flags & JOURNAL_INDEXED)
        datagram_open_indexed(&parts, record->payload, record->size, record->flags & JOURNAL_TRUNCATED);
    else
        datagram_open(&parts, record->payload, record->size, record->flags & JOURNAL_TRUNCATED);
    if (parts.sequenced) {
        stream = know_stream(apply, record, &parts.envelope);
        if (!stream || is_copy(apply, stream, &parts.envelope, &copy) < 0)
            return -ENOMEM;
        if (copy) {
            count_copies(apply, record, &parts);
            return 0;
        }
        if (begin_run(apply, stream, parts.envelope.stream_seq, record->lsn) < 0)
            return -ENOMEM;
    }
    for (uint32_t index = 0; r == 0 && datagram_next(&parts, &piece); index++) {
        if (!is_own(apply, &piece, &session)) {
            r = pass_piece(apply, stream, &piece);
            continue;
        }
        r = add_piece(apply, record, stream, &piece, &kept, index, session);
    }
    return r;
}

static int add_hole(struct apply *apply, const struct journal_record *record)
{
    const struct datagram_piece piece = {.data = record->payload,
                                         .size = record->size,
                                         .broken = "journal: these bytes were damaged on disk and set aside"};
    struct kept kept = {.is = false};

    return apply->options.writer == 0 ? add_piece(apply, record, NULL, &piece, &kept, 0, 0) : 0;
}

static int close_runs(struct apply *apply)
{
    int r = 0;

    if (apply->options.writers == 1)
        return 0;
    for (struct known_stream *stream = apply->streams; r == 0 && stream; stream = stream->hh.next)
        r = close_run(apply, stream);
    return r;
}

static bool is_full(const struct apply *apply)
{
    size_t rows = apply->most_rows < COMPANY ? COMPANY : apply->most_rows;
    bool many = apply->careful
                    ? apply->got.piece_count >=
                          rows /* what was refused needs company to show whether it is at fault or its table */
                    : apply->got.own_count >= apply->most_rows ||
                          apply->got.scanned_bytes / apply->options.writers >= apply->options.batch_bytes;

    return many || apply->got.arena_used >= apply->most_bytes || apply->got.new_streams >= NEW_STREAMS_MAX ||
           journal_reader_lsn(apply->reader) >= apply->limit;
}

/* Reads on for the batch in apply->got, about so many bytes. -EAGAIN: nothing durable is left. */
static int read_on(struct apply *apply, uint64_t most_bytes)
{
    struct gathered *got = &apply->got;
    uint64_t most = got->scanned_bytes + most_bytes;
    struct journal_record record;
    int r = 0;

    if (journal_reader_lsn(apply->reader) != got->to)
        r = journal_reader_seek(apply->reader, got->to);
    while (r == 0 && got->scanned_bytes < most && !is_full(apply)) {
        r = journal_reader_next(apply->reader, &record);
        if (r < 0)
            break;
        if (record.kind == JOURNAL_MARK)
            continue;
        got->scanned_bytes += record.size;
        r = record.kind == JOURNAL_DATAGRAM ? add_datagram(apply, &record) : add_hole(apply, &record);
    }
    got->to = journal_reader_lsn(apply->reader);
    return r != -ENOMEM && close_runs(apply) < 0 ? -ENOMEM : r;
}

static void change_places(struct apply *apply)
{
    struct gathered ahead = apply->ahead;

    apply->ahead = apply->got;
    apply->got = ahead;
}

int apply_gather(struct apply *apply)
{
    int r;

    if (apply->ahead.to > apply->ahead.from && apply->ahead.from == apply->got.to && apply->got.scanned_bytes == 0)
        change_places(apply);
    apply_drop_ahead(apply);
    r = read_on(apply, UINT64_MAX / 2);
    /* Damage, or an error of the disk, comes up again when it is next in line: what lies before it is applied first. */
    if (r == -ENOMEM || (r != -EAGAIN && r < 0 && apply->got.scanned_bytes == 0))
        return r;
    return r != -EAGAIN;
}

int apply_read_ahead(struct apply *apply)
{
    int r;

    if (apply->ahead.to == 0)
        apply->ahead.from = apply->ahead.to = apply->got.to;
    change_places(apply);
    r = read_on(apply, AHEAD_BYTES);
    change_places(apply);
    return r == -ENOMEM ? r : 0;
}
