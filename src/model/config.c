/* config.c - config.json: every key of docs/config.md, with its default, range and errors. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PLX_SIZE_LIMIT ((size_t)1 << 31) /* of any one dimension: products of two stay within size_t */
#define PLX_LAYER_LIMIT 4096

static plx_status read_required(plx_keys *keys, const char *key, size_t *value, size_t least)
{
    if (!plx_keys_has(keys, key)) return plx_keys_fail(keys, NULL, "the key '%s' is missing", key);
    return plx_keys_size(keys, key, value, least, PLX_SIZE_LIMIT);
}

/* What messages call a section inside this one: "model.layers[3]". */
typedef struct section_name {
    char text[64];
} section_name;
static section_name inside(const plx_keys *keys, const char *name)
{
    section_name inner;
    snprintf(inner.text, sizeof inner.text, "%s.%s", keys->section, name);
    return inner;
}

/* A token id, or -1 for null and absent. */
static plx_status read_token(plx_keys *keys, const char *key, int64_t *value, size_t vocab)
{
    size_t id = 0;
    *value = -1;
    if (!plx_keys_has(keys, key)) return PLX_OK;
    PLX_TRY(plx_keys_size(keys, key, &id, 0, vocab - 1));
    *value = (int64_t)id;
    return PLX_OK;
}

/* Keys that other tools write into every config.json and that change nothing here. */
static void skip_foreign(plx_keys *keys)
{
    static const char *const names[] = {"torch_dtype", "dtype", "transformers_version", "_name_or_path", "use_cache"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) plx_keys_node(keys, names[i]);
}

static plx_status read_top(plx_keys *keys, plx_config *config)
{
    const char *text = "plexus";
    int choice;
    PLX_TRY(plx_keys_string(keys, "model_type", &text));
    if (strcmp(text, "plexus") != 0) {
        PLX_TRY(plx_keys_fail(keys, "model_type", "Plexus opens model_type \"plexus\", not \"%.40s\"", text));
    }
    plx_keys_node(keys, "architectures");
    skip_foreign(keys);
    PLX_TRY(read_required(keys, "vocab_size", &config->vocab_size, 2));
    PLX_TRY(read_required(keys, "hidden_size", &config->hidden_size, 1));
    PLX_TRY(read_required(keys, "intermediate_size", &config->intermediate_size, 0));
    PLX_TRY(read_required(keys, "num_attention_heads", &config->num_attention_heads, 1));
    config->num_key_value_heads = config->num_attention_heads;
    if (plx_keys_has(keys, "num_key_value_heads"))
        PLX_TRY(plx_keys_size(keys, "num_key_value_heads", &config->num_key_value_heads, 1, PLX_SIZE_LIMIT));
    if (plx_keys_has(keys, "head_dim"))
        PLX_TRY(plx_keys_size(keys, "head_dim", &config->head_dim, 1, 65536));
    else if (config->hidden_size % config->num_attention_heads != 0)
        return plx_keys_fail(keys, "num_attention_heads",
                             "%zu heads do not divide hidden_size %zu; give head_dim, or a number that divides",
                             config->num_attention_heads, config->hidden_size);
    else
        config->head_dim = config->hidden_size / config->num_attention_heads;
    config->max_position_embeddings = 2048;
    PLX_TRY(plx_keys_size(keys, "max_position_embeddings", &config->max_position_embeddings, 1, (size_t)1 << 24));

    config->rope = true;
    config->rope_theta = 10000.0;
    config->partial_rotary_factor = 1.0;
    PLX_TRY(plx_keys_bool(keys, "rope", &config->rope));
    PLX_TRY(plx_keys_real(keys, "rope_theta", &config->rope_theta, 1.0, 1e12));
    PLX_TRY(plx_keys_real(keys, "partial_rotary_factor", &config->partial_rotary_factor, 0.0, 1.0));
    config->rope_scaling.magnitude = 1;
    if (plx_keys_has(keys, "rope_scaling"))
        PLX_TRY(plx_rope_scaling_parse(keys->context, plx_keys_node(keys, "rope_scaling"),
                                       inside(keys, "rope_scaling").text, config->max_position_embeddings,
                                       &config->rope_scaling));

    choice = 0;
    PLX_TRY(plx_keys_choice(keys, "norm", "rms|layer", &choice));
    config->norm_layer = choice == 1;
    config->norm_eps = 1e-5;
    PLX_TRY(plx_keys_real(keys, "norm_eps", &config->norm_eps, 1e-12, 1.0));
    choice = 0;
    PLX_TRY(plx_keys_choice(keys, "hidden_act", "silu|gelu", &choice));
    config->gelu = choice == 1;
    config->tie_word_embeddings = true;
    PLX_TRY(plx_keys_bool(keys, "tie_word_embeddings", &config->tie_word_embeddings));
    PLX_TRY(plx_keys_bool(keys, "attention_bias", &config->attention_bias));
    PLX_TRY(plx_keys_bool(keys, "attention_out_bias", &config->attention_out_bias));
    PLX_TRY(plx_keys_bool(keys, "mlp_bias", &config->mlp_bias));
    PLX_TRY(plx_keys_bool(keys, "qk_norm", &config->qk_norm));
    PLX_TRY(plx_keys_bool(keys, "parallel_residual", &config->parallel_residual));
    PLX_TRY(plx_keys_real(keys, "dropout", &config->dropout, 0.0, 0.99));
    choice = 0;
    PLX_TRY(plx_keys_choice(keys, "init", "normal|fan_in", &choice));
    config->init_fan_in = choice == 1;

    const plx_node *adapter = plx_keys_node(keys, "adapter");
    if (adapter != NULL && adapter->kind != PLX_NODE_NULL)
        PLX_TRY(plx_adapter_parse(keys->context, adapter, inside(keys, "adapter").text, &config->adapter));
    if (plx_keys_has(keys, "tokenizer")) {
        PLX_TRY(plx_keys_string(keys, "tokenizer", &text));
        if (strlen(text) >= sizeof config->tokenizer) return plx_keys_fail(keys, "tokenizer", "the name is too long");
        strcpy(config->tokenizer, text);
    }
    PLX_TRY(read_token(keys, "bos_token_id", &config->bos_token_id, config->vocab_size));
    return read_token(keys, "eos_token_id", &config->eos_token_id, config->vocab_size);
}

