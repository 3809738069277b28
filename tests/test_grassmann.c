/* test_grassmann.c - the operations of the grassmann mixer against their plain form in double, and that form against
 * central differences and the properties of wedges; the mixer's own options. The module as a whole is tested over the
 * registry with every other mixer. */
#include "core/context.h"
#include "core/random.h"
#include "mixers/grassmann/grassmann_ops.h"
#include "mixers/mixer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

extern const plx_mixer plx_mixer_grassmann;

#define ROWS_MOST 2
#define LENGTH_MOST 40
#define RANK_MOST 48
#define TOKENS_MOST (ROWS_MOST * LENGTH_MOST)
#define COMPONENTS_MOST (RANK_MOST * (RANK_MOST - 1) / 2)

/* What the vectors z look like. */
typedef enum kind { RANDOM, REPEATS, PARALLEL, ONE_ULP, OPPOSITE, TINY, ZEROS, LARGE, KINDS } kind;
static const char *const kind_names[] = {"random",   "repeats", "parallel", "one ulp",
                                         "opposite", "tiny",    "zeros",    "large"};

/* One problem with its data as f32 (fast) and as the same numbers in double (reference). */
typedef struct problem {
    size_t rows, length, rank, components, piece;
    plx_grassmann_offsets offsets;
    int32_t start[TOKENS_MOST];
    const int32_t *ids;
    float z[TOKENS_MOST * RANK_MOST], dw[TOKENS_MOST * COMPONENTS_MOST];
    float w[TOKENS_MOST * COMPONENTS_MOST];
    double dz[TOKENS_MOST * RANK_MOST], z64[TOKENS_MOST * RANK_MOST], dw64[TOKENS_MOST * COMPONENTS_MOST];
    double w64[TOKENS_MOST * COMPONENTS_MOST], dz64[TOKENS_MOST * RANK_MOST];
} problem;

static plx_context *make_context(int threads, const char *level)
{
    plx_context_options options = {.threads = threads, .level = level};
    plx_context *context = NULL;
    if (plx_context_create(&options, &context) != PLX_OK) return NULL; /* a level that this processor lacks */
    return context;
}

static float random_vector_component(plx_random *random, kind kind, size_t token, size_t i, const float *base)
{
    float noise = (float)plx_random_normal(random), size = (float)(1 + token % 5);
    switch (kind) {
    case REPEATS: return base[token % 3 * RANK_MOST + i];
    case PARALLEL: return size * base[i] + 1e-5f * noise;
    case ONE_ULP: return noise > 0 ? base[i] : nextafterf(base[i], 10);
    case OPPOSITE: return (token % 2 ? -1.0f : 1.0f) * base[i] * (1 + 1e-6f * noise);
    case TINY: return 1e-3f * noise / sqrtf(RANK_MOST / 4); /* |p| on both sides of epsilon */
    case ZEROS: return token % 3 == 1 ? 0 : noise;
    case LARGE: return 1e4f * noise;
    default: return noise;
    }
}

/* B = 2, T = length; the second row holds documents that begin at 3 and 11, where long enough. */
static problem *make_problem(size_t length, size_t rank, const plx_grassmann_offsets *offsets, kind kind)
{
    problem *p = calloc(1, sizeof *p);
    assert_non_null(p);
    *p = (problem){.rows = ROWS_MOST, .length = length, .rank = rank, .offsets = *offsets};
    p->components = plx_grassmann_components(rank);
    plx_random random;
    plx_random_init(&random, 7, (uint64_t)kind * 1000 + length * 50 + rank);
    float base[3 * RANK_MOST];
    for (size_t i = 0; i < 3 * RANK_MOST; i++) base[i] = (float)plx_random_normal(&random);
    for (size_t token = 0; token < p->rows * length; token++) {
        int32_t t = (int32_t)(token % length);
        p->start[token] = token < length ? 0 : t >= 11 ? 11 : t >= 3 ? 3 : 0;
        for (size_t i = 0; i < rank; i++)
            p->z64[token * rank + i] = p->z[token * rank + i] = random_vector_component(&random, kind, token, i, base);
        for (size_t c = 0; c < p->components; c++)
            p->dw64[token * p->components + c] = p->dw[token * p->components + c] = (float)plx_random_normal(&random);
    }
    return p;
}

static plx_sequence sequence_of(const problem *p)
{
    return (plx_sequence){.rows = p->rows, .length = p->length, .start = p->start};
}

