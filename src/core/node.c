/* node.c - trees of nodes: making, freeing, finding, setting by a path, and copying to jansson values. */
#include "core/node_build.h"

#include "io/files.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

plx_node *plx_node_make(plx_node_builder *builder, int line)
{
    if (builder->nodes == PLX_NODE_COUNT_MAX) {
        plx_fail(builder->context, PLX_ERROR_FORMAT, "%s: more than %d values in one file", builder->file,
                 PLX_NODE_COUNT_MAX);
        return NULL;
    }
    plx_node *node = plx_alloc(builder->context, sizeof *node);
    if (node == NULL) return NULL;
    builder->nodes++;
    node->file = builder->file;
    node->line = line;
    return node;
}

plx_status plx_node_take_text(plx_context *context, char **to, const char *text, size_t length)
{
    char *copy = plx_alloc_uncleared(context, length + 1);
    if (copy == NULL) return PLX_ERROR_MEMORY;
    if (length > 0) memcpy(copy, text, length);
    copy[length] = '\0';
    *to = copy;
    return PLX_OK;
}

void plx_node_append(plx_node *parent, plx_node **last, plx_node *child)
{
    if (*last == NULL) parent->child = child;
    else (*last)->next = child;
    *last = child;
    parent->count++;
}

/* Recursive, to the depth that the readers allow. */
void plx_node_free_tree(plx_context *context, plx_node *node)
{
    if (node == NULL) return;
    for (plx_node *child = node->child, *next; child != NULL; child = next) {
        next = child->next;
        plx_node_free_tree(context, child);
    }
    plx_free(context, node->key);
    plx_free(context, node->text);
    plx_free(context, node);
}

void plx_node_free(plx_context *context, plx_node *root)
{
    if (root == NULL) return;
    char *file = (char *)(uintptr_t)root->file;
    plx_node_free_tree(context, root);
    plx_free(context, file);
}

const plx_node *plx_node_find(const plx_node *map, const char *key)
{
    if (map == NULL || map->kind != PLX_NODE_MAP) return NULL;
    for (const plx_node *child = map->child; child != NULL; child = child->next)
        if (strcmp(child->key, key) == 0) return child;
    return NULL;
}

void plx_node_remove(plx_context *context, plx_node *map, const char *key)
{
    if (map == NULL || map->kind != PLX_NODE_MAP) return;
    for (plx_node **link = &map->child; *link != NULL; link = &(*link)->next) {
        if (strcmp((*link)->key, key) != 0) continue;
        plx_node *gone = *link;
        *link = gone->next;
        map->count--;
        plx_node_free_tree(context, gone);
        return;
    }
}

/* ---- reading files ---- */

typedef plx_status (*parse_function)(plx_context *, const char *, const char *, size_t, plx_node **);

static plx_status read_file(plx_context *context, const char *path, parse_function parse, plx_node **root)
{
    char *text;
    size_t length;
    PLX_TRY(plx_file_read(context, path, PLX_NODE_TEXT_MAX, &text, &length));
    plx_status status = parse(context, path, text, length, root);
    plx_free(context, text);
    return status;
}

plx_status plx_node_read_yaml(plx_context *context, const char *path, plx_node **root)
{
    return read_file(context, path, plx_node_parse_yaml, root);
}

plx_status plx_node_read_json(plx_context *context, const char *path, plx_node **root)
{
    return read_file(context, path, plx_node_parse_json, root);
}

/* ---- what a plain scalar is ---- */

static bool one_of(const char *text, const char *a, const char *b, const char *c)
{
    return strcmp(text, a) == 0 || strcmp(text, b) == 0 || strcmp(text, c) == 0;
}

/* [-+]? ( digits [. digits*] | . digits ) ( [eE] [-+]? digits )? , the core schema's integers and floats */
static bool is_decimal(const char *c)
{
    if (*c == '-' || *c == '+') c++;
    size_t digits = 0;
    for (; isdigit((unsigned char)*c); c++) digits++;
    if (*c == '.')
        for (c++; isdigit((unsigned char)*c); c++) digits++;
    if (digits == 0) return false;
    if (*c == 'e' || *c == 'E') {
        c++;
        if (*c == '-' || *c == '+') c++;
        if (!isdigit((unsigned char)*c)) return false;
        while (isdigit((unsigned char)*c)) c++;
    }
    return *c == '\0';
}

