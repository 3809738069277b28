/* hop - following a function k times.
 *
 * f is a random cycle through n = items items, another one in each row. Tokens: a * n + b says f(a) = b; n * n + a
 * names item a. A row is the n tokens a * n + f(a) in random order, then `queries` tokens n * n + a, a uniform and
 * independent. Asked at each query: n * n + f(f(..f(a))), f taken `hops` times; the answer does not appear in the
 * inputs. Length n + queries. Chance 1 / items.
 * Difficulty: items (8), hops (2; any number, but the cycle makes hops and hops mod items the same question), queries
 * (8). */
#include "data/tasks/task.h"

#define HOP_ITEMS_MOST 256

typedef struct hop_options {
    size_t items, hops, queries;
} hop_options;

static plx_status hop_parse(plx_keys *keys, void *options)
{
    hop_options *self = options;
    *self = (hop_options){.items = 8, .hops = 2, .queries = 8};
    PLX_TRY(plx_keys_size(keys, "items", &self->items, 2, HOP_ITEMS_MOST));
    PLX_TRY(plx_keys_size(keys, "hops", &self->hops, 1, 1000000));
    return plx_keys_size(keys, "queries", &self->queries, 1, PLX_TASK_SYMBOLS_MOST);
}

static void hop_describe(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance)
{
    const hop_options *self = options;
    *vocab_size = self->items * self->items + self->items;
    *sequence_length = self->items + self->queries;
    *chance = 1.0 / (double)self->items;
}

static void hop_generate(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets,
                         float *mask)
{
    const hop_options *self = options;
    size_t n = self->items;
    plx_random random = plx_task_random(seed, row);
    int32_t cycle[HOP_ITEMS_MOST]; /* f(cycle[i]) = cycle[i + 1] */
    plx_task_clear(n + self->queries, targets, mask);
    plx_task_order(&random, cycle, n);
    for (size_t i = 0; i < n; i++) inputs[i] = cycle[i] * (int32_t)n + cycle[(i + 1) % n];
    plx_random_shuffle(&random, inputs, n);
    for (size_t i = 0; i < self->queries; i++) {
        size_t place = plx_random_below(&random, n), t = n + i;
        inputs[t] = (int32_t)(n * n) + cycle[place];
        plx_task_ask(t, (int32_t)(n * n) + cycle[(place + self->hops) % n], targets, mask);
    }
}

const plx_task plx_task_hop = {
    .name = "hop",
    .summary = "follow a function given by its pairs several times",
    .options_size = sizeof(hop_options),
    .parse = hop_parse,
    .describe = hop_describe,
    .generate = hop_generate,
};
