/* Where the log ends after a crash, and what of it is damaged.
 *
 * Every record and segment header carries the durable LSN of the moment it was appended. The highest that is
 * found, `vouched`, divides two kinds of bad bytes: below it they were acknowledged, so this is damage, which
 * is reported and left alone; at or above it nobody was promised anything, so the first bad place there is
 * where the log ends. What follows the end is kept aside, then zeroed and synced before anything is appended:
 * a record that was written and never synced must not come alive later behind a new one. */
#include "daemon/journal_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef int damaged_fn(void *context, struct segment *segment, uint64_t from, uint64_t to, int64_t before_us);

struct walk {
    struct journal *journal;
    struct window window;
    uint64_t threshold; /* the first bad place at or above it is the end */
    bool to_the_end;    /* go on behind the end, for the sake of `vouched` */
    bool ended;
    damaged_fn *damaged;
    void *context;
    struct journal_scan *scan;
};

static void walk_end(struct walk *walk, struct segment *segment, uint64_t lsn)
{
    if (walk->ended)
        return;
    walk->ended = true;
    walk->scan->end = lsn;
    walk->scan->last = segment;
}

static void walk_record(struct walk *walk, const struct journal_record *record, uint64_t durable)
{
    struct journal_scan *scan = walk->scan;

    if (durable > scan->vouched)
        scan->vouched = durable;
    if (walk->ended)
        return;
    scan->last_us = record->received_us;
    if (record->kind != JOURNAL_MARK)
        scan->data_end = record->end_lsn;
}

/* Walks one segment. Returns 1 at the end of the log, unless the walk goes on behind it. */
static int walk_segment(struct walk *walk, struct segment *segment, int fd)
{
    struct journal *journal = walk->journal;
    uint64_t lsn = segment->base, capacity_end = segment_capacity_end(segment);
    uint64_t stop = segment->end < capacity_end ? segment->end : capacity_end;
    struct journal_record record;
    uint64_t durable;
    int r;

    walk->window.size = 0;
    while (lsn < segment->end) {
        r = window_record(&walk->window, journal->io, fd, journal->seed, segment->base, lsn, stop, &record, &durable);
        if (r < 0 && r != -EBADMSG)
            return r;
        if (r == 0) {
            walk_record(walk, &record, durable);
            lsn = record.end_lsn;
            continue;
        }
        if (lsn >= walk->threshold) {
            walk_end(walk, segment, lsn);
            if (!walk->to_the_end)
                return 1;
        }
        r = window_search(&walk->window, journal->io, fd, journal->seed, segment->base, lsn + 1, stop, &record,
                          &durable);
        if (r < 0 && r != -ENOENT)
            return r;
        uint64_t to = r == 0 ? record.lsn : segment->end == LSN_MAX ? stop : segment->end;
        if (lsn < walk->threshold && walk->damaged) {
            r = walk->damaged(walk->context, segment, lsn, to, walk->scan->last_us);
            if (r != 0)
                return r;
        }
        if (to == stop && segment->end == LSN_MAX) {
            walk_end(walk, segment, to);
            return 0;
        }
        lsn = to;
    }
    return 0;
}

static int walk_log(struct walk *walk, struct segment *from)
{
    const struct journal_io *io = walk->journal->io;
    struct segment *before = NULL;
    int r = 0;

    for (struct segment *segment = from; segment && r == 0; segment = segment->next) {
        if (segment_superseded(segment))
            continue;
        if (!segment->blank && segment->durable > walk->scan->vouched)
            walk->scan->vouched = segment->durable;
        if (segment->blank && segment->base >= walk->threshold) {
            if (!before)
                return -EBADMSG;
            walk_end(walk, before, segment->base);
            if (!walk->to_the_end)
                return 1;
        } else if (segment->blank && walk->damaged) {
            r = walk->damaged(walk->context, segment, segment->base, segment->base, walk->scan->last_us);
            if (r != 0)
                return r;
        }
        int fd = journal_io_open(io, walk->journal->dir_fd, segment->name, O_RDONLY);
        if (fd < 0)
            return fd;
        r = walk_segment(walk, segment, fd);
        journal_io_close(io, &fd);
        before = segment;
    }
    return r;
}

int journal_scan(struct journal *journal, struct segment *from, damaged_fn *damaged, void *context,
                 struct journal_scan *ret)
{
    assert(from);
    struct journal_scan scan = {.end = from->base, .data_end = from->base, .last_us = from->last_us, .last = from};
    struct walk walk = {.journal = journal, .to_the_end = true, .scan = &scan};

