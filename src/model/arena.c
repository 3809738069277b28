/* arena.c - gives passes their memory: a dry run finds the sizes, one block is allocated, the batch uploaded, and
 * the same code runs again for real. */
#include "model/params_list.h"

#include <math.h>
#include <string.h>

plx_status plx_batch_check(plx_context *context, const plx_batch *batch, size_t vocab, bool targets)
{
    size_t count;
    if (batch->rows == 0 || batch->length == 0 || !plx_multiply_sizes(batch->rows, batch->length, &count) ||
        count > INT32_MAX)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "a batch of %zu rows of %zu tokens: both must be at least 1, and the tokens fewer than 2^31",
                        batch->rows, batch->length);
    if (batch->inputs == NULL || (targets && batch->targets == NULL))
        return plx_fail(context, PLX_ERROR_VALUE, "a batch needs inputs%s", targets ? " and targets" : "");
    for (size_t i = 0; i < count; i++) {
        size_t t = i % batch->length;
        if (batch->inputs[i] < 0 || (size_t)batch->inputs[i] >= vocab)
            return plx_fail(context, PLX_ERROR_VALUE,
                            "token %d at row %zu, position %zu is outside the vocabulary of %zu", batch->inputs[i],
                            i / batch->length, t, vocab);
        if (targets && (batch->targets[i] < 0 || (size_t)batch->targets[i] >= vocab))
            return plx_fail(context, PLX_ERROR_VALUE,
                            "target %d at row %zu, position %zu is outside the vocabulary of %zu", batch->targets[i],
                            i / batch->length, t, vocab);
        if (batch->mask != NULL && !(batch->mask[i] >= 0 && isfinite(batch->mask[i])))
            return plx_fail(context, PLX_ERROR_VALUE, "the mask at row %zu, position %zu is not a number >= 0",
                            i / batch->length, t);
        if (batch->start != NULL) {
            size_t start = (size_t)batch->start[i];
            bool good = batch->start[i] >= 0 && (start == t || (t > 0 && batch->start[i] == batch->start[i - 1]));
            if (!good)
                return plx_fail(context, PLX_ERROR_VALUE,
                                "start %d at row %zu, position %zu: a document's start is its first token's "
                                "index, the same for all its tokens",
                                batch->start[i], i / batch->length, t);
        }
    }
    return PLX_OK;
}

/* The batch's arrays on the device, in the order of run.h; the same sizes dry and real. */
static plx_status take_batch(plx_run *run)
{
    size_t bytes = run->tokens * sizeof(int32_t);
    void *memory[6];
    for (int i = 0; i < 5; i++) PLX_TRY(plx_saved_bytes(run, bytes, &memory[i]));
    PLX_TRY(plx_saved_bytes(run, run->rows * sizeof(int32_t), &memory[5]));
    run->inputs = memory[0];
    run->targets = memory[1];
    run->mask = memory[2];
    run->start = memory[3];
    run->position = memory[4];
    run->past = memory[5];
    return PLX_OK;
}

static plx_run make_run(plx_model *model, size_t rows, size_t length, int flags, struct plx_session *session)
{
    return (plx_run){.context = model->context,
                     .type = model->type,
                     .keep = (flags & PLX_PASS_KEEP) != 0,
                     .gradients = (flags & PLX_PASS_KEEP) != 0,
                     .training = (flags & PLX_PASS_TRAINING) != 0,
                     .bf16 = (flags & PLX_PASS_BF16) != 0,
                     .rows = rows,
                     .length = length,
                     .tokens = rows * length,
                     .session = session};
}

plx_status plx_pass_measure(plx_model *model, size_t rows, size_t length, int flags, struct plx_session *session,
                            plx_pass pass, void *user, plx_run *run)
{
    *run = make_run(model, rows, length, flags, session);
    run->dry = true;
    PLX_TRY(take_batch(run));
    return pass(run, model, user);
}

void plx_arena_init(plx_arena *arena, plx_model *model) { *arena = (plx_arena){.model = model}; }

void plx_arena_release(plx_arena *arena)
{
    if (arena->model == NULL) return;
    plx_device_free(arena->model->context, arena->memory);
    plx_free(arena->model->context, arena->host);
    plx_arena_init(arena, arena->model);
}

