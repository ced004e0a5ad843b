/* See apply_internal.h. Which bytes of the journal are frames, and which of them are new. */
#include "daemon/apply_internal.h"

#include "daemon/datagram.h"
#include "proto/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPANY = 1000 }; /* frames in a careful batch, if there are as many */

/* Of each of them the database may know a thousand ranges of numbers, which are read into memory at once. */
enum { NEW_STREAMS_MAX = 512 };

void apply_clear_batch(struct apply *apply)
{
    for (size_t i = 0; i < apply->piece_count; i++)
        free(apply->pieces[i].broken);
    for (size_t i = 0; i < apply->refused_count; i++)
        free(apply->refused[i].reason);
    apply->piece_count = apply->refused_count = apply->arena_used = apply->new_streams = 0;
    apply->tally = (struct tally){.replayed = 0};
}

void apply_forget_streams(struct apply *apply)
{
    struct known_stream *stream = apply->streams, *next;

    HASH_CLEAR(hh, apply->streams); /* the table; its entries stay linked */
    for (; stream; stream = next) {
        next = stream->hh.next;
        rangeset_done(&stream->stream.seen);
        free(stream);
    }
}

/* The array, with room for one more element after `count`; NULL: out of memory, and it is as it was. */
static void *grow(void *array, size_t *capacity, size_t count, size_t size)
{
    size_t wanted = *capacity ? *capacity * 2 : 1024;
    void *grown;

    if (count < *capacity)
        return array;
    grown = realloc(array, wanted * size);
    if (grown)
        *capacity = wanted;
    return grown;
}

/* --- reading: records ▶ pieces ------------------------------------------------------------------------------------------- */

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
        stream->stream.base = envelope->stream_base;
        if (idhash_add(apply->streams, key, stream) < 0) {
            free(stream);
            return NULL;
        }
        apply->new_streams++;
    }
    if (envelope->stream_base < stream->stream.base)
        stream->stream.base = envelope->stream_base;
    stream->stream.pid = record->pid;
    if (envelope->client.ptr)
        toll_utf8_copy(envelope->client.ptr, envelope->client.len, stream->stream.client,
                       sizeof(stream->stream.client));
    return stream;
}

static int add_piece(struct apply *apply, const struct journal_record *record, struct known_stream *stream,
                     const struct datagram_piece *from, uint32_t index)
{
    struct piece *pieces = grow(apply->pieces, &apply->piece_capacity, apply->piece_count, sizeof(*pieces)), *piece;

    if (!pieces)
        return -ENOMEM;
    apply->pieces = pieces;
    piece = &pieces[apply->piece_count];
    *piece = (struct piece){
        .origin = {.data = from->data,
                   .size = from->size,
                   .lsn = record->lsn,
                   .index = index,
                   .uid = record->uid,
                   .pid = record->pid,
                   .received_us = record->received_us,
                   .sequenced = stream != NULL,
                   .seq = from->seq},
        .stream = stream,
        .seq_end = from->seq_end,
        .session = from->broken ? 0 : apply_session_key(from->data, from->size),
    };
    if (stream)
        memcpy(piece->origin.stream_id, stream->stream.id, sizeof(piece->origin.stream_id));
    if (from->broken) {
        piece->broken = strdup(from->broken);
        if (!piece->broken)
            return -ENOMEM;
    }
    apply->piece_count++;
    apply->tally.replayed += record->lsn < apply->counted_lsn; /* nobody counted it as received yet */
    return 0;
}

static int add_datagram(struct apply *apply, const struct journal_record *record, const void *data)
{
    struct known_stream *stream = NULL;
    struct datagram_parts parts;
    struct datagram_piece piece;
    uint32_t index = 0;
    int r = 0;

    datagram_open(&parts, data, record->size, record->flags & JOURNAL_TRUNCATED);
    if (parts.sequenced) {
        stream = know_stream(apply, record, &parts.envelope);
        if (!stream)
            return -ENOMEM;
    }
    while (r == 0 && datagram_next(&parts, &piece))
        r = add_piece(apply, record, stream, &piece, index++);
    return r;
}

static int add_hole(struct apply *apply, const struct journal_record *record, const void *data)
{
    const struct datagram_piece piece = {
        .data = data, .size = record->size, .broken = "journal: these bytes were damaged on disk and set aside"};

    return add_piece(apply, record, NULL, &piece, 0);
}

static void note_received(struct sink_counts *counts, int64_t received_us)
{
    if (counts->first_received_us == 0 || received_us < counts->first_received_us)
        counts->first_received_us = received_us;
    if (received_us > counts->last_received_us)
        counts->last_received_us = received_us;
}

