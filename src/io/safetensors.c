/* safetensors.c - reading and writing safetensors files.
 *
 *   byte 0              8 bytes, little-endian: N, the length of the header
 *   byte 8              N bytes of JSON: {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...},
 *                       padded with spaces; "__metadata__" may map strings to strings
 *   byte 8 + N          the data: offsets count from here; tensors lie one behind the other without gap to the end
 *
 * Nothing in a file is believed: see safetensors.h. Data is little-endian, as on every machine Plexus builds for. */
#include "io/safetensors.h"

#include "io/files.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLX_HEADER_MOST ((uint64_t)100000000) /* as the Python package */
#define PLX_RANK_MOST 8
#define PLX_FETCH_BYTES ((size_t)1 << 20)

struct plx_safetensors {
    plx_context *context;
    char *path;
    int file;
    plx_safetensor *tensors; /* in order of their data */
    size_t count;
};

static const struct {
    const char *name;
    unsigned bits;
    int type; /* plx_type, or -1: such a tensor cannot be read */
} dtypes[] = {
    {"F32", 32, PLX_F32}, {"F64", 64, PLX_F64}, {"BF16", 16, PLX_BF16}, {"F16", 16, PLX_F16}, {"BOOL", 8, -1},
    {"U8", 8, -1},        {"I8", 8, -1},        {"I16", 16, -1},        {"U16", 16, -1},      {"I32", 32, -1},
    {"U32", 32, -1},      {"I64", 64, -1},      {"U64", 64, -1},        {"C64", 64, -1},      {"F8_E4M3", 8, -1},
    {"F8_E5M2", 8, -1},   {"F8_E8M0", 8, -1},   {"F4", 4, -1},
};
#define PLX_DTYPES (sizeof dtypes / sizeof dtypes[0])

static const char *dtype_name(plx_type type)
{
    for (size_t i = 0; i < PLX_DTYPES; i++)
        if (dtypes[i].type == (int)type) return dtypes[i].name;
    return NULL;
}

/* A tensor's name as it may stand in a message: short, without control characters. */
typedef struct shown_name {
    char text[96];
} shown_name;
static shown_name show(const char *name)
{
    shown_name shown;
    size_t n = 0;
    for (; name[n] != '\0' && n < sizeof shown.text - 1; n++)
        shown.text[n] = (unsigned char)name[n] < 32 || name[n] == 127 ? '?' : name[n];
    shown.text[n] = '\0';
    return shown;
}

#define FAIL_TENSOR(...) plx_fail(context, PLX_ERROR_FORMAT, __VA_ARGS__)

static plx_status read_dtype(plx_context *context, const json_t *value, plx_safetensor *tensor, unsigned *bits)
{
    const char *name = json_string_value(value);
    if (name == NULL) return FAIL_TENSOR("tensor '%s' has no dtype", show(tensor->name).text);
    for (size_t i = 0; i < PLX_DTYPES; i++) {
        if (strcmp(dtypes[i].name, name) != 0) continue;
        strcpy(tensor->dtype, dtypes[i].name);
        tensor->readable = dtypes[i].type >= 0;
        tensor->type = tensor->readable ? (plx_type)dtypes[i].type : PLX_F32;
        *bits = dtypes[i].bits;
        return PLX_OK;
    }
    return FAIL_TENSOR("tensor '%s' has the unknown dtype '%s'", show(tensor->name).text, show(name).text);
}

static plx_status read_shape(plx_context *context, const json_t *value, plx_safetensor *tensor)
{
    if (!json_is_array(value)) return FAIL_TENSOR("tensor '%s' has no shape", show(tensor->name).text);
    if (json_array_size(value) > PLX_RANK_MOST)
        return FAIL_TENSOR("tensor '%s' has %zu dimensions; at most %d are read", show(tensor->name).text,
                           json_array_size(value), PLX_RANK_MOST);
    tensor->rank = json_array_size(value);
    tensor->elements = 1;
    for (size_t i = 0; i < tensor->rank; i++) {
        const json_t *size = json_array_get(value, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return FAIL_TENSOR("dimension %zu of tensor '%s' is not a size", i, show(tensor->name).text);
        tensor->shape[i] = (size_t)json_integer_value(size);
        if (!plx_multiply_sizes(tensor->elements, tensor->shape[i], &tensor->elements))
            return FAIL_TENSOR("the shape of tensor '%s' is larger than any memory", show(tensor->name).text);
    }
    return PLX_OK;
}

static plx_status read_offsets(plx_context *context, const json_t *value, uint64_t data_bytes, plx_safetensor *tensor)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return FAIL_TENSOR("tensor '%s' needs data_offsets of two whole numbers", show(tensor->name).text);
    if (json_integer_value(begin) < 0 || json_integer_value(begin) > json_integer_value(end) ||
        (uint64_t)json_integer_value(end) > data_bytes)
        return FAIL_TENSOR("tensor '%s' lies at bytes %lld to %lld of %" PRIu64 ": the file is cut off or damaged",
                           show(tensor->name).text, (long long)json_integer_value(begin),
                           (long long)json_integer_value(end), data_bytes);
    tensor->offset = (uint64_t)json_integer_value(begin);
    tensor->bytes = (uint64_t)json_integer_value(end) - tensor->offset;
    return PLX_OK;
}

