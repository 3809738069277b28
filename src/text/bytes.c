/* bytes.c - the tokenizer "bytes": ids 0-255 are the bytes, 256 separates documents. */
#include "text/tokenizer.h"

#define PLX_BYTES_SEPARATOR 256

static plx_status bytes_open(plx_tokenizer *tokenizer, const char *name)
{
    (void)name;
    tokenizer->vocab_size = 257;
    tokenizer->separator = tokenizer->bos = tokenizer->eos = PLX_BYTES_SEPARATOR;
    return PLX_OK;
}

static plx_status bytes_encode(plx_encoder *encoder, const char *text, size_t bytes, bool last)
{
    (void)last;
    PLX_TRY(plx_encoder_reserve(encoder, bytes));
    for (size_t i = 0; i < bytes; i++) encoder->tokens[encoder->count++] = (unsigned char)text[i];
    return PLX_OK;
}

static size_t bytes_decode(const plx_tokenizer *tokenizer, int32_t token, bool first, char *text)
{
    (void)first;
    if (token == tokenizer->separator) return 0;
    *text = (char)token;
    return 1;
}

const plx_tokenizer_kind plx_tokenizer_bytes = {
    .name = "bytes",
    .open = bytes_open,
    .encode = bytes_encode,
    .decode = bytes_decode,
};
