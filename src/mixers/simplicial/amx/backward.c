/* backward.c - 2-simplicial attention on bf16 tiles, backward: with operands rounded to bf16, or f32 numbers as three
 * terms. The products are those of ../cpu/backward.c, the forms of operands those of operands.h. P and dA leave the
 * vector unit in two forms: in pairs of rows j, as right operands of W^T += V^T P^T and U^T += K^T dA^T, and row by
 * row, as left operands of dV += P^T Y and dK += dA^T X. In a row, the numbers of two neighbouring lane tiles
 * alternate, since that is two instructions away from the pairs. */
#include "mixers/simplicial/amx/bf16.h"
#include "mixers/simplicial/cpu/sums.h"

#define UNITS 4                                                /* of a tile of rows */
#define STEPS(terms) ((terms) == 1 ? LOGIT_STEPS : 1.0f)       /* of a logit to a power of two: X carries the factor, */
#define Y_FACTOR(terms) ((float)(LN_2 / (double)STEPS(terms))) /* which Y undoes in dA */
#define ONE(terms) ((terms) == 1 ? POWER_START : 0)            /* the logit of P = 1 */

/* P or dA of a tile of rows. */
typedef struct weights {
    uint32_t *pairs; /* right operands [UNITS], of the pair of lane tiles in work */
    uint32_t *rows;  /* left operands [unit][lane pair] */
} weights;

typedef struct memory {
    float *panels;
    uint32_t *k, *k_turned, *v, *v_turned; /* left operands of the chunk's tokens */
    float *x_turned, *y_turned;            /* [d, LANES]; at the end U and W, [LANES, width] */
    uint32_t *x, *y;                       /* X^T and Y^T * Y_FACTOR: right operands [lane pair][step] */
    uint32_t *x_rows, *y_rows;             /* X and Y, depth lanes: right operands [lane pair][32 components] */
    float *s;                              /* [2], in turn, [2]: squares of S and V Y^T */
    weights p, da;
    float *w, *u; /* squares [lane pair][32 components] */
    scatter_memory scatter;
    float start[LANES], minus_delta[LANES]; /* ONE - steps * lse; -D * Y_FACTOR */
    float k_norm;                           /* the largest |k|^2 */
    block block;
    sums_square held;
    plx_tiles tiles;
} memory;

typedef struct job {
    chunk_sums sums;
    int terms;
    size_t stride; /* bytes of scratch a thread */
    char *scratch;
} job;

typedef enum powers { POWERS_ALL, POWERS_MASKED, POWERS_CAREFUL } powers;

/* A unit's squares of S and V Y^T, of which P and dA are made. */
typedef struct square_work {
    const float *s, *dp;
    size_t row;    /* its first */
    weights p, da; /* where the unit's go */
    vf start[2], minus_delta[2];
    lane_range range[2];
} square_work;
static inline square_work work_begin(int terms, const memory *m, const float *s, size_t lane, size_t row, size_t unit)
{
    size_t step = STEP_WORDS(terms), pairs = unit * step, rows = (unit * LANE_PAIRS + lane / 32) * step;
    square_work work = {.s = s,
                        .dp = s + SQUARE,
                        .row = row,
                        .p = {m->p.pairs + pairs, m->p.rows + rows},
                        .da = {m->da.pairs + pairs, m->da.rows + rows}};
    for (size_t i = 0; i < 2; i++) {
        work.start[i] = vf_load(m->start + lane + i * 16);
        work.minus_delta[i] = vf_load(m->minus_delta + lane + i * 16);
        work.range[i] = range_of(&m->block, lane + i * 16);
    }
    return work;
}

