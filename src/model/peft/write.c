/* write.c - the adapter of a model as the peft package has it. */
#include "io/files.h"
#include "io/safetensors.h"
#include "model/peft/peft.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Half an adapter in memory. */
typedef struct half {
    char name[192];
    size_t rows, columns;
    float *values;
} half;

typedef struct half_list {
    half *items;
    size_t count;
} half_list;

static plx_status fetch_half(void *user, size_t first, size_t count, void *data)
{
    memcpy(data, ((const half *)user)->values + first, count * sizeof(float));
    return PLX_OK;
}

static half *add_half(plx_context *context, half_list *list, const char *module_name, char which, size_t rows,
                      size_t columns)
{
    half *made = &list->items[list->count];
    *made = (half){.rows = rows, .columns = columns};
    snprintf(made->name, sizeof made->name, "base_model.model.%s.lora_%c.weight", module_name, which);
    made->values = plx_alloc_array(context, rows * columns, sizeof *made->values);
    if (made->values == NULL) return NULL;
    list->count++;
    return made;
}

static plx_status take_values(plx_model *model, const plx_param *param, double **values)
{
    *values = plx_alloc_array(model->context, param->elements, sizeof **values);
    if (*values == NULL) return PLX_ERROR_MEMORY;
    return plx_model_read_tensor(model, param->name, false, *values, param->elements);
}

/* The adapter of one of our projections into its module's: A into rows from `at`, B into columns from there. */
static plx_status put_part(plx_model *model, const plx_peft_module *from, size_t at, half *a, half *b)
{
    const plx_param *ours_a = plx_peft_half(model, from, 'A'), *ours_b = plx_peft_half(model, from, 'B');
    double *values_a = NULL, *values_b = NULL;
    plx_status status = take_values(model, ours_a, &values_a);
    if (status == PLX_OK) status = take_values(model, ours_b, &values_b);
    size_t rank = ours_a->shape[0];
    for (size_t i = 0; status == PLX_OK && i < ours_a->elements; i++)
        a->values[at * a->columns + i] = (float)values_a[i];
    for (size_t row = 0; status == PLX_OK && row < ours_b->shape[0]; row++) {
        float *to = b->values + plx_rows_place(from->rows, from->part, from->shape, row) * b->columns + at;
        for (size_t j = 0; j < rank; j++) to[j] = (float)values_b[row * rank + j];
    }
    plx_free(model->context, values_a);
    plx_free(model->context, values_b);
    return status;
}

/* The module's adapter, made of those of all our projections in it; *parts is their number. */
static plx_status put_module(plx_model *model, const plx_peft_modules *modules, size_t first, half_list *halves,
                             size_t *parts)
{
    const plx_peft_module *begin = &modules->items[first];
    size_t rank = model->config.adapter.rank, done = 0;
    *parts = 0;
    for (size_t i = first; i < modules->count; i++)
        *parts += modules->items[i].adapted && strcmp(modules->items[i].theirs, begin->theirs) == 0;
    half *a = add_half(model->context, halves, begin->theirs, 'A', *parts * rank, begin->weight->shape[1]);
    half *b =
        a != NULL ? add_half(model->context, halves, begin->theirs, 'B', plx_peft_rows(begin), *parts * rank) : NULL;
    if (b == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = first; i < modules->count; i++)
        if (modules->items[i].adapted && strcmp(modules->items[i].theirs, begin->theirs) == 0)
            PLX_TRY(put_part(model, &modules->items[i], rank * done++, a, b));
    return PLX_OK;
}

/* Integers stay integers in the file. */
static json_t *number(double value)
{
    return value == floor(value) ? json_integer((json_int_t)value) : json_real(value);
}

/* All halves, and what the config says of modules whose rank is not r. */
static plx_status gather(plx_model *model, plx_peft_modules *modules, half_list *halves, json_t *ranks, json_t *alphas)
{
    const plx_adapter_config *adapter = &model->config.adapter;
    for (size_t i = 0; i < modules->count; i++) {
        plx_peft_module *at = &modules->items[i];
        at->adapted = plx_peft_half(model, at, 'A') != NULL;
        if (at->adapted && at->theirs[0] == '\0')
            return plx_fail(model->context, PLX_ERROR_UNSUPPORTED,
                            "%s has an adapter, and the family has no module for it", at->ours);
    }
    for (size_t i = 0; i < modules->count; i++) {
        size_t parts;
        bool seen = !modules->items[i].adapted;
        for (size_t j = 0; j < i && !seen; j++)
            seen = modules->items[j].adapted && strcmp(modules->items[j].theirs, modules->items[i].theirs) == 0;
        if (seen) continue;
        PLX_TRY(put_module(model, modules, i, halves, &parts));
        if (parts == 1) continue;
        const char *name = modules->items[i].theirs;
        if (json_object_set_new(ranks, name, json_integer((json_int_t)(parts * adapter->rank))) != 0 ||
            json_object_set_new(alphas, name, number((double)parts * adapter->alpha)) != 0)
            return plx_fail(model->context, PLX_ERROR_MEMORY, "no memory left for the adapter's config");
    }
    return PLX_OK;
}

