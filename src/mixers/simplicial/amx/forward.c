/* forward.c - 2-simplicial attention on bf16 tiles, forward: with operands rounded to bf16, or f32 numbers as three
 * terms. operands.h draws the layout. A tile of rows j is worked through in squares of 32 rows by 32 lanes: between the
 * tile unit's products for one square of logits, the vector unit makes P of the square before. When a pair of lane
 * tiles has P of all the tile's rows, they meet V.
 *
 * Of one bf16 number, where a bound of the logits is known (forward.h), no maximum is needed: m is 0, and all is done
 * pair by pair of lane tiles (stream.h). Otherwise m of a lane is the maximum of its first unit; where sums come out
 * too large for that, the block is done again with the true maximum. */
#include "mixers/simplicial/amx/stream.h"

/* Units of a block whose sums have too few terms for the table's errors to cancel: exact powers there. */
#define FEW_UNITS 2

/* The maximum of 16 lanes over a unit, of its visible rows. */
static vf unit_top(const block *at, const float *square, size_t lane, size_t row)
{
    lane_range range = range_of(at, lane);
    vf top = vf_set(-1e30f);
    for (size_t r = 0; r < UNIT; r++)
        top = vf_max(
            row_visible(&range, row + r, vf_load(square_rows(square, r / 2, lane / 16 % 2) + r % 2 * 16), -1e30f), top);
    return top;
}

/* A square of logits that P is made of. */
typedef struct square_work {
    const float *s;
    size_t lane, row; /* its first */
    uint32_t *p;
    vf start[2], total[2];
    lane_range range[2];
} square_work;
static inline square_work work_begin(const memory *m, const float *s, size_t lane, size_t row, uint32_t *p)
{
    square_work work = {.s = s, .lane = lane, .row = row, .p = p};
    for (size_t i = 0; i < 2; i++) {
        work.start[i] = vf_load(m->start + lane + i * 16);
        work.total[i] = vf_load(m->total + lane + i * 16);
        work.range[i] = range_of(&m->block, lane + i * 16);
    }
    return work;
}
static inline void work_end(const square_work *work, memory *m)
{
    for (size_t i = 0; i < 2; i++) vf_store(m->total + work->lane + i * 16, work->total[i]);
}

/* Powers of any logits in steps: NaN stays NaN. */
static inline vi exact_pairs(vf y0, vf y1)
{
    return vf_bf16_pairs(tile_exp2(y0 * vf_set(1 / POWERS_STEPS)), tile_exp2(y1 * vf_set(1 / POWERS_STEPS)));
}

/* P of rows 2 i and 2 i + 1, and its sums. */
INLINE void make_powers(const int terms, const bool masked, square_work *work, size_t i)
{
    UNROLL for (size_t n = 0; n < 2; n++)
    {
        const float *s = square_rows(work->s, i, n);
        vf y0 = vf_load(s), y1 = vf_load(s + 16);
        uint32_t *to = work->p + n * TILE + i * 16;
        if (masked) {
            y0 = row_visible(&work->range[n], work->row + 2 * i, y0, -1e30f);
            y1 = row_visible(&work->range[n], work->row + 2 * i + 1, y1, -1e30f);
        }
        y0 += work->start[n];
        y1 += work->start[n];
        if (terms == 1) {
            vi pairs = exact_pairs(y0, y1);
            work->total[n] += powers_low(pairs) + powers_high(pairs);
            memcpy(to, &pairs, 64);
        } else {
            y0 = tile_exp2(y0);
            y1 = tile_exp2(y1);
            work->total[n] += y0 + y1;
            put_pairs(terms, y0, y1, to);
        }
    }
}
/* By value, so that the usual way may keep its own in registers. */
static square_work make_powers_seldom(int terms, square_work work)
{
    for (size_t i = 0; i < UNIT / 2; i++)
        if (terms == 1)
            make_powers(1, true, &work, i);
        else
            make_powers(TERMS, true, &work, i);
    return work;
}

/* A square of logits, `steps` deep, which then is held, and beside its products P of the one before, where there is
 * one. */