/* In calls for p->piece tokens at a time (0: all at once). */
static void encode(plx_context *context, const problem *p, plx_type type, const void *z, void *w)
{
    size_t tokens = p->rows * p->length, piece = p->piece > 0 ? p->piece : tokens, size = plx_type_size(type);
    memset(w, 0xff, tokens * p->components * size); /* NaN */
    plx_grassmann_encode_args args = {.type = type, .sequence = sequence_of(p), .offsets = p->offsets};
    args.z = (plx_history){.data = (void *)(uintptr_t)z, .width = p->rank, .row_stride = p->length * p->rank};
    for (; args.first < tokens; args.first += piece) {
        args.count = tokens - args.first < piece ? tokens - args.first : piece;
        args.w = (char *)w + args.first * p->components * size;
        assert_int_equal(plx_op_run(context, &plx_op_grassmann_encode_forward, &args), PLX_OK);
    }
}

static void encode_backward(plx_context *context, const problem *p, plx_type type, const void *z, const void *dw,
                            double *dz)
{
    size_t tokens = p->rows * p->length, piece = p->piece > 0 ? p->piece : tokens, size = plx_type_size(type);
    memset(dz, 0xff, tokens * p->rank * sizeof(double));
    plx_grassmann_encode_backward_args args = {.type = type, .sequence = sequence_of(p), .rank = p->rank,
                                               .offsets = p->offsets, .ids = p->ids, .z = z, .dz = dz};
    for (; args.first < tokens; args.first += piece) {
        args.count = tokens - args.first < piece ? tokens - args.first : piece;
        args.dw = (const char *)dw + args.first * p->components * size;
        assert_int_equal(plx_op_run(context, &plx_op_grassmann_encode_backward, &args), PLX_OK);
    }
}

static double normwise64(const double *got, const double *want, size_t count)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    return difference == 0 ? 0 : sqrt(difference / norm);
}

static double normwise(const float *got, const double *want, size_t count)
{
    double *wide = malloc(count * sizeof(double));
    for (size_t i = 0; i < count; i++) wide[i] = got[i];
    double error = normwise64(wide, want, count);
    free(wide);
    return error;
}

static const plx_grassmann_offsets offsets_one = {1, {1}};
static const plx_grassmann_offsets offsets_six = {6, {1, 2, 4, 8, 12, 16}};
static const plx_grassmann_offsets offsets_beyond = {3, {3, 1000, 2}};
static const plx_grassmann_offsets offsets_never = {1, {2147483647}};
static const plx_grassmann_offsets *const offset_sets[] = {&offsets_one, &offsets_six, &offsets_beyond, &offsets_never};

static void check_problem(plx_context *context, plx_context *reference, problem *p, const char *kind, const char *level)
{
    size_t tokens = p->rows * p->length;
    p->piece = 0;
    encode(reference, p, PLX_F64, p->z64, p->w64);
    encode_backward(reference, p, PLX_F64, p->z64, p->dw64, p->dz64);
    p->piece = 1 + p->rank / 4; /* of more and of less than a row */
    encode(context, p, PLX_F32, p->z, p->w);
    encode_backward(context, p, PLX_F32, p->z, p->dw, p->dz);
    double forward = normwise(p->w, p->w64, tokens * p->components);
    double backward = normwise64(p->dz, p->dz64, tokens * p->rank);
    if (!(forward < 2e-6) || !(backward < 1e-5))
        fail_msg("%s, %s: rank %zu, length %zu, %zu offsets: forward %.3g, backward %.3g", level, kind, p->rank,
                 p->length, p->offsets.count, forward, backward);
}

/* Every level, every kind of input, odd sizes. */
static void test_fast_is_reference(void **state)
{
    (void)state;
    static const char *const levels[] = {"portable", "avx2", "avx512"};
    static const size_t ranks[] = {2, 3, 5, 8, 17, 32, 33, 48}, lengths[] = {1, 7, LENGTH_MOST};
    plx_context *reference = make_context(1, NULL);
    size_t checked = 0;
    for (size_t l = 0; l < 3; l++) {
        plx_context *context = make_context(1, levels[l]);
        if (context == NULL) continue;
        if (strcmp(plx_context_level(context), levels[l]) != 0) { /* PLX_LEVEL lowers it */
            plx_context_free(context);
            continue;
        }
        assert_string_equal(plx_op_choose(context, &plx_op_grassmann_encode_forward, NULL)->name, levels[l]);
        assert_string_equal(plx_op_choose(context, &plx_op_grassmann_encode_backward, NULL)->name, levels[l]);
        for (size_t i = 0; i < 8 * 3 * 4 * KINDS; i++) {
            kind kind = i % KINDS;
            size_t rank = ranks[i / KINDS % 8], length = lengths[i / KINDS / 8 % 3];
            problem *p = make_problem(length, rank, offset_sets[i / KINDS / 24], kind);
            check_problem(context, reference, p, kind_names[kind], levels[l]);
            free(p);
            checked++;
        }
        plx_context_free(context);
    }
    assert_true(checked >= 8 * 3 * 4 * KINDS);
    plx_context_free(reference);
}

