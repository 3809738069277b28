/* gguf.c - reading GGUF files.
 *
 *   "GGUF", version (u32), tensors (u64), values (u64)
 *   values:    key (string), kind (u32), the value; of an array: kind of its items (u32), their number (u64), the items
 *   tensors:   name (string), dimensions (u32), each (u64, the one whose numbers lie side by side first), type (u32),
 *              offset (u64) from the data's beginning
 *   data:      at the next multiple of the alignment (general.alignment, else 32), each tensor at such a multiple
 * A string is its length (u64) and its bytes. All is little-endian. Everything up to the data is read into one block of
 * memory, piece by piece as far as it goes, and stays there: keys and values point into it. */
#include "io/gguf.h"

#include "io/files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)1 << 20)
#define HEAD_MOST ((size_t)256 << 20) /* values and tensor list; the largest vocabularies take 20 MB */
#define VALUES_MOST 65536
#define TENSORS_MOST 65536
#define NAME_MOST 127

struct plx_gguf {
    plx_context *context;
    char *path;
    int file;
    uint64_t size;       /* of the file */
    unsigned char *head; /* its first `held` bytes */
    size_t held, at;     /* at: what is read next */
    size_t value_count, tensor_count;
    plx_gguf_value *values; /* in order of their keys */
    size_t *starts;         /* offsets in head while it may still move */
    plx_gguf_tensor *tensors;
};

static const struct {
    const char *name;
    int packing; /* plx_packing, or -1: not read */
} types[] = {
    {"F32", PLX_PACKED_F32},
    {"F16", PLX_PACKED_F16},
    {"Q4_0", PLX_PACKED_Q4_0},
    {"Q4_1", PLX_PACKED_Q4_1},
    {"?", -1},
    {"?", -1},
    {"Q5_0", PLX_PACKED_Q5_0},
    {"Q5_1", PLX_PACKED_Q5_1},
    {"Q8_0", PLX_PACKED_Q8_0},
    {"Q8_1", -1},
    {"Q2_K", -1},
    {"Q3_K", -1},
    {"Q4_K", PLX_PACKED_Q4_K},
    {"Q5_K", PLX_PACKED_Q5_K},
    {"Q6_K", PLX_PACKED_Q6_K},
    {"Q8_K", -1},
    {"IQ2_XXS", -1},
    {"IQ2_XS", -1},
    {"IQ3_XXS", -1},
    {"IQ1_S", -1},
    {"IQ4_NL", -1},
    {"IQ3_S", -1},
    {"IQ2_S", -1},
    {"IQ4_XS", -1},
    {"I8", -1},
    {"I16", -1},
    {"I32", -1},
    {"I64", -1},
    {"F64", PLX_PACKED_F64},
    {"IQ1_M", -1},
    {"BF16", PLX_PACKED_BF16},
};
#define TYPES ((int)(sizeof types / sizeof *types))

const char *plx_gguf_type_name(int type) { return type >= 0 && type < TYPES ? types[type].name : "?"; }

#define FAIL(file, ...) plx_fail((file)->context, PLX_ERROR_FORMAT, __VA_ARGS__)

/* A name from the file as it may stand in a message. */
typedef struct shown_text {
    char text[96];
} shown_text;
static shown_text show(const void *text, size_t bytes)
{
    const unsigned char *from = text;
    shown_text shown;
    size_t n = bytes < sizeof shown.text - 1 ? bytes : sizeof shown.text - 1;
    for (size_t i = 0; i < n; i++) shown.text[i] = from[i] < 32 || from[i] >= 127 ? '?' : (char)from[i];
    shown.text[n] = '\0';
    return shown;
}

/* ---- the head, read as far as it goes ---- */

