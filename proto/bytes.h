/* Big-endian integers, as they stand in msgpack. Internal to proto/. */
#ifndef TOLL_PROTO_BYTES_H
#define TOLL_PROTO_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t toll_be16(const uint8_t *p)
{
    uint16_t n;
    memcpy(&n, p, sizeof(n));
    return be16toh(n);
}

static inline uint32_t toll_be32(const uint8_t *p)
{
    uint32_t n;
    memcpy(&n, p, sizeof(n));
    return be32toh(n);
}

static inline uint64_t toll_be64(const uint8_t *p)
{
    uint64_t n;
    memcpy(&n, p, sizeof(n));
    return be64toh(n);
}

#endif
