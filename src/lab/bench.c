/* bench.c - checks and times the cases that match; see bench.h. */
#include "lab/bench.h"

#include "lab/bench_shape.h"
#include "mixers/mixer.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REFERENCE_FLOPS 4e8 /* about what the reference computes in half a second */
#define SAMPLE_SECONDS 2e-3 /* a sample repeats what is shorter */
enum { IMPLS = 12, SAMPLES = 200, LEAST_ROUNDS = 3 };

/* How far results are from what is wanted, each of the worst array, infinite for what is no number: the largest difference
 * over the largest value; and the norm of the differences over that of the values, which tells roundings, of which the
 * largest of many is a matter of chance. */
typedef struct distances {
    double largest, norm;
} distances;

typedef struct implementation {
    const char *name;
    bool bf16;       /* rounds its operands */
    bool check_only; /* ref, emulated: no speed is of interest */
    plx_level level; /* that the context is held to while it runs */
    double peak;     /* GFLOP/s of its level */
    distances error;
    double samples[SAMPLES];
    size_t sample_count, repeat;
} implementation;

typedef struct bench {
    plx_context *context;
    const plx_bench_options *options;
    plx_machine machine;
    double level_peak[PLX_LEVEL_COUNT]; /* as peak_of says; 0: not measured yet */
    size_t wrong;
} bench;

/* ---- results ---- */

/* One array as doubles; freed with plx_free. */
static double *read_array(plx_context *context, const plx_bench_array *array)
{
    double *values = plx_alloc_array(context, array->count, sizeof *values);
    void *raw = plx_alloc_uncleared(context, array->bytes);
    if (values != NULL && raw != NULL) {
        plx_device_download(context, raw, array->data, array->bytes);
        for (size_t i = 0; i < array->count; i++) values[i] = plx_get(raw, array->type, i);
    } else {
        plx_free(context, values);
        values = NULL;
    }
    plx_free(context, raw);
    return values;
}

typedef struct outputs {
    double **values;
    int count;
} outputs; /* one an array; NULL where it is no result */

static void free_outputs(plx_context *context, outputs *all)
{
    for (int i = 0; i < all->count; i++) plx_free(context, all->values[i]);
    plx_free(context, all->values);
    *all = (outputs){0};
}

static plx_status read_outputs(plx_bench_problem *problem, outputs *all)
{
    plx_context *context = problem->context;
    *all = (outputs){plx_alloc_array(context, (size_t)problem->array_count, sizeof *all->values), 0};
    if (all->values == NULL) return PLX_ERROR_MEMORY;
    for (all->count = 0; all->count < problem->array_count; all->count++) {
        const plx_bench_array *array = &problem->arrays[all->count];
        if ((array->role & PLX_BENCH_RESULT) == 0) continue;
        all->values[all->count] = read_array(context, array);
        if (all->values[all->count] == NULL) {
            free_outputs(context, all);
            return PLX_ERROR_MEMORY;
        }
    }
    return PLX_OK;
}

static distances difference(const plx_bench_problem *problem, const outputs *found, const outputs *wanted)
{
    distances worst = {0, 0};
    for (int i = 0; i < found->count; i++) {
        if (found->values[i] == NULL) continue;
        double largest = 0, off = 0, squares = 0, off_squares = 0;
        for (size_t k = 0; k < problem->arrays[i].count; k++) {
            const double value = wanted->values[i][k], d = fabs(found->values[i][k] - value);
            if (!(d <= off)) off = isnan(d) ? INFINITY : d;
            largest = fmax(largest, fabs(value));
            off_squares += d * d;
            squares += value * value;
        }
        const double error = largest > 0 ? off / largest : off;
        const double norm = isinf(off) ? INFINITY : sqrt(squares > 0 ? off_squares / squares : off_squares);
        if (!(error <= worst.largest)) worst.largest = isnan(error) ? INFINITY : error;
        if (!(norm <= worst.norm)) worst.norm = isnan(norm) ? INFINITY : norm;
    }
    return worst;
}

static void take(plx_bench_problem *problem, const implementation *impl)
{
    problem->kernel = impl != NULL ? impl->name : NULL;
    if (problem->bf16 != NULL) *problem->bf16 = impl != NULL && impl->bf16;
}

