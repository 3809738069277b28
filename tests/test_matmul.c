/* test_matmul.c - matrix products: every implementation against the plain reference in double, over awkward sizes;
 * equal bits for 1, 2 and 5 threads; rows of x W^T that do not depend on each other. */
#include "core/random.h"
#include "kernels/kernels.h"
#include "support/problem.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { TRANSPOSE_A = 1, TRANSPOSE_B = 2, BETA = 4, BIAS = 8, STRIDES = 16, GRADIENTS = 32 };
static void bind_matmul(const problem *p, plx_type type, void *arguments)
{
    size_t m = p->dims[0], n = p->dims[1], k = p->dims[2], more = p->flags & STRIDES ? 3 : 0;
    *(plx_matmul_args *)arguments = (plx_matmul_args){.a_type = type,
                                                      .b_type = type,
                                                      .c_type = type,
                                                      .a = at(p, type, 0),
                                                      .b = at(p, type, 1),
                                                      .c = at(p, type, 2),
                                                      .m = m,
                                                      .n = n,
                                                      .k = k,
                                                      .lda = (p->flags & TRANSPOSE_A ? m : k) + more,
                                                      .ldb = (p->flags & TRANSPOSE_B ? k : n) + more,
                                                      .ldc = n + more,
                                                      .transpose_a = p->flags & TRANSPOSE_A,
                                                      .transpose_b = p->flags & TRANSPOSE_B,
                                                      .beta = p->flags & BETA ? 0.5 : 0,
                                                      .bias = p->flags & BIAS ? at(p, type, 3) : NULL,
                                                      .bias_type = type,
                                                      .gradients = p->flags & GRADIENTS};
}
static problem matmul_problem(size_t m, size_t n, size_t k, int flags)
{
    problem p = {.op = &plx_op_matmul,
                 .bind = bind_matmul,
                 .dims = {m, n, k},
                 .flags = flags,
                 .outputs = {3},
                 .tolerance = 2e-6};
    size_t more = flags & STRIDES ? 3 : 0;
    fill(&p, 0, (flags & TRANSPOSE_A ? k : m) * ((flags & TRANSPOSE_A ? m : k) + more), 1);
    fill(&p, 1, (flags & TRANSPOSE_B ? n : k) * ((flags & TRANSPOSE_B ? k : n) + more), 1);
    fill(&p, 2, m * (n + more), 1);
    fill(&p, 3, n, 1);
    return p;
}

/* Below AVX-512 OpenBLAS comes first: check it and what stands behind it, and tiles, here by their emulation. */
static void check_product(size_t m, size_t n, size_t k, int flags)
{
    enum { BLAS, OWN, TILES, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        for (int level = 0; level < 2; level++)
            for (int t = 0; t < THREADS; t++) {
                const char *names[KINDS] = {"blas", level_names[level], "emulated_f32"};
                if (contexts[level][t] != NULL)
                    assert_int_equal(plx_context_choose_kernel(contexts[level][t], "matmul", names[kind]), PLX_OK);
            }
        problem p = matmul_problem(m, n, k, kind == TILES ? flags | GRADIENTS : flags);
        check(&p);
    }
}

static void test_matmul_small(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 1},    {1, 37, 19},   {5, 1, 7},   {0, 3, 2},    {3, 0, 2},
                                      {4, 5, 0},    {1, 6, 0},     {33, 17, 9}, {70, 65, 64}, {300, 40, 5},
                                      {1, 300, 40}, {64, 48, 700}, {15, 31, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int flags = 0; flags < 32; flags++) check_product(sizes[i][0], sizes[i][1], sizes[i][2], flags);
}

