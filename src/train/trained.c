/* trained.c - the model that a run trains: fresh, or with the weights of another, and which of its tensors move. */
#include "train/train.h"

#include <string.h>

/* Whether only the new model has the tensor: a model with the baseline in place of its layers has none of that name. */
static plx_status mark_new(plx_model *model)
{
    plx_model *plain = NULL;
    json_t *object = json_loads(plx_model_config(model), 0, NULL);
    json_t *layers = json_object_get(object, "layers");
    bool bad = layers == NULL || json_object_set_new(object, "adapter", json_null()) != 0 ||
               json_object_set_new(object, "dropout", json_real(0)) != 0; /* attention has no block for it */
    for (size_t i = 0; i < json_array_size(layers) && !bad; i++) {
        json_t *layer = json_pack("{s:s}", "mixer", plx_mixers[0]->name);
        for (const char *const *key = plx_layer_shape_keys; layer != NULL && *key != NULL; key++) {
            json_t *value = json_object_get(json_array_get(layers, i), *key);
            if (value != NULL) bad |= json_object_set(layer, *key, value) != 0;
        }
        bad |= json_array_set_new(layers, i, layer) != 0;
    }
    plx_status status = plx_model_outline_json(model->context, bad ? NULL : object, model->type, &plain);
    json_decref(object);
    for (size_t i = 0; status == PLX_OK && i < model->param_count; i++) {
        plx_param *param = model->params[i];
        if (strstr(param->name, ".lora_") == NULL && plx_model_find_param(plain, param->name) == NULL)
            param->trainable = true;
    }
    plx_model_free(plain);
    return status;
}

/* train.parameters */
static plx_status choose_parameters(const plx_recipe *recipe, plx_model *model)
{
    const unsigned chosen = recipe->parameters;
    size_t trained = 0;
    if (chosen == 0) return PLX_OK;
    for (size_t i = 0; i < model->param_count; i++)
        model->params[i]->trainable = (chosen & PLX_TRAIN_ADAPTER) != 0 && strstr(model->params[i]->name, ".lora_") != NULL;
    if ((chosen & PLX_TRAIN_NEW) != 0) PLX_TRY(mark_new(model));
    for (size_t i = 0; i < model->param_count; i++) trained += model->params[i]->trainable;
    if (trained == 0)
        return plx_fail(recipe->context, PLX_ERROR_VALUE,
                        "%s: train.parameters: the model has nothing new: its layers have the tensors of %s alone",
                        recipe->path, plx_mixers[0]->name);
    return PLX_OK;
}

static plx_status freeze(const plx_recipe *recipe, plx_model *model)
{
    const plx_node *list = recipe->freeze;
    if (list == NULL) return PLX_OK;
    const plx_node *first = list->kind == PLX_NODE_LIST ? list->child : list;
    for (const plx_node *item = first; item != NULL; item = list->kind == PLX_NODE_LIST ? item->next : NULL) {
        plx_status status = plx_model_set_trainable(model, item->text, false);
        if (status != PLX_OK) {
            return plx_fail_prefix(recipe->context, status, "train.freeze");
        }
    }
    for (size_t i = 0; i < model->param_count; i++)
        if (model->params[i]->trainable) return PLX_OK;
    return plx_fail(recipe->context, PLX_ERROR_VALUE, "%s: train.freeze: nothing is left to train", recipe->path);
}

/* The recipe's model with the weights of the one that it begins with. */
static plx_status begin_from(const plx_recipe *recipe, const plx_model_options *options, plx_model **model)
{
    plx_model_options stored = *options;
    stored.weights = recipe->weights;
    json_t *config = json_loads(recipe->config_text, 0, NULL);
    plx_status status =
        plx_model_load_rebuilt(recipe->context, recipe->from, &stored, config, recipe->seed, model);
    json_decref(config);
    return status;
}

/* Like begin_from, without memory for weights. */
static plx_status outline_from(const plx_recipe *recipe, plx_model **model)
{
    const plx_model_options stored = {.type = PLX_F32, .weights = recipe->weights};
    plx_model *old = NULL;
    PLX_TRY(plx_model_load_outline(recipe->context, recipe->from, &stored, &old));
    json_t *config = json_loads(recipe->config_text, 0, NULL);
    plx_status status = plx_model_rebuild_outline(old, config, model);
    json_decref(config);
    plx_model_free(old);
    return status;
}

plx_status plx_recipe_outline(const plx_recipe *recipe, plx_model **model)
{
    plx_model *made = NULL;
    plx_status status = recipe->from != NULL ? outline_from(recipe, &made)
                                             : plx_model_outline_text(recipe->context, recipe->path, recipe->config_text,
                                                                      PLX_F32, &made);
    if (status == PLX_OK) status = choose_parameters(recipe, made);
    if (status == PLX_OK) status = freeze(recipe, made);
    *model = NULL;
    if (status == PLX_OK) *model = made;
    else plx_model_free(made);
    return status;
}

/* Read now: a run that it lies in may have removed it when this one first saves. */
static plx_status take_tokenizer(const plx_recipe *recipe, plx_model *model)
{
    plx_tokenizer *tokenizer;
    if (recipe->data.tokenizer[0] == '\0' || strcmp(recipe->data.tokenizer, "bytes") == 0) return PLX_OK;
    PLX_TRY(plx_model_set_tokenizer(model, recipe->data.tokenizer));
    return plx_model_tokenizer(model, &tokenizer);
}

plx_status plx_recipe_model(const plx_recipe *recipe, bool saved, plx_model **model)
{
    plx_model_options options = {.seed = recipe->seed, .type = PLX_F32};
    if (recipe->from != NULL && (!saved || recipe->weights != PLX_WEIGHTS_TYPE)) /* held so also when going on */
        PLX_TRY(begin_from(recipe, &options, model));
    else
        PLX_TRY(plx_model_create(recipe->context, recipe->config_text, &options, model));
    PLX_TRY(take_tokenizer(recipe, *model));
    PLX_TRY(choose_parameters(recipe, *model));
    return freeze(recipe, *model);
}
