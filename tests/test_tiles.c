/* test_tiles.c - matrix products on bf16 tiles: the emulation everywhere, the instructions where the processor has
 * them.
 *
 * What rounding the operands to bf16 does to the product is computed in double; a tile product may err by twice that.
 */
#include "core/random.h"
#include "kernels/kernels.h"
#include "support/problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double rounded(double x)
{
    uint16_t half;
    plx_put(&half, PLX_BF16, 0, x);
    return plx_get(&half, PLX_BF16, 0);
}

typedef struct product {
    size_t m, n, k, more;
    bool transpose_a, transpose_b, bias;
    double beta;
    plx_type b_type;
} product;

/* Element (i, k) of op(A) in its array, as stored. */
static size_t place(bool transposed, size_t i, size_t k, size_t stride)
{
    return transposed ? k * stride + i : i * stride + k;
}

static void check_product_on(const char *kernel, plx_context *context, const product *p)
{
    size_t lda = (p->transpose_a ? p->m : p->k) + p->more, ldb = (p->transpose_b ? p->k : p->n) + p->more;
    size_t ldc = p->n + p->more, a_count = lda * (p->transpose_a ? p->k : p->m),
           b_count = ldb * (p->transpose_b ? p->n : p->k);
    float *a = malloc(a_count * 4 + 4), *b = malloc(b_count * 4 + 4), *c = malloc(p->m * ldc * 4 + 4),
          *bias = malloc(p->n * 4), *before = malloc(p->m * ldc * 4 + 4);
    plx_random random;
    plx_random_init(&random, p->m, p->n);
    for (size_t i = 0; i < a_count; i++) a[i] = (float)plx_random_normal(&random);
    for (size_t i = 0; i < b_count; i++) plx_put(b, p->b_type, i, plx_random_normal(&random));
    for (size_t i = 0; i < p->n; i++) bias[i] = (float)plx_random_normal(&random);
    for (size_t i = 0; i < p->m * ldc; i++) before[i] = p->beta == 0 ? NAN : (float)plx_random_normal(&random);
    memcpy(c, before, p->m * ldc * 4);
    plx_matmul_args args = {.a_type = PLX_F32,
                            .b_type = p->b_type,
                            .c_type = PLX_F32,
                            .a = a,
                            .b = b,
                            .c = c,
                            .m = p->m,
                            .n = p->n,
                            .k = p->k,
                            .lda = lda,
                            .ldb = ldb,
                            .ldc = ldc,
                            .transpose_a = p->transpose_a,
                            .transpose_b = p->transpose_b,
                            .beta = p->beta,
                            .bias = p->bias ? bias : NULL,
                            .bias_type = PLX_F32,
                            .bf16 = true};
    assert_int_equal(plx_context_choose_kernel(context, "matmul", kernel), PLX_OK);
    assert_string_equal(plx_op_choose(context, &plx_op_matmul, &args)->name, kernel);
    assert_int_equal(plx_op_run(context, &plx_op_matmul, &args), PLX_OK);
    double by_rounding = 0, by_kernel = 0;
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < ldc; j++) {
            if (j >= p->n) { /* between the rows nothing is touched */
                assert_memory_equal(&c[i * ldc + j], &before[i * ldc + j], 4);
                continue;
            }
            double base = (p->beta == 0 ? 0 : p->beta * before[i * ldc + j]) + (p->bias ? bias[j] : 0), exact = base,
                   half = base;
            for (size_t k = 0; k < p->k; k++) {
                double x = a[place(p->transpose_a, i, k, lda)],
                       y = plx_get(b, p->b_type, place(!p->transpose_b, j, k, ldb));
                exact += x * y;
                half += rounded(x) * rounded(y);
            }
            by_rounding += (half - exact) * (half - exact);
            by_kernel += (c[i * ldc + j] - exact) * (c[i * ldc + j] - exact);
        }
    /* sums in f32: 1e-6 of a number of size sqrt(k) */
    if (!(sqrt(by_kernel) <= 2 * sqrt(by_rounding) + 1e-6 * sqrt((double)(p->m * p->n * (p->k + 1)))))
        fail_msg("%s %zux%zux%zu: error %g, of rounding alone %g", kernel, p->m, p->n, p->k, sqrt(by_kernel),
                 sqrt(by_rounding));
    free(a);
    free(b);
    free(c);
    free(bias);
    free(before);
}

