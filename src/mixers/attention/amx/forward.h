/* forward.h - attention forward with bf16 tiles: the softmax of cpu/forward.c, its products by tiles.
 *
 * K and V of each row and head are made into right operands, once for all queries: by the job that takes all queries of
 * a head, where these operands stay near and there are heads enough, else before all jobs. A job takes 32 queries (rows
 * of the tiles, so that P leaves the softmax as rows of a left operand) through their keys, the last first:
 *
 *     S[32 q][32 keys] = Q K^T     in four tiles, stored, turned into P = 2^(c S - m); S of the next 32 keys is already
 *                                  being multiplied meanwhile
 *     O[32 q][d] += P V            four tiles of O at a time, while P of the next 32 queries is made
 *
 * q, k, v and P are operands, of one or three terms (operands.h); S, O and the sums of P are f32. */
#ifndef PLX_MIXERS_ATTENTION_AMX_FORWARD_H
#define PLX_MIXERS_ATTENTION_AMX_FORWARD_H

#include "mixers/attention/amx/operands.h"
#include "mixers/attention/amx/soon.h"

#define ROWS 32    /* queries of a desk */
#define DESKS 8    /* of a job, at most */
#define STEP STRIP /* keys of a step */
#define KEYS 256   /* keys between two visits to O */
#define P_PLANE (ROWS * KEYS)
/* Steps whose P V is added to O at a time: they must be many for the loads and stores of O not to count, and few for
 * products to go with all the vectors' work. */
#define PIECE (OPERAND_TERMS == 1 ? KEYS / STEP : 2)
#define MOST_SUM 1e18f
#define ENOUGH_JOBS 16
#define NEAR                                                                                                           \
    (1 << 18) /* numbers of K and V as operands that stay in 2 MB of L2 beside all else, and of the next job           \
               */

typedef struct work {
    const plx_attention_args *a;
    size_t blocks, steps; /* of queries a row and head; of keys a row and head, at most */
    size_t depth;         /* d, up to a multiple of 32 */
    bool near;            /* a job has all queries of a head and makes K and V into operands */
    uint16_t *operands;   /* [row and head, or thread][2: K, V][step]: K in 2 x depth / 32 tiles, V in depth / 16 */
    size_t desks;         /* of a job */
    float *strips;        /* [threads][heads together][STRIP * strip_row(depth)] */
    size_t strips_each;
    char *scratch;
    size_t scratch_each;
} work;

/* out and q of a desk; what else a job has: S of this step, of the next and of one done again, P of two desks */
static size_t desk_floats(size_t depth) { return ROWS * depth + OPERAND_TERMS * ROWS * depth / 2; }
#define SCORES (3 * ROWS * STEP)
#define SHARED_FLOATS (SCORES + OPERAND_TERMS * P_PLANE)

static int64_t history_begin(const plx_attention_args *a, size_t b)
{
    return plx_attention_first(&a->sequence, b, 0, a->window);
}
static int64_t history_end(const plx_attention_args *a, size_t b)
{
    return (a->sequence.past != NULL ? a->sequence.past[b] : 0) + (int64_t)a->sequence.length;
}

static uint16_t *operands_at(const work *w, size_t place)
{
    return w->operands + place * 2 * w->steps * strip_numbers(w->depth);
}

/* A step of keys of `count` heads from g on: K as pairs of neighbouring components by key, V as pairs of neighbouring
 * keys by component, to the heads' places from `place` on. */
static void pack_step(const work *w, size_t b, size_t g, size_t count, size_t step, size_t place, float *strips)
{
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim, at = step * strip_numbers(w->depth);
    int64_t key = history_begin(a, b) + (int64_t)(step * STEP), end = history_end(a, b);
    const float *keys[STEP], *values[STEP];
    for (int i = 0; i < STEP; i++) {
        bool held = key + i < end;
        keys[i] = held ? (const float *)a->keys.data + plx_history_index(&a->keys, b, key + i) + g * d : NULL;
        values[i] = held ? (const float *)a->values.data + plx_history_index(&a->values, b, key + i) + g * d : NULL;
    }
    read_strips(keys, count, d, w->depth, strips);
    for (size_t i = 0; i < count; i++)
        pack_tokens(strips + i * strip_floats(w->depth), w->depth, true, operands_at(w, place + i) + at);
    read_strips(values, count, d, w->depth, strips);
    for (size_t i = 0; i < count; i++)
        pack_components(strips + i * strip_floats(w->depth), w->depth, false, ROWS_IN_ORDER,
                        operands_at(w, place + i) + w->steps * strip_numbers(w->depth) + at);
}

