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

/* Products that share an operand: as one job where that is done, else each by itself. */
static plx_status products(plx_run *run, const plx_matmul_group_args *group)
{
    if (group->count > 1 && plx_matmul_groups(run->context, group))
        return plx_run_op(run, &plx_op_matmul_group, group);
    for (size_t i = 0; i < group->count; i++) PLX_TRY(plx_run_op(run, &plx_op_matmul, &group->part[i]));
    return PLX_OK;
}
static plx_status add_product(plx_run *run, plx_matmul_group_args *group, const plx_matmul_args *args)
{
    if (group->count == PLX_GROUP_MOST) {
        PLX_TRY(products(run, group));
        group->count = 0;
    }
    group->part[group->count++] = *args;
    return PLX_OK;
}

static plx_status forward(plx_run *run, const plx_linear *const linears[], size_t count, const void *x, size_t rows,
                          void *const y[], double beta)
{
    plx_matmul_group_args group = {.count = 0};
    for (size_t i = 0; i < count; i++) {
        const plx_linear *linear = linears[i];
        if (linear->weight->form != PLX_FORM_PLAIN) {
            PLX_TRY(plx_packed_forward(run, linear, x, rows, y[i], beta));
            continue;
        }
        const plx_matmul_args args = {
            .a_type = run->type, .b_type = linear->weight->type, .c_type = run->type,
            .a = x, .b = linear->weight->data, .c = y[i],
            .m = rows, .n = linear->out, .k = linear->in,
            .lda = linear->in, .ldb = linear->in, .ldc = linear->out,
            .transpose_b = true, .beta = beta, .bf16 = run->bf16, .gradients = run->gradients,
            .bias = linear->bias != NULL ? linear->bias->data : NULL,
            .bias_type = linear->bias != NULL ? linear->bias->type : PLX_F32,
        };
        PLX_TRY(add_product(run, &group, &args));
    }
    PLX_TRY(products(run, &group));
    for (size_t i = 0; i < count; i++) PLX_TRY(plx_adapter_forward(run, linears[i], x, rows, y[i]));
    return PLX_OK;
}
plx_status plx_linears_forward(plx_run *run, const plx_linear *const linears[], size_t count, const void *x,
                               size_t rows, void *const y[])
{
    return forward(run, linears, count, x, rows, y, 0.0);
}
plx_status plx_linear_forward(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y)
{
    return forward(run, &linear, 1, x, rows, &y, 0.0);
}
plx_status plx_linear_forward_add(plx_run *run, const plx_linear *linear, const void *x, size_t rows, void *y)
{
    return forward(run, &linear, 1, x, rows, &y, 1.0);
}

static plx_status backward_input(plx_run *run, const plx_linear *const linears[], size_t count, const void *const dy[],
                                 size_t rows, void *dx, bool accumulate)
{
    plx_matmul_group_args group = {.count = 0};
    for (size_t i = 0; i < count; i++) {
        const plx_linear *linear = linears[i];
        const bool add = accumulate || i > 0;
        if (linear->weight->form != PLX_FORM_PLAIN) {
            PLX_TRY(products(run, &group)); /* in order: the first one writes */
            group.count = 0;
            PLX_TRY(plx_packed_backward_input(run, linear, dy[i], rows, dx, add));
            continue;
        }
        const plx_matmul_args args = { /* dx[rows,in] = dy[rows,out] W[out,in] */
            .a_type = run->type, .b_type = linear->weight->type, .c_type = run->type,
            .a = dy[i], .b = linear->weight->data, .c = dx,
            .m = rows, .n = linear->in, .k = linear->out,
            .lda = linear->out, .ldb = linear->in, .ldc = linear->in,
            .beta = add ? 1.0 : 0.0, .bf16 = run->bf16, .gradients = run->gradients,
        };
        PLX_TRY(add_product(run, &group, &args));
    }
    PLX_TRY(products(run, &group));
    for (size_t i = 0; i < count; i++) PLX_TRY(plx_adapter_backward_input(run, linears[i], dy[i], rows, dx));
    return PLX_OK;
}
plx_status plx_linear_backward_input(plx_run *run, const plx_linear *linear, const void *dy, size_t rows, void *dx,
                                     bool accumulate)
{
    return backward_input(run, &linear, 1, &dy, rows, dx, accumulate);
}

static plx_status backward_weights(plx_run *run, const plx_linear *const linears[], size_t count, const void *x,
                                   const void *const dy[], size_t rows)
{
    plx_matmul_group_args group = {.count = 0};
    for (size_t i = 0; i < count; i++) {
        const plx_linear *linear = linears[i];
        if (!linear->weight->trainable) continue;
        const plx_matmul_args args = { /* dW[out,in] += dy[rows,out]^T x[rows,in] */
            .a_type = run->type, .b_type = run->type, .c_type = run->type,
            .a = dy[i], .b = x, .c = linear->weight->gradient,
            .m = linear->out, .n = linear->in, .k = rows,
            .lda = linear->out, .ldb = linear->in, .ldc = linear->in,
            .transpose_a = true, .beta = 1.0, .bf16 = run->bf16, .gradients = run->gradients,
        };
        PLX_TRY(add_product(run, &group, &args));
    }
    PLX_TRY(products(run, &group));
    for (size_t i = 0; i < count; i++) {
        const plx_linear *linear = linears[i];
        if (linear->bias != NULL && linear->bias->trainable) {
            plx_column_sum_args args = {
                .type = run->type, .x = dy[i], .out = linear->bias->gradient, .rows = rows, .width = linear->out};
            PLX_TRY(plx_run_op(run, &plx_op_column_sum, &args));
        }
        PLX_TRY(plx_adapter_backward_weights(run, linear, x, dy[i], rows));
    }
    return PLX_OK;
}
plx_status plx_linear_backward_weights(plx_run *run, const plx_linear *linear, const void *x, const void *dy,
                                       size_t rows)
{
    return backward_weights(run, &linear, 1, x, &dy, rows);
}

plx_status plx_linears_backward(plx_run *run, const plx_linear *const linears[], size_t count, const void *x,
                                const void *const dy[], size_t rows, void *dx, bool accumulate)
{
    PLX_TRY(backward_weights(run, linears, count, x, dy, rows));
    if (dx == NULL) return PLX_OK;
    return backward_input(run, linears, count, dy, rows, dx, accumulate);
}
plx_status plx_linear_backward(plx_run *run, const plx_linear *linear, const void *x, const void *dy, size_t rows,
                               void *dx, bool accumulate)
{
    return plx_linears_backward(run, &linear, 1, x, &dy, rows, dx, accumulate);
}
