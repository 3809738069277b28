/* recipe_model.c - the model section of a recipe.
 *
 * It is a config.json whose vocabulary, length and tokenizer come from the data section and whose layers may carry
 * `repeat: n`. It becomes a full config as a tree of nodes that keep the recipe's lines, so that the one reader of
 * configs (model/config.c) and every mixer's own complain about the right line of the recipe. */
#include "train/recipe_model.h"

#include "io/files.h"
#include "model/families/family.h"
#include "train/rundir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_USUAL = 512 };

/* ---- building a tree of nodes ---- */

static plx_node *make_node(plx_context *context, plx_node_kind kind, const char *key, const char *text,
                           const plx_node *place)
{
    plx_node *node = plx_alloc(context, sizeof *node);
    if (node == NULL) return NULL;
    node->kind = kind;
    node->file = place->file;
    node->line = place->line;
    bool ok = true;
    if (key != NULL) ok = (node->key = plx_strdup(context, key)) != NULL;
    if (ok && text != NULL) ok = (node->text = plx_strdup(context, text)) != NULL;
    if (ok) return node;
    plx_free(context, node->key);
    plx_free(context, node);
    return NULL;
}

/* Takes child over, also when it is NULL (memory was short: false). */
static bool add_child(plx_node *parent, plx_node *child)
{
    plx_node **end = &parent->child;
    if (child == NULL) return false;
    while (*end != NULL) end = &(*end)->next;
    *end = child;
    parent->count++;
    return true;
}

/* Copies `from` and what it holds, but for children named `skip`, to the end of parent. */
static bool add_copy(plx_context *context, plx_node *parent, const plx_node *from, const char *skip)
{
    plx_node *copy = make_node(context, from->kind, from->key, from->text, from);
    if (!add_child(parent, copy)) return false;
    copy->number = from->number;
    copy->truth = from->truth;
    for (const plx_node *child = from->child; child != NULL; child = child->next) {
        if (skip != NULL && child->key != NULL && strcmp(child->key, skip) == 0) continue;
        if (!add_copy(context, copy, child, NULL)) return false;
    }
    return true;
}

static bool add_number(plx_context *context, plx_node *map, const char *key, double value)
{
    char text[40];
    snprintf(text, sizeof text, "%.0f", value);
    plx_node *node = make_node(context, PLX_NODE_NUMBER, key, text, map);
    if (node != NULL) node->number = value;
    return add_child(map, node);
}

/* ---- the model section ---- */

static plx_status add_layers(plx_context *context, plx_node *config, const plx_node *layers)
{
    plx_node *list = make_node(context, PLX_NODE_LIST, "layers", NULL, layers);
    if (!add_child(config, list)) return PLX_ERROR_MEMORY;
    for (const plx_node *item = layers->child; item != NULL; item = item->next) {
        size_t repeat = 1;
        if (item->kind == PLX_NODE_MAP) {
            plx_keys keys; /* not closed: the other keys are for the config's reader */
            PLX_TRY(plx_keys_open(&keys, context, item, "model.layers"));
            PLX_TRY(plx_keys_size(&keys, "repeat", &repeat, 1, PLX_RECIPE_LAYERS_MOST));
            if (list->count + repeat > PLX_RECIPE_LAYERS_MOST) {
                return plx_keys_fail(&keys, "repeat", "more than %d layers", PLX_RECIPE_LAYERS_MOST);
            }
        }
        for (size_t i = 0; i < repeat; i++) {
            if (!add_copy(context, list, item, "repeat")) return PLX_ERROR_MEMORY;
        }
    }
    return PLX_OK;
}

/* Keys of the model section that are the recipe's, not the config's. */
static bool is_own_key(const char *key) { return strcmp(key, "from") == 0 || strcmp(key, "weights") == 0; }

/* Fills `config` with the model section's keys, and with those of the model that the run begins with that the section
 * leaves out. */
