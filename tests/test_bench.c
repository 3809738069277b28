/* test_bench.c - the measuring itself: what is wrong gets no speed, sizes are replaced and reduced, every operation has
 * a case. Whether all cases run and are right is tested by cli/bench.sh. */
#include "lab/bench.h"
#include "mixers/mixer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- an operation of our own: y = 2 x, of which one implementation is wrong in its last element ---- */

typedef struct twice_args {
    plx_type type;
    size_t count;
    const void *x;
    void *y;
    bool bf16;
} twice_args;

static plx_status twice_right(plx_context *context, const void *arguments)
{
    (void)context;
    const twice_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) plx_put(a->y, a->type, i, 2 * plx_get(a->x, a->type, i));
    return PLX_OK;
}
static plx_status twice_wrong(plx_context *context, const void *arguments)
{
    const twice_args *a = arguments;
    plx_status status = twice_right(context, arguments);
    plx_put(a->y, a->type, a->count - 1, plx_get(a->y, a->type, a->count - 1) + 0.01);
    return status;
}
/* Leaves the last element as it was. */
static plx_status twice_short(plx_context *context, const void *arguments)
{
    twice_args a = *(const twice_args *)arguments;
    a.count--;
    return twice_right(context, &a);
}
/* As bf16 does: the operand is rounded. With `count` odd, four times as coarsely. */
static plx_status twice_rounded(plx_context *context, const void *arguments)
{
    (void)context;
    const twice_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double x = plx_get(a->x, a->type, i), unit = ldexp(1, ilogb(x) - (a->count % 2 == 1 ? 5 : 7));
        plx_put(a->y, a->type, i, 2 * unit * nearbyint(x / unit));
    }
    return PLX_OK;
}
static bool fast_accepts(const void *arguments) { return ((const twice_args *)arguments)->type == PLX_F32; }
static bool rounded_accepts(const void *arguments)
{
    return fast_accepts(arguments) && ((const twice_args *)arguments)->bf16;
}
static double flops(const void *arguments) { return (double)((const twice_args *)arguments)->count; }

static const plx_op twice = {"twice", flops,
                             (const plx_kernel[]){{"rounded", PLX_LEVEL_PORTABLE, rounded_accepts, twice_rounded},
                                                  {"wrong", PLX_LEVEL_PORTABLE, fast_accepts, twice_wrong},
                                                  {"short", PLX_LEVEL_PORTABLE, fast_accepts, twice_short},
                                                  {"portable", PLX_LEVEL_PORTABLE, fast_accepts, twice_right},
                                                  {"ref", PLX_LEVEL_PORTABLE, NULL, twice_right},
                                                  {0}}};

static plx_status make_twice(plx_bench_problem *problem, const plx_bench_shape *shape)
{
    twice_args *args = (twice_args *)problem->arguments.bytes;
    *args = (twice_args){.type = problem->type,
                         .count = shape->count,
                         .x = plx_bench_input(problem, shape->count, 1),
                         .y = plx_bench_output(problem, shape->count)};
    problem->bf16 = &args->bf16;
    return problem->status;
}

static const plx_bench_case twice_case = {.name = "twice.forward",
                                          .op = &twice,
                                          .tolerance = 1e-6,
                                          .make = make_twice,
                                          .shapes = (const plx_bench_shape[]){{.count = 1000}, {.count = 2001}, {0}}};
static const plx_bench_case *const cases[] = {&twice_case, NULL};

/* ---- results, as they come ---- */

typedef struct results {
    plx_bench_result list[32];
    size_t count;
} results;

static void collect(void *user, const plx_bench_result *result)
{
    results *all = user;
    assert_true(all->count < 32);
    all->list[all->count++] = *result;
}

static const plx_bench_result *find(const results *all, const char *impl, size_t count)
{
    for (size_t i = 0; i < all->count; i++)
        if (strcmp(all->list[i].impl, impl) == 0 && all->list[i].shape.count == count) return &all->list[i];
    fail_msg("no result of %s at %zu", impl, count);
    return NULL;
}

