/* backward.c - fast 2-simplicial attention, backward. Layout as in lanes.h. For each block of lanes, with
 * X = q o k' * scale * log2(e), Y = dO * v', D = dO . O, and a tile of rows j, the logits are computed again:
 *     P^T  = 2^(K X^T - lse * log2(e))     dA^T = P^T * ln(2) (V Y^T - D)
 *     W^T += V^T P^T                       U^T += K^T dA^T                  lanes are columns
 *     dV  += P^T Y                         dK  += dA^T X                    components are columns
 * and a block's W and U give dv' += W * dO, dk' += U o q and dq += U o k'. The ln(2) in dA undoes the log2(e) in X.
 *
 * Tasks are fixed chunks of queries. Each has sums of its own for dk, dv (its queries and w1 before them) and dk', dv'
 * (w2 before them), which are added in the order of the chunks: the answer is the same for any number of threads. The
 * number of chunks is bounded, so memory stays linear in the length. */
#include "mixers/simplicial/cpu/lanes.h"

#define TASKS_WANTED 64
#define CHUNK_LEAST 32
#define PARTIAL_MOST ((size_t)16 << 20) /* floats of private sums, above which fewer chunks are made */

/* A task's private sums, in scratch shared by all threads. */
typedef struct partial {
    int64_t base1, base2;
    size_t count1, count2, row2;
    float *dk, *dv;               /* [count1, width] */
    float *dk2_turned, *dv2_turned; /* [d, row2] */
} partial;

typedef struct memory {
    float *panels;
    float *x_turned, *y_turned;   /* [d, LANE_ROW] */
    float *x, *y;                 /* [LANES, width] */
    float *p, *da;                /* [ROWS_MOST, LANES] */
    float *w, *u;                 /* [d, LANES] and a margin */
    float minus_lse[LANE_ROW], minus_delta[LANE_ROW]; /* times log2(e) and ln(2) */
    block block;
} memory;

typedef struct job {
    const plx_simplicial_backward_args *args;
    size_t queries, chunks;       /* of a chunk, of a row */
    size_t stride, partial_floats;
    char *scratch;
    partial *partials;            /* [rows * kv_heads * chunks] */
    float *sums;
} job;

/* P^T and dA^T of one tile. */
INLINE void score_tile(const size_t R, const size_t V, const block *at, operand k, operand v, size_t d, size_t row,
                       size_t lane, const memory *m, float *p, float *da)
{
    vf s[12][TILE_VECTORS];
    UNROLL for (size_t i = 0; i < V; i++)
        UNROLL for (size_t r = 0; r < R; r++) s[r][i] = vf_load(m->minus_lse + lane + i * PLX_VW);
    tile_products(R, V, k, m->x_turned + lane, LANE_ROW, d, s);
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t i = 0; i < V; i++) s[r][i] = tile_exp2(s[r][i]);
    if (lanes_masked(at, row, R)) {
        UNROLL for (size_t i = 0; i < V; i++)
            UNROLL for (size_t r = 0; r < R; r++)
                s[r][i] = vf_select(lanes_visible(at, lane + i * PLX_VW, row + r), s[r][i], vf_set(0));
    }
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t i = 0; i < V; i++) vf_store(p + r * LANES + i * PLX_VW, s[r][i]);
    UNROLL for (size_t i = 0; i < V; i++)
        UNROLL for (size_t r = 0; r < R; r++) s[r][i] = vf_load(m->minus_delta + lane + i * PLX_VW);
    tile_products(R, V, v, m->y_turned + lane, LANE_ROW, d, s);
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t i = 0; i < V; i++)
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
        size_t row = (c->b * p->sequence.length + s->query) * p->heads + c->g * c->group + s->head;
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
                for (size_t l = 0; l < c->d; l++) x[l] = m->x_turned[l * LANE_ROW + s->lane + n];
        }
    }
    for (size_t n = at->lanes; n < at->vectors * PLX_VW; n++) m->minus_lse[n] = m->minus_delta[n] = 0;
}

