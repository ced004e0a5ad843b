/* CRC-32C (Castagnoli), the checksum of everything the journal puts on disk. It knows nothing of records. */
#ifndef TOLL_DAEMON_CRC32C_H
#define TOLL_DAEMON_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of data that follows bytes whose CRC is `crc` (0 for none): crc32c(crc32c(0, a), b) = crc32c(0,
 * ab). Thread-safe. Uses the processor's instruction where it has one (SSE4.2). */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* The same from tables, on any processor. For crc32c() and the tests. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
