/* fuzz_gguf.c - any bytes as a .gguf: values, tensors and what they make of a model, laid out but never allocated. */
#include "model/families/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static plx_context *context;
static char path[64];

static void remove_file(void) { unlink(path); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_context_options options = {.threads = 1};
    plx_source source;
    plx_plan plan;
    unsigned char bytes[64];
    if (context == NULL) {
        if (plx_context_create(&options, &context) != PLX_OK) return 0;
        snprintf(path, sizeof path, "/dev/shm/fuzz-%d.gguf", (int)getpid());
        atexit(remove_file);
    }
    FILE *file = fopen(path, "wb");
    if (file == NULL) abort();
    fwrite(data, 1, size, file);
    fclose(file);
    if (plx_source_open(context, path, &source) == PLX_OK &&
        plx_plan_config(context, source.config, 2, 8, 0, &plan) == PLX_OK)
        plx_plan_free(context, &plan);
    for (size_t i = 0; source.store != NULL && i < plx_store_count(source.store); i++) {
        const plx_stored *stored = plx_store_at(source.store, i);
        if (stored->elements > 0) plx_store_read(source.store, stored, 0, bytes, 1);
    }
    plx_source_close(&source);
    return 0;
}
