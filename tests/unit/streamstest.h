/* What the tests of daemon/streams share: a table, a pretended journal, and pages that a worker's side reads. */
#ifndef TOLL_TESTS_STREAMSTEST_H
#define TOLL_TESTS_STREAMSTEST_H

#include "daemon/streams.h"

#include "tests/unit/datagrams.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

enum { EPOCH = 77, UID = 1000, STALL = 30 * 1000 * 1000 };

static struct streams *streams;
static struct streams_options options;
static uint64_t lsn; /* of the pretended journal's end */
static int64_t now_us;

/* The worker's side of a page. */
struct worker_page {
    int fd;
    const uint8_t *map;
};

static inline void remake(void)
{
    streams_free(streams);
    streams = streams_new(&options);
    ck_assert_ptr_nonnull(streams);
}

static inline void setup(void)
{
    options = (struct streams_options){
        .max = 100, .max_per_uid = 50, .pages_max = 20, .pages_max_per_uid = 10, .epoch = EPOCH, .stall_us = STALL};
    lsn = 0;
    now_us = 1000;
    remake();
}

static inline void teardown(void)
{
    streams_free(streams);
}

static inline struct stream *get(uint32_t uid, unsigned n, uint64_t base)
{
    uint8_t id[16];
    struct stream *stream;

    id_of(id, n);
    stream = streams_get(streams, uid, id, base, now_us);
    if (!stream) /* check notes where each of its assertions stands, in a file: too slow for what is called so often */
        ck_abort_msg("no memory for stream %u", n);
    return stream;
}

/* A datagram with numbers [seq, end) is journaled; returns the LSN after it. */
static inline uint64_t journal_for(uint32_t uid, unsigned n, uint64_t base, uint64_t seq, uint64_t end)
{
    struct stream *stream = get(uid, n, base);

    if (stream_note(stream, seq, end) < 0)
        ck_abort_msg("numbers of stream %u are refused", n);
    lsn += 100;
    stream_journaled(streams, stream, lsn);
    return lsn;
}

static inline uint64_t journal_datagram(uint64_t base, uint64_t seq, uint64_t end)
{
    return journal_for(UID, 1, base, seq, end);
}

static inline struct worker_page page_new(void)
{
    struct worker_page page = {.fd = memfd_create("page", MFD_CLOEXEC | MFD_ALLOW_SEALING)};

    ck_assert_int_ge(page.fd, 0);
    ck_assert_int_eq(ftruncate(page.fd, 4096), 0);
    ck_assert_int_eq(fcntl(page.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    page.map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, page.fd, 0);
    ck_assert_ptr_ne(page.map, MAP_FAILED);
    return page;
}

static inline void page_free(struct worker_page *page)
{
    munmap((void *)page->map, 4096);
    close(page->fd);
}

static inline uint64_t page_u64(const struct worker_page *page, size_t offset)
{
    uint64_t value = 0;

    for (size_t i = 8; i-- > 0;)
        value = value << 8 | page->map[offset + i];
    return value;
}

static inline uint64_t page_acked(const struct worker_page *page)
{
    return page_u64(page, 16);
}

static inline int attach_as(uint32_t uid, unsigned n, const struct worker_page *worker, uint32_t pid)
{
    struct ackpage *page;
    int r;

    ck_assert_int_eq(ackpage_map(&page, worker->fd), 0);
    r = stream_attach(streams, get(uid, n, 1), page, pid, 5000);
    if (r < 0)
        ackpage_unmap(page);
    return r;
}

static inline void attach(unsigned n, const struct worker_page *worker)
{
    ck_assert_int_eq(attach_as(UID, n, worker, (uint32_t)getpid()), 0);
}

struct viewed {
    uint8_t id[16];
    uint32_t uid;
    bool found;
    struct stream_view view;
};

static inline void pick(void *context, const struct stream_view *view)
{
    struct viewed *viewed = context;

    if (view->uid == viewed->uid && memcmp(view->id, viewed->id, 16) == 0) {
        viewed->found = true;
        viewed->view = *view;
    }
}

static inline struct viewed view_of(uint32_t uid, unsigned n)
{
    struct viewed viewed = {.uid = uid};

    id_of(viewed.id, n);
    streams_foreach(streams, now_us, pick, &viewed);
    return viewed;
}

static inline uint64_t acked(void)
{
    return view_of(UID, 1).view.acked;
}

#endif
