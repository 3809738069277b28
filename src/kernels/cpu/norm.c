/* norm.c - RMSNorm and LayerNorm and their gradients, a row at a time in vectors. */
#include "kernels/cpu/parts.h"

#include <math.h>

/* Mean (layer only) and 1 / sqrt(mean square + epsilon) of a row. The second pass corrects the mean that the first one
 * found, so that a row with a large mean keeps its accuracy: x - (mean + correction). */
typedef struct row_statistics {
    float mean, correction, rstd;
} row_statistics;

INLINE row_statistics row_measure(const plx_norm_args *a, const float *x, const bool layer)
{
    row_statistics s = {0};
    double width = (double)a->width;
    if (layer) {
        vf sum = vf_set(0.0f);
        for (size_t i = 0; i < a->width; i += PLX_VW) sum += vf_next(x + i, a->width - i);
        s.mean = (float)(vf_sum(sum) / width);
    }
    vf sums = vf_set(0.0f), squares = vf_set(0.0f);
    size_t whole = a->width - a->width % PLX_VW;
    for (size_t i = 0; i < whole; i += PLX_VW) {
        vf u = vf_load(x + i) - s.mean;
        if (layer) sums += u;
        squares += u * u;
    }
    double sum = layer ? vf_sum(sums) : 0, square = vf_sum(squares);
    for (size_t i = whole; i < a->width; i++) {
        double u = (double)x[i] - s.mean;
        sum += u;
        square += u * u;
    }
    if (!isfinite(square)) { /* the squares may have left the range of f32 only */
        square = sum = 0;
        for (size_t i = 0; i < a->width; i++) {
            double u = (double)x[i] - s.mean;
            sum += u;
            square += u * u;
        }
    }
    double correction = layer ? sum / width : 0, variance = square / width - correction * correction;
    s.correction = (float)correction;
    s.rstd = (float)(1 / sqrt((variance < 0 ? 0 : variance) + a->epsilon));
    return s;
}

INLINE void norm_rows(const plx_norm_args *a, size_t row, size_t end, const bool layer)
{
    const float *weight = a->weight, *bias = a->bias;
    float *mean = a->mean, *rstd = a->rstd;
    for (; row < end; row++) {
        const float *x = (const float *)a->x + row * a->width;
        float *y = (float *)a->y + row * a->width;
        if (a->addend) {
            const float *addend = (const float *)a->addend + row * a->width;
            float *sum = (float *)a->sum + row * a->width;
            for (size_t i = 0; i < a->width; i += PLX_VW)
                vf_put(sum + i, vf_next(x + i, a->width - i) + vf_next(addend + i, a->width - i), a->width - i);
            x = sum;
        }
        row_statistics s = row_measure(a, x, layer);
        for (size_t i = 0; i < a->width; i += PLX_VW) {
            size_t left = a->width - i;
            vf v = vf_next(x + i, left);
            if (layer) v = v - s.mean - s.correction;
            v = v * s.rstd * vf_next(weight + i, left);
            if (layer && bias) v += vf_next(bias + i, left);
            vf_put(y + i, v, left);
        }
        if (layer && mean) mean[row] = s.mean + s.correction;
        if (rstd) rstd[row] = s.rstd;
    }
}

static void norm_forward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_norm_args *a = argument;
    size_t rows = plx_part_rows(a->width), end = plx_part_end(a->rows, rows, index);
    if (a->layer)
        norm_rows(a, index * rows, end, true);
    else
        norm_rows(a, index * rows, end, false);
}

plx_status PLX_CPU(plx_norm_forward)(plx_context *context, const void *arguments)
{
    const plx_norm_args *a = arguments;
    plx_parallel_for(context, plx_parts(a->rows, plx_part_rows(a->width)), norm_forward_part, (void *)arguments);
    return PLX_OK;
}

