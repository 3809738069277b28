/* cross_entropy.c - loss and gradient of rows of logits: one pass for the largest, one for the exponentials (which stay
 * in place when the gradient is wanted), one to scale them. */
#include "kernels/cpu/parts.h"
#include "kernels/ref/ref.h"

#include <math.h>

#define BLOCK ((size_t)512) /* exponentials summed in f32 before they are added in double */

static float row_top(const float *x, size_t count)
{
    vf top = vf_set(-INFINITY);
    size_t i = 0;
    for (; i + PLX_VW <= count; i += PLX_VW) top = vf_max(vf_load(x + i), top); /* a NaN is passed over */
    if (i < count) top = vf_max(vf_load_part(x + i, count - i, -INFINITY), top);
    return vf_top(top);
}

/* Sum of e^(x - top); with `store` the exponentials replace x. */
static double row_exponentials(float *x, size_t count, float top, bool store)
{
    double total = 0;
    for (size_t begin = 0; begin < count; begin += BLOCK) {
        size_t end = count - begin < BLOCK ? count : begin + BLOCK;
        vf sum = vf_set(0.0f);
        for (size_t i = begin; i < end; i += PLX_VW) {
            size_t left = end - i;
            vf e = vf_exp((left >= PLX_VW ? vf_load(x + i) : vf_load_part(x + i, left, -INFINITY)) - top);
            sum += e;
            if (store) vf_put(x + i, e, left);
        }
        total += vf_sum(sum);
    }
    return total;
}

static bool seen_before(const float *x, size_t count, float value)
{
    int seen = 0;
    for (size_t i = 0; i < count; i++) seen |= x[i] == value;
    return seen;
}

static void row_loss(const plx_cross_entropy_args *a, size_t row)
{
    float *x = (float *)a->logits + row * a->vocab, mask = a->mask[row], top = row_top(x, a->vocab);
    size_t target = (size_t)a->targets[row];
    bool known = target < a->vocab; /* only a masked target may be outside */
    a->correct[row] = known && x[target] == top && !seen_before(x, target, top);
    a->loss[row] = 0;
    if (mask == 0) {
        if (a->gradient) memset(x, 0, a->vocab * sizeof(float));
        return;
    }
    /* The target's share is kept apart: where it is nearly all, loss and gradient are what the others sum to. */
    float own = x[target];
    x[target] = -INFINITY;
    double others = row_exponentials(x, a->vocab, top, a->gradient);
    double own_share = exp((double)own - top), sum = others + own_share;
    double log_sum = own == top ? log1p(others) : log(sum), lse = top + log_sum;
    a->loss[row] = mask * ((double)top - own + log_sum);
    x[target] = own;
    if (!a->gradient) return;
    double scale = a->scale * mask;
    float factor = (float)(scale * (1 + 2 * a->z * lse) / sum);
    for (size_t i = 0; i < a->vocab; i += PLX_VW) vf_put(x + i, vf_next(x + i, a->vocab - i) * factor, a->vocab - i);
    x[target] = (float)(scale * (own_share * 2 * a->z * lse - others) / sum);
}

static void cross_entropy_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const plx_cross_entropy_args *a = argument;
    size_t rows = plx_part_rows(a->vocab), end = plx_part_end(a->rows, rows, index);
    for (size_t row = index * rows; row < end; row++) row_loss(a, row);
}

plx_status PLX_CPU(plx_cross_entropy)(plx_context *context, const void *arguments)
{
    const plx_cross_entropy_args *a = arguments;
    PLX_TRY(plx_check_ids(context, a->targets, a->mask, a->rows, a->vocab));
    plx_parallel_for(context, plx_parts(a->rows, plx_part_rows(a->vocab)), cross_entropy_part, (void *)arguments);
    return PLX_OK;
}
