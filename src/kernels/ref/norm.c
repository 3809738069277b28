/* norm.c - RMSNorm and LayerNorm and their gradients, row by row. */
#include "kernels/ref/ref.h"

#include <math.h>

plx_status plx_norm_forward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_norm_args *a = arguments;
    for (size_t row = 0; row < a->rows; row++) {
        size_t at = row * a->width;
        double mean = 0, square = 0;
        const void *of = a->addend != NULL ? a->sum : a->x;
        for (size_t i = at; a->addend != NULL && i < at + a->width; i++)
            plx_ref_put(a->sum, a->type, i, plx_ref_get(a->x, a->type, i) + plx_ref_get(a->addend, a->type, i));
        if (a->layer) {
            for (size_t i = 0; i < a->width; i++) mean += plx_ref_get(of, a->type, at + i);
            mean /= (double)a->width;
        }
        for (size_t i = 0; i < a->width; i++) {
            double x = plx_ref_get(of, a->type, at + i) - mean;
            square += x * x;
        }
        double rstd = 1 / sqrt(square / (double)a->width + a->epsilon);
        for (size_t i = 0; i < a->width; i++) {
            double y = (plx_ref_get(of, a->type, at + i) - mean) * rstd * plx_ref_get(a->weight, a->type, i);
            if (a->bias) y += plx_ref_get(a->bias, a->type, i);
            plx_ref_put(a->y, a->type, at + i, y);
        }
        if (a->mean) plx_ref_put(a->mean, a->type, row, mean);
        if (a->rstd) plx_ref_put(a->rstd, a->type, row, rstd);
    }
    return PLX_OK;
}

/* With u = (x - mean) r and g = dy w:  dx = r (g - mean(g) - u mean(g u)); rms has no mean(g). */
plx_status plx_norm_backward_ref(plx_context *context, const void *arguments)
{
    const plx_norm_backward_args *a = arguments;
    double *sums = plx_kernel_scratch(context, (2 * a->width + 1) * sizeof(double));
    if (!sums) return PLX_ERROR_MEMORY;
    double *dweight = sums, *dbias = sums + a->width;
    for (size_t i = 0; i < 2 * a->width; i++) sums[i] = 0;
    for (size_t row = 0; row < a->rows; row++) {
        size_t at = row * a->width;
        double mean = a->layer ? plx_ref_get(a->mean, a->type, row) : 0;
        double rstd = plx_ref_get(a->rstd, a->type, row);
        double mean_g = 0, mean_gu = 0;
        for (size_t i = 0; i < a->width; i++) {
            double dy = plx_ref_get(a->dy, a->type, at + i), g = dy * plx_ref_get(a->weight, a->type, i);
            double u = (plx_ref_get(a->x, a->type, at + i) - mean) * rstd;
            mean_g += g;
            mean_gu += g * u;
            dweight[i] += dy * u;
            dbias[i] += dy;
        }
        mean_g = a->layer ? mean_g / (double)a->width : 0;
        mean_gu /= (double)a->width;
        for (size_t i = 0; i < a->width; i++) {
            double g = plx_ref_get(a->dy, a->type, at + i) * plx_ref_get(a->weight, a->type, i);
            double u = (plx_ref_get(a->x, a->type, at + i) - mean) * rstd;
            double dx = rstd * (g - mean_g - u * mean_gu);
            if (a->accumulate)
                plx_ref_add(a->dx, a->type, at + i, dx);
            else
                plx_ref_put(a->dx, a->type, at + i, dx);
        }
    }
    for (size_t i = 0; i < a->width; i++) {
        if (a->dweight) plx_ref_add(a->dweight, a->type, i, dweight[i]);
        if (a->dbias) plx_ref_add(a->dbias, a->type, i, dbias[i]);
    }
    return PLX_OK;
}
