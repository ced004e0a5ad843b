/* See value.h. */
#include "proto/value.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "proto/json.h"
#include "proto/usual.h"
#include "proto/utf8.h"

const struct toll_frame toll_frame_absent = {TOLL_FRAME_ABSENT};

const char *toll_value_kind(const msgpack_object *value)
{
    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        return "nil";
    case MSGPACK_OBJECT_BOOLEAN:
        return "a boolean";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return "an integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return "a float";
    case MSGPACK_OBJECT_STR:
        return "a string";
    case MSGPACK_OBJECT_BIN:
        return "binary data";
    case MSGPACK_OBJECT_ARRAY:
        return "an array";
    case MSGPACK_OBJECT_MAP:
        return "a map";
    case MSGPACK_OBJECT_EXT:
        return "an extension";
    }
    return "something else";
}

const char *toll_quote(const char *key, size_t size, char out[static TOLL_QUOTED_MAX])
{
    size_t end = 0;

    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)key[i];
        if (end > TOLL_QUOTED_MAX - 8) { /* room for one escape and the dots */
            end += (size_t)snprintf(out + end, TOLL_QUOTED_MAX - end, "...");
            break;
        }
        bool plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
        end += (size_t)snprintf(out + end, TOLL_QUOTED_MAX - end, plain ? "%c" : "\\x%02x", c);
    }
    out[end] = '\0';
    return out;
}

/* --- one function for each kind; all store through `at` --- */

struct taking {
    enum toll_frame_type type; /* for the reason, … */
    const char *key;           /* … and so is this */
    char *reason;
};

/* -EINVAL and "llm: input_tokens: …" */
static int __attribute__((format(printf, 2, 3))) refuse(const struct taking *t, const char *format, ...)
{
    char what[TOLL_REASON_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return toll_refuse(t->reason, "%s: %s: %s", toll_frame_type_name(t->type), t->key, what);
}

static int expected(const struct taking *t, const char *what, const msgpack_object *value)
{
    return refuse(t, "expected %s, got %s", what, toll_value_kind(value));
}

static bool is_float(const msgpack_object *value)
{
    return value->type == MSGPACK_OBJECT_FLOAT64 || value->type == MSGPACK_OBJECT_FLOAT32;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_uuid(const char *text, uint8_t ret[static 16])
{
    uint8_t id[16];

    for (int i = 0, byte = 0; i < 36; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text[i] != '-')
                return -EINVAL;
            continue;
        }
        int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        id[byte++] = (uint8_t)(high << 4 | low);
        i++;
    }
    memcpy(ret, id, 16);
    return 0;
}

bool toll_value_uuid(const msgpack_object *value, uint8_t ret[static 16])
{
    if (value->type == MSGPACK_OBJECT_BIN && value->via.bin.size == 16) {
        memcpy(ret, value->via.bin.ptr, 16);
        return true;
    }
    return value->type == MSGPACK_OBJECT_STR && value->via.str.size == 36 && parse_uuid(value->via.str.ptr, ret) == 0;
}

static int take_id(const struct taking *t, const msgpack_object *value, bool text_too, uint8_t *at)
{
    if (value->type == MSGPACK_OBJECT_BIN) {
        if (value->via.bin.size != 16)
            return refuse(t, "expected 16 bytes, got %u", value->via.bin.size);
        memcpy(at, value->via.bin.ptr, 16);
        return 0;
    }
    if (!text_too)
        return expected(t, "16 bytes of binary data", value);
    if (value->type != MSGPACK_OBJECT_STR)
        return expected(t, "a UUID (16 bytes of binary data, or a string)", value);
    if (value->via.str.size != 36 || parse_uuid(value->via.str.ptr, at) < 0)
        return refuse(t, "not a UUID: expected 8-4-4-4-12 hexadecimal digits");
    return 0;
}

/* Saturates; TOLL_TIME_MISSING itself is never a time. */
static int64_t time_from_seconds(int64_t seconds, int64_t us)
{
    int64_t time;

    if (__builtin_mul_overflow(seconds, INT64_C(1000000), &time) || __builtin_add_overflow(time, us, &time))
        return seconds < 0 ? INT64_MIN + 1 : INT64_MAX;
    return time == TOLL_TIME_MISSING ? INT64_MIN + 1 : time;
}

