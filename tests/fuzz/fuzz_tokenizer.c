/* fuzz_tokenizer.c - any bytes as a tokenizer.json. One that opens must encode a sample, at once and in pieces alike,
 * and decode every id it made. */
#include "text/pretrained.h"

#include <stdlib.h>

extern const plx_tokenizer_kind plx_tokenizer_pretrained;

static void use(plx_tokenizer *tokenizer)
{
    static const char text[] = "The end. Of a\xC3\xA9 \xE4\xB8\xAD 12 \xF0\x9F\x98\x80\n\nx\xFF <s>ab  c";
    plx_encoder whole = plx_encoder_make(tokenizer), pieces = plx_encoder_make(tokenizer);
    plx_status status = plx_encoder_feed(&whole, text, sizeof text - 1, true), other = PLX_OK;
    for (size_t i = 0; i < sizeof text - 1 && other == PLX_OK; i++)
        other = plx_encoder_feed(&pieces, text + i, 1, i + 2 == sizeof text);
    if (status == PLX_OK && other == PLX_OK) {
        if (whole.count != pieces.count) abort();
        for (size_t i = 0; i < whole.count; i++) {
            char bytes[PLX_TOKEN_BYTES_MOST];
            size_t room = sizeof bytes;
            if (whole.tokens[i] != pieces.tokens[i]) abort();
            if (plx_tokenizer_decode(tokenizer, whole.tokens[i], bytes, &room) != PLX_OK) abort();
        }
    }
    plx_encoder_release(&whole);
    plx_encoder_release(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_context_options options = {.threads = 1};
    plx_context *context = NULL;
    plx_tokenizer *tokenizer = NULL;
    if (plx_context_create(&options, &context) != PLX_OK) abort();
    if (plx_tokenizer_make(context, &plx_tokenizer_pretrained, &tokenizer) != PLX_OK) abort();
    char *json = plx_alloc(context, size + 1);
    if (json == NULL) abort();
    memcpy(json, data, size);
    if (plx_pretrained_read(tokenizer, "tokenizer.json", json, size, NULL, 0) == PLX_OK) use(tokenizer);
    plx_tokenizer_free(tokenizer);
    plx_context_free(context);
    return 0;
}
