/* A disk in memory behind struct journal_io, that keeps apart what was written and what was synced, and fails on
 * demand.
 *
 *     struct fakedisk *disk = fakedisk_new();
 *     struct journal_io io = fakedisk_io(disk);       options.io = &io; options.state_dir is any name
 *     disk->fail_at = 7;                              the 7th call counted fails with disk->fail_errno (0: EIO)
 *     fakedisk_crash(disk, FAKEDISK_TEAR, seed);      power cut: what was not synced is gone, or parts of it
 *     fakedisk_free(disk);
 *
 * The model:
 * - A write is seen at once by every descriptor, and is on the disk after fdatasync or fsync of any descriptor of the
 *   file.
 * - A name (made, renamed, deleted, of a file or a directory) is seen at once and is on the disk after fsync of its
 *   directory.
 * - An fdatasync or fsync of a file that fails drops what it should have written: it is still seen, no later sync
 *   brings it to the disk. Changes of names stay due: file systems journal those, and a journal that fails takes the
 *   whole file system down.
 * - A power cut keeps what is on the disk, and of the rest nothing (DROP), everything (KEEP), or by seed any subset
 *   of the 512-byte sectors of each write and any subset of the changes of names (TEAR). All descriptors are gone.
 * - A deleted file lives on while a descriptor is open. Locks go with their descriptor.
 * - Space: file sizes count, whether written or not. `capacity` bytes in all; 0: no limit.
 * For one thread. There is one directory level below the root; the root is what opening anything with AT_FDCWD
 * yields. */
#ifndef TOLL_TESTS_FAKEDISK_H
#define TOLL_TESTS_FAKEDISK_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal.h"

enum fakedisk_crash { FAKEDISK_DROP, FAKEDISK_KEEP, FAKEDISK_TEAR };
enum { FAKEDISK_SECTOR = 512, FAKEDISK_FDS = 256, FAKEDISK_FD_BASE = 1000 };

struct fakedisk_inode;

struct fakedisk_name {
    char name[128];
    struct fakedisk_inode *inode;
};

struct fakedisk_names {
    struct fakedisk_name *names;
    size_t count;
};

/* One change that is not on the disk: of bytes (data; NULL: the file has grown to offset + size) or of names.
 */
struct fakedisk_change {
    struct fakedisk_change *next;
    size_t offset, size;
    uint8_t *data;
    bool truncated;          /* to nothing */
    char from[128], to[128]; /* "" → to: made; from → "": deleted; from → to: renamed */
    struct fakedisk_inode *inode;
};

struct fakedisk_inode {
    struct fakedisk_inode *next;
    bool directory, reached;
    int fds, lock_fd;
    uint8_t *seen, *disk; /* a file's bytes */
    size_t seen_size, disk_size;
    struct fakedisk_names seen_names, disk_names; /* a directory's */
    struct fakedisk_change *changes, **changes_end;
};

struct fakedisk {
    struct fakedisk_inode *inodes, *root;
    struct fakedisk_inode *fds[FAKEDISK_FDS];
    uint64_t capacity;
    uint64_t calls;       /* made so far; set it to 0 at will */
    uint64_t fail_at;     /* the call that fails, counted as calls are from 1; 0: none */
    bool fail_forever;    /* … and all after it */
    int fail_errno;       /* positive */
    bool failed;          /* fail_at was reached */
    bool off;             /* without power: every call fails and changes nothing */
    bool off_at_fail;     /* fail_at switches the power off */
    bool short_transfers; /* pread and pwrite move at most 100 bytes */
    uint64_t random;      /* state of random() */
};

/* Internals. */
static inline uint64_t fakedisk_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline struct fakedisk_inode *fakedisk_inode_new(struct fakedisk *disk, bool directory)
{
    struct fakedisk_inode *inode = calloc(1, sizeof *inode);
    assert(inode);
    inode->directory = directory;
    inode->lock_fd = -1;
    inode->changes_end = &inode->changes;
    inode->next = disk->inodes;
    disk->inodes = inode;
    return inode;
}

