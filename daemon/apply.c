/* See apply.h. Read apply_step() first. */
#include "daemon/apply.h"

#include "daemon/datagram.h"
#include "daemon/idhash.h"
#include "proto/utf8.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ORPHANS_AT_ONCE = 10000, DATAGRAM_ROOM = 1 << 20 /* no record is larger */ };

struct stream_key { /* no padding: hashed as bytes */
    uint8_t id[16];
    uint32_t uid;
};

/* A stream in the cache. */
struct known_stream {
    struct stream_key key;
    struct sink_stream stream;
    UT_hash_handle hh;
    bool changed; /* in this batch */
};

/* A frame of the batch, or bytes for quarantine. */
struct piece {
    struct sink_origin origin;
    struct known_stream *stream; /* NULL: without an envelope */
    uint64_t seq_end;
    bool dropped; /* a duplicate, or in quarantine: nothing to store */
    char *broken; /* why it is no frame; NULL: it may be one */
};

/* What a batch adds to the metrics when it is committed. */
struct tally {
    struct sink_counts counts;
    uint64_t strings_replaced, gap_frames, replayed;
};

struct apply {
    struct apply_options options;
    struct sink *sink;
    struct metrics *metrics;
    struct journal_reader *reader;
    struct toll_decoder *decoder;

    pthread_mutex_t lock; /* of sessions */
    struct session_table *sessions;
    struct session_table *scratch; /* of one careful attempt */
    struct known_stream *streams;

    uint64_t lsn, passed, counted_lsn;
    int64_t idle_since_us; /* nobody was idle before: memory knows nothing of it */
    int64_t sweep_due_us;  /* when to look for live sessions that memory does not know */
    bool careful;          /* the last try was refused: find out which frames are at fault */

    /* The batch being built. */
    char *arena; /* bytes of its datagrams */
    size_t arena_size, arena_used;
    struct piece *pieces;
    size_t piece_count, piece_capacity;
    struct sink_refused *refused;
    size_t refused_count, refused_capacity;
    struct sink_stream **stream_list;
    size_t stream_capacity;
    struct tally tally;
    uint64_t to;
    char first_class[8]; /* of failures in a careful attempt */
    bool classes_differ;
    size_t attempt_failures, attempt_successes;

    /* A batch whose commit failed: the server may have done it all the same, which the next watermark tells. */
    struct tally unsure;
    uint64_t unsure_to; /* 0: none */
};

struct apply *apply_new(const struct apply_options *options, struct sink *sink, struct metrics *metrics)
{
    struct apply *apply = calloc(1, sizeof(*apply));

    if (!apply)
        return NULL;
    pthread_mutex_init(&apply->lock, NULL);
    apply->options = *options;
    apply->sink = sink;
    apply->metrics = metrics;
    apply->arena_size = options->batch_bytes + DATAGRAM_ROOM;
    apply->arena = malloc(apply->arena_size);
    apply->decoder = toll_decoder_new();
    apply->sessions = session_table_new();
    apply->scratch = session_table_new();
    if (!apply->arena || !apply->decoder || !apply->sessions || !apply->scratch) {
        apply_free(apply);
        return NULL;
    }
    return apply;
}

static void clear_batch(struct apply *apply)
{
    for (size_t i = 0; i < apply->piece_count; i++)
        free(apply->pieces[i].broken);
    for (size_t i = 0; i < apply->refused_count; i++)
        free(apply->refused[i].reason);
    apply->piece_count = apply->refused_count = apply->arena_used = 0;
    apply->tally = (struct tally){.replayed = 0};
}

static void forget_streams(struct apply *apply)
{
    struct known_stream *stream, *next;

    HASH_ITER (hh, apply->streams, stream, next) {
        HASH_DEL(apply->streams, stream);
        rangeset_done(&stream->stream.seen);
        free(stream);
    }
}

static void forget_all(struct apply *apply, int64_t now_us)
{
    clear_batch(apply);
    forget_streams(apply);
    pthread_mutex_lock(&apply->lock);
    session_table_clear(apply->sessions);
    pthread_mutex_unlock(&apply->lock);
    session_table_clear(apply->scratch);
    apply_idle_from(apply, now_us);
}

