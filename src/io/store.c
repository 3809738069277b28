/* store.c - one list of tensors over safetensors files or a GGUF. */
#include "io/store.h"

#include "io/files.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

struct plx_store {
    plx_context *context;
    char *path;
    plx_safetensors **files;
    size_t file_count;
    plx_gguf *gguf;
    plx_stored *tensors; /* in order of names */
    size_t count;
};

static plx_status begin(plx_context *context, const char *path, plx_store **made)
{
    plx_store *store = plx_alloc(context, sizeof *store);
    if (store == NULL) return PLX_ERROR_MEMORY;
    store->context = context;
    store->path = plx_strdup(context, path);
    *made = store;
    return store->path != NULL ? PLX_OK : PLX_ERROR_MEMORY;
}

static plx_stored *grow(plx_store *store, size_t more)
{
    size_t bytes = store->count * sizeof *store->tensors;
    plx_stored *grown = plx_grow(store->context, store->tensors, bytes, bytes + more * sizeof *grown + 1);
    if (grown == NULL) return NULL;
    store->tensors = grown;
    grown += store->count;
    store->count += more;
    return grown;
}

static plx_status add_file(plx_store *store, const char *path)
{
    size_t bytes = store->file_count * sizeof *store->files;
    plx_safetensors **files = plx_grow(store->context, store->files, bytes, bytes + sizeof *files);
    if (files == NULL) return PLX_ERROR_MEMORY;
    store->files = files;
    PLX_TRY(plx_safetensors_open(store->context, path, &files[store->file_count]));
    plx_safetensors *file = files[store->file_count++];
    size_t count = plx_safetensors_count(file);
    plx_stored *stored = grow(store, count);
    if (stored == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const plx_safetensor *entry = plx_safetensors_at(file, i);
        stored[i] = (plx_stored){.name = entry->name,
                                 .readable = entry->readable,
                                 .packing = plx_packing_of(entry->type),
                                 .type_name = entry->dtype,
                                 .rank = entry->rank,
                                 .elements = entry->elements,
                                 .file = store->file_count - 1,
                                 .entry = entry};
        memcpy(stored[i].shape, entry->shape, sizeof stored[i].shape);
    }
    return PLX_OK;
}

/* Each file that the index names, once. */
static plx_status add_indexed(plx_store *store, const char *index, const plx_node *root)
{
    plx_context *context = store->context;
    const plx_node *map = plx_node_find(root, "weight_map");
    if (map == NULL || map->kind != PLX_NODE_MAP)
        return plx_fail(context, PLX_ERROR_FORMAT, "%s: there is no mapping weight_map", index);
    for (const plx_node *item = map->child; item != NULL; item = item->next) {
        if (item->kind != PLX_NODE_STRING || strchr(item->text, '/') != NULL || item->text[0] == '.')
            return plx_fail(context, PLX_ERROR_FORMAT, "%s: weight_map: '%.60s' names no file of this directory", index,
                            item->key);
        bool seen = false;
        for (const plx_node *earlier = map->child; earlier != item && !seen; earlier = earlier->next)
            seen = strcmp(earlier->text, item->text) == 0;
        if (seen) continue;
        char *path = plx_format(context, "%s/%s", store->path, item->text);
        plx_status status = path != NULL ? add_file(store, path) : PLX_ERROR_MEMORY;
        plx_free(context, path);
        PLX_TRY(status);
    }
    return PLX_OK;
}

static plx_status add_directory(plx_store *store)
{
    plx_context *context = store->context;
    char *index = plx_format(context, "%s/model.safetensors.index.json", store->path);
    char *single = plx_format(context, "%s/model.safetensors", store->path);
    plx_node *root = NULL;
    plx_status status = index != NULL && single != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    if (status == PLX_OK && !plx_file_exists(index))
        status = add_file(store, single);
    else if (status == PLX_OK && (status = plx_node_read_json(context, index, &root)) == PLX_OK)
        status = add_indexed(store, index, root);
    plx_node_free(context, root);
    plx_free(context, index);
    plx_free(context, single);
    return status;
}

static plx_status add_gguf(plx_store *store)
{
    PLX_TRY(plx_gguf_open(store->context, store->path, &store->gguf));
    size_t count = plx_gguf_tensor_count(store->gguf);
    plx_stored *stored = grow(store, count);
    if (stored == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const plx_gguf_tensor *entry = plx_gguf_tensor_at(store->gguf, i);
        stored[i] = (plx_stored){.name = entry->name,
                                 .readable = entry->readable,
                                 .packing = entry->packing,
                                 .type_name = plx_gguf_type_name(entry->type),
                                 .rank = entry->rank,
                                 .elements = entry->elements,
                                 .entry = entry};
        memcpy(stored[i].shape, entry->shape, sizeof entry->shape);
    }
    return PLX_OK;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const plx_stored *)left)->name, ((const plx_stored *)right)->name);
}

static plx_status finish(plx_store *store, plx_status status, plx_store **opened)
{
    if (status == PLX_OK && store->count > 1) qsort(store->tensors, store->count, sizeof *store->tensors, by_name);
    for (size_t i = 1; status == PLX_OK && i < store->count; i++)
        if (by_name(&store->tensors[i - 1], &store->tensors[i]) == 0)
            status = plx_fail(store->context, PLX_ERROR_FORMAT, "%s: tensor %.100s is in two files", store->path,
                              store->tensors[i].name);
    *opened = status == PLX_OK ? store : NULL;
    if (status != PLX_OK) plx_store_close(store);
    return status;
}

plx_status plx_store_open_directory(plx_context *context, const char *directory, plx_store **opened)
{
    plx_store *store = NULL;
    plx_status status = begin(context, directory, &store);
    if (status == PLX_OK) status = add_directory(store);
    return finish(store, status, opened);
}

plx_status plx_store_open_gguf(plx_context *context, const char *path, plx_store **opened)
{
    plx_store *store = NULL;
    plx_status status = begin(context, path, &store);
    if (status == PLX_OK) status = add_gguf(store);
    return finish(store, status, opened);
}

void plx_store_close(plx_store *store)
{
    if (store == NULL) return;
    for (size_t i = 0; i < store->file_count; i++) plx_safetensors_close(store->files[i]);
    plx_gguf_close(store->gguf);
    plx_free(store->context, store->files);
    plx_free(store->context, store->tensors);
    plx_free(store->context, store->path);
    plx_free(store->context, store);
}

const char *plx_store_path(const plx_store *store) { return store->path; }
plx_gguf *plx_store_gguf(const plx_store *store) { return store->gguf; }
size_t plx_store_count(const plx_store *store) { return store->count; }
const plx_stored *plx_store_at(const plx_store *store, size_t index)
{
    return index < store->count ? &store->tensors[index] : NULL;
}

const plx_stored *plx_store_find(const plx_store *store, const char *name)
{
    plx_stored key = {.name = name};
    return store->count == 0 ? NULL : bsearch(&key, store->tensors, store->count, sizeof key, by_name);
}

plx_status plx_store_read(plx_store *store, const plx_stored *stored, uint64_t first, void *data, size_t bytes)
{
    if (store->gguf != NULL) return plx_gguf_read(store->gguf, stored->entry, first, data, bytes);
    return plx_safetensors_read_part(store->files[stored->file], stored->entry, first, data, bytes);
}
