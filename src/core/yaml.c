/* yaml.c - YAML text to nodes and back, by libyaml's events.
 *
 * What recipes do not need is refused, because it only serves attacks and surprises: anchors and aliases, tags, several
 * documents, keys that are not scalars. Limits are checked while events arrive, so hostile text is never expanded. */
#include "core/node_build.h"

#include <string.h>
#include <yaml.h>

typedef struct reader {
    plx_node_builder build;
    yaml_parser_t parser;
} reader;

static plx_status parser_error(reader *yaml)
{
    const yaml_parser_t *parser = &yaml->parser;
    plx_context *context = yaml->build.context;
    const char *file = yaml->build.file;
    if (parser->error == YAML_MEMORY_ERROR)
        return plx_fail(context, PLX_ERROR_MEMORY, "%s: no memory left to read it", file);
    const char *problem = parser->problem != NULL ? parser->problem : "not YAML";
    if (parser->error == YAML_READER_ERROR) {
        /* libyaml gives the byte; the line is of what was scanned, a little before it */
        return plx_fail(context, PLX_ERROR_FORMAT, "%s:%zu: %s (byte %zu)", file, parser->mark.line + 1, problem,
                        parser->problem_offset + 1);
    }
    const bool start = strstr(problem, "cannot start any token") != NULL;
    return plx_fail(context, PLX_ERROR_FORMAT, "%s:%zu: %s%s%s%s", file, parser->problem_mark.line + 1, problem,
                    parser->context != NULL ? ", " : "", parser->context != NULL ? parser->context : "",
                    start ? ": indent with spaces, not tabs, and quote texts that begin with @ or `" : "");
}

static plx_status refuse(reader *yaml, const yaml_event_t *event, const char *what)
{
    return plx_fail(yaml->build.context, PLX_ERROR_FORMAT, "%s:%zu: %s", yaml->build.file, event->start_mark.line + 1,
                    what);
}

/* The next event, with anchors and tags refused; on failure there is nothing to delete. */
static plx_status next_event(reader *yaml, yaml_event_t *event)
{
    if (!yaml_parser_parse(&yaml->parser, event)) return parser_error(yaml);
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    plx_status status = PLX_OK;
    if (anchor != NULL || event->type == YAML_ALIAS_EVENT)
        status = refuse(yaml, event, "anchors and aliases (& and *) are not supported: write the value out");
    else if (tag != NULL) status = refuse(yaml, event, "tags (!) are not supported");
    if (status != PLX_OK) yaml_event_delete(event);
    return status;
}

static plx_status take_scalar(reader *yaml, const yaml_event_t *event, char **text)
{
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    if (memchr(value, '\0', length) != NULL) return refuse(yaml, event, "a text holds a zero byte");
    return plx_node_take_text(yaml->build.context, text, value, length);
}

static plx_status fill(reader *yaml, const yaml_event_t *event, plx_node *node, int depth);

static plx_status read_value(reader *yaml, const yaml_event_t *event, int depth, plx_node **made)
{
    if (depth >= PLX_NODE_DEPTH_MAX)
        return plx_fail(yaml->build.context, PLX_ERROR_FORMAT, "%s:%zu: nested deeper than %d levels", yaml->build.file,
                        event->start_mark.line + 1, PLX_NODE_DEPTH_MAX);
    plx_node *node = plx_node_make(&yaml->build, (int)event->start_mark.line + 1);
    if (node == NULL) return yaml->build.context->error.code;
    plx_status status = fill(yaml, event, node, depth);
    if (status == PLX_OK) *made = node;
    else plx_node_free_tree(yaml->build.context, node);
    return status;
}

static plx_status read_list(reader *yaml, plx_node *node, int depth)
{
    plx_node *last = NULL;
    for (;;) {
        yaml_event_t event;
        PLX_TRY(next_event(yaml, &event));
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        plx_node *child = NULL;
        plx_status status = end ? PLX_OK : read_value(yaml, &event, depth + 1, &child);
        yaml_event_delete(&event);
        if (status != PLX_OK || end) return status;
        plx_node_append(node, &last, child);
    }
}

