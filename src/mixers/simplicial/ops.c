/* ops.c - the lists of implementations of the 2-simplicial operations, and what they cost. */
#include "mixers/simplicial/simplicial_ops.h"

PLX_CPU_DECLARE(plx_simplicial_forward)
PLX_CPU_DECLARE(plx_simplicial_backward)
PLX_TILES_DECLARE(plx_simplicial_forward)
PLX_TILES_DECLARE(plx_simplicial_backward)
PLX_TILES_DECLARE(plx_simplicial_forward_terms)
PLX_TILES_DECLARE(plx_simplicial_backward_terms)

/* Visible (j,k) pairs of all queries and heads, one document a row. */
static double pairs(const plx_simplicial_problem *p)
{
    double sum = 0;
    for (size_t t = 0; t < p->sequence.length; t++) {
        size_t count1 = p->window1 == 0 || p->window1 > t ? t + 1 : p->window1;
        size_t count2 = p->window2 > t ? t + 1 : p->window2;
        sum += (double)count1 * (double)count2;
    }
    return sum * (double)p->sequence.rows * (double)p->heads;
}

static double forward_flops(const void *arguments)
{
    const plx_simplicial_forward_args *args = arguments;
    return 4.0 * (double)args->problem.head_dim * pairs(&args->problem);
}

static double backward_flops(const void *arguments)
{
    const plx_simplicial_backward_args *args = arguments;
    return 12.0 * (double)args->problem.head_dim * pairs(&args->problem);
}

static bool accepts_forward(const void *arguments)
{
    return ((const plx_simplicial_forward_args *)arguments)->problem.type == PLX_F32;
}
static bool accepts_backward(const void *arguments)
{
    return ((const plx_simplicial_backward_args *)arguments)->problem.type == PLX_F32;
}

static bool tiles_forward(const void *arguments)
{
    return accepts_forward(arguments) && ((const plx_simplicial_forward_args *)arguments)->problem.bf16;
}

static bool tiles_backward(const void *arguments)
{
    return accepts_backward(arguments) && ((const plx_simplicial_backward_args *)arguments)->problem.bf16;
}

/* Whether f32 numbers as three terms on tiles are worth making: each token's, for all lanes that see it, each lane's for
 * all rows. Measured; a matter of speed alone. */
static bool terms_pay(const plx_simplicial_problem *p)
{
    size_t reach = p->window1 == 0 || p->window1 > p->sequence.length ? p->sequence.length : p->window1;
    return p->head_dim >= 64 && reach >= 512 && p->window2 >= 16;
}
static bool terms_forward(const void *arguments)
{
    return accepts_forward(arguments) && terms_pay(&((const plx_simplicial_forward_args *)arguments)->problem);
}
static bool terms_backward(const void *arguments)
{
    return accepts_backward(arguments) && terms_pay(&((const plx_simplicial_backward_args *)arguments)->problem);
}

static const plx_kernel forward_kernels[] = {
    PLX_TILES_KERNEL(plx_simplicial_forward, tiles_forward)
    PLX_TERMS_KERNEL(plx_simplicial_forward_terms, terms_forward)
    PLX_CPU_KERNELS(plx_simplicial_forward, accepts_forward)
    PLX_TILES_EMULATED(plx_simplicial_forward, tiles_forward)
    PLX_TERMS_EMULATED(plx_simplicial_forward_terms, accepts_forward)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_simplicial_forward_ref},
    {0},
};
static const plx_kernel backward_kernels[] = {
    PLX_TILES_KERNEL(plx_simplicial_backward, tiles_backward)
    PLX_TERMS_KERNEL(plx_simplicial_backward_terms, terms_backward)
    PLX_CPU_KERNELS(plx_simplicial_backward, accepts_backward)
    PLX_TILES_EMULATED(plx_simplicial_backward, tiles_backward)
    PLX_TERMS_EMULATED(plx_simplicial_backward_terms, accepts_backward)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_simplicial_backward_ref},
    {0},
};

const plx_op plx_op_simplicial_forward = {"simplicial.forward", forward_flops, forward_kernels};
const plx_op plx_op_simplicial_backward = {"simplicial.backward", backward_flops, backward_kernels};
