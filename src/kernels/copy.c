/* copy.c - operations that only move numbers, on all threads. What is copied are bytes, so one version serves every
 * level; a thread takes about PART_BYTES at a time. */
#include "kernels/history.h"
#include "kernels/kernels.h"
#include "kernels/ref/ref.h"

#include <string.h>

#define PART_BYTES ((size_t)65536)

static size_t rows_of_part(size_t bytes) { return bytes < PART_BYTES ? PART_BYTES / (bytes + 1) + 1 : 1; }
static size_t parts_of(size_t rows, size_t part) { return rows / part + (rows % part != 0); }
static size_t part_end(size_t rows, size_t part, size_t index)
{
    return rows - index * part < part ? rows : (index + 1) * part;
}

/* ---- rows looked up by index ---- */

typedef struct lookup {
    const int32_t *index;
    const char *from;
    char *to;
    size_t rows, width, bytes; /* of a row of `to` */
    plx_type halves;           /* PLX_BF16 or PLX_F16: `from` holds such numbers, `to` f32; else both are the same */
} lookup;

static void lookup_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const lookup *job = argument;
    size_t rows = rows_of_part(job->bytes), end = part_end(job->rows, rows, index);
    for (size_t row = index * rows; row < end; row++) {
        size_t from = (size_t)job->index[row];
        if (job->halves != PLX_BF16 && job->halves != PLX_F16) {
            memcpy(job->to + row * job->bytes, job->from + from * job->bytes, job->bytes);
            continue;
        }
        const uint16_t *half = (const uint16_t *)job->from + from * job->width;
        float *to = (float *)job->to + row * job->width;
        for (size_t i = 0; i < job->width; i++)
            to[i] = job->halves == PLX_BF16 ? plx_float_of_bf16(half[i]) : plx_float_of_f16(half[i]);
    }
}

bool plx_embedding_forward_copies(const void *arguments)
{
    const plx_embedding_args *a = arguments;
    return a->type == a->table_type || (a->type == PLX_F32 && a->table_type != PLX_F64);
}

plx_status plx_embedding_forward_copy(plx_context *context, const void *arguments)
{
    const plx_embedding_args *a = arguments;
    PLX_TRY(plx_check_ids(context, a->ids, NULL, a->tokens, a->vocab));
    lookup job = {.index = a->ids,
                  .from = a->table,
                  .to = a->y,
                  .rows = a->tokens,
                  .width = a->width,
                  .bytes = a->width * plx_type_size(a->type),
                  .halves = a->type == a->table_type ? PLX_F32 : a->table_type};
    plx_parallel_for(context, parts_of(job.rows, rows_of_part(job.bytes)), lookup_part, &job);
    return PLX_OK;
}

plx_status plx_gather_copy(plx_context *context, const void *arguments)
{
    const plx_gather_args *a = arguments;
    lookup job = {.index = a->index,
                  .from = a->x,
                  .to = a->y,
                  .rows = a->count,
                  .width = a->width,
                  .bytes = a->width * plx_type_size(a->type),
                  .halves = PLX_F32};
    plx_parallel_for(context, job.bytes > 0 ? parts_of(job.rows, rows_of_part(job.bytes)) : 0, lookup_part, &job);
    return PLX_OK;
}

/* ---- histories ---- */

/* A part is some tokens of one row. */
typedef struct append_job {
    const plx_append_args *a;
    size_t tokens, parts; /* of a part; of a row */
} append_job;

static void append_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const append_job *job = argument;
    const plx_append_args *a = job->a;
    const size_t width = a->history.width, length = a->sequence.length, size = width * plx_type_size(a->type);
    size_t b = index / job->parts, part = index % job->parts;
    size_t from = part * job->tokens, end = part_end(length, job->tokens, part);
    int32_t past = a->sequence.past ? a->sequence.past[b] : 0;
    char *to = plx_history_token(&a->history, a->type, b, past + (int64_t)from);
    const char *x = (const char *)a->x + (b * length + from) * size;
    if (a->history.form == PLX_STATE_WHOLE) {
        memcpy(to, x, (end - from) * size);
        return;
    }
    for (size_t t = from; t < end; t++, x += size) {
        plx_pack_token(a->history.form, (const float *)x, width, to);
        to += plx_history_token_bytes(a->history.form, a->type, width);
    }
}

bool plx_append_copies(const void *arguments)
{
    const plx_append_args *a = arguments;
    return a->history.form == PLX_STATE_WHOLE || a->type == PLX_F32;
}

plx_status plx_append_copy(plx_context *context, const void *arguments)
{
    const plx_append_args *a = arguments;
    append_job job = {.a = a, .tokens = rows_of_part(a->history.width * plx_type_size(a->type))};
    job.parts = parts_of(a->sequence.length, job.tokens);
    plx_parallel_for(context, a->history.width > 0 ? a->sequence.rows * job.parts : 0, append_part, &job);
    return PLX_OK;
}

static void move_part(void *argument, size_t b, int thread)
{
    (void)thread;
    const plx_move_args *a = argument;
    plx_history whole_row = a->history;
    whole_row.base = NULL; /* indices are the row's own */
    size_t token = plx_history_token_bytes(a->history.form, a->type, a->history.width);
    char *row = plx_history_token(&whole_row, a->type, b, 0);
    if (a->count[b] > 0) memmove(row, row + (size_t)a->from[b] * token, (size_t)a->count[b] * token);
}

plx_status plx_move_copy(plx_context *context, const void *arguments)
{
    const plx_move_args *a = arguments;
    plx_parallel_for(context, a->rows, move_part, (void *)arguments);
    return PLX_OK;
}