INLINE void score(const int terms, plx_tiles *tiles, sums_square *held, const uint32_t *k, const uint32_t *x,
                  size_t steps, float *s, square_work *beside)
{
    size_t parts = steps * (terms == 1 ? 1 : PARTS), part_done = 0, done = 0;
#define SCORE(part, step)                                                                                              \
    {                                                                                                                  \
        if ((part) == FIRST_PART(terms) && (step) == 0)                                                                \
            multiply_first(tiles, terms, held, square_at(s, 0), false, k, x);                                          \
        else                                                                                                           \
            multiply(tiles, part, k + (step)*STEP_WORDS(terms), x + (step)*STEP_WORDS(terms));                         \
        part_done++;                                                                                                   \
        for (; beside != NULL && done * parts < part_done * UNIT / 2; done++) make_powers(terms, false, beside, done); \
    }
    EACH_PART(terms, steps, SCORE)
#undef SCORE
}

typedef struct rows_of_tile {
    size_t first, units; /* first: a unit's */
    bool add;            /* to sums of earlier rows */
    bool find_m;         /* from each lane's first unit */
} rows_of_tile;

/* One tile of rows, all lanes of the block. */
INLINE void do_tile(const int terms, size_t steps, const rows_of_tile *rows, memory *m)
{
    const block *at = &m->block;
    plx_tiles *tiles = &m->tiles;
    size_t units = rows->units, all = pairs_of(at) * units, step = STEP_WORDS(terms), first = rows->first / UNIT;
    for (size_t i = 0; i <= all; i++) {
        bool ahead = i<all, now = i> 0;
        size_t n = now ? (i - 1) / units : 0, u = now ? (i - 1) % units : 0, row = rows->first + u * UNIT;
        const uint32_t *k = m->k + (first + i % units) * steps * step, *x = m->x + i / units * steps * step;
        float *s = m->s + i % 2 * SQUARE;
        const float *before = m->s + (i + 1) % 2 * SQUARE;
        if (now && ((rows->find_m && u == 0) || !ahead)) square_end(tiles, &m->held);
        if (now && rows->find_m && u == 0)
            for (size_t lane = n * 32; lane < n * 32 + 32; lane += 16)
                vf_store(m->start + lane, -unit_top(at, before, lane, row));
        square_work work = work_begin(m, before, n * 32, row, m->p + u * step);
        bool seldom = lanes_masked(at, row, UNIT);
        if (now && ahead && !seldom) {
            score(terms, tiles, &m->held, k, x, steps, s, &work);
        } else {
            if (ahead) score(terms, tiles, &m->held, k, x, steps, s, NULL);
            if (now && seldom)
                work = make_powers_seldom(terms, work);
            else if (now)
                for (size_t r = 0; r < UNIT / 2; r++) make_powers(terms, false, &work, r);
        }
        if (now) work_end(&work, m);
        for (size_t c = 0; now && u + 1 == units && c < steps; c++)
            products(tiles, terms, &m->held, square_at(m->o2, n * steps + c), rows->add,
                     m->v + (first * steps + c) * step, steps * step, m->p, step, units);
    }
}

/* Rows from .. to - 1, whole units. */
INLINE void do_span(const int terms, size_t steps, size_t from, size_t to, bool add, bool find_m, memory *m)
{
    while (from < to) {
        size_t units = units_of(to - from), tiles = (units + UNITS(terms) - 1) / UNITS(terms);
        rows_of_tile rows = {.first = from, .units = (units + tiles - 1) / tiles, .add = add, .find_m = find_m};
        do_tile(terms, steps, &rows, m);
        from += rows.units * UNIT;
        add = true;
        find_m = false;
    }
}

/* All rows of the block, in units as they lie in the panel. known: m is that of every lane; else it is found in the
 * first unit, which has a row that every lane sees. */
