/* backward.h - gradients of attention with bf16 tiles.
 *
 * A job goes through the blocks of keys of one row and key/value head, as many at a time as stay near, and for these
 * through the query heads and the blocks of queries that see them. Of each it makes operands, in strips of 32 tokens
 * (backward_strips.h):
 *
 *     S = Q K^T,  dO V^T           32 queries by 32 keys at a time, stored; the next ones are multiplied while the
 *                                  vectors make P = 2^(c S - lse) and dS = P (dO V^T - delta) of these
 *     dQ += dS K                   dS leaves as rows of a left operand
 *     dV^T += dO^T P               P and dS leave as right operands with the queries as depth, two rows in pairs:
 *     dK^T += Q^T dS               nothing is transposed on the way
 *
 * In a row of dS the keys n and n + 16 are neighbours, which is two instructions away from the pairs; K lies so too.
 * q, k, v, dout, P and dS are operands, of one or three terms (operands.h); S, dO V^T and all sums are f32.
 *
 * Where rows and heads are few, a job has some of a group's query heads (`parts`) or of the blocks of keys (`chunks`):
 * then sums for dK and dV, or for dQ, are added up in order at the end. The cut follows from the shape alone. */
#ifndef PLX_MIXERS_ATTENTION_AMX_BACKWARD_H
#define PLX_MIXERS_ATTENTION_AMX_BACKWARD_H

#include "mixers/attention/amx/backward_strips.h"
#include "mixers/attention/amx/soon.h"

#define ENOUGH_JOBS 8
#define WEIGHTS (BLOCK * BLOCK) /* numbers of a plane of P and dS */
/* Numbers of k that stay near: with v, their other forms and their sums, 14 bytes each (26 of three terms). Fewer lose
 * more by making the queries' operands again than by what then comes from beyond 2 MB of L2. */
#define NEAR_KEYS (1 << 16)
#define NEAR_NEXT (1 << 17) /* numbers of a job's arrays that may come near while the one before works */

/* ---- a block of queries and a block of keys ---- */

/* What a job holds. Operands p and ds: tiles [keys / 16][strips of queries]; ds_rows: [strips of queries][half][strips
 * of keys]. */
typedef struct desk {
    uint16_t *p, *ds, *ds_rows;
    float *s; /* [2][S, dO V^T][32][32]: of this square and of the next */
    float *dq, *dk, *dv;
    float scale;
    size_t depth;
    float *strip;
    uint16_t *queries, *keys; /* operands: of the block of queries, of the blocks of keys that stay near */
    /* of the blocks in work */
    const uint16_t *q, *q_turned, *o, *o_turned, *k, *k_rows, *v;
    const float *lse, *delta;
    const int32_t *first, *last;
    const sight *sights;
    int64_t key; /* number of the first */
    soon *soon;  /* or NULL */
} desk;

/* Which squares of 32 x 32 a block has: keys begin .. end - 1 of each strip of queries, queries from .. to - 1 of each
 * strip of keys, counted in strips. */
typedef struct squares {
    size_t begin[STRIPS], end[STRIPS], from[STRIPS], to[STRIPS];
    size_t count;
    uint8_t query[STRIPS * STRIPS], key[STRIPS * STRIPS];
} squares;

static void squares_set(squares *s, const desk *x)
{
    for (size_t j = 0; j < STRIPS; j++) {
        s->from[j] = STRIPS;
        s->to[j] = 0;
    }
    for (size_t i = 0; i < STRIPS; i++) {
        int64_t begin = x->sights[i].begin - x->key, end = x->sights[i].end - x->key;
        begin = begin < 0 ? 0 : begin;
        end = end > BLOCK ? BLOCK : end;
        s->begin[i] = begin < end ? (size_t)begin / STRIP : 0;
        s->end[i] = begin < end ? (size_t)(end + STRIP - 1) / STRIP : 0;
        for (size_t j = s->begin[i]; j < s->end[i]; j++) {
            if (s->to[j] == 0) s->from[j] = i;
            s->to[j] = i + 1;
        }
    }
    s->count = 0; /* strips of queries that see nothing between others that do are
                     worked on too: P is 0 there */
    for (size_t i = 0; i < STRIPS; i++)
        for (size_t j = 0; j < STRIPS; j++)
            if (s->from[j] <= i && i < s->to[j]) {
                s->query[s->count] = (uint8_t)i;
                s->key[s->count++] = (uint8_t)j;
            }
}

