/* embedding.c - rows looked up by id. */
#include "kernels/ref/ref.h"

#include <string.h>

plx_status plx_check_ids(plx_context *context, const int32_t *ids, const float *mask, size_t count, size_t limit)
{
    for (size_t i = 0; i < count; i++)
        if ((!mask || mask[i] != 0) && (ids[i] < 0 || (size_t)ids[i] >= limit))
            return plx_fail(context, PLX_ERROR_VALUE, "token id %d at place %zu is outside the vocabulary of %zu",
                            (int)ids[i], i, limit);
    return PLX_OK;
}

plx_status plx_embedding_forward_ref(plx_context *context, const void *arguments)
{
    const plx_embedding_args *a = arguments;
    PLX_TRY(plx_check_ids(context, a->ids, NULL, a->tokens, a->vocab));
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t i = 0; i < a->width; i++)
            plx_ref_put(a->y, a->type, t * a->width + i,
                        plx_ref_get(a->table, a->table_type, (size_t)a->ids[t] * a->width + i));
    return PLX_OK;
}

plx_status plx_embedding_backward_ref(plx_context *context, const void *arguments)
{
    const plx_embedding_backward_args *a = arguments;
    PLX_TRY(plx_check_ids(context, a->ids, NULL, a->tokens, a->vocab));
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t i = 0; i < a->width; i++)
            plx_ref_add(a->dtable, a->type, (size_t)a->ids[t] * a->width + i,
                        plx_ref_get(a->dy, a->type, t * a->width + i));
    return PLX_OK;
}

plx_status plx_gather_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_gather_args *a = arguments;
    size_t bytes = a->width * plx_type_size(a->type);
    for (size_t i = 0; i < a->count && bytes > 0; i++)
        memcpy((char *)a->y + i * bytes, (const char *)a->x + (size_t)a->index[i] * bytes, bytes);
    return PLX_OK;
}
