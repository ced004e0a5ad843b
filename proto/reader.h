/* Reads the pairs of one msgpack map, one after the other, straight from the bytes.
 *
 * Internal to proto/. It checks every length against the bytes that are left, so nobody need walk them first (that took
 * a fifth of decoding), but for the depth of containers. Scalars come out as msgpack-c's objects, whose strings point into the bytes; for
 * containers it only finds the end, and the caller unpacks them with msgpack-c if it wants what is inside.
 * Allocates nothing. (Unpacking whole frames with msgpack-c takes twice as long: nearly all values are
 * scalars.) */
#ifndef TOLL_PROTO_READER_H
#define TOLL_PROTO_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <msgpack.h>

struct toll_reader {
    const uint8_t *pos, *end;
    uint32_t left; /* pairs still to come */
    bool broken;   /* what came next was malformed, or not all there */
};

struct toll_reader_value {
    msgpack_object object; /* of a container only the type: no elements */
    const uint8_t *bytes;
    size_t size;
};

/* Opens the map at the start of data. False: it is none, but *ret_other. */
bool toll_reader_open(struct toll_reader *reader, const void *data, size_t size, msgpack_object *ret_other);

/* False at the end, and where it is broken. */
bool toll_reader_next(struct toll_reader *reader, struct toll_reader_value *ret_key,
                      struct toll_reader_value *ret_value);

/* Then: whether the bytes were one well-formed map, and nothing after it. */
bool toll_reader_whole(const struct toll_reader *reader);

#endif
