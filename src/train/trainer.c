/* trainer.c - one optimiser step: gradients of one or several batches, their norm, clipping, AdamW. */
#include "model/params_list.h"
#include "model/passes.h"
#include "train/train.h"

#include <math.h>

int plx_train_pass_flags(const plx_train_options *options)
{
    return PLX_PASS_KEEP | PLX_PASS_TRAINING | (options->precision == PLX_PRECISION_BF16 ? PLX_PASS_BF16 : 0);
}

/* The tensors that steps change, and arrays for what operations are told about them. */
static plx_status list_tensors(plx_trainer *trainer)
{
    plx_model *model = trainer->model;
    plx_context *context = model->context;
    size_t count = 0;
    trainer->trained = plx_alloc_array(context, model->param_count, sizeof *trainer->trained);
    if (trainer->trained == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < model->param_count; i++)
        if (model->params[i]->trainable) trainer->trained[count++] = model->params[i];
    trainer->tensors = count;
    trainer->squares = plx_alloc_array(context, count, sizeof *trainer->squares);
    trainer->updates = plx_alloc_array(context, count, sizeof *trainer->updates);
    trainer->host_norms = plx_alloc_array(context, count, sizeof *trainer->host_norms);
    if (trainer->squares == NULL || trainer->updates == NULL || trainer->host_norms == NULL) return PLX_ERROR_MEMORY;
    void *norms;
    PLX_TRY(plx_device_alloc(context, count * sizeof(double), &norms));
    trainer->norms = norms;
    return PLX_OK;
}

plx_status plx_trainer_create(plx_model *model, const plx_train_options *options, size_t rows, size_t length,
                              plx_trainer **made)
{
    plx_context *context = model->context;
    plx_loss_pass pass = {0};
    *made = NULL;
    if (rows == 0 || length == 0 || length > INT32_MAX || rows > (size_t)INT32_MAX / length)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "batches of %zu rows of %zu tokens: both must be at least 1, and the tokens fewer than 2^31",
                        rows, length);
    if (model->moments != NULL)
        return plx_fail(context, PLX_ERROR_VALUE, "the model has a trainer already: free that one first");
    for (size_t i = 0; i < model->param_count; i++)
        if (model->params[i]->trainable && model->params[i]->form != PLX_FORM_PLAIN)
            return plx_fail(context, PLX_ERROR_VALUE,
                            "tensor %s is packed (%s) and cannot be trained: freeze it, or load the model with weights "
                            "as f32",
                            model->params[i]->name, plx_form_name(model->params[i]->form));
    for (size_t i = 0; i < model->param_count; i++)
        if (model->params[i]->trainable && model->params[i]->type != model->type)
            return plx_fail(context, PLX_ERROR_VALUE,
                            "tensor %s is stored as %s: freeze it, or load the model with weights as f32",
                            model->params[i]->name, plx_type_name(model->params[i]->type));
    for (size_t i = 0; i < model->config.layer_count; i++)
        model->config.layers[i].recompute = i < options->recompute;

    /* The whole sum first, so that a model too large is refused before anything is taken. */
    plx_run run;
    PLX_TRY(plx_pass_measure(model, rows, length, plx_train_pass_flags(options), NULL, plx_pass_loss, &pass, &run));
    size_t gradients = plx_params_layout(model, PLX_SLAB_GRADIENTS, NULL);
    double sum = 3.0 * (double)gradients + (double)run.saved.peak + (double)run.scratch.peak;
    size_t available = plx_available_memory();
    if (sum > (double)available)
        return plx_fail(
            context, PLX_ERROR_MEMORY,
            "training needs %.3g GB more (gradients %.3g, optimiser %.3g, activations %.3g, scratch %.3g) and this "
            "machine has %.3g GB to give; use a smaller model or batch, shorter sequences, or train.recompute",
            sum / 1e9, (double)gradients / 1e9, 2.0 * (double)gradients / 1e9, (double)run.saved.peak / 1e9,
            (double)run.scratch.peak / 1e9, (double)available / 1e9);

    plx_trainer *trainer = plx_alloc(context, sizeof *trainer);
    if (trainer == NULL) return plx_context_error(context)->code;
    trainer->model = model;
    trainer->options = *options;
    trainer->rows = rows;
    trainer->length = length;
    plx_arena_init(&trainer->arena, model);
    plx_model_free_gradients(model);
    plx_status status;
    PLX_TRY_GOTO(status, failed, list_tensors(trainer));
    PLX_TRY_GOTO(status, failed, plx_loss_pass_create(context, rows * length, &trainer->pass));
    PLX_TRY_GOTO(status, failed, plx_model_allocate_gradients(model, true));
    PLX_TRY_GOTO(status, failed,
                 plx_arena_reserve(&trainer->arena, rows, length, plx_train_pass_flags(options), NULL,
                                   plx_pass_loss, &pass));
    *made = trainer;
    return PLX_OK;
failed:
    plx_trainer_free(trainer);
    return status;
}

void plx_trainer_free(plx_trainer *trainer)
{
    if (trainer == NULL) return;
    plx_context *context = trainer->model->context;
    plx_arena_release(&trainer->arena);
    plx_device_free(context, trainer->norms);
    plx_loss_pass_release(context, &trainer->pass);
    plx_free(context, trainer->trained);
    plx_free(context, trainer->squares);
    plx_free(context, trainer->updates);
    plx_free(context, trainer->host_norms);
    plx_model_free_gradients(trainer->model);
    plx_free(context, trainer);
}

