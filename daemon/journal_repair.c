/* Repair, with the daemon stopped: damaged bytes that were acknowledged are kept aside and covered with
 * holes, damaged headers and small files are made anew from what is known elsewhere. The tail is left to the
 * next journal_open(). */
#include "daemon/journal_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct repair {
    struct journal *journal;
    void (*found)(void *context, uint64_t from, uint64_t to, const char *path);
    void *context;
    int count;
};

static void repair_found(struct repair *repair, uint64_t from, uint64_t to, const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", repair->journal->state_dir, name);
    repair->count++;
    if (repair->found)
        repair->found(repair->context, from, to, path);
}

static int header_make(struct repair *repair, struct segment *segment)
{
    struct journal *journal = repair->journal;
    struct segment_header header = {.number = segment->number, .base = segment->base}; /* vouches for nothing */
    uint8_t bytes[SEGMENT_HEADER];
    char name[SEGMENT_NAME + sizeof JOURNAL_DIR];

    int fd = journal_io_open(journal->io, journal->dir_fd, segment->name, O_WRONLY);
    if (fd < 0)
        return fd;
    segment_header_encode(journal->uuid, &header, bytes);
    int r = journal_io_write(journal->io, fd, bytes, sizeof bytes, 0);
    if (r == 0)
        r = journal->io->fdatasync(journal->io->context, fd);
    journal_io_close(journal->io, &fd);
    if (r < 0)
        return r;
    segment->blank = false;
    snprintf(name, sizeof name, JOURNAL_DIR "/%s", segment->name);
    repair_found(repair, segment->base, segment->base, name);
    return 0;
}

/* Covers [from, to) with holes that keep the damaged bytes as their payload, as far as the header leaves
 * them. More than one where it would not fit into a segment, as every record must. A file that lost its end grows again. */
static int holes_write(struct journal *journal, struct segment *segment, uint64_t from, uint64_t to,
                       int64_t received_us)
{
    const struct journal_io *io = journal->io;
    uint64_t room = journal->options.segment_bytes - SEGMENT_HEADER, most = room < RECORD_MAX ? room : RECORD_MAX;
    uint8_t *bytes = calloc(1, (size_t)most);
    int fd = -1, r = -ENOMEM;

    if (!bytes)
        goto out;
    r = fd = journal_io_open(io, journal->dir_fd, segment->name, O_RDWR);
    if (r < 0)
        goto out;
    for (uint64_t lsn = from; lsn < to;) {
        uint64_t size = to - lsn;
        if (size > most)
            size = size - most < JOURNAL_RECORD_HEADER ? most - JOURNAL_RECORD_HEADER : most;
        memset(bytes, 0, (size_t)size);
        ssize_t n = journal_io_read(io, fd, bytes, (size_t)size, segment_offset(segment->base, lsn));
        if (n < 0) {
            r = (int)n;
            goto out;
        }
        struct journal_record hole = {.lsn = lsn,
                                      .received_us = received_us,
                                      .kind = JOURNAL_HOLE,
                                      .payload = bytes + JOURNAL_RECORD_HEADER,
                                      .size = (size_t)size - JOURNAL_RECORD_HEADER};
        journal_record_encode(journal->seed, &hole, 0, bytes);
        r = journal_io_write(io, fd, bytes, (size_t)size, segment_offset(segment->base, lsn));
        if (r < 0)
            goto out;
        lsn += size;
    }
    r = io->fdatasync(io->context, fd);
out:
    journal_io_close(io, &fd);
    free(bytes);
    return r;
}

static int repair_range(void *context, struct segment *segment, uint64_t from, uint64_t to, int64_t before_us)
{
    struct repair *repair = context;
    struct journal *journal = repair->journal;
    char name[64];

    if (from == to)
        return header_make(repair, segment);
    if (to - from < JOURNAL_RECORD_HEADER)
        return -EBADMSG; /* it began as a record and ends where another begins */
    int r = journal_keep_aside(journal, segment, "damage", from, to, name);
    if (r == 0)
        r = holes_write(journal, segment, from, to, before_us);
    if (r == 0)
        repair_found(repair, from, to, name);
    return r;
}

