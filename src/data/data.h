/* data.h - where batches come from: text files, or a task made on the fly; both behind one interface.
 *
 * Every training row is a pure function of (recipe, seed, its number), so the cursor is a count of rows and a run
 * resumes exactly by asking for the next number.
 *
 * Text: all files are tokenised once, streamed in bounded memory, to a token file in the run's directory (written
 * aside, renamed). Each document begins with the separator (id 256 for bytes), which starts a new segment. A training
 * window is sequence_length + 1 consecutive tokens (inputs and targets overlap by one); windows tile the stream (what
 * is left at its end, less than a window, is not trained on) and are visited in an order shuffled anew by seed for
 * each pass (plx_random_permute).
 * The last valid_fraction of the token stream is held out, or the `valid` files are. */
#ifndef PLX_DATA_DATA_H
#define PLX_DATA_DATA_H

#include "core/node.h"

typedef struct plx_data plx_data;

/* What a recipe's data section says without touching a file. */
typedef struct plx_data_description {
    size_t vocab_size, sequence_length;
    bool task;
    char tokenizer[1024];   /* "bytes" or a path; "" for tasks */
    int64_t separator;      /* -1 for tasks */
    int64_t end;            /* what ends a text that the model writes: an answer's end, or the separator; -1 for tasks */
    double chance;          /* tasks: accuracy of guessing; else -1 */
} plx_data_description;
/* Reads and checks the data section (all keys, of the task too). */
plx_status plx_data_describe(plx_context *context, const plx_node *section, plx_data_description *description);

/* Opens it: cache_directory receives the token files (text only; an existing one is used again when the recipe, files'
 * sizes and times agree). */
plx_status plx_data_open(plx_context *context, const plx_node *section, uint64_t seed, const char *cache_directory,
                         plx_data **data);
void plx_data_free(plx_data *data);

/* Rows number first .. first + rows - 1 of the endless training stream. The batch's arrays are the data's own, valid
 * until the next call of this or of plx_data_valid. */
plx_status plx_data_train(plx_data *data, uint64_t first, size_t rows, plx_batch *batch);
/* Held-out rows first .. first+rows-1 of a fixed, finite set (the last batch may be padded with mask 0 rows);
 * batch->rows = 0 once first is beyond its end. *bytes: number of bytes that the masked-in targets stand for (0 for
 * tasks). */
plx_status plx_data_valid(plx_data *data, uint64_t first, size_t rows, plx_batch *batch, size_t *bytes);
uint64_t plx_data_valid_rows(const plx_data *data);   /* 0: nothing is held out */
uint64_t plx_data_train_rows(const plx_data *data);   /* of one pass; 0 for tasks (endless) */
/* A number that changes when texts or conversations hold something else; 0 for tasks. */
uint64_t plx_data_content(const plx_data *data);

/* ---- tasks: one file and one line of tasks.def each ---- */
typedef struct plx_task {
    const char *name, *summary;
    size_t options_size;
    plx_status (*parse)(plx_keys *keys, void *options);  /* difficulty keys, defaults first */
    /* Filled from the options. */
    void (*describe)(const void *options, size_t *vocab_size, size_t *sequence_length, double *chance);
    /* One row: inputs, targets and mask of sequence_length each, from random numbers of the row's own. Must not fail.
     * */
    void (*generate)(const void *options, uint64_t seed, uint64_t row, int32_t *inputs, int32_t *targets, float *mask);
} plx_task;
extern const plx_task *const plx_tasks[]; /* ended by NULL */

#endif
