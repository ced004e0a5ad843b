/* See reader.h. */
#include "proto/reader.h"

#include <string.h>

#include "proto/bytes.h"
#include "proto/walk.h"

static size_t set_unsigned(msgpack_object *ret, uint64_t n, size_t size)
{
    *ret = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = n};
    return size;
}

static size_t set_signed(msgpack_object *ret, int64_t n, size_t size)
{
    *ret = (msgpack_object){.type = MSGPACK_OBJECT_NEGATIVE_INTEGER, .via.i64 = n};
    return n >= 0 ? set_unsigned(ret, (uint64_t)n, size) : size;
}

static size_t set_float(msgpack_object *ret, msgpack_object_type type, double value, size_t size)
{
    *ret = (msgpack_object){.type = type, .via.f64 = value};
    return size;
}

static size_t set_bool(msgpack_object *ret, bool value)
{
    *ret = (msgpack_object){.type = MSGPACK_OBJECT_BOOLEAN, .via.boolean = value};
    return 1;
}

/* head: bytes in front of the string's own. */
static size_t set_str(msgpack_object *ret, const uint8_t *p, size_t head, uint32_t size)
{
    *ret = (msgpack_object){.type = MSGPACK_OBJECT_STR, .via.str = {size, (const char *)p + head}};
    return head + size;
}

static size_t set_bin(msgpack_object *ret, const uint8_t *p, size_t head, uint32_t size)
{
    *ret = (msgpack_object){.type = MSGPACK_OBJECT_BIN, .via.bin = {size, (const char *)p + head}};
    return head + size;
}

/* The extension's type stands last in its head. */
static size_t set_ext(msgpack_object *ret, const uint8_t *p, size_t head, uint32_t size)
{
    *ret = (msgpack_object){.type = MSGPACK_OBJECT_EXT, .via.ext = {(int8_t)p[head - 1], size, (const char *)p + head}};
    return head + size;
}

static size_t set_container(msgpack_object *ret, msgpack_object_type type, const uint8_t *p, const uint8_t *end)
{
    const void *container;
    size_t size = 0, pos = 0;

    *ret = (msgpack_object){.type = type};
    return toll_walk_next(p, (size_t)(end - p), &pos, &container, &size) == 1 ? size : 0;
}

static float float_from(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static double double_from(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

enum { HEAD_MAX = 9 }; /* bytes of the longest number, and more than of any other value's head */

/* Reads the value at p, of which HEAD_MAX bytes may be read, and returns its size, which may go beyond the end; 0: it is none. */
static size_t read_value(const uint8_t *p, const uint8_t *end, msgpack_object *ret)
{
    uint8_t first = p[0];

    if (first < 0x80)
        return set_unsigned(ret, first, 1);
    if (first < 0x90)
        return set_container(ret, MSGPACK_OBJECT_MAP, p, end);
    if (first < 0xa0)
        return set_container(ret, MSGPACK_OBJECT_ARRAY, p, end);
    if (first < 0xc0)
        return set_str(ret, p, 1, first & 0x1f);
    switch (first) {
    case 0xc2:
    case 0xc3:
        return set_bool(ret, first == 0xc3);
    case 0xc4:
        return set_bin(ret, p, 2, p[1]);
    case 0xc5:
        return set_bin(ret, p, 3, toll_be16(p + 1));
    case 0xc6:
        return set_bin(ret, p, 5, toll_be32(p + 1));
    case 0xc7:
        return set_ext(ret, p, 3, p[1]);
    case 0xc8:
        return set_ext(ret, p, 4, toll_be16(p + 1));
    case 0xc9:
        return set_ext(ret, p, 6, toll_be32(p + 1));
    case 0xca:
        return set_float(ret, MSGPACK_OBJECT_FLOAT32, (double)float_from(toll_be32(p + 1)), 5);
    case 0xcb:
        return set_float(ret, MSGPACK_OBJECT_FLOAT64, double_from(toll_be64(p + 1)), 9);
    case 0xcc:
        return set_unsigned(ret, p[1], 2);
    case 0xcd:
        return set_unsigned(ret, toll_be16(p + 1), 3);
    case 0xce:
        return set_unsigned(ret, toll_be32(p + 1), 5);
    case 0xcf:
        return set_unsigned(ret, toll_be64(p + 1), 9);
    case 0xd0:
        return set_signed(ret, (int8_t)p[1], 2);
    case 0xd1:
        return set_signed(ret, (int16_t)toll_be16(p + 1), 3);
    case 0xd2:
        return set_signed(ret, (int32_t)toll_be32(p + 1), 5);
    case 0xd3:
        return set_signed(ret, (int64_t)toll_be64(p + 1), 9);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return set_ext(ret, p, 2, 1u << (first - 0xd4));
    case 0xd9:
        return set_str(ret, p, 2, p[1]);
    case 0xda:
        return set_str(ret, p, 3, toll_be16(p + 1));
    case 0xdb:
        return set_str(ret, p, 5, toll_be32(p + 1));
    case 0xdc:
    case 0xdd:
        return set_container(ret, MSGPACK_OBJECT_ARRAY, p, end);
    case 0xde:
    case 0xdf:
        return set_container(ret, MSGPACK_OBJECT_MAP, p, end);
    case 0xc0:
        *ret = (msgpack_object){.type = MSGPACK_OBJECT_NIL};
        return 1;
    case 0xc1:
        return 0;
    default:
        return set_signed(ret, (int8_t)first, 1); /* 0xe0 …: -32 … -1 */
    }
}

/* False: there is none, or not all of it. */
static bool next_value(struct toll_reader *reader, struct toll_reader_value *ret)
{
    const uint8_t *p = reader->pos;
    size_t left = (size_t)(reader->end - p), pos = 0, size;
    const void *value;

    /* So near the end a head may not be there. */
    if (left < HEAD_MAX && toll_walk_next(p, left, &pos, &value, &size) != 1)
        return false;
    size = read_value(p, reader->end, &ret->object);
    if (size == 0 || size > left)
        return false;
    ret->bytes = p;
    ret->size = size;
    reader->pos += size;
    return true;
}

bool toll_reader_open(struct toll_reader *reader, const void *data, size_t size, msgpack_object *ret_other)
{
    const uint8_t *p = data;
    struct toll_reader_value other;

    *reader = (struct toll_reader){.pos = p, .end = p + size};
    if (size > 0 && (p[0] & 0xf0) == 0x80) {
        reader->left = p[0] & 0x0f;
        reader->pos += 1;
    } else if (size >= 3 && p[0] == 0xde) {
        reader->left = toll_be16(p + 1);
        reader->pos += 3;
    } else if (size >= 5 && p[0] == 0xdf) {
        reader->left = toll_be32(p + 1);
        reader->pos += 5;
    } else if (next_value(reader, &other)) {
        *ret_other = other.object;
        return false;
    } else {
        reader->broken = true;
    }
    return true;
}

bool toll_reader_next(struct toll_reader *reader, struct toll_reader_value *ret_key,
                      struct toll_reader_value *ret_value)
{
    if (reader->left == 0 || reader->broken)
        return false;
    reader->left--;
    reader->broken = !next_value(reader, ret_key) || !next_value(reader, ret_value);
    return !reader->broken;
}

bool toll_reader_whole(const struct toll_reader *reader)
{
    return !reader->broken && reader->left == 0 && reader->pos == reader->end;
}