static plx_status add_section(const plx_recipe *recipe, const plx_node *section, plx_node *config)
{
    plx_context *context = recipe->context;
    for (const plx_node *child = section->child; child != NULL; child = child->next) {
        if (is_own_key(child->key)) continue;
        if (strcmp(child->key, "layers") == 0 && child->kind == PLX_NODE_LIST) {
            PLX_TRY(add_layers(context, config, child));
        } else if (!add_copy(context, config, child, NULL)) {
            return PLX_ERROR_MEMORY;
        }
    }
    for (const plx_node *child = recipe->from_config != NULL ? recipe->from_config->child : NULL; child != NULL;
         child = child->next) {
        if (plx_node_find(config, child->key) == NULL && !add_copy(context, config, child, NULL)) return PLX_ERROR_MEMORY;
    }
    return PLX_OK;
}

/* The whole number under a key of the model that the run begins with, or `otherwise`. */
static size_t from_size(const plx_recipe *recipe, const char *key, size_t otherwise)
{
    const plx_node *node = recipe->from_config != NULL ? plx_node_find(recipe->from_config, key) : NULL;
    return node != NULL && node->kind == PLX_NODE_NUMBER && node->number >= 1 ? (size_t)node->number : otherwise;
}

/* The config's tree, the caller's (freed with plx_node_free): the model section, completed from the model that the run
 * begins with and from the data section. */
static plx_status build_config(const plx_recipe *recipe, plx_node **result)
{
    plx_context *context = recipe->context;
    const plx_node *section = plx_recipe_section(recipe, "model");
    const plx_data_description *data = &recipe->data;
    plx_status status = PLX_OK;
    plx_keys keys;
    PLX_TRY(plx_keys_open(&keys, context, section, "model"));

    bool fresh = recipe->from_config == NULL;
    size_t vocab_size = from_size(recipe, "vocab_size", data->vocab_size),
           positions = from_size(recipe, "max_position_embeddings", data->sequence_length);
    PLX_TRY(plx_keys_size(&keys, "vocab_size", &vocab_size, 1, INT32_MAX));
    if (!fresh && vocab_size < data->vocab_size) {
        return plx_keys_fail(&keys, "from", "the model knows %zu tokens and the data has %zu", vocab_size,
                             data->vocab_size);
    }
    if (fresh && vocab_size != data->vocab_size) {
        return plx_keys_fail(&keys, "vocab_size", "%zu is given and the data has %zu: leave it out", vocab_size,
                             data->vocab_size);
    }
    PLX_TRY(plx_keys_size(&keys, "max_position_embeddings", &positions, 1, INT32_MAX));
    if (positions < data->sequence_length) {
        return plx_keys_fail(&keys, "max_position_embeddings",
                             "%zu is less than the data's sequence_length, %zu: shorten that, or give more positions",
                             positions, data->sequence_length);
    }

    plx_node *config = make_node(context, PLX_NODE_MAP, "model", NULL, section); /* the name in messages */
    if (config == NULL) return PLX_ERROR_MEMORY;
    config->file = plx_strdup(context, section->file != NULL ? section->file : recipe->path); /* a root owns its file */
    if (config->file == NULL) { status = PLX_ERROR_MEMORY; goto done; }
    status = add_section(recipe, section, config);
    const struct { const char *key; double value; bool wanted; } completed[] = {
        {"vocab_size", (double)vocab_size, true},
        {"max_position_embeddings", (double)positions, true},
        {"bos_token_id", (double)data->separator, fresh && data->separator >= 0},
        {"eos_token_id", (double)data->end, fresh && data->end >= 0},
    };
    for (size_t i = 0; status == PLX_OK && i < sizeof completed / sizeof completed[0]; i++) {
        if (!completed[i].wanted || plx_node_find(config, completed[i].key) != NULL) continue;
        if (!add_number(context, config, completed[i].key, completed[i].value)) status = PLX_ERROR_MEMORY;
    }
    if (status == PLX_OK && strcmp(data->tokenizer, "bytes") == 0 && plx_node_find(config, "tokenizer") == NULL
        && !add_child(config, make_node(context, PLX_NODE_STRING, "tokenizer", data->tokenizer, config))) {
        status = PLX_ERROR_MEMORY;
    }
done:
    if (status == PLX_OK) *result = config;
    else plx_node_free(context, config);
    return status;
}