static plx_status read_tensor(plx_context *context, const char *name, const json_t *value, uint64_t data_bytes,
                              plx_safetensor *tensor)
{
    tensor->name = plx_strdup(context, name);
    if (tensor->name == NULL) return PLX_ERROR_MEMORY;
    if (!json_is_object(value)) return FAIL_TENSOR("tensor '%s' is not described by an object", show(name).text);
    unsigned bits = 0;
    PLX_TRY(read_dtype(context, json_object_get(value, "dtype"), tensor, &bits));
    PLX_TRY(read_shape(context, json_object_get(value, "shape"), tensor));
    PLX_TRY(read_offsets(context, json_object_get(value, "data_offsets"), data_bytes, tensor));
    size_t total_bits;
    if (!plx_multiply_sizes(tensor->elements, bits, &total_bits) || total_bits % 8 != 0 ||
        total_bits / 8 != tensor->bytes)
        return FAIL_TENSOR("tensor '%s': its shape of %zu elements of type %s does not take the %" PRIu64
                           " bytes it has",
                           show(name).text, tensor->elements, tensor->dtype, tensor->bytes);
    return PLX_OK;
}

static plx_status check_metadata(plx_context *context, json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return FAIL_TENSOR("__metadata__ is not an object");
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value)) return FAIL_TENSOR("__metadata__: '%s' is not a string", show(key).text);
    }
    return PLX_OK;
}

static int by_offset(const void *left, const void *right)
{
    const plx_safetensor *a = left, *b = right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1; /* empty tensors before the one that starts there */
    return strcmp(a->name, b->name);
}

/* Neither overlap nor gap, up to the end of the data. */
static plx_status check_layout(plx_context *context, const plx_safetensor *tensors, size_t count, uint64_t data_bytes)
{
    uint64_t expected = 0;
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].offset != expected)
            return FAIL_TENSOR("tensor '%s' starts at byte %" PRIu64 " where %" PRIu64 " was expected: %s",
                               show(tensors[i].name).text, tensors[i].offset, expected,
                               tensors[i].offset < expected ? "tensors overlap" : "there is a gap");
        expected += tensors[i].bytes; /* cannot overflow: each end was checked against data_bytes */
    }
    if (expected != data_bytes)
        return FAIL_TENSOR("the tensors take %" PRIu64 " bytes but %" PRIu64
                           " follow the header: the file is cut off or damaged",
                           expected, data_bytes);
    return PLX_OK;
}

static void free_tensors(plx_context *context, plx_safetensor *tensors, size_t count)
{
    for (size_t i = 0; tensors != NULL && i < count; i++) plx_free(context, tensors[i].name);
    plx_free(context, tensors);
}

static plx_status parse_header(plx_context *context, const char *header, size_t bytes, uint64_t data_bytes,
                               plx_safetensor **tensors, size_t *count)
{
    *tensors = NULL;
    *count = 0;
    json_error_t error;
    json_t *root = json_loadb(header, bytes, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) return FAIL_TENSOR("the header is not the JSON of a safetensors file: %s", show(error.text).text);
    plx_status status = PLX_OK;
    const char *name;
    json_t *value;
    if (!json_is_object(root)) {
        status = FAIL_TENSOR("the header is not an object");
        goto done;
    }
    if (json_object_size(root) > 0) {
        *tensors = plx_alloc_array(context, json_object_size(root), sizeof **tensors);
        if (*tensors == NULL) {
            status = PLX_ERROR_MEMORY;
            goto done;
        }
    }
    json_object_foreach(root, name, value) {
        if (strcmp(name, "__metadata__") == 0) {
            PLX_TRY_GOTO(status, done, check_metadata(context, value));
            continue;
        }
        plx_safetensor *tensor = &(*tensors)[(*count)++];
        PLX_TRY_GOTO(status, done, read_tensor(context, name, value, data_bytes, tensor));
    }
    if (*count > 1) qsort(*tensors, *count, sizeof **tensors, by_offset);
    status = check_layout(context, *tensors, *count, data_bytes);
done:
    json_decref(root);
    if (status != PLX_OK) {
        free_tensors(context, *tensors, *count);
        *tensors = NULL;
        *count = 0;
    }
    return status;
}

