/* rope.c - turns pairs of components by angles that grow with the position. */
#include "kernels/cpu/parts.h"

#include <math.h>

typedef struct rope_job {
    const plx_rope_args *a;
    float *beyond; /* [threads, 2, pairs]: cosines and sines of a position beyond the table; NULL when there is none */
} rope_job;

/* All heads of a token: each pair's angle is read once. */
static void turn_halves(const plx_rope_args *a, float *x, const float *cosine, const float *sine, float sign)
{
    for (size_t i = 0; i < a->pairs; i += PLX_VW) {
        size_t left = a->pairs - i;
        vf c = vf_next(cosine + i, left), s = vf_next(sine + i, left) * sign;
        for (size_t head = 0; head < a->heads; head++) {
            float *low = x + head * a->head_dim + i, *high = low + a->pairs;
            vf v = vf_next(low, left), w = vf_next(high, left);
            vf_put(low, v * c - w * s, left);
            vf_put(high, v * s + w * c, left);
        }
    }
}

static void turn_chunks(const plx_rope_args *a, float *x, const float *cosine, const float *sine, float sign)
{
    for (size_t head = 0; head < a->heads; head++, x += a->head_dim)
        for (size_t i = 0; i < a->pairs; i++) {
            float v = x[3 * i], w = x[3 * i + 1], c = cosine[i], s = sine[i] * sign;
            x[3 * i] = v * c - w * s;
            x[3 * i + 1] = v * s + w * c;
        }
}

static void rope_part(void *argument, size_t index, int thread)
{
    const rope_job *job = argument;
    const plx_rope_args *a = job->a;
    size_t rows = plx_part_rows(a->heads * a->head_dim), end = plx_part_end(a->tokens, rows, index);
    double magnitude = a->magnitude > 0 ? a->magnitude : 1;
    float sign = a->inverse ? -1.0f : 1.0f;
    for (size_t token = index * rows; token < end; token++) {
        size_t position = (size_t)a->position[token];
        const float *cosine = (const float *)a->cosine + position * a->pairs;
        const float *sine = (const float *)a->sine + position * a->pairs;
        if (position >= a->table_rows) {
            float *angles = job->beyond + (size_t)thread * 2 * a->pairs;
            for (size_t i = 0; i < a->pairs; i++) {
                angles[i] = (float)(magnitude * cos((double)position * a->frequency[i]));
                angles[a->pairs + i] = (float)(magnitude * sin((double)position * a->frequency[i]));
            }
            cosine = angles;
            sine = angles + a->pairs;
        }
        float *x = (float *)a->x + token * a->heads * a->head_dim;
        (a->layout == PLX_ROPE_HALVES ? turn_halves : turn_chunks)(a, x, cosine, sine, sign);
    }
}

plx_status PLX_CPU(plx_rope)(plx_context *context, const void *arguments)
{
    const plx_rope_args *a = arguments;
    rope_job job = {.a = a};
    bool beyond = false;
    for (size_t t = 0; t < a->tokens; t++) beyond |= (size_t)a->position[t] >= a->table_rows;
    if (beyond) {
        size_t bytes = ((size_t)context->options.threads * 2 * a->pairs + 1) * sizeof(float);
        job.beyond = plx_kernel_scratch(context, bytes);
        if (!job.beyond) return PLX_ERROR_MEMORY;
    }
    plx_parallel_for(context, plx_parts(a->tokens, plx_part_rows(a->heads * a->head_dim)), rope_part, &job);
    return PLX_OK;
}
