/* fuzz_recipe.c - any bytes as a recipe: read from a file, resolved and planned. No data is opened, nothing trained. */
#include "train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static plx_context *context;
static char path[] = "/tmp/plexus-fuzz-XXXXXX";
static int file = -1;

static void remove_file(void) { unlink(path); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    plx_recipe *recipe;
    plx_plan plan;
    plx_context_options options = {.threads = 1};
    if (context == NULL) {
        file = mkstemp(path);
        if (file < 0 || atexit(remove_file) != 0 || plx_context_create(&options, &context) != PLX_OK) abort();
    }
    if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != (ssize_t)size) return 0;
    if (plx_recipe_load(context, path, NULL, 0, &recipe) != PLX_OK) return 0;
    if (plx_plan_recipe(recipe, &plan) == PLX_OK) plx_plan_free(context, &plan);
    plx_recipe_free(recipe);
    return 0;
}
