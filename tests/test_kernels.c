/* test_kernels.c - the shared operations that compute, but for products (test_matmul.c): every fast version at every level against the plain reference in
 * double, over awkward sizes and allowed aliasing; equal bits for 1, 2 and 5 threads; references by definition. */
#include "core/random.h"
#include "kernels/kernels.h"
#include "support/problem.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- norms ---- */

enum { LAYER = 1, ACCUMULATE = 2, IN_PLACE = 4, FROZEN = 8, SUM = 16, SUM_IN_PLACE = 32 };
/* The array that takes x + addend: one of its own, or the addend. */
static int sum_of(int flags) { return flags & SUM_IN_PLACE ? 6 : 7; }
static void bind_norm_forward(const problem *p, plx_type type, void *arguments)
{
    bool layer = p->flags & LAYER;
    *(plx_norm_args *)arguments = (plx_norm_args){.type = type,
                                                  .layer = layer,
                                                  .epsilon = 1e-5,
                                                  .rows = p->dims[0],
                                                  .width = p->dims[1],
                                                  .x = at(p, type, 0),
                                                  .weight = at(p, type, 1),
                                                  .bias = layer ? at(p, type, 2) : NULL,
                                                  .y = at(p, type, 3),
                                                  .mean = p->flags & FROZEN || !layer ? NULL : at(p, type, 4),
                                                  .rstd = p->flags & FROZEN ? NULL : at(p, type, 5),
                                                  .addend = p->flags & SUM ? at(p, type, 6) : NULL,
                                                  .sum = p->flags & SUM ? at(p, type, sum_of(p->flags)) : NULL};
}
static problem norm_problem(size_t rows, size_t width, int flags)
{
    problem p = {.op = &plx_op_norm_forward,
                 .bind = bind_norm_forward,
                 .dims = {rows, width},
                 .flags = flags,
                 .outputs = {4, 6, flags & SUM ? sum_of(flags) + 1 : flags & LAYER ? 5 : 0},
                 .tolerance = 2e-6};
    fill(&p, 0, rows * width, 1);
    /* The mean is an output: one near 0 would be compared with its own cancellation. */
    for (size_t i = 0; i < rows * width; i++) set(&p, 0, i, p.arrays[0].single[i] + 0.5f);
    fill(&p, 1, width, 1);
    fill(&p, 2, width, 1);
    fill(&p, 3, rows * width, 1);
    fill(&p, 4, rows, 1);
    fill(&p, 5, rows, 1);
    fill(&p, 6, rows * width, 1);
    fill(&p, 7, rows * width, 1);
    return p;
}
static void bind_norm_backward(const problem *p, plx_type type, void *arguments)
{
    bool layer = p->flags & LAYER;
    *(plx_norm_backward_args *)arguments = (plx_norm_backward_args){
        .type = type,
        .layer = layer,
        .rows = p->dims[0],
        .width = p->dims[1],
        .x = at(p, type, 0),
        .weight = at(p, type, 1),
        .mean = layer ? at(p, type, 2) : NULL,
        .rstd = at(p, type, 3),
        .dy = at(p, type, 4),
        .dx = at(p, type, p->flags & IN_PLACE ? 4 : 5),
        .accumulate = p->flags & ACCUMULATE,
        .dweight = p->flags & FROZEN ? NULL : at(p, type, 6),
        .dbias = layer && !(p->flags & FROZEN) ? at(p, type, 7) : NULL};
}
/* With mean and rstd as a forward would have left them. */
static problem norm_backward_problem(size_t rows, size_t width, int flags)
{
    problem p = {.op = &plx_op_norm_backward,
                 .bind = bind_norm_backward,
                 .dims = {rows, width},
                 .flags = flags,
                 .outputs = {flags & IN_PLACE ? 5 : 6, 7, 8},
                 .tolerance = 1e-5};
    static const int counts[] = {2, 1, 0, 0, 2, 2, 1, 1}; /* rows * width, width or rows numbers */
    for (int i = 0; i < 8; i++) fill(&p, i, counts[i] == 2 ? rows * width : counts[i] ? width : rows, 1);
    plx_norm_args forward = {.type = PLX_F64,
                             .layer = flags & LAYER,
                             .epsilon = 1e-5,
                             .rows = rows,
                             .width = width,
                             .x = p.arrays[0].twice,
                             .weight = p.arrays[1].twice,
                             .y = malloc(rows * width * sizeof(double) + 1),
                             .mean = p.arrays[2].twice,
                             .rstd = p.arrays[3].twice};
    assert_int_equal(plx_op_run(plain, &plx_op_norm_forward, &forward), PLX_OK);
    for (size_t i = 0; i < rows; i++) {
        set(&p, 2, i, p.arrays[2].twice[i]);
        set(&p, 3, i, p.arrays[3].twice[i]);
    }
    free(forward.y);
    return p;
}