static int take_time(const struct taking *t, const msgpack_object *value, int64_t *at)
{
    msgpack_timestamp stamp;

    if (value->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        *at = value->via.u64 > INT64_MAX ? INT64_MAX : (int64_t)value->via.u64;
    } else if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        *at = value->via.i64 == TOLL_TIME_MISSING ? INT64_MIN + 1 : value->via.i64;
    } else if (is_float(value)) {
        if (!isfinite(value->via.f64))
            return refuse(t, "not a finite number");
        double us = value->via.f64 * 1e6;
        *at = us >= 0x1p63 ? INT64_MAX : us <= -0x1p63 ? INT64_MIN + 1 : llround(us);
    } else if (msgpack_object_to_timestamp(value, &stamp)) {
        if (stamp.tv_nsec > 999999999)
            return refuse(t, "a timestamp of %" PRIu32 " nanoseconds", stamp.tv_nsec);
        *at = time_from_seconds(stamp.tv_sec, stamp.tv_nsec / 1000);
    } else {
        return expected(t, "a time (integer, float or timestamp)", value);
    }
    return 0;
}

static int take_str(const struct taking *t, const msgpack_object *value, uint32_t max, struct toll_str *at)
{
    if (value->type != MSGPACK_OBJECT_STR)
        return expected(t, "a string", value);
    if (value->via.str.size > max)
        return refuse(t, "%" PRIu32 " bytes are more than %" PRIu32, value->via.str.size, max);
    *at = (struct toll_str){value->via.str.ptr, value->via.str.size};
    return 0;
}

