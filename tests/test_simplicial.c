/* test_simplicial.c - the 2-simplicial operations: the reference against the definition and central differences, the
 * fast versions of every level against the reference, the faults known from public kernels, and what the forms promise
 * (rotation, exact start from attention). The mixer around them is tested with the registry's (test_mixers.c). */
#include "core/random.h"
#include "mixers/simplicial/simplicial_ops.h"
#include "support/models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef struct sizes {
    size_t rows, length, heads, kv_heads, d, window1, window2;
    plx_simplicial_form form;
    double bias_k, bias_v;
    size_t document; /* tokens of a document; 0: one a row */
} sizes;

enum { Q, K, V, K2, V2, DOUT, INPUTS };
enum { OUT, LSE, DQ, DK, DV, DK2, DV2, OUTPUTS };
static const char *const output_names[OUTPUTS] = {"out", "lse", "dq", "dk", "dv", "dk2", "dv2"};

/* Numbers of a problem, exact in f32, and results as doubles. */
typedef struct fixture {
    sizes s;
    size_t count[INPUTS], result_count[OUTPUTS];
    double *input[INPUTS], *result[OUTPUTS];
    int32_t *start;
    double scale; /* of the logits */
    bool bf16;    /* operands of products may be rounded */
} fixture;

static fixture make(sizes s, double size, uint64_t seed)
{
    fixture f = {.s = s, .scale = 1 / sqrt((double)s.d)};
    plx_random random;
    plx_random_init(&random, seed, 77);
    size_t tokens = s.rows * s.length, wide = tokens * s.heads * s.d, narrow = tokens * s.kv_heads * s.d;
    for (int i = 0; i < INPUTS; i++) {
        f.count[i] = i == Q || i == DOUT ? wide : narrow;
        f.input[i] = malloc(f.count[i] * sizeof(double));
        for (size_t n = 0; n < f.count[i]; n++)
            f.input[i][n] = (float)(plx_random_normal(&random) * (i == Q ? size : 1));
    }
    for (int i = 0; i < OUTPUTS; i++) {
        f.result_count[i] = i == LSE ? tokens * s.heads : i == OUT || i == DQ ? wide : narrow;
        f.result[i] = malloc(f.result_count[i] * sizeof(double));
    }
    f.start = calloc(tokens, sizeof(int32_t));
    for (size_t b = 0; b < s.rows; b++)
        for (size_t t = 0; t < s.length; t++)
            if (s.document > 0)
                f.start[b * s.length + t] = (int32_t)(t < b ? t : (t - b) / s.document * s.document + b);
    return f;
}

static void drop(fixture *f)
{
    for (int i = 0; i < INPUTS; i++) free(f->input[i]);
    for (int i = 0; i < OUTPUTS; i++) free(f->result[i]);
    free(f->start);
}

static void *store(const double *values, size_t count, plx_type type)
{
    void *copy = malloc(count * plx_type_size(type));
    for (size_t i = 0; i < count; i++) plx_put(copy, type, i, values == NULL ? NAN : values[i]);
    return copy;
}

static plx_simplicial_problem problem_of(const fixture *f, plx_type type, void *const input[INPUTS])
{
    const sizes *s = &f->s;
    plx_simplicial_problem p = {
        .type = type, .sequence = {.rows = s->rows, .length = s->length, .start = f->start},
        .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->d, .window1 = s->window1, .window2 = s->window2,
        .form = s->form, .scale = f->scale, .bias_k = s->bias_k, .bias_v = s->bias_v, .bf16 = f->bf16, .q = input[Q],
    };
    plx_history *histories[] = {&p.k, &p.v, &p.k2, &p.v2};
    for (int i = 0; i < 4; i++)
        *histories[i] = (plx_history){.data = input[K + i], .width = s->kv_heads * s->d,
                                      .row_stride = s->length * s->kv_heads * s->d};
    return p;
}

/* Forward and, where there is a context for it, backward on numbers of that type; the results go to f->result. Outputs
 * start as NaN. */
static void run_on(plx_context *context, plx_context *backward, fixture *f, plx_type type)
{
    void *input[INPUTS], *output[OUTPUTS];
    for (int i = 0; i < INPUTS; i++) input[i] = store(f->input[i], f->count[i], type);
    for (int i = 0; i < OUTPUTS; i++) output[i] = store(NULL, f->result_count[i], type);
    plx_simplicial_problem p = problem_of(f, type, input);
    plx_simplicial_forward_args forward_args = {p, output[OUT], output[LSE]};
    expect_ok(context, plx_op_run(context, &plx_op_simplicial_forward, &forward_args));
    plx_simplicial_backward_args backward_args = {p, output[OUT], output[LSE], input[DOUT], output[DQ],
                                                  output[DK], output[DV], output[DK2], output[DV2]};
    if (backward != NULL) expect_ok(backward, plx_op_run(backward, &plx_op_simplicial_backward, &backward_args));
    for (int i = 0; i < OUTPUTS; i++) {
        for (size_t n = 0; n < f->result_count[i]; n++) f->result[i][n] = plx_get(output[i], type, n);
        free(output[i]);
    }
    for (int i = 0; i < INPUTS; i++) free(input[i]);
}

static void run(plx_context *context, fixture *f, plx_type type, bool backward)
{
    run_on(context, backward ? context : NULL, f, type);
}

/* Keeps the results of a run to compare others with. */
static void keep(const fixture *f, double *kept[OUTPUTS])
{
    for (int i = 0; i < OUTPUTS; i++) {
        kept[i] = malloc(f->result_count[i] * sizeof(double));
        memcpy(kept[i], f->result[i], f->result_count[i] * sizeof(double));
    }
}
static void drop_kept(double *kept[OUTPUTS])
{
    for (int i = 0; i < OUTPUTS; i++) free(kept[i]);
}

