/* Rows in PostgreSQL's binary COPY format, and arrays of records as binary parameters. Pure: bytes in memory, no connection.
 *
 * Source of the formats: PostgreSQL documentation, COPY, "Binary Format"; array_recv(), record_recv() and the other types' receive functions. */
#ifndef TOLL_DAEMON_BATCH_H
#define TOLL_DAEMON_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

void copy_row(struct copy_buffer *buf, int columns);
void copy_null(struct copy_buffer *buf);
void copy_bool(struct copy_buffer *buf, bool value);
void copy_int4(struct copy_buffer *buf, int32_t value);
void copy_int8(struct copy_buffer *buf, int64_t value);
void copy_float8(struct copy_buffer *buf, double value);
void copy_uuid(struct copy_buffer *buf, const uint8_t uuid[static 16]);
void copy_text(struct copy_buffer *buf, const char *text, size_t size); /* NULL text: NULL; bytea has the same form */
void copy_jsonb(struct copy_buffer *buf, const char *json, size_t size);
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