/* Takes the UUID from the first segment header that is whole. */
static int identity_make(struct repair *repair)
{
    struct journal *journal = repair->journal;
    struct segment_header header;
    uint64_t number, base;
    char **names;
    int r = journal_io_list(journal->io, journal->dir_fd, &names);

    if (r < 0)
        return r;
    r = -EBADMSG;
    for (char **name = names; *name && r == -EBADMSG; name++) {
        uint8_t bytes[SEGMENT_HEADER];
        if (!segment_name_parse(*name, &number, &base))
            continue;
        int fd = journal_io_open(journal->io, journal->dir_fd, *name, O_RDONLY);
        if (fd >= 0 && journal_io_read(journal->io, fd, bytes, sizeof bytes, 0) == sizeof bytes &&
            segment_header_decode(NULL, bytes, &header, journal->uuid) == 0)
            r = 0;
        journal_io_close(journal->io, &fd);
    }
    journal_io_list_free(names);
    if (r < 0)
        return r;
    journal->seed = journal_record_seed(journal->uuid);
    r = journal_identity_write(journal);
    if (r == 0)
        repair_found(repair, 0, 0, JOURNAL_DIR "/" IDENTITY_FILE);
    return r;
}

/* Headers that do not read. A blank one is none of them, but for the oldest segment's: that was synced before the segment
 * could become the oldest. */
static int headers_repair(struct repair *repair)
{
    struct journal *journal = repair->journal;
    struct segment_header header;
    uint8_t bytes[SEGMENT_HEADER];

    for (struct segment *s = journal->first; s; s = s->next) {
        int fd = journal_io_open(journal->io, journal->dir_fd, s->name, O_RDONLY);
        if (fd < 0)
            return fd;
        memset(bytes, 0, sizeof bytes);
        ssize_t n = journal_io_read(journal->io, fd, bytes, sizeof bytes, 0);
        journal_io_close(journal->io, &fd);
        if (n < 0)
            return (int)n;
        int r = segment_header_decode(journal->uuid, bytes, &header, NULL);
        if (r == 0 && (header.number != s->number || header.base != s->base || header.durable > s->base))
            r = -EBADMSG;
        if (r == -ENODATA)
            r = s == segment_oldest(journal) ? -EBADMSG : 0;
        if (r == -EBADMSG)
            r = header_make(repair, s);
        if (r < 0)
            return r;
    }
    return 0;
}

static int unconfirmed_repair(struct repair *repair)
{
    struct journal *journal = repair->journal;
    uint8_t bytes[8];

    ssize_t n = journal_file_read(journal->io, journal->dir_fd, UNCONFIRMED_FILE, bytes, sizeof bytes);
    if (n == sizeof bytes || n == -ENOENT)
        return 0;
    if (n < 0 && n != -EBADMSG && n != -EMSGSIZE)
        return (int)n;
    journal->unconfirmed = segment_oldest(journal)->base; /* the safe side: nothing of the log counts as compared */
    int r = journal_unconfirmed_write(journal);
    if (r == 0)
        repair_found(repair, 0, 0, JOURNAL_DIR "/" UNCONFIRMED_FILE);
    return r;
}

int journal_repair(const struct journal_options *options,
                   void (*found)(void *context, uint64_t from, uint64_t to, const char *path), void *context)
{
    struct repair repair = {.found = found, .context = context};
    struct journal_scan scan;
    uint8_t machine_id[16];
    bool exists;

    int r = journal_attach(&repair.journal, options);
    if (r < 0)
        return r;
    struct journal *journal = repair.journal;
    r = journal_settle(journal, &exists);
    if (r == 0 && !exists)
        r = -ENOENT;
    if (r == 0)
        r = journal->dir_fd = journal_io_open_dir(journal->io, journal->state_fd, JOURNAL_DIR);
    if (r >= 0) {
        r = journal_identity_read(journal, machine_id);
        if (r == -EBADMSG)
            r = identity_make(&repair);
    }
    if (r == 0)
        r = segment_load(journal, NULL);
    if (r == 0)
        r = headers_repair(&repair);
    if (r == 0)
        r = unconfirmed_repair(&repair);
    if (r == 0)
        r = journal_scan(journal, segment_oldest(journal), repair_range, &repair, &scan);
    journal_close(journal);
    return r < 0 ? r : repair.count;
}