static void do_all_rows(int terms, size_t steps, bool known, memory *m)
{
    const block *at = &m->block;
    size_t begin = at->begin / UNIT * UNIT, origin = at->inner / UNIT * UNIT;
    for (size_t i = 0; i < LANES; i++) m->total[i] = 0;
    m->held = (sums_square){0};
    for (int span = 0; span < 2; span++) {
        size_t from = span == 0 ? origin : begin, to = span == 0 ? at->end : origin;
        if (terms == 1)
            do_span(1, steps, from, to, span > 0, span == 0 && !known, m);
        else
            do_span(TERMS, steps, from, to, span > 0, span == 0 && !known, m);
    }
    square_end(&m->tiles, &m->held);
}

/* m becomes the maximum of each lane. */
static void find_maxima(int terms, size_t steps, memory *m)
{
    const block *at = &m->block;
    size_t step = STEP_WORDS(terms);
    m->held = (sums_square){0};
    for (size_t n = 0; n < pairs_of(at); n++) {
        vf top[2] = {vf_set(-1e30f), vf_set(-1e30f)};
        for (size_t unit = at->begin / UNIT; unit < units_of(at->end); unit++) {
            const uint32_t *k = m->k + unit * steps * step, *x = m->x + n * steps * step;
            if (terms == 1)
                score(1, &m->tiles, &m->held, k, x, steps, m->s, NULL);
            else
                score(TERMS, &m->tiles, &m->held, k, x, steps, m->s, NULL);
            square_end(&m->tiles, &m->held);
            for (size_t i = 0; i < 2; i++) top[i] = vf_max(unit_top(at, m->s, n * 32 + i * 16, unit * UNIT), top[i]);
        }
        for (size_t i = 0; i < 2; i++) vf_store(m->start + n * 32 + i * 16, -top[i]);
    }
}

/* All rows, with m found. */
static void do_with_maxima(int terms, size_t steps, memory *m)
{
    do_all_rows(terms, steps, false, m);
    bool fine = true;
    for (size_t i = 0; i < m->block.lanes; i++) fine &= m->total[i] < SUM_MOST;
    if (fine) return;
    find_maxima(terms, steps, m);
    do_all_rows(terms, steps, true, m);
}

/* ---- results ---- */

/* The result of a (query, head) whose lanes have all been added. */
static void finish(const chunk *c, const segment *s, const plx_simplicial_forward_args *args, const memory *m)
{
    size_t row = (c->b * c->p->sequence.length + s->query) * c->p->heads + c->head + s->head;
    float *out = (float *)args->out + row * c->d;
    for (size_t l = 0; l < c->d; l++) out[l] = m->sum[l] / m->mass;
    if (args->lse != NULL) ((float *)args->lse)[row] = (float)(((double)m->top + log2((double)m->mass)) * LN_2);
}
static void begin_sum(const chunk *c, memory *m)
{
    m->top = m->mass = 0;
    for (size_t l = 0; l < c->width; l++) m->sum[l] = 0;
}
/* Which of lane tile n are the segment's. */
static inline vi lanes_mine(const segment *s, size_t n)
{
    size_t end = s->lane + s->count;
    return tile_first_lanes(end - n * 16) & ~(n * 16 < s->lane ? tile_first_lanes(s->lane - n * 16) : (vi){0});
}

