/* optimizer.c - the sum of squared gradients and the update of weights, each in one pass over memory. */
#include "kernels/cpu/parts.h"

#include <math.h>

typedef struct squares_job {
    const plx_sum_squares_args *a;
    double *shares; /* [parts] */
} squares_job;

/* In double throughout: a gradient beyond 1e19 has no square in f32. */
static void sum_squares_part(void *argument, size_t index, int thread)
{
    (void)thread;
    enum { LANES = 16 };
    const squares_job *job = argument;
    const float *x = job->a->x;
    size_t i = index * PLX_PART_ELEMENTS, end = plx_part_end(job->a->count, PLX_PART_ELEMENTS, index);
    double lanes[LANES] = {0}, sum = 0;
    for (; i + LANES <= end; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) lanes[lane] += (double)x[i + lane] * (double)x[i + lane];
    for (; i < end; i++) sum += (double)x[i] * (double)x[i];
    for (size_t lane = 0; lane < LANES; lane++) sum += lanes[lane];
    job->shares[index] = sum;
}

plx_status PLX_CPU(plx_sum_squares)(plx_context *context, const void *arguments)
{
    squares_job job = {.a = arguments};
    size_t parts = plx_parts(job.a->count, PLX_PART_ELEMENTS);
    job.shares = plx_kernel_scratch(context, (parts + 1) * sizeof(double));
    if (!job.shares) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, parts, sum_squares_part, &job);
    double sum = 0;
    for (size_t part = 0; part < parts; part++) sum += job.shares[part];
    *job.a->out = sum;
    return PLX_OK;
}

/* A plain loop: the compiler's vectors have a square root, ours have not. */
static void adamw_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_adamw_args *a = argument;
    size_t begin = index * PLX_PART_ELEMENTS, end = plx_part_end(a->count, PLX_PART_ELEMENTS, index);
    float *restrict weight = a->weight, *restrict first = a->m, *restrict second = a->v;
    const float *restrict gradient = a->gradient;
    float scale = (float)a->grad_scale, beta1 = (float)a->beta1, beta2 = (float)a->beta2, epsilon = (float)a->epsilon;
    float rest1 = (float)(1 - a->beta1), rest2 = (float)(1 - a->beta2), keep = (float)(1 - a->lr * a->decay);
    float rate = (float)(a->lr / a->correction1), unbias2 = (float)(1 / a->correction2);
    for (size_t i = begin; i < end; i++) {
        float g = gradient[i] * scale, m = beta1 * first[i] + rest1 * g, v = beta2 * second[i] + rest2 * g * g;
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * keep - rate * m / (sqrtf(v * unbias2) + epsilon);
    }
}

plx_status PLX_CPU(plx_adamw)(plx_context *context, const void *arguments)
{
    const plx_adamw_args *a = arguments;
    plx_parallel_for(context, plx_parts(a->count, PLX_PART_ELEMENTS), adamw_part, (void *)arguments);
    return PLX_OK;
}
