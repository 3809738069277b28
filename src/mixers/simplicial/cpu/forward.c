/* forward.c - fast 2-simplicial attention, forward. lanes.h draws the layout. For each block of lanes one pass over j:
 *     S^T = K X^T - m;  P = 2^S;  sum[lane] += P;  O2^T[c][lane] += V^T P
 * and at the end, over the lanes of a query and head, out = sum of 2^(m - M) v' * O2. m is one number a lane: the
 * maximum of the lane's first rows. It is raised only when the lane's sum grows out of hand (lazily), so that finding
 * the true maximum costs nothing as a rule. */
#include "mixers/simplicial/cpu/lanes.h"

#include <math.h>

#define SUM_MOST 1e18f /* beyond it a tile is done again with the true maximum */

typedef struct memory {
    float *panels;
    float *x_turned;  /* [d, LANE_ROW] */
    float *p;         /* [ROWS_MOST, LANES] */
    float *o2;        /* [d, LANES] and a margin */
    float *sum;       /* [width], of the (query, head) in work */
    float minus_m[LANE_ROW], total[LANE_ROW]; /* with a margin to read from */
    float top, mass;  /* of the (query, head) in work: out = sum / mass, both relative to 2^top */
    block block;
} memory;

typedef enum pass { PASS_FIRST, PASS_NEXT, PASS_MAXIMUM } pass;

/* One tile of S^T. PASS_FIRST sets m from its rows; PASS_MAXIMUM only raises m (kept in minus_m) to their maximum. */
INLINE void score_tile(const size_t R, const size_t V, const block *at, operand k, const float *x, size_t d, size_t row,
                       size_t lane, pass pass, memory *m, float *p)
{
    vf s[12][TILE_VECTORS], minus[TILE_VECTORS];
    UNROLL for (size_t v = 0; v < V; v++) minus[v] = vf_load(m->minus_m + lane + v * PLX_VW);
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t v = 0; v < V; v++) s[r][v] = pass == PASS_NEXT ? minus[v] : vf_set(0);
    tile_products(R, V, k, x, LANE_ROW, d, s);
    if (lanes_masked(at, row, R)) {
        UNROLL for (size_t v = 0; v < V; v++)
            UNROLL for (size_t r = 0; r < R; r++)
                s[r][v] = vf_select(lanes_visible(at, lane + v * PLX_VW, row + r), s[r][v], vf_set(-1e30f));
    }
    if (pass != PASS_NEXT) {
        UNROLL for (size_t v = 0; v < V; v++) {
            vf top = pass == PASS_FIRST ? s[0][v] : -minus[v];
            UNROLL for (size_t r = 0; r < R; r++) top = vf_max(top, s[r][v]);
            vf_store(m->minus_m + lane + v * PLX_VW, -top);
            UNROLL for (size_t r = 0; r < R; r++) s[r][v] -= top;
        }
        if (pass == PASS_MAXIMUM) return;
    }
    UNROLL for (size_t v = 0; v < V; v++) {
        vf total = vf_load(m->total + lane + v * PLX_VW);
        UNROLL for (size_t r = 0; r < R; r++) {
            s[r][v] = tile_exp2(s[r][v]);
            total += s[r][v];
        }
        vf_store(m->total + lane + v * PLX_VW, total);
    }
    UNROLL for (size_t r = 0; r < R; r++)
        UNROLL for (size_t v = 0; v < V; v++) vf_store(p + r * LANES + lane + v * PLX_VW, s[r][v]);
}

