/* forward.h - attention forward with bf16 tiles: the softmax of cpu/forward.c, its products by tiles.
 *
 * First K and V of each row and head are made into right operands, once for all queries. Then a job takes 32 queries
 * (rows of the tiles, so that P leaves the softmax as rows of a left operand) through their keys:
 *
 *     S[32 q][32 keys] = Q K^T     in four tiles, stored, turned into P = 2^(c S - m); S of the next 32 keys is already
 *                                  being multiplied meanwhile
 *     O[32 q][d] += P V            after every KEYS keys, four tiles of O at a time
 *
 * q, k, v and P are operands, of one or three terms (operands.h); S, O and the sums of P are f32. */
#ifndef PLX_MIXERS_ATTENTION_AMX_FORWARD_H
#define PLX_MIXERS_ATTENTION_AMX_FORWARD_H

#include "mixers/attention/amx/operands.h"

#define ROWS 32    /* queries of a desk */
#define DESKS 4    /* of a job */
#define STEP STRIP /* keys of a step */
#define KEYS 256   /* keys between two visits to O */
#define P_PLANE (ROWS * KEYS)
#define MOST_SUM 1e18f
#define ENOUGH_JOBS 16

typedef struct work {
    const plx_attention_args *a;
    size_t blocks, steps; /* of queries a row and head; of keys a row and head, at most */
    size_t depth;         /* d, up to a multiple of 32 */
    uint16_t *k, *v;      /* [row and head][step]: K in 2 x depth / 32 tiles, V in depth / 16 */
    size_t desks;         /* of a job */
    float *strips;        /* [threads][heads together][STRIP * strip_row(depth)] */
    size_t strips_each;
    char *scratch;
    size_t scratch_each;
} work;

/* out, q and P of a desk */
static size_t desk_floats(size_t depth) { return ROWS * depth + OPERAND_TERMS * ROWS * (depth + KEYS) / 2; }

static int64_t history_begin(const plx_attention_args *a, size_t b)
{
    return plx_attention_first(&a->sequence, b, 0, a->window);
}
static int64_t history_end(const plx_attention_args *a, size_t b)
{
    return (a->sequence.past != NULL ? a->sequence.past[b] : 0) + (int64_t)a->sequence.length;
}

/* Some heads of a step of keys: K as pairs of neighbouring components by key, V
 * as pairs of neighbouring keys by component. */
static void pack_step(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim, G = a->kv_heads, groups = head_groups(G, d), each = strip_floats(w->depth);
    const size_t b = index / groups / w->steps, step = index / groups % w->steps,
                 g = index % groups * heads_together(d);
    const size_t count = G - g < heads_together(d) ? G - g : heads_together(d);
    int64_t key = history_begin(a, b) + (int64_t)(step * STEP), end = history_end(a, b);
    if (key >= end) return;
    float *strips = w->strips + (size_t)thread * w->strips_each;
    const float *keys[STEP], *values[STEP];
    for (int i = 0; i < STEP; i++) {
        bool held = key + i < end;
        keys[i] = held ? (const float *)a->keys.data + plx_history_index(&a->keys, b, key + i) + g * d : NULL;
        values[i] = held ? (const float *)a->values.data + plx_history_index(&a->values, b, key + i) + g * d : NULL;
    }
    read_strips(keys, count, d, w->depth, strips);
    for (size_t i = 0; i < count; i++)
        pack_tokens(strips + i * each, w->depth, true,
                    w->k + ((b * G + g + i) * w->steps + step) * strip_numbers(w->depth));
    read_strips(values, count, d, w->depth, strips);
    for (size_t i = 0; i < count; i++)
        pack_components(strips + i * each, w->depth, false, ROWS_IN_ORDER,
                        w->v + ((b * G + g + i) * w->steps + step) * strip_numbers(w->depth));
}

/* 32 queries of a job and what they have summed. */
typedef struct desk {
    uint16_t *q;              /* [2][depth / 32] tiles */
    uint16_t *p;              /* [2][KEYS / 32] tiles */
    float *out;               /* [32][depth] */
    vf sum[ROWS], rise[ROWS]; /* lane by lane */
    float top[ROWS];
    int32_t first[ROWS], last[ROWS];
    size_t query[ROWS], count;
    int64_t begin, end, all_begin, all_end; /* as in cpu/tiles.h */
    float scale;
} desk;

/* s = Q K^T of a step of keys. */
INLINE void scores_set(ahead *a, const desk *x, const uint16_t *k, size_t depth, float *s)
{
    a->steps = depth / 32 * PRODUCTS;
    a->done = 0;
    a->product[0].left = (planes){{x->q, 16 * depth, TILE}, STRIP * depth};
    a->product[0].right = (planes){{k, 16 * depth, TILE}, STRIP * depth};
    a->product[0].to = s;
}

