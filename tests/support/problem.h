/* problem.h - runs an operation by its reference in double and by each fast version, and compares them.
 *
 * A problem is arrays that hold the same numbers in f32 and in f64, and a function that makes the operation's arguments
 * from them. check does what holds for every operation. */
#ifndef TESTS_SUPPORT_PROBLEM_H
#define TESTS_SUPPORT_PROBLEM_H

#include "kernels/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* ---- contexts: one for each level that the processor has, and number of threads (1, 2, 5) ---- */

enum { LEVELS = 3, THREADS = 3 };
extern const char *const level_names[LEVELS];
extern plx_context *contexts[LEVELS][THREADS]; /* NULL where the processor lacks the level */
extern plx_context *plain;                     /* takes "ref" everywhere */
/* cmocka group fixtures */
int open_contexts(void **state);
int close_contexts(void **state);

/* cmocka of Debian 12 compares floats only. */
#define assert_close(value, expected, most) close_or_fail((value), (expected), (most), #value, __FILE__, __LINE__)
void close_or_fail(double value, double expected, double most, const char *what, const char *file, int line);

/* ---- problems ---- */

enum { ARRAYS = 9 };
typedef struct array {
    size_t count;
    float *single, *single_given;
    double *twice, *twice_given;
} array;
typedef struct problem problem;
struct problem {
    const plx_op *op;
    void (*bind)(const problem *p, plx_type type, void *arguments); /* arguments: 256 bytes */
    array arrays[ARRAYS];
    size_t dims[4]; /* for bind's use, as flags */
    int flags;
    int outputs[3]; /* 1 + index of the arrays that are compared; 0 ends */
    double tolerance;
};

double uniform(double low, double high);
/* Array `index` with `count` numbers normal(0, scale), exact in f32. */
void fill(problem *p, int index, size_t count, double scale);
void set(problem *p, int index, size_t i, double value);
/* The array's data of that type (f32 or f64). */
void *at(const problem *p, plx_type type, int index);
/* Runs the operation on the arrays of that type; the test fails on an error. */
void run(plx_context *context, const problem *p, plx_type type);
/* The reference in f32, and each fast version, agree with the reference in double within the tolerance (normwise), and
 * give the same bits for every number of threads. Frees the problem. */
void check(problem *p);
void release(problem *p);

#endif
