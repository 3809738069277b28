/* pairtable - a fixed random table of two neighbours.
 *
 * Tokens: 0 .. symbols-1, uniform and independent. Asked at every t >= 1: Table[x_t, x_(t-1)], where the table's
 * entries are uniform symbols that depend on table_seed alone: the same in every row, in training and held out. Chance
 * 1 / symbols. Difficulty: symbols (16), sequence_length (32), table_seed (0; which table, not how hard). */
#include "data/tasks/task.h"

typedef struct pairtable_options {
    size_t symbols, length, table_seed;
} pairtable_options;

static plx_status pairtable_parse(plx_keys *keys, void *options)
{
    pairtable_options *self = options;
    *self = (pairtable_options){.symbols = 16, .length = 32, .table_seed = 0};
    PLX_TRY(plx_keys_size(keys, "symbols", &self->symbols, 2, PLX_TASK_SYMBOLS_MOST));
    PLX_TRY(plx_keys_size(keys, "table_seed", &self->table_seed, 0, (size_t)1 << 52));
    return plx_task_length(keys, &self->length, 2);
}

static void pairtable_describe(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance)
{
    const pairtable_options *self = options;
    *vocab_size = self->symbols;
    *sequence_length = self->length;
    *chance = 1.0 / (double)self->symbols;
}

/* The table is never held: an entry is a random number of its own. */
static int32_t table_entry(const pairtable_options *self, uint64_t stream, int32_t now, int32_t before)
{
    uint32_t block[4];
    plx_philox(self->table_seed, stream, (uint64_t)now * self->symbols + (uint64_t)before, block);
    return (int32_t)((uint64_t)block[0] * self->symbols >> 32);
}

static void pairtable_generate(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets,
                               float *mask)
{
    const pairtable_options *self = options;
    uint64_t stream = plx_hash("pairtable");
    plx_random random = plx_task_random(seed, row);
    plx_task_clear(self->length, targets, mask);
    for (size_t t = 0; t < self->length; t++) {
        inputs[t] = (int32_t)plx_random_below(&random, self->symbols);
        if (t >= 1) plx_task_ask(t, table_entry(self, stream, inputs[t], inputs[t - 1]), targets, mask);
    }
}

const plx_task plx_task_pairtable = {
    .name = "pairtable",
    .summary = "look up two neighbours in a fixed random table",
    .options_size = sizeof(pairtable_options),
    .parse = pairtable_parse,
    .describe = pairtable_describe,
    .generate = pairtable_generate,
};