static inline void fakedisk_changes_drop(struct fakedisk_inode *inode)
{
    for (struct fakedisk_change *change = inode->changes, *next; change; change = next) {
        next = change->next;
        free(change->data);
        free(change);
    }
    inode->changes = NULL;
    inode->changes_end = &inode->changes;
}

static inline void fakedisk_inode_free(struct fakedisk_inode *inode)
{
    fakedisk_changes_drop(inode);
    free(inode->seen);
    free(inode->disk);
    free(inode->seen_names.names);
    free(inode->disk_names.names);
    free(inode);
}

static inline struct fakedisk_change *fakedisk_change_add(struct fakedisk_inode *inode)
{
    struct fakedisk_change *change = calloc(1, sizeof *change);
    assert(change);
    *inode->changes_end = change;
    inode->changes_end = &change->next;
    return change;
}

static inline struct fakedisk_inode *fakedisk_find(const struct fakedisk_names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i].name, name) == 0)
            return names->names[i].inode;
    return NULL;
}

static inline void fakedisk_names_set(struct fakedisk_names *names, const char *name, struct fakedisk_inode *inode)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i].name, name) == 0) {
            if (inode)
                names->names[i].inode = inode;
            else
                names->names[i] = names->names[--names->count];
            return;
        }
    if (!inode)
        return;
    names->names = realloc(names->names, (names->count + 1) * sizeof *names->names);
    assert(names->names);
    snprintf(names->names[names->count].name, sizeof names->names->name, "%s", name);
    names->names[names->count++].inode = inode;
}

static inline void fakedisk_names_apply(struct fakedisk_names *names, const struct fakedisk_change *change)
{
    if (change->from[0] && fakedisk_find(names, change->from) == change->inode)
        fakedisk_names_set(names, change->from, NULL);
    if (change->to[0])
        fakedisk_names_set(names, change->to, change->inode);
}

static inline void fakedisk_names_copy(struct fakedisk_names *to, const struct fakedisk_names *from)
{
    to->names = realloc(to->names, (from->count + 1) * sizeof *to->names);
    assert(to->names);
    if (from->count > 0)
        memcpy(to->names, from->names, from->count * sizeof *to->names);
    to->count = from->count;
}

static inline void fakedisk_change_names(struct fakedisk_inode *directory, const char *from, const char *to,
                                         struct fakedisk_inode *inode)
{
    struct fakedisk_change *change = fakedisk_change_add(directory);
    snprintf(change->from, sizeof change->from, "%s", from);
    snprintf(change->to, sizeof change->to, "%s", to);
    change->inode = inode;
    fakedisk_names_apply(&directory->seen_names, change);
}

static inline void fakedisk_put(uint8_t **bytes, size_t *bytes_size, size_t offset, const uint8_t *data, size_t size)
{
    if (offset + size > *bytes_size) {
        *bytes = realloc(*bytes, offset + size);
        assert(*bytes);
        memset(*bytes + *bytes_size, 0, offset + size - *bytes_size);
        *bytes_size = offset + size;
    }
    if (data && size > 0)
        memcpy(*bytes + offset, data, size);
}

/* Brings an inode's changes to the disk; seed NULL: all of them. */
static inline void fakedisk_apply(struct fakedisk_inode *inode, uint64_t *seed)
{
    for (struct fakedisk_change *change = inode->changes; change; change = change->next) {
        if (inode->directory) {
            if (!seed || fakedisk_next(seed) & 1)
                fakedisk_names_apply(&inode->disk_names, change);
            continue;
        }
        if (change->truncated) {
            inode->disk_size = 0;
            continue;
        }
        if (!seed || (change->size == 0 && fakedisk_next(seed) & 1)) {
            fakedisk_put(&inode->disk, &inode->disk_size, change->offset, change->data, change->size);
            continue;
        }
        for (size_t at = 0, part; at < change->size; at += part) {
            part = FAKEDISK_SECTOR - (change->offset + at) % FAKEDISK_SECTOR;
            if (part > change->size - at)
                part = change->size - at;
            if (fakedisk_next(seed) & 1)
                fakedisk_put(&inode->disk, &inode->disk_size, change->offset + at,
                             change->data ? change->data + at : NULL, part);
        }
    }
    fakedisk_changes_drop(inode);
}