static void compare(const fixture *f, double *const expected[OUTPUTS], double forward, double backward, const char *who)
{
    const sizes *s = &f->s;
    for (int i = 0; i < OUTPUTS; i++) {
        double error = relative_error(f->result[i], expected[i], f->result_count[i]),
               most = i <= LSE ? forward : backward;
        /* where one pair is all there is to see, some gradients are 0 and their rounding has nothing to be measured by
         */
        double size = 0;
        for (size_t n = 0; n < f->result_count[i]; n++) size = fmax(size, fabs(expected[i][n]));
        bool small = size < 1e-9;
        for (size_t n = 0; small && n < f->result_count[i]; n++) small = fabs(f->result[i][n]) < 1e-5;
        if (!(error <= most) && !small)
            fail_msg("%s, %s: error %.3g above %.1g (B %zu T %zu H %zu G %zu d %zu w %zu %zu form %d bias %g %g "
                     "documents %zu)",
                     who, output_names[i], error, most, s->rows, s->length, s->heads, s->kv_heads, s->d, s->window1,
                     s->window2, (int)s->form, s->bias_k, s->bias_v, s->document);
    }
}

static const char *const level_names[] = {"portable", "avx2", "avx512"};
enum { LEVELS = 3 };
static plx_context *levels[LEVELS][2], *reference; /* with 1 and 3 threads; NULL where the processor lacks the level */
static const char *const tiled_names[] = {"emulated", "bf16", "amx"};
enum { TILED = 3 };
static plx_context *tiled[TILED][2]; /* take the tile versions where bf16 is allowed */
static const char *const terms_names[] = {"emulated_f32", "amx_f32"};
static plx_context *terms[2][2]; /* f32 numbers on tiles */

/* Contexts with 1 and 3 threads that take that version; NULL where the processor lacks what it needs. */
static void choose(plx_context *with[2], const char *kernel)
{
    for (int more = 0; more < 2; more++) {
        with[more] = test_context(more ? 3 : 1, NULL, NULL);
        const plx_level needs = strncmp(kernel, "amx", 3) == 0   ? PLX_LEVEL_AMX
                                : strcmp(kernel, "bf16") == 0 ? PLX_LEVEL_BF16
                                                              : PLX_LEVEL_PORTABLE;
        if (with[more]->level < needs) {
            plx_context_free(with[more]);
            with[more] = NULL;
        } else {
            expect_ok(with[more], plx_context_choose_kernel(with[more], "simplicial.*", kernel));
        }
    }
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < LEVELS; i++)
        for (int more = 0; more < 2; more++) {
            levels[i][more] = test_context(more ? 3 : 1, NULL, level_names[i]);
            if (strcmp(plx_context_level(levels[i][more]), level_names[i]) == 0) continue;
            plx_context_free(levels[i][more]);
            levels[i][more] = NULL;
        }
    for (int i = 0; i < TILED; i++) choose(tiled[i], tiled_names[i]);
    for (int i = 0; i < 2; i++) choose(terms[i], terms_names[i]);
    reference = test_context(2, NULL, NULL);
    return plx_context_choose_kernel(reference, "simplicial.*", "ref") != PLX_OK;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < LEVELS; i++)
        for (int more = 0; more < 2; more++) plx_context_free(levels[i][more]);
    for (int i = 0; i < TILED; i++)
        for (int more = 0; more < 2; more++) plx_context_free(tiled[i][more]);
    for (int i = 0; i < 2; i++)
        for (int more = 0; more < 2; more++) plx_context_free(terms[i][more]);
    plx_context_free(reference);
    return 0;
}

/* Every level agrees with the reference in double, and one thread with three bit for bit. */
static void check_fast(sizes s, double size, double forward, double backward, uint64_t seed)
{
    fixture f = make(s, size, seed);
    double *expected[OUTPUTS], *once[OUTPUTS];
    run(reference, &f, PLX_F64, true);
    keep(&f, expected);
    for (int i = 0; i < OUTPUTS; i++)
        for (size_t n = 0; n < f.result_count[i]; n++) assert_true(isfinite(expected[i][n]));
    run(reference, &f, PLX_F32, true);
    compare(&f, expected, forward, backward, "ref");
    for (int i = 0; i < LEVELS + 2; i++) {
        plx_context *const *with = i < LEVELS ? levels[i] : terms[i - LEVELS];
        if (with[0] == NULL) continue;
        run(with[0], &f, PLX_F32, true);
        compare(&f, expected, forward, backward, i < LEVELS ? level_names[i] : terms_names[i - LEVELS]);
        keep(&f, once);
        run(with[1], &f, PLX_F32, true);
        for (int o = 0; o < OUTPUTS; o++)
            assert_memory_equal(once[o], f.result[o], f.result_count[o] * sizeof(double));
        drop_kept(once);
    }
    drop_kept(expected);
    drop(&f);
}

/* B, T, H, G, d, w1, w2, form, bias, documents */
static const sizes shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {1, 1, 4, 2, 6, 0, 32, 0, 0, 0, 0},
    {2, 15, 4, 4, 6, 5, 3, 0, 0.25, 1, 0},
    {1, 17, 4, 1, 24, 1, 1, 0, 0, 0, 0},       /* each query sees one pair */
    {1, 33, 2, 2, 8, 1, 7, 0, 0, 0, 0},        /* only k is wide: a block is one query */
    {2, 21, 4, 2, 5, 9, 1, 0, -0.5, 0.5, 0},   /* only j is wide */
    {1, 70, 4, 2, 80, 1000, 1000, 0, 0, 0, 0}, /* beyond the sequence */
    {2, 65, 2, 1, 16, 0, 48, 0, 1, 1, 0},      /* no limit; a (query, head) spread over two blocks */
    {1, 100, 4, 4, 32, 32, 8, 0, 0, 0, 0},
    {3, 40, 6, 3, 7, 13, 5, 0, 0.1, 0.2, 11},  /* documents */
    {2, 50, 2, 2, 12, 0, 16, 0, 0, 0, 1},      /* every token its own */
    {1, 37, 4, 4, 6, 6, 3, 1, 0, 0, 0},        /* det */
    {2, 37, 6, 2, 32, 20, 9, 1, 0.5, -0.25, 10},
    {1, 20, 2, 1, 8, 0, 100, 1, 0, 0, 0},      /* two components stay out of the logit */
    {1, 24, 1, 1, 256, 16, 4, 0, 0, 0, 0},
    {1, 150, 64, 1, 3, 40, 3, 0, 0, 0, 60},    /* one key head for many; several chunks in backward */
    {1, 300, 2, 2, 16, 20, 8, 0, 0, 0, 0},
    {1, 130, 1, 1, 33, 0, 2, 0, 0, 0, 0},
};

