/* Decodes an envelope, the `stream` frame in front of a sequenced sender's datagram, without allocating
 * anything: the receive loop does it for each datagram.
 *
 * Nothing stores the keys of an envelope that this version does not know: they are only checked to be no
 * repeated ones. */
#include "proto/frame.h"

#include <errno.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/reader.h"
#include "proto/value.h"
#include "proto/walk.h"

enum { UNKNOWN_MAX = 16 }; /* keys of newer versions; so many are compared with each other, to find repeated ones */

/* The first `type` decides; a second one is found later, like any repeated key. */
static bool is_stream(struct toll_reader reader)
{
    struct toll_reader_value key, value;

    while (toll_reader_next(&reader, &key, &value))
        if (toll_value_is(&key.object, "type"))
            return toll_value_is(&value.object, "stream");
    return false;
}

static int take_pairs(struct toll_reader reader, struct toll_frame *frame, char reason[static TOLL_REASON_MAX])
{
    struct toll_pairs pairs = {.frame = frame};
    msgpack_object_str unknown[UNKNOWN_MAX];
    unsigned unknown_used = 0;
    const struct toll_field *field;
    struct toll_reader_value key, value;

    while (toll_reader_next(&reader, &key, &value)) {
        const msgpack_object_str *name = &key.object.via.str;
        int r = toll_pair_take(&pairs, &key.object, &value.object, &field, reason);
        if (r < 0)
            return r;
        if (field)
            continue;
        for (unsigned i = 0; i < unknown_used; i++)
            if (unknown[i].size == name->size && memcmp(unknown[i].ptr, name->ptr, name->size) == 0)
                return toll_refuse_repeated(TOLL_FRAME_STREAM, "", name->ptr, name->size, reason);
        if (unknown_used == UNKNOWN_MAX)
            return toll_refuse(reason, "stream: more than %d unknown keys", UNKNOWN_MAX);
        unknown[unknown_used++] = *name;
    }
    return toll_pairs_check(&pairs, reason);
}

int toll_envelope_decode(const void *data, size_t size, struct toll_frame *ret, char reason[static TOLL_REASON_MAX])
{
    struct toll_reader reader;
    msgpack_object other;
    size_t length;

    int r = toll_walk(data, size, &length);
    if (r == -EBADMSG || !toll_reader_open(&reader, data, size, &other) || !is_stream(reader))
        return -ENOENT;
    if (r < 0)
        return toll_refuse(reason, "stream: %s", toll_walk_strerror(r));
    toll_frame_init(ret, TOLL_FRAME_STREAM);
    return take_pairs(reader, ret, reason);
}
