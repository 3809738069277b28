/* ffn.c - the feed-forward part of a block: down(silu(gate(x)) * up(x)), or down(gelu(up(x))).
 *
 * The inner vectors are several times as wide as the block's, and what is done with them is little beside moving them.
 * So tokens go through by chunks. */
#include "model/ffn.h"

/* Of one inner array. With operands rounded to bf16 moving them is most of the time: what stays in a few cores' caches
 * together from the first product to the last. In f32 each product's own work on the weights counts for more. */
#define PLX_CHUNK_BYTES ((size_t)16 << 20)
#define PLX_CHUNK_BYTES_BF16 ((size_t)3 << 20)

plx_status plx_ffn_define(plx_params *params, plx_ffn *ffn, const plx_layer_shape *shape, size_t inner, bool gated,
                          bool bias)
{
    plx_init in = plx_init_matrix(shape, shape->hidden, false), out = plx_init_matrix(shape, inner, true);
    ffn->gated = gated;
    if (gated) PLX_TRY(plx_linear_define(params, &ffn->gate, "ffn.gate_proj", shape->hidden, inner, bias, in));
    PLX_TRY(plx_linear_define(params, &ffn->up, "ffn.up_proj", shape->hidden, inner, bias, in));
    return plx_linear_define(params, &ffn->down, "ffn.down_proj", inner, shape->hidden, bias, out);
}

/* Tokens of a chunk: by shape alone, and no fewer than keep many processors busy. */
static size_t chunk_tokens(const plx_run *run, const plx_ffn *ffn)
{
    size_t bytes = run->bf16 ? PLX_CHUNK_BYTES_BF16 : PLX_CHUNK_BYTES;
    size_t tokens = bytes / (ffn->up.out * plx_type_size(run->type)) / 64 * 64;
    if (tokens < 256) tokens = 256;
    return tokens < run->tokens ? tokens : run->tokens;
}

/* gate and up: where the chunk's products go, [rows, inner], kept for backward or not. */
static plx_status chunk_forward(plx_run *run, const plx_ffn *ffn, const void *x, size_t rows, void *gate, void *up,
                                void *act, void *y)
{
    size_t count = rows * ffn->up.out;
    const plx_linear *const inner[] = {&ffn->up, &ffn->gate};
    void *const to[] = {up, gate};
    PLX_TRY(plx_linears_forward(run, inner, ffn->gated ? 2 : 1, x, rows, to));
    if (ffn->gated) {
        plx_swiglu_args args = {.type = run->type, .count = count, .gate = gate, .up = up, .y = act};
        PLX_TRY(plx_run_op(run, &plx_op_swiglu_forward, &args));
    } else {
        plx_gelu_args args = {.type = run->type, .count = count, .x = up, .y = act};
        PLX_TRY(plx_run_op(run, &plx_op_gelu_forward, &args));
    }
    return plx_linear_forward(run, &ffn->down, act, rows, y);
}

plx_status plx_ffn_forward(plx_run *run, plx_ffn *ffn, const void *x, void *y)
{
    size_t mark = plx_mark(run), inner = ffn->up.out, chunk = chunk_tokens(run, ffn);
    size_t kept = run->keep ? run->tokens : chunk;
    void *act;
    if (ffn->gated) PLX_TRY(plx_kept(run, kept * inner, &ffn->gate_out));
    PLX_TRY(plx_kept(run, kept * inner, &ffn->up_out));
    PLX_TRY(plx_scratch(run, chunk * inner, &act));
    for (size_t first = 0; first < run->tokens; first += chunk) {
        size_t rows = run->tokens - first < chunk ? run->tokens - first : chunk, at = run->keep ? first * inner : 0;
        void *gate = ffn->gated ? plx_at(run, ffn->gate_out, at) : NULL;
        PLX_TRY(chunk_forward(run, ffn, plx_at(run, x, first * ffn->up.in), rows, gate, plx_at(run, ffn->up_out, at),
                              act, plx_at(run, y, first * ffn->down.out)));
    }
    plx_release(run, mark);
    return PLX_OK;
}

/* gate, up: what forward kept of the chunk, dgate, dup and dact: memory for the gradients. The activation is made again
 * rather than kept, in dact's place. */
static plx_status chunk_backward(plx_run *run, const plx_ffn *ffn, const void *x, const void *dy, size_t rows,
                                 const void *gate, const void *up, void *dgate, void *dup, void *dact, void *dx)
{
    size_t count = rows * ffn->up.out;
    PLX_TRY(plx_linear_backward_input(run, &ffn->down, dy, rows, dact, false));
    if (ffn->gated) {
        plx_swiglu_backward_args args = {.type = run->type,
                                         .count = count,
                                         .gate = gate,
                                         .up = up,
                                         .dy = dact,
                                         .dgate = dgate,
                                         .dup = dup,
                                         .y = dact};
        PLX_TRY(plx_run_op(run, &plx_op_swiglu_backward, &args));
    } else {
        plx_gelu_backward_args args = {.type = run->type, .count = count, .x = up, .dy = dact, .dx = dup, .y = dact};
        PLX_TRY(plx_run_op(run, &plx_op_gelu_backward, &args));
    }
    PLX_TRY(plx_linear_backward_weights(run, &ffn->down, dact, dy, rows));
    const plx_linear *const inner[] = {&ffn->up, &ffn->gate};
    const void *const dinner[] = {dup, dgate};
    return plx_linears_backward(run, inner, ffn->gated ? 2 : 1, x, dinner, rows, dx, false);
}

plx_status plx_ffn_backward(plx_run *run, plx_ffn *ffn, const void *x, const void *dy, void *dx)
{
    size_t mark = plx_mark(run), inner = ffn->up.out, chunk = chunk_tokens(run, ffn);
    void *dgate = NULL, *dup, *dact;
    if (ffn->gated) PLX_TRY(plx_scratch(run, chunk * inner, &dgate));
    PLX_TRY(plx_scratch(run, chunk * inner, &dup));
    PLX_TRY(plx_scratch(run, chunk * inner, &dact));
    for (size_t first = 0; first < run->tokens; first += chunk) {
        size_t rows = run->tokens - first < chunk ? run->tokens - first : chunk, at = first * inner;
        const void *gate = ffn->gated ? plx_at(run, ffn->gate_out, at) : NULL;
        PLX_TRY(chunk_backward(run, ffn, plx_at(run, x, first * ffn->up.in), plx_at(run, dy, first * ffn->down.out),
                               rows, gate, plx_at(run, ffn->up_out, at), dgate, dup, dact,
                               plx_at(run, dx, first * ffn->up.in)));
    }
    plx_release(run, mark);
    return PLX_OK;
}
