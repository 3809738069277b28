/* source.c - what a path holds, and its tensors as ours. */
#include "model/families/family.h"

#include "io/files.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK_BYTES ((size_t)8 << 20) /* of a tensor, in memory at a time */

/* ---- opening ---- */

static plx_status open_gguf(plx_source *source)
{
    plx_context *context = source->context;
    char names[256], architecture[64] = "";
    const unsigned char *cursor = NULL;
    const char *text;
    size_t bytes;
    json_t *made;
    source->gguf = true;
    PLX_TRY(plx_store_open_gguf(context, source->path, &source->store));
    plx_gguf *file = plx_store_gguf(source->store);
    const plx_gguf_value *value = plx_gguf_find(file, "general.architecture"),
                         *split = plx_gguf_find(file, "split.count");
    if (value != NULL && value->kind == PLX_GGUF_STRING && !value->array) {
        plx_gguf_string_next(value, &cursor, &text, &bytes);
        snprintf(architecture, sizeof architecture, "%.*s", (int)(bytes < 60 ? bytes : 60), text);
    }
    source->family = plx_family_find_gguf(architecture);
    if (source->family == NULL)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED, "%s: general.architecture '%s' is not supported; there are %s",
                        source->path, architecture, plx_family_list(names, sizeof names, true));
    if (split != NULL && !split->array && split->kind != PLX_GGUF_STRING && plx_gguf_number(split, 0) > 1)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "%s: split.count: a model split into %g files is not read; "
                        "merge them first",
                        source->path, plx_gguf_number(split, 0));
    PLX_TRY(plx_family_read_gguf(context, source->family, source->store, &made));
    return plx_family_tree(context, source->path, made, &source->config);
}

static plx_status open_directory(plx_source *source)
{
    plx_context *context = source->context;
    char names[256], *file = plx_format(context, "%s/config.json", source->path);
    plx_node *root = NULL;
    json_t *made;
    if (file == NULL) return plx_context_error(context)->code;
    plx_status status = plx_node_read_json(context, file, &root);
    const plx_node *type = status == PLX_OK && root->kind == PLX_NODE_MAP ? plx_node_find(root, "model_type") : NULL;
    if (status == PLX_OK && type != NULL && type->kind == PLX_NODE_STRING && strcmp(type->text, "plexus") != 0) {
        source->family = plx_family_find(type->text);
        if (source->family == NULL)
            status = plx_fail(context, PLX_ERROR_UNSUPPORTED,
                              "%s: model_type '%.60s' is not supported; there are "
                              "plexus, %s",
                              file, type->text, plx_family_list(names, sizeof names, false));
        if (status == PLX_OK) status = plx_family_read_config(context, source->family, root, &made);
        if (status == PLX_OK) status = plx_family_tree(context, file, made, &source->config);
        plx_node_free(context, root);
    } else
        source->config = root;
    plx_free(context, file);
    return status;
}

plx_status plx_source_open(plx_context *context, const char *path, plx_source *source)
{
    struct stat about;
    *source = (plx_source){.context = context};
    if (stat(path, &about) == 0 && S_ISREG(about.st_mode)) {
        source->path = plx_strdup(context, path);
        return source->path != NULL ? open_gguf(source) : plx_context_error(context)->code;
    }
    PLX_TRY(plx_model_resolve(context, path, &source->path));
    return open_directory(source);
}

plx_status plx_source_open_tensors(plx_source *source)
{
    if (source->store != NULL) return PLX_OK;
    return plx_store_open_directory(source->context, source->path, &source->store);
}

void plx_source_close(plx_source *source)
{
    plx_store_close(source->store);
    plx_node_free(source->context, source->config);
    plx_free(source->context, source->path);
    *source = (plx_source){.context = source->context};
}

/* ---- tensors ---- */

static plx_status fail_shape(plx_source *source, const plx_stored *stored, const size_t *shape, size_t rank)
{
    char theirs[128] = "", ours[64] = "";
    for (size_t i = 0; i < stored->rank && i < 4; i++)
        snprintf(theirs + strlen(theirs), sizeof theirs - strlen(theirs), "%s%zu", i > 0 ? ", " : "", stored->shape[i]);
    for (size_t i = 0; i < rank; i++)
        snprintf(ours + strlen(ours), sizeof ours - strlen(ours), "%s%zu", i > 0 ? ", " : "", shape[i]);
    return plx_fail(source->context, PLX_ERROR_FORMAT, "%s: tensor %.100s has shape [%s] and %s asks for [%s]",
                    plx_store_path(source->store), stored->name, theirs,
                    source->gguf ? "what the file says" : "config.json", ours);
}