void apply_free(struct apply *apply)
{
    if (!apply)
        return;
    if (apply->sessions && apply->scratch)
        forget_all(apply, 0);
    session_table_free(apply->sessions);
    session_table_free(apply->scratch);
    toll_decoder_free(apply->decoder);
    free(apply->arena);
    free(apply->pieces);
    free(apply->refused);
    free(apply->stream_list);
    pthread_mutex_destroy(&apply->lock);
    free(apply);
}

void apply_set_options(struct apply *apply, const struct apply_options *options)
{
    size_t bytes = apply->options.batch_bytes;

    apply->options = *options;
    apply->options.batch_bytes = bytes;
}

static void count_tally(struct apply *apply, const struct tally *tally)
{
    const struct sink_counts *counts = &tally->counts;
    struct metrics *m = apply->metrics;

    metrics_add(&m->frames_replayed, tally->replayed);
    metrics_add(&m->frames_received, tally->replayed);
    metrics_add(&m->frames_stored, counts->stored);
    metrics_add(&m->frames_duplicate, counts->duplicates);
    metrics_add(&m->frames_quarantined, counts->quarantined);
    metrics_add(&m->strings_replaced, tally->strings_replaced);
    metrics_add(&m->rows_events, counts->events);
    metrics_add(&m->rows_transcripts, counts->transcripts);
    metrics_add(&m->gaps_reported, counts->gaps);
    metrics_add(&m->gap_frames, tally->gap_frames);
    metrics_add(&m->batches_committed, 1);
}

int apply_start(struct apply *apply, struct journal_reader *reader, uint64_t lsn, uint64_t counted_lsn, int64_t now_us)
{
    int r = journal_reader_seek(reader, lsn);

    if (r < 0)
        return r;
    forget_all(apply, now_us);
    if (apply->unsure_to && lsn == apply->unsure_to) { /* it was committed after all */
        count_tally(apply, &apply->unsure);
        apply->unsure_to = 0;
    }
    apply->reader = reader;
    apply->lsn = apply->passed = lsn;
    apply->counted_lsn = counted_lsn;
    return 0;
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

/* Of a stream never heard of, numbers below the base of its first datagram count as stored (of a later one they do not: those frames
 * may be in this very batch). What the sink knows of the stream replaces this. */
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
        if (rangeset_add(&stream->stream.seen, 1, envelope->stream_base) < 0) {
            free(stream);
            return NULL;
        }
        HASH_ADD(hh, apply->streams, key, sizeof(stream->key), stream);
    }
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
static int gather(struct apply *apply)
{
    struct journal_record record;
    int r = 0;

    clear_batch(apply);
    if (journal_reader_lsn(apply->reader) != apply->lsn)
        r = journal_reader_seek(apply->reader, apply->lsn);
    while (r == 0 && apply->piece_count < apply->options.batch_rows && apply->arena_used < apply->options.batch_bytes) {
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

static int refuse(struct apply *apply, struct piece *piece, const char *reason)
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

static int load_streams(struct apply *apply)
{
    size_t count;
    int r = list_streams(apply, is_unknown, &count);

    return r < 0 ? r : apply->sink->ops->load_streams(apply->sink, apply->stream_list, count);
}

/* A piece with numbers: stored only if one of them is new, which makes its datagram new. */
static int mark_numbers(struct apply *apply, struct piece *piece, bool *datagram_is_new)
{
    struct known_stream *stream = piece->stream;
    int r;

    if (rangeset_first_missing(&stream->stream.seen, piece->origin.seq) >= piece->seq_end) {
        drop_duplicate(apply, piece);
        return 0;
    }
    r = rangeset_add(&stream->stream.seen, piece->origin.seq, piece->seq_end);
    if (r == -E2BIG)
        return refuse(apply, piece, "stream: its numbers have more than 1024 holes");
    if (r < 0)
        return r;
    stream->changed = *datagram_is_new = true;
    return piece->broken ? refuse(apply, piece, piece->broken) : 0;
}

static int drop_what_is_stored(struct apply *apply)
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
                r = refuse(apply, piece, piece->broken);
            else
                drop_duplicate(apply, piece);
        }
    }
    return r;
}

/* --- storing: new pieces ▶ sessions and rows ------------------------------------------------------------------------------ */

