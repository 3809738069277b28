/* bench_list.c - every case there is: of the shared operations, of each mixer, of whole models. */
#include "lab/bench.h"

#include "lab/bench_model.h"
#include "mixers/mixer.h"

#include <string.h>

/* Appends to an array that NULL ends. */
static plx_status append(plx_context *context, void ***array, size_t *count, const void *item)
{
    size_t size = sizeof **array, held = *array != NULL ? (*count + 1) * size : 0;
    void **grown = plx_grow(context, *array, held, (*count + 2) * size);
    if (grown == NULL) return plx_context_error(context)->code;
    *array = grown;
    grown[(*count)++] = (void *)(uintptr_t)item;
    return PLX_OK;
}

static plx_status add(plx_context *context, plx_bench_list *list, const plx_bench_case *about)
{
    return append(context, (void ***)&list->cases, &list->count, about);
}

static plx_status add_all(plx_context *context, plx_bench_list *list, const plx_bench_case *const *cases)
{
    for (; cases != NULL && *cases != NULL; cases++) PLX_TRY(add(context, list, *cases));
    return PLX_OK;
}

static plx_status add_model(plx_context *context, plx_bench_list *list, plx_bench_model_part part, const char *group,
                            const char *mixer)
{
    plx_bench_case *made;
    PLX_TRY(plx_bench_model_case(context, part, group, mixer, &made));
    plx_status status = append(context, (void ***)&list->made, &list->made_count, made);
    if (status != PLX_OK) {
        plx_free(context, made);
        return status;
    }
    return add(context, list, made);
}

static bool has(const plx_bench_list *list, const char *group, const char *part)
{
    size_t length = strlen(group);
    for (size_t i = 0; i < list->count; i++)
        if (strncmp(list->cases[i]->name, group, length) == 0 && list->cases[i]->name[length] == '.' &&
            strcmp(list->cases[i]->name + length + 1, part) == 0)
            return true;
    return false;
}

/* A mixer's own cases; its whole layer where none of them is called so; its step. */
static plx_status add_mixer(plx_context *context, plx_bench_list *list, const plx_mixer *mixer)
{
    const char *name = mixer->name;
    PLX_TRY(add_all(context, list, mixer->bench));
    if (!has(list, name, "forward")) PLX_TRY(add_model(context, list, PLX_BENCH_LAYER_FORWARD, name, name));
    if (!has(list, name, "backward")) PLX_TRY(add_model(context, list, PLX_BENCH_LAYER_BACKWARD, name, name));
    return add_model(context, list, PLX_BENCH_STEP, name, name);
}

static plx_status fill(plx_context *context, const char *mixer, plx_bench_list *list)
{
    PLX_TRY(add_all(context, list, plx_shared_bench));
    for (size_t i = 0; plx_mixers[i] != NULL; i++) PLX_TRY(add_mixer(context, list, plx_mixers[i]));
    PLX_TRY(add_model(context, list, PLX_BENCH_TRAIN, "train", mixer));
    PLX_TRY(add_model(context, list, PLX_BENCH_PREFILL, "generate", mixer));
    return add_model(context, list, PLX_BENCH_DECODE, "generate", mixer);
}

static plx_status no_mixer(plx_context *context, const char *mixer)
{
    char names[PLX_MIXER_NAMES];
    plx_mixer_names(names);
    return plx_fail(context, PLX_ERROR_VALUE, "there is no mixer '%.60s'; there are %s", mixer, names);
}

plx_status plx_bench_list_make(plx_context *context, const char *mixer, plx_bench_list *list)
{
    *list = (plx_bench_list){0};
    if (mixer != NULL && plx_mixer_find(mixer) == NULL) return no_mixer(context, mixer);
    plx_status status = fill(context, mixer != NULL ? mixer : plx_mixers[0]->name, list);
    if (status != PLX_OK) plx_bench_list_free(context, list);
    return status;
}

void plx_bench_list_free(plx_context *context, plx_bench_list *list)
{
    for (size_t i = 0; i < list->made_count; i++) plx_free(context, list->made[i]);
    plx_free(context, list->made);
    plx_free(context, list->cases);
    *list = (plx_bench_list){0};
}
