/* fuzz_config.c - any bytes as a config.json: parsed, laid out and planned, never allocated. */
#include "model/model.h"

static plx_context *context;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_node *root;
    plx_plan plan;
    plx_context_options options = {.threads = 1};
    if (context == NULL && plx_context_create(&options, &context) != PLX_OK) return 0;
    if (plx_node_parse_json(context, "config.json", (const char *)data, size, &root) != PLX_OK) return 0;
    if (plx_plan_config(context, root, 2, 8, 0, &plan) == PLX_OK) plx_plan_free(context, &plan);
    plx_node_free(context, root);
    return 0;
}
