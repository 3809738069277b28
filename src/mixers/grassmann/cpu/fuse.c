/* fuse.c - the gate between a token's own vector and its encoded wedges, elementwise. */
#include "kernels/cpu/vec.h"
#include "mixers/grassmann/grassmann_ops.h"

#define CHUNK 16384 /* elements a piece of parallel work; a multiple of every PLX_VW */

typedef struct piece {
    size_t first, whole, rest; /* elements, of which `rest` (fewer than a vector) come after `whole` */
} piece;

static piece piece_of(size_t index, size_t count)
{
    piece result = {.first = index * CHUNK};
    size_t size = count - result.first < CHUNK ? count - result.first : CHUNK;
    result.rest = size % PLX_VW;
    result.whole = size - result.rest;
    return result;
}

static void forward_lanes(float *gate, const float *h, const float *g, float *y)
{
    vf one = vf_set(1), a = one / (one + vf_exp(-vf_load(gate)));
    vf_store(gate, a);
    vf_store(y, a * vf_load(h) + (one - a) * vf_load(g));
}

static void forward_chunk(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_grassmann_fuse_args *args = argument;
    piece part = piece_of(index, args->count);
    float *gate = (float *)args->gate + part.first, *y = (float *)args->y + part.first;
    const float *h = (const float *)args->h + part.first, *g = (const float *)args->g + part.first;
    size_t i = 0;
    for (; i < part.whole; i += PLX_VW) forward_lanes(gate + i, h + i, g + i, y + i);
    if (part.rest == 0) return;
    float last[4][PLX_VW] = {{0}};
    memcpy(last[0], gate + i, part.rest * sizeof(float));
    memcpy(last[1], h + i, part.rest * sizeof(float));
    memcpy(last[2], g + i, part.rest * sizeof(float));
    forward_lanes(last[0], last[1], last[2], last[3]);
    memcpy(gate + i, last[0], part.rest * sizeof(float));
    memcpy(y + i, last[3], part.rest * sizeof(float));
}

plx_status PLX_CPU(plx_grassmann_fuse_forward)(plx_context *context, const void *arguments)
{
    plx_grassmann_fuse_args args = *(const plx_grassmann_fuse_args *)arguments;
    plx_parallel_for(context, (args.count + CHUNK - 1) / CHUNK, forward_chunk, &args);
    return PLX_OK;
}

static void backward_chunk(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_grassmann_fuse_backward_args *args = argument;
    piece part = piece_of(index, args->count);
    size_t end = part.first + part.whole + part.rest;
    /* Without a sigmoid here, the compiler makes the vectors. */
    const float *restrict gate = args->gate, *restrict h = args->h, *restrict g = args->g, *restrict dy = args->dy;
    float *restrict dgate = args->dgate, *restrict dh = args->dh, *restrict dg = args->dg;
    for (size_t i = part.first; i < end; i++) {
        dgate[i] = dy[i] * (h[i] - g[i]) * gate[i] * (1 - gate[i]);
        dh[i] = dy[i] * gate[i];
        dg[i] = dy[i] * (1 - gate[i]);
    }
}

plx_status PLX_CPU(plx_grassmann_fuse_backward)(plx_context *context, const void *arguments)
{
    plx_grassmann_fuse_backward_args args = *(const plx_grassmann_fuse_backward_args *)arguments;
    plx_parallel_for(context, (args.count + CHUNK - 1) / CHUNK, backward_chunk, &args);
    return PLX_OK;
}
