/* plan.c - what a model and its training need, found by running the model's own code dry. */
#include "model/families/family.h"
#include "model/params_list.h"
#include "model/passes.h"

#include <stdio.h>
#include <string.h>

typedef struct one_layer { plx_layer *layer; size_t saved_bytes; double flops; } one_layer;

static plx_status pass_layer(plx_run *run, plx_model *model, void *user)
{
    one_layer *one = user;
    size_t count = run->tokens * model->config.hidden_size, before = run->saved.used;
    void *x, *y;
    PLX_TRY(plx_scratch(run, count, &x));
    PLX_TRY(plx_kept(run, count, &y)); /* the layer's output is the next one's input */
    PLX_TRY(plx_block_forward(run, one->layer, x, y));
    one->saved_bytes = run->saved.used - before;
    one->flops = run->flops;
    return PLX_OK;
}

size_t plx_layer_state_bytes(const plx_model *model, const plx_layer *layer, size_t tokens)
{
    plx_state_part parts[PLX_STATE_PARTS_MAX];
    size_t count = layer->mixer->state(layer->own, parts), bytes = 0;
    for (size_t i = 0; i < count; i++) {
        size_t held = parts[i].keep != 0 && parts[i].keep < tokens ? parts[i].keep : tokens;
        bytes += held * parts[i].width * plx_type_size(model->type);
    }
    return bytes;
}

static void count_parameters(const plx_model *model, plx_plan_layer *layers)
{
    size_t layer;
    for (size_t i = 0; i < model->param_count; i++)
        if (sscanf(model->params[i]->name, "model.layers.%zu.", &layer) == 1 && layer < model->config.layer_count)
            layers[layer].parameters += model->params[i]->elements;
}

plx_status plx_model_flops(plx_model *model, size_t length, double *flops_per_token)
{
    plx_loss_pass pass = {.scale = 1};
    plx_run run;
    PLX_TRY(plx_pass_measure(model, 1, length, 0, NULL, plx_pass_loss, &pass, &run));
    *flops_per_token = run.flops / (double)run.tokens;
    return PLX_OK;
}

plx_status plx_plan_outline(plx_model *model, size_t rows, size_t length, int flags, plx_plan *plan)
{
    plx_context *context = model->context;
    plx_loss_pass pass = {.scale = 1};
    plx_run run;
    size_t layers = model->config.layer_count;
    *plan = (plx_plan){
        .rows = rows, .length = length, .layer_count = layers, .parameters = plx_model_parameter_count(model)};
    if (length == 0 || rows == 0 || length > INT32_MAX || rows > (size_t)INT32_MAX / length)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "batches of %zu rows of %zu tokens: both must be at least 1, and the tokens fewer than 2^31",
                        rows, length);
    PLX_TRY(plx_pass_measure(model, rows, length, flags, NULL, plx_pass_loss, &pass, &run));
    plan->bytes.activations = run.saved.peak;
    plan->bytes.scratch = run.scratch.peak;
    PLX_TRY(plx_model_flops(model, length, &plan->flops_per_token));
    plan->bytes.weights = plx_params_layout(model, PLX_SLAB_WEIGHTS, NULL);
    plan->bytes.gradients = plx_params_layout(model, PLX_SLAB_GRADIENTS, NULL);
    plan->bytes.optimizer = 2 * plan->bytes.gradients;
    plan->layers = plx_alloc_array(context, layers, sizeof *plan->layers);
    if (plan->layers == NULL) return plx_context_error(context)->code;
    for (size_t i = 0; i < layers; i++) {
        plx_layer *layer = &model->config.layers[i];
        one_layer one = {.layer = layer};
        plx_status status =
            plx_pass_measure(model, rows, length, flags, NULL, pass_layer, &one, &run);
        if (status != PLX_OK) {
            plx_plan_free(context, plan);
            return status;
        }
        plan->layers[i] = (plx_plan_layer){
            .mixer = layer->mixer->name, .activation_bytes = one.saved_bytes,
            .state_bytes = plx_layer_state_bytes(model, layer, length),
            .flops_per_token = one.flops / (double)run.tokens,
        };
        plan->bytes.state += plan->layers[i].state_bytes;
    }
    count_parameters(model, plan->layers);
    plan->total_bytes = plan->bytes.weights + plan->bytes.gradients + plan->bytes.optimizer + plan->bytes.activations +
                        plan->bytes.scratch;
    plan->available_bytes = plx_available_memory();
    return PLX_OK;
}

plx_status plx_plan_config(plx_context *context, const plx_node *root, size_t rows, size_t length, size_t recompute,
                           plx_plan *plan)
{
    plx_config config;
    plx_model *model;
    *plan = (plx_plan){0};
    PLX_TRY(plx_config_parse(context, root, &config));
    PLX_TRY(plx_model_outline(context, &config, PLX_F32, &model));
    for (size_t i = 0; i < model->config.layer_count; i++) model->config.layers[i].recompute = i < recompute;
    plx_status status =
        plx_plan_outline(model, rows, length != 0 ? length : model->config.max_position_embeddings,
                         PLX_PASS_KEEP | PLX_PASS_TRAINING, plan);
    plx_model_free(model);
    return status;
}

plx_status plx_plan_model(plx_context *context, const char *path, size_t rows, size_t length, plx_plan *plan)
{
    plx_source source;
    *plan = (plx_plan){0};
    plx_status status = plx_source_open(context, path, &source);
    if (status == PLX_OK) status = plx_plan_config(context, source.config, rows != 0 ? rows : 1, length, 0, plan);
    plx_source_close(&source);
    return status;
}

void plx_plan_free(plx_context *context, plx_plan *plan)
{
    plx_free(context, plan->layers);
    *plan = (plx_plan){0};
}

plx_status plx_model_describe(plx_model *model, plx_model_info *info)
{
    *info = (plx_model_info){.parameters = plx_model_parameter_count(model), .vocab_size = model->config.vocab_size,
                             .hidden_size = model->config.hidden_size, .layers = model->config.layer_count,
                             .max_positions = model->config.max_position_embeddings};
    return plx_model_flops(model, info->max_positions, &info->flops_per_token);
}
