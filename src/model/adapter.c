/* adapter.c - low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685): y = x W^T + b + (alpha / rank) (x A^T) B^T,
 * with A [rank, in] random and B [out, rank] zero at the start. x A^T is computed again in backward instead of kept. */
#include "model/params_list.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the key "adapter" of config.json ---- */

plx_status plx_adapter_parse(plx_context *context, const plx_node *node, const char *section,
                             plx_adapter_config *adapter)
{
    plx_keys keys;
    *adapter = (plx_adapter_config){.rank = 8};
    PLX_TRY(plx_keys_open(&keys, context, node, section));
    PLX_TRY(plx_keys_size(&keys, "rank", &adapter->rank, 1, 4096));
    adapter->alpha = 2.0 * (double)adapter->rank;
    PLX_TRY(plx_keys_real(&keys, "alpha", &adapter->alpha, 1e-6, 1e6));
    const plx_node *targets = plx_keys_node(&keys, "targets");
    if (targets != NULL && targets->kind != PLX_NODE_NULL) {
        if (targets->kind != PLX_NODE_LIST || targets->count == 0 || targets->count > PLX_ADAPTER_TARGETS)
            return plx_keys_fail(&keys, "targets",
                                 "a list of 1 to %d names or patterns is expected, as [q_proj, v_proj]",
                                 PLX_ADAPTER_TARGETS);
        for (const plx_node *item = targets->child; item != NULL; item = item->next) {
            char *target = adapter->targets[adapter->target_count++];
            if (item->kind != PLX_NODE_STRING || strlen(item->text) >= sizeof adapter->targets[0])
                return plx_keys_fail(&keys, "targets", "a target is the name of a projection, of less than %zu bytes",
                                     sizeof adapter->targets[0]);
            strcpy(target, item->text);
        }
    }
    return plx_keys_close(&keys);
}

json_t *plx_adapter_describe(const plx_adapter_config *adapter)
{
    if (adapter->rank == 0) return json_null();
    json_t *targets = adapter->target_count > 0 ? json_array() : json_null();
    for (size_t i = 0; i < adapter->target_count; i++)
        if (json_array_append_new(targets, json_string(adapter->targets[i])) != 0) {
            json_decref(targets);
            return NULL;
        }
    return json_pack("{s:I,s:f,s:o}", "rank", (json_int_t)adapter->rank, "alpha", adapter->alpha, "targets", targets);
}

/* Which target of the config, if any, means the projection of this name; without targets any does: 0. -1: none. */
static int target_of(const plx_adapter_config *adapter, const char *full)
{
    const char *own = strrchr(full, '.') != NULL ? strrchr(full, '.') + 1 : full;
    if (adapter->target_count == 0) return 0;
    for (size_t i = 0; i < adapter->target_count; i++)
        if (fnmatch(adapter->targets[i], own, 0) == 0 || fnmatch(adapter->targets[i], full, 0) == 0) return (int)i;
    return -1;
}

/* ---- tensors ---- */

plx_status plx_adapter_define(plx_params *params, plx_linear *linear, const char *name)
{
    const plx_adapter_config *adapter = &params->model->config.adapter;
    const size_t length = strlen(name);
    char full[128];
    if (adapter->rank == 0 || length < 5 || strcmp(name + length - 5, "_proj") != 0) return PLX_OK;
    snprintf(full, sizeof full, "%s.%s", params->prefix, name);
    int target = target_of(adapter, full);
    if (target < 0) return PLX_OK;
    params->adapted[target] = true;
    linear->adapter_scale = adapter->alpha / (double)adapter->rank;
    snprintf(full, sizeof full, "%s.lora_A.weight", name);
    plx_init a = {PLX_INIT_NORMAL, 1 / sqrt(3.0 * (double)linear->in)}, zero = {PLX_INIT_CONSTANT, 0};
    PLX_TRY(plx_params_add(params, full, 2, adapter->rank, linear->in, a, true, &linear->adapter_a));
    snprintf(full, sizeof full, "%s.lora_B.weight", name);
    return plx_params_add(params, full, 2, linear->out, adapter->rank, zero, true, &linear->adapter_b);
}

plx_status plx_adapter_check(const plx_params *params)
{
    const plx_adapter_config *adapter = &params->model->config.adapter;
    for (size_t i = 0; i < adapter->target_count; i++)
        if (!params->adapted[i])
            return plx_fail(
                params->model->context, PLX_ERROR_VALUE,
                "adapter.targets: no projection of the model is named '%s'; there are q_proj, k_proj, v_proj, "
                "o_proj, gate_proj, up_proj, down_proj, as the layers have them",
                adapter->targets[i]);
    return PLX_OK;
}

/* ---- products ---- */

static plx_linear half_a(const plx_linear *linear)
{
    return (plx_linear){.in = linear->in, .out = linear->adapter_a->shape[0], .weight = linear->adapter_a};
}
static plx_linear half_b(const plx_linear *linear)
{
    return (plx_linear){.in = linear->adapter_a->shape[0], .out = linear->out, .weight = linear->adapter_b};
}

