/* See ctl_print.h. */
#include "daemon/ctl_print.h"

#include "daemon/control_value.h"
#include "daemon/ctl_format.h"
#include "daemon/ctl_table.h"
#include "proto/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* PostgreSQL's type numbers never change (pg_type.dat). */
enum { OID_INT8 = 20, OID_INT2 = 21, OID_INT4 = 23, OID_FLOAT8 = 701, OID_NUMERIC = 1700 };

static void add_number(struct ctl_table *table, const char *key, int64_t value)
{
    char text[CTL_TEXT_MAX];

    ctl_table_add_number(table, ctl_format_number(key, value, text));
}

/* A cell with any value. Numbers of a map stand to the left, below other things; those of a list to the right. */
static int add_value(struct ctl_table *table, const char *key, const msgpack_object *value)
{
    struct toll_json json = {.data = NULL};
    char text[CTL_TEXT_MAX];
    int r;

    switch (value ? value->type : MSGPACK_OBJECT_NIL) {
    case MSGPACK_OBJECT_NIL:
        ctl_table_add_text(table, "-");
        return 0;
    case MSGPACK_OBJECT_BOOLEAN:
        ctl_table_add_text(table, value->via.boolean ? "yes" : "no");
        return 0;
    case MSGPACK_OBJECT_STR:
        if (value->via.str.size == 0)
            ctl_table_add_text(table, "-");
        else
            ctl_table_add(table, value->via.str.ptr, value->via.str.size, false);
        return 0;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        if (value->via.u64 <= INT64_MAX) {
            add_number(table, key, (int64_t)value->via.u64);
        } else {
            snprintf(text, sizeof(text), "%" PRIu64, value->via.u64);
            ctl_table_add_number(table, text);
        }
        return 0;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        add_number(table, key, value->via.i64);
        return 0;
    default:
        r = toll_json_value(&json, value);
        if (r == 0)
            ctl_table_add(table, json.data, json.size, false);
        else
            ctl_table_add_text(table, "?");
        toll_json_done(&json);
        return r == -ENOMEM ? r : 0;
    }
}

static size_t add_header(struct ctl_table *table, const struct ctl_column *columns)
{
    size_t count = 0;

    while (columns[count].key)
        count++;
    table->columns = count;
    for (size_t i = 0; i < count; i++)
        ctl_table_add_text(table, columns[i].header);
    return count;
}

int ctl_print_list(const struct ctl_column *columns, const msgpack_object *array, FILE *out)
{
    struct ctl_table table = {.columns = 0};
    size_t count = add_header(&table, columns);

    if (array->type == MSGPACK_OBJECT_ARRAY)
        for (uint32_t i = 0; i < array->via.array.size; i++)
            for (size_t n = 0; n < count; n++)
                if (add_value(&table, columns[n].key, value_get(&array->via.array.ptr[i], columns[n].key)) < 0)
                    table.failed = true;
    return ctl_table_print(&table, true, out);
}

static bool is_integer(Oid type)
{
    return type == OID_INT2 || type == OID_INT4 || type == OID_INT8;
}

static void add_field(struct ctl_table *table, const PGresult *result, int row, int field, const char *key)
{
    Oid type = PQftype(result, field);
    const char *text = PQgetvalue(result, row, field);

    if (PQgetisnull(result, row, field) || !text[0])
        ctl_table_add_text(table, "-");
    else if (is_integer(type))
        add_number(table, key, strtoll(text, NULL, 10));
    else
        ctl_table_add(table, text, (size_t)PQgetlength(result, row, field), type == OID_FLOAT8 || type == OID_NUMERIC);
}

int ctl_print_result(const struct ctl_column *columns, const PGresult *result, FILE *out)
{
    struct ctl_table table = {.columns = 0};
    size_t count = add_header(&table, columns);

    for (int row = 0; row < PQntuples(result); row++) {
        for (size_t n = 0; n < count; n++) {
            int field = PQfnumber(result, columns[n].key);

            if (field >= 0)
                add_field(&table, result, row, field, columns[n].key);
            else
                ctl_table_add_text(&table, "-");
        }
    }
    return ctl_table_print(&table, true, out);
}

/* "stt_audio_us" is printed with a unit: the key's own would only confuse. */
static void add_label(struct ctl_table *table, const char *key, size_t size)
{
    static const char *const units[] = {"_at_us", "_us", "_ms", "_secs", "_s"};

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        size_t len = strlen(units[i]);

        if (size > len && memcmp(key + size - len, units[i], len) == 0) {
            size -= len;
            break;
        }
    }
    ctl_table_add(table, key, size, false);
}

/* Single values stand in one column, so none is aligned to the right. */
static int print_pairs(struct ctl_table *table, FILE *out)
{
    for (size_t i = 0; i < table->count; i++)
        table->cells[i].right = false;
    return ctl_table_print(table, false, out);
}

static int add_pair(struct ctl_table *table, const msgpack_object *key, const msgpack_object *value)
{
    char name[CTL_TEXT_MAX];
    int r = 0;

    if (key->type != MSGPACK_OBJECT_STR)
        return 0;
    snprintf(name, sizeof(name), "%.*s", (int)key->via.str.size, key->via.str.ptr);
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        add_label(table, key->via.str.ptr, key->via.str.size);
        return add_value(table, name, value);
    }
    if (value->via.array.size == 0) {
        ctl_table_add(table, key->via.str.ptr, key->via.str.size, false);
        ctl_table_add_text(table, "none");
    }
    for (uint32_t i = 0; i < value->via.array.size && r == 0; i++) {
        ctl_table_add(table, key->via.str.ptr, i == 0 ? key->via.str.size : 0, false);
        r = add_value(table, "", &value->via.array.ptr[i]);
    }
    return r;
}

int ctl_print_map(const msgpack_object *map, FILE *out)
{
    struct ctl_table table = {.columns = 2};

    if (map->type == MSGPACK_OBJECT_MAP)
        for (uint32_t i = 0; i < map->via.map.size; i++)
            if (add_pair(&table, &map->via.map.ptr[i].key, &map->via.map.ptr[i].val) < 0)
                table.failed = true;
    return print_pairs(&table, out);
}

int ctl_print_row(const PGresult *result, int row, FILE *out)
{
    struct ctl_table table = {.columns = 2};

    for (int field = 0; field < PQnfields(result); field++) {
        const char *key = PQfname(result, field);

        if (PQgetisnull(result, row, field))
            continue;
        add_label(&table, key, strlen(key));
        if (PQftype(result, field) == 16) /* bool */
            ctl_table_add_text(&table, PQgetvalue(result, row, field)[0] == 't' ? "yes" : "no");
        else
            add_field(&table, result, row, field, key);
    }
    return print_pairs(&table, out);
}

int ctl_print_json(const msgpack_object *value, FILE *out)
{
    struct toll_json json = {.data = NULL};
    int r = toll_json_value(&json, value);

    if (r == 0)
        fwrite(json.data, 1, json.size, out);
    toll_json_done(&json);
    return r;
}
