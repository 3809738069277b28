/* planes.h - the vector work that forward and backward of the wedges share: a token's z against those that it looks
 * back at. The algebra is told at the top of encode.c. */
#ifndef PLX_MIXERS_GRASSMANN_CPU_PLANES_H
#define PLX_MIXERS_GRASSMANN_CPU_PLANES_H

#include "kernels/cpu/parts.h"
#include "kernels/cpu/wide.h"
#include "mixers/grassmann/grassmann_ops.h"

#include <math.h>

#define PIECE ((size_t)32) /* tokens a piece of parallel work */
#define MOST PLX_GRASSMANN_OFFSETS_MAX

/* Vectors of rank numbers are held zero from rank to `padded`, a multiple of every vector's length. */
static inline size_t pad(size_t rank) { return (rank + PLX_VW - 1) / PLX_VW * PLX_VW; }

/* A token and the `count` earlier ones that it looks back at, orthogonalised; a double vector of lanes alike. */
typedef struct look {
    size_t count;
    const float *before[MOST]; /* z_(t-D) */
    double *a, *b;             /* [padded], [count, padded]: z_t, and b_D of each */
    double squares;            /* |a|^2 */
    double alpha[MOST + VD_LANES], b_squares[MOST + VD_LANES];
    double scale[MOST + VD_LANES]; /* 1 / max(|p|, eps) */
    bool unit[MOST];               /* |p| > eps */
} look;

/* out[i]: the lanes of sums[i], i < count, added up; sums and out have room for VD_LANES more. */
INLINE void sum_lanes(const vd *sums, size_t count, double *out)
{
    for (size_t i = 0; i < count; i += VD_LANES) {
        vd group[VD_LANES];
        for (size_t n = 0; n < VD_LANES; n++) group[n] = i + n < count ? sums[i + n] : (vd){0};
        vd_store(out + i, vd_sums(group));
    }
}

/* Fills a, b and the numbers from z_t and before[0 .. count - 1]. The sum a . z_(t-D) is added up in the order of
 * a . a, so that an exact repeat has alpha = 1. */
INLINE void look_back(look *l, const float *now, const size_t rank, const size_t padded)
{
    vd sums[MOST + VD_LANES];
    double dots[MOST + 2 * VD_LANES];
    sums[0] = (vd){0};
    for (size_t i = 0; i < padded; i += VD_LANES) {
        vd a = vd_widen_next(now + i, i < rank ? rank - i : 0);
        vd_store(l->a + i, a);
        sums[0] += a * a;
    }
    for (size_t k = 0; k < l->count; k++) {
        vd sum = {0};
        for (size_t i = 0; i < padded; i += VD_LANES) {
            vd z = vd_widen_next(l->before[k] + i, i < rank ? rank - i : 0);
            vd_store(l->b + k * padded + i, z);
            sum += vd_load(l->a + i) * z;
        }
        sums[k + 1] = sum;
    }
    sum_lanes(sums, l->count + 1, dots);
    l->squares = dots[0];
    for (size_t k = 0; k < l->count; k++) {
        l->alpha[k] = l->squares > 0 ? dots[k + 1] / l->squares : 0;
        vd alpha = vd_set(l->alpha[k]), sum = {0};
        for (size_t i = 0; i < padded; i += VD_LANES) {
            vd b = vd_load(l->b + k * padded + i) - alpha * vd_load(l->a + i);
            vd_store(l->b + k * padded + i, b);
            sum += b * b;
        }
        sums[k] = sum;
    }
    sum_lanes(sums, l->count, l->b_squares);
    for (size_t k = 0; k < l->count; k++) {
        double length = sqrt(l->squares) * sqrt(l->b_squares[k]);
        l->unit[k] = length > PLX_GRASSMANN_EPSILON;
        l->scale[k] = 1 / (l->unit[k] ? length : PLX_GRASSMANN_EPSILON);
    }
}

/* The wedge's two vectors in f32: a / |a| and |a| u, u = the sum of b_D scale_D / valid. Both are at most 1 long where
 * every |p| > eps, and orthogonal, so that nothing in a wedge of them cancels or overflows. Returns |a|, 1 where it is
 * 0. */
INLINE double wedge_vectors(const look *l, size_t valid, const size_t padded, float *direction, float *partner)
{
    double length = l->squares > 0 ? sqrt(l->squares) : 1, weight[MOST];
    for (size_t k = 0; k < l->count; k++) weight[k] = l->scale[k] / (double)valid * length;
    vd shorten = vd_set(1 / length);
    for (size_t i = 0; i < padded; i += VD_LANES) {
        vd u = {0};
        for (size_t k = 0; k < l->count; k++) u += vd_set(weight[k]) * vd_load(l->b + k * padded + i);
        vd_narrowed(direction + i, vd_load(l->a + i) * shorten);
        vd_narrowed(partner + i, u);
    }
    return length;
}

static inline size_t count_valid(const plx_grassmann_offsets *offsets, int64_t index, int64_t start)
{
    size_t valid = 0;
    for (size_t o = 0; o < offsets->count; o++) valid += index - offsets->value[o] >= start;
    return valid;
}

#endif