static int64_t clamp_time(const struct apply *apply, int64_t given_us, int64_t received_us, int64_t *ret_reported_us)
{
    int64_t clamped = given_us;

    *ret_reported_us = TOLL_TIME_MISSING;
    if (given_us == TOLL_TIME_MISSING)
        return received_us;
    if (given_us > received_us + apply->options.future_tolerance_us)
        clamped = received_us + apply->options.future_tolerance_us;
    else if (given_us < received_us - apply->options.past_tolerance_us)
        clamped = received_us - apply->options.past_tolerance_us;
    if (clamped != given_us)
        *ret_reported_us = given_us;
    return clamped;
}

static int store_frame(struct apply *apply, struct session_table *sessions, const struct piece *piece,
                       const struct toll_frame *frame)
{
    struct sink_row row = {.frame = frame, .origin = &piece->origin};
    bool session_frame = frame->type == TOLL_FRAME_SESSION_START || frame->type == TOLL_FRAME_SESSION_END;
    int r = 0;

    row.occurred_us = clamp_time(apply, frame->time_us, piece->origin.received_us, &row.reported_us);
    if (frame->has_session_id && frame->type != TOLL_FRAME_GAP)
        r = session_apply(sessions, frame, row.occurred_us, row.reported_us, piece->origin.received_us);
    if (r == 0 && !session_frame)
        r = apply->sink->ops->add(apply->sink, &row);
    apply->tally.counts.transcripts += frame->type == TOLL_FRAME_TRANSCRIPT;
    apply->tally.counts.gaps += frame->type == TOLL_FRAME_GAP;
    apply->tally.counts.events +=
        !session_frame && frame->type != TOLL_FRAME_TRANSCRIPT && frame->type != TOLL_FRAME_GAP;
    apply->tally.strings_replaced += frame->replaced;
    apply->tally.gap_frames += frame->type == TOLL_FRAME_GAP ? frame->gap_count : 0;
    return r;
}

/* Decodes and hands on the pieces [first, end): what the sink is to try at once. */
static int build(struct apply *apply, struct session_table *sessions, size_t first, size_t end)
{
    char reason[TOLL_REASON_MAX];
    struct toll_frame frame;
    int r = 0;

    for (size_t i = first; r == 0 && i < end; i++) {
        struct piece *piece = &apply->pieces[i];

        if (piece->dropped)
            continue;
        r = toll_frame_decode(apply->decoder, piece->origin.data, piece->origin.size, &frame, reason);
        if (r == 0 && frame.type == TOLL_FRAME_STREAM) {
            snprintf(reason, sizeof(reason), "stream: an envelope must be the first frame of its datagram");
            r = -EINVAL;
        }
        if (r == -EINVAL || r == -EBADMSG)
            r = refuse(apply, piece, reason);
        else if (r == 0)
            r = store_frame(apply, sessions, piece, &frame);
    }
    return r;
}

static int try_pieces(struct apply *apply, struct session_table *sessions, size_t first, size_t end, bool careful)
{
    struct session_change *const *changes;
    size_t count;
    int r = apply->sink->ops->attempt(apply->sink, careful);

    if (r < 0)
        return r;
    pthread_mutex_lock(&apply->lock);
    r = build(apply, sessions, first, end);
    pthread_mutex_unlock(&apply->lock);
    changes = session_changes(sessions, &count);
    return r < 0 ? r : apply->sink->ops->store(apply->sink, changes, count);
}

static size_t count_new(const struct apply *apply, size_t first, size_t end)
{
    size_t count = 0;

    for (size_t i = first; i < end; i++)
        count += !apply->pieces[i].dropped;
    return count;
}

static int note_failure(struct apply *apply, size_t index)
{
    const char *class = apply->sink->ops->error_class(apply->sink);
    char reason[TOLL_REASON_MAX];

    if (apply->attempt_failures++ == 0)
        snprintf(apply->first_class, sizeof(apply->first_class), "%s", class);
    else if (strcmp(apply->first_class, class) != 0)
        apply->classes_differ = true;
    snprintf(reason, sizeof(reason), "%s", apply->sink->ops->error(apply->sink));
    return refuse(apply, &apply->pieces[index], reason);
}

