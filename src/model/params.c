/* params.c - making a model's layers and tensors from its config, and giving them memory. */
#include "model/params_list.h"

#include "core/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLX_ALIGN(bytes) (((bytes) + 63) / 64 * 64)

plx_status plx_params_add(plx_params *params, const char *name, size_t rank, size_t rows, size_t columns, plx_init init,
                          bool decay, plx_param **param)
{
    plx_model *model = params->model;
    plx_context *context = model->context;
    size_t elements = rows, prefix = strlen(params->prefix);
    if (rank == 2 && !plx_multiply_sizes(rows, columns, &elements))
        return plx_fail(context, PLX_ERROR_MEMORY, "tensor %s of %zu x %zu is larger than addresses can name", name,
                        rows, columns);
    if (model->param_count == params->capacity) {
        size_t capacity = params->capacity > 0 ? 2 * params->capacity : 64;
        plx_param **grown =
            plx_grow(context, model->params, params->capacity * sizeof *grown, capacity * sizeof *grown);
        if (grown == NULL) return plx_context_error(context)->code;
        model->params = grown;
        params->capacity = capacity;
    }
    plx_param *made = plx_alloc(context, sizeof *made);
    if (made == NULL) return plx_context_error(context)->code;
    *made = (plx_param){.rank = rank, .shape = {rows, columns}, .elements = elements, .init = init,
                        .decay = decay, .trainable = true, .type = model->type};
    int length =
        snprintf(made->name, sizeof made->name, "%s%s%s", params->prefix, params->prefix[0] != '\0' ? "." : "", name);
    model->params[model->param_count++] = made;
    *param = made;
    if (length < 0 || (size_t)length >= sizeof made->name)
        return plx_fail(context, PLX_ERROR_VALUE, "the tensor name %s.%s is too long", params->prefix, name);
    /* Those of the same layer; of thousands of layers the others need not be looked at. */
    for (size_t i = model->param_count - 1; i-- > 0 && strncmp(model->params[i]->name, params->prefix, prefix) == 0;)
        if (strcmp(model->params[i]->name, made->name) == 0)
            return plx_fail(context, PLX_ERROR_INTERNAL, "the tensor %s is defined twice", made->name);
    return PLX_OK;
}

plx_status plx_model_outline(plx_context *context, plx_config *config, plx_type type, plx_model **made)
{
    if (type != PLX_F32 && type != PLX_F64) {
        plx_config_release(context, config);
        return plx_fail(context, PLX_ERROR_VALUE, "a model computes in f32 or f64, not %s", plx_type_name(type));
    }
    plx_model *model = plx_alloc(context, sizeof *model);
    if (model == NULL) {
        plx_config_release(context, config);
        return plx_context_error(context)->code;
    }
    model->context = context;
    model->type = type;
    model->config = *config;
    *config = (plx_config){0};
    config = &model->config;
    plx_params params = {.model = model};
    plx_status status;
    double embedding_deviation = config->init_fan_in ? 1.0 : 0.02;
    size_t hidden = config->hidden_size;
    PLX_TRY_GOTO(status, failed,
                 plx_params_add(&params, "model.embed_tokens.weight", 2, config->vocab_size, hidden,
                                (plx_init){PLX_INIT_NORMAL, embedding_deviation}, true, &model->embedding));
    model->embedding->packable = true;
    for (size_t i = 0; i < config->layer_count; i++) {
        snprintf(params.prefix, sizeof params.prefix, "model.layers.%zu", i);
        PLX_TRY_GOTO(status, failed, plx_block_define(&params, &config->layers[i], config));
    }
    params.prefix[0] = '\0';
    PLX_TRY_GOTO(status, failed, plx_adapter_check(&params));
    PLX_TRY_GOTO(status, failed,
                 plx_norm_define(&params, &model->norm, "model.norm", hidden, config->norm_layer, config->norm_eps));
    model->head = model->embedding;
    if (!config->tie_word_embeddings)
        PLX_TRY_GOTO(
            status, failed,
            plx_params_add(&params, "lm_head.weight", 2, config->vocab_size, hidden,
                           (plx_init){PLX_INIT_NORMAL, config->init_fan_in ? 1.0 / sqrt((double)hidden) : 0.02}, true,
                           &model->head));
    model->head->packable = true;
    json_t *described = plx_config_describe(config);
    char *text = described != NULL ? plx_json_text(described) : NULL;
    json_decref(described);
    model->config_text = text != NULL ? plx_strdup(context, text) : NULL;
    free(text);
    if (model->config_text == NULL) {
        status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the model's config");
        goto failed;
    }
    *made = model;
    return PLX_OK;
failed:
    plx_model_free(model);
    return status;
}

