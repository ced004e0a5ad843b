/* Opening and closing the journal: the lock, whose journal it is, what a crash left half done, and the
 * unconfirmed LSN. Creating one is building an empty log in a directory beside and renaming that, so that a
 * directory named "journal" is always a whole one. */
#include "daemon/journal_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int journal_attach(struct journal **ret, const struct journal_options *options)
{
    struct journal *journal;
    int r;

    if (options->segment_bytes < JOURNAL_SEGMENT_MIN || options->segment_bytes > INT64_MAX)
        return -EINVAL;
    journal = calloc(1, sizeof *journal);
    if (!journal)
        return -ENOMEM;
    journal->io_copy = options->io ? *options->io : journal_io_system;
    const struct journal_io *io = journal->io = &journal->io_copy;
    journal->state_fd = journal->lock_fd = journal->dir_fd = -1;
    pthread_mutex_init(&journal->space_lock, NULL);
    pthread_mutex_init(&journal->sync_lock, NULL);
    pthread_mutex_init(&journal->lock, NULL);
    journal->options = *options;
    journal->state_dir = strdup(options->state_dir);
    journal->options.state_dir = journal->state_dir;
    r = -ENOMEM;
    if (!journal->state_dir)
        goto fail;
    journal_set_limits(journal, options->max_bytes, options->min_free_bytes, options->retention_us);
    journal->hold = UINT64_MAX;
    for (size_t i = 0; i < JOURNAL_HOLDERS; i++)
        journal->holds[i] = UINT64_MAX;

    r = journal->state_fd = journal_io_open_dir(io, AT_FDCWD, options->state_dir);
    if (r < 0)
        goto fail;
    r = journal->lock_fd = journal_io_open(io, journal->state_fd, "lock", O_RDWR | O_CREAT);
    if (r < 0)
        goto fail;
    r = io->lock(io->context, journal->lock_fd);
    if (r < 0)
        goto fail;
    *ret = journal;
    return 0;
fail:
    journal_close(journal);
    return r;
}

void journal_close(struct journal *journal)
{
    if (!journal)
        return;
    const struct journal_io *io = journal->io;
    if (journal->spare)
        (void)!journal_io_unlink(io, journal->dir_fd, journal->spare->name);
    segment_free(io, journal->spare);
    for (struct segment *s = journal->first, *next; s; s = next) {
        next = s->next;
        segment_free(io, s);
    }
    journal_chunks_free(journal);
    journal_io_close(io, &journal->dir_fd);
    journal_io_close(io, &journal->lock_fd);
    journal_io_close(io, &journal->state_fd);
    pthread_mutex_destroy(&journal->space_lock);
    pthread_mutex_destroy(&journal->sync_lock);
    pthread_mutex_destroy(&journal->lock);
    free(journal->state_dir);
    free(journal);
}

/* Identity and unconfirmed LSN. */

int journal_identity_write(struct journal *journal)
{
    uint8_t bytes[32];

    memcpy(bytes, journal->uuid, 16);
    memcpy(bytes + 16, journal->options.machine_id, 16);
    return journal_file_write(journal->io, journal->dir_fd, IDENTITY_FILE, bytes, sizeof bytes);
}

int journal_identity_read(struct journal *journal, uint8_t ret_machine_id[16])
{
    uint8_t bytes[32];
    ssize_t n = journal_file_read(journal->io, journal->dir_fd, IDENTITY_FILE, bytes, sizeof bytes);

    if (n == -ENOENT || n == -EMSGSIZE || (n >= 0 && n != sizeof bytes))
        return -EBADMSG;
    if (n < 0)
        return (int)n;
    memcpy(journal->uuid, bytes, 16);
    journal->seed = journal_record_seed(journal->uuid);
    memcpy(ret_machine_id, bytes + 16, 16);
    return 0;
}

int journal_unconfirmed_write(struct journal *journal)
{
    uint8_t bytes[8];

    put_le(bytes, journal->unconfirmed, 8);
    return journal_file_write(journal->io, journal->dir_fd, UNCONFIRMED_FILE, bytes, sizeof bytes);
}

/* A value left by an earlier run stays: what that one may have missed has not been looked at yet. But it speaks of this log
 * as it is now: one that ends below the value was taken back, and its end is where the rest begins. */
