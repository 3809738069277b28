/* api.c - the model's part of plexus.h: making, describing, reading tensors, logits, scores and gradients. */
#include "model/params_list.h"
#include "model/passes.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

plx_status plx_model_create(plx_context *context, const char *config_json, const plx_model_options *options,
                            plx_model **made)
{
    plx_model_options defaults = {0};
    plx_model *model = NULL;
    *made = NULL;
    if (options == NULL) options = &defaults;
    PLX_TRY(plx_model_outline_text(context, "config.json", config_json, options->type, &model));
    plx_status status = plx_model_allocate(model);
    if (status == PLX_OK) status = plx_model_initialise(model, options->seed);
    if (status != PLX_OK) {
        plx_model_free(model);
        return status;
    }
    *made = model;
    return PLX_OK;
}

const char *plx_model_config(const plx_model *model) { return model->config_text; }
size_t plx_model_tensor_count(const plx_model *model) { return model->param_count; }

plx_status plx_model_tensor(const plx_model *model, size_t index, plx_tensor_info *info)
{
    if (index >= model->param_count)
        return plx_fail(model->context, PLX_ERROR_VALUE, "tensor %zu of a model that has %zu", index,
                        model->param_count);
    const plx_param *param = model->params[index];
    *info = (plx_tensor_info){.name = param->name, .type = param->type, .rank = param->rank,
                              .shape = {param->shape[0], param->shape[1], param->shape[2]}, .elements = param->elements,
                              .trainable = param->trainable, .decay = param->decay};
    return PLX_OK;
}

static plx_status find_tensor(plx_model *model, const char *name, size_t count, plx_param **param)
{
    *param = plx_model_find_param(model, name);
    if (*param == NULL) return plx_fail(model->context, PLX_ERROR_VALUE, "the model has no tensor '%s'", name);
    if (count != (*param)->elements)
        return plx_fail(model->context, PLX_ERROR_VALUE, "tensor %s has %zu elements, not %zu", name,
                        (*param)->elements, count);
    return PLX_OK;
}

plx_status plx_model_read_tensor(plx_model *model, const char *name, bool gradient, double *values, size_t count)
{
    plx_param *param;
    PLX_TRY(find_tensor(model, name, count, &param));
    const void *data = gradient ? param->gradient : param->data;
    plx_type type = gradient ? model->type : param->type;
    if (data == NULL)
        return plx_fail(model->context, PLX_ERROR_VALUE,
                        "tensor %s has no gradient: it is frozen, or none was computed", name);
    void *host = plx_alloc(model->context, count * plx_type_size(type));
    if (host == NULL) return plx_context_error(model->context)->code;
    plx_status status = PLX_OK;
    if (gradient) plx_device_download(model->context, host, data, count * plx_type_size(type));
    else status = plx_param_fetch(model->context, param, 0, count, host);
    for (size_t i = 0; i < count && status == PLX_OK; i++) values[i] = plx_get(host, type, i);
    plx_free(model->context, host);
    return status;
}

plx_status plx_model_write_tensor(plx_model *model, const char *name, const double *values, size_t count)
{
    plx_param *param;
    PLX_TRY(find_tensor(model, name, count, &param));
    if (param->form != PLX_FORM_PLAIN)
        return plx_fail(model->context, PLX_ERROR_UNSUPPORTED,
                        "tensor %s is packed (%s) and cannot be written; load the model with weights as f32", name,
                        plx_form_name(param->form));
    void *host = plx_alloc(model->context, count * plx_type_size(param->type));
    if (host == NULL) return plx_context_error(model->context)->code;
    for (size_t i = 0; i < count; i++) plx_put(host, param->type, i, values[i]);
    plx_device_upload(model->context, param->data, host, count * plx_type_size(param->type));
    plx_free(model->context, host);
    return PLX_OK;
}

plx_status plx_model_set_trainable(plx_model *model, const char *pattern, bool trainable)
{
    size_t matched = 0;
    if (model->gradients != NULL)
        return plx_fail(model->context, PLX_ERROR_VALUE,
                        "tensors are frozen before training begins: free the trainer first");
    for (size_t i = 0; i < model->param_count; i++)
        if (fnmatch(pattern, model->params[i]->name, 0) == 0) {
            model->params[i]->trainable = trainable;
            matched++;
        }
    if (matched == 0) return plx_fail(model->context, PLX_ERROR_VALUE, "no tensor's name matches '%s'", pattern);
    return PLX_OK;
}

/* ---- passes ---- */

typedef struct logits_pass { double *logits; } logits_pass;

static plx_status pass_logits(plx_run *run, plx_model *model, void *user)
{
    logits_pass *pass = user;
    size_t vocab = model->config.vocab_size, chunk = run->tokens < 256 ? run->tokens : 256;
    void *hidden, *logits, *host = NULL;
    PLX_TRY(plx_model_forward(run, model, &hidden));
    PLX_TRY(plx_scratch(run, chunk * vocab, &logits));
    if (!run->dry && (host = plx_alloc(run->context, chunk * vocab * plx_type_size(run->type))) == NULL)
        return plx_context_error(run->context)->code;
    plx_status status = PLX_OK;
    for (size_t first = 0; first < run->tokens && status == PLX_OK; first += chunk) {
        size_t rows = run->tokens - first < chunk ? run->tokens - first : chunk;
        status = plx_model_head(run, model, plx_at(run, hidden, first * model->config.hidden_size), rows, logits);
        if (status != PLX_OK || run->dry) continue;
        plx_run_download(run, host, logits, rows * vocab * plx_type_size(run->type));
        for (size_t i = 0; i < rows * vocab; i++) pass->logits[first * vocab + i] = plx_get(host, run->type, i);
    }
    plx_free(run->context, host);
    return status;
}

