/* See peek.h. */
#include "proto/peek.h"

#include "proto/reader.h"
#include "proto/value.h"

bool toll_peek_session(const void *data, size_t size, uint8_t ret_id[static 16])
{
    struct toll_reader_value key, value;
    struct toll_reader reader;
    msgpack_object other;

    if (!toll_reader_open(&reader, data, size, &other))
        return false;
    while (toll_reader_next(&reader, &key, &value))
        if (toll_value_is(&key.object, "session_id"))
            return toll_value_uuid(&value.object, ret_id);
    return false;
}
