/* pairsum - the sum of two looked-up values.
 *
 * Tokens: keys 0 .. keys-1, then values v = 0 .. values-1 as keys + v. A row is `pairs` times "k v" with distinct keys
 * and independent uniform values, then `queries` times "k1 k2", two different keys of the row, uniform. Asked at k2
 * only: (v1 + v2) mod values, as a value token; it does not appear in the inputs. Length 2 (pairs + queries). Chance 1
 * / values. Difficulty: keys (16), values (16), pairs (8; 2 .. keys), queries (8). */
#include "data/tasks/task.h"

static plx_status pairsum_parse(plx_keys *keys, void *options)
{
    plx_task_pairs *self = options;
    *self = (plx_task_pairs){.keys = 16, .values = 16, .pairs = 8, .queries = 8};
    PLX_TRY(plx_task_pairs_parse(keys, self));
    if (self->pairs < 2) return plx_keys_fail(keys, "pairs", "a sum needs at least 2 pairs");
    return PLX_OK;
}

static void pairsum_generate(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets,
                             float *mask)
{
    const plx_task_pairs *self = options;
    plx_random random = plx_task_random(seed, row);
    plx_task_clear(2 * (self->pairs + self->queries), targets, mask);
    plx_task_pairs_fill(self, &random, inputs);
    for (size_t i = 0; i < self->queries; i++) {
        size_t first = plx_random_below(&random, self->pairs), t = 2 * (self->pairs + i);
        size_t second = (first + 1 + plx_random_below(&random, self->pairs - 1)) % self->pairs;
        inputs[t] = inputs[2 * first];
        inputs[t + 1] = inputs[2 * second];
        size_t sum = (size_t)inputs[2 * first + 1] - self->keys + (size_t)inputs[2 * second + 1] - self->keys;
        plx_task_ask(t + 1, (int32_t)(self->keys + sum % self->values), targets, mask);
    }
}

const plx_task plx_task_pairsum = {
    .name = "pairsum",
    .summary = "add the values that two keys were paired with",
    .options_size = sizeof(plx_task_pairs),
    .parse = pairsum_parse,
    .describe = plx_task_pairs_describe,
    .generate = pairsum_generate,
};
