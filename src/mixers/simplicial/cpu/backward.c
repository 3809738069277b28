/* backward.c - fast 2-simplicial attention, backward. Layout as in lanes.h. For each block of lanes, with
 * X = q o k' * scale * log2(e), Y = dO * v', D = dO . O, and a tile of rows j, the logits are computed again:
 *     P^T  = 2^(K X^T - lse * log2(e))     dA^T = P^T * ln(2) (V Y^T - D)
 *     W  += P V                            U  += dA K                       rows are lanes
 *     dV += P^T Y                          dK += dA^T X                     rows are j
 * and a block's W and U give dv' += W * dO, dk' += U o q and dq += U o k'. The ln(2) in dA undoes the log2(e) in X. */
#include "mixers/simplicial/cpu/sums.h"

typedef struct memory {
    float *panels;
    float *x_turned, *y_turned; /* [d, LANES] */
    float *x, *y;               /* [LANES, width] */
    float *p, *da;              /* [ROWS_MOST, LANES] */
    float *w, *u;               /* [LANES, width] */
    scatter_memory scatter;
    float minus_lse[LANES], minus_delta[LANES]; /* times log2(e) and ln(2) */
    block block;
} memory;

typedef struct job {
    chunk_sums sums;
    size_t stride; /* bytes of scratch a thread */
    char *scratch;
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

/* out[lane][c] = a[c] * panel[k][c] for a segment's lanes. */
static void build_rows(const chunk *c, const segment *s, const float *a, const float *panel, float *out)
{
    size_t width = c->width;
    panel += s->k * width;
    out += s->lane * width;
    for (size_t n = 0; n < s->count; n++, panel += width, out += width)
        for (size_t l = 0; l < width; l += PLX_VW) vf_store(out + l, vf_load(panel + l) * vf_load(a + l));
}

/* X, X^T, Y, Y^T and what starts the sums, for the block's lanes. */
static void build(const chunk *c, const job *j, memory *m)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    bool det = p->form == PLX_SIMPLICIAL_DET;
    float factor = (float)(p->scale * LOG2_E);
    lanes_build_turned(c, at, p->q, c->k2_turned, det, factor, m->x_turned);
    lanes_build_turned(c, at, j->sums.args->dout, c->v2_turned, false, (float)LN_2, m->y_turned);
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        const float *q = lanes_at(c, p->q, s->query, s->head),
                    *dout = lanes_at(c, j->sums.args->dout, s->query, s->head);
        const float *out = lanes_at(c, j->sums.args->out, s->query, s->head);
        size_t row = (c->b * p->sequence.length + s->query) * p->heads + c->head + s->head;
        double delta = lanes_dot(out, dout, c->d), lse = ((const float *)j->sums.args->lse)[row];
        for (size_t l = 0; l < c->d; l++) {
            m->scatter.q[l] = q[l] * factor;
            m->scatter.dout[l] = dout[l];
        }
        for (size_t n = s->lane; n < s->lane + s->count; n++) {
            m->minus_lse[n] = (float)(-lse * LOG2_E);
            m->minus_delta[n] = (float)(-delta * LN_2);
        }
        build_rows(c, s, m->scatter.dout, c->v2, m->y);
        if (!det)
            build_rows(c, s, m->scatter.q, c->k2, m->x);
        else
            for (size_t n = s->lane; n < s->lane + s->count; n++)
                for (size_t l = 0; l < c->d; l++) m->x[n * c->width + l] = m->x_turned[l * LANES + n];
    }
    for (size_t n = at->lanes; n < at->vectors * PLX_VW; n++) m->minus_lse[n] = m->minus_delta[n] = 0;
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
    for (size_t i = 0; i < at->segments; i++)
        scatter(c, j->sums.args, &at->segment[i], m->u, m->w, c->p->scale * LOG2_E, &m->scatter, sums);
}

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->sums.args->problem;
    size_t width = lanes_round(p->head_dim);
    memory *m = (memory *)(j->scratch + (size_t)thread * j->stride);
    m->x_turned = (float *)(j->scratch + (size_t)thread * j->stride + lanes_bytes(sizeof *m));
    m->y_turned = m->x_turned + lanes_turned_floats(p->head_dim);
    m->x = m->y_turned + lanes_turned_floats(p->head_dim);
    m->y = m->x + LANES * width;
    m->p = m->y + LANES * width;
    m->da = m->p + ROWS_MOST * LANES;
    m->w = m->da + ROWS_MOST * LANES;
    m->u = m->w + LANES * width;
    m->scatter = scatter_begin(m->u + LANES * width, width);
    m->panels = m->u + LANES * width + SCATTER_FLOATS(width);
    memset(m->x, 0, 2 * LANES * width * sizeof(float)); /* for the components beyond d */

    unsigned state = flush_denormals();
    index = sums_order(&j->sums, index);
    chunk c = sums_chunk(&j->sums, index);
    lanes_read_long(&c, lanes_read_short(&c, true, m->panels));
    partial *sums = sums_begin(&j->sums, index, &c, c.base1, c.count1);
    cursor at = {.query = c.query};
    while (lanes_next(&c, &at, &m->block)) {
        lanes_ask_next(&c, &m->block, at, p->q);
        lanes_ask_next(&c, &m->block, at, j->sums.args->out);
        lanes_ask_next(&c, &m->block, at, j->sums.args->dout);
        sums_reach(sums, &c, &m->block, m->block.end);
        do_block(&c, j, m, sums);
    }
    restore_denormals(state);
}

plx_status PLX_CPU(plx_simplicial_backward)(plx_context *context, const void *arguments)
{
    job j = {0};
    sums_divide(&j.sums, arguments, 0);
    const plx_simplicial_problem *p = &j.sums.args->problem;
    size_t d = p->head_dim, width = lanes_round(d), length = p->sequence.length;
    size_t floats = 2 * lanes_turned_floats(d) + 2 * LANES * (2 * width + ROWS_MOST) + SCATTER_FLOATS(width) +
                    lanes_short_floats(p, j.sums.queries, length) + lanes_long_floats(p, j.sums.queries, length);
    j.stride = lanes_bytes(sizeof(memory)) + lanes_bytes(floats * sizeof(float));
    size_t thread_bytes = (size_t)plx_context_threads(context) * j.stride;
    size_t partial_bytes = lanes_bytes(j.sums.tasks * sizeof(partial));
    size_t sum_bytes = j.sums.tasks * j.sums.partial_floats * sizeof(float);
    char *scratch = plx_kernel_scratch(context, thread_bytes + partial_bytes + sum_bytes);
    if (scratch == NULL) return PLX_ERROR_MEMORY;
    j.scratch = scratch;
    j.sums.partials = (partial *)(scratch + thread_bytes);
    j.sums.sums = (float *)(scratch + thread_bytes + partial_bytes);
    plx_parallel_for(context, j.sums.tasks, do_chunk, &j);
    plx_parallel_for(context, j.sums.tasks, add_chunk, &j.sums);
    return PLX_OK;
}
