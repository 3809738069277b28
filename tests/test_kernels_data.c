/* test_kernels_data.c - the shared operations on ids, histories, losses and weights; and the backward references
 * against central differences in double. */
#include "kernels/kernels.h"
#include "support/problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- embedding and gather ---- */

static int32_t ids[600];

static void bind_embedding_forward(const problem *p, plx_type type, void *arguments)
{
    *(plx_embedding_args *)arguments = (plx_embedding_args){
        type, type, ids, p->dims[0], p->dims[1], p->dims[2], at(p, type, 0), at(p, type, 1)};
}
static void bind_embedding_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_embedding_backward_args *)arguments = (plx_embedding_backward_args){
        type, ids, p->dims[0], p->dims[1], p->dims[2], at(p, type, 1), at(p, type, 0)};
}
static void bind_gather(const problem *p, plx_type type, void *arguments)
{
    *(plx_gather_args *)arguments = (plx_gather_args){type,           ids,           p->dims[0], p->dims[1],
                                                      at(p, type, 0), at(p, type, 1)};
}
static void bind_column_sum(const problem *p, plx_type type, void *arguments)
{
    *(plx_column_sum_args *)arguments = (plx_column_sum_args){type, at(p, type, 1), at(p, type, 0), p->dims[0],
                                                              p->dims[1]};
}

static void test_lookups_and_sums(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{0, 3, 2}, {1, 1, 1}, {9, 17, 5}, {600, 67, 40}, {70, 200, 3}, {300, 16, 9}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t tokens = sizes[i][0], width = sizes[i][1], vocab = sizes[i][2];
        for (size_t t = 0; t < tokens; t++) ids[t] = (int32_t)(t * t % vocab);
        static const struct {
            const plx_op *op;
            void (*bind)(const problem *, plx_type, void *);
            int output;
            double tolerance;
        } ops[] = {{&plx_op_embedding_forward, bind_embedding_forward, 2, 0},
                   {&plx_op_embedding_backward, bind_embedding_backward, 1, 1e-5},
                   {&plx_op_gather, bind_gather, 2, 0},
                   {&plx_op_column_sum, bind_column_sum, 1, 2e-6}};
        for (size_t k = 0; k < 4; k++) {
            problem p = {.op = ops[k].op,
                         .bind = ops[k].bind,
                         .dims = {tokens, width, vocab},
                         .outputs = {ops[k].output},
                         .tolerance = ops[k].tolerance};
            fill(&p, 0, vocab * width, 1);
            fill(&p, 1, tokens * width, 1);
            check(&p);
        }
        /* by the definitions */
        problem p = {.op = &plx_op_embedding_forward, .bind = bind_embedding_forward, .dims = {tokens, width, vocab}};
        fill(&p, 0, vocab * width, 1);
        fill(&p, 1, tokens * width, 1);
        run(plain, &p, PLX_F64);
        double total = 0, gathered = 0, scattered = 0;
        for (size_t t = 0; t < tokens; t++)
            for (size_t j = 0; j < width; j++) {
                total += p.arrays[1].twice[t * width + j];
                assert_true(p.arrays[1].twice[t * width + j] == p.arrays[0].twice[(size_t)ids[t] * width + j]);
            }
        p.op = &plx_op_gather;
        p.bind = bind_gather;
        run(plain, &p, PLX_F64);
        for (size_t j = 0; j < tokens * width; j++) gathered += p.arrays[1].twice[j];
        memset(p.arrays[0].twice, 0, vocab * width * sizeof(double));
        p.op = &plx_op_embedding_backward;
        p.bind = bind_embedding_backward;
        run(plain, &p, PLX_F64);
        for (size_t j = 0; j < vocab * width; j++) scattered += p.arrays[0].twice[j];
        assert_close(gathered, total, 0);
        assert_close(scattered, total, 1e-9);
        release(&p);
    }
}

