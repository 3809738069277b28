/* node.h - one tree for YAML recipes and JSON files, and one way to read keys from it.
 *
 * A reader (plx_keys) is opened on a mapping, asked for each key by name, and closed: a key nobody asked for
 * is an error that names file, line and the nearest known key. So each mixer, task and section reads its own
 * keys, and nothing holds a list of everybody's. */
#ifndef PLX_CORE_NODE_H
#define PLX_CORE_NODE_H

#include "core/context.h"

#include <jansson.h>

typedef enum plx_node_kind {
    PLX_NODE_NULL,
    PLX_NODE_BOOL,
    PLX_NODE_NUMBER,
    PLX_NODE_STRING,
    PLX_NODE_LIST,
    PLX_NODE_MAP
} plx_node_kind;

typedef struct plx_node {
    plx_node_kind kind;
    char *key;              /* inside a mapping, else NULL */
    char *text;             /* NUMBER and STRING: as written, UTF-8 */
    double number;          /* NUMBER */
    bool truth;             /* BOOL */
    struct plx_node *child; /* LIST and MAP: first of `count` */
    struct plx_node *next;
    size_t count;
    const char *file;       /* for messages; owned by the root */
    int line;               /* 1-based; 0 when unknown (JSON) */
} plx_node;

/* Parse a whole file or text. The tree is the caller's, freed with plx_node_free. Depth and size are limited
 * (64 levels, 16 MB text for YAML): hostile input gives an error, never a crash. Duplicate keys are errors.
 * `name` stands for the file in messages. */
plx_status plx_node_read_yaml(plx_context *context, const char *path, plx_node **root);
plx_status plx_node_parse_yaml(plx_context *context, const char *name, const char *text, size_t length,
                               plx_node **root);
plx_status plx_node_read_json(plx_context *context, const char *path, plx_node **root);
plx_status plx_node_parse_json(plx_context *context, const char *name, const char *text, size_t length,
                               plx_node **root);
void plx_node_free(plx_context *context, plx_node *root);
const plx_node *plx_node_find(const plx_node *map, const char *key); /* NULL when absent */
void plx_node_remove(plx_context *context, plx_node *map, const char *key); /* nothing when it is absent */
/* Applies "a.b.c=value" (value in YAML) to the tree, making mappings on the way. */
plx_status plx_node_set(plx_context *context, plx_node *root, const char *assignment);
/* A copy of the tree as jansson values (numbers written without point or exponent become integers). */
json_t *plx_node_to_json(const plx_node *node);
/* JSON that reads back as the same numbers, with no more digits than that takes as a rule; freed with free. */
char *plx_json_text(const json_t *object);
/* Writes the tree as YAML text to a fresh string (plx_free). */
plx_status plx_node_write_yaml(plx_context *context, const plx_node *node, char **text);

typedef struct plx_keys {
    plx_context *context;
    const plx_node *map;    /* NULL: every key takes its default */
    const char *section;    /* "train", "layers[3]", for messages */
    const char *asked[96];
    int asked_count;
} plx_keys;

/* map may be NULL (nothing given). An error when it is no mapping. */
plx_status plx_keys_open(plx_keys *keys, plx_context *context, const plx_node *map, const char *section);
/* The node of a key, or NULL when absent. A key given as null counts as given: kind PLX_NODE_NULL. */
const plx_node *plx_keys_node(plx_keys *keys, const char *key);
bool plx_keys_has(plx_keys *keys, const char *key); /* present and not null; counts as asked */
/* Each leaves *value as it was when the key is absent, so that the caller sets the default before. */
plx_status plx_keys_bool(plx_keys *keys, const char *key, bool *value);
plx_status plx_keys_size(plx_keys *keys, const char *key, size_t *value, size_t least, size_t most);
plx_status plx_keys_real(plx_keys *keys, const char *key, double *value, double least, double most);
/* *value points into the tree. */
plx_status plx_keys_string(plx_keys *keys, const char *key, const char **value);
/* One of the names in `choices` ("a|b|c"); *value is its index. */
plx_status plx_keys_choice(plx_keys *keys, const char *key, const char *choices, int *value);
/* A list of up to `most` whole numbers >= least; *count is in: the default's length, out: the length. */
plx_status plx_keys_sizes(plx_keys *keys, const char *key, size_t *values, size_t *count, size_t most, size_t least);
/* An error placed at the key's line: "recipe.yaml:7: train.lr: MESSAGE"; key NULL: at the section's. */
plx_status plx_keys_fail(plx_keys *keys, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Unknown keys are errors here. */
plx_status plx_keys_close(plx_keys *keys);

#endif