/* strtod with a point, whatever the program's locale writes there. */
static double parse_decimal(const char *text)
{
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0) return NAN; /* refused, rather than read wrong */
    double number = strtod_l(text, NULL, plain);
    freelocale(plain);
    return number;
}

/* 0x and 0o numbers; false when the text is none. */
static bool parse_based(const char *text, double *number)
{
    int base = text[0] != '0' ? 0 : text[1] == 'x' ? 16 : text[1] == 'o' ? 8 : 0;
    const char *digits = base == 16 ? "0123456789abcdefABCDEF" : "01234567";
    if (base == 0 || text[2] == '\0' || text[2 + strspn(text + 2, digits)] != '\0') return false;
    *number = 0.0;
    for (const char *c = text + 2; *c != '\0'; c++) {
        int digit = isdigit((unsigned char)*c) ? *c - '0' : tolower((unsigned char)*c) - 'a' + 10;
        *number = *number * base + digit;
    }
    return true;
}

bool plx_node_resolve_plain(plx_node *node)
{
    const char *text = node->text;
    const char *unsigned_text = text[0] == '-' || text[0] == '+' ? text + 1 : text;
    node->kind = PLX_NODE_STRING;
    if (text[0] == '\0' || strcmp(text, "~") == 0 || one_of(text, "null", "Null", "NULL")) node->kind = PLX_NODE_NULL;
    else if (one_of(text, "true", "True", "TRUE") || one_of(text, "false", "False", "FALSE")) {
        node->kind = PLX_NODE_BOOL;
        node->truth = text[0] == 't' || text[0] == 'T';
    } else if (one_of(unsigned_text, ".inf", ".Inf", ".INF") || one_of(text, ".nan", ".NaN", ".NAN")) return false;
    else if (is_decimal(text)) {
        node->kind = PLX_NODE_NUMBER;
        node->number = parse_decimal(text);
    } else if (parse_based(text, &node->number)) node->kind = PLX_NODE_NUMBER;
    return isfinite(node->number);
}

/* ---- setting by a path ---- */

static plx_node *find_step(plx_node *node, const char *step, plx_node **last)
{
    char *end;
    *last = NULL;
    if (node->kind == PLX_NODE_LIST && isdigit((unsigned char)step[0])) {
        unsigned long index = strtoul(step, &end, 10);
        plx_node *child = *end == '\0' ? node->child : NULL;
        while (child != NULL && index-- > 0) child = child->next;
        return child;
    }
    for (plx_node *child = node->child; node->kind == PLX_NODE_MAP && child != NULL; child = child->next) {
        *last = child;
        if (strcmp(child->key, step) == 0) return child;
    }
    return NULL;
}

/* The nodes of a --set value outlive the text that they came from. */
static void relabel(plx_node *node)
{
    node->file = "--set";
    node->line = 0;
    for (plx_node *child = node->child; child != NULL; child = child->next) relabel(child);
}

