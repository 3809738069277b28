/* recipes.h - small recipes for tests. */
#ifndef PLX_TESTS_RECIPES_H
#define PLX_TESTS_RECIPES_H

#include "support/files.h"
#include "train/train.h"

#define TINY_MODEL \
    "model:\n  hidden_size: 16\n  intermediate_size: 24\n  num_attention_heads: 2\n" \
    "  layers: [{mixer: attention}, {mixer: nexus}]\n"
#define TINY_TRAIN                                                                                                     \
    "train:\n  steps: 7\n  batch_size: 4\n  warmup_steps: 2\n  eval_every: 3\n  save_every: 2\n  keep: 2\n"
#define TINY_TASK TINY_MODEL "data: {task: mqar, valid_rows: 6}\n" TINY_TRAIN

/* test_path into the caller's memory, which is returned. */
const char *test_path_in(char path[256], const char *name);
/* Writes NAME.yaml; its path, in the caller's memory. */
const char *test_recipe_file(char path[256], const char *name, const char *text);
/* Loads a recipe with `out` and up to three more overrides (NULL: none). */
plx_recipe *test_recipe(plx_context *context, const char *path, const char *out, const char *a, const char *b,
                        const char *c);

#endif
