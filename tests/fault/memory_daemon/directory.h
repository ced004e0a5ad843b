/* A directory of a run's own, and a journal's I/O in it without the waits for the disk. */
#ifndef TOLL_TESTS_MEMORY_DIRECTORY_H
#define TOLL_TESTS_MEMORY_DIRECTORY_H

#include "daemon/journal.h"
#include "tests/fault/memory/failing.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

struct directory {
    char path[32];
};

static inline struct directory directory_make(void)
{
    struct directory directory = {.path = "/tmp/toll-test-memory.XXXXXX"};

    if (!mkdtemp(directory.path))
        abort();
    return directory;
}

static inline int directory_remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

static inline void directory_remove(const struct directory *directory)
{
    failing_quiet++;
    if (nftw(directory->path, directory_remove_entry, 8, FTW_DEPTH | FTW_PHYS) != 0)
        perror(directory->path);
    failing_quiet--;
}

static inline int directory_no_sync(void *context, int fd)
{
    (void)context, (void)fd;
    return 0;
}

static inline struct journal_io directory_io(void)
{
    struct journal_io io = journal_io_system;

    io.fsync = io.fdatasync = directory_no_sync;
    return io;
}

#endif
