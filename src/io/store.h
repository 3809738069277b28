/* store.h - the tensors of a model's files by name, wherever they lie: in one safetensors file, in several with an
 * index, or in a GGUF. */
#ifndef PLX_IO_STORE_H
#define PLX_IO_STORE_H

#include "io/gguf.h"

typedef struct plx_stored {
    const char *name;
    bool readable;           /* `packing` holds; else reading is refused with the type's name */
    plx_packing packing;
    const char *type_name;   /* as the file calls it */
    size_t rank, shape[8], elements;
    size_t file;             /* of those of the store */
    const void *entry;       /* plx_safetensor or plx_gguf_tensor */
} plx_stored;

typedef struct plx_store plx_store;
/* model.safetensors of a directory, or the files that model.safetensors.index.json names. */
plx_status plx_store_open_directory(plx_context *context, const char *directory, plx_store **store);
plx_status plx_store_open_gguf(plx_context *context, const char *path, plx_store **store);
void plx_store_close(plx_store *store);
const char *plx_store_path(const plx_store *store); /* for messages: the directory or file */
plx_gguf *plx_store_gguf(const plx_store *store);    /* NULL: safetensors */
size_t plx_store_count(const plx_store *store);
const plx_stored *plx_store_at(const plx_store *store, size_t index); /* in order of names */
const plx_stored *plx_store_find(const plx_store *store, const char *name); /* NULL when absent */
/* Bytes [first, first + bytes) of the tensor as stored. */
plx_status plx_store_read(plx_store *store, const plx_stored *stored, uint64_t first, void *data, size_t bytes);

#endif
