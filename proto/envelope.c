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
#include "proto/usual.h"
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
    toll_frame_begin(ret, TOLL_FRAME_STREAM);
    return take_pairs(reader, ret, reason);
}

/* --- as libtoll writes it --- */

#define SKIP(text) toll_usual_skip(&p, end, text, sizeof(text) - 1)

/* Nearly every envelope is libtoll's: these keys in this order. Reading it so takes a fifth of the time. False: this one is not so, or it breaks a
 * rule; then it is read the other way. */
static bool take_usual(const uint8_t *data, size_t size, struct toll_frame *frame, size_t *ret_size)
{
    enum { MAP5 = 0x85, MAP6 = 0x86 };
    const uint8_t *p = data, *end = data + size;
    char reason[TOLL_REASON_MAX];

    if (size == 0 || (*p != MAP5 && *p != MAP6))
        return false;
    p++;
    if (!SKIP("type") || !SKIP("stream") || !SKIP("id"))
        return false;
    toll_frame_begin(frame, TOLL_FRAME_STREAM);
    if (!toll_usual_bin16(&p, end, frame->stream_id) || !SKIP("seq") ||
        !toll_usual_unsigned(&p, end, &frame->stream_seq) || !SKIP("base") ||
        !toll_usual_unsigned(&p, end, &frame->stream_base) || !SKIP("count") ||
        !toll_usual_unsigned(&p, end, &frame->stream_count))
        return false;
    if (data[0] == MAP6 && (!SKIP("client") || !toll_usual_string(&p, end, &frame->client)))
        return false;
    *ret_size = (size_t)(p - data);
    return toll_frame_check(frame, reason) == 0;
}

int toll_envelope_find(const void *data, size_t size, struct toll_frame *ret, size_t *ret_size,
                       char reason[static TOLL_REASON_MAX])
{
    size_t length;
    int r;

    if (take_usual(data, size, ret, ret_size))
        return 0;
    if (toll_walk(data, size, &length) < 0)
        return -ENOENT;
    r = toll_envelope_decode(data, length, ret, reason);
    if (r != -ENOENT)
        *ret_size = length;
    return r;
}
