/* See idhash.h. Multiply-and-fold of 8-byte words with a random key, as in wyhash and its kin: not cryptographic, but the collisions of
 * one process say nothing about another's. */
#include "daemon/idhash.h"

#include <pthread.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static uint64_t secret[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void draw_secret(void)
{
    if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret)) /* cannot fail on kernels that have it */
        secret[0] = (uint64_t)time(NULL) * UINT64_C(0x9E3779B97F4A7C15);
    secret[1] |= 1;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint32_t idhash(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t hash, word;

    pthread_once(&once, draw_secret);
    hash = secret[0] ^ size;
    for (; size >= sizeof(word); size -= sizeof(word), bytes += sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        hash = fold(hash ^ word, secret[1] ^ UINT64_C(0xA0761D6478BD642F));
    }
    if (size > 0) {
        word = 0;
        memcpy(&word, bytes, size);
        hash = fold(hash ^ word, secret[1] ^ UINT64_C(0xA0761D6478BD642F));
    }
    hash = fold(hash, secret[1]);
    return (uint32_t)(hash ^ (hash >> 32));
}
