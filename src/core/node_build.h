/* node_build.h - what the readers of node.c, yaml.c and json.c share to make trees. Private to them. */
#ifndef PLX_CORE_NODE_BUILD_H
#define PLX_CORE_NODE_BUILD_H

#include "core/node.h"

#define PLX_NODE_DEPTH_MAX 64        /* values inside one another */
#define PLX_NODE_TEXT_MAX ((size_t)16 << 20) /* bytes of a file */
#define PLX_NODE_COUNT_MAX 1000000   /* nodes of a tree */
#define PLX_NODE_KEYS_MAX 4096       /* keys of a YAML mapping: each is compared with those before it */

/* A tree while it is read. */
typedef struct plx_node_builder {
    plx_context *context;
    char *file;        /* becomes the root's */
    size_t nodes;
} plx_node_builder;

/* A node of the kind PLX_NODE_NULL; NULL when memory is short or the tree too large, with the error recorded. */
plx_node *plx_node_make(plx_node_builder *builder, int line);
/* Gives the node `length` bytes of text (a copy). */
plx_status plx_node_take_text(plx_context *context, char **to, const char *text, size_t length);
/* Hangs child at the end of a list or mapping; *last is the child before it, NULL for the first. */
void plx_node_append(plx_node *parent, plx_node **last, plx_node *child);
/* Frees the nodes but not the file's name. */
void plx_node_free_tree(plx_context *context, plx_node *node);
/* Turns a plain YAML scalar, held in node->text, into what YAML's core schema says it is; false when it is a number
 * that is not finite. */
bool plx_node_resolve_plain(plx_node *node);

#endif