static inline void fakedisk_reach(struct fakedisk_inode *inode)
{
    if (inode->reached)
        return;
    inode->reached = true;
    const struct fakedisk_names *both[2] = {&inode->seen_names, &inode->disk_names};
    for (int b = 0; b < 2; b++)
        for (size_t i = 0; i < both[b]->count; i++)
            fakedisk_reach(both[b]->names[i].inode);
    for (struct fakedisk_change *change = inode->changes; change; change = change->next)
        if (change->inode)
            fakedisk_reach(change->inode);
}

/* Frees inodes that no name, on the disk or off, and no descriptor leads to. */
static inline void fakedisk_sweep(struct fakedisk *disk)
{
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next)
        inode->reached = false;
    fakedisk_reach(disk->root);
    for (int i = 0; i < FAKEDISK_FDS; i++)
        if (disk->fds[i])
            fakedisk_reach(disk->fds[i]);
    for (struct fakedisk_inode **at = &disk->inodes; *at;) {
        struct fakedisk_inode *inode = *at;
        if (inode->reached) {
            at = &inode->next;
            continue;
        }
        *at = inode->next;
        fakedisk_inode_free(inode);
    }
}

/* Counts a call. 0, or the error it is to return. */
static inline int fakedisk_call(struct fakedisk *disk)
{
    disk->calls++;
    if (disk->off)
        return -EIO;
    if (disk->fail_at == 0 || disk->calls < disk->fail_at || (disk->calls > disk->fail_at && !disk->fail_forever))
        return 0;
    disk->failed = true;
    if (disk->off_at_fail)
        disk->off = true;
    return disk->fail_errno ? -disk->fail_errno : -EIO;
}

static inline struct fakedisk_inode *fakedisk_fd(struct fakedisk *disk, int fd)
{
    if (fd == AT_FDCWD)
        return disk->root;
    assert(fd >= FAKEDISK_FD_BASE && fd < FAKEDISK_FD_BASE + FAKEDISK_FDS && disk->fds[fd - FAKEDISK_FD_BASE]);
    return disk->fds[fd - FAKEDISK_FD_BASE];
}

/* Bytes of all files that have a name or a descriptor. */
static inline uint64_t fakedisk_used(struct fakedisk *disk)
{
    uint64_t used = 0;
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next)
        inode->reached = inode->fds > 0;
    for (struct fakedisk_inode *dir = disk->inodes; dir; dir = dir->next)
        for (size_t i = 0; i < dir->seen_names.count; i++)
            dir->seen_names.names[i].inode->reached = true;
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next)
        used += inode->reached ? inode->seen_size : 0;
    return used;
}

static inline bool fakedisk_has_room(struct fakedisk *disk, const struct fakedisk_inode *inode, size_t size)
{
    return disk->capacity == 0 || size <= inode->seen_size ||
           fakedisk_used(disk) + (size - inode->seen_size) <= disk->capacity;
}