/* Halves [first, end) until the frames that are refused stand alone; the others are kept. Sessions are looked at anew in each
 * attempt, and their totals summed from what is stored. */
static int try_carefully(struct apply *apply, size_t first, size_t end)
{
    const struct tally before = apply->tally;
    size_t middle = first + (end - first) / 2;
    int r, settled;

    if (count_new(apply, first, end) == 0)
        return 0;
    r = try_pieces(apply, apply->scratch, first, end, true);
    session_table_clear(apply->scratch);
    if (r < 0 && r != -EINVAL)
        return r;
    settled = apply->sink->ops->settle(apply->sink, r == 0);
    if (settled < 0)
        return settled;
    if (r == 0) {
        apply->attempt_successes += count_new(apply, first, end);
        return 0;
    }
    apply->tally.counts.events = before.counts.events;
    apply->tally.counts.transcripts = before.counts.transcripts;
    apply->tally.counts.gaps = before.counts.gaps;
    apply->tally.strings_replaced = before.strings_replaced;
    apply->tally.gap_frames = before.gap_frames;
    if (end - first == 1)
        return note_failure(apply, first);
    r = try_carefully(apply, first, middle);
    return r < 0 ? r : try_carefully(apply, middle, end);
}

static int store_pieces(struct apply *apply)
{
    int r;

    if (!apply->careful)
        return try_pieces(apply, apply->sessions, 0, apply->piece_count, false);
    apply->attempt_failures = apply->attempt_successes = 0;
    apply->classes_differ = false;
    r = try_carefully(apply, 0, apply->piece_count);
    /* Where all that there is fails alike, the table is at fault, not the rows. */
    if (r == 0 && apply->attempt_failures > 0 && apply->attempt_successes == 0 && !apply->classes_differ)
        return -EINVAL;
    return r;
}

/* --- a batch -------------------------------------------------------------------------------------------------------------- */

static int finish(struct apply *apply)
{
    struct sink_batch batch = {
        .from = apply->lsn, .to = apply->to, .refused = apply->refused, .refused_count = apply->refused_count};
    struct sink_counts *counts = &apply->tally.counts;
    int r = list_streams(apply, is_changed, &batch.stream_count);

    counts->received = (uint32_t)apply->piece_count;
    counts->stored = counts->received - counts->quarantined - counts->duplicates;
    batch.streams = apply->stream_list;
    batch.counts = *counts;
    return r == 0 ? apply->sink->ops->finish(apply->sink, &batch) : r;
}

static int commit(struct apply *apply)
{
    int r = apply->sink->ops->commit(apply->sink);

    apply->unsure = apply->tally;
    apply->unsure_to = r < 0 && apply->to != apply->lsn ? apply->to : 0;
    return r;
}

static void count_sessions(struct apply *apply)
{
    struct session_change *const *changes;
    struct metrics *m = apply->metrics;
    size_t count;

    changes = session_changes(apply->sessions, &count);
    for (size_t i = 0; i < count; i++) {
        const struct session_change *change = changes[i];

        metrics_add(&m->sessions_started, !change->session->stored && !change->existed);
        metrics_add(&m->sessions_ended, change->finalized && change->ends);
        metrics_add(&m->sessions_orphaned, change->finalized && change->orphan);
        metrics_add(&m->sessions_recomputed, change->finalized && (change->existed || !change->session->whole));
    }
}

static void settle(struct apply *apply, int64_t now_us)
{
    count_sessions(apply);
    pthread_mutex_lock(&apply->lock);
    session_settle(apply->sessions, apply->options.sessions_max);
    if (apply->careful) /* what the attempts stored did not pass through memory */
        session_table_clear(apply->sessions);
    pthread_mutex_unlock(&apply->lock);
    if (apply->careful)
        apply_idle_from(apply, now_us);
    apply->careful = false;
    for (struct known_stream *stream = apply->streams; stream; stream = stream->hh.next)
        stream->changed = false;
    if (HASH_COUNT(apply->streams) > apply->options.streams_max)
        forget_streams(apply);
}

