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
 * Of one term and heads of 128 and more O += P V of a tile of keys follows its last P (at_once), P comes from the table
 * of powers.h, with m = 0 where norms bound the scores, and its own sums are made beside O += P V.
 *
 * q, k, v and P are operands, of one or three terms (operands.h); S, O and the sums of P are f32. */
#ifndef PLX_MIXERS_ATTENTION_AMX_FORWARD_H
#define PLX_MIXERS_ATTENTION_AMX_FORWARD_H

#include "mixers/attention/amx/desk.h"

#define DESKS 8 /* of a job, at most */
#define ENOUGH_JOBS 16
/* Numbers of K and V as operands that stay in 2 MB of L2 beside all else, and of the next job. */
#define NEAR (1 << 18)

typedef struct work {
    const plx_attention_args *a;
    size_t blocks, steps; /* of queries a row and head; of keys a row and head, at most */
    size_t depth;         /* d, up to a multiple of 32 */
    bool at_once;         /* as a desk's */
    bool near;            /* a job has all queries of a head and makes K and V into operands */
    uint16_t *operands;   /* [row and head, or thread][2: K, V][step]: K in 2 x depth / 32 tiles, V in depth / 16 */
    float *norms;         /* [row and head, or thread][step]: bounds for squares of keys' norms, of one term */
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
    for (size_t i = 0; i < count; i++) {
        const float *strip = strips + i * strip_floats(w->depth);
        pack_tokens(strip, w->depth, true, operands_at(w, place + i) + at);
        if (w->at_once) w->norms[(place + i) * w->steps + step] = norm_bound(strip, w->depth);
    }
    read_strips(values, count, d, w->depth, strips);
    for (size_t i = 0; i < count; i++) {
        const float *strip = strips + i * strip_floats(w->depth);
        uint16_t *to = operands_at(w, place + i) + w->steps * strip_numbers(w->depth) + at;
        if (w->at_once)
            pack_components(strip, w->depth, false, BY_FOURS, to);
        else
            pack_components(strip, w->depth, false, OPERAND_TERMS == 1 ? IN_ORDER : BY_HALVES, to);
    }
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

/* Queries of a head: a group's, token by token. */
static size_t head_queries(const plx_attention_args *a) { return a->sequence.length * (a->heads / a->kv_heads); }

/* The tokens from the first query of a block to the first of the next. */
static size_t block_token(const work *w, size_t block)
{
    const size_t from = block * w->desks * ROWS, all = head_queries(w->a);
    return (from < all ? from : all) / (w->a->heads / w->a->kv_heads);
}

/* Steps of keys that queries before a block see, with those of their own token; all where there is no such block. */
static size_t steps_before(const work *w, size_t b, size_t block)
{
    if (block == 0) return 0;
    if (block >= w->blocks) return history_steps(w->a, b);
    int64_t past = w->a->sequence.past != NULL ? w->a->sequence.past[b] : 0;
    return (size_t)(past + (int64_t)block_token(w, block) - history_begin(w->a, b)) / STEP + 1;
}

/* What a block reads and writes, besides keys that blocks before it have read. */
static void soon_set(soon *s, const work *w, size_t head, size_t block)
{
    const plx_attention_args *a = w->a;
    const size_t T = a->sequence.length, G = a->kv_heads, b = head / G, g = head % G, d = a->head_dim;
    const size_t width = a->heads / G * d, from = block_token(w, block), count = block_token(w, block + 1) - from;
    const size_t queries = ((b * T + from) * G + g) * width;
    const int64_t key = history_begin(a, b) + (int64_t)(steps_before(w, b, block) * STEP);
    const int64_t end = history_begin(a, b) + (int64_t)(steps_before(w, b, block + 1) * STEP);
    const size_t keys = (size_t)((end < history_end(a, b) ? end : history_end(a, b)) - key);
    soon_begin(s);
    soon_add(s, a->out, queries, count, width, G * width, true);
    soon_add(s, a->q, queries, count, width, G * width, false);
    if (end <= key) return;
    soon_add(s, a->keys.data, plx_history_index(&a->keys, b, key) + g * d, keys, d, a->keys.width, false);
    soon_add(s, a->values.data, plx_history_index(&a->values, b, key) + g * d, keys, d, a->values.width, false);
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
    end_ahead(e->tiles, &scores);
}

static void finish_values(bench *e)
{
    while (e->values.done < e->values.count) {
        ahead rest;
        ahead_clear(&rest);
        add_values(&rest, &e->values, AHEAD_MOST);
        end_ahead(e->tiles, &rest);
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
        end_ahead(e->tiles, &next);
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
    if (!x->bounded && any(over)) take_again(e, t, x, p, before);
    e->values =
        (values){.out = x->out, .p = p, .v = t->v, .depth = e->depth, .from = tile_from(t, x), .to = tile_to(t, x)};
    if (x->at_once) {
        const int64_t begin = x->all_begin - t->key, end = x->all_end - t->key;
        const size_t from = begin > 0 ? (size_t)(begin + STEP - 1) / STEP : 0;
        const size_t to = end > KEYS ? KEYS / STEP : end > 0 ? (size_t)end / STEP : 0;
        add_all_values(e->tiles, x, &e->values, from, x->bounded ? to : 0);
    } else
        e->values.count = e->depth / 32 * pieces(&e->values);
}

/* Whether scores of the queries in `strip` with the keys that they see, from first_key on with these norms, are
 * bounded.
 */
static void bound_scores(desk *x, const work *w, int64_t first_key, const float *norms, const float *strip)
{
    float most = 0;
    for (size_t step = (size_t)(x->begin - first_key) / STEP; (int64_t)(step * STEP) < x->end - first_key; step++)
        if (norms[step] > most) most = norms[step];
    const float limit = MOST_SCORE * POWERS_STEPS;
    x->bounded = most * norm_bound(strip, w->depth) < limit * limit; /* not where one is no number */
}

/* The queries' operands and the keys that they see. */
static void desk_set(desk *x, const work *w, size_t b, size_t g, size_t from, const float *norms, float *strip)
{
    const plx_attention_args *a = w->a;
    const size_t T = a->sequence.length, d = a->head_dim, group = a->heads / a->kv_heads;
    const float *rows[ROWS];
    x->count = T * group - from < ROWS ? T * group - from : ROWS;
    x->bounded = false;
    x->at_once = w->at_once;
    x->scale = product_scale(a->scale, w->depth);
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
    scale_queries(strip, w->depth, a->scale);
    if (w->at_once) bound_scores(x, w, history_begin(a, b), norms, strip);
    pack_tokens(strip, w->depth, false, x->q);
    memset(x->top, 0, sizeof x->top);
    memset(x->sum, 0, sizeof x->sum);
    memset(x->out, 0, ROWS * w->depth * sizeof *x->out);
}

/* The first tops where queries' own tokens lie in several steps: else they come with the first step. base: the first
 * key of k. */
static void first_tops(const bench *e, desk *x, const uint16_t *k, int64_t base)
{
    const int64_t from = (x->last[0] - base) / STEP, to = (x->last[ROWS - 1] - base) / STEP;
    float *s = e->s + 2 * ROWS * STEP;
    x->topped = x->bounded;
    for (int64_t step = from; step <= to && from != to && !x->bounded; step++) {
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

/* A block of queries of a head, whose keys and values are at `place`. */
static void take_block(plx_tiles *tiles, const work *w, size_t head, size_t block, size_t place, int thread, soon *soon)
{
    const plx_attention_args *a = w->a;
    const size_t from = block * w->desks * ROWS, depth = w->depth, tile_numbers = KEYS / STEP * strip_numbers(depth);
    const size_t all = head_queries(a);
    const size_t desks = all - from < w->desks * ROWS ? (all - from + ROWS - 1) / ROWS : w->desks;
    const uint16_t *k = operands_at(w, place), *v = k + w->steps * strip_numbers(depth);
    const int64_t base = history_begin(a, head / a->kv_heads);
    bench e = {.tiles = tiles, .depth = depth, .soon = soon};
    e.s = (float *)(w->scratch + (size_t)thread * w->scratch_each);
    e.p = (uint16_t *)(e.s + SCORES);
    float *memory = e.s + SHARED_FLOATS;
    desk x[DESKS];
    int64_t end = 0;
    size_t squares = 0;
    for (size_t i = 0; i < desks; i++, memory += desk_floats(depth)) {
        x[i].out = memory;
        x[i].q = (uint16_t *)(x[i].out + ROWS * depth);
        desk_set(&x[i], w, head / a->kv_heads, head % a->kv_heads, from + i * ROWS, w->norms + place * w->steps,
                 w->strips + (size_t)thread * w->strips_each);
        first_tops(&e, &x[i], k, base);
        if (x[i].end > end) end = x[i].end;
        squares += (size_t)(x[i].end - x[i].begin) / STEP;
    }
    if (soon != NULL) soon_pace(soon, squares * SOON_TURNS);
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
        const size_t G = w->a->kv_heads, b = index / G, place = (size_t)thread, heads = w->a->sequence.rows * G;
        for (size_t block = 0; block < w->blocks; block++) {
            soon next;
            const bool last = block + 1 == w->blocks, more = !last || index + 1 < heads;
            if (more) soon_set(&next, w, last ? index + 1 : index, last ? 0 : block + 1);
            for (size_t step = steps_before(w, b, block); step < steps_before(w, b, block + 1); step++)
                pack_step(w, b, index % G, 1, step, place, w->strips + place * w->strips_each);
            take_block(tiles, w, index, block, place, thread, more ? &next : NULL);
        }
    } else {
        const size_t head = index / w->blocks;
        take_block(tiles, w, head, w->blocks - 1 - index % w->blocks, head, thread, NULL);
    }
    plx_tiles_end(tiles);
    restore_denormals(state);
}

static plx_status attention_forward(plx_context *context, const plx_attention_args *a)
{
    const size_t heads = a->sequence.rows * a->kv_heads, threads = (size_t)context->options.threads;
    work w = {.a = a, .depth = depth_of(a->head_dim), .desks = DESKS};
    const size_t all = head_queries(a);
    for (size_t b = 0; b < a->sequence.rows; b++)
        if (history_steps(a, b) > w.steps) w.steps = history_steps(a, b);
    w.at_once = by_table(w.depth);
    w.near = (heads >= ENOUGH_JOBS || (w.at_once && heads % threads == 0)) &&
             2 * w.steps * strip_numbers(w.depth) <= (w.at_once ? 2 * NEAR : NEAR);
    /* Keys that are near need not be used by many desks at a time. One leaves room for what the next needs: tokens of a
     * head, often a power of two apart, share few sets of a cache. */
    if (w.near && w.at_once) w.desks = 1;
    while (!w.near && w.desks > 1 && heads * ((all + w.desks * ROWS - 1) / (w.desks * ROWS)) < ENOUGH_JOBS)
        w.desks /= 2;
    w.blocks = (all + w.desks * ROWS - 1) / (w.desks * ROWS);
    const size_t places = w.near ? threads : heads, operands = places * 2 * w.steps * strip_numbers(w.depth);
    const size_t together = w.near ? 1 : heads_together(a->head_dim);
    w.strips_each = (together < a->kv_heads ? together : a->kv_heads) * strip_floats(w.depth);
    const size_t each = SHARED_FLOATS + w.desks * desk_floats(w.depth);
    w.operands = plx_kernel_scratch(context, operands * sizeof *w.operands +
                                                 (places * w.steps + threads * (each + w.strips_each)) * sizeof(float));
    if (w.operands == NULL) return PLX_ERROR_MEMORY;
    w.strips = (float *)(w.operands + operands);
    w.scratch = (char *)(w.strips + threads * w.strips_each);
    w.scratch_each = each * sizeof(float);
    w.norms = (float *)(w.scratch + threads * w.scratch_each);
    if (!w.near)
        plx_parallel_for(context, a->sequence.rows * w.steps * head_groups(a->kv_heads, a->head_dim), pack_job, &w);
    plx_parallel_for(context, w.near ? heads : heads * w.blocks, forward_job, &w);
    return PLX_OK;
}

#endif
