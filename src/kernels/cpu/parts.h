/* parts.h - how fast CPU versions divide their work: in parts whose size follows from the shape alone, so that results
 * are equal for every number of threads. */
#ifndef PLX_KERNELS_CPU_PARTS_H
#define PLX_KERNELS_CPU_PARTS_H

#include "kernels/cpu/vec.h"

#define PLX_PART_ELEMENTS ((size_t)16384) /* a part of elementwise work: about 50 microseconds, and within L2 */
#define PLX_PART_COLUMNS ((size_t)64)     /* a part of the columns where rows are summed in order */

static inline size_t plx_parts(size_t count, size_t part) { return count / part + (count % part != 0); }
static inline size_t plx_part_end(size_t count, size_t part, size_t index)
{
    return count - index * part < part ? count : (index + 1) * part;
}
/* Rows a part of row-wise work. */
static inline size_t plx_part_rows(size_t width)
{
    return width < PLX_PART_ELEMENTS ? PLX_PART_ELEMENTS / (width + 1) + 1 : 1;
}

/* The next vector of an array with `left` elements to go; the lanes beyond are 0 and are not stored. */
static inline vf vf_next(const float *p, size_t left)
{
    return left >= PLX_VW ? vf_load(p) : vf_load_part(p, left, 0.0f);
}
static inline void vf_put(float *p, vf v, size_t left)
{
    if (left >= PLX_VW)
        vf_store(p, v);
    else
        vf_store_part(p, v, left);
}
static inline vf vf_abs(vf v) { return (vf)((vi)v & 0x7fffffff); }

#endif
