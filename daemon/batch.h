/* Rows in PostgreSQL's binary COPY format, and arrays of records as binary parameters. Pure: bytes in memory, no connection.
 *
 * Source of the formats: PostgreSQL documentation, COPY, "Binary Format"; array_recv(), record_recv() and the other types' receive functions. */
#ifndef TOLL_DAEMON_BATCH_H
#define TOLL_DAEMON_BATCH_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A growing run of COPY bytes. An allocation that fails is remembered in `failed`: writers need not
 * check each field. */
struct copy_buffer {
    char *data;
    size_t size, capacity;
    size_t rows;
    bool failed;
};

void copy_begin(struct copy_buffer *buf); /* keeps the memory of the last use; writes the header */
void copy_drain(struct copy_buffer *buf); /* forgets the bytes, which were sent, but not how many rows there were */
void copy_end(struct copy_buffer *buf);   /* writes the trailer */
void copy_done(struct copy_buffer *buf);  /* frees */

/* Room for more than there is. False: out of memory. */
bool copy_grow(struct copy_buffer *buf, size_t size);

/* `size` more bytes of the buffer, to be written by the caller. NULL: out of memory. */
static inline char *copy_take(struct copy_buffer *buf, size_t size)
{
    if (buf->capacity - buf->size < size && !copy_grow(buf, size))
        return NULL;
    buf->size += size;
    return buf->data + buf->size - size;
}

static inline char *field_store16(char *at, uint16_t value)
{
    value = htobe16(value);
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static inline char *field_store32(char *at, uint32_t value)
{
    value = htobe32(value);
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static inline char *field_store64(char *at, uint64_t value)
{
    value = htobe64(value);
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

/* memcpy(), of short ones without a call: most texts are names. */
static inline char *field_store_bytes(char *at, const char *bytes, size_t size)
{
    if (size >= 8 && size <= 16) { /* the two halves overlap */
        memcpy(at, bytes, 8);
        memcpy(at + size - 8, bytes + size - 8, 8);
    } else if (size >= 4 && size < 8) {
        memcpy(at, bytes, 4);
        memcpy(at + size - 4, bytes + size - 4, 4);
    } else {
        memcpy(at, bytes, size);
    }
    return at + size;
}

/* The fields of a row, each at a place where there is room for it: FIELD_MOST bytes, and the text's. They return where the next one goes. They stand here to be
 * built into the rows' code: thirty of them a row, for which room is made once. NULL text: NULL; bytea has text's form. */
enum { FIELD_MOST = 20 };

static inline char *field_null(char *at)
{
    return field_store32(at, UINT32_MAX);
}

static inline char *field_bool(char *at, bool value)
{
    at = field_store32(at, 1);
    *at = value;
    return at + 1;
}

static inline char *field_int4(char *at, int32_t value)
{
    return field_store64(at, UINT64_C(4) << 32 | (uint32_t)value);
}

static inline char *field_int8(char *at, int64_t value)
{
    return field_store64(field_store32(at, 8), (uint64_t)value);
}

static inline char *field_float8(char *at, double value)
{
    int64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return field_int8(at, bits);
}

static inline char *field_uuid(char *at, const uint8_t uuid[static 16])
{
    at = field_store32(at, 16);
    memcpy(at, uuid, 16);
    return at + 16;
}

static inline char *field_text(char *at, const char *text, size_t size)
{
    return text ? field_store_bytes(field_store32(at, (uint32_t)size), text, size) : field_null(at);
}

static inline char *field_jsonb(char *at, const char *json, size_t size)
{
    if (!json)
        return field_null(at);
    at = field_store32(at, (uint32_t)size + 1);
    *at = 1; /* version */
    return field_store_bytes(at + 1, json, size);
}

/* timestamptz; INT64_MIN: NULL; beyond its range: ±infinity. */
char *field_time_far(char *at, int64_t epoch_us);
static inline char *field_time(char *at, int64_t epoch_us)
{
    /* µs from 1970-01-01 to 2000-01-01, where PostgreSQL counts from */
    const int64_t pg_epoch_us = INT64_C(946684800000000);

    return epoch_us < 0 || epoch_us >= (INT64_C(1) << 62) ? field_time_far(at, epoch_us)
                                                          : field_int8(at, epoch_us - pg_epoch_us);
}

/* Text of a decimal: "123.45", "1e-7": what toll_frame.quantity holds; "": NULL. At most FIELD_NUMERIC_MOST bytes. */
enum { FIELD_NUMERIC_MOST = 56 };
char *field_numeric(char *at, const char *decimal);

/* The same at the end of a buffer. */

static inline void copy_row(struct copy_buffer *buf, int columns)
{
    char *at = copy_take(buf, 2);

    if (at)
        field_store16(at, (uint16_t)columns);
    buf->rows++;
}

static inline void copy_null(struct copy_buffer *buf)
{
    char *at = copy_take(buf, 4);

    if (at)
        field_null(at);
}

static inline void copy_bool(struct copy_buffer *buf, bool value)
{
    char *at = copy_take(buf, 5);

    if (at)
        field_bool(at, value);
}

static inline void copy_int4(struct copy_buffer *buf, int32_t value)
{
    char *at = copy_take(buf, 8);

    if (at)
        field_int4(at, value);
}

static inline void copy_int8(struct copy_buffer *buf, int64_t value)
{
    char *at = copy_take(buf, 12);

    if (at)
        field_int8(at, value);
}

static inline void copy_float8(struct copy_buffer *buf, double value)
{
    char *at = copy_take(buf, 12);

    if (at)
        field_float8(at, value);
}

static inline void copy_uuid(struct copy_buffer *buf, const uint8_t uuid[static 16])
{
    char *at = copy_take(buf, 20);

    if (at)
        field_uuid(at, uuid);
}

static inline void copy_text(struct copy_buffer *buf, const char *text, size_t size)
{
    char *at = copy_take(buf, text ? 4 + size : 4);

    if (at)
        field_text(at, text, size);
}

static inline void copy_jsonb(struct copy_buffer *buf, const char *json, size_t size)
{
    char *at = copy_take(buf, json ? 5 + size : 4);

    if (at)
        field_jsonb(at, json, size);
}

void copy_time(struct copy_buffer *buf, int64_t epoch_us);
void copy_numeric(struct copy_buffer *buf, const char *decimal);

/* Room for `most` bytes of a row, of which the caller writes as many as it needs. NULL: out of memory; the row counts all the same, so that the buffer
 * is not taken for one that has nothing to send. */
static inline char *copy_row_begin(struct copy_buffer *buf, size_t most, int columns)
{
    if (buf->capacity - buf->size < most && !copy_grow(buf, most)) {
        buf->rows++;
        return NULL;
    }
    return field_store16(buf->data + buf->size, (uint16_t)columns);
}

/* at: where the row ends. */
static inline void copy_row_end(struct copy_buffer *buf, const char *at)
{
    buf->size = (size_t)(at - buf->data);
    buf->rows++;
}

/* An array instead of COPY's rows: begin with the elements' type, the elements, end. An element is a UUID, or a record: begin · a type's OID and one
 * field, and so on · end. */
void copy_array_begin(struct copy_buffer *buf, uint32_t type);
void copy_array_end(struct copy_buffer *buf);
void copy_array_uuid(struct copy_buffer *buf, const uint8_t uuid[static 16]);
size_t copy_record_begin(struct copy_buffer *buf, int columns); /* returns what copy_record_end() wants */
void copy_record_end(struct copy_buffer *buf, size_t record);
void copy_type(struct copy_buffer *buf, uint32_t type);

#endif