/* out += P V of `steps` steps from number `from` on, components c .. c + 31 */
static void multiply_values(plx_tiles *tiles, const desk *x, const uint16_t *v, size_t depth, size_t c, size_t from,
                            size_t steps)
{
    square_load(tiles, x->out + c, depth);
    multiply(tiles, (planes){{x->p, KEYS / STEP * TILE, TILE}, P_PLANE},
             (planes){{v + c / 16 * TILE, TILE, strip_numbers(depth)}, STRIP * depth}, from, steps);
    square_store(tiles, x->out + c, depth);
}

/* P of a step from its scores, while the next scores are multiplied; `number`
 * is the step's in the tile. With `seen`, 0 where a query does not see the key.
 */
INLINE void make_probabilities(plx_tiles *tiles, desk *x, const float *s, size_t number, int64_t key, const bool seen,
                               ahead *next)
{
    for (int row = 0; row < ROWS; row++, s += STEP) {
        if (row % 4 == 0) go_ahead(tiles, next, next->steps * ((size_t)row + 4) / ROWS);
        vf left = operand_exp2(vf_load(s) * x->scale - x->top[row]);
        vf right = operand_exp2(vf_load(s + 16) * x->scale - x->top[row]);
        if (seen) {
            left = vf_select(keys_seen(key, x->first[row], x->last[row]), left, vf_set(0.0f));
            right = vf_select(keys_seen(key + 16, x->first[row], x->last[row]), right, vf_set(0.0f));
        }
        vi rows[OPERAND_TERMS];
        free_rows(left, right, rows);
        uint16_t *p = x->p + ((size_t)(row / 16) * (KEYS / STEP) + number) * TILE + row % 16 * 32;
        UNROLL for (int i = 0; i < OPERAND_TERMS; i++) memcpy(p + i * P_PLANE, &rows[i], sizeof rows[i]);
        x->sum[row] += left + right;
    }
}

/* By how much scores exceed the tops, lane by lane, at least 0. */
static void find_rise(desk *x, const float *s, int64_t key)
{
    for (int row = 0; row < ROWS; row++)
        for (int side = 0; side < 2; side++) {
            vf more = vf_load(s + STEP * row + 16 * side) * x->scale - x->top[row];
            vi see = keys_seen(key + 16 * side, x->first[row], x->last[row]);
            x->rise[row] = vf_max(vf_select(see, more, vf_set(0.0f)), x->rise[row]);
        }
}

static void take_step(plx_tiles *tiles, desk *x, const float *s, size_t number, int64_t key, ahead *next)
{
    if (key >= x->all_begin && key + STEP <= x->all_end)
        make_probabilities(tiles, x, s, number, key, false, next);
    else
        make_probabilities(tiles, x, s, number, key, true, next);
}

/* All bits set in lanes whose sums are too large, or not numbers. */
INLINE vi beyond(vf sum) { return ~(vi)(sum < vf_set(MOST_SUM)); }

static bool any(vi mask)
{
    for (int i = 0; i < 16; i++)
        if (mask[i] != 0) return true;
    return false;
}

/* Tops rise to the largest scores for queries whose sums got too large; what
 * they had summed before shrinks. */
static void raise_tops(desk *x, const vf *before, size_t depth)
{
    for (int row = 0; row < ROWS; row++) {
        bool over = any(beyond(x->sum[row]));
        x->sum[row] = before[row];
        if (!over) continue;
        float rise = vf_top(x->rise[row]), factor = exp2f(-rise);
        x->top[row] += rise;
        x->sum[row] *= factor;
        for (size_t c = 0; c < depth; c++) x->out[(size_t)row * depth + c] *= factor;
    }
}

/* What a job does with a tile of keys; k, v: of its first step. */
typedef struct tile {
    int64_t key;
    const uint16_t *k, *v;
    size_t depth;
    float *s; /* [2][32][32]: of this step and of the next */
} tile;

/* The steps of the tile that the queries see: from .. to - 1. */
static size_t tile_from(const tile *t, const desk *x)
{
    return x->begin > t->key ? (size_t)(x->begin - t->key) / STEP : 0;
}
static size_t tile_to(const tile *t, const desk *x)
{
    if (x->end <= t->key) return 0;
    return x->end - t->key < KEYS ? (size_t)(x->end - t->key + STEP - 1) / STEP : KEYS / STEP;
}

/* The steps of `desks` neighbouring ones together, so that a step's K is read
 * from afar once. */