/* *inner = scale x A^T, from scratch */
static plx_status inner_of(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void **inner)
{
    const plx_linear a = half_a(linear);
    PLX_TRY(plx_scratch(run, rows * a.out, inner));
    PLX_TRY(plx_linear_forward(run, &a, x, rows, *inner));
    return plx_run_add(run, *inner, linear->adapter_scale, NULL, 0, *inner, rows * a.out);
}

plx_status plx_adapter_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y)
{
    if (linear->adapter_a == NULL) return PLX_OK;
    const plx_linear b = half_b(linear);
    size_t mark = plx_mark(run);
    void *inner;
    PLX_TRY(inner_of(run, linear, x, rows, &inner));
    PLX_TRY(plx_linear_forward_add(run, &b, inner, rows, y));
    plx_release(run, mark);
    return PLX_OK;
}

/* *dinner = scale dy B, the gradient for x A^T, from scratch */
static plx_status dinner_of(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void **dinner)
{
    const plx_linear b = half_b(linear);
    PLX_TRY(plx_scratch(run, rows * b.in, dinner));
    PLX_TRY(plx_linear_backward_input(run, &b, dy, rows, *dinner, false));
    return plx_run_add(run, *dinner, linear->adapter_scale, NULL, 0, *dinner, rows * b.in);
}

plx_status plx_adapter_backward_weights(plx_run *run, const plx_linear *linear, const void *x, const void *dy,
                                        size_t rows)
{
    if (linear->adapter_a == NULL) return PLX_OK;
    const plx_linear a = half_a(linear), b = half_b(linear);
    size_t mark = plx_mark(run);
    void *inner, *dinner;
    PLX_TRY(inner_of(run, linear, x, rows, &inner));
    PLX_TRY(plx_linear_backward_weights(run, &b, inner, dy, rows));
    PLX_TRY(dinner_of(run, linear, dy, rows, &dinner));
    PLX_TRY(plx_linear_backward_weights(run, &a, x, dinner, rows));
    plx_release(run, mark);
    return PLX_OK;
}

plx_status plx_adapter_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx)
{
    if (linear->adapter_a == NULL) return PLX_OK;
    const plx_linear a = half_a(linear);
    size_t mark = plx_mark(run);
    void *dinner;
    PLX_TRY(dinner_of(run, linear, dy, rows, &dinner));
    PLX_TRY(plx_linear_backward_input(run, &a, dinner, rows, dx, true));
    plx_release(run, mark);
    return PLX_OK;
}

/* ---- merging ---- */

/* weight[out,in] += scale B A of the tensors of the old model named after it. */
static plx_status merge_into(plx_model *old, const plx_param *weight)
{
    plx_context *context = old->context;
    const size_t stem = strlen(weight->name) - strlen("weight");
    char name[160];
    snprintf(name, sizeof name, "%.*slora_A.weight", (int)stem, weight->name);
    const plx_param *a = plx_model_find_param(old, name);
    snprintf(name, sizeof name, "%.*slora_B.weight", (int)stem, weight->name);
    const plx_param *b = plx_model_find_param(old, name);
    if (a == NULL || b == NULL) return PLX_OK;
    if (weight->form != PLX_FORM_PLAIN)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "tensor %s is packed (%s) and takes no adapter up; load the model with weights as f32 to merge",
                        weight->name, plx_form_name(weight->form));
    void *scaled;
    PLX_TRY(plx_device_alloc(context, b->elements * plx_type_size(b->type), &scaled));
    const plx_adapter_config *adapter = &old->config.adapter;
    plx_add_args scale = {.type = b->type,
                          .count = b->elements,
                          .a = b->data,
                          .y = scaled,
                          .alpha = adapter->alpha / (double)adapter->rank};
    plx_matmul_args product = {.a_type = b->type,
                               .b_type = a->type,
                               .c_type = weight->type,
                               .a = scaled,
                               .b = a->data,
                               .c = weight->data,
                               .m = b->shape[0],
                               .n = a->shape[1],
                               .k = a->shape[0],
                               .lda = b->shape[1],
                               .ldb = a->shape[1],
                               .ldc = a->shape[1],
                               .beta = 1};
    plx_status status = plx_op_run(context, &plx_op_add, &scale);
    if (status == PLX_OK) status = plx_op_run(context, &plx_op_matmul, &product);
    plx_device_free(context, scaled);
    return status;
}

plx_status plx_model_merge(plx_model *model, plx_model **made)
{
    plx_context *context = model->context;
    *made = NULL;
    if (model->config.adapter.rank == 0) return plx_fail(context, PLX_ERROR_VALUE, "the model has no adapter to merge");
    plx_adapter_config adapter = model->config.adapter;
    model->config.adapter = (plx_adapter_config){0}; /* while the config without it is written */
    json_t *config = plx_config_describe(&model->config);
    model->config.adapter = adapter;
    plx_status status = plx_model_rebuild(model, config, 0, made);
    json_decref(config);
    for (size_t i = 0; status == PLX_OK && i < (*made)->param_count; i++)
        if ((*made)->params[i]->rank == 2) status = merge_into(model, (*made)->params[i]);
    if (status == PLX_OK) return PLX_OK;
    plx_model_free(*made);
    *made = NULL;
    return status;
}
