/* passes.h - the pass that trains and scores: forward, loss and, with PLX_PASS_KEEP, backward. */
#ifndef PLX_MODEL_PASSES_H
#define PLX_MODEL_PASSES_H

#include "model/model.h"

typedef struct plx_loss_pass {
    double scale;      /* of each token's loss in the gradients */
    double z;          /* z-loss coefficient */
    double *loss;      /* [tokens], host, out */
    int32_t *correct;  /* [tokens], host, out */
} plx_loss_pass;
plx_status plx_pass_loss(plx_run *run, plx_model *model, void *pass);
plx_status plx_loss_pass_create(plx_context *context, size_t tokens, plx_loss_pass *pass);
void plx_loss_pass_release(plx_context *context, plx_loss_pass *pass);
/* Adds what a pass over the batch found to the score, in the order of the tokens. */
void plx_loss_pass_score(const plx_loss_pass *pass, const plx_batch *batch, plx_score *score);
/* plx_model_score with an arena and a pass of the caller's, which are used again and again (evaluation). */
plx_status plx_score_in(plx_arena *arena, plx_loss_pass *pass, const plx_batch *batch, plx_score *score);
double plx_batch_weight(const plx_batch *batch); /* sum of the mask */

#endif
