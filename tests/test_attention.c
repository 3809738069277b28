/* test_attention.c - the operations of attention: every fast version at every level against the plain reference in
 * double, the reference against definitions and central differences. (What holds for every mixer, gradients of whole
 * layers among it, is in test_mixers.c; steps are in test_infer.c, nexus in test_nexus.c.) */
#include "mixers/attention/attention_ops.h"
#include "support/models.h"
#include "support/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- problems ---- */

enum { MOST_TOKENS = 1600, MOST_ROWS = 8 };
/* The attention that binds read: one at a time. */
static struct {
    size_t B, T, H, G, d, window;
    int32_t start[MOST_TOKENS], past[MOST_ROWS], slot[MOST_ROWS], base[MOST_ROWS];
    size_t capacity, slots; /* of a state; 0: whole rows */
    bool bf16;
    double factor; /* of queries */
} shape;

enum { Q, K, V, OUT, LSE, DOUT, DQ, DK, DV };
#define SCALE 1.4 /* of inputs: logits are normal(0, 2), and stay under 10 */

static void set_shape(size_t B, size_t T, size_t H, size_t G, size_t d, size_t window, size_t document)
{
    assert_true(B * T <= MOST_TOKENS && B <= MOST_ROWS);
    memset(&shape, 0, sizeof shape);
    shape.B = B;
    shape.T = T;
    shape.H = H;
    shape.G = G;
    shape.d = d;
    shape.window = window;
    shape.factor = 1;
    for (size_t i = 0; i < B * T; i++) {
        bool begins = i % T == 0 || (document > 0 && uniform(0, (double)document) < 1);
        shape.start[i] = begins ? (int32_t)(i % T) : shape.start[i - 1];
    }
}

static void bind_forward(const problem *p, plx_type type, void *arguments)
{
    plx_attention_args *a = arguments;
    const size_t width = shape.G * shape.d;
    *a = (plx_attention_args){.type = type,
                              .sequence = {.rows = shape.B, .length = shape.T, .start = shape.start},
                              .heads = shape.H,
                              .kv_heads = shape.G,
                              .head_dim = shape.d,
                              .window = shape.window,
                              .scale = 1 / sqrt((double)shape.d),
                              .q = at(p, type, Q),
                              .keys = {.data = at(p, type, K), .width = width, .row_stride = shape.T * width},
                              .values = {.data = at(p, type, V), .width = width, .row_stride = shape.T * width},
                              .out = at(p, type, OUT),
                              .lse = at(p, type, LSE),
                              .bf16 = shape.bf16};
    if (shape.capacity == 0) return;
    a->sequence.past = shape.past;
    a->keys.slot = a->values.slot = shape.slot;
    a->keys.base = a->values.base = shape.base;
    a->keys.row_stride = a->values.row_stride = shape.capacity * width;
}

static void bind_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_attention_backward_args *)arguments =
        (plx_attention_backward_args){.type = type,
                                      .sequence = {.rows = shape.B, .length = shape.T, .start = shape.start},
                                      .heads = shape.H,
                                      .kv_heads = shape.G,
                                      .head_dim = shape.d,
                                      .window = shape.window,
                                      .scale = 1 / sqrt((double)shape.d),
                                      .q = at(p, type, Q),
                                      .k = at(p, type, K),
                                      .v = at(p, type, V),
                                      .out = at(p, type, OUT),
                                      .lse = at(p, type, LSE),
                                      .dout = at(p, type, DOUT),
                                      .dq = at(p, type, DQ),
                                      .dk = at(p, type, DK),
                                      .dv = at(p, type, DV),
                                      .bf16 = shape.bf16};
}

static void fill_nan(problem *p, int index)
{
    for (size_t i = 0; i < p->arrays[index].count; i++) set(p, index, i, NAN);
}

static problem forward_problem(void)
{
    problem p = {.op = &plx_op_attention_forward,
                 .bind = bind_forward,
                 .dims = {shape.T, shape.d, shape.window, shape.H},
                 .flags = (int)shape.G,
                 .outputs = {1 + OUT, 1 + LSE},
                 .tolerance = 2e-6};
    size_t queries = shape.B * shape.T * shape.H, tokens = shape.B * shape.T;
    if (shape.capacity > 0) tokens = shape.slots * shape.capacity;
    fill(&p, Q, queries * shape.d, SCALE * shape.factor);
    fill(&p, K, tokens * shape.G * shape.d, SCALE);
    fill(&p, V, tokens * shape.G * shape.d, 1);
    fill(&p, OUT, queries * shape.d, 1);
    fill(&p, LSE, queries, 1);
    fill_nan(&p, OUT);
    fill_nan(&p, LSE);
    return p;
}