plx_status plx_source_find(plx_source *source, const plx_model *model, const plx_param *param,
                           plx_source_tensor *tensor)
{
    char name[160];
    size_t layer, shape[2] = {param->shape[0], param->shape[1]};
    *tensor = (plx_source_tensor){.rows = PLX_ROWS_SAME};
    if (source->family == NULL ||
        !plx_family_tensor(source->family, source->gguf, param->name, name, &tensor->rows, &tensor->part))
        snprintf(name, sizeof name, "%s", param->name);
    const plx_stored *stored = tensor->stored = plx_store_find(source->store, name);
    if (stored == NULL)
        return plx_fail(source->context, PLX_ERROR_FORMAT, "%s: tensor %s is missing from the %s",
                        plx_store_path(source->store), name, source->gguf ? "file" : "safetensors files");
    if (!stored->readable)
        return plx_fail(source->context, PLX_ERROR_UNSUPPORTED, "%s: tensor %s is of type %s, which is not read",
                        plx_store_path(source->store), stored->name, stored->type_name);
    if (tensor->rows != PLX_ROWS_SAME && sscanf(param->name, "model.layers.%zu.", &layer) == 1 &&
        layer < model->config.layer_count)
        tensor->shape = &model->config.layers[layer].shape;
    if (tensor->rows == PLX_ROWS_FUSED_BY_HEAD || tensor->rows == PLX_ROWS_FUSED_BY_PART) shape[0] *= 3;
    bool same = stored->rank == param->rank;
    for (size_t i = 0; same && i < param->rank; i++) same = stored->shape[i] == shape[i];
    if (!same) return fail_shape(source, stored, shape, param->rank);
    bool vector = param->rank == 1 && tensor->rows == PLX_ROWS_SAME;
    size_t columns = vector ? param->shape[0] : param->rank == 1 ? 1 : param->shape[1];
    if (columns % plx_packing_numbers(stored->packing) != 0)
        return plx_fail(source->context, PLX_ERROR_UNSUPPORTED,
                        "%s: tensor %s of type %s cannot be taken apart into rows of %zu numbers",
                        plx_store_path(source->store), stored->name, stored->type_name, columns);
    tensor->count = vector ? 1 : param->shape[0];
    tensor->row_bytes = columns / plx_packing_numbers(stored->packing) * plx_packing_bytes(stored->packing);
    return PLX_OK;
}

plx_status plx_source_read_rows(plx_source *source, const plx_source_tensor *tensor, size_t first, size_t count,
                                void *rows)
{
    const size_t bytes = tensor->row_bytes;
    if (tensor->rows == PLX_ROWS_SAME || count == 0)
        return plx_store_read(source->store, tensor->stored, (uint64_t)first * bytes, rows, count * bytes);
    size_t least = SIZE_MAX, most = 0;
    for (size_t i = first; i < first + count; i++) {
        size_t place = plx_rows_place(tensor->rows, tensor->part, tensor->shape, i);
        if (place < least) least = place;
        if (place > most) most = place;
    }
    char *span = plx_alloc_uncleared(source->context, (most - least + 1) * bytes);
    if (span == NULL) return PLX_ERROR_MEMORY;
    plx_status status =
        plx_store_read(source->store, tensor->stored, (uint64_t)least * bytes, span, (most - least + 1) * bytes);
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        size_t place = plx_rows_place(tensor->rows, tensor->part, tensor->shape, first + i);
        memcpy((char *)rows + i * bytes, span + (place - least) * bytes, bytes);
    }
    plx_free(source->context, span);
    return status;
}

/* ---- unpacking ---- */

typedef struct unpack_job {
    plx_packing packing;
    plx_type type;
    const char *packed;
    char *numbers;
    size_t blocks, part; /* in all, and in each piece of the work */
} unpack_job;

static void unpack_part(void *argument, size_t index, int thread)
{
    const unpack_job *job = argument;
    size_t first = index * job->part, count = job->blocks - first < job->part ? job->blocks - first : job->part;
    size_t numbers = plx_packing_numbers(job->packing), size = plx_type_size(job->type);
    const char *packed = job->packed + first * plx_packing_bytes(job->packing);
    char *to = job->numbers + first * numbers * size;
    plx_type type;
    (void)thread;
    if (job->type == PLX_F32) {
        plx_packing_unpack(job->packing, packed, count, (float *)to);
    } else if (plx_packing_plain(job->packing, &type)) {
        for (size_t i = 0; i < count; i++) plx_put(to, job->type, i, plx_get(packed, type, i));
    } else {
        float block[256];
        for (size_t i = 0; i < count; i++, packed += plx_packing_bytes(job->packing), to += numbers * size) {
            plx_packing_unpack(job->packing, packed, 1, block);
            for (size_t j = 0; j < numbers; j++) plx_put(to, job->type, j, block[j]);
        }
    }
}

typedef struct reading {
    plx_source *source;
    char *packed, *numbers; /* room for a chunk */
    size_t packed_bytes, number_bytes;
    double done, total; /* numbers read, and of all tensors */
} reading;

