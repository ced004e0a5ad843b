/* See share.h. */
#include "daemon/share.h"

#include "proto/peek.h"

#include <endian.h>
#include <string.h>

/* The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): ids need not be random. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

unsigned share_of_session(const uint8_t id[static 16], unsigned writers)
{
    uint64_t halves[2];

    memcpy(halves, id, sizeof(halves));
    return (unsigned)(mix(mix(le64toh(halves[0])) ^ le64toh(halves[1])) % writers);
}

unsigned share_of_frame(const void *data, size_t size, unsigned writers)
{
    uint8_t id[16];

    if (writers == 1 || !toll_peek_session(data, size, id))
        return 0;
    return share_of_session(id, writers);
}