static int unconfirmed_begin(struct journal *journal)
{
    uint8_t bytes[8];
    ssize_t n = journal_file_read(journal->io, journal->dir_fd, UNCONFIRMED_FILE, bytes, sizeof bytes);

    if (n < 0 && n != -ENOENT)
        return (int)n;
    if (n >= 0 && n != sizeof bytes)
        return -EBADMSG;
    uint64_t left = n < 0 ? LSN_MAX : get_le(bytes, 8);
    journal->unconfirmed = left > journal->end ? journal->end : left < journal->oldest ? journal->oldest : left;
    if (journal->unconfirmed == left)
        return 0;
    int r = journal_unconfirmed_write(journal);
    if (r != -ENOSPC && r != -EDQUOT)
        return r;
    journal->pending = true; /* journal_collect() tries again */
    return 0;
}

uint64_t journal_unconfirmed_lsn(const struct journal *journal)
{
    return journal->unconfirmed;
}

int journal_confirm(struct journal *journal)
{
    const struct journal_io *io = journal->io;
    int r = 0;

    pthread_mutex_lock(&journal->space_lock); /* journal_collect() may be writing it */
    int dir = journal_io_open_dir(io, journal->dir_fd, ".");
    if (dir < 0) {
        r = dir;
        goto out;
    }
    r = journal_io_unlink(io, journal->dir_fd, UNCONFIRMED_FILE);
    if (r == 0)
        r = io->fsync(io->context, dir);
    if (r == 0) {
        journal->unconfirmed = LSN_MAX;
        journal->pending = false;
    }
    journal_io_close(io, &dir);
out:
    pthread_mutex_unlock(&journal->space_lock);
    return r;
}

/* Opening. */

int journal_settle(struct journal *journal, bool *ret_exists)
{
    const struct journal_io *io = journal->io;
    bool exists = false, fresh = false, old = false;
    char **names;
    int r = journal_io_list(io, journal->state_fd, &names);

    if (r < 0)
        return r;
    for (char **name = names; *name && r == 0; name++) {
        size_t length = strlen(*name);
        exists = exists || strcmp(*name, JOURNAL_DIR) == 0;
        fresh = fresh || strcmp(*name, JOURNAL_DIR_NEW) == 0;
        old = old || strcmp(*name, JOURNAL_DIR_OLD) == 0;
        if (length > 4 && strcmp(*name + length - 4, ".tmp") == 0)
            r = journal_io_unlink(io, journal->state_fd, *name);
    }
    journal_io_list_free(names);
    /* journal_renew() sets the old one aside only when the new one is whole and synced. */
    const char *whole = exists ? NULL : old && fresh ? JOURNAL_DIR_NEW : old ? JOURNAL_DIR_OLD : NULL;
    if (r == 0 && whole) {
        r = io->rename(io->context, journal->state_fd, whole, JOURNAL_DIR);
        exists = true;
    }
    if (r == 0) /* also what an earlier run may have renamed without coming to sync it */
        r = io->fsync(io->context, journal->state_fd);
    if (r == 0)
        r = journal_io_remove_dir(io, journal->state_fd, JOURNAL_DIR_NEW);
    if (r == 0)
        r = journal_io_remove_dir(io, journal->state_fd, JOURNAL_DIR_OLD);
    if (r == 0)
        *ret_exists = exists;
    return r;
}

int journal_draw_uuid(struct journal *journal, uint8_t ret[static 16])
{
    uint8_t uuid[16];

    int r = journal->io->random(journal->io->context, uuid, 16);
    if (r < 0)
        return r;
    uuid[6] = (uuid[6] & 0x0f) | 0x40; /* RFC 4122, version 4 */
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    memcpy(ret, uuid, 16);
    return 0;
}

int journal_build(struct journal *journal, const uint8_t uuid[16])
{
    const struct journal_io *io = journal->io;

    memcpy(journal->uuid, uuid, 16);
    journal->seed = journal_record_seed(journal->uuid);

    int r = io->mkdir(io->context, journal->state_fd, JOURNAL_DIR_NEW, 0750);
    if (r < 0)
        return r;
    r = journal->dir_fd = journal_io_open_dir(io, journal->state_fd, JOURNAL_DIR_NEW);
    if (r >= 0)
        r = journal_identity_write(journal);
    if (r == 0)
        r = segment_begin(journal, 0, false);
    if (r == 0)
        r = journal_sync_locked(journal);
    if (r == 0)
        r = io->fsync(io->context, journal->state_fd);
    return r;
}