/* Rows 2 i and 2 i + 1 of two lane tiles: in pairs of rows, and as rows in pairs of lanes. */
INLINE void put_forms(const weights *to, int term, const vi pairs[2], vi even, vi odd, size_t i)
{
    uint32_t *to_pairs = to->pairs + term * 2 * TILE + i * 16, *to_rows = to->rows + term * 2 * TILE + i * 32;
    memcpy(to_pairs, &pairs[0], 64);
    memcpy(to_pairs + TILE, &pairs[1], 64);
    memcpy(to_rows, &even, 64);
    memcpy(to_rows + 16, &odd, 64);
}
INLINE void put_bf16(const weights *to, const vi pairs[2], size_t i)
{
    vi even = (pairs[0] & 0xffff) | pairs[1] << 16, odd = (vi)((vu)pairs[0] >> 16) | (pairs[1] & (int32_t)0xffff0000);
    put_forms(to, 0, pairs, even, odd, i);
}
INLINE void put_terms(const weights *to, const vf even[2], const vf odd[2], size_t i)
{
    vf first[2][TERMS], second[2][TERMS];
    UNROLL for (int n = 0; n < 2; n++)
    {
        vf_terms(even[n], first[n]);
        vf_terms(odd[n], second[n]);
    }
    UNROLL for (int term = 0; term < TERMS; term++)
    {
        vi pairs[2] = {vf_term_pairs(first[0][term], second[0][term]), vf_term_pairs(first[1][term], second[1][term])};
        put_forms(to, term, pairs, vf_term_pairs(first[0][term], first[1][term]),
                  vf_term_pairs(second[0][term], second[1][term]), i);
    }
}

/* P and dA of rows 2 i and 2 i + 1. */
INLINE void make_weights(const int terms, const powers how, const square_work *work, size_t i)
{
    vf even[2], odd[2], p_even[2], p_odd[2];
    vi pairs[2], da[2];
    UNROLL for (size_t n = 0; n < 2; n++)
    {
        const float *s = square_rows(work->s, i, n), *dp = square_rows(work->dp, i, n);
        const lane_range *range = &work->range[n];
        vf y0 = vf_load(s), y1 = vf_load(s + 16), start = work->start[n], minus_delta = work->minus_delta[n];
        size_t row = work->row + 2 * i;
        if (terms == 1) {
            if (how != POWERS_ALL) {
                y0 = row_visible(range, row, y0, -1e30f);
                y1 = row_visible(range, row + 1, y1, -1e30f);
            }
            pairs[n] = how == POWERS_CAREFUL ? power_pairs_careful(y0 + start, y1 + start)
                                             : power_pairs(y0 + start, y1 + start);
            p_even[n] = powers_low(pairs[n]);
            p_odd[n] = powers_high(pairs[n]);
        } else {
            p_even[n] = tile_exp2(y0 + start);
            p_odd[n] = tile_exp2(y1 + start);
            if (how != POWERS_ALL) {
                p_even[n] = row_visible(range, row, p_even[n], 0);
                p_odd[n] = row_visible(range, row + 1, p_odd[n], 0);
            }
        }
        even[n] = p_even[n] * (vf_load(dp) + minus_delta);
        odd[n] = p_odd[n] * (vf_load(dp + 16) + minus_delta);
        if (terms == 1) da[n] = vf_bf16_pairs(even[n], odd[n]);
    }
    if (terms == 1) {
        put_bf16(&work->p, pairs, i);
        put_bf16(&work->da, da, i);
    } else {
        put_terms(&work->p, p_even, p_odd, i);
        put_terms(&work->da, even, odd, i);
    }
}
/* By value, so that the usual way may keep its own in registers. */
static void make_weights_seldom(int terms, bool careful, square_work work)
{
    for (size_t i = 0; i < UNIT / 2; i++)
        if (terms != 1)
            make_weights(TERMS, POWERS_MASKED, &work, i);
        else if (careful)
            make_weights(1, POWERS_CAREFUL, &work, i);
        else
            make_weights(1, POWERS_MASKED, &work, i);
}

/* A unit's squares of S and V Y^T, of which the last then is held, and beside their products P and dA of the ones
 * before, where there are some. */
