/* product.h - products of small blocks that lie in cache, and what attention does to a result before it is stored.
 *
 * All products are C[row][lane] (+)= sum over s of A(row, s) B[s][lane]: A's numbers are broadcast one at a time, B's
 * and C's rows are vectors. A tile of C stays in registers over the whole depth, and where it holds scores, the softmax
 * is done to it there: sums begin at minus the lane's top (or lse, or delta), and only probabilities are ever stored.
 */
#ifndef PLX_MIXERS_ATTENTION_CPU_PRODUCT_H
#define PLX_MIXERS_ATTENTION_CPU_PRODUCT_H

#include "kernels/cpu/registers.h"

#include <math.h>

#define PANEL (TILE_VECTORS * PLX_VW) /* lanes that are worked on together */

/* Which keys the lanes of a panel see: lane l those from first[l] to last[l]. */
typedef struct sight {
    int32_t first[PANEL], last[PANEL];
} sight;

typedef struct product {
    const float *a; /* a(row, s) is at a + row * a_row + s * a_step */
    size_t a_row, a_step;
    const float *b;
    size_t b_row;
    float *c;
    size_t c_row, rows, depth;
    size_t lane, vectors; /* from this lane of b and c on */
    /* of scores only */
    const float *minus; /* [lanes] where sums begin, negated */
    const float *p;     /* as c */
    float *total;       /* [lanes] */
    const sight *sight; /* what lanes see */
    bool all;           /* all lanes see all rows: not looked at */
    int32_t key;        /* number of row 0 */
} product;

typedef enum product_kind {
    PRODUCT_ADD,        /* C += A B */
    PRODUCT_POWER,      /* C = 2^(A B - minus), 0 where not seen; total += columns' sums */
    PRODUCT_POWER_SEEN, /* the same where `sight` says what is seen; so also the next */
    PRODUCT_CHANGE,     /* C = p (A B - minus), 0 where not seen */
    PRODUCT_CHANGE_SEEN,
    PRODUCT_TOP_SEEN /* total = max(total, columns' maxima of A B - minus where seen); C is not written */
} product_kind;

/* All bits set in the lanes at `lane` that see the key. */
INLINE vi lanes_see(const sight *s, size_t lane, int32_t key)
{
    vi first, last, number = key - (vi){0};
    memcpy(&first, s->first + lane, sizeof first);
    memcpy(&last, s->last + lane, sizeof last);
    return (vi)(first <= number) & (vi)(number <= last);
}

/* height x width vectors of C from (row, lane) on; the first three are constants wherever this is inlined. */
INLINE void product_tile(const product_kind kind, const int height, const int width, const product *p, size_t row,
                         size_t lane)
{
    const bool power = kind == PRODUCT_POWER || kind == PRODUCT_POWER_SEEN, top = kind == PRODUCT_TOP_SEEN;
    const bool change = kind == PRODUCT_CHANGE || kind == PRODUCT_CHANGE_SEEN;
    const bool seen = kind == PRODUCT_POWER_SEEN || kind == PRODUCT_CHANGE_SEEN || top;
    const size_t c_row = p->c_row, at = row * c_row + lane;
    const operand a = {p->a + row * p->a_row, p->a_row, p->a_step};
    const float *other = p->p;
    float *c = p->c, *total = p->total;
    const sight *sight = p->sight;
    const int32_t key = p->key + (int32_t)row;
    vf sum[12][TILE_VECTORS];
    UNROLL for (int j = 0; j < width; j++)
    {
        vf begin = vf_set(0.0f);
        if (kind != PRODUCT_ADD) begin = -vf_load(p->minus + lane + j * PLX_VW);
        UNROLL for (int i = 0; i < height; i++) sum[i][j] =
            kind == PRODUCT_ADD ? vf_load(c + at + (size_t)i * c_row + j * PLX_VW) : begin;
    }
    tile_products((size_t)height, (size_t)width, a, p->b + lane, p->b_row, p->depth, sum);
    UNROLL for (int j = 0; j < width; j++)
    {
        const size_t from = lane + (size_t)j * PLX_VW;
        vf all = vf_set(0.0f);
        if (power || top) all = vf_load(total + from);
        UNROLL for (int i = 0; i < height; i++)
        {
            vf x = sum[i][j];
            const size_t here = at + (size_t)i * c_row + (size_t)j * PLX_VW;
            if (power) x = vf_exp2(x);
            if (change) x *= vf_load(other + here);
            if (seen) x = vf_select(lanes_see(sight, from, key + i), x, vf_set(top ? -INFINITY : 0.0f));
            if (power) all += x;
            if (top) all = vf_max(x, all);
            if (!top) vf_store(c + here, x);
        }
        if (power || top) vf_store(total + from, all);
    }
}

/* Height of the next tile where `left` rows remain, of those that product_rows has for the width. */
static inline size_t product_height(size_t left, size_t width)
{
    if (width == TILE_VECTORS) return left >= 12 ? 6 : left <= 6 ? left : (left + 1) / 2;
    if (width != 3 && left >= 12) return 12;
    if (width != 1 && left >= 8) return 8;
    return left >= 4 ? 4 : 1;
}

#define PRODUCT_CASE(H, W)                                                                                             \
    case (H)*8 + (W): product_tile(kind, H, W, p, row, lane); break
/* `width` vectors of all rows; where not all is seen, only single ones. */
INLINE void product_rows(const product_kind kind, const product *p, size_t width, size_t lane)
{
    for (size_t row = 0, height; row < p->rows; row += height) {
        height = product_height(p->rows - row, width);
        switch (height * 8 + width) {
            PRODUCT_CASE(12, 1);
            PRODUCT_CASE(4, 1);
            PRODUCT_CASE(1, 1);
        }
        if (kind == PRODUCT_POWER_SEEN || kind == PRODUCT_CHANGE_SEEN || kind == PRODUCT_TOP_SEEN) continue;
        switch (height * 8 + width) {
            PRODUCT_CASE(1, TILE_VECTORS);
            PRODUCT_CASE(2, TILE_VECTORS);
            PRODUCT_CASE(3, TILE_VECTORS);
            PRODUCT_CASE(4, TILE_VECTORS);
            PRODUCT_CASE(5, TILE_VECTORS);
            PRODUCT_CASE(6, TILE_VECTORS);
#if TILE_VECTORS == 4
            PRODUCT_CASE(12, 2);
            PRODUCT_CASE(8, 2);
            PRODUCT_CASE(4, 2);
            PRODUCT_CASE(1, 2);
            PRODUCT_CASE(8, 3);
            PRODUCT_CASE(4, 3);
            PRODUCT_CASE(1, 3);
#endif
        }
    }
}
#undef PRODUCT_CASE

INLINE void product_all(const product_kind kind, const product *p)
{
    const size_t most =
        kind == PRODUCT_POWER_SEEN || kind == PRODUCT_CHANGE_SEEN || kind == PRODUCT_TOP_SEEN ? 1 : TILE_VECTORS;
    size_t left = p->vectors;
    for (size_t lane = p->lane; left > 0;) {
        size_t width = left < most ? left : left == 5 && most == 4 ? 3 : most;
        product_rows(kind, p, width, lane);
        lane += width * PLX_VW;
        left -= width;
    }
}
static void multiply_add(const product *p) { product_all(PRODUCT_ADD, p); }
static void multiply_power(const product *p)
{
    if (p->all)
        product_all(PRODUCT_POWER, p);
    else
        product_all(PRODUCT_POWER_SEEN, p);
}

#endif
