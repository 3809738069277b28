/* checkpoint.c - opening a model: its directory, a run's, another program's, or a GGUF. */
#include "io/files.h"
#include "io/safetensors.h"
#include "model/families/family.h"
#include "model/params_list.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

plx_status plx_tensor_read_into(plx_context *context, plx_safetensors *file, const plx_safetensor *tensor, void *device,
                                plx_type type)
{
    size_t elements = tensor->elements, size = plx_type_size(type);
    void *stored = plx_alloc(context, (size_t)tensor->bytes), *converted = NULL;
    plx_status status = stored != NULL ? plx_safetensors_read(file, tensor, stored, (size_t)tensor->bytes)
                                       : plx_context_error(context)->code;
    if (status == PLX_OK && tensor->type != type) {
        converted = plx_alloc_array(context, elements, size);
        if (converted == NULL) status = plx_context_error(context)->code;
        for (size_t i = 0; i < elements && status == PLX_OK; i++)
            plx_put(converted, type, i, plx_get(stored, tensor->type, i));
    }
    if (status == PLX_OK) plx_device_upload(context, device, converted != NULL ? converted : stored, elements * size);
    plx_free(context, stored);
    plx_free(context, converted);
    return status;
}

plx_status plx_model_read(plx_model *model, const char *directory)
{
    plx_source source = {.context = model->context, .keep_packed = true};
    plx_status status = plx_store_open_directory(model->context, directory, &source.store);
    if (status == PLX_OK) status = plx_source_read(&source, model);
    plx_source_close(&source);
    return status;
}

/* How a matrix is to be held; it is laid out so before memory is. */
static void choose_form(const plx_model *model, const plx_model_options *options, plx_packing stored, plx_param *param)
{
    const bool lookup = param == model->embedding || param == model->head;
    const bool packs = param->packable && param->shape[1] % PLX_BLOCK == 0;
    plx_type type;
    bool half = plx_packing_plain(stored, &type) && (type == PLX_BF16 || type == PLX_F16);
    if (half && (options->keep_stored_types || options->weights == PLX_WEIGHTS_STORED)) param->type = type;
    if (options->weights == PLX_WEIGHTS_BF16) param->type = PLX_BF16;
    if (options->weights == PLX_WEIGHTS_STORED && packs) param->form = plx_form_of(stored);
    if (options->weights == PLX_WEIGHTS_Q8_0 && packs) param->form = PLX_FORM_Q8_0;
    if (options->weights == PLX_WEIGHTS_Q4_0 && packs) param->form = lookup ? PLX_FORM_Q8_0 : PLX_FORM_Q4_0;
}

static plx_status choose_forms(plx_source *source, plx_model *model, const plx_model_options *options)
{
    for (size_t i = 0; i < model->param_count; i++) {
        plx_param *param = model->params[i];
        plx_source_tensor tensor;
        PLX_TRY(plx_source_find(source, model, param, &tensor));
        if (param->rank == 2) choose_form(model, options, tensor.stored->packing, param);
    }
    return PLX_OK;
}

