/* rebuild.c - a model of another config with the weights that both have. */
#include "model/params_list.h"

#include <string.h>

static plx_status take_over(const plx_model *old, plx_model *new)
{
    for (size_t i = 0; i < new->param_count; i++) {
        plx_param *to = new->params[i];
        const plx_param *from = plx_model_find_param(old, to->name);
        if (from == NULL || from->rank != to->rank || memcmp(from->shape, to->shape, sizeof to->shape) != 0) continue;
        if (from->type != to->type)
            return plx_fail(new->context, PLX_ERROR_UNSUPPORTED,
                            "tensor %s is stored as %s: load the model without keep_stored_types to change it",
                            from->name, plx_type_name(from->type));
        plx_device_copy(new->context, to->data, from->data, to->elements * plx_type_size(to->type));
    }
    return PLX_OK;
}

plx_status plx_model_rebuild(plx_model *old, const json_t *config, uint64_t seed, plx_model **made)
{
    char *text = config != NULL ? json_dumps(config, JSON_REAL_PRECISION(17)) : NULL;
    *made = NULL;
    if (text == NULL) return plx_fail(old->context, PLX_ERROR_MEMORY, "no memory left to describe the new model");
    plx_model_options options = {.seed = seed, .type = old->type};
    plx_status status = plx_model_create(old->context, text, &options, made);
    free(text);
    if (status == PLX_OK) status = take_over(old, *made);
    if (status == PLX_OK) return PLX_OK;
    plx_model_free(*made);
    *made = NULL;
    return status;
}