static plx_context *make_context(void)
{
    plx_context *context;
    plx_context_options options = {.threads = 2};
    assert_int_equal(plx_context_create(&options, &context), PLX_OK);
    return context;
}

static void test_wrong(void **state)
{
    (void)state;
    plx_context *context = make_context();
    results all = {0};
    plx_bench_options options = {.seconds = 0.001, .rounds = 3, .cases = cases, .result = collect, .user = &all};
    size_t wrong = 99;
    assert_int_equal(plx_bench_measure(context, &options, &wrong), PLX_OK);
    assert_int_equal(all.count, 10);
    assert_int_equal(wrong, 5); /* wrong and short at both sizes, rounded at the odd one */
    for (size_t i = 0; i < all.count; i++) {
        const plx_bench_result *r = &all.list[i];
        bool right = strcmp(r->impl, "portable") == 0 || strcmp(r->impl, "ref") == 0 ||
                     (strcmp(r->impl, "rounded") == 0 && r->shape.count == 1000);
        assert_int_equal(r->ok, right);
        assert_int_equal(r->timed, right && strcmp(r->impl, "ref") != 0);
        if (!right) assert_true(r->best == 0 && r->gflops == 0 && r->gbs == 0 && r->error > r->tolerance);
        if (!r->timed) continue;
        assert_true(r->best > 0 && r->median >= r->best && r->rounds == 3);
        assert_true(r->gbs > 0 && r->peak_fraction > 0 && r->bandwidth_fraction > 0);
    }
    assert_true(isinf(find(&all, "short", 1000)->error)); /* what nobody wrote is NaN */
    assert_true(find(&all, "portable", 1000)->error < 1e-7);
    const plx_bench_result *rounded = find(&all, "rounded", 1000);
    assert_true(rounded->tolerance < 2 * 0x1p-7 && rounded->error > 0.4 * rounded->tolerance);
    plx_context_free(context);
}

static void test_options(void **state)
{
    (void)state;
    plx_context *context = make_context();
    results all = {0};
    plx_bench_options options = {.pattern = "twice",
                                 .impl = "port*",
                                 .rounds = 3,
                                 .given = {.count = 64, .T = 7},
                                 .cases = cases,
                                 .result = collect,
                                 .user = &all};
    size_t wrong;
    assert_int_equal(plx_bench_measure(context, &options, &wrong), PLX_OK);
    assert_int_equal(all.count, 1); /* both shapes have become one */
    assert_int_equal(all.list[0].shape.count, 64);
    assert_int_equal(all.list[0].shape.T, 0); /* does not apply */
    options.pattern = "thrice";
    assert_int_equal(plx_bench_measure(context, &options, &wrong), PLX_ERROR_VALUE);
    assert_non_null(strstr(plx_context_error(context)->message, "thrice"));
    options.pattern = NULL;
    options.given.count = (size_t)1 << 40;
    assert_int_equal(plx_bench_measure(context, &options, &wrong), PLX_ERROR_VALUE);
    assert_true(plx_bench_matches("a.*", "a.b") && plx_bench_matches("a", "a.b") && plx_bench_matches(NULL, "a"));
    assert_false(plx_bench_matches("a", "ab.c") || plx_bench_matches("a.b.c", "a.b"));
    plx_context_free(context);
}