static void test_norms_fast(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{0, 3}, {1, 1}, {2, 5}, {7, 16}, {3, 67}, {131, 24}, {300, 33}, {2, 1500}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int flags = 0; flags < 2; flags++) {
            if (sizes[i][1] == 1 && flags & LAYER) continue; /* 0 / sqrt(epsilon): no relative error to speak of */
            problem p = norm_problem(sizes[i][0], sizes[i][1], flags);
            check(&p);
            p = norm_problem(sizes[i][0], sizes[i][1], flags | SUM);
            check(&p);
            p = norm_problem(sizes[i][0], sizes[i][1], flags | SUM | SUM_IN_PLACE);
            check(&p);
        }
        for (int flags = 0; flags < 16; flags++) {
            if ((flags & ACCUMULATE && flags & IN_PLACE) || sizes[i][1] == 1)
                continue; /* width 1: dx is 0 but for epsilon */
            problem p = norm_backward_problem(sizes[i][0], sizes[i][1], flags);
            check(&p);
        }
    }
    problem bare = norm_problem(3, 20, LAYER | FROZEN); /* without mean and rstd */
    check(&bare);
    problem shifted = norm_problem(4, 200, LAYER); /* a large mean costs no accuracy */
    for (size_t i = 0; i < 800; i++) set(&shifted, 0, i, 1000 + shifted.arrays[0].twice[i]);
    check(&shifted);
    problem large = norm_problem(4, 40, 0); /* squares beyond f32 */
    for (size_t i = 0; i < 160; i++) set(&large, 0, i, 1e25 * large.arrays[0].twice[i]);
    check(&large);
    problem zero = norm_problem(2, 20, 0);
    for (size_t i = 0; i < 40; i++) set(&zero, 0, i, 0);
    check(&zero);
}

/* ---- rope ---- */

enum { CHUNKS = 1, INVERSE = 2, BEYOND = 4 };
static int32_t positions[64];
static double frequencies[16];
static void bind_rope(const problem *p, plx_type type, void *arguments)
{
    *(plx_rope_args *)arguments = (plx_rope_args){.type = type,
                                                  .x = at(p, type, 0),
                                                  .tokens = p->dims[0],
                                                  .heads = p->dims[1],
                                                  .head_dim = p->dims[2],
                                                  .pairs = p->dims[3],
                                                  .layout = p->flags & CHUNKS ? PLX_ROPE_CHUNKS : PLX_ROPE_HALVES,
                                                  .inverse = p->flags & INVERSE,
                                                  .position = positions,
                                                  .cosine = at(p, type, 1),
                                                  .sine = at(p, type, 2),
                                                  .table_rows = p->flags & BEYOND ? 7 : 50,
                                                  .frequency = frequencies};
}
static problem rope_problem(size_t tokens, size_t heads, size_t head_dim, size_t pairs, int flags)
{
    problem p = {.op = &plx_op_rope,
                 .bind = bind_rope,
                 .dims = {tokens, heads, head_dim, pairs},
                 .flags = flags,
                 .outputs = {1},
                 .tolerance = 2e-6};
    fill(&p, 0, tokens * heads * head_dim, 1);
    fill(&p, 1, 50 * pairs, 1);
    fill(&p, 2, 50 * pairs, 1);
    for (size_t i = 0; i < pairs; i++) frequencies[i] = pow(100, -(double)i / (double)pairs);
    for (size_t i = 0; i < 50 * pairs; i++) {
        double angle = (double)(i / pairs) * frequencies[i % pairs];
        if (flags & BEYOND && i / pairs >= 7) angle += 1; /* wrong where it must not be read */
        p.arrays[1].single[i] = (float)(p.arrays[1].twice[i] = cos(angle));
        p.arrays[2].single[i] = (float)(p.arrays[2].twice[i] = sin(angle));
    }
    for (size_t t = 0; t < tokens; t++) positions[t] = (int32_t)(t * 11 % 50);
    return p;
}

