/* One value of a frame: from a msgpack object to a field of struct toll_frame, checked against the field's
 * kind.
 *
 * Internal to proto/, shared by decode.c and envelope.c. Copies nothing but numbers and ids, mends no UTF-8,
 * and keeps nothing of keys it does not know. Most pairs need not become an object: see toll_pairs_usual(). */
#ifndef TOLL_PROTO_VALUE_H
#define TOLL_PROTO_VALUE_H

#include <stdbool.h>
#include <string.h>

#include <msgpack.h>

#include "proto/fields.h"

/* toll_frame_init() by copying, which takes a third of the time. */
extern const struct toll_frame toll_frame_absent;
static inline void toll_frame_begin(struct toll_frame *frame, enum toll_frame_type type)
{
    size_t size = sizeof(*frame);

    __asm__(
        ""
        : "+r"(size)); /* else it is copied in place, by an instruction that takes three times as long as memcpy() */
    memcpy(frame, &toll_frame_absent, size);
    frame->type = type;
}

/* Which row of the frame table came after which (0: the first; i + 1: row i) in the last frame of a type, where keys are found in their order
 * there or not. {0} is valid. */
struct toll_order {
    uint8_t next[TOLL_FIELDS + 1];
    uint64_t required; /* rows that a frame of the type must have; 0: not looked up yet */
};

/* A frame whose pairs are being taken, one after the other. Begin with {.frame = …}, its type set. */
struct toll_pairs {
    struct toll_frame *frame;
    uint64_t seen, present;   /* rows of the frame table; present: those whose value is not nil */
    struct toll_order *order; /* of this type, or NULL: where to look first is the table's order */
    unsigned last;            /* 1 + the row of the last key that was found; 0: none was */
};

/* Takes one pair. Returns 0, and the row in *ret_field if the value was stored: NULL for a key that this
 * version (or this type) does not know, and which the caller may keep. A key whose value is nil is as good as
 * absent, except that it is known and may not be repeated: *ret_field is its row. A map is only checked to be
 * one. -EINVAL and the reason: the key is no string, is repeated, or its value is not what the table says. */
int toll_pair_take(struct toll_pairs *pairs, const msgpack_object *key, const msgpack_object *value,
                   const struct toll_field **ret_field, char reason[static TOLL_REASON_MAX])
    __attribute__((warn_unused_result));

/* Takes pairs from *pos on, of which nothing from `end` on is read, as long as their keys come in the order of the last frame of the type and their values stand
 * there as libtoll writes them, strings clean. At most so many; returns how many, and *pos is behind them. What comes then is to be read and taken the other
 * way: but perhaps for its field, where nothing is promised, nothing has changed. Needs pairs->order. */
uint32_t toll_pairs_usual(struct toll_pairs *pairs, const uint8_t **pos, const uint8_t *end, uint32_t most);

/* At the end: -EINVAL and the reason if a required key was not among the pairs, or the keys do not fit
 * together. */
int toll_pairs_check(const struct toll_pairs *pairs, char reason[static TOLL_REASON_MAX])
    __attribute__((warn_unused_result));

/* -EINVAL and the reason; `where` is "" or like "metadata: ". */
int toll_refuse_repeated(enum toll_frame_type type, const char *where, const char *key, size_t size,
                         char reason[static TOLL_REASON_MAX]);

/* Whether a value is this string. Here, so that the text's length is known where it is compared. */
static inline bool toll_value_is(const msgpack_object *value, const char *text)
{
    return value->type == MSGPACK_OBJECT_STR && value->via.str.size == strlen(text) &&
           memcmp(value->via.str.ptr, text, strlen(text)) == 0;
}

/* A UUID in either form: 16 bytes of binary data, or 8-4-4-4-12 hexadecimal digits in either case. */
bool toll_value_uuid(const msgpack_object *value, uint8_t ret[static 16]);

/* "an integer", "a string" … */
const char *toll_value_kind(const msgpack_object *value);

/* What a peer made up, fit for a reason: printable ASCII, the rest as \xNN, cut to fit. Returns out. */
enum { TOLL_QUOTED_MAX = 80 };
const char *toll_quote(const char *key, size_t size, char out[static TOLL_QUOTED_MAX]);

#endif
