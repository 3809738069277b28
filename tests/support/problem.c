/* problem.c - see problem.h. */
#include "support/problem.h"

#include "core/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const level_names[LEVELS] = {"portable", "avx2", "avx512"};
static const int thread_counts[THREADS] = {1, 2, 5};
plx_context *contexts[LEVELS][THREADS];
plx_context *plain;
static plx_random numbers;

int open_contexts(void **state)
{
    (void)state;
    plx_random_init(&numbers, 1, 2);
    for (int level = 0; level < LEVELS; level++)
        for (int i = 0; i < THREADS; i++) {
            plx_context_options options = {.threads = thread_counts[i], .level = level_names[level]};
            if (plx_context_create(&options, &contexts[level][i]) != PLX_OK) return -1;
            if (strcmp(plx_context_level(contexts[level][i]), level_names[level]) == 0) continue;
            plx_context_free(contexts[level][i]);
            contexts[level][i] = NULL;
        }
    if (plx_context_create(NULL, &plain) != PLX_OK) return -1;
    return plx_context_choose_kernel(plain, "*", "ref") == PLX_OK ? 0 : -1;
}

int close_contexts(void **state)
{
    (void)state;
    for (int level = 0; level < LEVELS; level++)
        for (int i = 0; i < THREADS; i++) plx_context_free(contexts[level][i]);
    plx_context_free(plain);
    return 0;
}

void close_or_fail(double value, double expected, double most, const char *what, const char *file, int line)
{
    if (fabs(value - expected) <= most) return;
    print_error("%s is %.9g, not %.9g within %.3g\n", what, value, expected, most);
    _fail(file, line);
}

double uniform(double low, double high) { return low + (high - low) * plx_random_uniform(&numbers); }

void fill(problem *p, int index, size_t count, double scale)
{
    array *a = &p->arrays[index];
    a->count = count;
    a->single = malloc(count * sizeof(float) + 1);
    a->single_given = malloc(count * sizeof(float) + 1);
    a->twice = malloc(count * sizeof(double) + 1);
    a->twice_given = malloc(count * sizeof(double) + 1);
    for (size_t i = 0; i < count; i++) {
        a->single[i] = (float)(plx_random_normal(&numbers) * scale);
        a->twice[i] = a->single[i];
    }
}

void set(problem *p, int index, size_t i, double value)
{
    p->arrays[index].single[i] = (float)value;
    p->arrays[index].twice[i] = (float)value;
}

void *at(const problem *p, plx_type type, int index)
{
    return type == PLX_F32 ? (void *)p->arrays[index].single : (void *)p->arrays[index].twice;
}

static void restore(problem *p)
{
    for (int i = 0; i < ARRAYS; i++) {
        array *a = &p->arrays[i];
        if (!a->single) continue;
        memcpy(a->single, a->single_given, a->count * sizeof(float));
        memcpy(a->twice, a->twice_given, a->count * sizeof(double));
    }
}
static void remember(problem *p)
{
    for (int i = 0; i < ARRAYS; i++) {
        array *a = &p->arrays[i];
        if (!a->single) continue;
        memcpy(a->single_given, a->single, a->count * sizeof(float));
        memcpy(a->twice_given, a->twice, a->count * sizeof(double));
    }
}

void release(problem *p)
{
    for (int i = 0; i < ARRAYS; i++) {
        free(p->arrays[i].single);
        free(p->arrays[i].single_given);
        free(p->arrays[i].twice);
        free(p->arrays[i].twice_given);
    }
}

/* |f32 - f64| / |f64| by the Euclidean norm */
static double difference(const array *a)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < a->count; i++) {
        double d = a->single[i] - a->twice[i];
        error += d * d;
        norm += a->twice[i] * a->twice[i];
    }
    return norm > 0 ? sqrt(error / norm) : sqrt(error);
}

void run(plx_context *context, const problem *p, plx_type type)
{
    union {
        char bytes[256];
        double align;
    } arguments = {{0}};
    p->bind(p, type, &arguments);
    if (plx_op_run(context, p->op, &arguments) != PLX_OK)
        fail_msg("%s: %s", p->op->name, plx_context_error(context)->message);
}

static void compare(const problem *p, const char *what)
{
    for (int i = 0; i < 3 && p->outputs[i]; i++) {
        const array *a = &p->arrays[p->outputs[i] - 1];
        double error = difference(a);
        if (!(error <= p->tolerance))
            fail_msg("%s by %s, output %d: error %.3g above %.3g (sizes %zu %zu %zu, flags %d)", p->op->name, what, i,
                     error, p->tolerance, p->dims[0], p->dims[1], p->dims[2], p->flags);
    }
}

void check(problem *p)
{
    remember(p);
    run(plain, p, PLX_F64);
    for (int i = 0; i < ARRAYS; i++)
        for (size_t k = 0; p->arrays[i].single && k < p->arrays[i].count; k++)
            assert_true(isfinite(p->arrays[i].twice[k]));
    run(plain, p, PLX_F32);
    compare(p, "ref");
    float *first[3] = {0};
    for (int level = 0; level < LEVELS; level++)
        for (int t = 0; t < THREADS; t++) {
            if (!contexts[level][t]) continue;
            restore(p);
            run(plain, p, PLX_F64);
            run(contexts[level][t], p, PLX_F32);
            compare(p, level_names[level]);
            for (int i = 0; i < 3 && p->outputs[i]; i++) {
                const array *a = &p->arrays[p->outputs[i] - 1];
                if (t == 0) {
                    free(first[i]);
                    first[i] = malloc(a->count * sizeof(float) + 1);
                    memcpy(first[i], a->single, a->count * sizeof(float));
                } else if (memcmp(first[i], a->single, a->count * sizeof(float)) != 0) {
                    fail_msg("%s by %s: other bits with %d threads (sizes %zu %zu %zu, flags %d)", p->op->name,
                             level_names[level], thread_counts[t], p->dims[0], p->dims[1], p->dims[2], p->flags);
                }
            }
        }
    for (int i = 0; i < 3; i++) free(first[i]);
    release(p);
}