static void test_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check_fast(shapes[i], 1, 2e-6, 1e-5, i);
}

static void test_random_shapes(void **state)
{
    (void)state;
    plx_random random;
    plx_random_init(&random, 4, 4);
    for (int i = 0; i < 60; i++) {
        size_t kv_heads = 1 + plx_random_below(&random, 3);
        sizes s = {.rows = 1 + plx_random_below(&random, 3), .length = 1 + plx_random_below(&random, 80),
                   .kv_heads = kv_heads, .heads = kv_heads * (1 + plx_random_below(&random, 4)),
                   .d = 1 + plx_random_below(&random, 40), .window1 = plx_random_below(&random, 60),
                   .window2 = 1 + plx_random_below(&random, 20), .document = plx_random_below(&random, 30)};
        if (s.d >= 3 && plx_random_below(&random, 3) == 0) s.form = PLX_SIMPLICIAL_DET;
        if (plx_random_below(&random, 2) == 0) s.bias_k = 0.5, s.bias_v = -1;
        check_fast(s, 1, 2e-6, 1e-5, 100 + (uint64_t)i);
    }
}

/* ---- bf16 tiles: against the reference, by what rounding the operands of the products alone costs ---- */

static double to_bf16(double x)
{
    uint16_t bits;
    plx_put(&bits, PLX_BF16, 0, x);
    return plx_get(&bits, PLX_BF16, 0);
}

/* Rounded as a multiple of the factor that kernels give an operand: powers are of 2, and Y makes up for X. */
#define LOG2_E 1.4426950408889634
static double with_factor(double x, double factor) { return to_bf16(x * factor) / factor; }

/* Component c of the product that the form is made of. */
static double form_product(const sizes *s, const double *a, const double *b, size_t c)
{
    if (s->form == PLX_SIMPLICIAL_TRILINEAR) return a[c] * b[c];
    size_t first = c - c % 3, one = first + (c + 1) % 3, two = first + (c + 2) % 3;
    return first + 3 > s->d ? 0 : a[one] * b[two] - a[two] * b[one];
}

/* What exact arithmetic makes of operands rounded to bf16: X = q o k' and k, P and v in forward; further Y = dO o v' and
 * dA in backward, from the results `from` of a forward or, where that is NULL, forward's own. To `to`, laid out as
 * results are. */
static void rounded_operands(const fixture *f, double *const from[OUTPUTS], double *const to[OUTPUTS])
{
    const sizes *s = &f->s;
    size_t d = s->d, length = s->length;
    double *x = malloc(d * sizeof(double)), *y = malloc(d * sizeof(double)), *w = malloc(d * sizeof(double)),
           *u = malloc(d * sizeof(double)), *k2 = malloc(d * sizeof(double)), *v2 = malloc(d * sizeof(double));
    double *logits = malloc(length * length * sizeof(double)), *k = malloc(f->count[K] * sizeof(double)),
           *v = malloc(f->count[V] * sizeof(double));
    for (size_t i = 0; i < f->count[K]; i++) k[i] = to_bf16(f->input[K][i]), v[i] = to_bf16(f->input[V][i]);
    for (int i = 0; i < OUTPUTS; i++) memset(to[i], 0, f->result_count[i] * sizeof(double));
    for (size_t row = 0; row < s->rows * length * s->heads; row++) {
        size_t h = row % s->heads, t = row / s->heads % length, b = row / s->heads / length, g = h * s->kv_heads / s->heads;
        size_t start = (size_t)f->start[b * length + t];
        size_t j0 = s->window1 > 0 && start + s->window1 <= t ? t + 1 - s->window1 : start;
        size_t k0 = start + s->window2 <= t ? t + 1 - s->window2 : start;
        const double *q = f->input[Q] + row * d, *dout = f->input[DOUT] + row * d;
        double *out = to[OUT] + row * d, total = 0, top = -INFINITY, delta = 0;
#define TOKEN(array, i) ((array) + ((b * length + (i)) * s->kv_heads + g) * d)
        for (size_t i = k0; i <= t; i++) {
            for (size_t c = 0; c < d; c++) k2[c] = TOKEN(f->input[K2], i)[c] + s->bias_k;
            for (size_t c = 0; c < d; c++) x[c] = with_factor(f->scale * form_product(s, k2, q, c), LOG2_E);
            for (size_t j = j0; j <= t; j++) {
                double sum = 0;
                for (size_t c = 0; c < d; c++) sum += x[c] * TOKEN(k, j)[c];
                logits[(i - k0) * length + j - j0] = sum;
                top = fmax(top, sum);
            }
        }
        for (size_t i = k0; i <= t; i++)
            for (size_t j = j0; j <= t; j++) {
                double weight = to_bf16(exp(logits[(i - k0) * length + j - j0] - top));
                total += weight;
                for (size_t c = 0; c < d; c++)
                    out[c] += weight * TOKEN(v, j)[c] * (TOKEN(f->input[V2], i)[c] + s->bias_v);
            }
        for (size_t c = 0; c < d; c++) {
            out[c] /= total;
            delta += (from == NULL ? out[c] : from[OUT][row * d + c]) * dout[c];
        }
        to[LSE][row] = top + log(total);
        double lse = from == NULL ? to[LSE][row] : from[LSE][row];
        for (size_t i = k0; i <= t; i++) {
            for (size_t c = 0; c < d; c++) {
                k2[c] = TOKEN(f->input[K2], i)[c] + s->bias_k;
                v2[c] = TOKEN(f->input[V2], i)[c] + s->bias_v;
                y[c] = with_factor(dout[c] * v2[c], 1 / LOG2_E);
                w[c] = u[c] = 0;
            }
            for (size_t c = 0; c < d; c++) x[c] = with_factor(f->scale * form_product(s, k2, q, c), LOG2_E);
            for (size_t j = j0; j <= t; j++) {
                double weight = to_bf16(exp(logits[(i - k0) * length + j - j0] - lse)), dweight = 0;
                for (size_t c = 0; c < d; c++) dweight += y[c] * TOKEN(v, j)[c];
                double da = with_factor(weight * (dweight - delta), 1 / LOG2_E);
                for (size_t c = 0; c < d; c++) {
                    w[c] += weight * TOKEN(v, j)[c];
                    u[c] += da * TOKEN(k, j)[c];
                    TOKEN(to[DV], j)[c] += weight * y[c];
                    TOKEN(to[DK], j)[c] += da * x[c];
                }
            }
            for (size_t c = 0; c < d; c++) {
                TOKEN(to[DV2], i)[c] += w[c] * dout[c];
                TOKEN(to[DK2], i)[c] += f->scale * form_product(s, q, u, c);
                to[DQ][row * d + c] += f->scale * form_product(s, u, k2, c);
            }
        }
#undef TOKEN
    }
    free(x), free(y), free(w), free(u), free(k2), free(v2), free(logits), free(k), free(v);
}

