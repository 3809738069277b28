/* machine.c - what this machine can do, measured, and which kernels it uses. */
#include "core/cpu/peak.h"
#include "kernels/amx/tile.h"
#include "kernels/packed.h"
#include "mixers/mixer.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef plx_status (*measured_function)(plx_context *, const void *);

/* The function compiled for the context's level; f32 has no other at the level of tiles. */
#define MEASURED_ROW(level, constant, f) [constant] = f##_##level,
static plx_level vector_level(const plx_context *context)
{
    return context->level > PLX_LEVEL_AVX512 ? PLX_LEVEL_AVX512 : context->level;
}
static const measured_function multiply_at[PLX_LEVEL_COUNT] = {PLX_LEVELS(MEASURED_ROW, plx_peak_multiply)};
static const measured_function read_at[PLX_LEVEL_COUNT] = {PLX_LEVELS(MEASURED_ROW, plx_peak_read)};

static void read_cpu_name(char *name, size_t capacity)
{
    snprintf(name, capacity, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file == NULL) return;
    char line[256];
    while (fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, capacity, "%.*s", (int)capacity - 1, colon + 1 + strspn(colon + 1, " "));
        break;
    }
    fclose(file);
}

/* A measurement is many small pieces of work, each timed alone: the middle one of their rates is what a thread does
 * while all are at work, also on a machine that is busy with something else. */
typedef struct trial {
    plx_context *context;
    const float *data;   /* [parts * part], what pieces read in turn */
    size_t parts, part;
    double *rates;       /* of each piece: flops or bytes a second */
} trial;

static void multiply_piece(void *argument, size_t index, int thread)
{
    (void)thread;
    const trial *one = argument;
    double flops = 0.0;
    float sum;
    plx_peak_multiply_args args = {30000, &flops, &sum};
    double begin = plx_seconds();
    multiply_at[vector_level(one->context)](one->context, &args);
    one->rates[index] = flops / (plx_seconds() - begin);
}

#if defined(__x86_64__)
static void tile_piece(void *argument, size_t index, int thread)
{
    (void)thread;
    const trial *one = argument;
    double flops = 0.0;
    plx_peak_tiles_args args = {2000, &flops};
    double begin = plx_seconds();
    if (one->context->level == PLX_LEVEL_AMX)
        plx_peak_tiles_amx(one->context, &args);
    else
        plx_peak_tiles_bf16(one->context, &args);
    one->rates[index] = flops / (plx_seconds() - begin);
}
#endif

static void read_piece(void *argument, size_t index, int thread)
{
    (void)thread;
    const trial *one = argument;
    float sum;
    plx_peak_read_args args = {one->data + index % one->parts * one->part, one->part, &sum};
    double begin = plx_seconds();
    read_at[vector_level(one->context)](one->context, &args);
    one->rates[index] = (double)(one->part * sizeof(float)) / (plx_seconds() - begin);
}