static void test_rope(void **state)
{
    (void)state;
    static const size_t shapes[][4] = {{0, 2, 4, 2},    {1, 1, 2, 1},   {9, 3, 8, 4},
                                       {64, 2, 40, 13}, {5, 4, 33, 11}, {3, 2, 32, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int flags = 0; flags < 8; flags++) {
            const size_t *s = shapes[i];
            size_t pairs = flags & CHUNKS && 3 * s[3] > s[2] ? s[2] / 3 : s[3];
            problem p = rope_problem(s[0], s[1], s[2], pairs, flags);
            check(&p);
        }
    problem p = rope_problem(64, 400, 40, 13, BEYOND); /* long enough that threads do run side by side */
    check(&p);
    /* by the definition, beyond the table as within; and turning back is the inverse and the transpose */
    for (int flags = 0; flags < 8; flags += flags == 1 ? 3 : 1) {
        if (flags & INVERSE) continue;
        p = rope_problem(20, 1, 9, 3, flags);
        double given[180];
        memcpy(given, p.arrays[0].twice, sizeof given);
        run(plain, &p, PLX_F64);
        for (size_t t = 0; t < 20; t++)
            for (size_t i = 0; i < 3; i++) {
                size_t first = t * 9 + (flags & CHUNKS ? 3 * i : i), second = first + (flags & CHUNKS ? 1 : 3);
                double angle = positions[t] * frequencies[i], x = given[first], y = given[second];
                assert_close(p.arrays[0].twice[first], x * cos(angle) - y * sin(angle), 1e-12);
                assert_close(p.arrays[0].twice[second], x * sin(angle) + y * cos(angle), 1e-12);
            }
        p.flags |= INVERSE;
        run(plain, &p, PLX_F64);
        for (size_t i = 0; i < 180; i++) assert_close(p.arrays[0].twice[i], given[i], 1e-12);
        release(&p);
    }
}

/* ---- elementwise ---- */

/* Which array each output of the arguments is: three inputs and up to three outputs, to try aliasing. */
static const int *roles;
static void bind_swiglu_forward(const problem *p, plx_type type, void *arguments)
{
    *(plx_swiglu_args *)arguments = (plx_swiglu_args){type, p->dims[0], at(p, type, 0), at(p, type, 1), at(p, type, 3)};
}
static void bind_swiglu_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_swiglu_backward_args *)arguments = (plx_swiglu_backward_args){
        type, p->dims[0], at(p, type, 0), at(p, type, 1), at(p, type, 2), at(p, type, roles[0]), at(p, type, roles[1]),
        at(p, type, roles[2])};
}
static void bind_gelu_forward(const problem *p, plx_type type, void *arguments)
{
    *(plx_gelu_args *)arguments = (plx_gelu_args){type, p->dims[0], at(p, type, 0), at(p, type, 3)};
}
static void bind_gelu_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_gelu_backward_args *)arguments = (plx_gelu_backward_args){
        type, p->dims[0], at(p, type, 0), at(p, type, 2), at(p, type, roles[0]), at(p, type, roles[1])};
}
static void bind_add(const problem *p, plx_type type, void *arguments)
{
    bool one = p->flags;
    *(plx_add_args *)arguments = (plx_add_args){
        type, p->dims[0], at(p, type, 0), one ? NULL : at(p, type, 1), at(p, type, roles[0]), 1.5, one ? 0 : -0.25};
}
static void bind_dropout(const problem *p, plx_type type, void *arguments)
{
    static const double rates[] = {0, 0.3, 1};
    *(plx_dropout_args *)arguments = (plx_dropout_args){
        type, p->dims[0], at(p, type, 0), at(p, type, roles[0]), rates[p->flags], 7, 9};
}
static problem elementwise_problem(const plx_op *op, void (*bind)(const problem *, plx_type, void *), size_t count,
                                   const int *given_roles, double tolerance)
{
    problem p = {.op = op, .bind = bind, .dims = {count}, .outputs = {given_roles[0] + 1}, .tolerance = tolerance};
    for (int i = 1; i < 3 && given_roles[i] >= 0; i++) p.outputs[i] = given_roles[i] + 1;
    roles = given_roles;
    for (int i = 0; i < 6; i++) fill(&p, i, count, i == 0 ? 4 : 1);
    return p;
}