/* The table. */
static inline int fakedisk_open(void *context, int dirfd, const char *path, int flags, mode_t mode)
{
    struct fakedisk *disk = context;
    int r = fakedisk_call(disk), fd = 0;

    (void)mode;
    if (r < 0)
        return r;
    struct fakedisk_inode *dir = fakedisk_fd(disk, dirfd);
    struct fakedisk_inode *inode =
        dirfd == AT_FDCWD || strcmp(path, ".") == 0 ? dir : fakedisk_find(&dir->seen_names, path);
    while (fd < FAKEDISK_FDS && disk->fds[fd])
        fd++;
    if (fd == FAKEDISK_FDS)
        return -EMFILE;
    if (!inode) {
        if (!(flags & O_CREAT))
            return -ENOENT;
        inode = fakedisk_inode_new(disk, false);
        fakedisk_change_names(dir, "", path, inode);
    } else if (flags & O_TRUNC && inode->seen_size > 0) {
        fakedisk_change_add(inode)->truncated = true;
        inode->seen_size = 0;
    }
    if (flags & O_DIRECTORY && !inode->directory)
        return -ENOTDIR;
    disk->fds[fd] = inode;
    inode->fds++;
    return FAKEDISK_FD_BASE + fd;
}

static inline int fakedisk_close(void *context, int fd)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);

    if (inode->lock_fd == fd)
        inode->lock_fd = -1;
    inode->fds--;
    disk->fds[fd - FAKEDISK_FD_BASE] = NULL;
    return 0;
}

static inline ssize_t fakedisk_pread(void *context, int fd, void *buf, size_t size, off_t offset)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);
    int r = fakedisk_call(disk);

    if (r < 0)
        return r;
    if ((size_t)offset >= inode->seen_size)
        return 0;
    if (size > inode->seen_size - (size_t)offset)
        size = inode->seen_size - (size_t)offset;
    if (disk->short_transfers && size > 100)
        size = 100;
    memcpy(buf, inode->seen + offset, size);
    return (ssize_t)size;
}

static inline ssize_t fakedisk_pwrite(void *context, int fd, const void *buf, size_t size, off_t offset)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);
    int r = fakedisk_call(disk);

    if (r < 0)
        return r;
    if (disk->short_transfers && size > 100)
        size = 100;
    if (!fakedisk_has_room(disk, inode, (size_t)offset + size))
        return -ENOSPC;
    struct fakedisk_change *change = fakedisk_change_add(inode);
    change->offset = (size_t)offset;
    change->size = size;
    change->data = malloc(size + 1);
    assert(change->data);
    memcpy(change->data, buf, size);
    fakedisk_put(&inode->seen, &inode->seen_size, (size_t)offset, buf, size);
    return (ssize_t)size;
}

static inline int fakedisk_sync(void *context, int fd)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);
    int r = fakedisk_call(disk);

    if (r < 0 && !disk->off && !inode->directory)
        fakedisk_changes_drop(inode);
    if (r == 0)
        fakedisk_apply(inode, NULL);
    return r;
}

static inline int fakedisk_fallocate(void *context, int fd, off_t size)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);
    int r = fakedisk_call(disk);

    if (r < 0)
        return r;
    if (!fakedisk_has_room(disk, inode, (size_t)size))
        return -ENOSPC;
    struct fakedisk_change *change = fakedisk_change_add(inode);
    change->offset = (size_t)size;
    fakedisk_put(&inode->seen, &inode->seen_size, (size_t)size, NULL, 0);
    return 0;
}

static inline int fakedisk_rename(void *context, int dirfd, const char *from, const char *to)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *dir = fakedisk_fd(disk, dirfd);
    int r = fakedisk_call(disk);

    if (r < 0)
        return r;
    struct fakedisk_inode *inode = fakedisk_find(&dir->seen_names, from), *there = fakedisk_find(&dir->seen_names, to);
    if (!inode)
        return -ENOENT;
    if (there && there->directory && there->seen_names.count > 0)
        return -ENOTEMPTY;
    fakedisk_change_names(dir, from, to, inode);
    return 0;
}

static inline int fakedisk_remove(void *context, int dirfd, const char *path)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *dir = fakedisk_fd(disk, dirfd);
    int r = fakedisk_call(disk);

    if (r < 0)
        return r;
    struct fakedisk_inode *inode = fakedisk_find(&dir->seen_names, path);
    if (!inode)
        return -ENOENT;
    if (inode->directory && inode->seen_names.count > 0)
        return -ENOTEMPTY;
    fakedisk_change_names(dir, path, "", inode);
    return 0;
}

