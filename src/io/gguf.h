/* gguf.h - reading GGUF files, versions 2 and 3: what is said about the model, and where its tensors lie.
 *
 * Nothing in a file is believed: every count, length, type, offset and name is checked before it is used, and errors
 * name the file and the field. Data is read with pread into memory of our own, so a file that shrinks is an error, not
 * a signal. */
#ifndef PLX_IO_GGUF_H
#define PLX_IO_GGUF_H

#include "core/node.h"
#include "io/packing.h"

typedef enum plx_gguf_kind {
    PLX_GGUF_U8, PLX_GGUF_I8, PLX_GGUF_U16, PLX_GGUF_I16, PLX_GGUF_U32, PLX_GGUF_I32, PLX_GGUF_F32,
    PLX_GGUF_BOOL, PLX_GGUF_STRING, PLX_GGUF_ARRAY, PLX_GGUF_U64, PLX_GGUF_I64, PLX_GGUF_F64,
    PLX_GGUF_KINDS
} plx_gguf_kind;

/* One value, or an array of `count` values of one kind, as they lie in the file (not aligned; a string is 8 bytes of
 * length, then its bytes). */
typedef struct plx_gguf_value {
    const char *key;         /* not ended by a 0 */
    size_t key_bytes;
    plx_gguf_kind kind;      /* of the value, or of each item */
    bool array;
    size_t count;            /* 1 where there is no array */
    const unsigned char *data;
} plx_gguf_value;

typedef struct plx_gguf_tensor {
    char *name;
    int type;                /* the file's number for it */
    bool readable;           /* `packing` holds for it; other types open, and reading such a tensor is refused */
    plx_packing packing;
    size_t rank, shape[4];   /* the last is the one whose numbers lie side by side: shape[0] rows of a matrix */
    size_t elements;
    uint64_t offset, bytes;  /* in the file; bytes 0 where it is not readable */
} plx_gguf_tensor;

typedef struct plx_gguf plx_gguf;
plx_status plx_gguf_open(plx_context *context, const char *path, plx_gguf **file);
void plx_gguf_close(plx_gguf *file);
const char *plx_gguf_path(const plx_gguf *file);
size_t plx_gguf_tensor_count(const plx_gguf *file);
const plx_gguf_tensor *plx_gguf_tensor_at(const plx_gguf *file, size_t index); /* in order of their data */
/* Bytes [first, first + bytes) of a tensor's data, as stored: packed forms are read like any other. */
plx_status plx_gguf_read(plx_gguf *file, const plx_gguf_tensor *tensor, uint64_t first, void *data, size_t bytes);
const char *plx_gguf_type_name(int type); /* "Q4_0"; "?" for a number that no type has */

/* All values, in order of their keys; and that of one key, NULL when absent. Valid until the file is closed. */
const plx_gguf_value *plx_gguf_values(const plx_gguf *file, size_t *count);
const plx_gguf_value *plx_gguf_find(const plx_gguf *file, const char *key);
/* Item `index` of an array of strings (or the string itself): *text of *bytes bytes, not ended by a 0. Walks the array
 * from `*cursor`, which the caller sets to NULL and index to 0, 1, ... in turn. */
void plx_gguf_string_next(const plx_gguf_value *value, const unsigned char **cursor, const char **text, size_t *bytes);
/* Item `index` of an array (or, 0, of a single value) of numbers or truths. */
double plx_gguf_number(const plx_gguf_value *value, size_t index);
/* Bytes of a value of this kind; of a string or an array at least so many. */
size_t plx_gguf_kind_bytes(plx_gguf_kind kind);
/* A little-endian number of up to 8 bytes. */
uint64_t plx_gguf_load(const unsigned char *from, size_t bytes);
/* The keys that begin with PREFIX, which is left out of their names, as a mapping: numbers, truths, strings, and arrays
 * of up to 4096 numbers; larger arrays and arrays of strings as null. Freed with plx_node_free. */
plx_status plx_gguf_section(plx_context *context, const plx_gguf *file, const char *prefix, plx_node **map);

#endif
