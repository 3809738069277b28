/* safetensors.h - reading and writing safetensors files: 8 bytes little-endian header length, a JSON header
 * {name: {dtype, shape, data_offsets}}, the data. Everything read is checked before it is used: header length, JSON,
 * types, shapes against offsets (checked products), overlaps, gaps, duplicate names, the end of the file. Data is read
 * with pread into memory of our own, so a file that shrinks is an error, not a signal. */
#ifndef PLX_IO_SAFETENSORS_H
#define PLX_IO_SAFETENSORS_H

#include "core/context.h"

typedef struct plx_safetensor {
    char *name;
    plx_type type;      /* F32, F64, BF16, F16; a file with other types opens, reading such a tensor is refused */
    bool readable;      /* one of those types */
    char dtype[8];      /* as written */
    size_t rank, shape[8], elements;
    uint64_t offset, bytes; /* in the file */
} plx_safetensor;

typedef struct plx_safetensors plx_safetensors;
plx_status plx_safetensors_open(plx_context *context, const char *path, plx_safetensors **file);
void plx_safetensors_close(plx_safetensors *file);
size_t plx_safetensors_count(const plx_safetensors *file);
const plx_safetensor *plx_safetensors_at(const plx_safetensors *file, size_t index);
const plx_safetensor *plx_safetensors_find(const plx_safetensors *file, const char *name); /* NULL when absent */
/* Reads the whole tensor as stored; bytes must equal the tensor's. */
plx_status plx_safetensors_read(plx_safetensors *file, const plx_safetensor *tensor, void *data, size_t bytes);
/* Bytes [first, first + bytes) of its data, as stored. */
plx_status plx_safetensors_read_part(plx_safetensors *file, const plx_safetensor *tensor, uint64_t first, void *data,
                                     size_t bytes);
/* Only the header, for fuzzing and tests: checks `bytes` of header text against a data size. */
plx_status plx_safetensors_check_header(plx_context *context, const char *header, size_t bytes, uint64_t data_bytes);

typedef struct plx_safetensors_entry {
    const char *name;
    plx_type type;
    size_t rank, shape[8];
    /* Puts elements [first, first + count) as stored into data. */
    plx_status (*fetch)(void *user, size_t first, size_t count, void *data);
    void *user;
} plx_safetensors_entry;
/* Writes and syncs the file (not atomic: call inside plx_directory_begin/commit). Entries are written in the order
 * given, the header padded with spaces to a multiple of 8. metadata_key NULL: no "__metadata__". */
plx_status plx_safetensors_write(plx_context *context, const char *path, const plx_safetensors_entry *entries,
                                 size_t count, const char *metadata_key, const char *metadata_value);

#endif
