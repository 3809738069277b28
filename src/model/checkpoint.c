/* checkpoint.c - a model as a directory in Hugging Face layout: config.json, model.safetensors (shards and an index
 * above 4 GB), generation_config.json. */
#include "io/files.h"
#include "io/safetensors.h"
#include "model/families/family.h"
#include "model/params_list.h"

#include <stdio.h>
#include <string.h>

#define PLX_SHARD_BYTES ((size_t)4 << 30)

plx_status plx_device_fetch(void *user, size_t first, size_t count, void *data)
{
    const plx_fetch *fetch = user;
    size_t size = plx_type_size(fetch->type);
    plx_device_download(fetch->context, data, (const char *)fetch->data + first * size, count * size);
    return PLX_OK;
}

static plx_status write_json(plx_context *context, const char *directory, const char *name, json_t *object)
{
    char *path = plx_format(context, "%s/%s", directory, name);
    char *text = object != NULL ? json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    plx_status status = path != NULL && text != NULL
                            ? plx_file_write(context, path, text, strlen(text))
                            : plx_fail(context, PLX_ERROR_MEMORY, "no memory left to write %s", name);
    free(text);
    json_decref(object);
    plx_free(context, path);
    return status;
}

/* Tensors [first, first + count) of the list into one file. */
static plx_status write_shard(plx_model *model, const char *path, size_t first, size_t count)
{
    plx_context *context = model->context;
    plx_safetensors_entry *entries = plx_alloc_array(context, count, sizeof *entries);
    plx_fetch *fetches = plx_alloc_array(context, count, sizeof *fetches);
    plx_status status = entries != NULL && fetches != NULL ? PLX_OK : plx_context_error(context)->code;
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        const plx_param *param = model->params[first + i];
        fetches[i] = (plx_fetch){context, param->data, param->type};
        entries[i] = (plx_safetensors_entry){.name = param->name,
                                             .type = param->type,
                                             .rank = param->rank,
                                             .shape = {param->shape[0], param->shape[1]},
                                             .fetch = plx_device_fetch,
                                             .user = &fetches[i]};
    }
    if (status == PLX_OK) status = plx_safetensors_write(context, path, entries, count, "format", "pt");
    plx_free(context, entries);
    plx_free(context, fetches);
    return status;
}

/* Where the shard that begins with tensor `first` ends. */
static size_t shard_end(const plx_model *model, size_t first)
{
    size_t bytes = 0, end = first;
    while (end < model->param_count) {
        size_t more = model->params[end]->elements * plx_type_size(model->params[end]->type);
        if (end > first && bytes + more > PLX_SHARD_BYTES) break;
        bytes += more;
        end++;
    }
    return end;
}

static plx_status write_shards(plx_model *model, const char *directory, size_t shards)
{
    plx_context *context = model->context;
    json_t *map = json_object();
    double total = 0;
    plx_status status =
        map != NULL ? PLX_OK : plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the index of shards");
    for (size_t shard = 0, first = 0; shard < shards && status == PLX_OK; shard++) {
        char name[64];
        size_t end = shard_end(model, first);
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
        char *path = plx_format(context, "%s/%s", directory, name);
        status = path != NULL ? write_shard(model, path, first, end - first) : plx_context_error(context)->code;
        plx_free(context, path);
        for (; first < end; first++) {
            total += (double)model->params[first]->elements * (double)plx_type_size(model->params[first]->type);
            if (json_object_set_new(map, model->params[first]->name, json_string(name)) != 0 && status == PLX_OK)
                status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the index of shards");
        }
    }
    if (status != PLX_OK) {
        json_decref(map);
        return status;
    }
    return write_json(context, directory, "model.safetensors.index.json",
                      json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map));
}

plx_status plx_model_write(plx_model *model, const char *directory)
{
    plx_context *context = model->context;
    size_t shards = 0;
    PLX_TRY(write_json(context, directory, "config.json", plx_config_describe(&model->config)));
    json_t *generation = json_object();
    if (generation != NULL && model->config.bos_token_id >= 0)
        json_object_set_new(generation, "bos_token_id", json_integer(model->config.bos_token_id));
    if (generation != NULL && model->config.eos_token_id >= 0)
        json_object_set_new(generation, "eos_token_id", json_integer(model->config.eos_token_id));
    PLX_TRY(write_json(context, directory, "generation_config.json", generation));
    for (size_t first = 0; first < model->param_count; shards++) first = shard_end(model, first);
    if (shards > 1) return write_shards(model, directory, shards);
    char *path = plx_format(context, "%s/model.safetensors", directory);
    if (path == NULL) return plx_context_error(context)->code;
    plx_status status = write_shard(model, path, 0, model->param_count);
    plx_free(context, path);
    return status;
}

plx_status plx_model_save(plx_model *model, const char *directory)
{
    char *aside;
    PLX_TRY(plx_directory_begin(model->context, directory, &aside));
    plx_status status = plx_model_write(model, aside);
    if (status == PLX_OK) return plx_directory_commit(model->context, aside, directory);
    plx_directory_abandon(model->context, aside);
    return status;
}

/* ---- reading ---- */

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
    plx_source source = {.context = model->context};
    plx_status status = plx_store_open_directory(model->context, directory, &source.store);
    if (status == PLX_OK) status = plx_source_read(&source, model);
    plx_source_close(&source);
    return status;
}

/* With keep_stored_types, matrices stored in 16 bits stay so: their type is set before memory is laid out. */
static plx_status keep_types(plx_source *source, plx_model *model)
{
    for (size_t i = 0; i < model->param_count; i++) {
        plx_param *param = model->params[i];
        plx_source_tensor tensor;
        plx_type type;
        PLX_TRY(plx_source_find(source, model, param, &tensor));
        bool half = plx_packing_plain(tensor.stored->packing, &type) && (type == PLX_BF16 || type == PLX_F16);
        if (param->rank == 2 && half) param->type = type;
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
        else if (!plx_file_exists(config))
            status = plx_fail(context, PLX_ERROR_FILE, "%s: no model is there (neither config.json nor latest)", path);
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

plx_status plx_model_load(plx_context *context, const char *path, const plx_model_options *options, plx_model **made)
{
    plx_model_options defaults = {0};
    plx_source source;
    plx_config config;
    plx_model *model = NULL;
    *made = NULL;
    if (options == NULL) options = &defaults;
    plx_status status = plx_source_open(context, path, &source);
    if (status == PLX_OK) status = plx_config_parse(context, source.config, &config);
    if (status == PLX_OK) status = plx_model_outline(context, &config, options->type, &model);
    if (status == PLX_OK) status = plx_source_open_tensors(&source);
    if (status == PLX_OK && options->keep_stored_types) status = keep_types(&source, model);
    if (status == PLX_OK) status = plx_model_allocate(model);
    if (status == PLX_OK) status = plx_source_read(&source, model);
    plx_source_close(&source);
    if (status == PLX_OK) *made = model;
    else plx_model_free(model);
    return status;
}
