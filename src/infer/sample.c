/* sample.c - one token chosen from logits.
 *
 * A vocabulary has tens of thousands of tokens, of which a draw looks at a few: only those are put in order that top-k,
 * top-p and min-p may keep. */
#include "core/random.h"
#include "kernels/cpu/vec.h"

#include <math.h>
#include <stdlib.h>

typedef struct candidate {
    float logit, p; /* p: relative to the largest, which has nearly 1 */
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
static plx_status penalise(plx_context *context, double penalty, float *logits, size_t vocab, const int32_t *history,
                           size_t count)
{
    if (penalty == 1 || count == 0) return PLX_OK;
    bool *seen = plx_alloc_array(context, vocab, sizeof *seen);
    if (!seen) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int32_t token = history[i];
        if (token < 0 || (size_t)token >= vocab || seen[token]) continue;
        seen[token] = true;
        logits[token] = (float)(logits[token] * (logits[token] > 0 ? 1 / penalty : penalty));
    }
    plx_free(context, seen);
    return PLX_OK;
}

/* p[i] = exp((logits[i] - largest) / temperature), a few units in the last place off; their sum. */
static double powers_of(const float *logits, size_t count, float largest, double temperature, float *p)
{
    const double log2_e = 1.4426950408889634;
    const float factor = (float)fmin(fmax(log2_e / temperature, 1e-30), 1e30); /* 0 times -inf would be no number */
    double sum = 0;
    for (size_t i = 0; i < count; i += PLX_VW) {
        size_t left = count - i < PLX_VW ? count - i : PLX_VW;
        float lanes[PLX_VW];
        vf x = left < PLX_VW ? vf_load_part(logits + i, left, -INFINITY) : vf_load(logits + i);
        vf_store(lanes, vf_exp2((x - largest) * factor));
        for (size_t j = 0; j < left; j++) sum += p[i + j] = lanes[j];
    }
    return sum;
}

static int by_logit(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* How many of the candidates, largest first, are left by top-k, top-p and min-p. `total`: of all tokens' p. */
static size_t keep_best(const plx_sampling *sampling, const candidate *list, size_t count, double total)
{
    if (sampling->top_k > 0 && sampling->top_k < count) count = sampling->top_k;
    if (sampling->top_p < 1) {
        double sum = 0;
        size_t kept = 0;
        if (sampling->top_k > 0) {
            total = 0;
            for (size_t i = 0; i < count; i++) total += list[i].p;
        }
        while (kept < count && (kept == 0 || sum < sampling->top_p * total)) sum += list[kept++].p;
        count = kept;
    }
    while (count > 1 && list[count - 1].p < sampling->min_p * list[0].p) count--;
    return count;
}

/* Puts the tokens that may be kept into list, in order: those from some p on, as few as are surely enough. */
static size_t choose_candidates(const plx_sampling *sampling, const float *logits, const float *p, size_t vocab,
                                double total, candidate *list)
{
    const bool by_share = sampling->top_p < 1 && sampling->top_k == 0;
    size_t count = 0;
    for (float least = 1e-2f;; least *= 1e-2f) {
        double sum = 0;
        bool all = least < 1e-20f;
        count = 0;
        for (size_t i = 0; i < vocab; i++) {
            if (p[i] < least && !all) continue;
            list[count++] = (candidate){logits[i], p[i], (int32_t)i};
            sum += p[i];
        }
        if (all || (sampling->top_k > 0 && count >= sampling->top_k)) break;
        if (by_share && sum * (1 - 1e-9) >= sampling->top_p * total) break;
        if (sampling->top_k == 0 && least <= sampling->min_p) break;
    }
    qsort(list, count, sizeof *list, by_logit);
    return count;
}

static double random_share(const plx_sampling *sampling, uint64_t index)
{
    plx_random random;
    plx_random_init(&random, sampling->seed, plx_hash("sample"));
    random.counter = index; /* one block a draw: the index alone says which */
    return plx_random_uniform(&random);
}

/* A token of all, or of the candidates that are kept; numbers of `room` are for `vocab` p and as many candidates. */
static int32_t draw(const plx_sampling *sampling, const float *logits, size_t vocab, size_t best, uint64_t index,
                    float *room)
{
    double total = powers_of(logits, vocab, logits[best], sampling->temperature, room), share, sum = 0;
    share = random_share(sampling, index);
    if (sampling->top_k == 0 && sampling->top_p == 1 && sampling->min_p == 0) { /* no need for an order */
        double left = share * total;
        size_t chosen = best;
        for (size_t i = 0; i < vocab; i++) {
            if (room[i] == 0) continue;
            chosen = i; /* rounding may leave a little after the last: it is the last's */
            left -= room[i];
            if (left < 0) break;
        }
        return (int32_t)chosen;
    }
    candidate *list = (candidate *)(room + vocab);
    size_t count = choose_candidates(sampling, logits, room, vocab, total, list), chosen = 0;
    count = keep_best(sampling, list, count, total);
    for (size_t i = 0; i < count; i++) sum += list[i].p;
    for (double left = share * sum; chosen + 1 < count; chosen++) {
        left -= list[chosen].p;
        if (left < 0 || list[chosen + 1].p == 0) break;
    }
    return list[chosen].token;
}

/* Which is the largest, of equals the first; ERROR_NUMERIC for what no token can be chosen from. */
static plx_status find_best(plx_context *context, const float *logits, size_t vocab, size_t *best)
{
    float top = -INFINITY;
    bool bad = false;
    for (size_t i = 0; i < vocab; i++) {
        bad |= !(logits[i] < INFINITY); /* of NaN, too */
        top = logits[i] > top ? logits[i] : top;
    }
    for (size_t i = 0; i < vocab && bad; i++)
        if (!(logits[i] < INFINITY))
            return plx_fail(context, PLX_ERROR_NUMERIC,
                            "the logit of token %zu is %g: the model's weights are damaged or diverged", i, logits[i]);
    if (top == -INFINITY) return plx_fail(context, PLX_ERROR_NUMERIC, "all logits are -inf: no token is possible");
    *best = 0;
    while (logits[*best] != top) ++*best;
    return PLX_OK;
}

plx_status plx_sample(plx_context *context, const plx_sampling *sampling, const float *logits, size_t vocab_size,
                      const int32_t *history, size_t history_count, uint64_t index, int32_t *token)
{
    PLX_TRY(check(context, sampling, vocab_size));
    size_t best;
    PLX_TRY(find_best(context, logits, vocab_size, &best));
    bool penalised = sampling->repetition_penalty != 1 && history_count > 0;
    if (sampling->temperature == 0 && !penalised) {
        *token = (int32_t)best;
        return PLX_OK;
    }
    /* Tens of thousands of numbers a token: the context keeps their memory. */
    float *own = plx_kernel_scratch(context, vocab_size * (2 * sizeof *own + sizeof(candidate)));
    if (!own) return PLX_ERROR_MEMORY;
    memcpy(own, logits, vocab_size * sizeof *own);
    PLX_TRY(penalise(context, sampling->repetition_penalty, own, vocab_size, history, history_count));
    if (penalised) PLX_TRY(find_best(context, own, vocab_size, &best));
    bool greedy = sampling->temperature == 0;
    *token = greedy ? (int32_t)best : draw(sampling, own, vocab_size, best, index, own + vocab_size);
    return PLX_OK;
}