static void test_elementwise_fast(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 15, 17, 64, 1001, 40005};
    static const int separate[2] = {3, -1}, on_a[2] = {0, -1}, on_b[2] = {1, -1};
    static const int swiglu[][3] = {{3, 4, 5}, {2, 4, 5}, {3, 2, 5}, {0, 1, 2}, {1, 0, 2}, {3, 4, 2}};
    static const int gelu[][3] = {{3, 4, -1}, {2, 4, -1}, {0, 2, -1}, {3, 2, -1}};
    static const int *const single[] = {separate, on_a, on_b};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        problem p = elementwise_problem(&plx_op_swiglu_forward, bind_swiglu_forward, counts[i], separate, 2e-6);
        check(&p);
        p = elementwise_problem(&plx_op_gelu_forward, bind_gelu_forward, counts[i], separate, 2e-6);
        check(&p);
        for (size_t k = 0; k < 6; k++) {
            p = elementwise_problem(&plx_op_swiglu_backward, bind_swiglu_backward, counts[i], swiglu[k], 1e-5);
            check(&p);
        }
        for (size_t k = 0; k < 4; k++) {
            p = elementwise_problem(&plx_op_gelu_backward, bind_gelu_backward, counts[i], gelu[k], 1e-5);
            check(&p);
        }
        for (int flags = 0; flags < 3; flags++)
            for (size_t k = 0; k < 3; k++) {
                if (flags < 2 && (flags == 0 || k < 2)) {
                    p = elementwise_problem(&plx_op_add, bind_add, counts[i], single[k], 2e-6);
                    p.flags = flags;
                    check(&p);
                }
                if (k == 2) continue;
                p = elementwise_problem(&plx_op_dropout, bind_dropout, counts[i], single[k], 2e-6);
                p.flags = flags;
                check(&p);
            }
    }
}

/* Pointwise accuracy over the whole range, no NaN from the largest numbers, and NaN stays. */
static void test_elementwise_range(void **state)
{
    (void)state;
    static const int separate[3] = {3, 4, 5};
    enum { COUNT = 4001, EXTREMES = 8, ALL = EXTREMES * EXTREMES * EXTREMES };
    static const float extremes[EXTREMES] = {FLT_MAX, -FLT_MAX, 1e20f, 2.4f, FLT_MIN, -0.0f, 0.0f, 1e-42f};
    for (int level = 0; level < LEVELS; level++) {
        plx_context *context = contexts[level][1];
        if (!context) continue;
        problem p = elementwise_problem(&plx_op_gelu_forward, bind_gelu_forward, COUNT, separate, 2e-6);
        for (size_t i = 0; i < COUNT; i++) {
            set(&p, 0, i, ((double)i - 2000) / 150);
            set(&p, 1, i, 1);
            set(&p, 2, i, 1);
        }
        static const struct {
            const plx_op *op;
            void (*bind)(const problem *, plx_type, void *);
        } ops[] = {{&plx_op_gelu_forward, bind_gelu_forward},
                   {&plx_op_gelu_backward, bind_gelu_backward},
                   {&plx_op_swiglu_forward, bind_swiglu_forward},
                   {&plx_op_swiglu_backward, bind_swiglu_backward}};
        for (size_t k = 0; k < 4; k++) {
            p.op = ops[k].op;
            p.bind = ops[k].bind;
            run(plain, &p, PLX_F64);
            run(context, &p, PLX_F32);
            for (size_t i = 0; i < COUNT; i++)
                assert_close(p.arrays[3].single[i], p.arrays[3].twice[i], 1e-6 * fabs(p.arrays[0].twice[i]) + 3e-7);
        }
        for (size_t k = 0; k < 4; k++) {
            p.op = ops[k].op;
            p.bind = ops[k].bind;
            for (size_t i = 0; i < ALL; i++) {
                set(&p, 0, i, extremes[i % EXTREMES]);
                set(&p, 1, i, extremes[i / EXTREMES % EXTREMES]);
                set(&p, 2, i, extremes[i / EXTREMES / EXTREMES]);
            }
            run(context, &p, PLX_F32);
            for (size_t i = 0; i < ALL; i++) {
                assert_false(isnan(p.arrays[3].single[i]));
                assert_false(isnan(p.arrays[4].single[i]));
            }
            set(&p, 0, 2000, NAN);
            run(context, &p, PLX_F32);
            assert_true(isnan(p.arrays[3].single[2000]));
        }
        release(&p);
    }
}

static void test_dropout(void **state)
{
    (void)state;
    static const int separate[2] = {3, -1};
    enum { COUNT = 40000 };
    problem p = elementwise_problem(&plx_op_dropout, bind_dropout, COUNT, separate, 0);
    p.flags = 1; /* p = 0.3 */
    for (size_t i = 0; i < COUNT; i++) set(&p, 0, i, 7);
    run(plain, &p, PLX_F64);
    size_t kept = 0;
    for (size_t i = 0; i < COUNT; i++) {
        double y = p.arrays[3].twice[i];
        assert_true(y == 0 || fabs(y - 10) < 1e-12);
        kept += y != 0;
    }
    assert_true(fabs((double)kept / COUNT - 0.7) < 0.015); /* deviation .0023 */
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms_fast),       cmocka_unit_test(test_rope),
        cmocka_unit_test(test_elementwise_fast), cmocka_unit_test(test_elementwise_range),
        cmocka_unit_test(test_dropout),
    };
    return cmocka_run_group_tests_name("kernels", tests, open_contexts, close_contexts);
}
