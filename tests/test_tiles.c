/* test_tiles.c - matrix products on bf16 tiles: the emulation everywhere, the instructions where the processor has
 * them.
 *
 * What rounding the operands to bf16 does to the product is computed in double; a tile product may err by twice that.
 * Products of operands in three terms are held to the bound of f32 multiply-adds, each element for itself.
 */
#include "core/random.h"
#include "kernels/group.h"
#include "support/problem.h"

#include <float.h>
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
        if (context->level >= PLX_LEVEL_BF16) check_product_on("bf16", context, &products[i]);
        if (context->level >= PLX_LEVEL_AMX) check_product_on("amx", context, &products[i]);
        plx_context_free(context);
    }
}

/* ---- f32 in three terms ---- */

/* The largest error of f32 multiply-adds over a sum of `count` products that add up to `size` without their signs:
 * each of its roundings is below 2^-24 of what is summed. Tiles round 6 times for 32 products and at most 18 times
 * inside a tile, and lose 2^-22 of a product. */
static double rounding_bound(size_t count, double size) { return ((double)count + 28) * 0x1p-24 * size; }
/* Terms, products and sums below 2^-126 count as zero: at most three terms of each factor, and 24 results. */
static double flush_bound(double a, double b) { return 0x1p-124 * (fabs(a) + fabs(b)) + 24 * 0x1p-126; }

typedef struct sides {
    size_t m, n, k;
    float *a, *b, *c; /* [m,k], [n,k], [m,n] */
} sides;

static sides make_sides(size_t m, size_t n, size_t k)
{
    sides x = {m, n, k, malloc(m * k * 4), malloc(n * k * 4), malloc(m * n * 4)};
    plx_random random;
    plx_random_init(&random, m, k);
    for (size_t i = 0; i < m * k; i++) x.a[i] = (float)plx_random_normal(&random);
    for (size_t i = 0; i < n * k; i++) x.b[i] = (float)plx_random_normal(&random);
    return x;
}
static void free_sides(sides *x)
{
    free(x->a);
    free(x->b);
    free(x->c);
}
static void multiply(plx_context *context, const char *kernel, const sides *x)
{
    plx_matmul_args args = {.a = x->a,
                            .b = x->b,
                            .c = x->c,
                            .m = x->m,
                            .n = x->n,
                            .k = x->k,
                            .lda = x->k,
                            .ldb = x->k,
                            .ldc = x->n,
                            .transpose_b = true,
                            .gradients = true};
    assert_int_equal(plx_context_choose_kernel(context, "matmul", kernel), PLX_OK);
    assert_string_equal(plx_op_choose(context, &plx_op_matmul, &args)->name, kernel);
    assert_int_equal(plx_op_run(context, &plx_op_matmul, &args), PLX_OK);
}
/* Calls test with the emulation, and with the instructions where the processor has them. */
static void with_each(void (*test)(plx_context *context, const char *kernel))
{
    test(contexts[0][1], "emulated_f32");
    plx_context_options best = {.threads = 2};
    plx_context *context;
    assert_int_equal(plx_context_create(&best, &context), PLX_OK);
    if (context->level == PLX_LEVEL_AMX) test(context, "amx_f32");
    plx_context_free(context);
}

/* Elements within the bound, rows or columns that hold what is not finite apart. */
static void check_elements(const sides *x)
{
    for (size_t i = 0; i < x->m; i++)
        for (size_t j = 0; j < x->n; j++) {
            double exact = 0, size = 0, flushed = 0;
            for (size_t k = 0; k < x->k; k++) {
                double a = x->a[i * x->k + k], b = x->b[j * x->k + k];
                exact += a * b;
                size += fabs(a * b);
                flushed += flush_bound(a, b);
            }
            double found = x->c[i * x->n + j];
            if (!isfinite(exact))
                assert_false(isfinite(found));
            else
                assert_close(found, exact, rounding_bound(x->k, size) + flushed);
        }
}

