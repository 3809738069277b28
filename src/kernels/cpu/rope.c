/* rope.c - turns pairs of components by angles that grow with the position. */
#include "kernels/cpu/parts.h"

#include <math.h>

typedef struct rope_job {
    const plx_rope_args *a;
    float *beyond; /* [threads, 2, pairs]: cosines and sines of a position beyond the table; NULL when there is none */
} rope_job;

static void turn_halves(float *x, const float *cosine, const float *sine, float sign, size_t pairs)
{
    for (size_t i = 0; i < pairs; i += PLX_VW) {
        size_t left = pairs - i;
        vf a = vf_next(x + i, left), b = vf_next(x + pairs + i, left);
        vf c = vf_next(cosine + i, left), s = vf_next(sine + i, left) * sign;
        vf_put(x + i, a * c - b * s, left);
        vf_put(x + pairs + i, a * s + b * c, left);
    }
}

static void turn_chunks(float *x, const float *cosine, const float *sine, float sign, size_t pairs)
{
    for (size_t i = 0; i < pairs; i++) {
        float a = x[3 * i], b = x[3 * i + 1], c = cosine[i], s = sine[i] * sign;
        x[3 * i] = a * c - b * s;
        x[3 * i + 1] = a * s + b * c;
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
        for (size_t head = 0; head < a->heads; head++) {
            float *x = (float *)a->x + (token * a->heads + head) * a->head_dim;
            if (a->layout == PLX_ROPE_HALVES)
                turn_halves(x, cosine, sine, sign, a->pairs);
            else
                turn_chunks(x, cosine, sine, sign, a->pairs);
        }
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
