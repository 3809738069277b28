/* params_list.h - the list of tensors as the model itself sees it; module authors need only params.h. */
#ifndef PLX_MODEL_PARAMS_LIST_H
#define PLX_MODEL_PARAMS_LIST_H

#include "model/model.h"

struct plx_params {
    plx_model *model;
    size_t capacity;
    char prefix[64]; /* of the tensors being defined: "model.layers.3" */
    bool adapted[PLX_ADAPTER_TARGETS]; /* which targets of the adapter have met a projection */
};

typedef enum plx_slab { PLX_SLAB_WEIGHTS, PLX_SLAB_GRADIENTS, PLX_SLAB_MOMENT1, PLX_SLAB_MOMENT2 } plx_slab;
/* Points the tensors' members of that kind into memory, one after the other, 64-byte aligned; returns the bytes needed
 * (SIZE_MAX when they cannot be named). memory NULL: only the sum. */
size_t plx_params_layout(const plx_model *model, plx_slab slab, char *memory);
void plx_model_zero_gradients(plx_model *model);
/* ERROR_MEMORY, naming what and both sizes, when the machine has less. */
plx_status plx_memory_check(plx_context *context, size_t bytes, const char *what);
/* ERROR_VALUE for a target of the adapter that no projection has. */
plx_status plx_adapter_check(const plx_params *params);
/* Radians a position for pair i, scaled. */
double plx_rope_frequency(const plx_rope *rope, size_t pair);
/* Makes the tables (rope's device memory) in the model's type. */
plx_status plx_rope_fill(plx_context *context, plx_rope *rope, plx_type type);

#endif
