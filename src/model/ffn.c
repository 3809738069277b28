/* ffn.c - the feed-forward part of a block: down(silu(gate(x)) * up(x)), or down(gelu(up(x))). */
#include "model/ffn.h"

plx_status plx_ffn_define(plx_params *params, plx_ffn *ffn, const plx_layer_shape *shape, size_t inner, bool gated,
                          bool bias)
{
    plx_init in = plx_init_matrix(shape, shape->hidden, false), out = plx_init_matrix(shape, inner, true);
    ffn->gated = gated;
    if (gated) PLX_TRY(plx_linear_define(params, &ffn->gate, "ffn.gate_proj", shape->hidden, inner, bias, in));
    PLX_TRY(plx_linear_define(params, &ffn->up, "ffn.up_proj", shape->hidden, inner, bias, in));
    return plx_linear_define(params, &ffn->down, "ffn.down_proj", inner, shape->hidden, bias, out);
}

/* The activation, into act; made again in backward rather than kept. */
static plx_status activate(plx_run *run, const plx_ffn *ffn, void *act)
{
    size_t count = run->tokens * ffn->up.out;
    if (ffn->gated) {
        plx_swiglu_args args = {.type = run->type, .count = count, .gate = ffn->gate_out, .up = ffn->up_out, .y = act};
        return plx_run_op(run, &plx_op_swiglu_forward, &args);
    }
    plx_gelu_args args = {.type = run->type, .count = count, .x = ffn->up_out, .y = act};
    return plx_run_op(run, &plx_op_gelu_forward, &args);
}

plx_status plx_ffn_forward(plx_run *run, plx_ffn *ffn, const void *x, void *y)
{
    size_t mark = plx_mark(run), count = run->tokens * ffn->up.out;
    void *act;
    if (ffn->gated) {
        PLX_TRY(plx_kept(run, count, &ffn->gate_out));
        PLX_TRY(plx_linear_forward(run, &ffn->gate, x, run->tokens, ffn->gate_out));
    }
    PLX_TRY(plx_kept(run, count, &ffn->up_out));
    PLX_TRY(plx_linear_forward(run, &ffn->up, x, run->tokens, ffn->up_out));
    PLX_TRY(plx_scratch(run, count, &act));
    PLX_TRY(activate(run, ffn, act));
    PLX_TRY(plx_linear_forward(run, &ffn->down, act, run->tokens, y));
    plx_release(run, mark);
    return PLX_OK;
}

plx_status plx_ffn_backward(plx_run *run, plx_ffn *ffn, const void *x, const void *dy, void *dx)
{
    size_t mark = plx_mark(run), count = run->tokens * ffn->up.out;
    void *act, *dact;
    PLX_TRY(plx_scratch(run, count, &act));
    PLX_TRY(plx_scratch(run, count, &dact));
    PLX_TRY(activate(run, ffn, act));
    PLX_TRY(plx_linear_backward(run, &ffn->down, act, dy, run->tokens, dact, false));
    if (ffn->gated) { /* the gradients take the place of what forward kept */
        plx_swiglu_backward_args args = {.type = run->type, .count = count, .gate = ffn->gate_out, .up = ffn->up_out,
                                         .dy = dact, .dgate = ffn->gate_out, .dup = ffn->up_out};
        PLX_TRY(plx_run_op(run, &plx_op_swiglu_backward, &args));
        PLX_TRY(plx_linear_backward(run, &ffn->gate, x, ffn->gate_out, run->tokens, dx, false));
        PLX_TRY(plx_linear_backward(run, &ffn->up, x, ffn->up_out, run->tokens, dx, true));
    } else {
        plx_gelu_backward_args args = {.type = run->type, .count = count, .x = ffn->up_out, .dy = dact, .dx = dact};
        PLX_TRY(plx_run_op(run, &plx_op_gelu_backward, &args));
        PLX_TRY(plx_linear_backward(run, &ffn->up, x, dact, run->tokens, dx, false));
    }
    plx_release(run, mark);
    return PLX_OK;
}
