/* peft.h - adapters in files that the peft package opens and writes: adapter_config.json and adapter_model.safetensors.
 *
 * Their tensors are named after the modules of the family, base_model.model.MODULE.lora_A.weight [r, in] and
 * .lora_B.weight [out, r]; W + scale B A with scale = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora. Ours
 * have one rank and one scale: a smaller rank is filled up with zeros, another scale is taken into B. Where a family
 * keeps q, k and v in one module, ours are written as one adapter whose rank is the sum of theirs (A one below the
 * other, B in blocks), and read by taking the rows of B apart; both are exact.
 *
 * modules.c sets our projections beside their modules, write.c and read.c are the two directions. */
#ifndef PLX_MODEL_PEFT_PEFT_H
#define PLX_MODEL_PEFT_PEFT_H

#include "model/families/family.h"
#include "model/params_list.h"

/* A projection of a model, and the module of the family that holds it. */
typedef struct plx_peft_module {
    const plx_param *weight;
    char ours[128], theirs[160]; /* without ".weight"; theirs "" where the family has none */
    plx_rows rows;
    int part;
    const plx_layer_shape *shape;
    bool adapted;
} plx_peft_module;

typedef struct plx_peft_modules {
    plx_peft_module *items;
    size_t count;
} plx_peft_modules;

/* The projections of the model's layers, with their modules by the names of `family`; plx_free(list->items). */
plx_status plx_peft_list(plx_model *model, const plx_family *family, plx_peft_modules *list);
/* Rows of the module's matrix, which may hold other projections too. */
size_t plx_peft_rows(const plx_peft_module *at);
/* The names (theirs, or ours) that pick out the adapted modules: that of a kind of projection where all of it are, else
 * whole names. A new reference, NULL when memory is short. */
json_t *plx_peft_targets(const plx_peft_modules *list, bool theirs);
/* The projection's lora_A or lora_B (which: 'A' or 'B'); NULL where it has none. */
const plx_param *plx_peft_half(const plx_model *model, const plx_peft_module *at, char which);

#endif
