/* write.c - a model as a directory in Hugging Face layout: config.json, model.safetensors (shards and an index above
 * 4 GB), generation_config.json; Plexus's own, or that of the family it came from. */
#include "io/files.h"
#include "io/safetensors.h"
#include "model/families/family.h"
#include "model/params_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLX_SHARD_BYTES ((size_t)4 << 30)

/* A tensor of the files: one of ours, or the three that a family keeps in one, its rows by heads. */
typedef struct output {
    plx_context *context;
    char name[160];
    plx_type type;
    const plx_param *parts[3];
    int count;    /* of parts */
    size_t block; /* fused: elements of a head in each part */
} output;

typedef struct output_list {
    output *items;
    plx_safetensors_entry *entries;
    size_t count;
} output_list;

/* ---- numbers ---- */

typedef struct convert_job {
    plx_type from, to;
    const void *in;
    void *out;
    size_t count, part;
} convert_job;

static void convert_part(void *argument, size_t index, int thread)
{
    const convert_job *job = argument;
    size_t first = index * job->part, end = job->count - first < job->part ? job->count : first + job->part;
    (void)thread;
    for (size_t i = first; i < end; i++) plx_put(job->out, job->to, i, plx_get(job->in, job->from, i));
}

/* Elements of one of our tensors, as the file's type. */
static plx_status take(const output *from, const plx_param *param, size_t first, size_t count, void *data)
{
    if (param->type == from->type) return plx_param_fetch(from->context, param, first, count, data);
    void *stored = plx_alloc_uncleared(from->context, count * plx_type_size(param->type));
    if (stored == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_param_fetch(from->context, param, first, count, stored);
    convert_job job = {param->type, from->type, stored, data, count, 16384};
    plx_parallel_for(from->context, (count + job.part - 1) / job.part, convert_part, &job);
    plx_free(from->context, stored);
    return status;
}

/* Block b of a fused tensor is head b / 3 of part b % 3. */
static plx_status fetch_output(void *user, size_t first, size_t count, void *data)
{
    const output *from = user;
    if (from->count == 1) return take(from, from->parts[0], first, count, data);
    for (size_t done = 0, some; done < count; done += some) {
        size_t at = first + done, block = at / from->block, inside = at % from->block;
        some = from->block - inside < count - done ? from->block - inside : count - done;
        PLX_TRY(take(from, from->parts[block % 3], block / 3 * from->block + inside, some,
                     (char *)data + done * plx_type_size(from->type)));
    }
    return PLX_OK;
}

/* ---- what is written ---- */

static plx_status add_output(plx_model *model, const plx_family *family, const plx_type *type, const plx_param *param,
                             output_list *list)
{
    plx_rows rows = PLX_ROWS_SAME;
    int part = 0;
    size_t layer;
    char name[160];
    if (family == NULL)
        snprintf(name, sizeof name, "%s", param->name);
    else if (!plx_family_tensor(family, false, param->name, name, &rows, &part))
        return plx_fail(model->context, PLX_ERROR_UNSUPPORTED, "the family %s has no tensor for %s", family->name,
                        param->name);
    output *made = NULL;
    for (size_t i = 0; i < list->count && rows != PLX_ROWS_SAME && made == NULL; i++)
        if (strcmp(list->items[i].name, name) == 0) made = &list->items[i];
    plx_safetensors_entry *entry = &list->entries[made != NULL ? (size_t)(made - list->items) : list->count];
    if (made == NULL) {
        made = &list->items[list->count++];
        made->context = model->context;
        made->type = type != NULL ? *type : param->type;
        strcpy(made->name, name);
        *entry = (plx_safetensors_entry){.name = made->name,
                                         .type = made->type,
                                         .rank = param->rank,
                                         .shape = {0, param->shape[1]},
                                         .fetch = fetch_output,
                                         .user = made};
    }
    if (rows != PLX_ROWS_SAME && sscanf(param->name, "model.layers.%zu.", &layer) == 1)
        made->block = model->config.layers[layer].shape.head_dim * (param->rank == 2 ? param->shape[1] : 1);
    made->parts[part] = param;
    made->count++;
    entry->shape[0] += param->shape[0];
    return PLX_OK;
}

static size_t entry_bytes(const plx_safetensors_entry *entry)
{
    return entry->shape[0] * (entry->rank == 2 ? entry->shape[1] : 1) * plx_type_size(entry->type);
}

/* Where the shard that begins with entry `first` ends. */
static size_t shard_end(const output_list *list, size_t first)
{
    size_t bytes = 0, end = first;
    for (; end < list->count; end++) {
        size_t more = entry_bytes(&list->entries[end]);
        if (end > first && bytes + more > PLX_SHARD_BYTES) break;
        bytes += more;
    }
    return end;
}

/* ---- files ---- */

plx_status plx_json_write(plx_context *context, const char *directory, const char *name, json_t *object)
{
    char *path = plx_format(context, "%s/%s", directory, name);
    char *text = object != NULL ? plx_json_text(object) : NULL;
    plx_status status = path != NULL && text != NULL
                            ? plx_file_write(context, path, text, strlen(text))
                            : plx_fail(context, PLX_ERROR_MEMORY, "no memory left to write %s", name);
    free(text);
    json_decref(object);
    plx_free(context, path);
    return status;
}

static plx_status write_shard(plx_context *context, const output_list *list, const char *directory, const char *name,
                              size_t first, size_t end)
{
    char *path = plx_format(context, "%s/%s", directory, name);
    if (path == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_safetensors_write(context, path, list->entries + first, end - first, "format", "pt");
    plx_free(context, path);
    return status;
}

static plx_status write_tensors(plx_context *context, const output_list *list, const char *directory)
{
    size_t shards = 0, first = 0;
    double total = 0;
    for (; first < list->count; shards++) first = shard_end(list, first);
    if (shards <= 1) return write_shard(context, list, directory, "model.safetensors", 0, list->count);
    json_t *map = json_object();
    plx_status status = PLX_OK;
    first = 0;
    for (size_t shard = 0; shard < shards && status == PLX_OK; shard++) {
        char name[64];
        size_t end = shard_end(list, first);
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
        status = write_shard(context, list, directory, name, first, end);
        for (; first < end && status == PLX_OK; first++) {
            total += (double)entry_bytes(&list->entries[first]);
            if (json_object_set_new(map, list->entries[first].name, json_string(name)) != 0)
                status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the index of shards");
        }
    }
    if (status != PLX_OK) {
        json_decref(map);
        return status;
    }
    return plx_json_write(context, directory, "model.safetensors.index.json",
                      json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map));
}

/* The type that most of the weights are written in, by the name that the field gives it. */
static const char *main_type(const output_list *list)
{
    size_t bytes[4] = {0}, most = 0;
    static const char *const names[] = {"float32", "float64", "bfloat16", "float16"};
    for (size_t i = 0; i < list->count; i++) {
        bytes[list->entries[i].type] += entry_bytes(&list->entries[i]);
        if (bytes[list->entries[i].type] > bytes[most]) most = list->entries[i].type;
    }
    return names[most];
}

static plx_status write_configs(plx_model *model, const plx_family *family, const output_list *list,
                                const char *directory)
{
    plx_context *context = model->context;
    json_t *config = NULL, *generation = json_object();
    plx_status status = PLX_OK;
    if (family == NULL)
        config = plx_config_describe(&model->config);
    else
        status = plx_family_write_config(context, family, &model->config, &config);
    if (status == PLX_OK && family != NULL)
        status = plx_made_set(context, config, "torch_dtype", json_string(main_type(list)));
    if (status == PLX_OK) status = plx_json_write(context, directory, "config.json", config);
    if (generation != NULL && model->config.bos_token_id >= 0)
        json_object_set_new(generation, "bos_token_id", json_integer(model->config.bos_token_id));
    if (generation != NULL && model->config.eos_token_id >= 0)
        json_object_set_new(generation, "eos_token_id", json_integer(model->config.eos_token_id));
    if (status == PLX_OK) return plx_json_write(context, directory, "generation_config.json", generation);
    json_decref(generation);
    return status;
}

/* family, type: NULL for Plexus's own layout, and each tensor as it is held. */
static plx_status write_model(plx_model *model, const char *directory, const plx_family *family, const plx_type *type)
{
    plx_context *context = model->context;
    output_list list = {.items = plx_alloc_array(context, model->param_count, sizeof *list.items),
                        .entries = plx_alloc_array(context, model->param_count, sizeof *list.entries)};
    plx_status status = list.items != NULL && list.entries != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    for (size_t i = 0; i < model->param_count && status == PLX_OK; i++)
        status = add_output(model, family, type, model->params[i], &list);
    if (status == PLX_OK) status = write_configs(model, family, &list, directory);
    if (status == PLX_OK) status = plx_model_write_tokenizer(model, directory);
    if (status == PLX_OK) status = write_tensors(context, &list, directory);
    plx_free(context, list.items);
    plx_free(context, list.entries);
    return status;
}

plx_status plx_model_write(plx_model *model, const char *directory)
{
    return write_model(model, directory, NULL, NULL);
}

plx_status plx_model_save(plx_model *model, const char *directory)
{
    return plx_model_save_as(model, directory, &(plx_layout){0});
}

plx_status plx_model_save_as(plx_model *model, const char *directory, const plx_layout *layout)
{
    const plx_family *family = layout->family != NULL ? plx_family_find(layout->family) : NULL;
    char *aside, names[256];
    if (layout->family != NULL && family == NULL)
        return plx_fail(model->context, PLX_ERROR_VALUE, "there is no family '%.40s'; there are %s", layout->family,
                        plx_family_list(names, sizeof names, false));
    if (layout->convert && (unsigned)layout->type > PLX_F16)
        return plx_fail(model->context, PLX_ERROR_VALUE, "%d is no plx_type", (int)layout->type);
    if (family != NULL && model->config.adapter.rank > 0)
        return plx_fail(model->context, PLX_ERROR_UNSUPPORTED,
                        "the family %s cannot say adapter: merge it into the weights, or write it alone (plexus convert "
                        "--merge, --adapter-only)",
                        family->name);
    if (family != NULL && strcmp(model->config.tokenizer, "bytes") == 0)
        plx_log(model->context, PLX_LOG_WARNING,
                "no tokenizer is written: %s has no file that says that ids are bytes (0 to 255) and separators (256)",
                family->name);
    PLX_TRY(plx_directory_begin(model->context, directory, &aside));
    plx_status status = write_model(model, aside, family, layout->convert ? &layout->type : NULL);
    if (status == PLX_OK) return plx_directory_commit(model->context, aside, directory);
    plx_directory_abandon(model->context, aside);
    return status;
}