plx_status plx_model_outline_text(plx_context *context, const char *name, const char *text, plx_type type,
                                  plx_model **made)
{
    plx_node *root;
    plx_config config;
    PLX_TRY(plx_node_parse_json(context, name, text, strlen(text), &root));
    plx_status status = plx_config_parse(context, root, &config);
    if (status == PLX_OK) status = plx_model_outline(context, &config, type, made);
    plx_node_free(context, root);
    return status;
}

plx_status plx_model_outline_json(plx_context *context, const json_t *config, plx_type type, plx_model **made)
{
    char *text = config != NULL ? json_dumps(config, JSON_REAL_PRECISION(17)) : NULL;
    if (text == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "out of memory for the config of the model");
    plx_status status = plx_model_outline_text(context, "config.json", text, type, made);
    free(text);
    return status;
}

size_t plx_model_parameter_count(const plx_model *model)
{
    size_t sum = 0;
    for (size_t i = 0; i < model->param_count; i++) sum += model->params[i]->elements;
    return sum;
}

plx_param *plx_model_find_param(const plx_model *model, const char *name)
{
    for (size_t i = 0; i < model->param_count; i++)
        if (strcmp(model->params[i]->name, name) == 0) return model->params[i];
    return NULL;
}

/* Lays tensors out one after the other in one block; offset NULL memory only adds up. */
size_t plx_params_layout(const plx_model *model, plx_slab slab, char *memory)
{
    size_t offset = 0;
    for (size_t i = 0; i < model->param_count; i++) {
        plx_param *param = model->params[i];
        if (slab != PLX_SLAB_WEIGHTS && !param->trainable) continue;
        size_t bytes = PLX_ALIGN(slab == PLX_SLAB_WEIGHTS ? plx_param_bytes(param)
                                                       : param->elements * plx_type_size(model->type));
        void *place = memory != NULL ? memory + offset : NULL;
        if (memory != NULL) {
            if (slab == PLX_SLAB_WEIGHTS) param->data = place;
            if (slab == PLX_SLAB_GRADIENTS) param->gradient = place;
            if (slab == PLX_SLAB_MOMENT1) param->moment1 = place;
            if (slab == PLX_SLAB_MOMENT2) param->moment2 = place;
        }
        if (!plx_add_sizes(offset, bytes, &offset)) return SIZE_MAX;
    }
    return offset;
}

plx_status plx_memory_check(plx_context *context, size_t bytes, const char *what)
{
    size_t available = plx_available_memory();
    if (bytes <= available) return PLX_OK;
    return plx_fail(context, PLX_ERROR_MEMORY,
                    "%s need %.3g GB and this machine has %.3g GB to give; choose a smaller model or batch", what,
                    (double)bytes / 1e9, (double)available / 1e9);
}

plx_status plx_model_allocate(plx_model *model)
{
    size_t bytes = plx_params_layout(model, PLX_SLAB_WEIGHTS, NULL);
    PLX_TRY(plx_memory_check(model->context, bytes, "the model's weights"));
    PLX_TRY(plx_device_alloc(model->context, bytes, &model->weights));
    plx_params_layout(model, PLX_SLAB_WEIGHTS, model->weights);
    for (size_t i = 0; i < model->rope_count; i++) PLX_TRY(plx_rope_fill(model->context, model->ropes[i], model->type));
    return PLX_OK;
}

