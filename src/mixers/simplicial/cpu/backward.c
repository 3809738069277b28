/* backward.c - fast 2-simplicial attention, backward. Layout as in lanes.h. For each block of lanes, with
 * X = q o k' * scale * log2(e), Y = dO * v', D = dO . O, and a tile of rows j, the logits are computed again:
 *     P^T  = 2^(K X^T - lse * log2(e))     dA^T = P^T * ln(2) (V Y^T - D)
 *     W  += P V                            U  += dA K                       rows are lanes
 *     dV += P^T Y                          dK += dA^T X                     rows are j
 * and a block's W and U give dv' += W * dO, dk' += U o q and dq += U o k'. The ln(2) in dA undoes the log2(e) in X.
 *
 * Tasks are fixed chunks of queries. Each has sums of its own for dk, dv (its queries and w1 before them) and dk', dv'
 * (w2 before them), which are added in the order of the chunks: the answer is the same for any number of threads. The
 * number of chunks is bounded, so memory stays linear in the length. */
#include "mixers/simplicial/cpu/lanes.h"

#define CHUNKS_WANTED 64
#define CHUNK_LEAST 32
#define PARTIAL_MOST ((size_t)16 << 20) /* floats of private sums, above which fewer chunks are made */

/* A task's private sums, in scratch shared by all threads. */
typedef struct partial {
    int64_t base1, base2;
    size_t count1, count2;
    float *dk, *dv;   /* [count1, width] */
    float *dk2, *dv2; /* [count2, width] */
} partial;

typedef struct memory {
    float *panels;
    float *x_turned, *y_turned;                 /* [d, LANES] */
    float *x, *y;                               /* [LANES, width] */
    float *p, *da;                              /* [ROWS_MOST, LANES] */
    float *w, *u;                               /* [LANES, width] */
    float *q, *dout, *dq;                       /* [width], of the (query, head) in work; q times scale * log2(e) */
    float *q_moved, *u_moved, *k2_moved;        /* [2, width]: for det, the components moved round */
    float minus_lse[LANES], minus_delta[LANES]; /* times log2(e) and ln(2) */
    block block;
} memory;

typedef struct job {
    const plx_simplicial_backward_args *args;
    size_t queries, chunks; /* of a chunk, of a row */
    size_t stride, partial_floats;
    char *scratch;
    partial *partials; /* [rows * kv_heads * chunks] */
    float *sums;
} job;

/* P^T and dA^T of one tile. */
INLINE void score_tile(const size_t R, const size_t V, const block *at, operand k, operand v, size_t d, size_t row,
                       size_t lane, const memory *m, float *p, float *da)
{
    vf s[12][TILE_VECTORS];
    UNROLL for (size_t i = 0; i < V; i++) UNROLL for (size_t r = 0; r < R; r++) s[r][i] =
        vf_load(m->minus_lse + lane + i * PLX_VW);
    tile_products(R, V, k, m->x_turned + lane, LANES, d, s);
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t i = 0; i < V; i++) s[r][i] = tile_exp2(s[r][i]);
    if (lanes_masked(at, row, R)) {
        UNROLL for (size_t i = 0; i < V; i++) UNROLL for (size_t r = 0; r < R; r++) s[r][i] =
            vf_select(lanes_visible(at, lane + i * PLX_VW, row + r), s[r][i], vf_set(0));
    }
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t i = 0; i < V; i++)
        vf_store(p + r * LANES + i * PLX_VW, s[r][i]);
    UNROLL for (size_t i = 0; i < V; i++) UNROLL for (size_t r = 0; r < R; r++) s[r][i] =
        vf_load(m->minus_delta + lane + i * PLX_VW);
    tile_products(R, V, v, m->y_turned + lane, LANES, d, s);
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t i = 0; i < V; i++)
        vf_store(da + r * LANES + i * PLX_VW, s[r][i] * vf_load(p + r * LANES + i * PLX_VW));
}

static void score(const chunk *c, const block *at, size_t first, size_t count, memory *m)
{
    for (size_t n = 0; n < at->vectors;) {
        size_t width = tile_vectors(at->vectors - n), lane = n * PLX_VW;
        for (size_t r = 0; r < count;) {
            size_t height = tile_rows(count - r, width), row = first + r;
            operand k = {c->k + row * c->width, c->width, 1}, v = {c->v + row * c->width, c->width, 1};
            TILE_CALL(score_tile, height, width, at, k, v, c->d, row, lane, m, m->p + r * LANES + lane,
                      m->da + r * LANES + lane);
            r += height;
        }
        n += width;
    }
}

