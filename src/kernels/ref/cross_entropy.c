/* cross_entropy.c - loss and gradient of rows of logits. */
#include "kernels/ref/ref.h"

#include <math.h>

static void row_loss(const plx_cross_entropy_args *a, size_t row)
{
    size_t at = row * a->vocab, target = (size_t)a->targets[row];
    double top = -INFINITY, mask = a->mask[row];
    size_t best = 0;
    for (size_t i = 0; i < a->vocab; i++) {
        double x = plx_ref_get(a->logits, a->type, at + i);
        if (x > top) {
            top = x;
            best = i;
        }
    }
    a->correct[row] = best == target;
    a->loss[row] = 0;
    if (mask == 0) {
        for (size_t i = 0; i < a->vocab && a->gradient; i++) plx_ref_put(a->logits, a->type, at + i, 0);
        return;
    }
    /* The target's share is kept apart: where it is nearly all, loss and gradient are what the others sum to. */
    double others = 0, own = plx_ref_get(a->logits, a->type, at + target);
    for (size_t i = 0; i < a->vocab; i++)
        if (i != target) others += exp(plx_ref_get(a->logits, a->type, at + i) - top);
    double own_share = exp(own - top), sum = others + own_share;
    double log_sum = own == top ? log1p(others) : log(sum), lse = top + log_sum;
    a->loss[row] = mask * (top - own + log_sum);
    if (!a->gradient) return;
    double scale = a->scale * mask, factor = 1 + 2 * a->z * lse;
    for (size_t i = 0; i < a->vocab; i++) {
        double share = exp(plx_ref_get(a->logits, a->type, at + i) - top) / sum;
        double gradient = i == target ? -others / sum + share * 2 * a->z * lse : share * factor;
        plx_ref_put(a->logits, a->type, at + i, scale * gradient);
    }
}

plx_status plx_cross_entropy_ref(plx_context *context, const void *arguments)
{
    const plx_cross_entropy_args *a = arguments;
    PLX_TRY(plx_check_ids(context, a->targets, a->mask, a->rows, a->vocab));
    for (size_t row = 0; row < a->rows; row++) row_loss(a, row);
    return PLX_OK;
}
