/* operands.h - what the 2-simplicial kernels on bf16 tiles share: operands in the tiles' forms, of one bf16 number or
 * of the three terms (kernels/amx/terms.h) of each f32 number, and their products.
 *
 * The layout of the work is that of ../cpu/lanes.h. S^T[j][lane] = K X^T comes in squares of 32 rows j (a unit) by 32
 * lanes (a pair of lane tiles), so that what belongs to a lane (its maximum, its sum) is a vector. Two neighbouring
 * rows of P are laid together in pairs, which makes a unit a right operand with depth j: O2^T[c][lane] = V^T P^T.
 *
 * A tile is 256 words of 32 bits, dense. An operand is an array of steps of depth 32; a step is, for each term, the two
 * tiles that a square needs of it: rows 0 and 16 of a left operand, columns 0 and 16 of a right one. `terms`, 1 or 3,
 * is a constant to the compiler. */
#ifndef PLX_MIXERS_SIMPLICIAL_OPERANDS_H
#define PLX_MIXERS_SIMPLICIAL_OPERANDS_H

#define LANES 128
#define WIDTH_STEP 32 /* components in whole steps */
#include "mixers/simplicial/cpu/lanes.h"

#include "kernels/amx/terms.h"

#include <math.h>

#define TILE 256 /* words */
#define SQUARE (4 * TILE)
#define UNIT 32 /* rows of j that are worked on together, and the lanes of a pair of lane tiles */
#define LANE_PAIRS (LANES / 32)
#define STEP_WORDS(terms) ((size_t)(terms)*2 * TILE)

static inline size_t units_of(size_t rows) { return (rows + UNIT - 1) / UNIT; }
static inline size_t pairs_of(const block *at) { return (at->vectors + 1) / 2; }

/* The next `bytes` of scratch, of which *used are taken; NULL when base is, where they are only counted. */
static inline void *take(char *base, size_t *used, size_t bytes)
{
    void *here = base == NULL ? NULL : base + *used;
    *used += lanes_bytes(bytes);
    return here;
}

/* ---- operands ---- */

/* 16 words, each of an even and an odd number, as bf16 or term by term to the tiles of a step. */
INLINE void put_pairs(const int terms, vf even, vf odd, uint32_t *to)
{
    if (terms == 1) {
        vi pairs = vf_bf16_pairs(even, odd);
        memcpy(to, &pairs, 64);
        return;
    }
    vf first[TERMS], second[TERMS];
    vf_terms(even, first);
    vf_terms(odd, second);
    UNROLL for (int i = 0; i < TERMS; i++)
    {
        vi pairs = vf_term_pairs(first[i], second[i]);
        memcpy(to + i * 2 * TILE, &pairs, 64);
    }
}

/* The largest magnitude of numbers; infinity where one is not finite. */
typedef struct largest {
    vf top;
    vi broken;
} largest;
INLINE void largest_add(largest *of, vf x)
{
    of->top = vf_max(vf_abs(x), of->top);
    of->broken |= (vi)(x != x);
}
static inline float largest_end(const largest *of) { return vf_top(vf_select(of->broken, vf_set(INFINITY), of->top)); }

/* Numbers of the tokens that the chunk sees through window 1. */
typedef struct tokens {
    const float *data;
    size_t count, width, d; /* numbers from token to token; of each */
} tokens;
static inline tokens tokens_of(const chunk *c, const plx_history *history)
{
    return (tokens){(const float *)history->data + plx_simplicial_offset(history, c->b, c->base1) + c->g * c->d,
                    c->count1, history->width, c->d};
}
/* Numbers l .. l + 15 of token i; 0 beyond the tokens and their numbers. whole: none is beyond. */
INLINE vf token_part(const tokens *of, const bool whole, size_t i, size_t l)
{
    const float *token = of->data + i * of->width + l;
    if (whole) return vf_load(token);
    return i >= of->count || l >= of->d ? vf_set(0) : vf_next(token, of->d - l);
}
/* Whether tokens i .. i + 31 and their numbers l .. l + 31 all are. */
static inline bool tokens_whole(const tokens *of, size_t i, size_t l)
{
    return i + UNIT <= of->count && l + 32 <= of->d;
}