static void take_steps(plx_tiles *tiles, const tile *t, desk *x, size_t desks)
{
    struct {
        desk *x;
        size_t step;
    } all[DESKS * KEYS / STEP];
    size_t count = 0;
    for (size_t step = 0; step < KEYS / STEP; step++)
        for (size_t i = 0; i < desks; i++)
            if (tile_from(t, &x[i]) <= step && step < tile_to(t, &x[i])) {
                all[count].x = &x[i];
                all[count++].step = step;
            }
    for (size_t i = 0; i <= count; i++) {
        ahead next;
        next.steps = next.done = 0;
        if (i < count)
            scores_set(&next, all[i].x, t->k + all[i].step * strip_numbers(t->depth), t->depth,
                       t->s + i % 2 * ROWS * STEP);
        if (i == 0)
            go_ahead(tiles, &next, next.steps);
        else
            take_step(tiles, all[i - 1].x, t->s + (i - 1) % 2 * ROWS * STEP, all[i - 1].step,
                      t->key + (int64_t)(all[i - 1].step * STEP), &next);
    }
}

/* A tile that has driven the sums of some queries too far is done again from
 * what was `before` it. */
static void take_again(plx_tiles *tiles, const tile *t, desk *x, const vf *before)
{
    memset(x->rise, 0, sizeof x->rise);
    for (size_t step = tile_from(t, x); step < tile_to(t, x); step++) {
        ahead scores;
        scores_set(&scores, x, t->k + step * strip_numbers(t->depth), t->depth, t->s);
        go_ahead(tiles, &scores, scores.steps);
        find_rise(x, t->s, t->key + (int64_t)(step * STEP));
    }
    raise_tops(x, before, t->depth);
    take_steps(tiles, t, x, 1);
}

static void take_tile(plx_tiles *tiles, const tile *t, desk *x, size_t desks)
{
    vf before[DESKS][ROWS];
    for (size_t i = 0; i < desks; i++) memcpy(before[i], x[i].sum, sizeof before[i]);
    take_steps(tiles, t, x, desks);
    for (size_t i = 0; i < desks; i++) {
        vi over = {0};
        for (int row = 0; row < ROWS; row++) over |= beyond(x[i].sum[row]);
        if (any(over)) take_again(tiles, t, &x[i], before[i]);
    }
    for (size_t c = 0; c < t->depth; c += 32)
        for (size_t i = 0; i < desks; i++) {
            size_t from = tile_from(t, &x[i]), to = tile_to(t, &x[i]);
            if (from < to) multiply_values(tiles, &x[i], t->v, t->depth, c, from, to - from);
        }
}

/* The queries' operands and the keys that they see. */
static void desk_set(desk *x, const work *w, size_t b, size_t g, size_t from, float *strip)
{
    const plx_attention_args *a = w->a;
    const size_t T = a->sequence.length, d = a->head_dim, group = a->heads / a->kv_heads;
    const float *rows[ROWS];
    x->count = T * group - from < ROWS ? T * group - from : ROWS;
    x->scale = (float)(a->scale * LOG2_E);
    x->begin = x->all_end = INT32_MAX;
    x->end = x->all_begin = 0;
    for (size_t row = 0; row < ROWS; row++) {
        size_t number = from + (row < x->count ? row : x->count - 1), t = number / group;
        int32_t first = plx_attention_first(&a->sequence, b, t, a->window);
        int32_t last = (a->sequence.past != NULL ? a->sequence.past[b] : 0) + (int32_t)t;
        x->query[row] = (b * T + t) * a->heads + g * group + number % group;
        x->first[row] = first;
        x->last[row] = last;
        if (first < x->begin) x->begin = first;
        if (first > x->all_begin) x->all_begin = first;
        if (last + 1 > x->end) x->end = last + 1;
        if (last + 1 < x->all_end) x->all_end = last + 1;
        rows[row] = (const float *)a->q + x->query[row] * d;
    }
    read_strips(rows, 1, d, w->depth, strip);
    pack_tokens(strip, w->depth, false, x->q);
    memset(x->sum, 0, sizeof x->sum);
    memset(x->out, 0, ROWS * w->depth * sizeof *x->out);
}

/* The first tops: the scores with the queries' own tokens. base: the first key
 * of k. */
static void first_tops(plx_tiles *tiles, desk *x, const uint16_t *k, int64_t base, size_t depth, float *s)
{
    for (int64_t step = (x->last[0] - base) / STEP; step <= (x->last[ROWS - 1] - base) / STEP; step++) {
        ahead scores;
        scores_set(&scores, x, k + (size_t)step * strip_numbers(depth), depth, s);
        go_ahead(tiles, &scores, scores.steps);
        for (size_t row = 0; row < ROWS; row++) {
            int64_t own = x->last[row] - base - step * STEP;
            if (own >= 0 && own < STEP) x->top[row] = s[row * STEP + (size_t)own] * x->scale;
        }
    }
}

