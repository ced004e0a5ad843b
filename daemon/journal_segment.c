/* Segment files: their names, headers, making, and the list of them. Does not look at records.
 *
 * A file is named <running number>-<base LSN in hex>.seg. Running numbers order them; a segment's records end where a
 * later one's begin (the lowest base of all that have a higher number), so one that is begun below the end of others
 * takes their place from there on. That is how journal_rewrite() supersedes what a failed sync left in doubt.
 *
 * The version rule: a program reads only the versions it knows and refuses any other with -ENOTSUP, leaving the files
 * alone. Whoever changes the header, the record (journal_record.c) or the meaning
 * of any field raises JOURNAL_VERSION, and either reads the older one too or says in the release notes that the
 * journal has to be drained first. Magic, version and checksum of the header stay where they are for good. A segment's
 * records are of its version: what comes after those of an older one goes into a new segment.
 *   1: the first
 *   2: records may be JOURNAL_INDEXED
 *
 *   offset  0: magic "TOLLJRNL"
 *           8: u32 version
 *          12: u32 running number
 *          16: the journal's UUID
 *          32: u64 base LSN
 *          40: u64 durable LSN when it was begun
 *          48: i64 receive time in µs of the record before the base; 0: none
 *          56: u32 zero
 *          60: u32 CRC-32C of bytes 0 to 59
 *          64: records, then zeros
 * Little-endian. */
#include "daemon/journal_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/crc32c.h"

static const char magic[8] = {'T', 'O', 'L', 'L', 'J', 'R', 'N', 'L'};

void segment_header_encode(const uint8_t uuid[16], const struct segment_header *header, uint8_t out[SEGMENT_HEADER])
{
    memset(out, 0, SEGMENT_HEADER);
    memcpy(out, magic, sizeof magic);
    put_le(out + 8, JOURNAL_VERSION, 4);
    put_le(out + 12, header->number, 4);
    memcpy(out + 16, uuid, 16);
    put_le(out + 32, header->base, 8);
    put_le(out + 40, header->durable, 8);
    put_le(out + 48, (uint64_t)header->before_us, 8);
    put_le(out + 60, crc32c(0, out, 60), 4);
}

int segment_header_decode(const uint8_t *uuid, const uint8_t in[SEGMENT_HEADER], struct segment_header *ret,
                          uint8_t *ret_uuid)
{
    static const uint8_t blank[SEGMENT_HEADER];

    if (memcmp(in, blank, SEGMENT_HEADER) == 0)
        return -ENODATA;
    if (memcmp(in, magic, sizeof magic) != 0 || get_le(in + 60, 4) != crc32c(0, in, 60))
        return -EBADMSG;
    if (get_le(in + 8, 4) < JOURNAL_VERSION_OLDEST || get_le(in + 8, 4) > JOURNAL_VERSION)
        return -ENOTSUP;
    if (uuid && memcmp(in + 16, uuid, 16) != 0)
        return -EBADMSG;
    *ret = (struct segment_header){
        .number = get_le(in + 12, 4),
        .version = (unsigned)get_le(in + 8, 4),
        .base = get_le(in + 32, 8),
        .durable = get_le(in + 40, 8),
        .before_us = (int64_t)get_le(in + 48, 8),
    };
    if (ret_uuid)
        memcpy(ret_uuid, in + 16, 16);
    return 0;
}

void segment_name(char out[SEGMENT_NAME], uint64_t number, uint64_t base)
{
    snprintf(out, SEGMENT_NAME, "%08" PRIu32 "-%016" PRIx64 ".seg", (uint32_t)number, base);
}

bool segment_name_parse(const char *name, uint64_t *ret_number, uint64_t *ret_base)
{
    uint32_t number;
    uint64_t base;
    char again[SEGMENT_NAME];

    if (sscanf(name, "%" SCNu32 "-%" SCNx64, &number, &base) != 2)
        return false;
    segment_name(again, number, base);
    if (strcmp(again, name) != 0)
        return false;
    *ret_number = number;
    *ret_base = base;
    return true;
}

void segment_free(const struct journal_io *io, struct segment *segment)
{
    if (!segment)
        return;
    journal_io_close(io, &segment->fd);
    free(segment);
}

