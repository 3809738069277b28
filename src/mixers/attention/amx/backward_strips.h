/* backward_strips.h - what backward makes of its inputs: operands in strips of 32 tokens, and what queries see. */
#ifndef PLX_MIXERS_ATTENTION_AMX_BACKWARD_STRIPS_H
#define PLX_MIXERS_ATTENTION_AMX_BACKWARD_STRIPS_H

#include "mixers/attention/amx/operands.h"

/* Queries, keys: of three terms, P and dS of fewer are stored and loaded faster; of one, products of more outweigh the
 * loads and stores of their sums. */
#define BLOCK (OPERAND_TERMS == 1 ? 128 : 64)
#define STRIPS (BLOCK / STRIP)

/* Keys that a strip of queries sees: any of them, all of them (if all_begin < all_end). */
typedef struct sight {
    int32_t begin, end, all_begin, all_end;
} sight;

typedef struct work {
    const plx_attention_backward_args *a;
    size_t depth, blocks, strips; /* strips: of whole blocks */
    size_t parts, chunks;
    sight *sights;         /* [rows][strips] */
    int32_t *first, *last; /* [rows][strips * STRIP] */
    float *lse, *delta; /* [rows and heads][strips * STRIP]; lse times log2 e; of one term what is added to scores for
                           powers.h */
    float *key_sums;    /* [jobs or threads][blocks][2: k, v][depth][BLOCK] */
    float *query_sums;  /* [chunks, rows, heads] or [threads], of [strips *
                           STRIP][depth] */
    char *scratch;
    size_t scratch_each;
    float *strip; /* [threads][2][heads together][STRIP * strip_row(depth)] */
    size_t strip_each;
} work;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
/* Numbers of a head's sums. */
static size_t head_numbers(const work *w) { return w->strips * STRIP * w->depth; }

/* ---- strips ---- */

/* Some heads of a strip of a row of an array [B,T,heads,d]. */
typedef struct part {
    size_t b, strip, head, count;
} part;

static part part_of(const work *w, size_t heads, size_t index)
{
    const size_t together = heads_together(w->a->head_dim), groups = head_groups(heads, w->a->head_dim);
    part p = {.b = index / groups / w->strips, .strip = index / groups % w->strips, .head = index % groups * together};
    p.count = least(together, heads - p.head);
    return p;
}

/* They, one after the other in `to`; 0 beyond T. */
static void read_part(const work *w, const part *p, const void *x, size_t heads, float *to)
{
    const size_t T = w->a->sequence.length, d = w->a->head_dim;
    const float *rows[STRIP];
    for (size_t i = 0; i < STRIP; i++) {
        size_t t = p->strip * STRIP + i;
        rows[i] = t < T ? (const float *)x + ((p->b * T + t) * heads + p->head) * d : NULL;
    }
    read_strips(rows, p->count, d, w->depth, to);
}

/* delta of a strip's queries, dout rounded as in dO V^T, from which it is subtracted. */
static void find_delta(const float *dout, const float *out, size_t depth, float *delta)
{
    for (size_t half = 0; half < STRIP; half += 16) {
        vf sum[16];
        for (size_t i = 0; i < 16; i++) {
            const size_t row = (half + i) * strip_row(depth);
            sum[i] = vf_set(0.0f);
            for (size_t c = 0; c < depth; c += 16) {
                vf change = vf_load(dout + row + c);
                if (OPERAND_TERMS == 1) change = (vf)(vf_to_bf16(change) << 16);
                sum[i] += change * vf_load(out + row + c);
            }
        }
        vf_store(delta + half, lane_sums(sum));
    }
}

