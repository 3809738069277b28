/* forward.c - attention forward with bf16 tiles: the softmax of cpu/forward.c, its products by tiles.
 *
 * First K and V of each row and head are made into right operands, once for all queries. Then a job takes 32 queries
 * (rows of the tiles, so that P leaves the softmax as rows of a left operand) through their keys:
 *
 *     S[32 q][32 keys] = Q K^T     in four tiles, stored, turned into P = 2^(c S - m) in bf16; S of the next 32 keys is
 *                                  already being multiplied meanwhile
 *     O[32 q][d] += P V            after every 256 keys, four tiles of O at a time
 *
 * Operands are rounded to bf16: q, k, v and P; S, O and the sums of P are f32. */
#include "mixers/attention/attention_ops.h"

#include "kernels/amx/square.h"
#include "kernels/cpu/parts.h"

#include <math.h>

#define ROWS 32  /* queries of a job */
#define STEP 32  /* keys of a step */
#define KEYS 256 /* keys between two visits to O */
#define MOST_SUM 1e18f
#define LOG2_E 1.4426950408889634
enum { TILE = 512 }; /* bf16 numbers of a tile */

typedef struct work {
    const plx_attention_args *a;
    size_t blocks, steps; /* of queries a row and head; of keys a row and head, at most */
    size_t depth;         /* d, up to a multiple of 32 */
    uint16_t *k, *v;      /* [row and head][step]: K in 2 x depth / 32 tiles, V in depth / 16 */
    char *scratch;
    size_t scratch_each;
} work;

static int64_t history_begin(const plx_attention_args *a, size_t b)
{
    return plx_attention_first(&a->sequence, b, 0, a->window);
}
static int64_t history_end(const plx_attention_args *a, size_t b)
{
    return (a->sequence.past != NULL ? a->sequence.past[b] : 0) + (int64_t)a->sequence.length;
}

/* 16 numbers of a row of d from c on, zeros beyond; rows that are NULL are zero. */
INLINE vf row_part(const float *row, size_t c, size_t d)
{
    return row == NULL || c >= d ? vf_set(0.0f) : vf_next(row + c, d - c);
}

/* A step of keys: K as pairs of neighbouring components by key, V as pairs of neighbouring keys by component. */
static void pack_step(void *argument, size_t index, int thread)
{
    (void)thread;
    const work *w = argument;
    const plx_attention_args *a = w->a;
    const size_t d = a->head_dim, G = a->kv_heads, step = index % w->steps, head = index / w->steps;
    const size_t b = head / G, g = head % G;
    int64_t key = history_begin(a, b) + (int64_t)(step * STEP), end = history_end(a, b);
    if (key >= end) return;
    uint16_t *k = w->k + index * STEP * w->depth, *v = w->v + index * STEP * w->depth;
    const float *keys[STEP], *values[STEP];
    for (int i = 0; i < STEP; i++) {
        bool held = key + i < end;
        keys[i] = held ? (const float *)a->keys.data + plx_history_index(&a->keys, b, key + i) + g * d : NULL;
        values[i] = held ? (const float *)a->values.data + plx_history_index(&a->values, b, key + i) + g * d : NULL;
    }
    for (size_t half = 0; half < STEP; half += 16)
        for (size_t c = 0; c < w->depth; c += 32, k += TILE) {
            vf square[16];
            for (int i = 0; i < 16; i++)
                vf_store_bf16(&square[i], row_part(keys[half + i], c, d), row_part(keys[half + i], c + 16, d));
            transpose(square);
            memcpy(k, square, sizeof square);
        }
    for (size_t c = 0; c < w->depth; c += 16, v += TILE)
        for (int i = 0; i < 16; i++) {
            vi pairs = vf_bf16_pairs(row_part(values[2 * i], c, d), row_part(values[2 * i + 1], c, d));
            memcpy(v + 32 * i, &pairs, sizeof pairs);
        }
}

/* 2^x to bf16's precision: a polynomial of degree 3, 7.5e-5 off, where rounding to bf16 is 2e-3 off. */
INLINE vf short_exp2(vf x)
{
#if defined(__AVX512DQ__)
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vf_set(7.8024523e-2f) * f + vf_set(2.2606716e-1f);
    p = p * f + vf_set(6.9583354e-1f);
    p = p * f + vf_set(9.9992522e-1f);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return vf_exp2(x);
#endif
}

