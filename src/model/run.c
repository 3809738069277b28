/* run.c - memory and operations of one pass. */
#include "model/run.h"

#include <string.h>

/* Dry runs hand out addresses that nobody may touch but that differ from NULL and keep their alignment. */
#define PLX_DRY_BASE ((char *)(uintptr_t)64)

static plx_status take(plx_run *run, plx_stack *stack, const char *name, size_t bytes, void **memory)
{
    size_t rounded = (bytes + 63) / 64 * 64;
    if (rounded < bytes || stack->used + rounded < stack->used)
        return plx_fail(run->context, PLX_ERROR_MEMORY, "a pass needs more memory than addresses can name");
    if (!run->dry && stack->used + rounded > stack->size)
        return plx_fail(run->context, PLX_ERROR_INTERNAL,
                        "%s memory overran its plan (%zu of %zu bytes used, %zu asked)", name, stack->used, stack->size,
                        rounded);
    *memory = (run->dry ? PLX_DRY_BASE : stack->memory) + stack->used;
    stack->used += rounded;
    if (stack->used > stack->peak) stack->peak = stack->used;
    if (!run->dry && run->context->poison) plx_device_fill(run->context, *memory, 0xff, rounded);
    return PLX_OK;
}

plx_status plx_saved_bytes(plx_run *run, size_t bytes, void **memory)
{
    return take(run, &run->saved, "saved", bytes, memory);
}
plx_status plx_scratch_bytes(plx_run *run, size_t bytes, void **memory)
{
    return take(run, &run->scratch, "scratch", bytes, memory);
}
plx_status plx_saved(plx_run *run, size_t count, void **memory)
{
    return plx_saved_bytes(run, count * plx_type_size(run->type), memory);
}
plx_status plx_scratch(plx_run *run, size_t count, void **memory)
{
    return plx_scratch_bytes(run, count * plx_type_size(run->type), memory);
}
plx_status plx_kept(plx_run *run, size_t count, void **memory)
{
    return run->keep ? plx_saved(run, count, memory) : plx_scratch(run, count, memory);
}
size_t plx_mark(const plx_run *run) { return run->scratch.used; }
void plx_release(plx_run *run, size_t mark) { run->scratch.used = mark; }

plx_status plx_run_op(plx_run *run, const plx_op *op, const void *arguments)
{
    if (!run->dry) return plx_op_run(run->context, op, arguments);
    if (op->flops != NULL) run->flops += op->flops(arguments);
    return PLX_OK;
}

void plx_run_zero(plx_run *run, void *memory, size_t count)
{
    if (!run->dry) plx_device_fill(run->context, memory, 0, count * plx_type_size(run->type));
}
void plx_run_copy(plx_run *run, void *to, const void *from, size_t count)
{
    if (!run->dry) plx_device_copy(run->context, to, from, count * plx_type_size(run->type));
}
void plx_run_upload(plx_run *run, void *to, const void *from, size_t bytes)
{
    if (!run->dry) plx_device_upload(run->context, to, from, bytes);
}
void plx_run_download(plx_run *run, void *to, const void *from, size_t bytes)
{
    if (!run->dry) plx_device_download(run->context, to, from, bytes);
}

plx_sequence plx_run_sequence(const plx_run *run)
{
    return (plx_sequence){.rows = run->rows, .length = run->length, .start = run->start, .past = run->past};
}
plx_history plx_run_history(const plx_run *run, const void *data, size_t width)
{
    return (plx_history){.data = (void *)(uintptr_t)data, .width = width, .row_stride = run->length * width};
}

plx_status plx_run_add(plx_run *run, const void *a, double alpha, const void *b, double beta, void *y, size_t count)
{
    plx_add_args args = {.type = run->type, .count = count, .a = a, .b = b, .y = y, .alpha = alpha, .beta = beta};
    return plx_run_op(run, &plx_op_add, &args);
}
