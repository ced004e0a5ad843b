/* Decodes one frame: walks it, takes its known keys by the frame table, keeps the others as JSON.
 *
 * The table is in fields.h, what a single value may be in value.c, rules that tie keys together in
 * toll_frame_check(). */
#include "proto/frame.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <msgpack.h>

#include "proto/fields.h"
#include "proto/json.h"
#include "proto/reader.h"
#include "proto/usual.h"
#include "proto/utf8.h"
#include "proto/value.h"
#include "proto/walk.h"

enum { ZONE_CHUNK = 16 << 10 }; /* holds the pairs of all but odd frames; more is freed at the next one */

struct toll_decoder {
    msgpack_zone zone;
    struct toll_json metadata, raw;
    char *mended; /* strings with U+FFFD in them */
    size_t mended_cap;
    bool zone_used;
    struct toll_order orders[TOLL_FRAME_STREAM + 1];
};

struct toll_decoder *toll_decoder_new(void)
{
    struct toll_decoder *decoder = calloc(1, sizeof(*decoder));
    if (decoder && !msgpack_zone_init(&decoder->zone, ZONE_CHUNK)) {
        free(decoder);
        return NULL;
    }
    return decoder;
}

void toll_decoder_free(struct toll_decoder *decoder)
{
    if (!decoder)
        return;
    msgpack_zone_destroy(&decoder->zone);
    toll_json_done(&decoder->metadata);
    toll_json_done(&decoder->raw);
    free(decoder->mended);
    free(decoder);
}

/* The frame being decoded. */
struct decoding {
    struct toll_decoder *decoder;
    const void *data; /* the frame's bytes */
    size_t size;
    bool walked; /* … are well-formed, and not nested too deep */
    struct toll_frame *frame;
    char *reason;
    size_t mended_size;               /* bytes of decoder->mended in use */
    msgpack_object_map metadata, raw; /* without pairs where the frame has none */
    msgpack_object_map unknown;       /* pairs whose keys are not in the table */
};

static int walk_all(const void *data, size_t size, char reason[static TOLL_REASON_MAX])
{
    size_t length;

    int r = toll_walk(data, size, &length);
    if (r == 0 && length != size)
        r = -EBADMSG;
    if (r < 0)
        (void)toll_refuse(reason, "%s", toll_walk_strerror(r));
    return r == -E2BIG ? -EINVAL : r;
}

/* Of a frame that begins with its type, as libtoll's do, and that pair is taken; 0: of any other. */
static enum toll_frame_type usual_type(struct toll_reader *reader)
{
    const uint8_t *p = reader->pos;
    enum toll_frame_type type;
    struct toll_str name;

    if (reader->left == 0 || !toll_usual_skip(&p, reader->end, "type", 4) || !toll_usual_string(&p, reader->end, &name))
        return 0;
    type = toll_frame_type_from_name(name.ptr, name.len);
    if (type != 0) {
        reader->pos = p;
        reader->left--;
    }
    return type;
}

/* 0 and the reason if there is none. A repeated `type` is found later, like any repeated key. */
static enum toll_frame_type find_type(struct toll_reader reader, char reason[static TOLL_REASON_MAX])
{
    struct toll_reader_value key, value;
    char quoted[TOLL_QUOTED_MAX];
    bool found = false;

    while (!found && toll_reader_next(&reader, &key, &value))
        found = toll_value_is(&key.object, "type");
    if (!found || value.object.type == MSGPACK_OBJECT_NIL) {
        (void)toll_refuse(reason, "type is missing");
        return 0;
    }
    if (value.object.type != MSGPACK_OBJECT_STR) {
        (void)toll_refuse(reason, "type: expected a string, got %s", toll_value_kind(&value.object));
        return 0;
    }
    const msgpack_object_str *name = &value.object.via.str;
    enum toll_frame_type type = toll_frame_type_from_name(name->ptr, name->size);
    if (type == 0)
        (void)toll_refuse(reason, "unknown type \"%s\"", toll_quote(name->ptr, name->size, quoted));
    return type;
}

/* Completes a container, of which the reader gave only the end, with what is inside. */
static int unpack(struct decoding *d, struct toll_reader_value *value)
{
    size_t offset = 0;

    if (value->object.type != MSGPACK_OBJECT_MAP && value->object.type != MSGPACK_OBJECT_ARRAY)
        return 0;
    if (!d->walked) { /* before msgpack-c believes it */
        int r = walk_all(d->data, d->size, d->reason);
        if (r < 0)
            return r;
        d->walked = true;
    }
    d->decoder->zone_used = true;
    switch (msgpack_unpack((const char *)value->bytes, value->size, &offset, &d->decoder->zone, &value->object)) {
    case MSGPACK_UNPACK_SUCCESS:
        return 0;
    case MSGPACK_UNPACK_NOMEM_ERROR:
        return -ENOMEM;
    default:
        (void)toll_refuse(d->reason, "%s", toll_walk_strerror(-EBADMSG));
        return -EBADMSG;
    }
}