plx_status plx_model_allocate_gradients(plx_model *model, bool moments)
{
    size_t bytes = plx_params_layout(model, PLX_SLAB_GRADIENTS, NULL), total = bytes;
    if (moments && (bytes > SIZE_MAX / 3)) total = SIZE_MAX;
    else if (moments) total = 3 * bytes;
    PLX_TRY(plx_memory_check(model->context, total, "gradients and optimiser state"));
    if (model->gradients == NULL) {
        PLX_TRY(plx_device_alloc(model->context, bytes > 0 ? bytes : 64, &model->gradients));
        plx_params_layout(model, PLX_SLAB_GRADIENTS, model->gradients);
        plx_device_fill(model->context, model->gradients, 0, bytes);
    }
    if (moments && model->moments == NULL) {
        PLX_TRY(plx_device_alloc(model->context, bytes > 0 ? 2 * bytes : 64, &model->moments));
        plx_params_layout(model, PLX_SLAB_MOMENT1, model->moments);
        plx_params_layout(model, PLX_SLAB_MOMENT2, (char *)model->moments + bytes);
        plx_device_fill(model->context, model->moments, 0, 2 * bytes);
    }
    return PLX_OK;
}

void plx_model_zero_gradients(plx_model *model)
{
    plx_device_fill(model->context, model->gradients, 0, plx_params_layout(model, PLX_SLAB_GRADIENTS, NULL));
}

void plx_model_free_gradients(plx_model *model)
{
    plx_device_free(model->context, model->gradients);
    plx_device_free(model->context, model->moments);
    model->gradients = model->moments = NULL;
    for (size_t i = 0; i < model->param_count; i++)
        model->params[i]->gradient = model->params[i]->moment1 = model->params[i]->moment2 = NULL;
}

plx_status plx_param_initialise(plx_context *context, const plx_param *param, uint64_t seed)
{
    enum { CHUNK = 65536 };
    const size_t size = plx_type_size(param->type);
    plx_random random;
    void *host = plx_alloc(context, (param->elements < CHUNK ? param->elements : CHUNK) * size);
    if (host == NULL) return plx_context_error(context)->code;
    plx_random_init(&random, seed, plx_hash(param->name));
    for (size_t first = 0; first < param->elements; first += CHUNK) {
        size_t count = param->elements - first < CHUNK ? param->elements - first : CHUNK;
        for (size_t j = 0; j < count; j++)
            plx_put(host, param->type, j,
                    param->init.kind == PLX_INIT_CONSTANT ? param->init.value
                                                          : param->init.value * plx_random_normal(&random));
        plx_device_upload(context, (char *)param->data + first * size, host, count * size);
    }
    plx_free(context, host);
    return PLX_OK;
}

plx_status plx_model_initialise(plx_model *model, uint64_t seed)
{
    for (size_t i = 0; i < model->param_count; i++) PLX_TRY(plx_param_initialise(model->context, model->params[i], seed));
    return PLX_OK;
}

void plx_model_free(plx_model *model)
{
    if (model == NULL) return;
    plx_context *context = model->context;
    plx_model_free_gradients(model);
    plx_model_free_tokenizer(model);
    plx_device_free(context, model->weights);
    for (size_t i = 0; i < model->param_count; i++) plx_free(context, model->params[i]);
    plx_free(context, model->params);
    for (size_t i = 0; i < model->rope_count; i++) {
        plx_device_free(context, model->ropes[i]->cosine);
        plx_device_free(context, model->ropes[i]->sine);
        plx_device_free(context, model->ropes[i]->frequency);
        plx_free(context, model->ropes[i]);
    }
    plx_free(context, model->ropes);
    plx_free(context, model->config_text);
    plx_config_release(context, &model->config);
    plx_free(context, model);
}
