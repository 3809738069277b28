/* sample.c - one token chosen from logits. */
#include "core/context.h"
#include "core/random.h"

#include <math.h>
#include <stdlib.h>

typedef struct candidate {
    double logit, p; /* p: relative to the largest, which has 1 */
    int32_t token;
} candidate;

plx_sampling plx_sampling_defaults(void)
{
    return (plx_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

static plx_status check(plx_context *context, const plx_sampling *sampling, size_t vocab)
{
    if (!(sampling->temperature >= 0) || !isfinite(sampling->temperature))
        return plx_fail(context, PLX_ERROR_VALUE, "temperature is a number >= 0, not %g", sampling->temperature);
    if (!(sampling->top_p > 0 && sampling->top_p <= 1))
        return plx_fail(context, PLX_ERROR_VALUE, "top-p is above 0 and at most 1, not %g", sampling->top_p);
    if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
        return plx_fail(context, PLX_ERROR_VALUE, "min-p is from 0 to 1, not %g", sampling->min_p);
    if (!(sampling->repetition_penalty > 0) || !isfinite(sampling->repetition_penalty))
        return plx_fail(context, PLX_ERROR_VALUE, "the repetition penalty is a number > 0, not %g",
                        sampling->repetition_penalty);
    if (vocab < 1 || vocab > INT32_MAX) return plx_fail(context, PLX_ERROR_VALUE, "a vocabulary of %zu tokens", vocab);
    return PLX_OK;
}

/* Each token of the history counts once, however often it occurs. */
static plx_status penalise(plx_context *context, double penalty, candidate *list, size_t vocab, const int32_t *history,
                           size_t count)
{
    if (penalty == 1 || count == 0) return PLX_OK;
    bool *seen = plx_alloc_array(context, vocab, sizeof *seen);
    if (!seen) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int32_t token = history[i];
        if (token < 0 || (size_t)token >= vocab || seen[token]) continue;
        seen[token] = true;
        list[token].logit *= list[token].logit > 0 ? 1 / penalty : penalty;
    }
    plx_free(context, seen);
    return PLX_OK;
}

static int by_logit(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* How many of the candidates, largest first, are left by top-k, top-p and min-p. */
static size_t keep_best(const plx_sampling *sampling, const candidate *list, size_t count)
{
    if (sampling->top_k > 0 && sampling->top_k < count) count = sampling->top_k;
    if (sampling->top_p < 1) {
        double total = 0, sum = 0;
        for (size_t i = 0; i < count; i++) total += list[i].p;
        size_t kept = 0;
        while (kept < count && (kept == 0 || sum < sampling->top_p * total)) sum += list[kept++].p;
        count = kept;
    }
    while (count > 1 && list[count - 1].p < sampling->min_p) count--;
    return count;
}

static int32_t draw(const plx_sampling *sampling, candidate *list, size_t count, uint64_t index)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (list[i].logit > list[best].logit) best = i;
    if (sampling->temperature == 0) return list[best].token;
    double largest = list[best].logit;
    for (size_t i = 0; i < count; i++) list[i].p = exp((list[i].logit - largest) / sampling->temperature);
    /* Without limits there is no need for an order. */
    if (sampling->top_k > 0 || sampling->top_p < 1 || sampling->min_p > 0) {
        qsort(list, count, sizeof *list, by_logit);
        count = keep_best(sampling, list, count);
    }
    plx_random random;
    plx_random_init(&random, sampling->seed, plx_hash("sample"));
    random.counter = index; /* one block a draw: the index alone says which */
    double total = 0;
    for (size_t i = 0; i < count; i++) total += list[i].p;
    double left = plx_random_uniform(&random) * total;
    size_t chosen = 0;
    for (size_t i = 0; i < count; i++) {
        if (list[i].p == 0) continue;
        chosen = i; /* rounding may leave a little after the last: it is the last's */
        left -= list[i].p;
        if (left < 0) break;
    }
    return list[chosen].token;
}

plx_status plx_sample(plx_context *context, const plx_sampling *sampling, const float *logits, size_t vocab_size,
                      const int32_t *history, size_t history_count, uint64_t index, int32_t *token)
{
    PLX_TRY(check(context, sampling, vocab_size));
    bool any = false;
    for (size_t i = 0; i < vocab_size; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return plx_fail(context, PLX_ERROR_NUMERIC,
                            "the logit of token %zu is %g: the model's weights are damaged or diverged", i, logits[i]);
        any = any || logits[i] > -INFINITY;
    }
    if (!any) return plx_fail(context, PLX_ERROR_NUMERIC, "all logits are -inf: no token is possible");
    candidate *list = plx_alloc_array(context, vocab_size, sizeof *list);
    if (!list) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < vocab_size; i++) list[i] = (candidate){.logit = logits[i], .token = (int32_t)i};
    plx_status status = penalise(context, sampling->repetition_penalty, list, vocab_size, history, history_count);
    if (status == PLX_OK) *token = draw(sampling, list, vocab_size, index);
    plx_free(context, list);
    return status;
}
