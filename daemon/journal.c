/* The group in memory: append, write, sync, and rewriting it after a failure. What was appended stays in
 * chunks until it is durable, because after a failed fdatasync neither the descriptor nor the page cache can
 * be believed. Files are journal_segment.c's business. */
#include "daemon/journal_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Chunks: the appending thread's. */

/* A chunk holds records of one segment, so it need not be larger. */
static size_t chunk_bytes(const struct journal *journal)
{
    return journal->options.segment_bytes < CHUNK_BYTES ? (size_t)journal->options.segment_bytes : CHUNK_BYTES;
}

/* Kept for the next records: the system gives and takes memory of that size page by page. */
static void idle_push(struct journal *journal, struct chunk *chunk)
{
    chunk->next = journal->idle;
    journal->idle = chunk;
    journal->idle_count++;
}

/* Sees to it that there are as many. False: no memory. */
static bool idle_ready(struct journal *journal, unsigned count)
{
    size_t usual = chunk_bytes(journal);

    while (journal->idle_count < count) {
        struct chunk *chunk = malloc(sizeof *chunk + usual);
        if (!chunk)
            return false;
        chunk->cap = usual;
        idle_push(journal, chunk);
    }
    return true;
}

static void chunks_release(struct journal *journal)
{
    uint64_t durable = journal->durable;
    size_t usual = chunk_bytes(journal);

    while (journal->head && journal->head->lsn + journal->head->used <= durable) {
        struct chunk *chunk = journal->head;
        if (chunk == journal->tail && chunk->cap == usual && chunk->used < usual / 2)
            return; /* there is room in it yet */
        journal->head = chunk->next;
        if (!journal->head)
            journal->tail = NULL;
        journal->buffered -= chunk->cap;
        if (chunk->cap == usual && journal->idle_count < IDLE_CHUNKS)
            idle_push(journal, chunk);
        else
            free(chunk);
    }
}

/* True if a record of `need` bytes goes where the last one went. */
static bool chunk_holds(const struct journal *journal, size_t need)
{
    const struct chunk *chunk = journal->tail;

    return chunk && chunk->segment == journal->last && chunk->cap - chunk->used >= need &&
           chunk->lsn + chunk->used == journal->tip;
}

/* Room for one more record of `need` bytes at the end of the log, in the last segment. bounded: -EAGAIN above
 * the limit, and without memory. */
static int chunk_reserve(struct journal *journal, size_t need, bool bounded)
{
    struct chunk *chunk;
    size_t usual = chunk_bytes(journal), cap = need > usual ? need : usual;

    if (chunk_holds(journal, need))
        return 0;
    if (bounded && journal->buffered + cap > GROUP_BYTES_MAX)
        return -EAGAIN;
    if (journal->idle && cap == usual) {
        chunk = journal->idle;
        journal->idle = chunk->next;
        journal->idle_count--;
    } else {
        chunk = malloc(sizeof *chunk + cap);
        if (!chunk)
            return bounded ? -EAGAIN : -ENOMEM; /* some comes back with the next sync, for which a rewrite can't wait */
    }
    *chunk = (struct chunk){.segment = journal->last, .lsn = journal->tip, .cap = cap};
    if (journal->tail)
        journal->tail->next = chunk;
    else
        journal->head = chunk;
    journal->tail = chunk;
    journal->buffered += cap;
    return 0;
}

