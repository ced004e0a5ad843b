/* Whether two decoded frames are alike, field by field. For unit tests and fuzzers. */
#ifndef TOLL_TESTS_UNIT_SAME_FRAME_H
#define TOLL_TESTS_UNIT_SAME_FRAME_H

#include "proto/fields.h"

#include <string.h>

static inline bool same_value(const struct toll_field *field, const struct toll_frame *a, const struct toll_frame *b)
{
    const char *x = (const char *)a + field->offset, *y = (const char *)b + field->offset;

    if (field->has && *((const bool *)a + field->has) != *((const bool *)b + field->has))
        return false;
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
    case TOLL_KIND_MAP: {
        const struct toll_str *s = (const void *)x, *t = (const void *)y;

        if (!s->ptr || !t->ptr)
            return s->ptr == t->ptr;
        return s->len == t->len && memcmp(s->ptr, t->ptr, s->len) == 0;
    }
    case TOLL_KIND_TYPE:
    case TOLL_KIND_COUNT:
        return memcmp(x, y, 4) == 0;
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        return memcmp(x, y, 16) == 0;
    case TOLL_KIND_TIME:
    case TOLL_KIND_NUMBER:
    case TOLL_KIND_DURATION:
    case TOLL_KIND_QUANTITY:
        return memcmp(x, y, 8) == 0;
    case TOLL_KIND_BOOL:
        return *(const bool *)x == *(const bool *)y;
    }
    return false;
}

static inline bool same_frame(const struct toll_frame *a, const struct toll_frame *b)
{
    for (unsigned i = 0; i < TOLL_FIELDS; i++)
        if (!same_value(&toll_fields[i], a, b))
            return false;
    return strcmp(a->quantity, b->quantity) == 0 && a->replaced == b->replaced;
}

#endif