/* Results from `first` on. */
static void compare_tiles(const fixture *f, int first, double *const expected[OUTPUTS], double *const rounded[OUTPUTS],
                          const char *who)
{
    const sizes *s = &f->s;
    for (int o = first; o < OUTPUTS; o++) {
        double error = relative_error(f->result[o], expected[o], f->result_count[o]);
        double alone = relative_error(rounded[o], expected[o], f->result_count[o]);
        double most = 2 * alone + (o <= LSE ? 2e-6 : 1e-5);
        if (!(error <= most))
            fail_msg("%s, %s: error %.3g, of rounding alone %.3g (B %zu T %zu H %zu G %zu d %zu w %zu %zu form %d "
                     "documents %zu)",
                     who, output_names[o], error, alone, s->rows, s->length, s->heads, s->kv_heads, s->d, s->window1,
                     s->window2, (int)s->form, s->document);
    }
}

/* The tile versions, emulated and, where the processor has tiles, real, err at most twice as much as rounded operands
 * do, normwise; and f32's own errors on top, for what rounding leaves alone. With `exact` the gradients alone, where
 * out and lse come from exact sums, as of a forward in f32: errors of forward's sums of P and of backward's P then do
 * not cancel. */
static void check_tiles(sizes s, double size, uint64_t seed, bool exact)
{
    fixture f = make(s, size, seed);
    double *expected[OUTPUTS], *rounded[OUTPUTS], *once[OUTPUTS];
    run(reference, &f, PLX_F64, true);
    keep(&f, expected);
    keep(&f, rounded);
    rounded_operands(&f, exact ? expected : NULL, rounded);
    f.bf16 = true;
    for (int i = 0; i < TILED; i++) {
        if (tiled[i][0] == NULL) continue;
        run_on(exact ? reference : tiled[i][0], tiled[i][0], &f, PLX_F32);
        compare_tiles(&f, exact ? DQ : OUT, expected, rounded, tiled_names[i]);
        keep(&f, once);
        run_on(exact ? reference : tiled[i][1], tiled[i][1], &f, PLX_F32);
        for (int o = 0; o < OUTPUTS; o++) assert_memory_equal(once[o], f.result[o], f.result_count[o] * sizeof(double));
        drop_kept(once);
    }
    drop_kept(expected);
    drop_kept(rounded);
    drop(&f);
}

/* B, T, H, G, d, w1, w2, form, bias, documents */
static const sizes tile_shapes[] = {
    {1, 65, 4, 1, 64, 32, 16, 0, 0, 0, 0},      {2, 63, 4, 4, 32, 40, 7, 0, 0.5, -0.5, 0},
    {1, 70, 2, 1, 80, 0, 32, 0, 0, 0, 0},       {3, 33, 6, 2, 24, 17, 5, 0, 0, 0, 13},
    {1, 100, 2, 2, 16, 64, 16, 1, 0, 0, 0},     {1, 40, 1, 1, 256, 33, 7, 0, 0, 0, 0},
    {1, 34, 64, 1, 8, 20, 7, 0, 0, 0, 0},       {1, 150, 1, 1, 128, 1000, 4, 0, 0, 0, 60},
    {1, 300, 2, 2, 16, 150, 8, 1, 0.25, 0, 0},
};

static void test_tiles(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof tile_shapes / sizeof tile_shapes[0]; i++) check_tiles(tile_shapes[i], 1, 300 + i, false);
    /* maxima that the room above a lane's first rows holds, and others that it does not */
    check_tiles((sizes){.rows = 2, .length = 150, .heads = 8, .kv_heads = 2, .d = 32, .window2 = 3}, 10, 320, false);
    check_tiles((sizes){.rows = 2, .length = 150, .heads = 8, .kv_heads = 2, .d = 32, .window2 = 3}, 60, 321, false);
}

static void test_tiles_exact_sums(void **state)
{
    (void)state;
    check_tiles((sizes){1, 128, 2, 1, 64, 512, 32, 0, 0, 0, 0}, 1, 340, true);
    check_tiles((sizes){1, 64, 2, 2, 128, 512, 32, 0, 0, 0, 0}, 1, 341, true);
}

/* Logits of billions, in forward's steps beyond whole numbers of 32 bits: a lane's largest is still found, though its first
 * rows lie further below it than such a number reaches. One component that bf16 holds exactly, distinct keys: P is one
 * pair's. */
