/* backward.c - gradients of attention by tiles, compiled for each level.
 *
 * For each panel of queries and tile of keys the scores are made again: P = 2^(S - lse), dS = P (V dO^T - delta); then
 * dV += P dO, dK += dS Q, dQ += dS^T K. A job goes through the blocks of one row and key/value head in order, with sums
 * of its own for dK and dV. When that makes too few jobs for a long sequence, its blocks are cut into chunks, whose
 * sums are added in order at the end; the cut depends on the shape alone. */
#include "mixers/attention/cpu/tiles.h"

#define ENOUGH_JOBS 8
#define SPAN 16 /* keys that are taken together where not all lanes see all */

/* Copies rows of d numbers that lie `stride` apart; `padded` apart in `to`. */
static void copy_rows(const float *from, size_t stride, size_t rows, size_t d, float *to, size_t padded)
{
    for (size_t i = 0; i < rows; i++) memcpy(to + i * padded, from + i * stride, d * sizeof *to);
}

typedef struct work {
    const plx_attention_backward_args *a;
    size_t blocks, chunks; /* a row and key/value head */
    size_t padded;         /* head_dim, up to a multiple of the vector */
    float *sums;           /* [chunks, heads] or, when there is one chunk, [threads], of [2, T, padded] */
    float *scratch;
    size_t scratch_each;
} work;

/* Of a panel: [d][PANEL] with the lanes as columns, [PANEL][padded] with them as rows, [PANEL]. */
typedef struct queries {
    const panel *q;
    float *q_columns, *o_columns, *dq, *q_rows, *o_rows, *lse, *delta;
} queries;

static size_t queries_floats(const work *w) { return (3 * w->a->head_dim + 2 * w->padded + 2) * PANEL; }

/* rows[lane][c] = scale * x[query of lane][c], zeros beyond d */
static void panel_rows(const panel *q, const float *x, size_t d, size_t padded, float scale, float *rows)
{
    for (size_t lane = 0; lane < q->count; lane++)
        for (size_t c = 0; c < padded; c += PLX_VW)
            vf_store(rows + lane * padded + c, vf_next(x + q->query[lane] * d + c, d - c) * scale);
}

static void queries_set(queries *x, const work *w, const panel *q, float *memory)
{
    const plx_attention_backward_args *a = w->a;
    const size_t d = a->head_dim, padded = w->padded;
    *x = (queries){.q = q, .q_columns = memory};
    x->o_columns = x->q_columns + d * PANEL;
    x->dq = x->o_columns + d * PANEL;
    x->q_rows = x->dq + d * PANEL;
    x->o_rows = x->q_rows + padded * PANEL;
    x->lse = x->o_rows + padded * PANEL;
    x->delta = x->lse + PANEL;
    panel_columns(q, a->q, d, (float)(a->scale * LOG2_E), x->q_columns);
    panel_columns(q, a->dout, d, 1.0f, x->o_columns);
    panel_rows(q, a->q, d, padded, (float)a->scale, x->q_rows);
    panel_rows(q, a->dout, d, padded, 1.0f, x->o_rows);
    memset(x->dq, 0, d * PANEL * sizeof *x->dq);
    for (size_t lane = 0; lane < q->vectors * PLX_VW; lane += PLX_VW) {
        vf sum[PLX_VW];
        for (size_t i = 0; i < PLX_VW; i++) {
            const float *out = (const float *)a->out + q->query[lane + i] * d;
            const float *dout = (const float *)a->dout + q->query[lane + i] * d;
            sum[i] = vf_set(0.0f);
            for (size_t c = 0; c < d; c += PLX_VW) sum[i] += vf_next(out + c, d - c) * vf_next(dout + c, d - c);
            x->lse[lane + i] = (float)(((const float *)a->lse)[q->query[lane + i]] * LOG2_E);
        }
        vf_store(x->delta + lane, lane_sums(sum));
    }
}

/* A tile of keys, [keys] copy_stride(d) apart, and where their gradients are summed, [keys][padded]. */
typedef struct keys {
    int64_t key, end;
    const float *k, *v;
    float *dk, *dv;
} keys;

