/* wide.h - double vectors as long as vec.h's vf, for what single precision cannot carry. */
#ifndef PLX_MIXERS_GRASSMANN_CPU_WIDE_H
#define PLX_MIXERS_GRASSMANN_CPU_WIDE_H

#include "kernels/cpu/vec.h"

#define LANES (PLX_VW / 2)

typedef double vd __attribute__((vector_size(PLX_VW * 4)));
typedef double vd_unaligned __attribute__((vector_size(PLX_VW * 4), aligned(8), may_alias));
typedef float vd_narrow __attribute__((vector_size(PLX_VW * 2), aligned(4), may_alias));

static inline vd vd_load(const double *p) { return *(const vd_unaligned *)p; }
static inline void vd_store(double *p, vd v) { *(vd_unaligned *)p = v; }
static inline vd vd_set(double x) { return x - (vd){0}; }
/* LANES floats as doubles. */
static inline vd vd_widen(const float *p) { return __builtin_convertvector(*(const vd_narrow *)p, vd); }
/* Sum of the lanes, in one fixed tree order. */
static inline double vd_sum(vd v)
{
    double lanes[LANES];
    vd_store(lanes, v);
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

#endif