/* Replaces what is not clean in a string by U+FFFD, in memory of the decoder. */
static int mend(struct decoding *d, struct toll_str *s)
{
    struct toll_decoder *decoder = d->decoder;
    /* Room for every string of the frame at once, so that none has to move. */
    size_t all = TOLL_UTF8_GROWTH * d->size;

    if (!s->ptr || toll_utf8_clean(s->ptr, s->len))
        return 0;
    if (decoder->mended_cap < all) {
        char *mended = realloc(decoder->mended, all);
        if (!mended)
            return -ENOMEM;
        decoder->mended = mended;
        decoder->mended_cap = all;
    }
    char *out = decoder->mended + d->mended_size;
    size_t size = toll_utf8_mend(s->ptr, s->len, out);
    d->mended_size += size;
    assert(d->mended_size <= decoder->mended_cap);
    *s = (struct toll_str){out, (uint32_t)size};
    d->frame->replaced++;
    return 0;
}

/* Puts a pair aside; `left` more may follow. */
static int keep_unknown(struct decoding *d, const struct toll_reader_value *key, struct toll_reader_value *value,
                        uint32_t left)
{
    if (!d->unknown.ptr) {
        if ((size_t)left >= d->size) /* more pairs than bytes: not believed */
            return -EBADMSG;
        d->decoder->zone_used = true;
        d->unknown.ptr = msgpack_zone_malloc(&d->decoder->zone, sizeof(msgpack_object_kv) * (left + (size_t)1));
        if (!d->unknown.ptr)
            return -ENOMEM;
    }
    int r = unpack(d, value);
    if (r == 0)
        d->unknown.ptr[d->unknown.size++] = (msgpack_object_kv){key->object, value->object};
    return r;
}

/* first: how many pairs were taken already: the type's, or none. */
static int take_pairs(struct decoding *d, struct toll_reader reader, unsigned first)
{
    struct toll_pairs pairs = {.frame = d->frame,
                               .seen = first, /* the type's row is the first */
                               .present = first,
                               .last = first,
                               .order = &d->decoder->orders[d->frame->type]};
    struct toll_reader_value key, value;
    const struct toll_field *field;
    int r;

    for (;;) {
        reader.left -= toll_pairs_usual(&pairs, &reader.pos, reader.end, reader.left);
        if (!toll_reader_next(&reader, &key, &value))
            break;
        if ((r = toll_pair_take(&pairs, &key.object, &value.object, &field, d->reason)) < 0)
            return r;
        if (!field) {
            if ((r = keep_unknown(d, &key, &value, reader.left)) < 0)
                return r;
        } else if (value.object.type == MSGPACK_OBJECT_NIL) {
            continue;
        } else if (field->kind == TOLL_KIND_MAP) {
            if ((r = unpack(d, &value)) < 0)
                return r;
            bool metadata = field->offset == offsetof(struct toll_frame, metadata);
            *(metadata ? &d->metadata : &d->raw) = value.object.via.map;
        } else if (field->kind == TOLL_KIND_NAME || field->kind == TOLL_KIND_TEXT) {
            if ((r = mend(d, (struct toll_str *)((char *)d->frame + field->offset))) < 0)
                return r;
        }
    }
    return toll_reader_whole(&reader) ? toll_pairs_check(&pairs, d->reason) : -EBADMSG;
}

/* --- what is kept as JSON --- */

static int write_json(struct decoding *d, struct toll_json *json, const char *where, const msgpack_object_map *map,
                      struct toll_str *ret)
{
    const msgpack_object object = {.type = MSGPACK_OBJECT_MAP, .via.map = *map};

    if (map->size == 0)
        return 0; /* nothing to keep */
    toll_json_clear(json);
    int r = toll_json_value(json, &object);
    if (r == -EEXIST)
        return toll_refuse_repeated(d->frame->type, where, json->data + json->repeated_at + 1, json->repeated_size - 2,
                                    d->reason);
    if (r == -EINVAL)
        return toll_refuse(d->reason, "%s: %sa key is a map or an array", toll_frame_type_name(d->frame->type), where);
    if (r < 0)
        return r;
    *ret = (struct toll_str){json->data, (uint32_t)json->size};
    d->frame->replaced += json->replaced;
    return 0;
}

static int compare_str(const void *a, const void *b)
{
    const msgpack_object_str *x = a, *y = b;

    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return memcmp(x->ptr, y->ptr, x->size);
}