static void test_bad_ids(void **state)
{
    (void)state;
    float table[12] = {0}, y[8] = {0}, mask[2] = {1, 0};
    double loss[2];
    int32_t given[2] = {1, 3}, correct[2];
    plx_embedding_args forward = {PLX_F32, PLX_F32, given, 2, 4, 3, table, y};
    plx_embedding_backward_args backward = {PLX_F32, given, 2, 4, 3, y, table};
    plx_cross_entropy_args entropy = {PLX_F32, 2, 3, table, given, mask, 1, 0, true, loss, correct};
    for (int i = 0; i < 2; i++) {
        plx_context *context = i ? plain : contexts[0][0];
        given[1] = i ? -1 : 3;
        assert_int_equal(plx_op_run(context, &plx_op_embedding_forward, &forward), PLX_ERROR_VALUE);
        assert_non_null(strstr(plx_context_error(context)->message, i ? "id -1" : "id 3"));
        assert_int_equal(plx_op_run(context, &plx_op_embedding_backward, &backward), PLX_ERROR_VALUE);
        mask[1] = 0; /* a target that is masked may be anything */
        assert_int_equal(plx_op_run(context, &plx_op_cross_entropy, &entropy), PLX_OK);
        assert_true(loss[1] == 0 && correct[1] == 0);
        mask[1] = 1;
        assert_int_equal(plx_op_run(context, &plx_op_cross_entropy, &entropy), PLX_ERROR_VALUE);
    }
}

/* ---- cross entropy ---- */

enum { MAX_ROWS = 70 };
static int32_t targets[MAX_ROWS], correct[2][MAX_ROWS]; /* for f32, f64 */
static float mask[MAX_ROWS];
static double losses[2][MAX_ROWS];
enum { GRADIENT = 1, Z = 2 };
static void bind_cross_entropy(const problem *p, plx_type type, void *arguments)
{
    *(plx_cross_entropy_args *)arguments = (plx_cross_entropy_args){.type = type,
                                                                    .rows = p->dims[0],
                                                                    .vocab = p->dims[1],
                                                                    .logits = at(p, type, 0),
                                                                    .targets = targets,
                                                                    .mask = mask,
                                                                    .scale = 0.3,
                                                                    .z = p->flags & Z ? 0.01 : 0,
                                                                    .gradient = p->flags & GRADIENT,
                                                                    .loss = losses[type == PLX_F64],
                                                                    .correct = correct[type == PLX_F64]};
}
static problem cross_entropy_problem(size_t rows, size_t vocab, int flags, double scale)
{
    problem p = {.op = &plx_op_cross_entropy,
                 .bind = bind_cross_entropy,
                 .dims = {rows, vocab},
                 .flags = flags,
                 .outputs = {1},
                 /* A share of e^-x carries x roundings of 6e-8: where the target is nearly certain, the gradient is only
                  * that. Logits here differ by up to about 10 scales. */
                 .tolerance = scale <= 2 ? 2e-6 : scale * 10 * 6e-8 + 2e-6};
    fill(&p, 0, rows * vocab, scale);
    for (size_t i = 0; i < rows; i++) {
        targets[i] = (int32_t)(i * 7 % vocab);
        mask[i] = i % 3 == 2 ? 0 : i % 3 == 1 ? 0.5f : 1;
        if (i % 5 == 0) set(&p, 0, i * vocab + (size_t)targets[i], 4 * scale); /* mostly right */
    }
    return p;
}

static void test_cross_entropy_fast(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{0, 4}, {1, 1}, {2, 2}, {7, 16}, {70, 257}, {5, 1031}, {3, 20000}};
    static const double scales[] = {1, 10, 60};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int flags = 0; flags < 4; flags++)
            for (size_t s = 0; s < 3; s++) {
                problem p = cross_entropy_problem(sizes[i][0], sizes[i][1], flags, scales[s]);
                check(&p);
                for (int level = 0; level < LEVELS; level++) {
                    if (!contexts[level][1]) continue;
                    problem one = cross_entropy_problem(sizes[i][0], sizes[i][1], flags, scales[s]);
                    run(plain, &one, PLX_F64);
                    run(contexts[level][1], &one, PLX_F32);
                    for (size_t r = 0; r < sizes[i][0]; r++) {
                        assert_int_equal(correct[0][r], correct[1][r]);
                        assert_close(losses[0][r], losses[1][r], 2e-6 * (losses[1][r] + 1e-3));
                    }
                    release(&one);
                }
            }
}