/* Reads records until the batch is full or nothing durable is left. */
int apply_gather(struct apply *apply)
{
    struct journal_record record;
    /* What was refused needs company to show whether it is at fault or its table. */
    size_t rows = apply->careful && apply->most_rows < COMPANY ? COMPANY : apply->most_rows;
    int r = 0;

    apply_clear_batch(apply);
    if (journal_reader_lsn(apply->reader) != apply->lsn)
        r = journal_reader_seek(apply->reader, apply->lsn);
    while (r == 0 && apply->piece_count < rows && apply->arena_used < apply->most_bytes &&
           apply->new_streams < NEW_STREAMS_MAX) {
        r = journal_reader_next(apply->reader, &record);
        if (r < 0)
            break;
        if (record.kind == JOURNAL_MARK)
            continue;
        assert(record.size <= apply->arena_size - apply->arena_used);
        memcpy(apply->arena + apply->arena_used, record.payload, record.size);
        note_received(&apply->tally.counts, record.received_us);
        r = record.kind == JOURNAL_DATAGRAM ? add_datagram(apply, &record, apply->arena + apply->arena_used)
                                            : add_hole(apply, &record, apply->arena + apply->arena_used);
        apply->arena_used += record.size;
    }
    apply->to = journal_reader_lsn(apply->reader);
    /* Damage, or an error of the disk, comes up again when it is next in line: what lies before it is applied first. */
    if (r == -EAGAIN || (r < 0 && r != -ENOMEM && apply->piece_count > 0))
        r = 0;
    return r;
}

/* --- once: pieces ▶ pieces that are new ---------------------------------------------------------------------------------- */

int apply_refuse(struct apply *apply, struct piece *piece, const char *reason)
{
    struct sink_refused *list = grow(apply->refused, &apply->refused_capacity, apply->refused_count, sizeof(*list));
    char clean[TOLL_REASON_MAX];

    if (!list)
        return -ENOMEM;
    apply->refused = list;
    toll_utf8_copy(reason, strlen(reason), clean, sizeof(clean)); /* a server's message may be in any encoding */
    list[apply->refused_count] = (struct sink_refused){.origin = piece->origin, .reason = strdup(clean)};
    if (!list[apply->refused_count].reason)
        return -ENOMEM;
    apply->refused_count++;
    piece->dropped = true;
    apply->tally.counts.quarantined++;
    return 0;
}

static void drop_duplicate(struct apply *apply, struct piece *piece)
{
    piece->dropped = true;
    apply->tally.counts.duplicates++;
}

static bool is_unknown(const struct known_stream *stream)
{
    return stream->stream.revision == 0;
}

static bool is_changed(const struct known_stream *stream)
{
    return stream->changed;
}

/* Fills stream_list with those that `wanted` picks. */
static int list_streams(struct apply *apply, bool (*wanted)(const struct known_stream *stream), size_t *ret_count)
{
    size_t count = 0;

    for (struct known_stream *stream = apply->streams; stream; stream = stream->hh.next) {
        struct sink_stream **list;

        if (!wanted(stream))
            continue;
        list = grow(apply->stream_list, &apply->stream_capacity, count, sizeof(struct sink_stream *));
        if (!list)
            return -ENOMEM;
        apply->stream_list = list;
        list[count++] = &stream->stream;
    }
    *ret_count = count;
    return 0;
}

int apply_load_streams(struct apply *apply)
{
    size_t count;
    int r = list_streams(apply, is_unknown, &count);

    return r < 0 ? r : apply->sink->ops->load_streams(apply->sink, apply->stream_list, count);
}

int apply_list_changed(struct apply *apply, size_t *ret_count)
{
    return list_streams(apply, is_changed, ret_count);
}

/* A piece with numbers: stored only if one of them is new, which makes its datagram new. */
static int mark_numbers(struct apply *apply, struct piece *piece, bool *datagram_is_new)
{
    struct known_stream *stream = piece->stream;
    int r;

    assert(stream); /* only an envelope gives numbers */
    if (rangeset_first_missing(&stream->stream.seen, piece->origin.seq) >= piece->seq_end) {
        drop_duplicate(apply, piece);
        return 0;
    }
    r = rangeset_add(&stream->stream.seen, piece->origin.seq, piece->seq_end);
    if (r == -E2BIG)
        return apply_refuse(apply, piece, "stream: its numbers have more than 1024 holes");
    if (r < 0)
        return r;
    stream->changed = *datagram_is_new = true;
    return piece->broken ? apply_refuse(apply, piece, piece->broken) : 0;
}

int apply_drop_stored(struct apply *apply)
{
    bool datagram_is_new = true;
    uint64_t lsn = UINT64_MAX;
    int r = 0;

    for (size_t i = 0; r == 0 && i < apply->piece_count; i++) {
        struct piece *piece = &apply->pieces[i];

        if (piece->origin.lsn != lsn) { /* the next datagram; one without numbers is always new */
            lsn = piece->origin.lsn;
            datagram_is_new = !piece->stream || piece->origin.seq == 0;
        }
        if (piece->origin.seq) {
            r = mark_numbers(apply, piece, &datagram_is_new);
        } else if (piece->broken) {
            /* Bytes after the frames that an envelope counts: they come again when the datagram is sent again. */
            if (datagram_is_new)
                r = apply_refuse(apply, piece, piece->broken);
            else
                drop_duplicate(apply, piece);
        }
    }
    return r;
}
