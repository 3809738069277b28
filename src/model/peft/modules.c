/* modules.c - the projections of a model beside the modules that peft's adapters are named after. */
#include "model/peft/peft.h"

#include <stdio.h>
#include <string.h>

static bool is_projection(const plx_param *param)
{
    static const char end[] = "_proj.weight";
    size_t length = strlen(param->name);
    return param->rank == 2 && length >= sizeof end && strcmp(param->name + length - (sizeof end - 1), end) == 0;
}

plx_status plx_peft_list(plx_model *model, const plx_family *family, plx_peft_modules *list)
{
    *list = (plx_peft_modules){.items = plx_alloc_array(model->context, model->param_count, sizeof *list->items)};
    if (list->items == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *param = model->params[i];
        size_t layer;
        if (!is_projection(param) || sscanf(param->name, "model.layers.%zu.", &layer) != 1) continue;
        plx_peft_module *made = &list->items[list->count++];
        *made = (plx_peft_module){.weight = param, .shape = &model->config.layers[layer].shape};
        snprintf(made->ours, sizeof made->ours, "%.*s", (int)(strlen(param->name) - strlen(".weight")), param->name);
        if (plx_family_tensor(family, false, param->name, made->theirs, &made->rows, &made->part))
            made->theirs[strlen(made->theirs) - strlen(".weight")] = '\0';
        else
            made->theirs[0] = '\0';
    }
    return PLX_OK;
}

size_t plx_peft_rows(const plx_peft_module *at)
{
    return at->weight->shape[0] * (at->rows == PLX_ROWS_FUSED_BY_HEAD || at->rows == PLX_ROWS_FUSED_BY_PART ? 3 : 1);
}

static const char *last_part(const char *name) { return strrchr(name, '.') != NULL ? strrchr(name, '.') + 1 : name; }

static bool contains(const json_t *list, const char *text)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item) if (strcmp(json_string_value(item), text) == 0) return true;
    return false;
}

json_t *plx_peft_targets(const plx_peft_modules *list, bool theirs)
{
    json_t *targets = json_array();
    for (size_t i = 0; i < list->count; i++) {
        const char *name = theirs ? list->items[i].theirs : list->items[i].ours, *kind = last_part(name);
        bool all = true;
        if (!list->items[i].adapted) continue;
        for (size_t j = 0; j < list->count && all; j++)
            all = list->items[j].adapted ||
                  strcmp(last_part(theirs ? list->items[j].theirs : list->items[j].ours), kind) != 0;
        const char *target = all ? kind : name;
        if (!contains(targets, target) && json_array_append_new(targets, json_string(target)) != 0) {
            json_decref(targets);
            return NULL;
        }
    }
    return targets;
}

const plx_param *plx_peft_half(const plx_model *model, const plx_peft_module *at, char which)
{
    char name[160];
    snprintf(name, sizeof name, "%s.lora_%c.weight", at->ours, which);
    return plx_model_find_param(model, name);
}
