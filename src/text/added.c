/* added.c - finding added tokens in text: at the leftmost place where one begins, the longest. */
#include "text/pretrained.h"

/* A tree of bytes: children are a chain of siblings. Node 0 is the root. */
typedef struct plx_added_node {
    uint32_t child, sibling; /* 0: none */
    int32_t token;           /* the index of the token that ends here, or -1 */
    unsigned char byte;
} plx_added_node;

static plx_status add_node(plx_context *context, plx_added_set *set, plx_added_node node, uint32_t *made)
{
    if (set->count == set->capacity) {
        size_t capacity = set->capacity * 2 + 64;
        plx_added_node *nodes = plx_grow(context, set->nodes, set->capacity * sizeof *nodes, capacity * sizeof *nodes);
        if (nodes == NULL) return PLX_ERROR_MEMORY;
        set->nodes = nodes;
        set->capacity = capacity;
    }
    *made = (uint32_t)set->count;
    set->nodes[set->count++] = node;
    return PLX_OK;
}

static uint32_t find_child(const plx_added_set *set, uint32_t node, unsigned char byte)
{
    uint32_t child = set->nodes[node].child;
    while (child != 0 && set->nodes[child].byte != byte) child = set->nodes[child].sibling;
    return child;
}

static void set_pair(plx_added_set *set, unsigned first, unsigned second)
{
    unsigned pair = first << 8 | second;
    set->pairs[pair >> 6] |= (uint64_t)1 << (pair & 63);
}

plx_status plx_added_set_put(plx_context *context, plx_added_set *set, const char *text, size_t bytes, int32_t token)
{
    uint32_t node = 0;
    const unsigned char *b = (const unsigned char *)text;
    if (bytes == 0) return PLX_OK;
    if (set->count == 0) PLX_TRY(add_node(context, set, (plx_added_node){.token = -1}, &node));
    for (size_t i = 0; i < bytes; i++) {
        uint32_t child = find_child(set, node, b[i]);
        if (child == 0) {
            plx_added_node fresh = {.sibling = set->nodes[node].child, .token = -1, .byte = b[i]};
            PLX_TRY(add_node(context, set, fresh, &child));
            set->nodes[node].child = child;
        }
        node = child;
    }
    if (set->nodes[node].token < 0) set->nodes[node].token = token;
    for (unsigned second = 0; second < 256; second++)
        if (bytes == 1 || second == b[1]) set_pair(set, b[0], second);
    set->any = true;
    return PLX_OK;
}

int32_t plx_added_set_find(const plx_added_set *set, const char *text, size_t count, size_t from, size_t *begin,
                           size_t *end)
{
    const unsigned char *b = (const unsigned char *)text;
    for (size_t i = from; set->any && i < count; i++) {
        unsigned pair = (unsigned)b[i] << 8 | b[i + 1];
        if (!(set->pairs[pair >> 6] >> (pair & 63) & 1)) continue;
        int32_t found = -1;
        uint32_t node = 0;
        for (size_t j = i; j < count && (node = find_child(set, node, b[j])) != 0; j++) {
            if (set->nodes[node].token < 0) continue;
            found = set->nodes[node].token;
            *end = j + 1;
        }
        if (found >= 0) {
            *begin = i;
            return found;
        }
    }
    return -1;
}
