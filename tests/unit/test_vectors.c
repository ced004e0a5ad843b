/* Runs the golden datagrams of proto/vectors against the decoder and the encoder, cuts every good one short
 * at every byte, and checks that the examples in PROTOCOL.md are bytes of the vectors. Runs in the project's
 * root. */
#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/frame.h"
#include "proto/walk.h"

static json_t *vectors; /* an array */
static struct toll_decoder *decoder;

/* Outside of any test: how many vectors there are decides how many tests there are. */
static void load(void)
{
    char *line = NULL;
    size_t cap = 0;
    json_error_t error;

    FILE *file = fopen("proto/vectors/vectors.jsonl", "re");
    if (!file) {
        fprintf(stderr, "proto/vectors/vectors.jsonl is missing: run in the project's root\n");
        exit(EXIT_FAILURE);
    }
    vectors = json_array();
    while (getline(&line, &cap, file) > 0) {
        json_t *vector = json_loads(line, 0, &error);
        if (!vector) {
            fprintf(stderr, "vectors.jsonl line %zu: %s\n", json_array_size(vectors) + 1, error.text);
            exit(EXIT_FAILURE);
        }
        json_array_append_new(vectors, vector);
    }
    free(line);
    fclose(file);
}

static void setup(void)
{
    decoder = toll_decoder_new();
}