static void test_tiles_beyond_integers(void **state)
{
    (void)state;
    fixture f = make((sizes){.rows = 1, .length = 150, .heads = 1, .kv_heads = 1, .d = 16, .window2 = 1}, 1, 330);
    double *expected[OUTPUTS];
    for (size_t i = 0; i < f.count[Q]; i++) {
        bool counts = i % 16 == 0;
        f.input[Q][i] = counts ? 65536 : 0;
        f.input[K][i] = counts ? (double)(i / 16 + (i / 16 < 32 ? 1 : 100)) : 0;
        f.input[K2][i] = 4;
    }
    run(reference, &f, PLX_F64, false);
    keep(&f, expected);
    f.bf16 = true;
    for (int i = 0; i < TILED; i++) {
        if (tiled[i][0] == NULL) continue;
        run(tiled[i][0], &f, PLX_F32, false);
        assert_true(relative_error(f.result[OUT], expected[OUT], f.result_count[OUT]) < 0x1p-8); /* v is rounded */
        assert_true(relative_error(f.result[LSE], expected[LSE], f.result_count[LSE]) < 0x1p-8); /* and X */
    }
    drop_kept(expected);
    drop(&f);
}

/* Logits of hundreds: maxima move within a lane by far more than f32's range of exponents, and stay right. The error
 * grows with the size of the logits, which f32 rounds. */
static void test_large_logits(void **state)
{
    (void)state;
    check_fast((sizes){.rows = 2, .length = 90, .heads = 4, .kv_heads = 2, .d = 24, .window1 = 70, .window2 = 9}, 40,
               2e-4, 2e-3, 1);
    check_fast((sizes){.rows = 1, .length = 120, .heads = 2, .kv_heads = 2, .d = 32, .window1 = 0, .window2 = 3}, 40,
               2e-4, 2e-3, 2);
    check_fast((sizes){.rows = 1, .length = 60, .heads = 2, .kv_heads = 1, .d = 9, .window1 = 31, .window2 = 8,
                       .form = PLX_SIMPLICIAL_DET}, 40, 2e-4, 2e-3, 3);
    check_fast((sizes){.rows = 1, .length = 60, .heads = 2, .kv_heads = 1, .d = 9, .window1 = 31, .window2 = 8,
                       .document = 13}, 400, 2e-3, 2e-2, 3);
}

/* The definition once more, by other means: all pairs of the row with a mask, the determinant by Sarrus. */
static double direct_logit(const fixture *f, const double *q, const double *k, const double *k2)
{
    double sum = 0, bias = f->s.bias_k;
    if (f->s.form == PLX_SIMPLICIAL_TRILINEAR)
        for (size_t l = 0; l < f->s.d; l++) sum += q[l] * k[l] * (k2[l] + bias);
    else
        for (size_t l = 0; l + 3 <= f->s.d; l += 3) {
            double x = k2[l] + bias, y = k2[l + 1] + bias, z = k2[l + 2] + bias;
            sum += q[l] * k[l + 1] * z + q[l + 1] * k[l + 2] * x + q[l + 2] * k[l] * y;
            sum -= q[l + 2] * k[l + 1] * x + q[l] * k[l + 2] * y + q[l + 1] * k[l] * z;
        }
    return sum / sqrt((double)f->s.d);
}

static void direct_forward(const fixture *f, double *out, double *lse)
{
    const sizes *s = &f->s;
    for (size_t b = 0; b < s->rows; b++)
        for (size_t h = 0; h < s->heads; h++)
            for (size_t t = 0; t < s->length; t++) {
                size_t g = h * s->kv_heads / s->heads, row = (b * s->length + t) * s->heads + h;
                double total = 0;
                for (size_t l = 0; l < s->d; l++) out[row * s->d + l] = 0;
                for (size_t j = 0; j < s->length; j++)
                    for (size_t k = 0; k < s->length; k++) {
                        if (j > t || k > t || (s->window1 > 0 && j + s->window1 <= t) || k + s->window2 <= t) continue;
                        if ((int32_t)j < f->start[b * s->length + t] || (int32_t)k < f->start[b * s->length + t])
                            continue;
                        size_t at_j = ((b * s->length + j) * s->kv_heads + g) * s->d;
                        size_t at_k = ((b * s->length + k) * s->kv_heads + g) * s->d;
                        double weight =
                            exp(direct_logit(f, f->input[Q] + row * s->d, f->input[K] + at_j, f->input[K2] + at_k));
                        total += weight;
                        for (size_t l = 0; l < s->d; l++)
                            out[row * s->d + l] +=
                                weight * f->input[V][at_j + l] * (f->input[V2][at_k + l] + s->bias_v);
                    }
                for (size_t l = 0; l < s->d; l++) out[row * s->d + l] /= total;
                lse[row] = log(total);
            }
}

/* Against the definition, with what public kernels got wrong: the stride of key/value heads for G > 1, that of rows for
 * B > 1, log-sum-exp in another base, a scale rounded to bf16 (.32% off at d 128), biases ignored, one w2 only. */
