/* test_packed.c - packed weights: forms against the files' own numbers, products against the reference in double and
 * against x as it is, rows and threads; models that hold them. */
#include "kernels/packed.h"

#include "core/random.h"
#include "support/files.h"
#include "support/problem.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/families/"

static plx_random generator;

/* ---- matrices ---- */

/* A file's rows of [n, k]: random bytes, with scales and minima between 2^-9 and 2^-6 of either sign. */
static uint8_t *random_rows(plx_packing packing, size_t n, size_t k)
{
    const size_t bytes = plx_packing_bytes(packing), blocks = n * k / plx_packing_numbers(packing);
    uint8_t *rows = malloc(blocks * bytes);
    for (size_t i = 0; i < blocks * bytes; i++) rows[i] = (uint8_t)(plx_random_u32(&generator) >> 24);
    for (size_t b = 0; b < blocks; b++)
        for (int i = 0; i < 2; i++) {
            const bool minimum = packing == PLX_PACKED_Q4_1 || packing == PLX_PACKED_Q5_1 ||
                                 packing == PLX_PACKED_Q4_K || packing == PLX_PACKED_Q5_K;
            uint16_t half =
                (uint16_t)((plx_random_u32(&generator) >> 20 & 0x83ff) | (6 + plx_random_u32(&generator) % 3) << 10);
            if (i == 0 || minimum) memcpy(rows + b * bytes + (packing == PLX_PACKED_Q6_K ? 208 : 2 * i), &half, 2);
        }
    return rows;
}

static plx_param *packed_param(plx_form form, plx_packing packing, const uint8_t *rows, size_t n, size_t k)
{
    plx_param *param = calloc(1, sizeof *param);
    *param = (plx_param){.name = "test", .rank = 2, .shape = {n, k}, .elements = n * k, .form = form};
    expect_ok(plain, plx_device_alloc(plain, plx_param_bytes(param), &param->data));
    size_t row_bytes = k / plx_packing_numbers(packing) * plx_packing_bytes(packing);
    expect_ok(plain, plx_param_pack(plain, param, packing, rows, row_bytes, 0, n));
    return param;
}
static void free_param(plx_param *param)
{
    plx_device_free(plain, param->data);
    free(param);
}

static const plx_packing packings[] = {PLX_PACKED_Q4_0, PLX_PACKED_Q4_1, PLX_PACKED_Q8_0, PLX_PACKED_Q5_0,
                                       PLX_PACKED_Q5_1, PLX_PACKED_Q4_K, PLX_PACKED_Q5_K, PLX_PACKED_Q6_K};
enum { PACKINGS = sizeof packings / sizeof *packings };

/* What is unpacked is what the file says, bit for bit; of Q6_K, within half a step of 127 and its rounding. */
static void test_forms_hold_the_file(void **state)
{
    (void)state;
    enum { N = 37, K = 512 };
    for (int p = 0; p < PACKINGS; p++) {
        const plx_packing packing = packings[p];
        uint8_t *rows = random_rows(packing, N, K);
        float *expected = malloc(N * K * 4), *found = malloc(N * K * 4);
        plx_packing_unpack(packing, rows, N * K / plx_packing_numbers(packing), expected);
        plx_param *param = packed_param(plx_form_of(packing), packing, rows, N, K);
        expect_ok(plain, plx_param_fetch(plain, param, 0, N * K, found));
        if (packing != PLX_PACKED_Q6_K) assert_memory_equal(found, expected, N * K * 4);
        for (size_t i = 0; i < N * K; i += 32) {
            double top = 0;
            for (size_t j = 0; j < 32; j++) top = fmax(top, fabs((double)expected[i + j]));
            for (size_t j = 0; j < 32; j++) assert_close(found[i + j], expected[i + j], top / 127 * 0.5001);
        }
        /* Any stretch, also of parts of rows. */
        expect_ok(plain, plx_param_fetch(plain, param, 3 * K + 5, K + 100, expected));
        assert_memory_equal(expected, found + 3 * K + 5, (K + 100) * 4);
        free_param(param);
        free(rows);
        free(expected);
        free(found);
    }
}

