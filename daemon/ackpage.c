/* See ackpage.h. */
#include "daemon/ackpage.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { PAGE_BYTES = 4096, PAGE_MAGIC = 0x4C4C4F54, PAGE_VERSION = 1, PAGE_CREDIT_OFFSET = 64 };

/* The layout on the wire, little-endian; natural alignment gives the offsets that the protocol fixes, asserted below. */
struct ackpage {
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
    uint8_t credit[PAGE_BYTES - PAGE_CREDIT_OFFSET];
};
_Static_assert(sizeof(struct ackpage) == PAGE_BYTES, "the page is 4,096 bytes");
_Static_assert(offsetof(struct ackpage, acked) == 16 && offsetof(struct ackpage, state) == 24 &&
                   offsetof(struct ackpage, credit_generation) == 32 &&
                   offsetof(struct ackpage, credit_entries) == 40 && offsetof(struct ackpage, heartbeat_ms) == 48 &&
                   offsetof(struct ackpage, credit) == PAGE_CREDIT_OFFSET,
               "offsets are the protocol's");

int ackpage_map(struct ackpage **ret, int fd)
{
    const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
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
    *ret = map;
    return 0;
}

void ackpage_unmap(struct ackpage *page)
{
    if (page)
        munmap(page, PAGE_BYTES);
}

void ackpage_begin(struct ackpage *page, uint64_t epoch, uint64_t acked, enum ackpage_state state,
                   uint64_t now_boottime_ms)
{
    memset(page->credit, 0, sizeof(page->credit));
    page->magic = htole32(PAGE_MAGIC);
    page->version = htole32(PAGE_VERSION);
    page->credit_generation = 0;
    page->credit_entries = 0;
    ackpage_set_acked(page, acked);
    ackpage_set_state(page, state);
    ackpage_set_heartbeat(page, now_boottime_ms);
    __atomic_store_n(&page->epoch, htole64(epoch), __ATOMIC_RELEASE);
}

void ackpage_set_acked(struct ackpage *page, uint64_t acked)
{
    __atomic_store_n(&page->acked, htole64(acked), __ATOMIC_RELEASE);
}

void ackpage_set_state(struct ackpage *page, enum ackpage_state state)
{
    __atomic_store_n(&page->state, htole32((uint32_t)state), __ATOMIC_RELEASE);
}

void ackpage_set_heartbeat(struct ackpage *page, uint64_t now_boottime_ms)
{
    __atomic_store_n(&page->heartbeat_ms, htole64(now_boottime_ms), __ATOMIC_RELEASE);
}