/* Numbers from 1e-30 to 1e30 beside each other, denormals, the largest, infinities and NaN. */
static void check_magnitudes(plx_context *context, const char *kernel)
{
    sides x = make_sides(70, 65, 100);
    for (size_t i = 0; i < x.m * x.k; i++) x.a[i] *= (float)ldexp(1, (int)(i * 37 % 201) - 100);
    for (size_t i = 0; i < x.n * x.k; i++) x.b[i] *= (float)ldexp(1, (int)(i * 53 % 121) - 100);
    for (size_t k = 0; k < x.k; k++) {
        x.a[3 * x.k + k] = (float)ldexp(x.a[k] > 0 ? 1 : -1, -120 - (int)k % 29);
        x.a[4 * x.k + k] = k % 2 ? FLT_MAX : -FLT_MAX;
        x.b[5 * x.k + k] = (float)ldexp(1 + (double)k / 100, -9);
        x.b[6 * x.k + k] = 1;
    }
    for (size_t k = 0; k < x.k; k++) x.a[4 * x.k + k] *= k < 50 ? 1 : 0;
    x.a[7 * x.k + 11] = INFINITY;
    x.a[33 * x.k + 12] = NAN;
    x.b[8 * x.k + 99] = -INFINITY;
    for (size_t j = 0; j < x.n; j++) /* the largest times what would overflow any sum */
        if (j != 5)
            for (size_t k = 0; k < 50; k++) x.b[j * x.k + k] = fminf(fabsf(x.b[j * x.k + k]), 0x1p-10f);
    multiply(context, kernel, &x);
    check_elements(&x);
    free_sides(&x);
}
static void test_terms_magnitudes(void **state)
{
    (void)state;
    with_each(check_magnitudes);
}

/* No larger an error than a chain of f32 multiply-adds. */
static void check_precision(plx_context *context, const char *kernel)
{
    sides x = make_sides(96, 70, 600);
    multiply(context, kernel, &x);
    check_elements(&x);
    double by_tiles = 0, by_chain = 0;
    for (size_t i = 0; i < x.m; i++)
        for (size_t j = 0; j < x.n; j++) {
            double exact = 0;
            float chain = 0;
            for (size_t k = 0; k < x.k; k++) {
                chain = fmaf(x.a[i * x.k + k], x.b[j * x.k + k], chain);
                exact += (double)x.a[i * x.k + k] * x.b[j * x.k + k];
            }
            by_tiles += pow(x.c[i * x.n + j] - exact, 2);
            by_chain += pow(chain - exact, 2);
        }
    assert_true(by_tiles <= by_chain);
    free_sides(&x);
}
static void test_terms_precision(void **state)
{
    (void)state;
    with_each(check_precision);
}

