/* checkpoint.c - a model with what training needs to go on from it.
 *
 *     config.json, model.safetensors, generation_config.json    the model (model/checkpoint.c)
 *     optimizer.safetensors   for each trainable tensor NAME.moment1 and NAME.moment2, of its shape
 *     trainer.json            {"format": 1, "step": the steps done, "run": what the run wants to remember}
 *
 * The directory is filled under another name, synced and renamed: it is complete or not there. */
#include "io/files.h"
#include "io/safetensors.h"
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

enum { TRAINER_FORMAT = 1, TRAINER_JSON_MOST_BYTES = 1 << 20, MOMENTS = 2 };

/* One of a tensor's moments on its way to or from a file. */
typedef struct moment {
    plx_context *context;
    char *name;
    char *memory;      /* device */
    size_t element;    /* bytes */
    const plx_param *param;
} moment;

static plx_status fetch_moment(void *user, size_t first, size_t count, void *data)
{
    const moment *from = user;
    plx_device_download(from->context, data, from->memory + first * from->element, count * from->element);
    return PLX_OK;
}

static void free_moments(plx_context *context, moment *moments, size_t count)
{
    for (size_t i = 0; moments != NULL && i < count; i++) plx_free(context, moments[i].name);
    plx_free(context, moments);
}

/* The moments of all trainable tensors, in the model's order; *list is freed with free_moments. */
static plx_status list_moments(const plx_model *model, moment **list, size_t *count)
{
    plx_context *context = model->context;
    moment *moments = plx_alloc_array(context, model->param_count + 1, MOMENTS * sizeof *moments);
    size_t filled = 0;
    if (moments == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *param = model->params[i];
        void *const memory[MOMENTS] = {param->moment1, param->moment2};
        for (int which = 0; which < MOMENTS && param->moment1 != NULL; which++) {
            char *name = plx_format(context, "%s.moment%d", param->name, which + 1);
            if (name == NULL) {
                free_moments(context, moments, filled);
                return PLX_ERROR_MEMORY;
            }
            moments[filled++] = (moment){context, name, memory[which], plx_type_size(model->type), param};
        }
    }
    *list = moments;
    *count = filled;
    return PLX_OK;
}

static plx_status write_optimizer(const plx_model *model, const char *path)
{
    plx_context *context = model->context;
    moment *moments = NULL;
    size_t count = 0;
    PLX_TRY(list_moments(model, &moments, &count));
    plx_safetensors_entry *entries = plx_alloc_array(context, count + 1, sizeof *entries);
    plx_status status = entries == NULL ? PLX_ERROR_MEMORY : PLX_OK;
    for (size_t i = 0; status == PLX_OK && i < count; i++) {
        const plx_param *param = moments[i].param;
        entries[i] = (plx_safetensors_entry){.name = moments[i].name, .type = model->type, .rank = param->rank,
                                             .fetch = fetch_moment, .user = &moments[i]};
        for (size_t d = 0; d < param->rank; d++) entries[i].shape[d] = param->shape[d];
    }
    if (status == PLX_OK) status = plx_safetensors_write(context, path, entries, count, "format", "plexus");
    plx_free(context, entries);
    free_moments(context, moments, count);
    return status;
}