plx_status plx_model_resolve(plx_context *context, const char *path, char **directory)
{
    plx_status status = PLX_OK;
    char *text = NULL, *config = plx_format(context, "%s/config.json", path),
         *latest = plx_format(context, "%s/latest", path);
    size_t bytes;
    *directory = NULL;
    if (config == NULL || latest == NULL) {
        status = plx_context_error(context)->code;
    } else if (plx_file_exists(config) || !plx_file_exists(latest)) {
        *directory = plx_strdup(context, path);
        if (*directory == NULL) status = plx_context_error(context)->code;
        else if (!plx_file_exists(path))
            status = plx_fail(context, PLX_ERROR_FILE,
                              "'%s': there is nothing of that name: check it, and the directory", path);
        else if (access(config, F_OK) != 0 && errno == EACCES)
            status = plx_file_fail(context, EACCES, "open", path);
        else if (!plx_file_exists(config))
            status = plx_fail(context, PLX_ERROR_FILE,
                              "%s: no model is there: a directory with config.json, a run (latest) or a .gguf is one", path);
    } else if ((status = plx_file_read(context, latest, 4096, &text, &bytes)) == PLX_OK) {
        text[strcspn(text, "\r\n")] = '\0';
        if (text[0] == '\0' || text[0] == '.' || strchr(text, '/') != NULL)
            status = plx_fail(context, PLX_ERROR_FORMAT, "%s: '%.60s' is not a checkpoint's name", latest, text);
        else if ((*directory = plx_format(context, "%s/checkpoints/%s", path, text)) == NULL)
            status = plx_context_error(context)->code;
    }
    plx_free(context, text);
    plx_free(context, config);
    plx_free(context, latest);
    if (status != PLX_OK) {
        plx_free(context, *directory);
        *directory = NULL;
    }
    return status;
}

/* The model of a file, before it has memory; source is closed by the caller, whatever comes back. */
static plx_status open_outline(plx_context *context, const char *path, const plx_model_options *options,
                               plx_source *source, plx_model **model)
{
    plx_config config;
    PLX_TRY(plx_source_open(context, path, source));
    if ((unsigned)options->weights > PLX_WEIGHTS_BF16)
        return plx_fail(context, PLX_ERROR_VALUE, "%d is no plx_weights", (int)options->weights);
    PLX_TRY(plx_config_parse(context, source->config, &config));
    PLX_TRY(plx_model_outline(context, &config, options->type, model));
    PLX_TRY(plx_source_open_tensors(source));
    return choose_forms(source, *model, options);
}

plx_status plx_model_load_outline(plx_context *context, const char *path, const plx_model_options *options,
                                  plx_model **made)
{
    plx_source source;
    plx_model *model = NULL;
    plx_status status = open_outline(context, path, options, &source, &model);
    plx_source_close(&source);
    *made = NULL;
    if (status == PLX_OK) *made = model;
    else plx_model_free(model);
    return status;
}

plx_status plx_model_load_rebuilt(plx_context *context, const char *path, const plx_model_options *options,
                                  const json_t *config, uint64_t seed, plx_model **made)
{
    plx_source source;
    plx_model *old = NULL, *model = NULL;
    plx_status status = open_outline(context, path, options, &source, &old);
    if (status == PLX_OK) status = plx_model_rebuild_outline(old, config, &model);
    if (status == PLX_OK) status = plx_model_allocate(model);
    if (status == PLX_OK) status = plx_model_lend(model, old, seed);
    if (status == PLX_OK) status = plx_source_read(&source, old);
    if (status == PLX_OK) status = plx_model_find_tokenizer(model, source.path, source.gguf ? source.path : NULL);
    plx_source_close(&source);
    plx_model_free(old);
    *made = NULL;
    if (status == PLX_OK) *made = model;
    else plx_model_free(model);
    return status;
}

plx_status plx_model_load(plx_context *context, const char *path, const plx_model_options *options, plx_model **made)
{
    plx_model_options defaults = {0};
    plx_source source;
    plx_model *model = NULL;
    *made = NULL;
    if (options == NULL) options = &defaults;
    plx_status status = open_outline(context, path, options, &source, &model);
    if (status == PLX_OK) status = plx_model_allocate(model);
    if (status == PLX_OK) status = plx_source_read(&source, model);
    if (status == PLX_OK) status = plx_model_find_tokenizer(model, source.path, source.gguf ? source.path : NULL);
    plx_source_close(&source);
    if (status == PLX_OK && options->adapter != NULL) {
        plx_model *base = model;
        status = plx_model_with_adapter(base, options->adapter, &model);
        plx_model_free(base);
    }
    if (status == PLX_OK) *made = model;
    else plx_model_free(model);
    return status;
}