static size_t history_steps(const plx_attention_args *a, size_t b)
{
    return (size_t)(history_end(a, b) - history_begin(a, b) + STEP - 1) / STEP;
}

/* Some heads of a step of keys, before all jobs. */
static void pack_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const size_t d = w->a->head_dim, G = w->a->kv_heads, groups = head_groups(G, d);
    const size_t b = index / groups / w->steps, step = index / groups % w->steps,
                 g = index % groups * heads_together(d);
    const size_t count = G - g < heads_together(d) ? G - g : heads_together(d);
    if (step < history_steps(w->a, b))
        pack_step(w, b, g, count, step, b * G + g, w->strips + (size_t)thread * w->strips_each);
}

static void soon_set(soon *s, const work *w, size_t head)
{
    const plx_attention_args *a = w->a;
    const size_t T = a->sequence.length, G = a->kv_heads, b = head / G, g = head % G, d = a->head_dim;
    const size_t width = a->heads / G * d, keys = (size_t)(history_end(a, b) - history_begin(a, b));
    const size_t queries = (b * T * G + g) * width;
    soon_begin(s, w->steps);
    soon_add(s, a->out, queries, T, width, G * width, true);
    soon_add(s, a->q, queries, T, width, G * width, false);
    soon_add(s, a->keys.data, plx_history_index(&a->keys, b, history_begin(a, b)) + g * d, keys, d, a->keys.width,
             false);
    soon_add(s, a->values.data, plx_history_index(&a->values, b, history_begin(a, b)) + g * d, keys, d, a->values.width,
             false);
}

/* ---- a desk ---- */

/* 32 queries of a job and what they have summed. */
typedef struct desk {
    uint16_t *q;  /* [2][depth / 32] tiles */
    float *out;   /* [32][depth] */
    vf sum[ROWS]; /* lane by lane */
    float top[ROWS];
    int32_t first[ROWS], last[ROWS];
    size_t query[ROWS], count;
    int64_t begin, end, all_begin, all_end; /* as in cpu/tiles.h */
    bool topped;                            /* top is set */
    float scale;
} desk;

/* s = Q K^T of a step of keys. */
INLINE void add_scores(ahead *a, const desk *x, const uint16_t *k, size_t depth, float *s)
{
    ahead_add(a, (planes){{x->q, 16 * depth, TILE}, STRIP * depth}, (planes){{k, 16 * depth, TILE}, STRIP * depth}, 0,
              depth / 32, s, STEP, false);
}

/* out += P V of steps from .. to - 1 of a tile, in pieces: `done` of `count`. */
typedef struct values {
    float *out;
    const uint16_t *p, *v; /* of the tile's first step */
    size_t depth, from, to;
    size_t done, count;
} values;

static size_t pieces(const values *y) { return (y->to - y->from + PIECE - 1) / PIECE; } /* of 32 components */

/* Up to `count` more pieces. */
static void add_values(ahead *a, values *y, size_t count)
{
    const size_t each = pieces(y), depth = y->depth;
    for (; count > 0 && y->done < y->count && a->count < AHEAD_MOST; count--, y->done++) {
        const size_t c = y->done / each * 32, step = y->from + y->done % each * PIECE;
        ahead_add(a, (planes){{y->p, KEYS / STEP * TILE, TILE}, P_PLANE},
                  (planes){{y->v + c / 16 * TILE, TILE, strip_numbers(depth)}, STRIP * depth}, step,
                  y->to - step < PIECE ? y->to - step : PIECE, y->out + c, depth, true);
    }
}

