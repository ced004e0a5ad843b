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
 * - An fdatasync or fsync of a file that fails drops what it should have written, but for what fail_keeps lets through: it
 *   is still seen, no later sync brings it to the disk. Changes of names stay due: file systems journal those, and a
 *   journal that fails takes the whole file system down.
 * - A power cut keeps what is on the disk, and of the rest what enum fakedisk_crash says. All descriptors are gone.
 * - A deleted file lives on while a descriptor is open. Locks go with their descriptor.
 * - Space: file sizes count, whether written or not. `capacity` bytes in all; 0: no limit.
 * For one thread. There is one directory level below the root; the root is what opening anything with AT_FDCWD
 * yields. */
#ifndef TOLL_TESTS_FAKEDISK_H
#define TOLL_TESTS_FAKEDISK_H

#include <errno.h>
#include <fcntl.h>

#include "daemon/journal.h"
#include "tests/support/fakedisk_inode.h"

enum { FAKEDISK_FDS = 256, FAKEDISK_FD_BASE = 1000 };

/* What is told to `record`: a change was made; all changes of an inode are on the disk, or lost. */
enum fakedisk_event { FAKEDISK_CHANGED, FAKEDISK_SYNCED, FAKEDISK_LOST };

struct fakedisk {
    struct fakedisk_inode *inodes, *root;
    unsigned inodes_made;
    struct fakedisk_inode *fds[FAKEDISK_FDS];
    uint64_t capacity;
    uint64_t calls;       /* made so far; set it to 0 at will */
    uint64_t fail_at;     /* the call that fails, counted as calls are from 1; 0: none */
    bool fail_forever;    /* … and all after it */
    int fail_errno;       /* positive */
    uint64_t fail_keeps;  /* a sync that fails gets through what FAKEDISK_TEAR chooses by this seed; 0: nothing */
    bool failed;          /* fail_at was reached */
    bool off;             /* without power: every call fails and changes nothing */
    bool off_at_fail;     /* fail_at switches the power off */
    bool short_transfers; /* pread and pwrite move at most 100 bytes */
    uint64_t random;      /* state of random() */
    void (*record)(void *context, enum fakedisk_event event, const struct fakedisk_inode *inode,
                   const struct fakedisk_change *change); /* NULL: nobody listens */
    void *record_context;
};

/* Internals. */
static inline struct fakedisk_inode *fakedisk_make(struct fakedisk *disk, bool directory)
{
    return fakedisk_inode_new(&disk->inodes, disk->inodes_made++, directory);
}

static inline void fakedisk_tell(struct fakedisk *disk, enum fakedisk_event event, const struct fakedisk_inode *inode,
                                 const struct fakedisk_change *change)
{
    if (disk->record)
        disk->record(disk->record_context, event, inode, change);
}

/* Makes a change; it is not on the disk. */
static inline void fakedisk_change(struct fakedisk *disk, struct fakedisk_inode *inode,
                                   const struct fakedisk_change *change)
{
    fakedisk_change_link(inode, fakedisk_change_copy(change));
    if (inode->directory)
        fakedisk_names_change(&inode->seen_names, change, change->inode);
    else if (change->truncated)
        inode->seen_size = 0;
    else
        fakedisk_put(&inode->seen, &inode->seen_size, change->offset, change->data, change->size);
    fakedisk_tell(disk, FAKEDISK_CHANGED, inode, change);
}

static inline void fakedisk_change_names(struct fakedisk *disk, struct fakedisk_inode *directory, const char *from,
                                         const char *to, struct fakedisk_inode *inode)
{
    struct fakedisk_change change = {.inode = inode};
    assert(strlen(from) < FAKEDISK_NAME && strlen(to) < FAKEDISK_NAME);
    snprintf(change.from, sizeof change.from, "%s", from);
    snprintf(change.to, sizeof change.to, "%s", to);
    fakedisk_change(disk, directory, &change);
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
    if (fd == AT_FDCWD) {
        assert(disk->root);
        return disk->root;
    }
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
        inode = fakedisk_make(disk, false);
        fakedisk_change_names(disk, dir, "", path, inode);
    } else if (flags & O_TRUNC && inode->seen_size > 0) {
        fakedisk_change(disk, inode, &(struct fakedisk_change){.truncated = true});
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
    fakedisk_change(
        disk, inode,
        &(struct fakedisk_change){.offset = (size_t)offset, .size = size, .data = (uint8_t *)(uintptr_t)buf});
    return (ssize_t)size;
}