static void ahead_set(ahead *a, const desk *x, const squares *s, size_t number)
{
    const size_t depth = x->depth, each = strip_numbers(depth), q = s->query[number] * each, k = s->key[number] * each;
    float *to = x->s + number % 2 * 2 * STRIP * STRIP;
    ahead_clear(a);
    ahead_add(a, (planes){{x->q + q, 16 * depth, TILE}, STRIP * depth},
              (planes){{x->k + k, 16 * depth, TILE}, STRIP * depth}, 0, depth / 32, to, STRIP, false);
    ahead_add(a, (planes){{x->o + q, 16 * depth, TILE}, STRIP * depth},
              (planes){{x->v + k, 16 * depth, TILE}, STRIP * depth}, 0, depth / 32, to + STRIP * STRIP, STRIP, false);
}

/* P of two rows, in pairs, and as numbers; of one term by the table of powers.h, where forward did so as well. */
INLINE void make_pairs(const vf scores[2], const float *lse, float scale, const bool table, const bool scaled, vf p[2],
                       vi pairs[OPERAND_TERMS])
{
    if (table) {
        pairs[0] = powers_paired(scores[0] + lse[0], scores[1] + lse[1]);
        p[0] = powers_low(pairs[0]);
        p[1] = powers_high(pairs[0]);
        return;
    }
    for (size_t row = 0; row < 2; row++)
        p[row] =
            operand_exp2(scaled ? (scores[row] + (lse[row] - POWERS_ONE)) * scale : scores[row] * scale - lse[row]);
    pair_rows(p[0], p[1], pairs);
}

/* P and dS of a square, in all their forms, while the next one is multiplied. With `seen`, 0 where a query does not see
 * the key. */
INLINE void make_weights(plx_tiles *tiles, const desk *x, size_t i, size_t j, const float *s, const bool seen,
                         const bool table, ahead *next)
{
    const float *change = s + STRIP * STRIP;
    for (size_t r = 0; r < STRIP; r += 2, s += 2 * STRIP, change += 2 * STRIP) {
        vi pairs[2][OPERAND_TERMS];
        go_ahead(tiles, next, next->total * (r + 2) / STRIP);
        if (x->soon != NULL && r % (STRIP / SOON_TURNS) == 0) soon_fetch(x->soon);
        for (size_t side = 0; side < 2; side++) {
            const size_t at = i * STRIP + r, to = ((2 * j + side) * STRIPS + i) * TILE + r * 16;
            const vf scores[2] = {vf_load(s + side * 16), vf_load(s + STRIP + side * 16)};
            vf p[2], ds[2];
            vi p_pairs[OPERAND_TERMS], see[2];
            make_pairs(scores, x->lse + at, x->scale, table && !seen, table, p, p_pairs);
            for (size_t row = 0; row < 2; row++) {
                ds[row] = p[row] * (vf_load(change + row * STRIP + side * 16) - x->delta[at + row]);
                if (!seen) continue;
                see[row] = keys_seen(x->key + (int64_t)(j * STRIP + side * 16), x->first[at + row], x->last[at + row]);
                p[row] = vf_select(see[row], p[row], vf_set(0.0f));
                ds[row] = vf_select(see[row], ds[row], vf_set(0.0f));
            }
            if (seen) pair_rows(p[0], p[1], p_pairs);
            pair_rows(ds[0], ds[1], pairs[side]);
            UNROLL for (int term = 0; term < OPERAND_TERMS; term++)
            {
                memcpy(x->p + to + term * WEIGHTS, &p_pairs[term], sizeof p_pairs[term]);
                memcpy(x->ds + to + term * WEIGHTS, &pairs[side][term], sizeof p_pairs[term]);
            }
        }
        UNROLL for (int term = 0; term < OPERAND_TERMS; term++)
        {
            const vi upper = (vi){0} + (int32_t)0xffff0000, left = pairs[0][term], right = pairs[1][term];
            vi even = (left & ~upper) | right << 16, odd = (left >> 16 & ~upper) | (right & upper);
            uint16_t *row = x->ds_rows + term * WEIGHTS + ((2 * i + r / 16) * STRIPS + j) * TILE + r % 16 * 32;
            memcpy(row, &even, sizeof even);
            memcpy(row + 32, &odd, sizeof odd);
        }
    }
}

