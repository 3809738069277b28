/* forward.c - 2-simplicial attention with bf16 tiles, forward. bf16.h draws the layout. A tile of rows j is worked
 * through in units of 32 rows by 16 lanes, three at a time: the tile unit computes the logits of the next one and the
 * product with V of the last one while the vector unit makes P of this one. For up to 64 components the sums stay in
 * four tiles over all units of a lane tile; further components make another pass over P.
 *
 * m of a lane is the maximum of its first unit plus M_ROOM, which leaves P as much room upwards as below: bf16 has
 * f32's exponents. Where the room did not do, the block is done again with the true maximum. */
#include "mixers/simplicial/amx/bf16.h"

#define ROWS_OF_TILE 128 /* of j, whole units: K and V^T of them stay in the first-level cache */
#define UNITS (ROWS_OF_TILE / UNIT)
#define M_ROOM 64.0f
#define SUM_MOST 0.5f /* a P that reached the top is 1 at least; with enough room it is 2^-64 and less */

typedef struct memory {
    float *panels;
    panel k, v;
    float *x_turned;    /* [d, LANES] */
    uint32_t *x;        /* tiles [LANE_TILES][blocks] */
    float *s;           /* [2][UNIT][16] */
    uint32_t *p;        /* tiles [LANE_TILES * UNITS]; up to 64 components: [2], in turn */
    float *o2;          /* tiles [LANE_TILES][columns], rows are components */
    float *sum;         /* [columns * 16], of the (query, head) in work */
    float start[LANES]; /* POWER_START - 512 m */
    float total[LANES];
    float top, mass; /* of the (query, head) in work: out = sum / mass, both relative to 2^top */
    float largest_k;
    block block;
    plx_tiles tiles;
} memory;

/* The maximum of each lane over a unit, of its visible rows. */
static vf unit_top(const block *at, const float *s, size_t lane, size_t row)
{
    lane_range range = range_of(at, lane);
    vf top = vf_set(-1e30f);
    for (size_t r = 0; r < UNIT; r++) top = vf_max(unit_visible(&range, row + r, vf_load(s + r * 16)), top);
    return top;
}

typedef enum powers { POWERS_ALL, POWERS_MASKED, POWERS_CAREFUL } powers;

/* P of rows from .. from + 15 of a unit as half of a right operand, and its sums. */
INLINE void half_powers(const block *at, const powers how, const float *s, size_t from, size_t lane, size_t row,
                        memory *m, uint32_t *p)
{
    lane_range range = range_of(at, lane);
    vf start = vf_load(m->start + lane), total = vf_load(m->total + lane);
    for (size_t r = from; r < from + UNIT / 2; r += 2) {
        vf y0 = vf_load(s + r * 16), y1 = vf_load(s + r * 16 + 16);
        if (how != POWERS_ALL) {
            y0 = unit_visible(&range, row + r, y0);
            y1 = unit_visible(&range, row + r + 1, y1);
        }
        vi pairs =
            how == POWERS_CAREFUL ? power_pairs_careful(y0 + start, y1 + start) : power_pairs(y0 + start, y1 + start);
        total = pairs_add(total, pairs);
        memcpy(p + r * 8, &pairs, 64);
    }
    vf_store(m->total + lane, total);
}
static void half_powers_seldom(const block *at, bool careful, const float *s, size_t from, size_t lane, size_t row,
                               memory *m, uint32_t *p)
{
    if (careful)
        half_powers(at, POWERS_CAREFUL, s, from, lane, row, m, p);
    else
        half_powers(at, POWERS_MASKED, s, from, lane, row, m, p);
}

typedef struct rows_of_tile {
    size_t first, units;
    bool add;    /* to sums of earlier rows */
    bool find_m; /* from each lane's first unit */
    bool careful;
} rows_of_tile;