static const product products[] = {
    {1, 1, 1, 0, false, false, false, 0, PLX_F32},       {3, 5, 7, 2, false, true, true, 0, PLX_F32},
    {32, 32, 32, 0, false, true, false, 0, PLX_F32},     {33, 31, 65, 1, true, false, false, 1, PLX_F32},
    {64, 96, 512, 0, false, false, false, 0, PLX_F32},   {70, 257, 130, 0, false, true, true, 1, PLX_F32},
    {300, 40, 33, 3, false, true, false, 0.5, PLX_BF16}, {100, 33, 600, 0, true, false, false, 1, PLX_F32},
    {48, 64, 1100, 0, true, true, false, 0, PLX_F32},    {16, 20, 0, 0, false, true, true, 0, PLX_F32},
    {40, 50, 2600, 1, true, false, false, 1, PLX_F32},   {33, 64, 2048, 0, false, false, false, 0.5, PLX_F32},
    {40, 40, 40, 5, false, false, true, 0.25, PLX_F16},  {520, 34, 64, 0, false, true, false, 0, PLX_F32},
};

static void test_tile_products(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        check_product_on("emulated", contexts[0][1], &products[i]);
        plx_context_options best = {.threads = 2};
        plx_context *context;
        assert_int_equal(plx_context_create(&best, &context), PLX_OK);
        if (context->level == PLX_LEVEL_AMX) check_product_on("amx", context, &products[i]);
        plx_context_free(context);
    }
}

/* Without leave to round, and where the processor has no tiles, another implementation is taken. */
static void test_tiles_are_asked_for(void **state)
{
    (void)state;
    plx_context *context;
    assert_int_equal(plx_context_create(NULL, &context), PLX_OK);
    float a[4] = {0}, b[4] = {0}, c[4];
    plx_matmul_args args = {.a = a, .b = b, .c = c, .m = 2, .n = 2, .k = 2, .lda = 2, .ldb = 2, .ldc = 2};
    assert_string_not_equal(plx_op_choose(context, &plx_op_matmul, &args)->name, "amx");
    args.bf16 = true;
    const char *name = plx_op_choose(context, &plx_op_matmul, &args)->name;
    assert_string_not_equal(name, "emulated");
    assert_int_equal(strcmp(name, "amx") == 0, context->level == PLX_LEVEL_AMX);
    plx_context_free(context);
}

/* The same bits for every number of threads, and for a row whatever rows are computed with it. */
static void test_tiles_bits(void **state)
{
    (void)state;
    enum { M = 300, N = 70, K = 600 };
    float *a = malloc(M * K * 4), *b = malloc(N * K * 4), *all = malloc(M * N * 4), *other = malloc(M * N * 4);
    plx_random random;
    plx_random_init(&random, 1, 2);
    for (size_t i = 0; i < M * K; i++) a[i] = (float)plx_random_normal(&random);
    for (size_t i = 0; i < N * K; i++) b[i] = (float)plx_random_normal(&random);
    plx_matmul_args args = {.a = a,
                            .b = b,
                            .c = all,
                            .m = M,
                            .n = N,
                            .k = K,
                            .lda = K,
                            .ldb = K,
                            .ldc = N,
                            .transpose_b = true,
                            .bf16 = true};
    for (int t = 0; t < THREADS; t++) {
        args.c = t == 0 ? all : other;
        assert_int_equal(plx_context_choose_kernel(contexts[0][t], "matmul", "emulated"), PLX_OK);
        assert_int_equal(plx_op_run(contexts[0][t], &plx_op_matmul, &args), PLX_OK);
        if (t > 0) assert_memory_equal(all, other, M * N * 4);
    }
    args.a = a + 7 * K;
    args.m = 3;
    assert_int_equal(plx_op_run(contexts[0][0], &plx_op_matmul, &args), PLX_OK);
    assert_memory_equal(all + 7 * N, other, 3 * N * 4);
    free(a);
    free(b);
    free(all);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tile_products), cmocka_unit_test(test_tiles_are_asked_for),
                                       cmocka_unit_test(test_tiles_bits)};
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
