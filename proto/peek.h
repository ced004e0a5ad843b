/* A look at one frame's session, without decoding it: who shares frames out by session asks for nothing else. */
#ifndef TOLL_PROTO_PEEK_H
#define TOLL_PROTO_PEEK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The frame's session_id, in either of its forms; data is one frame as toll_walk_next() found it. False: it names none that toll_frame_decode()
 * would take. Of a frame that is decoded it is frame.session_id; a repeated key, which is never decoded, counts by its first. The answer depends on the
 * bytes alone. Allocates nothing; thread-safe. */
bool toll_peek_session(const void *data, size_t size, uint8_t ret_id[static 16]);

#endif
