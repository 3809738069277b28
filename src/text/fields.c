/* fields.c - reading the fields of a tokenizer.json. */
#include "text/fields.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

plx_place plx_place_in(const plx_place *place, const char *name, ...)
{
    plx_place inside = *place;
    size_t used = strlen(inside.path);
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(inside.path + used, sizeof inside.path - used, name, arguments);
    va_end(arguments);
    if (used == 0 && inside.path[0] == '.') memmove(inside.path, inside.path + 1, strlen(inside.path));
    return inside;
}

plx_status plx_place_fail(const plx_place *place, plx_status code, const char *key, const char *format, ...)
{
    char message[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    bool dotted = key != NULL && place->path[0] != '\0';
    return plx_fail(place->context, code, "%s: %s%s%s%s%s", place->file, place->path, dotted ? "." : "",
                    key != NULL ? key : "", place->path[0] != '\0' || key != NULL ? ": " : "", message);
}

/* The value at the key, or NULL when absent or null. */
static json_t *given(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return value == NULL || json_is_null(value) ? NULL : value;
}

plx_status plx_field_bool(const plx_place *place, json_t *object, const char *key, bool *value)
{
    json_t *item = given(object, key);
    if (item == NULL) return PLX_OK;
    if (!json_is_boolean(item)) return plx_place_fail(place, PLX_ERROR_FORMAT, key, "must be true or false");
    *value = json_is_true(item);
    return PLX_OK;
}

plx_status plx_field_size(const plx_place *place, json_t *object, const char *key, size_t *value)
{
    json_t *item = given(object, key);
    if (item == NULL) return PLX_OK;
    if (!json_is_integer(item) || json_integer_value(item) < 0)
        return plx_place_fail(place, PLX_ERROR_FORMAT, key, "must be a whole number that is not negative");
    *value = (size_t)json_integer_value(item);
    return PLX_OK;
}

plx_status plx_field_string(const plx_place *place, json_t *object, const char *key, const char **value)
{
    json_t *item = given(object, key);
    if (item == NULL) return PLX_OK;
    if (!json_is_string(item)) return plx_place_fail(place, PLX_ERROR_FORMAT, key, "must be a string");
    *value = json_string_value(item);
    return PLX_OK;
}

plx_status plx_field_list(const plx_place *place, json_t *object, const char *key, json_t **value)
{
    json_t *item = given(object, key);
    if (item == NULL) return PLX_OK;
    if (!json_is_array(item)) return plx_place_fail(place, PLX_ERROR_FORMAT, key, "must be a list");
    *value = item;
    return PLX_OK;
}

plx_status plx_field_object(const plx_place *place, json_t *object, const char *key, json_t **value)
{
    json_t *item = given(object, key);
    if (item == NULL) return PLX_OK;
    if (!json_is_object(item)) return plx_place_fail(place, PLX_ERROR_FORMAT, key, "must be an object");
    *value = item;
    return PLX_OK;
}

/* The index of `name` in "a|b|c", or -1. */
static int index_in(const char *choices, const char *name)
{
    size_t length = strlen(name);
    for (int index = 0;; index++) {
        size_t size = strcspn(choices, "|");
        if (size == length && memcmp(choices, name, size) == 0) return index;
        if (choices[size] == '\0') return -1;
        choices += size + 1;
    }
}

plx_status plx_field_choice(const plx_place *place, json_t *object, const char *key, const char *choices, int *value)
{
    const char *name = NULL;
    PLX_TRY(plx_field_string(place, object, key, &name));
    if (name == NULL) return PLX_OK;
    int index = index_in(choices, name);
    if (index < 0)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, key, "'%.60s' is not supported; there are: %s", name,
                              choices);
    *value = index;
    return PLX_OK;
}

plx_status plx_field_type(const plx_place *place, json_t *object, const char *choices, int *type)
{
    *type = -1;
    if (!json_is_object(object)) return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "must be an object");
    PLX_TRY(plx_field_choice(place, object, "type", choices, type));
    return *type >= 0 ? PLX_OK : plx_place_fail(place, PLX_ERROR_FORMAT, "type", "is missing");
}

plx_status plx_field_known(const plx_place *place, json_t *object, const char *keys)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object)) return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "must be an object");
    json_object_foreach(object, key, value) if (index_in(keys, key) < 0) return plx_place_fail(
        place, PLX_ERROR_UNSUPPORTED, NULL, "the key '%.60s' is not known; known are: %s", key, keys);
    return PLX_OK;
}

plx_status plx_field_sequence(const plx_place *place, json_t *object, const char *key, plx_field_read read, void *user,
                              int depth)
{
    enum { NESTED_MOST = 16 };
    char known[64];
    json_t *list = NULL, *item;
    size_t index;
    if (depth >= NESTED_MOST) return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "nested too deeply");
    snprintf(known, sizeof known, "type|%s", key);
    PLX_TRY(plx_field_known(place, object, known));
    PLX_TRY(plx_field_list(place, object, key, &list));
    json_array_foreach(list, index, item)
    {
        plx_place inside = plx_place_in(place, ".%s[%zu]", key, index);
        PLX_TRY(read(user, &inside, item, depth + 1));
    }
    return PLX_OK;
}
