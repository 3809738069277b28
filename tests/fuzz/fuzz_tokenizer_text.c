/* fuzz_tokenizer_text.c - any bytes as text for the committed tokenizers (the first byte chooses): the same tokens at
 * once and in pieces, and, for byte-level ones without a normalizer, the text back where it is UTF-8. */
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_utf8(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        int size = plx_utf8_next(text + i, bytes - i);
        if (size <= 0) return false;
        i += (size_t)size;
    }
    return true;
}

static void check(plx_tokenizer *tokenizer, const char *text, size_t bytes, bool exact)
{
    plx_encoder whole = plx_encoder_make(tokenizer), pieces = plx_encoder_make(tokenizer);
    char *decoded;
    size_t count;
    whole.plain = pieces.plain = true;
    if (plx_encoder_feed(&whole, text, bytes, true) != PLX_OK) abort();
    for (size_t at = 0; at < bytes;) {
        size_t piece = 1 + (unsigned char)text[at] % 64;
        if (piece > bytes - at) piece = bytes - at;
        if (plx_encoder_feed(&pieces, text + at, piece, at + piece == bytes) != PLX_OK) abort();
        at += piece;
    }
    if (whole.count != pieces.count || (whole.count > 0 && memcmp(whole.tokens, pieces.tokens, whole.count * 4) != 0))
        abort();
    if (plx_tokenizer_decode_text(tokenizer, whole.tokens, whole.count, &decoded, &count) != PLX_OK) abort();
    if (exact && is_utf8(text, bytes) && (count != bytes || memcmp(decoded, text, count) != 0)) abort();
    plx_text_free(tokenizer, decoded);
    plx_encoder_release(&whole);
    plx_encoder_release(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"smollm", "llama3", "llama", "metaspace",
                                        "bert",   "parts",  "neox",  "whitespace"};
    static plx_context *context;
    static plx_tokenizer *tokenizers[8]; /* opened once: opening is another target's */
    if (size == 0) return 0;
    if (context == NULL) {
        plx_context_options options = {.threads = 1};
        if (plx_context_create(&options, &context) != PLX_OK) abort();
    }
    size_t which = data[0] % 8;
    if (tokenizers[which] == NULL) {
        char path[128];
        snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", names[which]);
        if (plx_tokenizer_open(context, path, &tokenizers[which]) != PLX_OK) abort();
    }
    check(tokenizers[which], (const char *)data + 1, size - 1, which < 2);
    return 0;
}