/* lse and delta of some heads of a strip. */
static void find_part_deltas(const work *w, const part p, int thread)
{
    const plx_attention_backward_args *a = w->a;
    const size_t H = a->heads, T = a->sequence.length, each = strip_floats(w->depth);
    float *strips = w->strip + (size_t)thread * w->strip_each, *out = strips + w->strip_each / 2;
    read_part(w, &p, a->dout, H, strips);
    read_part(w, &p, a->out, H, out);
    for (size_t i = 0; i < p.count; i++) {
        const size_t at = ((p.b * H + p.head + i) * w->strips + p.strip) * STRIP;
        find_delta(strips + i * each, out + i * each, w->depth, w->delta + at);
        for (size_t t = 0; t < STRIP; t++) {
            const size_t token = p.strip * STRIP + t;
            float lse = token < T ? ((const float *)a->lse)[(p.b * T + token) * H + p.head + i] : 0.0f;
            w->lse[at + t] =
                by_table(w->depth) ? (float)(POWERS_ONE - lse * LOG2_E * POWERS_STEPS) : (float)(lse * LOG2_E);
        }
    }
}
static void find_deltas(void *argument, size_t index, int thread)
{
    const work *w = argument;
    find_part_deltas(w, part_of(w, w->a->heads, index), thread);
}
static void find_head_deltas(const work *w, size_t b, size_t h, int thread)
{
    for (size_t strip = 0; strip < w->strips; strip++) find_part_deltas(w, (part){b, strip, h, 1}, thread);
}

/* ---- operands of a block, made where they are used: from memory they would come as up to 42 bytes a number ---- */

/* One after the other, block_numbers(depth) each. */
enum { BLOCK_Q, BLOCK_Q_TURNED, BLOCK_DOUT, BLOCK_DOUT_TURNED, QUERY_OPERANDS };
enum { BLOCK_K, BLOCK_K_ROWS, BLOCK_V, KEY_OPERANDS };
static inline size_t block_numbers(size_t depth) { return STRIPS * strip_numbers(depth); }

static void pack_queries(const work *w, size_t b, size_t h, size_t block, float *strip, uint16_t *to)
{
    const size_t H = w->a->heads, each = block_numbers(w->depth);
    for (size_t i = 0; i < STRIPS; i++, to += strip_numbers(w->depth)) {
        const part p = {b, block * STRIPS + i, h, 1};
        read_part(w, &p, w->a->q, H, strip);
        scale_queries(strip, w->depth, w->a->scale);
        pack_tokens(strip, w->depth, false, to + BLOCK_Q * each);
        pack_components(strip, w->depth, true, IN_ORDER, to + BLOCK_Q_TURNED * each);
        read_part(w, &p, w->a->dout, H, strip);
        pack_tokens(strip, w->depth, false, to + BLOCK_DOUT * each);
        pack_components(strip, w->depth, true, IN_ORDER, to + BLOCK_DOUT_TURNED * each);
    }
}

static void pack_keys(const work *w, size_t b, size_t g, size_t block, float *strip, uint16_t *to)
{
    const size_t G = w->a->kv_heads, each = block_numbers(w->depth);
    for (size_t i = 0; i < STRIPS; i++, to += strip_numbers(w->depth)) {
        const part p = {b, block * STRIPS + i, g, 1};
        read_part(w, &p, w->a->k, G, strip);
        pack_tokens(strip, w->depth, true, to + BLOCK_K * each);
        pack_components(strip, w->depth, false, BY_HALVES, to + BLOCK_K_ROWS * each);
        read_part(w, &p, w->a->v, G, strip);
        pack_tokens(strip, w->depth, true, to + BLOCK_V * each);
    }
}

/* What the queries of a row see. */
static void find_sights(void *argument, size_t b, int thread)
{
    (void)thread;
    const work *w = argument;
    const plx_attention_backward_args *a = w->a;
    for (size_t strip = 0; strip < w->strips; strip++) {
        sight s = {INT32_MAX, 0, 0, INT32_MAX};
        for (size_t i = 0; i < STRIP; i++) {
            size_t t = strip * STRIP + i, at = b * w->strips * STRIP + t;
            bool is = t < a->sequence.length;
            w->first[at] = is ? plx_attention_first(&a->sequence, b, t, a->window) : INT32_MAX;
            w->last[at] = is ? (int32_t)t : -1;
            if (is && w->first[at] < s.begin) s.begin = w->first[at];
            if (is && w->last[at] >= s.end) s.end = w->last[at] + 1;
            if (w->first[at] > s.all_begin) s.all_begin = w->first[at];
            if (w->last[at] + 1 < s.all_end) s.all_end = w->last[at] + 1;
        }
        w->sights[b * w->strips + strip] = s;
    }
}

#endif