/* A step of a unit of tokens as a left operand, tokens as rows; words hold components 16 apart. Adds their squares. */
INLINE void put_rows(const int terms, const tokens *of, const bool whole, size_t first, size_t l, vf norms[UNIT],
                     uint32_t *to)
{
    for (size_t i = 0; i < UNIT; i++) {
        vf low = token_part(of, whole, first + i, l), high = token_part(of, whole, first + i, l + 16);
        put_pairs(terms, low, high, to + i * 16);
        norms[i] += low * low + high * high;
    }
}
/* k or v of the tokens that the chunk sees through window 1: left operands [unit][step]. Returns the largest |k|^2. */
INLINE float panel_rows(const int terms, const chunk *c, const plx_history *history, uint32_t *to)
{
    tokens of = tokens_of(c, history);
    largest most = {0};
    for (size_t first = 0; first < of.count; first += UNIT) {
        vf norms[UNIT] = {0};
        for (size_t l = 0; l < c->width; l += 32, to += STEP_WORDS(terms))
            if (tokens_whole(&of, first, l))
                put_rows(terms, &of, true, first, l, norms, to);
            else
                put_rows(terms, &of, false, first, l, norms, to);
        largest_add(&most, lane_sums(norms));
        largest_add(&most, lane_sums(norms + 16));
    }
    return largest_end(&most);
}

/* 16 components of a unit of tokens as a left operand, components as rows; words hold neighbouring tokens. */
INLINE void put_turned(const int terms, const tokens *of, const bool whole, size_t first, size_t l, uint32_t *to)
{
    uint32_t words[TERMS * 2 * TILE] __attribute__((aligned(64)));
    for (size_t i = 0; i < 16; i++)
        put_pairs(terms, token_part(of, whole, first + 2 * i, l), token_part(of, whole, first + 2 * i + 1, l),
                  words + i * 16);
    for (int term = 0; term < terms; term++) {
        vf tile[16];
        memcpy(tile, words + term * 2 * TILE, sizeof tile);
        transpose(tile);
        memcpy(to + (size_t)term * 2 * TILE, tile, sizeof tile);
    }
}
/* The same as left operands [unit][32 components]. */
INLINE void panel_turned(const int terms, const chunk *c, const plx_history *history, uint32_t *to)
{
    tokens of = tokens_of(c, history);
    for (size_t first = 0; first < of.count; first += UNIT)
        for (size_t l = 0; l < c->width; l += 16) {
            uint32_t *half = to + l % 32 * 16;
            if (tokens_whole(&of, first, l / 32 * 32))
                put_turned(terms, &of, true, first, l, half);
            else
                put_turned(terms, &of, false, first, l, half);
            if (l % 32 != 0) to += STEP_WORDS(terms);
        }
}
/* Words of such an operand of `tokens`. */
static inline size_t panel_words(int terms, size_t width, size_t tokens)
{
    return units_of(tokens) * (width / 32) * STEP_WORDS(terms);
}
/* Words of the operands of a block's lanes. */
static inline size_t lane_words(int terms, size_t width) { return LANE_PAIRS * (width / 32) * STEP_WORDS(terms); }

/* Component l of a block's lane tile; 0 beyond its lanes and components. */
static inline vf lane_part(const chunk *c, const block *at, const float *turned, size_t l, size_t tile)
{
    return tile < at->vectors && l < c->d ? vf_load(turned + l * LANES + tile * 16) : vf_set(0);
}

/* factor * X^T or Y^T [d][LANES] as right operands [lane pair][step], words as those of panel_rows. Returns the largest
 * magnitude. */