/* X, X^T, Y, Y^T and what starts the sums, for the block's lanes. */
static void build(const chunk *c, const job *j, memory *m)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    bool det = p->form == PLX_SIMPLICIAL_DET;
    float factor = (float)(p->scale * LOG2_E);
    lanes_build_turned(c, at, p->q, c->k2_turned, det, factor, m->x_turned);
    lanes_build_turned(c, at, j->args->dout, c->v2_turned, false, (float)LN_2, m->y_turned);
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        const float *q = lanes_at(c, p->q, s->query, s->head), *dout = lanes_at(c, j->args->dout, s->query, s->head);
        const float *out = lanes_at(c, j->args->out, s->query, s->head);
        size_t row = (c->b * p->sequence.length + s->query) * p->heads + c->head + s->head;
        double delta = 0, lse = ((const float *)j->args->lse)[row];
        for (size_t l = 0; l < c->d; l++) delta += (double)out[l] * (double)dout[l];
        for (size_t n = 0; n < s->count; n++) {
            const float *k2 = c->k2 + (s->k + n) * c->width, *v2 = c->v2 + (s->k + n) * c->width;
            float *x = m->x + (s->lane + n) * c->width, *y = m->y + (s->lane + n) * c->width;
            m->minus_lse[s->lane + n] = (float)(-lse * LOG2_E);
            m->minus_delta[s->lane + n] = (float)(-delta * LN_2);
            for (size_t l = 0; l < c->d; l++) y[l] = dout[l] * v2[l];
            if (!det)
                for (size_t l = 0; l < c->d; l++) x[l] = q[l] * factor * k2[l];
            else
                for (size_t l = 0; l < c->d; l++) x[l] = m->x_turned[l * LANES + s->lane + n];
        }
    }
    for (size_t n = at->lanes; n < at->vectors * PLX_VW; n++) m->minus_lse[n] = m->minus_delta[n] = 0;
}

/* next[c] and after[c]: the components of a that in det's cross product stand in for c; 0 beyond the last whole chunk.
 */
static void move_round(const float *a, size_t d, float *next, float *after)
{
    for (size_t l = 0; l + 3 <= d; l += 3) {
        next[l] = after[l + 2] = a[l + 1];
        next[l + 1] = after[l] = a[l + 2];
        next[l + 2] = after[l + 1] = a[l];
    }
    for (size_t l = d / 3 * 3; l < d; l++) next[l] = after[l] = 0;
}

/* out[c] += a * b, or with det += a_next * b_after - a_after * b_next. */
INLINE void add_product(vf *out, bool det, const float *a, const float *a_moved, const float *b, const float *b_moved,
                        size_t width, size_t l)
{
    if (!det)
        *out += vf_load(a + l) * vf_load(b + l);
    else
        *out +=
            vf_load(a_moved + l) * vf_load(b_moved + width + l) - vf_load(a_moved + width + l) * vf_load(b_moved + l);
}

/* What W and U of a segment's lanes give: dq += U o k' of its (query, head), dk' += q o U and dv' += W * dO of the
 * tokens k. */
INLINE void scatter_form(const bool det, const chunk *c, const job *j, const segment *s, memory *m, const partial *sums)
{
    const plx_simplicial_problem *p = c->p;
    const float *q = lanes_at(c, p->q, s->query, s->head), *dout = lanes_at(c, j->args->dout, s->query, s->head);
    size_t width = c->width;
    float factor = (float)(p->scale * LOG2_E); /* the ln(2) is in U */
    for (size_t l = 0; l < c->d; l++) {
        m->q[l] = q[l] * factor;
        m->dout[l] = dout[l];
    }
    if (det) move_round(m->q, c->d, m->q_moved, m->q_moved + width);
    if (s->first) memset(m->dq, 0, width * sizeof *m->dq);
    for (size_t i = 0; i < s->count; i++) {
        const float *u = m->u + (s->lane + i) * width, *w = m->w + (s->lane + i) * width;
        const float *k2 = c->k2 + (s->k + i) * width;
        float *dk2 = sums->dk2 + (s->k + i) * width, *dv2 = sums->dv2 + (s->k + i) * width;
        if (det) {
            move_round(u, c->d, m->u_moved, m->u_moved + width);
            move_round(k2, c->d, m->k2_moved, m->k2_moved + width);
        }
        for (size_t l = 0; l < width; l += PLX_VW) {
            vf to_v2 = vf_load(dv2 + l), to_k2 = vf_load(dk2 + l), to_q = vf_load(m->dq + l);
            to_v2 += vf_load(w + l) * vf_load(m->dout + l);
            add_product(&to_k2, det, m->q, m->q_moved, u, m->u_moved, width, l);
            add_product(&to_q, det, u, m->u_moved, k2, m->k2_moved, width, l);
            vf_store(dv2 + l, to_v2);
            vf_store(dk2 + l, to_k2);
            vf_store(m->dq + l, to_q);
        }
    }
    float *dq = (float *)j->args->dq + (q - (const float *)p->q);
    for (size_t l = 0; s->last && l < c->d; l++) dq[l] = m->dq[l] * factor;
}

