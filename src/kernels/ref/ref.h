/* ref.h - what the plain-loop references of the shared operations have in common.
 *
 * A reference says what its operation computes (kernels.h) in the most direct way, for f32 and f64 storage, summing in
 * double. It is never tuned: the fast versions are tested against it, and f64 models run on it. */
#ifndef PLX_KERNELS_REF_H
#define PLX_KERNELS_REF_H

#include "kernels/kernels.h"

/* plx_get and plx_put without a call for the two types that references mostly see. */
static inline double plx_ref_get(const void *data, plx_type type, size_t i)
{
    if (type == PLX_F64) return ((const double *)data)[i];
    if (type == PLX_F32) return ((const float *)data)[i];
    return plx_get(data, type, i);
}
static inline void plx_ref_put(void *data, plx_type type, size_t i, double value)
{
    if (type == PLX_F64)
        ((double *)data)[i] = value;
    else if (type == PLX_F32)
        ((float *)data)[i] = (float)value;
    else
        plx_put(data, type, i, value);
}
static inline void plx_ref_add(void *data, plx_type type, size_t i, double value)
{
    plx_ref_put(data, type, i, plx_ref_get(data, type, i) + value);
}

/* ERROR_VALUE naming the first id outside 0 .. limit-1. mask NULL, or ids with mask 0 are not looked at. */
plx_status plx_check_ids(plx_context *context, const int32_t *ids, const float *mask, size_t count, size_t limit);

#endif
