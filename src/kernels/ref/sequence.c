/* sequence.c - tokens into a history, and within it. One token after the other. */
#include "kernels/history.h"
#include "kernels/ref/ref.h"

#include <string.h>

plx_status plx_append_ref(plx_context *context, const void *arguments)
{
    const plx_append_args *a = arguments;
    const size_t width = a->history.width, length = a->sequence.length;
    float *numbers = plx_kernel_scratch(context, (width + 1) * sizeof *numbers); /* of a token to be packed */
    if (numbers == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < a->sequence.rows * length && width > 0; i++) {
        size_t b = i / length;
        int64_t past = a->sequence.past ? a->sequence.past[b] : 0;
        char *token = plx_history_token(&a->history, a->type, b, past + (int64_t)(i % length));
        if (a->history.form == PLX_STATE_WHOLE) {
            memcpy(token, (const char *)a->x + i * width * plx_type_size(a->type), width * plx_type_size(a->type));
            continue;
        }
        for (size_t c = 0; c < width; c++) numbers[c] = (float)plx_get(a->x, a->type, i * width + c);
        plx_pack_token(a->history.form, numbers, width, token);
    }
    return PLX_OK;
}

plx_status plx_move_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_move_args *a = arguments;
    size_t token = plx_history_token_bytes(a->history.form, a->type, a->history.width);
    plx_history rows = a->history;
    rows.base = NULL; /* indices are the row's own */
    for (size_t b = 0; b < a->rows; b++) {
        char *row = plx_history_token(&rows, a->type, b, 0);
        if (a->count[b] > 0) memmove(row, row + (size_t)a->from[b] * token, (size_t)a->count[b] * token);
    }
    return PLX_OK;
}