/* out and lse as the forward in double makes them. */
static problem backward_problem(void)
{
    problem p = forward_problem();
    run(plain, &p, PLX_F64);
    for (int i = OUT; i <= LSE; i++)
        for (size_t j = 0; j < p.arrays[i].count; j++) p.arrays[i].single[j] = (float)p.arrays[i].twice[j];
    fill(&p, DOUT, p.arrays[Q].count, 1);
    fill(&p, DQ, p.arrays[Q].count, 1);
    fill(&p, DK, p.arrays[K].count, 1);
    fill(&p, DV, p.arrays[K].count, 1);
    for (int i = DQ; i <= DV; i++) fill_nan(&p, i);
    p.op = &plx_op_attention_backward;
    p.bind = bind_backward;
    p.outputs[0] = 1 + DQ;
    p.outputs[1] = 1 + DK;
    p.outputs[2] = 1 + DV;
    p.tolerance = 1e-5;
    return p;
}

/* Of a's f32 numbers against `exact`, normwise; absolute where that is 0. */
static double error_of(const array *a, const double *exact)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < a->count; i++) {
        error += (a->single[i] - exact[i]) * (a->single[i] - exact[i]);
        norm += exact[i] * exact[i];
    }
    return norm > 0 ? sqrt(error / norm) : sqrt(error);
}

/* Takes that kernel for all of attention's operations. */
static plx_context *context_with(const char *kernel, int threads)
{
    plx_context *context;
    plx_context_options options = {.threads = threads};
    expect_ok(plain, plx_context_create(&options, &context));
    expect_ok(context, plx_context_choose_kernel(context, "attention.*", kernel));
    return context;
}

/* f32 by tiles, which no level's context takes by itself. "amx_f32" is the best that there is where no tiles are. */
static const char *const terms_kernels[] = {"emulated_f32", "amx_f32"};

/* As check, with the kernels above as well. */
static void check_all(problem *p)
{
    for (int i = 0; i < 2; i++) {
        float *first[3] = {0};
        for (int threads = 1; threads <= 3; threads += 2) {
            plx_context *context = context_with(terms_kernels[i], threads);
            run(plain, p, PLX_F64);
            run(context, p, PLX_F32);
            plx_context_free(context);
            for (int j = 0; j < 3 && p->outputs[j]; j++) {
                const array *a = &p->arrays[p->outputs[j] - 1];
                double error = error_of(a, a->twice);
                if (!(error <= p->tolerance))
                    fail_msg("%s by %s, output %d: error %.3g above %.3g (T %zu d %zu window %zu H %zu G %d)",
                             p->op->name, terms_kernels[i], j, error, p->tolerance, p->dims[0], p->dims[1], p->dims[2],
                             p->dims[3], p->flags);
                if (threads == 1) {
                    first[j] = malloc(a->count * sizeof *a->single);
                    memcpy(first[j], a->single, a->count * sizeof *a->single);
                }
                assert_memory_equal(first[j], a->single, a->count * sizeof *a->single);
                fill_nan(p, p->outputs[j] - 1);
            }
        }
        for (int j = 0; j < 3; j++) free(first[j]);
    }
    check(p);
}

/* B, T, heads, kv heads, width, window, tokens a document */
static const size_t shapes[][7] = {
    {1, 1, 1, 1, 1, 0, 0},      {2, 1, 4, 2, 6, 0, 0},      {1, 15, 2, 2, 6, 0, 0},
    {3, 17, 4, 4, 24, 0, 5},    {1, 64, 1, 1, 32, 0, 0},    {2, 65, 4, 2, 16, 7, 0},
    {1, 100, 3, 1, 17, 0, 30},  {1, 130, 2, 1, 80, 33, 0},  {1, 96, 6, 2, 5, 1, 9},
    {1, 70, 2, 2, 256, 0, 40},  {1, 160, 2, 2, 9, 64, 70},  {2, 33, 70, 1, 4, 0, 12},
    {1, 150, 2, 1, 31, 40, 2},  {1, 200, 1, 1, 33, 300, 0}, {1, 300, 4, 1, 4, 0, 0},
    {1, 280, 8, 2, 7, 90, 150},                           /* backward: chunks of queries */
    {3, 150, 12, 6, 20, 0, 70}, {8, 33, 4, 2, 40, 20, 0}, /* tiles: a head's keys and values in one job */
};

