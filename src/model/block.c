/* block.c - one layer of the decoder: norms, mixer, feed-forward and residuals, forward and backward mirrored. */
#include "model/model.h"

plx_status plx_block_define(plx_params *params, plx_layer *layer, const plx_config *config)
{
    const plx_layer_shape *shape = &layer->shape;
    bool paper = layer->form == PLX_BLOCK_PAPER;
    bool layer_norm = paper || config->norm_layer;
    layer->parallel_residual = config->parallel_residual && !paper;
    layer->has_ffn = config->intermediate_size > 0;
    PLX_TRY(plx_norm_define(params, &layer->mixer_norm, "mixer_norm", shape->hidden, layer_norm, config->norm_eps));
    PLX_TRY(layer->mixer->params(params, shape, layer->own));
    if (layer->has_ffn || paper)
        PLX_TRY(plx_norm_define(params, &layer->ffn_norm, "ffn_norm", shape->hidden, layer_norm, config->norm_eps));
    if (!layer->has_ffn) return PLX_OK;
    return plx_ffn_define(params, &layer->ffn, shape, config->intermediate_size, !config->gelu, config->mlp_bias);
}

static plx_status mix(plx_run *run, plx_layer *layer, const void *x, void *y)
{
    size_t mark = plx_mark(run);
    if (run->session != NULL)
        PLX_TRY(layer->mixer->step(run, layer->own, x, y));
    else
        PLX_TRY(layer->mixer->forward(run, layer->own, x, y));
    plx_release(run, mark);
    return PLX_OK;
}

static plx_status dropout(plx_run *run, const plx_layer *layer, const void *x, void *y)
{
    plx_dropout_args args = {.type = run->type, .count = run->tokens * layer->shape.hidden, .x = x, .y = y,
                             .p = layer->shape.dropout, .seed = run->dropout_seed,
                             .stream = run->dropout_stream + ((uint64_t)layer->shape.layer << 40)};
    return plx_run_op(run, &plx_op_dropout, &args);
}
static bool drops(const plx_run *run, const plx_layer *layer) { return run->training && layer->shape.dropout > 0; }

/* u = dropout(layernorm(mixer(x))); y = layernorm(u + ffn(u)). mixer_in holds mixer(x), middle u, ffn_in u + ffn(u). */
static plx_status paper_forward(plx_run *run, plx_layer *layer, const void *x, void *y)
{
    size_t count = run->tokens * layer->shape.hidden;
    PLX_TRY(plx_kept(run, count, &layer->mixer_in));
    PLX_TRY(plx_kept(run, count, &layer->middle));
    PLX_TRY(plx_kept(run, count, &layer->ffn_in));
    PLX_TRY(mix(run, layer, x, layer->mixer_in));
    PLX_TRY(plx_norm_forward(run, &layer->mixer_norm, layer->mixer_in, run->tokens, layer->middle,
                             &layer->mixer_norm_saved));
    if (drops(run, layer)) PLX_TRY(dropout(run, layer, layer->middle, layer->middle));
    if (layer->has_ffn) {
        PLX_TRY(plx_ffn_forward(run, &layer->ffn, layer->middle, layer->ffn_in));
        return plx_norm_forward_sum(run, &layer->ffn_norm, layer->middle, layer->ffn_in, layer->ffn_in, run->tokens, y,
                                    &layer->ffn_norm_saved);
    }
    plx_run_copy(run, layer->ffn_in, layer->middle, count);
    return plx_norm_forward(run, &layer->ffn_norm, layer->ffn_in, run->tokens, y, &layer->ffn_norm_saved);
}

static plx_status paper_backward(plx_run *run, plx_layer *layer, void *dh)
{
    size_t count = run->tokens * layer->shape.hidden;
    void *du, *dx;
    PLX_TRY(plx_scratch(run, count, &du));
    PLX_TRY(
        plx_norm_backward(run, &layer->ffn_norm, &layer->ffn_norm_saved, layer->ffn_in, dh, run->tokens, dh, false));
    if (layer->has_ffn) {
        PLX_TRY(plx_ffn_backward(run, &layer->ffn, layer->middle, dh, du));
        PLX_TRY(plx_run_add(run, dh, 1, du, 1, du, count));
    } else
        plx_run_copy(run, du, dh, count);
    if (drops(run, layer)) PLX_TRY(dropout(run, layer, du, du));
    PLX_TRY(plx_scratch(run, count, &dx));
    PLX_TRY(plx_norm_backward(run, &layer->mixer_norm, &layer->mixer_norm_saved, layer->mixer_in, du, run->tokens, dx,
                              false));
    return layer->mixer->backward(run, layer->own, layer->input, dx, dh);
}

