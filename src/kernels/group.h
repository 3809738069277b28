/* group.h - what the products of a group share. */
#ifndef PLX_KERNELS_GROUP_H
#define PLX_KERNELS_GROUP_H

#include "kernels/kernels.h"

typedef enum plx_group {
    PLX_GROUP_NONE,
    PLX_GROUP_LEFT,  /* A, A B^T: projections of the same x; C's stand beside each other */
    PLX_GROUP_RIGHT, /* B, A^T B: their weights' gradients; C's stand below each other */
    PLX_GROUP_SUM    /* C, to which all but the first are added: their input's gradient; k's follow each other */
} plx_group;

static inline bool plx_group_alike(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->transpose_a == y->transpose_a && x->transpose_b == y->transpose_b && x->c_type == y->c_type &&
           x->bf16 == y->bf16 && x->gradients == y->gradients && y->k > 0;
}
static inline bool plx_group_same_left(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->a == y->a && x->a_type == y->a_type && x->lda == y->lda && x->m == y->m && x->k == y->k &&
           !y->transpose_a;
}
static inline bool plx_group_same_right(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->b == y->b && x->b_type == y->b_type && x->ldb == y->ldb && x->n == y->n && x->k == y->k &&
           y->transpose_a && !y->transpose_b && y->bias == NULL;
}
static inline bool plx_group_same_sum(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->c == y->c && x->ldc == y->ldc && x->m == y->m && x->n == y->n && !y->transpose_a && !y->transpose_b &&
           y->bias == NULL && (x == y || y->beta == 1);
}
static inline plx_group plx_group_of(const plx_matmul_group_args *args)
{
    bool left = true, right = true, sum = true;
    if (args->count == 0 || args->count > PLX_GROUP_MOST) return PLX_GROUP_NONE;
    for (size_t i = 0; i < args->count; i++) {
        const plx_matmul_args *x = &args->part[0], *y = &args->part[i];
        if (!plx_group_alike(x, y)) return PLX_GROUP_NONE;
        left = left && plx_group_same_left(x, y);
        right = right && plx_group_same_right(x, y);
        sum = sum && plx_group_same_sum(x, y);
    }
    return left ? PLX_GROUP_LEFT : right ? PLX_GROUP_RIGHT : sum ? PLX_GROUP_SUM : PLX_GROUP_NONE;
}

#endif