/* One tile of rows, all lanes of the block; C column tiles (up to four) beside the powers. */
INLINE void do_rows(const size_t C, const size_of_head *head, const rows_of_tile *rows, memory *m)
{
    const block *at = &m->block;
    plx_tiles *tiles = &m->tiles;
    bool kept = head->columns > C; /* P, for the other columns */
    size_t v_row = turned_row(m->v.count), units = rows->units, all = at->vectors * units;
    for (size_t i = 0, ahead_n = 0, ahead_u = 0, n = 0, u = 0, past_n = 0, past_u = 0; i < all + 2; i++) {
        bool ahead = i < all, now = i >= 1 && i <= all, past = i >= 2;
        const float *s = m->s + (i + 1) % 2 * 2 * TILE;
        size_t lane = n * 16, row = rows->first + u * UNIT;
        uint32_t *p = m->p + (kept ? i - 1 : (i + 1) % 2) * TILE;
        bool seldom = now && (rows->careful || lanes_masked(at, row, UNIT));
        if (ahead)
            score_unit(tiles, head, m->k.rows + (rows->first + ahead_u * UNIT) * head->depth,
                       m->x + ahead_n * head->blocks * TILE);
        if (now && rows->find_m && u == 0)
            vf_store(m->start + lane, vf_set(POWER_START - LOGIT_STEPS * M_ROOM) - unit_top(at, s, lane, row));
        if (seldom)
            half_powers_seldom(at, rows->careful, s, 0, lane, row, m, p);
        else if (now)
            half_powers(at, POWERS_ALL, s, 0, lane, row, m, p);
        if (past) {
            sums_of_tiles o2 = {m->o2 + past_n * head->columns * TILE, TILE, 64};
            left_operand v = {m->v.turned + rows->first + past_u * UNIT, 16 * v_row, v_row * 2};
            if (past_u == 0) begin_sums(tiles, C, o2, rows->add);
            add_step(tiles, C, v, m->p + (kept ? i - 2 : i % 2) * TILE);
            if (++past_u == units) {
                end_sums(tiles, C, o2);
                past_u = 0, past_n++;
            }
        }
        if (seldom)
            half_powers_seldom(at, rows->careful, s, UNIT / 2, lane, row, m, p);
        else if (now)
            half_powers(at, POWERS_ALL, s, UNIT / 2, lane, row, m, p);
        if (ahead) {
            store_unit(tiles, m->s + i % 2 * 2 * TILE);
            if (++ahead_u == units) ahead_u = 0, ahead_n++;
        }
        if (now && ++u == units) u = 0, n++;
    }
}

static void do_tile(const size_of_head *head, const rows_of_tile *rows, memory *m)
{
    switch (head->columns) {
    case 1: do_rows(1, head, rows, m); break;
    case 2: do_rows(2, head, rows, m); break;
    case 3: do_rows(3, head, rows, m); break;
    default: do_rows(4, head, rows, m); break;
    }
    size_t v_row = turned_row(m->v.count);
    left_operand v = {m->v.turned + 64 * v_row + rows->first, 16 * v_row, v_row * 2};
    for (size_t n = 0; head->columns > 4 && n < m->block.vectors; n++) {
        sums_of_tiles o2 = {m->o2 + (n * head->columns + 4) * TILE, TILE, 64};
        products(&m->tiles, head->columns - 4, o2, rows->add, v, UNIT, m->p + n * rows->units * TILE, TILE,
                 rows->units);
    }
}

/* Rows from .. to - 1, whole units. */
static void do_span(const size_of_head *head, size_t from, size_t to, bool add, bool find_m, bool careful, memory *m)
{
    while (from < to) {
        size_t units = (to - from + UNIT - 1) / UNIT, tiles = (units + UNITS - 1) / UNITS;
        rows_of_tile rows = {
            .first = from, .units = (units + tiles - 1) / tiles, .add = add, .find_m = find_m, .careful = careful};
        do_tile(head, &rows, m);
        from += rows.units * UNIT;
        add = true;
        find_m = false;
    }
}

/* All rows of the block, in units as they lie in the panel: rows of the turned panel must not straddle lines of the
 * cache. known: m is that of every lane; else it is found in the first unit, which has a row that every lane sees. */