/* An adapter that the run begins with goes on as it is: with other settings it would be dropped, or mean something else. */
static plx_status check_adapter(const plx_recipe *recipe, const plx_config *config)
{
    const plx_node *node = recipe->from_config != NULL ? plx_node_find(recipe->from_config, "adapter") : NULL;
    plx_adapter_config before;
    if (node == NULL || node->kind != PLX_NODE_MAP) return PLX_OK;
    PLX_TRY(plx_adapter_parse(recipe->context, node, "adapter", &before));
    json_t *old = plx_adapter_describe(&before), *new = plx_adapter_describe(&config->adapter);
    const bool same = json_equal(old, new);
    json_decref(old);
    json_decref(new);
    if (same) return PLX_OK;
    return plx_fail(recipe->context, PLX_ERROR_VALUE,
                    "%s: model.adapter: %.200s has an adapter already, of rank %zu: give none to go on with that, or merge "
                    "it first (plexus convert %.200s --merge --out DIR)",
                    recipe->path, recipe->from, before.rank, recipe->from);
}

plx_status plx_recipe_read_model(plx_recipe *recipe)
{
    plx_context *context = recipe->context;
    plx_node *tree = NULL;
    plx_config config;
    PLX_TRY(build_config(recipe, &tree));
    plx_status status = plx_config_parse(context, tree, &config);
    plx_node_free(context, tree);
    if (status != PLX_OK) return status;
    if (!recipe->parameters_given && config.adapter.rank > 0) recipe->parameters = PLX_TRAIN_ADAPTER;
    if (!recipe->lr_given && recipe->from != NULL) recipe->options.lr = recipe->parameters != 0 ? 2e-4 : 2e-5;
    status = check_adapter(recipe, &config);
    if (status != PLX_OK) {
        plx_config_release(context, &config);
        return status;
    }
    bool adapter = (recipe->parameters & PLX_TRAIN_ADAPTER) != 0;
    if (adapter && config.adapter.rank == 0) {
        plx_config_release(context, &config);
        return plx_fail(context, PLX_ERROR_VALUE, "%s: train.parameters: the model has no adapter; model.adapter makes one",
                        recipe->path);
    }
    if (recipe->options.recompute > config.layer_count) recipe->options.recompute = config.layer_count;
    json_t *object = plx_config_describe(&config);
    char *text = object == NULL ? NULL : plx_json_text(object);
    plx_config_release(context, &config);
    if (text == NULL) {
        status = plx_fail(context, PLX_ERROR_MEMORY, "out of memory for the config of %s", recipe->path);
    } else if ((recipe->config_text = plx_strdup(context, text)) == NULL) {
        status = PLX_ERROR_MEMORY;
    }
    json_decref(object);
    free(text);
    return status;
}

/* Bytes for a model with a tokenizer of its own: their ids would be tokens that mean something else to it. */
static plx_status refuse_bytes(const plx_recipe *recipe, const plx_node *data, const char *path)
{
    plx_context *context = recipe->context;
    const plx_error before = context->error;
    plx_tokenizer *own = NULL;
    plx_keys keys; /* not closed: the other keys are for the data's reader */
    plx_status status = plx_tokenizer_open(context, path, &own);
    plx_tokenizer_free(own);
    if (status == PLX_ERROR_MEMORY) return status;
    context->error = before;
    if (status != PLX_OK) return PLX_OK; /* it has none, as one that was trained on a task */
    PLX_TRY(plx_keys_open(&keys, context, data, "data"));
    return plx_keys_fail(&keys, "tokenizer", "%.500s has a tokenizer of its own, to whose tokens bytes do not belong: leave "
                         "the key out", recipe->from);
}