/* Numbers to Q8_0 and Q4_0: within half a step; the largest of Q4_0's other sign loses a whole one. */
static void test_numbers_are_rounded(void **state)
{
    (void)state;
    enum { N = 17, K = 96 };
    static const plx_form wanted[] = {PLX_FORM_Q8_0, PLX_FORM_Q4_0};
    float *numbers = malloc(N * K * 4), *found = malloc(N * K * 4);
    for (size_t i = 0; i < N * K; i++) numbers[i] = (float)plx_random_normal(&generator);
    memset(numbers + 64, 0, 32 * 4); /* a block of zeros */
    for (int f = 0; f < 2; f++) {
        plx_param *param = packed_param(wanted[f], PLX_PACKED_F32, (const uint8_t *)numbers, N, K);
        expect_ok(plain, plx_param_fetch(plain, param, 0, N * K, found));
        for (size_t i = 0; i < N * K; i += 32) {
            double top = 0;
            for (size_t j = 0; j < 32; j++) top = fmax(top, fabs((double)numbers[i + j]));
            for (size_t j = 0; j < 32; j++) /* scales have 11 bits */
                assert_close(found[i + j], numbers[i + j], f == 0 ? top / 127 * 0.57 : top / 8 * 1.01);
        }
        free_param(param);
    }
    free(numbers);
    free(found);
}

static void test_bad_scales(void **state)
{
    (void)state;
    uint8_t *rows = random_rows(PLX_PACKED_Q8_0, 2, 32);
    plx_param *param = packed_param(PLX_FORM_Q8_0, PLX_PACKED_Q8_0, rows, 2, 32);
    rows[35] = 0x7c; /* the second row's scale: infinite, or no number */
    expect_error(plain, PLX_ERROR_FORMAT, "tensor test holds a scale that is not finite",
                 plx_param_pack(plain, param, PLX_PACKED_Q8_0, rows, 34, 0, 2));
    free_param(param);
    free(rows);
}

/* ---- products ---- */

typedef struct product {
    size_t m, n, k;
    double beta;
    plx_param *weights;
    float *x, *bias, *y;
    double *exact, *bound; /* the reference's, and how far f32 sums may be off */
} product;

/* The reference in double of x rounded to int8; bound: each block's term is rounded a few times, and the sum of the
 * blocks once a block. */
static void expect_product(product *p)
{
    const size_t blocks = p->k / 32;
    float *row = malloc(p->k * 4);
    for (size_t j = 0; j < p->n; j++) {
        expect_ok(plain, plx_param_fetch(plain, p->weights, j * p->k, p->k, row));
        for (size_t i = 0; i < p->m; i++) {
            double sum = 0, size = 0;
            for (size_t b = 0; b < blocks; b++) {
                plx_quantised x;
                plx_quantise_block(p->x + i * p->k + b * 32, 0, &x);
                for (size_t c = 0; c < 32; c++) {
                    double term = (double)x.scale * x.q[c] * (double)row[b * 32 + c];
                    sum += term;
                    size += fabs((double)x.scale * x.q[c]) * (fabs((double)row[b * 32 + c]) + 1);
                }
            }
            p->exact[i * p->n + j] = sum + p->bias[j] + p->beta * p->y[i * p->n + j];
            p->bound[i * p->n + j] = (double)FLT_EPSILON * (double)(blocks + 6) *
                                     (size + fabs((double)p->bias[j]) + fabs((double)p->y[i * p->n + j]));
        }
    }
    free(row);
}

