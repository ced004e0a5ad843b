/* See apply.h. Read apply_step() first. */
#include "daemon/apply_internal.h"

#include "daemon/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uuid/uuid.h>

/* A 64th part at first, and not less than that; then four times as much. */
enum { SMALL_FIRST = 6, SMALL_STEP = 2, SMALL_ROWS = 500, SMALL_BYTES = 64 * 1024 };

enum { ARENA_LARGE = 4 << 20 }; /* bytes */

enum { ORPHANS_AT_ONCE = 10000, HOLES_MAX = 131072 /* in the streams that are cached: some MiB */ };

/* How often to look at the quarantine. */
enum { EMPTY_US = 60 * 1000 * 1000, USED_US = 2 * 1000 * 1000, FULL_US = 3 * 1000 * 1000 };

/* For a batch's bytes, in huge pages where the kernel has them: they are read in order of sessions, all over the place, and with small pages a tenth
 * of the writer's time was looking up where these are. */
static char *arena_new(size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from, to;
    char *arena = malloc(size);

    if (!arena || size < ARENA_LARGE)
        return arena;
    from = ((uintptr_t)arena + page - 1) / page * page;
    to = ((uintptr_t)arena + size) / page * page;
    (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
    return arena;
}

struct apply *apply_new(const struct apply_options *options, struct sink *sink, struct metrics *metrics)
{
    struct apply *apply = calloc(1, sizeof(*apply));

    if (!apply)
        return NULL;
    pthread_mutex_init(&apply->lock, NULL);
    apply->options = *options;
    apply->limit = UINT64_MAX;
    apply_share(apply, options->writer, options->writers, NULL);
    apply->sink = sink;
    apply->metrics = metrics;
    apply->arena_size = options->batch_bytes + APPLY_DATAGRAM_ROOM;
    apply->got.arena = arena_new(apply->arena_size);
    apply->ahead.arena = arena_new(apply->arena_size);
    apply->decoder = toll_decoder_new();
    apply->sessions = session_table_new();
    apply->scratch = session_table_new();
    if (!apply->got.arena || !apply->ahead.arena || !apply->decoder || !apply->sessions || !apply->scratch) {
        apply_free(apply);
        return NULL;
    }
    return apply;
}

/* The first batches after a start, or after a failure, are small and grow: where the daemon, or the database, lives shorter than
 * a full batch takes, each life gets something stored. */
static void size_batch(struct apply *apply, unsigned small)
{
    const struct apply_options *options = &apply->options;
    size_t rows = options->batch_rows >> small, bytes = options->batch_bytes >> small;

    apply->small = small;
    apply->most_rows = rows < SMALL_ROWS ? SMALL_ROWS : rows;
    apply->most_bytes = bytes < SMALL_BYTES ? SMALL_BYTES : bytes;
    if (apply->most_rows > options->batch_rows)
        apply->most_rows = options->batch_rows;
    if (apply->most_bytes > options->batch_bytes)
        apply->most_bytes = options->batch_bytes;
}

static void forget_all(struct apply *apply, int64_t now_us)
{
    apply_clear_batch(apply);
    apply_forget_streams(apply);
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
    free(apply->got.arena);
    free(apply->ahead.arena);
    free(apply->got.pieces);
    free(apply->ahead.pieces);
    free(apply->got.sources);
    free(apply->ahead.sources);
    free(apply->places);
    free(apply->refused);
    free(apply->stream_list);
    pthread_mutex_destroy(&apply->lock);
    free(apply);
}

void apply_set_options(struct apply *apply, const struct apply_options *options)
{
    struct apply_options before = apply->options;

    apply->options = *options;
    apply->options.batch_bytes = before.batch_bytes;
    apply->options.writer = before.writer;
    apply->options.writers = before.writers;
    size_batch(apply, apply->small);
}

void apply_share(struct apply *apply, unsigned writer, unsigned writers, const struct apply_counted *counted)
{
    if (writers == 0)
        writers = 1;
    if (writer != apply->options.writer || writers != apply->options.writers)
        apply->unsure_to = 0; /* another writer's watermark says nothing of it */
    apply->options.writer = writer;
    apply->options.writers = writers;
    apply->counted = counted;
}

void apply_limit(struct apply *apply, uint64_t lsn)
{
    apply->limit = lsn;
    apply_drop_ahead(apply);
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
    apply->lsn = apply->passed = apply->got.to = lsn;
    apply->counted_lsn = counted_lsn;
    size_batch(apply, SMALL_FIRST);
    return 0;
}

void apply_renewed(struct apply *apply, uint64_t from)
{
    apply->unsure_to = apply->unsure_to > from ? apply->unsure_to - from : 0;
}

void apply_forget_lsn(struct apply *apply)
{
    apply->lsn = apply->passed = 0;
    apply_clear_batch(apply);
}

/* --- a batch -------------------------------------------------------------------------------------------------------------- */

static int finish(struct apply *apply)
{
    struct sink_batch batch = {
        .from = apply->lsn, .to = apply->got.to, .refused = apply->refused, .refused_count = apply->refused_count};
    struct sink_counts *counts = &apply->tally.counts;
    int r = apply_list_changed(apply, &batch.stream_count);

    apply->tally.replayed = apply->got.replayed;
    counts->first_received_us = apply->got.first_received_us;
    counts->last_received_us = apply->got.last_received_us;
    counts->received = (uint32_t)apply->got.own_count;
    counts->stored = counts->received - counts->quarantined - counts->duplicates;
    batch.streams = apply->stream_list;
    batch.counts = *counts;
    return r == 0 ? apply->sink->ops->finish(apply->sink, &batch) : r;
}

static int commit(struct apply *apply)
{
    int r = apply->sink->ops->commit(apply->sink);

    apply->unsure = apply->tally;
    apply->unsure_to = r < 0 && apply->got.to != apply->lsn ? apply->got.to : 0;
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
    size_t ranges = 0;

    count_sessions(apply);
    pthread_mutex_lock(&apply->lock);
    session_settle(apply->sessions, apply->options.sessions_max);
    if (apply->careful) /* what the attempts stored did not pass through memory */
        session_table_clear(apply->sessions);
    pthread_mutex_unlock(&apply->lock);
    if (apply->careful)
        apply_idle_from(apply, now_us);
    apply->careful = false;
    for (struct known_stream *stream = apply->streams; stream; stream = stream->hh.next) {
        stream->changed = false;
        ranges += stream->stream.seen.count;
        for (size_t i = 0; i < stream->stream.other_count; i++)
            ranges += stream->stream.others[i].seen.count;
    }
    if (HASH_COUNT(apply->streams) > apply->options.streams_max || ranges > HASH_COUNT(apply->streams) + HOLES_MAX)
        apply_forget_streams(apply);
}

/* One transaction: [lsn, to) with its pieces, and the session changes that are planned already. */
static int run_batch(struct apply *apply, int64_t now_us)
{
    struct sink *sink = apply->sink;
    int r = sink->ops->begin(sink, apply->lsn, apply->got.to);

    if (r == 0)
        r = apply_load_streams(apply);
    if (r == 0)
        r = apply_drop_stored(apply);
    if (r == 0 && (apply->got.own_count > 0 || apply->got.to == apply->lsn))
        r = apply_store_pieces(apply);
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
    apply_note_verdicts(apply);
    settle(apply, now_us);
    count_tally(apply, &apply->tally);
    if (apply->refused_count && apply->sink->ops->quarantined) {
        metrics_add(&apply->metrics->quarantine_rows, apply->refused_count); /* until it is looked at */
        apply->quarantine_due_us = 0;
    }
    if (apply->got.to > apply->counted_lsn)
        apply->counted_lsn = apply->got.to;
    apply->lsn = apply->passed = apply->got.to;
    apply_clear_batch(apply);
    if (apply->small > 0)
        size_batch(apply, apply->small > SMALL_STEP ? apply->small - SMALL_STEP : 0);
    return 1;
}

int apply_step(struct apply *apply, int64_t now_us, bool advance)
{
    bool was_careful = apply->careful, all;
    int r = apply_gather(apply);

    if (r < 0)
        return r;
    apply->alone = apply->last && r == 0;
    /* Marks are not worth a transaction, but where the writers are brought to one LSN. */
    all = advance && apply->got.to > apply->lsn && (apply->got.scanned_bytes > 0 || apply->limit != UINT64_MAX);
    if (apply->got.own_count == 0 && !all && (r == 0 || apply->got.scanned_bytes == 0)) {
        apply->passed = apply->got.to;
        return 0;
    }
    r = run_batch(apply, now_us);
    if (r == -EINVAL && !was_careful) /* the data is refused: now find out which frames */
        return 1;
    return r;
}

void apply_set_last(struct apply *apply, bool last)
{
    apply->last = last;
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

/* The ids of the sessions that are to be closed. NULL: out of memory. */
static uint8_t (*planned_ids(struct apply *apply, size_t *ret_count))[16]
{
    struct session_change *const *changes = session_changes(apply->sessions, ret_count);
    uint8_t(*ids)[16] = calloc(*ret_count + 1, sizeof(*ids));

    for (size_t i = 0; ids && i < *ret_count; i++)
        memcpy(ids[i], changes[i]->session->id, sizeof(*ids));
    return ids;
}

/* Somebody's constraint or trigger refuses to let a session end so: that one stays open, the others are closed. */
static int close_one_by_one(struct apply *apply, uint8_t (*ids)[16], size_t count, int64_t idle_before_us,
                            int64_t now_us)
{
    static struct log_limit limit = LOG_LIMIT(5, 60 * 1000000);
    char id[37];
    int r = 0;

    for (size_t i = 0; r >= 0 && i < count; i++) {
        apply->careful = false; /* no frame is at fault */
        pthread_mutex_lock(&apply->lock);
        r = session_plan_orphan(apply->sessions, ids[i], idle_before_us);
        pthread_mutex_unlock(&apply->lock);
        if (r < 0)
            return r;
        apply_clear_batch(apply);
        r = run_batch(apply, now_us);
        if (r != -EINVAL)
            continue;
        uuid_unparse_lower(ids[i], id);
        log_limited(&limit, LOG_LEVEL_WARNING,
                    "an idle session can't be closed, the database refuses it session=%s reason=%s", id,
                    apply->sink->ops->error(apply->sink));
        r = 0;
    }
    apply->careful = false;
    return r < 0 ? r : 1;
}

int apply_orphans(struct apply *apply, int64_t now_us)
{
    int64_t idle_before_us = now_us - apply->options.idle_timeout_us;
    struct sweep sweep = {.apply = apply, .idle_before_us = idle_before_us};
    uint8_t(*ids)[16];
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
    ids = planned_ids(apply, &count);
    if (!ids)
        return -ENOMEM;
    r = 0;
    if (count) {
        apply_clear_batch(apply);
        r = run_batch(apply, now_us);
    }
    if (r == -EINVAL)
        r = close_one_by_one(apply, ids, count, idle_before_us, now_us);
    free(ids);
    return r;
}

void apply_look_at_quarantine(struct apply *apply, int64_t monotonic_us)
{
    uint64_t limit = apply->options.quarantine_rows, rows;

    if (!apply->sink->ops->quarantined || monotonic_us < apply->quarantine_due_us)
        return;
    if (apply->sink->ops->quarantined(apply->sink, limit, &rows) < 0)
        return; /* the connection's end shows in the next batch */
    metrics_set(&apply->metrics->quarantine_rows, rows);
    /* Soon, so that it shows when somebody has emptied it; but where it is full, rows are counted one by one. */
    apply->quarantine_due_us = monotonic_us + (rows == 0 ? EMPTY_US : rows < limit ? USED_US : FULL_US);
}

void apply_idle_from(struct apply *apply, int64_t now_us)
{
    apply->idle_since_us = now_us;
    apply->sweep_due_us = now_us + apply->options.idle_timeout_us;
}

void apply_clock_stepped(struct apply *apply, int64_t step_us, int64_t now_us)
{
    pthread_mutex_lock(&apply->lock);
    session_clock_stepped(apply->sessions, step_us);
    pthread_mutex_unlock(&apply->lock);
    apply_idle_from(apply, now_us);
}

uint64_t apply_lsn(const struct apply *apply)
{
    return apply->lsn;
}

uint64_t apply_passed(const struct apply *apply)
{
    return apply->passed;
}

bool apply_behind(const struct apply *apply)
{
    return apply->got.scanned_bytes > 0;
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
