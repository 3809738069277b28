/* backward.c - 2-simplicial attention with bf16 tiles, backward. The products are those of ../cpu/backward.c, the forms
 * of operands those of bf16.h. P and dA leave the vector unit in two forms: in pairs of rows j, as right operands of
 * W^T += V^T P^T and U^T += K^T dA^T, and row by row, as left operands of dV += P^T Y and dK += dA^T X. In a row, the
 * numbers of two neighbouring lane tiles alternate, since that is two instructions away from the pairs. */
#include "mixers/simplicial/amx/bf16.h"
#include "mixers/simplicial/cpu/sums.h"

#define ROWS_OF_TILE 128 /* of j, whole units */
#define UNITS (ROWS_OF_TILE / UNIT)
#define Y_FACTOR ((float)(LN_2 / (double)LOGIT_STEPS)) /* in dA, undoes what X carries */

/* P or dA of a tile of rows. */
typedef struct weights {
    uint32_t *pairs; /* right operands: tiles [lane tile][unit] */
    uint32_t *rows;  /* left operands: tiles [pair of lane tiles][16 rows] */
} weights;

typedef struct memory {
    float *panels;
    panel k, v;
    float *x_turned, *y_turned; /* [d, LANES]; at the end U and W, [LANES, width] */
    uint32_t *x, *y;            /* X^T and Y^T * Y_FACTOR, depth l: tiles [lane tile][block] */
    uint32_t *x_rows, *y_rows;  /* X and Y, depth lanes: tiles [pair of lane tiles][column] */
    float *s;                   /* [4][UNIT][16]: S and V Y^T of two lane tiles */
    weights p, da;
    float *w, *u; /* tiles [lane tile][column], rows are components */
    scatter_memory scatter;
    float start[LANES], minus_delta[LANES]; /* POWER_START - 512 lse; -D * Y_FACTOR */
    float largest_k;
    block block;
    plx_tiles tiles;
} memory;

typedef struct job {
    chunk_sums sums;
    size_of_head head;
    size_t count1; /* tokens of the panels of k and v */
    size_t parts;  /* of a panel, that tasks make */
    uint16_t *k, *k_turned, *v, *v_turned;
    float *largest; /* [rows, kv_heads, parts], of k */
    size_t stride;  /* bytes of scratch a thread */
    char *scratch;
} job;

/* Rows r and r + 1 of two lane tiles' numbers in pairs, as rows of a left operand. */
INLINE void store_rows(uint32_t *to, vi first, vi second)
{
    vi even = (first & 0xffff) | second << 16, odd = (vi)((vu)first >> 16) | (second & (int32_t)0xffff0000);
    memcpy(to, &even, 64);
    memcpy(to + 16, &odd, 64);
}

/* P and dA of rows r and r + 1 of a unit. */
INLINE void pair_of_rows(const lane_range *range, bool masked, bool careful, const float *s, const float *dp, vf start,
                         vf minus_delta, size_t row, vi *p, vi *da)
{
    vf y0 = vf_load(s), y1 = vf_load(s + 16);
    if (masked) {
        y0 = unit_visible(range, row, y0);
        y1 = unit_visible(range, row + 1, y1);
    }
    *p = careful ? power_pairs_careful(y0 + start, y1 + start) : power_pairs(y0 + start, y1 + start);
    *da = vf_bf16_pairs(pairs_low(*p) * (vf_load(dp) + minus_delta), pairs_high(*p) * (vf_load(dp + 16) + minus_delta));
}

/* P and dA of a unit and two lane tiles, from m->s. */
INLINE void unit_weights(const bool masked, const bool careful, size_t lane, size_t row, size_t unit, size_t units,
                         memory *m)
{
    const block *at = &m->block;
    lane_range range[2] = {range_of(at, lane), range_of(at, lane + 16)};
    vf start[2] = {vf_load(m->start + lane), vf_load(m->start + lane + 16)};
    vf minus_delta[2] = {vf_load(m->minus_delta + lane), vf_load(m->minus_delta + lane + 16)};
    size_t pairs = (lane / 16 * units + unit) * TILE, next = units * TILE, rows = (lane / 32 * units + unit) * 2 * TILE;
    for (size_t r = 0; r < UNIT; r += 2) {
        vi p[2], da[2];
        for (int i = 0; i < 2; i++)
            pair_of_rows(&range[i], masked, careful, m->s + i * 4 * TILE + r * 16, m->s + (i * 4 + 2) * TILE + r * 16,
                         start[i], minus_delta[i], row + r, &p[i], &da[i]);
        memcpy(m->p.pairs + pairs + r * 8, &p[0], 64);
        memcpy(m->p.pairs + pairs + next + r * 8, &p[1], 64);
        memcpy(m->da.pairs + pairs + r * 8, &da[0], 64);
        memcpy(m->da.pairs + pairs + next + r * 8, &da[1], 64);
        store_rows(m->p.rows + rows + r * 16, p[0], p[1]);
        store_rows(m->da.rows + rows + r * 16, da[0], da[1]);
    }
}