static plx_status write_halves(plx_context *context, half_list *halves, const char *directory)
{
    plx_safetensors_entry *entries = plx_alloc_array(context, halves->count, sizeof *entries);
    char *path = plx_format(context, "%s/adapter_model.safetensors", directory);
    plx_status status = entries != NULL && path != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    for (size_t i = 0; i < halves->count && status == PLX_OK; i++)
        entries[i] = (plx_safetensors_entry){.name = halves->items[i].name,
                                             .type = PLX_F32,
                                             .rank = 2,
                                             .shape = {halves->items[i].rows, halves->items[i].columns},
                                             .fetch = fetch_half,
                                             .user = &halves->items[i]};
    if (status == PLX_OK) status = plx_safetensors_write(context, path, entries, halves->count, "format", "pt");
    plx_free(context, path);
    plx_free(context, entries);
    return status;
}

static plx_status write_adapter(plx_model *model, const plx_family *family, const char *base, const char *directory)
{
    plx_context *context = model->context;
    const plx_adapter_config *adapter = &model->config.adapter;
    plx_peft_modules modules = {0};
    half_list halves = {0};
    json_t *ranks = json_object(), *alphas = json_object();
    plx_status status = plx_peft_list(model, family, &modules);
    halves.items = plx_alloc_array(context, 2 * modules.count + 1, sizeof *halves.items);
    if (status == PLX_OK && (halves.items == NULL || ranks == NULL || alphas == NULL)) status = PLX_ERROR_MEMORY;
    if (status == PLX_OK) status = gather(model, &modules, &halves, ranks, alphas);
    if (status == PLX_OK)
        status =
            plx_json_write(context, directory, "adapter_config.json",
                           json_pack("{s:s, s:s, s:s?, s:I, s:o, s:O, s:O, s:o, s:f, s:s, s:b, s:b}", "peft_type",
                                     "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r",
                                     (json_int_t)adapter->rank, "lora_alpha", number(adapter->alpha), "rank_pattern",
                                     ranks, "alpha_pattern", alphas, "target_modules", plx_peft_targets(&modules, true),
                                     "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1));
    if (status == PLX_OK) status = write_halves(context, &halves, directory);
    for (size_t i = 0; i < halves.count; i++) plx_free(context, halves.items[i].values);
    plx_free(context, halves.items);
    plx_free(context, modules.items);
    json_decref(ranks);
    json_decref(alphas);
    return status;
}

/* The family of this name, or the first that can say what the model is without its adapter. */
static plx_status family_of(plx_model *model, const char *name, const plx_family **family)
{
    char names[256];
    plx_config plain = model->config;
    plain.adapter = (plx_adapter_config){0};
    plx_status status = PLX_ERROR_UNSUPPORTED;
    *family = name != NULL ? plx_family_find(name) : NULL;
    if (name != NULL && *family == NULL)
        return plx_fail(model->context, PLX_ERROR_VALUE, "there is no family '%.40s'; there are %s", name,
                        plx_family_list(names, sizeof names, false));
    for (size_t i = 0; plx_families[i] != NULL && status == PLX_ERROR_UNSUPPORTED; i++) {
        json_t *config = NULL;
        if (name != NULL && plx_families[i] != *family) continue;
        *family = plx_families[i];
        status = plx_family_write_config(model->context, *family, &plain, &config);
        json_decref(config);
    }
    if (status != PLX_ERROR_UNSUPPORTED || name != NULL) return status;
    return plx_fail(model->context, PLX_ERROR_UNSUPPORTED,
                    "no family (%s) has a model like this one, so that no other program could use its adapter; a "
                    "checkpoint of Plexus holds both",
                    plx_family_list(names, sizeof names, false));
}

plx_status plx_model_save_adapter(plx_model *model, const char *directory, const char *family_name, const char *base)
{
    const plx_family *family;
    char *aside;
    if (model->config.adapter.rank == 0)
        return plx_fail(model->context, PLX_ERROR_VALUE, "the model has no adapter to write");
    PLX_TRY(family_of(model, family_name, &family));
    PLX_TRY(plx_directory_begin(model->context, directory, &aside));
    plx_status status = write_adapter(model, family, base, aside);
    if (status == PLX_OK) return plx_directory_commit(model->context, aside, directory);
    plx_directory_abandon(model->context, aside);
    return status;
}
