/* Makes, maps and reads the ack page. It decides nothing: resending and reattaching are stream.c's. */
#include "client/ackpage.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AT_MAGIC = 0, AT_VERSION = 4, AT_EPOCH = 8, AT_ACKED = 16, AT_STATE = 24, AT_HEARTBEAT = 48 };

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

static uint32_t load32(const struct toll_ackpage *page, size_t offset)
{
    return le32toh(__atomic_load_n((const uint32_t *)(const void *)(page->map + offset), __ATOMIC_ACQUIRE));
}

static uint64_t load64(const struct toll_ackpage *page, size_t offset)
{
    return le64toh(__atomic_load_n((const uint64_t *)(const void *)(page->map + offset), __ATOMIC_ACQUIRE));
}

bool toll_ackpage_read(const struct toll_ackpage *page, struct toll_acks *ret)
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