/* What the data section leaves out, from the model that the run begins with, whose files are at `path`: its tokenizer, and
 * its positions, up to 512, as the sequence_length. */
static plx_status add_from_to_data(plx_recipe *recipe, const char *path)
{
    plx_context *context = recipe->context;
    plx_node *data = (plx_node *)plx_recipe_section(recipe, "data");
    if (data == NULL || data->kind != PLX_NODE_MAP || plx_node_find(data, "task") != NULL) return PLX_OK;
    const plx_node *own = plx_node_find(recipe->from_config, "tokenizer");
    bool bytes = own != NULL && own->kind == PLX_NODE_STRING && strcmp(own->text, "bytes") == 0, ok = true;
    size_t positions = from_size(recipe, "max_position_embeddings", LENGTH_USUAL);
    const plx_node *given = plx_node_find(data, "tokenizer");
    if (!bytes && given != NULL && given->kind == PLX_NODE_STRING && strcmp(given->text, "bytes") == 0)
        PLX_TRY(refuse_bytes(recipe, data, path));
    recipe->tokenizer_of_from = given == NULL && !bytes;
    if (given == NULL)
        ok &= add_child(data, make_node(context, PLX_NODE_STRING, "tokenizer", bytes ? "bytes" : path, data));
    if (plx_node_find(data, "sequence_length") == NULL)
        ok &= add_number(context, data, "sequence_length", positions < LENGTH_USUAL ? positions : LENGTH_USUAL);
    return ok ? PLX_OK : PLX_ERROR_MEMORY;
}

/* The model that the run begins with. Where that is gone, a run that has a checkpoint goes on from its own, which says
 * the same of config and tokenizer. */
static plx_status open_from(const plx_recipe *recipe, plx_source *source)
{
    plx_context *context = recipe->context;
    plx_status status = plx_source_open(context, recipe->from, source);
    if (status != PLX_ERROR_FILE || plx_file_exists(recipe->from)) return status;
    const plx_error gone = context->error;
    bool there = false;
    plx_source_close(source);
    if (plx_rundir_exists(context, recipe->out, &there) == PLX_OK && there &&
        plx_source_open(context, recipe->out, source) == PLX_OK) {
        plx_log(context, PLX_LOG_WARNING, "model.from, %s, is there no longer: the run in %s has what it needs of it",
                recipe->from, recipe->out);
        return PLX_OK;
    }
    context->error = gone;
    return status;
}

plx_status plx_recipe_read_from(plx_recipe *recipe)
{
    plx_context *context = recipe->context;
    plx_keys keys; /* not closed: the other keys are for the config's reader */
    int weights = PLX_WEIGHTS_TYPE;
    PLX_TRY(plx_keys_open(&keys, context, plx_recipe_section(recipe, "model"), "model"));
    PLX_TRY(plx_keys_string(&keys, "from", &recipe->from));
    PLX_TRY(plx_keys_choice(&keys, "weights", "f32|stored|q8_0|q4_0|bf16", &weights));
    recipe->weights = (plx_weights)weights;
    if (recipe->from == NULL) {
        return weights != PLX_WEIGHTS_TYPE
                   ? plx_keys_fail(&keys, "weights", "fresh weights are f32: another way to hold them needs 'from'")
                   : PLX_OK;
    }
    plx_source source;
    plx_status status = open_from(recipe, &source);
    if (status == PLX_OK) {
        recipe->from_config = source.config;
        source.config = NULL;
    }
    char *path = source.path; /* of the directory that a run's stands for */
    source.path = NULL;
    plx_source_close(&source);
    if (status == PLX_OK) status = add_from_to_data(recipe, path);
    plx_free(context, path);
    return status;
}