static void scatter(const chunk *c, const job *j, const segment *s, memory *m, const partial *sums)
{
    if (c->p->form == PLX_SIMPLICIAL_DET)
        scatter_form(true, c, j, s, m, sums);
    else
        scatter_form(false, c, j, s, m, sums);
}

static void do_block(const chunk *c, const job *j, memory *m, const partial *sums)
{
    const block *at = &m->block;
    size_t first, count, vectors = c->width / PLX_VW;
    build(c, j, m);
    for (size_t done = 0; (count = lanes_rows(at, at->begin, lanes_rows_most(c->d), done, &first)) > 0; done += count) {
        const float *k = c->k + first * c->width, *v = c->v + first * c->width;
        operand weights = {m->p, LANES, 1}, turned_weights = {m->p, 1, LANES};
        operand da = {m->da, LANES, 1}, turned_da = {m->da, 1, LANES};
        score(c, at, first, count, m);
        tile_add(at->lanes, vectors, count, turned_weights, v, c->width, m->w, c->width, done > 0);
        tile_add(at->lanes, vectors, count, turned_da, k, c->width, m->u, c->width, done > 0);
        tile_add(count, vectors, at->lanes, weights, m->y, c->width, sums->dv + first * c->width, c->width, true);
        tile_add(count, vectors, at->lanes, da, m->x, c->width, sums->dk + first * c->width, c->width, true);
    }
    for (size_t i = 0; i < at->segments; i++) scatter(c, j, &at->segment[i], m, sums);
}

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    size_t query = index % j->chunks * j->queries, row = index / j->chunks, width = lanes_round(p->head_dim);
    size_t query_end = query + j->queries < p->sequence.length ? query + j->queries : p->sequence.length;
    memory *m = (memory *)(j->scratch + (size_t)thread * j->stride);
    m->x_turned = (float *)(j->scratch + (size_t)thread * j->stride + lanes_bytes(sizeof *m));
    m->y_turned = m->x_turned + p->head_dim * LANES;
    m->x = m->y_turned + p->head_dim * LANES;
    m->y = m->x + LANES * width;
    m->p = m->y + LANES * width;
    m->da = m->p + ROWS_MOST * LANES;
    m->w = m->da + ROWS_MOST * LANES;
    m->u = m->w + LANES * width;
    m->q = m->u + LANES * width;
    m->dout = m->q + width;
    m->dq = m->dout + width;
    m->q_moved = m->dq + width;
    m->u_moved = m->q_moved + 2 * width;
    m->k2_moved = m->u_moved + 2 * width;
    m->panels = m->k2_moved + 2 * width;
    memset(m->x, 0, 2 * LANES * width * sizeof(float)); /* for the components beyond d */
    memset(m->q, 0, 9 * width * sizeof(float));

    unsigned state = lanes_flush_denormals();
    chunk c = lanes_chunk(p, row / p->kv_heads, row % p->kv_heads, 0, 1, query, query_end);
    lanes_read_long(&c, lanes_read_short(&c, m->panels));
    partial *sums = &j->partials[index];
    *sums = (partial){.base1 = c.base1,
                      .base2 = c.base2,
                      .count1 = c.count1,
                      .count2 = c.count2,
                      .dk = j->sums + index * j->partial_floats};
    sums->dv = sums->dk + c.count1 * c.width;
    sums->dk2 = sums->dv + c.count1 * c.width;
    sums->dv2 = sums->dk2 + c.count2 * c.width;
    memset(sums->dk, 0, 2 * (c.count1 + c.count2) * c.width * sizeof(float));
    cursor at = {.query = query};
    while (lanes_next(&c, &at, &m->block)) do_block(&c, j, m, sums);
    lanes_restore_denormals(state);
}

