/* linear.c - y = x W^T + b: the one way that modules multiply by weights. Adapters hang on here, so that every
 * projection of every mixer can have one. */
#include "model/params.h"

#include <math.h>
#include <stdio.h>

plx_init plx_init_matrix(const plx_layer_shape *shape, size_t in, bool output)
{
    double deviation = shape->init_fan_in ? 1.0 / sqrt((double)in) : 0.02;
    if (output) deviation /= sqrt(2.0 * (double)shape->layers);
    return (plx_init){PLX_INIT_NORMAL, deviation};
}

plx_status plx_linear_define(plx_params *params, plx_linear *linear, const char *name, size_t in, size_t out, bool bias,
                             plx_init init)
{
    char full[96];
    *linear = (plx_linear){.in = in, .out = out};
    snprintf(full, sizeof full, "%s.weight", name);
    PLX_TRY(plx_params_add(params, full, 2, out, in, init, true, &linear->weight));
    linear->weight->packable = true;
    if (bias) {
        snprintf(full, sizeof full, "%s.bias", name);
        PLX_TRY(plx_params_add(params, full, 1, out, 0, (plx_init){PLX_INIT_CONSTANT, 0}, false, &linear->bias));
    }
    return plx_adapter_define(params, linear, name);
}

static plx_status forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y, double beta)
{
    if (linear->weight->form != PLX_FORM_PLAIN) {
        PLX_TRY(plx_packed_forward(run, linear, x, rows, y, beta));
        return plx_adapter_forward(run, linear, x, rows, y);
    }
    plx_matmul_args args = {
        .a_type = run->type, .b_type = linear->weight->type, .c_type = run->type,
        .a = x, .b = linear->weight->data, .c = y,
        .m = rows, .n = linear->out, .k = linear->in,
        .lda = linear->in, .ldb = linear->in, .ldc = linear->out,
        .transpose_b = true, .beta = beta, .bf16 = run->bf16, .gradients = run->gradients,
        .bias = linear->bias != NULL ? linear->bias->data : NULL,
        .bias_type = linear->bias != NULL ? linear->bias->type : PLX_F32,
    };
    PLX_TRY(plx_run_op(run, &plx_op_matmul, &args));
    return plx_adapter_forward(run, linear, x, rows, y);
}
plx_status plx_linear_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y)
{
    return forward(run, linear, x, rows, y, 0.0);
}
plx_status plx_linear_forward_add(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y)
{
    return forward(run, linear, x, rows, y, 1.0);
}

plx_status plx_linear_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx,
                                     bool accumulate)
{
    if (linear->weight->form != PLX_FORM_PLAIN) {
        PLX_TRY(plx_packed_backward_input(run, linear, dy, rows, dx, accumulate));
        return plx_adapter_backward_input(run, linear, dy, rows, dx);
    }
    plx_matmul_args args = { /* dx[rows,in] = dy[rows,out] W[out,in] */
        .a_type = run->type, .b_type = linear->weight->type, .c_type = run->type,
        .a = dy, .b = linear->weight->data, .c = dx,
        .m = rows, .n = linear->in, .k = linear->out,
        .lda = linear->out, .ldb = linear->in, .ldc = linear->in,
        .beta = accumulate ? 1.0 : 0.0, .bf16 = run->bf16, .gradients = run->gradients,
    };
    PLX_TRY(plx_run_op(run, &plx_op_matmul, &args));
    return plx_adapter_backward_input(run, linear, dy, rows, dx);
}

plx_status plx_linear_backward_weights(plx_run *run, const plx_linear *linear, const void *x, const void *dy,
                                       size_t rows)
{
    if (linear->weight->trainable) { /* dW[out,in] += dy[rows,out]^T x[rows,in] */
        plx_matmul_args args = {
            .a_type = run->type, .b_type = run->type, .c_type = run->type,
            .a = dy, .b = x, .c = linear->weight->gradient,
            .m = linear->out, .n = linear->in, .k = rows,
            .lda = linear->out, .ldb = linear->in, .ldc = linear->in,
            .transpose_a = true, .beta = 1.0, .bf16 = run->bf16, .gradients = run->gradients,
        };
        PLX_TRY(plx_run_op(run, &plx_op_matmul, &args));
    }
    if (linear->bias != NULL && linear->bias->trainable) {
        plx_column_sum_args args = {
            .type = run->type, .x = dy, .out = linear->bias->gradient, .rows = rows, .width = linear->out};
        PLX_TRY(plx_run_op(run, &plx_op_column_sum, &args));
    }
    return plx_adapter_backward_weights(run, linear, x, dy, rows);
}

plx_status plx_linear_backward(plx_run *run, const plx_linear *linear, const void *x, const void *dy, size_t rows,
                               void *dx, bool accumulate)
{
    PLX_TRY(plx_linear_backward_weights(run, linear, x, dy, rows));
    if (dx == NULL) return PLX_OK;
    return plx_linear_backward_input(run, linear, dy, rows, dx, accumulate);
}
