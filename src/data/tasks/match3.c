/* match3 - does a token sum to zero with two before it?
 *
 * Tokens: 0 .. p-1. The label at t is 1 if there are j < k < t among the window - 1 tokens before t with
 * x_t + x_j + x_k = 0 mod p, else 0; the answers are the ids 0 and 1. Asked at every t >= 3. x_t is drawn so that each
 * label has probability 1/2 wherever both are possible; both always are while (window-1)(window-2)/2 < p. Chance 1/2.
 * Difficulty: p (31), window (8), sequence_length (32). */
#include "data/tasks/task.h"

typedef struct match3_options {
    size_t p, window, length;
} match3_options;

static plx_status match3_parse(plx_keys *keys, void *options)
{
    match3_options *self = options;
    *self = (match3_options){.p = 31, .window = 8, .length = 32};
    PLX_TRY(plx_keys_size(keys, "p", &self->p, 2, PLX_TASK_SYMBOLS_MOST));
    PLX_TRY(plx_keys_size(keys, "window", &self->window, 3, PLX_TASK_WINDOW_MOST));
    return plx_task_length(keys, &self->length, 4);
}

static void match3_describe(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance)
{
    const match3_options *self = options;
    *vocab_size = self->p;
    *sequence_length = self->length;
    *chance = 0.5;
}

static size_t match3_complete(size_t a, size_t b, size_t symbols) { return (2 * symbols - a - b) % symbols; }

static void match3_generate(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets,
                            float *mask)
{
    const match3_options *self = options;
    plx_random random = plx_task_random(seed, row);
    plx_task_completions(&random, match3_complete, self->p, self->window, self->length, inputs, targets, mask);
}

const plx_task plx_task_match3 = {
    .name = "match3",
    .summary = "does a token sum to zero with two before it",
    .options_size = sizeof(match3_options),
    .parse = match3_parse,
    .describe = match3_describe,
    .generate = match3_generate,
};