static void test_threads_agree(void **state)
{
    (void)state;
    problem *p = make_problem(LENGTH_MOST, 33, &offsets_six, RANDOM);
    problem *q = make_problem(LENGTH_MOST, 33, &offsets_six, RANDOM);
    for (int threads = 1; threads <= 5; threads++) {
        plx_context *context = make_context(threads, NULL);
        problem *into = threads == 1 ? p : q;
        encode(context, into, PLX_F32, into->z, into->w);
        encode_backward(context, into, PLX_F32, into->z, into->dw, into->dz);
        plx_context_free(context);
        if (threads == 1) continue;
        assert_memory_equal(p->w, q->w, sizeof p->w);
        assert_memory_equal(p->dz, q->dz, sizeof p->dz);
    }
    free(p);
    free(q);
}

/* The numbers of one wedge by hand: components over i < j, i slowest; with z_t first. */
static void test_order(void **state)
{
    (void)state;
    plx_context *context = make_context(1, NULL);
    problem *p = make_problem(2, 3, &offsets_one, RANDOM);
    const float z[] = {2, 3, 5, 7, 11, 13}; /* z_0, z_1 */
    memcpy(p->z, z, sizeof z);
    encode(context, p, PLX_F32, p->z, p->w);
    const double wedge[] = {7 * 3 - 11 * 2, 7 * 5 - 13 * 2, 11 * 5 - 13 * 3}, length = sqrt(1 + 81 + 256);
    for (size_t c = 0; c < 3; c++) {
        assert_true(p->w[c] == 0); /* token 0 has nobody behind it */
        assert_true(fabs(p->w[3 + c] - wedge[c] / length) < 1e-6);
    }
    free(p);
    plx_context_free(context);
}

/* The largest |p_ij p_kl - p_ik p_jl + p_il p_jk| of 8 dimensional planes p. */
static double pluecker_residual(const float *p)
{
    double at[8][8], most = 0;
    for (size_t i = 0; i < 8; i++)
        for (size_t j = i + 1; j < 8; j++) at[i][j] = *p++;
    for (size_t i = 0; i < 8; i++)
        for (size_t j = i + 1; j < 8; j++)
            for (size_t k = j + 1; k < 8; k++)
                for (size_t l = k + 1; l < 8; l++)
                    most = fmax(most, fabs(at[i][j] * at[k][l] - at[i][k] * at[j][l] + at[i][l] * at[j][k]));
    return most;
}

/* w is a plane: the relations hold, and its length is 1 for one offset. They hold for the mean over several too, as all
 * its wedges share z_t; only its length is less. Numbers that are no wedge do not satisfy them. */
static void test_pluecker_relations(void **state)
{
    (void)state;
    plx_context *context = make_context(1, NULL);
    for (int several = 0; several < 2; several++) {
        problem *p = make_problem(LENGTH_MOST, 8, several ? &offsets_six : &offsets_one, RANDOM);
        encode(context, p, PLX_F32, p->z, p->w);
        for (size_t token = 2; token < LENGTH_MOST; token++) {
            double norm = 0;
            for (size_t c = token * 28; c < (token + 1) * 28; c++) norm += p->w[c] * (double)p->w[c];
            assert_true(several ? norm < 0.999 : fabs(norm - 1) < 1e-6);
            assert_true(pluecker_residual(p->w + token * 28) < 5e-7);
            assert_true(pluecker_residual(p->dw + token * 28) > 0.1);
        }
        free(p);
    }
    plx_context_free(context);
}

/* An exact repeat, a zero and a multiple by a power of two span no plane: exactly nothing, in every form. */
static void test_degenerate_is_zero(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        plx_context *context = make_context(1, NULL);
        if (form == 1) assert_int_equal(plx_context_choose_kernel(context, "grassmann.*", "ref"), PLX_OK);
        problem *p = make_problem(5, 17, &offsets_one, RANDOM);
        for (size_t i = 0; i < p->rank; i++) {
            p->z[1 * p->rank + i] = p->z[i];
            p->z[2 * p->rank + i] = -4 * p->z[i];
            p->z[3 * p->rank + i] = 0;
        }
        encode(context, p, PLX_F32, p->z, p->w);
        for (size_t c = 0; c < 5 * p->components; c++) assert_true(p->w[c] == 0);
        free(p);
        plx_context_free(context);
    }
}