static void check_shapes(problem (*make)(void))
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t *s = shapes[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        problem p = make();
        check_all(&p);
    }
}

static void fast_forward_agrees_with_the_reference(void **state)
{
    (void)state;
    check_shapes(forward_problem);
}

/* Keys and values that take more than a thread keeps are copied for each block of queries. */
static void very_wide_heads_agree_with_the_reference(void **state)
{
    (void)state;
    set_shape(1, 513, 1, 1, 4096, 3, 0);
    problem p = forward_problem();
    check(&p);
}

static void fast_backward_agrees_with_the_reference(void **state)
{
    (void)state;
    check_shapes(backward_problem);
}

/* Rows of a state: other slots, tokens dropped before base, documents that began earlier. What no query sees is NaN. */
static void fast_steps_agree_with_the_reference(void **state)
{
    (void)state;
    static const size_t steps[][5] = {/* T, heads, kv heads, width, window */
                                      {1, 4, 2, 6, 0},    {1, 1, 1, 64, 0},   {5, 4, 1, 24, 9},
                                      {70, 2, 2, 33, 20}, {40, 12, 6, 16, 9}, {3, 6, 3, 16, 1}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const size_t *s = steps[i];
        static const int32_t past[3] = {70, 0, 133}, slot[3] = {3, 0, 1};
        set_shape(3, s[0], s[1], s[2], s[3], s[4], 0);
        shape.slots = 4;
        shape.capacity = 133 + s[0];
        for (size_t b = 0; b < 3; b++) {
            shape.past[b] = past[b];
            shape.slot[b] = slot[b];
            for (size_t t = 0; t < s[0]; t++) shape.start[b * s[0] + t] = t < 3 ? past[b] / 4 : past[b] + 3;
            shape.base[b] = (int32_t)plx_attention_first(&(plx_sequence){3, s[0], shape.start, shape.past}, b, 0, s[4]);
        }
        problem p = forward_problem();
        const size_t width = shape.G * shape.d;
        for (size_t j = 0; j < p.arrays[K].count; j++) {
            bool seen = false;
            for (size_t b = 0; b < 3; b++) {
                size_t first = (size_t)slot[b] * shape.capacity, held = (size_t)(past[b] - shape.base[b]) + s[0];
                if (j / width >= first && j / width < first + held) seen = true;
            }
            if (!seen) p.arrays[K].single[j] = p.arrays[V].single[j] = NAN;
        }
        check_all(&p);
    }
}

/* ---- references ---- */

/* Queries of 0 average the values they see; a window of 1 gives the own value and score. */
static void reference_forward_is_the_definition(void **state)
{
    (void)state;
    set_shape(2, 9, 4, 2, 3, 4, 5);
    problem p = forward_problem();
    for (size_t i = 0; i < p.arrays[Q].count; i++) set(&p, Q, i, 0);
    run(plain, &p, PLX_F64);
    for (size_t b = 0; b < 2; b++)
        for (size_t t = 0; t < 9; t++)
            for (size_t h = 0; h < 4; h++) {
                size_t first = (size_t)shape.start[b * 9 + t];
                if (t >= 3 && t - 3 > first) first = t - 3;
                double count = (double)(t - first + 1);
                assert_close(p.arrays[LSE].twice[(b * 9 + t) * 4 + h], log(count), 1e-14);
                for (size_t c = 0; c < 3; c++) {
                    double mean = 0;
                    for (size_t j = first; j <= t; j++)
                        mean += p.arrays[V].twice[((b * 9 + j) * 2 + h / 2) * 3 + c] / count;
                    assert_close(p.arrays[OUT].twice[((b * 9 + t) * 4 + h) * 3 + c], mean, 1e-14);
                }
            }
    release(&p);

    set_shape(1, 5, 1, 1, 4, 1, 0);
    p = forward_problem();
    run(plain, &p, PLX_F64);
    for (size_t t = 0; t < 5; t++) {
        double score = 0;
        for (size_t c = 0; c < 4; c++) {
            score += p.arrays[Q].twice[t * 4 + c] * p.arrays[K].twice[t * 4 + c] / 2;
            assert_close(p.arrays[OUT].twice[t * 4 + c], p.arrays[V].twice[t * 4 + c], 1e-14);
        }
        assert_close(p.arrays[LSE].twice[t], score, 1e-13);
    }
    release(&p);
}

