/* ref.c - attention in plain loops and double precision: what every other implementation is checked against.
 * Never tuned. */
#include "kernels/history.h"
#include "mixers/attention/attention_ops.h"

#include <math.h>

static double dot(const void *a, size_t a_at, const void *b, size_t b_at, plx_type type, size_t n)
{
    double sum = 0;
    for (size_t c = 0; c < n; c++) sum += plx_get(a, type, a_at + c) * plx_get(b, type, b_at + c);
    return sum;
}

plx_status plx_attention_forward_ref(plx_context *context, const void *arguments)
{
    const plx_attention_args *a = arguments;
    const size_t T = a->sequence.length, H = a->heads, d = a->head_dim, group = H / a->kv_heads;
    /* one query's scores: no query sees more than the tokens before and in the batch */
    size_t most = T;
    for (size_t b = 0; b < a->sequence.rows; b++)
        if (a->sequence.past != NULL && (size_t)a->sequence.past[b] + T > most) most = (size_t)a->sequence.past[b] + T;
    double *p = plx_kernel_scratch(context, most * sizeof *p);
    if (p == NULL) return PLX_ERROR_MEMORY;

    for (size_t b = 0; b < a->sequence.rows; b++) {
        for (size_t t = 0; t < T; t++) {
            int64_t last = (a->sequence.past != NULL ? a->sequence.past[b] : 0) + (int64_t)t;
            int64_t first = plx_attention_first(&a->sequence, b, t, a->window);
            for (size_t h = 0; h < H; h++) {
                size_t query = ((b * T + t) * H + h) * d, offset = h / group * d;
                double top = -INFINITY, sum = 0;
                for (int64_t j = first; j <= last; j++) {
                    double s = 0;
                    for (size_t c = 0; c < d; c++)
                        s += plx_get(a->q, a->type, query + c) * plx_history_get(&a->keys, a->type, b, j, offset + c);
                    p[j - first] = s *= a->scale;
                    if (s > top) top = s;
                }
                for (int64_t j = first; j <= last; j++) sum += p[j - first] = exp(p[j - first] - top);
                for (size_t c = 0; c < d; c++) {
                    double out = 0;
                    for (int64_t j = first; j <= last; j++)
                        out += p[j - first] / sum * plx_history_get(&a->values, a->type, b, j, offset + c);
                    plx_put(a->out, a->type, query + c, out);
                }
                if (a->lse != NULL) plx_put(a->lse, a->type, (b * T + t) * H + h, top + log(sum));
            }
        }
    }
    return PLX_OK;
}

/* The queries of one head of one row. dk, dv: [T,d], += */
static void backward_head(const plx_attention_backward_args *a, size_t b, size_t h, double *dk, double *dv, double *dq)
{
    const size_t T = a->sequence.length, H = a->heads, G = a->kv_heads, d = a->head_dim, g = h / (H / G);
    for (size_t t = 0; t < T; t++) {
        size_t query = (b * T + t) * H + h;
        double lse = plx_get(a->lse, a->type, query);
        double delta = dot(a->dout, query * d, a->out, query * d, a->type, d);
        for (size_t c = 0; c < d; c++) dq[c] = 0;
        for (size_t j = (size_t)plx_attention_first(&a->sequence, b, t, a->window); j <= t; j++) {
            size_t key = ((b * T + j) * G + g) * d;
            double p = exp(a->scale * dot(a->q, query * d, a->k, key, a->type, d) - lse);
            double ds = p * (dot(a->dout, query * d, a->v, key, a->type, d) - delta);
            for (size_t c = 0; c < d; c++) {
                dq[c] += a->scale * ds * plx_get(a->k, a->type, key + c);
                dk[j * d + c] += a->scale * ds * plx_get(a->q, a->type, query * d + c);
                dv[j * d + c] += p * plx_get(a->dout, a->type, query * d + c);
            }
        }
        for (size_t c = 0; c < d; c++) plx_put(a->dq, a->type, query * d + c, dq[c]);
    }
}

plx_status plx_attention_backward_ref(plx_context *context, const void *arguments)
{
    const plx_attention_backward_args *a = arguments;
    const size_t T = a->sequence.length, G = a->kv_heads, d = a->head_dim, group = a->heads / G;
    double *dk = plx_kernel_scratch(context, (2 * T * d + d) * sizeof *dk);
    if (dk == NULL) return PLX_ERROR_MEMORY;
    double *dv = dk + T * d, *dq = dv + T * d;

    for (size_t b = 0; b < a->sequence.rows; b++) {
        for (size_t g = 0; g < G; g++) {
            for (size_t i = 0; i < 2 * T * d; i++) dk[i] = 0;
            for (size_t h = g * group; h < (g + 1) * group; h++) backward_head(a, b, h, dk, dv, dq);
            for (size_t j = 0; j < T; j++) {
                for (size_t c = 0; c < d; c++) {
                    size_t at = ((b * T + j) * G + g) * d + c;
                    plx_put(a->dk, a->type, at, dk[j * d + c]);
                    plx_put(a->dv, a->type, at, dv[j * d + c]);
                }
            }
        }
    }
    return PLX_OK;
}