/* Adds the private sums of one chunk's own tokens, chunks in their order; those of later queries reach back to them. */
static void add_chunk(void *argument, size_t index, int thread)
{
    (void)thread;
    const job *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    size_t d = p->head_dim, width = lanes_round(d), row = index / j->chunks, own = index % j->chunks;
    size_t end = (own + 1) * j->queries < p->sequence.length ? (own + 1) * j->queries : p->sequence.length;
    for (size_t t = own * j->queries; t < end; t++) {
        size_t at = (row / p->kv_heads * p->sequence.length + t) * p->kv_heads * d + row % p->kv_heads * d;
        float *dk = (float *)j->args->dk + at, *dv = (float *)j->args->dv + at;
        float *dk2 = (float *)j->args->dk2 + at, *dv2 = (float *)j->args->dv2 + at;
        for (size_t l = 0; l < d; l++) dk[l] = dv[l] = dk2[l] = dv2[l] = 0;
        for (size_t other = own; other < j->chunks; other++) {
            const partial *s = &j->partials[row * j->chunks + other];
            bool seen1 = (int64_t)t >= s->base1, seen2 = (int64_t)t >= s->base2;
            if (!seen1 && !seen2) break; /* what later chunks see begins later still */
            size_t i1 = seen1 ? (size_t)((int64_t)t - s->base1) : 0, i2 = seen2 ? (size_t)((int64_t)t - s->base2) : 0;
            for (size_t l = 0; seen1 && l < d; l++) dk[l] += s->dk[i1 * width + l];
            for (size_t l = 0; seen1 && l < d; l++) dv[l] += s->dv[i1 * width + l];
            for (size_t l = 0; seen2 && l < d; l++) dk2[l] += s->dk2[i2 * width + l];
            for (size_t l = 0; seen2 && l < d; l++) dv2[l] += s->dv2[i2 * width + l];
        }
    }
}

/* Floats of private sums of a chunk of `queries`. */
static size_t partial_floats(const plx_simplicial_problem *p, size_t queries)
{
    size_t length = p->sequence.length;
    return 2 * (lanes_reach(p->window1, queries, length) + lanes_reach(p->window2, queries, length)) *
           lanes_round(p->head_dim);
}

plx_status PLX_CPU(plx_simplicial_backward)(plx_context *context, const void *arguments)
{
    job j = {.args = arguments};
    const plx_simplicial_problem *p = &j.args->problem;
    size_t length = p->sequence.length, rows = p->sequence.rows * p->kv_heads, d = p->head_dim;
    size_t wanted = (CHUNKS_WANTED + rows - 1) / rows;
    for (;; wanted = (wanted + 1) / 2) { /* chosen by shape alone */
        j.queries = (length + wanted - 1) / wanted;
        if (j.queries < CHUNK_LEAST) j.queries = CHUNK_LEAST;
        j.chunks = (length + j.queries - 1) / j.queries;
        j.partial_floats = partial_floats(p, j.queries < length ? j.queries : length);
        if (wanted == 1 || rows * j.chunks * j.partial_floats <= PARTIAL_MOST) break;
    }
    size_t tasks = rows * j.chunks;
    size_t floats = 2 * LANES * (d + 2 * lanes_round(d) + ROWS_MOST) + 9 * lanes_round(d) +
                    lanes_short_floats(p, j.queries, length) + lanes_long_floats(p, j.queries, length);
    j.stride = lanes_bytes(sizeof(memory)) + lanes_bytes(floats * sizeof(float));
    size_t threads = (size_t)plx_context_threads(context), private_bytes = lanes_bytes(tasks * sizeof(partial));
    char *scratch =
        plx_kernel_scratch(context, threads * j.stride + private_bytes + tasks * j.partial_floats * sizeof(float));
    if (scratch == NULL) return PLX_ERROR_MEMORY;
    j.scratch = scratch;
    j.partials = (partial *)(scratch + threads * j.stride);
    j.sums = (float *)(scratch + threads * j.stride + private_bytes);
    plx_parallel_for(context, tasks, do_chunk, &j);
    plx_parallel_for(context, tasks, add_chunk, &j);
    return PLX_OK;
}
