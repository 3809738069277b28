/* bench.h - runs the cases of kernels/bench.h: every implementation is checked against the reference, then those that
 * are right are timed in alternating rounds and set beside the measured peaks of the machine (a roofline).
 *
 * Checks run on the shape that is timed where the reference is quick enough there; else on a smaller one (`checked`), and
 * then, at the full shape, all implementations must agree with the one of the lowest level. An implementation that is
 * wrong gets no speed. Results of f32 are off by at most the case's tolerance, those that round operands to bf16 by at
 * most twice (or the case's factor) what the reference itself is off by when its inputs are rounded, as norms. */
#ifndef PLX_LAB_BENCH_H
#define PLX_LAB_BENCH_H

#include "kernels/bench.h"

typedef struct plx_bench_result {
    const char *op;              /* the case's name */
    const char *impl;
    plx_bench_shape shape, checked;
    bool reduced;                /* checked is smaller than shape */
    bool ok;
    double error, tolerance;     /* largest difference over the reference's largest value; of bf16 tolerance is one of norms */
    bool timed;                  /* what follows is there: not for what is wrong, nor for ref and emulated */
    double best, median;         /* seconds a run */
    size_t rounds;
    double gflops, gbs;          /* by the best; 0 where not counted */
    double peak_gflops, read_gbs; /* measured: of the implementation's level, of memory */
    double peak_fraction, bandwidth_fraction;
    const char *limit;           /* "compute" or "memory": which of the two allows less */
    double tokens_per_second;    /* 0: does not apply */
    const char *convention;      /* of flops; NULL: not counted */
} plx_bench_result;

typedef struct plx_bench_options {
    const char *pattern;         /* names, as a shell pattern; "matmul" also stands for "matmul.*". NULL: all */
    const char *impl;            /* patterns of the implementations to run, between commas; NULL: all */
    plx_bench_shape given;       /* sizes that take the place of those of the default shapes; 0: as they are */
    size_t rounds;               /* 0: as many as fit into `seconds`, at least 3 */
    double seconds;              /* of timing a shape, all implementations together; 0: 1 */
    const char *mixer;           /* of the models of train.* and generate.*; NULL: the registry's first */
    const plx_bench_case *const *cases; /* ended by NULL; NULL: all there are */
    void (*result)(void *user, const plx_bench_result *result);
    void *user;
} plx_bench_options;

/* *wrong: number of results that are not ok. Errors: ERROR_VALUE when nothing matches or sizes do not fit each other;
 * ERROR_MEMORY. Progress goes to the context's callback, by shapes. */
plx_status plx_bench_measure(plx_context *context, const plx_bench_options *options, size_t *wrong);

/* Results as one HTML file: a roofline and a table. Begins as {.context = ...}. */
typedef struct plx_bench_row plx_bench_row;
typedef struct plx_bench_report { plx_context *context; plx_bench_row *rows; size_t count; } plx_bench_report;
plx_status plx_bench_report_add(plx_bench_report *report, const plx_bench_result *result);
/* `command` is shown. */
plx_status plx_bench_report_write(const plx_bench_report *report, const char *path, const char *command);
void plx_bench_report_free(plx_bench_report *report);

/* "T=1024 H=8 d=64", cut to fit. */
void plx_bench_shape_text(const plx_bench_shape *shape, char *text, size_t bytes);
/* Whether a pattern, as in the options, names a case. */
bool plx_bench_matches(const char *pattern, const char *name);

/* All cases: shared operations, mixers', layers, steps, training and generation. The latter two are of layers of
 * `mixer` (NULL: the registry's first). ERROR_VALUE when there is none of that name. */
typedef struct plx_bench_list {
    const plx_bench_case **cases; /* ended by NULL */
    size_t count;
    plx_bench_case **made;        /* those of them that the list owns */
    size_t made_count;
} plx_bench_list;
plx_status plx_bench_list_make(plx_context *context, const char *mixer, plx_bench_list *list);
void plx_bench_list_free(plx_context *context, plx_bench_list *list);

#endif
