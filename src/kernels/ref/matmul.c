/* matmul.c - C = beta * C + op(A) op(B) + bias by its definition, for operands of any type. */
#include "kernels/ref/ref.h"

plx_status plx_matmul_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_matmul_args *a = arguments;
    size_t a_row = a->transpose_a ? 1 : a->lda, a_column = a->transpose_a ? a->lda : 1;
    size_t b_row = a->transpose_b ? 1 : a->ldb, b_column = a->transpose_b ? a->ldb : 1;
    for (size_t i = 0; i < a->m; i++) {
        for (size_t j = 0; j < a->n; j++) {
            double sum = 0;
            for (size_t p = 0; p < a->k; p++)
                sum += plx_ref_get(a->a, a->a_type, i * a_row + p * a_column) *
                       plx_ref_get(a->b, a->b_type, p * b_row + j * b_column);
            if (a->bias) sum += plx_ref_get(a->bias, a->bias_type, j);
            if (a->beta != 0) sum += a->beta * plx_ref_get(a->c, a->c_type, i * a->ldc + j);
            plx_ref_put(a->c, a->c_type, i * a->ldc + j, sum);
        }
    }
    return PLX_OK;
}

plx_status plx_matmul_group_ref(plx_context *context, const void *arguments)
{
    const plx_matmul_group_args *args = arguments;
    for (size_t i = 0; i < args->count; i++) PLX_TRY(plx_matmul_ref(context, &args->part[i]));
    return PLX_OK;
}