/* Without leave to round, and where the processor has no tiles, another implementation is taken. */
static void test_tiles_are_asked_for(void **state)
{
    (void)state;
    plx_context *context;
    assert_int_equal(plx_context_create(NULL, &context), PLX_OK);
    float a[4] = {0}, b[4] = {0}, c[4];
    plx_matmul_args args = {.a = a, .b = b, .c = c, .m = 2, .n = 2, .k = 2, .lda = 2, .ldb = 2, .ldc = 2};
    assert_false(plx_kernel_rounds(plx_op_choose(context, &plx_op_matmul, &args)));
    args.m = args.n = args.k = args.lda = args.ldb = args.ldc = 512; /* only asked about */
    assert_string_not_equal(plx_op_choose(context, &plx_op_matmul, &args)->name, "amx_f32");
    args.gradients = true;
    assert_int_equal(strcmp(plx_op_choose(context, &plx_op_matmul, &args)->name, "amx_f32") == 0,
                     context->level == PLX_LEVEL_AMX);
    args.bf16 = true;
    const char *name = plx_op_choose(context, &plx_op_matmul, &args)->name;
    assert_string_not_equal(name, "emulated");
    if (context->level >= PLX_LEVEL_BF16) assert_string_equal(name, plx_level_name(context->level));
    else assert_string_not_equal(name, "bf16");
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
    for (int terms = 0; terms < 2; terms++) {
        args.gradients = terms;
        args.bf16 = !terms;
        args.a = a;
        args.m = M;
        for (int t = 0; t < THREADS; t++) {
            args.c = t == 0 ? all : other;
            assert_int_equal(plx_context_choose_kernel(contexts[0][t], "matmul", terms ? "emulated_f32" : "emulated"),
                             PLX_OK);
            assert_int_equal(plx_op_run(contexts[0][t], &plx_op_matmul, &args), PLX_OK);
            if (t > 0) assert_memory_equal(all, other, M * N * 4);
        }
        args.a = a + 7 * K;
        args.m = 3;
        assert_int_equal(plx_op_run(contexts[0][0], &plx_op_matmul, &args), PLX_OK);
        assert_memory_equal(all + 7 * N, other, 3 * N * 4);
    }
    free(a);
    free(b);
    free(all);
    free(other);
}

/* ---- groups ---- */

typedef struct group {
    plx_group kind;
    size_t m, n, k, count, sizes[PLX_GROUP_MOST]; /* sizes: the parts' n, m or k, in place of the one above */
    double beta;
    bool bias;
} group;
static const group groups[] = {
    {PLX_GROUP_LEFT, 70, 0, 130, 3, {33, 64, 5}, 0, true},      {PLX_GROUP_LEFT, 300, 0, 64, 2, {96, 96}, 1, false},
    {PLX_GROUP_LEFT, 3, 0, 40, 5, {1, 40, 32, 31, 8}, 2, true}, {PLX_GROUP_LEFT, 40, 0, 600, 1, {50}, 0, false},
    {PLX_GROUP_RIGHT, 0, 50, 700, 3, {40, 96, 7}, 1, false},    {PLX_GROUP_RIGHT, 0, 300, 33, 2, {128, 64}, 0, false},
    {PLX_GROUP_RIGHT, 0, 32, 4200, 2, {32, 24}, 2, false},      {PLX_GROUP_SUM, 70, 45, 0, 3, {33, 64, 520}, 0, false},
    {PLX_GROUP_SUM, 600, 96, 0, 3, {96, 32, 32}, 1, false},     {PLX_GROUP_SUM, 20, 33, 0, 2, {1, 700}, 2, false},
    {PLX_GROUP_NONE, 20, 33, 50, 2, {0, 0}, 1, false},
};
enum { GROUP_SPAN = 140000, GROUP_ALL = PLX_GROUP_MOST * GROUP_SPAN }; /* numbers of an operand of a part, at most */

/* Operands, and C as it is before; of whole numbers so small that every implementation gives exact results, or not. */
typedef struct group_numbers {
    float *a, *b, *bias, *before, *c, *expected;
} group_numbers;
static group_numbers make_numbers(bool whole)
{
    float *x[6];
    plx_random random;
    plx_random_init(&random, 5, whole);
    for (int i = 0; i < 6; i++) {
        x[i] = malloc(GROUP_ALL * sizeof **x);
        for (size_t j = 0; j < GROUP_ALL; j++) {
            float number = (float)plx_random_uniform(&random) * 7 - 3;
            x[i][j] = whole ? floorf(number) : number;
        }
    }
    return (group_numbers){x[0], x[1], x[2], x[3], x[4], x[5]};
}
static void free_numbers(group_numbers *x)
{
    float *all[] = {x->a, x->b, x->bias, x->before, x->c, x->expected};
    for (int i = 0; i < 6; i++) free(all[i]);
}

