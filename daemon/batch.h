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

static inline void copy_store16(char *at, uint16_t value)
{
    value = htobe16(value);
    memcpy(at, &value, sizeof(value));
}

static inline void copy_store32(char *at, uint32_t value)
{
    value = htobe32(value);
    memcpy(at, &value, sizeof(value));
}

static inline void copy_store64(char *at, uint64_t value)
{
    value = htobe64(value);
    memcpy(at, &value, sizeof(value));
}

/* The fields stand here to be built into the rows' code: thirty of them a row. NULL text: NULL; bytea has text's form. */

static inline void copy_row(struct copy_buffer *buf, int columns)
{
    char *at = copy_take(buf, 2);

    if (at)
        copy_store16(at, (uint16_t)columns);
    buf->rows++;
}

static inline void copy_null(struct copy_buffer *buf)
{
    char *at = copy_take(buf, 4);

    if (at)
        copy_store32(at, UINT32_MAX);
}

static inline void copy_bool(struct copy_buffer *buf, bool value)
{
    char *at = copy_take(buf, 5);

    if (!at)
        return;
    copy_store32(at, 1);
    at[4] = value;
}

static inline void copy_int4(struct copy_buffer *buf, int32_t value)
{
    char *at = copy_take(buf, 8);

    if (at)
        copy_store64(at, UINT64_C(4) << 32 | (uint32_t)value);
}

static inline void copy_int8(struct copy_buffer *buf, int64_t value)
{
    char *at = copy_take(buf, 12);

    if (!at)
        return;
    copy_store32(at, 8);
    copy_store64(at + 4, (uint64_t)value);
}

static inline void copy_float8(struct copy_buffer *buf, double value)
{
    int64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    copy_int8(buf, bits);
}

static inline void copy_uuid(struct copy_buffer *buf, const uint8_t uuid[static 16])
{
    char *at = copy_take(buf, 20);

    if (!at)
        return;
    copy_store32(at, 16);
    memcpy(at + 4, uuid, 16);
}

static inline void copy_text(struct copy_buffer *buf, const char *text, size_t size)
{
    char *at;

    if (!text) {
        copy_null(buf);
        return;
    }
    at = copy_take(buf, 4 + size);
    if (!at)
        return;
    copy_store32(at, (uint32_t)size);
    memcpy(at + 4, text, size);
}

static inline void copy_jsonb(struct copy_buffer *buf, const char *json, size_t size)
{
    char *at;

    if (!json) {
        copy_null(buf);
        return;
    }
    at = copy_take(buf, 5 + size);
    if (!at)
        return;
    copy_store32(at, (uint32_t)size + 1);
    at[4] = 1; /* version */
    memcpy(at + 5, json, size);
}

void copy_time(struct copy_buffer *buf,
               int64_t epoch_us); /* timestamptz; INT64_MIN: NULL; beyond its range: ±infinity */
void copy_numeric(struct copy_buffer *buf,
                  const char *decimal); /* "123.45", "1e-7": what toll_frame.quantity holds; "": NULL */

/* An array of records instead of COPY's rows: begin, for each record begin · a type's OID and one field, and so on · end; end. */
void copy_array_begin(struct copy_buffer *buf, uint32_t record_type);
void copy_array_end(struct copy_buffer *buf);
size_t copy_record_begin(struct copy_buffer *buf, int columns); /* returns what copy_record_end() wants */
void copy_record_end(struct copy_buffer *buf, size_t record);
void copy_type(struct copy_buffer *buf, uint32_t type);

#endif