/* All that a tile of rows gives: P, dA, W, U, dV, dK. */
static void do_tile(const size_of_head *head, size_t first, size_t units, bool add, bool careful, memory *m,
                    const partial *sums)
{
    const block *at = &m->block;
    plx_tiles *tiles = &m->tiles;
    size_t lane_pairs = (at->vectors + 1) / 2, right = head->blocks * TILE;
    for (size_t n = 0; n < 2 * lane_pairs; n += 2)
        for (size_t unit = 0; unit < units; unit++) {
            size_t row = first + unit * UNIT;
            for (size_t i = 0; i < 2; i++) {
                score_unit(tiles, head, m->k.rows + row * head->depth, m->x + (n + i) * right);
                store_unit(tiles, m->s + i * 4 * TILE);
                score_unit(tiles, head, m->v.rows + row * head->depth, m->y + (n + i) * right);
                store_unit(tiles, m->s + (i * 4 + 2) * TILE);
            }
            if (careful)
                unit_weights(true, true, n * 16, row, unit, units, m);
            else if (lanes_masked(at, row, UNIT))
                unit_weights(true, false, n * 16, row, unit, units, m);
            else
                unit_weights(false, false, n * 16, row, unit, units, m);
        }
    size_t turned = turned_row(m->k.count), width = head->columns * 16,
           tokens = first - (size_t)(sums->base1 - m->k.base);
    left_operand k = {m->k.turned + first, 16 * turned, turned * 2}, v = {m->v.turned + first, 16 * turned, turned * 2};
    for (size_t n = 0; n < at->vectors; n++) {
        sums_of_tiles w = {m->w + n * head->columns * TILE, TILE, 64}, u = {m->u + n * head->columns * TILE, TILE, 64};
        products(tiles, head->columns, w, add, v, UNIT, m->p.pairs + n * units * TILE, TILE, units);
        products(tiles, head->columns, u, add, k, UNIT, m->da.pairs + n * units * TILE, TILE, units);
    }
    left_operand p = {(const uint16_t *)m->p.rows, 2 * TILE, 64}, da = {(const uint16_t *)m->da.rows, 2 * TILE, 64};
    for (size_t column = 0; column < head->columns; column++) {
        size_t at_column = tokens * width + column * 16, step = units * 2 * 2 * TILE;
        sums_of_tiles dv = {sums->dv + at_column, 16 * width, width * 4},
                      dk = {sums->dk + at_column, 16 * width, width * 4};
        const uint32_t *y = m->y_rows + column * TILE, *x = m->x_rows + column * TILE;
        products(tiles, 2 * units, dv, true, p, step, y, head->columns * TILE, lane_pairs);
        products(tiles, 2 * units, dk, true, da, step, x, head->columns * TILE, lane_pairs);
    }
}

/* X or Y [d][LANES] turned once more, with the lanes as depth: a row of a right operand holds two lanes 16 apart. */
static void pair_lanes(const size_of_head *head, const block *at, const float *turned, uint32_t *tiles)
{
    for (size_t n = 0; n < (at->vectors + 1) / 2; n++)
        for (size_t column = 0; column < head->columns; column++) {
            vf tile[16];
            for (size_t i = 0; i < 16; i++) {
                const float *from = turned + (column * 16 + i) * LANES + n * 32;
                bool is = column * 16 + i < head->d;
                tile[i] = (vf)vf_bf16_pairs(is ? vf_load(from) : vf_set(0),
                                            is && 2 * n + 1 < at->vectors ? vf_load(from + 16) : vf_set(0));
            }
            transpose(tile);
            memcpy(tiles + (n * head->columns + column) * TILE, tile, sizeof tile);
        }
}

