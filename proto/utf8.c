/* See utf8.h. The ranges are those of table 3-7 of the Unicode standard. */
#include "proto/utf8.h"

#include <stdint.h>
#include <string.h>

bool toll_utf8_next(const char *text, size_t size, size_t *ret_size)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t first = p[0];
    size_t length;                   /* of the whole sequence */
    uint8_t low = 0x80, high = 0xbf; /* what its second byte may be */

    *ret_size = 1;
    if (first < 0x80)
        return first != 0;
    if (first < 0xc2 || first > 0xf4)
        return false; /* a continuation byte, an overlong form, or above U+10FFFF */
    length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first == 0xe0)
        low = 0xa0; /* overlong below */
    else if (first == 0xed)
        high = 0x9f; /* surrogates above */
    else if (first == 0xf0)
        low = 0x90; /* overlong below */
    else if (first == 0xf4)
        high = 0x8f; /* above U+10FFFF */

    for (size_t i = 1; i < length; i++) {
        if (i == size || p[i] < low || p[i] > high)
            return false;
        *ret_size = i + 1;
        low = 0x80;
        high = 0xbf;
    }
    return true;
}

/* Whether eight bytes are ASCII other than NUL; now and then it says no of such that are. */
static inline bool is_plain(uint64_t word)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);

    return ((word | (word - ones)) & tops) == 0; /* no byte above 0x7f, and no zero byte */
}

static inline uint64_t load8(const char *text)
{
    uint64_t word;

    memcpy(&word, text, sizeof(word));
    return word;
}

static inline uint64_t load4(const char *text)
{
    uint32_t word;

    memcpy(&word, text, sizeof(word));
    return word;
}

/* The same of a short string without a loop, by words that overlap: nearly all strings are names. False, too: it is not short. */
static inline bool is_plain_name(const char *text, size_t size)
{
    if (size > 24 || size < 4)
        return false;
    if (size < 8)
        return is_plain(load4(text) | load4(text + size - 4) << 32);
    return is_plain(load8(text)) && is_plain(load8(text + size - 8)) && (size <= 16 || is_plain(load8(text + 8)));
}

/* How many bytes at the start of text are ASCII other than NUL, found eight at a time. */
static size_t plain_prefix(const char *text, size_t size)
{
    size_t i = 0;

    while (size - i >= 8 && is_plain(load8(text + i)))
        i += 8;
    while (i < size && (signed char)text[i] > 0)
        i++;
    return i;
}

bool toll_utf8_clean(const char *text, size_t size)
{
    size_t pos = 0, length;

    if (is_plain_name(text, size))
        return true;
    for (;;) {
        pos += plain_prefix(text + pos, size - pos);
        if (pos == size)
            return true;
        if (!toll_utf8_next(text + pos, size - pos, &length))
            return false;
        pos += length;
    }
}

/* Mends as much as fits into cap bytes. */
static size_t mend(const char *text, size_t size, char *out, size_t cap)
{
    size_t used = 0;

    for (size_t pos = 0, length; pos < size; pos += length) {
        bool clean = toll_utf8_next(text + pos, size - pos, &length);
        const char *piece = clean ? text + pos : "\xef\xbf\xbd";
        size_t piece_size = clean ? length : 3;
        if (piece_size > cap - used)
            break;
        memcpy(out + used, piece, piece_size);
        used += piece_size;
    }
    return used;
}

size_t toll_utf8_mend(const char *text, size_t size, char *out)
{
    return mend(text, size, out, TOLL_UTF8_GROWTH * size);
}

void toll_utf8_copy(const char *text, size_t size, char *out, size_t cap)
{
    out[mend(text, size, out, cap - 1)] = '\0';
}