static int take_integer(const struct taking *t, const msgpack_object *value, uint64_t max, uint64_t *at)
{
    if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return refuse(t, "%" PRId64 " is below 0", value->via.i64);
    if (value->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return expected(t, "an integer", value);
    if (value->via.u64 > max)
        return refuse(t, "%" PRIu64 " is above %" PRIu64, value->via.u64, max);
    *at = value->via.u64;
    return 0;
}

/* An integer or a float, finite and ≥ 0, as a double. */
static int take_number(const struct taking *t, const msgpack_object *value, double *at)
{
    double number;

    if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return refuse(t, "%" PRId64 " is below 0", value->via.i64);
    if (value->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        number = (double)value->via.u64;
    else if (is_float(value))
        number = value->via.f64;
    else
        return expected(t, "a number", value);
    if (!isfinite(number))
        return refuse(t, "not a finite number");
    if (number < 0)
        return refuse(t, "%.17g is below 0", number);
    *at = number == 0 ? 0 : number; /* no minus zero */
    return 0;
}

static int take_duration(const struct taking *t, const msgpack_object *value, int64_t *at)
{
    double ms = 0;

    int r = take_number(t, value, &ms);
    if (r < 0)
        return r;
    if (ms * 1000.0 > (double)TOLL_DURATION_MAX)
        return refuse(t, "%.17g is above %" PRId64 ".%03" PRId64, ms, TOLL_DURATION_MAX / 1000,
                      TOLL_DURATION_MAX % 1000);
    *at = llround(ms * 1000.0);
    return 0;
}

static int take_quantity(const struct taking *t, const msgpack_object *value, struct toll_frame *frame)
{
    int r = take_number(t, value, &frame->quantity_value);
    if (r < 0)
        return r;
    if (value->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        (void)snprintf(frame->quantity, sizeof(frame->quantity), "%" PRIu64, value->via.u64);
    else
        toll_json_number(frame->quantity_value, frame->quantity);
    return 0;
}

static int take_value(const struct toll_field *field, const msgpack_object *value, struct toll_frame *frame,
                      char reason[static TOLL_REASON_MAX])
{
    struct taking t = {.type = frame->type, .key = field->name};
    void *at = (char *)frame + field->offset;
    uint64_t count = 0;
    int r = 0;

    t.reason = reason;
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
        break; /* known already */
    case TOLL_KIND_UUID:
        r = take_id(&t, value, true, at);
        break;
    case TOLL_KIND_BIN16:
        r = take_id(&t, value, false, at);
        break;
    case TOLL_KIND_TIME:
        r = take_time(&t, value, at);
        break;
    case TOLL_KIND_NAME:
        r = take_str(&t, value, TOLL_NAME_MAX, at);
        break;
    case TOLL_KIND_TEXT:
        r = take_str(&t, value, UINT32_MAX, at);
        break;
    case TOLL_KIND_COUNT:
        r = take_integer(&t, value, TOLL_COUNT_MAX, &count);
        if (r == 0)
            *(int32_t *)at = (int32_t)count;
        break;
    case TOLL_KIND_NUMBER:
        r = take_integer(&t, value, INT64_MAX, at);
        break;
    case TOLL_KIND_DURATION:
        r = take_duration(&t, value, at);
        break;
    case TOLL_KIND_QUANTITY:
        r = take_quantity(&t, value, frame);
        break;
    case TOLL_KIND_BOOL:
        if (value->type != MSGPACK_OBJECT_BOOLEAN)
            r = expected(&t, "a boolean", value);
        else
            *(bool *)at = value->via.boolean;
        break;
    case TOLL_KIND_MAP:
        if (value->type != MSGPACK_OBJECT_MAP)
            r = expected(&t, "a map", value);
        break;
    }
    if (r == 0 && field->has)
        *((bool *)frame + field->has) = true;
    return r;
}

/* --- pairs --- */

/* The row of the frame table for a key of this type of frame, or NULL. A sender's frames of a type have the same keys in the same order, mostly: so
 * the first look is at what came next the last time. */
static const struct toll_field *find_field(struct toll_pairs *pairs, const msgpack_object_str *key)
{
    unsigned bit = TOLL_TYPE_BIT(pairs->frame->type), i = pairs->order ? pairs->order->next[pairs->last] : pairs->last;

    for (unsigned n = 0; n < TOLL_FIELDS; n++, i++) {
        if (i >= TOLL_FIELDS)
            i = 0;
        const struct toll_field *field = &toll_fields[i];
        if (field->name_size == key->size && ((field->required | field->optional) & bit) &&
            toll_same_bytes(field->name, key->ptr, key->size)) {
            if (pairs->order)
                pairs->order->next[pairs->last] = (uint8_t)i;
            pairs->last = i + 1;
            return field;
        }
    }
    return NULL;
}

/* llround(), of what is ≥ 0 and far from overflowing. */
static int64_t rounded(double value)
{
    int64_t whole = (int64_t)value;

    return whole + (value - (double)whole >= 0.5);
}

static bool take_usual_count(const uint8_t **p, const uint8_t *end, int32_t *at)
{
    uint64_t count;

    if (!toll_usual_unsigned(p, end, &count) || count > TOLL_COUNT_MAX)
        return false;
    *at = (int32_t)count;
    return true;
}

static bool take_usual_time(const uint8_t **p, const uint8_t *end, int64_t *at)
{
    uint64_t us;

    if (!toll_usual_unsigned(p, end, &us) || us > INT64_MAX)
        return false;
    *at = (int64_t)us;
    return true;
}

static bool take_usual_duration(const uint8_t **p, const uint8_t *end, int64_t *at)
{
    uint64_t whole;
    double ms;

    if (!toll_usual_float(p, end, &ms)) {
        if (!toll_usual_unsigned(p, end, &whole))
            return false;
        ms = (double)whole;
    }
    if (!(ms >= 0 && ms * 1000.0 <= (double)TOLL_DURATION_MAX))
        return false;
    *at = rounded(ms * 1000.0);
    return true;
}

static bool take_usual_bool(const uint8_t **p, const uint8_t *end, bool *at)
{
    if (*p == end || (**p != 0xc2 && **p != 0xc3))
        return false;
    *at = *(*p)++ == 0xc3;
    return true;
}

static bool take_usual_text(const uint8_t **p, const uint8_t *end, struct toll_str *at)
{
    return toll_usual_string(p, end, at) && toll_utf8_clean(at->ptr, at->len);
}

/* One value of a field, as libtoll writes it. */
static inline bool take_usual_value(const struct toll_field *field, const uint8_t **p, const uint8_t *end, void *at)
{
    struct toll_str type;

    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE: /* known already */
        return toll_usual_string(p, end, &type);
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        return toll_usual_bin16(p, end, at);
    case TOLL_KIND_TIME:
        return take_usual_time(p, end, at);
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
        return take_usual_text(p, end, at);
    case TOLL_KIND_COUNT:
        return take_usual_count(p, end, at);
    case TOLL_KIND_DURATION:
        return take_usual_duration(p, end, at);
    case TOLL_KIND_BOOL:
        return take_usual_bool(p, end, at);
    case TOLL_KIND_NUMBER:
    case TOLL_KIND_QUANTITY:
    case TOLL_KIND_MAP:
        break;
    }
    return false;
}

uint32_t toll_pairs_usual(struct toll_pairs *pairs, const uint8_t **pos, const uint8_t *end, uint32_t most)
{
    const uint8_t *p = *pos, *next;
    uint64_t taken = 0; /* rows; in registers, like the rest here: this is the loop that decoding is */
    unsigned last = pairs->last;
    uint32_t count = 0;

    for (; count < most; count++, p = next) {
        unsigned row = pairs->order->next[last];
        const struct toll_field *field = &toll_fields[row];
        uint64_t bit = UINT64_C(1) << row;

        next = p;
        if (((pairs->seen | taken) & bit) || !toll_usual_skip(&next, end, field->name, field->name_size) ||
            !take_usual_value(field, &next, end, (char *)pairs->frame + field->offset))
            break;
        if (field->has)
            *((bool *)pairs->frame + field->has) = true;
        taken |= bit;
        last = row + 1;
    }
    pairs->seen |= taken;
    pairs->present |= taken;
    pairs->last = last;
    *pos = p;
    return count;
}

int toll_refuse_repeated(enum toll_frame_type type, const char *where, const char *key, size_t size,
                         char reason[static TOLL_REASON_MAX])
{
    char quoted[TOLL_QUOTED_MAX];

    return toll_refuse(reason, "%s: %srepeated key \"%s\"", toll_frame_type_name(type), where,
                       toll_quote(key, size, quoted));
}

int toll_pair_take(struct toll_pairs *pairs, const msgpack_object *key, const msgpack_object *value,
                   const struct toll_field **ret_field, char reason[static TOLL_REASON_MAX])
{
    enum toll_frame_type type = pairs->frame->type;

    if (key->type != MSGPACK_OBJECT_STR)
        return toll_refuse(reason, "%s: a key is %s, not a string", toll_frame_type_name(type), toll_value_kind(key));
    const struct toll_field *field = find_field(pairs, &key->via.str);
    if (field) {
        uint64_t bit = UINT64_C(1) << (field - toll_fields);
        if (pairs->seen & bit)
            return toll_refuse_repeated(type, "", key->via.str.ptr, key->via.str.size, reason);
        pairs->seen |= bit;
        if (value->type != MSGPACK_OBJECT_NIL) {
            pairs->present |= bit;
            int r = take_value(field, value, pairs->frame, reason);
            if (r < 0)
                return r;
        }
    }
    *ret_field = field;
    return 0;
}

static uint64_t required_rows(enum toll_frame_type type)
{
    uint64_t rows = 0;

    for (unsigned i = 0; i < TOLL_FIELDS; i++)
        if (toll_fields[i].required & TOLL_TYPE_BIT(type))
            rows |= UINT64_C(1) << i;
    return rows;
}

int toll_pairs_check(const struct toll_pairs *pairs, char reason[static TOLL_REASON_MAX])
{
    enum toll_frame_type type = pairs->frame->type;
    uint64_t required = pairs->order ? pairs->order->required : 0, missing;

    if (required == 0)
        required = required_rows(type); /* of every type there are some: its own name */
    if (pairs->order)
        pairs->order->required = required;
    missing = required & ~pairs->present;
    if (missing)
        return toll_refuse(reason, "%s: %s is missing", toll_frame_type_name(type),
                           toll_fields[__builtin_ctzll(missing)].name);
    return toll_frame_check(pairs->frame, reason);
}