/* Prepares the problem and runs it `repeat` times at the implementation's level. */
static plx_status run_held(plx_bench_problem *problem, const implementation *impl, size_t repeat, double *seconds)
{
    plx_context *context = problem->context;
    const plx_level level = context->level;
    take(problem, impl);
    if (impl != NULL) context->level = impl->level;
    plx_status status = plx_bench_prepare(problem);
    problem->seconds = -1;
    double begin = plx_seconds(), own = 0;
    for (size_t i = 0; i < repeat && status == PLX_OK; i++) {
        status = plx_bench_run(problem);
        if (problem->seconds >= 0) own += problem->seconds;
    }
    *seconds = (problem->seconds >= 0 ? own : plx_seconds() - begin) / (double)repeat;
    context->level = level;
    return status;
}

static plx_status run_for_outputs(plx_bench_problem *problem, const implementation *impl, outputs *all)
{
    double seconds;
    take(problem, impl);
    PLX_TRY(plx_bench_refill(problem));
    PLX_TRY(run_held(problem, impl, 1, &seconds));
    return read_outputs(problem, all);
}

/* What the reference makes of the shape, in double; with `rounded`, of operands rounded to bf16. */
static plx_status reference_outputs(bench *run, const plx_bench_case *about, const plx_bench_shape *shape, bool rounded,
                                    outputs *all)
{
    plx_bench_problem problem;
    PLX_TRY(plx_bench_make(&problem, run->context, about, shape, PLX_F64, rounded, false));
    plx_status status = run_for_outputs(&problem, NULL, all);
    plx_bench_free(&problem);
    return status;
}

/* ---- implementations ---- */

static bool is_level(const char *name, plx_level *level)
{
    for (int i = 0; i < PLX_LEVEL_COUNT; i++)
        if (strcmp(name, plx_level_name((plx_level)i)) == 0) {
            *level = (plx_level)i;
            return true;
        }
    return false;
}

/* The level whose multiply-adds a context of this level has. */
static plx_level vector_level(plx_level level) { return level > PLX_LEVEL_AVX512 ? PLX_LEVEL_AVX512 : level; }

/* The rate of a level's products, measured once: of f32, and of bf16 where the level has those. */
static plx_status peak_of(bench *run, plx_level level, double *peak)
{
    const bool bf16 = level >= PLX_LEVEL_BF16;
    if (!bf16) level = vector_level(level);
    if (run->level_peak[level] == 0) {
        plx_context_options options = run->context->options;
        plx_context *context = NULL;
        plx_machine machine;
        options.level = plx_level_name(level);
        plx_status status = plx_context_create(&options, &context);
        if (status == PLX_OK) status = plx_machine_measure(context, &machine);
        plx_context_free(context);
        if (status != PLX_OK)
            return plx_fail(run->context, status, "the peak of level %s cannot be measured", plx_level_name(level));
        run->level_peak[level] = bf16 ? machine.tile_gflops : machine.peak_gflops;
    }
    *peak = run->level_peak[level];
    return PLX_OK;
}

/* Whether one of the patterns of options.impl, between commas, names it. */
static bool wanted(const bench *run, const char *name)
{
    const char *rest = run->options->impl;
    bool found = rest == NULL;
    while (rest != NULL && !found) {
        char pattern[64];
        size_t length = strcspn(rest, ",");
        if (length < sizeof pattern) {
            memcpy(pattern, rest, length);
            pattern[length] = '\0';
            found = fnmatch(pattern, name, 0) == 0;
        }
        rest = rest[length] == ',' ? rest + length + 1 : NULL;
    }
    return found;
}

static bool accepts(const plx_kernel *kernel, plx_bench_problem *problem, bool bf16)
{
    if (problem->bf16 != NULL) *problem->bf16 = bf16;
    return kernel->accepts == NULL || kernel->accepts(problem->arguments.bytes);
}