/* Tiles [lane tile][column] with components as rows, to rows of components: [LANES, width]. */
static void turn_sums(const size_of_head *head, const block *at, const float *tiles, float *rows)
{
    for (size_t n = 0; n < at->vectors; n++)
        for (size_t column = 0; column < head->columns; column++) {
            vf tile[16];
            memcpy(tile, tiles + (n * head->columns + column) * TILE, sizeof tile);
            transpose(tile);
            for (size_t i = 0; i < 16; i++)
                memcpy(rows + ((n * 16 + i) * head->columns + column) * 16, &tile[i], sizeof tile[i]);
        }
}

static void do_block(const chunk *c, const job *j, memory *m, const partial *sums)
{
    const block *at = &m->block;
    const size_of_head *head = &j->head;
    const plx_simplicial_problem *p = c->p;
    double factor = p->scale * LOG2_E * (double)LOGIT_STEPS;
    bool careful = false;
    lanes_build_turned(c, at, p->q, c->k2_turned, p->form == PLX_SIMPLICIAL_DET, (float)factor, m->x_turned);
    lanes_build_turned(c, at, j->sums.args->dout, c->v2_turned, false, 1, m->y_turned);
    for (size_t n = 0; n < LANES; n++) m->start[n] = POWER_START, m->minus_delta[n] = 0;
    for (size_t i = 0; i < at->segments; i++) {
        const segment *s = &at->segment[i];
        const float *out = lanes_at(c, j->sums.args->out, s->query, s->head);
        const float *dout = lanes_at(c, j->sums.args->dout, s->query, s->head);
        size_t row = (c->b * p->sequence.length + s->query) * p->heads + c->head + s->head;
        double delta = 0, lse = ((const float *)j->sums.args->lse)[row];
        for (size_t l = 0; l < c->d; l++) delta += (double)out[l] * (double)dout[l];
        float start = (float)((double)POWER_START - lse * LOG2_E * (double)LOGIT_STEPS);
        careful |= !(fabsf(start) < 0x1p30f);
        for (size_t n = s->lane; n < s->lane + s->count; n++) {
            m->start[n] = start;
            m->minus_delta[n] = (float)-delta * Y_FACTOR;
        }
    }
    careful |= needs_care(head, m->largest_k, pair_components(head, at, m->x_turned, 1, m->x));
    pair_components(head, at, m->y_turned, Y_FACTOR, m->y);
    pair_lanes(head, at, m->x_turned, m->x_rows);
    pair_lanes(head, at, m->y_turned, m->y_rows);
    bool add = false;
    for (size_t row = at->begin / UNIT * UNIT; row < at->end;) {
        size_t units = (at->end - row + UNIT - 1) / UNIT, steps = (units + UNITS - 1) / UNITS;
        units = (units + steps - 1) / steps;
        do_tile(head, row, units, add, careful, m, sums);
        row += units * UNIT;
        add = true;
    }
    float *u_rows = m->x_turned, *w_rows = m->y_turned; /* which have done their part */
    turn_sums(head, at, m->u, u_rows);
    turn_sums(head, at, m->w, w_rows);
    for (size_t i = 0; i < at->segments; i++)
        scatter(c, j->sums.args, &at->segment[i], u_rows, w_rows, factor, &m->scatter, sums);
}

/* The panels of row b and head g. */
static void panels_of(const job *j, size_t b, size_t g, panel *k, panel *v)
{
    const plx_simplicial_problem *p = &j->sums.args->problem;
    size_t row = b * p->kv_heads + g, rows = row * panel_numbers(&j->head, j->count1);
    size_t turned = row * turned_numbers(&j->head, j->count1);
    *k = *v = (panel){.b = b, .g = g, .base = panel_base(p, b), .count = panel_count(p, b)};
    k->history = &p->k, k->rows = j->k + rows, k->turned = j->k_turned + turned;
    v->history = &p->v, v->rows = j->v + rows, v->turned = j->v_turned + turned;
}

static void make_panels(void *argument, size_t index, int thread)
{
    (void)thread;
    const job *j = argument;
    size_t kv_heads = j->sums.args->problem.kv_heads, row = index / j->parts, first = index % j->parts * PANEL_PART;
    panel k, v;
    panels_of(j, row / kv_heads, row % kv_heads, &k, &v);
    j->largest[index] = panel_make(&k, &j->head, first);
    panel_make(&v, &j->head, first);
}