static product make_product(plx_packing packing, size_t m, size_t n, size_t k, double beta)
{
    product p = {.m = m,
                 .n = n,
                 .k = k,
                 .beta = beta,
                 .x = malloc(m * k * 4 + 1),
                 .bias = malloc(n * 4),
                 .y = malloc(m * n * 4 + 1),
                 .exact = malloc(m * n * 8 + 1),
                 .bound = malloc(m * n * 8 + 1)};
    uint8_t *rows = random_rows(packing, n, k);
    p.weights = packed_param(plx_form_of(packing), packing, rows, n, k);
    for (size_t i = 0; i < m * k; i++) p.x[i] = (float)plx_random_normal(&generator);
    for (size_t i = 0; i < n; i++) p.bias[i] = (float)plx_random_normal(&generator);
    for (size_t i = 0; i < m * n; i++) p.y[i] = (float)plx_random_normal(&generator);
    expect_product(&p);
    free(rows);
    return p;
}
static void free_product(product *p)
{
    free_param(p->weights);
    free(p->x);
    free(p->bias);
    free(p->y);
    free(p->exact);
    free(p->bound);
}

static plx_packed_matmul_args product_args(const product *p, float *y)
{
    memcpy(y, p->y, p->m * p->n * 4);
    return (plx_packed_matmul_args){.type = PLX_F32,
                                    .form = p->weights->form,
                                    .weights = p->weights->data,
                                    .x = p->x,
                                    .y = y,
                                    .m = p->m,
                                    .n = p->n,
                                    .k = p->k,
                                    .beta = p->beta,
                                    .bias = p->bias};
}

static const char *const kernels[] = {"amx", "vnni", "avx512", "avx2", "portable", "emulated", "ref"};
enum { KERNELS = sizeof kernels / sizeof *kernels };
/* The implementation of that name; NULL where there is none, the processor lacks it, or it declines. */
static const plx_kernel *kernel_named(const plx_context *context, const char *name, const void *args)
{
    for (const plx_kernel *kernel = plx_op_packed_matmul.kernels; kernel->run != NULL; kernel++)
        if (strcmp(kernel->name, name) == 0)
            return kernel->level <= context->level && (kernel->accepts == NULL || kernel->accepts(args)) ? kernel
                                                                                                         : NULL;
    return NULL;
}
static plx_context *best(int threads) /* the context of the processor's own level */
{
    static plx_context *made[3];
    if (made[threads] == NULL) made[threads] = test_context(threads, NULL, NULL);
    return made[threads];
}

static void check_product(plx_packing packing, size_t m, size_t n, size_t k, double beta)
{
    product p = make_product(packing, m, n, k, beta);
    float *y = malloc(m * n * 4 + 1), *again = malloc(m * n * 4 + 1);
    for (int i = 0; i < KERNELS; i++) {
        plx_packed_matmul_args args = product_args(&p, y);
        const plx_kernel *kernel = kernel_named(best(1), kernels[i], &args);
        if (kernel == NULL) continue;
        expect_ok(best(1), kernel->run(best(1), &args));
        for (size_t j = 0; j < m * n; j++)
            if (!(fabs(y[j] - p.exact[j]) <= p.bound[j]))
                fail_msg("%s, %s, %zu x %zu x %zu: number %zu is %.9g, not %.9g (within %.2g)",
                         plx_packing_name(packing), kernels[i], m, n, k, j, (double)y[j], p.exact[j], p.bound[j]);
        args = product_args(&p, again);
        expect_ok(best(2), kernel->run(best(2), &args));
        assert_memory_equal(y, again, m * n * 4);
    }
    free_product(&p);
    free(y);
    free(again);
}

static void test_products(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 256},  {1, 37, 256},  {2, 16, 512}, {3, 33, 256},  {4, 100, 256},
                                      {5, 16, 256}, {6, 48, 512},  {7, 20, 256}, {33, 31, 256}, {200, 33, 256},
                                      {0, 5, 256},  {16, 16, 768}, {17, 65, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int p = 0; p < PACKINGS; p++)
            check_product(packings[p], sizes[i][0], sizes[i][1], sizes[i][2], i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 0.5);
    check_product(PLX_PACKED_Q4_1, 9, 40, 576, 0); /* blocks of 32 need no 256 columns */
    check_product(PLX_PACKED_Q8_0, 2, 40, 32, 0);
}

