/* square.h - sums of 32 x 32 in tiles 0 to 3 and their products, so that every tile that is loaded is used twice. */
#ifndef PLX_KERNELS_AMX_SQUARE_H
#define PLX_KERNELS_AMX_SQUARE_H

#include "kernels/amx/terms.h"
#include "kernels/cpu/registers.h"

/* An operand's two tiles a step of depth 32: rows 0 and 16 of a left one, columns 0 and 16 of a right one. */
typedef struct square_operand {
    const uint16_t *data;
    size_t second, step; /* numbers from the first tile to the second, from one step to the next */
} square_operand;

INLINE void square_zero(plx_tiles *tiles)
{
    (void)tiles;
    plx_tile_zero(tiles, 0);
    plx_tile_zero(tiles, 1);
    plx_tile_zero(tiles, 2);
    plx_tile_zero(tiles, 3);
}
/* c: 32 rows of 32 numbers, `stride` numbers from row to row. */
INLINE void square_load(plx_tiles *tiles, const float *c, size_t stride)
{
    (void)tiles;
    const float *low = c + 16 * stride;
    plx_tile_load(tiles, 0, c, stride * sizeof *c);
    plx_tile_load(tiles, 1, c + 16, stride * sizeof *c);
    plx_tile_load(tiles, 2, low, stride * sizeof *c);
    plx_tile_load(tiles, 3, low + 16, stride * sizeof *c);
}
INLINE void square_store(plx_tiles *tiles, float *c, size_t stride)
{
    (void)tiles;
    float *low = c + 16 * stride;
    plx_tile_store(tiles, 0, c, stride * sizeof *c);
    plx_tile_store(tiles, 1, c + 16, stride * sizeof *c);
    plx_tile_store(tiles, 2, low, stride * sizeof *c);
    plx_tile_store(tiles, 3, low + 16, stride * sizeof *c);
}
/* Where a square of sums lies; data NULL: nowhere. */
typedef struct square_place {
    float *data;
    size_t stride;
} square_place;

/* The first products of a square c, of the operands in tiles 4 to 7, from what it has or, unless `add`, from 0. The
 * square that is held in the tiles until now is stored; then c is held. A store right behind a tile's last product
 * waits for it and lets nothing pass, so that each stands just before its tile is used anew. Whoever reads a square
 * ends it first. */
INLINE void square_dot_first(plx_tiles *tiles, square_place *held, square_place c, bool add)
{
    (void)tiles;
    const square_place from = *held;
    const size_t from_row = from.stride * sizeof *from.data, row = c.stride * sizeof *c.data;
#define TURN(sums, a, b, at, column)                                                                                   \
    if (from.data != NULL) plx_tile_store(tiles, sums, from.data + (at)*from.stride + (column), from_row);             \
    if (add) {                                                                                                         \
        plx_tile_load(tiles, sums, c.data + (at)*c.stride + (column), row);                                            \
    } else {                                                                                                           \
        plx_tile_zero(tiles, sums);                                                                                    \
    }                                                                                                                  \
    plx_tile_dot(tiles, sums, a, b);
    TURN(0, 4, 6, 0, 0)
    TURN(1, 4, 7, 0, 16)
    TURN(2, 5, 6, 16, 0)
    TURN(3, 5, 7, 16, 16)
#undef TURN
    *held = c;
}
INLINE void square_end(plx_tiles *tiles, square_place *held)
{
    if (held->data != NULL) square_store(tiles, held->data, held->stride);
    held->data = NULL;
}
/* sums += left right, over `steps` of depth 32, from the step-th on. */
INLINE void square_multiply(plx_tiles *tiles, square_operand left, square_operand right, size_t step, size_t steps)
{
    (void)tiles;
    const uint16_t *a = left.data + step * left.step, *b = right.data + step * right.step;
    for (; steps > 0; steps--, a += left.step, b += right.step) {
        plx_tile_load(tiles, 4, a, 64);
        plx_tile_load(tiles, 6, b, 64);
        plx_tile_load(tiles, 7, b + right.second, 64);
        plx_tile_load(tiles, 5, a + left.second, 64);
        plx_tile_dot(tiles, 0, 4, 6);
        plx_tile_dot(tiles, 1, 4, 7);
        plx_tile_dot(tiles, 2, 5, 6);
        plx_tile_dot(tiles, 3, 5, 7);
    }
}

INLINE void square_left(plx_tiles *tiles, square_operand left, const uint16_t *a)
{
    (void)tiles;
    plx_tile_load(tiles, 4, a, 64);
    plx_tile_load(tiles, 5, a + left.second, 64);
}
INLINE void square_right(plx_tiles *tiles, square_operand right, const uint16_t *b)
{
    (void)tiles;
    plx_tile_load(tiles, 6, b, 64);
    plx_tile_load(tiles, 7, b + right.second, 64);
}
INLINE void square_dot(plx_tiles *tiles)
{
    (void)tiles;
    plx_tile_dot(tiles, 0, 4, 6);
    plx_tile_dot(tiles, 1, 4, 7);
    plx_tile_dot(tiles, 2, 5, 6);
    plx_tile_dot(tiles, 3, 5, 7);
}
/* The same of f32 numbers in three terms (terms.h), whose tiles lie left_term and right_term numbers apart. From pair
 * to pair of terms one of the two changes, so that a step loads 14 tiles for 24 products; small products come first.
 * In two halves, between which vectors' work may go. */
INLINE void square_first_terms(plx_tiles *tiles, square_operand left, size_t left_term, square_operand right,
                               size_t right_term, size_t step)
{
    const uint16_t *a = left.data + step * left.step, *b = right.data + step * right.step;
    square_left(tiles, left, a + TERM_LOW * left_term);
    square_right(tiles, right, b);
    square_dot(tiles); /* low high */
    square_left(tiles, left, a + TERM_MIDDLE * left_term);
    square_dot(tiles); /* middle high */
    square_right(tiles, right, b + TERM_MIDDLE * right_term);
    square_dot(tiles); /* middle middle */
    square_left(tiles, left, a);
}
INLINE void square_second_terms(plx_tiles *tiles, square_operand right, size_t right_term, size_t step)
{
    const uint16_t *b = right.data + step * right.step;
    square_dot(tiles); /* high middle */
    square_right(tiles, right, b + TERM_LOW * right_term);
    square_dot(tiles); /* high low */
    square_right(tiles, right, b);
    square_dot(tiles); /* high high */
}

#endif
