/* keys.c - reading the keys of a mapping, with messages that say where and what is wrong. */
#include "core/distance.h"
#include "core/node.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASKED_MAX = sizeof((plx_keys *)0)->asked / sizeof((plx_keys *)0)->asked[0] };

/* "recipe.yaml:7: ", or less where less is known. */
static void write_place(char *place, size_t capacity, const plx_node *node)
{
    place[0] = '\0';
    if (node == NULL || node->file == NULL) return;
    if (node->line > 0) snprintf(place, capacity, "%.400s:%d: ", node->file, node->line);
    else snprintf(place, capacity, "%.400s: ", node->file);
}

static bool has_section(const plx_keys *keys) { return keys->section != NULL && keys->section[0] != '\0'; }

plx_status plx_keys_open(plx_keys *keys, plx_context *context, const plx_node *map, const char *section)
{
    *keys = (plx_keys){.context = context, .map = map, .section = section};
    if (map == NULL || map->kind == PLX_NODE_MAP) return PLX_OK;
    char place[448];
    write_place(place, sizeof place, map);
    return plx_fail(context, PLX_ERROR_VALUE, "%s%s must be a mapping of keys to values", place,
                    has_section(keys) ? section : "the whole");
}

const plx_node *plx_keys_node(plx_keys *keys, const char *key)
{
    bool known = false;
    for (int i = 0; i < keys->asked_count && i < ASKED_MAX && !known; i++) known = strcmp(keys->asked[i], key) == 0;
    if (!known && keys->asked_count < ASKED_MAX) keys->asked[keys->asked_count] = key;
    if (!known) keys->asked_count++; /* beyond the table: plx_keys_close reports it */
    return plx_node_find(keys->map, key);
}

bool plx_keys_has(plx_keys *keys, const char *key)
{
    const plx_node *node = plx_keys_node(keys, key);
    return node != NULL && node->kind != PLX_NODE_NULL;
}

plx_status plx_keys_fail(plx_keys *keys, const char *key, const char *format, ...)
{
    char place[448], message[512];
    const plx_node *node = key != NULL ? plx_node_find(keys->map, key) : NULL;
    write_place(place, sizeof place, node != NULL ? node : keys->map);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return plx_fail(keys->context, PLX_ERROR_VALUE, "%s%s%s%s: %s", place, has_section(keys) ? keys->section : "",
                    has_section(keys) && key != NULL ? "." : "", key != NULL ? key : "", message);
}

/* "must be WANT, not WHAT IS THERE" */
static plx_status fail_kind(plx_keys *keys, const char *key, const plx_node *node, const char *want)
{
    const char *remedy = strncmp(want, "a text", 6) == 0 ? ": put it in quotes" : "";
    switch (node->kind) {
    case PLX_NODE_NULL: return plx_keys_fail(keys, key, "must be %s; leave the key out for its default", want);
    case PLX_NODE_BOOL:
        return plx_keys_fail(keys, key, "must be %s, not %s%s", want, node->truth ? "true" : "false", remedy);
    case PLX_NODE_NUMBER: return plx_keys_fail(keys, key, "must be %s, not %.80s%s", want, node->text, remedy);
    case PLX_NODE_STRING: return plx_keys_fail(keys, key, "must be %s, not '%.80s'", want, node->text);
    case PLX_NODE_LIST: return plx_keys_fail(keys, key, "must be %s, not a list", want);
    case PLX_NODE_MAP: return plx_keys_fail(keys, key, "must be %s, not a mapping", want);
    }
    return PLX_ERROR_INTERNAL;
}

plx_status plx_keys_bool(plx_keys *keys, const char *key, bool *value)
{
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL) return PLX_OK;
    if (node->kind != PLX_NODE_BOOL) return fail_kind(keys, key, node, "true or false");
    *value = node->truth;
    return PLX_OK;
}

/* Whole numbers as written (all 64 bits count in a seed), or in any form, 1e6, where a double holds them exactly. */
static bool whole_number(const plx_node *node, size_t *value)
{
    if (node->kind != PLX_NODE_NUMBER) return false;
    const char *digits = node->text[0] == '+' ? node->text + 1 : node->text;
    if (digits[strspn(digits, "0123456789")] == '\0') {
        errno = 0;
        unsigned long long number = strtoull(digits, NULL, 10);
        *value = (size_t)number;
        return errno == 0 && number <= SIZE_MAX;
    }
    if (!(node->number >= 0.0 && node->number < 0x1p53) || node->number != floor(node->number)) return false;
    *value = (size_t)node->number;
    return true;
}

plx_status plx_keys_size(plx_keys *keys, const char *key, size_t *value, size_t least, size_t most)
{
    const plx_node *node = plx_keys_node(keys, key);
    size_t number;
    if (node == NULL) return PLX_OK;
    if (whole_number(node, &number) && number >= least && number <= most) {
        *value = number;
        return PLX_OK;
    }
    char want[96];
    if (most == SIZE_MAX) snprintf(want, sizeof want, "a whole number of %zu or more", least);
    else snprintf(want, sizeof want, "a whole number from %zu to %zu", least, most);
    return fail_kind(keys, key, node, want);
}

