/* See json.h. */
#include "proto/json.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"

void toll_json_clear(struct toll_json *json)
{
    json->size = 0;
    json->keys_used = 0;
    json->replaced = 0;
}

void toll_json_done(struct toll_json *json)
{
    free(json->data);
    free(json->keys);
    *json = (struct toll_json){0};
}

/* Room for `more` bytes after those in use. */
static int reserve(struct toll_json *json, size_t more)
{
    if (more <= json->cap - json->size)
        return 0;
    size_t cap = json->cap ? json->cap : 256;
    while (cap - json->size < more) {
        if (cap > SIZE_MAX / 2)
            return -ENOMEM;
        cap *= 2;
    }
    char *data = realloc(json->data, cap);
    if (!data)
        return -ENOMEM;
    json->data = data;
    json->cap = cap;
    return 0;
}

static int append(struct toll_json *json, const char *bytes, size_t size)
{
    int r = reserve(json, size);
    if (r < 0)
        return r;
    memcpy(json->data + json->size, bytes, size);
    json->size += size;
    return 0;
}

static int append_text(struct toll_json *json, const char *text)
{
    return append(json, text, strlen(text));
}

/* --- scalars --- */

/* Of numbers that people write, up to six decimals and fifteen digits in all, the same without printf() and strtod(), which took a twentieth of the writer's time.
 * Both digits and 10⁶ are exact as doubles, so their quotient is the double that reading "digits / 10⁶" gives. */
static bool write_short(double value, char out[static TOLL_JSON_NUMBER_MAX])
{
    double magnitude = fabs(value);
    char reversed[24];
    int size = 0, decimals = 6;

    if (!(magnitude >= 1e-4 && magnitude < 1e9))
        return false;
    uint64_t digits = (uint64_t)(magnitude * 1e6 + 0.5);
    if ((double)digits / 1e6 != magnitude)
        return false;
    while (decimals > 0 && digits % 10 == 0) {
        digits /= 10;
        decimals--;
    }
    for (int i = 0; i <= decimals || digits > 0; i++) { /* a digit at least before the point */
        if (i == decimals && decimals > 0)
            reversed[size++] = '.';
        reversed[size++] = (char)('0' + digits % 10);
        digits /= 10;
    }
    if (value < 0)
        *out++ = '-';
    while (size > 0)
        *out++ = reversed[--size];
    *out = '\0';
    return true;
}

void toll_json_number(double value, char out[static TOLL_JSON_NUMBER_MAX])
{
    /* Fifteen digits survive the way through a double and back, so fewer need no try: except below DBL_MIN,
     * where doubles are sparser than that. */
    int first = fabs(value) < DBL_MIN ? 1 : DBL_DIG;
    char text[40] = "";

    if (write_short(value, out))
        return;
    for (int precision = first; precision <= DBL_DECIMAL_DIG; precision++) {
        (void)snprintf(text, sizeof(text), "%.*g", precision, value);
        if (strtod(text, NULL) == value)
            break;
    }
    memcpy(out, text, TOLL_JSON_NUMBER_MAX); /* -1.2345678901234567e-308 is as long as it gets */
}

/* The escape of a character that may not stand in a JSON string as it is, or NULL. */
static const char *escape(unsigned char c, char buf[static 8])
{
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\b':
        return "\\b";
    case '\f':
        return "\\f";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    default:
        if (c >= 0x20)
            return NULL;
        (void)snprintf(buf, 8, "\\u%04x", c);
        return buf;
    }
}

static int append_string(struct toll_json *json, const char *text, size_t size)
{
    char buf[8];
    bool replaced = false;

    if (size > (SIZE_MAX - 2) / 6 || reserve(json, 6 * size + 2) < 0) /* \u00xx is the longest of all */
        return -ENOMEM;
    char *end = json->data + json->size;
    *end++ = '"';
    for (size_t i = 0, length; i < size; i += length) {
        bool clean = toll_utf8_next(text + i, size - i, &length);
        const char *escaped = length == 1 ? escape((unsigned char)text[i], buf) : NULL;
        const char *piece = !clean ? "\xef\xbf\xbd" : escaped ? escaped : text + i;
        size_t piece_size = !clean ? 3 : escaped ? strlen(escaped) : length;
        memcpy(end, piece, piece_size);
        end += piece_size;
        replaced |= !clean;
    }
    *end++ = '"';
    json->size = (size_t)(end - json->data);
    json->replaced += replaced;
    return 0;
}

static int append_base64(struct toll_json *json, const char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *in = (const uint8_t *)bytes;

    if (size > SIZE_MAX / 4 || reserve(json, (size + 2) / 3 * 4 + 2) < 0)
        return -ENOMEM;
    char *end = json->data + json->size;
    *end++ = '"';
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t group = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
        *end++ = digits[group >> 18];
        *end++ = digits[group >> 12 & 63];
        *end++ = left > 1 ? digits[group >> 6 & 63] : '=';
        *end++ = left > 2 ? digits[group & 63] : '=';
    }
    *end++ = '"';
    json->size = (size_t)(end - json->data);
    return 0;
}

/* A timestamp is seconds + nanoseconds, the latter never negative: −0.5 s is −1 s and 500,000,000 ns. */
static int append_timestamp(struct toll_json *json, const msgpack_timestamp *stamp)
{
    bool borrow = stamp->tv_sec < 0 && stamp->tv_nsec > 0;
    int64_t seconds = borrow ? stamp->tv_sec + 1 : stamp->tv_sec;
    uint32_t nanoseconds = borrow ? 1000000000 - stamp->tv_nsec : stamp->tv_nsec;
    char buf[48];
    int size = snprintf(buf, sizeof(buf), "%s%" PRId64, borrow && seconds == 0 ? "-" : "", seconds);

    if (nanoseconds > 0) {
        size += snprintf(buf + size, sizeof(buf) - (size_t)size, ".%09" PRIu32, nanoseconds);
        while (buf[size - 1] == '0')
            size--;
    }
    return append(json, buf, (size_t)size);
}

