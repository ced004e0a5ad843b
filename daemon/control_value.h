/* Small helpers for the msgpack of the control socket, for both of its ends: packing maps, and looking into
 * what was unpacked. */
#ifndef TOLL_DAEMON_CONTROL_VALUE_H
#define TOLL_DAEMON_CONTROL_VALUE_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A string; NULL packs nil. Packers write to msgpack_sbuffer, which fails only without memory: the reply is
 * then cut and refused. */
void pack_text(msgpack_packer *packer, const char *text);

/* A key and its value, for a map whose size was packed before. */
void pack_pair_text(msgpack_packer *packer, const char *key, const char *text);
void pack_pair_uint(msgpack_packer *packer, const char *key, uint64_t value);
void pack_pair_int(msgpack_packer *packer, const char *key, int64_t value);
void pack_pair_bool(msgpack_packer *packer, const char *key, bool value);
void pack_pair_uuid(msgpack_packer *packer, const char *key, const uint8_t id[static 16]); /* as text */

enum { VALUE_UUID_TEXT = 37 };
void value_uuid_format(const uint8_t id[static 16], char ret[static VALUE_UUID_TEXT]);

/* Packed bytes that grow. A lack of memory is remembered: the bytes are incomplete for good, and packers need not check each call. */
struct pack_buffer {
    msgpack_sbuffer bytes;
    bool failed;
};
void pack_buffer_init(struct pack_buffer *buffer, msgpack_packer *ret_packer); /* which packs into it */
void pack_buffer_add(struct pack_buffer *buffer, const void *packed, size_t size);
void pack_buffer_done(struct pack_buffer *buffer); /* it is empty then, and may be done again */

/* The value of a key, or NULL if map is no map or has no such key. */
const msgpack_object *value_get(const msgpack_object *map, const char *key);
bool value_is(const msgpack_object *value, const char *text); /* is it this string? NULL is not */

/* A request's argument: 0 and the value, 0 and the fallback if it is absent or nil, -EINVAL if it is
 * something else, or out of range. */
int value_uint(const msgpack_object *map, const char *key, uint64_t fallback, uint64_t max, uint64_t *ret)
    __attribute__((warn_unused_result));
/* -ENOENT when absent; the text, NUL-terminated, or -EINVAL: no string, or longer than size - 1 bytes. */
int value_text(const msgpack_object *map, const char *key, char *ret, size_t size) __attribute__((warn_unused_result));

#endif
