/* evaluate.c - how well a model predicts a text.
 *
 * The text is one stream of tokens: its documents with a separator between them, which starts a new document as in
 * training. Windows of N tokens overlap by one, so that each token but the first is scored once, with at most N - 1
 * tokens before it:
 *
 *     tokens    0 1 2 3 4 5 6 7 8 9         N = 4
 *     windows   [0 1 2 3]                   scores 1 2 3
 *                     [3 4 5 6]             scores 4 5 6
 *                           [6 7 8 9]       scores 7 8 9
 *
 * Several windows are scored together. Memory is bounded by those windows, whatever the file's length. */
#include "io/text_reader.h"
#include "model/passes.h"
#include "text/tokenizer.h"

#include <math.h>
#include <string.h>

#define WINDOW_MOST ((size_t)1 << 24)
#define TOKENS_TOGETHER 4096

typedef struct evaluation {
    plx_context *context;
    plx_model *model;
    plx_tokenizer *tokenizer;
    int32_t separator;
    size_t window, rows; /* tokens a window, windows a batch */
    int32_t *tokens;     /* the stream's part that waits: up to rows * (window - 1) + 1 */
    size_t count;
    int32_t *inputs, *targets, *start; /* [rows, window - 1] */
    float *mask;
    plx_arena arena;
    plx_loss_pass pass;
    plx_score score;
    double bytes;           /* of the scored tokens */
    double place, file_size; /* bytes of the file that the tokens so far came from, and all of them */
    double scored;           /* bytes whose tokens are scored */
} evaluation;

/* A long window takes long: it moves on with the layers, the last of which is followed by the head. */
static plx_status layer_done(void *user, size_t done, size_t layers)
{
    const evaluation *made = user;
    const double part = (double)done / (double)(layers + 1);
    plx_progress(made->context, "scoring text", made->scored + part * (made->place - made->scored), made->file_size);
    return plx_check_cancel(made->context);
}

static plx_status make(evaluation *made, size_t window)
{
    plx_context *context = made->context;
    PLX_TRY(plx_model_tokenizer(made->model, &made->tokenizer));
    made->separator = plx_tokenizer_separator(made->tokenizer);
    made->window = window ? window : made->model->config.max_position_embeddings;
    if (made->window < 2 || made->window > WINDOW_MOST)
        return plx_fail(context, PLX_ERROR_VALUE, "a window is of 2 to %zu tokens, not %zu", WINDOW_MOST, made->window);
    size_t length = made->window - 1;
    made->rows = length < TOKENS_TOGETHER ? TOKENS_TOGETHER / length : 1;
    size_t together = made->rows * length;
    made->tokens = plx_alloc_array(context, together + 1, sizeof *made->tokens);
    made->inputs = plx_alloc_array(context, together, sizeof *made->inputs);
    made->targets = plx_alloc_array(context, together, sizeof *made->targets);
    made->start = plx_alloc_array(context, together, sizeof *made->start);
    made->mask = plx_alloc_array(context, together, sizeof *made->mask);
    if (!made->tokens || !made->inputs || !made->targets || !made->start || !made->mask) return PLX_ERROR_MEMORY;
    return plx_loss_pass_create(context, together, &made->pass);
}

/* Scores what waits, as whole windows and at the text's end a shorter one; the last token stays, to begin the next. */
static plx_status score(evaluation *made)
{
    if (made->count < 2) return PLX_OK;
    size_t scored = made->count - 1, length = made->window - 1;
    if (length > scored) length = scored; /* one window, all of it */
    size_t rows = (scored + length - 1) / length;
    for (size_t i = 0; i < rows * length; i++) {
        bool padding = i >= scored;
        size_t t = i % length;
        made->inputs[i] = padding ? 0 : made->tokens[i];
        made->targets[i] = padding ? 0 : made->tokens[i + 1];
        made->mask[i] = padding ? 0 : 1;
        bool starts = padding || t == 0 || made->inputs[i] == made->separator;
        made->start[i] = starts ? (int32_t)t : made->start[i - 1];
        if (!padding) made->bytes += (double)plx_token_byte_count(made->tokenizer, made->targets[i]);
    }
    plx_batch batch = {.rows = rows,
                       .length = length,
                       .inputs = made->inputs,
                       .targets = made->targets,
                       .mask = made->mask,
                       .start = made->start};
    PLX_TRY(plx_score_in(&made->arena, &made->pass, &batch, &made->score));
    made->scored = made->place;
    plx_progress(made->context, "scoring text", made->place, made->file_size);
    made->tokens[0] = made->tokens[scored];
    made->count = 1;
    return plx_check_cancel(made->context);
}