static int append_ext(struct toll_json *json, const msgpack_object *value)
{
    msgpack_timestamp stamp;
    char buf[32];
    int r;

    if (msgpack_object_to_timestamp(value, &stamp) && stamp.tv_nsec <= 999999999)
        return append_timestamp(json, &stamp);
    (void)snprintf(buf, sizeof(buf), "{\"ext\":%d,\"data\":", value->via.ext.type);
    if ((r = append_text(json, buf)) < 0 || (r = append_base64(json, value->via.ext.ptr, value->via.ext.size)) < 0)
        return r;
    return append_text(json, "}");
}

static int append_float(struct toll_json *json, double value)
{
    char buf[TOLL_JSON_NUMBER_MAX];

    if (isnan(value))
        return append_text(json, "\"NaN\"");
    if (isinf(value))
        return append_text(json, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    toll_json_number(value, buf);
    return append_text(json, buf);
}

static int append_integer(struct toll_json *json, const msgpack_object *value)
{
    char buf[24];

    if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        (void)snprintf(buf, sizeof(buf), "%" PRId64, value->via.i64);
    else
        (void)snprintf(buf, sizeof(buf), "%" PRIu64, value->via.u64);
    return append_text(json, buf);
}

/* --- maps --- */

static int push_key(struct toll_json *json, size_t at)
{
    if (json->keys_used == json->keys_cap) {
        size_t cap = json->keys_cap ? 2 * json->keys_cap : 64;
        struct toll_json_key *keys = reallocarray(json->keys, cap, sizeof(*keys));
        if (!keys)
            return -ENOMEM;
        json->keys = keys;
        json->keys_cap = cap;
    }
    json->keys[json->keys_used++] = (struct toll_json_key){at, json->size - at};
    return 0;
}

static int append_key(struct toll_json *json, const msgpack_object *key)
{
    size_t at = json->size;
    int r;

    if (key->type == MSGPACK_OBJECT_MAP || key->type == MSGPACK_OBJECT_ARRAY)
        return -EINVAL;
    r = toll_json_value(json, key);
    if (r < 0)
        return r;
    if (json->data[at] != '"') { /* a number, true, null, an extension: its text, as a string, takes its place */
        char text[64], *copy = text;
        size_t size = json->size - at;
        if (size > sizeof(text) && !(copy = malloc(size)))
            return -ENOMEM;
        memcpy(copy, json->data + at, size);
        json->size = at;
        r = append_string(json, copy, size);
        if (copy != text)
            free(copy);
        if (r < 0)
            return r;
    }
    return push_key(json, at);
}

/* By size first: any order will do that brings equal keys together. */
static int compare_keys(const void *a, const void *b, void *data)
{
    const struct toll_json_key *x = a, *y = b;

    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return memcmp((const char *)data + x->at, (const char *)data + y->at, x->size);
}

/* Keys are compared as they stand in the JSON, which has one form for each string. Sorting keeps it n log n
 * whatever a peer sends. */
static int check_keys(struct toll_json *json, size_t first)
{
    struct toll_json_key *keys = json->keys + first;
    size_t n = json->keys_used - first;

    if (n < 2)
        return 0;
    qsort_r(keys, n, sizeof(*keys), compare_keys, json->data);
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(&keys[i - 1], &keys[i], json->data) == 0) {
            json->repeated_at = keys[i].at;
            json->repeated_size = keys[i].size;
            return -EEXIST;
        }
    }
    return 0;
}

static int append_map(struct toll_json *json, const msgpack_object_map *map)
{
    size_t first_key = json->keys_used;
    int r = append_text(json, "{");

    for (uint32_t i = 0; r == 0 && i < map->size; i++) {
        if (i > 0 && (r = append_text(json, ",")) < 0)
            break;
        if ((r = append_key(json, &map->ptr[i].key)) < 0 || (r = append_text(json, ":")) < 0)
            break;
        r = toll_json_value(json, &map->ptr[i].val);
    }
    if (r == 0)
        r = check_keys(json, first_key);
    json->keys_used = first_key;
    return r < 0 ? r : append_text(json, "}");
}

static int append_array(struct toll_json *json, const msgpack_object_array *array)
{
    int r = append_text(json, "[");

    for (uint32_t i = 0; r == 0 && i < array->size; i++) {
        if (i > 0 && (r = append_text(json, ",")) < 0)
            break;
        r = toll_json_value(json, &array->ptr[i]);
    }
    return r < 0 ? r : append_text(json, "]");
}

int toll_json_value(struct toll_json *json, const msgpack_object *value)
{
    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        return append_text(json, "null");
    case MSGPACK_OBJECT_BOOLEAN:
        return append_text(json, value->via.boolean ? "true" : "false");
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return append_integer(json, value);
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return append_float(json, value->via.f64);
    case MSGPACK_OBJECT_STR:
        return append_string(json, value->via.str.ptr, value->via.str.size);
    case MSGPACK_OBJECT_BIN:
        return append_base64(json, value->via.bin.ptr, value->via.bin.size);
    case MSGPACK_OBJECT_ARRAY:
        return append_array(json, &value->via.array);
    case MSGPACK_OBJECT_MAP:
        return append_map(json, &value->via.map);
    case MSGPACK_OBJECT_EXT:
        return append_ext(json, value);
    }
    return -EINVAL;
}
