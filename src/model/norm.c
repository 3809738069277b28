/* norm.c - RMSNorm and LayerNorm as modules; the arithmetic is plx_op_norm_forward and _backward. */
#include "model/params.h"

#include <stdio.h>

plx_status plx_norm_define(plx_params *params, plx_norm *norm, const char *name, size_t width, bool layer,
                           double epsilon)
{
    char full[96];
    *norm = (plx_norm){.layer = layer, .epsilon = epsilon, .width = width};
    snprintf(full, sizeof full, "%s.weight", name);
    PLX_TRY(plx_params_add(params, full, 1, width, 0, (plx_init){PLX_INIT_CONSTANT, 1}, false, &norm->weight));
    if (layer) {
        snprintf(full, sizeof full, "%s.bias", name);
        PLX_TRY(plx_params_add(params, full, 1, width, 0, (plx_init){PLX_INIT_CONSTANT, 0}, false, &norm->bias));
    }
    return PLX_OK;
}

plx_status plx_norm_forward(plx_run *run, const plx_norm *norm, const void *x, size_t rows, void *y,
                            plx_norm_saved *saved)
{
    return plx_norm_forward_sum(run, norm, x, NULL, NULL, rows, y, saved);
}

plx_status plx_norm_forward_sum(plx_run *run, const plx_norm *norm, const void *x, const void *addend, void *sum,
                                size_t rows, void *y, plx_norm_saved *saved)
{
    plx_norm_saved none = {0};
    if (saved != NULL && run->keep) {
        if (norm->layer) PLX_TRY(plx_saved(run, rows, &saved->mean));
        PLX_TRY(plx_saved(run, rows, &saved->rstd));
    } else
        saved = &none;
    plx_norm_args args = {
        .type = run->type, .layer = norm->layer, .epsilon = norm->epsilon, .rows = rows, .width = norm->width,
        .x = x, .weight = norm->weight->data, .bias = norm->bias != NULL ? norm->bias->data : NULL,
        .y = y, .mean = saved->mean, .rstd = saved->rstd, .addend = addend, .sum = sum,
    };
    return plx_run_op(run, &plx_op_norm_forward, &args);
}

plx_status plx_norm_backward(plx_run *run, const plx_norm *norm, const plx_norm_saved *saved, const void *x,
                             const void *dy, size_t rows, void *dx, bool accumulate)
{
    plx_norm_backward_args args = {
        .type = run->type, .layer = norm->layer, .rows = rows, .width = norm->width,
        .x = x, .weight = norm->weight->data, .mean = saved->mean, .rstd = saved->rstd, .dy = dy,
        .dx = dx, .accumulate = accumulate,
        .dweight = norm->weight->trainable ? norm->weight->gradient : NULL,
        .dbias = norm->bias != NULL && norm->bias->trainable ? norm->bias->gradient : NULL,
    };
    return plx_run_op(run, &plx_op_norm_backward, &args);
}
