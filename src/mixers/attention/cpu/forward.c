/* forward.c - attention forward by tiles with a running softmax, compiled for each level.
 *
 * Scores are kept in units of log 2 (Q is scaled by scale * log2 e). With m the running top, l the running sum and
 * O the running output of each query: m' = max(m, top of tile), P = 2^(S - m'), l' = l 2^(m - m') + sum P,
 * O' = O 2^(m - m') + P V. One job is one block of queries; nothing is summed across jobs. */
#include "mixers/attention/cpu/tiles.h"

#include <math.h>

typedef struct work {
    const plx_attention_args *a;
    size_t blocks;       /* a row and key/value head */
    float *scratch;
    size_t scratch_each; /* floats a thread */
} work;

/* S becomes P; top, sum and factor (2^(m - m')) of each lane. Returns whether any lane's top has changed. */
static bool softmax_tile(const block *q, const tile *t, float *s, float *top, float *sum, float *factor)
{
    bool changed = false;
    for (size_t v = 0; v < q->vectors; v++) {
        float *column = s + v * PLX_VW;
        vf before = vf_load(top + v * PLX_VW), now = before;
        if (t->partial) {
            for (size_t k = 0; k < t->keys; k++) {
                vi see = lanes_see(q, v, (int32_t)(t->key + (int64_t)k));
                vf score = vf_select(see, vf_load(column + k * LANES), vf_set(-INFINITY));
                vf_store(column + k * LANES, score);
                now = vf_max(score, now);
            }
        } else {
            for (size_t k = 0; k < t->keys; k++) now = vf_max(vf_load(column + k * LANES), now);
        }
        vf total = vf_set(0.0f);
        for (size_t k = 0; k < t->keys; k++) {
            vf p = vf_exp2(vf_load(column + k * LANES) - now);
            vf_store(column + k * LANES, p);
            total += p;
        }
        vf shrink = vf_exp2(before - now);
        vf_store(sum + v * PLX_VW, vf_load(sum + v * PLX_VW) * shrink + total);
        vf_store(top + v * PLX_VW, now);
        vf_store(factor + v * PLX_VW, shrink);
        changed |= vf_top((vf)((vi)(before != now) & (vi)vf_set(1.0f))) != 0.0f;
    }
    return changed;
}

static void forward_block(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim, G = a->kv_heads;
    /* the last blocks see most keys: they go first */
    size_t number = w->blocks - 1 - index / (a->sequence.rows * G), rest = index % (a->sequence.rows * G);
    size_t b = rest / G, g = rest % G;
    float *scores = w->scratch + (size_t)thread * w->scratch_each, *queries = scores + KEYS * LANES;
    float *out = queries + d * LANES, top[LANES], sum[LANES], factor[LANES];
    block q;
    block_set(&q, &a->sequence, a->heads, G, a->window, b, g, number * LANES);
    block_columns(&q, a->q, d, (float)(a->scale * LOG2_E), queries);
    for (size_t lane = 0; lane < LANES; lane++) {
        top[lane] = -1e30f; /* finite: what a lane does not see is -inf, and -inf - top must not be NaN */
        sum[lane] = 0.0f;
    }
    memset(out, 0, d * LANES * sizeof *out);

    tile t;
    for (int64_t key = q.begin; key < q.end; key += KEYS) {
        tile_set(&t, &q, key);
        const float *k = (const float *)a->keys.data + plx_history_index(&a->keys, b, key) + g * d;
        const float *v = (const float *)a->values.data + plx_history_index(&a->values, b, key) + g * d;
        for (size_t i = 0; i < t.span_count; i++) {
            const span *p = &t.spans[i];
            multiply(&(product){k + p->key * a->keys.width, a->keys.width, 1, queries + p->column, LANES,
                                scores + p->key * LANES + p->column, LANES, p->keys, p->columns, d, false});
        }
        if (softmax_tile(&q, &t, scores, top, sum, factor) && key > q.begin)
            for (size_t c = 0; c < d; c++)
                for (size_t lane = 0; lane < q.vectors * PLX_VW; lane += PLX_VW)
                    vf_store(out + c * LANES + lane, vf_load(out + c * LANES + lane) * vf_load(factor + lane));
        for (size_t i = 0; i < t.span_count; i++) {
            const span *p = &t.spans[i];
            multiply(&(product){v + p->key * a->values.width, 1, a->values.width, scores + p->key * LANES + p->column,
                                LANES, out + p->column, LANES, d, p->columns, p->keys, true});
        }
    }
    for (size_t lane = 0; lane < q.count; lane++) {
        float *row = (float *)a->out + q.query[lane] * d, share = 1.0f / sum[lane];
        for (size_t c = 0; c < d; c++) row[c] = out[c * LANES + lane] * share;
        if (a->lse != NULL) ((float *)a->lse)[q.query[lane]] = (float)(((double)top[lane] + log2(sum[lane])) / LOG2_E);
    }
}

plx_status PLX_CPU(plx_attention_forward)(plx_context *context, const void *arguments)
{
    const plx_attention_args *a = arguments;
    work w = {.a = a};
    w.blocks = (a->sequence.length * (a->heads / a->kv_heads) + LANES - 1) / LANES;
    w.scratch_each = (KEYS + 2 * a->head_dim) * LANES;
    w.scratch = plx_kernel_scratch(context, (size_t)context->options.threads * w.scratch_each * sizeof(float));
    if (w.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, w.blocks * a->sequence.rows * a->kv_heads, forward_block, &w);
    return PLX_OK;
}
