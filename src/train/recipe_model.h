/* recipe_model.h - the two passes over the model section of a recipe, before and after its other sections are read. */
#ifndef PLX_TRAIN_RECIPE_MODEL_H
#define PLX_TRAIN_RECIPE_MODEL_H

#include "train/train.h"

enum { PLX_RECIPE_LAYERS_MOST = 4096 };

/* model.from and model.weights: reads the config of the model that the run begins with, and completes the data section
 * from it. */
plx_status plx_recipe_read_from(plx_recipe *recipe);
/* Sets recipe->config_text to the resolved config. */
plx_status plx_recipe_read_model(plx_recipe *recipe);

#endif
