/* See walk.h. One loop over the heads of the values; it counts how many values are still to come, and keeps a
 * short stack only to know the depth. */
#include "proto/walk.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/bytes.h"
#include "proto/frame.h"

/* What the first bytes of a value say: how many bytes it takes without its children, and how many children
 * follow. */
struct head {
    uint64_t size, children;
    bool container;
};

/* Sizes of 0xc0 … 0xdf. `prefix` bytes of length or count follow the first byte; `fixed` bytes follow that.
 */
static const struct {
    uint8_t prefix, fixed;
    enum { PLAIN, BODY, ARRAY, MAP, RESERVED } kind;
} forms[32] = {
    [0x00] = {0, 0, PLAIN},                                                    /* nil */
    [0x01] = {0, 0, RESERVED}, [0x02] = {0, 0, PLAIN},                         /* false, true */
    [0x03] = {0, 0, PLAIN},    [0x04] = {1, 0, BODY},                          /* bin 8, 16, 32 */
    [0x05] = {2, 0, BODY},     [0x06] = {4, 0, BODY},  [0x07] = {1, 1, BODY},  /* ext 8, 16, 32: one byte of type */
    [0x08] = {2, 1, BODY},     [0x09] = {4, 1, BODY},  [0x0a] = {0, 4, PLAIN}, /* float 32, 64 */
    [0x0b] = {0, 8, PLAIN},    [0x0c] = {0, 1, PLAIN},                         /* uint 8 … 64 */
    [0x0d] = {0, 2, PLAIN},    [0x0e] = {0, 4, PLAIN}, [0x0f] = {0, 8, PLAIN},
    [0x10] = {0, 1, PLAIN}, /* int 8 … 64 */
    [0x11] = {0, 2, PLAIN},    [0x12] = {0, 4, PLAIN}, [0x13] = {0, 8, PLAIN},
    [0x14] = {0, 2, PLAIN}, /* fixext 1 … 16, with their byte of type */
    [0x15] = {0, 3, PLAIN},    [0x16] = {0, 5, PLAIN}, [0x17] = {0, 9, PLAIN},
    [0x18] = {0, 17, PLAIN},   [0x19] = {1, 0, BODY}, /* str 8, 16, 32 */
    [0x1a] = {2, 0, BODY},     [0x1b] = {4, 0, BODY},  [0x1c] = {2, 0, ARRAY},
    [0x1d] = {4, 0, ARRAY},    [0x1e] = {2, 0, MAP},   [0x1f] = {4, 0, MAP},
};

/* Bytes of a value whose first byte says all of it, which most do. 0: more must be read. */
#define FOUR(n)    n, n, n, n
#define SIXTEEN(n) FOUR(n), FOUR(n), FOUR(n), FOUR(n)
/* clang-format off */
static const uint8_t plain_sizes[256] = {
    SIXTEEN(1), SIXTEEN(1), SIXTEEN(1), SIXTEEN(1), SIXTEEN(1), SIXTEEN(1), SIXTEEN(1), SIXTEEN(1), /* small integers */
    SIXTEEN(0), SIXTEEN(0),                                                                         /* maps, arrays */
     1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16,                                 /* short strings */
    17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
     1,  0,  1,  1,  0,  0,  0,  0,  0,  0,  5,  9,  2,  3,  5,  9,                                 /* as in `forms` */
     2,  3,  5,  9,  3,  4,  6, 10, 18,  0,  0,  0,  0,  0,  0,  0,
    SIXTEEN(1), SIXTEEN(1),                                                                         /* below 0 */
};
/* clang-format on */
#undef FOUR
#undef SIXTEEN

/* Reads the head of the value at p, of which `left` ≥ 1 bytes are there. False: reserved, or not all of it is
 * there. */