/* Fills list with those that the machine has and the problem allows. */
static plx_status list_implementations(bench *run, plx_bench_problem *problem, implementation *list, size_t *count)
{
    const plx_op *op = problem->about->op;
    const plx_level best = run->context->level, own = vector_level(best);
    *count = 0;
    if (op == NULL) { /* whatever the model takes: in training bf16 and f32 on tiles too */
        double products = 0, vectors;
        const bool trains = problem->bf16 != NULL && best >= PLX_LEVEL_BF16;
        PLX_TRY(peak_of(run, own, &vectors));
        if (trains) PLX_TRY(peak_of(run, best, &products));
        if (trains && wanted(run, plx_level_name(best)))
            list[(*count)++] = (implementation){.name = plx_level_name(best), .bf16 = true, .level = best, .peak = products};
        if (trains && best == PLX_LEVEL_AMX && wanted(run, "amx_f32"))
            list[(*count)++] = (implementation){.name = "amx_f32", .level = best, .peak = products / 6};
        if (wanted(run, plx_level_name(own)))
            list[(*count)++] =
                (implementation){.name = plx_level_name(own), .level = trains ? own : best, .peak = vectors};
        return PLX_OK;
    }
    for (const plx_kernel *kernel = op->kernels; kernel->run != NULL && *count < IMPLS; kernel++) {
        if (kernel->level > run->context->level || !wanted(run, kernel->name)) continue;
        bool f32 = accepts(kernel, problem, false);
        if (!f32 && !(problem->bf16 != NULL && accepts(kernel, problem, true))) continue;
        implementation *impl = &list[(*count)++];
        *impl = (implementation){.name = kernel->name, .bf16 = !f32, .level = run->context->level};
        plx_level level = own;
        impl->check_only = strcmp(kernel->name, "ref") == 0 || strncmp(kernel->name, "emulated", 8) == 0;
        if (kernel[1].run == NULL && kernel == op->kernels) impl->check_only = false; /* the only one there is */
        if (impl->check_only) continue;
        const bool terms = !is_level(kernel->name, &level) && kernel->level == PLX_LEVEL_AMX;
        PLX_TRY(peak_of(run, terms ? PLX_LEVEL_AMX : level, &impl->peak));
        if (terms) impl->peak /= 6; /* amx_f32: six products of terms each */
        if (level == PLX_LEVEL_VNNI) impl->peak *= 4; /* bytes in the place of f32 */
    }
    return PLX_OK;
}

/* ---- checking ---- */

/* Sets the errors of all implementations against the reference at `shape`, and what bf16 may be off by. */
static plx_status check_all(bench *run, const plx_bench_case *about, const plx_bench_shape *shape, implementation *list,
                            size_t count, double *bf16_bound)
{
    outputs reference = {0}, rounded = {0};
    plx_bench_problem problem = {0};
    plx_status status = reference_outputs(run, about, shape, false, &reference);
    if (status == PLX_OK) status = plx_bench_make(&problem, run->context, about, shape, PLX_F32, false, false);
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        outputs found = {0};
        if (list[i].bf16 && *bf16_bound == 0) {
            status = reference_outputs(run, about, shape, true, &rounded);
            if (status != PLX_OK) break;
            *bf16_bound = 2 * difference(&problem, &rounded, &reference).norm;
        }
        status = run_for_outputs(&problem, &list[i], &found);
        if (status == PLX_OK) list[i].error = difference(&problem, &found, &reference);
        free_outputs(run->context, &found);
    }
    plx_bench_free(&problem);
    free_outputs(run->context, &reference);
    free_outputs(run->context, &rounded);
    return status;
}

static double bound_of(const plx_bench_case *about, const implementation *impl, double bf16_bound)
{
    return impl->bf16 ? bf16_bound : about->tolerance;
}
/* What is held to it. */
static double bounded(const implementation *impl, distances error) { return impl->bf16 ? error.norm : error.largest; }

/* At a shape that is too large for the reference: all agree with the last one that is timed, which is of f32 and of the
 * lowest level. It differs from the truth by no more than its own tolerance, so others may differ by the sum. */
