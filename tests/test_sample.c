/* test_sample.c - choosing from a large vocabulary: the same tokens as by putting all of them in order in double. */
#include "core/random.h"
#include "support/models.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 3001 };

typedef struct candidate {
    double logit, p;
    int32_t token;
} candidate;

static int by_logit(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* What plexus.h promises, in plain steps. *margin: how near the draw came to the border between two tokens. */
static int32_t reference(const plx_sampling *sampling, const float *logits, uint64_t index, double *margin)
{
    static candidate list[VOCAB];
    size_t count = VOCAB, chosen = 0;
    double total = 0, sum = 0;
    for (size_t i = 0; i < VOCAB; i++) list[i] = (candidate){logits[i], 0, (int32_t)i};
    bool ordered = sampling->top_k > 0 || sampling->top_p < 1 || sampling->min_p > 0;
    double top = -INFINITY;
    for (size_t i = 0; i < VOCAB; i++) top = fmax(top, logits[i]);
    for (size_t i = 0; i < VOCAB; i++) list[i].p = exp((list[i].logit - top) / sampling->temperature);
    if (ordered) qsort(list, VOCAB, sizeof *list, by_logit);
    if (sampling->top_k > 0 && sampling->top_k < count) count = sampling->top_k;
    for (size_t i = 0; i < count; i++) total += list[i].p;
    if (sampling->top_p < 1) {
        size_t kept = 0;
        *margin = 1;
        while (kept < count && (kept == 0 || sum < sampling->top_p * total)) {
            sum += list[kept++].p;
            *margin = fmin(*margin, fabs(sum / total - sampling->top_p));
        }
        count = kept;
    }
    while (count > 1 && list[count - 1].p < sampling->min_p) count--;
    plx_random random;
    plx_random_init(&random, sampling->seed, plx_hash("sample"));
    random.counter = index;
    total = 0;
    for (size_t i = 0; i < count; i++) total += list[i].p;
    double left = plx_random_uniform(&random) * total;
    for (; chosen + 1 < count; chosen++) {
        left -= list[chosen].p;
        *margin = fmin(*margin, fabs(left) / total);
        if (left < 0) break;
    }
    return list[chosen].token;
}

static void test_large_vocabulary(void **state)
{
    (void)state;
    static float logits[VOCAB];
    static const plx_sampling ways[] = {
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 0.3, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 0.9, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 0.99999, .repetition_penalty = 1},
        {.temperature = 4, .top_p = 0.95, .repetition_penalty = 1},
        {.temperature = 1, .top_k = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_k = 40, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 2, .top_k = 2000, .top_p = 0.9, .repetition_penalty = 1},
        {.temperature = 1, .top_k = 5000, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .min_p = 0.3, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 0.8, .min_p = 1e-5, .repetition_penalty = 1},
        {.temperature = 1e-3, .top_p = 0.9, .repetition_penalty = 1},
    };
    plx_context *context = test_context(1, NULL, NULL);
    plx_random random;
    plx_random_init(&random, 7, 1);
    size_t differed = 0, compared = 0;
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++)
        for (uint64_t index = 0; index < 150; index++) {
            double spread = index % 3 == 0 ? 0.1 : index % 3 == 1 ? 2 : 6;
            for (size_t i = 0; i < VOCAB; i++) logits[i] = (float)(spread * plx_random_normal(&random));
            for (size_t i = 0; i < VOCAB; i += 50) logits[i] = i % 100 == 0 ? -INFINITY : 0.5f; /* and ties */
            plx_sampling sampling = ways[w];
            sampling.seed = index;
            int32_t token;
            double margin = 1;
            int32_t wanted = reference(&sampling, logits, index, &margin);
            expect_ok(context, plx_sample(context, &sampling, logits, VOCAB, NULL, 0, index, &token));
            assert_true(logits[token] > -INFINITY);
            if (margin < 1e-6) continue; /* f32 may round to the other side */
            compared++;
            differed += token != wanted;
        }
    assert_int_equal(differed, 0);
    assert_true(compared > 1500);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_large_vocabulary)};
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
