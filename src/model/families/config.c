/* config.c - a family's config.json in a Hugging Face directory to one of ours. */
#include "model/families/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS_MOST 4096

plx_status plx_made_set(plx_context *context, json_t *made, const char *key, json_t *value)
{
    if (json_object_set_new(made, key, value) == 0) return PLX_OK;
    return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the model's config");
}

plx_status plx_made_window(plx_context *context, json_t *made, size_t first, size_t window)
{
    json_t *layers = json_object_get(made, "layers");
    for (size_t i = first; i < json_array_size(layers) && window > 0; i++)
        PLX_TRY(plx_made_set(context, json_array_get(layers, i), "window", json_integer((json_int_t)window)));
    return PLX_OK;
}

plx_status plx_family_set_layers(plx_keys *keys, const char *key, json_t *made)
{
    size_t count = 0;
    if (!plx_keys_has(keys, key)) return plx_keys_fail(keys, NULL, "the key '%s' is missing", key);
    PLX_TRY(plx_keys_size(keys, key, &count, 1, LAYERS_MOST));
    json_t *layers = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(layers, json_pack("{s:s}", "mixer", "attention"));
    if (json_array_size(layers) != count) {
        json_decref(layers);
        layers = NULL;
    }
    return plx_made_set(keys->context, made, "layers", layers);
}

/* The table's keys, copied; what they may be is checked when ours is read. */
plx_status plx_family_copy_keys(plx_keys *keys, const plx_family_key *table, json_t *made)
{
    for (; table->theirs != NULL; table++) {
        json_t *value = NULL;
        if (plx_keys_has(keys, table->theirs)) {
            const plx_node *node = plx_keys_node(keys, table->theirs);
            if (node->kind != PLX_NODE_NUMBER && node->kind != PLX_NODE_BOOL)
                return plx_keys_fail(keys, table->theirs, "must be one number, or true or false");
            value = plx_node_to_json(node);
        } else if (table->otherwise == NULL)
            return plx_keys_fail(keys, NULL, "the key '%s' is missing", table->theirs);
        else if (table->otherwise[0] == '\0')
            continue;
        else
            value = json_loads(table->otherwise, JSON_DECODE_ANY, NULL);
        PLX_TRY(plx_made_set(keys->context, made, table->ours, value));
    }
    return PLX_OK;
}

/* Every key that says something must have been asked for: one that nobody knows may change what is computed. */
plx_status plx_family_refuse_unknown(plx_keys *keys, const plx_family *family, const char *const *ignored,
                                     const char *const *more)
{
    for (const plx_node *node = keys->map->child; node != NULL; node = node->next) {
        bool known = node->kind == PLX_NODE_NULL;
        for (int i = 0; i < keys->asked_count && !known; i++) known = strcmp(keys->asked[i], node->key) == 0;
        for (size_t i = 0; ignored[i] != NULL && !known; i++) known = strcmp(ignored[i], node->key) == 0;
        for (size_t i = 0; more[i] != NULL && !known; i++) known = strcmp(more[i], node->key) == 0;
        if (known) continue;
        char value[64] = "";
        if (node->text != NULL) snprintf(value, sizeof value, " (%.56s)", node->text);
        return plx_fail(keys->context, PLX_ERROR_UNSUPPORTED,
                        "%.400s: the key '%.80s'%s is not known for the family %s and might change what the model "
                        "computes; take it out if it does not",
                        node->file != NULL ? node->file : "config.json", node->key, value, family->name);
    }
    return PLX_OK;
}

/* ---- Hugging Face ---- */

static const char *const ignored[] = {"model_type",
                                      "architectures",
                                      "torch_dtype",
                                      "dtype",
                                      "transformers_version",
                                      "_name_or_path",
                                      "use_cache",
                                      "initializer_range",
                                      "unk_token_id",
                                      "pad_token_id",
                                      "sep_token_id",
                                      "cls_token_id",
                                      "mask_token_id",
                                      "decoder_start_token_id",
                                      "attention_dropout",
                                      "id2label",
                                      "label2id",
                                      "problem_type",
                                      "task_specific_params",
                                      "return_dict",
                                      "output_attentions",
                                      "output_hidden_states",
                                      "torchscript",
                                      "is_decoder",
                                      "chunk_size_feed_forward",
                                      "is_llama_config",
                                      "transformers.js_config",
                                      "max_length",
                                      "min_length",
                                      "do_sample",
                                      "temperature",
                                      "top_k",
                                      "top_p",
                                      "repetition_penalty",
                                      "num_beams",
                                      "num_return_sequences",
                                      "_attn_implementation",
                                      "tokenizer_class",
                                      NULL};

/* Keys that may only say that something is not there. */
static plx_status must_be_off(plx_keys *keys)
{
    static const char *const names[] = {"rope_interleaved", "is_encoder_decoder", "add_cross_attention",
                                        "tie_encoder_decoder", "use_mrope"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bool on = false;
        if (plx_keys_has(keys, names[i])) PLX_TRY(plx_keys_bool(keys, names[i], &on));
        if (on) return plx_keys_fail(keys, names[i], "true is not supported");
    }
    return PLX_OK;
}

static plx_status check_identity(plx_keys *keys, const plx_family *family)
{
    const plx_node *list = plx_keys_node(keys, "architectures");
    const char *act = family->activation;
    if (list != NULL && list->kind == PLX_NODE_LIST && list->child != NULL && list->child->kind == PLX_NODE_STRING &&
        strcmp(list->child->text, family->architecture) != 0)
        return plx_keys_fail(keys, "architectures", "%.60s is not supported for the family %s; %s is",
                             list->child->text, family->name, family->architecture);
    if (plx_keys_has(keys, "hidden_act")) PLX_TRY(plx_keys_string(keys, "hidden_act", &act));
    if (strcmp(act, family->activation) != 0)
        return plx_keys_fail(keys, "hidden_act", "'%.40s' is not supported for the family %s; '%s' is", act,
                             family->name, family->activation);
    return must_be_off(keys);
}