static plx_status check_agreement(plx_bench_problem *problem, implementation *list, size_t count, double bf16_bound)
{
    outputs lowest = {0};
    size_t last = count;
    for (size_t i = 0; i < count; i++)
        if (!list[i].check_only && !list[i].bf16) last = i;
    if (last == count) return PLX_OK;
    PLX_TRY(run_for_outputs(problem, &list[last], &lowest));
    plx_status status = PLX_OK;
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        outputs found = {0};
        if (list[i].check_only) continue;
        status = run_for_outputs(problem, &list[i], &found);
        if (status == PLX_OK) {
            const distances off = difference(problem, &found, &lowest);
            const double own = bound_of(problem->about, &list[i], bf16_bound);
            if (!(bounded(&list[i], off) <= own + problem->about->tolerance)) list[i].error = off;
        }
        free_outputs(problem->context, &found);
    }
    free_outputs(problem->context, &lowest);
    return status;
}

/* ---- timing ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Alternating rounds over all that are right. */
static plx_status time_all(bench *run, plx_bench_problem *problem, implementation *list, const bool *go, size_t count)
{
    double limit = run->options->seconds > 0 ? run->options->seconds : 1, one;
    size_t rounds = run->options->rounds > 0 ? run->options->rounds : SAMPLES;
    PLX_TRY(plx_bench_refill(problem));
    for (size_t i = 0; i < count; i++) {
        if (!go[i]) continue;
        PLX_TRY(run_held(problem, &list[i], 1, &one)); /* also warms caches */
        PLX_TRY(run_held(problem, &list[i], 1, &one));
        double repeat = SAMPLE_SECONDS / fmax(one, 1e-9);
        list[i].repeat = repeat > 1000 ? 1000 : repeat < 1 ? 1 : (size_t)repeat;
    }
    double begin = plx_seconds();
    for (size_t round = 0; round < rounds && round < SAMPLES; round++) {
        if (run->options->rounds == 0 && round >= LEAST_ROUNDS && plx_seconds() - begin > limit) break;
        PLX_TRY(plx_check_cancel(run->context));
        for (size_t i = 0; i < count; i++)
            if (go[i]) PLX_TRY(run_held(problem, &list[i], list[i].repeat, &list[i].samples[list[i].sample_count++]));
    }
    return PLX_OK;
}

static void report(bench *run, const plx_bench_problem *problem, implementation *impl, plx_bench_result *result)
{
    result->impl = impl->name;
    result->error = impl->error.largest;
    result->ok = bounded(impl, impl->error) <= result->tolerance;
    result->timed = result->ok && impl->sample_count > 0;
    if (!result->ok) run->wrong++;
    if (result->timed) {
        qsort(impl->samples, impl->sample_count, sizeof *impl->samples, compare_doubles);
        result->best = impl->samples[0];
        result->median = impl->samples[impl->sample_count / 2];
        result->rounds = impl->sample_count;
        result->peak_gflops = impl->peak;
        result->read_gbs = run->machine.read_gbs;
        result->gflops = problem->flops / result->best * 1e-9;
        result->gbs = problem->bytes / result->best * 1e-9;
        result->peak_fraction = impl->peak > 0 ? result->gflops / impl->peak : 0;
        result->bandwidth_fraction = result->gbs / run->machine.read_gbs;
        result->limit = result->bandwidth_fraction > result->peak_fraction ? "memory" : "compute";
        result->tokens_per_second = problem->tokens / result->best;
    }
    if (run->options->result != NULL) run->options->result(run->options->user, result);
}

/* ---- one case at one shape ---- */

static plx_status flops_of(bench *run, const plx_bench_case *about, const plx_bench_shape *shape, double *flops)
{
    plx_bench_problem dry;
    PLX_TRY(plx_bench_make(&dry, run->context, about, shape, PLX_F32, false, true));
    *flops = dry.flops;
    plx_bench_free(&dry);
    return PLX_OK;
}

static plx_status measure_problem(bench *run, plx_bench_problem *problem, const plx_bench_shape *shape,
                                  const plx_bench_shape *checked, implementation *list)
{
    const plx_bench_case *about = problem->about;
    bool reduced = !plx_bench_shape_same(shape, checked), go[IMPLS] = {false};
    double bf16_bound = 0;
    size_t count;
    PLX_TRY(list_implementations(run, problem, list, &count));
    PLX_TRY(check_all(run, about, checked, list, count, &bf16_bound));
    if (reduced) PLX_TRY(check_agreement(problem, list, count, bf16_bound));
    for (size_t i = 0; i < count; i++)
        go[i] = !list[i].check_only && bounded(&list[i], list[i].error) <= bound_of(about, &list[i], bf16_bound);
    PLX_TRY(time_all(run, problem, list, go, count));
    for (size_t i = 0; i < count; i++) {
        plx_bench_result result = {.op = about->name,
                                   .shape = *shape,
                                   .checked = *checked,
                                   .reduced = reduced,
                                   .tolerance = bound_of(about, &list[i], bf16_bound),
                                   .convention = about->convention};
        report(run, problem, &list[i], &result);
    }
    return PLX_OK;
}

