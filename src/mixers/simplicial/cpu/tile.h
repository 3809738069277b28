/* tile.h - products of any size by the tile of kernels/cpu/registers.h: C[r][lane] += sum over i of A(r,i) *
 * B[i][lane].
 *
 * The six products of the 2-simplicial mixer are all of this kind; they differ in what the rows, lanes and depth stand
 * for. A tile is R rows by V vectors, both constants to the compiler; where few vectors are left, more rows take their
 * place. */
#ifndef PLX_MIXERS_SIMPLICIAL_TILE_H
#define PLX_MIXERS_SIMPLICIAL_TILE_H

#include "kernels/cpu/registers.h"

/* Most rows of a tile of V vectors. */
#define TILE_ROWS(V) ((V) == TILE_VECTORS ? 6 : 12)

/* Calls FUNCTION(R, V, ...) with the constants that `rows` and `vectors` are. */
#define TILE_CASE(FUNCTION, R, V, ...)                                                                                 \
    case R:                                                                                                            \
        FUNCTION(R, V, __VA_ARGS__);                                                                                   \
        break;
#define TILE_UP_TO_6(FUNCTION, V, ...)                                                                                 \
    TILE_CASE(FUNCTION, 1, V, __VA_ARGS__)                                                                             \
    TILE_CASE(FUNCTION, 2, V, __VA_ARGS__)                                                                             \
    TILE_CASE(FUNCTION, 3, V, __VA_ARGS__) TILE_CASE(FUNCTION, 4, V, __VA_ARGS__)                                      \
        TILE_CASE(FUNCTION, 5, V, __VA_ARGS__) TILE_CASE(FUNCTION, 6, V, __VA_ARGS__)
#define TILE_UP_TO_12(FUNCTION, V, ...)                                                                                \
    TILE_UP_TO_6(FUNCTION, V, __VA_ARGS__)                                                                             \
    TILE_CASE(FUNCTION, 7, V, __VA_ARGS__)                                                                             \
    TILE_CASE(FUNCTION, 8, V, __VA_ARGS__)                                                                             \
    TILE_CASE(FUNCTION, 9, V, __VA_ARGS__) TILE_CASE(FUNCTION, 10, V, __VA_ARGS__)                                     \
        TILE_CASE(FUNCTION, 11, V, __VA_ARGS__) TILE_CASE(FUNCTION, 12, V, __VA_ARGS__)
#if TILE_VECTORS == 4
#define TILE_CALL(FUNCTION, rows, vectors, ...)                                                                        \
    do {                                                                                                               \
        if ((vectors) == 4) switch (rows) {                                                                            \
                TILE_UP_TO_6(FUNCTION, 4, __VA_ARGS__)                                                                 \
            }                                                                                                          \
        else if ((vectors) == 2)                                                                                       \
            switch (rows) {                                                                                            \
                TILE_UP_TO_12(FUNCTION, 2, __VA_ARGS__)                                                                \
            }                                                                                                          \
        else                                                                                                           \
            switch (rows) {                                                                                            \
                TILE_UP_TO_12(FUNCTION, 1, __VA_ARGS__)                                                                \
            }                                                                                                          \
    } while (0)
#else
#define TILE_CALL(FUNCTION, rows, vectors, ...)                                                                        \
    do {                                                                                                               \
        if ((vectors) == 2) switch (rows) {                                                                            \
                TILE_UP_TO_6(FUNCTION, 2, __VA_ARGS__)                                                                 \
            }                                                                                                          \
        else                                                                                                           \
            switch (rows) {                                                                                            \
                TILE_UP_TO_12(FUNCTION, 1, __VA_ARGS__)                                                                \
            }                                                                                                          \
    } while (0)
#endif

/* Vectors of the next tile where `left` remain: the most, then powers of two below. */
INLINE size_t tile_vectors(size_t left)
{
    if (left >= TILE_VECTORS) return TILE_VECTORS;
    return left >= 2 ? 2 : 1;
}
/* Rows of the next tile where `left` remain, in groups of nearly equal size. */
INLINE size_t tile_rows(size_t left, size_t vectors)
{
    size_t most = TILE_ROWS(vectors), groups = (left + most - 1) / most;
    return (left + groups - 1) / groups;
}