/* Rank 2: the one component is a sign, its gradient exactly zero. */
static void test_rank_two(void **state)
{
    (void)state;
    plx_context *context = make_context(1, NULL);
    problem *p = make_problem(LENGTH_MOST, 2, &offsets_one, RANDOM);
    encode(context, p, PLX_F32, p->z, p->w);
    encode_backward(context, p, PLX_F32, p->z, p->dw, p->dz);
    for (size_t t = 1; t < LENGTH_MOST; t++) assert_true(fabsf(p->w[t]) == 1);
    for (size_t i = 0; i < 2 * LENGTH_MOST * p->rank; i++) assert_true(p->dz[i] == 0);
    free(p);
    plx_context_free(context);
}

/* Changing a token changes nothing before it nor in other documents, in w; nor in dz what does not look at it. */
static void test_causal_within_documents(void **state)
{
    (void)state;
    plx_context *context = make_context(2, NULL);
    problem *p = make_problem(LENGTH_MOST, 5, &offsets_six, RANDOM);
    problem *q = make_problem(LENGTH_MOST, 5, &offsets_six, RANDOM);
    size_t changed = LENGTH_MOST + 9; /* row 1, in the document 3 .. 10 */
    for (size_t i = 0; i < p->rank; i++) q->z[changed * p->rank + i] += 1;
    encode(context, p, PLX_F32, p->z, p->w);
    encode(context, q, PLX_F32, q->z, q->w);
    encode_backward(context, p, PLX_F32, p->z, p->dw, p->dz);
    encode_backward(context, q, PLX_F32, q->z, q->dw, q->dz);
    for (size_t token = 0; token < 2 * LENGTH_MOST; token++) {
        bool sees = token == changed || token == changed + 1;
        size_t at = token * p->components, bytes = p->components * sizeof(float);
        bool same = memcmp(p->w + at, q->w + at, bytes) == 0;
        assert_int_equal(same, !sees);
        if (token < LENGTH_MOST + 3 || token > LENGTH_MOST + 10)
            assert_memory_equal(p->dz + token * p->rank, q->dz + token * p->rank, p->rank * sizeof(double));
    }
    free(p);
    free(q);
    plx_context_free(context);
}

/* Step: the row's tokens lie in a state's slot, which has dropped the oldest; the last `count` of them are new. */
static void test_history_is_forward(void **state)
{
    (void)state;
    enum { RANK = 17, SLOTS = 4, CAPACITY = 30 };
    plx_context *context = make_context(2, NULL);
    problem *p = make_problem(LENGTH_MOST, RANK, &offsets_six, RANDOM);
    encode(context, p, PLX_F32, p->z, p->w);
    static const int32_t slot[ROWS_MOST] = {3, 1};
    for (size_t count = 1; count <= 13; count += 3) {
        float *held = malloc(sizeof(float) * SLOTS * CAPACITY * RANK);
        float *w = malloc(sizeof(float) * TOKENS_MOST * COMPONENTS_MOST);
        int32_t past[ROWS_MOST], base[ROWS_MOST], start[TOKENS_MOST];
        memset(held, 0xff, sizeof(float) * SLOTS * CAPACITY * RANK);
        for (size_t b = 0; b < ROWS_MOST; b++) {
            past[b] = (int32_t)(LENGTH_MOST - count - b);
            base[b] = past[b] - 16;
            for (size_t j = 0; j < 16 + count; j++)
                memcpy(held + ((size_t)slot[b] * CAPACITY + j) * RANK,
                       p->z + (b * LENGTH_MOST + (size_t)base[b] + j) * RANK, RANK * sizeof(float));
            for (size_t t = 0; t < count; t++) start[b * count + t] = p->start[b * LENGTH_MOST + (size_t)past[b] + t];
        }
        plx_grassmann_encode_args args = {
            PLX_F32, {ROWS_MOST, count, start, past}, {held, RANK, CAPACITY * RANK, slot, base, PLX_STATE_WHOLE}, p->offsets,
            0, ROWS_MOST * count, w};
        assert_int_equal(plx_op_run(context, &plx_op_grassmann_encode_forward, &args), PLX_OK);
        for (size_t b = 0; b < ROWS_MOST; b++)
            assert_memory_equal(w + b * count * p->components,
                                p->w + (b * LENGTH_MOST + (size_t)past[b]) * p->components,
                                count * p->components * sizeof(float));
        free(held);
        free(w);
    }
    free(p);
    plx_context_free(context);
}