void segment_link(struct journal *journal, struct segment *segment)
{
    struct segment **at = &journal->first;

    segment->end = LSN_MAX;
    for (; *at; at = &(*at)->next)
        if ((*at)->end > segment->base)
            (*at)->end = segment->base;
    segment->next = NULL;
    *at = segment;
    journal->last = segment;
}

void segment_unlink(struct journal *journal, struct segment *segment)
{
    struct segment *before = NULL;

    for (struct segment **at = &journal->first; *at; before = *at, at = &(*at)->next) {
        if (*at != segment)
            continue;
        *at = segment->next;
        if (journal->last == segment)
            journal->last = before;
        return;
    }
}

void segment_mark_dirty(struct journal *journal, struct segment *segment)
{
    if (segment->dirty)
        return;
    segment->dirty = true;
    segment->next_dirty = journal->dirty;
    journal->dirty = segment;
}

struct segment *segment_oldest(const struct journal *journal)
{
    struct segment *segment = journal->first;

    assert(segment);
    while (segment_superseded(segment)) {
        segment = segment->next;
        assert(segment); /* the last one never is */
    }
    return segment;
}

/* Reading the directory. */

static int segment_read(struct journal *journal, const char *name, uint64_t number, uint64_t base, bool strict,
                        struct segment **ret)
{
    const struct journal_io *io = journal->io;
    uint8_t bytes[SEGMENT_HEADER] = {0};
    struct segment_header header = {0};
    struct segment *segment = calloc(1, sizeof *segment);
    int r;

    if (!segment)
        return -ENOMEM;
    segment->number = number;
    segment->base = base;
    snprintf(segment->name, sizeof segment->name, "%s", name);
    r = segment->fd = journal_io_open(io, journal->dir_fd, name, O_RDONLY);
    if (r < 0)
        goto fail;
    int64_t size = io->size(io->context, segment->fd);
    if (size < 0) {
        r = (int)size;
        goto fail;
    }
    segment->bytes = (uint64_t)size;
    ssize_t n = journal_io_read(io, segment->fd, bytes, sizeof bytes, 0);
    if (n < 0) {
        r = (int)n;
        goto fail;
    }
    r = segment_header_decode(journal->uuid, bytes, &header, NULL);
    if (r == 0 && (header.number != number || header.base != base || header.durable > base))
        r = -EBADMSG;
    segment->blank = r == -ENODATA;
    segment->older = r == 0 && header.version < JOURNAL_VERSION;
    if (r == -EBADMSG && !strict)
        header = (struct segment_header){0};
    else if (r < 0 && r != -ENODATA)
        goto fail;
    segment->durable = header.durable;
    segment->last_us = header.before_us;
    journal_io_close(io, &segment->fd);
    *ret = segment;
    return 0;
fail:
    segment_free(io, segment);
    return r;
}

/* Reads a segment into the list at *sorted, which is by number. */
static int segment_insert(struct journal *journal, const char *name, bool strict, struct segment **sorted)
{
    struct segment *segment = NULL;
    uint64_t number, base;

    if (!segment_name_parse(name, &number, &base))
        return 0;
    int r = segment_read(journal, name, number, base, strict, &segment);
    if (r < 0)
        return r;
    while (*sorted && (*sorted)->number < number)
        sorted = &(*sorted)->next;
    segment->next = *sorted;
    *sorted = segment;
    return 0;
}

int segment_load(struct journal *journal, char ret_bad[SEGMENT_NAME])
{
    struct segment *sorted = NULL;
    char **names;

    int r = journal_io_list(journal->io, journal->dir_fd, &names);
    if (r < 0)
        return r;
    for (char **name = names; *name && r == 0; name++) {
        size_t length = strlen(*name);
        if (length > 4 && strcmp(*name + length - 4, ".tmp") == 0) /* deleting it makes room; it never was in the log */
            r = journal_io_unlink(journal->io, journal->dir_fd, *name);
        else
            r = segment_insert(journal, *name, ret_bad != NULL, &sorted);
        if (r == -EBADMSG && ret_bad)
            snprintf(ret_bad, SEGMENT_NAME, "%s", *name);
    }
    journal_io_list_free(names);
    for (struct segment *segment = sorted, *next; segment; segment = next) {
        next = segment->next;
        if (journal->last && segment->last_us != 0)
            journal->last->last_us = segment->last_us;
        segment_link(journal, segment);
        journal->disk_bytes += segment->bytes;
    }
    return r < 0 ? r : journal->first ? 0 : -EBADMSG;
}

