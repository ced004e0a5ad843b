/* The disk that a host's journal is on: tests/support/fakedisk.h, with every call a place where other threads run, calls that take time or
 * fail by chance, and none that has an effect once the daemon is killed. */
#include "tests/fault/simulation/sim.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { SEGMENT_HEADER_BYTES = 64 };

/* 0, or what the call fails with. changes: a call that leaves something on the disk. */
static int enter(struct host *host, bool changes)
{
    sim_point();
    if (host->dead)
        return -EIO;
    if (!changes || !(host->disk_broken || (host->disk_fails && sim_chance(host->disk_fails, 1000))))
        return 0;
    sim.troubles.disk_errors++;
    host->disk_failed = true;
    host->disk->fail_at = host->disk->calls + 1; /* it fails as the fake disk fails */
    host->disk->fail_keeps = sim_chance(1, 2) ? sim_random() : 0;
    return 0;
}

static int disk_open(void *context, int dirfd, const char *path, int flags, mode_t mode)
{
    struct host *host = context;
    int r = enter(host, false);

    return r < 0 ? r : fakedisk_open(host->disk, dirfd, path, flags, mode);
}

static int disk_close(void *context, int fd)
{
    struct host *host = context;

    return fakedisk_close(host->disk, fd);
}

static ssize_t disk_pread(void *context, int fd, void *buf, size_t size, off_t offset)
{
    struct host *host = context;
    int r = enter(host, false);

    if (r == 0 && host->disk_fails && sim_chance(host->disk_fails, 2000))
        r = -EIO;
    return r < 0 ? r : fakedisk_pread(host->disk, fd, buf, size, offset);
}

static ssize_t disk_pwrite(void *context, int fd, const void *buf, size_t size, off_t offset)
{
    struct host *host = context;
    int r = enter(host, true);

    return r < 0 ? r : fakedisk_pwrite(host->disk, fd, buf, size, offset);
}

static int disk_sync(void *context, int fd)
{
    struct host *host = context;
    int r;

    if (host->sync_us)
        sim_sleep((int64_t)sim_below((uint64_t)host->sync_us));
    r = enter(host, true);
    if (r < 0)
        return r;
    if (breaks("sync-lies") && sim_chance(1, 4))
        return 0;
    return fakedisk_sync(host->disk, fd);
}

static int disk_fallocate(void *context, int fd, off_t size)
{
    struct host *host = context;
    int r = enter(host, true);

    return r < 0 ? r : fakedisk_fallocate(host->disk, fd, size);
}

static int disk_rename(void *context, int dirfd, const char *from, const char *to)
{
    struct host *host = context;
    int r = enter(host, true);

    return r < 0 ? r : fakedisk_rename(host->disk, dirfd, from, to);
}

static int disk_remove(void *context, int dirfd, const char *path)
{
    struct host *host = context;
    int r = enter(host, true);

    return r < 0 ? r : fakedisk_remove(host->disk, dirfd, path);
}

static int disk_free_bytes(void *context, int dirfd, uint64_t *ret_bytes)
{
    struct host *host = context;
    int r = enter(host, false);

    return r < 0 ? r : fakedisk_free_bytes(host->disk, dirfd, ret_bytes);
}

static int disk_mkdir(void *context, int dirfd, const char *path, mode_t mode)
{
    struct host *host = context;
    int r = enter(host, true);

    return r < 0 ? r : fakedisk_mkdir(host->disk, dirfd, path, mode);
}

static int disk_list(void *context, int dirfd, void (*entry)(void *arg, const char *name), void *arg)
{
    struct host *host = context;
    int r = enter(host, false);

    return r < 0 ? r : fakedisk_list(host->disk, dirfd, entry, arg);
}

static int64_t disk_size(void *context, int fd)
{
    struct host *host = context;
    int r = enter(host, false);

    return r < 0 ? r : fakedisk_size(host->disk, fd);
}

static int disk_lock(void *context, int fd)
{
    struct host *host = context;
    int r = enter(host, false);

    return r < 0 ? r : fakedisk_lock(host->disk, fd);
}

static int disk_random(void *context, void *buf, size_t size)
{
    struct host *host = context;

    return fakedisk_random(host->disk, buf, size);
}

struct journal_io disk_io(struct host *host)
{
    return (struct journal_io){
        .context = host,
        .open = disk_open,
        .close = disk_close,
        .pread = disk_pread,
        .pwrite = disk_pwrite,
        .fdatasync = disk_sync,
        .fsync = disk_sync,
        .fallocate = disk_fallocate,
        .rename = disk_rename,
        .unlink = disk_remove,
        .free_bytes = disk_free_bytes,
        .mkdir = disk_mkdir,
        .rmdir = disk_remove,
        .list = disk_list,
        .size = disk_size,
        .lock = disk_lock,
        .random = disk_random,
    };
}

/* The directory that a start would find the log in. */
static const struct fakedisk_inode *log_directory(const struct fakedisk *disk, bool seen)
{
    const struct fakedisk_names *names = seen ? &disk->root->seen_names : &disk->root->disk_names;
    const struct fakedisk_inode *log = fakedisk_find(names, "journal"), *new = fakedisk_find(names, "journal.new"),
                                *old = fakedisk_find(names, "journal.old");

    return log ? log : old && new ? new : old;
}

struct segment_name {
    unsigned number;
    unsigned long base;
};

static bool parse_name(const char *name, struct segment_name *ret)
{
    char ending[8];

    return sscanf(name, "%8u-%16lx.%7s", &ret->number, &ret->base, ending) == 3 && strcmp(ending, "seg") == 0;
}

/* Where a later segment takes the place of this one. */
static unsigned long end_of(const struct fakedisk_names *names, const struct segment_name *segment)
{
    unsigned long end = LONG_MAX;
    struct segment_name other;

    for (size_t i = 0; i < names->count; i++)
        if (parse_name(names->names[i].name, &other) && other.number > segment->number && other.base < end)
            end = other.base;
    return end;
}

bool disk_has(const struct host *host, const void *needle, size_t size, bool seen)
{
    const struct fakedisk_inode *log = log_directory(host->disk, seen);
    const struct fakedisk_names *names = log ? seen ? &log->seen_names : &log->disk_names : NULL;
    struct segment_name segment;

    for (size_t i = names ? names->count : 0; i > 0; i--) {
        const struct fakedisk_inode *inode = names->names[i - 1].inode;
        const uint8_t *bytes = seen ? inode->seen : inode->disk, *hit;
        size_t bytes_size = seen ? inode->seen_size : inode->disk_size;

        if (!bytes || !parse_name(names->names[i - 1].name, &segment))
            continue;
        hit = memmem(bytes, bytes_size, needle, size);
        if (hit && segment.base + (unsigned long)(hit - bytes) < end_of(names, &segment) + SEGMENT_HEADER_BYTES)
            return true; /* the first hit has the lowest LSN */
    }
    return false;
}