static int journal_create(struct journal *journal)
{
    const struct journal_io *io = journal->io;

    uint8_t uuid[16];

    int r = journal_draw_uuid(journal, uuid);
    if (r == 0)
        r = journal_build(journal, uuid);
    if (r == 0)
        r = io->rename(io->context, journal->state_fd, JOURNAL_DIR_NEW, JOURNAL_DIR);
    if (r == 0)
        r = io->fsync(io->context, journal->state_fd);
    return r;
}

/* Renames another machine's journal out of the way. */
static int journal_set_aside(struct journal *journal, struct journal_report *report)
{
    const struct journal_io *io = journal->io;
    const uint8_t *u = journal->uuid;
    char name[80];
    int r = -EEXIST;

    journal_io_close(io, &journal->dir_fd);
    for (int n = 0; n < 100 && (r == -EEXIST || r == -ENOTEMPTY); n++) {
        int length = snprintf(
            name, sizeof name, "journal-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x.foreign",
            u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
        if (n > 0)
            snprintf(name + length, sizeof name - (size_t)length, ".%d", n);
        r = io->rename(io->context, journal->state_fd, JOURNAL_DIR, name);
    }
    if (r == 0)
        r = io->fsync(io->context, journal->state_fd);
    if (r == 0) {
        report->foreign = true;
        snprintf(report->foreign_path, sizeof report->foreign_path, "%s/%s", journal->state_dir, name);
    }
    return r;
}

/* Opens the directory and sees whose it is. */
static int journal_identify(struct journal *journal, bool *ret_foreign, struct journal_report *report)
{
    static const uint8_t unknown[16];
    uint8_t machine_id[16];

    int r = journal->dir_fd = journal_io_open_dir(journal->io, journal->state_fd, JOURNAL_DIR);
    if (r < 0)
        return r;
    r = journal_identity_read(journal, machine_id);
    if (r == -EBADMSG)
        snprintf(report->damaged_path, sizeof report->damaged_path, "%s/" JOURNAL_DIR "/" IDENTITY_FILE,
                 journal->state_dir);
    if (r < 0)
        return r;
    *ret_foreign = false;
    if (memcmp(journal->options.machine_id, unknown, 16) == 0 ||
        memcmp(journal->options.machine_id, machine_id, 16) == 0)
        return 0;
    if (journal->options.adopt || memcmp(machine_id, unknown, 16) == 0)
        return journal_identity_write(journal);
    *ret_foreign = true;
    return 0;
}

static int journal_open_existing(struct journal *journal, struct journal_report *report)
{
    char bad[SEGMENT_NAME] = "";

    int r = segment_load(journal, bad);
    if (r < 0) {
        snprintf(report->damaged_path, sizeof report->damaged_path, "%s/" JOURNAL_DIR "/%s", journal->state_dir, bad);
        return r;
    }
    return journal_recover(journal, report);
}

int journal_open(struct journal **ret, const struct journal_options *options, struct journal_report *ret_report)
{
    struct journal_report report = {0};
    struct journal *journal = NULL;
    bool exists = false, foreign = false;

    int r = journal_attach(&journal, options);
    if (r < 0)
        goto out;
    r = journal_settle(journal, &exists);
    if (r == 0 && exists)
        r = journal_identify(journal, &foreign, &report);
    if (r == 0 && foreign)
        r = journal_set_aside(journal, &report);
    if (r < 0)
        goto out;
    report.created = !exists || foreign;
    r = report.created ? journal_create(journal) : journal_open_existing(journal, &report);
    if (r < 0)
        goto out;
    r = unconfirmed_begin(journal);
    if (r == -EBADMSG)
        snprintf(report.damaged_path, sizeof report.damaged_path, "%s/" JOURNAL_DIR "/" UNCONFIRMED_FILE,
                 journal->state_dir);
out:
    if (ret_report)
        *ret_report = report;
    if (r < 0)
        journal_close(journal);
    else
        *ret = journal;
    return r;
}
