/* Makes, maps and reads the ack page. It decides nothing: resending and reattaching are stream.c's. */
#include "client/ackpage.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/hot.h"

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_EPOCH = 8,
    AT_ACKED = 16,
    AT_STATE = 24,
    AT_GENERATION = 32,
    AT_ENTRIES = 40,
    AT_HEARTBEAT = 48,
    AT_CREDIT = 64,
    CREDIT_BYTES = 24,
    CREDITS = 168,
};

/* As often the table is read again when it changes meanwhile: writing it takes less than a microsecond, but the daemon may be interrupted, or end, in
 * the midst of it. */
enum { CREDIT_TRIES = 64 };

uint64_t toll_fd_inode(int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
}

void toll_fd_close_own(int fd, uint64_t inode)
{
    if (fd >= 0 && toll_fd_inode(fd) == inode)
        close(fd);
}

int toll_ackpage_make(struct toll_ackpage *page)
{
    if (page->map)
        return 0;
    int fd = memfd_create("toll-ack", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int r = 0;
    void *map = MAP_FAILED;
    if (ftruncate(fd, TOLL_ACKPAGE_BYTES) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
        (map = mmap(NULL, TOLL_ACKPAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        r = -errno;
    if (r < 0) {
        close(fd);
        return r;
    }
    *page = (struct toll_ackpage){.fd = fd, .map = map, .inode = toll_fd_inode(fd)};
    return 0;
}

void toll_ackpage_done(struct toll_ackpage *page)
{
    if (page->map) {
        munmap((void *)page->map, TOLL_ACKPAGE_BYTES);
        toll_fd_close_own(page->fd, page->inode);
    }
    *page = (struct toll_ackpage){.fd = -1};
}

TOLL_HOT static uint32_t load32(const struct toll_ackpage *page, size_t offset)
{
    return le32toh(__atomic_load_n((const uint32_t *)(const void *)(page->map + offset), __ATOMIC_ACQUIRE));
}

TOLL_HOT static uint64_t load64(const struct toll_ackpage *page, size_t offset)
{
    return le64toh(__atomic_load_n((const uint64_t *)(const void *)(page->map + offset), __ATOMIC_ACQUIRE));
}

/* One pass over the table. Acquire loads: what the generation says afterwards is not older than they are. */
static uint32_t find_credit(const struct toll_ackpage *page, const uint64_t id[static 2])
{
    uint32_t count = load32(page, AT_ENTRIES);

    if (count > CREDITS)
        count = CREDITS;
    for (size_t at = AT_CREDIT; at < AT_CREDIT + (size_t)count * CREDIT_BYTES; at += CREDIT_BYTES)
        if (load64(page, at) == id[0] && load64(page, at + 8) == id[1])
            return load32(page, at + 16);
    return load32(page, AT_STATE) >> 31; /* others did not fit: perhaps low */
}

bool toll_ackpage_look(const struct toll_ackpage *page, const uint8_t session_id[static 16], uint32_t *ret)
{
    struct toll_ackpage now = {.map = __atomic_load_n(&page->map, __ATOMIC_ACQUIRE)};
    uint64_t id[2], generation;
    uint32_t state;

    *ret = 0;
    if (!now.map || load32(&now, AT_MAGIC) != TOLL_ACKPAGE_MAGIC || load32(&now, AT_VERSION) != TOLL_ACKPAGE_VERSION)
        return true;
    memcpy(id, session_id, sizeof id);
    id[0] = le64toh(id[0]);
    id[1] = le64toh(id[1]);
    generation = load64(&now, AT_GENERATION);
    state = find_credit(&now, id);
    if (state <= 2)
        *ret = state;
    return generation % 2 == 0 && load64(&now, AT_GENERATION) == generation;
}

uint32_t toll_ackpage_credit(const struct toll_ackpage *page, const uint8_t session_id[static 16])
{
    uint32_t state = 0;
    for (int tries = 0; tries < CREDIT_TRIES && !toll_ackpage_look(page, session_id, &state); tries++)
        ;
    return state;
}

TOLL_HOT bool toll_ackpage_read(const struct toll_ackpage *page, struct toll_acks *ret)
{
    if (!page->map || load32(page, AT_MAGIC) != TOLL_ACKPAGE_MAGIC || load32(page, AT_VERSION) != TOLL_ACKPAGE_VERSION)
        return false;
    /* acked belongs to an epoch: read both until the epoch stands still, but not for ever */
    for (int tries = 0; tries < 4; tries++) {
        ret->epoch = load64(page, AT_EPOCH);
        ret->acked = load64(page, AT_ACKED);
        if (ret->epoch == load64(page, AT_EPOCH))
            break;
    }
    ret->state = load32(page, AT_STATE) & 0x7FFFFFFF; /* bit 31 speaks of the credit table */
    ret->heartbeat_ms = load64(page, AT_HEARTBEAT);
    return true;
}