/* By hand; ties go to the lowest id; a confident row keeps its small loss; NaN shows. */
static void test_cross_entropy_cases(void **state)
{
    (void)state;
    for (int level = -1; level < LEVELS; level++) {
        plx_context *context = level < 0 ? plain : contexts[level][1];
        if (!context) continue;
        float logits[5][3] = {{0, 0, 0}, {0, 0, 0}, {1, 2, 3}, {30, 0, 0}, {0, NAN, 0}};
        int32_t target[5] = {0, 1, 1, 0, 2}, right[5];
        float weight[5] = {1, 2, 1, 1, 1};
        double loss[5];
        plx_cross_entropy_args a = {PLX_F32, 5, 3, logits, target, weight, 1, 0, false, loss, right};
        assert_int_equal(plx_op_run(context, &plx_op_cross_entropy, &a), PLX_OK);
        assert_true(logits[2][1] == 2 && logits[2][2] == 3);
        assert_int_equal(right[0], 1);
        assert_int_equal(right[1], 0);
        assert_int_equal(right[2], 0);
        assert_int_equal(right[3], 1);
        assert_close(loss[0], log(3), 1e-6);
        assert_close(loss[1], 2 * log(3), 1e-6);
        assert_close(loss[2], log(exp(1) + exp(2) + exp(3)) - 2, 1e-6);
        assert_close(loss[3] * 1e13, 2 * exp(-30) * 1e13, 1e-5);
        assert_true(isnan(loss[4]));
        a.gradient = true;
        a.rows = 4;
        assert_int_equal(plx_op_run(context, &plx_op_cross_entropy, &a), PLX_OK);
        assert_close(logits[3][0] * 1e13, -2 * exp(-30) * 1e13, 1e-5);
        assert_close(logits[1][1], -4.0 / 3, 1e-6);
        assert_close(logits[1][2], 2.0 / 3, 1e-6);
    }
}

/* ---- append and move ---- */

static void test_history(void **state)
{
    (void)state;
    /* 3 slots of 4 tokens of 2 numbers; row 0 is slot 2 and starts at token 5, row 1 is slot 0 */
    float data[3][4][2];
    for (size_t i = 0; i < 24; i++) ((float *)data)[i] = (float)i;
    int32_t slot[2] = {2, 0}, base[2] = {5, 0}, past[2] = {6, 2}, from[2] = {1, 2}, count[2] = {3, 0};
    float x[2][2][2] = {{{100, 101}, {102, 103}}, {{104, 105}, {106, 107}}};
    plx_history history = {data, 2, 8, slot, base, PLX_STATE_WHOLE};
    plx_append_args append = {PLX_F32, {2, 2, NULL, past}, history, x};
    assert_int_equal(plx_op_run(contexts[0][1], &plx_op_append, &append), PLX_OK);
    static const float appended[3][8] = {
        {0, 1, 2, 3, 104, 105, 106, 107}, {8, 9, 10, 11, 12, 13, 14, 15}, {16, 17, 100, 101, 102, 103, 22, 23}};
    assert_memory_equal(data, appended, sizeof data);
    plx_move_args move = {PLX_F32, history, 2, from, count};
    assert_int_equal(plx_op_run(contexts[0][1], &plx_op_move, &move), PLX_OK);
    static const float moved[8] = {100, 101, 102, 103, 22, 23, 22, 23};
    assert_memory_equal(data[2], moved, sizeof moved);
    assert_memory_equal(data[0], appended[0], sizeof data[0]);
    /* without slots, bases and past; f64 */
    double wide[2][3] = {{0, 0, 9}, {0, 0, 9}}, tokens[4] = {1, 2, 3, 4};
    plx_append_args first = {PLX_F64, {2, 2, NULL, NULL}, {wide, 1, 3, NULL, NULL, PLX_STATE_WHOLE}, tokens};
    assert_int_equal(plx_op_run(plain, &plx_op_append, &first), PLX_OK);
    assert_true(wide[0][0] == 1 && wide[0][1] == 2 && wide[0][2] == 9 && wide[1][0] == 3 && wide[1][1] == 4);
}