static plx_status reserve(plx_context *context, char **memory, size_t *held, size_t bytes)
{
    if (bytes <= *held) return PLX_OK;
    plx_free(context, *memory);
    *held = 0;
    *memory = plx_alloc_uncleared(context, bytes);
    if (*memory == NULL) return PLX_ERROR_MEMORY;
    *held = bytes;
    return PLX_OK;
}

/* So many rows, or a little fewer or more, that are whole panels and whole heads. */
static size_t whole_panels(size_t rows, const plx_layer_shape *shape)
{
    size_t step = shape != NULL && shape->head_dim > 0 ? shape->head_dim : 1;
    while (step % PLX_PANEL_ROWS != 0) step *= 2;
    return rows > step ? rows - rows % step : step;
}

static plx_status read_param(reading *state, const plx_source_tensor *tensor, const plx_param *param)
{
    plx_context *context = state->source->context;
    const plx_packing packing = tensor->stored->packing;
    const size_t size = plx_type_size(param->type), columns = param->elements / (tensor->count ? tensor->count : 1);
    size_t rows = tensor->row_bytes > 0 ? CHUNK_BYTES / (columns * size) : 0;
    if (tensor->shape != NULL && tensor->shape->head_dim > 0) rows -= rows % tensor->shape->head_dim;
    if (rows == 0) rows = tensor->shape != NULL ? tensor->shape->head_dim : 1;
    if (param->form != PLX_FORM_PLAIN) rows = whole_panels(rows, tensor->shape);
    if (rows > tensor->count) rows = tensor->count;
    PLX_TRY(reserve(context, &state->packed, &state->packed_bytes, rows * tensor->row_bytes));
    if (param->form == PLX_FORM_PLAIN)
        PLX_TRY(reserve(context, &state->numbers, &state->number_bytes, rows * columns * size));
    for (size_t first = 0; first < tensor->count; first += rows) {
        size_t count = tensor->count - first < rows ? tensor->count - first : rows;
        plx_type type;
        bool stays = plx_packing_plain(packing, &type) && type == param->type;
        PLX_TRY(plx_source_read_rows(state->source, tensor, first, count, state->packed));
        state->done += (double)(count * columns);
        plx_progress(context, "reading weights", state->done, state->total);
        if (param->form != PLX_FORM_PLAIN) {
            PLX_TRY(plx_param_pack(context, param, packing, state->packed, tensor->row_bytes, first, count));
            continue;
        }
        unpack_job job = {packing,
                          param->type,
                          state->packed,
                          state->numbers,
                          count * columns / plx_packing_numbers(packing),
                          65536 / plx_packing_numbers(packing)};
        if (!stays) plx_parallel_for(context, (job.blocks + job.part - 1) / job.part, unpack_part, &job);
        plx_device_upload(context, (char *)param->data + first * columns * size, stays ? state->packed : state->numbers,
                          count * columns * size);
    }
    return plx_check_cancel(context);
}

/* A tensor that no part of the model took: one that holds no weights, the head of a model that is tied, or an error. */
static plx_status check_left(plx_source *source, const plx_model *model, const plx_stored *stored)
{
    char head[160] = "lm_head.weight";
    plx_rows rows;
    int part;
    const plx_family *family = source->family;
    if (family != NULL) plx_family_tensor(family, source->gguf, "lm_head.weight", head, &rows, &part);
    if (model->config.tie_word_embeddings && strcmp(stored->name, head) == 0) return PLX_OK;
    for (size_t i = 0; family != NULL && family->no_weights[i] != NULL; i++)
        if (fnmatch(family->no_weights[i], stored->name, 0) == 0) return PLX_OK;
    return plx_fail(source->context, PLX_ERROR_FORMAT, "%s: tensor %.100s does not belong to the model of %s",
                    plx_store_path(source->store), stored->name, source->gguf ? "this file" : "config.json");
}

plx_status plx_source_read(plx_source *source, plx_model *model)
{
    plx_context *context = source->context;
    reading state = {.source = source};
    size_t count = plx_store_count(source->store);
    bool *taken = plx_alloc(context, count + 1);
    plx_status status = taken != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    for (size_t i = 0; i < model->param_count; i++) state.total += (double)model->params[i]->elements;
    for (size_t i = 0; i < model->param_count && status == PLX_OK; i++) {
        plx_source_tensor tensor;
        const plx_param *param = model->params[i];
        status = plx_source_find(source, model, param, &tensor);
        const bool kept = param->data == NULL || (source->keep_packed && param->form != PLX_FORM_PLAIN);
        if (status == PLX_OK && !kept)
            status = read_param(&state, &tensor, param);
        if (status == PLX_OK) taken[tensor.stored - plx_store_at(source->store, 0)] = true;
    }
    for (size_t i = 0; i < count && status == PLX_OK; i++)
        if (!taken[i]) status = check_left(source, model, plx_store_at(source->store, i));
    plx_free(context, state.packed);
    plx_free(context, state.numbers);
    plx_free(context, taken);
    return status;
}