/* One transaction: [lsn, to) with its pieces, and the session changes that are planned already. */
static int run_batch(struct apply *apply, int64_t now_us)
{
    struct sink *sink = apply->sink;
    int r = sink->ops->begin(sink, apply->lsn, apply->to);

    if (r == 0)
        r = load_streams(apply);
    if (r == 0)
        r = drop_what_is_stored(apply);
    if (r == 0)
        r = store_pieces(apply);
    if (r == 0)
        r = finish(apply);
    if (r == 0)
        r = commit(apply);
    if (r < 0) {
        sink->ops->abort(sink);
        forget_all(apply, now_us);
        apply->careful = r == -EINVAL;
        metrics_add(&apply->metrics->batches_retried, 1);
        return r;
    }
    settle(apply, now_us);
    count_tally(apply, &apply->tally);
    if (apply->to > apply->counted_lsn)
        apply->counted_lsn = apply->to;
    apply->lsn = apply->passed = apply->to;
    clear_batch(apply);
    return 1;
}

int apply_step(struct apply *apply, int64_t now_us)
{
    bool was_careful = apply->careful;
    int r = gather(apply);

    if (r < 0)
        return r;
    if (apply->piece_count == 0) { /* marks, and datagrams of nothing, are not worth a transaction */
        apply->passed = apply->to;
        return 0;
    }
    r = run_batch(apply, now_us);
    if (r == -EINVAL && !was_careful) /* the data is refused: now find out which frames */
        return 1;
    return r;
}

struct sweep {
    struct apply *apply;
    int64_t idle_before_us;
    size_t found;
    bool failed;
};

static void found_open_session(void *context, const uint8_t id[16])
{
    struct sweep *sweep = context;
    struct apply *apply = sweep->apply;

    sweep->found++;
    pthread_mutex_lock(&apply->lock);
    if (session_plan_orphan(apply->sessions, id, sweep->idle_before_us) < 0)
        sweep->failed = true; /* out of memory: the next sweep finds it again */
    pthread_mutex_unlock(&apply->lock);
}

int apply_orphans(struct apply *apply, int64_t now_us)
{
    int64_t idle_before_us = now_us - apply->options.idle_timeout_us;
    struct sweep sweep = {.apply = apply, .idle_before_us = idle_before_us};
    size_t count;
    int r = 0;

    pthread_mutex_lock(&apply->lock);
    if (apply->idle_since_us <= idle_before_us)
        r = session_plan_orphans(apply->sessions, idle_before_us, ORPHANS_AT_ONCE);
    pthread_mutex_unlock(&apply->lock);
    if (r >= 0 && now_us >= apply->sweep_due_us) {
        r = apply->sink->ops->open_sessions(apply->sink, idle_before_us, ORPHANS_AT_ONCE, found_open_session, &sweep);
        if (!sweep.failed && sweep.found < ORPHANS_AT_ONCE)
            apply->sweep_due_us = now_us + apply->options.idle_timeout_us;
    }
    if (r < 0)
        return r;
    (void)session_changes(apply->sessions, &count);
    if (count == 0)
        return 0;
    clear_batch(apply);
    apply->to = apply->lsn;
    return run_batch(apply, now_us);
}

void apply_idle_from(struct apply *apply, int64_t now_us)
{
    apply->idle_since_us = now_us;
    apply->sweep_due_us = now_us + apply->options.idle_timeout_us;
}

uint64_t apply_lsn(const struct apply *apply)
{
    return apply->lsn;
}

uint64_t apply_passed(const struct apply *apply)
{
    return apply->passed;
}

void apply_sessions(struct apply *apply, bool (*visit)(void *context, const struct session *session), void *context)
{
    pthread_mutex_lock(&apply->lock);
    session_foreach(apply->sessions, visit, context);
    pthread_mutex_unlock(&apply->lock);
}

bool apply_session(struct apply *apply, const uint8_t id[static 16], struct session *ret)
{
    const struct session *session;

    pthread_mutex_lock(&apply->lock);
    session = session_find(apply->sessions, id);
    if (session)
        *ret = *session;
    pthread_mutex_unlock(&apply->lock);
    return session != NULL;
}

size_t apply_session_count(struct apply *apply)
{
    size_t count;

    pthread_mutex_lock(&apply->lock);
    count = session_count(apply->sessions);
    pthread_mutex_unlock(&apply->lock);
    return count;
}