/* Copies of several parts, on several threads, against the reference. */
static void test_copies(void **state)
{
    (void)state;
    enum { ROWS_OF = 2, LENGTH = 700, WIDTH_OF = 67, SLOT = 1000, VOCABULARY = 50, TOKENS = ROWS_OF * LENGTH };
    static float x[TOKENS * WIDTH_OF], data[2][3 * SLOT * WIDTH_OF], y[2][TOKENS * WIDTH_OF];
    static uint16_t halves[VOCABULARY * WIDTH_OF];
    static int32_t index[TOKENS];
    int32_t slot[ROWS_OF] = {2, 0}, base[ROWS_OF] = {5, 0}, past[ROWS_OF] = {6, 300}, from[ROWS_OF] = {10, 1},
            count[ROWS_OF] = {600, 999};
    for (size_t i = 0; i < TOKENS * WIDTH_OF; i++) x[i] = (float)i;
    for (size_t i = 0; i < VOCABULARY * WIDTH_OF; i++) halves[i] = (uint16_t)(i * 19 & 0xb7ff); /* finite */
    for (size_t i = 0; i < TOKENS; i++) index[i] = (int32_t)(i * i % VOCABULARY);
    for (int i = 0; i < 2; i++) {
        plx_context *context = i ? plain : contexts[0][2];
        plx_history history = {data[i], WIDTH_OF, SLOT * WIDTH_OF, slot, base, PLX_STATE_WHOLE};
        plx_append_args append = {PLX_F32, {ROWS_OF, LENGTH, NULL, past}, history, x};
        plx_move_args move = {PLX_F32, history, ROWS_OF, from, count};
        assert_int_equal(plx_op_run(context, &plx_op_append, &append), PLX_OK);
        assert_int_equal(plx_op_run(context, &plx_op_move, &move), PLX_OK);
    }
    assert_memory_equal(data[0], data[1], sizeof data[0]);
    assert_true(data[0][0] == 0 && data[0][299 * WIDTH_OF + 1] == TOKENS / 2 * WIDTH_OF + 1);
    for (plx_type type = PLX_BF16; type <= PLX_F16; type++) {
        for (int i = 0; i < 2; i++) {
            plx_embedding_args embed = {PLX_F32, type, index, TOKENS, WIDTH_OF, VOCABULARY, halves, y[i]};
            assert_int_equal(plx_op_run(i ? plain : contexts[0][2], &plx_op_embedding_forward, &embed), PLX_OK);
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
    }
}

/* ---- optimiser ---- */

static double sums[2]; /* for f32, f64 */
static void bind_sum_squares(const problem *p, plx_type type, void *arguments)
{
    static plx_squares_tensor list[1];
    list[0] = (plx_squares_tensor){p->dims[0], at(p, type, 0)};
    *(plx_sum_squares_args *)arguments = (plx_sum_squares_args){type, 1, list, &sums[type == PLX_F64]};
}
static void test_sum_squares(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 17, 16384, 100003};
    for (size_t i = 0; i < 5; i++)
        for (int level = 0; level < LEVELS; level++) {
            double first = 0;
            problem p = {.op = &plx_op_sum_squares, .bind = bind_sum_squares, .dims = {counts[i]}};
            fill(&p, 0, counts[i], i == 2 ? 1e25 : 1); /* squares beyond f32 */
            run(plain, &p, PLX_F64);
            for (int t = 0; t < THREADS; t++) {
                if (!contexts[level][t]) continue;
                run(contexts[level][t], &p, PLX_F32);
                assert_true(fabs(sums[0] - sums[1]) <= 1e-12 * sums[1]);
                if (t == 0) first = sums[0];
                assert_true(sums[0] == first);
            }
            release(&p);
        }
    /* several tensors, one of them empty and one of more than a part */
    static float x[20000];
    for (size_t i = 0; i < 20000; i++) x[i] = 1;
    x[0] = -2;
    x[2] = 3;
    plx_squares_tensor list[] = {{3, x}, {0, x}, {20000, x}, {1, x + 1}};
    for (int level = -1; level < LEVELS; level++) {
        plx_context *context = level < 0 ? plain : contexts[level][1];
        double out[5] = {9, 9, 9, 9, 99};
        if (!context) continue;
        assert_int_equal(plx_op_run(context, &plx_op_sum_squares, &(plx_sum_squares_args){PLX_F32, 4, list, out}),
                         PLX_OK);
        assert_true(out[0] == 14 && out[1] == 0 && out[2] == 20011 && out[3] == 1 && out[4] == 99);
        assert_int_equal(plx_op_run(context, &plx_op_sum_squares, &(plx_sum_squares_args){PLX_F32, 0, NULL, out}),
                         PLX_OK);
    }
    double sum;
    x[1] = NAN;
    assert_int_equal(plx_op_run(contexts[0][0], &plx_op_sum_squares, &(plx_sum_squares_args){PLX_F32, 1, list, &sum}),
                     PLX_OK);
    assert_true(isnan(sum));
}