/* Against x as it is: an int8 is off by half a step of 1 / 127 of its block's largest number. */
static void test_rounding_of_activations(void **state)
{
    (void)state;
    enum { M = 5, N = 32, K = 512 };
    for (int f = 0; f < PACKINGS; f++) {
        product p = make_product(packings[f], M, N, K, 0);
        float y[M * N], row[K];
        plx_packed_matmul_args args = product_args(&p, y);
        expect_ok(best(1), plx_op_run(best(1), &plx_op_packed_matmul, &args));
        for (size_t j = 0; j < N; j++) {
            expect_ok(plain, plx_param_fetch(plain, p.weights, j * K, K, row));
            for (size_t i = 0; i < M; i++) {
                double sum = p.bias[j], most = p.bound[i * N + j];
                for (size_t b = 0; b < K; b += 32) {
                    double top = 0, size = 0;
                    for (size_t c = b; c < b + 32; c++) {
                        top = fmax(top, fabs((double)p.x[i * K + c]));
                        size += fabs((double)row[c]);
                        sum += (double)row[c] * (double)p.x[i * K + c];
                    }
                    most += top / 127 * 0.5001 * size;
                }
                assert_close(y[i * N + j], sum, most);
            }
        }
        free_product(&p);
    }
}

/* A row has the same bits whichever rows are computed with it, by every implementation. */
static void test_rows_stand_alone(void **state)
{
    (void)state;
    enum { M = 230, N = 50, K = 512 };
    static const size_t parts[][2] = {{0, 1}, {229, 1}, {3, 2}, {5, 7}, {11, 4}, {0, 33}, {37, 33}, {1, 229}};
    for (int f = 0; f < PACKINGS; f++) {
        product p = make_product(packings[f], M, N, K, 0);
        float *all = malloc(M * N * 4), *part = malloc(M * N * 4);
        for (int i = 0; i < KERNELS - 1; i++) {
            plx_packed_matmul_args args = product_args(&p, all);
            const plx_kernel *kernel = kernel_named(best(2), kernels[i], &args);
            if (kernel == NULL) continue;
            expect_ok(best(2), kernel->run(best(2), &args));
            for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
                args.x = p.x + parts[j][0] * K;
                args.m = parts[j][1];
                args.y = part;
                expect_ok(best(2), plx_op_run(best(2), &plx_op_packed_matmul, &args));
                const plx_kernel *chosen = plx_op_choose(best(2), &plx_op_packed_matmul, &args);
                bool same = chosen == kernel || strcmp(kernels[i], "amx") == 0 || strcmp(kernels[i], "vnni") == 0;
                if (!same) expect_ok(best(2), kernel->run(best(2), &args));
                assert_memory_equal(part, all + parts[j][0] * N, args.m * N * 4);
            }
        }
        free_product(&p);
        free(all);
        free(part);
    }
}

/* What is no number shows. */
static void test_not_finite(void **state)
{
    (void)state;
    product p = make_product(PLX_PACKED_Q4_1, 7, 20, 256, 0);
    float y[7 * 20];
    p.x[3 * 256 + 40] = NAN;
    p.x[5 * 256] = INFINITY;
    for (int i = 0; i < KERNELS; i++) {
        plx_packed_matmul_args args = product_args(&p, y);
        const plx_kernel *kernel = kernel_named(best(1), kernels[i], &args);
        if (kernel == NULL) continue;
        expect_ok(best(1), kernel->run(best(1), &args));
        for (size_t row = 0; row < 7; row++) assert_int_equal(isnan(y[row * 20 + 7]) != 0, row == 3 || row == 5);
    }
    free_product(&p);
}

/* ---- models ---- */

enum { LENGTH = 40, HIDDEN = 64, VOCAB = 96 };
static const char *const config = "{\"hidden_size\": 64, \"num_attention_heads\": 4, \"intermediate_size\": 96, "
                                  "\"vocab_size\": 96, \"max_position_embeddings\": 64, \"tie_word_embeddings\": true, "
                                  "\"layers\": [{\"mixer\": \"attention\"}, {\"mixer\": \"nexus\"}, "
                                  "{\"mixer\": \"grassmann\", \"rank\": 6}]}";