/* P of a step from its scores, to the tiles from `to` on, with `next` products meanwhile. With `seen`, 0 where a query
 * does not see the key. */
INLINE void make_probabilities(plx_tiles *tiles, desk *x, const float *s, uint16_t *to, int64_t key, const bool seen,
                               ahead *next, soon *soon)
{
    for (int row = 0; row < ROWS; row++, s += STEP) {
        if (row % 4 == 0) {
            go_ahead(tiles, next, next->total * ((size_t)row + 4) / ROWS);
            if (soon != NULL) soon_fetch(soon);
        }
        vf left = operand_exp2(vf_load(s) * x->scale - x->top[row]);
        vf right = operand_exp2(vf_load(s + 16) * x->scale - x->top[row]);
        if (seen) {
            left = vf_select(keys_seen(key, x->first[row], x->last[row]), left, vf_set(0.0f));
            right = vf_select(keys_seen(key + 16, x->first[row], x->last[row]), right, vf_set(0.0f));
        }
        vi rows[OPERAND_TERMS];
        free_rows(left, right, rows);
        uint16_t *p = to + (size_t)(row / 16) * (KEYS / STEP) * TILE + row % 16 * 32;
        UNROLL for (int i = 0; i < OPERAND_TERMS; i++) memcpy(p + i * P_PLANE, &rows[i], sizeof rows[i]);
        x->sum[row] += left + right;
    }
}

/* By how much scores exceed the tops, lane by lane, at least 0. */
static void find_rise(const desk *x, const float *s, int64_t key, vf *rise)
{
    for (int row = 0; row < ROWS; row++)
        for (int side = 0; side < 2; side++) {
            vf more = vf_load(s + STEP * row + 16 * side) * x->scale - x->top[row];
            vi see = keys_seen(key + 16 * side, x->first[row], x->last[row]);
            rise[row] = vf_max(vf_select(see, more, vf_set(0.0f)), rise[row]);
        }
}

/* The first tops: the scores with the queries' own tokens, of those that are in this step of keys. */
static void own_tops(desk *x, const float *s, int64_t key)
{
    for (size_t row = 0; row < ROWS; row++) {
        int64_t own = x->last[row] - key;
        if (own >= 0 && own < STEP) x->top[row] = s[row * STEP + (size_t)own] * x->scale;
    }
    x->topped = true;
}

