/* tokenizer.c - the list of tokenizers, the public calls, and encoders. */
#include "text/tokenizer.h"

#include "io/files.h"

#include <string.h>
#include <sys/stat.h>

extern const plx_tokenizer_kind plx_tokenizer_bytes, plx_tokenizer_pretrained;

plx_status plx_tokenizer_make(plx_context *context, const plx_tokenizer_kind *kind, plx_tokenizer **tokenizer)
{
    *tokenizer = NULL;
    plx_tokenizer *self = plx_alloc(context, sizeof *self);
    if (self == NULL) return PLX_ERROR_MEMORY;
    *self = (plx_tokenizer){.context = context, .kind = kind, .separator = -1, .bos = -1, .eos = -1, .before_text = -1};
    if (kind->state_size > 0 && (self->state = plx_alloc(context, kind->state_size)) == NULL) {
        plx_free(context, self);
        return PLX_ERROR_MEMORY;
    }
    *tokenizer = self;
    return PLX_OK;
}

/* Whether the name is a file that does not end in .json. */
static bool is_other_file(const char *name)
{
    struct stat about;
    size_t length = strlen(name);
    bool json = length > 5 && strcmp(name + length - 5, ".json") == 0;
    return !json && stat(name, &about) == 0 && S_ISREG(about.st_mode);
}

plx_status plx_tokenizer_open(plx_context *context, const char *name, plx_tokenizer **tokenizer)
{
    *tokenizer = NULL;
    plx_tokenizer *self;
    bool bytes = name != NULL && strcmp(name, plx_tokenizer_bytes.name) == 0;
    if (!bytes && (name == NULL || (strchr(name, '/') == NULL && !plx_file_exists(name))))
        return plx_fail(context, PLX_ERROR_VALUE,
                        "unknown tokenizer '%.64s'; there is: bytes, or the path of a tokenizer.json, of a directory with "
                        "one, or of a GGUF",
                        name != NULL ? name : "");
    if (!bytes && is_other_file(name)) return plx_tokenizer_from_gguf(context, name, tokenizer);
    PLX_TRY(plx_tokenizer_make(context, bytes ? &plx_tokenizer_bytes : &plx_tokenizer_pretrained, &self));
    plx_status status = self->kind->open(self, name);
    if (status == PLX_OK)
        *tokenizer = self;
    else
        plx_tokenizer_free(self);
    return status;
}

void plx_tokenizer_free(plx_tokenizer *tokenizer)
{
    if (tokenizer == NULL) return;
    if (tokenizer->kind->close != NULL) tokenizer->kind->close(tokenizer);
    plx_free(tokenizer->context, tokenizer->state);
    plx_free(tokenizer->context, tokenizer);
}

size_t plx_tokenizer_vocab_size(const plx_tokenizer *tokenizer) { return tokenizer->vocab_size; }

int32_t plx_tokenizer_separator(const plx_tokenizer *tokenizer) { return tokenizer->separator; }
int32_t plx_tokenizer_bos(const plx_tokenizer *tokenizer) { return tokenizer->bos; }
int32_t plx_tokenizer_eos(const plx_tokenizer *tokenizer) { return tokenizer->eos; }
int32_t plx_tokenizer_before_text(const plx_tokenizer *tokenizer) { return tokenizer->before_text; }

plx_status plx_tokenizer_encode(plx_tokenizer *tokenizer, const char *text, size_t bytes, int32_t **tokens,
                                size_t *count)
{
    plx_encoder encoder = plx_encoder_make(tokenizer);
    plx_status status = plx_encoder_reserve(&encoder, 1); /* so that no text gives an empty list, not NULL */
    if (status == PLX_OK) status = plx_encoder_feed(&encoder, text, bytes, true);
    if (status == PLX_OK) {
        *tokens = encoder.tokens;
        *count = encoder.count;
        encoder.tokens = NULL;
    }
    plx_encoder_release(&encoder);
    return status;
}

void plx_tokens_free(plx_tokenizer *tokenizer, int32_t *tokens) { plx_free(tokenizer->context, tokens); }

plx_status plx_tokenizer_decode(plx_tokenizer *tokenizer, int32_t token, char *text, size_t *bytes)
{
    char local[PLX_TOKEN_BYTES_MOST];
    if (token < 0 || (size_t)token >= tokenizer->vocab_size)
        return plx_fail(tokenizer->context, PLX_ERROR_VALUE, "token %d is not in the vocabulary of %zu", (int)token,
                        tokenizer->vocab_size);
    size_t count = tokenizer->kind->decode(tokenizer, token, false, local);
    if (count > *bytes)
        return plx_fail(tokenizer->context, PLX_ERROR_VALUE, "token %d has %zu bytes, there is room for %zu",
                        (int)token, count, *bytes);
    if (count > 0) memcpy(text, local, count);
    *bytes = count;
    return PLX_OK;
}

