/* forward.c - fast 2-simplicial attention, forward. lanes.h draws the layout. For each block of lanes one pass over j:
 *     S^T = K X^T - m;  P^T = 2^S^T;  sum[lane] += P;  O2[lane][c] += P V
 * and at the end, over the lanes of a query and head, out = sum of 2^(m - M) v' * O2. m is one number a lane: the
 * maximum of the lane's first rows. It is raised only when the lane's sum grows out of hand (lazily), so that finding
 * the true maximum costs nothing as a rule. */
#include "mixers/simplicial/cpu/lanes.h"

#include <math.h>

#define SUM_MOST 1e18f /* beyond it a tile is done again with the true maximum */

typedef struct memory {
    float *panels;
    float *x_turned;                                      /* [d, LANES] */
    float *p;                                             /* [ROWS_MOST, LANES] */
    float *o2;                                            /* [LANES, width] */
    float *sum;                                           /* [width], of the (query, head) in work */
    float minus_m[LANES + PLX_VW], total[LANES + PLX_VW]; /* with a margin to read from */
    float top, mass; /* of the (query, head) in work: out = sum / mass, both relative to 2^top */
    block block;
} memory;

typedef enum pass { PASS_FIRST, PASS_NEXT, PASS_MAXIMUM } pass;

/* One tile of S^T. PASS_FIRST sets m from its rows; PASS_MAXIMUM only raises m (kept in minus_m) to their maximum. */
INLINE void score_tile(const size_t R, const size_t V, const block *at, operand k, const float *x, size_t d, size_t row,
                       size_t lane, pass pass, memory *m, float *p)
{
    vf s[12][TILE_VECTORS], minus[TILE_VECTORS];
    UNROLL for (size_t v = 0; v < V; v++) minus[v] = vf_load(m->minus_m + lane + v * PLX_VW);
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t v = 0; v < V; v++) s[r][v] =
        pass == PASS_NEXT ? minus[v] : vf_set(0);
    tile_products(R, V, k, x, LANES, d, s);
    if (lanes_masked(at, row, R)) {
        UNROLL for (size_t v = 0; v < V; v++) UNROLL for (size_t r = 0; r < R; r++) s[r][v] =
            vf_select(lanes_visible(at, lane + v * PLX_VW, row + r), s[r][v], vf_set(-1e30f));
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
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t v = 0; v < V; v++)
        vf_store(p + r * LANES + lane + v * PLX_VW, s[r][v]);
}

/* Rows from .. to - 1 of S^T, the tile beginning with row `first`. With PASS_FIRST the tiles after the first are
 * PASS_NEXT. */
static void score(const chunk *c, const block *at, size_t first, size_t from, size_t to, pass pass, memory *m)
{
    for (size_t v = 0; v < at->vectors;) {
        size_t width = tile_vectors(at->vectors - v), lane = v * PLX_VW;
        for (size_t row = from; row < to;) {
            size_t height = tile_rows(to - row, width);
            operand k = {c->k + row * c->width, c->width, 1};
            float *p = m->p + (row - first) * LANES;
            if (pass == PASS_MAXIMUM || (pass == PASS_FIRST && row == from))
                TILE_CALL(score_tile, height, width, at, k, m->x_turned + lane, c->d, row, lane, pass, m, p);
            else
                TILE_CALL(score_tile, height, width, at, k, m->x_turned + lane, c->d, row, lane, PASS_NEXT, m, p);
            row += height;
        }
        v += width;
    }
}

/* The sums of some lane ran away with this tile (or are NaN): m becomes the maximum so far, what was gathered is scaled
 * to it, and the tile is done again. before: the sums without it; gathered: whether o2 holds anything yet. */
static void score_again(const chunk *c, const block *at, size_t first, size_t count, const float *before, bool gathered,
                        memory *m)
{
    float old[LANES];
    memcpy(old, m->minus_m, sizeof old);
    score(c, at, first, first, first + count, PASS_MAXIMUM, m);
    for (size_t lane = 0; lane < at->vectors * PLX_VW; lane += PLX_VW) {
        vf factor = tile_exp2(vf_load(m->minus_m + lane) - vf_load(old + lane));
        vf_store(m->total + lane, vf_load(before + lane) * factor);
        vf_store(old + lane, factor);
    }
    for (size_t lane = 0; gathered && lane < at->lanes; lane++)
        for (size_t l = 0; l < c->width; l++) m->o2[lane * c->width + l] *= old[lane];
    score(c, at, first, first, first + count, PASS_NEXT, m);
}

/* A block's last tile of rows: what is left to add to O2. */
typedef struct last_rows {
    const float *v;
    size_t count;
    bool add; /* to what earlier tiles left in o2 */
} last_rows;

/* sum[c] += sum over R lanes from `lane` on of weight v'[c] O2[c], V vectors of c: the last rows' part of O2 does not
 * leave the registers. v2, sum: those of the first lane and c. */
INLINE void gather_tile(const size_t R, const size_t V, const memory *m, const last_rows *rows, size_t width,
                        size_t lane, size_t l, const float *v2, const float *weight, float *sum)
{
    vf o2[12][TILE_VECTORS];
    operand p = {m->p + lane, 1, LANES};
    const float *before = m->o2 + lane * width + l;
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t v = 0; v < V; v++) o2[r][v] =
        rows->add ? vf_load(before + r * width + v * PLX_VW) : vf_set(0);
    tile_products(R, V, p, rows->v + l, width, rows->count, o2);
    UNROLL for (size_t v = 0; v < V; v++) {
        vf total = vf_load(sum + v * PLX_VW);
        UNROLL for (size_t r = 0; r < R; r++) total +=
            vf_set(weight[r]) * vf_load(v2 + r * width + v * PLX_VW) * o2[r][v];
        vf_store(sum + v * PLX_VW, total);
    }
}

