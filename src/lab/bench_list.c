/* bench_list.c - every case there is: the shared operations' and the mixers'. */
#include "lab/bench.h"

#include "mixers/mixer.h"

static plx_status add(plx_context *context, plx_bench_list *list, const plx_bench_case *about)
{
    size_t size = sizeof *list->cases;
    const plx_bench_case **grown =
        plx_grow(context, list->cases, list->cases != NULL ? (list->count + 1) * size : 0, (list->count + 2) * size);
    if (grown == NULL) return plx_context_error(context)->code;
    list->cases = grown;
    list->cases[list->count++] = about; /* what follows it is NULL */
    return PLX_OK;
}

static plx_status add_all(plx_context *context, plx_bench_list *list, const plx_bench_case *const *cases)
{
    for (; cases != NULL && *cases != NULL; cases++) PLX_TRY(add(context, list, *cases));
    return PLX_OK;
}

plx_status plx_bench_list_make(plx_context *context, plx_bench_list *list)
{
    *list = (plx_bench_list){0};
    plx_status status = add_all(context, list, plx_shared_bench);
    for (size_t i = 0; plx_mixers[i] != NULL && status == PLX_OK; i++)
        status = add_all(context, list, plx_mixers[i]->bench);
    if (status != PLX_OK) plx_bench_list_free(context, list);
    return status;
}

void plx_bench_list_free(plx_context *context, plx_bench_list *list)
{
    plx_free(context, list->cases);
    *list = (plx_bench_list){0};
}