static plx_status add(evaluation *made, int32_t token)
{
    made->tokens[made->count++] = token;
    return made->count == made->rows * (made->window - 1) + 1 ? score(made) : PLX_OK;
}

/* place: bytes of the file up to the piece's end. A piece may be the whole file: its tokens share what it adds. */
static plx_status add_piece(evaluation *made, plx_encoder *encoder, const plx_text_piece *piece, double place)
{
    plx_encoder_clear(encoder);
    PLX_TRY(plx_encoder_feed(encoder, piece->bytes, piece->count, piece->ends));
    const double share = encoder->count > 0 ? (place - made->place) / (double)encoder->count : 0;
    for (size_t i = 0; i < encoder->count; i++) {
        made->place += share;
        PLX_TRY(add(made, encoder->tokens[i]));
    }
    return PLX_OK;
}

static plx_status read_text(evaluation *made, const char *path)
{
    plx_text_reader *reader = NULL;
    plx_text_piece piece;
    bool more = true, first = true;
    PLX_TRY(plx_text_open(made->context, path, NULL, &reader));
    made->file_size = (double)plx_text_size(reader);
    plx_progress(made->context, "scoring text", 0, made->file_size);
    plx_encoder encoder = plx_encoder_make(made->tokenizer);
    plx_status status = plx_text_next(reader, &piece, &more);
    while (status == PLX_OK && more) {
        if (piece.starts && (!first || made->tokenizer->before_text >= 0) && made->separator >= 0) status = add(made, made->separator);
        first = false;
        if (status == PLX_OK) status = add_piece(made, &encoder, &piece, (double)plx_text_position(reader));
        if (status == PLX_OK) status = plx_text_next(reader, &piece, &more);
    }
    plx_encoder_release(&encoder);
    plx_text_close(reader);
    return status == PLX_OK ? score(made) : status;
}

plx_status plx_evaluate_file(plx_model *model, const char *path, size_t window, plx_evaluation *result)
{
    evaluation made = {.context = model->context, .model = model};
    plx_arena_init(&made.arena, model);
    made.arena.layer_done = layer_done;
    made.arena.watcher = &made;
    plx_status status = make(&made, window);
    if (status == PLX_OK) status = read_text(&made, path);
    if (status == PLX_OK && made.score.tokens == 0)
        status = plx_fail(made.context, PLX_ERROR_VALUE, "%s has a single token; at least two are needed to score one",
                          path);
    if (status == PLX_OK && !isfinite(made.score.loss_sum))
        status = plx_fail(made.context, PLX_ERROR_NUMERIC,
                          "the loss on %s is not finite: the model's weights are damaged or diverged", path);
    if (status == PLX_OK) {
        double nll = made.score.loss_sum / made.score.weight;
        *result = (plx_evaluation){.tokens = made.score.tokens,
                                   .nll = nll,
                                   .perplexity = exp(nll),
                                   .bits_per_byte = made.bytes > 0 ? made.score.loss_sum / log(2) / made.bytes : 0};
    }
    plx_arena_release(&made.arena);
    plx_loss_pass_release(made.context, &made.pass);
    plx_free(made.context, made.tokens);
    plx_free(made.context, made.inputs);
    plx_free(made.context, made.targets);
    plx_free(made.context, made.start);
    plx_free(made.context, made.mask);
    return status;
}
