/* forward.c - 2-simplicial attention on bf16 tiles, forward: with operands rounded to bf16, or f32 numbers as three
 * terms. operands.h draws the layout. A tile of rows j is worked through in squares of 32 rows by 32 lanes: between the
 * tile unit's products for one square of logits, the vector unit makes P of the square before. When a pair of lane
 * tiles has P of all the tile's rows, they meet V.
 *
 * m of a lane is the maximum of its first unit plus room: P in bf16 is made as a whole number that may grow to 2, so
 * that the room leaves as much upwards as below; in f32 none is needed. Where the room did not do, the block is done
 * again with the true maximum. */
#include "mixers/simplicial/amx/bf16.h"

#define UNITS 4 /* of a tile of rows */

/* How logits are counted: `steps` to a power of two, and what P = 1 is. */
typedef struct scale_of {
    float steps, one, room, sum_most;
} scale_of;
static const scale_of scales[2] = {{LOGIT_STEPS, POWER_START, 64.0f,
                                    0.5f}, /* a P that reached the top is 1 at least; with room it is 2^-64 and less */
                                   {1, 0, 0, 1e18f}};
#define SCALE(terms) (scales[(terms) == TERMS])

typedef struct memory {
    float *panels;
    uint32_t *k, *v;    /* left operands: rows, turned */
    float *x_turned;    /* [d, LANES] */
    uint32_t *x;        /* right operands [lane pair][step] */
    float *s;           /* [2] squares of logits, in turn */
    uint32_t *p;        /* right operands [UNITS] */
    float *o2;          /* squares [lane pair][32 components] */
    float *sum;         /* [width], of the (query, head) in work */
    float start[LANES]; /* one - steps * m */
    float total[LANES];
    float top, mass; /* of the (query, head) in work: out = sum / mass, both relative to 2^top */
    float largest_k;
    block block;
    plx_tiles tiles;
} memory;

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

typedef enum powers { POWERS_ALL, POWERS_MASKED, POWERS_CAREFUL } powers;

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