static void desk_write(const desk *x, const work *w)
{
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim;
    for (size_t row = 0; row < x->count; row++) {
        float sum = vf_sum(x->sum[row]), share = 1.0f / sum;
        float *to = (float *)a->out + x->query[row] * d;
        for (size_t c = 0; c < d; c += 16) vf_put(to + c, vf_load(x->out + row * w->depth + c) * share, d - c);
        if (a->lse != NULL)
            ((float *)a->lse)[x->query[row]] = (float)(((double)x->top[row] + log2((double)sum)) / LOG2_E);
    }
}

static void forward_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_args *a = w->a;
    /* a head's queries one after the other: its K and V stay near; the last see
     * most keys and go first */
    const size_t head = index / w->blocks, from = (w->blocks - 1 - index % w->blocks) * w->desks * ROWS;
    const size_t all = a->sequence.length * (a->heads / a->kv_heads), depth = w->depth;
    const size_t desks = all - from < w->desks * ROWS ? (all - from + ROWS - 1) / ROWS : w->desks;
    const uint16_t *k = w->k + head * w->steps * strip_numbers(depth),
                   *v = w->v + head * w->steps * strip_numbers(depth);
    const int64_t base = history_begin(a, head / a->kv_heads);
    float *s = (float *)(w->scratch + (size_t)thread * w->scratch_each), *memory = s + 2 * ROWS * STEP;
    desk x[DESKS];
    unsigned state = flush_denormals();
    plx_tiles registers, *tiles = &registers;
    plx_tiles_begin(tiles);
    int64_t begin = INT32_MAX, end = 0;
    for (size_t i = 0; i < desks; i++, memory += desk_floats(depth)) {
        x[i].out = memory;
        x[i].q = (uint16_t *)(x[i].out + ROWS * depth);
        x[i].p = x[i].q + OPERAND_TERMS * ROWS * depth;
        desk_set(&x[i], w, head / a->kv_heads, head % a->kv_heads, from + i * ROWS,
                 w->strips + (size_t)thread * w->strips_each);
        first_tops(tiles, &x[i], k, base, depth, s);
        if (x[i].begin < begin) begin = x[i].begin;
        if (x[i].end > end) end = x[i].end;
    }
    for (int64_t key = base + (begin - base) / KEYS * KEYS; key < end; key += KEYS) {
        size_t at = (size_t)(key - base) / STEP * strip_numbers(depth);
        take_tile(tiles, &(tile){key, k + at, v + at, depth, s}, x, desks);
    }
    plx_tiles_end(tiles);
    for (size_t i = 0; i < desks; i++) desk_write(&x[i], w);
    restore_denormals(state);
}

static plx_status attention_forward(plx_context *context, const plx_attention_args *a)
{
    const size_t heads = a->sequence.rows * a->kv_heads, threads = (size_t)context->options.threads;
    work w = {.a = a, .depth = depth_of(a->head_dim), .desks = DESKS};
    const size_t all = a->sequence.length * (a->heads / a->kv_heads);
    while (w.desks > 1 && heads * ((all + w.desks * ROWS - 1) / (w.desks * ROWS)) < ENOUGH_JOBS) w.desks /= 2;
    w.blocks = (all + w.desks * ROWS - 1) / (w.desks * ROWS);
    for (size_t b = 0; b < a->sequence.rows; b++) {
        size_t steps = (size_t)(history_end(a, b) - history_begin(a, b) + STEP - 1) / STEP;
        if (steps > w.steps) w.steps = steps;
    }
    const size_t packed = heads * w.steps * strip_numbers(w.depth), together = heads_together(a->head_dim);
    w.strips_each = (together < a->kv_heads ? together : a->kv_heads) * strip_floats(w.depth);
    const size_t each = 2 * ROWS * STEP + w.desks * desk_floats(w.depth);
    w.k = plx_kernel_scratch(context, 2 * packed * sizeof *w.k + threads * (each + w.strips_each) * sizeof(float));
    if (w.k == NULL) return PLX_ERROR_MEMORY;
    w.v = w.k + packed;
    w.strips = (float *)(w.v + packed);
    w.scratch = (char *)(w.strips + threads * w.strips_each);
    w.scratch_each = each * sizeof(float);
    plx_parallel_for(context, a->sequence.rows * w.steps * head_groups(a->kv_heads, a->head_dim), pack_step, &w);
    plx_parallel_for(context, heads * w.blocks, forward_job, &w);
    return PLX_OK;
}

#endif