static void test_definition(void **state)
{
    (void)state;
    static const sizes list[] = {
        {3, 19, 6, 3, 10, 7, 4, 0, 0.5, -0.75, 0}, {2, 19, 6, 2, 10, 0, 19, 1, 0.5, -0.75, 8},
        {1, 12, 2, 2, 128, 12, 3, 0, 0, 0, 0},     {2, 23, 4, 4, 6, 1, 5, 0, 1, 1, 5},
        {2, 23, 4, 1, 6, 100, 1, 1, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        fixture f = make(list[i], 1, 50 + i);
        double *out = malloc(f.count[Q] * sizeof(double)), *lse = malloc(f.result_count[LSE] * sizeof(double));
        direct_forward(&f, out, lse);
        run(reference, &f, PLX_F64, false);
        assert_true(relative_error(f.result[OUT], out, f.count[Q]) < 1e-13);
        assert_true(relative_error(f.result[LSE], lse, f.result_count[LSE]) < 1e-13);
        run(levels[0][0], &f, PLX_F32, false);
        assert_true(relative_error(f.result[OUT], out, f.count[Q]) < 2e-6);
        assert_true(relative_error(f.result[LSE], lse, f.result_count[LSE]) < 2e-6);
        free(out);
        free(lse);
        drop(&f);
    }
}

static double loss_of(fixture *f)
{
    double sum = 0;
    run(reference, f, PLX_F64, false);
    for (size_t i = 0; i < f->count[DOUT]; i++) sum += f->result[OUT][i] * f->input[DOUT][i];
    return sum;
}

/* Each input moved along a random direction; fourth-order central differences. */
static void test_differences(void **state)
{
    (void)state;
    static const sizes list[] = {
        {2, 9, 4, 2, 5, 4, 3, 0, 0.25, 0.5, 0}, {1, 11, 3, 1, 8, 0, 5, 1, 0.25, 0.5, 6},
        {1, 8, 2, 2, 6, 1, 4, 0, 0, 0, 0},      {1, 8, 2, 2, 6, 5, 1, 1, 0, 0, 0},
        {2, 7, 2, 1, 4, 100, 100, 0, 1, 1, 3},
    };
    static const int inputs[] = {Q, K, V, K2, V2};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        fixture f = make(list[i], 1, 80 + i);
        double *gradient[OUTPUTS];
        run(reference, &f, PLX_F64, true);
        keep(&f, gradient);
        for (int n = 0; n < 5; n++) {
            double *x = f.input[inputs[n]], *g = gradient[DQ + n], norm = 0, slope = 0, sum[4];
            size_t count = f.count[inputs[n]];
            double *given = malloc(count * sizeof(double)), *way = malloc(count * sizeof(double));
            memcpy(given, x, count * sizeof(double));
            plx_random random;
            plx_random_init(&random, 5, (uint64_t)n);
            for (size_t e = 0; e < count; e++) norm += g[e] * g[e];
            for (size_t e = 0; e < count; e++) {
                way[e] = plx_random_normal(&random) / sqrt((double)count) + (norm > 0 ? g[e] / sqrt(norm) : 0);
                slope += way[e] * g[e];
            }
            for (int step = 0; step < 4; step++) {
                static const double steps[4] = {-2, -1, 1, 2};
                for (size_t e = 0; e < count; e++) x[e] = given[e] + steps[step] * 1e-3 * way[e];
                sum[step] = loss_of(&f);
            }
            memcpy(x, given, count * sizeof(double));
            double numeric = (sum[0] - 8 * sum[1] + 8 * sum[2] - sum[3]) / 12e-3;
            if (!(fabs(numeric - slope) <= 1e-6 * fabs(slope) + 1e-11))
                fail_msg("case %zu, %s: slope %.12g, differences %.12g", i, output_names[DQ + n], slope, numeric);
            free(given);
            free(way);
        }
        drop_kept(gradient);
        drop(&f);
    }
}

/* A rotation common to q, k and k' leaves det's logits alone; trilinear's it changes. */
static void test_rotation(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        fixture f = make((sizes){1, 14, 2, 1, 8, 6, 4, (plx_simplicial_form)form, 0, 0, 0}, 1, 9);
        double *before[OUTPUTS], c = cos(0.7), s = sin(0.7);
        run(reference, &f, PLX_F64, false);
        keep(&f, before);
        static const int turned[] = {Q, K, K2};
        for (int i = 0; i < 3; i++)
            for (size_t n = 0; n < f.count[turned[i]]; n += 8)
                for (size_t l = 0; l < 6; l += 3) { /* about two axes, one after the other */
                    double *x = f.input[turned[i]] + n + l, a = x[0] * c - x[1] * s, b = x[0] * s + x[1] * c, z = x[2];
                    x[0] = a;
                    x[1] = b * c - z * s;
                    x[2] = b * s + z * c;
                }
        run(reference, &f, PLX_F64, false);
        double error = relative_error(f.result[LSE], before[LSE], f.result_count[LSE]);
        if (form == PLX_SIMPLICIAL_DET) assert_true(error < 1e-13);
        else assert_true(error > 1e-3);
        drop_kept(before);
        drop(&f);
    }
}

/* k2 = v2 = 0 with bias (1, 1): attention, with a log-sum-exp larger by that of the k in sight; and gradients that let
 * k2 and v2 leave zero. */
static void test_exact_start(void **state)
{
    (void)state;
    for (int document = 0; document < 2; document++) {
        sizes s = {2, 30, 4, 2, 12, document ? 9 : 0, 7, 0, 1, 1, document ? 13 : 0};
        fixture f = make(s, 1, 31);
        memset(f.input[K2], 0, f.count[K2] * sizeof(double));
        memset(f.input[V2], 0, f.count[V2] * sizeof(double));
        double *out = calloc(f.count[Q], sizeof(double));
        for (size_t b = 0; b < s.rows; b++)
            for (size_t t = 0; t < s.length; t++)
                for (size_t h = 0; h < s.heads; h++) {
                    double total = 0, *to = out + ((b * s.length + t) * s.heads + h) * s.d;
                    const double *q = f.input[Q] + (to - out);
                    for (size_t j = (size_t)f.start[b * s.length + t]; j <= t; j++) {
                        if (s.window1 > 0 && j + s.window1 <= t) continue;
                        size_t at = ((b * s.length + j) * s.kv_heads + h / 2) * s.d;
                        double dot = 0;
                        for (size_t l = 0; l < s.d; l++) dot += q[l] * f.input[K][at + l];
                        double weight = exp(dot / sqrt((double)s.d));
                        total += weight;
                        for (size_t l = 0; l < s.d; l++) to[l] += weight * f.input[V][at + l];
                    }
                    for (size_t l = 0; l < s.d; l++) to[l] /= total;
                }
        run(reference, &f, PLX_F64, true);
        assert_true(relative_error(f.result[OUT], out, f.count[Q]) < 1e-13);
        double most = 0, most2 = 0;
        for (size_t i = 0; i < f.count[K]; i++) {
            most = fmax(most, fabs(f.result[DK2][i]));
            most2 = fmax(most2, fabs(f.result[DV2][i]));
        }
        assert_true(most > 1e-3 && most2 > 1e-3);
        for (int i = 0; i < LEVELS; i++) {
            if (levels[i][0] == NULL) continue;
            run(levels[i][0], &f, PLX_F32, false);
            assert_true(relative_error(f.result[OUT], out, f.count[Q]) < 2e-6);
        }
        free(out);
        drop(&f);
    }
}

