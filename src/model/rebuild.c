/* rebuild.c - a model of another config with the weights that both have. */
#include "model/params_list.h"

#include <string.h>

/* The old model's tensor of the same name and shape, or NULL. */
static const plx_param *same_in(const plx_model *old, const plx_param *param)
{
    const plx_param *from = plx_model_find_param(old, param->name);
    bool same = from != NULL && from->rank == param->rank && memcmp(from->shape, param->shape, sizeof from->shape) == 0;
    return same ? from : NULL;
}

plx_status plx_model_rebuild_outline(plx_model *old, const json_t *config, plx_model **made)
{
    *made = NULL;
    PLX_TRY(plx_model_outline_json(old->context, config, old->type, made));
    for (size_t i = 0; i < (*made)->param_count; i++) {
        plx_param *to = (*made)->params[i];
        const plx_param *from = same_in(old, to);
        if (from == NULL) continue;
        to->type = from->type;
        to->form = from->form;
    }
    return PLX_OK;
}

plx_status plx_model_lend(const plx_model *model, plx_model *outline, uint64_t seed)
{
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *own = model->params[i];
        plx_param *same = (plx_param *)same_in(outline, own);
        if (same != NULL) same->data = own->data;
        else PLX_TRY(plx_param_initialise(model->context, own, seed));
    }
    return PLX_OK;
}

plx_status plx_model_rebuild(plx_model *old, const json_t *config, uint64_t seed, plx_model **made)
{
    plx_model *model = NULL;
    *made = NULL;
    PLX_TRY(plx_model_rebuild_outline(old, config, &model));
    plx_status status = plx_model_allocate(model);
    if (status == PLX_OK && old->tokenizer_name != NULL) status = plx_model_set_tokenizer(model, old->tokenizer_name);
    for (size_t i = 0; status == PLX_OK && i < model->param_count; i++) {
        const plx_param *to = model->params[i], *from = same_in(old, to);
        if (from != NULL) plx_device_copy(old->context, to->data, from->data, plx_param_bytes(to));
        else status = plx_param_initialise(old->context, to, seed);
    }
    if (status == PLX_OK) *made = model;
    else plx_model_free(model);
    return status;
}
