/* machine.c - what this machine can do, measured, and which kernels it uses. */
#include "core/cpu/peak.h"
#include "mixers/mixer.h"

#include <stdio.h>
#include <string.h>

typedef plx_status (*measured_function)(plx_context *, const void *);

/* The function compiled for the context's level. */
#define MEASURED_ROW(level, constant, f) [constant] = f##_##level,
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

/* One measurement: every index does the same amount of work on its own part. */
typedef struct trial {
    plx_context *context;
    size_t rounds;
    const float *data;   /* [count * part] */
    size_t part;
    double *flops;       /* [count] */
    float *sums;         /* [count] */
} trial;

static void multiply_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const trial *one = argument;
    plx_peak_multiply_args args = {one->rounds, &one->flops[index], &one->sums[index]};
    multiply_at[one->context->level](one->context, &args);
}

static void read_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const trial *one = argument;
    plx_peak_read_args args = {one->data + index * one->part, one->part, &one->sums[index]};
    read_at[one->context->level](one->context, &args);
}

/* Each try takes as long for a slow processor as for a fast one: rounds grow until they take 10 ms. */
static double measure_multiply(trial *one, size_t threads)
{
    double best = 0.0;
    one->rounds = 100000;
    for (int tries = 0; tries < 6;) {
        double begin = plx_seconds();
        plx_parallel_for(one->context, threads, multiply_part, one);
        double seconds = plx_seconds() - begin, flops = 0.0;
        if (seconds < 0.01) {
            one->rounds *= 2;
            continue;
        }
        for (size_t i = 0; i < threads; i++) flops += one->flops[i];
        if (flops / seconds > best) best = flops / seconds;
        tries++;
    }
    return best * 1e-9;
}

static double measure_read(trial *one, size_t parts)
{
    double best = 0.0;
    for (int tries = 0; tries < 4; tries++) {
        double begin = plx_seconds();
        plx_parallel_for(one->context, parts, read_part, one);
        double rate = (double)(parts * one->part * sizeof(float)) / (plx_seconds() - begin);
        if (rate > best) best = rate;
    }
    return best * 1e-9;
}

plx_status plx_machine_measure(plx_context *context, plx_machine *machine)
{
    plx_machine result = {.threads = context->options.threads, .memory_bytes = plx_available_memory()};
    read_cpu_name(result.cpu, sizeof result.cpu);
    snprintf(result.level, sizeof result.level, "%s", plx_context_level(context));

    /* 128 MB in parts of 1 MB: several times a core's own caches, and soon read */
    const size_t parts = 128, part = ((size_t)1 << 20) / sizeof(float);
    size_t threads = (size_t)result.threads, most = parts > threads ? parts : threads;
    double *flops = plx_alloc_array(context, most, sizeof *flops);
    float *sums = plx_alloc_array(context, most, sizeof *sums);
    float *data = plx_alloc_array(context, parts * part, sizeof *data);
    plx_status status = flops != NULL && sums != NULL && data != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    if (status == PLX_OK) {
        trial one = {.context = context, .data = data, .part = part, .flops = flops, .sums = sums};
        result.peak_gflops = measure_multiply(&one, threads);
        result.read_gbs = measure_read(&one, parts);
        *machine = result;
    }
    plx_free(context, data);
    plx_free(context, sums);
    plx_free(context, flops);
    return status;
}

static void visit_list(plx_context *context, const plx_op *const *ops, void (*visit)(void *, const char *, const char *), void *user)
{
    for (; ops != NULL && *ops != NULL; ops++) {
        const plx_kernel *kernel = plx_op_choose(context, *ops, NULL);
        if (kernel != NULL) visit(user, (*ops)->name, kernel->name);
    }
}

void plx_kernels_visit(plx_context *context, void (*visit)(void *user, const char *op, const char *kernel), void *user)
{
    visit_list(context, plx_shared_ops, visit, user);
    for (size_t i = 0; plx_mixers[i] != NULL; i++) visit_list(context, plx_mixers[i]->ops, visit, user);
}
