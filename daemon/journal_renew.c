/* Renewing: what is in the log from some LSN on becomes a log of its own, with a new UUID. The new one is
 * built whole beside the old one, then two renames put it in place; journal_settle() finishes or undoes that
 * after a crash. */
#include "daemon/journal_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { SYNC_BYTES = 8 * 1024 * 1024 };

static int flush(struct journal *journal)
{
    int r = journal_write(journal);
    if (r == 0)
        r = journal_sync(journal);
    return r;
}

static int copy_record(struct journal *fresh, const struct journal_record *record)
{
    uint64_t end;
    int r = -EAGAIN;

    for (int tries = 0; r == -EAGAIN && tries < 2; tries++) {
        r = tries == 0 && fresh->end - fresh->durable < SYNC_BYTES ? 0 : flush(fresh);
        if (r == 0)
            r = journal_append(fresh, record->kind, record->flags, record->uid, record->pid, record->received_us,
                               record->payload, record->size, &end);
    }
    return r == -EAGAIN ? -ENOMEM : r; /* nothing of it is undurable any more: it was memory */
}

static int copy_records(struct journal *journal, struct journal *fresh, uint64_t from)
{
    struct journal_reader *reader = NULL;
    struct journal_record record;

    int r = journal_reader_new(&reader, journal);
    if (r == 0)
        r = journal_reader_seek(reader, from);
    while (r == 0 && journal_reader_lsn(reader) < journal->end) {
        r = journal_reader_next(reader, &record);
        if (r == 0)
            r = copy_record(fresh, &record);
    }
    journal_reader_free(reader);
    return r == 0 ? flush(fresh) : r;
}

/* A second handle on the same state directory, without limits. */
static int fresh_new(struct journal *journal, struct journal **ret)
{
    struct journal *fresh = calloc(1, sizeof *fresh);

    if (!fresh)
        return -ENOMEM;
    fresh->io_copy = journal->io_copy;
    fresh->io = &fresh->io_copy;
    fresh->options = journal->options;
    fresh->state_fd = journal->state_fd;
    fresh->lock_fd = fresh->dir_fd = -1;
    fresh->last_us = journal->last_us;
    pthread_mutex_init(&fresh->space_lock, NULL);
    pthread_mutex_init(&fresh->sync_lock, NULL);
    pthread_mutex_init(&fresh->lock, NULL);
    journal_set_limits(fresh, 0, 0, 0);
    *ret = fresh;
    return 0;
}

static void fresh_free(struct journal *fresh)
{
    if (fresh)
        fresh->state_fd = -1; /* not its own */
    journal_close(fresh);
}

/* Puts the new directory in the old one's place. -ECANCELED: it failed, and the old one is there again. */
static int directories_swap(struct journal *journal)
{
    const struct journal_io *io = journal->io;

    int r = io->rename(io->context, journal->state_fd, JOURNAL_DIR, JOURNAL_DIR_OLD);
    if (r < 0)
        return -ECANCELED;
    /* Synced in between, so that no crash can show the second rename without the first. */
    r = io->fsync(io->context, journal->state_fd);
    if (r == 0)
        r = io->rename(io->context, journal->state_fd, JOURNAL_DIR_NEW, JOURNAL_DIR);
    if (r < 0) {
        if (io->rename(io->context, journal->state_fd, JOURNAL_DIR_OLD, JOURNAL_DIR) == 0 &&
            io->fsync(io->context, journal->state_fd) == 0)
            return -ECANCELED;
        return r;
    }
    return io->fsync(io->context, journal->state_fd);
}

#define SWAP(a, b)                                                                                                     \
    do {                                                                                                               \
        __typeof__(a) swap_ = (a);                                                                                     \
        (a) = (b);                                                                                                     \
        (b) = swap_;                                                                                                   \
    } while (0)

/* Exchanges the logs of two handles; nobody else uses `fresh`. */
static void logs_swap(struct journal *journal, struct journal *fresh)
{
    uint8_t uuid[16];

    pthread_mutex_lock(&journal->lock);
    memcpy(uuid, journal->uuid, 16);
    memcpy(journal->uuid, fresh->uuid, 16);
    memcpy(fresh->uuid, uuid, 16);
    SWAP(journal->seed, fresh->seed);
    SWAP(journal->dir_fd, fresh->dir_fd);
    SWAP(journal->first, fresh->first);
    SWAP(journal->last, fresh->last);
    SWAP(journal->dirty, fresh->dirty);
    SWAP(journal->dir_dirty, fresh->dir_dirty);
    SWAP(journal->spare, fresh->spare);
    SWAP(journal->head, fresh->head);
    SWAP(journal->tail, fresh->tail);
    SWAP(journal->idle, fresh->idle);
    SWAP(journal->idle_count, fresh->idle_count);
    SWAP(journal->buffered, fresh->buffered);
    SWAP(journal->made, fresh->made);
    journal->oldest = fresh->oldest;
    journal->durable = fresh->durable;
    journal->written = fresh->written;
    journal->end = fresh->end;
    journal->tip = fresh->tip;
    journal->unconfirmed = fresh->unconfirmed;
    journal->disk_bytes = fresh->disk_bytes;
    journal->carried = fresh->carried;
    journal->data_end = fresh->data_end;
    journal->last_us = fresh->last_us;
    journal->pending = false;
    journal->full = false;
    pthread_mutex_unlock(&journal->lock);
}

int journal_renew(struct journal *journal, uint64_t from, const uint8_t uuid[static 16])
{
    struct journal *fresh = NULL;
    bool built = false;

    if (journal->failed)
        return journal->failed;
    if (from < journal->oldest || from > journal->end)
        return -ERANGE;
    int r = flush(journal);
    if (r < 0)
        return r; /* -EIO: journal_rewrite() is due first */

    pthread_mutex_lock(&journal->space_lock);
    r = journal_io_remove_dir(journal->io, journal->state_fd, JOURNAL_DIR_NEW);
    if (r == 0)
        r = journal_io_remove_dir(journal->io, journal->state_fd, JOURNAL_DIR_OLD);
    if (r == 0)
        r = fresh_new(journal, &fresh);
    if (r < 0)
        goto out;
    assert(fresh);
    built = true;
    r = journal_build(fresh, uuid);
    if (r == 0)
        r = journal_unconfirmed_write(fresh); /* 0: the database does not know it yet */
    if (r == 0)
        r = copy_records(journal, fresh, from);
    if (r < 0)
        goto out;
    built = false;
    r = directories_swap(journal);
    if (r == -ECANCELED) {
        built = true;
        r = -EIO;
        goto out;
    }
    if (r < 0) {
        journal->failed = r; /* which of the two the next start finds is open */
        goto out;
    }
    logs_swap(journal, fresh);
    (void)!journal_io_remove_dir(journal->io, journal->state_fd, JOURNAL_DIR_OLD); /* or at the next start */
out:
    fresh_free(fresh);
    if (built)
        (void)!journal_io_remove_dir(journal->io, journal->state_fd, JOURNAL_DIR_NEW);
    pthread_mutex_unlock(&journal->space_lock);
    return r;
}