/* With ids, pairs of equal ids get no gradient, and the sums over the tokens of one id are what they were: those are
 * what the weights see. */
static void test_equal_ids(void **state)
{
    (void)state;
    plx_context *reference = make_context(1, NULL), *context = make_context(2, NULL);
    problem *p = make_problem(LENGTH_MOST, 5, &offsets_beyond, REPEATS);
    int32_t ids[TOKENS_MOST];
    double sums[2][3 * 5] = {{0}}, most[2] = {0};
    for (size_t token = 0; token < TOKENS_MOST; token++) ids[token] = (int32_t)(token % 3); /* as the vectors repeat */
    for (int with = 0; with < 2; with++) {
        p->ids = with ? ids : NULL;
        encode_backward(reference, p, PLX_F64, p->z64, p->dw64, p->dz64);
        for (size_t i = 0; i < TOKENS_MOST * p->rank; i++) {
            sums[with][i / p->rank % 3 * p->rank + i % p->rank] += p->dz64[i];
            most[with] = fmax(most[with], fabs(p->dz64[i]));
        }
    }
    assert_true(most[0] > 1e5 && most[1] < 1e3);
    assert_true(normwise64(sums[1], sums[0], 15) < 1e-9);
    encode_backward(context, p, PLX_F32, p->z, p->dw, p->dz);
    assert_true(normwise64(p->dz, p->dz64, TOKENS_MOST * p->rank) < 1e-5);
    free(p);
    plx_context_free(context);
    plx_context_free(reference);
}

/* ---- reduce ---- */

enum { REDUCE_TOKENS = 37, REDUCE_WIDTH = 131, REDUCE_RANK = 33 };

typedef struct reduction {
    double x[REDUCE_TOKENS * REDUCE_WIDTH], weight[REDUCE_RANK * REDUCE_WIDTH], bias[REDUCE_RANK];
    double dz[REDUCE_TOKENS * REDUCE_RANK];
    double z[REDUCE_TOKENS * REDUCE_RANK], dx[REDUCE_TOKENS * REDUCE_WIDTH], dweight[REDUCE_RANK * REDUCE_WIDTH],
        dbias[REDUCE_RANK];
} reduction;

/* Forward and backward in these types, through copies; dx, dweight and dbias begin as 1. */
static void reduce(plx_context *context, reduction *d, plx_type type, plx_type weight_type, size_t tokens, size_t width,
                   size_t rank, bool frozen)
{
    double *const wide[] = {d->x, d->weight, d->bias, d->z, d->dx, d->dweight, d->dbias};
    const size_t counts[] = {tokens * width, rank * width, rank, tokens * rank, tokens * width, rank * width, rank};
    void *data[7];
    for (size_t n = 0; n < 7; n++) {
        data[n] = malloc(counts[n] * sizeof(double));
        for (size_t i = 0; i < counts[n]; i++)
            plx_put(data[n], n == 1 || n == 2 ? weight_type : type, i, n == 3 ? NAN : n > 3 ? 1 : wide[n][i]);
    }
    plx_grassmann_reduce_args forward = {type, weight_type, tokens, width, rank, data[0], data[1], data[2], data[3]};
    plx_grassmann_reduce_backward_args backward = {type,    weight_type, tokens,  width,
                                                   rank,    data[0],     data[1], d->dz,
                                                   data[4], frozen ? NULL : data[5], frozen ? NULL : data[6]};
    assert_int_equal(plx_op_run(context, &plx_op_grassmann_reduce_forward, &forward), PLX_OK);
    assert_int_equal(plx_op_run(context, &plx_op_grassmann_reduce_backward, &backward), PLX_OK);
    for (size_t n = 0; n < 7; n++) {
        for (size_t i = 0; n > 2 && i < counts[n]; i++) wide[n][i] = plx_get(data[n], type, i);
        free(data[n]);
    }
}

static reduction *make_reduction(void)
{
    reduction *d = calloc(1, sizeof *d);
    plx_random random;
    plx_random_init(&random, 5, 0);
    double *const given[] = {d->x, d->weight, d->bias, d->dz};
    const size_t counts[] = {REDUCE_TOKENS * REDUCE_WIDTH, REDUCE_RANK * REDUCE_WIDTH, REDUCE_RANK,
                             REDUCE_TOKENS * REDUCE_RANK};
    for (size_t n = 0; n < 4; n++) /* exact in bf16 */
        for (size_t i = 0; i < counts[n]; i++) given[n][i] = round(32 * plx_random_normal(&random)) / 32;
    return d;
}