/* Adds a segment's lanes to the sum of its (query, head); the last one writes the result. */
static void gather(int terms, const chunk *c, const segment *s, const plx_simplicial_forward_args *args, memory *m)
{
    size_t tile = s->lane / 16, tile_end = (s->lane + s->count + 15) / 16, end = s->lane + s->count;
    if (s->first) begin_sum(c, m);
    float least = m->start[s->lane];
    for (size_t i = s->lane; i < end; i++) least = m->start[i] < least ? m->start[i] : least;
    float top = -least / STEPS(terms);
    if (!s->first && m->top > top) top = m->top;
    float rescale = s->first ? 0 : exp2f(m->top - top);
    vf weight[LANES / 16], mass = vf_set(0);
    vi mine[LANES / 16];
    for (size_t n = tile; n < tile_end; n++) {
        mine[n] = lanes_mine(s, n);
        vf m_of = vf_load(m->start + n * 16) * vf_set(-1 / STEPS(terms));
        weight[n] = tile_exp2(m_of - vf_set(top));
        mass += vf_select(mine[n], weight[n] * vf_load(m->total + n * 16), vf_set(0));
    }
    m->top = top;
    m->mass = m->mass * rescale + vf_sum(mass);
    for (size_t l = 0; l < c->d; l += 16) {
        vf sums[16] = {0};
        for (size_t n = tile; n < tile_end; n++) {
            const float *v2 = c->v2_turned + l * c->row2 + s->k + n * 16 - s->lane;
            const float *o2 = m->o2 + (n / 2 * (c->width / 32) + l / 32) * SQUARE + (l % 32 / 16 * 2 + n % 2) * TILE;
            for (size_t i = 0; i < 16 && l + i < c->d; i++)
                sums[i] += vf_select(mine[n], weight[n] * vf_load(v2 + i * c->row2) * vf_load(o2 + i * 16), vf_set(0));
        }
        vf_store(m->sum + l, vf_load(m->sum + l) * vf_set(rescale) + lane_sums(sums));
    }
    if (s->last) finish(c, s, args, m);
}

/* The same where m is 0 and O2 is that of one pair of lane tiles, which has all lanes of the segment. */
static void gather_pair(const chunk *c, const segment *s, size_t pair, const plx_simplicial_forward_args *args,
                        memory *m)
{
    size_t tile = s->lane / 16, tile_end = (s->lane + s->count + 15) / 16;
    bool whole = s->lane % 32 == 0 && s->count == 32;
    if (s->first) begin_sum(c, m);
    vf mass = vf_set(0);
    for (size_t n = tile; n < tile_end; n++) mass += vf_select(lanes_mine(s, n), vf_load(m->total + n * 16), vf_set(0));
    m->mass += vf_sum(mass);
    for (size_t l = 0; l < c->d; l += 16) {
        vf sums[16] = {0};
        const float *v2 = c->v2_turned + l * c->row2 + s->k + pair * 32 - s->lane, *o2 = m->o2 + l * 32;
        if (whole && l + 16 <= c->d)
            UNROLL for (size_t i = 0; i < 16; i++) sums[i] =
                vf_load(v2 + i * c->row2) * vf_load(o2 + i * 16) +
                vf_load(v2 + i * c->row2 + 16) * vf_load(o2 + TILE + i * 16);
        else
            for (size_t n = tile; n < tile_end; n++)
                for (size_t i = 0; i < 16 && l + i < c->d; i++)
                    sums[i] += vf_select(lanes_mine(s, n),
                                         vf_load(v2 + i * c->row2 + n % 2 * 16) * vf_load(o2 + n % 2 * TILE + i * 16),
                                         vf_set(0));
        vf_store(m->sum + l, vf_load(m->sum + l) + lane_sums(sums));
    }
    if (s->last) finish(c, s, args, m);
}

/* X of all lanes as an operand. */
static void build_all(int terms, const chunk *c, memory *m)
{
    const plx_simplicial_problem *p = c->p;
    float factor = terms == 1 ? 1 : (float)(p->scale * LOG2_E);
    lanes_build_turned(c, &m->block, p->q, c->k2_turned, p->form == PLX_SIMPLICIAL_DET, factor, m->x_turned);
    if (terms == 1)
        lane_columns(1, c, &m->block, m->x_turned, 1, m->x);
    else
        lane_columns(TERMS, c, &m->block, m->x_turned, 1, m->x);
}

/* Pair by pair of lane tiles, so that what belongs to one is near from X to the results. */
static void do_bounded_block(const chunk *c, const plx_simplicial_forward_args *args, memory *m)
{
    const block *at = &m->block;
    size_t steps = c->width / 32;
    bool built = false;
    memset(m->start, 0, sizeof m->start);
    for (size_t n = 0, i = 0; n < pairs_of(at); n++) {
        if (!built && !build_pair(c, at, n, m->x)) {
            build_all(1, c, m);
            built = true;
        }
        do_bounded(steps, n, built ? m->x + n * steps * STEP_WORDS(1) : m->x, m);
        for (; i < at->segments; i++) {
            segment part = part_in(&at->segment[i], n);
            if (part.count > 0) gather_pair(c, &part, n, args, m);
            if (at->segment[i].lane + at->segment[i].count > (n + 1) * 32) break;
        }
    }
}

