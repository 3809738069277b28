/* json.c - JSON text to nodes, by jansson. */
#include "core/node_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static plx_status from_json(plx_node_builder *builder, json_t *value, int depth, plx_node **made);

/* As written, as far as jansson tells: a real keeps its point, so that it stays a real. */
static plx_status take_number(plx_context *context, plx_node *node, json_t *value)
{
    char text[64];
    node->kind = PLX_NODE_NUMBER;
    node->number = json_number_value(value);
    if (json_is_integer(value)) snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else {
        for (int digits = 15; digits <= 17; digits++) { /* the shortest that reads back as the same number */
            snprintf(text, sizeof text, "%.*g", digits, node->number);
            double again;
            if (sscanf(text, "%lf", &again) == 1 && again == node->number) break;
        }
        char *comma = strchr(text, ','); /* in some locales */
        if (comma != NULL) *comma = '.';
        if (strpbrk(text, ".e") == NULL) strcat(text, ".0");
    }
    return plx_node_take_text(context, &node->text, text, strlen(text));
}

static plx_status add_child(plx_node_builder *builder, plx_node *parent, plx_node **last, const char *key,
                            json_t *value, int depth)
{
    plx_node *child = NULL;
    PLX_TRY(from_json(builder, value, depth + 1, &child));
    plx_node_append(parent, last, child);
    return key == NULL ? PLX_OK : plx_node_take_text(builder->context, &child->key, key, strlen(key));
}

static plx_status fill(plx_node_builder *builder, plx_node *node, json_t *value, int depth)
{
    plx_node *last = NULL;
    json_t *item;
    const char *key;
    size_t index;
    switch (json_typeof(value)) {
    case JSON_NULL: return PLX_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        node->kind = PLX_NODE_BOOL;
        node->truth = json_is_true(value);
        return PLX_OK;
    case JSON_INTEGER:
    case JSON_REAL: return take_number(builder->context, node, value);
    case JSON_STRING:
        node->kind = PLX_NODE_STRING;
        return plx_node_take_text(builder->context, &node->text, json_string_value(value), json_string_length(value));
    case JSON_ARRAY:
        node->kind = PLX_NODE_LIST;
        json_array_foreach(value, index, item) PLX_TRY(add_child(builder, node, &last, NULL, item, depth));
        return PLX_OK;
    case JSON_OBJECT:
        node->kind = PLX_NODE_MAP;
        json_object_foreach(value, key, item) PLX_TRY(add_child(builder, node, &last, key, item, depth));
        return PLX_OK;
    }
    return PLX_OK;
}

static plx_status from_json(plx_node_builder *builder, json_t *value, int depth, plx_node **made)
{
    if (depth >= PLX_NODE_DEPTH_MAX)
        return plx_fail(builder->context, PLX_ERROR_FORMAT, "%s: nested deeper than %d levels", builder->file,
                        PLX_NODE_DEPTH_MAX);
    plx_node *node = plx_node_make(builder, 0);
    if (node == NULL) return builder->context->error.code;
    plx_status status = fill(builder, node, value, depth);
    if (status == PLX_OK) *made = node;
    else plx_node_free_tree(builder->context, node);
    return status;
}

plx_status plx_node_parse_json(plx_context *context, const char *name, const char *text, size_t length, plx_node **root)
{
    if (length > PLX_NODE_TEXT_MAX)
        return plx_fail(context, PLX_ERROR_FORMAT, "%s: longer than %zu bytes", name, PLX_NODE_TEXT_MAX);
    json_error_t error;
    const size_t mark = plx_byte_order_mark(text, length);
    json_t *value = json_loadb(text + mark, length - mark, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (value == NULL) {
        bool memory = json_error_code(&error) == json_error_out_of_memory;
        return plx_fail(context, memory ? PLX_ERROR_MEMORY : PLX_ERROR_FORMAT, "%s:%d: %s", name, error.line,
                        error.text);
    }
    plx_node_builder builder = {.context = context, .file = plx_strdup(context, name)};
    plx_status status = builder.file != NULL ? from_json(&builder, value, 0, root) : PLX_ERROR_MEMORY;
    if (status != PLX_OK) plx_free(context, builder.file);
    json_decref(value);
    return status;
}

char *plx_json_text(const json_t *object)
{
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_t *again = text == NULL ? NULL : json_loads(text, 0, NULL);
    if (again != NULL && !json_equal(object, again)) { /* a number needs more digits than people write */
        free(text);
        text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    }
    json_decref(again);
    return text;
}
