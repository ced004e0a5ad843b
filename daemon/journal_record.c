/* One record of the log: from fields to bytes and back. No I/O.
 *
 *   offset  0: u32 payload length
 *           4: u32 CRC-32C of the journal's UUID, bytes 0 to 3, bytes 8 to 43, payload
 *           8: u64 LSN
 *          16: u64 durable LSN when it was appended
 *          24: i64 receive time in µs
 *          32: u32 uid
 *          36: u32 pid
 *          40: u8 kind
 *          41: u8 flags
 *          42: u16 zero
 *          44: payload
 * Little-endian. The UUID and the LSN in the checksum keep a record of another journal, or from another place, from
 * passing for this one. */
#include "daemon/journal_internal.h"

#include <errno.h>
#include <string.h>

#include "daemon/crc32c.h"

uint32_t journal_record_seed(const uint8_t uuid[16])
{
    return crc32c(0, uuid, 16);
}

static uint32_t record_crc(uint32_t seed, const uint8_t *header, const void *payload, size_t size)
{
    uint32_t crc = crc32c(seed, header, 4);
    crc = crc32c(crc, header + 8, JOURNAL_RECORD_HEADER - 8);
    return crc32c(crc, payload, size);
}

void journal_record_encode(uint32_t seed, const struct journal_record *record, uint64_t durable,
                           uint8_t header[JOURNAL_RECORD_HEADER])
{
    put_le(header, record->size, 4);
    put_le(header + 8, record->lsn, 8);
    put_le(header + 16, durable, 8);
    put_le(header + 24, (uint64_t)record->received_us, 8);
    put_le(header + 32, record->uid, 4);
    put_le(header + 36, record->pid, 4);
    header[40] = record->kind;
    header[41] = record->flags;
    put_le(header + 42, 0, 2);
    put_le(header + 4, record_crc(seed, header, record->payload, record->size), 4);
}

uint64_t journal_record_bytes(const uint8_t *p)
{
    return JOURNAL_RECORD_HEADER + get_le(p, 4);
}

int journal_record_decode(uint32_t seed, uint64_t lsn, const uint8_t *p, size_t size, struct journal_record *ret,
                          uint64_t *ret_durable)
{
    if (size < JOURNAL_RECORD_HEADER)
        return -EAGAIN;
    uint64_t bytes = journal_record_bytes(p);
    uint64_t durable = get_le(p + 16, 8);
    if (get_le(p + 8, 8) != lsn || bytes > RECORD_MAX || lsn > LSN_MAX - bytes || durable > lsn || p[40] == 0 ||
        get_le(p + 42, 2) != 0)
        return -EBADMSG;
    if (size < bytes)
        return -EAGAIN;
    size_t payload = (size_t)bytes - JOURNAL_RECORD_HEADER;
    if (get_le(p + 4, 4) != record_crc(seed, p, p + JOURNAL_RECORD_HEADER, payload))
        return -EBADMSG;
    *ret = (struct journal_record){
        .lsn = lsn,
        .end_lsn = lsn + bytes,
        .received_us = (int64_t)get_le(p + 24, 8),
        .uid = (uint32_t)get_le(p + 32, 4),
        .pid = (uint32_t)get_le(p + 36, 4),
        .kind = p[40],
        .flags = p[41],
        .payload = p + JOURNAL_RECORD_HEADER,
        .size = payload,
    };
    *ret_durable = durable;
    return 0;
}

int journal_record_parse(const uint8_t uuid[16], uint64_t lsn, const void *data, size_t size,
                         struct journal_record *ret, uint64_t *ret_durable)
{
    return journal_record_decode(journal_record_seed(uuid), lsn, data, size, ret, ret_durable);
}