/* A shape that the reference would take long for is checked on a smaller one, and timed on its own. */
static void test_reduced(void **state)
{
    (void)state;
    plx_context *context = make_context();
    results all = {0};
    plx_bench_options options = {.pattern = "matmul.forward",
                                 .rounds = 3,
                                 .seconds = 0.001,
                                 .result = collect,
                                 .user = &all,
                                 .given = {.M = 1024, .N = 1024, .K = 256}};
    size_t wrong;
    assert_int_equal(plx_bench_measure(context, &options, &wrong), PLX_OK);
    assert_int_equal(wrong, 0);
    for (size_t i = 0; i < all.count; i++) {
        const plx_bench_result *r = &all.list[i];
        assert_true(r->reduced && r->checked.M * r->checked.N < r->shape.M * r->shape.N);
        assert_int_equal(r->shape.M, 1024);
        if (r->timed) assert_true(fabs(r->gflops * r->best * 1e9 / (2.0 * 1024 * 1024 * 256) - 1) < 1e-6);
    }
    plx_context_free(context);
}

/* A case without an operation of its own, as models are: what runs is the context's choice, so that its level decides,
 * and the row of vectors must not run on tiles. */
static plx_status make_chosen(plx_bench_problem *problem, const plx_bench_shape *shape)
{
    bool *bf16 = (bool *)problem->arguments.bytes;
    problem->bf16 = bf16;
    problem->own = plx_bench_zeroed(problem, shape->count);
    problem->flops = 1;
    return problem->status;
}
static plx_status run_chosen(plx_bench_problem *problem)
{
    const plx_level level = problem->context->level;
    if (problem->kernel == NULL) return PLX_OK;
    assert_int_equal(strncmp(problem->kernel, "amx", 3) == 0, level == PLX_LEVEL_AMX);
    assert_int_equal(strcmp(problem->kernel, "bf16") == 0, level == PLX_LEVEL_BF16);
    return PLX_OK;
}
static const plx_bench_case chosen_case = {.name = "chosen.step",
                                           .tolerance = 1,
                                           .make = make_chosen,
                                           .run = run_chosen,
                                           .shapes = (const plx_bench_shape[]){{.count = 8}, {0}}};

static void test_levels(void **state)
{
    (void)state;
    plx_context *context = make_context();
    const plx_level level = context->level;
    results all = {0};
    plx_bench_options options = {.rounds = 3,
                                 .seconds = 0.001,
                                 .cases = (const plx_bench_case *const[]){&chosen_case, NULL},
                                 .result = collect,
                                 .user = &all};
    size_t wrong;
    assert_int_equal(plx_bench_measure(context, &options, &wrong), PLX_OK);
    assert_int_equal(all.count, level == PLX_LEVEL_AMX ? 3 : level == PLX_LEVEL_BF16 ? 2 : 1);
    assert_int_equal(context->level, level);
    plx_context_free(context);
}

static bool has_case(const plx_bench_list *list, const plx_op *op)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->cases[i]->op == op) return true;
    return false;
}

static void test_every_operation_has_a_case(void **state)
{
    (void)state;
    plx_context *context = make_context();
    plx_bench_list list;
    assert_int_equal(plx_bench_list_make(context, NULL, &list), PLX_OK);
    for (const plx_op *const *op = plx_shared_ops; *op != NULL; op++)
        if (!has_case(&list, *op)) fail_msg("%s has no case in src/kernels/bench.c", (*op)->name);
    for (size_t i = 0; plx_mixers[i] != NULL; i++)
        for (const plx_op *const *op = plx_mixers[i]->ops; op != NULL && *op != NULL; op++)
            if (!has_case(&list, *op)) fail_msg("%s has no case in its mixer's bench.c", (*op)->name);
    for (size_t i = 0; plx_mixers[i] != NULL; i++) {
        static const char *const parts[] = {"forward", "backward", "step"};
        for (size_t k = 0; k < 3; k++) {
            char name[64];
            size_t found = 0;
            snprintf(name, sizeof name, "%s.%s", plx_mixers[i]->name, parts[k]);
            for (size_t c = 0; c < list.count; c++) found += strcmp(list.cases[c]->name, name) == 0;
            assert_int_equal(found, 1);
        }
    }
    plx_bench_list_free(context, &list);
    assert_int_equal(plx_bench_list_make(context, "no such", &list), PLX_ERROR_VALUE);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_reduced),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_every_operation_has_a_case),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
