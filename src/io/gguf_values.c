/* gguf_values.c - what the values of a GGUF say: numbers, strings, and the keys of a prefix as a mapping. */
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MOST 95
#define ITEMS_SHOWN 4096

/* of strings and arrays: at least */
static const unsigned char kind_bytes[PLX_GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

size_t plx_gguf_kind_bytes(plx_gguf_kind kind) { return kind_bytes[kind]; }

uint64_t plx_gguf_load(const unsigned char *from, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = value << 8 | from[i];
    return value;
}

void plx_gguf_string_next(const plx_gguf_value *value, const unsigned char **cursor, const char **text, size_t *bytes)
{
    if (*cursor == NULL) *cursor = value->data;
    *bytes = (size_t)plx_gguf_load(*cursor, 8);
    *text = (const char *)*cursor + 8;
    *cursor += 8 + *bytes;
}

double plx_gguf_number(const plx_gguf_value *value, size_t index)
{
    size_t bytes = kind_bytes[value->kind];
    uint64_t bits = plx_gguf_load(value->data + index * bytes, bytes);
    uint32_t low = (uint32_t)bits;
    float single;
    double number;
    switch (value->kind) {
    case PLX_GGUF_I8: return (int8_t)bits;
    case PLX_GGUF_I16: return (int16_t)bits;
    case PLX_GGUF_I32: return (int32_t)bits;
    case PLX_GGUF_I64: return (double)(int64_t)bits;
    case PLX_GGUF_F32: memcpy(&single, &low, sizeof single); return single;
    case PLX_GGUF_F64: memcpy(&number, &bits, sizeof number); return number;
    default: return (double)bits;
    }
}

/* ---- values as a mapping ---- */

/* The double of the shortest decimal that is this f32: what was meant when it was written (1e-5). */
static double shortest(float number)
{
    char text[32];
    double value = number;
    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, (double)number);
        value = strtod(text, NULL);
        if ((float)value == number) return value;
    }
    return number;
}

/* NULL when memory is short. */
static json_t *number_json(const plx_gguf_value *value, size_t index)
{
    double number = plx_gguf_number(value, index);
    if (value->kind == PLX_GGUF_F32) number = shortest((float)number);
    bool real = value->kind == PLX_GGUF_F32 || value->kind == PLX_GGUF_F64;
    if (value->kind == PLX_GGUF_BOOL) return json_boolean(number != 0);
    if (!real && number < 0x1p53 && number > -0x1p53) return json_integer((json_int_t)number);
    return number - number == 0 ? json_real(number) : json_null(); /* not finite: null */
}

static json_t *value_json(const plx_gguf_value *value)
{
    const unsigned char *cursor = NULL;
    const char *text;
    size_t bytes;
    if (value->kind == PLX_GGUF_STRING) {
        if (value->array) return json_null();
        plx_gguf_string_next(value, &cursor, &text, &bytes);
        json_t *string = json_stringn(text, bytes); /* NULL also for what is not UTF-8 */
        return string != NULL && memchr(text, 0, bytes) == NULL ? string : (json_decref(string), json_null());
    }
    if (!value->array) return number_json(value, 0);
    if (value->count > ITEMS_SHOWN) return json_null();
    json_t *list = json_array();
    for (size_t i = 0; i < value->count; i++)
        if (json_array_append_new(list, number_json(value, i)) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* A key as text, cut, and with ? for what is not printable: a key that this changes is none that is known. */
static void key_text(const char *from, size_t bytes, char key[KEY_MOST + 1])
{
    if (bytes > KEY_MOST) bytes = KEY_MOST;
    for (size_t i = 0; i < bytes; i++) key[i] = from[i] < 32 || from[i] >= 127 ? '?' : from[i];
    key[bytes] = '\0';
}

plx_status plx_gguf_section(plx_context *context, const plx_gguf *file, const char *prefix, plx_node **map)
{
    json_t *object = json_object();
    size_t bytes = strlen(prefix), count;
    const plx_gguf_value *values = plx_gguf_values(file, &count);
    bool failed = object == NULL;
    for (size_t i = 0; i < count && !failed; i++) {
        const plx_gguf_value *value = &values[i];
        char key[KEY_MOST + 1];
        if (value->key_bytes <= bytes || memcmp(value->key, prefix, bytes) != 0) continue;
        key_text(value->key + bytes, value->key_bytes - bytes, key);
        failed = json_object_set_new(object, key, value_json(value)) != 0;
    }
    char *text = failed ? NULL : json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (text == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "%s: no memory for its values", plx_gguf_path(file));
    plx_status status = plx_node_parse_json(context, plx_gguf_path(file), text, strlen(text), map);
    free(text);
    return status;
}
