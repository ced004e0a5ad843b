/* See control_value.h. */
#include "daemon/control_value.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int write_bytes(void *data, const char *bytes, size_t size)
{
    struct pack_buffer *buffer = data;

    buffer->failed = buffer->failed || msgpack_sbuffer_write(&buffer->bytes, bytes, size) < 0;
    return buffer->failed ? -1 : 0;
}

void pack_buffer_init(struct pack_buffer *buffer, msgpack_packer *ret_packer)
{
    msgpack_sbuffer_init(&buffer->bytes);
    buffer->failed = false;
    msgpack_packer_init(ret_packer, buffer, write_bytes);
}

void pack_buffer_add(struct pack_buffer *buffer, const void *packed, size_t size)
{
    (void)write_bytes(buffer, packed, size);
}

void pack_buffer_done(struct pack_buffer *buffer)
{
    msgpack_sbuffer_destroy(&buffer->bytes);
    msgpack_sbuffer_init(&buffer->bytes);
    buffer->failed = false;
}

void pack_text(msgpack_packer *packer, const char *text)
{
    if (text)
        msgpack_pack_str_with_body(packer, text, strlen(text));
    else
        msgpack_pack_nil(packer);
}

void pack_pair_text(msgpack_packer *packer, const char *key, const char *text)
{
    pack_text(packer, key);
    pack_text(packer, text);
}

void pack_pair_uint(msgpack_packer *packer, const char *key, uint64_t value)
{
    pack_text(packer, key);
    msgpack_pack_uint64(packer, value);
}

void pack_pair_int(msgpack_packer *packer, const char *key, int64_t value)
{
    pack_text(packer, key);
    msgpack_pack_int64(packer, value);
}

void pack_pair_bool(msgpack_packer *packer, const char *key, bool value)
{
    pack_text(packer, key);
    if (value)
        msgpack_pack_true(packer);
    else
        msgpack_pack_false(packer);
}

void value_uuid_format(const uint8_t id[static 16], char ret[static VALUE_UUID_TEXT])
{
    char *p = ret;

    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        p += sprintf(p, "%02x", id[i]);
    }
}

void pack_pair_uuid(msgpack_packer *packer, const char *key, const uint8_t id[static 16])
{
    char text[VALUE_UUID_TEXT];

    value_uuid_format(id, text);
    pack_pair_text(packer, key, text);
}

bool value_is(const msgpack_object *value, const char *text)
{
    return value && value->type == MSGPACK_OBJECT_STR && value->via.str.size == strlen(text) &&
           memcmp(value->via.str.ptr, text, value->via.str.size) == 0;
}

const msgpack_object *value_get(const msgpack_object *map, const char *key)
{
    if (!map || map->type != MSGPACK_OBJECT_MAP)
        return NULL;
    for (uint32_t i = 0; i < map->via.map.size; i++)
        if (value_is(&map->via.map.ptr[i].key, key))
            return &map->via.map.ptr[i].val;
    return NULL;
}

int value_uint(const msgpack_object *map, const char *key, uint64_t fallback, uint64_t max, uint64_t *ret)
{
    const msgpack_object *value = value_get(map, key);

    if (!value || value->type == MSGPACK_OBJECT_NIL) {
        *ret = fallback;
        return 0;
    }
    if (value->type != MSGPACK_OBJECT_POSITIVE_INTEGER || value->via.u64 > max)
        return -EINVAL;
    *ret = value->via.u64;
    return 0;
}

int value_text(const msgpack_object *map, const char *key, char *ret, size_t size)
{
    const msgpack_object *value = value_get(map, key);

    if (!value || value->type == MSGPACK_OBJECT_NIL)
        return -ENOENT;
    if (value->type != MSGPACK_OBJECT_STR || value->via.str.size >= size ||
        memchr(value->via.str.ptr, '\0', value->via.str.size))
        return -EINVAL;
    memcpy(ret, value->via.str.ptr, value->via.str.size);
    ret[value->via.str.size] = '\0';
    return 0;
}
