/* Small files that change as a whole: written beside, synced, renamed, and the directory synced. A checksum over name
 * and content tells a damaged file, and one that was copied over another, from a sound one. For facts, not for the
 * log.
 *
 *   offset  0: magic "TOLLFILE"
 *           8: u32 version
 *          12: u32 size of the content
 *          16: u32 CRC-32C of name, bytes 0 to 15, content
 *          20: content
 * Little-endian. Whoever changes this raises FILE_VERSION, by the rule that segments have (journal_segment.c). */
#include "daemon/journal_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/crc32c.h"

enum { FILE_VERSION = 1, FILE_HEADER = 20, FILE_MAX = 64 * 1024 };
static const char magic[8] = {'T', 'O', 'L', 'L', 'F', 'I', 'L', 'E'};

static uint32_t file_crc(const char *name, const uint8_t *bytes, size_t size)
{
    uint32_t crc = crc32c(0, name, strlen(name));
    crc = crc32c(crc, bytes, 16);
    return crc32c(crc, bytes + FILE_HEADER, size);
}

int journal_file_write(const struct journal_io *io, int dirfd, const char *name, const void *data, size_t size)
{
    char temporary[128];
    uint8_t *bytes = NULL;
    int dir = -1, fd = -1, r;

    if (size > FILE_MAX)
        return -EMSGSIZE;
    if (snprintf(temporary, sizeof temporary, "%s.tmp", name) >= (int)sizeof temporary)
        return -ENAMETOOLONG;
    bytes = malloc(FILE_HEADER + size);
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, magic, sizeof magic);
    put_le(bytes + 8, FILE_VERSION, 4);
    put_le(bytes + 12, size, 4);
    if (size > 0)
        memcpy(bytes + FILE_HEADER, data, size);
    put_le(bytes + 16, file_crc(name, bytes, size), 4);

    /* A descriptor of our own, opened before the change: the kernel tells each open directory once of an
     * error. */
    r = dir = journal_io_open_dir(io, dirfd, ".");
    if (r < 0)
        goto out;
    r = fd = journal_io_open(io, dirfd, temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (r < 0)
        goto out;
    r = journal_io_write(io, fd, bytes, FILE_HEADER + size, 0);
    if (r == 0)
        r = io->fsync(io->context, fd);
    if (r == 0)
        r = io->rename(io->context, dirfd, temporary, name);
    if (r < 0) {
        (void)!journal_io_unlink(io, dirfd, temporary);
        goto out;
    }
    r = io->fsync(io->context, dir);
out:
    journal_io_close(io, &fd);
    journal_io_close(io, &dir);
    free(bytes);
    return r < 0 ? r : 0;
}

ssize_t journal_file_read(const struct journal_io *io, int dirfd, const char *name, void *buf, size_t cap)
{
    uint8_t *bytes = NULL;
    int fd = journal_io_open(io, dirfd, name, O_RDONLY);
    if (fd < 0)
        return fd;
    ssize_t r = -ENOMEM;
    bytes = malloc(FILE_HEADER + FILE_MAX + 1);
    if (!bytes)
        goto out;
    ssize_t n = journal_io_read(io, fd, bytes, FILE_HEADER + FILE_MAX + 1, 0);
    if (n < 0) {
        r = n;
        goto out;
    }
    r = -EBADMSG;
    if (n < FILE_HEADER || memcmp(bytes, magic, sizeof magic) != 0)
        goto out;
    size_t size = (size_t)get_le(bytes + 12, 4);
    if (size != (size_t)n - FILE_HEADER || size > FILE_MAX || get_le(bytes + 16, 4) != file_crc(name, bytes, size))
        goto out;
    r = -ENOTSUP;
    if (get_le(bytes + 8, 4) != FILE_VERSION)
        goto out;
    r = -EMSGSIZE;
    if (size > cap)
        goto out;
    if (size > 0)
        memcpy(buf, bytes + FILE_HEADER, size);
    r = (ssize_t)size;
out:
    journal_io_close(io, &fd);
    free(bytes);
    return r;
}

/* A plain name, and none of the journal's own. */
static bool name_allowed(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length > 100 || name[0] == '.' || strchr(name, '/'))
        return false;
    if (length >= 4 && strcmp(name + length - 4, ".tmp") == 0)
        return false;
    return strcmp(name, "lock") != 0 && strncmp(name, "journal", 7) != 0 && strncmp(name, "torn-", 5) != 0 &&
           strncmp(name, "damage-", 7) != 0;
}

int journal_state_write(struct journal *journal, const char *name, const void *data, size_t size)
{
    if (!name_allowed(name))
        return -EINVAL;
    return journal_file_write(journal->io, journal->state_fd, name, data, size);
}

ssize_t journal_state_read(struct journal *journal, const char *name, void *buf, size_t cap)
{
    if (!name_allowed(name))
        return -EINVAL;
    return journal_file_read(journal->io, journal->state_fd, name, buf, cap);
}