INLINE void score(const int terms, size_t steps, size_t unit, size_t n, float *s, const square_work *beside, memory *m)
{
    plx_tiles *tiles = &m->tiles;
    size_t words = STEP_WORDS(terms), parts = 2 * steps * (terms == 1 ? 1 : PARTS), part_done = 0, done = 0;
#define SCORE(part, step)                                                                                              \
    {                                                                                                                  \
        if ((part) == FIRST_PART(terms) && (step) == 0)                                                                \
            multiply_first(tiles, terms, &m->held, square_at(s, i), false, left, right);                               \
        else                                                                                                           \
            multiply(tiles, part, left + (step)*words, right + (step)*words);                                          \
        part_done++;                                                                                                   \
        for (; beside != NULL && done * parts < part_done * UNIT / 2; done++)                                          \
            make_weights(terms, POWERS_ALL, beside, done);                                                             \
    }
    for (size_t i = 0; i < 2; i++) {
        const uint32_t *left = (i == 0 ? m->k : m->v) + unit * steps * words,
                       *right = (i == 0 ? m->x : m->y) + n * steps * words;
        EACH_PART(terms, steps, SCORE)
    }
#undef SCORE
}

/* All that a tile of rows gives: P, dA, W, U, dV, dK. first: a unit's row. */
INLINE void do_tile(const int terms, const chunk *c, size_t first, size_t units, bool add, bool careful, memory *m,
                    const partial *sums)
{
    const block *at = &m->block;
    plx_tiles *tiles = &m->tiles;
    size_t lane_pairs = pairs_of(at), all = lane_pairs * units, step = STEP_WORDS(terms), steps = c->width / 32;
    for (size_t i = 0; i <= all; i++) {
        bool ahead = i<all, now = i> 0;
        size_t n = now ? (i - 1) / units : 0, u = now ? (i - 1) % units : 0, row = first + u * UNIT;
        size_t unit = first / UNIT + i % units;
        float *s = m->s + i % 2 * 2 * SQUARE;
        square_work work = work_begin(terms, m, m->s + (i + 1) % 2 * 2 * SQUARE, n * 32, row, u);
        bool seldom = careful || lanes_masked(at, row, UNIT);
        if (!ahead) square_end(tiles, &m->held);
        if (terms == TERMS && now && ahead && !seldom) {
            score(terms, steps, unit, i / units, s, &work, m);
        } else {
            if (ahead) score(terms, steps, unit, i / units, s, NULL, m);
            if (now && seldom)
                make_weights_seldom(terms, careful, work);
            else if (now)
                for (size_t r = 0; r < UNIT / 2; r++) make_weights(terms, POWERS_ALL, &work, r);
        }
        for (size_t l = 0; now && u + 1 == units && l < steps; l++) {
            size_t panel = (first / UNIT * steps + l) * step;
            products(tiles, terms, &m->held, square_at(m->w, n * steps + l), add, m->v_turned + panel, steps * step,
                     m->p.pairs, step, units);
            products(tiles, terms, &m->held, square_at(m->u, n * steps + l), add, m->k_turned + panel, steps * step,
                     m->da.pairs, step, units);
        }
    }
    for (size_t u = 0; u < units; u++)
        for (size_t l = 0; l < steps; l++) {
            size_t sum = (first + u * UNIT) * c->width + l * 32, rows = u * LANE_PAIRS * step;
            sums_square dv = {sums->dv + sum, 16, 16 * c->width, c->width * 4}, dk = dv;
            dk.data = sums->dk + sum;
            products(tiles, terms, &m->held, dv, true, m->p.rows + rows, step, m->y_rows + l * step, steps * step,
                     lane_pairs);
            products(tiles, terms, &m->held, dk, true, m->da.rows + rows, step, m->x_rows + l * step, steps * step,
                     lane_pairs);
        }
}