static plx_matmul_group_args make_group(const group *g, const group_numbers *x, float *c, bool bf16)
{
    plx_matmul_group_args args = {.count = g->count};
    for (size_t i = 0; i < g->count; i++) {
        const size_t m = g->kind == PLX_GROUP_RIGHT ? g->sizes[i] : g->m,
                     n = g->kind == PLX_GROUP_LEFT ? g->sizes[i] : g->n,
                     k = g->kind == PLX_GROUP_SUM ? g->sizes[i] : g->k;
        const bool weights = g->kind == PLX_GROUP_RIGHT, forward = g->kind == PLX_GROUP_LEFT;
        args.part[i] = (plx_matmul_args){.a = x->a + (forward ? 0 : i * GROUP_SPAN),
                                         .b = x->b + (weights ? 0 : i * GROUP_SPAN),
                                         .c = c + (g->kind == PLX_GROUP_SUM ? 0 : i * GROUP_SPAN),
                                         .m = m,
                                         .n = n,
                                         .k = k,
                                         .lda = weights ? m : k,
                                         .ldb = forward ? k : n,
                                         .ldc = n,
                                         .transpose_a = weights,
                                         .transpose_b = forward,
                                         .beta = g->kind == PLX_GROUP_SUM && i > 0 ? 1 : g->beta,
                                         .bias = g->bias ? x->bias + i * GROUP_SPAN : NULL,
                                         .bf16 = bf16,
                                         .gradients = true};
    }
    return args;
}

static void run_group(plx_context *context, const char *kernel, const group *g, bool bf16, const group_numbers *x,
                      float *c)
{
    const plx_matmul_group_args args = make_group(g, x, c, bf16);
    memcpy(c, x->before, GROUP_ALL * sizeof *c);
    assert_int_equal(plx_group_of(&args), g->kind);
    assert_int_equal(plx_context_choose_kernel(context, "matmul.group", kernel), PLX_OK);
    const char *chosen = plx_op_choose(context, &plx_op_matmul_group, &args)->name;
    if (strncmp(kernel, "emulated", 8) == 0 && g->kind != PLX_GROUP_NONE) assert_string_equal(chosen, kernel);
    assert_int_equal(plx_matmul_groups(context, &args), strcmp(chosen, "parts") != 0 && strcmp(chosen, "ref") != 0);
    assert_int_equal(plx_op_run(context, &plx_op_matmul_group, &args), PLX_OK);
}
static void test_groups(void **state)
{
    (void)state;
    group_numbers x = make_numbers(true);
    plx_context_options best = {.threads = 2};
    plx_context *context;
    assert_int_equal(plx_context_create(&best, &context), PLX_OK);
    static const char *const kernels[] = {"emulated", "bf16", "amx", "emulated_f32", "parts", "amx_f32"};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        run_group(context, "ref", &groups[i], false, &x, x.expected);
        for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
            run_group(context, kernels[k], &groups[i], k < 3, &x, x.c);
            assert_memory_equal(x.c, x.expected, GROUP_ALL * sizeof *x.c);
        }
    }
    plx_context_free(context);
    free_numbers(&x);
}

/* Sums that are not exact have the same bits for every number of threads. */
static void test_group_bits(void **state)
{
    (void)state;
    group_numbers x = make_numbers(false);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        for (int terms = 0; terms < 2 && groups[i].kind != PLX_GROUP_NONE; terms++)
            for (int t = 0; t < THREADS; t++) {
                run_group(contexts[0][t], terms ? "emulated_f32" : "emulated", &groups[i], !terms, &x,
                          t == 0 ? x.expected : x.c);
                if (t > 0) assert_memory_equal(x.c, x.expected, GROUP_ALL * sizeof *x.c);
            }
    free_numbers(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tile_products),   cmocka_unit_test(test_tiles_are_asked_for),
        cmocka_unit_test(test_tiles_bits),      cmocka_unit_test(test_terms_magnitudes),
        cmocka_unit_test(test_terms_precision), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_group_bits)};
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
