/* bf16.h - what the 2-simplicial kernels with bf16 tiles share: operands in the tiles' forms, and P straight from the
 * tile of logits.
 *
 * The layout is that of ../cpu/lanes.h, with products in tiles of 16 x 16. S^T[j][lane] = K X^T comes as tiles of 16
 * rows j by 16 lanes, so that what belongs to a lane (its maximum, its sum) is a vector. Two neighbouring rows of P are
 * rounded to bf16 and laid together in pairs, which makes 32 rows a right operand with depth j:
 * O2^T[c][lane] = V^T P^T. A tile is 256 words of 32 bits, dense; operands longer than a tile are arrays of tiles. */
#ifndef PLX_MIXERS_SIMPLICIAL_BF16_H
#define PLX_MIXERS_SIMPLICIAL_BF16_H

#define LANES 128
#include "mixers/simplicial/cpu/lanes.h"

#include "kernels/amx/tile.h"
#include "kernels/cpu/parts.h"

#include <math.h>

#define TILE 256 /* words */
#define LANE_TILES (LANES / 16)
#define UNIT 32 /* rows of j that are worked on together: the depth of a tile's product */

typedef uint32_t vu __attribute__((vector_size(64)));

static inline size_t round_to(size_t count, size_t step) { return (count + step - 1) / step * step; }

/* ---- P ----
 * Logits arrive in steps of 2^-9 of a power of two (X carries the factor), so that y = S + POWER_START - 512 m is, as a
 * whole number, nearly the bf16 number 2^(S/512 - m) with two more bits: exponent, then mantissa. What is missing is
 * 2^f - 1 - f = -f (1 - f) (.308 + .082 f), within 4e-4. All of it is done on 16-bit numbers, twice as many to a
 * vector, and its rounding costs little beside that of P to bf16: .00177 of P in the root mean square where rounding
 * alone is .00166. Below 2^-127 P is 0, above 2 it stays there. */
#define LOGIT_STEPS 512.0f
#define POWER_START (127 * 512 + 1.5f) /* half a step of bf16 less the mean of what the products below cut off */
#define POWER_A 158
#define POWER_B 42

/* Rows y0, y1 of 16 lanes: pairs of bf16. */
INLINE vi power_pairs(vf y0, vf y1)
{
#if defined(__AVX512BW__)
    const __m512i mix = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __m512i z = _mm512_packus_epi32(_mm512_cvtps_epi32((__m512)y0), _mm512_cvtps_epi32((__m512)y1));
    z = _mm512_shuffle_epi8(z, mix);
    __m512i f = _mm512_slli_epi16(z, 7);
    __m512i bend = _mm512_mulhi_epu16(f, _mm512_sub_epi16(_mm512_setzero_si512(), f));
    __m512i slope = _mm512_add_epi16(_mm512_mulhi_epu16(f, _mm512_set1_epi16(POWER_B)), _mm512_set1_epi16(POWER_A));
    z = _mm512_sub_epi16(z, _mm512_mulhi_epu16(bend, slope));
    return (vi)_mm512_srli_epi16(z, 2);
#else
    vu pair[2];
    for (int i = 0; i < 2; i++) {
        vf y = i == 0 ? y0 : y1;
        y = vf_min(vf_max(y, vf_set(0)), vf_set(65535));
        vu z = (vu) __builtin_convertvector(y + vf_set(0.5f), vi);
        vu f = z << 7 & 0xffff, bend = f * (-f & 0xffff) >> 16, slope = (f * POWER_B >> 16) + POWER_A;
        pair[i] = (z - (bend * slope >> 16)) >> 2;
    }
    return (vi)(pair[0] | pair[1] << 16);
#endif
}
/* The same for logits that are no numbers, or too large for whole ones: NaN stays NaN. */
static inline vi power_pairs_careful(vf y0, vf y1)
{
    y0 = tile_exp2((y0 - vf_set(POWER_START)) * vf_set(1 / LOGIT_STEPS));
    y1 = tile_exp2((y1 - vf_set(POWER_START)) * vf_set(1 / LOGIT_STEPS));
    return vf_bf16_pairs(y0, y1);
}
INLINE vf pairs_low(vi pairs) { return (vf)(pairs << 16); }
INLINE vf pairs_high(vi pairs) { return (vf)(pairs & (int32_t)0xffff0000); }
INLINE vf pairs_add(vf sum, vi pairs)
{
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi16(0x3f80));
#else
    return sum + (pairs_low(pairs) + pairs_high(pairs));
