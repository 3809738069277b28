/* mqar - multi-query associative recall.
 *
 * Tokens: keys 0 .. keys-1, then values. A row is `pairs` times "k v" with distinct keys and independent uniform
 * values, then `queries` times "k v" where k is one of the row's keys, uniform and independent, and v its value.
 * Asked: v, at the query's k only. Length 2 (pairs + queries). Chance 1 / values.
 * Difficulty: keys (16), values (16), pairs (8; at most keys), queries (8). */
#include "data/tasks/task.h"

static plx_status mqar_parse(plx_keys *keys, void *options)
{
    plx_task_pairs *self = options;
    *self = (plx_task_pairs){.keys = 16, .values = 16, .pairs = 8, .queries = 8};
    return plx_task_pairs_parse(keys, self);
}

static void mqar_generate(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets,
                          float *mask)
{
    const plx_task_pairs *self = options;
    plx_random random = plx_task_random(seed, row);
    plx_task_clear(2 * (self->pairs + self->queries), targets, mask);
    plx_task_pairs_fill(self, &random, inputs);
    for (size_t i = 0; i < self->queries; i++) {
        size_t pair = plx_random_below(&random, self->pairs), t = 2 * (self->pairs + i);
        inputs[t] = inputs[2 * pair];
        inputs[t + 1] = inputs[2 * pair + 1];
        plx_task_ask(t, inputs[t + 1], targets, mask);
    }
}

const plx_task plx_task_mqar = {
    .name = "mqar",
    .summary = "recall the value that a key was paired with",
    .options_size = sizeof(plx_task_pairs),
    .parse = mqar_parse,
    .describe = plx_task_pairs_describe,
    .generate = mqar_generate,
};