static void chunks_free(struct chunk *chunk)
{
    for (struct chunk *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
}

void journal_chunks_free(struct journal *journal)
{
    chunks_free(journal->head);
    chunks_free(journal->idle);
    journal->head = journal->tail = journal->idle = NULL;
    journal->idle_count = 0;
    journal->buffered = 0;
}

/* Begins the next segment. One failure of the disk is no end: nothing of the log was touched, so the next try makes another file.
 * Neither is it when descriptors or memory are short. */
static int segment_next(struct journal *journal, bool limits)
{
    int r = segment_begin(journal, journal->tip, limits);

    if (r == 0) {
        journal->segment_missed = false;
    } else if (limits && (r == -EMFILE || r == -ENFILE || r == -ENOMEM)) {
        r = -EAGAIN;
    } else if (limits && r != -ENOSPC && !journal->segment_missed) {
        journal->segment_missed = true;
        r = -EAGAIN;
    }
    return r;
}

/* Sees to it that a record of `need` bytes has its place: in the last segment or a new one, and in memory. */
static int record_place(struct journal *journal, size_t need, bool limits)
{
    if (need > journal->options.segment_bytes - SEGMENT_HEADER)
        return -EMSGSIZE;
    if (!segment_takes(journal->last, journal->tip + need)) {
        if (journal->broken)
            return -EAGAIN; /* journal_rewrite() will find new places for all */
        int r = segment_next(journal, limits);
        if (r < 0)
            return r;
    }
    return chunk_reserve(journal, need, limits);
}

static void record_placed(struct journal *journal, size_t need)
{
    journal->tail->used += need;
    journal->tip += need;
}

/* The appending thread's calls. */

static int journal_fail(struct journal *journal, int error)
{
    journal->failed = error;
    return error;
}

int journal_append(struct journal *journal, uint8_t kind, uint8_t flags, uint32_t uid, uint32_t pid,
                   int64_t received_us, const void *payload, size_t size, uint64_t *ret_end_lsn)
{
    if (journal->failed)
        return journal->failed;
    if (kind == 0 || size > JOURNAL_PAYLOAD_MAX)
        return kind == 0 ? -EINVAL : -EMSGSIZE;
    if (journal->pending)
        return -ENOSPC;
    size_t need = JOURNAL_RECORD_HEADER + size;
    chunks_release(journal);
    int r = record_place(journal, need, true);
    if (r < 0)
        return r == -EAGAIN || r == -ENOSPC || r == -EMSGSIZE ? r : journal_fail(journal, r);

    struct journal_record record = {.lsn = journal->tip,
                                    .received_us = received_us,
                                    .uid = uid,
                                    .pid = pid,
                                    .kind = kind,
                                    .flags = flags,
                                    .payload = payload,
                                    .size = size};
    uint8_t *p = journal->tail->data + journal->tail->used;
    uint64_t durable = journal->durable;
    journal_record_encode(journal->seed, &record, durable, p);
    if (size > 0)
        memcpy(p + JOURNAL_RECORD_HEADER, payload, size);
    record_placed(journal, need);
    journal->carried = durable;
    journal->last_us = received_us;
    if (kind != JOURNAL_MARK)
        journal->data_end = journal->tip;
    atomic_store_explicit(&journal->end, journal->tip, memory_order_release);
    *ret_end_lsn = journal->tip;
    return 0;
}

/* Room that is there already. A chunk is left for the next one only when less than `need` is free in it, so it holds as many records as if all were
 * that long. */
static bool has_room(struct journal *journal, size_t need, unsigned count)
{
    size_t usual = chunk_bytes(journal);

    if (need > usual || !segment_takes(journal->last, journal->tip + need * count))
        return false;
    if (chunk_holds(journal, need * count))
        return true;
    unsigned chunks = 1 + (count - 1) / (unsigned)(usual / need);
    return journal->buffered + chunks * usual <= GROUP_BYTES_MAX && idle_ready(journal, chunks);
}

int journal_room(struct journal *journal, size_t size, unsigned count, bool cheap)
{
    size_t need = JOURNAL_RECORD_HEADER + size;

    if (journal->failed)
        return journal->failed;
    if (journal->pending)
        return -ENOSPC;
    if (cheap)
        return has_room(journal, need, count) ? 0 : -EAGAIN;
    assert(count == 1);
    chunks_release(journal);
    return record_place(journal, need, true);
}

int journal_write(struct journal *journal)
{
    if (journal->failed)
        return journal->failed;
    if (journal->broken)
        return -EIO;
    for (struct chunk *chunk = journal->head; chunk; chunk = chunk->next) {
        size_t size = chunk->used - chunk->written;
        if (size == 0)
            continue;
        struct segment *segment = chunk->segment;
        uint64_t lsn = chunk->lsn + chunk->written;
        int r = journal_io_write(journal->io, segment->fd, chunk->data + chunk->written, size,
                                 segment_offset(segment->base, lsn));
        if (r < 0) {
            journal->broken = true;
            return -EIO;
        }
        chunk->written = chunk->used;
        pthread_mutex_lock(&journal->lock); /* a sync that sees the bytes as written sees the segment as dirty too */
        segment_mark_dirty(journal, segment);
        journal->written = chunk->lsn + chunk->used;
        pthread_mutex_unlock(&journal->lock);
    }
    return 0;
}

/* Appends the records of a chunk from `from` on once more, as they are. */
static int chunk_replay(struct journal *journal, const struct chunk *chunk, uint64_t from)
{
    for (size_t at = 0, bytes; at < chunk->used; at += bytes) {
        const uint8_t *record = chunk->data + at;
        bytes = (size_t)journal_record_bytes(record);
        if (chunk->lsn + at < from)
            continue;
        assert(chunk->lsn + at == journal->tip);
        int r = record_place(journal, bytes, false);
        if (r < 0)
            return r;
        memcpy(journal->tail->data + journal->tail->used, record, bytes);
        record_placed(journal, bytes);
    }
    return 0;
}

int journal_rewrite(struct journal *journal)
{
    struct chunk *old = journal->head;
    int r;

    if (journal->failed)
        return journal->failed;
    pthread_mutex_lock(&journal->sync_lock); /* waits for a sync that is under way */
    uint64_t durable = journal->durable;
    pthread_mutex_lock(&journal->lock);
    for (struct segment *s = journal->first; s; s = s->next) {
        journal_io_close(journal->io, &s->fd); /* not believed any more */
        s->dirty = false;
    }
    journal->dirty = NULL;
    journal->written = durable;
    pthread_mutex_unlock(&journal->lock);

    journal->head = journal->tail = NULL;
    journal->buffered = 0;
    journal->tip = durable;
    journal->broken = false;
    r = segment_begin(journal, durable, false);
    for (struct chunk *next; old; old = next) {
        next = old->next;
        if (r == 0)
            r = chunk_replay(journal, old, durable);
        free(old);
    }
    assert(r < 0 || journal->tip == journal->end);
    if (r == 0)
        r = journal_write(journal);
    if (r == 0)
        r = journal_sync_locked(journal);
    if (r < 0)
        journal_fail(journal, r);
    pthread_mutex_unlock(&journal->sync_lock);
    return r;
}

bool journal_wants_mark(const struct journal *journal)
{
    uint64_t durable = journal->durable;
    return (durable < journal->data_end ? durable : journal->data_end) > journal->carried;
}

/* Syncing. */

int journal_sync_locked(struct journal *journal)
{
    const struct journal_io *io = journal->io;
    struct segment *syncing = NULL;
    int r = 0;

    if (journal->failed)
        return journal->failed;
    if (journal->broken)
        return -EIO;
    pthread_mutex_lock(&journal->lock);
    uint64_t target = journal->written;
    bool dir_dirty = journal->dir_dirty;
    for (struct segment *s = journal->dirty; s; s = s->next_dirty) {
        s->dirty = false;
        s->next_syncing = syncing;
        syncing = s;
    }
    journal->dirty = NULL;
    journal->dir_dirty = false;
    pthread_mutex_unlock(&journal->lock);

    for (struct segment *s = syncing; s && r == 0; s = s->next_syncing)
        r = io->fdatasync(io->context, s->fd);
    if (r == 0 && dir_dirty)
        r = io->fsync(io->context, journal->dir_fd);
    if (r < 0) {
        journal->broken = true;
        return -EIO;
    }

    pthread_mutex_lock(&journal->lock);
    for (struct segment *s = syncing; s; s = s->next_syncing)
        if (s->end <= target && !s->dirty)
            journal_io_close(io, &s->fd); /* nothing more will be written to it */
    journal->durable = target;
    pthread_mutex_unlock(&journal->lock);
    return 0;
}

int journal_sync(struct journal *journal)
{
    pthread_mutex_lock(&journal->sync_lock);
    int r = journal_sync_locked(journal);
    pthread_mutex_unlock(&journal->sync_lock);
    return r;
}

uint64_t journal_oldest_lsn(const struct journal *journal)
{
    return journal->oldest;
}

uint64_t journal_durable_lsn(const struct journal *journal)
{
    return journal->durable;
}

uint64_t journal_written_lsn(const struct journal *journal)
{
    return journal->written;
}

uint64_t journal_end_lsn(const struct journal *journal)
{
    return journal->end;
}

uint64_t journal_disk_bytes(const struct journal *journal)
{
    return journal->disk_bytes;
}

const uint8_t *journal_uuid(const struct journal *journal)
{
    return journal->uuid;
}
