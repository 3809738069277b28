/* recipes.c - see recipes.h */
#include "support/recipes.h"

#include <stdio.h>
#include <string.h>

const char *test_path_in(char path[256], const char *name)
{
    snprintf(path, 256, "%s", test_path(name));
    return path;
}

const char *test_recipe_file(char path[256], const char *name, const char *text)
{
    char file[64];
    snprintf(file, sizeof file, "%s.yaml", name);
    snprintf(path, 256, "%s", test_file(file, text, strlen(text)));
    return path;
}

plx_recipe *test_recipe(plx_context *context, const char *path, const char *out, const char *a, const char *b,
                        const char *c)
{
    char first[300];
    const char *overrides[4] = {first, a, b, c};
    size_t count = 1;
    plx_recipe *recipe = NULL;
    snprintf(first, sizeof first, "out=%s", out);
    while (count < 4 && overrides[count] != NULL) count++;
    expect_ok(context, plx_recipe_load(context, path, overrides, count, &recipe));
    return recipe;
}