static int compare_rates(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The rate of all threads together, 10^9 a second. Threads beyond the processors only take turns. */
static double measure(trial *one, size_t pieces, plx_parallel_body body)
{
    int threads = one->context->options.threads, processors = omp_get_num_procs();
    plx_parallel_for(one->context, pieces, body, one);
    qsort(one->rates, pieces, sizeof *one->rates, compare_rates);
    return one->rates[pieces / 2] * (threads < processors ? threads : processors) * 1e-9;
}

plx_status plx_machine_measure_products(plx_context *context, plx_machine *machine)
{
    const size_t products = 400 * (size_t)context->options.threads;
    double *rates = plx_alloc_array(context, products, sizeof *rates);
    if (rates == NULL) return PLX_ERROR_MEMORY;
    trial one = {.context = context, .rates = rates};
    machine->peak_gflops = measure(&one, products, multiply_piece);
    machine->tile_gflops = 0;
#if defined(__x86_64__)
    if (context->level >= PLX_LEVEL_BF16) machine->tile_gflops = measure(&one, products, tile_piece);
#endif
    plx_free(context, rates);
    return PLX_OK;
}

plx_status plx_machine_measure(plx_context *context, plx_machine *machine)
{
    plx_machine result = {.threads = context->options.threads, .memory_bytes = plx_available_memory()};
    read_cpu_name(result.cpu, sizeof result.cpu);
    snprintf(result.level, sizeof result.level, "%s", plx_context_level(context));

    /* 128 MB in parts of 1 MB: several times a core's own caches, and soon read */
    const size_t parts = 128, part = ((size_t)1 << 20) / sizeof(float), reads = 3 * parts;
    double *rates = plx_alloc_array(context, reads, sizeof *rates);
    float *data = plx_alloc_array(context, parts * part, sizeof *data);
    plx_status status = rates != NULL && data != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    if (status == PLX_OK) status = plx_machine_measure_products(context, &result);
    if (status == PLX_OK) {
        trial one = {context, data, parts, part, rates};
        result.read_gbs = measure(&one, reads, read_piece);
        *machine = result;
    }
    plx_free(context, data);
    plx_free(context, rates);
    return status;
}

/* ---- which implementations operations take, and why not others ---- */

/* Products by stored weights, x W^T, are what most of the work is. */
static const plx_matmul_args product = {
    .m = 256, .n = 256, .k = 256, .lda = 256, .ldb = 256, .ldc = 256, .transpose_b = true};
static const plx_packed_matmul_args packed_product = {.form = PLX_FORM_Q8_0, .m = 256, .n = 256, .k = 256};
static const void *typical_of(const plx_op *op)
{
    return op == &plx_op_matmul ? (const void *)&product : op == &plx_op_packed_matmul ? &packed_product : NULL;
}

/* Why a kernel that stands before the one taken is not it. */
static void put_reason(const plx_context *context, const plx_op *op, const plx_kernel *kernel, FILE *out)
{
    if (kernel->level > context->processor)
        fprintf(out, "%s: this processor has %s", kernel->name, plx_level_name(context->processor));
    else if (kernel->level > context->level)
        fprintf(out, "%s: held at %s by PLX_LEVEL or the context's options", kernel->name, plx_level_name(context->level));
    else if (plx_kernel_rounds(kernel))
        fprintf(out, "%s: only with train.precision bf16", kernel->name);
    else if (strcmp(kernel->name, "amx_f32") == 0 && op == &plx_op_matmul)
        fprintf(out, "%s: only where gradients are computed", kernel->name);
    else if (typical_of(op) != NULL && !kernel->accepts(typical_of(op)))
        fprintf(out, "%s: its rows of x W^T would depend on each other on this processor", kernel->name);
    else
        fprintf(out, "%s: another was chosen by name", kernel->name);
}

static plx_status visit_op(plx_context *context, const plx_op *op, void (*visit)(void *, const plx_kernel_use *),
                           void *user)
{
    char *text = NULL;
    size_t bytes = 0;
    const plx_kernel *chosen = plx_op_choose(context, op, typical_of(op));
    if (chosen == NULL) return PLX_OK;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for a list of operations");
    for (const plx_kernel *kernel = op->kernels; kernel < chosen; kernel++) {
        if (kernel != op->kernels) fputs("; ", out);
        put_reason(context, op, kernel, out);
    }
    plx_status status = PLX_OK;
    if (fclose(out) != 0) status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for a list of operations");
    else visit(user, &(plx_kernel_use){op->name, chosen->name, text});
    free(text);
    return status;
}

static plx_status visit_list(plx_context *context, const plx_op *const *ops,
                             void (*visit)(void *, const plx_kernel_use *), void *user)
{
    for (; ops != NULL && *ops != NULL; ops++) PLX_TRY(visit_op(context, *ops, visit, user));
    return PLX_OK;
}

plx_status plx_kernels_visit(plx_context *context, void (*visit)(void *user, const plx_kernel_use *use), void *user)
{
    PLX_TRY(visit_list(context, plx_shared_ops, visit, user));
    for (size_t i = 0; plx_mixers[i] != NULL; i++) PLX_TRY(visit_list(context, plx_mixers[i]->ops, visit, user));
    return PLX_OK;
}