/* The arrays as three tensors: the first two elements (fewer where there are fewer), none, and the rest without decay. */
static void bind_adamw(const problem *p, plx_type type, void *arguments)
{
    static plx_adamw_tensor list[3];
    size_t first = p->dims[0] < 2 ? p->dims[0] : 2, width = plx_type_size(type);
    char *w = at(p, type, 0), *m = at(p, type, 1), *v = at(p, type, 2), *g = at(p, type, 3);
    list[0] = (plx_adamw_tensor){first, w, m, v, g, 0.1};
    list[1] = (plx_adamw_tensor){0, w, m, v, g, 0.1};
    list[2] = (plx_adamw_tensor){p->dims[0] - first, w + first * width, m + first * width, v + first * width,
                                 g + first * width, 0};
    *(plx_adamw_args *)arguments = (plx_adamw_args){type, 3, list, 0.5, 1e-2, 0.9, 0.95, 1e-8, 0.19, 0.0975};
}
static void test_adamw(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 17, 40001};
    for (size_t i = 0; i < 4; i++) {
        problem p = {
            .op = &plx_op_adamw, .bind = bind_adamw, .dims = {counts[i]}, .outputs = {1, 2, 3}, .tolerance = 2e-6};
        for (int k = 0; k < 4; k++) fill(&p, k, counts[i], 1);
        for (size_t k = 0; k < counts[i]; k++) set(&p, 2, k, p.arrays[2].twice[k] * p.arrays[2].twice[k]);
        check(&p);
    }
    /* Two steps from w = 1 with gradients 2, then -1 (given doubled, grad_scale .5); lr .1, decay .5, betas .9, .99:
     * step 1: m = .2, v = .04, corrected 2 and 4: w = 1 (1 - .05) - .1 * 2 / 2 = .85
     * step 2: m = .18 - .1 = .08, v = .0396 + .01 = .0496; corrected .08 / .19 and .0496 / .0199
     *         w = .85 * .95 - .1 * .421052632 / sqrt(2.492462312) = .8075 - .026670087 = .780829913 */
    for (int level = -1; level < LEVELS; level++) {
        plx_context *context = level < 0 ? plain : contexts[level][0];
        if (!context) continue;
        float w = 1, m = 0, v = 0, g = 4;
        plx_adamw_tensor tensor = {1, &w, &m, &v, &g, 0.5};
        plx_adamw_args a = {PLX_F32, 1, &tensor, 0.5, 0.1, 0.9, 0.99, 0, 0.1, 0.01};
        assert_int_equal(plx_op_run(context, &plx_op_adamw, &a), PLX_OK);
        assert_close(w, 0.85, 1e-6);
        g = -2;
        a.correction1 = 1 - 0.81;
        a.correction2 = 1 - 0.9801;
        assert_int_equal(plx_op_run(context, &plx_op_adamw, &a), PLX_OK);
        assert_close(m, 0.08, 1e-6);
        assert_close(v, 0.0496, 1e-6);
        assert_close(w, 0.780829913, 1e-6);
    }
}

/* ---- backward references against central differences ---- */

/* A forward whose output y is weighed by dy gives a loss; its derivative by x is what the backward puts into dx. */
typedef struct check_case {
    double *x; /* perturbed */
    size_t count;
    double (*loss)(void *user);
    void *user;
} check_case;

static void compare_differences(const check_case *c, const double *gradient, const char *what)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < c->count; i++) {
        double given = c->x[i], h = 1e-5;
        c->x[i] = given + h;
        double above = c->loss(c->user);
        c->x[i] = given - h;
        double below = c->loss(c->user);
        c->x[i] = given;
        double difference = (above - below) / (2 * h) - gradient[i];
        error += difference * difference;
        norm += gradient[i] * gradient[i];
    }
    if (!(norm > 0 && sqrt(error / norm) < 1e-6)) fail_msg("%s: %.3g of the gradient's norm", what, sqrt(error / norm));
}

enum { ROWS = 3, WIDTH = 5, SIZE = ROWS * WIDTH };
typedef struct values {
    double x[SIZE], second[SIZE], bias[WIDTH], dy[SIZE], y[SIZE], mean[ROWS], rstd[ROWS];
    bool layer;
} values;
static void randomise(values *v)
{
    for (size_t i = 0; i < sizeof *v / sizeof(double) - 1; i++) ((double *)v)[i] = uniform(-2, 2);
}
static double weighed(const values *v)
{
    double sum = 0;
    for (size_t i = 0; i < SIZE; i++) sum += v->y[i] * v->dy[i];
    return sum;
}
static void must(const plx_op *op, const void *arguments)
{
    assert_int_equal(plx_op_run(plain, op, arguments), PLX_OK);
}