/* sum of out * dout after a forward in double */
static double objective(problem *p)
{
    double sum = 0;
    problem forward = *p;
    forward.op = &plx_op_attention_forward;
    forward.bind = bind_forward;
    run(plain, &forward, PLX_F64);
    for (size_t i = 0; i < p->arrays[OUT].count; i++) sum += p->arrays[OUT].twice[i] * p->arrays[DOUT].twice[i];
    return sum;
}

static void reference_backward_matches_central_differences(void **state)
{
    (void)state;
    static const size_t cases[][7] = {{2, 7, 2, 2, 3, 0, 0}, {1, 9, 4, 2, 5, 3, 4}, {1, 8, 3, 1, 2, 0, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t *s = cases[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        problem p = backward_problem();
        run(plain, &p, PLX_F64);
        for (int input = Q; input <= V; input++) {
            double error = 0, norm = 0;
            const double *gradient = p.arrays[DQ + input - Q].twice;
            for (size_t j = 0; j < p.arrays[input].count; j++) {
                double *x = p.arrays[input].twice + j, given = *x, f[4];
                static const double steps[4] = {-2e-3, -1e-3, 1e-3, 2e-3};
                for (int k = 0; k < 4; k++) {
                    *x = given + steps[k];
                    f[k] = objective(&p);
                }
                *x = given;
                double measured = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12e-3;
                error += (measured - gradient[j]) * (measured - gradient[j]);
                norm += gradient[j] * gradient[j];
            }
            assert_true(norm > 0);
            assert_close(sqrt(error / norm), 0, 1e-8);
        }
        release(&p);
    }
}

/* A score that is not a number, or overflows, shows in the output of the queries that see it, and only there. An
 * infinite value stays infinite or becomes none. */
static void not_a_number_comes_through(void **state)
{
    (void)state;
    static const char *const kernels[] = {"emulated_f32", "amx_f32", "emulated", "bf16", "amx"};
    set_shape(1, 100, 1, 1, 128, 0, 0);
    for (int level = 0; level < LEVELS + 5; level++) {
        plx_context *context = level < LEVELS ? contexts[level][0] : context_with(kernels[level - LEVELS], 1);
        if (context == NULL) continue;
        shape.bf16 = level >= LEVELS + 2;
        for (int i = 0; i < 3; i++) {
            static const float values[] = {NAN, INFINITY, -INFINITY};
            problem p = forward_problem();
            p.arrays[i == 0 ? K : V].single[20 * 128 + 3] = values[i];
            run(context, &p, PLX_F32);
            for (size_t t = 0; t < 100 && i == 0; t++)
                assert_int_equal(isnan(p.arrays[OUT].single[t * 128]) != 0, t >= 20);
            assert_false(isfinite(p.arrays[OUT].single[20 * 128 + 3]));
            release(&p);
        }
        problem p = forward_problem();
        p.arrays[Q].single[20 * 128 + 3] = NAN;
        run(context, &p, PLX_F32);
        for (size_t t = 0; t < 100; t++) assert_int_equal(isnan(p.arrays[OUT].single[t * 128]) != 0, t == 20);
        release(&p);
        if (level >= LEVELS) plx_context_free(context);
    }
}

/* The gradients of queries that see a key which is none. */
static void not_a_number_comes_back(void **state)
{
    (void)state;
    static const char *const kernels[] = {"emulated_f32", "amx_f32", "emulated", "bf16", "amx"};
    set_shape(1, 100, 1, 1, 128, 0, 0);
    for (int i = 0; i < 5; i++) {
        plx_context *context = context_with(kernels[i], 1);
        problem p = backward_problem(), forward = p;
        shape.bf16 = i >= 2;
        p.arrays[K].single[20 * 128 + 3] = forward.arrays[K].single[20 * 128 + 3] = NAN;
        forward.op = &plx_op_attention_forward;
        forward.bind = bind_forward;
        run(context, &forward, PLX_F32);
        run(context, &p, PLX_F32);
        for (size_t t = 20; t < 100; t++) assert_true(isnan(p.arrays[DQ].single[t * 128]));
        assert_true(isnan(p.arrays[DK].single[20 * 128]) && isnan(p.arrays[DV].single[20 * 128]));
        release(&p);
        plx_context_free(context);
        shape.bf16 = false;
    }
}

/* Scores in the thousands: the softmax is nearly one-hot, and nothing overflows. */
static void large_scores_do_not_overflow(void **state)
{
    (void)state;
    set_shape(1, 90, 2, 1, 12, 0, 40);
    problem p = forward_problem();
    for (size_t i = 0; i < p.arrays[Q].count; i++) set(&p, Q, i, 700 * p.arrays[Q].twice[i]);
    p.tolerance = 1e-2; /* a rounded score of 3000 is off by 1e-4, and by more where two are nearly equal */
    check_all(&p);
}

/* Logits of some tens: their f32 rounding, 2^-24 of the largest, twice, is what the powers are off by, and not more. */
static void large_logits_keep_their_precision(void **state)
{
    (void)state;
    static const double scales[] = {10, 60};
    for (int i = 0; i < 2; i++) {
        set_shape(1, 130, 2, 1, 64, 0, 70);
        problem p = forward_problem();
        for (size_t j = 0; j < p.arrays[Q].count; j++) set(&p, Q, j, scales[i] / 2 * p.arrays[Q].twice[j]);
        p.tolerance = 2e-6 + 4 * scales[i] * pow(2, -23);
        check_all(&p);
    }
}

static void flops_count_useful_pairs(void **state)
{
    (void)state;
    for (size_t window = 0; window < 12; window++) {
        double pairs = 0;
        for (size_t t = 0; t < 9; t++) pairs += (double)(window > 0 && window < t + 1 ? window : t + 1);
        assert_close(plx_attention_pairs(3, 9, window), 3 * pairs, 0);
    }
    plx_attention_args a = {.sequence = {.rows = 2, .length = 10}, .heads = 3, .kv_heads = 1, .head_dim = 5};
    plx_attention_backward_args b = {.sequence = {.rows = 2, .length = 10}, .heads = 3, .kv_heads = 1, .head_dim = 5};
    assert_close(plx_op_attention_forward.flops(&a), 4.0 * 5 * 3 * 2 * 55, 0);
    assert_close(plx_op_attention_backward.flops(&b), 10.0 * 5 * 3 * 2 * 55, 0);
}

/* ---- sizes at the edges of tiles, and bf16 ---- */

/* As `shapes`: every number of tokens, width, window and group that fills a tile, a panel or a vector, and one more or
 * less, each with some other edge. */
static const size_t edges[][7] = {{3, 1, 3, 1, 16, 1, 0},      {1, 15, 64, 1, 24, 7, 0},     {3, 17, 2, 2, 64, 32, 6},
                                  {1, 63, 3, 3, 80, 512, 0},   {1, 65, 64, 1, 128, 7, 20},   {1, 513, 1, 1, 256, 32, 0},
                                  {1, 513, 3, 1, 16, 0, 0},    {1, 513, 1, 1, 24, 512, 200}, {1, 65, 3, 1, 256, 600, 0},
                                  {3, 63, 3, 1, 64, 1, 9},     {1, 513, 3, 3, 80, 7, 100},   {1, 65, 1, 1, 16, 32, 0},
                                  {3, 65, 3, 1, 128, 512, 30}, {1, 17, 64, 1, 16, 0, 0}};

static void sizes_at_the_edges_agree_with_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        const size_t *s = edges[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        problem p = forward_problem();
        check_all(&p);
        p = backward_problem();
        if (s[5] == 1) p.tolerance = 1e-4; /* dq is 0: then the error is absolute, 2e-7 for each of 36,288 numbers */
        check_all(&p);
    }
}

static double round_to_bf16(double x)
{
    uint32_t bits;
    float f = (float)x;
    memcpy(&bits, &f, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static double *copy_of(const double *numbers, size_t count)
{
    double *copy = malloc(count * sizeof *copy);
    memcpy(copy, numbers, count * sizeof *copy);
    return copy;
}

/* The gradients by the reference in double, from out and lse of a forward in double. */
static void exact_backward(problem *p)
{
    problem forward = *p;
    forward.op = &plx_op_attention_forward;
    forward.bind = bind_forward;
    run(plain, &forward, PLX_F64);
    run(plain, p, PLX_F64);
}

/* As check_tiles, of gradients: backward takes up what forward of the same kernel left. */
static void check_tiles_backward(const char *kernel)
{
    problem p = backward_problem();
    double *exact[3], bound[3];
    float *first[3];
    exact_backward(&p);
    for (int i = 0; i < 3; i++) {
        exact[i] = copy_of(p.arrays[DQ + i].twice, p.arrays[DQ + i].count);
        first[i] = malloc(p.arrays[DQ + i].count * sizeof *first[i]);
    }
    static const int operands[] = {Q, K, V, DOUT};
    for (int i = 0; i < 4; i++)
        for (size_t j = 0; j < p.arrays[operands[i]].count; j++)
            p.arrays[operands[i]].twice[j] = round_to_bf16(p.arrays[operands[i]].twice[j]);
    exact_backward(&p);
    for (int i = 0; i < 3; i++) {
        array *of = &p.arrays[DQ + i];
        for (size_t j = 0; j < of->count; j++) of->single[j] = (float)of->twice[j];
        bound[i] = 2 * error_of(of, exact[i]);
    }
    shape.bf16 = true;
    for (int threads = 1; threads <= 5; threads += 2) {
        plx_context *context = context_with(kernel, threads);
        for (int i = 0; i < 3; i++)
            for (size_t j = 0; j < p.arrays[DQ + i].count; j++) p.arrays[DQ + i].single[j] = NAN;
        problem forward = p;
        forward.op = &plx_op_attention_forward;
        forward.bind = bind_forward;
        run(context, &forward, PLX_F32);
        run(context, &p, PLX_F32);
        for (int i = 0; i < 3; i++) {
            const array *of = &p.arrays[DQ + i];
            double error = error_of(of, exact[i]);
            bool none = shape.window == 1 && i < 2; /* dq and dk are 0 */
            if (!none && !(error <= bound[i]))
                fail_msg("%s, T %zu H %zu G %zu d %zu window %zu, result %d: error %.3g, bound %.3g", kernel, shape.T,
                         shape.H, shape.G, shape.d, shape.window, i, error, bound[i]);
            if (threads == 1) memcpy(first[i], of->single, of->count * sizeof *first[i]);
            assert_memory_equal(first[i], of->single, of->count * sizeof *first[i]);
        }
        plx_context_free(context);
    }
    for (int i = 0; i < 3; i++) {
        free(exact[i]);
        free(first[i]);
    }
    release(&p);
}

/* What bf16 may cost: twice the error, in double, of q, k and v rounded to bf16, in out and in lse. */
static void check_tiles(const char *kernel)
{
    problem p = forward_problem();
    double *exact[2], bound[2];
    float *first[2];
    run(plain, &p, PLX_F64);
    for (int i = 0; i < 2; i++) {
        exact[i] = copy_of(p.arrays[OUT + i].twice, p.arrays[OUT + i].count);
        first[i] = malloc(p.arrays[OUT + i].count * sizeof *first[i]);
    }
    for (int i = Q; i <= V; i++)
        for (size_t j = 0; j < p.arrays[i].count; j++) p.arrays[i].twice[j] = round_to_bf16(p.arrays[i].twice[j]);
    run(plain, &p, PLX_F64);
    for (int i = 0; i < 2; i++) {
        array *of = &p.arrays[OUT + i];
        for (size_t j = 0; j < of->count; j++) of->single[j] = (float)of->twice[j];
        bound[i] = 2 * error_of(of, exact[i]);
    }
    if (!(bound[0] > 1e-4 && bound[0] < 2e-2 * shape.factor))
        fail_msg("T %zu d %zu window %zu: bound %.3g", shape.T, shape.d, shape.window, bound[0]);
    shape.bf16 = true;
    for (int threads = 1; threads <= 5; threads += 2) {
        plx_context *context = context_with(kernel, threads);
        fill_nan(&p, OUT);
        fill_nan(&p, LSE);
        run(context, &p, PLX_F32);
        for (int i = 0; i < 2; i++) {
            const array *of = &p.arrays[OUT + i];
            double error = error_of(of, exact[i]);
            if (!(error <= bound[i]))
                fail_msg("%s, T %zu d %zu window %zu, result %d: error %.3g, bound %.3g", kernel, shape.T, shape.d,
                         shape.window, i, error, bound[i]);
            if (threads == 1) memcpy(first[i], of->single, of->count * sizeof *first[i]);
            assert_memory_equal(first[i], of->single, of->count * sizeof *first[i]);
        }
        plx_context_free(context);
    }
    for (int i = 0; i < 2; i++) {
        free(first[i]);
        free(exact[i]);
    }
    release(&p);
}

static void tiles_cost_no_more_than_rounding(void **state)
{
    (void)state;
    plx_context *best;
    expect_ok(plain, plx_context_create(NULL, &best));
    const plx_level level = best->level;
    plx_context_free(best);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        const size_t *s = edges[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        if (s[1] * (s[2] / s[3]) < 32) continue; /* which other kernels take */
        check_tiles("emulated");
        shape.bf16 = false;
        /* others do not round, which moves lse by more than is allowed here */
        if (level >= PLX_LEVEL_BF16) check_tiles("bf16");
        shape.bf16 = false;
        if (level >= PLX_LEVEL_AMX) check_tiles("amx");
        shape.bf16 = false;
        check_tiles_backward("emulated");
        shape.bf16 = false;
        check_tiles_backward("bf16");
        shape.bf16 = false;
        check_tiles_backward("amx");
    }
}

/* Scores beyond what needs no tops: the careful way, which rounds as much. */
static void tiles_take_large_scores_with_care(void **state)
{
    (void)state;
    static const double factors[] = {4, 30}; /* norms allow 130 and 980 powers of two */
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++) {
            static const char *const kernels[] = {"emulated", "bf16", "amx"};
            set_shape(1, 300, 2, 1, 128, 0, 200);
            shape.factor = factors[i];
            check_tiles(kernels[j]);
            shape.bf16 = false;
            check_tiles_backward(kernels[j]);
        }
}

/* Scores in the thousands in a tile of keys after the first: tops rise, and what was summed shrinks. */
static void tiles_follow_rising_scores(void **state)
{
    (void)state;
    static const char *const kernels[] = {"emulated", "bf16",   "amx",  "emulated_f32",
                                          "amx_f32",  "avx512", "avx2", "portable"};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        set_shape(1, 600, 1, 1, 16, 0, 0);
        problem p = forward_problem();
        for (size_t j = 0; j < p.arrays[Q].count; j++) set(&p, Q, j, 1);
        for (size_t j = 0; j < p.arrays[K].count; j++) set(&p, K, j, j / 16 < 550 ? (double)(j / 16 / 64) * 32 : 0);
        run(plain, &p, PLX_F64);
        plx_context *context;
        expect_ok(plain, plx_context_create(NULL, &context));
        expect_ok(context, plx_context_choose_kernel(context, "attention.*", kernels[i]));
        shape.bf16 = i < 3;
        run(context, &p, PLX_F32);
        assert_close(error_of(&p.arrays[OUT], p.arrays[OUT].twice), 0, i < 3 ? 5e-3 : 1e-6);
        for (size_t j = 0; j < p.arrays[LSE].count; j++)
            assert_close(p.arrays[LSE].single[j], p.arrays[LSE].twice[j],
                         i < 3 ? 1e-2 + p.arrays[LSE].twice[j] * pow(2, -9) : 1e-3); /* scaled, q is rounded */
        plx_context_free(context);
        release(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_forward_agrees_with_the_reference),
        cmocka_unit_test(very_wide_heads_agree_with_the_reference),
        cmocka_unit_test(fast_backward_agrees_with_the_reference),
        cmocka_unit_test(fast_steps_agree_with_the_reference),
        cmocka_unit_test(reference_forward_is_the_definition),
        cmocka_unit_test(reference_backward_matches_central_differences),
        cmocka_unit_test(not_a_number_comes_through),
        cmocka_unit_test(not_a_number_comes_back),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(large_logits_keep_their_precision),
        cmocka_unit_test(flops_count_useful_pairs),
        cmocka_unit_test(sizes_at_the_edges_agree_with_the_reference),
        cmocka_unit_test(tiles_cost_no_more_than_rounding),
        cmocka_unit_test(tiles_take_large_scores_with_care),
        cmocka_unit_test(tiles_follow_rising_scores),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
