/* transpose.h - squares of vectors, turned in registers; and numbers too small to matter. */
#ifndef PLX_MIXERS_ATTENTION_CPU_TRANSPOSE_H
#define PLX_MIXERS_ATTENTION_CPU_TRANSPOSE_H

#include "kernels/cpu/parts.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

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

/* P of keys that hardly count is denormal, which would cost a hundred times as much and is worth nothing. */
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