static bool read_head(const uint8_t *p, size_t left, struct head *ret)
{
    uint8_t first = p[0];

    *ret = (struct head){.size = 1};
    if (first < 0x80 || first >= 0xe0)
        return true; /* small integers */
    if (first < 0xa0) {
        ret->container = true;
        ret->children = first < 0x90 ? 2 * (first & 0x0fu) : first & 0x0fu;
        return true;
    }
    if (first < 0xc0) {
        ret->size += first & 0x1fu;
    } else {
        unsigned form = first & 0x1fu, prefix = forms[form].prefix;
        if (forms[form].kind == RESERVED || left < 1 + (size_t)prefix)
            return false;
        uint64_t length = prefix == 0 ? 0 : prefix == 1 ? p[1] : prefix == 2 ? toll_be16(p + 1) : toll_be32(p + 1);
        ret->size += prefix + (uint64_t)forms[form].fixed;
        ret->container = forms[form].kind == ARRAY || forms[form].kind == MAP;
        if (ret->container)
            ret->children = forms[form].kind == MAP ? 2 * length : length;
        else
            ret->size += length;
    }
    return ret->size <= left;
}

/* The same number, of which the compiler does not know that it is. */
static inline size_t opaque(size_t number)
{
    __asm__("" : "+r"(number));
    return number;
}

/* Bytes of the value at p, of which `left` >= 1 are there, though perhaps not all of it; 0: more must be read. Where the next value begins is all that the
 * loop below waits for. So the commonest sizes are not loaded but guessed, by the prediction of branches that the compiler must leave there: a fifth less
 * time for a frame. */
static inline size_t plain_size(const uint8_t *p, size_t left)
{
    uint8_t first = p[0];

    if ((first & 0xe0) == 0xa0) /* a short string, as keys are */
        return 1 + (first & 0x1fu);
    if (first == 0xcf || first == 0xcb) /* a time, a float */
        return opaque(9);
    if (first == 0xcd)
        return opaque(3);
    if (first == 0xc4 && left >= 2 && p[1] == 16) /* an id */
        return opaque(18);
    return plain_sizes[first];
}

/* Measures one value of whatever depth; 0 or -EBADMSG. */
static int measure(const uint8_t *data, size_t size, size_t *ret_size, bool *ret_too_deep)
{
    uint64_t pending = 1;                 /* values still to come: each needs a byte at least */
    uint64_t after[TOLL_NESTING_MAX + 1]; /* of each container that is open: what pending is when it ends */
    unsigned depth = 0;
    size_t pos = 0;
    bool too_deep = false;

    while (pending > 0) {
        struct head head;
        size_t plain;

        if (pos == size)
            return -EBADMSG;
        plain = plain_size(data + pos, size - pos);
        if (plain > 0) {
            if (plain > size - pos)
                return -EBADMSG;
            pos += plain;
            pending--;
            continue;
        }
        if (!read_head(data + pos, size - pos, &head))
            return -EBADMSG;
        pos += head.size;
        if (head.container) {
            while (depth > 0 && pending <= after[depth - 1])
                depth--;
            after[depth++] = pending - 1;
            if (depth > TOLL_NESTING_MAX) {
                too_deep = true; /* one level more is all that has to be known */
                depth--;
            }
        }
        pending += head.children - 1;
        if (pending > size - pos)
            return -EBADMSG;
    }
    *ret_size = pos;
    *ret_too_deep = too_deep;
    return 0;
}

int toll_walk(const void *data, size_t size, size_t *ret_size)
{
    size_t length;
    bool too_deep;

    int r = measure(data, size, &length, &too_deep);
    if (r < 0)
        return r;
    if (too_deep)
        return -E2BIG;
    *ret_size = length;
    return 0;
}

const char *toll_walk_strerror(int error)
{
    _Static_assert(TOLL_NESTING_MAX == 8, "the message below says 8");
    return error == -E2BIG ? "nested deeper than 8" : "malformed msgpack";
}

int toll_walk_next(const void *data, size_t size, size_t *pos, const void **ret_frame, size_t *ret_size)
{
    bool too_deep;

    assert(*pos <= size);
    if (*pos == size)
        return 0;
    const uint8_t *frame = (const uint8_t *)data + *pos;
    size_t length = size - *pos;
    int r = measure(frame, length, &length, &too_deep);
    *ret_frame = frame;
    *ret_size = length;
    *pos += length;
    return r < 0 ? r : 1;
}
