/* See batch.h. */
#include "daemon/batch.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

/* µs from 1970-01-01 to 2000-01-01, where PostgreSQL counts from; and its limits (src/include/datatype/timestamp.h). */
#define PG_EPOCH_US INT64_C(946684800000000)
#define PG_TIME_MIN INT64_C(-211813488000000000)
#define PG_TIME_END INT64_C(9223371331200000000)

bool copy_grow(struct copy_buffer *buf, size_t size)
{
    size_t capacity = buf->capacity ? buf->capacity : 65536;
    char *grown;

    while (capacity - buf->size < size)
        capacity *= 2;
    grown = realloc(buf->data, capacity);
    if (!grown) {
        buf->failed = true;
        return false;
    }
    buf->data = grown;
    buf->capacity = capacity;
    return true;
}

static void put16(struct copy_buffer *buf, uint16_t value)
{
    char *at = copy_take(buf, sizeof(value));

    if (at)
        field_store16(at, value);
}

static void put32(struct copy_buffer *buf, uint32_t value)
{
    char *at = copy_take(buf, sizeof(value));

    if (at)
        field_store32(at, value);
}

void copy_begin(struct copy_buffer *buf)
{
    enum { HEADER = 19 }; /* signature, flags, length of the header's extension */
    char *at;

    buf->size = buf->rows = 0;
    buf->failed = false;
    at = copy_take(buf, HEADER);
    if (at)
        memcpy(at, "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", HEADER);
}

void copy_drain(struct copy_buffer *buf)
{
    buf->size = 0;
}

void copy_end(struct copy_buffer *buf)
{
    put16(buf, UINT16_MAX);
}

void copy_done(struct copy_buffer *buf)
{
    free(buf->data);
    *buf = (struct copy_buffer){0};
}

char *field_time_far(char *at, int64_t epoch_us)
{
    if (epoch_us == INT64_MIN)
        return field_null(at);
    if (epoch_us < PG_TIME_MIN + PG_EPOCH_US)
        return field_int8(at, INT64_MIN); /* -infinity */
    return field_int8(at, epoch_us - PG_EPOCH_US >= PG_TIME_END ? INT64_MAX : epoch_us - PG_EPOCH_US);
}

void copy_time(struct copy_buffer *buf, int64_t epoch_us)
{
    char *at = copy_take(buf, epoch_us == INT64_MIN ? 4 : 12);

    if (at)
        field_time(at, epoch_us);
}

/* The digits of a decimal and where its point stands: value = 0.d₁d₂d₃… × 10^point. */
struct decimal {
    char digits[64];
    int count, point;
};

static struct decimal read_decimal(const char *text)
{
    struct decimal d = {.count = 0};
    bool fraction = false;

    for (; *text && *text != 'e' && *text != 'E'; text++) {
        if (*text == '.') {
            fraction = true;
            continue;
        }
        if (d.count == 0 && *text == '0') { /* leading zeros carry no digit */
            d.point -= fraction;
            continue;
        }
        if (d.count < (int)sizeof(d.digits))
            d.digits[d.count++] = (char)(*text - '0');
        d.point += !fraction;
    }
    if (*text)
        d.point += atoi(text + 1);
    while (d.count > 0 && d.digits[d.count - 1] == 0)
        d.count--;
    return d;
}

/* Groups of four decimal digits, the first with weight 10000^weight (src/backend/utils/adt/numeric.c, numeric_recv). */
char *field_numeric(char *at, const char *decimal)
{
    struct decimal d;
    int weight, lead, groups, scale;

    if (!*decimal)
        return field_null(at);
    d = read_decimal(decimal);
    weight = d.point > 0 ? (d.point - 1) / 4 : -((-d.point) / 4) - 1;
    lead = (weight + 1) * 4 - d.point; /* zeros in front of the first digit, so that the point falls between groups */
    groups = d.count ? (lead + d.count + 3) / 4 : 0;
    scale = d.count > d.point ? d.count - d.point : 0;
    at = field_store32(at, (uint32_t)(8 + 2 * groups));
    at = field_store16(at, (uint16_t)groups);
    at = field_store16(at, (uint16_t)(groups ? weight : 0));
    at = field_store16(at, 0); /* sign: positive */
    at = field_store16(at, (uint16_t)(d.count ? scale : 0));
    for (int i = 0; i < groups; i++) {
        uint16_t group = 0;

        for (int j = i * 4 - lead; j < i * 4 - lead + 4; j++)
            group = (uint16_t)(group * 10 + (j >= 0 && j < d.count ? d.digits[j] : 0));
        at = field_store16(at, group);
    }
    return at;
}

void copy_numeric(struct copy_buffer *buf, const char *decimal)
{
    char number[FIELD_NUMERIC_MOST], *end = field_numeric(number, decimal),
                                     *at = copy_take(buf, (size_t)(end - number));

    if (at)
        memcpy(at, number, (size_t)(end - number));
}

/* Writes a number where there was room left for it. */
static void patch32(struct copy_buffer *buf, size_t at, size_t value)
{
    uint32_t bytes = htobe32((uint32_t)value);

    if (!buf->failed)
        memcpy(buf->data + at, &bytes, sizeof(bytes));
}

enum { ARRAY_COUNT_AT = 12 };

void copy_array_begin(struct copy_buffer *buf, uint32_t type)
{
    buf->size = buf->rows = 0;
    buf->failed = false;
    put32(buf, 1); /* dimensions */
    put32(buf, 0); /* no element is NULL */
    put32(buf, type);
    put32(buf, 0); /* how many: ARRAY_COUNT_AT */
    put32(buf, 1); /* the first one's index */
}

void copy_array_end(struct copy_buffer *buf)
{
    patch32(buf, ARRAY_COUNT_AT, buf->rows);
}

void copy_array_uuid(struct copy_buffer *buf, const uint8_t uuid[static 16])
{
    copy_uuid(buf, uuid);
    buf->rows++;
}

size_t copy_record_begin(struct copy_buffer *buf, int columns)
{
    size_t record = buf->size;

    put32(buf, 0); /* its size */
    put32(buf, (uint32_t)columns);
    buf->rows++;
    return record;
}

void copy_record_end(struct copy_buffer *buf, size_t record)
{
    patch32(buf, record, buf->size - record - sizeof(uint32_t));
}

void copy_type(struct copy_buffer *buf, uint32_t type)
{
    put32(buf, type);
}
