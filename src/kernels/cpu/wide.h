/* wide.h - double vectors as long as vec.h's vf, for what single precision cannot carry, and sums over the lanes of
 * several vectors at once. */
#ifndef PLX_KERNELS_CPU_WIDE_H
#define PLX_KERNELS_CPU_WIDE_H

#include "kernels/cpu/vec.h"

#define VD_LANES (PLX_VW / 2)

typedef double vd __attribute__((vector_size(PLX_VW * 4)));
typedef double vd_unaligned __attribute__((vector_size(PLX_VW * 4), aligned(8), may_alias));
typedef float vd_narrow __attribute__((vector_size(PLX_VW * 2), aligned(4), may_alias));

INLINE vd vd_load(const double *p) { return *(const vd_unaligned *)p; }
INLINE void vd_store(double *p, vd v) { *(vd_unaligned *)p = v; }
INLINE vd vd_set(double x) { return x - (vd){0}; }
/* VD_LANES floats as doubles, and back. (gcc 12 takes __builtin_convertvector apart at this length.) */
#if defined(__AVX512F__)
INLINE vd vd_widen(const float *p) { return (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p)); }
INLINE void vd_narrowed(float *p, vd v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps((__m512d)v)); }
#else
INLINE vd vd_widen(const float *p) { return __builtin_convertvector(*(const vd_narrow *)p, vd); }
INLINE void vd_narrowed(float *p, vd v) { *(vd_narrow *)p = __builtin_convertvector(v, vd_narrow); }
#endif
/* VD_LANES floats as doubles, those from `left` on 0. */
INLINE vd vd_widen_next(const float *p, size_t left)
{
    if (left >= VD_LANES) return vd_widen(p);
    float part[VD_LANES] = {0};
    for (size_t i = 0; i < left; i++) part[i] = p[i];
    return vd_widen(part);
}

/* The lanes of a and b, one after the other, added in neighbouring pairs. VD_LANES (PLX_VW) vectors folded together in
 * as many rounds as that has doublings are one vector of their sums, each added in the same tree, whichever its place.
 */
#if PLX_VW == 16
#define PLX_EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14
#define PLX_ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15
#define PLX_EVEN_WIDE PLX_EVEN_LANES, 16, 18, 20, 22, 24, 26, 28, 30
#define PLX_ODD_WIDE PLX_ODD_LANES, 17, 19, 21, 23, 25, 27, 29, 31
#elif PLX_VW == 8
#define PLX_EVEN_LANES 0, 2, 4, 6
#define PLX_ODD_LANES 1, 3, 5, 7
#define PLX_EVEN_WIDE PLX_EVEN_LANES, 8, 10, 12, 14
#define PLX_ODD_WIDE PLX_ODD_LANES, 9, 11, 13, 15
#else
#define PLX_EVEN_LANES 0, 2
#define PLX_ODD_LANES 1, 3
#define PLX_EVEN_WIDE PLX_EVEN_LANES, 4, 6
#define PLX_ODD_WIDE PLX_ODD_LANES, 5, 7
#endif
INLINE vd vd_fold(vd a, vd b)
{
    return __builtin_shufflevector(a, b, PLX_EVEN_LANES) + __builtin_shufflevector(a, b, PLX_ODD_LANES);
}
INLINE vf vf_fold(vf a, vf b)
{
    return __builtin_shufflevector(a, b, PLX_EVEN_WIDE) + __builtin_shufflevector(a, b, PLX_ODD_WIDE);
}
/* Lane i: the sum of v[i]'s lanes. v is used up. */
INLINE vd vd_sums(vd v[VD_LANES])
{
    for (int count = VD_LANES / 2; count > 0; count /= 2)
        for (int i = 0; i < count; i++) v[i] = vd_fold(v[2 * i], v[2 * i + 1]);
    return v[0];
}
INLINE vf vf_sums(vf v[PLX_VW])
{
    for (int count = PLX_VW / 2; count > 0; count /= 2)
        for (int i = 0; i < count; i++) v[i] = vf_fold(v[2 * i], v[2 * i + 1]);
    return v[0];
}

#endif
