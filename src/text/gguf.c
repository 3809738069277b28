/* gguf.c - the tokenizer that a GGUF file holds, as arrays. */
#include "io/gguf.h"
#include "text/tokenizer.h"

#include <string.h>

/* An array of strings, each ended by a 0, in one block: the pointers first. NULL in *texts when the key is absent. */
static plx_status take_strings(plx_context *context, const plx_gguf *file, const char *key, const char ***texts,
                               size_t *count)
{
    const plx_gguf_value *value = plx_gguf_find(file, key);
    const unsigned char *cursor = NULL;
    const char *text;
    size_t bytes, total = 0, room;
    *texts = NULL;
    *count = 0;
    if (value == NULL) return PLX_OK;
    if (value->kind != PLX_GGUF_STRING)
        return plx_fail(context, PLX_ERROR_FORMAT, "%s: %s: must be a list of strings", plx_gguf_path(file), key);
    for (size_t i = 0; i < value->count; i++) {
        plx_gguf_string_next(value, &cursor, &text, &bytes);
        if (memchr(text, '\0', bytes) != NULL)
            return plx_fail(context, PLX_ERROR_FORMAT, "%s: %s[%zu]: has a 0 inside", plx_gguf_path(file), key, i);
        total += bytes + 1; /* no more than the file's size and count */
    }
    if (!plx_multiply_sizes(value->count + 1, sizeof **texts, &room) || !plx_add_sizes(room, total, &room))
        return plx_fail(context, PLX_ERROR_MEMORY, "%s: %s is too long to hold", plx_gguf_path(file), key);
    *texts = plx_alloc(context, room);
    if (*texts == NULL) return PLX_ERROR_MEMORY;
    char *to = (char *)(*texts + value->count + 1);
    cursor = NULL;
    for (size_t i = 0; i < value->count; i++) {
        plx_gguf_string_next(value, &cursor, &text, &bytes);
        (*texts)[i] = to;
        memcpy(to, text, bytes);
        to += bytes + 1;
    }
    *count = value->count;
    return PLX_OK;
}

/* An array of `count` numbers; NULL when the key is absent. */
static plx_status take_numbers(plx_context *context, const plx_gguf *file, const char *key, size_t count,
                               float **floats, int32_t **integers)
{
    const plx_gguf_value *value = plx_gguf_find(file, key);
    if (value == NULL) return PLX_OK;
    if (value->kind == PLX_GGUF_STRING || value->kind == PLX_GGUF_ARRAY || !value->array || value->count != count)
        return plx_fail(context, PLX_ERROR_FORMAT, "%s: %s: must be a list of %zu numbers", plx_gguf_path(file), key,
                        count);
    void *made = plx_alloc_array(context, count, 4);
    if (made == NULL) return PLX_ERROR_MEMORY;
    if (floats != NULL) *floats = made;
    if (integers != NULL) *integers = made;
    for (size_t i = 0; i < count; i++) {
        double number = plx_gguf_number(value, i);
        if (floats != NULL) (*floats)[i] = (float)number;
        if (integers != NULL) (*integers)[i] = number >= 0 && number < 1000 ? (int32_t)number : 0;
    }
    return PLX_OK;
}

/* A single number, or `otherwise` where there is none. */
static double number_of(const plx_gguf *file, const char *key, double otherwise)
{
    const plx_gguf_value *value = plx_gguf_find(file, key);
    bool number = value != NULL && !value->array && value->kind != PLX_GGUF_STRING && value->kind != PLX_GGUF_ARRAY;
    double given = number ? plx_gguf_number(value, 0) : otherwise;
    return given >= -1 && given < 4294967296.0 ? given : -2; /* -2 is refused as an id */
}

/* A single string of the file, copied; NULL where there is none. */
static plx_status take_string(plx_context *context, const plx_gguf *file, const char *key, char **text)
{
    const plx_gguf_value *value = plx_gguf_find(file, key);
    const unsigned char *cursor = NULL;
    const char *bytes;
    size_t count;
    if (value == NULL || value->array || value->kind != PLX_GGUF_STRING) return PLX_OK;
    plx_gguf_string_next(value, &cursor, &bytes, &count);
    *text = plx_format(context, "%.*s", (int)(count < INT32_MAX ? count : 0), bytes);
    return *text != NULL ? PLX_OK : PLX_ERROR_MEMORY;
}

plx_status plx_tokenizer_from_gguf(plx_context *context, const char *path, plx_tokenizer **tokenizer)
{
    plx_gguf *file = NULL;
    const char **tokens = NULL, **merges = NULL;
    float *scores = NULL;
    int32_t *types = NULL;
    char *model = NULL, *pre = NULL, *chat = NULL;
    plx_token_arrays arrays = {.file = path};
    plx_status status = plx_gguf_open(context, path, &file);
    if (status == PLX_OK && plx_gguf_find(file, "tokenizer.ggml.tokens") == NULL)
        status = plx_fail(context, PLX_ERROR_UNSUPPORTED, "%s: tokenizer.ggml.tokens: is missing: there is no tokenizer inside",
                          path);
    if (status == PLX_OK) status = take_strings(context, file, "tokenizer.ggml.tokens", &tokens, &arrays.count);
    if (status == PLX_OK) status = take_strings(context, file, "tokenizer.ggml.merges", &merges, &arrays.merge_count);
    if (status == PLX_OK) status = take_numbers(context, file, "tokenizer.ggml.scores", arrays.count, &scores, NULL);
    if (status == PLX_OK) status = take_numbers(context, file, "tokenizer.ggml.token_type", arrays.count, NULL, &types);
    if (status == PLX_OK) status = take_string(context, file, "tokenizer.ggml.model", &model);
    if (status == PLX_OK) status = take_string(context, file, "tokenizer.ggml.pre", &pre);
    if (status == PLX_OK) status = take_string(context, file, "tokenizer.chat_template", &chat);
    if (status == PLX_OK) {
        arrays.model = model;
        arrays.pre = pre;
        arrays.chat_template = chat;
        arrays.tokens = tokens;
        arrays.merges = merges;
        arrays.scores = scores;
        arrays.types = types;
        arrays.bos = (int64_t)number_of(file, "tokenizer.ggml.bos_token_id", -1);
        arrays.eos = (int64_t)number_of(file, "tokenizer.ggml.eos_token_id", -1);
        arrays.unk = (int64_t)number_of(file, "tokenizer.ggml.unknown_token_id", -1);
        arrays.add_bos = (int)number_of(file, "tokenizer.ggml.add_bos_token", -1);
        arrays.add_space_prefix = (int)number_of(file, "tokenizer.ggml.add_space_prefix", -1);
        status = plx_tokenizer_from_arrays(context, &arrays, tokenizer);
    }
    plx_gguf_close(file);
    plx_free(context, tokens);
    plx_free(context, merges);
    plx_free(context, scores);
    plx_free(context, types);
    plx_free(context, model);
    plx_free(context, pre);
    plx_free(context, chat);
    return status;
}