INLINE float lane_columns(const int terms, const chunk *c, const block *at, const float *turned, float factor,
                          uint32_t *to)
{
    largest most = {0};
    for (size_t pair = 0; pair < pairs_of(at); pair++)
        for (size_t l = 0; l < c->width; l += 32, to += STEP_WORDS(terms))
            for (size_t i = 0; i < 32; i++) {
                size_t tile = 2 * pair + i / 16, from = l + i % 16;
                vf low = lane_part(c, at, turned, from, tile) * vf_set(factor),
                   high = lane_part(c, at, turned, from + 16, tile) * vf_set(factor);
                put_pairs(terms, low, high, to + i * 16);
                largest_add(&most, low);
                largest_add(&most, high);
            }
    return largest_end(&most);
}

/* X or Y with the lanes as depth: right operands [lane pair][32 components]; words hold lanes 16 apart. */
INLINE void lane_rows(const int terms, const chunk *c, const block *at, const float *turned, uint32_t *to)
{
    for (size_t pair = 0; pair < pairs_of(at); pair++)
        for (size_t l = 0; l < c->width; l += 16) {
            uint32_t words[TERMS * 2 * TILE] __attribute__((aligned(64)));
            for (size_t i = 0; i < 16; i++)
                put_pairs(terms, lane_part(c, at, turned, l + i, 2 * pair),
                          lane_part(c, at, turned, l + i, 2 * pair + 1), words + i * 16);
            uint32_t *step = to + (pair * (c->width / 32) + l / 32) * STEP_WORDS(terms) + l % 32 * 16;
            for (int term = 0; term < terms; term++) {
                vf tile[16];
                memcpy(tile, words + term * 2 * TILE, sizeof tile);
                transpose(tile);
                memcpy(step + (size_t)term * 2 * TILE, tile, sizeof tile);
            }
        }
}

/* ---- products ---- */

/* A square of sums: four tiles, `right` and `below` floats from one to the next, rows `row` bytes apart. */
typedef struct sums_square {
    float *data;
    size_t right, below, row;
} sums_square;
/* One of an array of them. */
INLINE sums_square square_at(float *squares, size_t index)
{
    return (sums_square){squares + index * SQUARE, TILE, 2 * TILE, 64};
}

/* Tiles 0 to 3 hold the sums of a square until the next one begins: a store right behind a tile's last products waits
 * for them and lets nothing pass, so that it stands just before the tile is used anew. data NULL: they hold none.
 * Whoever reads a square ends it first. */
INLINE void square_end(plx_tiles *tiles, sums_square *held)
{
    if (held->data == NULL) return;
    plx_tile_store(tiles, 0, held->data, held->row);
    plx_tile_store(tiles, 1, held->data + held->right, held->row);
    plx_tile_store(tiles, 2, held->data + held->below, held->row);
    plx_tile_store(tiles, 3, held->data + held->below + held->right, held->row);
    held->data = NULL;
}

/* Four tiles of products of one step of depth 32 into the square that is held. Of three terms, the six products that
 * matter are that many parts: five small ones, which from one to the next load only one side, and the large one. All
 * small ones of a sum come first, so that they round as little. */