static double swiglu_loss(void *user)
{
    values *v = user;
    must(&plx_op_swiglu_forward, &(plx_swiglu_args){PLX_F64, SIZE, v->x, v->second, v->y});
    return weighed(v);
}
static double gelu_loss(void *user)
{
    values *v = user;
    must(&plx_op_gelu_forward, &(plx_gelu_args){PLX_F64, SIZE, v->x, v->y});
    return weighed(v);
}
static double norm_loss(void *user)
{
    values *v = user;
    must(&plx_op_norm_forward, &(plx_norm_args){PLX_F64, v->layer, 1e-2, ROWS, WIDTH, v->x, v->second,
                                                v->layer ? v->bias : NULL, v->y, v->mean, v->rstd, NULL, NULL});
    return weighed(v);
}
/* scale * sum of mask (loss + z lse^2), whose gradient is the operation's */
static double entropy_loss(void *user)
{
    values *v = user;
    double sum = 0, copy[SIZE];
    memcpy(copy, v->x, sizeof copy);
    must(&plx_op_cross_entropy,
         &(plx_cross_entropy_args){PLX_F64, ROWS, WIDTH, copy, targets, mask, 1, 0, false, losses[1], correct[1]});
    for (size_t row = 0; row < ROWS; row++) {
        double lse = 0;
        for (size_t i = 0; i < WIDTH; i++) lse += exp(v->x[row * WIDTH + i]);
        lse = log(lse);
        sum += 0.3 * (losses[1][row] + mask[row] * 0.2 * lse * lse);
    }
    return sum;
}

static void test_differences(void **state)
{
    (void)state;
    values v;
    double dx[SIZE], dsecond[SIZE], again[SIZE], forward[SIZE];
    randomise(&v);
    must(&plx_op_swiglu_backward, &(plx_swiglu_backward_args){PLX_F64, SIZE, v.x, v.second, v.dy, dx, dsecond, again});
    compare_differences(&(check_case){v.x, SIZE, swiglu_loss, &v}, dx, "swiglu gate");
    compare_differences(&(check_case){v.second, SIZE, swiglu_loss, &v}, dsecond, "swiglu up");
    must(&plx_op_swiglu_forward, &(plx_swiglu_args){PLX_F64, SIZE, v.x, v.second, forward});
    assert_memory_equal(again, forward, sizeof forward);
    must(&plx_op_gelu_backward, &(plx_gelu_backward_args){PLX_F64, SIZE, v.x, v.dy, dx, again});
    compare_differences(&(check_case){v.x, SIZE, gelu_loss, &v}, dx, "gelu");
    must(&plx_op_gelu_forward, &(plx_gelu_args){PLX_F64, SIZE, v.x, forward});
    assert_memory_equal(again, forward, sizeof forward);
    for (int layer = 0; layer < 2; layer++) {
        double dweight[WIDTH] = {0}, dbias[WIDTH] = {0};
        v.layer = layer;
        norm_loss(&v);
        must(&plx_op_norm_backward, &(plx_norm_backward_args){PLX_F64, layer, ROWS, WIDTH, v.x, v.second, v.mean,
                                                              v.rstd, v.dy, dx, false, dweight, layer ? dbias : NULL});
        compare_differences(&(check_case){v.x, SIZE, norm_loss, &v}, dx, layer ? "layer norm" : "rms norm");
        compare_differences(&(check_case){v.second, WIDTH, norm_loss, &v}, dweight, "norm weight");
        if (layer) compare_differences(&(check_case){v.bias, WIDTH, norm_loss, &v}, dbias, "norm bias");
    }
    for (size_t i = 0; i < ROWS; i++) {
        targets[i] = (int32_t)i;
        mask[i] = i == 1 ? 0.25f : 1;
    }
    memcpy(dx, v.x, sizeof dx);
    must(&plx_op_cross_entropy,
         &(plx_cross_entropy_args){PLX_F64, ROWS, WIDTH, dx, targets, mask, 0.3, 0.2, true, losses[1], correct[1]});
    compare_differences(&(check_case){v.x, SIZE, entropy_loss, &v}, dx, "cross entropy");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookups_and_sums),
        cmocka_unit_test(test_bad_ids),
        cmocka_unit_test(test_cross_entropy_fast),
        cmocka_unit_test(test_cross_entropy_cases),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_differences),
    };
    return cmocka_run_group_tests_name("kernels_data", tests, open_contexts, close_contexts);
}
