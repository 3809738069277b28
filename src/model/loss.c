/* loss.c - the output projection and the cross-entropy, fused by chunks of rows: logits of a whole batch never
 * exist. Gradients are made in the same sweep, while a chunk's logits are at hand. */
#include "model/model.h"

/* Of one chunk; but each chunk reads the head's weights twice and adds to their gradient, so that it has no fewer rows
 * than make that little beside the products. */
#define PLX_LOGITS_BYTES ((size_t)4 << 20)
#define PLX_LEAST_ROWS ((size_t)256)

static plx_linear head_of(plx_model *model)
{
    return (plx_linear){.in = model->config.hidden_size, .out = model->config.vocab_size, .weight = model->head};
}

plx_status plx_model_head(plx_run *run, plx_model *model, const void *hidden, size_t count, void *logits)
{
    plx_linear head = head_of(model);
    return plx_linear_forward(run, &head, hidden, count, logits);
}

plx_status plx_model_loss(plx_run *run, plx_model *model, const void *hidden, double scale, double z, void *dhidden,
                          double *loss, int32_t *correct)
{
    size_t mark = plx_mark(run), vocab = model->config.vocab_size, width = model->config.hidden_size;
    size_t chunk = PLX_LOGITS_BYTES / (vocab * plx_type_size(run->type)) / 16 * 16;
    plx_linear head = head_of(model);
    void *logits;
    if (chunk < PLX_LEAST_ROWS) chunk = PLX_LEAST_ROWS;
    if (chunk > run->tokens) chunk = run->tokens;
    PLX_TRY(plx_scratch(run, chunk * vocab, &logits));
    for (size_t first = 0; first < run->tokens; first += chunk) {
        size_t rows = run->tokens - first < chunk ? run->tokens - first : chunk;
        const void *x = plx_at(run, hidden, first * width);
        PLX_TRY(plx_linear_forward(run, &head, x, rows, logits));
        plx_cross_entropy_args args = {.type = run->type,
                                       .rows = rows,
                                       .vocab = vocab,
                                       .logits = logits,
                                       .targets = run->targets + first,
                                       .mask = run->mask + first,
                                       .scale = scale,
                                       .z = z,
                                       .gradient = dhidden != NULL,
                                       .loss = loss + first,
                                       .correct = correct + first};
        PLX_TRY(plx_run_op(run, &plx_op_cross_entropy, &args));
        if (dhidden != NULL)
            PLX_TRY(plx_linear_backward(run, &head, x, logits, rows, plx_at(run, dhidden, first * width), false));
    }
    plx_release(run, mark);
    return PLX_OK;
}