/* A token's id, or the first of several. */
static plx_status read_tokens(plx_keys *keys, json_t *made)
{
    static const char *const names[] = {"bos_token_id", "eos_token_id"};
    for (size_t i = 0; i < 2; i++) {
        const plx_node *node = plx_keys_node(keys, names[i]);
        if (node != NULL && node->kind == PLX_NODE_LIST) node = node->child;
        if (node == NULL || node->kind == PLX_NODE_NULL) continue;
        PLX_TRY(plx_made_set(keys->context, made, names[i], plx_node_to_json(node)));
    }
    return PLX_OK;
}

/* rope_theta, partial_rotary_factor and rope_scaling; newer files hold all three in rope_parameters. */
static plx_status read_rope(plx_keys *keys, json_t *made)
{
    static const char *const moved[] = {"rope_theta", "partial_rotary_factor"};
    bool newer = plx_keys_has(keys, "rope_parameters"), older = plx_keys_has(keys, "rope_scaling");
    if (newer && older)
        return plx_keys_fail(keys, "rope_scaling", "there is rope_parameters too; one of the two must go");
    const plx_node *node = newer ? plx_keys_node(keys, "rope_parameters") : NULL;
    if (older) node = plx_keys_node(keys, "rope_scaling");
    if (node != NULL && node->kind != PLX_NODE_MAP)
        return plx_keys_fail(keys, newer ? "rope_parameters" : "rope_scaling", "must be a mapping of keys to values");
    json_t *scaling = node != NULL ? plx_node_to_json(node) : NULL;
    plx_status status = PLX_OK;
    for (size_t i = 0; i < 2 && status == PLX_OK; i++) {
        json_t *value = json_incref(json_object_get(scaling, moved[i]));
        json_object_del(scaling, moved[i]);
        if (value == NULL && plx_keys_has(keys, moved[i])) value = plx_node_to_json(plx_keys_node(keys, moved[i]));
        if (value != NULL) status = plx_made_set(keys->context, made, moved[i], value);
    }
    if (status == PLX_OK && json_object_size(scaling) > 0)
        return plx_made_set(keys->context, made, "rope_scaling", scaling);
    json_decref(scaling);
    return status;
}

/* Newer files name each layer's kind. */
static plx_status check_layer_types(plx_keys *keys, const json_t *made)
{
    const plx_node *list = plx_keys_node(keys, "layer_types"), *item;
    const json_t *layers = json_object_get(made, "layers");
    if (list == NULL || list->kind == PLX_NODE_NULL) return PLX_OK;
    if (list->kind != PLX_NODE_LIST || list->count != json_array_size(layers))
        return plx_keys_fail(keys, "layer_types", "must be a list of %zu names", json_array_size(layers));
    item = list->child;
    for (size_t i = 0; i < list->count; i++, item = item->next) {
        bool window = json_is_integer(json_object_get(json_array_get(layers, i), "window"));
        const char *expected = window ? "sliding_attention" : "full_attention";
        if (item->kind != PLX_NODE_STRING || strcmp(item->text, expected) != 0)
            return plx_keys_fail(keys, "layer_types", "layer %zu is '%.40s' where the other keys make it '%s'", i,
                                 item->text != NULL ? item->text : "?", expected);
    }
    return PLX_OK;
}

static plx_status fill_from_directory(plx_context *context, const plx_family *family, const plx_node *root,
                                      json_t *made)
{
    plx_keys keys;
    PLX_TRY(plx_keys_open(&keys, context, root, family->name));
    PLX_TRY(check_identity(&keys, family));
    PLX_TRY(plx_family_copy_keys(&keys, family->keys, made));
    PLX_TRY(plx_family_set_layers(&keys, "num_hidden_layers", made));
    PLX_TRY(read_tokens(&keys, made));
    PLX_TRY(read_rope(&keys, made));
    PLX_TRY(family->read(&keys, made));
    PLX_TRY(check_layer_types(&keys, made));
    return plx_family_refuse_unknown(&keys, family, ignored, family->ignored);
}

json_t *plx_family_new_config(void) { return json_pack("{s:s}", "model_type", "plexus"); }

plx_status plx_family_finish(plx_status status, json_t *config, json_t **made)
{
    *made = config;
    if (status == PLX_OK) return PLX_OK;
    json_decref(config);
    *made = NULL;
    return status;
}

plx_status plx_family_read_config(plx_context *context, const plx_family *family, const plx_node *root, json_t **made)
{
    json_t *config = plx_family_new_config();
    return plx_family_finish(fill_from_directory(context, family, root, config), config, made);
}

plx_status plx_family_parse(plx_context *context, const plx_family *family, const plx_node *root, plx_config *config)
{
    json_t *made = NULL;
    plx_node *node = NULL;
    PLX_TRY(plx_family_read_config(context, family, root, &made));
    plx_status status = plx_family_tree(context, root->file != NULL ? root->file : "config.json", made, &node);
    if (status == PLX_OK) status = plx_config_parse(context, node, config);
    plx_node_free(context, node);
    return status;
}

plx_status plx_family_tree(plx_context *context, const char *name, json_t *made, plx_node **tree)
{
    char *text = json_dumps(made, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(made);
    if (text == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "%s: no memory left for the model's config", name);
    plx_status status = plx_node_parse_json(context, name, text, strlen(text), tree);
    free(text);
    return status;
}
