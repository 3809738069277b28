/* encode_file TOKENIZER FILE OUT [REPEAT] - for tokenizers_equal.py: writes the file's token ids (int32) to OUT and the
 * text decoded from them to OUT.text, and prints "tokens=N seconds=S", the best of the repetitions. */
#include "plexus.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) return NULL;
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*bytes + 1);
    if (text != NULL && fread(text, 1, *bytes, file) != *bytes) return NULL;
    fclose(file);
    return text;
}

static int write_file(const char *path, const char *suffix, const void *data, size_t bytes)
{
    char name[4096];
    snprintf(name, sizeof name, "%s%s", path, suffix);
    FILE *file = fopen(name, "wb");
    if (file == NULL) return 1;
    size_t written = fwrite(data, 1, bytes, file);
    return fclose(file) != 0 || written != bytes;
}

int main(int argc, char **argv)
{
    plx_context_options options = {.threads = 1};
    plx_context *context;
    plx_tokenizer *tokenizer = NULL;
    size_t bytes = 0, count = 0, length = 0;
    int32_t *tokens = NULL;
    char *decoded = NULL;
    double best = 1e30;
    if (argc < 4 || plx_context_create(&options, &context) != PLX_OK) return 2;
    char *text = read_file(argv[2], &bytes);
    plx_status status = text != NULL ? plx_tokenizer_open(context, argv[1], &tokenizer) : PLX_ERROR_FILE;
    for (int i = 0; i < (argc > 4 ? atoi(argv[4]) : 1) && status == PLX_OK; i++) {
        if (tokens != NULL) plx_tokens_free(tokenizer, tokens);
        double started = seconds();
        status = plx_tokenizer_encode(tokenizer, text, bytes, &tokens, &count);
        double spent = seconds() - started;
        if (spent < best) best = spent;
    }
    if (status == PLX_OK) status = plx_tokenizer_decode_text(tokenizer, tokens, count, &decoded, &length);
    if (status != PLX_OK || write_file(argv[3], "", tokens, count * sizeof *tokens) ||
        write_file(argv[3], ".text", decoded, length)) {
        fprintf(stderr, "encode_file: %s\n", plx_context_error(context)->message);
        return 1;
    }
    printf("tokens=%zu seconds=%.6f\n", count, best);
    return 0;
}
