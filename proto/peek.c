/* See peek.h. */
#include "proto/peek.h"

#include "proto/reader.h"
#include "proto/usual.h"
#include "proto/value.h"

/* As libtoll's frames begin: their type, then the session. */
static bool peek_usual(const uint8_t *p, const uint8_t *end, uint8_t ret_id[static 16])
{
    struct toll_str type;

    if (p == end || (*p & 0xf0) != 0x80 || (*p & 0x0f) < 2)
        return false;
    p++;
    return toll_usual_skip(&p, end, "type", 4) && toll_usual_string(&p, end, &type) &&
           toll_usual_skip(&p, end, "session_id", 10) && toll_usual_bin16(&p, end, ret_id);
}

bool toll_peek_session(const void *data, size_t size, uint8_t ret_id[static 16])
{
    struct toll_reader_value key, value;
    struct toll_reader reader;
    msgpack_object other;

    if (peek_usual(data, (const uint8_t *)data + size, ret_id))
        return true;
    if (!toll_reader_open(&reader, data, size, &other))
        return false;
    while (toll_reader_next(&reader, &key, &value))
        if (toll_value_is(&key.object, "session_id"))
            return toll_value_uuid(&value.object, ret_id);
    return false;
}