static void test_reduce(void **state)
{
    (void)state;
    static const char *const levels[] = {"portable", "avx2", "avx512"};
    static const size_t sizes[][3] = {{1, 1, 2}, {5, 24, 8}, {4, 16, 4}, {REDUCE_TOKENS, REDUCE_WIDTH, REDUCE_RANK}};
    plx_context *reference = make_context(1, NULL);
    reduction *want = make_reduction(), *got = make_reduction();
    for (size_t i = 0; i < 3 * 4 * 4; i++) {
        size_t tokens = sizes[i / 3 % 4][0], width = sizes[i / 3 % 4][1], rank = sizes[i / 3 % 4][2];
        bool frozen = i / 12 % 2 == 1;
        plx_context *context = make_context(2, levels[i % 3]);
        if (context == NULL) continue;
        reduce(reference, want, PLX_F64, PLX_F64, tokens, width, rank, frozen);
        reduce(context, got, PLX_F32, i / 24 % 2 ? PLX_BF16 : PLX_F32, tokens, width, rank, frozen);
        assert_true(normwise64(got->z, want->z, tokens * rank) < 1e-7);
        assert_true(normwise64(got->dx, want->dx, tokens * width) < 1e-7);
        assert_true(normwise64(got->dweight, want->dweight, rank * width) < 1e-7);
        assert_true(normwise64(got->dbias, want->dbias, rank) < 1e-7);
        plx_context_free(context);
    }
    free(want);
    free(got);
    plx_context_free(reference);
}

/* Equal rows give equal z to the last bit, in any place of a batch of any size, on any number of threads. */
static void test_reduce_by_rows(void **state)
{
    (void)state;
    reduction *d = make_reduction();
    double first[REDUCE_RANK];
    for (size_t i = REDUCE_WIDTH; i < REDUCE_TOKENS * REDUCE_WIDTH; i++) d->x[i] = d->x[i % REDUCE_WIDTH];
    for (size_t tokens = 1; tokens <= REDUCE_TOKENS; tokens++) {
        plx_context *context = make_context((int)(tokens % 3) + 1, NULL);
        reduce(context, d, PLX_F32, PLX_F32, tokens, REDUCE_WIDTH, REDUCE_RANK, true);
        if (tokens == 1) memcpy(first, d->z, sizeof first);
        for (size_t t = 0; t < tokens; t++) assert_memory_equal(d->z + t * REDUCE_RANK, first, sizeof first);
        plx_context_free(context);
    }
    free(d);
}

/* ---- the reference's gradients against central differences ---- */

static double encode_loss(plx_context *context, problem *p)
{
    double loss = 0;
    encode(context, p, PLX_F64, p->z64, p->w64);
    for (size_t i = 0; i < p->rows * p->length * p->components; i++) loss += p->w64[i] * p->dw64[i];
    return loss;
}

static void test_encode_gradient(void **state)
{
    (void)state;
    plx_context *context = make_context(1, NULL);
    static const struct { kind kind; double step; } cases[] = {
        {RANDOM, 1e-5}, {LARGE, 1e-1}, {TINY, 1e-9}, {ZEROS, 1e-10}, {REPEATS, 1e-10},
    };
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        problem *p = make_problem(13, 5, n % 2 ? &offsets_one : &offsets_beyond, cases[n].kind);
        encode_backward(context, p, PLX_F64, p->z64, p->dw64, p->dz64);
        double difference = 0, norm = 0;
        for (size_t i = 0; i < p->rows * p->length * p->rank; i++) {
            double kept = p->z64[i], step = cases[n].step;
            p->z64[i] = kept + step;
            double up = encode_loss(context, p);
            p->z64[i] = kept - step;
            double down = encode_loss(context, p);
            p->z64[i] = kept;
            double slope = (up - down) / (2 * step);
            difference += (slope - p->dz64[i]) * (slope - p->dz64[i]);
            norm += slope * slope;
        }
        if (!(sqrt(difference / norm) < 1e-6))
            fail_msg("%s: %.3g", kind_names[cases[n].kind], sqrt(difference / norm));
        free(p);
    }
    plx_context_free(context);
}

