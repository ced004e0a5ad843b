/* CRC-32C: the SSE4.2 instruction, three at a time, or eight table look-ups for each eight bytes. Polynomial 0x1EDC6F41,
 * reflected (RFC 3720, B.4). */
#include "daemon/crc32c.h"

#include <pthread.h>
#include <string.h>

static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void tables_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
        tables[0][i] = crc;
    }
    for (unsigned t = 1; t < 8; t++)
        for (unsigned i = 0; i < 256; i++)
            tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xff];
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;

    pthread_once(&tables_once, tables_init);
    crc = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^ tables[4][low >> 24] ^
              tables[3][p[4]] ^ tables[2][p[5]] ^ tables[1][p[6]] ^ tables[0][p[7]];
    }
    for (; size; size--, p++)
        crc = crc >> 8 ^ tables[0][(crc ^ *p) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)
/* The instruction gives its result after three cycles, but another can begin in each: so three stripes of a long piece are taken side by side. A state goes
 * over the zeros of a stripe by four look-ups, one for each byte of it: a CRC is linear. */
enum { STRIPE = 256, SECOND = STRIPE, THIRD = 2 * STRIPE, STRIPES = 3 * STRIPE }; /* bytes */

static uint32_t over_stripe[4][256];
static pthread_once_t over_stripe_once = PTHREAD_ONCE_INIT;

static void over_stripe_init(void)
{
    static const uint8_t zeros[STRIPE];

    for (unsigned t = 0; t < 4; t++)
        for (unsigned i = 0; i < 256; i++)
            over_stripe[t][i] = ~crc32c_portable(~(i << 8 * t), zeros, STRIPE);
}

static uint32_t skip_stripe(uint32_t state)
{
    return over_stripe[0][state & 0xff] ^ over_stripe[1][state >> 8 & 0xff] ^ over_stripe[2][state >> 16 & 0xff] ^
           over_stripe[3][state >> 24];
}

static uint64_t word_at(const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t state = (uint32_t)~crc;

    if (size >= STRIPES)
        pthread_once(&over_stripe_once, over_stripe_init);
    for (; size >= STRIPES; size -= STRIPES, p += STRIPES) {
        uint64_t second = 0, third = 0;

        for (size_t i = 0; i < STRIPE; i += 8) {
            state = __builtin_ia32_crc32di(state, word_at(p + i));
            second = __builtin_ia32_crc32di(second, word_at(p + SECOND + i));
            third = __builtin_ia32_crc32di(third, word_at(p + THIRD + i));
        }
        state = skip_stripe((uint32_t)state) ^ (uint32_t)second;
        state = skip_stripe((uint32_t)state) ^ (uint32_t)third;
    }
    for (; size >= 8; size -= 8, p += 8)
        state = __builtin_ia32_crc32di(state, word_at(p));
    crc = (uint32_t)state;
    for (; size; size--, p++)
        crc = __builtin_ia32_crc32qi(crc, *p);
    return ~crc;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return crc32c_sse42(crc, data, size);
#endif
    return crc32c_portable(crc, data, size);
}