/* Each part of the rows sums its share of dweight and dbias apart; the shares are then added in order. */
typedef struct backward_job {
    const plx_norm_backward_args *a;
    size_t part_rows, parts;
    float *shares; /* [parts, 2, width]: dweight, dbias */
} backward_job;

/* With u = (x - mean) r and g = dy w:  dx = r (g - mean(g) - u mean(g u)); rms has no mean(g). */
INLINE void backward_row(const plx_norm_backward_args *a, size_t row, float *dweight, float *dbias, const bool layer)
{
    const float *weight = a->weight, *x = (const float *)a->x + row * a->width;
    const float *dy = (const float *)a->dy + row * a->width;
    float *dx = (float *)a->dx + row * a->width;
    float mean = layer ? ((const float *)a->mean)[row] : 0, rstd = ((const float *)a->rstd)[row];
    vf sum_g = vf_set(0.0f), sum_gu = vf_set(0.0f);
    for (size_t i = 0; i < a->width; i += PLX_VW) {
        size_t left = a->width - i; /* lanes beyond the row have g = 0 */
        vf g = vf_next(dy + i, left) * vf_next(weight + i, left);
        if (layer) sum_g += g;
        sum_gu += g * ((vf_next(x + i, left) - mean) * rstd);
    }
    float mean_g = layer ? vf_sum(sum_g) / (float)a->width : 0, mean_gu = vf_sum(sum_gu) / (float)a->width;
    for (size_t i = 0; i < a->width; i += PLX_VW) {
        size_t left = a->width - i;
        vf d = vf_next(dy + i, left), u = (vf_next(x + i, left) - mean) * rstd;
        vf result = rstd * (d * vf_next(weight + i, left) - mean_g - u * mean_gu);
        if (a->accumulate) result += vf_next(dx + i, left);
        vf_put(dx + i, result, left);
        if (dweight) vf_put(dweight + i, vf_next(dweight + i, left) + d * u, left);
        if (layer && dbias) vf_put(dbias + i, vf_next(dbias + i, left) + d, left);
    }
}

static void norm_backward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const backward_job *job = argument;
    const plx_norm_backward_args *a = job->a;
    float *share = job->shares ? job->shares + index * 2 * a->width : NULL;
    if (share) memset(share, 0, 2 * a->width * sizeof(float));
    size_t row = index * job->part_rows, end = plx_part_end(a->rows, job->part_rows, index);
    float *dweight = a->dweight ? share : NULL, *dbias = a->dbias ? share + a->width : NULL;
    if (a->layer)
        for (; row < end; row++) backward_row(a, row, dweight, dbias, true);
    else
        for (; row < end; row++) backward_row(a, row, dweight, NULL, false);
}

static void add_shares(const backward_job *job, size_t which, float *out)
{
    size_t width = job->a->width;
    for (size_t i = 0; i < width; i += PLX_VW) {
        size_t left = width - i;
        vf sum = vf_set(0.0f);
        for (size_t part = 0; part < job->parts; part++)
            sum += vf_next(job->shares + (part * 2 + which) * width + i, left);
        vf_put(out + i, vf_next(out + i, left) + sum, left);
    }
}

plx_status PLX_CPU(plx_norm_backward)(plx_context *context, const void *arguments)
{
    const plx_norm_backward_args *a = arguments;
    backward_job job = {.a = a, .part_rows = a->rows / 128 > 32 ? a->rows / 128 : 32};
    job.parts = plx_parts(a->rows, job.part_rows);
    if (a->dweight || a->dbias) {
        job.shares = plx_kernel_scratch(context, (job.parts * 2 * a->width + 1) * sizeof(float));
        if (!job.shares) return PLX_ERROR_MEMORY;
    }
    plx_parallel_for(context, job.parts, norm_backward_part, &job);
    if (a->dweight) add_shares(&job, 0, a->dweight);
    if (a->dbias) add_shares(&job, 1, a->dbias);
    return PLX_OK;
}