/* Euclidean norm of all gradients (or weights), summed tensor by tensor; ERROR_NUMERIC says which tensor is not finite.
 */
static plx_status tensor_norm(plx_trainer *trainer, size_t step, bool gradients, double *norm)
{
    plx_context *context = trainer->model->context;
    for (size_t i = 0; i < trainer->tensors; i++) {
        const plx_param *param = trainer->trained[i];
        trainer->squares[i] =
            (plx_squares_tensor){.count = param->elements, .x = gradients ? param->gradient : param->data};
    }
    plx_sum_squares_args args = {.type = trainer->model->type, .tensors = trainer->tensors, .list = trainer->squares,
                                 .out = trainer->norms};
    PLX_TRY(plx_op_run(context, &plx_op_sum_squares, &args));
    plx_device_download(context, trainer->host_norms, trainer->norms, trainer->tensors * sizeof(double));
    double sum = 0;
    for (size_t i = 0; i < trainer->tensors; i++) {
        if (!isfinite(trainer->host_norms[i]))
            return plx_fail(context, PLX_ERROR_NUMERIC,
                            "step %zu: the %s %s is not finite; lower the learning rate, or clip gradients", step,
                            gradients ? "gradient of" : "weight", trainer->trained[i]->name);
        sum += trainer->host_norms[i];
    }
    *norm = sqrt(sum);
    return PLX_OK;
}

static plx_status update(plx_trainer *trainer, size_t step, double lr, double scale)
{
    const plx_train_options *options = &trainer->options;
    for (size_t i = 0; i < trainer->tensors; i++) {
        const plx_param *param = trainer->trained[i];
        trainer->updates[i] = (plx_adamw_tensor){
            .count = param->elements,
            .weight = param->data,
            .m = param->moment1,
            .v = param->moment2,
            .gradient = param->gradient,
            .decay = param->decay ? options->weight_decay : 0.0,
        };
    }
    plx_adamw_args args = {
        .type = trainer->model->type,
        .tensors = trainer->tensors,
        .list = trainer->updates,
        .grad_scale = scale,
        .lr = lr,
        .beta1 = options->beta1,
        .beta2 = options->beta2,
        .epsilon = options->epsilon,
        .correction1 = 1.0 - pow(options->beta1, (double)step),
        .correction2 = 1.0 - pow(options->beta2, (double)step),
    };
    return plx_op_run(trainer->model->context, &plx_op_adamw, &args);
}

plx_status plx_trainer_step(plx_trainer *trainer, const plx_batch *batches, size_t count, plx_step_report *report)
{
    plx_model *model = trainer->model;
    plx_context *context = model->context;
    const plx_train_options *options = &trainer->options;
    size_t step = trainer->step + 1, tokens = 0;
    double weight = 0, norm;
    plx_score score = {0};
    plx_loss_pass *pass = &trainer->pass;
    for (size_t i = 0; i < count; i++) {
        PLX_TRY(plx_batch_check(context, &batches[i], model->config.vocab_size, true));
        if (batches[i].rows * batches[i].length > trainer->rows * trainer->length)
            return plx_fail(context, PLX_ERROR_VALUE,
                            "a batch of %zu x %zu tokens is larger than the trainer's %zu x %zu", batches[i].rows,
                            batches[i].length, trainer->rows, trainer->length);
        weight += plx_batch_weight(&batches[i]);
    }
    if (!(weight > 0))
        return plx_fail(context, PLX_ERROR_VALUE, "step %zu: the mask is 0 everywhere: there is no loss to train on",
                        step);
    pass->scale = 1.0 / weight;
    pass->z = options->z_loss;
    plx_model_zero_gradients(model);
    for (size_t i = 0; i < count; i++) {
        PLX_TRY(plx_arena_run(&trainer->arena, &batches[i], NULL, NULL, plx_train_pass_flags(options), options->seed,
                              (uint64_t)step * count + i, plx_pass_loss, pass));
        plx_loss_pass_score(pass, &batches[i], &score);
        tokens += batches[i].rows * batches[i].length;
    }
    double loss = score.loss_sum / score.weight;
    if (!isfinite(loss)) {
        plx_status found = tensor_norm(trainer, step, false, &norm);
        if (found == PLX_OK) found = tensor_norm(trainer, step, true, &norm);
        if (found != PLX_OK && found != PLX_ERROR_NUMERIC) return found;
        return found != PLX_OK
                   ? plx_fail_prefix(context, found, "the loss is %s", isnan(loss) ? "NaN" : "infinite")
                   : plx_fail(context, PLX_ERROR_NUMERIC,
                              "step %zu: the loss is not finite: the logits (model.norm.weight's output) overflow; "
                              "lower the learning rate",
                              step);
    }
    PLX_TRY(tensor_norm(trainer, step, true, &norm));
    double scale = options->grad_clip > 0 && norm > options->grad_clip ? options->grad_clip / norm : 1.0;
    double lr = plx_schedule_lr(options, step);
    PLX_TRY(update(trainer, step, lr, scale));
    trainer->step = step;
    *report = (plx_step_report){.step = step, .loss = loss, .lr = lr, .grad_norm = norm, .tokens = tokens};
    return PLX_OK;
}
