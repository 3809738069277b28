/* bench_problem.c - the arrays and runs of a problem that is measured; see bench.h. */
#include "kernels/bench.h"

#include "core/random.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 4096 }; /* numbers made on the host at a time */

static bool is_result(const plx_bench_array *array) { return (array->role & PLX_BENCH_RESULT) != 0; }

/* Numbers of an array are those of its place in the list: the same for each type, f32 exact. */
static double to_bf16(double value)
{
    uint16_t bits;
    plx_put(&bits, PLX_BF16, 0, value);
    return plx_get(&bits, PLX_BF16, 0);
}

static void fill(plx_bench_problem *problem, int index)
{
    const plx_bench_array *array = &problem->arrays[index];
    if (array->scale == 0) {
        int byte = (array->role & PLX_BENCH_ZEROED) != 0 ? 0 : 0xff; /* NaN */
        plx_device_fill(problem->context, array->data, byte, array->bytes);
        return;
    }
    plx_random random;
    double chunk[CHUNK];
    bool round = problem->rounded && (array->role & PLX_BENCH_OPERAND) != 0;
    plx_random_init(&random, 1, (uint64_t)index);
    size_t size = plx_type_size(array->type);
    for (size_t first = 0; first < array->count; first += CHUNK) {
        size_t count = array->count - first < CHUNK ? array->count - first : CHUNK;
        for (size_t i = 0; i < count; i++) {
            double value = (float)(plx_random_normal(&random) * array->scale);
            plx_put(chunk, array->type, i, round ? to_bf16(value) : value);
        }
        plx_device_upload(problem->context, (char *)array->data + first * size, chunk, count * size);
    }
}

static bool append(plx_bench_problem *problem, const plx_bench_array *array)
{
    size_t size = sizeof *array, count = (size_t)problem->array_count;
    plx_bench_array *grown = plx_grow(problem->context, problem->arrays, count * size, (count + 1) * size);
    if (grown == NULL) {
        problem->status = PLX_ERROR_MEMORY;
        return false;
    }
    grown[problem->array_count++] = *array;
    problem->arrays = grown;
    return true;
}

static void *add(plx_bench_problem *problem, plx_type type, size_t count, double scale, int role)
{
    if (problem->status != PLX_OK) return NULL;
    plx_bench_array array = {.type = type, .count = count, .scale = scale, .role = role};
    if (!plx_multiply_sizes(count, plx_type_size(type), &array.bytes)) array.bytes = SIZE_MAX;
    problem->bytes +=
        (double)array.bytes * (is_result(&array) && (scale != 0 || (role & PLX_BENCH_ZEROED) != 0) ? 2 : 1);
    if (problem->dry) return NULL;
    problem->status = plx_device_alloc(problem->context, array.bytes, &array.data);
    if (problem->status != PLX_OK) return NULL;
    if (!append(problem, &array)) {
        plx_device_free(problem->context, array.data);
        return NULL;
    }
    if ((role & PLX_BENCH_PLAIN) == 0) fill(problem, problem->array_count - 1);
    return array.data;
}

void *plx_bench_input(plx_bench_problem *problem, size_t count, double scale)
{
    return add(problem, problem->type, count, scale, PLX_BENCH_OPERAND);
}
void *plx_bench_input_of(plx_bench_problem *problem, plx_type type, size_t count, double scale)
{
    return add(problem, type, count, scale, PLX_BENCH_OPERAND);
}
void *plx_bench_output(plx_bench_problem *problem, size_t count)
{
    return add(problem, problem->type, count, 0, PLX_BENCH_RESULT);
}
void *plx_bench_output_of(plx_bench_problem *problem, plx_type type, size_t count)
{
    return add(problem, type, count, 0, PLX_BENCH_RESULT);
}
void *plx_bench_both(plx_bench_problem *problem, size_t count, double scale)
{
    return add(problem, problem->type, count, scale, PLX_BENCH_RESULT);
}
void *plx_bench_zeroed(plx_bench_problem *problem, size_t count)
{
    return add(problem, problem->type, count, 0, PLX_BENCH_RESULT | PLX_BENCH_ZEROED);
}

void *plx_bench_plain(plx_bench_problem *problem, const void *data, size_t bytes)
{
    void *memory = add(problem, PLX_F32, (bytes + sizeof(float) - 1) / sizeof(float), 0, PLX_BENCH_PLAIN);
    if (memory == NULL) return NULL;
    if (data == NULL)
        plx_device_fill(problem->context, memory, 0, bytes);
    else
        plx_device_upload(problem->context, memory, data, bytes);
    return memory;
}

