/* The bounds walker: finds where a msgpack value ends, without allocating, recursing or believing any length
 * it reads.
 *
 * It looks at lengths only: what the values mean is decode.c's business. */
#ifndef TOLL_PROTO_WALK_H
#define TOLL_PROTO_WALK_H

#include <stddef.h>

/* Measures the msgpack value at the start of data. Returns 0 and its size in *ret_size, or
 *   -EBADMSG  malformed: a reserved byte (0xc1), a length or element count beyond the bytes that are left, or truncated
 *   -E2BIG    well-formed, but nested deeper than TOLL_NESTING_MAX
 * *ret_size is untouched on failure. Element counts are checked against the bytes that are left before anything is done
 * with them, so the work is linear in size whatever the bytes say. */
int toll_walk(const void *data, size_t size, size_t *ret_size) __attribute__((warn_unused_result));

/* Why toll_walk() refused, in words for quarantine: "malformed msgpack", "nested deeper than 8". */
const char *toll_walk_strerror(int error);

/* One step through a datagram, shared by the receive loop and the writer so that both count the same frames. *pos starts
 * at 0. Returns
 *   1         the next frame (*ret_frame, *ret_size): a well-formed value of whatever type and depth. One that is nested too
 *             deep has an end all the same, so it costs its neighbours nothing; toll_frame_decode() refuses it
 *   0         at the end
 *   -EBADMSG  a malformed rest: *ret_frame and *ret_size are all of it, and the next call returns 0 */
int toll_walk_next(const void *data, size_t size, size_t *pos, const void **ret_frame, size_t *ret_size)
    __attribute__((warn_unused_result));

#endif