/* A thread's memory; returns its bytes. base NULL: only counts. */
static size_t lay_out(const job *j, char *base, memory *m)
{
    const size_of_head *head = &j->head;
    const plx_simplicial_problem *p = &j->sums.args->problem;
    size_t used = 0, width = head->columns * 16, tile = TILE * 4;
    m->x_turned = take(base, &used, LANES * width * 4);
    m->y_turned = take(base, &used, LANES * width * 4);
    m->x = take(base, &used, LANE_TILES * head->blocks * tile);
    m->y = take(base, &used, LANE_TILES * head->blocks * tile);
    m->x_rows = take(base, &used, LANE_TILES / 2 * head->columns * tile);
    m->y_rows = take(base, &used, LANE_TILES / 2 * head->columns * tile);
    m->s = take(base, &used, 8 * tile);
    m->p.pairs = take(base, &used, LANE_TILES * UNITS * tile);
    m->p.rows = take(base, &used, LANE_TILES * UNITS * tile);
    m->da.pairs = take(base, &used, LANE_TILES * UNITS * tile);
    m->da.rows = take(base, &used, LANE_TILES * UNITS * tile);
    m->w = take(base, &used, LANE_TILES * head->columns * tile);
    m->u = take(base, &used, LANE_TILES * head->columns * tile);
    float *for_scatter = take(base, &used, SCATTER_FLOATS(width) * 4);
    if (base != NULL) m->scatter = scatter_begin(for_scatter, width);
    m->panels = take(base, &used, lanes_short_floats(p, j->sums.queries, p->sequence.length) * 4);
    return used;
}

static void do_chunk(void *argument, size_t index, int thread)
{
    const job *j = argument;
    const plx_simplicial_problem *p = &j->sums.args->problem;
    memory m;
    lay_out(j, j->scratch + (size_t)thread * j->stride, &m);

    unsigned state = flush_denormals();
    plx_tiles_begin(&m.tiles);
    chunk c = sums_chunk(&j->sums, index);
    lanes_read_short(&c, m.panels);
    panels_of(j, c.b, c.g, &m.k, &m.v);
    size_t first = (size_t)(c.base1 - m.k.base) / UNIT * UNIT, end = (size_t)(c.base1 - m.k.base) + c.count1;
    partial *sums = sums_begin(&j->sums, index, &c, m.k.base + (int64_t)first, round_to(end, UNIT) - first);
    c.base1 = m.k.base;
    m.largest_k = largest_of(j->largest + (c.b * p->kv_heads + c.g) * j->parts, j->parts);
    cursor at = {.query = c.query};
    while (lanes_next(&c, &at, &m.block)) do_block(&c, j, &m, sums);
    plx_tiles_end(&m.tiles);
    restore_denormals(state);
}

plx_status PLX_CPU(plx_simplicial_backward)(plx_context *context, const void *arguments)
{
    job j = {0};
    memory unused;
    sums_divide(&j.sums, arguments, 2 * UNIT);
    const plx_simplicial_problem *p = &j.sums.args->problem;
    size_t rows = p->sequence.rows * p->kv_heads;
    j.head = head_of(p->head_dim);
    j.count1 = panel_most(p);
    j.parts = (j.count1 + PANEL_PART - 1) / PANEL_PART;
    j.stride = lay_out(&j, NULL, &unused);
    char *scratch = NULL;
    for (int pass = 0; pass < 2; pass++) { /* counts, then takes */
        size_t used = 0, panel_bytes = rows * panel_numbers(&j.head, j.count1) * 2;
        size_t turned_bytes = rows * turned_numbers(&j.head, j.count1) * 2;
        j.k = take(scratch, &used, panel_bytes);
        j.v = take(scratch, &used, panel_bytes);
        j.k_turned = take(scratch, &used, turned_bytes);
        j.v_turned = take(scratch, &used, turned_bytes);
        j.largest = take(scratch, &used, rows * j.parts * sizeof(float));
        j.scratch = take(scratch, &used, (size_t)plx_context_threads(context) * j.stride);
        j.sums.partials = take(scratch, &used, j.sums.tasks * sizeof(partial));
        j.sums.sums = take(scratch, &used, j.sums.tasks * j.sums.partial_floats * sizeof(float));
        if (pass == 0 && (scratch = plx_kernel_scratch(context, used)) == NULL) return PLX_ERROR_MEMORY;
    }
    plx_parallel_for(context, rows * j.parts, make_panels, &j);
    plx_parallel_for(context, j.sums.tasks, do_chunk, &j);
    plx_parallel_for(context, j.sums.tasks, add_chunk, &j.sums);
    return PLX_OK;
}