const char *const plx_layer_shape_keys[] = {"num_attention_heads", "num_key_value_heads", "head_dim", "rope", "rope_theta",
                                            "partial_rotary_factor", "qk_norm", "attention_bias", "attention_out_bias", NULL};
/* Those keys. */
static plx_status read_shape(plx_keys *keys, const plx_config *config, plx_layer_shape *shape)
{
    *shape = (plx_layer_shape){
        .hidden = config->hidden_size,
        .heads = config->num_attention_heads,
        .kv_heads = config->num_key_value_heads,
        .head_dim = config->head_dim,
        .max_positions = config->max_position_embeddings,
        .rope = config->rope,
        .rope_theta = config->rope_theta,
        .partial_rotary_factor = config->partial_rotary_factor,
        .rope_scaling = config->rope_scaling,
        .qk_norm = config->qk_norm,
        .attention_bias = config->attention_bias,
        .attention_out_bias = config->attention_out_bias,
        .norm_layer = config->norm_layer,
        .norm_eps = config->norm_eps,
        .dropout = config->dropout,
        .init_fan_in = config->init_fan_in,
        .layers = config->layer_count,
    };
    if (plx_keys_has(keys, "num_attention_heads")) {
        PLX_TRY(plx_keys_size(keys, "num_attention_heads", &shape->heads, 1, PLX_SIZE_LIMIT));
        shape->kv_heads = shape->heads;
        if (!plx_keys_has(keys, "head_dim")) {
            if (shape->hidden % shape->heads != 0)
                return plx_keys_fail(keys, "num_attention_heads",
                                     "%zu heads do not divide hidden_size %zu; give head_dim, or a number that divides",
                                     shape->heads, shape->hidden);
            shape->head_dim = shape->hidden / shape->heads;
        }
    }
    if (plx_keys_has(keys, "num_key_value_heads"))
        PLX_TRY(plx_keys_size(keys, "num_key_value_heads", &shape->kv_heads, 1, PLX_SIZE_LIMIT));
    PLX_TRY(plx_keys_size(keys, "head_dim", &shape->head_dim, 1, 65536));
    PLX_TRY(plx_keys_bool(keys, "rope", &shape->rope));
    PLX_TRY(plx_keys_real(keys, "rope_theta", &shape->rope_theta, 1.0, 1e12));
    PLX_TRY(plx_keys_real(keys, "partial_rotary_factor", &shape->partial_rotary_factor, 0.0, 1.0));
    PLX_TRY(plx_keys_bool(keys, "qk_norm", &shape->qk_norm));
    PLX_TRY(plx_keys_bool(keys, "attention_bias", &shape->attention_bias));
    PLX_TRY(plx_keys_bool(keys, "attention_out_bias", &shape->attention_out_bias));
    if (shape->heads % shape->kv_heads != 0)
        return plx_keys_fail(keys, "num_key_value_heads", "%zu key/value heads do not divide the %zu heads",
                             shape->kv_heads, shape->heads);
    size_t width;
    if (!plx_multiply_sizes(shape->heads, shape->head_dim, &width) || width > PLX_SIZE_LIMIT)
        return plx_keys_fail(keys, "num_attention_heads", "%zu heads of width %zu are too large", shape->heads,
                             shape->head_dim);
    return PLX_OK;
}

