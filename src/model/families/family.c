/* family.c - the list of families, and names and rows of tensors. */
#include "model/families/family.h"

#include <stdio.h>
#include <string.h>

extern const plx_family plx_family_llama, plx_family_qwen2, plx_family_gpt_neox;
const plx_family *const plx_families[] = {&plx_family_llama, &plx_family_qwen2, &plx_family_gpt_neox, NULL};

const plx_family *plx_family_find(const char *name)
{
    for (size_t i = 0; plx_families[i] != NULL; i++)
        if (strcmp(plx_families[i]->name, name) == 0) return plx_families[i];
    return NULL;
}

const plx_family *plx_family_find_gguf(const char *architecture)
{
    for (size_t i = 0; plx_families[i] != NULL; i++)
        if (strcmp(plx_families[i]->gguf, architecture) == 0) return plx_families[i];
    return NULL;
}

const char *plx_family_list(char *text, size_t bytes, bool gguf)
{
    text[0] = '\0';
    for (size_t i = 0; plx_families[i] != NULL; i++) {
        size_t used = strlen(text);
        snprintf(text + used, bytes - used, "%s%s", i > 0 ? ", " : "",
                 gguf ? plx_families[i]->gguf : plx_families[i]->name);
    }
    return text;
}

/* Whether `name` is `stem` with a number in the place of #, and then a suffix; *number of *digits are that number,
 * *rest the suffix. */
static bool match(const char *name, const char *stem, const char **number, size_t *digits, const char **rest)
{
    *digits = 0;
    for (; *stem != '\0'; stem++) {
        if (*stem == '#') {
            *number = name;
            *digits = strspn(name, "0123456789");
            if (*digits == 0) return false;
            name += *digits;
        } else if (*name++ != *stem)
            return false;
    }
    *rest = name;
    return strcmp(name, ".weight") == 0 || strcmp(name, ".bias") == 0;
}

bool plx_family_tensor(const plx_family *family, bool gguf, const char *ours, char theirs[160], plx_rows *rows,
                       int *part)
{
    for (const plx_family_name *name = family->names; name->ours != NULL; name++) {
        const char *stem = gguf ? name->gguf : name->directory, *number, *rest;
        size_t digits;
        if (stem == NULL || !match(ours, name->ours, &number, &digits, &rest)) continue;
        int before = (int)strcspn(stem, "#");
        const char *after = stem[before] == '#' ? stem + before + 1 : "";
        int length =
            snprintf(theirs, 160, "%.*s%.*s%s%s", before, stem, (int)digits, digits > 0 ? number : "", after, rest);
        *rows = gguf ? name->gguf_rows : name->directory_rows;
        *part = name->part;
        return length > 0 && length < 160;
    }
    return false;
}

size_t plx_rows_place(plx_rows rows, int part, const plx_layer_shape *shape, size_t row)
{
    if (rows == PLX_ROWS_SAME) return row;
    size_t width = shape->head_dim, head = row / width, i = row % width, half = width / 2;
    switch (rows) {
    case PLX_ROWS_FUSED_BY_HEAD: return (3 * head + (size_t)part) * width + i;
    case PLX_ROWS_FUSED_BY_PART: return (size_t)part * shape->heads * width + row;
    case PLX_ROWS_INTERLEAVED: return head * width + (i < half ? 2 * i : 2 * (i - half) + 1);
    case PLX_ROWS_SAME: break;
    }
    return row;
}