INLINE void tile_add_one(const size_t R, const size_t V, operand a, const float *b, size_t b_row, size_t depth,
                         float *c, size_t c_row, bool add)
{
    vf sum[12][TILE_VECTORS];
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t v = 0; v < V; v++) sum[r][v] =
        add ? vf_load(c + r * c_row + v * PLX_VW) : vf_set(0);
    tile_products(R, V, a, b, b_row, depth, sum);
    UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t v = 0; v < V; v++)
        vf_store(c + r * c_row + v * PLX_VW, sum[r][v]);
}

/* C[rows][vectors * PLX_VW] = or += A B over `depth`. */
static inline void tile_add(size_t rows, size_t vectors, size_t depth, operand a, const float *b, size_t b_row,
                            float *c, size_t c_row, bool add)
{
    for (size_t v = 0; v < vectors;) {
        size_t width = tile_vectors(vectors - v);
        for (size_t r = 0; r < rows;) {
            size_t height = tile_rows(rows - r, width);
            operand part = {a.data + r * a.row, a.row, a.step};
            TILE_CALL(tile_add_one, height, width, part, b + v * PLX_VW, b_row, depth, c + r * c_row + v * PLX_VW,
                      c_row, add);
            r += height;
        }
        v += width;
    }
}

/* 2^x for x up to 127; below -126: 0; NaN stays NaN; 2^0 is 1. Relative error 1.6e-7: shorter than vf_exp2, as one is
 * needed for every pair. x is whole + f; the polynomial 1 + f (c[0] + f (c[1] + ...)) is the best one of degree 5 where
 * f lies: from 0 to 1 (8.2e-8 off) where the processor takes powers and fractions downwards, else from -1/2 to 1/2
 * (9.2e-8). */
INLINE vf tile_exp2(vf x)
{
#if defined(__AVX512DQ__)
    static const float c[5] = {6.9315130e-1f, 2.4016444e-1f, 5.5799913e-2f, 9.0170298e-3f, 1.8671302e-3f};
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    static const float c[5] = {6.9314700e-1f, 2.4022242e-1f, 5.5507336e-2f, 9.6715167e-3f, 1.3264739e-3f};
#if defined(__AVX2__) && PLX_VW == 8
    x = (vf)_mm256_min_ps((__m256)vf_set(127.0f), (__m256)x); /* of a number and NaN, the second: NaN */
    x = (vf)_mm256_max_ps((__m256)vf_set(-127.0f), (__m256)x);
#else
    x = vf_select((vi)(x > vf_set(127.0f)), vf_set(127.0f), x);
    x = vf_select((vi)(x < vf_set(-127.0f)), vf_set(-127.0f), x);
#endif
    const vf magic = vf_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vf moved = x + magic, f = x - (moved - magic);
#endif
    vf p = vf_set(c[4]);
    p = p * f + vf_set(c[3]);
    p = p * f + vf_set(c[2]);
    p = p * f + vf_set(c[1]);
    p = p * f + vf_set(c[0]);
    p = p * f + vf_set(1.0f);
#if defined(__AVX512DQ__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x); /* p 2^floor(x) */
#else
    return p * (vf)(((vi)moved - (vi)magic + 127) << 23); /* exponent 0, from -127, is the number 0 */
#endif
}

/* All bits set in the first `count` lanes. */
INLINE vi tile_first_lanes(size_t count)
{
    static const int32_t index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vi lane;
    memcpy(&lane, index, sizeof lane);
    return (vi)(lane < (int32_t)(count < PLX_VW ? count : PLX_VW));
}

/* Stores the first `count` lanes, 1 to all of them. */
INLINE void tile_store_first(float *to, vf x, size_t count)
{
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)x);
#elif defined(__AVX2__) && PLX_VW == 8
    _mm256_maskstore_ps(to, (__m256i)tile_first_lanes(count), (__m256)x);
#else
    vf_store_part(to, x, count);
#endif
}

#endif
