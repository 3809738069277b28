/* retrofit.h - the parts of a retrofit that tests look at one by one. */
#ifndef PLX_LAB_RETROFIT_H
#define PLX_LAB_RETROFIT_H

#include "plexus.h"

#include <jansson.h>

/* Applies "3,7,11:nexus,order=2", "every 4:simplicial" or "all:attention,window=512" to objects[layers], one for each
 * layer and NULL at first: each named layer gets {"mixer": .., options as given}, which the caller releases with
 * json_decref. ERROR_VALUE for what cannot be read, a layer that there is none of, or one named twice. */
plx_status plx_retrofit_read(plx_context *context, const char *text, size_t layers, json_t **objects);

/* Tokens to try a model on, at most its max_positions and 256: prose by its tokenizer, or, for the model of a task, ids
 * all over the vocabulary. Freed with plx_free. */
plx_status plx_retrofit_probe(plx_model *model, int32_t **tokens, size_t *count);

#endif