/* dV += P dO and dK += dS Q of `count` keys from `key` on, over the vectors of lanes from .. to - 1. */
static void add_keys(const queries *x, const keys *t, int64_t key, size_t count, size_t from, size_t to, float *p,
                     float *ds, size_t padded)
{
    const size_t row = (size_t)(key - t->key), lane = from * PLX_VW;
    const size_t end = to * PLX_VW < x->q->count ? to * PLX_VW : x->q->count;
    if (lane >= end) return;
    product sum = {.a = p + row * PANEL + lane,
                   .a_row = PANEL,
                   .a_step = 1,
                   .b = x->o_rows + lane * padded,
                   .b_row = padded,
                   .c = t->dv + row * padded,
                   .c_row = padded,
                   .rows = count,
                   .depth = end - lane,
                   .vectors = padded / PLX_VW};
    multiply_add(&sum);
    sum.a = ds + row * PANEL + lane;
    sum.b = x->q_rows + lane * padded;
    sum.c = t->dk + row * padded;
    multiply_add(&sum);
}

static void add_spans(const queries *x, const keys *t, int64_t begin, int64_t end, float *p, float *ds, size_t padded)
{
    for (int64_t key = begin; key < end; key += SPAN) {
        int64_t stop = sooner(key + SPAN, end);
        size_t from = 0, to = x->q->vectors; /* what lanes see moves on from one to the next */
        while (from < to && x->q->high[from] <= key) from++;
        while (to > from && x->q->low[to - 1] >= stop) to--;
        add_keys(x, t, key, (size_t)(stop - key), from, to, p, ds, padded);
    }
}

static void multiply_change(const product *p)
{
    if (p->all)
        product_all(PRODUCT_CHANGE, p);
    else
        product_all(PRODUCT_CHANGE_SEEN, p);
}

static void panel_tile(const queries *x, const keys *t, size_t d, size_t padded, float *p, float *ds)
{
    const size_t stride = copy_stride(d);
    float unused[PANEL] = {0};
    view view;
    view_set(&view, x->q, t->key, t->end, SPAN);
    for (size_t i = 0; i < view.count; i++) {
        const part *of = &view.parts[i];
        size_t row = (size_t)(of->key - t->key);
        product s = {.a = t->k + row * stride,
                     .a_row = stride,
                     .a_step = 1,
                     .b = x->q_columns,
                     .b_row = PANEL,
                     .c = p + row * PANEL,
                     .c_row = PANEL,
                     .rows = of->keys,
                     .depth = d,
                     .lane = of->lane,
                     .vectors = of->vectors,
                     .minus = x->lse,
                     .total = unused,
                     .sight = &x->q->sight,
                     .all = of->all,
                     .key = (int32_t)of->key};
        multiply_power(&s);
        s.a = t->v + row * stride;
        s.b = x->o_columns;
        s.p = s.c;
        s.c = ds + row * PANEL;
        s.minus = x->delta;
        multiply_change(&s);
        multiply_add(&(product){.a = t->k + row * stride,
                                .a_row = 1,
                                .a_step = stride,
                                .b = s.c,
                                .b_row = PANEL,
                                .c = x->dq,
                                .c_row = PANEL,
                                .rows = d,
                                .depth = of->keys,
                                .lane = of->lane,
                                .vectors = of->vectors});
    }
    if (view.count == 0) return;
    add_spans(x, t, view.begin, view.all_begin, p, ds, padded);
    if (view.all_begin < view.all_end)
        add_keys(x, t, view.all_begin, (size_t)(view.all_end - view.all_begin), 0, x->q->vectors, p, ds, padded);
    add_spans(x, t, view.all_end, view.end, p, ds, padded);
}

static void backward_block(const work *w, size_t b, size_t g, size_t from, float *dk, float *dv, float *scratch)
{
    const plx_attention_backward_args *a = w->a;
    const size_t d = a->head_dim, padded = w->padded, row = a->kv_heads * d, stride = copy_stride(d);
    float *k = scratch, *v = k + KEYS * stride, *p = v + KEYS * stride, *ds = p + KEYS * PANEL;
    block block;
    queries of[PANELS];
    block_set(&block, &a->sequence, a->heads, a->kv_heads, a->window, b, g, from);
    for (size_t i = 0; i < block.panels; i++)
        queries_set(&of[i], w, &block.panel[i], ds + KEYS * PANEL + i * queries_floats(w));
    for (int64_t key = block.begin; key < block.end; key += KEYS) {
        int64_t end = sooner(key + KEYS, block.end);
        size_t at = (b * a->sequence.length + (size_t)key) * row + g * d;
        keys t = {key, end, k, v, dk + (size_t)key * padded, dv + (size_t)key * padded};
        copy_rows((const float *)a->k + at, row, (size_t)(end - key), d, k, stride);
        copy_rows((const float *)a->v + at, row, (size_t)(end - key), d, v, stride);
        for (size_t i = 0; i < block.panels; i++) panel_tile(&of[i], &t, d, padded, p, ds);
    }
    for (size_t i = 0; i < block.panels; i++) {
        size_t at[PANEL];
        float factor[PANEL];
        for (size_t lane = 0; lane < PANEL; lane++) factor[lane] = (float)a->scale;
        for (size_t lane = 0; lane < of[i].q->count; lane++) at[lane] = of[i].q->query[lane] * d;
        columns_to_rows(of[i].dq, factor, d, of[i].q->count, a->dq, at);
    }
}

