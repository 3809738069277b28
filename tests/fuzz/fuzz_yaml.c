/* fuzz_yaml.c - recipes: any bytes as YAML, read by keys, its data section by the data module, changed by an
 * assignment, and written out again. What was written must read back as the same tree. */
#include "data/data.h"

#include <stdlib.h>
#include <string.h>

static void read_keys(plx_context *context, const plx_node *map, const char *section)
{
    plx_keys keys;
    bool truth = false;
    size_t number = 0, numbers[4], count = 0;
    double real = 0.0;
    const char *text = NULL;
    int choice = 0;
    if (plx_keys_open(&keys, context, map, section) != PLX_OK) return;
    plx_keys_bool(&keys, "resume", &truth);
    plx_keys_size(&keys, "steps", &number, 1, 1000000);
    plx_keys_size(&keys, "seed", &number, 0, SIZE_MAX);
    plx_keys_real(&keys, "lr", &real, 0.0, 10.0);
    plx_keys_string(&keys, "out", &text);
    plx_keys_choice(&keys, "schedule", "cosine|wsd|constant", &choice);
    plx_keys_sizes(&keys, "offsets", numbers, &count, 4, 1);
    plx_keys_close(&keys);
}

/* Writes the tree, reads that, and compares. */
static void check_round_trip(plx_context *context, const plx_node *root)
{
    char *text = NULL;
    plx_node *again = NULL;
    if (plx_node_write_yaml(context, root, &text) != PLX_OK) abort();
    if (plx_node_parse_yaml(context, "written", text, strlen(text), &again) != PLX_OK) abort();
    json_t *before = plx_node_to_json(root), *after = plx_node_to_json(again);
    if (before == NULL || after == NULL || !json_equal(before, after)) abort();
    json_decref(before);
    json_decref(after);
    plx_node_free(context, again);
    plx_free(context, text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_context_options options = {.threads = 1};
    plx_context *context = NULL;
    plx_node *root = NULL;
    if (plx_context_create(&options, &context) != PLX_OK) abort();
    if (plx_node_parse_yaml(context, "fuzz.yaml", (const char *)data, size, &root) == PLX_OK) {
        read_keys(context, root, "recipe");
        read_keys(context, plx_node_find(root, "train"), "train");
        plx_data_description description;
        const plx_node *section = plx_node_find(root, "data");
        if (section != NULL) plx_data_describe(context, section, &description);
        check_round_trip(context, root);
        char assignment[128]; /* the input's first bytes once more, as text of the command line */
        size_t length = size < sizeof assignment - 1 ? size : sizeof assignment - 1;
        memcpy(assignment, data, length);
        assignment[length] = '\0';
        char *colon = strchr(assignment, ':');
        if (colon != NULL) *colon = '=';
        if (plx_node_set(context, root, assignment) == PLX_OK) check_round_trip(context, root);
    }
    plx_node_free(context, root);
    plx_context_free(context);
    return 0;
}