/* Linear in each of x, weight and bias, so that differences with a step of 1 are exact. */
static void test_reduce_gradient(void **state)
{
    (void)state;
    enum { TOKENS = 3, WIDTH = 4, RANK = 2 };
    plx_context *context = make_context(1, NULL);
    reduction *d = make_reduction(), *moved = make_reduction();
    reduce(context, d, PLX_F64, PLX_F64, TOKENS, WIDTH, RANK, false);
    double *const inputs[] = {moved->x, moved->weight, moved->bias};
    const double *const gradients[] = {d->dx, d->dweight, d->dbias};
    const size_t counts[] = {TOKENS * WIDTH, RANK * WIDTH, RANK};
    for (size_t n = 0; n < 3; n++)
        for (size_t i = 0; i < counts[n]; i++) {
            inputs[n][i] += 1;
            reduce(context, moved, PLX_F64, PLX_F64, TOKENS, WIDTH, RANK, true);
            inputs[n][i] -= 1;
            double slope = 0;
            for (size_t o = 0; o < TOKENS * RANK; o++) slope += (moved->z[o] - d->z[o]) * d->dz[o];
            assert_true(fabs(slope + 1 - gradients[n][i]) < 1e-12); /* the gradients began as 1 */
        }
    free(d);
    free(moved);
    plx_context_free(context);
}

static void test_fuse(void **state)
{
    (void)state;
    enum { COUNT = 16384 + 37 }; /* more than one piece of parallel work, and no whole number of vectors */
    static const char *const levels[] = {"portable", "avx2", "avx512"};
    static float before[COUNT], h[COUNT], g[COUNT], dy[COUNT], gate[COUNT], y[COUNT];
    static float dgate[COUNT], dh[COUNT], dg[COUNT];
    static double before64[COUNT], h64[COUNT], g64[COUNT], dy64[COUNT], gate64[COUNT], y64[COUNT];
    static double dgate64[COUNT], dh64[COUNT], dg64[COUNT];
    plx_random random;
    plx_random_init(&random, 3, 0);
    for (size_t i = 0; i < COUNT; i++) {
        before64[i] = before[i] = (float)(4 * plx_random_normal(&random));
        h64[i] = h[i] = (float)plx_random_normal(&random);
        g64[i] = g[i] = (float)plx_random_normal(&random);
        dy64[i] = dy[i] = (float)plx_random_normal(&random);
    }
    before64[5] = before[5] = 300;
    before64[6] = before[6] = -300;
    plx_context *reference = make_context(1, NULL);
    memcpy(gate64, before64, sizeof gate64);
    plx_grassmann_fuse_args forward64 = {PLX_F64, COUNT, gate64, h64, g64, y64};
    plx_grassmann_fuse_backward_args backward64 = {PLX_F64, COUNT, gate64, h64, g64, dy64, dgate64, dh64, dg64};
    assert_int_equal(plx_op_run(reference, &plx_op_grassmann_fuse_forward, &forward64), PLX_OK);
    assert_int_equal(plx_op_run(reference, &plx_op_grassmann_fuse_backward, &backward64), PLX_OK);
    for (size_t l = 0; l < 3; l++) {
        plx_context *context = make_context(2, levels[l]);
        if (context == NULL) continue;
        memcpy(gate, before, sizeof gate);
        plx_grassmann_fuse_args forward = {PLX_F32, COUNT, gate, h, g, y};
        plx_grassmann_fuse_backward_args backward = {PLX_F32, COUNT, gate, h, g, dy, dgate, dh, dg};
        assert_int_equal(plx_op_run(context, &plx_op_grassmann_fuse_forward, &forward), PLX_OK);
        assert_int_equal(plx_op_run(context, &plx_op_grassmann_fuse_backward, &backward), PLX_OK);
        assert_true(normwise(y, y64, COUNT) < 2e-6);
        assert_true(normwise(gate, gate64, COUNT) < 2e-6);
        assert_true(normwise(dgate, dgate64, COUNT) < 1e-5);
        assert_true(normwise(dh, dh64, COUNT) < 1e-5);
        assert_true(normwise(dg, dg64, COUNT) < 1e-5);
        plx_context_free(context);
    }
    /* each output depends on its own element only, so all slopes of one kind come from two runs */
    const double step = 1e-6;
    double *const inputs[] = {before64, h64, g64};
    const double *const gradients[] = {dgate64, dh64, dg64};
    for (size_t n = 0; n < 3; n++) {
        double slope[40];
        for (int side = 1; side >= -1; side -= 2) {
            for (size_t i = 0; i < 40; i++) inputs[n][i] += side * step;
            memcpy(gate64, before64, sizeof gate64);
            assert_int_equal(plx_op_run(reference, &plx_op_grassmann_fuse_forward, &forward64), PLX_OK);
            for (size_t i = 0; i < 40; i++) slope[i] = side > 0 ? y64[i] : (slope[i] - y64[i]) / (2 * step);
            for (size_t i = 0; i < 40; i++) inputs[n][i] -= side * step;
        }
        for (size_t i = 0; i < 40; i++) assert_true(fabs(slope[i] * dy64[i] - gradients[n][i]) < 1e-8);
    }
    plx_context_free(reference);
}

