/* fuzz_family.c - any bytes as a family's config.json: read, parsed, laid out and written again, never allocated. */
#include "model/families/family.h"

static plx_context *context;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_context_options options = {.threads = 1};
    plx_node *root;
    if (context == NULL && plx_context_create(&options, &context) != PLX_OK) return 0;
    if (plx_node_parse_json(context, "config.json", (const char *)data, size, &root) != PLX_OK) return 0;
    for (size_t i = 0; plx_families[i] != NULL; i++) {
        plx_config config;
        json_t *again = NULL;
        if (plx_family_parse(context, plx_families[i], root, &config) != PLX_OK) continue;
        if (plx_family_write_config(context, plx_families[i], &config, &again) == PLX_OK) json_decref(again);
        plx_config_release(context, &config);
    }
    plx_node_free(context, root);
    return 0;
}