/* P of rows 2 i and 2 i + 1, and its sums. */
INLINE void make_powers(const int terms, const powers how, square_work *work, size_t i)
{
    UNROLL for (size_t n = 0; n < 2; n++)
    {
        const float *s = square_rows(work->s, i, n);
        vf y0 = vf_load(s), y1 = vf_load(s + 16);
        uint32_t *to = work->p + n * TILE + i * 16;
        if (how != POWERS_ALL) {
            y0 = row_visible(&work->range[n], work->row + 2 * i, y0, -1e30f);
            y1 = row_visible(&work->range[n], work->row + 2 * i + 1, y1, -1e30f);
        }
        y0 += work->start[n];
        y1 += work->start[n];
        if (terms == 1) {
            vi pairs = how == POWERS_CAREFUL ? power_pairs_careful(y0, y1) : power_pairs(y0, y1);
            work->total[n] = pairs_add(work->total[n], pairs);
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
static square_work make_powers_seldom(int terms, bool careful, square_work work)
{
    for (size_t i = 0; i < UNIT / 2; i++)
        if (terms != 1)
            make_powers(TERMS, POWERS_MASKED, &work, i);
        else if (careful)
            make_powers(1, POWERS_CAREFUL, &work, i);
        else
            make_powers(1, POWERS_MASKED, &work, i);
    return work;
}

/* A square of logits, `steps` deep, and beside its products P of another one, where there is one. */
INLINE void score(const int terms, plx_tiles *tiles, const uint32_t *k, const uint32_t *x, size_t steps, float *s,
                  square_work *beside)
{
    size_t parts = steps * (terms == 1 ? 1 : PARTS), part_done = 0, done = 0;
    square_begin(tiles);
#define SCORE(part, step)                                                                                              \
    {                                                                                                                  \
        multiply(tiles, part, k + (step)*STEP_WORDS(terms), x + (step)*STEP_WORDS(terms));                             \
        part_done++;                                                                                                   \
        for (; beside != NULL && done * parts < part_done * UNIT / 2; done++)                                          \
            make_powers(terms, POWERS_ALL, beside, done);                                                              \
    }
    EACH_PART(terms, steps, SCORE)
#undef SCORE
    square_end(tiles, square_at(s, 0));
}

typedef struct rows_of_tile {
    size_t first, units; /* first: a unit's */
    bool add;            /* to sums of earlier rows */
    bool find_m;         /* from each lane's first unit */
    bool careful;
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
        if (now && rows->find_m && u == 0)
            for (size_t lane = n * 32; lane < n * 32 + 32; lane += 16)
                vf_store(m->start + lane, vf_set(SCALE(terms).one - SCALE(terms).steps * SCALE(terms).room) -
                                              unit_top(at, before, lane, row));
        square_work work = work_begin(m, before, n * 32, row, m->p + u * step);
        bool seldom = rows->careful || lanes_masked(at, row, UNIT);
        if (now && ahead && !seldom) {
            score(terms, tiles, k, x, steps, s, &work);
        } else {
            if (ahead) score(terms, tiles, k, x, steps, s, NULL);
            if (now && seldom)
                work = make_powers_seldom(terms, rows->careful, work);
            else if (now)
                for (size_t r = 0; r < UNIT / 2; r++) make_powers(terms, POWERS_ALL, &work, r);
        }
        if (now) work_end(&work, m);
        for (size_t c = 0; now && u + 1 == units && c < steps; c++)
            products(tiles, terms, square_at(m->o2, n * steps + c), rows->add, m->v + (first * steps + c) * step,
                     steps * step, m->p, step, units);
    }
}

/* Rows from .. to - 1, whole units. */
INLINE void do_span(const int terms, size_t steps, size_t from, size_t to, bool add, bool find_m, bool careful,
                    memory *m)
{
    while (from < to) {
        size_t units = units_of(to - from), tiles = (units + UNITS - 1) / UNITS;
        rows_of_tile rows = {
            .first = from, .units = (units + tiles - 1) / tiles, .add = add, .find_m = find_m, .careful = careful};
        do_tile(terms, steps, &rows, m);
        from += rows.units * UNIT;
        add = true;
        find_m = false;
    }
}

/* All rows of the block, in units as they lie in the panel. known: m is that of every lane; else it is found in the
 * first unit, which has a row that every lane sees. */
static void do_all_rows(int terms, size_t steps, bool known, bool careful, memory *m)
{
    const block *at = &m->block;
    size_t begin = at->begin / UNIT * UNIT, origin = at->inner / UNIT * UNIT;
    for (size_t i = 0; i < LANES; i++) m->total[i] = 0;
    for (int span = 0; span < 2; span++) {
        size_t from = span == 0 ? origin : begin, to = span == 0 ? at->end : origin;
        if (terms == 1)
            do_span(1, steps, from, to, span > 0, span == 0 && !known, careful, m);
        else
            do_span(TERMS, steps, from, to, span > 0, span == 0 && !known, false, m);
    }
}

/* m becomes the maximum of each lane, plus the room. */
static void find_maxima(int terms, size_t steps, memory *m)
{
    const block *at = &m->block;
    size_t step = STEP_WORDS(terms);
    for (size_t n = 0; n < pairs_of(at); n++) {
        vf top[2] = {vf_set(-1e30f), vf_set(-1e30f)};
        for (size_t unit = at->begin / UNIT; unit < units_of(at->end); unit++) {
            const uint32_t *k = m->k + unit * steps * step, *x = m->x + n * steps * step;
            if (terms == 1)
                score(1, &m->tiles, k, x, steps, m->s, NULL);
            else
                score(TERMS, &m->tiles, k, x, steps, m->s, NULL);
            for (size_t i = 0; i < 2; i++) top[i] = vf_max(unit_top(at, m->s, n * 32 + i * 16, unit * UNIT), top[i]);
        }
        for (size_t i = 0; i < 2; i++)
            vf_store(m->start + n * 32 + i * 16,
                     vf_set(SCALE(terms).one - SCALE(terms).steps * SCALE(terms).room) - top[i]);
    }
}

/* Adds a segment's lanes to the sum of its (query, head); the last one writes the result. */
static void gather(int terms, const chunk *c, const segment *s, const plx_simplicial_forward_args *args, memory *m)
{
    if (s->first) {
        m->top = -INFINITY;
        m->mass = 0;
        for (size_t l = 0; l < c->width; l++) m->sum[l] = 0;
    }
    size_t tile = s->lane / 16, tile_end = (s->lane + s->count + 15) / 16, end = s->lane + s->count;
    float least = m->start[s->lane];
    for (size_t i = s->lane; i < end; i++) least = m->start[i] < least ? m->start[i] : least;
    float top = (SCALE(terms).one - least) / SCALE(terms).steps;
    if (m->top > top) top = m->top;
    float rescale = s->first ? 0 : exp2f(m->top - top);
    vf weight[LANES / 16], mass = vf_set(0);
    vi mine[LANES / 16];
    for (size_t n = tile; n < tile_end; n++) {
        mine[n] = tile_first_lanes(end - n * 16) & ~(n * 16 < s->lane ? tile_first_lanes(s->lane - n * 16) : (vi){0});
        vf m_of = (vf_set(SCALE(terms).one) - vf_load(m->start + n * 16)) * vf_set(1 / SCALE(terms).steps);
        weight[n] = tile_exp2(m_of - vf_set(top));
        mass += vf_select(mine[n], weight[n] * vf_load(m->total + n * 16), vf_set(0));
    }
    m->top = top;
    m->mass = m->mass * rescale + vf_sum(mass);
    for (size_t l = 0; l < c->d; l += 16) {
        vf sums[16];
        for (size_t i = 0; i < 16; i++) {
            sums[i] = vf_set(0);
            for (size_t n = tile; n < tile_end && l + i < c->d; n++) {
                const float *v2 = c->v2_turned + (l + i) * c->row2 + s->k + n * 16 - s->lane;
                const float *o2 =
                    m->o2 + (n / 2 * (c->width / 32) + l / 32) * SQUARE + (l % 32 / 16 * 2 + n % 2) * TILE;
                sums[i] += vf_select(mine[n], weight[n] * vf_load(v2) * vf_load(o2 + i * 16), vf_set(0));
            }
        }
        vf_store(m->sum + l, vf_load(m->sum + l) * vf_set(rescale) + lane_sums(sums));
    }
    if (!s->last) return;
    size_t row = (c->b * c->p->sequence.length + s->query) * c->p->heads + c->head + s->head;
    float *out = (float *)args->out + row * c->d;
    for (size_t l = 0; l < c->d; l++) out[l] = m->sum[l] / m->mass;
    if (args->lse != NULL) ((float *)args->lse)[row] = (float)(((double)top + log2((double)m->mass)) * LN_2);
}

static void do_block(int terms, const chunk *c, const plx_simplicial_forward_args *args, memory *m)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    size_t steps = c->width / 32;
    bool careful = false;
    lanes_build_turned(c, at, p->q, c->k2_turned, p->form == PLX_SIMPLICIAL_DET,
                       (float)(p->scale * LOG2_E * (double)SCALE(terms).steps), m->x_turned);
    if (terms == 1)
        careful = needs_care(c->d, m->largest_k, lane_columns(1, c, at, m->x_turned, 1, m->x));
    else
        lane_columns(TERMS, c, at, m->x_turned, 1, m->x);
    do_all_rows(terms, steps, false, careful, m);
    bool fine = true;
    for (size_t i = 0; i < at->lanes; i++) fine &= m->total[i] < SCALE(terms).sum_most;
    if (!fine) {
        find_maxima(terms, steps, m);
        do_all_rows(terms, steps, true, careful, m);
    }
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
    m->p = take(base, &used, UNITS * step);
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
        m.largest_k = panel_rows(1, &c, &p->k, m.k);
        panel_turned(1, &c, &p->v, m.v);
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