static void do_block(int terms, const chunk *c, const plx_simplicial_forward_args *args, memory *m)
{
    const block *at = &m->block;
    if (terms == 1 && units_of(at->end) - at->begin / UNIT > FEW_UNITS && bounded(c, m)) {
        do_bounded_block(c, args, m);
        return;
    }
    build_all(terms, c, m);
    do_with_maxima(terms, c->width / 32, m);
    for (size_t i = 0; i < at->segments; i++) gather(terms, c, &at->segment[i], args, m);
}

typedef struct job {
    const plx_simplicial_forward_args *args;
    int terms;
    lanes_division division;
    size_t longest; /* tokens of a row */
    size_t stride;  /* bytes of scratch a thread */
    char *scratch;
} job;

/* A thread's memory; returns its bytes. base NULL: only counts. */
static size_t lay_out(const job *j, char *base, memory *m)
{
    const plx_simplicial_problem *p = &j->args->problem;
    size_t used = 0, width = lanes_width(p->head_dim), step = STEP_WORDS(j->terms) * 4;
    size_t panel = panel_words(j->terms, width, lanes_reach(p->window1, j->division.queries, j->longest)) * 4;
    m->k = take(base, &used, panel);
    m->v = take(base, &used, panel);
    m->x_turned = take(base, &used, lanes_turned_floats(p->head_dim) * 4);
    m->x = take(base, &used, lane_words(j->terms, width) * 4);
    m->s = take(base, &used, 2 * SQUARE * 4);
    m->p = take(base, &used, UNITS(j->terms) * step);
    m->o2 = take(base, &used, LANES * width * 4);
    m->sum = take(base, &used, width * 4);
    m->panels = take(base, &used, lanes_short_floats(p, j->division.queries, j->longest) * 4);
    return used;
}

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->args->problem;
    memory m;
    lay_out(j, j->scratch + (size_t)thread * j->stride, &m);

    unsigned state = flush_denormals();
    plx_tiles_begin(&m.tiles);
    chunk c = lanes_divided(p, &j->division, index);
    lanes_read_short(&c, true, m.panels);
    if (j->terms == 1) {
        m.k_norm = panel_rows(1, &c, &p->k, m.k);
        panel_turned(1, &c, &p->v, m.v);
        m.k2_norm = short_norm(&c);
        for (size_t i = 0; i < c.d * c.row2; i++) c.k2_turned[i] *= (float)(p->scale * LOG2_E) * STEPS(1);
    } else {
        panel_rows(TERMS, &c, &p->k, m.k);
        panel_turned(TERMS, &c, &p->v, m.v);
    }
    cursor at = {.query = c.query};
    while (lanes_next(&c, &at, &m.block)) do_block(j->terms, &c, j->args, &m);
    plx_tiles_end(&m.tiles);
    restore_denormals(state);
}

static plx_status forward(plx_context *context, const void *arguments, int terms)
{
    job j = {.args = arguments, .terms = terms};
    memory unused;
    j.longest = lanes_longest(&j.args->problem.sequence);
    j.division = lanes_divide(&j.args->problem);
    j.stride = lay_out(&j, NULL, &unused);
    j.scratch = plx_kernel_scratch(context, (size_t)plx_context_threads(context) * j.stride);
    if (j.scratch == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, j.division.tasks, do_chunk, &j);
    return PLX_OK;
}

plx_status PLX_CPU(plx_simplicial_forward)(plx_context *context, const void *arguments)
{
    return forward(context, arguments, 1);
}
plx_status PLX_CPU(plx_simplicial_forward_terms)(plx_context *context, const void *arguments)
{
    return forward(context, arguments, TERMS);
}