static plx_status read_layer(plx_keys *keys, plx_context *context, plx_config *config, size_t index)
{
    plx_layer *layer = &config->layers[index];
    const char *name = NULL;
    char names[PLX_MIXER_NAMES];
    PLX_TRY(read_shape(keys, config, &layer->shape));
    layer->shape.layer = index;
    PLX_TRY(plx_keys_string(keys, "mixer", &name));
    plx_mixer_names(names);
    if (name == NULL) return plx_keys_fail(keys, NULL, "the key 'mixer' is missing; it is one of %s", names);
    layer->mixer = plx_mixer_find(name);
    if (layer->mixer == NULL)
        return plx_keys_fail(keys, "mixer", "there is no mixer '%.60s'; there are %s", name, names);
    for (size_t i = 0; i < index; i++)
        if (config->layers[i].mixer == layer->mixer) layer->shape.same++;
    layer->own = plx_alloc(context, layer->mixer->layer_size);
    if (layer->own == NULL) return plx_context_error(context)->code;
    PLX_TRY(layer->mixer->parse(keys, &layer->shape, layer->own));
    layer->form = layer->mixer->block != NULL ? layer->mixer->block(layer->own) : PLX_BLOCK_PRE_NORM;
    return plx_keys_close(keys);
}

static plx_status read_layers(plx_keys *keys, plx_context *context, plx_config *config)
{
    const plx_node *list = plx_keys_node(keys, "layers");
    bool dropout_used = false;
    if (list == NULL || list->kind != PLX_NODE_LIST || list->count == 0)
        return plx_keys_fail(keys, list != NULL ? "layers" : NULL, "'layers' must be a list with one mapping a layer");
    if (list->count > PLX_LAYER_LIMIT)
        return plx_keys_fail(keys, "layers", "%zu layers are more than %d", list->count, PLX_LAYER_LIMIT);
    config->layers = plx_alloc_array(context, list->count, sizeof *config->layers);
    if (config->layers == NULL) return plx_context_error(context)->code;
    config->layer_count = list->count;
    const plx_node *item = list->child;
    for (size_t i = 0; i < list->count; i++, item = item->next) {
        char name[32];
        plx_keys layer_keys;
        snprintf(name, sizeof name, "layers[%zu]", i);
        const section_name section = inside(keys, name);
        PLX_TRY(plx_keys_open(&layer_keys, context, item, section.text));
        PLX_TRY(read_layer(&layer_keys, context, config, i));
        dropout_used |= config->layers[i].form == PLX_BLOCK_PAPER;
    }
    if (config->dropout > 0 && !dropout_used)
        return plx_keys_fail(keys, "dropout",
                             "dropout acts only in blocks of the form 'paper', and no layer has that form");
    return PLX_OK;
}

plx_status plx_config_parse(plx_context *context, const plx_node *root, plx_config *config)
{
    plx_keys keys;
    *config = (plx_config){.bos_token_id = -1, .eos_token_id = -1};
    plx_status status = plx_keys_open(&keys, context, root, root->key != NULL ? root->key : "config");
    if (status == PLX_OK) status = read_top(&keys, config);
    if (status == PLX_OK) status = read_layers(&keys, context, config);
    if (status == PLX_OK) status = plx_keys_close(&keys);
    if (status != PLX_OK) plx_config_release(context, config);
    return status;
}