static inline int fakedisk_free_bytes(void *context, int dirfd, uint64_t *ret_bytes)
{
    struct fakedisk *disk = context;
    int r = fakedisk_call(disk);

    (void)dirfd;
    if (r < 0)
        return r;
    uint64_t used = fakedisk_used(disk);
    *ret_bytes = disk->capacity == 0 ? UINT64_MAX / 2 : used > disk->capacity ? 0 : disk->capacity - used;
    return 0;
}

static inline int fakedisk_mkdir(void *context, int dirfd, const char *path, mode_t mode)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *dir = fakedisk_fd(disk, dirfd);
    int r = fakedisk_call(disk);

    (void)mode;
    if (r < 0)
        return r;
    if (fakedisk_find(&dir->seen_names, path))
        return -EEXIST;
    fakedisk_change_names(dir, "", path, fakedisk_inode_new(disk, true));
    return 0;
}

static inline int fakedisk_list(void *context, int dirfd, void (*entry)(void *arg, const char *name), void *arg)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *dir = fakedisk_fd(disk, dirfd);
    int r = fakedisk_call(disk);

    for (size_t i = 0; r == 0 && i < dir->seen_names.count; i++)
        entry(arg, dir->seen_names.names[i].name);
    return r;
}

static inline int64_t fakedisk_size(void *context, int fd)
{
    struct fakedisk *disk = context;
    int r = fakedisk_call(disk);
    return r < 0 ? r : (int64_t)fakedisk_fd(disk, fd)->seen_size;
}

static inline int fakedisk_lock(void *context, int fd)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);
    int r = fakedisk_call(disk);

    if (r < 0)
        return r;
    if (inode->lock_fd >= 0 && inode->lock_fd != fd)
        return -EBUSY;
    inode->lock_fd = fd;
    return 0;
}

static inline int fakedisk_random(void *context, void *buf, size_t size)
{
    struct fakedisk *disk = context;
    int r = fakedisk_call(disk);

    for (size_t i = 0; r == 0 && i < size; i++)
        ((uint8_t *)buf)[i] = (uint8_t)fakedisk_next(&disk->random);
    return r;
}

/* For the tests. */
static inline struct journal_io fakedisk_io(struct fakedisk *disk)
{
    return (struct journal_io){
        .context = disk,
        .open = fakedisk_open,
        .close = fakedisk_close,
        .pread = fakedisk_pread,
        .pwrite = fakedisk_pwrite,
        .fdatasync = fakedisk_sync,
        .fsync = fakedisk_sync,
        .fallocate = fakedisk_fallocate,
        .rename = fakedisk_rename,
        .unlink = fakedisk_remove,
        .free_bytes = fakedisk_free_bytes,
        .mkdir = fakedisk_mkdir,
        .rmdir = fakedisk_remove,
        .list = fakedisk_list,
        .size = fakedisk_size,
        .lock = fakedisk_lock,
        .random = fakedisk_random,
    };
}

static inline struct fakedisk *fakedisk_new(void)
{
    struct fakedisk *disk = calloc(1, sizeof *disk);
    assert(disk);
    disk->root = fakedisk_inode_new(disk, true);
    return disk;
}

static inline void fakedisk_free(struct fakedisk *disk)
{
    for (struct fakedisk_inode *inode = disk->inodes, *next; inode; inode = next) {
        next = inode->next;
        fakedisk_inode_free(inode);
    }
    free(disk);
}

/* No more failures; counting begins anew. */
static inline void fakedisk_heal(struct fakedisk *disk)
{
    disk->calls = disk->fail_at = 0;
    disk->fail_forever = disk->failed = disk->off = disk->off_at_fail = false;
}

/* Descriptors that are open now. */
static inline int fakedisk_open_fds(const struct fakedisk *disk)
{
    int count = 0;
    for (int i = 0; i < FAKEDISK_FDS; i++)
        count += disk->fds[i] != NULL;
    return count;
}

