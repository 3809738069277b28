/* task.c - the list of tasks, and what several of them share. */
#include "data/tasks/task.h"

#define PLX_TASK(name) extern const plx_task name;
#include "data/tasks/tasks.def"
#undef PLX_TASK

const plx_task *const plx_tasks[] = {
#define PLX_TASK(name) &name,
#include "data/tasks/tasks.def"
#undef PLX_TASK
    NULL};

plx_status plx_task_pairs_parse(plx_keys *keys, plx_task_pairs *options)
{
    PLX_TRY(plx_keys_size(keys, "keys", &options->keys, 1, PLX_TASK_SYMBOLS_MOST));
    PLX_TRY(plx_keys_size(keys, "values", &options->values, 1, PLX_TASK_SYMBOLS_MOST));
    PLX_TRY(plx_keys_size(keys, "pairs", &options->pairs, 1, PLX_TASK_SYMBOLS_MOST));
    PLX_TRY(plx_keys_size(keys, "queries", &options->queries, 1, PLX_TASK_SYMBOLS_MOST));
    if (options->pairs > options->keys)
        return plx_keys_fail(keys, "pairs",
                             "%zu pairs need as many distinct keys, there are %zu: raise keys or lower pairs",
                             options->pairs, options->keys);
    return PLX_OK;
}

void plx_task_pairs_describe(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance)
{
    const plx_task_pairs *self = options;
    *vocab_size = self->keys + self->values;
    *sequence_length = 2 * (self->pairs + self->queries);
    *chance = 1.0 / (double)self->values;
}

void plx_task_pairs_fill(const plx_task_pairs *options, plx_random *random, int32_t *inputs)
{
    int32_t order[PLX_TASK_SYMBOLS_MOST];
    plx_task_order(random, order, options->keys);
    for (size_t i = 0; i < options->pairs; i++) {
        inputs[2 * i] = order[i];
        inputs[2 * i + 1] = (int32_t)(options->keys + plx_random_below(random, options->values));
    }
}

void plx_task_completions(plx_random *random, plx_task_complete complete, size_t symbols, size_t window, size_t length,
                          int32_t *inputs, int32_t *targets, float *mask)
{
    bool completes[PLX_TASK_SYMBOLS_MOST]; /* symbols that complete a pair of the window */
    plx_task_clear(length, targets, mask);
    for (size_t t = 0; t < length; t++) {
        size_t first = t >= window - 1 ? t - (window - 1) : 0, members = 0;
        for (size_t s = 0; s < symbols; s++) completes[s] = false;
        for (size_t k = first + 1; k < t; k++)
            for (size_t j = first; j < k; j++)
                completes[complete((size_t)inputs[j], (size_t)inputs[k], symbols)] = true;
        for (size_t s = 0; s < symbols; s++) members += completes[s];

        bool label = plx_random_below(random, 2) == 1;
        size_t choices = label ? members : symbols - members;
        if (choices == 0) { /* every symbol has the other label */
            label = !label;
            choices = symbols;
        }
        size_t left = plx_random_below(random, choices), symbol = 0;
        while (completes[symbol] != label || left-- > 0) symbol++;
        inputs[t] = (int32_t)symbol;
        if (t >= 3) plx_task_ask(t, label, targets, mask);
    }
}