/* ---- options ---- */

static plx_status parse(plx_context *context, const char *text, size_t same, void *layer)
{
    plx_node *root = NULL;
    plx_keys keys;
    plx_layer_shape shape = {.hidden = 24, .heads = 4, .kv_heads = 4, .head_dim = 6, .max_positions = 64, .layers = 12,
                             .same = same};
    memset(layer, 0, plx_mixer_grassmann.layer_size);
    assert_int_equal(plx_node_parse_json(context, "test", text, strlen(text), &root), PLX_OK);
    assert_int_equal(plx_keys_open(&keys, context, root, "layers[0]"), PLX_OK);
    plx_status status = plx_mixer_grassmann.parse(&keys, &shape, layer);
    if (status == PLX_OK) status = plx_keys_close(&keys);
    plx_node_free(context, root);
    return status;
}

static void check_description(plx_context *context, const char *given, size_t same, const char *wanted, size_t keep)
{
    void *layer = malloc(plx_mixer_grassmann.layer_size);
    assert_int_equal(parse(context, given, same, layer), PLX_OK);
    json_t *object = json_object();
    assert_int_equal(plx_mixer_grassmann.describe(layer, object), 0);
    char *text = json_dumps(object, JSON_COMPACT);
    assert_string_equal(text, wanted);
    plx_state_part part[PLX_STATE_PARTS_MAX];
    assert_int_equal(plx_mixer_grassmann.state(layer, part), 1);
    assert_int_equal(part[0].keep, keep);
    /* what was written reads back as the same, at any layer */
    assert_int_equal(parse(context, text, same + 3, layer), PLX_OK);
    json_t *again = json_object();
    assert_int_equal(plx_mixer_grassmann.describe(layer, again), 0);
    assert_true(json_equal(object, again));
    json_decref(object);
    json_decref(again);
    free(text);
    free(layer);
}

static void test_options(void **state)
{
    (void)state;
    plx_context *context = make_context(1, NULL);
    check_description(context, "{}", 0,
                      "{\"rank\":32,\"offsets\":[1,2,4,8,12,16],\"offset_schedule\":\"all\","
                      "\"block\":\"residual\"}", 16);
    check_description(context, "{\"rank\":5,\"offsets\":[3,900],\"block\":\"paper\"}", 1,
                      "{\"rank\":5,\"offsets\":[3,900],\"offset_schedule\":\"all\",\"block\":\"paper\"}", 900);
    static const int cycle[] = {1, 1, 2, 2, 4, 4, 8, 8, 12, 12, 16, 16, 1};
    for (size_t same = 0; same < sizeof cycle / sizeof cycle[0]; same++) {
        char wanted[128];
        snprintf(wanted, sizeof wanted,
                 "{\"rank\":32,\"offsets\":[%d],\"offset_schedule\":\"all\",\"block\":\"residual\"}", cycle[same]);
        check_description(context, "{\"offset_schedule\":\"cycle\"}", same, wanted, (size_t)cycle[same]);
    }
    static const char *const wrong[] = {
        "{\"rank\": 1}", "{\"rank\": 100000}", "{\"rank\": 2.5}", "{\"offsets\": [0, 1]}", "{\"offsets\": [1, 2, 1]}",
        "{\"offsets\": []}", "{\"offsets\": [-1]}", "{\"offsets\": [3000000000]}", "{\"offsets\": 4}",
        "{\"offset_schedule\": \"some\"}", "{\"block\": \"none\"}", "{\"ranks\": 8}", "{\"rank\": null}",
    };
    void *layer = malloc(plx_mixer_grassmann.layer_size);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (parse(context, wrong[i], 0, layer) == PLX_OK) fail_msg("%s was accepted", wrong[i]);
    for (size_t i = 0; plx_mixer_grassmann.cases[i] != NULL; i++)
        assert_int_equal(parse(context, plx_mixer_grassmann.cases[i], 0, layer), PLX_OK);
    free(layer);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast_is_reference),
        cmocka_unit_test(test_threads_agree),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_pluecker_relations),
        cmocka_unit_test(test_degenerate_is_zero),
        cmocka_unit_test(test_rank_two),
        cmocka_unit_test(test_causal_within_documents),
        cmocka_unit_test(test_history_is_forward),
        cmocka_unit_test(test_equal_ids),
        cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_reduce_by_rows),
        cmocka_unit_test(test_encode_gradient),
        cmocka_unit_test(test_reduce_gradient),
        cmocka_unit_test(test_fuse),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
