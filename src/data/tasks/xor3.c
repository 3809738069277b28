/* xor3 - is a token the exclusive or of two before it?
 *
 * Tokens: 0 .. 2^bits - 1. The label at t is 1 if there are j < k < t among the window - 1 tokens before t with
 * x_j xor x_k == x_t, else 0; the answers are the ids 0 and 1. Asked at every t >= 3. x_t is drawn so that each label
 * has probability 1/2 wherever both are possible; both always are while (window-1)(window-2)/2 < 2^bits. Chance 1/2.
 * Difficulty: bits (4), window (6), sequence_length (32). */
#include "data/tasks/task.h"

typedef struct xor3_options {
    size_t bits, window, length;
} xor3_options;

static plx_status xor3_parse(plx_keys *keys, void *options)
{
    xor3_options *self = options;
    *self = (xor3_options){.bits = 4, .window = 6, .length = 32};
    PLX_TRY(plx_keys_size(keys, "bits", &self->bits, 1, 12));
    PLX_TRY(plx_keys_size(keys, "window", &self->window, 3, PLX_TASK_WINDOW_MOST));
    return plx_task_length(keys, &self->length, 4);
}

static void xor3_describe(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance)
{
    const xor3_options *self = options;
    *vocab_size = (size_t)1 << self->bits;
    *sequence_length = self->length;
    *chance = 0.5;
}

static size_t xor3_complete(size_t a, size_t b, size_t symbols)
{
    (void)symbols;
    return a ^ b;
}

static void xor3_generate(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets,
                          float *mask)
{
    const xor3_options *self = options;
    plx_random random = plx_task_random(seed, row);
    plx_task_completions(&random, xor3_complete, (size_t)1 << self->bits, self->window, self->length, inputs, targets,
                         mask);
}

const plx_task plx_task_xor3 = {
    .name = "xor3",
    .summary = "is a token the exclusive or of two before it",
    .options_size = sizeof(xor3_options),
    .parse = xor3_parse,
    .describe = xor3_describe,
    .generate = xor3_generate,
};