static plx_status read_moment(plx_safetensors *file, const char *path, plx_type type, const moment *to)
{
    const plx_param *param = to->param;
    const plx_safetensor *tensor = plx_safetensors_find(file, to->name);
    if (tensor == NULL) {
        return plx_fail(to->context, PLX_ERROR_FORMAT,
                        "%s has no %s: the tensors frozen now are not those of the run", path,
                        to->name);
    }
    bool same = tensor->readable && tensor->type == type && tensor->rank == param->rank;
    for (size_t d = 0; same && d < param->rank; d++) same = tensor->shape[d] == param->shape[d];
    if (!same) {
        return plx_fail(to->context, PLX_ERROR_FORMAT, "%s: %s is not of the model's shape and type", path, to->name);
    }
    const size_t bytes = param->elements * to->element;
    void *host = plx_alloc(to->context, bytes);
    if (host == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_safetensors_read(file, tensor, host, bytes);
    if (status == PLX_OK) plx_device_upload(to->context, to->memory, host, bytes);
    plx_free(to->context, host);
    return status;
}

static plx_status read_optimizer(plx_model *model, const char *path)
{
    plx_context *context = model->context;
    plx_safetensors *file = NULL;
    moment *moments = NULL;
    size_t count = 0;
    PLX_TRY(list_moments(model, &moments, &count));
    plx_status status = plx_safetensors_open(context, path, &file);
    if (status == PLX_OK && plx_safetensors_count(file) != count) {
        status = plx_fail(context, PLX_ERROR_FORMAT,
                          "%s holds %zu tensors and the model needs %zu: the tensors frozen now are"
                          " not those of the run", path, plx_safetensors_count(file), count);
    }
    for (size_t i = 0; status == PLX_OK && i < count; i++) status = read_moment(file, path, model->type, &moments[i]);
    plx_safetensors_close(file);
    free_moments(context, moments, count);
    return status;
}

static plx_status write_trainer(plx_context *context, const char *path, size_t step, const json_t *run_state)
{
    json_t *object = json_pack("{s:i, s:I, s:O?}", "format", TRAINER_FORMAT, "step", (json_int_t)step, "run",
                               (json_t *)(uintptr_t)run_state);
    char *text = object == NULL ? NULL : json_dumps(object, JSON_INDENT(2));
    plx_status status = text == NULL ? plx_fail(context, PLX_ERROR_MEMORY, "out of memory for %s", path)
                                     : plx_file_write(context, path, text, strlen(text));
    free(text);
    json_decref(object);
    return status;
}

static plx_status read_trainer(plx_context *context, const char *path, size_t *step, json_t **run_state)
{
    char *text = NULL;
    size_t bytes = 0;
    PLX_TRY(plx_file_read(context, path, TRAINER_JSON_MOST_BYTES, &text, &bytes));
    json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    plx_free(context, text);
    const json_t *format = json_object_get(object, "format"), *done = json_object_get(object, "step");
    plx_status status = PLX_OK;
    if (json_integer_value(format) != TRAINER_FORMAT || !json_is_integer(done) || json_integer_value(done) < 0) {
        status = plx_fail(context, PLX_ERROR_FORMAT, "%s is not what Plexus writes (format %d, step)", path,
                          TRAINER_FORMAT);
    } else {
        *step = (size_t)json_integer_value(done);
        *run_state = json_incref(json_object_get(object, "run"));
    }
    json_decref(object);
    return status;
}

/* The two files beside a model's, in `directory`; freed by the caller, NULL when memory is short. */
static char *optimizer_path(plx_context *context, const char *directory)
{
    return plx_format(context, "%s/optimizer.safetensors", directory);
}

static char *trainer_path(plx_context *context, const char *directory)
{
    return plx_format(context, "%s/trainer.json", directory);
}

plx_status plx_checkpoint_save(plx_trainer *trainer, const char *directory, const json_t *run_state)
{
    plx_model *model = trainer->model;
    plx_context *context = model->context;
    plx_status status = PLX_OK;
    char *aside = NULL, *optimizer = NULL, *state = NULL;

    PLX_TRY(plx_directory_begin(context, directory, &aside));
    optimizer = optimizer_path(context, aside);
    state = trainer_path(context, aside);
    if (optimizer == NULL || state == NULL) { status = PLX_ERROR_MEMORY; goto done; }
    PLX_TRY_GOTO(status, done, plx_model_write(model, aside));
    PLX_TRY_GOTO(status, done, write_optimizer(model, optimizer));
    PLX_TRY_GOTO(status, done, write_trainer(context, state, trainer->step, run_state));
done:
    plx_free(context, optimizer);
    plx_free(context, state);
    if (status == PLX_OK) return plx_directory_commit(context, aside, directory);
    plx_directory_abandon(context, aside);
    return status;
}

plx_status plx_checkpoint_load(plx_trainer *trainer, const char *directory, json_t **run_state)
{
    plx_model *model = trainer->model;
    plx_context *context = model->context;
    plx_status status = PLX_OK;
    json_t *run = NULL;
    size_t step = 0;
    char *optimizer = optimizer_path(context, directory), *state = trainer_path(context, directory);

    if (optimizer == NULL || state == NULL) { status = PLX_ERROR_MEMORY; goto done; }
    PLX_TRY_GOTO(status, done, read_trainer(context, state, &step, &run));
    PLX_TRY_GOTO(status, done, read_optimizer(model, optimizer));
    PLX_TRY_GOTO(status, done, plx_model_read(model, directory));
    trainer->step = step;
    *run_state = run;
    run = NULL;
done:
    json_decref(run);
    plx_free(context, optimizer);
    plx_free(context, state);
    return status;
}

plx_status plx_checkpoint_read_state(plx_context *context, const char *directory, json_t **run_state)
{
    size_t step;
    char *path = trainer_path(context, directory);
    if (path == NULL) return PLX_ERROR_MEMORY;
    plx_status status = read_trainer(context, path, &step, run_state);
    plx_free(context, path);
    return status;
}
