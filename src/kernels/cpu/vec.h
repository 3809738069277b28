/* vec.h - the thin vector type that CPU kernels are written over.
 *
 * A file in a cpu/ folder is compiled once per level (portable, avx2, avx512) with PLX_LEVEL_NAME set; it exports
 * functions named by PLX_CPU(name), and list rows come from PLX_CPU_KERNELS in kernels.h. `vf` is PLX_VW floats:
 * the compilers' vector extension, so + - * / and comparisons are operators and any processor can run it. */
#ifndef PLX_KERNELS_CPU_VEC_H
#define PLX_KERNELS_CPU_VEC_H

#include "kernels/kernels.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* For small functions over vectors, and those whose arguments are to be constants; UNROLL before a short loop, so that what
 * it keeps stays in registers. Not in the emulation of tiles where it is optimised, which
 * would take minutes to compile. */
#if defined(PLX_TILES_CALLED)
#define INLINE static inline
#else
#define INLINE static inline __attribute__((always_inline))
#endif
#if defined(PLX_TILES_CALLED)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

#define PLX_JOIN2(a, b) a##_##b
#define PLX_JOIN(a, b) PLX_JOIN2(a, b)
/* The name of an exported function at this level: plx_status PLX_CPU(plx_gelu)(plx_context *, const void *) */
#define PLX_CPU(name) PLX_JOIN(name, PLX_LEVEL_NAME)

#if defined(PLX_TILES_EMULATED_HERE) /* as wide as a row of a tile, on any processor */
#define PLX_VW 16
#elif defined(__AVX512F__)
#define PLX_VW 16
#elif defined(__AVX2__)
#define PLX_VW 8
#else
#define PLX_VW 4
#endif

typedef float vf __attribute__((vector_size(PLX_VW * 4)));
typedef int32_t vi __attribute__((vector_size(PLX_VW * 4)));
typedef float vf_unaligned __attribute__((vector_size(PLX_VW * 4), aligned(4), may_alias));