static void teardown(void)
{
    toll_decoder_free(decoder);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* --- hexadecimal and UUIDs --- */

/* The bytes of hexadecimal text in which anything else may stand between the digits; the caller frees them.
 */
static uint8_t *from_hex(const char *hex, size_t *ret_size)
{
    uint8_t *bytes = malloc(strlen(hex) / 2 + 1);
    int high = -1;

    *ret_size = 0;
    for (; *hex; hex++) {
        const char *digits = "0123456789abcdef", *digit = strchr(digits, *hex);
        if (!digit)
            continue;
        int value = (int)(digit - digits);
        if (high >= 0)
            bytes[(*ret_size)++] = (uint8_t)(high << 4 | value);
        high = high >= 0 ? -1 : value;
    }
    return bytes;
}

static json_t *uuid_to_json(const uint8_t id[16])
{
    char text[37], *end = text;

    for (int i = 0; i < 16; i++)
        end += sprintf(end, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", id[i]);
    return json_string(text);
}

/* --- frames as the vectors write them --- */

/* The key of a field in a vector: that of the wire, with _us in place of _ms, and time_us for every type's
 * own time. */
static void field_key(const struct toll_field *field, char ret[static 64])
{
    if (field->offset == offsetof(struct toll_frame, time_us))
        snprintf(ret, 64, "time_us");
    else if (field->offset == offsetof(struct toll_frame, raw_json))
        snprintf(ret, 64, "raw_json");
    else if (field->kind == TOLL_KIND_TIME)
        snprintf(ret, 64, "%s_us", field->name);
    else if (field->kind == TOLL_KIND_DURATION)
        snprintf(ret, 64, "%.*s_us", field->name_size - 3, field->name);
    else
        snprintf(ret, 64, "%s", field->name);
}

static json_t *str_to_json(const struct toll_str *s)
{
    return s->ptr ? json_stringn(s->ptr, s->len) : NULL;
}

static json_t *field_to_json(const struct toll_field *field, const struct toll_frame *frame)
{
    const void *at = (const char *)frame + field->offset;
    bool has = field->has && *((const bool *)frame + field->has);

    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
        return json_string(toll_frame_type_name(frame->type));
    case TOLL_KIND_UUID:
        return has ? uuid_to_json(at) : NULL;
    case TOLL_KIND_BIN16:
        return uuid_to_json(at);
    case TOLL_KIND_TIME:
        return *(const int64_t *)at != TOLL_TIME_MISSING ? json_integer(*(const int64_t *)at) : NULL;
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
        return str_to_json(at);
    case TOLL_KIND_COUNT:
        return *(const int32_t *)at != TOLL_ABSENT ? json_integer(*(const int32_t *)at) : NULL;
    case TOLL_KIND_NUMBER:
        return json_integer((json_int_t) * (const uint64_t *)at);
    case TOLL_KIND_DURATION:
        return *(const int64_t *)at != TOLL_ABSENT ? json_integer(*(const int64_t *)at) : NULL;
    case TOLL_KIND_QUANTITY:
        return json_string(frame->quantity);
    case TOLL_KIND_BOOL:
        return has || *(const bool *)at ? json_boolean(*(const bool *)at) : NULL;
    case TOLL_KIND_MAP: {
        const struct toll_str *map = at;
        return map->ptr ? json_loadb(map->ptr, map->len, JSON_REJECT_DUPLICATES, NULL) : NULL;
    }
    }
    return NULL;
}

static bool is_of_type(const struct toll_field *field, enum toll_frame_type type)
{
    return (field->required | field->optional) & TOLL_TYPE_BIT(type);
}

static json_t *frame_to_json(const struct toll_frame *frame)
{
    json_t *object = json_object();
    char key[64];

    for (unsigned i = 0; i < TOLL_FIELDS; i++) {
        json_t *value = is_of_type(&toll_fields[i], frame->type) ? field_to_json(&toll_fields[i], frame) : NULL;
        field_key(&toll_fields[i], key);
        if (value)
            json_object_set_new(object, key, value);
    }
    if (frame->raw_json.ptr)
        json_object_set_new(object, "raw_json",
                            json_loadb(frame->raw_json.ptr, frame->raw_json.len, JSON_REJECT_DUPLICATES, NULL));
    if (frame->replaced)
        json_object_set_new(object, "replaced", json_integer(frame->replaced));
    return object;
}

static void pack_json(msgpack_packer *packer, json_t *value)
{
    const char *key;
    json_t *item;
    size_t i;

    switch (json_typeof(value)) {
    case JSON_OBJECT:
        msgpack_pack_map(packer, json_object_size(value));
        json_object_foreach(value, key, item)
        {
            msgpack_pack_str_with_body(packer, key, strlen(key));
            pack_json(packer, item);
        }
        break;
    case JSON_ARRAY:
        msgpack_pack_array(packer, json_array_size(value));
        json_array_foreach(value, i, item) pack_json(packer, item);
        break;
    case JSON_STRING:
        msgpack_pack_str_with_body(packer, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        msgpack_pack_int64(packer, json_integer_value(value));
        break;
    case JSON_REAL:
        msgpack_pack_double(packer, json_real_value(value));
        break;
    case JSON_TRUE:
        msgpack_pack_true(packer);
        break;
    case JSON_FALSE:
        msgpack_pack_false(packer);
        break;
    case JSON_NULL:
        msgpack_pack_nil(packer);
        break;
    }
}

/* Fills a field from a vector. maps: memory for `metadata` or `raw`. */
static void field_from_json(const struct toll_field *field, json_t *value, struct toll_frame *frame,
                            msgpack_sbuffer *maps)
{
    void *at = (char *)frame + field->offset;
    msgpack_packer packer;
    uint8_t *id;
    size_t size;

    if (field->has)
        *((bool *)frame + field->has) = true;
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
        break;
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        id = from_hex(json_string_value(value), &size);
        ck_assert_uint_eq(size, 16);
        memcpy(at, id, 16);
        free(id);
        break;
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
        *(struct toll_str *)at = (struct toll_str){json_string_value(value), (uint32_t)json_string_length(value)};
        break;
    case TOLL_KIND_COUNT:
        *(int32_t *)at = (int32_t)json_integer_value(value);
        break;
    case TOLL_KIND_NUMBER:
    case TOLL_KIND_TIME:
    case TOLL_KIND_DURATION:
        *(int64_t *)at = json_integer_value(value);
        break;
    case TOLL_KIND_QUANTITY:
        frame->quantity_value = strtod(json_string_value(value), NULL);
        break;
    case TOLL_KIND_BOOL:
        *(bool *)at = json_is_true(value);
        break;
    case TOLL_KIND_MAP:
        msgpack_packer_init(&packer, maps, msgpack_sbuffer_write);
        pack_json(&packer, value);
        *(struct toll_str *)at = (struct toll_str){maps->data, (uint32_t)maps->size};
        break;
    }
}

static void frame_from_json(json_t *object, struct toll_frame *frame, msgpack_sbuffer *maps)
{
    const char *type = text_of(object, "type");
    char key[64];

    toll_frame_init(frame, toll_frame_type_from_name(type, strlen(type)));
    for (unsigned i = 0; i < TOLL_FIELDS; i++) {
        field_key(&toll_fields[i], key);
        json_t *value = json_object_get(object, key);
        if (value && is_of_type(&toll_fields[i], frame->type))
            field_from_json(&toll_fields[i], value, frame, maps);
    }
}

/* --- tests --- */

static void check_reason(const char *name, const char *reason)
{
    ck_assert_msg(strlen(reason) > 0 && strlen(reason) < TOLL_REASON_MAX, "%s: no reason", name);
    for (const char *c = reason; *c; c++)
        ck_assert_msg(*c >= 0x20 && *c < 0x7f, "%s: reason is not printable", name);
}

static void check_prefix(const char *name, const char *reason, const char *expected)
{
    check_reason(name, reason);
    ck_assert_msg(strncmp(reason, expected, strlen(expected)) == 0, "%s: reason is \"%s\", expected \"%s\"", name,
                  reason, expected);
}

static void check_decoded(const char *name, const void *bytes, size_t size, json_t *expected, struct toll_frame *frame)
{
    char reason[TOLL_REASON_MAX];
    json_t *fields = json_object_get(expected, "frame");
    int r = toll_frame_decode(decoder, bytes, size, frame, reason);
    if (fields) {
        ck_assert_msg(r == 0, "%s: refused: %s", name, reason);
        json_t *found = frame_to_json(frame);
        char *found_text = json_dumps(found, JSON_SORT_KEYS), *expected_text = json_dumps(fields, JSON_SORT_KEYS);
        ck_assert_msg(json_equal(found, fields), "%s:\n   found %s\nexpected %s", name, found_text, expected_text);
        free(found_text);
        free(expected_text);
        json_decref(found);
    } else {
        ck_assert_msg(r == -EINVAL, "%s: decoding returned %d", name, r);
        check_prefix(name, reason, text_of(expected, "invalid"));
    }
}

/* One frame of a vector, or its malformed rest. */
static void check_frame(const char *name, int step, const void *bytes, size_t size, json_t *expected)
{
    char envelope_reason[TOLL_REASON_MAX];
    struct toll_frame frame, envelope;
    json_t *fields = json_object_get(expected, "frame");

    if (text_of(expected, "malformed")) {
        ck_assert_msg(step == -EBADMSG, "%s: the walker took a malformed rest", name);
        check_prefix(name, toll_walk_strerror(step), text_of(expected, "malformed"));
        return;
    }
    ck_assert_msg(step == 1, "%s: the walker refused a well-formed frame", name);
    check_decoded(name, bytes, size, expected, &frame);
    check_decoded(name, bytes, size, expected, &frame); /* now where a frame like it was seen before */

    /* The receive loop's decoder is of the same opinion on envelopes, and takes nothing else for one. */
    int e = toll_envelope_decode(bytes, size, &envelope, envelope_reason);
    if (fields)
        ck_assert_msg(e == (frame.type == TOLL_FRAME_STREAM ? 0 : -ENOENT), "%s: envelope: %d", name, e);
    else
        ck_assert_msg(e == -ENOENT || (e == -EINVAL && strncmp(envelope_reason, "stream: ", 8) == 0),
                      "%s: envelope: %d, %s", name, e, envelope_reason);
}

START_TEST(vector_decodes_as_described)
{
    json_t *vector = json_array_get(vectors, (size_t)_i);
    const char *name = text_of(vector, "name");
    json_t *frames = json_object_get(vector, "frames");
    size_t size, pos = 0, n = 0, frame_size;
    const void *frame;
    int step;

    uint8_t *bytes = from_hex(text_of(vector, "hex"), &size);
    while ((step = toll_walk_next(bytes, size, &pos, &frame, &frame_size)) != 0) {
        ck_assert_msg(n < json_array_size(frames), "%s: more frames than expected", name);
        check_frame(name, step, frame, frame_size, json_array_get(frames, n++));
    }
    ck_assert_uint_eq(pos, size);
    ck_assert_msg(n == json_array_size(frames), "%s: %zu frames, expected %zu", name, n, json_array_size(frames));
    free(bytes);
}
END_TEST

START_TEST(vector_encodes_to_its_bytes)
{
    json_t *vector = json_array_get(vectors, (size_t)_i);
    json_t *fields = json_object_get(json_array_get(json_object_get(vector, "frames"), 0), "frame");
    uint8_t buf[1024];
    struct toll_frame frame;
    msgpack_sbuffer maps;
    size_t size;

    if (!json_is_true(json_object_get(vector, "encode")))
        return;
    msgpack_sbuffer_init(&maps);
    frame_from_json(fields, &frame, &maps);
    uint8_t *bytes = from_hex(text_of(vector, "hex"), &size);
    int r = toll_frame_encode(&frame, buf, sizeof(buf));
    ck_assert_msg(r == (int)size && memcmp(buf, bytes, size) == 0,
                  "%s: encoding gave %d other bytes than the vector's %zu", text_of(vector, "name"), r, size);
    free(bytes);
    msgpack_sbuffer_destroy(&maps);
}
END_TEST

START_TEST(vector_cut_anywhere_is_malformed)
{
    json_t *vector = json_array_get(vectors, (size_t)_i);
    json_t *frames = json_object_get(vector, "frames");
    char reason[TOLL_REASON_MAX];
    struct toll_frame decoded;
    size_t size, frame_size;
    const void *frame;

    if (json_array_size(frames) != 1 || !json_object_get(json_array_get(frames, 0), "frame"))
        return;
    uint8_t *bytes = from_hex(text_of(vector, "hex"), &size);
    for (size_t cut = 1; cut < size; cut++) {
        uint8_t *piece = malloc(cut); /* of just that size, for the address sanitizer */
        size_t pos = 0;
        memcpy(piece, bytes, cut);
        ck_assert_int_eq(toll_walk_next(piece, cut, &pos, &frame, &frame_size), -EBADMSG);
        ck_assert_ptr_eq(frame, piece);
        ck_assert_uint_eq(frame_size, cut);
        ck_assert_int_eq(toll_walk_next(piece, cut, &pos, &frame, &frame_size), 0);
        ck_assert_int_eq(toll_frame_decode(decoder, piece, cut, &decoded, reason), -EBADMSG);
        ck_assert_int_eq(toll_envelope_decode(piece, cut, &decoded, reason), -ENOENT);
        free(piece);
    }
    free(bytes);
}
END_TEST

/* An example in PROTOCOL.md is a block that begins with "```hex NAME" and has comments after '#'. */
START_TEST(protocol_examples_are_vectors)
{
    char *line = NULL, name[64];
    size_t cap = 0, examples = 0;

    FILE *file = fopen("proto/PROTOCOL.md", "re");
    ck_assert_ptr_nonnull(file);
    while (getline(&line, &cap, file) > 0) {
        if (sscanf(line, "```hex %63s", name) != 1)
            continue;
        char hex[4096] = "", *found = NULL;
        while (getline(&line, &cap, file) > 0 && strncmp(line, "```", 3) != 0) {
            line[strcspn(line, "#")] = '\0';
            strncat(hex, line, sizeof(hex) - strlen(hex) - 1);
        }
        size_t i, size, expected_size;
        json_t *vector;
        json_array_foreach(vectors, i, vector) if (strcmp(text_of(vector, "name"), name) == 0) found =
            (char *)text_of(vector, "hex");
        ck_assert_msg(found != NULL, "PROTOCOL.md: %s is no vector", name);
        uint8_t *bytes = from_hex(hex, &size), *expected = from_hex(found, &expected_size);
        ck_assert_msg(size == expected_size && memcmp(bytes, expected, size) == 0, "PROTOCOL.md: %s differs", name);
        free(bytes);
        free(expected);
        examples++;
    }
    ck_assert_uint_ge(examples, 3);
    free(line);
    fclose(file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vectors");
    TCase *tcase = tcase_create("vectors");
    SRunner *runner = srunner_create(suite);

    load();
    int n = (int)json_array_size(vectors);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, vector_decodes_as_described, 0, n);
    tcase_add_loop_test(tcase, vector_encodes_to_its_bytes, 0, n);
    tcase_add_loop_test(tcase, vector_cut_anywhere_is_malformed, 0, n);
    tcase_add_test(tcase, protocol_examples_are_vectors);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    json_decref(vectors);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