plx_status plx_safetensors_check_header(plx_context *context, const char *header, size_t bytes, uint64_t data_bytes)
{
    plx_safetensor *tensors;
    size_t count;
    PLX_TRY(parse_header(context, header, bytes, data_bytes, &tensors, &count));
    free_tensors(context, tensors, count);
    return PLX_OK;
}

static plx_status read_header(plx_safetensors *self)
{
    plx_context *context = self->context;
    uint64_t size, length = 0;
    unsigned char prefix[8];
    PLX_TRY(plx_file_open(context, self->path, &self->file, &size));
    if (size < sizeof prefix)
        return plx_fail(context, PLX_ERROR_FORMAT, "'%s' is no safetensors file: it has only %" PRIu64 " bytes",
                        self->path, size);
    PLX_TRY(plx_file_read_at(context, self->file, self->path, 0, prefix, sizeof prefix));
    for (int i = 7; i >= 0; i--) length = length << 8 | prefix[i];
    if (length > size - sizeof prefix || length > PLX_HEADER_MOST)
        return plx_fail(context, PLX_ERROR_FORMAT,
                        "'%s' is no safetensors file or is cut off: its header should take %" PRIu64 " of its %" PRIu64
                        " bytes",
                        self->path, length, size);
    char *header = plx_alloc(context, (size_t)length + 1);
    if (header == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_file_read_at(context, self->file, self->path, sizeof prefix, header, (size_t)length);
    uint64_t base = sizeof prefix + length;
    if (status == PLX_OK) {
        status = parse_header(context, header, (size_t)length, size - base, &self->tensors, &self->count);
        if (status != PLX_OK) plx_fail_prefix(context, status, "'%s'", self->path);
    }
    plx_free(context, header);
    for (size_t i = 0; i < self->count; i++) self->tensors[i].offset += base;
    return status;
}

plx_status plx_safetensors_open(plx_context *context, const char *path, plx_safetensors **file)
{
    *file = NULL;
    plx_safetensors *self = plx_alloc(context, sizeof *self);
    if (self == NULL) return PLX_ERROR_MEMORY;
    self->context = context;
    self->file = -1;
    plx_status status = PLX_ERROR_MEMORY;
    self->path = plx_strdup(context, path);
    if (self->path == NULL) goto failed;
    PLX_TRY_GOTO(status, failed, read_header(self));
    *file = self;
    return PLX_OK;
failed:
    plx_safetensors_close(self);
    return status;
}

void plx_safetensors_close(plx_safetensors *file)
{
    if (file == NULL) return;
    if (file->file >= 0) close(file->file);
    free_tensors(file->context, file->tensors, file->count);
    plx_free(file->context, file->path);
    plx_free(file->context, file);
}

size_t plx_safetensors_count(const plx_safetensors *file) { return file->count; }

const plx_safetensor *plx_safetensors_at(const plx_safetensors *file, size_t index)
{
    return index < file->count ? &file->tensors[index] : NULL;
}

const plx_safetensor *plx_safetensors_find(const plx_safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    return NULL;
}

plx_status plx_safetensors_read_part(plx_safetensors *file, const plx_safetensor *tensor, uint64_t first, void *data,
                                     size_t bytes)
{
    plx_context *context = file->context;
    if (!tensor->readable)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "'%s': tensor '%s' has type %s; F32, F64, BF16 and F16 can be read: convert the file",
                        file->path, show(tensor->name).text, tensor->dtype);
    if (first > tensor->bytes || bytes > tensor->bytes - first)
        return plx_fail(context, PLX_ERROR_VALUE, "'%s': tensor '%s' has %" PRIu64 " bytes, not the %zu asked for",
                        file->path, show(tensor->name).text, tensor->bytes, bytes);
    return plx_file_read_at(context, file->file, file->path, tensor->offset + first, data, bytes);
}

plx_status plx_safetensors_read(plx_safetensors *file, const plx_safetensor *tensor, void *data, size_t bytes)
{
    if (tensor->readable && bytes != tensor->bytes)
        return plx_fail(file->context, PLX_ERROR_VALUE, "'%s': tensor '%s' has %" PRIu64 " bytes, not the %zu asked for",
                        file->path, show(tensor->name).text, tensor->bytes, bytes);
    return plx_safetensors_read_part(file, tensor, 0, data, bytes);
}

/* ---- writing ---- */

