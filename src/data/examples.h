/* examples.h - instruction data: conversations whose answers are learnt, packed into rows.
 *
 * A file is JSON lines (.jsonl, .ndjson, also .zst) or one JSON list (.json) of records, each with
 *     messages       [{"role", "content"}, ...], or conversations [{"from", "value"}, ...]
 *     prompt         and completion, or response: as they are, without a template
 *     instruction    with input, if it is not empty, below it; and output, or response
 * A record becomes tokens by a chat template; the loss counts those that the assistant says and the end of its answer.
 * Examples longer than a row are cut at the row's end. Whole examples fill a row one after the other, each a document
 * of its own: none sees another. All tokens stand in memory, five bytes each. */
#ifndef PLX_DATA_EXAMPLES_H
#define PLX_DATA_EXAMPLES_H

#include "text/chat.h"

typedef struct plx_examples plx_examples;
typedef struct plx_example_rows plx_example_rows; /* some of them, packed */

typedef struct plx_examples_options {
    const plx_chat_template *form;
    const char *system; /* message put before conversations without one; NULL: none */
    int32_t end;        /* the model's end-of-sequence id, or -1 */
    size_t length;      /* tokens a row */
} plx_examples_options;

/* Reads the files. Errors: those of files; ERROR_FORMAT naming file and line (or number) of a record that is none of
 * the above or has no answer; ERROR_VALUE when nothing is left to learn from. */
plx_status plx_examples_open(plx_context *context, plx_tokenizer *tokenizer, const char *const *paths, size_t count,
                             const plx_examples_options *options, plx_examples **examples);
void plx_examples_free(plx_examples *examples); /* after the rows made of them */
/* A number that changes with the tokens and with what is learnt of them. */
uint64_t plx_examples_content(const plx_examples *examples);

/* Packs examples floor(from n) .. floor(to n) - 1 of the n, in an order that the seed decides. ERROR_VALUE when these
 * are none. */
plx_status plx_examples_pack(const plx_examples *examples, double from, double to, uint64_t seed,
                             plx_example_rows **rows);
void plx_example_rows_free(plx_example_rows *rows);
size_t plx_example_rows_count(const plx_example_rows *rows);
/* Row `index` < count, arrays of options.length; what is left of a row repeats token 0 with mask 0, each its own
 * document. */
void plx_example_rows_read(const plx_example_rows *rows, size_t index, int32_t *inputs, int32_t *targets, float *mask,
                           int32_t *start);

#endif