/* Sizes that are cut every way: blocks of rows, columns and depth, shares of k, the last ones incomplete. */
static void test_matmul_large(void **state)
{
    (void)state;
    enum { FORWARD = TRANSPOSE_B, INPUT = 0, WEIGHT = TRANSPOSE_A };
    static const size_t sizes[][4] = {{520, 130, 64, FORWARD | BIAS},
                                      {96, 80, 513, FORWARD | BIAS | BETA},
                                      {1, 1030, 257, FORWARD | BIAS},
                                      {131, 257, 300, FORWARD | STRIDES},
                                      {140, 1100, 290, FORWARD | BETA},
                                      {300, 70, 530, INPUT},
                                      {129, 33, 257, INPUT | BETA | STRIDES},
                                      {60, 300, 600, INPUT},
                                      {96, 80, 513, WEIGHT | BETA},
                                      {129, 65, 1100, WEIGHT | BETA | STRIDES},
                                      {40, 30, 2600, WEIGHT},
                                      {600, 290, 260, WEIGHT | BETA},
                                      {50, 40, 1200, WEIGHT | BIAS},
                                      {70, 90, 600, WEIGHT | TRANSPOSE_B},
                                      {140, 2070, 270, FORWARD},
                                      {50, 70, 2300, INPUT | BETA},
                                      {290, 40, 2100, INPUT | BIAS}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_product(sizes[i][0], sizes[i][1], sizes[i][2], (int)sizes[i][3]);
}

/* A row of x W^T has the same bits whichever rows are computed with it, by whatever implementation is chosen here and
 * by those that other processors take. */
static void check_rows(plx_context *context, size_t n, size_t k, plx_type weights)
{
    enum { M = 200 }; /* enough for panels packed once for all rows */
    static const size_t parts[][2] = {{0, 1}, {199, 1}, {3, 2}, {5, 7}, {11, 13}, {0, 33}, {37, 33}, {1, 150}};
    plx_random random;
    float *x = malloc(M * k * 4), *w = malloc(n * k * 4), *all = malloc(M * n * 4), *part = malloc(M * n * 4);
    plx_random_init(&random, n, k);
    for (size_t i = 0; i < M * k; i++) x[i] = (float)plx_random_normal(&random);
    for (size_t i = 0; i < n * k; i++) plx_put(w, weights, i, plx_random_normal(&random));
    plx_matmul_args args = {.a_type = PLX_F32,
                            .b_type = weights,
                            .c_type = PLX_F32,
                            .a = x,
                            .b = w,
                            .c = all,
                            .m = M,
                            .n = n,
                            .k = k,
                            .lda = k,
                            .ldb = k,
                            .ldc = n,
                            .transpose_b = true,
                            .bias = w,
                            .bias_type = weights};
    assert_int_equal(plx_op_run(context, &plx_op_matmul, &args), PLX_OK);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        args.a = x + parts[i][0] * k;
        args.m = parts[i][1];
        args.c = part;
        assert_int_equal(plx_op_run(context, &plx_op_matmul, &args), PLX_OK);
        assert_memory_equal(part, all + parts[i][0] * n, parts[i][1] * n * 4);
    }
    free(x);
    free(w);
    free(all);
    free(part);
}
static void test_matmul_rows(void **state)
{
    (void)state;
    static const char *const kernels[] = {NULL, "avx512", "avx2", "portable"};
    static const size_t sizes[][2] = {{1, 7}, {8, 24}, {33, 64}, {128, 128}, {257, 300}, {40, 700}};
    for (size_t i = 0; i < 4; i++) {
        plx_context *context;
        assert_int_equal(plx_context_create(NULL, &context), PLX_OK);
        if (kernels[i] != NULL) assert_int_equal(plx_context_choose_kernel(context, "matmul", kernels[i]), PLX_OK);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int type = 0; type < 3; type++)
                check_rows(context, sizes[s][0], sizes[s][1], (const plx_type[]){PLX_F32, PLX_BF16, PLX_F16}[type]);
        plx_context_free(context);
    }
}

/* beta 0 does not read C; the reference equals the definition, written in another order. */
static void test_matmul_reference(void **state)
{
    (void)state;
    for (int flags = 0; flags < 32; flags++) {
        problem p = matmul_problem(3, 4, 5, flags);
        if (!(flags & BETA))
            for (size_t i = 0; i < p.arrays[2].count; i++) set(&p, 2, i, NAN);
        plx_matmul_args a;
        bind_matmul(&p, PLX_F64, &a);
        double expected[3][4] = {{0}};
        for (size_t k = 0; k < 5; k++)
            for (size_t i = 0; i < 3; i++)
                for (size_t j = 0; j < 4; j++)
                    expected[i][j] += p.arrays[0].twice[a.transpose_a ? k * a.lda + i : i * a.lda + k] *
                                      p.arrays[1].twice[a.transpose_b ? j * a.ldb + k : k * a.ldb + j];
        for (size_t i = 0; i < 3; i++)
            for (size_t j = 0; j < 4; j++) {
                if (flags & BETA) expected[i][j] += 0.5 * p.arrays[2].twice[i * a.ldc + j];
                if (flags & BIAS) expected[i][j] += p.arrays[3].twice[j];
            }
        run(plain, &p, PLX_F64);
        run(contexts[0][1], &p, PLX_F32);
        for (size_t i = 0; i < 3; i++)
            for (size_t j = 0; j < 4; j++) {
                assert_close(p.arrays[2].twice[i * a.ldc + j], expected[i][j], 1e-12);
                assert_close(p.arrays[2].single[i * a.ldc + j], expected[i][j], 1e-5);
            }
        release(&p);
    }
    for (int rows = 1; rows <= 2; rows++) { /* the product with a vector does not read C either */
        problem p = matmul_problem((size_t)rows, 20, 9, TRANSPOSE_B);
        for (size_t i = 0; i < p.arrays[2].count; i++) set(&p, 2, i, NAN);
        run(contexts[0][0], &p, PLX_F32);
        for (size_t i = 0; i < p.arrays[2].count; i++) assert_true(isfinite(p.arrays[2].single[i]));
        release(&p);
    }
}