#endif
}

/* ---- operands ---- */

typedef struct size_of_head {
    size_t d, depth;        /* components; rounded up to whole products */
    size_t blocks, columns; /* depth / 32; tiles of 16 components that cover d */
} size_of_head;
static inline size_of_head head_of(size_t d)
{
    return (size_of_head){d, round_to(d, 32), round_to(d, 32) / 32, round_to(d, 16) / 16};
}
static inline vf part_of(const float *row, size_t l, size_t d)
{
    return row != NULL && l < d ? vf_next(row + l, d - l) : vf_set(0);
}

/* k or v of a row and key/value head, from the first token that any query sees on: as the rows of left operands, or
 * turned, so that tokens are the depth. Made once and read by all chunks. */
typedef struct panel {
    const plx_history *history;
    size_t b, g;
    int64_t base;     /* first token */
    size_t count;     /* tokens */
    uint16_t *rows;   /* [count rounded to units, depth], zero beyond the numbers; or NULL */
    uint16_t *turned; /* [columns * 16, turned_row(count)]; or NULL */
} panel;
#define PANEL_PART 128 /* tokens that a task makes, whole units */

/* Numbers in a row of a turned panel; rows of a tile should not fall on the same lines of the cache. */
static inline size_t turned_row(size_t count) { return (round_to(count, UNIT) / UNIT | 1) * UNIT; }
static inline size_t panel_numbers(const size_of_head *head, size_t count)
{
    return round_to(count, UNIT) * head->depth;
}
static inline size_t turned_numbers(const size_of_head *head, size_t count)
{
    return head->columns * 16 * turned_row(count);
}
static inline const float *token_of(const panel *from, size_t d, size_t i)
{
    if (i >= from->count) return NULL;
    return (const float *)from->history->data + plx_simplicial_offset(from->history, from->b, from->base + (int64_t)i) +
           from->g * d;
}

/* Makes tokens first .. first + PANEL_PART - 1 of the panel. Returns the largest magnitude, infinity where one is not
 * finite. */
static inline float panel_make(const panel *to, const size_of_head *head, size_t first)
{
    size_t end = round_to(to->count, UNIT) < first + PANEL_PART ? round_to(to->count, UNIT) : first + PANEL_PART;
    vf top = vf_set(0);
    vi broken = {0};
    for (size_t i = first; to->rows != NULL && i < end; i++) {
        const float *from = token_of(to, head->d, i);
        for (size_t l = 0; l < head->depth; l += 32) {
            vf low = part_of(from, l, head->d), high = part_of(from, l + 16, head->d);
            vf_store_bf16(to->rows + i * head->depth + l, low, high);
            top = vf_max(vf_max(vf_abs(low), vf_abs(high)), top);
            broken |= (vi)(low != low) | (vi)(high != high);
        }
    }
    size_t row = turned_row(to->count);
    for (size_t j = first; to->turned != NULL && j < end; j += UNIT)
        for (size_t l = 0; l < head->columns * 16; l += 16) {
            vf tile[16];
            for (size_t i = 0; i < 16; i++)
                tile[i] = (vf)vf_bf16_pairs(part_of(token_of(to, head->d, j + 2 * i), l, head->d),
                                            part_of(token_of(to, head->d, j + 2 * i + 1), l, head->d));
            transpose(tile);
            for (size_t i = 0; i < 16; i++) memcpy(to->turned + (l + i) * row + j, &tile[i], 64);
        }
    return vf_top(vf_select(broken, vf_set(INFINITY), top));
}

