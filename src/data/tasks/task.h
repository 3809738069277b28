/* task.h - what the tasks share. A task is one file here and one line of tasks.def; docs/tasks.md describes them all.
 *
 * Every row is a pure function of (options, seed, row number). Where nothing is asked, mask and target are 0. */
#ifndef PLX_DATA_TASKS_TASK_H
#define PLX_DATA_TASKS_TASK_H

#include "core/random.h"
#include "data/data.h"

#define PLX_TASK_LENGTH_MOST 65536 /* tokens of a row */
#define PLX_TASK_SYMBOLS_MOST 4096 /* ids of one kind: so small that a generator's tables fit on the stack */
#define PLX_TASK_WINDOW_MOST 256   /* of questions about pairs: their cost grows with its square */

/* The random numbers of one row. */
static inline plx_random plx_task_random(uint64_t seed, uint64_t row)
{
    plx_random random;
    plx_random_init(&random, seed, row);
    return random;
}

static inline void plx_task_clear(size_t length, int32_t *targets, float *mask)
{
    for (size_t t = 0; t < length; t++) {
        targets[t] = 0;
        mask[t] = 0.0f;
    }
}

/* The answer at t counts. */
static inline void plx_task_ask(size_t t, int32_t answer, int32_t *targets, float *mask)
{
    targets[t] = answer;
    mask[t] = 1.0f;
}

/* "sequence_length", from `least` on, default as *length is. */
static inline plx_status plx_task_length(plx_keys *keys, size_t *length, size_t least)
{
    return plx_keys_size(keys, "sequence_length", length, least, PLX_TASK_LENGTH_MOST);
}

/* Writes 0 .. n-1 in random order. */
static inline void plx_task_order(plx_random *random, int32_t *order, size_t n)
{
    for (size_t i = 0; i < n; i++) order[i] = (int32_t)i;
    plx_random_shuffle(random, order, n);
}

/* ---- tables of pairs (mqar, pairsum): `k v` pairs with distinct keys, values independent and uniform ---- */

typedef struct plx_task_pairs {
    size_t keys, values, pairs, queries; /* ids 0 .. keys-1 are keys, keys .. keys+values-1 values */
} plx_task_pairs;
/* Keys "keys", "values", "pairs", "queries". */
plx_status plx_task_pairs_parse(plx_keys *keys, plx_task_pairs *options);
/* plx_task.describe of both: the pairs, then two tokens a query; answers are values. */
void plx_task_pairs_describe(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance);
/* Fills inputs[0 .. 2*pairs): k v k v ... */
void plx_task_pairs_fill(const plx_task_pairs *options, plx_random *random, int32_t *inputs);

/* ---- questions about pairs before a token (xor3, match3) ---- */

/* The one symbol that completes the pair (a, b). */
typedef size_t (*plx_task_complete)(size_t a, size_t b, size_t symbols);
/* Fills a row of symbols. The label at t is 1 if two of the window-1 tokens before t, at j < k, have
 * complete(x_j, x_k) == x_t, else 0; asked from t = 3 on. A fair coin decides the label, then x_t is drawn from the
 * symbols that have it, or from all where none has. */
void plx_task_completions(plx_random *random, plx_task_complete complete, size_t symbols, size_t window, size_t length,
                          int32_t *inputs, int32_t *targets, float *mask);

#endif