/* What a job holds: 32 queries and what they have summed. */
typedef struct desk {
    uint16_t *q;              /* [2][depth / 32] tiles */
    uint16_t *p;              /* [2][KEYS / 32] tiles */
    float *s;                 /* [2][32][32]: of the even and the odd steps */
    float *out;               /* [32][depth] */
    vf sum[ROWS], rise[ROWS]; /* lane by lane */
    float top[ROWS];
    int32_t first[ROWS], last[ROWS];
    size_t query[ROWS], count;
    int64_t begin, end, all_begin, all_end; /* as in cpu/tiles.h */
    float scale;
} desk;

/* s = Q K^T of a step */
static void multiply_scores(plx_tiles *tiles, const desk *x, const uint16_t *k, size_t depth, float *s)
{
    square_zero(tiles);
    square_multiply(tiles, (square_operand){x->q, 16 * depth, TILE}, (square_operand){k, 16 * depth, TILE}, 0,
                    depth / 32);
    square_store(tiles, s, STEP);
}

/* out += P V of `steps` steps from number `from` on */
static void multiply_values(plx_tiles *tiles, const desk *x, const uint16_t *v, size_t depth, size_t from, size_t steps)
{
    for (size_t c = 0; c < depth; c += 32) {
        square_load(tiles, x->out + c, depth);
        square_multiply(tiles, (square_operand){x->p, KEYS / 32 * TILE, TILE},
                        (square_operand){v + c / 16 * TILE, TILE, STEP * depth}, from, steps);
        square_store(tiles, x->out + c, depth);
    }
}

/* All bits set in the lanes of keys key .. key + 15 that lie in first .. last. */
INLINE vi keys_seen(int64_t key, int32_t first, int32_t last)
{
    static const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vi number;
    memcpy(&number, numbers, sizeof number);
    number += (int32_t)key;
    return (vi)(number >= first) & (vi)(number <= last);
}

/* P of a step from its scores; `number` is the step's in the tile. With `seen`, 0 where a query does not see the key.
 */