/* to[l] += factor * sum over a segment's lanes of u o panel: dq of its (query, head). */
static void gather(const chunk *c, const segment *s, const float *u, const float *turned, float factor, bool cross,
                   float *to)
{
    size_t vectors = lanes_round(s->count) / PLX_VW, used = cross ? c->d / 3 * 3 : c->d;
    for (size_t l = 0; l < used; l += PLX_VW) {
        vf sums[PLX_VW];
        for (size_t i = 0; i < PLX_VW; i++) {
            sums[i] = vf_set(0);
            if (l + i >= used) continue;
            size_t one = l + i, two = l + i;
            if (cross) lanes_cross(l + i, &one, &two);
            const float *a = u + one * LANES + s->lane, *b = turned + two * c->row2 + s->k;
            const float *minus_a = u + two * LANES + s->lane, *minus_b = turned + one * c->row2 + s->k;
            for (size_t n = 0; n < vectors; n++) {
                vf part = vf_load(a + n * PLX_VW) * vf_load(b + n * PLX_VW);
                if (cross) part -= vf_load(minus_a + n * PLX_VW) * vf_load(minus_b + n * PLX_VW);
                sums[i] += vf_select(tile_first_lanes(s->count - n * PLX_VW), part, vf_set(0));
            }
        }
        float total[PLX_VW];
        vf_store(total, tile_sums(sums));
        for (size_t i = 0; i < PLX_VW && l + i < used; i++) to[l + i] += factor * total[i];
    }
}

/* turned[l][k of lane] += factor * (a o u)[l], over a segment's lanes: dk' and dv'. */
static void scatter(const chunk *c, const segment *s, const float *a, const float *u, float factor, bool cross,
                    float *turned)
{
    size_t used = cross ? c->d / 3 * 3 : c->d;
    for (size_t l = 0; l < used; l++) {
        size_t one = l, two = l;
        if (cross) lanes_cross(l, &one, &two);
        const float *plus = u + two * LANES + s->lane, *minus = u + one * LANES + s->lane;
        vf x = vf_set(a[one] * factor), y = vf_set(a[two] * factor);
        float *to = turned + l * c->row2 + s->k;
        for (size_t n = 0; n < s->count; n += PLX_VW) {
            vf part = x * vf_load(plus + n);
            if (cross) part -= y * vf_load(minus + n);
            vf_store(to + n, vf_load(to + n) + vf_select(tile_first_lanes(s->count - n), part, vf_set(0)));
        }
    }
}