static void take_step(plx_tiles *tiles, desk *x, const float *s, uint16_t *p, int64_t key, ahead *next, soon *soon)
{
    if (!x->topped) own_tops(x, s, key);
    if (key >= x->all_begin && key + STEP <= x->all_end)
        make_probabilities(tiles, x, s, p, key, false, next, soon);
    else
        make_probabilities(tiles, x, s, p, key, true, next, soon);
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
static void raise_tops(desk *x, const vf *before, const vf *by, size_t depth)
{
    for (int row = 0; row < ROWS; row++) {
        bool over = any(beyond(x->sum[row]));
        x->sum[row] = before[row];
        if (!over) continue;
        float rise = vf_top(by[row]), factor = exp2f(-rise);
        x->top[row] += rise;
        x->sum[row] *= factor;
        for (size_t c = 0; c < depth; c++) x->out[(size_t)row * depth + c] *= factor;
    }
}

/* A tile of keys; k, v: of its first step. */
typedef struct tile {
    int64_t key;
    const uint16_t *k, *v;
} tile;

/* What a job works with. */
typedef struct bench {
    plx_tiles *tiles;
    size_t depth;
    float *s;      /* [3][32][32]: of two steps by turns; of one done again */
    uint16_t *p;   /* [2][OPERAND_TERMS * P_PLANE]: of two desks by turns */
    size_t turn;   /* which of the two the next desk takes */
    size_t step;   /* as many were done: which of s the next takes */
    values values; /* of the desk before, to be added while the next one's P are made */
    soon *soon;    /* or NULL */
} bench;

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

static void scores_now(const bench *e, const desk *x, const uint16_t *k, float *s)
{
    ahead scores;
    ahead_clear(&scores);
    add_scores(&scores, x, k, e->depth, s);
    go_ahead(e->tiles, &scores, scores.total);
}

static void finish_values(bench *e)
{
    while (e->values.done < e->values.count) {
        ahead rest;
        ahead_clear(&rest);
        add_values(&rest, &e->values, AHEAD_MOST);
        go_ahead(e->tiles, &rest, rest.total);
    }
}

/* P of the tile's steps, the last first. Scores of the first one are there; then those of `after` are set. */
static void take_steps(bench *e, const tile *t, desk *x, uint16_t *p, const tile *after_tile, const desk *after)
{
    const size_t from = tile_from(t, x), to = tile_to(t, x), each = strip_numbers(e->depth);
    for (size_t step = to; step-- > from;) {
        const float *s = e->s + e->step++ % 2 * ROWS * STEP;
        float *next_s = e->s + e->step % 2 * ROWS * STEP;
        ahead next;
        ahead_clear(&next);
        if (step > from)
            add_scores(&next, x, t->k + (step - 1) * each, e->depth, next_s);
        else if (after != NULL)
            add_scores(&next, after, after_tile->k + (tile_to(after_tile, after) - 1) * each, e->depth, next_s);
        const size_t left = e->values.count - e->values.done, steps = step - from + 1;
        add_values(&next, &e->values, (left + steps - 1) / steps);
        take_step(e->tiles, x, s, p + step * TILE, t->key + (int64_t)(step * STEP), &next, e->soon);
    }
    finish_values(e);
}

/* A tile that has driven the sums of some queries too far is done again from what was `before` it. */
static void take_again(const bench *e, const tile *t, desk *x, uint16_t *p, const vf *before)
{
    vf rise[ROWS] = {{0}};
    float *s = e->s + 2 * ROWS * STEP;
    const size_t from = tile_from(t, x), to = tile_to(t, x), each = strip_numbers(e->depth);
    for (size_t step = from; step < to; step++) {
        scores_now(e, x, t->k + step * each, s);
        find_rise(x, s, t->key + (int64_t)(step * STEP), rise);
    }
    raise_tops(x, before, rise, e->depth);
    for (size_t step = to; step-- > from;) {
        ahead none;
        ahead_clear(&none);
        scores_now(e, x, t->k + step * each, s);
        take_step(e->tiles, x, s, p + step * TILE, t->key + (int64_t)(step * STEP), &none, NULL);
    }
}

/* What a desk does with a tile. */
static void take_tile(bench *e, const tile *t, desk *x, const tile *after_tile, const desk *after)
{
    uint16_t *p = e->p + e->turn++ % 2 * OPERAND_TERMS * P_PLANE;
    vf before[ROWS];
    memcpy(before, x->sum, sizeof before);
    take_steps(e, t, x, p, after_tile, after);
    vi over = {0};
    for (int row = 0; row < ROWS; row++) over |= beyond(x->sum[row]);
    if (any(over)) take_again(e, t, x, p, before);
    e->values =
        (values){.out = x->out, .p = p, .v = t->v, .depth = e->depth, .from = tile_from(t, x), .to = tile_to(t, x)};
    e->values.count = e->depth / 32 * pieces(&e->values);
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
    size_t t = from / group, h = from % group;
    for (size_t row = 0; row < ROWS; row++) {
        if (row > 0 && row < x->count && ++h == group) {
            h = 0;
            t++;
        }
        int32_t first = plx_attention_first(&a->sequence, b, t, a->window);
        int32_t last = (a->sequence.past != NULL ? a->sequence.past[b] : 0) + (int32_t)t;
        x->query[row] = (b * T + t) * a->heads + g * group + h;
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

/* The first tops where queries' own tokens lie in several steps: else they come with the first step. base: the first
 * key of k. */
static void first_tops(const bench *e, desk *x, const uint16_t *k, int64_t base)
{
    const int64_t from = (x->last[0] - base) / STEP, to = (x->last[ROWS - 1] - base) / STEP;
    float *s = e->s + 2 * ROWS * STEP;
    x->topped = false;
    for (int64_t step = from; step <= to && from != to; step++) {
        scores_now(e, x, k + (size_t)step * strip_numbers(e->depth), s);
        own_tops(x, s, base + step * STEP);
    }
}

/* ln x = e ln 2 + ln m, m from 1/2 up to 2, by the series of its inverse hyperbolic tangent, 2e-10 off; and what is
 * added to e. For finite x from 2^-126. */
static vf log_of_power_times(vf power, vf x)
{
    const vi bits = (vi)x, low = bits & 0x7fffff, upper = (vi)(low > 0x3504f3) & 1; /* m > sqrt 2 is halved */
    const vf m = (vf)(low | (127 - upper) << 23), s = (m - 1.0f) / (m + 1.0f), square = s * s;
    const vf e = power + __builtin_convertvector((bits >> 23) - 127 + upper, vf);
    vf p = vf_set(0.2987618f) * square + vf_set(0.39977343f);
    p = p * square + vf_set(0.66666778f);
    p = p * square + vf_set(2.0f);
    return e * vf_set(0.69314718f) + p * s;
}

static void desk_write(const desk *x, const work *w)
{
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim;
    float share[ROWS], lse[ROWS];
    for (size_t row = 0; row < ROWS; row += 16) {
        vf lanes[16];
        memcpy(lanes, x->sum + row, sizeof lanes);
        vf sum = lane_sums(lanes);
        vf_store(share + row, 1.0f / sum);
        vf_store(lse + row, log_of_power_times(vf_load(x->top + row), sum));
    }
    for (size_t row = 0; row < x->count; row++) {
        float *to = (float *)a->out + x->query[row] * d;
        for (size_t c = 0; c < d; c += 16) vf_put(to + c, vf_load(x->out + row * w->depth + c) * share[row], d - c);
        if (a->lse != NULL) ((float *)a->lse)[x->query[row]] = lse[row];
    }
}

/* The visit after a desk's to a tile: false after the last. Tiles are visited the last first, each by the desks in
 * order that see any of it. */
static bool next_visit(const desk *x, size_t desks, tile *t, size_t *number, int64_t first, size_t tile_numbers)
{
    for (;;) {
        if (++*number == desks) {
            if (t->key <= first) return false;
            *number = 0;
            t->key -= KEYS;
            t->k -= tile_numbers;
            t->v -= tile_numbers;
        }
        if (tile_from(t, &x[*number]) < tile_to(t, &x[*number])) return true;
    }
}

/* A block of queries of a head. operands: the head's. */
static void take_block(plx_tiles *tiles, const work *w, size_t head, size_t block, const uint16_t *operands, int thread,
                       soon *soon)
{
    const plx_attention_args *a = w->a;
    const size_t from = block * w->desks * ROWS, depth = w->depth, tile_numbers = KEYS / STEP * strip_numbers(depth);
    const size_t all = a->sequence.length * (a->heads / a->kv_heads);
    const size_t desks = all - from < w->desks * ROWS ? (all - from + ROWS - 1) / ROWS : w->desks;
    const uint16_t *k = operands, *v = k + w->steps * strip_numbers(depth);
    const int64_t base = history_begin(a, head / a->kv_heads);
    bench e = {.tiles = tiles, .depth = depth, .soon = soon};
    e.s = (float *)(w->scratch + (size_t)thread * w->scratch_each);
    e.p = (uint16_t *)(e.s + SCORES);
    float *memory = e.s + SHARED_FLOATS;
    desk x[DESKS];
    int64_t end = 0;
    for (size_t i = 0; i < desks; i++, memory += desk_floats(depth)) {
        x[i].out = memory;
        x[i].q = (uint16_t *)(x[i].out + ROWS * depth);
        desk_set(&x[i], w, head / a->kv_heads, head % a->kv_heads, from + i * ROWS,
                 w->strips + (size_t)thread * w->strips_each);
        first_tops(&e, &x[i], k, base);
        if (x[i].end > end) end = x[i].end;
    }
    const size_t last = (size_t)(end - 1 - base) / KEYS;
    tile now = {base + (int64_t)(last * KEYS), k + last * tile_numbers, v + last * tile_numbers}, next = now;
    size_t number = 0, next_number = (size_t)-1;
    bool more = next_visit(x, desks, &next, &next_number, base, tile_numbers);
    if (more)
        scores_now(&e, &x[next_number], next.k + (tile_to(&next, &x[next_number]) - 1) * strip_numbers(depth), e.s);
    while (more) {
        now = next;
        number = next_number;
        more = next_visit(x, desks, &next, &next_number, base, tile_numbers);
        take_tile(&e, &now, &x[number], &next, more ? &x[next_number] : NULL);
    }
    finish_values(&e);
    for (size_t i = 0; i < desks; i++) desk_write(&x[i], w);
}

/* Where K and V are near, a head; else a block of one: a head's one after the other, so that its K and V stay nearer,
 * and those that see most keys first. */
static void forward_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    unsigned state = flush_denormals();
    plx_tiles registers, *tiles = &registers;
    plx_tiles_begin(tiles);
    if (w->near) {
        const size_t G = w->a->kv_heads, b = index / G, place = (size_t)thread;
        soon next;
        for (size_t step = 0; step < history_steps(w->a, b); step++)
            pack_step(w, b, index % G, 1, step, place, w->strips + place * w->strips_each);
        if (index + 1 < w->a->sequence.rows * G) soon_set(&next, w, index + 1);
        for (size_t block = 0; block < w->blocks; block++)
            take_block(tiles, w, index, block, operands_at(w, place), thread,
                       index + 1 < w->a->sequence.rows * G ? &next : NULL);
    } else {
        const size_t head = index / w->blocks;
        take_block(tiles, w, head, w->blocks - 1 - index % w->blocks, operands_at(w, head), thread, NULL);
    }
    plx_tiles_end(tiles);
    restore_denormals(state);
}

static plx_status attention_forward(plx_context *context, const plx_attention_args *a)
{
    const size_t heads = a->sequence.rows * a->kv_heads, threads = (size_t)context->options.threads;
    work w = {.a = a, .depth = depth_of(a->head_dim), .desks = DESKS};
    const size_t all = a->sequence.length * (a->heads / a->kv_heads);
    for (size_t b = 0; b < a->sequence.rows; b++)
        if (history_steps(a, b) > w.steps) w.steps = history_steps(a, b);
    w.near = heads >= ENOUGH_JOBS && 2 * w.steps * strip_numbers(w.depth) <= NEAR;
    while (!w.near && w.desks > 1 && heads * ((all + w.desks * ROWS - 1) / (w.desks * ROWS)) < ENOUGH_JOBS)
        w.desks /= 2;
    w.blocks = (all + w.desks * ROWS - 1) / (w.desks * ROWS);
    const size_t operands = (w.near ? threads : heads) * 2 * w.steps * strip_numbers(w.depth);
    const size_t together = w.near ? 1 : heads_together(a->head_dim);
    w.strips_each = (together < a->kv_heads ? together : a->kv_heads) * strip_floats(w.depth);
    const size_t each = SHARED_FLOATS + w.desks * desk_floats(w.depth);
    w.operands =
        plx_kernel_scratch(context, operands * sizeof *w.operands + threads * (each + w.strips_each) * sizeof(float));
    if (w.operands == NULL) return PLX_ERROR_MEMORY;
    w.strips = (float *)(w.operands + operands);
    w.scratch = (char *)(w.strips + threads * w.strips_each);
    w.scratch_each = each * sizeof(float);
    if (!w.near)
        plx_parallel_for(context, a->sequence.rows * w.steps * head_groups(a->kv_heads, a->head_dim), pack_job, &w);
    plx_parallel_for(context, w.near ? heads : heads * w.blocks, forward_job, &w);
    return PLX_OK;
}

#endif
