/* Reading the log: windows on a segment (for readers, recovery and repair), and readers, which see durable
 * records only. */
#include "daemon/journal_internal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

int window_fill(struct window *window, const struct journal_io *io, int fd, uint64_t base, uint64_t lsn, size_t need,
                uint64_t limit, const uint8_t **ret, size_t *ret_size)
{
    uint64_t left = lsn < limit ? limit - lsn : 0;

    if (left == 0) {
        *ret = window->buf;
        *ret_size = 0;
        return 0;
    }
    if (need > left)
        need = (size_t)left;
    if (lsn < window->lsn || lsn > window->lsn + window->size || window->lsn + window->size - lsn < need) {
        if (window->cap < need || !window->buf) {
            size_t cap = need > WINDOW_BYTES ? need : WINDOW_BYTES;
            uint8_t *buf = realloc(window->buf, cap);
            if (!buf)
                return -ENOMEM;
            window->buf = buf;
            window->cap = cap;
        }
        window->size = 0;
        ssize_t n = journal_io_read(io, fd, window->buf, left < window->cap ? (size_t)left : window->cap,
                                    segment_offset(base, lsn));
        if (n < 0)
            return (int)n;
        window->lsn = lsn;
        window->size = (size_t)n;
    }
    uint64_t have = window->lsn + window->size - lsn;
    *ret = window->buf + (lsn - window->lsn);
    *ret_size = (size_t)(have < left ? have : left);
    return 0;
}

void window_done(struct window *window)
{
    free(window->buf);
    *window = (struct window){0};
}

int window_record(struct window *window, const struct journal_io *io, int fd, uint32_t seed, uint64_t base,
                  uint64_t lsn, uint64_t limit, struct journal_record *ret, uint64_t *ret_durable)
{
    const uint8_t *p;
    size_t size;

    int r = window_fill(window, io, fd, base, lsn, JOURNAL_RECORD_HEADER, limit, &p, &size);
    if (r < 0)
        return r;
    r = journal_record_decode(seed, lsn, p, size, ret, ret_durable);
    if (r != -EAGAIN || size < JOURNAL_RECORD_HEADER)
        return r == -EAGAIN ? -EBADMSG : r;
    r = window_fill(window, io, fd, base, lsn, (size_t)journal_record_bytes(p), limit, &p, &size);
    if (r < 0)
        return r;
    r = journal_record_decode(seed, lsn, p, size, ret, ret_durable);
    return r == -EAGAIN ? -EBADMSG : r;
}

static inline uint64_t le64_at(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return le64toh(value);
}

int window_search(struct window *window, const struct journal_io *io, int fd, uint32_t seed, uint64_t base,
                  uint64_t lsn, uint64_t limit, struct journal_record *ret, uint64_t *ret_durable)
{
    const uint8_t *p;
    size_t size;

    for (;;) {
        int r = window_fill(window, io, fd, base, lsn, JOURNAL_RECORD_HEADER, limit, &p, &size);
        if (r < 0)
            return r;
        if (size < JOURNAL_RECORD_HEADER)
            return -ENOENT;
        /* A header says where it stands: look for that first. */
        size_t i = 0, last = size - JOURNAL_RECORD_HEADER;
        while (i <= last && le64_at(p + i + 8) != lsn + i)
            i++;
        lsn += i;
        if (i > last)
            continue;
        r = window_record(window, io, fd, seed, base, lsn, limit, ret, ret_durable);
        if (r != -EBADMSG)
            return r;
        lsn++;
    }
}

/* Readers. */

struct journal_reader {
    struct journal *journal;
    struct window window;
    uint64_t lsn;
    uint64_t number, base; /* of the segment that fd is */
    int fd;                /* -1: none; its own, so that the segment may be closed or deleted meanwhile */
};

int journal_reader_new(struct journal_reader **ret, struct journal *journal)
{
    struct journal_reader *reader = calloc(1, sizeof *reader);

    if (!reader)
        return -ENOMEM;
    reader->journal = journal;
    reader->fd = -1;
    reader->lsn = journal->oldest;
    *ret = reader;
    return 0;
}