/* All of S^T for rows first .. first + count - 1. With PASS_FIRST the tiles after the first are PASS_NEXT. */
static void score(const chunk *c, const block *at, size_t first, size_t count, pass pass, memory *m)
{
    for (size_t v = 0; v < at->vectors;) {
        size_t width = tile_vectors(at->vectors - v), lane = v * PLX_VW;
        for (size_t r = 0; r < count;) {
            size_t height = tile_rows(count - r, width), row = first + r;
            operand k = {c->k + row * c->width, c->width, 1};
            float *p = m->p + r * LANES;
            if (pass == PASS_MAXIMUM || (pass == PASS_FIRST && r == 0))
                TILE_CALL(score_tile, height, width, at, k, m->x_turned + lane, c->d, row, lane, pass, m, p);
            else
                TILE_CALL(score_tile, height, width, at, k, m->x_turned + lane, c->d, row, lane, PASS_NEXT, m, p);
            r += height;
        }
        v += width;
    }
}

/* The sums of some lane ran away with this tile (or are NaN): m becomes the maximum so far, what was gathered is scaled
 * to it, and the tile is done again. before: the sums without it. */
static void score_again(const chunk *c, const block *at, size_t first, size_t count, const float *before, memory *m)
{
    float old[LANES];
    memcpy(old, m->minus_m, sizeof old);
    score(c, at, first, count, PASS_MAXIMUM, m);
    for (size_t lane = 0; lane < at->vectors * PLX_VW; lane += PLX_VW) {
        vf factor = tile_exp2(vf_load(m->minus_m + lane) - vf_load(old + lane));
        vf_store(m->total + lane, vf_load(before + lane) * factor);
        for (size_t l = 0; l < c->d; l++) {
            float *o2 = m->o2 + l * LANES + lane;
            vf_store(o2, vf_load(o2) * factor);
        }
    }
    score(c, at, first, count, PASS_NEXT, m);
}

/* Adds a segment's lanes to the sum of its (query, head); the last one writes the result. */
static void gather(const chunk *c, const segment *s, const plx_simplicial_forward_args *args, memory *m)
{
    if (s->first) {
        m->top = -INFINITY;
        m->mass = 0;
        memset(m->sum, 0, c->width * sizeof *m->sum);
    }
    float top = m->top;
    for (size_t i = 0; i < s->count; i++) top = -m->minus_m[s->lane + i] > top ? -m->minus_m[s->lane + i] : top;
    float rescale = s->first ? 0 : exp2f(m->top - top);
    vf weight[LANES / PLX_VW], mass = vf_set(0);
    size_t vectors = lanes_round(s->count) / PLX_VW;
    for (size_t n = 0; n < vectors; n++) {
        vi mine = tile_first_lanes(s->count - n * PLX_VW);
        weight[n] = tile_exp2(vf_set(-top) - vf_load(m->minus_m + s->lane + n * PLX_VW));
        mass += vf_select(mine, weight[n] * vf_load(m->total + s->lane + n * PLX_VW), vf_set(0));
    }
    m->top = top;
    m->mass = m->mass * rescale + vf_sum(mass);
    vi mine = tile_first_lanes(s->count - (vectors - 1) * PLX_VW); /* of the last vector */
    for (size_t l = 0; l < c->width; l += PLX_VW) {
        vf sums[PLX_VW];
        for (size_t i = 0; i < PLX_VW; i++) {
            sums[i] = vf_set(0);
            if (l + i >= c->d) continue;
            const float *o2 = m->o2 + (l + i) * LANES + s->lane, *v2 = c->v2_turned + (l + i) * c->row2 + s->k;
            for (size_t n = 0; n + 1 < vectors; n++)
                sums[i] += weight[n] * vf_load(v2 + n * PLX_VW) * vf_load(o2 + n * PLX_VW);
            size_t n = vectors - 1;
            sums[i] += vf_select(mine, weight[n] * vf_load(v2 + n * PLX_VW) * vf_load(o2 + n * PLX_VW), vf_set(0));
        }
        vf_store(m->sum + l, vf_load(m->sum + l) * vf_set(rescale) + tile_sums(sums));
    }
    if (!s->last) return;
    size_t row = (c->b * c->p->sequence.length + s->query) * c->p->heads + c->g * c->group + s->head;
    float *out = (float *)args->out + row * c->d;
    for (size_t l = 0; l < c->d; l++) out[l] = m->sum[l] / m->mass;
    if (args->lse != NULL) ((float *)args->lse)[row] = (float)(((double)top + log2((double)m->mass)) * LN_2);
}