plx_status plx_model_logits(plx_model *model, const plx_batch *batch, double *logits)
{
    plx_arena arena;
    logits_pass pass = {logits};
    PLX_TRY(plx_batch_check(model->context, batch, model->config.vocab_size, false));
    plx_arena_init(&arena, model);
    plx_status status = plx_arena_run(&arena, batch, NULL, NULL, 0, 0, 0, pass_logits, &pass);
    plx_arena_release(&arena);
    return status;
}

plx_status plx_pass_loss(plx_run *run, plx_model *model, void *user)
{
    plx_loss_pass *pass = user;
    void *hidden, *loss, *correct, *dhidden = NULL;
    PLX_TRY(plx_saved_bytes(run, run->tokens * sizeof(double), &loss));
    PLX_TRY(plx_saved_bytes(run, run->tokens * sizeof(int32_t), &correct));
    PLX_TRY(plx_model_forward(run, model, &hidden));
    if (run->keep) PLX_TRY(plx_scratch(run, run->tokens * model->config.hidden_size, &dhidden));
    PLX_TRY(plx_model_loss(run, model, hidden, pass->scale, pass->z, dhidden, loss, correct));
    plx_run_download(run, pass->loss, loss, run->tokens * sizeof(double));
    plx_run_download(run, pass->correct, correct, run->tokens * sizeof(int32_t));
    if (!run->keep) return PLX_OK;
    return plx_model_backward(run, model, dhidden);
}

plx_status plx_loss_pass_create(plx_context *context, size_t tokens, plx_loss_pass *pass)
{
    *pass = (plx_loss_pass){.scale = 1};
    pass->loss = plx_alloc_array(context, tokens, sizeof *pass->loss);
    pass->correct = plx_alloc_array(context, tokens, sizeof *pass->correct);
    if (pass->loss != NULL && pass->correct != NULL) return PLX_OK;
    plx_loss_pass_release(context, pass);
    return plx_context_error(context)->code;
}
void plx_loss_pass_release(plx_context *context, plx_loss_pass *pass)
{
    plx_free(context, pass->loss);
    plx_free(context, pass->correct);
    *pass = (plx_loss_pass){0};
}

double plx_batch_weight(const plx_batch *batch)
{
    double sum = 0;
    for (size_t i = 0; i < batch->rows * batch->length; i++) sum += batch->mask != NULL ? batch->mask[i] : 1.0;
    return sum;
}

void plx_loss_pass_score(const plx_loss_pass *pass, const plx_batch *batch, plx_score *score)
{
    for (size_t i = 0; i < batch->rows * batch->length; i++) {
        double mask = batch->mask != NULL ? batch->mask[i] : 1.0;
        score->loss_sum += pass->loss[i];
        score->weight += mask;
        score->tokens += mask > 0;
        score->correct += mask > 0 && pass->correct[i];
    }
}

plx_status plx_score_in(plx_arena *arena, plx_loss_pass *pass, const plx_batch *batch, plx_score *score)
{
    PLX_TRY(plx_batch_check(arena->model->context, batch, arena->model->config.vocab_size, true));
    PLX_TRY(plx_arena_run(arena, batch, NULL, NULL, 0, 0, 0, plx_pass_loss, pass));
    plx_loss_pass_score(pass, batch, score);
    return PLX_OK;
}

plx_status plx_model_score(plx_model *model, const plx_batch *batch, plx_score *score)
{
    plx_arena arena;
    plx_loss_pass pass;
    PLX_TRY(plx_batch_check(model->context, batch, model->config.vocab_size, true));
    PLX_TRY(plx_loss_pass_create(model->context, batch->rows * batch->length, &pass));
    plx_arena_init(&arena, model);
    plx_status status = plx_score_in(&arena, &pass, batch, score);
    plx_arena_release(&arena);
    plx_loss_pass_release(model->context, &pass);
    return status;
}

plx_status plx_model_gradients(plx_model *model, const plx_batch *batch, double *loss)
{
    plx_arena arena;
    plx_loss_pass pass;
    plx_score score = {0};
    PLX_TRY(plx_batch_check(model->context, batch, model->config.vocab_size, true));
    double weight = plx_batch_weight(batch);
    if (weight <= 0)
        return plx_fail(model->context, PLX_ERROR_VALUE, "the batch's mask is 0 everywhere: there is no loss");
    PLX_TRY(plx_model_allocate_gradients(model, false));
    plx_model_zero_gradients(model);
    PLX_TRY(plx_loss_pass_create(model->context, batch->rows * batch->length, &pass));
    pass.scale = 1.0 / weight;
    plx_arena_init(&arena, model);
    plx_status status = plx_arena_run(&arena, batch, NULL, NULL, PLX_PASS_KEEP, 0, 0, plx_pass_loss, &pass);
    if (status == PLX_OK) {
        plx_loss_pass_score(&pass, batch, &score);
        *loss = score.loss_sum / score.weight;
    }
    plx_arena_release(&arena);
    plx_loss_pass_release(model->context, &pass);
    return status;
}