/* A power cut, and power again. Who used the disk must not go on with its descriptors. */
static inline void fakedisk_crash(struct fakedisk *disk, enum fakedisk_crash kind, uint64_t seed)
{
    for (int i = 0; i < FAKEDISK_FDS; i++)
        if (disk->fds[i])
            fakedisk_close(disk, FAKEDISK_FD_BASE + i);
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next) {
        if (kind == FAKEDISK_DROP)
            fakedisk_changes_drop(inode);
        else
            fakedisk_apply(inode, kind == FAKEDISK_TEAR ? &seed : NULL);
        if (inode->directory)
            fakedisk_names_copy(&inode->seen_names, &inode->disk_names);
        else {
            inode->seen_size = 0;
            fakedisk_put(&inode->seen, &inode->seen_size, 0, inode->disk, inode->disk_size);
        }
    }
    fakedisk_sweep(disk);
    fakedisk_heal(disk);
}

/* A copy of the disk as it is seen, everything on the disk, nothing open: to try several ends of one story.
 */
static inline struct fakedisk *fakedisk_clone(const struct fakedisk *disk)
{
    struct fakedisk *clone = fakedisk_new();
    clone->capacity = disk->capacity;
    clone->random = disk->random;
    for (size_t d = 0; d < disk->root->seen_names.count; d++) {
        const struct fakedisk_name *entry = &disk->root->seen_names.names[d];
        struct fakedisk_inode *copy = fakedisk_inode_new(clone, entry->inode->directory);
        fakedisk_names_set(&clone->root->seen_names, entry->name, copy);
        fakedisk_put(&copy->seen, &copy->seen_size, 0, entry->inode->seen, entry->inode->seen_size);
        fakedisk_put(&copy->disk, &copy->disk_size, 0, entry->inode->seen, entry->inode->seen_size);
        for (size_t i = 0; i < entry->inode->seen_names.count; i++) {
            const struct fakedisk_name *file = &entry->inode->seen_names.names[i];
            struct fakedisk_inode *inner = fakedisk_inode_new(clone, false);
            fakedisk_names_set(&copy->seen_names, file->name, inner);
            fakedisk_put(&inner->seen, &inner->seen_size, 0, file->inode->seen, file->inode->seen_size);
            fakedisk_put(&inner->disk, &inner->disk_size, 0, file->inode->seen, file->inode->seen_size);
        }
        fakedisk_names_copy(&copy->disk_names, &copy->seen_names);
    }
    fakedisk_names_copy(&clone->root->disk_names, &clone->root->seen_names);
    return clone;
}

/* The bytes of a file ("directory/file" or "file") as they are seen, to look at or to spoil; NULL: none.
 * *ret_size may be NULL. */
static inline uint8_t *fakedisk_bytes(struct fakedisk *disk, const char *path, size_t *ret_size)
{
    char directory[128];
    const char *slash = strchr(path, '/');
    struct fakedisk_inode *inode = disk->root;

    if (slash) {
        snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
        inode = fakedisk_find(&inode->seen_names, directory);
        path = slash + 1;
    }
    inode = inode ? fakedisk_find(&inode->seen_names, path) : NULL;
    if (inode && ret_size)
        *ret_size = inode->seen_size;
    return inode ? inode->seen : NULL;
}

/* Calls each(path) for every file. */
static inline void fakedisk_each(struct fakedisk *disk, void (*each)(void *arg, const char *path), void *arg)
{
    char path[300];
    for (size_t d = 0; d < disk->root->seen_names.count; d++) {
        const struct fakedisk_name *entry = &disk->root->seen_names.names[d];
        if (!entry->inode->directory)
            each(arg, entry->name);
        for (size_t i = 0; i < entry->inode->seen_names.count; i++) {
            snprintf(path, sizeof path, "%s/%s", entry->name, entry->inode->seen_names.names[i].name);
            each(arg, path);
        }
    }
}

#endif