static plx_status entry_size(plx_context *context, const plx_safetensors_entry *entry, size_t *elements, size_t *bytes)
{
    bool fits = entry->rank <= PLX_RANK_MOST;
    *elements = 1;
    for (size_t i = 0; fits && i < entry->rank; i++) fits = plx_multiply_sizes(*elements, entry->shape[i], elements);
    if (!fits || !plx_multiply_sizes(*elements, plx_type_size(entry->type), bytes))
        return plx_fail(context, PLX_ERROR_VALUE, "tensor '%s' has an impossible shape", show(entry->name).text);
    return PLX_OK;
}

/* The header as JSON; NULL when memory is short. */
static json_t *describe_entry(const plx_safetensors_entry *entry, uint64_t begin, uint64_t end)
{
    json_t *shape = json_array();
    for (size_t i = 0; i < entry->rank; i++) json_array_append_new(shape, json_integer((json_int_t)entry->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(entry->type), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)end);
}

static plx_status make_header(plx_context *context, const plx_safetensors_entry *entries, size_t count,
                              const char *metadata_key, const char *metadata_value, char **text)
{
    *text = NULL;
    plx_status status = PLX_OK;
    uint64_t offset = 0;
    bool short_of_memory = false;
    json_t *root = json_object();
    if (metadata_key != NULL)
        short_of_memory =
            json_object_set_new(root, "__metadata__", json_pack("{s:s}", metadata_key, metadata_value)) != 0;
    for (size_t i = 0; i < count; i++) {
        size_t elements, bytes;
        PLX_TRY_GOTO(status, done, entry_size(context, &entries[i], &elements, &bytes));
        if (json_object_get(root, entries[i].name) != NULL || strcmp(entries[i].name, "__metadata__") == 0) {
            status = plx_fail(context, PLX_ERROR_VALUE, "tensor name '%s' is taken", show(entries[i].name).text);
            goto done;
        }
        json_t *entry = describe_entry(&entries[i], offset, offset + bytes);
        short_of_memory = json_object_set_new(root, entries[i].name, entry) != 0 || short_of_memory;
        offset += bytes;
    }
    *text = short_of_memory ? NULL : json_dumps(root, JSON_COMPACT);
    if (*text == NULL) status = plx_fail(context, PLX_ERROR_MEMORY, "no memory for the header of a safetensors file");
done:
    json_decref(root);
    return status;
}

/* done, total: bytes of all entries. */
static plx_status write_entry(plx_context *context, plx_writer *writer, const plx_safetensors_entry *entry, char *chunk,
                              double *done, double total)
{
    size_t elements, bytes, size = plx_type_size(entry->type), most = PLX_FETCH_BYTES / size;
    PLX_TRY(entry_size(context, entry, &elements, &bytes));
    for (size_t first = 0; first < elements; first += most) {
        size_t count = elements - first < most ? elements - first : most;
        PLX_TRY(entry->fetch(entry->user, first, count, chunk));
        PLX_TRY(plx_writer_put(writer, chunk, count * size));
        *done += (double)(count * size);
        plx_progress(context, "writing weights", *done, total);
    }
    return PLX_OK;
}

plx_status plx_safetensors_write(plx_context *context, const char *path, const plx_safetensors_entry *entries,
                                 size_t count, const char *metadata_key, const char *metadata_value)
{
    char *header = NULL, *chunk = NULL;
    plx_writer writer = {.file = -1};
    double written = 0, total = 0;
    plx_status status;
    PLX_TRY_GOTO(status, done, make_header(context, entries, count, metadata_key, metadata_value, &header));
    for (size_t i = 0; i < count; i++) {
        size_t elements, bytes;
        PLX_TRY_GOTO(status, done, entry_size(context, &entries[i], &elements, &bytes));
        total += (double)bytes;
    }
    chunk = plx_alloc(context, PLX_FETCH_BYTES);
    if (chunk == NULL) {
        status = PLX_ERROR_MEMORY;
        goto done;
    }
    PLX_TRY_GOTO(status, done, plx_writer_open(context, path, &writer));
    size_t length = strlen(header), padding = (8 - length % 8) % 8;
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)(length + padding) >> 8 * i);
    PLX_TRY_GOTO(status, done, plx_writer_put(&writer, prefix, sizeof prefix));
    PLX_TRY_GOTO(status, done, plx_writer_put(&writer, header, length));
    PLX_TRY_GOTO(status, done, plx_writer_put(&writer, "        ", padding));
    for (size_t i = 0; i < count; i++)
        PLX_TRY_GOTO(status, done, write_entry(context, &writer, &entries[i], chunk, &written, total));
    status = plx_writer_finish(&writer);
done:
    plx_writer_abandon(&writer);
    plx_free(context, chunk);
    free(header); /* jansson's, from malloc */
    return status;
}