/* Makes the next `bytes` bytes of the head readable. */
static plx_status need(plx_gguf *file, uint64_t bytes, const char *what)
{
    if (bytes > file->size - file->at)
        return FAIL(file, "%s: the file ends inside %s: it is cut off or damaged", file->path, what);
    if (bytes > HEAD_MOST - file->at)
        return FAIL(file, "%s: %s lies beyond the first %zu bytes: values and tensor list are too large", file->path,
                    what, HEAD_MOST);
    if (file->at + bytes <= file->held) return PLX_OK;
    size_t want = (file->at + (size_t)bytes + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
    if (want < 2 * file->held) want = 2 * file->held;
    if (want > HEAD_MOST) want = HEAD_MOST;
    if (want > file->size) want = (size_t)file->size;
    unsigned char *grown = plx_grow(file->context, file->head, file->held, want);
    if (grown == NULL) return PLX_ERROR_MEMORY;
    file->head = grown;
    PLX_TRY(plx_file_read_at(file->context, file->file, file->path, file->held, grown + file->held, want - file->held));
    file->held = want;
    return PLX_OK;
}

static plx_status read_number(plx_gguf *file, size_t bytes, const char *what, uint64_t *value)
{
    PLX_TRY(need(file, bytes, what));
    *value = plx_gguf_load(file->head + file->at, bytes);
    file->at += bytes;
    return PLX_OK;
}

/* *start: where the string's bytes begin in the head. */
static plx_status read_string(plx_gguf *file, const char *what, size_t *start, size_t *bytes)
{
    uint64_t length;
    PLX_TRY(read_number(file, 8, what, &length));
    PLX_TRY(need(file, length, what));
    *start = file->at;
    *bytes = (size_t)length;
    file->at += (size_t)length;
    return PLX_OK;
}

/* ---- values ---- */

static plx_status skip_items(plx_gguf *file, const plx_gguf_value *value, const char *what)
{
    if (value->kind == PLX_GGUF_STRING) {
        size_t start, bytes;
        for (size_t i = 0; i < value->count; i++) PLX_TRY(read_string(file, what, &start, &bytes));
        return PLX_OK;
    }
    size_t bytes = value->count * plx_gguf_kind_bytes(value->kind);
    PLX_TRY(need(file, bytes, what));
    for (size_t i = 0; value->kind == PLX_GGUF_BOOL && i < bytes; i++)
        if (file->head[file->at + i] > 1)
            return FAIL(file, "%s: %s holds %d where 0 or 1 must be", file->path, what, file->head[file->at + i]);
    file->at += bytes;
    return PLX_OK;
}

static plx_status read_kind(plx_gguf *file, const char *what, plx_gguf_kind *kind)
{
    uint64_t number;
    PLX_TRY(read_number(file, 4, what, &number));
    if (number >= PLX_GGUF_KINDS)
        return FAIL(file, "%s: %s is of kind %" PRIu64 ", which GGUF does not have", file->path, what, number);
    *kind = (plx_gguf_kind)number;
    return PLX_OK;
}

/* key and data hold offsets until the head stays where it is. */
static plx_status read_value(plx_gguf *file, size_t index)
{
    plx_gguf_value *value = &file->values[index];
    size_t key;
    uint64_t count = 1;
    PLX_TRY(read_string(file, "the key of a value", &key, &value->key_bytes));
    shown_text shown = show(file->head + key, value->key_bytes);
    PLX_TRY(read_kind(file, shown.text, &value->kind));
    value->array = value->kind == PLX_GGUF_ARRAY;
    if (value->array) {
        PLX_TRY(read_kind(file, shown.text, &value->kind));
        if (value->kind == PLX_GGUF_ARRAY)
            return FAIL(file, "%s: %s is an array of arrays, which is not read", file->path, shown.text);
        PLX_TRY(read_number(file, 8, shown.text, &count));
        if (count > (file->size - file->at) / plx_gguf_kind_bytes(value->kind))
            return FAIL(file, "%s: %s should have %" PRIu64 " items, more than the file has room for", file->path,
                        shown.text, count);
    }
    value->count = (size_t)count;
    file->starts[2 * index] = key;
    file->starts[2 * index + 1] = file->at;
    return skip_items(file, value, shown.text);
}

static int compare_keys(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}
static int by_key(const void *left, const void *right)
{
    const plx_gguf_value *a = left, *b = right;
    return compare_keys(a->key, a->key_bytes, b->key, b->key_bytes);
}

/* The head is complete: values get their pointers and their order. */
static plx_status place_values(plx_gguf *file)
{
    for (size_t i = 0; i < file->value_count; i++) {
        file->values[i].key = (const char *)file->head + file->starts[2 * i];
        file->values[i].data = file->head + file->starts[2 * i + 1];
    }
    if (file->value_count > 1) qsort(file->values, file->value_count, sizeof *file->values, by_key);
    for (size_t i = 1; i < file->value_count; i++)
        if (by_key(&file->values[i - 1], &file->values[i]) == 0)
            return FAIL(file, "%s: the key %s is given twice", file->path,
                        show(file->values[i].key, file->values[i].key_bytes).text);
    return PLX_OK;
}

const plx_gguf_value *plx_gguf_find(const plx_gguf *file, const char *key)
{
    size_t low = 0, high = file->value_count, bytes = strlen(key);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const plx_gguf_value *value = &file->values[middle];
        int order = compare_keys(key, bytes, value->key, value->key_bytes);
        if (order == 0) return value;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- tensors ---- */

static plx_status read_tensor(plx_gguf *file, plx_gguf_tensor *tensor)
{
    size_t start, bytes;
    uint64_t rank, type, size[4];
    PLX_TRY(read_string(file, "the name of a tensor", &start, &bytes));
    shown_text shown = show(file->head + start, bytes);
    if (bytes == 0 || bytes > NAME_MOST || memchr(file->head + start, 0, bytes) != NULL)
        return FAIL(file, "%s: a tensor's name of %zu bytes, '%s', is none", file->path, bytes, shown.text);
    tensor->name = plx_alloc(file->context, bytes + 1);
    if (tensor->name == NULL) return PLX_ERROR_MEMORY;
    memcpy(tensor->name, file->head + start, bytes);
    PLX_TRY(read_number(file, 4, shown.text, &rank));
    if (rank < 1 || rank > 4)
        return FAIL(file, "%s: tensor %s has %" PRIu64 " dimensions; there can be 1 to 4", file->path, shown.text,
                    rank);
    tensor->rank = (size_t)rank;
    tensor->elements = 1;
    for (size_t i = 0; i < rank; i++) {
        PLX_TRY(read_number(file, 8, shown.text, &size[i]));
        if (size[i] > SIZE_MAX / 16 || !plx_multiply_sizes(tensor->elements, (size_t)size[i], &tensor->elements))
            return FAIL(file, "%s: dimension %zu of tensor %s, %" PRIu64 ", makes it larger than any memory",
                        file->path, i, shown.text, size[i]);
        tensor->shape[rank - 1 - i] = (size_t)size[i];
    }
    PLX_TRY(read_number(file, 4, shown.text, &type));
    PLX_TRY(read_number(file, 8, shown.text, &tensor->offset));
    tensor->type = (int)type; /* four bytes */
    tensor->readable = type < (uint64_t)TYPES && types[tensor->type].packing >= 0;
    if (!tensor->readable) return PLX_OK;
    tensor->packing = (plx_packing)types[tensor->type].packing;
    size_t numbers = plx_packing_numbers(tensor->packing), taken;
    if (size[0] % numbers != 0)
        return FAIL(file, "%s: tensor %s has rows of %" PRIu64 " numbers, not whole blocks of %zu as its type %s needs",
                    file->path, shown.text, size[0], numbers, types[tensor->type].name);
    if (!plx_multiply_sizes(tensor->elements / numbers, plx_packing_bytes(tensor->packing), &taken))
        return FAIL(file, "%s: tensor %s is larger than any memory", file->path, shown.text);
    tensor->bytes = taken;
    return PLX_OK;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const plx_gguf_tensor *)left)->name, ((const plx_gguf_tensor *)right)->name);
}
static int by_offset(const void *left, const void *right)
{
    const plx_gguf_tensor *a = left, *b = right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Names differ; data lies inside of the file, aligned, and no two tensors share any. Offsets become the file's. */
static plx_status place_tensors(plx_gguf *file)
{
    uint64_t alignment = 32, end = 0;
    const plx_gguf_value *value = plx_gguf_find(file, "general.alignment");
    if (value != NULL) {
        double number = value->kind == PLX_GGUF_U32 && !value->array ? plx_gguf_number(value, 0) : 0;
        alignment = (uint64_t)number;
        if (alignment < 8 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0)
            return FAIL(file, "%s: general.alignment must be a power of two from 8 to 2^20", file->path);
    }
    uint64_t base = (file->at + alignment - 1) / alignment * alignment;
    plx_gguf_tensor *tensors = file->tensors;
    size_t count = file->tensor_count;
    if (count > 1) qsort(tensors, count, sizeof *tensors, by_name);
    for (size_t i = 1; i < count; i++)
        if (by_name(&tensors[i - 1], &tensors[i]) == 0)
            return FAIL(file, "%s: there are two tensors %s", file->path,
                        show(tensors[i].name, strlen(tensors[i].name)).text);
    if (count > 1) qsort(tensors, count, sizeof *tensors, by_offset);
    for (size_t i = 0; i < count; i++) {
        plx_gguf_tensor *tensor = &tensors[i];
        shown_text shown = show(tensor->name, strlen(tensor->name));
        if (tensor->offset % alignment != 0)
            return FAIL(file, "%s: tensor %s begins at %" PRIu64 ", no multiple of %" PRIu64, file->path, shown.text,
                        tensor->offset, alignment);
        if (tensor->offset < end)
            return FAIL(file, "%s: tensor %s begins at %" PRIu64 ", inside of the tensor before it", file->path,
                        shown.text, tensor->offset);
        if (base > file->size || tensor->offset > file->size - base ||
            tensor->bytes > file->size - base - tensor->offset)
            return FAIL(file, "%s: tensor %s lies beyond the end of the file, which is cut off or damaged", file->path,
                        shown.text);
        end = tensor->offset + tensor->bytes;
        tensor->offset += base;
    }
    return PLX_OK;
}

/* ---- files ---- */

static plx_status read_head(plx_gguf *file)
{
    uint64_t magic, version, tensors, values;
    PLX_TRY(plx_file_open(file->context, file->path, &file->file, &file->size));
    PLX_TRY(read_number(file, 4, "its first bytes", &magic));
    if (magic != 0x46554747)
        return FAIL(
            file,
            "%s is no GGUF file: it does not begin with GGUF; other models are directories (a run's too), other "
            "tokenizers a tokenizer.json",
            file->path);
    PLX_TRY(read_number(file, 4, "the version", &version));
    if (version != 2 && version != 3)
        return plx_fail(file->context, PLX_ERROR_UNSUPPORTED,
                        "%s: GGUF version %" PRIu64 " (%s); versions 2 and 3 are read", file->path, version,
                        version > 0xffff ? "or a file of big-endian numbers" : "or a damaged file");
    PLX_TRY(read_number(file, 8, "the number of tensors", &tensors));
    PLX_TRY(read_number(file, 8, "the number of values", &values));
    if (tensors > TENSORS_MOST || values > VALUES_MOST)
        return FAIL(file, "%s: %" PRIu64 " tensors and %" PRIu64 " values are more than %d and %d", file->path, tensors,
                    values, TENSORS_MOST, VALUES_MOST);
    file->values = plx_alloc_array(file->context, (size_t)values + 1, sizeof *file->values);
    file->starts = plx_alloc_array(file->context, 2 * (size_t)values + 1, sizeof *file->starts);
    file->tensors = plx_alloc_array(file->context, (size_t)tensors + 1, sizeof *file->tensors);
    if (file->values == NULL || file->starts == NULL || file->tensors == NULL) return PLX_ERROR_MEMORY;
    for (; file->value_count < values; file->value_count++) PLX_TRY(read_value(file, file->value_count));
    while (file->tensor_count < tensors) PLX_TRY(read_tensor(file, &file->tensors[file->tensor_count++]));
    PLX_TRY(place_values(file));
    return place_tensors(file);
}

plx_status plx_gguf_open(plx_context *context, const char *path, plx_gguf **opened)
{
    *opened = NULL;
    plx_gguf *file = plx_alloc(context, sizeof *file);
    if (file == NULL) return PLX_ERROR_MEMORY;
    file->context = context;
    file->file = -1;
    plx_status status = PLX_OK;
    if ((file->path = plx_strdup(context, path)) == NULL) status = PLX_ERROR_MEMORY;
    if (status == PLX_OK) status = read_head(file);
    if (status == PLX_OK)
        *opened = file;
    else
        plx_gguf_close(file);
    return status;
}

void plx_gguf_close(plx_gguf *file)
{
    if (file == NULL) return;
    if (file->file >= 0) close(file->file);
    for (size_t i = 0; i < file->tensor_count; i++) plx_free(file->context, file->tensors[i].name);
    plx_free(file->context, file->tensors);
    plx_free(file->context, file->values);
    plx_free(file->context, file->starts);
    plx_free(file->context, file->head);
    plx_free(file->context, file->path);
    plx_free(file->context, file);
}

const char *plx_gguf_path(const plx_gguf *file) { return file->path; }
const plx_gguf_value *plx_gguf_values(const plx_gguf *file, size_t *count)
{
    *count = file->value_count;
    return file->values;
}
size_t plx_gguf_tensor_count(const plx_gguf *file) { return file->tensor_count; }
const plx_gguf_tensor *plx_gguf_tensor_at(const plx_gguf *file, size_t index)
{
    return index < file->tensor_count ? &file->tensors[index] : NULL;
}

plx_status plx_gguf_read(plx_gguf *file, const plx_gguf_tensor *tensor, uint64_t first, void *data, size_t bytes)
{
    if (!tensor->readable)
        return plx_fail(file->context, PLX_ERROR_UNSUPPORTED, "%s: tensor %s is of type %s (%d), which is not read",
                        file->path, show(tensor->name, strlen(tensor->name)).text, plx_gguf_type_name(tensor->type),
                        tensor->type);
    if (first > tensor->bytes || bytes > tensor->bytes - first)
        return plx_fail(file->context, PLX_ERROR_VALUE, "%s: tensor %s has %" PRIu64 " bytes", file->path,
                        show(tensor->name, strlen(tensor->name)).text, tensor->bytes);
    return plx_file_read_at(file->context, file->file, file->path, tensor->offset + first, data, bytes);
}