/* Whether all lse of a strip's queries are, and so all scores that they see: finite, or - infinity. */
static bool finite_strip(const float *lse) { return vf_sum((vf_load(lse) + vf_load(lse + 16)) * 0.0f) == 0; }

static void make_square(plx_tiles *tiles, const desk *x, const squares *s, size_t number)
{
    const size_t i = s->query[number], j = s->key[number];
    const int64_t key = x->key + (int64_t)(j * STRIP);
    ahead next;
    ahead_clear(&next);
    if (number + 1 < s->count) ahead_set(&next, x, s, number + 1);
    const float *from = x->s + number % 2 * 2 * STRIP * STRIP;
    const bool all = key >= x->sights[i].all_begin && key + STRIP <= x->sights[i].all_end;
    const bool table = by_table(x->depth);
    if (table && all && finite_strip(x->lse + i * STRIP))
        make_weights(tiles, x, i, j, from, false, true, &next);
    else if (table)
        make_weights(tiles, x, i, j, from, true, true, &next);
    else if (all)
        make_weights(tiles, x, i, j, from, false, false, &next);
    else
        make_weights(tiles, x, i, j, from, true, false, &next);
    end_ahead(tiles, &next);
}

/* c [depth][BLOCK] += left weights, left being components of queries. */
static void add_keys(plx_tiles *tiles, const desk *x, const squares *s, const uint16_t *left, const uint16_t *weights,
                     float *c, square_place *held)
{
    const size_t depth = x->depth;
    for (size_t row = 0; row < depth; row += 32)
        for (size_t j = 0; j < STRIPS; j++) {
            if (s->from[j] >= s->to[j]) continue;
            multiply(tiles, (planes){{left + row / 16 * TILE, TILE, strip_numbers(depth)}, STRIP * depth},
                     (planes){{weights + 2 * j * STRIPS * TILE, STRIPS * TILE, TILE}, WEIGHTS}, s->from[j],
                     s->to[j] - s->from[j], held, (square_place){c + row * BLOCK + j * STRIP, BLOCK});
        }
}

static void add_queries(plx_tiles *tiles, const desk *x, const squares *s, square_place *held)
{
    const size_t depth = x->depth;
    for (size_t i = 0; i < STRIPS; i++)
        for (size_t c = 0; c < depth && s->begin[i] < s->end[i]; c += 32)
            multiply(tiles, (planes){{x->ds_rows + 2 * i * STRIPS * TILE, STRIPS * TILE, TILE}, WEIGHTS},
                     (planes){{x->k_rows + c / 16 * TILE, TILE, strip_numbers(depth)}, STRIP * depth}, s->begin[i],
                     s->end[i] - s->begin[i], held, (square_place){x->dq + i * STRIP * depth + c, depth});
}

static void take_block(plx_tiles *tiles, const desk *x)
{
    squares s;
    squares_set(&s, x);
    if (s.count == 0) return;
    ahead first;
    ahead_set(&first, x, &s, 0);
    end_ahead(tiles, &first);
    for (size_t number = 0; number < s.count; number++) make_square(tiles, x, &s, number);
    square_place held = {NULL, 0};
    add_keys(tiles, x, &s, x->o_turned, x->p, x->dv, &held);
    add_keys(tiles, x, &s, x->q_turned, x->ds, x->dk, &held);
    add_queries(tiles, x, &s, &held);
    square_end(tiles, &held);
}

/* ---- results ---- */

/* dq of a block of queries, from sums for each of the chunks, `stride` apart. */
static void write_queries(const work *w, size_t head, size_t block, const float *sums, size_t stride)
{
    const plx_attention_backward_args *a = w->a;
    const size_t T = a->sequence.length, H = a->heads, d = a->head_dim;
    for (size_t t = block * BLOCK; t < least(T, (block + 1) * BLOCK); t++)
        for (size_t c = 0; c < d; c += 16) {
            vf sum = vf_load(sums + t * w->depth + c);
            for (size_t i = 1; i < w->chunks; i++) sum += vf_load(sums + i * stride + t * w->depth + c);
            vf_put((float *)a->dq + ((head / H * T + t) * H + head % H) * d + c, sum * (float)a->scale, d - c);
        }
}