    int r = walk_log(&walk, from);
    if (r == 0 && scan.vouched > scan.end) {
        /* Bad bytes below `vouched`: once more, now that it is known which of them are damage. */
        uint64_t vouched = scan.vouched;
        scan = (struct journal_scan){
            .vouched = vouched, .end = from->base, .data_end = from->base, .last_us = from->last_us, .last = from};
        walk.threshold = vouched;
        walk.to_the_end = walk.ended = false;
        walk.damaged = damaged;
        walk.context = context;
        r = walk_log(&walk, from);
    }
    window_done(&walk.window);
    if (r < 0)
        return r;
    *ret = scan;
    return 0;
}

/* The tail. */

/* The LSN behind the last byte that is not zero, at least `from`. */
static int last_used(struct journal *journal, int fd, const struct segment *segment, uint64_t from, uint64_t *ret)
{
    uint8_t bytes[16 * 1024];
    uint64_t used = from, end = segment_capacity_end(segment);

    for (uint64_t lsn = from; lsn < end;) {
        size_t size = end - lsn < sizeof bytes ? (size_t)(end - lsn) : sizeof bytes;
        ssize_t n = journal_io_read(journal->io, fd, bytes, size, segment_offset(segment->base, lsn));
        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        for (ssize_t i = n; i > 0; i--)
            if (bytes[i - 1] != 0) {
                used = lsn + (uint64_t)i;
                break;
            }
        lsn += (uint64_t)n;
    }
    *ret = used;
    return 0;
}

int journal_keep_aside(struct journal *journal, struct segment *segment, const char *kind, uint64_t from, uint64_t to,
                       char name[64])
{
    const struct journal_io *io = journal->io;
    uint8_t bytes[16 * 1024];
    int fd = -1, out = -1, r;

    /* Bytes kept at an earlier start are not overwritten, within reason. */
    for (int n = 0;; n++) {
        snprintf(name, 64, n ? "%s-%016" PRIx64 ".%d.bin" : "%s-%016" PRIx64 ".bin", kind, from, n);
        r = journal_io_open(io, journal->state_fd, name, O_RDONLY);
        if (r < 0)
            break;
        journal_io_close(io, &r);
        if (n == 99) { /* a machine that falls over at every start must not fill the disk with these */
            r = -ENOENT;
            break;
        }
    }
    if (r != -ENOENT)
        return r;
    r = out = journal_io_open(io, journal->state_fd, "aside.tmp", O_WRONLY | O_CREAT | O_TRUNC);
    if (r < 0)
        return r;
    for (uint64_t lsn = from; lsn < to;) {
        while (segment_superseded(segment) || lsn >= segment->end) {
            segment = segment->next;
            assert(segment); /* the last one goes on without end */
            journal_io_close(io, &fd);
        }
        if (fd < 0) {
            r = fd = journal_io_open(io, journal->dir_fd, segment->name, O_RDONLY);
            if (r < 0)
                goto out;
        }
        uint64_t end = segment->end < to ? segment->end : to;
        size_t size = end - lsn < sizeof bytes ? (size_t)(end - lsn) : sizeof bytes;
        memset(bytes, 0, size); /* for what the file does not have */
        ssize_t n = journal_io_read(io, fd, bytes, size, segment_offset(segment->base, lsn));
        r = n < 0 ? (int)n : journal_io_write(io, out, bytes, size, lsn - from);
        if (r < 0)
            goto out;
        lsn += size;
    }
    r = io->fsync(io->context, out);
    if (r == 0)
        r = io->rename(io->context, journal->state_fd, "aside.tmp", name);
    if (r == 0)
        r = io->fsync(io->context, journal->state_fd);
out:
    journal_io_close(io, &fd);
    journal_io_close(io, &out);
    if (r < 0)
        (void)!journal_io_unlink(io, journal->state_fd, "aside.tmp");
    return r;
}

/* Measures what lies behind the end, here and in segments that follow, and keeps it aside. */
static int tail_keep(struct journal *journal, const struct journal_scan *scan, struct journal_report *report)
{
    char name[64];
    uint64_t top = scan->end;

    for (struct segment *s = scan->last; s; s = s->next) {
        uint64_t used, from = s == scan->last ? scan->end : s->base;
        if (segment_superseded(s))
            continue;
        int fd = journal_io_open(journal->io, journal->dir_fd, s->name, O_RDONLY);
        if (fd < 0)
            return fd;
        int r = last_used(journal, fd, s, from, &used);
        journal_io_close(journal->io, &fd);
        if (r < 0)
            return r;
        if (used > s->end)
            used = s->end; /* what was superseded stays so */
        if (used > from) {
            report->torn_bytes += used - from;
            top = used;
        }
    }
    if (top == scan->end)
        return 0;
    int r = journal_keep_aside(journal, scan->last, "torn", scan->end, top, name);
    if (r == 0)
        snprintf(report->torn_path, sizeof report->torn_path, "%s/%s", journal->state_dir, name);
    return r == -ENOSPC || r == -EDQUOT
               ? 0
               : r; /* nobody was promised these bytes; a full disk must not keep us from the rest */
}