INLINE void make_probabilities(desk *x, const float *s, size_t number, int64_t key, const bool seen)
{
    for (int half = 0; half < 2; half++) {
        uint16_t *p = x->p + ((size_t)half * (KEYS / 32) + number) * TILE;
        for (int i = 0; i < 16; i++) {
            const int row = 16 * half + i;
            vf left = short_exp2(vf_load(s + STEP * row) * x->scale - x->top[row]);
            vf right = short_exp2(vf_load(s + STEP * row + 16) * x->scale - x->top[row]);
            if (seen) {
                left = vf_select(keys_seen(key, x->first[row], x->last[row]), left, vf_set(0.0f));
                right = vf_select(keys_seen(key + 16, x->first[row], x->last[row]), right, vf_set(0.0f));
            }
            vf_store_bf16(p + 32 * i, left, right);
            x->sum[row] += left + right;
        }
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

static void take_step(desk *x, const float *s, size_t number, int64_t key, bool rise)
{
    if (rise)
        find_rise(x, s, key);
    else if (key >= x->all_begin && key + STEP <= x->all_end)
        make_probabilities(x, s, number, key, false);
    else
        make_probabilities(x, s, number, key, true);
}

/* Steps from .. to - 1 of the tile whose first key is `key`; each is multiplied before the one before it is used. */
static void take_steps(plx_tiles *tiles, desk *x, const uint16_t *k, size_t depth, size_t from, size_t to, int64_t key,
                       bool rise)
{
    multiply_scores(tiles, x, k + from * STEP * depth, depth, x->s + from % 2 * 1024);
    for (size_t i = from; i < to; i++) {
        if (i + 1 < to) multiply_scores(tiles, x, k + (i + 1) * STEP * depth, depth, x->s + (i + 1) % 2 * 1024);
        take_step(x, x->s + i % 2 * 1024, i, key + (int64_t)(i * STEP), rise);
    }
}

/* All bits set in lanes whose sums are too large, or not numbers. */
INLINE vi beyond(vf sum) { return ~(vi)(sum < vf_set(MOST_SUM)); }

static bool any(vi mask)
{
    for (int i = 0; i < 16; i++)
        if (mask[i] != 0) return true;
    return false;
}

/* Tops rise to the largest scores for queries whose sums got too large; what they had summed before shrinks. */
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

static void take_tile(plx_tiles *tiles, desk *x, const uint16_t *k, const uint16_t *v, size_t depth, int64_t key)
{
    size_t from = x->begin > key ? (size_t)(x->begin - key) / STEP : 0;
    size_t to = x->end - key < KEYS ? (size_t)(x->end - key + STEP - 1) / STEP : KEYS / STEP;
    vf before[ROWS];
    memcpy(before, x->sum, sizeof before);
    take_steps(tiles, x, k, depth, from, to, key, false);
    vi over = {0};
    for (int row = 0; row < ROWS; row++) over |= beyond(x->sum[row]);
    if (any(over)) {
        memset(x->rise, 0, sizeof x->rise);
        take_steps(tiles, x, k, depth, from, to, key, true);
        raise_tops(x, before, depth);
        take_steps(tiles, x, k, depth, from, to, key, false);
    }
    multiply_values(tiles, x, v, depth, from, to - from);
}

/* The queries' operands, the keys that they see, and their first tops: the scores with their own tokens. */
static void desk_set(desk *x, const work *w, size_t b, size_t g, size_t from)
{
    const plx_attention_args *a = w->a;
    const size_t T = a->sequence.length, d = a->head_dim, group = a->heads / a->kv_heads;
    x->count = T * group - from < ROWS ? T * group - from : ROWS;
    x->scale = (float)(a->scale * LOG2_E);
    x->begin = x->all_end = INT32_MAX;
    x->end = x->all_begin = 0;
    vf dot[ROWS];
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
        const float *q = (const float *)a->q + x->query[row] * d;
        const float *k = (const float *)a->keys.data + plx_history_index(&a->keys, b, last) + g * d;
        uint16_t *to = x->q + row / 16 * 16 * w->depth + row % 16 * 32;
        dot[row] = vf_set(0.0f);
        for (size_t c = 0; c < w->depth; c += 32, to += TILE) {
            vf left = row_part(q, c, d), right = row_part(q, c + 16, d);
            vf_store_bf16(to, left, right);
            dot[row] += left * row_part(k, c, d) + right * row_part(k, c + 16, d);
        }
    }
    for (int half = 0; half < ROWS; half += 16) vf_store(x->top + half, lane_sums(dot + half) * x->scale);
    memset(x->sum, 0, sizeof x->sum);
    memset(x->out, 0, ROWS * w->depth * sizeof *x->out);
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
    /* a head's queries one after the other: its K and V stay near; the last see most keys and go first */
    const size_t head = index / w->blocks, number = w->blocks - 1 - index % w->blocks;
    const size_t b = head / a->kv_heads, depth = w->depth, tile = KEYS / STEP;
    char *memory = w->scratch + (size_t)thread * w->scratch_each;
    desk x = {.q = (uint16_t *)memory};
    x.p = x.q + ROWS * depth;
    x.s = (float *)(x.p + ROWS * KEYS);
    x.out = x.s + 2 * ROWS * STEP;
    unsigned state = flush_denormals();
    plx_tiles registers, *tiles = &registers;
    plx_tiles_begin(tiles);
    desk_set(&x, w, b, head % a->kv_heads, number * ROWS);
    const int64_t base = history_begin(a, b);
    for (size_t step = (size_t)(x.begin - base) / STEP / tile * tile; base + (int64_t)(step * STEP) < x.end;
         step += tile) {
        size_t at = (head * w->steps + step) * STEP * depth;
        take_tile(tiles, &x, w->k + at, w->v + at, depth, base + (int64_t)(step * STEP));
    }
    plx_tiles_end(tiles);
    desk_write(&x, w);
    restore_denormals(state);
}

plx_status PLX_CPU(plx_attention_forward)(plx_context *context, const void *arguments)
{
    const plx_attention_args *a = arguments;
    const size_t heads = a->sequence.rows * a->kv_heads;
    work w = {.a = a, .depth = (a->head_dim + 31) / 32 * 32};
    w.blocks = (a->sequence.length * (a->heads / a->kv_heads) + ROWS - 1) / ROWS;
    for (size_t b = 0; b < a->sequence.rows; b++) {
        size_t steps = (size_t)(history_end(a, b) - history_begin(a, b) + STEP - 1) / STEP;
        if (steps > w.steps) w.steps = steps;
    }
    size_t packed = heads * w.steps * STEP * w.depth * sizeof(uint16_t);
    w.scratch_each = ROWS * (w.depth + KEYS) * sizeof(uint16_t) + (2 * ROWS * STEP + ROWS * w.depth) * sizeof(float);
    char *memory = plx_kernel_scratch(context, 2 * packed + (size_t)context->options.threads * w.scratch_each);
    if (memory == NULL) return PLX_ERROR_MEMORY;
    w.k = (uint16_t *)memory;
    w.v = (uint16_t *)(memory + packed);
    w.scratch = memory + 2 * packed;
    plx_parallel_for(context, heads * w.steps, pack_step, &w);
    plx_parallel_for(context, heads * w.blocks, forward_job, &w);
    return PLX_OK;
}