static int32_t *integers(plx_bench_problem *problem, size_t count, size_t divide, size_t most)
{
    int32_t *host = plx_alloc_array(problem->context, problem->dry ? 1 : count, sizeof *host), *device = NULL;
    plx_random random;
    plx_random_init(&random, 2, (uint64_t)problem->array_count);
    if (host == NULL)
        problem->status = PLX_ERROR_MEMORY;
    else {
        for (size_t i = 0; i < count && !problem->dry; i++)
            host[i] = (int32_t)(divide == 0 ? plx_random_below(&random, most) : i / divide % most);
        device = plx_bench_plain(problem, host, count * sizeof *host);
    }
    plx_free(problem->context, host);
    return device;
}
int32_t *plx_bench_random_ids(plx_bench_problem *problem, size_t count, size_t most)
{
    return integers(problem, count, 0, most);
}
int32_t *plx_bench_counts(plx_bench_problem *problem, size_t count, size_t divide, size_t most)
{
    return integers(problem, count, divide, most);
}

void plx_bench_watch(plx_bench_problem *problem, const void *data, plx_type type, size_t count)
{
    if (problem->status != PLX_OK || problem->dry) return;
    plx_bench_array array = {.data = (void *)(uintptr_t)data,
                             .type = type,
                             .count = count,
                             .bytes = count * plx_type_size(type),
                             .role = PLX_BENCH_RESULT | PLX_BENCH_LENT};
    append(problem, &array);
}

void plx_bench_round(plx_bench_problem *problem, const void *data, size_t count)
{
    double chunk[CHUNK];
    size_t size = plx_type_size(problem->type);
    for (size_t first = 0; problem->rounded && !problem->dry && first < count; first += CHUNK) {
        size_t part = count - first < CHUNK ? count - first : CHUNK;
        char *at = (char *)(uintptr_t)data + first * size;
        plx_device_download(problem->context, chunk, at, part * size);
        for (size_t i = 0; i < part; i++) plx_put(chunk, problem->type, i, to_bf16(plx_get(chunk, problem->type, i)));
        plx_device_upload(problem->context, at, chunk, part * size);
    }
}

plx_sequence plx_bench_sequence(plx_bench_problem *problem, size_t rows, size_t length)
{
    return (plx_sequence){.rows = rows, .length = length, .start = plx_bench_plain(problem, NULL, rows * length * 4)};
}

plx_status plx_bench_op(plx_bench_problem *problem, const plx_op *op, const void *arguments)
{
    if (problem->dry) return PLX_OK;
    for (const plx_kernel *kernel = op->kernels; problem->kernel != NULL && kernel->run != NULL; kernel++) {
        if (strcmp(kernel->name, problem->kernel) != 0 || (kernel->accepts != NULL && !kernel->accepts(arguments)))
            continue;
        problem->context->device->enter(problem->context);
        plx_status status = kernel->run(problem->context, arguments);
        problem->context->device->leave(problem->context);
        return status;
    }
    return plx_op_run(problem->context, op, arguments);
}

plx_status plx_bench_make(plx_bench_problem *problem, plx_context *context, const plx_bench_case *about,
                          const plx_bench_shape *shape, plx_type type, bool rounded, bool dry)
{
    *problem = (plx_bench_problem){
        .context = context, .about = about, .type = type, .rounded = rounded, .dry = dry, .seconds = -1};
    plx_status status = about->make(problem, shape);
    if (status == PLX_OK) status = problem->status;
    if (status == PLX_OK && problem->flops == 0 && about->op != NULL && about->op->flops != NULL)
        problem->flops = about->op->flops(&problem->arguments);
    if (status != PLX_OK) plx_bench_free(problem);
    return status;
}

plx_status plx_bench_refill(plx_bench_problem *problem)
{
    for (int i = 0; i < problem->array_count; i++)
        if ((problem->arrays[i].role & (PLX_BENCH_RESULT | PLX_BENCH_LENT)) == PLX_BENCH_RESULT) fill(problem, i);
    return PLX_OK;
}

plx_status plx_bench_prepare(plx_bench_problem *problem)
{
    return problem->about->prepare != NULL ? problem->about->prepare(problem) : PLX_OK;
}

plx_status plx_bench_run(plx_bench_problem *problem)
{
    if (problem->about->run != NULL) return problem->about->run(problem);
    return plx_bench_op(problem, problem->about->op, &problem->arguments);
}

void plx_bench_free(plx_bench_problem *problem)
{
    if (problem->about == NULL) return;
    if (problem->about->release != NULL) problem->about->release(problem);
    for (int i = 0; i < problem->array_count; i++)
        if ((problem->arrays[i].role & PLX_BENCH_LENT) == 0) plx_device_free(problem->context, problem->arrays[i].data);
    plx_free(problem->context, problem->arrays);
    *problem = (plx_bench_problem){0};
}