static void do_block(const chunk *c, const plx_simplicial_forward_args *args, memory *m)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    lanes_build_turned(c, at, p->q, c->k2_turned, p->form == PLX_SIMPLICIAL_DET, (float)(p->scale * LOG2_E),
                       m->x_turned);
    memset(m->total, 0, sizeof m->total);
    size_t first, count;
    for (size_t done = 0; (count = lanes_rows(at, done, &first)) > 0; done += count) {
        float before[LANES];
        memcpy(before, m->total, sizeof before);
        score(c, at, first, count, done == 0 ? PASS_FIRST : PASS_NEXT, m);
        bool fine = true;
        for (size_t i = 0; i < at->lanes; i++) fine &= m->total[i] < SUM_MOST;
        if (!fine) score_again(c, at, first, count, before, m);
        operand v = {c->v + first * c->width, 1, c->width};
        tile_add(c->d, at->vectors, count, v, m->p, LANES, m->o2, LANES, done > 0);
    }
    for (size_t i = 0; i < at->segments; i++) gather(c, &at->segment[i], args, m);
}

typedef struct job {
    const plx_simplicial_forward_args *args;
    size_t queries, chunks;      /* of a chunk, of a row */
    size_t stride;               /* bytes of scratch a thread */
    char *scratch;
} job;

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    size_t query = index % j->chunks * j->queries, row = index / j->chunks;
    size_t query_end = query + j->queries < p->sequence.length ? query + j->queries : p->sequence.length;
    memory *m = (memory *)(j->scratch + (size_t)thread * j->stride);
    m->x_turned = (float *)(j->scratch + (size_t)thread * j->stride + lanes_bytes(sizeof *m));
    m->p = m->x_turned + p->head_dim * LANE_ROW;
    m->o2 = m->p + ROWS_MOST * LANES;
    m->sum = m->o2 + p->head_dim * LANES + PLX_VW;
    m->panels = m->sum + lanes_round(p->head_dim);

    unsigned state = lanes_flush_denormals();
    chunk c = lanes_chunk(p, row / p->kv_heads, row % p->kv_heads, query, query_end, m->panels);
    cursor at = {.query = query};
    while (lanes_next(&c, &at, &m->block)) do_block(&c, j->args, m);
    lanes_restore_denormals(state);
}

plx_status PLX_CPU(plx_simplicial_forward)(plx_context *context, const void *arguments)
{
    job j = {.args = arguments};
    const plx_simplicial_problem *p = &j.args->problem;
    size_t longest = p->sequence.length;
    for (size_t b = 0; p->sequence.past != NULL && b < p->sequence.rows; b++)
        if ((size_t)p->sequence.past[b] + p->sequence.length > longest)
            longest = (size_t)p->sequence.past[b] + p->sequence.length;
    /* enough lanes to fill several blocks, and panels that stay small */
    j.queries = p->heads / p->kv_heads * p->window2 >= 32 ? 16 : 64;
    j.chunks = (p->sequence.length + j.queries - 1) / j.queries;
    size_t floats = p->head_dim * (LANE_ROW + LANES) + ROWS_MOST * LANES + PLX_VW + lanes_round(p->head_dim) +
                    lanes_panel_floats(p, j.queries, longest);
    j.stride = lanes_bytes(sizeof(memory)) + lanes_bytes(floats * sizeof(float));
    j.scratch = plx_kernel_scratch(context, (size_t)plx_context_threads(context) * j.stride);
    if (j.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, p->sequence.rows * p->kv_heads * j.chunks, do_chunk, &j);
    return PLX_OK;
}
