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

/* PLX_GROUP_NONE also where they differ in kind. */
plx_group plx_group_of(const plx_matmul_group_args *args);

#endif