/* Making and beginning. */

int segment_make(struct journal *journal, struct segment **ret)
{
    const struct journal_io *io = journal->io;
    uint64_t bytes = journal->options.segment_bytes;
    struct segment *segment = calloc(1, sizeof *segment);
    bool named = false;
    int r;

    if (!segment)
        return -ENOMEM;
    journal->disk_bytes += bytes;
    segment->bytes = bytes;
    snprintf(segment->name, sizeof segment->name, "segment-%u.tmp", journal->made++);
    r = segment->fd = journal_io_open(io, journal->dir_fd, segment->name, O_RDWR | O_CREAT | O_TRUNC);
    if (r < 0)
        goto fail;
    named = true;
    r = io->fallocate(io->context, segment->fd, (off_t)bytes);
    if (r == -EOPNOTSUPP)
        r = 0; /* the zeros do it */
    if (r == 0)
        r = journal_io_zero(io, segment->fd, 0, bytes);
    if (r == 0)
        r = io->fdatasync(io->context, segment->fd);
    if (r < 0)
        goto fail;
    *ret = segment;
    return 0;
fail:
    journal->disk_bytes -= bytes;
    if (named)
        (void)!journal_io_unlink(io, journal->dir_fd, segment->name);
    segment_free(io, segment);
    return r == -EDQUOT ? -ENOSPC : r;
}

static int segment_take(struct journal *journal, bool limits, struct segment **ret)
{
    int r = 0;

    pthread_mutex_lock(&journal->space_lock); /* waits for journal_collect(), which may be making one */
    pthread_mutex_lock(&journal->lock);
    struct segment *segment = journal->spare;
    journal->spare = NULL;
    pthread_mutex_unlock(&journal->lock);
    if (!segment && limits && !space_for_segment(journal))
        r = -ENOSPC;
    else if (!segment)
        r = segment_make(journal, &segment);
    if (r == -ENOSPC && limits)
        journal->full = true;
    pthread_mutex_unlock(&journal->space_lock);
    if (r == 0)
        *ret = segment;
    return r;
}

int segment_begin(struct journal *journal, uint64_t base, bool limits)
{
    const struct journal_io *io = journal->io;
    struct segment_header header = {
        .number = journal->last ? journal->last->number + 1 : 1,
        .base = base,
        .durable = journal->durable,
        .before_us = journal->last_us,
    };
    uint8_t bytes[SEGMENT_HEADER];
    char name[SEGMENT_NAME];
    struct segment *segment = NULL;

    if (limits && journal->full)
        return -ENOSPC;
    int r = segment_take(journal, limits, &segment);
    if (r < 0)
        return r;
    /* Header and name cost no wait here: the next sync covers both before any record in this segment counts as durable. But one
     * that takes the place of a whole segment has its header first: that one may be all there is of the log, and its file is
     * no use beside a later one that a disk error has left without a header. */
    segment_header_encode(journal->uuid, &header, bytes);
    segment_name(name, header.number, base);
    r = journal_io_write(io, segment->fd, bytes, sizeof bytes, 0);
    if (r == 0 && journal->last && base <= journal->last->base)
        r = io->fdatasync(io->context, segment->fd);
    if (r == 0)
        r = io->rename(io->context, journal->dir_fd, segment->name, name);
    if (r < 0) {
        (void)!journal_io_unlink(io, journal->dir_fd, segment->name);
        journal->disk_bytes -= segment->bytes;
        segment_free(io, segment);
        return r;
    }
    memcpy(segment->name, name, sizeof name);
    segment->number = header.number;
    segment->base = base;
    segment->durable = header.durable;

    pthread_mutex_lock(&journal->lock);
    if (journal->last) {
        journal->last->last_us = journal->last_us;
        if (journal->last->fd >= 0)
            segment_mark_dirty(journal, journal->last); /* so that the next sync closes it */
    }
    segment->last_us = journal->last_us;
    segment_link(journal, segment);
    segment_mark_dirty(journal, segment);
    journal->dir_dirty = true;
    pthread_mutex_unlock(&journal->lock);
    return 0;
}