/* Walks to the node that `path` (cut into steps here) names, making mappings and the node itself where absent. */
static plx_status reach(plx_context *context, plx_node *root, const char *assignment, char *path, plx_node **found)
{
    plx_node *node = root;
    size_t depth = 0;
    for (char *step = path, *next; step != NULL; step = next) {
        next = strchr(step, '.');
        if (next != NULL) *next++ = '\0';
        if (*step == '\0' || ++depth >= PLX_NODE_DEPTH_MAX)
            return plx_fail(context, PLX_ERROR_VALUE, "cannot set '%.80s': expected a.b.c=value", assignment);
        plx_node *last, *child = find_step(node, step, &last);
        if (child == NULL && node->kind == PLX_NODE_LIST)
            return plx_fail(context, PLX_ERROR_VALUE,
                            "cannot set '%.80s': '%.80s' is no item of a list of %zu, which are counted from 0",
                            assignment, step, node->count);
        if (child == NULL && node->kind != PLX_NODE_MAP && node->kind != PLX_NODE_NULL)
            return plx_fail(context, PLX_ERROR_VALUE,
                            "cannot set '%.80s': there is no '%.80s' to set inside a value that is no mapping",
                            assignment, step);
        if (child == NULL) {
            child = plx_alloc(context, sizeof *child);
            if (child == NULL) return PLX_ERROR_MEMORY;
            child->file = "--set";
            plx_status status = plx_node_take_text(context, &child->key, step, strlen(step));
            if (status != PLX_OK) {
                plx_free(context, child);
                return status;
            }
            node->kind = PLX_NODE_MAP;
            plx_node_append(node, &last, child);
        }
        node = child;
    }
    *found = node;
    return PLX_OK;
}

plx_status plx_node_set(plx_context *context, plx_node *root, const char *assignment)
{
    const char *equals = strchr(assignment, '=');
    if (equals == NULL || equals == assignment)
        return plx_fail(context, PLX_ERROR_VALUE, "cannot set '%.80s': expected a.b.c=value", assignment);
    plx_node *value = NULL, *target = NULL;
    char *path = NULL;
    json_t *probe =
        json_string(assignment); /* keys come from the command line unread: refuse what no file could hold */
    if (probe == NULL) return plx_fail(context, PLX_ERROR_VALUE, "cannot set '%.80s': not UTF-8", assignment);
    json_decref(probe);
    plx_status status;
    char *name =
        plx_format(context, "--set %.*s", (int)(equals - assignment < 200 ? equals - assignment : 200), assignment);
    PLX_TRY_GOTO(status, done, name != NULL ? PLX_OK : PLX_ERROR_MEMORY);
    PLX_TRY_GOTO(status, done, plx_node_parse_yaml(context, name, equals + 1, strlen(equals + 1), &value));
    PLX_TRY_GOTO(status, done, plx_node_take_text(context, &path, assignment, (size_t)(equals - assignment)));
    PLX_TRY_GOTO(status, done, reach(context, root, assignment, path, &target));

    /* The two nodes change places, but for what ties each to its neighbours; the old content is then freed. */
    plx_node old = *target, given = *value;
    relabel(value);
    *target = *value;
    target->key = old.key;
    target->next = old.next;
    *value = old;
    value->key = NULL;
    value->next = NULL;
    value->file = given.file;
done:
    plx_free(context, name);
    plx_free(context, path);
    plx_node_free(context, value);
    return status;
}

/* ---- to jansson ---- */

static json_t *number_to_json(const plx_node *node)
{
    if (strpbrk(node->text, ".eExo") == NULL) {
        errno = 0;
        long long whole = strtoll(node->text, NULL, 10);
        if (errno == 0) return json_integer(whole);
    }
    bool based = strpbrk(node->text, "xo") != NULL;
    if (based && node->number < 0x1p53) return json_integer((json_int_t)node->number);
    return json_real(node->number);
}

json_t *plx_node_to_json(const plx_node *node)
{
    switch (node->kind) {
    case PLX_NODE_NULL: return json_null();
    case PLX_NODE_BOOL: return json_boolean(node->truth);
    case PLX_NODE_NUMBER: return number_to_json(node);
    case PLX_NODE_STRING: return json_string(node->text);
    case PLX_NODE_LIST:
    case PLX_NODE_MAP: break;
    }
    bool map = node->kind == PLX_NODE_MAP;
    json_t *result = map ? json_object() : json_array();
    for (const plx_node *child = node->child; result != NULL && child != NULL; child = child->next) {
        json_t *value = plx_node_to_json(child); /* the setters take it, also when they fail */
        int failed = map ? json_object_set_new(result, child->key, value) : json_array_append_new(result, value);
        if (failed != 0) {
            json_decref(result);
            result = NULL;
        }
    }
    return result;
}