void plx_config_release(plx_context *context, plx_config *config)
{
    for (size_t i = 0; i < config->layer_count; i++) {
        plx_layer *layer = &config->layers[i];
        if (layer->own != NULL && layer->mixer->release != NULL) layer->mixer->release(context, layer->own);
        plx_free(context, layer->own);
    }
    plx_free(context, config->layers);
    *config = (plx_config){0};
}

static json_t *token_json(int64_t id) { return id < 0 ? json_null() : json_integer(id); }

static json_t *describe_layer(const plx_config *config, const plx_layer *layer)
{
    const plx_layer_shape *shape = &layer->shape;
    json_t *object = json_pack("{s:s}", "mixer", layer->mixer->name);
    int bad = object == NULL || layer->mixer->describe(layer->own, object);
    /* Only what differs from the model's: the other keys are resolved there. */
    if (!bad && (shape->heads != config->num_attention_heads || shape->kv_heads != config->num_key_value_heads ||
                 shape->head_dim != config->head_dim)) {
        bad |= json_object_set_new(object, "num_attention_heads", json_integer((json_int_t)shape->heads));
        bad |= json_object_set_new(object, "num_key_value_heads", json_integer((json_int_t)shape->kv_heads));
        bad |= json_object_set_new(object, "head_dim", json_integer((json_int_t)shape->head_dim));
    }
    if (!bad && shape->rope != config->rope) bad |= json_object_set_new(object, "rope", json_boolean(shape->rope));
    if (!bad && shape->rope_theta != config->rope_theta)
        bad |= json_object_set_new(object, "rope_theta", json_real(shape->rope_theta));
    if (!bad && shape->partial_rotary_factor != config->partial_rotary_factor)
        bad |= json_object_set_new(object, "partial_rotary_factor", json_real(shape->partial_rotary_factor));
    if (!bad && shape->qk_norm != config->qk_norm)
        bad |= json_object_set_new(object, "qk_norm", json_boolean(shape->qk_norm));
    if (!bad && shape->attention_bias != config->attention_bias)
        bad |= json_object_set_new(object, "attention_bias", json_boolean(shape->attention_bias));
    if (!bad && shape->attention_out_bias != config->attention_out_bias)
        bad |= json_object_set_new(object, "attention_out_bias", json_boolean(shape->attention_out_bias));
    if (bad) {
        json_decref(object);
        return NULL;
    }
    return object;
}

json_t *plx_config_describe(const plx_config *config)
{
    json_t *layers = json_array();
    for (size_t i = 0; layers != NULL && i < config->layer_count; i++)
        if (json_array_append_new(layers, describe_layer(config, &config->layers[i])) != 0) {
            json_decref(layers);
            layers = NULL;
        }
    if (layers == NULL) return NULL;
    return json_pack(
        "{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f, s:f, s:o, s:s, s:f, s:s, s:b, s:b, s:b, s:b, s:b, "
        "s:b, s:f, s:s, s:o, s:o*, s:o, s:o, s:o}",
        "model_type", "plexus", "architectures", "PlexusForCausalLM", "vocab_size", (json_int_t)config->vocab_size,
        "hidden_size", (json_int_t)config->hidden_size, "intermediate_size", (json_int_t)config->intermediate_size,
        "num_attention_heads", (json_int_t)config->num_attention_heads, "num_key_value_heads",
        (json_int_t)config->num_key_value_heads, "head_dim", (json_int_t)config->head_dim, "max_position_embeddings",
        (json_int_t)config->max_position_embeddings, "rope", config->rope, "rope_theta", config->rope_theta,
        "partial_rotary_factor", config->partial_rotary_factor, "rope_scaling",
        plx_rope_scaling_describe(&config->rope_scaling), "norm",
        config->norm_layer ? "layer" : "rms", "norm_eps", config->norm_eps, "hidden_act",
        config->gelu ? "gelu" : "silu", "tie_word_embeddings", config->tie_word_embeddings, "attention_bias",
        config->attention_bias, "attention_out_bias", config->attention_out_bias, "mlp_bias", config->mlp_bias,
        "qk_norm", config->qk_norm, "parallel_residual", config->parallel_residual, "dropout", config->dropout, "init",
        config->init_fan_in ? "fan_in" : "normal", "adapter", plx_adapter_describe(&config->adapter), "tokenizer",
        config->tokenizer[0] != '\0' ? json_string(config->tokenizer) : NULL, "bos_token_id",
        token_json(config->bos_token_id), "eos_token_id", token_json(config->eos_token_id), "layers", layers);
}