/* The key that an event holds, new to the mapping; a fresh string. */
static plx_status read_key(reader *yaml, const yaml_event_t *event, const plx_node *map, char **key)
{
    if (event->type != YAML_SCALAR_EVENT) return refuse(yaml, event, "a key must be a word, not a list or mapping");
    if (map->count == PLX_NODE_KEYS_MAX) return refuse(yaml, event, "too many keys in one mapping");
    char *text = NULL;
    PLX_TRY(take_scalar(yaml, event, &text));
    const plx_node *earlier = plx_node_find(map, text);
    if (earlier == NULL) {
        *key = text;
        return PLX_OK;
    }
    plx_status status =
        plx_fail(yaml->build.context, PLX_ERROR_FORMAT, "%s:%zu: key '%.80s' is given twice, first in line %d",
                 yaml->build.file, event->start_mark.line + 1, text, earlier->line);
    plx_free(yaml->build.context, text);
    return status;
}

static plx_status read_map(reader *yaml, plx_node *node, int depth)
{
    plx_node *last = NULL;
    for (;;) {
        yaml_event_t event;
        PLX_TRY(next_event(yaml, &event));
        bool end = event.type == YAML_MAPPING_END_EVENT;
        int line = (int)event.start_mark.line + 1;
        char *key = NULL;
        plx_status status = end ? PLX_OK : read_key(yaml, &event, node, &key);
        yaml_event_delete(&event);
        if (status != PLX_OK || end) return status;

        plx_node *child = NULL;
        status = next_event(yaml, &event);
        if (status == PLX_OK) {
            status = read_value(yaml, &event, depth + 1, &child);
            yaml_event_delete(&event);
        }
        if (status != PLX_OK) {
            plx_free(yaml->build.context, key);
            return status;
        }
        child->key = key;
        child->line = line; /* messages point at the key */
        plx_node_append(node, &last, child);
    }
}

static plx_status fill(reader *yaml, const yaml_event_t *event, plx_node *node, int depth)
{
    if (event->type == YAML_SEQUENCE_START_EVENT || event->type == YAML_MAPPING_START_EVENT) {
        bool map = event->type == YAML_MAPPING_START_EVENT;
        node->kind = map ? PLX_NODE_MAP : PLX_NODE_LIST;
        return map ? read_map(yaml, node, depth) : read_list(yaml, node, depth);
    }
    if (event->type != YAML_SCALAR_EVENT) return refuse(yaml, event, "expected a value");
    PLX_TRY(take_scalar(yaml, event, &node->text));
    node->kind = PLX_NODE_STRING;
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !plx_node_resolve_plain(node))
        return plx_fail(yaml->build.context, PLX_ERROR_FORMAT, "%s:%d: '%.80s' is not a finite number",
                        yaml->build.file, node->line, node->text);
    if (node->kind == PLX_NODE_NULL || node->kind == PLX_NODE_BOOL) {
        plx_free(yaml->build.context, node->text);
        node->text = NULL;
    }
    return PLX_OK;
}

/* One document, or none: then the root is null. */
static plx_status read_stream(reader *yaml, plx_node **root)
{
    plx_node *made = NULL;
    for (;;) {
        yaml_event_t event;
        plx_status status = next_event(yaml, &event);
        bool end = status == PLX_OK && event.type == YAML_STREAM_END_EVENT;
        if (status == PLX_OK) {
            bool again = event.type == YAML_DOCUMENT_START_EVENT && made != NULL;
            bool value = event.type == YAML_SCALAR_EVENT || event.type == YAML_SEQUENCE_START_EVENT ||
                         event.type == YAML_MAPPING_START_EVENT;
            if (again) status = refuse(yaml, &event, "a second document begins: only one is allowed in a file");
            else if (value) status = read_value(yaml, &event, 0, &made);
            yaml_event_delete(&event);
        }
        if (end && made == NULL) {
            made = plx_node_make(&yaml->build, 1);
            if (made == NULL) status = yaml->build.context->error.code;
        }
        if (status == PLX_OK && !end) continue;
        if (status == PLX_OK) *root = made;
        else plx_node_free_tree(yaml->build.context, made);
        return status;
    }
}

plx_status plx_node_parse_yaml(plx_context *context, const char *name, const char *text, size_t length, plx_node **root)
{
    if (length > PLX_NODE_TEXT_MAX)
        return plx_fail(context, PLX_ERROR_FORMAT, "%s: longer than %zu bytes", name, PLX_NODE_TEXT_MAX);
    reader yaml = {.build = {.context = context, .file = plx_strdup(context, name)}};
    if (yaml.build.file == NULL) return PLX_ERROR_MEMORY;
    plx_status status;
    if (yaml_parser_initialize(&yaml.parser)) {
        yaml_parser_set_encoding(&yaml.parser, YAML_UTF8_ENCODING);
        const size_t mark = plx_byte_order_mark(text, length);
        yaml_parser_set_input_string(&yaml.parser, (const unsigned char *)text + mark, length - mark);
        status = read_stream(&yaml, root);
        yaml_parser_delete(&yaml.parser);
    } else status = plx_fail(context, PLX_ERROR_MEMORY, "%s: no memory left to read it", name);
    if (status != PLX_OK) plx_free(context, yaml.build.file);
    return status;
}

