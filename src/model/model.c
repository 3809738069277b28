/* model.c - embedding, layers, final norm, head: one forward for training, evaluation and generation, and the
 * backward that mirrors it. */
#include "model/model.h"

plx_status plx_model_forward(plx_run *run, plx_model *model, void **hidden)
{
    size_t count = run->tokens * model->config.hidden_size;
    void *x, *y, *spare = NULL;
    PLX_TRY(plx_kept(run, count, &x));
    plx_embedding_args embed = {.type = run->type,
                                .table_type = model->embedding->type,
                                .ids = run->inputs,
                                .tokens = run->tokens,
                                .width = model->config.hidden_size,
                                .vocab = model->config.vocab_size,
                                .table = model->embedding->data,
                                .y = x};
    plx_packed_rows_args rows = {.type = run->type,
                                 .form = model->embedding->form,
                                 .weights = model->embedding->data,
                                 .ids = run->inputs,
                                 .count = run->tokens,
                                 .n = model->config.vocab_size,
                                 .k = model->config.hidden_size,
                                 .y = x};
    if (model->embedding->form != PLX_FORM_PLAIN)
        PLX_TRY(plx_run_op(run, &plx_op_packed_rows, &rows));
    else
        PLX_TRY(plx_run_op(run, &plx_op_embedding_forward, &embed));
    if (!run->keep) PLX_TRY(plx_scratch(run, count, &spare));
    for (size_t i = 0; i < model->config.layer_count; i++) {
        if (run->keep)
            PLX_TRY(plx_saved(run, count, &y));
        else
            y = spare;
        PLX_TRY(plx_block_forward(run, &model->config.layers[i], x, y));
        if (run->layer_done != NULL) PLX_TRY(run->layer_done(run->watcher, i + 1, model->config.layer_count));
        spare = x;
        x = y;
    }
    model->final_in = x;
    PLX_TRY(plx_kept(run, count, hidden));
    return plx_norm_forward(run, &model->norm, x, run->tokens, *hidden, &model->norm_saved);
}

plx_status plx_model_backward(plx_run *run, plx_model *model, void *dhidden)
{
    PLX_TRY(plx_norm_backward(run, &model->norm, &model->norm_saved, model->final_in, dhidden, run->tokens, dhidden,
                              false));
    for (size_t i = model->config.layer_count; i-- > 0;)
        PLX_TRY(plx_block_backward(run, &model->config.layers[i], dhidden));
    if (!model->embedding->trainable) return PLX_OK;
    plx_embedding_backward_args embed = {.type = run->type, .ids = run->inputs, .tokens = run->tokens,
                                         .width = model->config.hidden_size, .vocab = model->config.vocab_size,
                                         .dy = dhidden, .dtable = model->embedding->gradient};
    return plx_run_op(run, &plx_op_embedding_backward, &embed);
}