/* Tokens in steps against histories that hold only what the windows need, in slots of any order: equal to whole rows.
 */
static void step_chain(plx_context *context, const fixture *f, size_t step, double *out)
{
    const sizes *s = &f->s;
    size_t width = s->kv_heads * s->d, capacity = s->length + 3;
    float *data[4];
    for (int i = 0; i < 4; i++) data[i] = malloc((s->rows + 1) * capacity * width * sizeof(float));
    int32_t *slot = malloc(s->rows * 4), *base1 = malloc(s->rows * 4), *base2 = malloc(s->rows * 4),
            *past = malloc(s->rows * 4);
    int32_t *start = malloc(s->rows * s->length * 4);
    for (size_t done = 0; done < s->length; done += step) {
        size_t count = done + step < s->length ? step : s->length - done;
        float *q = malloc(s->rows * count * s->heads * s->d * 4),
              *result = malloc(s->rows * count * s->heads * s->d * 4);
        for (int i = 0; i < 4; i++)
            for (size_t n = 0; n < (s->rows + 1) * capacity * width; n++) data[i][n] = NAN; /* what must not be read */
        for (size_t b = 0; b < s->rows; b++) {
            slot[b] = (int32_t)(s->rows - b);
            past[b] = (int32_t)done;
            size_t reach1 = s->window1 == 0 || s->window1 > done ? done : s->window1 - 1;
            size_t reach2 = s->window2 > done ? done : s->window2 - 1;
            base1[b] = (int32_t)(done - reach1);
            base2[b] = (int32_t)(done - reach2);
            for (int i = 0; i < 4; i++) {
                size_t base = (size_t)(i < 2 ? base1[b] : base2[b]);
                for (size_t j = base; j < done + count; j++)
                    for (size_t c = 0; c < width; c++)
                        data[i][((size_t)slot[b] * capacity + j - base) * width + c] =
                            (float)f->input[K + i][(b * s->length + j) * width + c];
            }
            for (size_t t = 0; t < count; t++) start[b * count + t] = f->start[b * s->length + done + t];
            for (size_t n = 0; n < count * s->heads * s->d; n++)
                q[b * count * s->heads * s->d + n] = (float)f->input[Q][(b * s->length + done) * s->heads * s->d + n];
        }
        void *input[INPUTS] = {q, data[0], data[1], data[2], data[3], NULL};
        plx_simplicial_problem p = problem_of(f, PLX_F32, input);
        p.sequence = (plx_sequence){.rows = s->rows, .length = count, .start = start, .past = past};
        plx_history *histories[] = {&p.k, &p.v, &p.k2, &p.v2};
        for (int i = 0; i < 4; i++) {
            histories[i]->row_stride = capacity * width;
            histories[i]->slot = slot;
            histories[i]->base = i < 2 ? base1 : base2;
        }
        plx_simplicial_forward_args args = {p, result, NULL};
        expect_ok(context, plx_op_run(context, &plx_op_simplicial_forward, &args));
        for (size_t b = 0; b < s->rows; b++)
            for (size_t n = 0; n < count * s->heads * s->d; n++)
                out[(b * s->length + done) * s->heads * s->d + n] = result[b * count * s->heads * s->d + n];
        free(q);
        free(result);
    }
    for (int i = 0; i < 4; i++) free(data[i]);
    free(slot);
    free(base1);
    free(base2);
    free(past);
    free(start);
}

static void test_steps(void **state)
{
    (void)state;
    static const sizes list[] = {
        {2, 40, 4, 2, 10, 9, 4, 0, 0.5, 0.25, 0},  {1, 40, 4, 4, 32, 0, 3, 0, 0, 0, 17},
        {3, 25, 2, 1, 6, 1, 6, 1, 0, 0, 0},        {2, 90, 2, 2, 8, 70, 5, 0, 0, 0, 33},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        fixture f = make(list[i], 1, 200 + i);
        double *out = malloc(f.count[Q] * sizeof(double));
        run(reference, &f, PLX_F64, false);
        static const size_t steps[] = {1, 3, 16, 70};
        for (size_t step = 0; step < 4; step++) {
            step_chain(reference, &f, steps[step], out);
            assert_true(relative_error(out, f.result[OUT], f.count[Q]) < 2e-6);
            for (int level = 0; level < LEVELS; level++) {
                if (levels[level][1] == NULL) continue;
                step_chain(levels[level][1], &f, steps[step], out);
                assert_true(relative_error(out, f.result[OUT], f.count[Q]) < 2e-6);
            }
        }
        free(out);
        drop(&f);
    }
}

/* NaN must reach the trainer, but only those that see it; the processor's state is as before. */
static void test_not_a_number(void **state)
{
    (void)state;
    for (int i = 0; i < LEVELS + TILED; i++) {
        plx_context *context = i < LEVELS ? levels[i][0] : tiled[i - LEVELS][0];
        if (context == NULL) continue;
        fixture f = make((sizes){1, 40, 1, 1, 8, 10, 3, 0, 0, 0, 20}, 1, 3);
        f.bf16 = i >= LEVELS;
        f.input[K][12 * 8 + 5] = NAN;
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() & ~0x8040u); /* denormals count, as in a fresh process */
#endif
        run(context, &f, PLX_F32, true);
#if defined(__x86_64__)
        assert_int_equal(_mm_getcsr() & 0x8040, 0);
#endif
        for (size_t t = 0; t < 40; t++) {
            bool sees = t >= 12 && t < 20;
            for (size_t l = 0; l < 8; l++) assert_int_equal(isnan(f.result[OUT][t * 8 + l]) != 0, sees);
            for (size_t l = 0; l < 8 && t >= 3 && t < 20; l++) assert_true(isnan(f.result[DV][t * 8 + l]));
        }
        drop(&f);
    }
}

