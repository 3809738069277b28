/* ops.c - which implementations the grassmann operations have, and how many flops they are. */
#include "mixers/grassmann/grassmann_ops.h"

PLX_CPU_DECLARE(plx_grassmann_reduce_forward)
PLX_CPU_DECLARE(plx_grassmann_reduce_backward)
PLX_CPU_DECLARE(plx_grassmann_encode_forward)
PLX_CPU_DECLARE(plx_grassmann_encode_backward)
PLX_CPU_DECLARE(plx_grassmann_fuse_forward)
PLX_CPU_DECLARE(plx_grassmann_fuse_backward)

static bool reduce_forward_fast(const void *arguments)
{
    const plx_grassmann_reduce_args *a = arguments;
    return a == NULL || a->type == PLX_F32;
}

static bool reduce_backward_fast(const void *arguments)
{
    const plx_grassmann_reduce_backward_args *a = arguments;
    return a == NULL || a->type == PLX_F32;
}

/* Of rank 2 there is one component, n is its sign and has no gradient. The plain form gives exactly that; the
 * one-wedge form would leave rounding noise in place of the zeros. So rank 2 is the reference's. */
static bool encode_forward_fast(const void *arguments)
{
    const plx_grassmann_encode_args *a = arguments;
    return a == NULL || (a->type == PLX_F32 && a->z.width > 2);
}

static bool encode_backward_fast(const void *arguments)
{
    const plx_grassmann_encode_backward_args *a = arguments;
    return a == NULL || (a->type == PLX_F32 && a->rank > 2);
}

static bool fuse_forward_fast(const void *arguments)
{
    const plx_grassmann_fuse_args *a = arguments;
    return a == NULL || a->type == PLX_F32;
}

static bool fuse_backward_fast(const void *arguments)
{
    const plx_grassmann_fuse_backward_args *a = arguments;
    return a == NULL || a->type == PLX_F32;
}

static double reduce_forward_flops(const void *arguments)
{
    const plx_grassmann_reduce_args *a = arguments;
    return 2 * (double)a->tokens * (double)a->width * (double)a->rank;
}

static double reduce_backward_flops(const void *arguments)
{
    const plx_grassmann_reduce_backward_args *a = arguments;
    return 4 * (double)a->tokens * (double)a->width * (double)a->rank;
}

/* A wedge is 3 P; an offset is a dot product, a subtraction, a norm and a sum: 8 r. */
static double encode_forward_flops(const void *arguments)
{
    const plx_grassmann_encode_args *a = arguments;
    double tokens = (double)a->count, rank = (double)a->z.width;
    return tokens * (1.5 * rank * (rank - 1) + 8 * rank * (double)a->offsets.count);
}

/* Two products of the antisymmetric matrix dw with vectors are 8 P; an offset is 16 r in its two places. */
static double encode_backward_flops(const void *arguments)
{
    const plx_grassmann_encode_backward_args *a = arguments;
    double tokens = (double)a->count, rank = (double)a->rank;
    return tokens * (4 * rank * (rank - 1) + 16 * rank * (double)a->offsets.count);
}

static const plx_kernel reduce_forward_kernels[] = {
    PLX_CPU_KERNELS(plx_grassmann_reduce_forward, reduce_forward_fast)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_grassmann_reduce_forward_ref},
    {0},
};
const plx_op plx_op_grassmann_reduce_forward = {
    "grassmann.reduce_forward", reduce_forward_flops, reduce_forward_kernels};

static const plx_kernel reduce_backward_kernels[] = {
    PLX_CPU_KERNELS(plx_grassmann_reduce_backward, reduce_backward_fast)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_grassmann_reduce_backward_ref},
    {0},
};
const plx_op plx_op_grassmann_reduce_backward = {
    "grassmann.reduce_backward", reduce_backward_flops, reduce_backward_kernels};

static const plx_kernel encode_forward_kernels[] = {
    PLX_CPU_KERNELS(plx_grassmann_encode_forward, encode_forward_fast)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_grassmann_encode_forward_ref},
    {0},
};
const plx_op plx_op_grassmann_encode_forward = {
    "grassmann.encode_forward", encode_forward_flops, encode_forward_kernels};

static const plx_kernel encode_backward_kernels[] = {
    PLX_CPU_KERNELS(plx_grassmann_encode_backward, encode_backward_fast)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_grassmann_encode_backward_ref},
    {0},
};
const plx_op plx_op_grassmann_encode_backward = {
    "grassmann.encode_backward", encode_backward_flops, encode_backward_kernels};

static const plx_kernel fuse_forward_kernels[] = {
    PLX_CPU_KERNELS(plx_grassmann_fuse_forward, fuse_forward_fast)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_grassmann_fuse_forward_ref},
    {0},
};
const plx_op plx_op_grassmann_fuse_forward = {
    "grassmann.fuse_forward", NULL, fuse_forward_kernels};

static const plx_kernel fuse_backward_kernels[] = {
    PLX_CPU_KERNELS(plx_grassmann_fuse_backward, fuse_backward_fast)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_grassmann_fuse_backward_ref},
    {0},
};
const plx_op plx_op_grassmann_fuse_backward = {
    "grassmann.fuse_backward", NULL, fuse_backward_kernels};