/* middle = x + mixer(norm(x)); y = middle + ffn(norm(middle)). With parallel_residual the second norm reads x. */
static plx_status pre_norm_forward(plx_run *run, plx_layer *layer, const void *x, void *y)
{
    size_t count = run->tokens * layer->shape.hidden;
    PLX_TRY(plx_kept(run, count, &layer->mixer_in));
    PLX_TRY(plx_norm_forward(run, &layer->mixer_norm, x, run->tokens, layer->mixer_in, &layer->mixer_norm_saved));
    if (!layer->has_ffn) {
        PLX_TRY(mix(run, layer, layer->mixer_in, y));
        return plx_run_add(run, x, 1, y, 1, y, count);
    }
    PLX_TRY(plx_kept(run, count, &layer->middle));
    PLX_TRY(plx_kept(run, count, &layer->ffn_in));
    PLX_TRY(mix(run, layer, layer->mixer_in, layer->middle));
    if (layer->parallel_residual) {
        PLX_TRY(plx_run_add(run, x, 1, layer->middle, 1, layer->middle, count));
        PLX_TRY(plx_norm_forward(run, &layer->ffn_norm, x, run->tokens, layer->ffn_in, &layer->ffn_norm_saved));
    } else
        PLX_TRY(plx_norm_forward_sum(run, &layer->ffn_norm, x, layer->middle, layer->middle, run->tokens, layer->ffn_in,
                                     &layer->ffn_norm_saved));
    PLX_TRY(plx_ffn_forward(run, &layer->ffn, layer->ffn_in, y));
    return plx_run_add(run, layer->middle, 1, y, 1, y, count);
}

static plx_status pre_norm_backward(plx_run *run, plx_layer *layer, void *dh)
{
    size_t count = run->tokens * layer->shape.hidden;
    void *dmixer, *dffn = NULL;
    PLX_TRY(plx_scratch(run, count, &dmixer));
    if (layer->has_ffn) {
        PLX_TRY(plx_scratch(run, count, &dffn));
        PLX_TRY(plx_ffn_backward(run, &layer->ffn, layer->ffn_in, dh, dffn));
    }
    if (layer->has_ffn && !layer->parallel_residual)
        PLX_TRY(plx_norm_backward(run, &layer->ffn_norm, &layer->ffn_norm_saved, layer->middle, dffn, run->tokens, dh,
                                  true));
    PLX_TRY(layer->mixer->backward(run, layer->own, layer->mixer_in, dh, dmixer));
    if (layer->has_ffn && layer->parallel_residual)
        PLX_TRY(plx_norm_backward(run, &layer->ffn_norm, &layer->ffn_norm_saved, layer->input, dffn, run->tokens, dh,
                                  true));
    return plx_norm_backward(run, &layer->mixer_norm, &layer->mixer_norm_saved, layer->input, dmixer, run->tokens, dh,
                             true);
}

static plx_status block_forward(plx_run *run, plx_layer *layer, const void *x, void *y)
{
    size_t mark = plx_mark(run);
    run->layer = layer->shape.layer;
    layer->input = x;
    PLX_TRY((layer->form == PLX_BLOCK_PAPER ? paper_forward : pre_norm_forward)(run, layer, x, y));
    plx_release(run, mark);
    return PLX_OK;
}

plx_status plx_block_forward(plx_run *run, plx_layer *layer, const void *x, void *y)
{
    bool keep = run->keep;
    if (layer->recompute) run->keep = false; /* only x stays; backward comes this way again */
    plx_status status = block_forward(run, layer, x, y);
    run->keep = keep;
    return status;
}

plx_status plx_block_backward(plx_run *run, plx_layer *layer, void *dh)
{
    size_t mark = plx_mark(run), saved = run->saved.used;
    run->layer = layer->shape.layer;
    if (layer->recompute) {
        void *y;
        PLX_TRY(plx_scratch(run, run->tokens * layer->shape.hidden, &y));
        PLX_TRY(block_forward(run, layer, layer->input, y));
    }
    PLX_TRY((layer->form == PLX_BLOCK_PAPER ? paper_backward : pre_norm_backward)(run, layer, dh));
    run->saved.used = saved;
    plx_release(run, mark);
    return PLX_OK;
}
