/* registers.h - what kernels do with blocks of vectors that stay in registers: the multiply-adds of a tile of C,
 * squares turned, lanes summed; and how numbers too small to matter are kept from costing time. */
#ifndef PLX_KERNELS_CPU_REGISTERS_H
#define PLX_KERNELS_CPU_REGISTERS_H

#include "kernels/cpu/parts.h"

/* ---- a tile of C += A B: A's numbers are broadcast one at a time, B's and C's rows are vectors ---- */

/* Most vectors across: 6 x 4 sums of 32 registers, or 6 x 2 of 16; where fewer are across, up to 12 below. */
#if PLX_VW == 16
#define TILE_VECTORS 4
#else
#define TILE_VECTORS 2
#endif

/* A: its element (r, s) is data[r * row + s * step]. */
typedef struct operand {
    const float *data;
    size_t row, step;
} operand;

/* sum[r][v] += sum over s < depth of A(r, s) b[s * b_row + v * PLX_VW ...] for `rows` by `vectors`, which are constants
 * where this is inlined. */
INLINE void tile_products(const size_t rows, const size_t vectors, operand a, const float *b, size_t b_row,
                          size_t depth, vf (*sum)[TILE_VECTORS])
{
    for (; depth > 0; depth--, a.data += a.step, b += b_row) {
        vf right[TILE_VECTORS];
        UNROLL for (size_t v = 0; v < vectors; v++) right[v] = vf_load(b + v * PLX_VW);
        UNROLL for (size_t r = 0; r < rows; r++)
        {
            vf left = vf_set(a.data[r * a.row]);
            UNROLL for (size_t v = 0; v < vectors; v++) sum[r][v] += left * right[v];
        }
    }
}

/* ---- squares ---- */

#define ZIP_4(i, from) (i) + (from), (i) + (from) + PLX_VW, (i) + (from) + 1, (i) + (from) + 1 + PLX_VW
#if PLX_VW == 16
#define ZIP(from) ZIP_4(0, from), ZIP_4(2, from), ZIP_4(4, from), ZIP_4(6, from)
#elif PLX_VW == 8
#define ZIP(from) ZIP_4(0, from), ZIP_4(2, from)
#else
#define ZIP(from) ZIP_4(0, from)
#endif
/* The square of PLX_VW vectors: of its elements' numbers, written in binary, each round turns the digits by one. */
INLINE void transpose(vf *x)
{
    UNROLL for (int round = 1; round < PLX_VW; round *= 2)
    {
        vf y[PLX_VW];
        UNROLL for (int i = 0; i < PLX_VW / 2; i++)
        {
            y[2 * i] = __builtin_shufflevector(x[i], x[i + PLX_VW / 2], ZIP(0));
            y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + PLX_VW / 2], ZIP(PLX_VW / 2));
        }
        UNROLL for (int i = 0; i < PLX_VW; i++) x[i] = y[i];
    }
}

/* Lane i: the sum of the lanes of x[i]. x is overwritten. */
INLINE vf lane_sums(vf *x)
{
    transpose(x);
    UNROLL for (int step = PLX_VW / 2; step > 0; step /= 2) UNROLL for (int i = 0; i < step; i++) x[i] += x[i + step];
    return x[0];
}

/* ---- small numbers ---- */

/* Probabilities of what hardly counts are denormal, which would cost a hundred times as much and is worth nothing. */
static inline unsigned flush_denormals(void)
{
#if defined(__x86_64__)
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | 0x8040); /* flush to zero, denormals are zero */
    return state;
#else
    return 0;
#endif
}
static inline void restore_denormals(unsigned state)
{
#if defined(__x86_64__)
    _mm_setcsr(state);
#else
    (void)state;
#endif
}

#endif