/* dk and dv of a block of keys, from sums for each of the parts, `stride` apart. */
static void write_keys(const work *w, size_t head, size_t block, const float *sums, size_t stride)
{
    const plx_attention_backward_args *a = w->a;
    const size_t T = a->sequence.length, G = a->kv_heads, d = a->head_dim;
    const size_t count = least(T - block * BLOCK, BLOCK);
    for (size_t side = 0; side < 2; side++) {
        float *to = (float *)(side == 0 ? a->dk : a->dv) + ((head / G * T + block * BLOCK) * G + head % G) * d;
        const float *from = sums + (block * 2 + side) * w->depth * BLOCK;
        vf factor = vf_set(side == 0 ? gradient_scale(a->scale, w->depth) : 1.0f);
        for (size_t key = 0; key < count; key += 16)
            for (size_t c = 0; c < d; c += 16) {
                vf square[16];
                for (size_t i = 0; i < 16; i++) {
                    square[i] = vf_load(from + (c + i) * BLOCK + key);
                    for (size_t part = 1; part < w->parts; part++)
                        square[i] += vf_load(from + part * stride + (c + i) * BLOCK + key);
                }
                transpose(square);
                for (size_t i = 0; i < 16 && key + i < count; i++)
                    vf_put(to + (key + i) * G * d + c, square[i] * factor, d - c);
            }
    }
}

static size_t key_floats(const work *w) { return w->blocks * 2 * w->depth * BLOCK; }

static void join_keys(void *argument, size_t index, int thread)
{
    (void)thread;
    const work *w = argument;
    const size_t head = index / w->blocks;
    write_keys(w, head, index % w->blocks, w->key_sums + head * w->parts * key_floats(w), key_floats(w));
}

static void join_queries(void *argument, size_t head, int thread)
{
    (void)thread;
    const work *w = argument;
    const size_t each = head_numbers(w);
    for (size_t block = 0; block < w->blocks; block++)
        write_queries(w, head, block, w->query_sums + head * each, w->a->sequence.rows * w->a->heads * each);
}

/* ---- jobs ---- */

/* The first block of keys of a chunk: all have about the same number of pairs, of which the first keys have most. */
static size_t chunk_begin(const work *w, size_t chunk)
{
    double share = (double)chunk / (double)w->chunks;
    return (size_t)((double)w->blocks * (w->a->window == 0 ? 1 - sqrt(1 - share) : share) + 0.5);
}

/* Whether queries of the strips see keys begin .. end - 1. */
static bool any_sees(const sight *sights, int64_t begin, int64_t end)
{
    for (size_t i = 0; i < STRIPS; i++)
        if (sights[i].begin < end && sights[i].end > begin) return true;
    return false;
}

static void take_queries(plx_tiles *tiles, const work *w, desk *x, size_t begin, size_t end, float *key_sums)
{
    const size_t block = BLOCK * w->depth, each = block_numbers(w->depth);
    x->q = x->queries + BLOCK_Q * each;
    x->q_turned = x->queries + BLOCK_Q_TURNED * each;
    x->o = x->queries + BLOCK_DOUT * each;
    x->o_turned = x->queries + BLOCK_DOUT_TURNED * each;
    for (size_t keys = begin; keys < end; keys++) {
        const uint16_t *operands = x->keys + (keys - begin) * KEY_OPERANDS * each;
        x->key = (int64_t)(keys * BLOCK);
        x->k = operands + BLOCK_K * each;
        x->k_rows = operands + BLOCK_K_ROWS * each;
        x->v = operands + BLOCK_V * each;
        x->dk = key_sums + keys * 2 * block;
        x->dv = x->dk + block;
        take_block(tiles, x);
    }
}

/* Blocks of keys that stay near. */
static size_t near_blocks(const work *w)
{
    const size_t count = NEAR_KEYS / (BLOCK * w->depth);
    return count > 0 ? least(count, w->blocks) : 1;
}

/* The blocks of keys from .. to - 1 and all queries of a head that see them. first, last: of the heads that the job
 * takes. */