static inline int fakedisk_sync(void *context, int fd)
{
    struct fakedisk *disk = context;
    struct fakedisk_inode *inode = fakedisk_fd(disk, fd);
    int r = fakedisk_call(disk);

    if (r < 0 && (disk->off || inode->directory))
        return r;
    struct fakedisk_choice choice = fakedisk_choose(r == 0             ? FAKEDISK_KEEP
                                                    : disk->fail_keeps ? FAKEDISK_TEAR
                                                                       : FAKEDISK_DROP,
                                                    disk->fail_keeps + disk->calls);
    fakedisk_apply(inode, inode, &choice);
    fakedisk_changes_drop(inode);
    fakedisk_tell(disk, r == 0 ? FAKEDISK_SYNCED : FAKEDISK_LOST, inode, NULL);
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
    fakedisk_change(disk, inode, &(struct fakedisk_change){.offset = (size_t)size});
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
    fakedisk_change_names(disk, dir, from, to, inode);
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
    fakedisk_change_names(disk, dir, path, "", inode);
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
    fakedisk_change_names(disk, dir, "", path, fakedisk_make(disk, true));
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
    struct fakedisk *disk = fakedisk_alloc(sizeof *disk);
    disk->root = fakedisk_make(disk, true);
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

static inline void fakedisk_close_all(struct fakedisk *disk)
{
    for (int i = 0; i < FAKEDISK_FDS; i++)
        if (disk->fds[i])
            fakedisk_close(disk, FAKEDISK_FD_BASE + i);
}

/* A power cut, and power again. Who used the disk must not go on with its descriptors. */
static inline void fakedisk_crash(struct fakedisk *disk, enum fakedisk_crash kind, uint64_t seed)
{
    struct fakedisk_choice choice = fakedisk_choose(kind, seed);

    fakedisk_close_all(disk);
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next) {
        fakedisk_apply(inode, inode, &choice);
        fakedisk_changes_drop(inode);
        fakedisk_look(inode);
    }
    fakedisk_sweep(disk);
    fakedisk_heal(disk);
}

/* How many changes are not on the disk. */
static inline size_t fakedisk_pending(const struct fakedisk *disk)
{
    size_t count = 0;
    for (const struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next)
        for (const struct fakedisk_change *change = inode->changes; change; change = change->next)
            count++;
    return count;
}

/* A new disk, as this one would be after a power cut. */
static inline struct fakedisk *fakedisk_cut(const struct fakedisk *disk, enum fakedisk_crash kind, uint64_t seed)
{
    struct fakedisk_choice choice = fakedisk_choose(kind, seed);
    struct fakedisk *cut = fakedisk_alloc(sizeof *cut);

    cut->inodes_made = disk->inodes_made;
    cut->capacity = disk->capacity;
    cut->random = disk->random;
    cut->short_transfers = disk->short_transfers;
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next)
        inode->twin = fakedisk_inode_new(&cut->inodes, inode->number, inode->directory);
    cut->root = disk->root->twin;
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next) {
        fakedisk_put(&inode->twin->disk, &inode->twin->disk_size, 0, inode->disk, inode->disk_size);
        for (size_t i = 0; i < inode->disk_names.count; i++)
            fakedisk_names_set(&inode->twin->disk_names, inode->disk_names.names[i].name,
                               inode->disk_names.names[i].inode->twin);
        fakedisk_apply(inode, inode->twin, &choice);
        fakedisk_look(inode->twin);
    }
    fakedisk_sweep(cut);
    return cut;
}

/* A copy with all changes on the disk and nothing open: to try several ends of one story. */
static inline struct fakedisk *fakedisk_clone(const struct fakedisk *disk)
{
    return fakedisk_cut(disk, FAKEDISK_KEEP, 0);
}

static inline struct fakedisk_inode *fakedisk_lookup(struct fakedisk *disk, const char *path)
{
    char directory[FAKEDISK_NAME];
    const char *slash = strchr(path, '/');
    struct fakedisk_inode *inode = disk->root;

    if (slash) {
        snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
        inode = fakedisk_find(&inode->seen_names, directory);
        path = slash + 1;
    }
    return inode ? fakedisk_find(&inode->seen_names, path) : NULL;
}

/* The bytes of a file ("directory/file" or "file") as they are seen, to look at or to spoil; NULL: none.
 * *ret_size may be NULL. */
static inline uint8_t *fakedisk_bytes(struct fakedisk *disk, const char *path, size_t *ret_size)
{
    struct fakedisk_inode *inode = fakedisk_lookup(disk, path);

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
