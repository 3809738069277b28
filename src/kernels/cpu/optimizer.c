/* optimizer.c - the sums of squared gradients and the update of weights, each in one pass over the memory of all
 * tensors. */
#include "kernels/cpu/parts.h"
#include "kernels/cpu/registers.h"
#include "kernels/cpu/wide.h"

#include <math.h>

/* Tensors divided into parts of PLX_PART_ELEMENTS; tensor t has parts first[t] .. first[t + 1] - 1. */
typedef struct division {
    size_t tensors;
    size_t *first; /* [tensors + 1] */
} division;

static size_t divide(division *d, size_t (*count_of)(const void *arguments, size_t tensor), const void *arguments)
{
    d->first[0] = 0;
    for (size_t t = 0; t < d->tensors; t++)
        d->first[t + 1] = d->first[t] + plx_parts(count_of(arguments, t), PLX_PART_ELEMENTS);
    return d->first[d->tensors];
}

/* The tensor that a part belongs to. */
static size_t tensor_of(const division *d, size_t part)
{
    size_t low = 0, high = d->tensors;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (d->first[middle] <= part)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- sum of squares ---- */

typedef struct squares_job {
    const plx_sum_squares_args *a;
    division parts;
    double *shares; /* a part's */
} squares_job;

static size_t squares_count(const void *arguments, size_t tensor)
{
    return ((const plx_sum_squares_args *)arguments)->list[tensor].count;
}

/* In double throughout: a gradient beyond 1e19 has no square in f32. */
static void sum_squares_part(void *argument, size_t index, int thread)
{
    (void)thread;
    enum { AT_ONCE = 8 }; /* sums side by side: an addition takes several cycles */
    const squares_job *job = argument;
    size_t t = tensor_of(&job->parts, index), part = index - job->parts.first[t];
    const float *x = job->a->list[t].x;
    size_t i = part * PLX_PART_ELEMENTS, end = plx_part_end(job->a->list[t].count, PLX_PART_ELEMENTS, part);
    vd lanes[AT_ONCE] = {0};
    for (; i + AT_ONCE * VD_LANES <= end; i += AT_ONCE * VD_LANES) UNROLL for (size_t k = 0; k < AT_ONCE; k++)
        {
            vd value = vd_widen(x + i + k * VD_LANES);
            lanes[k] += value * value;
        }
    for (; i < end; i += VD_LANES) {
        vd value = vd_widen_next(x + i, end - i);
        lanes[0] += value * value;
    }
    double sum = 0;
    for (size_t k = 0; k < AT_ONCE; k++)
        for (size_t lane = 0; lane < VD_LANES; lane++) sum += lanes[k][lane];
    job->shares[index] = sum;
}

plx_status PLX_CPU(plx_sum_squares)(plx_context *context, const void *arguments)
{
    const plx_sum_squares_args *a = arguments;
    squares_job job = {.a = a, .parts.tensors = a->tensors};
    size_t all = 0;
    for (size_t t = 0; t < a->tensors; t++) all += plx_parts(a->list[t].count, PLX_PART_ELEMENTS);
    job.shares = plx_kernel_scratch(context, all * sizeof(double) + (a->tensors + 1) * sizeof(size_t));
    if (!job.shares) return PLX_ERROR_MEMORY;
    job.parts.first = (size_t *)(job.shares + all);
    plx_parallel_for(context, divide(&job.parts, squares_count, a), sum_squares_part, &job);
    for (size_t t = 0; t < a->tensors; t++) {
        double sum = 0;
        for (size_t part = job.parts.first[t]; part < job.parts.first[t + 1]; part++) sum += job.shares[part];
        a->out[t] = sum;
    }
    return PLX_OK;
}

/* ---- AdamW ---- */

typedef struct adamw_job {
    const plx_adamw_args *a;
    division parts;
} adamw_job;

static size_t adamw_count(const void *arguments, size_t tensor)
{
    return ((const plx_adamw_args *)arguments)->list[tensor].count;
}

/* A plain loop: the compiler's vectors have a square root, ours have not. */
static void adamw_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const adamw_job *job = argument;
    const plx_adamw_args *a = job->a;
    size_t t = tensor_of(&job->parts, index), part = index - job->parts.first[t];
    const plx_adamw_tensor *tensor = &a->list[t];
    size_t begin = part * PLX_PART_ELEMENTS, end = plx_part_end(tensor->count, PLX_PART_ELEMENTS, part);
    float *restrict weight = tensor->weight, *restrict first = tensor->m, *restrict second = tensor->v;
    const float *restrict gradient = tensor->gradient;
    float scale = (float)a->grad_scale, beta1 = (float)a->beta1, beta2 = (float)a->beta2, epsilon = (float)a->epsilon;
    float rest1 = (float)(1 - a->beta1), rest2 = (float)(1 - a->beta2), keep = (float)(1 - a->lr * tensor->decay);
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
    adamw_job job = {.a = a, .parts.tensors = a->tensors};
    job.parts.first = plx_kernel_scratch(context, (a->tensors + 1) * sizeof(size_t));
    if (!job.parts.first) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, divide(&job.parts, adamw_count, a), adamw_part, &job);
    return PLX_OK;
}
