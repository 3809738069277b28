/* fuzz_json.c - config.json: any bytes as JSON, with a byte order mark before them or not, copied back to jansson's values,
 * and read as a model's config. A config that is accepted must be accepted again as Plexus would write it. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

static void read_config(plx_context *context, const plx_node *root, bool again)
{
    plx_config config = {0};
    if (plx_config_parse(context, root, &config) != PLX_OK) {
        if (again) abort();
        return;
    }
    json_t *described = plx_config_describe(&config);
    plx_config_release(context, &config);
    if (described == NULL) abort();
    char *text = json_dumps(described, 0);
    json_decref(described);
    if (text == NULL) abort();
    plx_node *written = NULL;
    if (!again) {
        if (plx_node_parse_json(context, "written", text, strlen(text), &written) != PLX_OK) abort();
        read_config(context, written, true);
    }
    plx_node_free(context, written);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_context_options options = {.threads = 1};
    plx_context *context = NULL;
    plx_node *root = NULL;
    if (plx_context_create(&options, &context) != PLX_OK) abort();
    if (plx_node_parse_json(context, "config.json", (const char *)data, size, &root) == PLX_OK) {
        const size_t mark = plx_byte_order_mark((const char *)data, size);
        json_t *value = json_loadb((const char *)data + mark, size - mark, JSON_DECODE_ANY, NULL);
        json_t *copy = plx_node_to_json(root);
        if (value == NULL || copy == NULL || !json_equal(value, copy)) abort();
        json_decref(value);
        json_decref(copy);
        read_config(context, root, false);
    }
    plx_node_free(context, root);
    plx_context_free(context);
    return 0;
}