/* The tokens that the queries of row b see through window 1: the first, and how many up to the last query. */
static inline int64_t panel_base(const plx_simplicial_problem *p, size_t b)
{
    return plx_simplicial_first(&p->sequence, b, 0, p->window1);
}
static inline size_t panel_count(const plx_simplicial_problem *p, size_t b)
{
    return (size_t)(plx_simplicial_position(&p->sequence, b, p->sequence.length - 1) + 1 - panel_base(p, b));
}
static inline size_t panel_most(const plx_simplicial_problem *p)
{
    size_t most = 0;
    for (size_t b = 0; b < p->sequence.rows; b++) most = panel_count(p, b) > most ? panel_count(p, b) : most;
    return most;
}

/* factor * X^T or Y^T [d][LANES] as right operands with depth l: tiles [lane tile][block], zero beyond the lanes up to
 * an even number of tiles. Returns the largest magnitude as panel_make does. */
static inline float pair_components(const size_of_head *head, const block *at, const float *turned, float factor,
                                    uint32_t *tiles)
{
    vf top = vf_set(0);
    vi broken = {0};
    for (size_t n = 0; n < round_to(at->vectors, 2); n++)
        for (size_t l = 0; l < head->depth; l += 2) {
            vf even = vf_set(0), odd = vf_set(0);
            if (n < at->vectors && l < head->d) even = vf_load(turned + l * LANES + n * 16) * vf_set(factor);
            if (n < at->vectors && l + 1 < head->d) odd = vf_load(turned + (l + 1) * LANES + n * 16) * vf_set(factor);
            vi pairs = vf_bf16_pairs(even, odd);
            memcpy(tiles + n * head->blocks * TILE + l * 8, &pairs, 64);
            top = vf_max(vf_max(vf_abs(even), vf_abs(odd)), top);
            broken |= (vi)(even != even) | (vi)(odd != odd);
        }
    return vf_top(vf_select(broken, vf_set(INFINITY), top));
}

/* Whether logits, in steps, may be too large for whole numbers of 32 bits, or no numbers at all. */
static inline bool needs_care(const size_of_head *head, float largest_k, float largest_x)
{
    return !(largest_k * largest_x * (float)head->d < 0x1p30f);
}

/* The next `bytes` of scratch, of which *used are taken; NULL when base is, where they are only counted. */
static inline void *take(char *base, size_t *used, size_t bytes)
{
    void *here = base == NULL ? NULL : base + *used;
    *used += lanes_bytes(bytes);
    return here;
}

/* ---- products ---- */

/* Tiles 4 and 5 = 32 rows from `rows` on times the lane tile whose operand is `right`. */
static inline void score_unit(plx_tiles *tiles, const size_of_head *head, const uint16_t *rows, const uint32_t *right)
{
    size_t stride = head->depth * 2;
    plx_tile_zero(tiles, 4);
    plx_tile_zero(tiles, 5);
    for (size_t i = 0; i < head->blocks; i++) {
        plx_tile_load(tiles, 6, right + i * TILE, 64);
        plx_tile_load(tiles, 7, rows + i * 32, stride);
        plx_tile_dot(tiles, 4, 7, 6);
        plx_tile_load(tiles, 7, rows + 16 * head->depth + i * 32, stride);
        plx_tile_dot(tiles, 5, 7, 6);
    }
}
/* To s: 32 rows of 16 lanes. */
static inline void store_unit(plx_tiles *tiles, float *s)
{
    plx_tile_store(tiles, 4, s, 64);
    plx_tile_store(tiles, 5, s + TILE, 64);
}

/* C of up to four tiles below each other, in tiles 0 to 3: C = or += A B. A's tiles are a_tile numbers apart, their
 * rows a_row bytes; C's c_tile words and c_row bytes. */
typedef struct left_operand {
    const uint16_t *data;
    size_t tile, row;
} left_operand;
typedef struct sums_of_tiles {
    float *data;
    size_t tile, row;
} sums_of_tiles;
#define EACH_TILE(C, number, what)                                                                                     \
    if ((C) > number) what;