static const char *saved_model(void)
{
    static char path[512];
    plx_model *model;
    if (path[0] != '\0') return path;
    snprintf(path, sizeof path, "%s", test_path("model"));
    expect_ok(plain, plx_model_create(plain, config, &(plx_model_options){.seed = 3}, &model));
    expect_ok(plain, plx_model_save(model, path));
    plx_model_free(model);
    return path;
}

static void some_tokens(int32_t tokens[LENGTH])
{
    for (int i = 0; i < LENGTH; i++) tokens[i] = (i * 37 + i * i) % VOCAB;
}
static void logits_of(plx_model *model, double *logits)
{
    int32_t tokens[LENGTH];
    some_tokens(tokens);
    plx_batch batch = {.rows = 1, .length = LENGTH, .inputs = tokens};
    expect_ok(plain, plx_model_logits(model, &batch, logits));
}

/* In double the packed model is the one of the unpacked weights; in f32 it is near it; and step by step it is itself,
 * on memory that only kernels may touch, too. */
static void test_models(void **state)
{
    (void)state;
    static const plx_weights ways[] = {PLX_WEIGHTS_Q8_0, PLX_WEIGHTS_Q4_0};
    static double exact[LENGTH * VOCAB], found[LENGTH * VOCAB], stepped[LENGTH * VOCAB];
    for (int w = 0; w < 2; w++) {
        plx_model *packed, *unpacked;
        const char *out = test_path(w == 0 ? "unpacked-8" : "unpacked-4");
        expect_ok(plain, plx_model_load(plain, saved_model(), &(plx_model_options){.type = PLX_F64, .weights = ways[w]},
                                        &packed));
        logits_of(packed, exact);
        expect_ok(plain, plx_model_save(packed, out)); /* unpacked */
        expect_ok(plain, plx_model_load(plain, out, &(plx_model_options){.type = PLX_F64}, &unpacked));
        logits_of(unpacked, found);
        assert_true(relative_error(found, exact, LENGTH * VOCAB) < 1e-12);
        plx_model_free(packed);
        plx_model_free(unpacked);
        static const char *const devices[] = {NULL, "fenced"};
        for (int d = 0; d < 2; d++) {
            plx_context *context = test_context(2, devices[d], NULL);
            plx_session *session;
            float some[LENGTH * VOCAB];
            int32_t tokens[LENGTH];
            some_tokens(tokens);
            expect_ok(context,
                      plx_model_load(context, saved_model(), &(plx_model_options){.weights = ways[w]}, &packed));
            logits_of(packed, found);
            double error = relative_error(found, exact, LENGTH * VOCAB);
            if (!(error < 0.02)) fail_msg("logits are %.3g off", error);
            expect_ok(context, plx_session_create(packed, &(plx_session_options){.capacity = LENGTH}, &session));
            for (size_t done = 0, count = 13; done < LENGTH; done += count, count = 1) {
                plx_session_row row = {.tokens = tokens + done, .count = count};
                expect_ok(context, plx_session_step(session, &row, 1, NULL, some));
                for (size_t i = 0; i < count * VOCAB; i++) stepped[done * VOCAB + i] = some[i];
            }
            error = relative_error(stepped, found, LENGTH * VOCAB);
            if (!(error < 5e-3)) fail_msg("step by step logits are %.3g off", error);
            plx_session_free(session);
            plx_model_free(packed);
            plx_context_free(context);
        }
    }
}