static int prefix_key(msgpack_zone *zone, msgpack_object_str *key)
{
    static const char prefix[] = "frame.";
    char *name = msgpack_zone_malloc_no_align(zone, sizeof(prefix) - 1 + key->size);

    if (!name)
        return -ENOMEM;
    memcpy(name, prefix, sizeof(prefix) - 1);
    memcpy(name + sizeof(prefix) - 1, key->ptr, key->size);
    *key = (msgpack_object_str){key->size + (uint32_t)sizeof(prefix) - 1, name};
    return 0;
}

/* Puts the pairs of `raw` and the unknown ones into one map, the latter renamed where `raw` has the same.
 * Should the new name be taken too, it ends as a repeated key. */
static int merge_unknown(struct decoding *d, msgpack_object_map *ret)
{
    msgpack_zone *zone = &d->decoder->zone;
    size_t size = (size_t)d->raw.size + d->unknown.size, names = 0;
    msgpack_object_kv *pairs = msgpack_zone_malloc(zone, sizeof(*pairs) * size);
    msgpack_object_str *raw_names = msgpack_zone_malloc(zone, sizeof(*raw_names) * d->raw.size);

    if (!pairs || !raw_names)
        return -ENOMEM;
    for (uint32_t i = 0; i < d->raw.size; i++) {
        pairs[i] = d->raw.ptr[i];
        if (pairs[i].key.type == MSGPACK_OBJECT_STR)
            raw_names[names++] = pairs[i].key.via.str;
    }
    qsort(raw_names, names, sizeof(*raw_names), compare_str);
    for (uint32_t i = 0; i < d->unknown.size; i++) {
        msgpack_object_kv *pair = &pairs[d->raw.size + i];
        *pair = d->unknown.ptr[i];
        if (bsearch(&pair->key.via.str, raw_names, names, sizeof(*raw_names), compare_str) &&
            prefix_key(zone, &pair->key.via.str) < 0)
            return -ENOMEM;
    }
    *ret = (msgpack_object_map){(uint32_t)size, pairs};
    return 0;
}

static int keep_json(struct decoding *d)
{
    msgpack_object_map merged;

    int r = write_json(d, &d->decoder->metadata, "metadata: ", &d->metadata, &d->frame->metadata);
    if (r < 0)
        return r;
    if (d->unknown.size == 0)
        return write_json(d, &d->decoder->raw, "raw: ", &d->raw, &d->frame->raw_json);
    if (d->raw.size == 0)
        return write_json(d, &d->decoder->raw, "", &d->unknown, &d->frame->raw_json);
    r = merge_unknown(d, &merged);
    return r < 0 ? r : write_json(d, &d->decoder->raw, "", &merged, &d->frame->raw_json);
}

static int decode(struct decoding *d)
{
    struct toll_decoder *decoder = d->decoder;
    struct toll_reader reader;
    msgpack_object other;
    unsigned first = 1;
    int r;

    if (!toll_reader_open(&reader, d->data, d->size, &other))
        return toll_refuse(d->reason, "expected a map, got %s", toll_value_kind(&other));
    enum toll_frame_type type = usual_type(&reader);
    if (type == 0) {
        type = find_type(reader, d->reason);
        first = 0;
    }
    if (type == 0)
        return -EINVAL;
    if (type == TOLL_FRAME_STREAM) {
        if ((r = walk_all(d->data, d->size, d->reason)) < 0)
            return r;
        r = toll_envelope_decode(d->data, d->size, d->frame, d->reason);
        return r < 0 ? r : mend(d, &d->frame->client);
    }

    if (decoder->zone_used)
        msgpack_zone_clear(&decoder->zone);
    decoder->zone_used = false;
    toll_frame_begin(d->frame, type);
    if ((r = take_pairs(d, reader, first)) < 0 || (r = keep_json(d)) < 0)
        return r;
    if (type == TOLL_FRAME_SESSION_END && !d->frame->finish_reason.ptr)
        d->frame->finish_reason = (struct toll_str){"end", 3};
    return 0;
}

int toll_frame_decode(struct toll_decoder *decoder, const void *data, size_t size, struct toll_frame *ret,
                      char reason[static TOLL_REASON_MAX])
{
    struct decoding d = {.decoder = decoder, .data = data, .size = size, .frame = ret, .reason = reason};

    reason[0] = '\0';
    int r = decode(&d);
    if (r == 0 || r == -ENOMEM)
        return r;
    /* Malformed bytes, and such that are nested too deep, are refused for that, whatever else is wrong with them. */
    int walked = walk_all(data, size, reason);
    assert(walked < 0 || r == -EINVAL);
    return walked < 0 ? walked : r;
}
