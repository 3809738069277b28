/* generate.c - text from a prompt: the prompt goes through a session in chunks, then token by token. */
#include "infer/state.h"
#include "text/utf8.h"

#include <string.h>

#define PROMPT_CHUNK 256

plx_generate_options plx_generate_defaults(void)
{
    return (plx_generate_options){.max_tokens = 256, .sampling = plx_sampling_defaults(), .stop_at_separator = false};
}

typedef struct generation {
    plx_context *context;
    plx_model *model;
    plx_tokenizer *tokenizer;
    const plx_generate_options *options;
    plx_session *session;
    int32_t separator;
    int32_t *tokens; /* prompt, then what is made */
    size_t count, room;
    size_t choices; /* ids that the tokenizer knows; a model's table may be padded beyond them */
    float *logits;
    char *text; /* made so far */
    size_t bytes, text_room;
    size_t shown; /* of them, handed to options->piece */
} generation;

static plx_status add_token(generation *made, int32_t token)
{
    if (made->count == made->room) {
        size_t room = made->room < 64 ? 64 : made->room * 2;
        int32_t *tokens = plx_grow(made->context, made->tokens, made->room * sizeof *tokens, room * sizeof *tokens);
        if (!tokens) return PLX_ERROR_MEMORY;
        made->tokens = tokens;
        made->room = room;
    }
    made->tokens[made->count++] = token;
    return PLX_OK;
}

/* An empty prompt begins where documents begin: behind the separator. */
static plx_status read_prompt(generation *made, const char *prompt, size_t bytes)
{
    int32_t *tokens = NULL;
    size_t count = 0;
    if (bytes > 0) PLX_TRY(plx_tokenizer_encode(made->tokenizer, prompt, bytes, &tokens, &count));
    plx_status status = PLX_OK;
    int32_t before = plx_tokenizer_before_text(made->tokenizer);
    if (before >= 0 && count > 0 && tokens[0] != before) status = add_token(made, before);
    for (size_t i = 0; i < count && status == PLX_OK; i++) status = add_token(made, tokens[i]);
    if (tokens) plx_tokens_free(made->tokenizer, tokens);
    if (status == PLX_OK && count == 0) {
        if (made->separator < 0)
            return plx_fail(made->context, PLX_ERROR_VALUE,
                            "this model needs a prompt: its tokenizer has no separator");
        status = add_token(made, made->separator);
    }
    return status;
}

static plx_status step(generation *made, size_t first, size_t count, float *logits)
{
    bool starts[PROMPT_CHUNK];
    for (size_t i = 0; i < count; i++) starts[i] = made->tokens[first + i] == made->separator;
    plx_session_row row = {.slot = 0, .tokens = made->tokens + first, .count = count, .new_document = starts};
    return plx_session_step(made->session, &row, 1, logits, NULL);
}

static plx_status begin(generation *made, const char *prompt, size_t bytes)
{
    plx_context *context = made->context;
    size_t vocab = made->model->config.vocab_size, capacity;
    made->choices = plx_tokenizer_vocab_size(made->tokenizer);
    if (made->choices > vocab)
        return plx_fail(context, PLX_ERROR_VALUE, "the tokenizer has %zu ids, but the model only %zu", made->choices,
                        vocab);
    made->separator = plx_tokenizer_separator(made->tokenizer);
    PLX_TRY(read_prompt(made, prompt, bytes));
    if (!plx_add_sizes(made->count, made->options->max_tokens, &capacity)) capacity = SIZE_MAX;
    made->logits = plx_alloc_array(context, vocab, sizeof *made->logits);
    if (!made->logits) return PLX_ERROR_MEMORY;
    plx_session_options options = {.slots = 1,
                                   .capacity = capacity,
                                   .chunk = made->count < PROMPT_CHUNK ? made->count : PROMPT_CHUNK,
                                   .rollback = 1};
    PLX_TRY(plx_session_create(made->model, &options, &made->session));
    for (size_t done = 0; done < made->count;) {
        size_t count = made->count - done < options.chunk ? made->count - done : options.chunk;
        PLX_TRY(plx_check_cancel(context));
        PLX_TRY(step(made, done, count, done + count == made->count ? made->logits : NULL));
        done += count;
    }
    return PLX_OK;
}

/* Hands out the new text up to the last whole character; bytes that can become none pass as they are. */
static void show(generation *made)
{
    size_t end = made->shown;
    while (end < made->bytes) {
        int length = plx_utf8_next(made->text + end, made->bytes - end);
        if (length == 0) break;
        end += (size_t)(length > 0 ? length : -length);
    }
    if (end > made->shown && made->options->piece)
        made->options->piece(made->options->user, made->text + made->shown, end - made->shown);
    made->shown = end;
}

static plx_status add_text(generation *made, int32_t token)
{
    char piece[1024];
    size_t bytes = sizeof piece;
    PLX_TRY(plx_tokenizer_decode(made->tokenizer, token, piece, &bytes));
    if (made->bytes + bytes + 1 > made->text_room) {
        size_t room = (made->text_room + bytes) * 2 + 64;
        char *text = plx_grow(made->context, made->text, made->text_room, room);
        if (!text) return PLX_ERROR_MEMORY;
        made->text = text;
        made->text_room = room;
    }
    memcpy(made->text + made->bytes, piece, bytes);
    made->bytes += bytes;
    made->text[made->bytes] = 0;
    show(made);
    return PLX_OK;
}

static plx_status decode(generation *made, size_t *tokens)
{
    for (*tokens = 0; *tokens < made->options->max_tokens; ++*tokens) {
        int32_t token;
        PLX_TRY(plx_check_cancel(made->context));
        PLX_TRY(plx_sample(made->context, &made->options->sampling, made->logits, made->choices, made->tokens,
                           made->count, *tokens, &token));
        if (token == made->separator && made->options->stop_at_separator) break;
        PLX_TRY(add_token(made, token));
        PLX_TRY(add_text(made, token));
        if (*tokens + 1 < made->options->max_tokens) PLX_TRY(step(made, made->count - 1, 1, made->logits));
    }
    return PLX_OK;
}

plx_status plx_generate(plx_model *model, plx_tokenizer *tokenizer, const char *prompt, size_t prompt_bytes,
                        const plx_generate_options *options, plx_generated *result)
{
    plx_generate_options defaults = plx_generate_defaults();
    generation made = {
        .context = model->context, .model = model, .tokenizer = tokenizer, .options = options ? options : &defaults};
    size_t tokens = 0;
    plx_status status = begin(&made, prompt, prompt_bytes);
    double started = plx_seconds();
    if (status == PLX_OK && !(made.text = plx_alloc(made.context, made.text_room = 64))) status = PLX_ERROR_MEMORY;
    if (status == PLX_OK) status = decode(&made, &tokens);
    if (status == PLX_OK) {
        *result = (plx_generated){
            .text = made.text, .bytes = made.bytes, .tokens = tokens, .seconds = plx_seconds() - started};
        made.text = NULL;
    }
    plx_session_free(made.session);
    plx_free(made.context, made.tokens);
    plx_free(made.context, made.logits);
    plx_free(made.context, made.text);
    return status;
}

void plx_generated_free(plx_model *model, plx_generated *result)
{
    if (!result) return;
    plx_free(model->context, result->text);
    *result = (plx_generated){0};
}