static inline vf vf_load(const float *p) { return *(const vf_unaligned *)p; }
static inline void vf_store(float *p, vf v) { *(vf_unaligned *)p = v; }
static inline vf vf_set(float x) { return x - (vf){0}; }
/* The first n < PLX_VW elements; the others are `fill`, and stay untouched in a store. */
#if defined(__AVX512F__)
static inline vf vf_load_part(const float *p, size_t n, float fill)
{
    return (vf)_mm512_mask_loadu_ps((__m512)vf_set(fill), (__mmask16)((1u << n) - 1), p);
}
static inline void vf_store_part(float *p, vf v, size_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#else
static inline vf vf_load_part(const float *p, size_t n, float fill)
{
    float lanes[PLX_VW];
    for (size_t i = 0; i < PLX_VW; i++) lanes[i] = i < n ? p[i] : fill;
    return vf_load(lanes);
}
static inline void vf_store_part(float *p, vf v, size_t n)
{
    float lanes[PLX_VW];
    vf_store(lanes, v);
    for (size_t i = 0; i < n; i++) p[i] = lanes[i];
}
#endif
/* a where mask is set (all bits), else b */
static inline vf vf_select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
/* a > b ? a : b and a < b ? a : b: b where one is NaN */
#if defined(__AVX512F__)
static inline vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__) && PLX_VW == 8
static inline vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
static inline vf vf_max(vf a, vf b) { return vf_select((vi)(a > b), a, b); }
static inline vf vf_min(vf a, vf b) { return vf_select((vi)(a < b), a, b); }
#endif
/* Sum of the lanes, in one fixed tree order: halves are added until one is left. */
static inline float vf_sum(vf v)
{
#if defined(__AVX2__) && PLX_VW == 8 || defined(__AVX512F__)
#if PLX_VW == 16
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#else
    __m256 eight = (__m256)v;
#endif
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float lanes[PLX_VW];
    vf_store(lanes, v);
    for (size_t width = PLX_VW / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
#endif
}
/* The largest lane. */
static inline float vf_top(vf v)
{
    float lanes[PLX_VW];
    vf_store(lanes, v);
    float top = lanes[0];
    for (size_t i = 1; i < PLX_VW; i++) top = lanes[i] > top ? lanes[i] : top;
    return top;
}
/* 1 / x for finite x from 1; relative error below 3e-7 (beyond 2^126 it may be 0): where the processor has an
 * approximation, that and a step of Newton's method, which take a fraction of a division's time. */
static inline vf vf_reciprocal(vf x)
{
#if defined(__AVX512F__)
    vf r = (vf)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return r + r * (vf_set(1.0f) - x * r);
#elif defined(__AVX2__) && PLX_VW == 8
    vf r = (vf)_mm256_rcp_ps((__m256)x);
    return r + r * (vf_set(1.0f) - x * r);
#else
    return 1.0f / x;
#endif
}
/* 2^x; 0 from about -127 down (AVX-512: denormals where the thread has them), infinity from 128 up, NaN stays NaN.
 * Relative error below 1.6e-7: the polynomial of degree 5 that is best on [0, 1], 7.5e-8 off, in f32. */
INLINE vf vf_exp2(vf x)
{
#if defined(__AVX512DQ__)
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* x - floor(x) */
#elif PLX_VW == 8 && defined(__AVX2__)
    x = (vf)_mm256_max_ps((__m256)vf_set(-127.0f), (__m256)x); /* of a number and NaN, the second: NaN */
    x = (vf)_mm256_min_ps((__m256)vf_set(128.0f), (__m256)x);
    vf whole = (vf)_mm256_floor_ps((__m256)x), f = x - whole;
    vi power = ((vi)_mm256_cvttps_epi32((__m256)whole) + 127) << 23;
#else
    x = vf_select((vi)(x < vf_set(-126.75f)), vf_set(-126.75f), x); /* less 1/2, it is rounded to -127 */
    x = vf_select((vi)(x > vf_set(128.0f)), vf_set(128.0f), x);
    const vf magic = vf_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vf moved = x - vf_set(0.5f) + magic, f = x - (moved - magic);
    vi power = ((vi)moved - (vi)magic + 127) << 23;
#endif
    vf p = vf_set(1.8775767e-3f);
    p = p * f + vf_set(8.9893401e-3f);
    p = p * f + vf_set(5.5826318e-2f);
    p = p * f + vf_set(2.4015362e-1f);
    p = p * f + vf_set(6.9315307e-1f);
    p = p * f + vf_set(9.9999993e-1f);
#if defined(__AVX512DQ__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x); /* p * 2^floor(x) */
#else
    return p * (vf)power; /* exponents 0, from -127, and 255, from 128, are those of 0 and infinity */
#endif
}
/* e^x; 0 below -87, the largest power from 88 up, NaN stays NaN. The product x * log2(e) is taken in two parts so that
 * the error stays below 3e-7 for |x| < 80. */
static inline vf vf_exp(vf x)
{
    vf least = vf_set(-87.0f), most = vf_set(88.0f);
    vf within = vf_min(most, vf_max(least, x));
    const vf magic = vf_set(12582912.0f);
    vf rounded = within * vf_set(1.44269504f) + magic;
    vf n = rounded - magic;
    vf f = (within - n * vf_set(0.693359375f)) + n * vf_set(2.12194440e-4f);
    vf p = vf_set(1.9875691e-4f);
    p = p * f + vf_set(1.3981999e-3f);
    p = p * f + vf_set(8.3334519e-3f);
    p = p * f + vf_set(4.1665796e-2f);
    p = p * f + vf_set(1.6666666e-1f);
    p = p * f + vf_set(5.0000000e-1f);
    p = p * f * f + f + vf_set(1.0f);
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)least, _CMP_NLT_UQ), (__m512)p, (__m512)n);
#else
    vf power = (vf)(((vi)rounded - (vi)magic + 127) << 23);
    return (vf)((vi)(p * power) & ~(vi)(x < least));
#endif
}

#endif