static void take_head(plx_tiles *tiles, const work *w, desk *x, size_t b, size_t h, size_t from, size_t to, bool first,
                      bool last, float *query_sums, float *key_sums)
{
    const size_t H = w->a->heads, G = w->a->kv_heads, g = h / (H / G), block = BLOCK * w->depth;
    const size_t head = b * H + h, tokens = w->strips * STRIP, numbers = KEY_OPERANDS * block_numbers(w->depth);
    for (size_t begin = from, end; begin < to; begin = end) {
        end = least(begin + near_blocks(w), to);
        if (first) memset(key_sums + begin * 2 * block, 0, (end - begin) * 2 * block * sizeof *key_sums);
        for (size_t keys = begin; keys < end; keys++)
            pack_keys(w, b, g, keys, x->strip, x->keys + (keys - begin) * numbers);
        for (size_t queries = begin; queries < w->blocks; queries++) {
            const size_t row = head * tokens + queries * BLOCK;
            x->sights = w->sights + b * w->strips + queries * STRIPS;
            if (!any_sees(x->sights, (int64_t)(begin * BLOCK), (int64_t)(end * BLOCK))) continue;
            pack_queries(w, b, h, queries, x->strip, x->queries);
            x->dq = query_sums + queries * block;
            x->lse = w->lse + row;
            x->delta = w->delta + row;
            x->first = w->first + b * tokens + queries * BLOCK;
            x->last = w->last + b * tokens + queries * BLOCK;
            take_queries(tiles, w, x, begin, least(queries + 1, end), key_sums);
            if (w->chunks == 1 && queries < end) write_queries(w, head, queries, query_sums, 0); /* they see no more */
        }
        for (size_t keys = begin; keys < end && last && w->parts == 1; keys++)
            write_keys(w, b * G + g, keys, key_sums, 0);
    }
}

/* Arrays of a row and key/value head; not taken if they are many numbers. */
static bool soon_set(soon *s, const work *w, size_t head)
{
    const plx_attention_backward_args *a = w->a;
    const size_t T = a->sequence.length, G = a->kv_heads, b = head / G, g = head % G, d = a->head_dim;
    const size_t width = a->heads / G * d, queries = (b * T * G + g) * width, keys = (b * T * G + g) * d;
    soon_begin(s);
    if (head >= a->sequence.rows * G || 4 * T * (width + d) > NEAR_NEXT) return false;
    const void *of_queries[] = {a->dout, a->out, a->q, a->dq}, *of_keys[] = {a->k, a->v, a->dk, a->dv};
    for (size_t i = 0; i < 4; i++) soon_add(s, of_queries[i], queries, T, width, G * width, i == 3);
    for (size_t i = 0; i < 4; i++) soon_add(s, of_keys[i], keys, T, d, G * d, i >= 2);
    soon_pace(s, w->strips * (w->strips + 1) / 2 * SOON_TURNS); /* without a window, all squares */
    return true;
}

static void backward_job(void *argument, size_t index, int thread)
{
    const work *w = argument;
    const plx_attention_backward_args *a = w->a;
    const size_t H = a->heads, G = a->kv_heads, group = H / G, heads = a->sequence.rows * G;
    const size_t chunk = index / heads / w->parts, head = index / w->parts % heads, part = index % w->parts;
    const size_t from = chunk_begin(w, chunk), to = chunk_begin(w, chunk + 1), b = head / G;
    float *key_sums = w->key_sums + (w->parts > 1 ? head * w->parts + part : (size_t)thread) * key_floats(w);
    char *scratch = w->scratch + (size_t)thread * w->scratch_each;
    desk x = {.p = (uint16_t *)scratch, .scale = product_scale(a->scale, w->depth), .depth = w->depth};
    x.ds = x.p + OPERAND_TERMS * WEIGHTS;
    x.ds_rows = x.ds + OPERAND_TERMS * WEIGHTS;
    x.s = (float *)(x.ds_rows + OPERAND_TERMS * WEIGHTS);
    x.queries = (uint16_t *)(x.s + 4 * STRIP * STRIP);
    x.keys = x.queries + QUERY_OPERANDS * block_numbers(w->depth);
    x.strip = w->strip + (size_t)thread * w->strip_each;
    soon next;
    if (w->parts == 1 && w->chunks == 1 && soon_set(&next, w, head + 1)) x.soon = &next;
    unsigned state = flush_denormals();
    plx_tiles registers, *tiles = &registers;
    plx_tiles_begin(tiles);
    const size_t first = group * part / w->parts, end = group * (part + 1) / w->parts;
    for (size_t h = first; h < end; h++) {
        const size_t query_head = b * H + head % G * group + h;
        size_t place = w->chunks > 1 ? chunk * a->sequence.rows * H + query_head : (size_t)thread;
        float *query_sums = w->query_sums + place * head_numbers(w);
        memset(query_sums, 0, head_numbers(w) * sizeof *query_sums);
        if (w->chunks == 1) find_head_deltas(w, b, query_head % H, thread);
        take_head(tiles, w, &x, b, query_head % H, from, to, h == first, h + 1 == end, query_sums, key_sums);
    }
    plx_tiles_end(tiles);
    restore_denormals(state);
}

