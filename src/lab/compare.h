/* compare.h - trains several recipes side by side and says what came out: means and spreads over seeds, each recipe at
 * the best of several learning rates if asked, by equal tokens or equal flops.
 *
 * Recipes with the same data section form a group: only within a group are numbers comparable, and there the runs see
 * the same bytes in the same order. Everything a run leaves (weights, metrics, samples) is in OUT/NAME-lrL-seedS/. */
#ifndef PLX_LAB_COMPARE_H
#define PLX_LAB_COMPARE_H

#include "train/train.h"

typedef enum plx_compare_equal { PLX_EQUAL_TOKENS, PLX_EQUAL_FLOPS } plx_compare_equal;

typedef struct plx_compare_options {
    const char *const *recipes;     /* paths */
    size_t recipe_count;
    const char *const *overrides;   /* as for plx_recipe_load, for all recipes */
    size_t override_count;
    size_t seeds;                   /* runs a recipe, seeds 0, 1, ... beyond the recipe's own */
    const double *lrs;              /* peak learning rates to try; lr_count 0: the recipe's */
    size_t lr_count;
    plx_compare_equal equal; /* flops: steps are scaled so that all spend as many flops as the first of the group */
    const char *out;                /* directory of the runs and the report */
    const char *sample_prompt;      /* a sample from each text model; NULL: none */
    size_t sample_tokens;
    bool resume;                    /* go on with runs that are there; else they are ERROR_EXISTS */
    /* Before each run, and its events. `index` of `count` runs, counted from 0. */
    void (*begin)(void *user, size_t index, size_t count, const char *label);
    void (*event)(void *user, const plx_run_event *event);
    void *user;
} plx_compare_options;

typedef struct plx_compare_run {
    size_t recipe;                  /* index into recipes */
    uint64_t seed;
    double lr;
    size_t steps;
    char *directory;
    char *sample;                   /* NULL when there is none */
    plx_run_result result;
} plx_compare_run;

/* A row of the table: one recipe at its best learning rate. Means are over the seeds where the number is known, spreads
 * are sample standard deviations (0 for one seed); < 0 where a number does not apply or none is known. */
typedef struct plx_compare_row {
    size_t recipe, group;
    const char *name;               /* the recipe's file name without its ending */
    double lr;
    size_t runs, first_run;         /* those runs: indices first_run, + 1, ... */
    size_t parameters, steps;
    double flops_per_token, tokens_per_second;
    double loss, loss_spread, bits, bits_spread, accuracy, accuracy_spread;
} plx_compare_row;

typedef struct plx_compare_group {
    bool task;
    char *title;                    /* the task's name, or the training files */
    double chance;                  /* tasks; else -1 */
} plx_compare_group;

typedef struct plx_comparison {
    plx_context *context;
    size_t run_count, row_count, group_count;
    plx_compare_run *runs;          /* recipe-major, then learning rate, then seed */
    plx_compare_row *rows;          /* one a recipe, in their order */
    plx_compare_group *groups;
    char **names;                   /* one a recipe */
} plx_comparison;

/* Trains everything. Errors: those of the recipes and runs. PLX_CANCELLED leaves what was finished on disk, to go on
 * with by resume. */
plx_status plx_compare(plx_context *context, const plx_compare_options *options, plx_comparison **comparison);
void plx_comparison_free(plx_comparison *comparison);

/* Writes OUT/report.html: tables, loss curves and samples in one file that opens without a network (written aside and
 * renamed). Curves are drawn by gnuplot; without it the report says so and has tables only. `command` is shown. */
plx_status plx_report_write(const plx_comparison *comparison, const char *path, const char *command);

#endif