static void do_block(const chunk *c, const job *j, memory *m, const partial *sums)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    bool det = p->form == PLX_SIMPLICIAL_DET;
    float factor = (float)(p->scale * LOG2_E);
    build(c, j, m);
    size_t first, count;
    for (size_t done = 0; (count = lanes_rows(at, done, &first)) > 0; done += count) {
        operand k = {c->k + first * c->width, 1, c->width}, v = {c->v + first * c->width, 1, c->width};
        operand weights = {m->p, LANES, 1}, da = {m->da, LANES, 1};
        score(c, at, first, count, m);
        tile_add(c->d, at->vectors, count, v, m->p, LANES, m->w, LANES, done > 0);
        tile_add(c->d, at->vectors, count, k, m->da, LANES, m->u, LANES, done > 0);
        tile_add(count, c->width / PLX_VW, at->lanes, weights, m->y, c->width, sums->dv + first * c->width, c->width,
                 true);
        tile_add(count, c->width / PLX_VW, at->lanes, da, m->x, c->width, sums->dk + first * c->width, c->width, true);
    }
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        float *dq = (float *)j->args->dq + (lanes_at(c, p->q, s->query, s->head) - (const float *)p->q);
        if (s->first) memset(dq, 0, c->d * sizeof *dq);
        gather(c, s, m->u, c->k2_turned, factor, det, dq);
        scatter(c, s, lanes_at(c, p->q, s->query, s->head), m->u, factor, det, sums->dk2_turned);
        scatter(c, s, lanes_at(c, j->args->dout, s->query, s->head), m->w, 1, false, sums->dv2_turned);
    }
}

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    size_t query = index % j->chunks * j->queries, row = index / j->chunks, width = lanes_round(p->head_dim);
    size_t query_end = query + j->queries < p->sequence.length ? query + j->queries : p->sequence.length;
    memory *m = (memory *)(j->scratch + (size_t)thread * j->stride);
    m->x_turned = (float *)(j->scratch + (size_t)thread * j->stride + lanes_bytes(sizeof *m));
    m->y_turned = m->x_turned + p->head_dim * LANE_ROW;
    m->x = m->y_turned + p->head_dim * LANE_ROW;
    m->y = m->x + LANES * width;
    m->p = m->y + LANES * width;
    m->da = m->p + ROWS_MOST * LANES;
    m->w = m->da + ROWS_MOST * LANES;
    m->u = m->w + p->head_dim * LANES + PLX_VW;
    m->panels = m->u + p->head_dim * LANES + PLX_VW;
    memset(m->x, 0, 2 * LANES * width * sizeof(float)); /* for the components beyond d */

    unsigned state = lanes_flush_denormals();
    chunk c = lanes_chunk(p, row / p->kv_heads, row % p->kv_heads, query, query_end, m->panels);
    partial *sums = &j->partials[index];
    *sums = (partial){.base1 = c.base1, .base2 = c.base2, .count1 = c.count1, .count2 = c.count2, .row2 = c.row2,
                      .dk = j->sums + index * j->partial_floats};
    sums->dv = sums->dk + c.count1 * c.width;
    sums->dk2_turned = sums->dv + c.count1 * c.width;
    sums->dv2_turned = sums->dk2_turned + c.d * c.row2;
    memset(sums->dk, 0, 2 * (c.count1 * c.width + c.d * c.row2) * sizeof(float));
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
            for (size_t l = 0; seen2 && l < d; l++) dk2[l] += s->dk2_turned[l * s->row2 + i2];
            for (size_t l = 0; seen2 && l < d; l++) dv2[l] += s->dv2_turned[l * s->row2 + i2];
        }
    }
}

/* Floats of private sums of a chunk of `queries`. */
static size_t partial_floats(const plx_simplicial_problem *p, size_t queries)
{
    size_t length = p->sequence.length;
    return 2 * (lanes_reach(p->window1, queries, length) * lanes_round(p->head_dim) +
                p->head_dim * lanes_stride(lanes_reach(p->window2, queries, length)));
}

plx_status PLX_CPU(plx_simplicial_backward)(plx_context *context, const void *arguments)
{
    job j = {.args = arguments};
    const plx_simplicial_problem *p = &j.args->problem;
    size_t length = p->sequence.length, rows = p->sequence.rows * p->kv_heads, d = p->head_dim;
    size_t wanted = (TASKS_WANTED + rows - 1) / rows;
    for (;; wanted = (wanted + 1) / 2) { /* chosen by shape alone */
        j.queries = (length + wanted - 1) / wanted;
        if (j.queries < CHUNK_LEAST) j.queries = CHUNK_LEAST;
        j.chunks = (length + j.queries - 1) / j.queries;
        j.partial_floats = partial_floats(p, j.queries < length ? j.queries : length);
        if (wanted == 1 || rows * j.chunks * j.partial_floats <= PARTIAL_MOST) break;
    }
    size_t tasks = rows * j.chunks;
    size_t floats = 2 * (d * (LANE_ROW + LANES) + LANES * lanes_round(d) + ROWS_MOST * LANES + PLX_VW) +
                    lanes_panel_floats(p, j.queries, length);
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