void journal_reader_free(struct journal_reader *reader)
{
    if (!reader)
        return;
    journal_io_close(reader->journal->io, &reader->fd);
    window_done(&reader->window);
    free(reader);
}

int journal_reader_seek(struct journal_reader *reader, uint64_t lsn)
{
    if (lsn < reader->journal->oldest || lsn > reader->journal->durable)
        return -ERANGE;
    reader->lsn = lsn;
    return 0;
}

uint64_t journal_reader_lsn(const struct journal_reader *reader)
{
    return reader->lsn;
}

/* Makes the segment that holds the reader's LSN the open one. *ret_end is where it ends for now: read the
 * durable LSN before. */
static int reader_open(struct journal_reader *reader, uint64_t *ret_end)
{
    struct journal *journal = reader->journal;
    char name[SEGMENT_NAME];
    uint64_t number = 0, base = 0, end = 0;

    pthread_mutex_lock(&journal->lock);
    for (const struct segment *s = journal->first; s; s = s->next)
        if (s->base <= reader->lsn && reader->lsn < s->end) {
            number = s->number;
            base = s->base;
            end = s->end;
            memcpy(name, s->name, sizeof name);
        }
    pthread_mutex_unlock(&journal->lock);
    if (end == 0)
        return -ERANGE;
    if (reader->fd < 0 || reader->number != number) {
        journal_io_close(journal->io, &reader->fd);
        int fd = journal_io_open(journal->io, journal->dir_fd, name, O_RDONLY);
        if (fd < 0)
            return fd == -ENOENT ? -ERANGE : fd; /* collected this moment */
        reader->fd = fd;
        reader->number = number;
        reader->base = base;
    }
    *ret_end = end;
    return 0;
}

/* A watermark from before a repair may lie within what is a hole now: gives the hole from there on. -EBADMSG: it does not. */
static int reader_rest_of_hole(struct journal_reader *reader, uint64_t end, struct journal_record *ret)
{
    struct journal *journal = reader->journal;
    struct journal_record record = {.end_lsn = reader->base};
    uint64_t ignored;

    while (record.end_lsn <= reader->lsn) {
        int r = window_record(&reader->window, journal->io, reader->fd, journal->seed, reader->base, record.end_lsn,
                              end, &record, &ignored);
        if (r < 0)
            return r;
    }
    if (record.kind != JOURNAL_HOLE)
        return -EBADMSG;
    size_t past = (size_t)(reader->lsn - record.lsn);
    past = past < JOURNAL_RECORD_HEADER ? 0 : past - JOURNAL_RECORD_HEADER;
    record.lsn = reader->lsn;
    record.payload = (const uint8_t *)record.payload + past;
    record.size -= past;
    *ret = record;
    return 0;
}

int journal_reader_next(struct journal_reader *reader, struct journal_record *ret)
{
    struct journal *journal = reader->journal;
    struct window *window = &reader->window;
    struct journal_record record;
    uint64_t ignored, end, limit = journal->durable;
    int r;

    if (reader->lsn >= limit)
        return -EAGAIN;
    /* What is in the window was durable when it was read, and stays as it was. */
    if (reader->lsn >= window->lsn && reader->lsn < window->lsn + window->size) {
        size_t at = (size_t)(reader->lsn - window->lsn);
        if (journal_record_decode(journal->seed, reader->lsn, window->buf + at, window->size - at, &record, &ignored) ==
            0)
            goto found;
    }
    r = reader_open(reader, &end);
    if (r < 0)
        return r;
    window->size = 0;
    r = window_record(window, journal->io, reader->fd, journal->seed, reader->base, reader->lsn,
                      end < limit ? end : limit, &record, &ignored);
    if (r == -EBADMSG)
        r = reader_rest_of_hole(reader, end < limit ? end : limit, &record);
    if (r < 0)
        return r;
found:
    reader->lsn = record.end_lsn;
    *ret = record;
    return 0;
}