enum { PART_LARGE = 5, PARTS };
#define FIRST_PART(terms) ((terms) == 1 ? PART_LARGE : 0)
INLINE void load_part(plx_tiles *tiles, const int part, const uint32_t *left, const uint32_t *right)
{
#define LOAD_LEFT(term)                                                                                                \
    plx_tile_load(tiles, 4, left + (term)*2 * TILE, 64);                                                               \
    plx_tile_load(tiles, 5, left + (term)*2 * TILE + TILE, 64);
#define LOAD_RIGHT(term)                                                                                               \
    plx_tile_load(tiles, 6, right + (term)*2 * TILE, 64);                                                              \
    plx_tile_load(tiles, 7, right + (term)*2 * TILE + TILE, 64);
    if (part == 0) {
        LOAD_LEFT(TERM_LOW) LOAD_RIGHT(TERM_HIGH)
    }
    if (part == 1) {
        LOAD_LEFT(TERM_MIDDLE)
    }
    if (part == 2) {
        LOAD_RIGHT(TERM_MIDDLE)
    }
    if (part == 3) {
        LOAD_LEFT(TERM_HIGH)
    }
    if (part == 4) {
        LOAD_RIGHT(TERM_LOW)
    }
    if (part == PART_LARGE) {
        LOAD_LEFT(TERM_HIGH) LOAD_RIGHT(TERM_HIGH)
    }
#undef LOAD_LEFT
#undef LOAD_RIGHT
}
INLINE void multiply(plx_tiles *tiles, const int part, const uint32_t *left, const uint32_t *right)
{
    load_part(tiles, part, left, right);
    plx_tile_dot(tiles, 0, 4, 6);
    plx_tile_dot(tiles, 1, 4, 7);
    plx_tile_dot(tiles, 2, 5, 6);
    plx_tile_dot(tiles, 3, 5, 7);
}
/* The first part of a square c, from what it has or, unless `add`, from 0. Stores what is held; then c is. */
INLINE void multiply_first(plx_tiles *tiles, const int terms, sums_square *held, sums_square c, bool add,
                           const uint32_t *left, const uint32_t *right)
{
    load_part(tiles, FIRST_PART(terms), left, right);
#define TURN(sums, a, b, of)                                                                                           \
    if (held->data != NULL) plx_tile_store(tiles, sums, held->data + of(held), held->row);                             \
    if (add) {                                                                                                         \
        plx_tile_load(tiles, sums, c.data + of(&c), c.row);                                                            \
    } else {                                                                                                           \
        plx_tile_zero(tiles, sums);                                                                                    \
    }                                                                                                                  \
    plx_tile_dot(tiles, sums, a, b);
#define CORNER(square) 0
#define RIGHT(square) (square)->right
#define BELOW(square) (square)->below
#define ACROSS(square) ((square)->below + (square)->right)
    TURN(0, 4, 6, CORNER)
    TURN(1, 4, 7, RIGHT)
    TURN(2, 5, 6, BELOW)
    TURN(3, 5, 7, ACROSS)
#undef CORNER
#undef RIGHT
#undef BELOW
#undef ACROSS
#undef TURN
    *held = c;
}

/* DO(part, step) for each part of a sum over `steps`. */
#define EACH_PART(terms, steps, DO)                                                                                    \
    for (size_t step = 0; (terms) == TERMS && step < (steps); step++) {                                                \
        DO(0, step)                                                                                                    \
        DO(1, step)                                                                                                    \
        DO(2, step)                                                                                                    \
        DO(3, step)                                                                                                    \
        DO(4, step)                                                                                                    \
    }                                                                                                                  \
    for (size_t step = 0; step < (steps); step++) DO(PART_LARGE, step)

/* C = or += left right over `steps`; left_step and right_step words from one to the next. C is held. */
INLINE void products(plx_tiles *tiles, const int terms, sums_square *held, sums_square c, bool add,
                     const uint32_t *left, size_t left_step, const uint32_t *right, size_t right_step, size_t steps)
{
#define MULTIPLY(part, step)                                                                                           \
    if ((part) == FIRST_PART(terms) && (step) == 0)                                                                    \
        multiply_first(tiles, terms, held, c, add, left, right);                                                       \
    else                                                                                                               \
        multiply(tiles, part, left + (step)*left_step, right + (step)*right_step);
    EACH_PART(terms, steps, MULTIPLY)
#undef MULTIPLY
}

/* ---- what lanes see ---- */

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
INLINE vf row_visible(const lane_range *range, size_t row, vf x, float otherwise)
{
    vi j = (vi){0} + (int32_t)row;
    return vf_select((vi)(j >= range->begin) & (vi)(j < range->end), x, vf_set(otherwise));
}

/* Where rows 2 i and 2 i + 1 of a unit's square begin: its lane tile `tile`, 0 or 1; the odd row follows. */
INLINE const float *square_rows(const float *square, size_t i, size_t tile)
{
    return square + (i / 8 * 2 + tile) * TILE + i % 8 * 32;
}

#endif