size_t plx_token_byte_count(const plx_tokenizer *tokenizer, int32_t token)
{
    char local[PLX_TOKEN_BYTES_MOST];
    if (token < 0 || (size_t)token >= tokenizer->vocab_size) return 0;
    return tokenizer->kind->decode(tokenizer, token, false, local);
}

plx_status plx_tokenizer_decode_text(plx_tokenizer *tokenizer, const int32_t *tokens, size_t count, char **text,
                                     size_t *bytes)
{
    plx_context *context = tokenizer->context;
    size_t used = 0, room = 0;
    char *made = NULL;
    bool first = true; /* no text yet: special tokens are none */
    for (size_t i = 0; i <= count; i++) {
        if (room - used < PLX_TOKEN_BYTES_MOST + 1) {
            size_t more = room * 2 + 2 * PLX_TOKEN_BYTES_MOST;
            char *grown = plx_grow(context, made, room, more);
            if (grown == NULL) {
                plx_free(context, made);
                return PLX_ERROR_MEMORY;
            }
            made = grown;
            room = more;
        }
        if (i == count) break;
        if (tokens[i] < 0 || (size_t)tokens[i] >= tokenizer->vocab_size) {
            plx_free(context, made);
            return plx_fail(context, PLX_ERROR_VALUE, "token %d is not in the vocabulary of %zu", (int)tokens[i],
                            tokenizer->vocab_size);
        }
        size_t size = tokenizer->kind->decode(tokenizer, tokens[i], first, made + used);
        if (size > 0 || plx_token_byte_count(tokenizer, tokens[i]) > 0) first = false;
        used += size;
    }
    made[used] = '\0';
    *text = made;
    *bytes = used;
    return PLX_OK;
}

void plx_text_free(plx_tokenizer *tokenizer, char *text) { plx_free(tokenizer->context, text); }

int32_t plx_tokenizer_find(const plx_tokenizer *tokenizer, const char *text)
{
    return plx_tokenizer_token(tokenizer, text, strlen(text));
}

plx_status plx_tokenizer_save(const plx_tokenizer *tokenizer, const char *directory)
{
    return tokenizer->kind->save != NULL ? tokenizer->kind->save(tokenizer, directory) : PLX_OK;
}

int32_t plx_tokenizer_token(const plx_tokenizer *tokenizer, const char *text, size_t bytes)
{
    return tokenizer->kind->find != NULL ? tokenizer->kind->find(tokenizer, text, bytes) : -1;
}

const char *plx_tokenizer_chat_template(const plx_tokenizer *tokenizer)
{
    return tokenizer->kind->chat_template != NULL ? tokenizer->kind->chat_template(tokenizer) : NULL;
}

/* ---- encoders ---- */

plx_encoder plx_encoder_make(plx_tokenizer *tokenizer) { return (plx_encoder){.tokenizer = tokenizer}; }

void plx_encoder_release(plx_encoder *encoder)
{
    if (encoder->tokenizer == NULL) return;
    plx_free(encoder->tokenizer->context, encoder->tail);
    plx_free(encoder->tokenizer->context, encoder->tokens);
    *encoder = (plx_encoder){.tokenizer = encoder->tokenizer};
}

plx_status plx_encoder_reserve(plx_encoder *encoder, size_t count)
{
    plx_context *context = encoder->tokenizer->context;
    size_t needed, capacity, bytes;
    if (!plx_add_sizes(encoder->count, count, &needed) || !plx_multiply_sizes(needed, 2, &capacity) ||
        !plx_multiply_sizes(capacity, sizeof *encoder->tokens, &bytes))
        return plx_fail(context, PLX_ERROR_MEMORY, "a text of %zu bytes is too long to hold", count);
    if (needed <= encoder->capacity) return PLX_OK;
    int32_t *grown = plx_grow(context, encoder->tokens, encoder->capacity * sizeof *grown, bytes);
    if (grown == NULL) return PLX_ERROR_MEMORY;
    encoder->tokens = grown;
    encoder->capacity = capacity;
    return PLX_OK;
}

plx_status plx_encoder_append(plx_encoder *encoder, int32_t token)
{
    PLX_TRY(plx_encoder_reserve(encoder, 1));
    encoder->tokens[encoder->count++] = token;
    return PLX_OK;
}

plx_status plx_encoder_feed(plx_encoder *encoder, const char *text, size_t bytes, bool last)
{
    return encoder->tokenizer->kind->encode(encoder, text, bytes, last);
}