/* dk and dv of a head, from sums for each of `chunks`, `stride` apart. */
static void write_sums(const work *w, size_t head, const float *sums, size_t stride)
{
    const plx_attention_backward_args *a = w->a;
    const size_t T = a->sequence.length, G = a->kv_heads, d = a->head_dim, padded = w->padded;
    for (size_t side = 0; side < 2; side++, sums += T * padded) {
        float *to = (float *)(side == 0 ? a->dk : a->dv) + (head / G * T * G + head % G) * d;
        for (size_t j = 0; j < T; j++)
            for (size_t c = 0; c < d; c += PLX_VW) {
                vf sum = vf_load(sums + j * padded + c);
                for (size_t chunk = 1; chunk < w->chunks; chunk++)
                    sum += vf_load(sums + chunk * stride + j * padded + c);
                vf_put(to + j * G * d + c, sum, d - c);
            }
    }
}

/* The first block of a chunk: all have about the same number of pairs. */
static size_t chunk_begin(const work *w, size_t chunk)
{
    double share = (double)chunk / (double)w->chunks;
    return (size_t)((double)w->blocks * (w->a->window == 0 ? sqrt(share) : share) + 0.5);
}

static void backward_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_backward_args *a = w->a;
    const size_t heads = a->sequence.rows * a->kv_heads, each = 2 * a->sequence.length * w->padded;
    size_t chunk = w->chunks - 1 - index / heads, head = index % heads;
    float *sums = w->sums + (w->chunks > 1 ? chunk * heads + head : (size_t)thread) * each;
    unsigned state = flush_denormals();
    memset(sums, 0, each * sizeof *sums);
    for (size_t number = chunk_begin(w, chunk); number < chunk_begin(w, chunk + 1); number++)
        backward_block(w, head / a->kv_heads, head % a->kv_heads, number * QUERIES, sums, sums + each / 2,
                       w->scratch + (size_t)thread * w->scratch_each);
    if (w->chunks == 1) write_sums(w, head, sums, 0);
    restore_denormals(state);
}

static void join_chunks(void *argument, size_t head, int thread)
{
    (void)thread;
    const work *w = argument;
    const size_t heads = w->a->sequence.rows * w->a->kv_heads, each = 2 * w->a->sequence.length * w->padded;
    write_sums(w, head, w->sums + head * each, heads * each);
}

plx_status PLX_CPU(plx_attention_backward)(plx_context *context, const void *arguments)
{
    const plx_attention_backward_args *a = arguments;
    const size_t T = a->sequence.length, d = a->head_dim, heads = a->sequence.rows * a->kv_heads;
    const size_t threads = (size_t)context->options.threads;
    work w = {.a = a, .chunks = 1};
    w.blocks = (T * (a->heads / a->kv_heads) + QUERIES - 1) / QUERIES;
    w.padded = (d + PLX_VW - 1) / PLX_VW * PLX_VW;
    size_t wanted = (ENOUGH_JOBS + heads - 1) / heads, most = w.blocks / 2;
    if (wanted > 1 && most > 1) w.chunks = wanted < most ? wanted : most;
    w.scratch_each = 2 * KEYS * (copy_stride(d) + PANEL) + PANELS * queries_floats(&w);
    size_t sums = (w.chunks > 1 ? w.chunks * heads : threads) * 2 * T * w.padded;
    sums = (sums + PLX_VW - 1) / PLX_VW * PLX_VW; /* keeps the scratch behind it aligned */
    w.sums = plx_kernel_scratch(context, (sums + threads * w.scratch_each) * sizeof(float));
    if (w.sums == NULL) return PLX_ERROR_MEMORY;
    w.scratch = w.sums + sums;
    plx_parallel_for(context, w.chunks * heads, backward_job, &w);
    if (w.chunks > 1) plx_parallel_for(context, heads, join_chunks, &w);
    return PLX_OK;
}
