/* plan.c - plx_plan_recipe: the plan of the model and batches that a recipe asks for. */
#include "model/passes.h"
#include "train/train.h"

plx_status plx_plan_recipe(plx_recipe *recipe, plx_plan *plan)
{
    plx_model *model;
    *plan = (plx_plan){0};
    PLX_TRY(plx_recipe_outline(recipe, &model));
    for (size_t i = 0; i < model->config.layer_count; i++)
        model->config.layers[i].recompute = i < recipe->options.recompute;
    plx_status status = plx_plan_outline(model, recipe->batch_size, recipe->data.sequence_length,
                                         plx_train_pass_flags(&recipe->options), plan);
    plx_model_free(model);
    return status;
}
