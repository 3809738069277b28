/* ops.c - the shared operations: name, and implementations from the fastest to the reference. */
#include "kernels/group.h"
#include "kernels/packed.h"

#define NEEDS_F32(args) _Static_assert(offsetof(args, type) == 0, "accepts_f32 reads the type first")
NEEDS_F32(plx_column_sum_args);
NEEDS_F32(plx_norm_args);
NEEDS_F32(plx_norm_backward_args);
NEEDS_F32(plx_rope_args);
NEEDS_F32(plx_swiglu_args);
NEEDS_F32(plx_swiglu_backward_args);
NEEDS_F32(plx_gelu_args);
NEEDS_F32(plx_gelu_backward_args);
NEEDS_F32(plx_add_args);
NEEDS_F32(plx_dropout_args);
NEEDS_F32(plx_embedding_backward_args);
NEEDS_F32(plx_cross_entropy_args);
NEEDS_F32(plx_sum_squares_args);
NEEDS_F32(plx_adamw_args);

static bool accepts_f32(const void *arguments) { return *(const plx_type *)arguments == PLX_F32; }

/* An operation with one version for each level of CPU and a reference. */
#define CPU_OP(op, text)                                                                               \
    PLX_CPU_DECLARE(plx_##op)                                                                          \
    plx_status plx_##op##_ref(plx_context *context, const void *arguments);                            \
    static const plx_kernel op##_kernels[] = {                                                         \
        PLX_CPU_KERNELS(plx_##op, accepts_f32){"ref", PLX_LEVEL_PORTABLE, NULL, plx_##op##_ref}, {0}}; \
    const plx_op plx_op_##op = {text, NULL, op##_kernels};
/* One that only copies: one version for every level (copy.c). */
#define COPY_OP(op, text, accepts)                                                                     \
    plx_status plx_##op##_copy(plx_context *context, const void *arguments);                           \
    plx_status plx_##op##_ref(plx_context *context, const void *arguments);                            \
    static const plx_kernel op##_kernels[] = {{"copy", PLX_LEVEL_PORTABLE, accepts, plx_##op##_copy},  \
                                              {"ref", PLX_LEVEL_PORTABLE, NULL, plx_##op##_ref}, {0}}; \
    const plx_op plx_op_##op = {text, NULL, op##_kernels};

CPU_OP(column_sum, "column_sum")
CPU_OP(norm_forward, "norm.forward")
CPU_OP(norm_backward, "norm.backward")
CPU_OP(rope, "rope")
CPU_OP(swiglu_forward, "swiglu.forward")
CPU_OP(swiglu_backward, "swiglu.backward")
CPU_OP(gelu_forward, "gelu.forward")
CPU_OP(gelu_backward, "gelu.backward")
CPU_OP(add, "add")
CPU_OP(dropout, "dropout")
CPU_OP(embedding_backward, "embedding.backward")
CPU_OP(cross_entropy, "cross_entropy")
CPU_OP(sum_squares, "sum_squares")
CPU_OP(adamw, "adamw")
bool plx_embedding_forward_copies(const void *arguments);
COPY_OP(embedding_forward, "embedding.forward", plx_embedding_forward_copies)
COPY_OP(gather, "gather", NULL)
bool plx_append_copies(const void *arguments);
COPY_OP(append, "append", plx_append_copies)
COPY_OP(move, "move", NULL)

bool plx_matmul_blas_accepts(const void *arguments);
plx_status plx_matmul_blas(plx_context *context, const void *arguments);
plx_status plx_matmul_ref(plx_context *context, const void *arguments);
PLX_CPU_DECLARE(plx_matmul)
PLX_TILES_DECLARE(plx_matmul)
PLX_TILES_DECLARE(plx_matmul_terms)
static bool accepts_product(const void *arguments)
{
    const plx_matmul_args *a = arguments;
    return a->a_type != PLX_F64 && a->b_type != PLX_F64 && a->bias_type != PLX_F64 && a->c_type == PLX_F32;
}
static bool accepts_tiles(const void *arguments)
{
    return ((const plx_matmul_args *)arguments)->bf16 && accepts_product(arguments);
}
static bool accepts_terms(const void *arguments)
{
    return ((const plx_matmul_args *)arguments)->gradients && accepts_product(arguments);
}
/* Where splitting the operands, once each for a product of theirs, is little beside the product. */
static bool terms_pay(const void *arguments)
{
    const plx_matmul_args *a = arguments;
    const size_t narrow = a->m < a->n ? a->m : a->n;
    return accepts_terms(a) && (a->transpose_a ? narrow >= 64 && a->m * a->n >= 32768 : narrow >= 64);
}
/* Below AVX-512 OpenBLAS's kernels are the faster ones (docs/results/cpu-kernels.md), but for x W^T, where they do not
 * keep rows apart and decline. */
static const plx_kernel matmul_kernels[] = {
    PLX_TILES_KERNEL(plx_matmul, accepts_tiles)
    PLX_TERMS_KERNEL(plx_matmul_terms, terms_pay)
#if defined(__x86_64__)
    {"avx512", PLX_LEVEL_AVX512, accepts_product, plx_matmul_avx512},
#endif
    {"blas", PLX_LEVEL_PORTABLE, plx_matmul_blas_accepts, plx_matmul_blas},
#if defined(__x86_64__)
    {"avx2", PLX_LEVEL_AVX2, accepts_product, plx_matmul_avx2},
#endif
    {"portable", PLX_LEVEL_PORTABLE, accepts_product, plx_matmul_portable},
    PLX_TILES_EMULATED(plx_matmul, accepts_tiles)
    PLX_TERMS_EMULATED(plx_matmul_terms, accepts_terms)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_matmul_ref},
    {0}};
static double matmul_flops(const void *arguments)
{
    const plx_matmul_args *a = arguments;
    return 2.0 * (double)a->m * (double)a->n * (double)a->k;
}
const plx_op plx_op_matmul = {"matmul", matmul_flops, matmul_kernels};

/* ---- products as one job ---- */

PLX_TILES_DECLARE(plx_matmul_group)
PLX_TILES_DECLARE(plx_matmul_group_terms)
plx_status plx_matmul_group_ref(plx_context *context, const void *arguments);

static bool alike(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->transpose_a == y->transpose_a && x->transpose_b == y->transpose_b && x->c_type == y->c_type &&
           x->bf16 == y->bf16 && x->gradients == y->gradients && y->k > 0;
}
static bool same_left(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->a == y->a && x->a_type == y->a_type && x->lda == y->lda && x->m == y->m && x->k == y->k &&
           !y->transpose_a;
}
static bool same_right(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->b == y->b && x->b_type == y->b_type && x->ldb == y->ldb && x->n == y->n && x->k == y->k &&
           y->transpose_a && !y->transpose_b && y->bias == NULL;
}
static bool same_sum(const plx_matmul_args *x, const plx_matmul_args *y)
{
    return x->c == y->c && x->ldc == y->ldc && x->m == y->m && x->n == y->n && !y->transpose_a && !y->transpose_b &&
           y->bias == NULL && (x == y || y->beta == 1);
}
plx_group plx_group_of(const plx_matmul_group_args *args)
{
    bool left = true, right = true, sum = true;
    if (args->count == 0 || args->count > PLX_GROUP_MOST) return PLX_GROUP_NONE;
    for (size_t i = 0; i < args->count; i++) {
        const plx_matmul_args *x = &args->part[0], *y = &args->part[i];
        if (!alike(x, y)) return PLX_GROUP_NONE;
        left = left && same_left(x, y);
        right = right && same_right(x, y);
        sum = sum && same_sum(x, y);
    }
    return left ? PLX_GROUP_LEFT : right ? PLX_GROUP_RIGHT : sum ? PLX_GROUP_SUM : PLX_GROUP_NONE;
}

static bool all_accepted(const plx_matmul_group_args *args, bool (*accepts)(const void *arguments))
{
    for (size_t i = 0; i < args->count; i++)
        if (!accepts(&args->part[i])) return false;
    return plx_group_of(args) != PLX_GROUP_NONE;
}
static bool group_accepts_tiles(const void *arguments) { return all_accepted(arguments, accepts_tiles); }
static bool group_accepts_terms(const void *arguments) { return all_accepted(arguments, accepts_terms); }
/* As for one product of their size; where x^T is turned for all, nothing is gained beyond what is summed in caches. */
static bool group_terms_pay(const void *arguments)
{
    const plx_matmul_group_args *args = arguments;
    plx_matmul_args all = args->part[0];
    if (!group_accepts_terms(args)) return false;
    const plx_group kind = plx_group_of(args);
    for (size_t i = 1; i < args->count; i++) {
        const plx_matmul_args *part = &args->part[i];
        if (kind == PLX_GROUP_LEFT)
            all.n += part->n;
        else if (kind == PLX_GROUP_RIGHT)
            all.m += part->m;
        else
            all.k += part->k;
    }
    return terms_pay(&all) && (kind != PLX_GROUP_RIGHT || all.m * all.n <= (size_t)1 << 20);
}
/* Each by the implementation that it would have by itself. */
static plx_status group_by_parts(plx_context *context, const void *arguments)
{
    const plx_matmul_group_args *args = arguments;
    for (size_t i = 0; i < args->count; i++)
        PLX_TRY(plx_op_choose(context, &plx_op_matmul, &args->part[i])->run(context, &args->part[i]));
    return PLX_OK;
}
static const plx_kernel group_kernels[] = {
    PLX_TILES_KERNEL(plx_matmul_group, group_accepts_tiles)
    PLX_TERMS_KERNEL(plx_matmul_group_terms, group_terms_pay)
    {"parts", PLX_LEVEL_PORTABLE, NULL, group_by_parts},
    PLX_TILES_EMULATED(plx_matmul_group, group_accepts_tiles)
    PLX_TERMS_EMULATED(plx_matmul_group_terms, group_accepts_terms)
    {"ref", PLX_LEVEL_PORTABLE, NULL, plx_matmul_group_ref},
    {0}};
static double group_flops(const void *arguments)
{
    const plx_matmul_group_args *args = arguments;
    double flops = 0;
    for (size_t i = 0; i < args->count; i++) flops += matmul_flops(&args->part[i]);
    return flops;
}
const plx_op plx_op_matmul_group = {"matmul.group", group_flops, group_kernels};

bool plx_matmul_groups(const plx_context *context, const plx_matmul_group_args *args)
{
    const plx_kernel *kernel = plx_op_choose(context, &plx_op_matmul_group, args);
    return kernel->run != group_by_parts && kernel->run != plx_matmul_group_ref;
}

const plx_op *const plx_shared_ops[] = {
    &plx_op_matmul, &plx_op_matmul_group, &plx_op_column_sum, &plx_op_norm_forward, &plx_op_norm_backward, &plx_op_rope,
    &plx_op_swiglu_forward, &plx_op_swiglu_backward, &plx_op_gelu_forward, &plx_op_gelu_backward, &plx_op_add,
    &plx_op_dropout, &plx_op_embedding_forward, &plx_op_embedding_backward, &plx_op_gather, &plx_op_cross_entropy,
    &plx_op_packed_matmul, &plx_op_packed_rows, &plx_op_append, &plx_op_move, &plx_op_sum_squares, &plx_op_adamw, NULL};