/* Squares [lane pair][32 components] with components as rows, to rows of components: [LANES, width]. */
static void turn_sums(const chunk *c, const block *at, const float *squares, float *rows)
{
    for (size_t n = 0; n < at->vectors; n++)
        for (size_t l = 0; l < c->width; l += 16) {
            vf tile[16];
            memcpy(tile, squares + (n / 2 * (c->width / 32) + l / 32) * SQUARE + (l % 32 / 16 * 2 + n % 2) * TILE,
                   sizeof tile);
            transpose(tile);
            for (size_t i = 0; i < 16; i++) vf_store(rows + (n * 16 + i) * c->width + l, tile[i]);
        }
}

/* What starts P and dA of the block's lanes. Returns whether logits may be too large for whole numbers, or are none. */
static bool begin_lanes(int terms, const chunk *c, const job *j, memory *m)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    bool careful = false;
    for (size_t n = 0; n < LANES; n++) m->start[n] = ONE(terms), m->minus_delta[n] = 0;
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        const float *out = lanes_at(c, j->sums.args->out, s->query, s->head);
        const float *dout = lanes_at(c, j->sums.args->dout, s->query, s->head);
        size_t row = (c->b * p->sequence.length + s->query) * p->heads + c->head + s->head;
        double delta = lanes_dot(out, dout, c->d), lse = ((const float *)j->sums.args->lse)[row];
        float start = (float)((double)ONE(terms) - lse * LOG2_E * (double)STEPS(terms));
        careful |= !(fabsf(start) < 0x1p30f);
        for (size_t n = s->lane; n < s->lane + s->count; n++) {
            m->start[n] = start;
            m->minus_delta[n] = (float)-delta * Y_FACTOR(terms);
        }
    }
    return careful;
}

INLINE void do_block(const int terms, const chunk *c, const job *j, memory *m, const partial *sums)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    double factor = p->scale * LOG2_E * (double)STEPS(terms);
    bool careful = begin_lanes(terms, c, j, m), add = false;
    lanes_build_turned(c, at, p->q, c->k2_turned, p->form == PLX_SIMPLICIAL_DET, (float)factor, m->x_turned);
    lanes_build_turned(c, at, j->sums.args->dout, c->v2_turned, false, 1, m->y_turned);
    careful |= needs_care(c->d, m->k_norm, lane_columns(terms, c, at, m->x_turned, 1, m->x));
    lane_columns(terms, c, at, m->y_turned, Y_FACTOR(terms), m->y);
    lane_rows(terms, c, at, m->x_turned, m->x_rows);
    lane_rows(terms, c, at, m->y_turned, m->y_rows);
    m->held = (sums_square){0};
    for (size_t row = at->begin / UNIT * UNIT; row < at->end;) {
        size_t units = units_of(at->end - row), tiles = (units + UNITS - 1) / UNITS;
        units = (units + tiles - 1) / tiles;
        do_tile(terms, c, row, units, add, terms == 1 && careful, m, sums);
        row += units * UNIT;
        add = true;
    }
    square_end(&m->tiles, &m->held);
    float *u_rows = m->x_turned, *w_rows = m->y_turned; /* which have done their part */
    turn_sums(c, at, m->u, u_rows);
    turn_sums(c, at, m->w, w_rows);
    for (size_t i = 0; i < at->segments; i++)
        scatter(c, j->sums.args, &at->segment[i], u_rows, w_rows, factor, &m->scatter, sums);
}