static void do_all_rows(const size_of_head *head, bool known, bool careful, memory *m)
{
    const block *at = &m->block;
    size_t origin = at->inner / UNIT * UNIT;
    for (size_t i = 0; i < LANES; i++) m->total[i] = 0;
    do_span(head, origin, at->end, false, !known, careful, m);
    do_span(head, at->begin / UNIT * UNIT, origin, true, false, careful, m);
}

/* m becomes the maximum of each lane, plus the room. */
static void find_maxima(const size_of_head *head, memory *m)
{
    const block *at = &m->block;
    for (size_t n = 0; n < at->vectors; n++) {
        vf top = vf_set(-1e30f);
        for (size_t row = at->begin / UNIT * UNIT; row < at->end; row += UNIT) {
            score_unit(&m->tiles, head, m->k.rows + row * head->depth, m->x + n * head->blocks * TILE);
            store_unit(&m->tiles, m->s);
            top = vf_max(unit_top(at, m->s, n * 16, row), top);
        }
        vf_store(m->start + n * 16, vf_set(POWER_START - LOGIT_STEPS * M_ROOM) - top);
    }
}

/* Adds a segment's lanes to the sum of its (query, head); the last one writes the result. */
static void gather(const chunk *c, const size_of_head *head, const segment *s, const plx_simplicial_forward_args *args,
                   memory *m)
{
    if (s->first) {
        m->top = -INFINITY;
        m->mass = 0;
        for (size_t l = 0; l < head->columns * 16; l++) m->sum[l] = 0;
    }
    size_t tile = s->lane / 16, tile_end = (s->lane + s->count + 15) / 16, end = s->lane + s->count;
    float least = m->start[s->lane];
    for (size_t i = s->lane; i < end; i++) least = m->start[i] < least ? m->start[i] : least;
    float top = (POWER_START - least) / LOGIT_STEPS;
    if (m->top > top) top = m->top;
    float rescale = s->first ? 0 : exp2f(m->top - top);
    vf weight[LANE_TILES], mass = vf_set(0);
    vi mine[LANE_TILES];
    for (size_t n = tile; n < tile_end; n++) {
        mine[n] = tile_first_lanes(end - n * 16) & ~(n * 16 < s->lane ? tile_first_lanes(s->lane - n * 16) : (vi){0});
        vf m_of = (vf_set(POWER_START) - vf_load(m->start + n * 16)) * vf_set(1 / LOGIT_STEPS);
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
                vf o2 = vf_load(m->o2 + (n * head->columns + l / 16) * TILE + i * 16);
                sums[i] += vf_select(mine[n], weight[n] * vf_load(v2) * o2, vf_set(0));
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

static void do_block(const chunk *c, const size_of_head *head, const plx_simplicial_forward_args *args, memory *m)
{
    const block *at = &m->block;
    const plx_simplicial_problem *p = c->p;
    lanes_build_turned(c, at, p->q, c->k2_turned, p->form == PLX_SIMPLICIAL_DET,
                       (float)(p->scale * LOG2_E * (double)LOGIT_STEPS), m->x_turned);
    bool careful = needs_care(head, m->largest_k, pair_components(head, at, m->x_turned, 1, m->x));
    do_all_rows(head, false, careful, m);
    bool fine = true;
    for (size_t i = 0; i < at->lanes; i++) fine &= m->total[i] < SUM_MOST;
    if (!fine) {
        find_maxima(head, m);
        do_all_rows(head, true, careful, m);
    }
    for (size_t i = 0; i < at->segments; i++) gather(c, head, &at->segment[i], args, m);
}

typedef struct job {
    const plx_simplicial_forward_args *args;
    size_of_head head;
    lanes_division division;
    size_t longest, count1; /* tokens of a row; of the panels of k and v */
    size_t parts;           /* of a panel, that tasks make */
    uint16_t *k, *v;        /* the panels of all rows and key/value heads */
    float *largest;         /* [rows, kv_heads, parts], of k */
    size_t stride;          /* bytes of scratch a thread */
    char *scratch;
} job;

/* The panels of row b and head g. */
static void panels_of(const job *j, size_t b, size_t g, panel *k, panel *v)
{
    const plx_simplicial_problem *p = &j->args->problem;
    size_t row = b * p->kv_heads + g;
    *k = (panel){.history = &p->k,
                 .b = b,
                 .g = g,
                 .base = panel_base(p, b),
                 .count = panel_count(p, b),
                 .rows = j->k + row * panel_numbers(&j->head, j->count1)};
    *v = *k;
    v->history = &p->v;
    v->rows = NULL;
    v->turned = j->v + row * turned_numbers(&j->head, j->count1);
}

static void make_panels(void *argument, size_t index, int thread)
{
    (void)thread;
    const job *j = argument;
    size_t kv_heads = j->args->problem.kv_heads, row = index / j->parts, first = index % j->parts * PANEL_PART;
    panel k, v;
    panels_of(j, row / kv_heads, row % kv_heads, &k, &v);
    j->largest[index] = panel_make(&k, &j->head, first);
    panel_make(&v, &j->head, first);
}

/* A thread's memory; returns its bytes. base NULL: only counts. */
static size_t lay_out(const job *j, char *base, memory *m)
{
    const size_of_head *head = &j->head;
    size_t used = 0;
    m->x_turned = take(base, &used, head->d * LANES * 4);
    m->x = take(base, &used, LANE_TILES * head->blocks * TILE * 4);
    m->s = take(base, &used, 4 * TILE * 4);
    m->p = take(base, &used, LANE_TILES * UNITS * TILE * 4);
    m->o2 = take(base, &used, LANE_TILES * head->columns * TILE * 4);
    m->sum = take(base, &used, head->columns * 16 * 4);
    m->panels = take(base, &used, lanes_short_floats(&j->args->problem, j->division.queries, j->longest) * 4);
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
    lanes_read_short(&c, m.panels);
    panels_of(j, c.b, c.g, &m.k, &m.v);
    c.base1 = m.k.base;
    m.largest_k = largest_of(j->largest + (c.b * p->kv_heads + c.g) * j->parts, j->parts);
    cursor at = {.query = c.query};
    while (lanes_next(&c, &at, &m.block)) do_block(&c, &j->head, j->args, &m);
    plx_tiles_end(&m.tiles);
    restore_denormals(state);
}

plx_status PLX_CPU(plx_simplicial_forward)(plx_context *context, const void *arguments)
{
    job j = {.args = arguments};
    const plx_simplicial_problem *p = &j.args->problem;
    size_t rows = p->sequence.rows * p->kv_heads, used = 0;
    memory unused;
    j.head = head_of(p->head_dim);
    j.longest = lanes_longest(&p->sequence);
    j.division = lanes_divide(p);
    j.count1 = panel_most(p);
    j.parts = (j.count1 + PANEL_PART - 1) / PANEL_PART;
    j.stride = lay_out(&j, NULL, &unused);
    size_t k_bytes = rows * panel_numbers(&j.head, j.count1) * 2,
           v_bytes = rows * turned_numbers(&j.head, j.count1) * 2;
    size_t largest_bytes = rows * j.parts * sizeof(float),
           thread_bytes = (size_t)plx_context_threads(context) * j.stride;
    char *scratch = plx_kernel_scratch(context, lanes_bytes(k_bytes) + lanes_bytes(v_bytes) +
                                                    lanes_bytes(largest_bytes) + thread_bytes);
    if (scratch == NULL) return PLX_ERROR_MEMORY;
    j.k = take(scratch, &used, k_bytes);
    j.v = take(scratch, &used, v_bytes);
    j.largest = take(scratch, &used, largest_bytes);
    j.scratch = take(scratch, &used, thread_bytes);
    plx_parallel_for(context, rows * j.parts, make_panels, &j);
    plx_parallel_for(context, j.division.tasks, do_chunk, &j);
    return PLX_OK;
}
