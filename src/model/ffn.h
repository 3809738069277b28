/* ffn.h - the feed-forward part of a block: down(silu(gate(x)) * up(x)), or down(gelu(up(x))). */
#ifndef PLX_MODEL_FFN_H
#define PLX_MODEL_FFN_H

#include "model/params.h"

typedef struct plx_ffn {
    bool gated;
    plx_linear gate, up, down;    /* gate only when gated */
    void *gate_out, *up_out;      /* [tokens, inner], kept by forward */
} plx_ffn;

/* Defines ffn.{gate,up,down}_proj. */
plx_status plx_ffn_define(plx_params *params, plx_ffn *ffn, const plx_layer_shape *shape, size_t inner, bool gated,
                          bool bias);
/* y [tokens, D] = ffn(x [tokens, D]) */
plx_status plx_ffn_forward(plx_run *run, plx_ffn *ffn, const void *x, void *y);
/* dx, overwritten, from dy; gradients of the weights accumulate. x as in forward. */
plx_status plx_ffn_backward(plx_run *run, plx_ffn *ffn, const void *x, const void *dy, void *dx);

#endif