static void test_matmul_16_bits(void **state)
{
    (void)state;
    enum { M = 9, N = 21, K = 13 };
    static const plx_type types[] = {PLX_F32, PLX_BF16, PLX_F16};
    for (size_t left = 0; left < 3; left++)
        for (size_t right = 0; right < 3; right++)
            for (int transposed = 0; transposed < 2; transposed++) {
                float a[M * K], b[K * N], bias[N], fast[M * N];
                double exact[M * N];
                for (size_t i = 0; i < M * K; i++) plx_put(a, types[left], i, uniform(-2, 2) * (i % 5 ? 1 : 1e-6));
                for (size_t i = 0; i < K * N; i++) plx_put(b, types[right], i, uniform(-2, 2));
                for (size_t i = 0; i < N; i++) plx_put(bias, types[right], i, uniform(-2, 2));
                plx_matmul_args args = {.a_type = types[left],
                                        .b_type = types[right],
                                        .c_type = PLX_F64,
                                        .a = a,
                                        .b = b,
                                        .c = exact,
                                        .m = M,
                                        .n = N,
                                        .k = K,
                                        .lda = K,
                                        .ldb = transposed ? K : N,
                                        .ldc = N,
                                        .transpose_b = transposed,
                                        .bias = bias,
                                        .bias_type = types[right]};
                assert_int_equal(plx_op_run(plain, &plx_op_matmul, &args), PLX_OK);
                args.c_type = PLX_F32;
                args.c = fast;
                if (types[left] == PLX_F32)
                    assert_string_not_equal(plx_op_choose(contexts[0][1], &plx_op_matmul, &args)->name, "ref");
                assert_int_equal(plx_op_run(contexts[0][1], &plx_op_matmul, &args), PLX_OK);
                for (size_t i = 0; i < M * N; i++) assert_close(fast[i], exact[i], 1e-5);
            }
    /* every half converts to what plx_get says, subnormals, infinities and NaN included */
    uint16_t *halves = malloc(65536 * sizeof *halves);
    float *values = malloc(65536 * sizeof *values), one = 1;
    for (size_t i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
    for (int type = PLX_BF16; type <= PLX_F16; type++) {
        plx_matmul_args args = {.a_type = (plx_type)type,
                                .b_type = PLX_F32,
                                .c_type = PLX_F32,
                                .a = halves,
                                .b = &one,
                                .c = values,
                                .m = 65536,
                                .n = 1,
                                .k = 1,
                                .lda = 1,
                                .ldb = 1,
                                .ldc = 1};
        assert_int_equal(plx_op_run(contexts[0][0], &plx_op_matmul, &args), PLX_OK);
        for (size_t i = 0; i < 65536; i++) {
            double expected = plx_get(halves, (plx_type)type, i);
            assert_true(isnan(expected) ? isnan(values[i]) : values[i] == (float)expected);
        }
    }
    free(halves);
    free(values);
}

/* BLAS must not split a product on its own threads, whichever thread it is called from. */
static void *product_on_a_thread(void *given)
{
    run(contexts[0][0], given, PLX_F32);
    return NULL;
}
static void test_matmul_on_another_thread(void **state)
{
    (void)state;
    problem p = matmul_problem(96, 80, 513, 0);
    for (int i = 0; i < 2; i++) assert_int_equal(plx_context_choose_kernel(contexts[0][i], "matmul", "blas"), PLX_OK);
    run(contexts[0][1], &p, PLX_F32);
    float first[96 * 80];
    memcpy(first, p.arrays[2].single, sizeof first);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, product_on_a_thread, &p), 0);
    pthread_join(thread, NULL);
    assert_memory_equal(first, p.arrays[2].single, sizeof first);
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul_rows),    cmocka_unit_test(test_matmul_small),
        cmocka_unit_test(test_matmul_large),   cmocka_unit_test(test_matmul_reference),
        cmocka_unit_test(test_matmul_16_bits), cmocka_unit_test(test_matmul_on_another_thread),
    };
    return cmocka_run_group_tests_name("matmul", tests, open_contexts, close_contexts);
}
