/* elementwise.c - operations that treat each element on its own. A vector of inputs is read before the outputs are
 * written, so that the aliasing which kernels.h allows holds. */
#include "core/random.h"
#include "kernels/cpu/parts.h"

/* The body of a part: the elements i .. i + left - 1 at each turn, a vector at most. */
#define FOR_PART(count)                                                                                             \
    for (size_t i = index * PLX_PART_ELEMENTS, end = plx_part_end(count, PLX_PART_ELEMENTS, index), left = end - i; \
         i < end; i += PLX_VW, left -= left < PLX_VW ? left : PLX_VW)

/* e^-|x|: the exponential that cannot overflow, 0 beyond 87 */
static inline vf exp_negative(vf x) { return vf_exp(-vf_abs(x)); }
/* 1 / (1 + e^-x), given e = e^-|x| and r = 1 / (1 + e) */
static inline vf sigmoid(vf x, vf e, vf r) { return vf_select((vi)(x < vf_set(0.0f)), e, vf_set(1.0f)) * r; }

static void swiglu_forward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_swiglu_args *a = argument;
    const float *gate = a->gate, *up = a->up;
    float *y = a->y;
    FOR_PART(a->count) {
        vf g = vf_next(gate + i, left), e = exp_negative(g);
        vf_put(y + i, g * sigmoid(g, e, vf_reciprocal(1.0f + e)) * vf_next(up + i, left), left);
    }
}

/* silu'(x) = s (1 + x (1 - s)), 1 - s = sigmoid(-x). The bounded factor comes first: finite input never gives
 * 0 * inf. */
static void swiglu_backward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_swiglu_backward_args *a = argument;
    const float *gate = a->gate, *up = a->up, *dy = a->dy;
    float *dgate = a->dgate, *dup = a->dup, *y = a->y;
    FOR_PART(a->count) {
        vf g = vf_next(gate + i, left), u = vf_next(up + i, left), d = vf_next(dy + i, left);
        vf e = exp_negative(g), r = vf_reciprocal(1.0f + e), s = sigmoid(g, e, r), silu = g * s;
        vf half_slope = 0.5f * s * (1.0f + g * sigmoid(-g, e, r)); /* at most 0.55, so that times u it stays finite */
        vf_put(dgate + i, half_slope * u * d * 2.0f, left);
        vf_put(dup + i, silu * d, left);
        vf_put(y + i, silu * u, left);
    }
}

/* P(x), the normal distribution, given e = exp(-x^2 / 2). For a = |x|, P(-a) / e is a polynomial in t = 1 / (1 + .21 a)
 * (a minimax fit of ours: relative error 1.3e-8 for a <= 13.3, where e becomes 0). */
static inline vf normal_distribution(vf x, vf e)
{
    vf t = vf_reciprocal(1.0f + 0.21f * vf_abs(x));
    vf p = vf_set(-7.21901109e-2f);
    p = p * t + 2.86224633e-1f;
    p = p * t - 3.35819223e-1f;
    p = p * t + 3.55954806e-1f;
    p = p * t - 9.86261793e-2f;
    p = p * t + 1.26973534e-1f;
    p = p * t + 6.86215668e-2f;
    p = p * t + 8.51549113e-2f;
    p = p * t + 8.37060613e-2f;
    vf below = p * t * e;
    return vf_select((vi)(x < vf_set(0.0f)), below, 1.0f - below);
}

static void gelu_forward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_gelu_args *a = argument;
    const float *x = a->x;
    float *y = a->y;
    FOR_PART(a->count) {
        vf v = vf_next(x + i, left);
        vf_put(y + i, v * normal_distribution(v, vf_exp(-0.5f * v * v)), left);
    }
}

/* gelu'(x) = P(x) + x p(x), p the density of P */
static void gelu_backward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_gelu_backward_args *a = argument;
    const float *x = a->x, *dy = a->dy;
    float *dx = a->dx, *y = a->y;
    FOR_PART(a->count) {
        vf v = vf_next(x + i, left), d = vf_next(dy + i, left), e = vf_exp(-0.5f * v * v);
        vf below = normal_distribution(v, e);
        vf_put(dx + i, (below + v * e * 0.398942280f) * d, left);
        vf_put(y + i, v * below, left);
    }
}

static void add_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_add_args *args = argument;
    const float *a = args->a, *b = args->b;
    float *y = args->y, alpha = (float)args->alpha, beta = (float)args->beta;
    FOR_PART(args->count) {
        vf sum = alpha * vf_next(a + i, left);
        if (args->beta != 0) sum += beta * vf_next(b + i, left);
        vf_put(y + i, sum, left);
    }
}

/* Element i takes word i mod 4 of block i / 4 of the generator, as in the reference. */
static void dropout_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_dropout_args *a = argument;
    const float *x = a->x;
    float *y = a->y, scale = a->p < 1 ? (float)(1 / (1 - a->p)) : 0;
    uint32_t words[4] = {0};
    size_t begin = index * PLX_PART_ELEMENTS, end = plx_part_end(a->count, PLX_PART_ELEMENTS, index);
    for (size_t i = begin; i < end; i++) {
        if (i % 4 == 0) plx_philox(a->seed, a->stream, i / 4, words);
        y[i] = (double)words[i % 4] * 0x1p-32 >= a->p ? x[i] * scale : 0;
    }
}

#define ELEMENTWISE(op, args, part)                                                                     \
    plx_status PLX_CPU(op)(plx_context * context, const void *arguments)                                \
    {                                                                                                   \
        plx_parallel_for(context, plx_parts(((const args *)arguments)->count, PLX_PART_ELEMENTS), part, \
                         (void *)arguments);                                                            \
        return PLX_OK;                                                                                  \
    }
ELEMENTWISE(plx_swiglu_forward, plx_swiglu_args, swiglu_forward_part)
ELEMENTWISE(plx_swiglu_backward, plx_swiglu_backward_args, swiglu_backward_part)
ELEMENTWISE(plx_gelu_forward, plx_gelu_args, gelu_forward_part)
ELEMENTWISE(plx_gelu_backward, plx_gelu_backward_args, gelu_backward_part)
ELEMENTWISE(plx_add, plx_add_args, add_part)
ELEMENTWISE(plx_dropout, plx_dropout_args, dropout_part)
