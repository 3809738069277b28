/* optimizer.c - sums over gradients and the update of weights. */
#include "kernels/ref/ref.h"

#include <math.h>

plx_status plx_column_sum_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_column_sum_args *a = arguments;
    for (size_t i = 0; i < a->width; i++) {
        double sum = 0;
        for (size_t row = 0; row < a->rows; row++) sum += plx_ref_get(a->x, a->type, row * a->width + i);
        plx_ref_add(a->out, a->type, i, sum);
    }
    return PLX_OK;
}

plx_status plx_sum_squares_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_sum_squares_args *a = arguments;
    for (size_t t = 0; t < a->tensors; t++) {
        double sum = 0;
        for (size_t i = 0; i < a->list[t].count; i++) {
            double x = plx_ref_get(a->list[t].x, a->type, i);
            sum += x * x;
        }
        a->out[t] = sum;
    }
    return PLX_OK;
}

static void adamw_tensor(const plx_adamw_args *a, const plx_adamw_tensor *tensor)
{
    for (size_t i = 0; i < tensor->count; i++) {
        double g = plx_ref_get(tensor->gradient, a->type, i) * a->grad_scale;
        double m = a->beta1 * plx_ref_get(tensor->m, a->type, i) + (1 - a->beta1) * g;
        double v = a->beta2 * plx_ref_get(tensor->v, a->type, i) + (1 - a->beta2) * g * g;
        double w = plx_ref_get(tensor->weight, a->type, i) * (1 - a->lr * tensor->decay);
        w -= a->lr * (m / a->correction1) / (sqrt(v / a->correction2) + a->epsilon);
        plx_ref_put(tensor->m, a->type, i, m);
        plx_ref_put(tensor->v, a->type, i, v);
        plx_ref_put(tensor->weight, a->type, i, w);
    }
}

plx_status plx_adamw_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_adamw_args *a = arguments;
    for (size_t t = 0; t < a->tensors; t++) adamw_tensor(a, &a->list[t]);
    return PLX_OK;
}