/* ---- writing ---- */

typedef struct writer {
    plx_context *context;
    yaml_emitter_t emitter;
    char *text;
    size_t used, capacity;
} writer;

/* libyaml's output handler: 1 is success. One byte is kept for the closing NUL. */
static int write_bytes(void *data, unsigned char *bytes, size_t count)
{
    writer *yaml = data;
    if (count >= yaml->capacity - yaml->used) {
        size_t capacity = 2 * yaml->capacity + count + 1;
        char *grown = plx_grow(yaml->context, yaml->text, yaml->used, capacity);
        if (grown == NULL) return 0;
        yaml->text = grown;
        yaml->capacity = capacity;
    }
    memcpy(yaml->text + yaml->used, bytes, count);
    yaml->used += count;
    return 1;
}

/* Hands on an event that libyaml made (`made` 1); it is the emitter's from here, also on failure. */
static bool emit(writer *yaml, yaml_event_t *event, int made)
{
    return made && yaml_emitter_emit(&yaml->emitter, event);
}

static bool write_scalar(writer *yaml, const char *text, bool quoted)
{
    yaml_event_t event;
    return emit(yaml, &event,
                yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)strlen(text), 1, 1,
                                             quoted ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_ANY_SCALAR_STYLE));
}

/* A string that would be read as something else without quotes. */
static bool needs_quotes(const char *text)
{
    plx_node plain = {.text = (char *)(uintptr_t)text};
    return !plx_node_resolve_plain(&plain) || plain.kind != PLX_NODE_STRING;
}

static bool write_node(writer *yaml, const plx_node *node)
{
    yaml_event_t event;
    switch (node->kind) {
    case PLX_NODE_NULL: return write_scalar(yaml, "null", false);
    case PLX_NODE_BOOL: return write_scalar(yaml, node->truth ? "true" : "false", false);
    case PLX_NODE_NUMBER: return write_scalar(yaml, node->text, false);
    case PLX_NODE_STRING: return write_scalar(yaml, node->text, needs_quotes(node->text));
    case PLX_NODE_LIST:
    case PLX_NODE_MAP: break;
    }
    bool map = node->kind == PLX_NODE_MAP, scalars = true;
    for (const plx_node *child = node->child; child != NULL; child = child->next)
        scalars = scalars && child->kind != PLX_NODE_LIST && child->kind != PLX_NODE_MAP;
    int made = map ? yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
                   : yaml_sequence_start_event_initialize(
                         &event, NULL, NULL, 1, scalars ? YAML_FLOW_SEQUENCE_STYLE : YAML_BLOCK_SEQUENCE_STYLE);
    if (!emit(yaml, &event, made)) return false;
    for (const plx_node *child = node->child; child != NULL; child = child->next)
        if ((map && !write_scalar(yaml, child->key, false)) || !write_node(yaml, child)) return false;
    made = map ? yaml_mapping_end_event_initialize(&event) : yaml_sequence_end_event_initialize(&event);
    return emit(yaml, &event, made);
}

plx_status plx_node_write_yaml(plx_context *context, const plx_node *node, char **text)
{
    writer yaml = {.context = context, .capacity = 1024};
    yaml.text = plx_alloc_uncleared(context, yaml.capacity);
    if (yaml.text == NULL) return PLX_ERROR_MEMORY;
    bool done = false;
    if (yaml_emitter_initialize(&yaml.emitter)) {
        yaml_event_t event;
        yaml_emitter_set_output(&yaml.emitter, write_bytes, &yaml);
        yaml_emitter_set_unicode(&yaml.emitter, 1);
        yaml_emitter_set_width(&yaml.emitter, -1);
        done = emit(&yaml, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING)) &&
               emit(&yaml, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1)) &&
               write_node(&yaml, node) && emit(&yaml, &event, yaml_document_end_event_initialize(&event, 1)) &&
               emit(&yaml, &event, yaml_stream_end_event_initialize(&event)) && yaml_emitter_flush(&yaml.emitter);
        yaml_emitter_delete(&yaml.emitter);
    }
    if (!done) {
        plx_free(context, yaml.text);
        return plx_fail(context, PLX_ERROR_MEMORY, "no memory left to write a YAML text");
    }
    yaml.text[yaml.used] = '\0';
    *text = yaml.text;
    return PLX_OK;
}