plx_status plx_arena_reserve(plx_arena *arena, size_t rows, size_t length, int flags, struct plx_session *session,
                             plx_pass pass, void *user)
{
    plx_model *model = arena->model;
    plx_context *context = model->context;
    plx_run run;
    if (arena->sized_pass == pass && arena->sized_rows == rows && arena->sized_length == length &&
        arena->sized_flags == flags)
        return PLX_OK;
    arena->sized_pass = NULL;
    PLX_TRY(plx_pass_measure(model, rows, length, flags, session, pass, user, &run));
    size_t bytes, host_bytes = 5 * rows * length * sizeof(int32_t);
    if (!plx_add_sizes(run.saved.peak, run.scratch.peak, &bytes)) bytes = SIZE_MAX;
    if (bytes > arena->bytes) {
        plx_device_free(context, arena->memory);
        arena->memory = NULL;
        arena->bytes = 0;
        size_t available = plx_available_memory();
        if (bytes > available)
            return plx_fail(context, PLX_ERROR_MEMORY,
                            "%zu x %zu tokens need %.3g GB of working memory (activations %.3g, scratch %.3g) and this "
                            "machine has %.3g GB to give; use fewer rows, shorter sequences, or recompute layers",
                            rows, length, (double)bytes / 1e9, (double)run.saved.peak / 1e9,
                            (double)run.scratch.peak / 1e9, (double)available / 1e9);
        PLX_TRY(plx_device_alloc(context, bytes, &arena->memory));
        arena->bytes = bytes;
    }
    if (host_bytes > arena->host_bytes) {
        int32_t *grown = plx_grow(context, arena->host, arena->host_bytes, host_bytes);
        if (grown == NULL) return plx_context_error(context)->code;
        arena->host = grown;
        arena->host_bytes = host_bytes;
    }
    arena->sized_pass = pass;
    arena->sized_rows = rows;
    arena->sized_length = length;
    arena->sized_flags = flags;
    arena->saved_bytes = run.saved.peak;
    arena->scratch_bytes = run.scratch.peak;
    return PLX_OK;
}

static void upload_batch(plx_run *run, const plx_batch *batch, const int32_t *past, int32_t *host)
{
    size_t count = run->tokens, bytes = count * sizeof(int32_t);
    plx_context *context = run->context;
    plx_device_upload(context, (void *)(uintptr_t)run->inputs, batch->inputs, bytes);
    if (batch->targets != NULL)
        plx_device_upload(context, (void *)(uintptr_t)run->targets, batch->targets, bytes);
    else
        plx_device_fill(context, (void *)(uintptr_t)run->targets, 0, bytes);
    float *mask = (float *)host;
    for (size_t i = 0; i < count; i++) mask[i] = batch->mask != NULL ? batch->mask[i] : 1.0f;
    plx_device_upload(context, (void *)(uintptr_t)run->mask, mask, bytes);
    int32_t *start = host + count, *position = host + 2 * count, *before = host + 3 * count;
    for (size_t i = 0; i < count; i++) {
        size_t b = i / run->length, t = i % run->length;
        int32_t came_before = past != NULL ? past[b] : 0;
        start[i] = batch->start != NULL ? batch->start[i] : 0;
        position[i] = came_before + (int32_t)t - start[i];
    }
    for (size_t b = 0; b < run->rows; b++) before[b] = past != NULL ? past[b] : 0;
    plx_device_upload(context, (void *)(uintptr_t)run->start, start, bytes);
    plx_device_upload(context, (void *)(uintptr_t)run->position, position, bytes);
    plx_device_upload(context, (void *)(uintptr_t)run->past, before, run->rows * sizeof(int32_t));
}

plx_status plx_arena_run(plx_arena *arena, const plx_batch *batch, const int32_t *past, struct plx_session *session,
                         int flags, uint64_t dropout_seed, uint64_t dropout_stream, plx_pass pass, void *user)
{
    PLX_TRY(plx_arena_reserve(arena, batch->rows, batch->length, flags, session, pass, user));
    plx_run run = make_run(arena->model, batch->rows, batch->length, flags, session);
    run.saved = (plx_stack){.memory = arena->memory, .size = arena->saved_bytes};
    run.scratch = (plx_stack){.memory = (char *)arena->memory + arena->saved_bytes, .size = arena->scratch_bytes};
    run.dropout_seed = dropout_seed;
    run.dropout_stream = dropout_stream;
    run.layer_done = arena->layer_done;
    run.watcher = arena->watcher;
    PLX_TRY(take_batch(&run));
    upload_batch(&run, batch, past, arena->host);
    return pass(&run, arena->model, user);
}