static void divide(work *w)
{
    const plx_attention_backward_args *a = w->a;
    const size_t heads = a->sequence.rows * a->kv_heads, group = a->heads / a->kv_heads;
    w->parts = least((ENOUGH_JOBS + heads - 1) / heads, group);
    w->chunks = least((ENOUGH_JOBS + heads * w->parts - 1) / (heads * w->parts), (w->blocks + 1) / 2);
}

/* Lays the memory out from `base` on; returns its bytes. base NULL: only counts. */
static size_t lay_out(work *w, size_t threads, char *base)
{
    const plx_attention_backward_args *a = w->a;
    const size_t rows = a->sequence.rows, heads = rows * a->heads, key_heads = rows * a->kv_heads;
    const size_t tokens = w->strips * STRIP;
    size_t used = 0;
#define TAKE(member, count)                                                                                            \
    do {                                                                                                               \
        w->member = base == NULL ? NULL : (void *)(base + used);                                                       \
        used += ((count) * sizeof *w->member + 63) / 64 * 64;                                                          \
    } while (0)
    TAKE(sights, rows * w->strips);
    TAKE(first, rows * tokens);
    TAKE(last, rows * tokens);
    TAKE(lse, heads * tokens);
    TAKE(delta, heads * tokens);
    TAKE(key_sums, (w->parts > 1 ? key_heads * w->parts : threads) * key_floats(w));
    TAKE(query_sums, (w->chunks > 1 ? w->chunks * heads : threads) * head_numbers(w));
    w->scratch_each = 3 * OPERAND_TERMS * WEIGHTS * sizeof(uint16_t) + 4 * STRIP * STRIP * sizeof(float) +
                      (QUERY_OPERANDS + near_blocks(w) * KEY_OPERANDS) * block_numbers(w->depth) * sizeof(uint16_t);
    w->strip_each = 2 * least(heads_together(a->head_dim), a->heads) * strip_floats(w->depth);
    TAKE(scratch, threads * w->scratch_each);
    TAKE(strip, threads * w->strip_each);
#undef TAKE
    return used;
}

static plx_status attention_backward(plx_context *context, const plx_attention_backward_args *a)
{
    const size_t rows = a->sequence.rows, threads = (size_t)context->options.threads;
    work w = {.a = a, .depth = depth_of(a->head_dim)};
    w.blocks = (a->sequence.length + BLOCK - 1) / BLOCK;
    w.strips = w.blocks * STRIPS;
    divide(&w);
    char *memory = plx_kernel_scratch(context, lay_out(&w, threads, NULL));
    if (memory == NULL) return PLX_ERROR_MEMORY;
    lay_out(&w, threads, memory);
    plx_parallel_for(context, rows, find_sights, &w);
    if (w.chunks > 1) plx_parallel_for(context, rows * w.strips * head_groups(a->heads, a->head_dim), find_deltas, &w);
    plx_parallel_for(context, rows * a->kv_heads * w.parts * w.chunks, backward_job, &w);
    if (w.parts > 1) plx_parallel_for(context, rows * a->kv_heads * w.blocks, join_keys, &w);
    if (w.chunks > 1) plx_parallel_for(context, rows * a->heads, join_queries, &w);
    return PLX_OK;
}

#endif
