/* See ackpage.h. */
#include "daemon/ackpage.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { PAGE_BYTES = 4096, PAGE_MAGIC = 0x4C4C4F54, PAGE_VERSION = 1, PAGE_CREDIT_OFFSET = 64 };

/* The layout on the wire, little-endian; natural alignment gives the offsets that the protocol fixes, asserted below. */
struct layout {
    uint32_t magic;
    uint32_t version;
    uint64_t epoch;
    uint64_t acked;
    uint32_t state;
    uint32_t reserved;
    uint64_t credit_generation;
    uint32_t credit_entries;
    uint32_t reserved2;
    uint64_t heartbeat_ms;
    uint8_t reserved3[8];
    struct {
        uint64_t session[2];
        uint64_t state; /* 32 bits of it */
    } credit[ACKPAGE_CREDITS];
};
_Static_assert(sizeof(struct layout) == PAGE_BYTES, "the page is 4,096 bytes");
_Static_assert(offsetof(struct layout, acked) == 16 && offsetof(struct layout, state) == 24 &&
                   offsetof(struct layout, credit_generation) == 32 && offsetof(struct layout, credit_entries) == 40 &&
                   offsetof(struct layout, heartbeat_ms) == 48 && offsetof(struct layout, credit) == PAGE_CREDIT_OFFSET,
               "offsets are the protocol's");

static const uint32_t STATE_MORE = UINT32_C(1) << 31;

struct ackpage {
    struct layout *map;
    enum ackpage_state state;
    size_t credits; /* in the table … */
    bool more;      /* … and others */
};

int ackpage_map(struct ackpage **ret, int fd)
{
    const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
    struct ackpage *page;
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    void *map;

    /* Only memfds know seals: every other descriptor fails here, before anything that might block on it. */
    if (seals < 0 || (seals & wanted) != wanted)
        return -EINVAL;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (status.st_size != PAGE_BYTES)
        return -EINVAL;
    map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return errno == EPERM || errno == EACCES ? -EINVAL : -errno; /* sealed against writing, or opened read-only */
    page = calloc(1, sizeof(*page));
    if (!page) {
        munmap(map, PAGE_BYTES);
        return -ENOMEM;
    }
    page->map = map;
    *ret = page;
    return 0;
}

void ackpage_unmap(struct ackpage *page)
{
    if (page)
        munmap(page->map, PAGE_BYTES);
    free(page);
}

/* Never the same twice, in any page or run: a reader that was held up for long sees that the table is another. Even; epochs grow faster than tables are
 * written. */
static uint64_t next_generation(uint64_t at_least)
{
    static uint64_t last;

    if (last < at_least)
        last = at_least + (at_least & 1);
    return last += 2;
}

/* Release, word by word: who sees a word of the new table sees the odd generation before it, and reads again. Should we be interrupted for long, readers
 * make do with what they see: an entry that changes says 0, ok, meanwhile, never what was meant for another session. */
static void write_credit(struct layout *map, const struct ackpage_credit *entries, size_t count, uint64_t generation)
{
    __atomic_store_n(&map->credit_generation, htole64(generation - 1), __ATOMIC_RELEASE);
    __atomic_store_n(&map->credit_entries, htole32((uint32_t)count), __ATOMIC_RELEASE);
    for (size_t i = 0; i < ACKPAGE_CREDITS; i++) {
        uint64_t id[2] = {0};

        if (i < count)
            memcpy(id, entries[i].session, sizeof(id));
        __atomic_store_n(&map->credit[i].state, 0, __ATOMIC_RELEASE);
        __atomic_store_n(&map->credit[i].session[0], id[0], __ATOMIC_RELEASE);
        __atomic_store_n(&map->credit[i].session[1], id[1], __ATOMIC_RELEASE);
        __atomic_store_n(&map->credit[i].state, htole64(i < count ? entries[i].state : 0), __ATOMIC_RELEASE);
    }
    __atomic_store_n(&map->credit_generation, htole64(generation), __ATOMIC_RELEASE);
}

static void write_state(struct ackpage *page)
{
    uint32_t state = (uint32_t)page->state | (page->more ? STATE_MORE : 0);

    __atomic_store_n(&page->map->state, htole32(state), __ATOMIC_RELEASE);
}

void ackpage_begin(struct ackpage *page, uint64_t epoch, uint64_t acked, enum ackpage_state state,
                   uint64_t now_boottime_ms)
{
    page->credits = 0;
    page->more = false;
    write_credit(page->map, NULL, 0, next_generation(epoch));
    page->map->magic = htole32(PAGE_MAGIC);
    page->map->version = htole32(PAGE_VERSION);
    ackpage_set_acked(page, acked);
    ackpage_set_state(page, state);
    ackpage_set_heartbeat(page, now_boottime_ms);
    __atomic_store_n(&page->map->epoch, htole64(epoch), __ATOMIC_RELEASE);
}

void ackpage_set_acked(struct ackpage *page, uint64_t acked)
{
    __atomic_store_n(&page->map->acked, htole64(acked), __ATOMIC_RELEASE);
}

void ackpage_set_state(struct ackpage *page, enum ackpage_state state)
{
    page->state = state;
    write_state(page);
}

void ackpage_set_heartbeat(struct ackpage *page, uint64_t now_boottime_ms)
{
    __atomic_store_n(&page->map->heartbeat_ms, htole64(now_boottime_ms), __ATOMIC_RELEASE);
}

void ackpage_set_credit(struct ackpage *page, const struct ackpage_credit *entries, size_t count, bool more)
{
    assert(count <= ACKPAGE_CREDITS);
    if (count > 0 || page->credits > 0)
        write_credit(page->map, entries, count, next_generation(0));
    page->credits = count;
    if (more != page->more) {
        page->more = more;
        write_state(page);
    }
}