INLINE void begin_sums(plx_tiles *tiles, const size_t C, sums_of_tiles c, bool add)
{
    if (add) {
        EACH_TILE(C, 0, plx_tile_load(tiles, 0, c.data, c.row))
        EACH_TILE(C, 1, plx_tile_load(tiles, 1, c.data + c.tile, c.row))
        EACH_TILE(C, 2, plx_tile_load(tiles, 2, c.data + 2 * c.tile, c.row))
        EACH_TILE(C, 3, plx_tile_load(tiles, 3, c.data + 3 * c.tile, c.row))
    } else {
        EACH_TILE(C, 0, plx_tile_zero(tiles, 0))
        EACH_TILE(C, 1, plx_tile_zero(tiles, 1))
        EACH_TILE(C, 2, plx_tile_zero(tiles, 2))
        EACH_TILE(C, 3, plx_tile_zero(tiles, 3))
    }
}
INLINE void end_sums(plx_tiles *tiles, const size_t C, sums_of_tiles c)
{
    EACH_TILE(C, 0, plx_tile_store(tiles, 0, c.data, c.row))
    EACH_TILE(C, 1, plx_tile_store(tiles, 1, c.data + c.tile, c.row))
    EACH_TILE(C, 2, plx_tile_store(tiles, 2, c.data + 2 * c.tile, c.row))
    EACH_TILE(C, 3, plx_tile_store(tiles, 3, c.data + 3 * c.tile, c.row))
}
#define ADD_TILE(C, number)                                                                                            \
    if ((C) > number) {                                                                                                \
        plx_tile_load(tiles, 7, a.data + number * a.tile, a.row);                                                      \
        plx_tile_dot(tiles, number, 7, 6);                                                                             \
    }
/* One step of depth 32. */
INLINE void add_step(plx_tiles *tiles, const size_t C, left_operand a, const uint32_t *right)
{
    plx_tile_load(tiles, 6, right, 64);
    ADD_TILE(C, 0)
    ADD_TILE(C, 1)
    ADD_TILE(C, 2)
    ADD_TILE(C, 3)
}
/* `steps` of them; a_step numbers and right_step words from one to the next. */
INLINE void products_of(plx_tiles *tiles, const size_t C, sums_of_tiles c, bool add, left_operand a, size_t a_step,
                        const uint32_t *right, size_t right_step, size_t steps)
{
    begin_sums(tiles, C, c, add);
    for (size_t i = 0; i < steps; i++) {
        add_step(tiles, C, a, right);
        a.data += a_step;
        right += right_step;
    }
    end_sums(tiles, C, c);
}
/* For any number of tiles. */
static inline void products(plx_tiles *tiles, size_t count, sums_of_tiles c, bool add, left_operand a, size_t a_step,
                            const uint32_t *right, size_t right_step, size_t steps)
{
    for (; count > 4; count -= 4) {
        products_of(tiles, 4, c, add, a, a_step, right, right_step, steps);
        c.data += 4 * c.tile;
        a.data += 4 * a.tile;
    }
    switch (count) {
    case 1: products_of(tiles, 1, c, add, a, a_step, right, right_step, steps); break;
    case 2: products_of(tiles, 2, c, add, a, a_step, right, right_step, steps); break;
    case 3: products_of(tiles, 3, c, add, a, a_step, right, right_step, steps); break;
    case 4: products_of(tiles, 4, c, add, a, a_step, right, right_step, steps); break;
    }
}

/* What bounds the rows that 16 lanes see, held in registers. */
typedef struct lane_range {
    vi begin, end;
} lane_range;
static inline lane_range range_of(const block *at, size_t lane)
{
    lane_range range;
    memcpy(&range.begin, at->lane_begin + lane, sizeof range.begin);
    memcpy(&range.end, at->lane_end + lane, sizeof range.end);
    return range;
}
INLINE vf unit_visible(const lane_range *range, size_t row, vf y)
{
    vi j = (vi){0} + (int32_t)row;
    return vf_select((vi)(j >= range->begin) & (vi)(j < range->end), y, vf_set(-1e30f));
}

/* The largest of the `parts` maxima that panel_make gave for one row and key/value head. */
static inline float largest_of(const float *part, size_t parts)
{
    float largest = 0;
    for (size_t i = 0; i < parts; i++) largest = part[i] > largest ? part[i] : largest;
    return largest;
}

#endif
