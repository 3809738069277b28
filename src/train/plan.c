/* plan.c - plx_plan_recipe: the plan of the model and batches that a recipe asks for. */
#include "train/train.h"

#include <string.h>

plx_status plx_plan_recipe(plx_recipe *recipe, plx_plan *plan)
{
    plx_node *config;
    *plan = (plx_plan){0};
    PLX_TRY(
        plx_node_parse_json(recipe->context, recipe->path, recipe->config_text, strlen(recipe->config_text), &config));
    plx_status status = plx_plan_config(recipe->context, config, recipe->batch_size, recipe->data.sequence_length,
                                        recipe->options.recompute, plan);
    plx_node_free(recipe->context, config);
    return status;
}
