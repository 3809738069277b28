/* elementwise.c - operations that treat each element on its own. Inputs are read before outputs are written, so
 * that the aliasing which kernels.h allows holds. */
#include "core/random.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* 1 / (1 + e^-x) without overflow */
static double sigmoid(double x)
{
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

plx_status plx_swiglu_forward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_swiglu_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double gate = plx_ref_get(a->gate, a->type, i);
        plx_ref_put(a->y, a->type, i, gate * sigmoid(gate) * plx_ref_get(a->up, a->type, i));
    }
    return PLX_OK;
}

/* silu'(x) = s (1 + x (1 - s)), 1 - s = sigmoid(-x). The bounded factor comes first: finite input never gives
 * 0 * inf. */
plx_status plx_swiglu_backward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_swiglu_backward_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double gate = plx_ref_get(a->gate, a->type, i), up = plx_ref_get(a->up, a->type, i);
        double dy = plx_ref_get(a->dy, a->type, i), s = sigmoid(gate);
        plx_ref_put(a->dgate, a->type, i, s * (1 + gate * sigmoid(-gate)) * up * dy);
        plx_ref_put(a->dup, a->type, i, gate * s * dy);
        plx_ref_put(a->y, a->type, i, gate * s * up);
    }
    return PLX_OK;
}

plx_status plx_gelu_forward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_gelu_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double x = plx_ref_get(a->x, a->type, i);
        plx_ref_put(a->y, a->type, i, x * 0.5 * erfc(-x * M_SQRT1_2));
    }
    return PLX_OK;
}

/* gelu'(x) = P(x) + x p(x), P the normal distribution and p its density */
plx_status plx_gelu_backward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_gelu_backward_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double x = plx_ref_get(a->x, a->type, i), dy = plx_ref_get(a->dy, a->type, i);
        double density = exp(-0.5 * x * x) * (0.5 * M_SQRT1_2 * M_2_SQRTPI);
        plx_ref_put(a->dx, a->type, i, (0.5 * erfc(-x * M_SQRT1_2) + x * density) * dy);
        plx_ref_put(a->y, a->type, i, x * 0.5 * erfc(-x * M_SQRT1_2));
    }
    return PLX_OK;
}

plx_status plx_add_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_add_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double sum = a->alpha * plx_ref_get(a->a, a->type, i);
        if (a->beta != 0) sum += a->beta * plx_ref_get(a->b, a->type, i);
        plx_ref_put(a->y, a->type, i, sum);
    }
    return PLX_OK;
}

/* Element i takes word i mod 4 of block i / 4 of the generator: keep where word / 2^32 >= p. */
plx_status plx_dropout_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_dropout_args *a = arguments;
    double scale = a->p < 1 ? 1 / (1 - a->p) : 0;
    uint32_t words[4] = {0};
    for (size_t i = 0; i < a->count; i++) {
        if (i % 4 == 0) plx_philox(a->seed, a->stream, i / 4, words);
        bool keep = (double)words[i % 4] * 0x1p-32 >= a->p;
        plx_ref_put(a->y, a->type, i, keep ? plx_ref_get(a->x, a->type, i) * scale : 0);
    }
    return PLX_OK;
}