static plx_status measure_shape(bench *run, const plx_bench_case *about, const plx_bench_shape *shape)
{
    plx_bench_shape checked = *shape;
    double flops;
    PLX_TRY(plx_bench_shape_check(run->context, about, shape));
    PLX_TRY(flops_of(run, about, &checked, &flops));
    while (flops > REFERENCE_FLOPS && plx_bench_shape_reduce(&checked)) PLX_TRY(flops_of(run, about, &checked, &flops));
    implementation *list = plx_alloc_array(run->context, IMPLS, sizeof *list);
    if (list == NULL) return PLX_ERROR_MEMORY;
    plx_bench_problem problem;
    plx_status status = plx_bench_make(&problem, run->context, about, shape, PLX_F32, false, false);
    if (status == PLX_OK) {
        status = measure_problem(run, &problem, shape, &checked, list);
        plx_bench_free(&problem);
    }
    plx_free(run->context, list);
    return status;
}

/* ---- all that match ---- */

bool plx_bench_matches(const char *pattern, const char *name)
{
    size_t length = pattern != NULL ? strlen(pattern) : 0;
    return pattern == NULL || fnmatch(pattern, name, 0) == 0 ||
           (strncmp(name, pattern, length) == 0 && name[length] == '.');
}

static plx_status measure_case(bench *run, const plx_bench_case *about, size_t *done, size_t total)
{
    for (const plx_bench_shape *first = about->shapes, *s = first; !plx_bench_shape_same(s, &(plx_bench_shape){0});
         s++) {
        plx_bench_shape shape = plx_bench_shape_with(*s, run->options->given), earlier;
        bool again = false; /* sizes given may make shapes equal */
        for (const plx_bench_shape *before = first; before < s && !again; before++) {
            earlier = plx_bench_shape_with(*before, run->options->given);
            again = plx_bench_shape_same(&earlier, &shape);
        }
        plx_progress(run->context, about->name, (double)(*done)++, (double)total);
        if (!again) PLX_TRY(measure_shape(run, about, &shape));
    }
    return PLX_OK;
}

plx_status plx_bench_measure(plx_context *context, const plx_bench_options *options, size_t *wrong)
{
    bench run = {.context = context, .options = options};
    plx_bench_list list = {0};
    const plx_bench_case *const *cases = options->cases;
    if (cases == NULL) {
        PLX_TRY(plx_bench_list_make(context, options->mixer, &list));
        cases = list.cases;
    }
    size_t total = 0, done = 0;
    for (size_t i = 0; cases[i] != NULL; i++)
        if (plx_bench_matches(options->pattern, cases[i]->name))
            for (const plx_bench_shape *s = cases[i]->shapes; !plx_bench_shape_same(s, &(plx_bench_shape){0}); s++)
                total++;
    plx_status status = total > 0 ? plx_machine_measure(context, &run.machine)
                                  : plx_fail(context, PLX_ERROR_VALUE, "nothing to measure matches '%s'",
                                             options->pattern != NULL ? options->pattern : "*");
    run.level_peak[vector_level(context->level)] = run.machine.peak_gflops;
    if (context->level >= PLX_LEVEL_BF16) run.level_peak[context->level] = run.machine.tile_gflops;
    for (size_t i = 0; cases[i] != NULL && status == PLX_OK; i++)
        if (plx_bench_matches(options->pattern, cases[i]->name)) status = measure_case(&run, cases[i], &done, total);
    if (status == PLX_OK) plx_progress(context, "done", (double)total, (double)total);
    plx_bench_list_free(context, &list);
    *wrong = run.wrong;
    return status;
}
