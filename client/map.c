/* Writes pairs of strings as msgpack: a map's head, then each string's head and bytes. */
#include "client/map.h"

#include <errno.h>
#include <string.h>

/* True if one of the pairs before the n-th has the same key, which the daemon would refuse. */
static bool is_repeated(const struct toll_pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(pairs[i].key, pairs[n].key) == 0)
            return true;
    return false;
}

/* Appends a string at *pos; false if it does not fit. */
static bool put_string(uint8_t *buf, size_t cap, size_t *pos, const char *string)
{
    size_t left = cap - *pos, size = strnlen(string, cap);
    if (left < 3 || size > left - 3 || size > UINT16_MAX)
        return false;
    uint8_t *p = buf + *pos;
    if (size < 32) {
        *p++ = (uint8_t)(0xa0 | size);
    } else {
        *p++ = 0xda; /* str 16 */
        *p++ = (uint8_t)(size >> 8);
        *p++ = (uint8_t)size;
    }
    memcpy(p, string, size);
    *pos = (size_t)(p - buf) + size;
    return true;
}

int toll_map_encode(const struct toll_map *map, void *buf, size_t cap, struct toll_str *ret)
{
    if (map->count == 0 && map->msgpack_size == 0)
        return 0;
    if (map->count > 0 && map->msgpack_size > 0)
        return -EINVAL;
    if (map->msgpack_size > 0) {
        if (!map->msgpack)
            return -EINVAL;
        if (map->msgpack_size > cap)
            return -EMSGSIZE;
        *ret = (struct toll_str){map->msgpack, (uint32_t)map->msgpack_size};
        return 0;
    }

    if (!map->pairs || map->count > TOLL_PAIRS_MAX || cap < 3)
        return -EINVAL;
    uint8_t *bytes = buf;
    size_t pos = 3;
    bytes[0] = 0xde; /* map 16 */
    bytes[1] = (uint8_t)(map->count >> 8);
    bytes[2] = (uint8_t)map->count;
    for (size_t i = 0; i < map->count; i++) {
        const struct toll_pair *pair = &map->pairs[i];
        if (!pair->key || !pair->value || is_repeated(map->pairs, i))
            return -EINVAL;
        if (!put_string(bytes, cap, &pos, pair->key) || !put_string(bytes, cap, &pos, pair->value))
            return -EMSGSIZE;
    }
    *ret = (struct toll_str){buf, (uint32_t)pos};
    return 0;
}