plx_status plx_keys_real(plx_keys *keys, const char *key, double *value, double least, double most)
{
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL) return PLX_OK;
    if (node->kind == PLX_NODE_NUMBER && node->number >= least && node->number <= most) {
        *value = node->number;
        return PLX_OK;
    }
    char want[96];
    if (isinf(least) && isinf(most)) snprintf(want, sizeof want, "a number");
    else if (isinf(most)) snprintf(want, sizeof want, "a number of %g or more", least);
    else if (isinf(least)) snprintf(want, sizeof want, "a number of %g or less", most);
    else snprintf(want, sizeof want, "a number from %g to %g", least, most);
    return fail_kind(keys, key, node, want);
}

plx_status plx_keys_string(plx_keys *keys, const char *key, const char **value)
{
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL) return PLX_OK;
    if (node->kind != PLX_NODE_STRING) return fail_kind(keys, key, node, "a text");
    *value = node->text;
    return PLX_OK;
}

plx_status plx_keys_choice(plx_keys *keys, const char *key, const char *choices, int *value)
{
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL) return PLX_OK;
    int index = 0;
    for (const char *name = choices; name != NULL && node->kind == PLX_NODE_STRING; index++) {
        const char *bar = strchr(name, '|');
        size_t length = bar != NULL ? (size_t)(bar - name) : strlen(name);
        if (strlen(node->text) == length && strncmp(name, node->text, length) == 0) {
            *value = index;
            return PLX_OK;
        }
        name = bar != NULL ? bar + 1 : NULL;
    }
    char want[256];
    size_t used = (size_t)snprintf(want, sizeof want, "one of ");
    for (const char *c = choices; *c != '\0' && used + 3 < sizeof want; c++) {
        if (*c != '|') want[used++] = *c;
        else used += (size_t)snprintf(want + used, sizeof want - used, ", ");
    }
    want[used] = '\0';
    return fail_kind(keys, key, node, want);
}

plx_status plx_keys_sizes(plx_keys *keys, const char *key, size_t *values, size_t *count, size_t most, size_t least)
{
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL) return PLX_OK;
    char want[128];
    snprintf(want, sizeof want, "a list of 1 to %zu whole numbers of %zu or more", most, least);
    if (node->kind != PLX_NODE_LIST) return fail_kind(keys, key, node, want);
    if (node->count == 0 || node->count > most)
        return plx_keys_fail(keys, key, "must be %s, not of %zu", want, node->count);
    for (const plx_node *item = node->child; item != NULL; item = item->next) {
        size_t number;
        if (!whole_number(item, &number) || number < least) return fail_kind(keys, key, item, want);
    }
    size_t index = 0; /* nothing is changed before all are known to be good */
    for (const plx_node *item = node->child; item != NULL; item = item->next) whole_number(item, &values[index++]);
    *count = index;
    return PLX_OK;
}

/* ---- the nearest key ---- */

/* A key that is part of another ("warmup", "warmup_steps") is as near as two letters. */
static int key_distance(const char *unknown, const char *known)
{
    int distance = plx_edit_distance(unknown, known);
    bool part = strlen(unknown) >= 3 && strlen(known) >= 3 &&
                (strstr(known, unknown) != NULL || strstr(unknown, known) != NULL);
    return part && distance > 2 ? 2 : distance;
}

static plx_status fail_unknown(plx_keys *keys, const plx_node *node)
{
    const char *nearest = NULL;
    int least = 0;
    for (int i = 0; i < keys->asked_count; i++) {
        int distance = key_distance(node->key, keys->asked[i]);
        if (nearest != NULL && distance >= least) continue;
        nearest = keys->asked[i];
        least = distance;
    }
    char place[448];
    write_place(place, sizeof place, node);
    const char *in = has_section(keys) ? " in " : "", *section = has_section(keys) ? keys->section : "";
    if (nearest == NULL)
        return plx_fail(keys->context, PLX_ERROR_VALUE, "%sunknown key '%.80s'%s%s", place, node->key, in, section);
    if (2 * (size_t)least <= strlen(nearest))
        return plx_fail(keys->context, PLX_ERROR_VALUE, "%sunknown key '%.80s'%s%s; did you mean '%s'?", place, node->key,
                        in, section, nearest);
    char known[320] = "";
    size_t length = 0;
    for (int i = 0; i < keys->asked_count && length < sizeof known; i++)
        length += (size_t)snprintf(known + length, sizeof known - length, "%s%s", i > 0 ? ", " : "", keys->asked[i]);
    return plx_fail(keys->context, PLX_ERROR_VALUE, "%sunknown key '%.80s'%s%s; known are %s%s", place, node->key, in,
                    section, known, length < sizeof known ? "" : "..");
}

plx_status plx_keys_close(plx_keys *keys)
{
    if (keys->asked_count > ASKED_MAX)
        return plx_fail(keys->context, PLX_ERROR_INTERNAL, "more than %d keys are known in one section",
                        (int)ASKED_MAX);
    if (keys->map == NULL) return PLX_OK;
    for (const plx_node *node = keys->map->child; node != NULL; node = node->next) {
        bool known = false;
        for (int i = 0; i < keys->asked_count && !known; i++) known = strcmp(keys->asked[i], node->key) == 0;
        if (!known) return fail_unknown(keys, node);
    }
    return PLX_OK;
}
