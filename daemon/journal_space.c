/* Space: which segments may go, whether there is room for another, and the one that is prepared ahead.
 * Segments are preallocated, so what is in use only changes when one is made or deleted; appending costs no
 * look at the disk. */
#include "daemon/journal_internal.h"

#include <errno.h>
#include <stdlib.h>

/* The log takes no segment that would leave less than this: the small files beside it (what the database knows of this journal,
 * where a run began, a sink's watermark) must find room on a disk that the log itself has filled, or storing could not begin and
 * nothing would ever be deleted. */
enum { SMALL_FILES_BYTES = 64 * 1024 };

void journal_set_limits(struct journal *journal, uint64_t max_bytes, uint64_t min_free_bytes, int64_t retention_us)
{
    pthread_mutex_lock(&journal->lock);
    journal->max_bytes = max_bytes ? max_bytes : UINT64_MAX;
    journal->min_free_bytes = min_free_bytes;
    journal->retention_us = retention_us;
    pthread_mutex_unlock(&journal->lock);
    journal->full = false;
}

/* True if `more` bytes on top of what is there keep within the limits. */
static bool space_allows(struct journal *journal, uint64_t more)
{
    uint64_t free_bytes;

    pthread_mutex_lock(&journal->lock);
    uint64_t max_bytes = journal->max_bytes, min_free_bytes = journal->min_free_bytes;
    pthread_mutex_unlock(&journal->lock);
    if (min_free_bytes < SMALL_FILES_BYTES)
        min_free_bytes = SMALL_FILES_BYTES;
    if (more > max_bytes || journal->disk_bytes > max_bytes - more)
        return false;
    if (journal->io->free_bytes(journal->io->context, journal->dir_fd, &free_bytes) < 0)
        return true; /* then fallocate has the last word */
    return free_bytes >= more && free_bytes - more >= min_free_bytes;
}

bool journal_is_full(const struct journal *journal)
{
    return journal->full;
}

bool space_for_segment(struct journal *journal)
{
    return space_allows(journal, journal->options.segment_bytes);
}

/* True if there is no segment to follow the last one and that is half used, or an append was refused for want
 * of one. */
static bool spare_due(struct journal *journal)
{
    pthread_mutex_lock(&journal->lock);
    const struct segment *last = journal->last;
    bool half = journal->end - last->base >= (segment_capacity_end(last) - last->base) / 2;
    bool due = !journal->spare && (half || journal->full);
    pthread_mutex_unlock(&journal->lock);
    return due;
}

/* The first segment that is not needed any more: superseded, or committed and, unless space is short, old
 * enough. NULL: none. A segment stays until something in its successor is durable: the successor's header and
 * name are then, too. */
static struct segment *segment_deletable(struct journal *journal, uint64_t committed_lsn, int64_t now_us, bool pressed)
{
    struct segment *found = NULL;
    uint64_t durable = journal->durable, hold = journal->hold;
    bool oldest = true;

    pthread_mutex_lock(&journal->lock);
    for (struct segment *s = journal->first; s && !found; s = s->next) {
        if (s->fd >= 0 || s == journal->last || s->end >= durable)
            break;
        bool committed =
            s->end <= committed_lsn && s->end <= hold && (pressed || now_us - s->last_us >= journal->retention_us);
        if (segment_superseded(s) || (oldest && committed))
            found = s;
        oldest = false;
    }
    pthread_mutex_unlock(&journal->lock);
    return found;
}

/* Only one who holds space_lock takes segments out of the list, so `segment` stays valid without the lock. */
static int segment_delete(struct journal *journal, int dir, struct segment *segment)
{
    const struct journal_io *io = journal->io;

    int r = journal_io_unlink(io, journal->dir_fd, segment->name);
    if (r < 0)
        return r;
    pthread_mutex_lock(&journal->lock);
    segment_unlink(journal, segment);
    journal->oldest = segment_oldest(journal)->base;
    pthread_mutex_unlock(&journal->lock);
    journal->disk_bytes -= segment->bytes;
    segment_free(io, segment);
    return io->fsync(io->context, dir); /* one by one, so that no crash leaves an older one without a newer */
}

static int space_yield(struct journal *journal, uint64_t committed_lsn, int64_t now_us)
{
    const struct journal_io *io = journal->io;
    int dir = -1, r = 0;

    while (r == 0) {
        bool pressed = !space_allows(journal, spare_due(journal) ? journal->options.segment_bytes : 0);
        struct segment *segment = segment_deletable(journal, committed_lsn, now_us, pressed);
        if (!segment)
            break;
        /* A descriptor of our own: an error of the directory that journal_sync() must see is reported once to
         * each. */
        if (dir < 0)
            r = dir = journal_io_open_dir(io, journal->dir_fd, ".");
        if (r >= 0)
            r = segment_delete(journal, dir, segment);
    }
    journal_io_close(io, &dir);
    return r;
}

static void hold_update(struct journal *journal, unsigned holder, uint64_t lsn)
{
    uint64_t lowest = UINT64_MAX;

    pthread_mutex_lock(&journal->lock);
    journal->holds[holder] = lsn;
    for (unsigned i = 0; i < JOURNAL_HOLDERS; i++)
        if (journal->holds[i] < lowest)
            lowest = journal->holds[i];
    journal->hold = lowest;
    pthread_mutex_unlock(&journal->lock);
}

void journal_hold(struct journal *journal, unsigned holder, uint64_t lsn)
{
    pthread_mutex_lock(&journal->lock);
    bool lowers = lsn < journal->holds[holder];
    pthread_mutex_unlock(&journal->lock);
    if (lowers) /* every commit comes here, and must not wait for the disk */
        pthread_mutex_lock(&journal->space_lock);
    hold_update(journal, holder, lsn);
    if (lowers)
        pthread_mutex_unlock(&journal->space_lock);
}

uint64_t journal_held(struct journal *journal, unsigned holder)
{
    pthread_mutex_lock(&journal->lock);
    uint64_t lsn = journal->holds[holder];
    pthread_mutex_unlock(&journal->lock);
    return lsn;
}

void journal_clock_stepped(struct journal *journal, int64_t step_us)
{
    pthread_mutex_lock(&journal->lock);
    for (struct segment *s = journal->first; s; s = s->next)
        s->last_us += step_us;
    pthread_mutex_unlock(&journal->lock);
    if (journal->last_us != 0)
        journal->last_us += step_us;
}

int journal_collect(struct journal *journal, uint64_t committed_lsn, int64_t now_us)
{
    struct segment *segment;

    if (journal->failed)
        return journal->failed;
    pthread_mutex_lock(&journal->space_lock);
    int r = space_yield(journal, committed_lsn, now_us);
    if (journal->pending) {
        int written = journal_unconfirmed_write(journal);
        if (written == 0)
            journal->pending = false;
        else if (r == 0)
            r = written;
    }
    if (spare_due(journal)) {
        int made = space_for_segment(journal) ? segment_make(journal, &segment) : -ENOSPC;
        if (made == 0) {
            pthread_mutex_lock(&journal->lock);
            journal->spare = segment;
            pthread_mutex_unlock(&journal->lock);
            journal->full = false;
        } else if (r == 0) {
            r = made;
        }
    }
    pthread_mutex_unlock(&journal->space_lock);
    return r;
}