/* A thread's memory; returns its bytes. base NULL: only counts. */
static size_t lay_out(const job *j, char *base, memory *m)
{
    const plx_simplicial_problem *p = &j->sums.args->problem;
    size_t used = 0, width = lanes_width(p->head_dim), length = p->sequence.length, step = STEP_WORDS(j->terms) * 4;
    size_t panel = panel_words(j->terms, width, lanes_reach(p->window1, j->sums.queries, length)) * 4;
    uint32_t **panels[] = {&m->k, &m->k_turned, &m->v, &m->v_turned},
             **lanes[] = {&m->x, &m->y, &m->x_rows, &m->y_rows};
    for (int i = 0; i < 4; i++) *panels[i] = take(base, &used, panel);
    for (int i = 0; i < 4; i++) *lanes[i] = take(base, &used, lane_words(j->terms, width) * 4);
    float **sums[] = {&m->x_turned, &m->y_turned, &m->w, &m->u};
    for (int i = 0; i < 4; i++) *sums[i] = take(base, &used, lanes_turned_floats(width) * 4);
    m->s = take(base, &used, 4 * SQUARE * 4);
    m->p.pairs = take(base, &used, UNITS * step);
    m->p.rows = take(base, &used, UNITS * LANE_PAIRS * step);
    m->da.pairs = take(base, &used, UNITS * step);
    m->da.rows = take(base, &used, UNITS * LANE_PAIRS * step);
    float *for_scatter = take(base, &used, SCATTER_FLOATS(width) * 4);
    if (base != NULL) m->scatter = scatter_begin(for_scatter, width);
    m->panels = take(base, &used, lanes_short_floats(p, j->sums.queries, length) * 4);
    return used;
}

INLINE void do_blocks(const int terms, const job *j, chunk *c, memory *m, partial *sums)
{
    m->k_norm = panel_rows(terms, c, &c->p->k, m->k);
    panel_turned(terms, c, &c->p->k, m->k_turned);
    panel_rows(terms, c, &c->p->v, m->v);
    panel_turned(terms, c, &c->p->v, m->v_turned);
    cursor at = {.query = c->query};
    while (lanes_next(c, &at, &m->block)) {
        sums_reach(sums, c, &m->block, units_of(m->block.end) * UNIT);
        do_block(terms, c, j, m, sums);
    }
}

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    memory m;
    lay_out(j, j->scratch + (size_t)thread * j->stride, &m);

    unsigned state = flush_denormals();
    plx_tiles_begin(&m.tiles);
    index = sums_order(&j->sums, index);
    chunk c = sums_chunk(&j->sums, index);
    lanes_read_short(&c, true, m.panels);
    partial *sums = sums_begin(&j->sums, index, &c, c.base1, units_of(c.count1) * UNIT);
    if (j->terms == 1)
        do_blocks(1, j, &c, &m, sums);
    else
        do_blocks(TERMS, j, &c, &m, sums);
    plx_tiles_end(&m.tiles);
    restore_denormals(state);
}

static plx_status backward(plx_context *context, const void *arguments, int terms)
{
    job j = {.terms = terms};
    memory unused;
    sums_divide(&j.sums, arguments, UNIT);
    j.stride = lay_out(&j, NULL, &unused);
    char *scratch = NULL;
    for (int pass = 0; pass < 2; pass++) { /* counts, then takes */
        size_t used = 0;
        j.scratch = take(scratch, &used, (size_t)plx_context_threads(context) * j.stride);
        j.sums.partials = take(scratch, &used, j.sums.tasks * sizeof(partial));
        j.sums.sums = take(scratch, &used, j.sums.tasks * j.sums.partial_floats * sizeof(float));
        if (pass == 0 && (scratch = plx_kernel_scratch(context, used)) == NULL) return PLX_ERROR_MEMORY;
    }
    plx_parallel_for(context, j.sums.tasks, do_chunk, &j);
    plx_parallel_for(context, j.sums.tasks, add_chunk, &j.sums);
    return PLX_OK;
}

plx_status PLX_CPU(plx_simplicial_backward)(plx_context *context, const void *arguments)
{
    return backward(context, arguments, 1);
}
plx_status PLX_CPU(plx_simplicial_backward_terms)(plx_context *context, const void *arguments)
{
    return backward(context, arguments, TERMS);
}
