/* Values in the forms that libtoll writes them in, read straight from the bytes: what nearly every frame consists of.
 *
 * Internal to proto/. Each takes one value at *p, of which nothing from `end` on is read, and moves *p behind it; false: something else stands there, or
 * not all of it, and *p is where it was. Whoever calls them has a general way for what they do not take. */
#ifndef TOLL_PROTO_USUAL_H
#define TOLL_PROTO_USUAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/bytes.h"
#include "proto/frame.h"

/* memcmp() == 0 of up to 24 bytes without a call or a loop: keys are short, and compared for every pair of every frame. */
static inline bool toll_same_bytes(const void *a, const void *b, size_t size)
{
    const char *x = a, *y = b;
    uint64_t x8, y8, x_end8, y_end8;
    uint32_t x4, y4, x_end4, y_end4;

    if (size > 24 || size < 4)
        return memcmp(a, b, size) == 0;
    if (size < 8) { /* the two halves overlap */
        memcpy(&x4, x, 4);
        memcpy(&y4, y, 4);
        memcpy(&x_end4, x + size - 4, 4);
        memcpy(&y_end4, y + size - 4, 4);
        return ((x4 ^ y4) | (x_end4 ^ y_end4)) == 0;
    }
    memcpy(&x8, x, 8);
    memcpy(&y8, y, 8);
    memcpy(&x_end8, x + size - 8, 8);
    memcpy(&y_end8, y + size - 8, 8);
    if (((x8 ^ y8) | (x_end8 ^ y_end8)) != 0 || size <= 16)
        return ((x8 ^ y8) | (x_end8 ^ y_end8)) == 0;
    memcpy(&x8, x + 8, 8);
    memcpy(&y8, y + 8, 8);
    return x8 == y8;
}

/* This string, of at most 31 bytes. */
static inline bool toll_usual_skip(const uint8_t **p, const uint8_t *end, const char *text, size_t size)
{
    if ((size_t)(end - *p) < 1 + size || **p != (0xa0 | size) || !toll_same_bytes(*p + 1, text, size))
        return false;
    *p += 1 + size;
    return true;
}

/* An integer ≥ 0, not written as a signed one. */
static inline bool toll_usual_unsigned(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
    const uint8_t *at = *p;
    size_t left = (size_t)(end - at);

    if (left >= 1 && at[0] < 0x80) {
        *ret = at[0];
        *p += 1;
    } else if (left >= 2 && at[0] == 0xcc) {
        *ret = at[1];
        *p += 2;
    } else if (left >= 3 && at[0] == 0xcd) {
        *ret = toll_be16(at + 1);
        *p += 3;
    } else if (left >= 5 && at[0] == 0xce) {
        *ret = toll_be32(at + 1);
        *p += 5;
    } else if (left >= 9 && at[0] == 0xcf) {
        *ret = toll_be64(at + 1);
        *p += 9;
    } else {
        return false;
    }
    return true;
}

/* A string of up to 255 bytes. */
static inline bool toll_usual_string(const uint8_t **p, const uint8_t *end, struct toll_str *ret)
{
    const uint8_t *at = *p;
    size_t left = (size_t)(end - at), head, size;

    if (left >= 1 && (at[0] & 0xe0) == 0xa0) {
        head = 1;
        size = at[0] & 0x1f;
    } else if (left >= 2 && at[0] == 0xd9) {
        head = 2;
        size = at[1];
    } else {
        return false;
    }
    if (left < head + size)
        return false;
    *ret = (struct toll_str){(const char *)at + head, (uint32_t)size};
    *p += head + size;
    return true;
}

/* 16 bytes of binary data. */
static inline bool toll_usual_bin16(const uint8_t **p, const uint8_t *end, uint8_t ret[static 16])
{
    const uint8_t *at = *p;

    if (end - at < 18 || at[0] != 0xc4 || at[1] != 16)
        return false;
    memcpy(ret, at + 2, 16);
    *p += 18;
    return true;
}

/* A float of 64 bits. */
static inline bool toll_usual_float(const uint8_t **p, const uint8_t *end, double *ret)
{
    uint64_t bits;

    if (end - *p < 9 || **p != 0xcb)
        return false;
    bits = toll_be64(*p + 1);
    memcpy(ret, &bits, sizeof(*ret));
    *p += 9;
    return true;
}

#endif
