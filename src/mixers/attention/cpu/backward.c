/* backward.c - gradients of attention by tiles, compiled for each level.
 *
 * For each block of queries and tile of keys the scores are made again: P = 2^(S - lse), dP = V dO^T,
 * dS = P (dP - delta); then dV += P dO, dK += dS Q, dQ += dS^T K. A job goes through the blocks of one row and
 * key/value head in order, adding to dk and dv where they lie. When that makes too few jobs for a long sequence, its
 * blocks are cut into chunks, each but the first with sums of its own that are added in order at the end; the cut
 * depends on the shape alone. */
#include "mixers/attention/cpu/tiles.h"

#define ENOUGH_JOBS 16
#define CHUNK_BLOCKS 8 /* least blocks of a chunk */

typedef struct work {
    const plx_attention_backward_args *a;
    size_t blocks, chunks;  /* a row and key/value head */
    size_t padded;          /* head_dim, up to a multiple of the vector */
    float *partial;         /* [chunks-1, rows * kv_heads, 2, T, d] */
    float *scratch;
    size_t scratch_each;
} work;

/* Where a job adds dk and dv of its head: token j at k + j * row. */
typedef struct sums { float *k, *v; size_t row; } sums;

static sums job_sums(const work *w, size_t chunk, size_t head)
{
    const plx_attention_backward_args *a = w->a;
    const size_t T = a->sequence.length, G = a->kv_heads, d = a->head_dim;
    if (chunk == 0) {
        size_t at = (head / G * T * G + head % G) * d;
        return (sums){(float *)a->dk + at, (float *)a->dv + at, G * d};
    }
    float *own = w->partial + ((chunk - 1) * a->sequence.rows * G + head) * 2 * T * d;
    return (sums){own, own + T * d, d};
}

/* rows[lane][c] = scale * x[query of lane][c], zeros beyond d and beyond the queries. */
static void block_rows(const block *q, const float *x, size_t d, size_t padded, float scale, float *rows)
{
    for (size_t lane = 0; lane < q->vectors * PLX_VW; lane++) {
        float factor = lane < q->count ? scale : 0.0f;
        for (size_t c = 0; c < d; c++) rows[lane * padded + c] = factor * x[q->query[lane] * d + c];
        for (size_t c = d; c < padded; c++) rows[lane * padded + c] = 0.0f;
    }
}

/* S becomes P and dP becomes dS; lse in units of log 2. */
static void gradient_tile(const block *q, const tile *t, float *s, float *dp, const float *lse, const float *delta)
{
    for (size_t v = 0; v < q->vectors; v++) {
        float *s_column = s + v * PLX_VW, *d_column = dp + v * PLX_VW;
        vf norm = vf_load(lse + v * PLX_VW), mean = vf_load(delta + v * PLX_VW);
        for (size_t k = 0; k < t->keys; k++) {
            vf p = vf_exp2(vf_load(s_column + k * LANES) - norm);
            vf ds = p * (vf_load(d_column + k * LANES) - mean);
            if (t->partial) {
                vi see = lanes_see(q, v, (int32_t)(t->key + (int64_t)k));
                p = vf_select(see, p, vf_set(0.0f));
                ds = vf_select(see, ds, vf_set(0.0f));
            }
            vf_store(s_column + k * LANES, p);
            vf_store(d_column + k * LANES, ds);
        }
    }
}

