/* Fuzzes the journal's way back from bytes: one record, and a whole start (open, read, append, repair, read) on a segment
 * file. Nothing may crash, read out of bounds, hang, or yield a record that does not check, and after a repair all must
 * read. Bit 0 of the first byte says whether a second segment follows; the rest is the record, and the segment's
 * records. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "daemon/journal_internal.h"
#include "tests/support/fakedisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t uuid[16] = "toll fuzzer uuid";

static void fuzz_record(const uint8_t *data, size_t size)
{
    struct journal_record record;
    uint64_t durable;

    if (journal_record_parse(uuid, 0, data, size, &record, &durable) == 0)
        assert(record.end_lsn <= size && (const uint8_t *)record.payload + record.size <= data + size);
}

/* Makes the input's records pass: the checksums are ours to give, or nothing behind them is ever reached. */
static void sign_records(uint8_t *bytes, size_t size)
{
    uint32_t seed = journal_record_seed(uuid);
    for (size_t at = 0; at + JOURNAL_RECORD_HEADER <= size;) {
        uint8_t *p = bytes + at;
        uint64_t length = journal_record_bytes(p);
        if (length > size - at || p[43] != 0xAA) /* the input asks for it */
            return;
        struct journal_record record = {.lsn = at,
                                        .received_us = (int64_t)get_le(p + 24, 8),
                                        .uid = (uint32_t)get_le(p + 32, 4),
                                        .pid = (uint32_t)get_le(p + 36, 4),
                                        .kind = p[40],
                                        .flags = p[41],
                                        .payload = p + JOURNAL_RECORD_HEADER,
                                        .size = (size_t)length - JOURNAL_RECORD_HEADER};
        journal_record_encode(seed, &record, get_le(p + 16, 8), p);
        at += (size_t)length;
    }
}

static void put_file(struct fakedisk *disk, int dir, const char *name, const void *bytes, size_t size)
{
    int fd = fakedisk_open(disk, dir, name, O_CREAT | O_RDWR, 0);
    fakedisk_pwrite(disk, fd, bytes, size, 0);
    fakedisk_close(disk, fd);
}

static void read_to_the_end(struct journal *journal)
{
    struct journal_reader *reader;
    struct journal_record record;
    uint64_t lsn = journal_oldest_lsn(journal);

    if (journal_reader_new(&reader, journal) < 0)
        return;
    while (journal_reader_next(reader, &record) == 0) {
        assert(record.lsn == lsn && record.end_lsn > lsn && record.end_lsn <= journal_durable_lsn(journal));
        lsn = record.end_lsn;
    }
    journal_reader_free(reader);
}

static void fuzz_start(bool two, uint8_t *bytes, size_t size)
{
    uint8_t header[SEGMENT_HEADER], identity[32] = {0}, *image = calloc(1, 8192);
    char name[SEGMENT_NAME];
    struct fakedisk *disk = fakedisk_new();
    struct journal_io io = fakedisk_io(disk);
    struct journal_options options = {.state_dir = "state", .segment_bytes = 8192, .io = &io};
    struct journal *journal;
    uint64_t end;

    assert(image);
    int root = fakedisk_open(disk, AT_FDCWD, "state", O_DIRECTORY, 0);
    fakedisk_mkdir(disk, root, JOURNAL_DIR, 0);
    int dir = fakedisk_open(disk, root, JOURNAL_DIR, O_DIRECTORY, 0);
    memcpy(identity, uuid, 16);
    assert(journal_file_write(&io, dir, IDENTITY_FILE, identity, sizeof identity) == 0);
    if (size > 8192 - SEGMENT_HEADER)
        size = 8192 - SEGMENT_HEADER;
    sign_records(bytes, size);
    struct segment_header first = {.number = 1};
    segment_header_encode(uuid, &first, image);
    memcpy(image + SEGMENT_HEADER, bytes, size);
    segment_name(name, 1, 0);
    put_file(disk, dir, name, image, 8192);
    if (two) {
        struct segment_header second = {.number = 2, .base = size, .durable = size / 2};
        segment_header_encode(uuid, &second, header);
        segment_name(name, 2, size);
        put_file(disk, dir, name, header, sizeof header);
    }
    fakedisk_close(disk, dir);
    fakedisk_close(disk, root);

    int r = journal_open(&journal, &options, NULL);
    if (r == 0) {
        read_to_the_end(journal);
        if (journal_append(journal, JOURNAL_DATAGRAM, 0, 1, 2, 3, "x", 1, &end) == 0) {
            assert(journal_write(journal) == 0 && journal_sync(journal) == 0);
            assert(journal_durable_lsn(journal) == end);
        }
        journal_close(journal);
    }
    r = journal_repair(&options, NULL, NULL);
    if (r >= 0) {
        assert(journal_open(&journal, &options, NULL) == 0);
        struct journal_reader *reader;
        struct journal_record record;
        assert(journal_reader_new(&reader, journal) == 0);
        while ((r = journal_reader_next(reader, &record)) == 0)
            ;
        assert(r == -EAGAIN); /* after a repair all of it reads */
        journal_reader_free(reader);
        journal_close(journal);
    }
    assert(fakedisk_open_fds(disk) == 0);
    fakedisk_free(disk);
    free(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    fuzz_record(data + 1, size - 1);
    uint8_t *bytes = malloc(size);
    assert(bytes);
    memcpy(bytes, data + 1, size - 1);
    fuzz_start(data[0] & 1, bytes, size - 1);
    free(bytes);
    return 0;
}