/* Adds a segment's lanes to the sum of its (query, head); the last one writes the result. */
static void gather(const chunk *c, const segment *s, const plx_simplicial_forward_args *args, const last_rows *rows,
                   memory *m)
{
    if (s->first) {
        m->top = -INFINITY;
        m->mass = 0;
        for (size_t l = 0; l < c->width; l++) m->sum[l] = 0;
    }
    const float *minus_m = m->minus_m + s->lane, *total = m->total + s->lane;
    float top = m->top, rescale, weight[LANES + PLX_VW];
    for (size_t i = 0; i < s->count; i++) top = -minus_m[i] > top ? -minus_m[i] : top;
    rescale = s->first ? 0 : exp2f(m->top - top);
    vf mass = vf_set(0);
    for (size_t i = 0; i < s->count; i += PLX_VW) {
        vf part = tile_exp2(vf_set(-top) - vf_load(minus_m + i));
        mass += vf_select(tile_first_lanes(s->count - i), part * vf_load(total + i), vf_set(0));
        vf_store(weight + i, part);
    }
    m->top = top;
    m->mass = m->mass * rescale + vf_sum(mass);
    for (size_t l = 0; l < c->width; l += PLX_VW) vf_store(m->sum + l, vf_load(m->sum + l) * vf_set(rescale));
    for (size_t l = 0; l < c->width;) {
        size_t vectors = tile_vectors((c->width - l) / PLX_VW);
        for (size_t i = 0; i < s->count;) {
            size_t height = tile_rows(s->count - i, vectors);
            const float *v2 = c->v2 + (s->k + i) * c->width + l;
            TILE_CALL(gather_tile, height, vectors, m, rows, c->width, s->lane + i, l, v2, weight + i, m->sum + l);
            i += height;
        }
        l += vectors * PLX_VW;
    }
    if (!s->last) return;
    size_t row = (c->b * c->p->sequence.length + s->query) * c->p->heads + c->head + s->head;
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
    for (size_t i = 0; i < LANES; i++) m->total[i] = 0;
    /* The first maximum of each lane must be one of its own, so that rows which all lanes see come first: within the
     * first tile where the few before them fit in, else in a tile of their own. */
    size_t first, count, most = lanes_rows_most(c->d),
                         origin = at->inner - at->begin > most / 2 ? at->inner : at->begin;
    last_rows rows = {0};
    for (size_t done = 0; (count = lanes_rows(at, origin, most, done, &first)) > 0; done += count) {
        float before[LANES];
        memcpy(before, m->total, sizeof before);
        if (done == 0) {
            score(c, at, first, at->inner, first + count, PASS_FIRST, m);
            score(c, at, first, first, at->inner, PASS_NEXT, m);
        } else {
            score(c, at, first, first, first + count, PASS_NEXT, m);
        }
        bool fine = true;
        for (size_t i = 0; i < at->lanes; i++) fine &= m->total[i] < SUM_MOST;
        if (!fine) score_again(c, at, first, count, before, done > 0, m);
        operand weights = {m->p, 1, LANES};
        rows = (last_rows){c->v + first * c->width, count, done > 0};
        if (done + count < at->end - at->begin)
            tile_add(at->lanes, c->width / PLX_VW, count, weights, rows.v, c->width, m->o2, c->width, rows.add);
    }
    for (size_t i = 0; i < at->segments; i++) gather(c, &at->segment[i], args, &rows, m);
}

typedef struct job {
    const plx_simplicial_forward_args *args;
    lanes_division division;
    size_t stride; /* bytes of scratch a thread */
    char *scratch;
} job;

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    memory *m = (memory *)(j->scratch + (size_t)thread * j->stride);
    m->x_turned = (float *)(j->scratch + (size_t)thread * j->stride + lanes_bytes(sizeof *m));
    m->p = m->x_turned + lanes_turned_floats(p->head_dim);
    m->o2 = m->p + ROWS_MOST * LANES;
    m->sum = m->o2 + lanes_round(p->head_dim) * LANES;
    m->panels = m->sum + lanes_round(p->head_dim);

    unsigned state = flush_denormals();
    chunk c = lanes_divided(p, &j->division, index);
    lanes_read_long(&c, lanes_read_short(&c, false, m->panels));
    cursor at = {.query = c.query};
    while (lanes_next(&c, &at, &m->block)) {
        lanes_ask_next(&c, &m->block, at, p->q);
        do_block(&c, j->args, m);
    }
    restore_denormals(state);
}

plx_status PLX_CPU(plx_simplicial_forward)(plx_context *context, const void *arguments)
{
    job j = {.args = arguments};
    const plx_simplicial_problem *p = &j.args->problem;
    size_t longest = lanes_longest(&p->sequence);
    j.division = lanes_divide(p);
    size_t width = lanes_round(p->head_dim);
    size_t floats = lanes_turned_floats(p->head_dim) + LANES * (ROWS_MOST + width) + width +
                    lanes_short_floats(p, j.division.queries, longest) +
                    lanes_long_floats(p, j.division.queries, longest);
    j.stride = lanes_bytes(sizeof(memory)) + lanes_bytes(floats * sizeof(float));
    j.scratch = plx_kernel_scratch(context, (size_t)plx_context_threads(context) * j.stride);
    if (j.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, j.division.tasks, do_chunk, &j);
    return PLX_OK;
}