/* 4 and 12 d a pair; counted without looking at device memory. */
static void test_flops(void **state)
{
    (void)state;
    plx_simplicial_forward_args forward_args = {.problem = {.sequence = {.rows = 2, .length = 5},
                                                            .heads = 3,
                                                            .kv_heads = 1,
                                                            .head_dim = 4,
                                                            .window1 = 3,
                                                            .window2 = 2}};
    plx_simplicial_backward_args backward_args = {.problem = forward_args.problem};
    double pairs = 2 * 3 * (1 * 1 + 2 * 2 + 3 * 2 + 3 * 2 + 3 * 2);
    assert_true(plx_op_simplicial_forward.flops(&forward_args) == 16 * pairs);
    assert_true(plx_op_simplicial_backward.flops(&backward_args) == 48 * pairs);
}

/* What a config may not say, and that null stays null. */
static void test_options(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "\"window\": [0, 4]", "\"window\": [4, 0]", "\"window\": [4, null]", "\"window\": 4", "\"window\": [4]",
        "\"window\": [4, 4, 4]", "\"window\": [1.5, 4]", "\"window\": [-1, 4]", "\"window\": [4, 1e300]",
        "\"window\": [4, \"a\"]", "\"bias\": 1", "\"bias\": [1]", "\"bias\": [1, null]", "\"form\": \"cubic\"",
        "\"position\": \"alibi\"", "\"form\": \"det\", \"head_dim\": 2", "\"windows\": [4, 4]",
    };
    plx_context *context = test_context(1, NULL, NULL);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char layer[128];
        snprintf(layer, sizeof layer, "{%s}", wrong[i]);
        char *config = test_config("simplicial", layer, 1, NULL);
        plx_model *model = NULL;
        plx_status status = plx_model_create(context, config, NULL, &model);
        if (status != PLX_ERROR_VALUE && status != PLX_ERROR_FORMAT)
            fail_msg("%s gives %s", wrong[i], plx_status_name(status));
        assert_null(model);
        free(config);
    }
    char *config = test_config("simplicial", "{\"window\": [null, 7], \"bias\": [0.5, 1]}", 1, NULL);
    plx_model *model;
    expect_ok(context, plx_model_create(context, config, NULL, &model));
    json_t *root = json_loads(plx_model_config(model), 0, NULL);
    json_t *layer = json_array_get(json_object_get(root, "layers"), 0), *window = json_object_get(layer, "window");
    assert_true(json_is_null(json_array_get(window, 0)));
    assert_int_equal(json_integer_value(json_array_get(window, 1)), 7);
    assert_true(json_number_value(json_array_get(json_object_get(layer, "bias"), 0)) == 0.5);
    assert_string_equal(json_string_value(json_object_get(layer, "form")), "trilinear");
    assert_string_equal(json_string_value(json_object_get(layer, "position")), "none");
    json_decref(root);
    plx_model_free(model);
    free(config);
    plx_context_free(context);
}

/* A whole attention model, its weights in a simplicial model with k2 and v2 at zero: the same logits. With partial RoPE
 * and QK norm, which only a model has. */
static void test_retrofit(void **state)
{
    (void)state;
    static const char *const layers[][2] = {
        {"{}", "{\"window\": [null, 3], \"bias\": [1, 1], \"position\": \"rope\"}"},
        {"{\"window\": 5, \"qk_norm\": true, \"num_key_value_heads\": 2, \"attention_bias\": true}",
         "{\"window\": [5, 4], \"qk_norm\": true, \"num_key_value_heads\": 2, \"attention_bias\": true, "
         "\"bias\": [1, 1], \"position\": \"rope\"}"},
    };
    plx_context *context = test_context(2, NULL, NULL);
    for (size_t i = 0; i < 2; i++) {
        const char *extra = i == 0 ? "\"partial_rotary_factor\": 0.7" : NULL;
        char *from_config = test_config("attention", layers[i][0], 2, extra);
        char *to_config = test_config("simplicial", layers[i][1], 2, extra);
        plx_model *from = test_model(context, from_config, PLX_F64, 3);
        plx_model *to = test_model(context, to_config, PLX_F64, 4);
        for (size_t n = 0; n < plx_model_tensor_count(to); n++) {
            plx_tensor_info info;
            expect_ok(context, plx_model_tensor(to, n, &info));
            double *values = calloc(info.elements, sizeof(double));
            if (strstr(info.name, "k2_proj") == NULL && strstr(info.name, "v2_proj") == NULL)
                expect_ok(context, plx_model_read_tensor(from, info.name, false, values, info.elements));
            expect_ok(context, plx_model_write_tensor(to, info.name, values, info.elements));
            free(values);
        }
        test_batch batch = make_batch(2, 20, 11, i == 0 ? 0 : 9, 6);
        double *expected = test_logits(from, &batch.batch), *logits = test_logits(to, &batch.batch);
        assert_true(relative_error(logits, expected, 2 * 20 * 11) < 1e-12);
        free(expected);
        free(logits);
        free_batch(&batch);
        plx_model_free(from);
        plx_model_free(to);
        free(from_config);
        free(to_config);
    }
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_differences),  cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_large_logits), cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_tiles_exact_sums), cmocka_unit_test(test_tiles_beyond_integers), cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_exact_start), cmocka_unit_test(test_steps),     cmocka_unit_test(test_not_a_number),
        cmocka_unit_test(test_flops),       cmocka_unit_test(test_options),  cmocka_unit_test(test_retrofit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
