/* sequence.c - tokens into a history, and within it. One row after the other. */
#include "kernels/ref/ref.h"

#include <string.h>

static char *history_row(const plx_history *history, plx_type type, size_t row)
{
    size_t slot = history->slot ? (size_t)history->slot[row] : row;
    return (char *)history->data + slot * history->row_stride * plx_type_size(type);
}

plx_status plx_append_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_append_args *a = arguments;
    size_t token = a->history.width * plx_type_size(a->type), row = a->sequence.length * token;
    for (size_t b = 0; b < a->sequence.rows && row > 0; b++) {
        int32_t past = a->sequence.past ? a->sequence.past[b] : 0;
        int32_t base = a->history.base ? a->history.base[b] : 0;
        memcpy(history_row(&a->history, a->type, b) + (size_t)(past - base) * token, (const char *)a->x + b * row, row);
    }
    return PLX_OK;
}

plx_status plx_move_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_move_args *a = arguments;
    size_t token = a->history.width * plx_type_size(a->type);
    for (size_t b = 0; b < a->rows; b++) {
        char *row = history_row(&a->history, a->type, b);
        if (a->count[b] > 0) memmove(row, row + (size_t)a->from[b] * token, (size_t)a->count[b] * token);
    }
    return PLX_OK;
}