/* Deletes the segments behind the end, and those that are superseded. Then sets anew where the others end. */
static int tail_delete(struct journal *journal, const struct journal_scan *scan)
{
    const struct journal_io *io = journal->io;
    bool behind = false, deleted = false;
    struct segment *list = journal->first;
    int r = 0;

    journal->first = journal->last = NULL;
    for (struct segment *s = list, *next; s; s = next) {
        next = s->next;
        if (!behind && !segment_superseded(s)) {
            behind = s == scan->last;
            segment_link(journal, s);
            continue;
        }
        if (r == 0)
            r = journal_io_unlink(io, journal->dir_fd, s->name);
        deleted = true;
        journal->disk_bytes -= s->bytes;
        segment_free(io, s);
    }
    return r < 0 || !deleted ? r : io->fsync(io->context, journal->dir_fd);
}

static int rewrite_bytes(struct journal *journal, int fd, uint64_t offset, uint64_t size)
{
    uint8_t bytes[16 * 1024];

    while (size > 0) {
        size_t part = size < sizeof bytes ? (size_t)size : sizeof bytes;
        ssize_t n = journal_io_read(journal->io, fd, bytes, part, offset);
        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        int r = journal_io_write(journal->io, fd, bytes, (size_t)n, offset);
        if (r < 0)
            return r;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return 0;
}

/* Zeroes what is behind the end and makes everything in front of it durable. What no record vouches for is
 * written once more: after an fdatasync that failed in an earlier run the page cache may hold, and call
 * clean, what the disk never got. */
static int tail_sync(struct journal *journal, const struct journal_scan *scan)
{
    const struct journal_io *io = journal->io;
    uint64_t used;
    int r = 0;

    for (struct segment *s = journal->first; s && r == 0; s = s->next) {
        if (s->end <= scan->vouched)
            continue;
        r = s->fd = journal_io_open(io, journal->dir_fd, s->name, O_RDWR);
        if (r < 0)
            return r;
        uint64_t from = s->base > scan->vouched ? s->base : scan->vouched;
        uint64_t to = s->end < scan->end ? s->end : scan->end;
        if (to > segment_capacity_end(s))
            to = segment_capacity_end(s);
        r = rewrite_bytes(journal, s->fd, 0, SEGMENT_HEADER);
        if (r == 0 && from < to)
            r = rewrite_bytes(journal, s->fd, segment_offset(s->base, from), to - from);
        if (r == 0 && s == journal->last) {
            r = last_used(journal, s->fd, s, scan->end, &used);
            if (r == 0)
                r = journal_io_zero(io, s->fd, segment_offset(s->base, scan->end), used - scan->end);
        }
        if (r == 0)
            r = io->fdatasync(io->context, s->fd);
        if (s != journal->last)
            journal_io_close(io, &s->fd);
    }
    return r < 0 ? r : io->fsync(io->context, journal->dir_fd);
}

struct recovery {
    struct journal *journal;
    struct journal_report *report;
};

static int report_damage(void *context, struct segment *segment, uint64_t from, uint64_t to, int64_t before_us)
{
    struct recovery *recovery = context;
    struct journal_report *report = recovery->report;

    (void)before_us;
    if (from == to || report->damaged_from == report->damaged_to) {
        report->damaged_from = from;
        report->damaged_to = to;
        snprintf(report->damaged_path, sizeof report->damaged_path, "%s/" JOURNAL_DIR "/%s",
                 recovery->journal->state_dir, segment->name);
    }
    return from == to ? -EBADMSG : 0;
}

int journal_recover(struct journal *journal, struct journal_report *report)
{
    struct recovery recovery = {journal, report};
    struct segment *from = segment_oldest(journal);
    struct journal_scan scan;
    uint64_t vouched = 0;

    /* All below the highest durable LSN in a header was durable then; readers check it when they come by. */
    for (struct segment *s = journal->first; s; s = s->next)
        if (!s->blank && s->durable > vouched)
            vouched = s->durable;
    for (struct segment *s = from; s; s = s->next)
        if (!segment_superseded(s) && !s->blank && s->base <= vouched)
            from = s;
    int r = journal_scan(journal, from, report_damage, &recovery, &scan);
    if (r == -EBADMSG && !report->damaged_path[0])
        snprintf(report->damaged_path, sizeof report->damaged_path, "%s/" JOURNAL_DIR "/%s", journal->state_dir,
                 from->name);
    if (r == 0)
        r = tail_keep(journal, &scan, report);
    if (r == 0)
        r = tail_delete(journal, &scan);
    if (r == 0)
        r = tail_sync(journal, &scan);
    if (r < 0)
        return r;
    journal->oldest = segment_oldest(journal)->base;
    journal->durable = journal->written = journal->end = journal->tip = scan.end;
    journal->carried = scan.vouched;
    journal->data_end = scan.data_end;
    journal->last_us = scan.last_us;
    return 0;
}
