/* The system calls behind the journal, and the loops every caller would otherwise write again. Knows nothing
 * of segments. */
#include "daemon/journal_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int result(int r)
{
    return r < 0 ? -errno : r;
}

static int system_open(void *context, int dirfd, const char *path, int flags, mode_t mode)
{
    (void)context;
    return result(openat(dirfd, path, flags, mode));
}

static int system_close(void *context, int fd)
{
    (void)context;
    return result(close(fd));
}

static ssize_t system_pread(void *context, int fd, void *buf, size_t size, off_t offset)
{
    (void)context;
    ssize_t n = pread(fd, buf, size, offset);
    return n < 0 ? -errno : n;
}

static ssize_t system_pwrite(void *context, int fd, const void *buf, size_t size, off_t offset)
{
    (void)context;
    ssize_t n = pwrite(fd, buf, size, offset);
    return n < 0 ? -errno : n;
}

static int system_fdatasync(void *context, int fd)
{
    (void)context;
    return result(fdatasync(fd));
}

static int system_fsync(void *context, int fd)
{
    (void)context;
    return result(fsync(fd));
}

static int system_fallocate(void *context, int fd, off_t size)
{
    (void)context;
    return result(fallocate(fd, 0, 0, size));
}

static int system_rename(void *context, int dirfd, const char *from, const char *to)
{
    (void)context;
    return result(renameat(dirfd, from, dirfd, to));
}

static int system_unlink(void *context, int dirfd, const char *path)
{
    (void)context;
    return result(unlinkat(dirfd, path, 0));
}

static int system_free_bytes(void *context, int dirfd, uint64_t *ret_bytes)
{
    struct statvfs st;

    (void)context;
    if (fstatvfs(dirfd, &st) < 0)
        return -errno;
    *ret_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}

static int system_mkdir(void *context, int dirfd, const char *path, mode_t mode)
{
    (void)context;
    return result(mkdirat(dirfd, path, mode));
}

static int system_rmdir(void *context, int dirfd, const char *path)
{
    (void)context;
    return result(unlinkat(dirfd, path, AT_REMOVEDIR));
}

static int system_list(void *context, int dirfd, void (*entry)(void *arg, const char *name), void *arg)
{
    (void)context;
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int r = -errno;
        close(fd);
        return r;
    }
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (!e)
            break;
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            entry(arg, e->d_name);
    }
    int r = -errno;
    closedir(dir);
    return r;
}

static int64_t system_size(void *context, int fd)
{
    struct stat st;

    (void)context;
    return fstat(fd, &st) < 0 ? -errno : st.st_size;
}

static int system_lock(void *context, int fd)
{
    (void)context;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? -EBUSY : -errno;
}

static int system_random(void *context, void *buf, size_t size)
{
    (void)context;
    ssize_t n = getrandom(buf, size, 0); /* up to 256 bytes come whole */
    return n < 0 ? -errno : (size_t)n == size ? 0 : -EIO;
}

const struct journal_io journal_io_system = {
    .open = system_open,
    .close = system_close,
    .pread = system_pread,
    .pwrite = system_pwrite,
    .fdatasync = system_fdatasync,
    .fsync = system_fsync,
    .fallocate = system_fallocate,
    .rename = system_rename,
    .unlink = system_unlink,
    .free_bytes = system_free_bytes,
    .mkdir = system_mkdir,
    .rmdir = system_rmdir,
    .list = system_list,
    .size = system_size,
    .lock = system_lock,
    .random = system_random,
};

int journal_io_open(const struct journal_io *io, int dirfd, const char *path, int flags)
{
    return io->open(io->context, dirfd, path, flags | O_CLOEXEC, 0640);
}

int journal_io_open_dir(const struct journal_io *io, int dirfd, const char *path)
{
    return journal_io_open(io, dirfd, path, O_RDONLY | O_DIRECTORY);
}

void journal_io_close(const struct journal_io *io, int *fd)
{
    if (*fd >= 0)
        io->close(io->context, *fd); /* what had to be durable was synced before */
    *fd = -1;
}

ssize_t journal_io_read(const struct journal_io *io, int fd, void *buf, size_t size, uint64_t offset)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = io->pread(io->context, fd, (uint8_t *)buf + done, size - done, (off_t)(offset + done));
        if (n == -EINTR)
            continue;
        if (n < 0)
            return n;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int journal_io_write(const struct journal_io *io, int fd, const void *buf, size_t size, uint64_t offset)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = io->pwrite(io->context, fd, (const uint8_t *)buf + done, size - done, (off_t)(offset + done));
        if (n == -EINTR)
            continue;
        if (n < 0)
            return (int)n;
        if (n == 0)
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

int journal_io_zero(const struct journal_io *io, int fd, uint64_t offset, uint64_t size)
{
    /* As much as the page cache takes in one piece: what is written in smaller ones takes a fifth more time, now and when records take their place. Not const,
     * so that it takes no room in the program's file, nor in memory. */
    static uint8_t zeros[1024 * 1024];

    while (size > 0) {
        size_t n = size < sizeof zeros ? (size_t)size : sizeof zeros;
        int r = journal_io_write(io, fd, zeros, n, offset);
        if (r < 0)
            return r;
        offset += n;
        size -= n;
    }
    return 0;
}

int journal_io_unlink(const struct journal_io *io, int dirfd, const char *path)
{
    int r = io->unlink(io->context, dirfd, path);
    return r == -ENOENT ? 0 : r;
}

struct names {
    char **names;
    size_t count;
    int error;
};

static void names_add(void *arg, const char *name)
{
    struct names *list = arg;
    char **grown = realloc(list->names, (list->count + 2) * sizeof *grown);

    if (grown) {
        list->names = grown;
        grown[list->count] = strdup(name);
        if (grown[list->count]) {
            grown[++list->count] = NULL;
            return;
        }
    }
    list->error = -ENOMEM;
}

int journal_io_list(const struct journal_io *io, int dirfd, char ***ret)
{
    struct names list = {.names = calloc(1, sizeof(char *))};

    if (!list.names)
        return -ENOMEM;
    int r = io->list(io->context, dirfd, names_add, &list);
    if (r == 0)
        r = list.error;
    if (r < 0) {
        journal_io_list_free(list.names);
        return r;
    }
    *ret = list.names;
    return 0;
}

void journal_io_list_free(char **names)
{
    if (!names)
        return;
    for (char **name = names; *name; name++)
        free(*name);
    free(names);
}

int journal_io_remove_dir(const struct journal_io *io, int dirfd, const char *path)
{
    char **names = NULL;
    int fd = journal_io_open_dir(io, dirfd, path);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    int r = journal_io_list(io, fd, &names);
    for (char **name = names; r == 0 && *name; name++)
        r = journal_io_unlink(io, fd, *name);
    journal_io_list_free(names);
    journal_io_close(io, &fd);
    return r < 0 ? r : io->rmdir(io->context, dirfd, path);
}