static void test_held_forms(void **state)
{
    (void)state;
    plx_model *model;
    plx_tensor_info info;
    expect_ok(plain, plx_model_load(plain, saved_model(), &(plx_model_options){.weights = PLX_WEIGHTS_Q4_0}, &model));
    assert_int_equal(model->embedding->form, PLX_FORM_Q8_0);
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *param = model->params[i];
        bool own = strstr(param->name, "mixer.reduce") != NULL || strstr(param->name, "mixer.gate") != NULL;
        bool plain_one = param->rank != 2 || own || param->shape[1] % 32 != 0;
        assert_int_equal(param->form, param == model->embedding ? PLX_FORM_Q8_0
                                      : plain_one               ? PLX_FORM_PLAIN
                                                                : PLX_FORM_Q4_0);
        expect_ok(plain, plx_model_tensor(model, i, &info));
        assert_int_equal(info.type, PLX_F32);
    }
    const char *name = "model.embed_tokens.weight";
    double values[VOCAB * HIDDEN] = {0};
    expect_error(plain, PLX_ERROR_UNSUPPORTED, "model.embed_tokens.weight is packed (Q8_0)",
                 plx_model_write_tensor(model, name, values, VOCAB * HIDDEN));
    plx_trainer *trainer;
    plx_train_options options = plx_train_defaults();
    expect_error(plain, PLX_ERROR_VALUE, "model.embed_tokens.weight is packed (Q8_0) and cannot be trained",
                 plx_trainer_create(model, &options, 1, 8, &trainer));
    plx_model_free(model);
}

/* A GGUF's own packing, as stored: in double the model that its unpacked numbers make. */
static void test_stored_forms(void **state)
{
    (void)state;
    static const char *const files[] = {"llama.gguf", "llama3.gguf", "qwen2.gguf", "gpt_neox.gguf"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        plx_model *stored, *whole;
        snprintf(path, sizeof path, GOLDEN "%s", files[i]);
        expect_ok(plain, plx_model_load(plain, path,
                                        &(plx_model_options){.type = PLX_F64, .weights = PLX_WEIGHTS_STORED}, &stored));
        expect_ok(plain, plx_model_load(plain, path, &(plx_model_options){.type = PLX_F64}, &whole));
        size_t vocab = whole->config.vocab_size;
        int32_t tokens[8] = {1, 5, 9, 2, 7, 7, 3, 4};
        plx_batch batch = {.rows = 1, .length = 8, .inputs = tokens};
        double *a = malloc(8 * vocab * 8), *b = malloc(8 * vocab * 8);
        expect_ok(plain, plx_model_logits(stored, &batch, a));
        expect_ok(plain, plx_model_logits(whole, &batch, b));
        double error = relative_error(a, b, 8 * vocab);
        if (!(error < 2e-2)) fail_msg("%s: %.3g", files[i], error);
        free(a);
        free(b);
        plx_model_free(stored);
        plx_model_free(whole);
    }
}

/* Gradients of what is below packed weights: those of the model whose weights are the unpacked ones. */
static void test_gradients_below(void **state)
{
    (void)state;
    plx_model *packed, *unpacked;
    const char *out = test_path("unpacked-gradients");
    test_batch batch = make_batch(2, 20, VOCAB, 0, 5);
    size_t count, other;
    expect_ok(plain, plx_model_load(plain, saved_model(), &(plx_model_options){.weights = PLX_WEIGHTS_Q8_0}, &packed));
    expect_ok(plain, plx_model_save(packed, out));
    expect_ok(plain, plx_model_load(plain, out, NULL, &unpacked));
    double *a = test_gradients(packed, &batch.batch, &count), *b = test_gradients(unpacked, &batch.batch, &other);
    assert_int_equal(count, other);
    double error = relative_error(a, b, count);
    if (!(error < 1e-5)) fail_msg("gradients are %.3g off", error);
    free(a);
    free(b);
    free_batch(&batch);
    plx_model_free(packed);
    plx_model_free(unpacked);
}

int main(void)
{
    plx_random_init(&generator, 11, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_hold_the_file),
        cmocka_unit_test(test_numbers_are_rounded),
        cmocka_unit_test(test_bad_scales),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_rounding_of_activations),
        cmocka_unit_test(test_rows_stand_alone),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_held_forms),
        cmocka_unit_test(test_stored_forms),
        cmocka_unit_test(test_gradients_below),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