static void backward_block(const work *w, size_t b, size_t g, size_t number, const sums *sum, float *scratch)
{
    const plx_attention_backward_args *a = w->a;
    const size_t d = a->head_dim, padded = w->padded, row = a->kv_heads * d;
    float *s = scratch, *ds = s + KEYS * LANES, *q_columns = ds + KEYS * LANES, *o_columns = q_columns + d * LANES;
    float *dq = o_columns + d * LANES, *q_rows = dq + d * LANES, *o_rows = q_rows + padded * LANES;
    float lse[LANES], delta[LANES];
    block q;
    block_set(&q, &a->sequence, a->heads, a->kv_heads, a->window, b, g, number * LANES);
    block_columns(&q, a->q, d, (float)(a->scale * LOG2_E), q_columns);
    block_columns(&q, a->dout, d, 1.0f, o_columns);
    block_rows(&q, a->q, d, padded, (float)a->scale, q_rows);
    block_rows(&q, a->dout, d, padded, 1.0f, o_rows);
    for (size_t lane = 0; lane < LANES; lane++) {
        lse[lane] = delta[lane] = 0.0f;
        if (lane >= q.count) continue;
        const float *out = (const float *)a->out + q.query[lane] * d, *dout = o_rows + lane * padded;
        lse[lane] = (float)(((const float *)a->lse)[q.query[lane]] * LOG2_E);
        for (size_t c = 0; c < d; c++) delta[lane] += out[c] * dout[c];
    }
    memset(dq, 0, d * LANES * sizeof *dq);

    tile t;
    for (int64_t key = q.begin; key < q.end; key += KEYS) {
        tile_set(&t, &q, key);
        size_t at = (b * a->sequence.length + (size_t)key) * row + g * d;
        const float *k = (const float *)a->k + at, *v = (const float *)a->v + at;
        for (size_t i = 0; i < t.span_count; i++) {
            const span *p = &t.spans[i];
            size_t in_tile = p->key * LANES + p->column;
            multiply(&(product){k + p->key * row, row, 1, q_columns + p->column, LANES, s + in_tile, LANES, p->keys,
                                p->columns, d, false});
            multiply(&(product){v + p->key * row, row, 1, o_columns + p->column, LANES, ds + in_tile, LANES, p->keys,
                                p->columns, d, false});
        }
        gradient_tile(&q, &t, s, ds, lse, delta);
        for (size_t i = 0; i < t.span_count; i++) {
            const span *p = &t.spans[i];
            size_t in_tile = p->key * LANES + p->column, in_sum = ((size_t)key + p->key) * sum->row;
            multiply(&(product){s + in_tile, LANES, 1, o_rows + p->column * padded, padded, sum->v + in_sum, sum->row,
                                p->keys, d, p->columns, true});
            multiply(&(product){ds + in_tile, LANES, 1, q_rows + p->column * padded, padded, sum->k + in_sum, sum->row,
                                p->keys, d, p->columns, true});
            multiply(&(product){k + p->key * row, 1, row, ds + in_tile, LANES, dq + p->column, LANES, d, p->columns,
                                p->keys, true});
        }
    }
    for (size_t lane = 0; lane < q.count; lane++) {
        float *to = (float *)a->dq + q.query[lane] * d;
        for (size_t c = 0; c < d; c++) to[c] = dq[c * LANES + lane] * (float)a->scale;
    }
}

static void backward_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_backward_args *a = w->a;
    const size_t heads = a->sequence.rows * a->kv_heads;
    size_t chunk = w->chunks - 1 - index / heads, head = index % heads; /* late chunks see most keys */
    sums sum = job_sums(w, chunk, head);
    for (size_t j = 0; j < a->sequence.length; j++) {
        memset(sum.k + j * sum.row, 0, a->head_dim * sizeof(float));
        memset(sum.v + j * sum.row, 0, a->head_dim * sizeof(float));
    }
    size_t each = (w->blocks + w->chunks - 1) / w->chunks, from = chunk * each, to = from + each;
    for (size_t number = from; number < to && number < w->blocks; number++)
        backward_block(w, head / a->kv_heads, head % a->kv_heads, number, &sum,
                       w->scratch + (size_t)thread * w->scratch_each);
}

static void add_partial(void *argument, size_t head, int thread)
{
    (void)thread;
    const work *w = argument;
    const size_t d = w->a->head_dim;
    sums sum = job_sums(w, 0, head);
    for (size_t chunk = 1; chunk < w->chunks; chunk++) {
        sums more = job_sums(w, chunk, head);
        for (size_t j = 0; j < w->a->sequence.length; j++) {
            for (size_t c = 0; c < d; c++) {
                sum.k[j * sum.row + c] += more.k[j * d + c];
                sum.v[j * sum.row + c] += more.v[j * d + c];
            }
        }
    }
}

plx_status PLX_CPU(plx_attention_backward)(plx_context *context, const void *arguments)
{
    const plx_attention_backward_args *a = arguments;
    const size_t T = a->sequence.length, d = a->head_dim, heads = a->sequence.rows * a->kv_heads;
    work w = {.a = a, .chunks = 1};
    w.blocks = (T * (a->heads / a->kv_heads) + LANES - 1) / LANES;
    w.padded = (d + PLX_VW - 1) / PLX_VW * PLX_VW;
    size_t wanted = (ENOUGH_JOBS + heads - 1) / heads, most = w.blocks / CHUNK_BLOCKS;
    if (wanted > 1 && most > 1) w.chunks = wanted < most ? wanted : most;
    w.scratch_each = (2 * KEYS + 3 * d + 2 * w.padded) * LANES;
    size_t partial = (w.chunks - 1) * heads * 2 * T * d;
    partial = (partial + LANES - 1) / LANES * LANES; /* keeps the scratch behind it aligned */
    size_t floats = partial + (size_t)context->options.threads * w.scratch_each;
    w.partial = plx_kernel_scratch(context, floats * sizeof(float));
    if (w.partial == NULL) return PLX_ERROR_MEMORY;
    w.scratch = w.partial + partial;
    plx_parallel_for(context, w.chunks * heads, backward_job, &w);
    if (w.chunks > 1) plx_parallel_for(context, heads, add_partial, &w);
    return PLX_OK;
}
