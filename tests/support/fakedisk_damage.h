/* What goes wrong with a fake disk behind everybody's back: bytes that change, files that are cut short or vanish. A path is
 * "directory/file" or "file"; nothing of the file may be unsynced. */
#ifndef TOLL_TESTS_FAKEDISK_DAMAGE_H
#define TOLL_TESTS_FAKEDISK_DAMAGE_H

#include "tests/support/fakedisk.h"

static inline void fakedisk_spoil(struct fakedisk *disk, const char *path, size_t at, const void *bytes, size_t size)
{
    struct fakedisk_inode *inode = fakedisk_lookup(disk, path);

    assert(inode && !inode->changes && at + size <= inode->disk_size);
    memcpy(inode->disk + at, bytes, size);
    memcpy(inode->seen + at, bytes, size);
}

static inline void fakedisk_shorten(struct fakedisk *disk, const char *path, size_t size)
{
    struct fakedisk_inode *inode = fakedisk_lookup(disk, path);

    assert(inode && !inode->changes && size <= inode->disk_size);
    inode->disk_size = inode->seen_size = size;
}

static inline void fakedisk_lose(struct fakedisk *disk, const char *path)
{
    const char *slash = strchr(path, '/');
    char directory[FAKEDISK_NAME];
    struct fakedisk_inode *inode = disk->root;

    if (slash) {
        snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
        inode = fakedisk_find(&inode->seen_names, directory);
        path = slash + 1;
    }
    assert(inode && !inode->changes);
    fakedisk_names_set(&inode->disk_names, path, NULL);
    fakedisk_names_set(&inode->seen_names, path, NULL);
    fakedisk_sweep(disk);
}

#endif
