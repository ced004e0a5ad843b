/* msgpack to JSON text that PostgreSQL's jsonb takes: valid UTF-8, no U+0000, only string keys, each once.
 *
 * Compact, in the order of the msgpack. What JSON has no form for is written so that nothing is lost:
 *   integers          all digits, up to 2⁶⁴ − 1
 *   floats            the shortest that reads back as the same double; NaN and infinities as strings
 *   binary data       a string, base64
 *   timestamp (−1)    a number, seconds
 *   other extensions  {"ext": type, "data": base64}
 *   scalar keys       a string of what stands above
 * It writes JSON and never reads it; what msgpack-c unpacked (at most 32 deep) is all it takes. */
#ifndef TOLL_PROTO_JSON_H
#define TOLL_PROTO_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <msgpack.h>

/* A buffer that grows and owns its memory. {0} is a valid empty one. */
struct toll_json {
    char *data; /* size bytes, not NUL-terminated; moves when text is added */
    size_t size, cap;
    uint32_t replaced; /* strings in which something was replaced by U+FFFD */

    /* After -EEXIST: where in data the repeated key stands, quotes included. */
    size_t repeated_at, repeated_size;

    struct toll_json_key {
        size_t at, size;
    } * keys; /* those of the maps being written, a stack */
    size_t keys_used, keys_cap;
};

void toll_json_clear(struct toll_json *json); /* empty again; keeps the memory */
void toll_json_done(struct toll_json *json);  /* frees the memory; then as {0} */

/* Appends one value. Returns 0, or
 *   -ENOMEM
 *   -EEXIST  a map has two keys that are the same string in JSON (so 1 and "1" are)
 *   -EINVAL  a map has a map or an array as a key
 * and leaves data with part of the text. */
int toll_json_value(struct toll_json *json, const msgpack_object *value) __attribute__((warn_unused_result));

/* Writes a finite number, NUL-terminated: the shortest decimal of at most 17 digits that reads back as the
 * same double. In the C locale, which the programs never leave. */
enum { TOLL_JSON_NUMBER_MAX = 32 };
void toll_json_number(double value, char out[static TOLL_JSON_NUMBER_MAX]);

#endif
