/* generate.c - text from prompts: they go through one session, a slot each, in chunks, then token by token.
 *
 * All that are being read or written have tokens that the session has not seen: the rest of the prompt, or the last
 * token chosen. A step takes those rows together that have about as many of them; one that is done leaves its slot to
 * the next prompt that waits. */
#include "infer/state.h"
#include "infer/written.h"

#include <string.h>

#define PROMPT_CHUNK 256 /* most tokens a row of a step */
#define TOGETHER_USUAL 8
#define STEP_MOST 512 /* tokens of a step of several prompts, */
#define STEP_CHEAP 32 /* and of one whose time is that of reading the weights, however many there are */

plx_generate_options plx_generate_defaults(void)
{
    return (plx_generate_options){.max_tokens = 256, .sampling = plx_sampling_defaults(), .stop_at_separator = false};
}

/* A prompt and what is made from it. */
typedef struct writing {
    size_t index;    /* among the prompts */
    int32_t *tokens; /* of the prompt, then those made */
    size_t count, room;
    size_t prompt, seen;            /* tokens of the prompt; those that the session holds */
    plx_written written;
    double begun, read;             /* when its prompt began to be read, and when it was */
    bool finished;
} writing;

typedef struct generation {
    plx_context *context;
    plx_model *model;
    plx_tokenizer *tokenizer;
    const plx_generate_options *options;
    bool alone; /* plx_generate: text is shown as it comes */
    plx_session *session;
    int32_t separator, end, own_end; /* end: of the tokenizer; own_end: of the model; -1 */
    size_t choices;        /* ids that the tokenizer knows; a model's table may be padded beyond them */
    writing *list;         /* [count] */
    size_t count, waiting; /* waiting: the first that has no slot yet */
    size_t slots;
    writing **held;        /* [slots] NULL: free */
    plx_session_row *rows; /* [slots] of a step */
    bool *starts;          /* [slots * PROMPT_CHUNK] */
    float *logits;         /* [slots, vocab] */
} generation;

static plx_status add_token(plx_context *context, writing *made, int32_t token)
{
    if (made->count == made->room) {
        size_t room = made->room < 64 ? 64 : made->room * 2;
        int32_t *tokens = plx_grow(context, made->tokens, made->room * sizeof *tokens, room * sizeof *tokens);
        if (!tokens) return PLX_ERROR_MEMORY;
        made->tokens = tokens;
        made->room = room;
    }
    made->tokens[made->count++] = token;
    return PLX_OK;
}

/* An empty prompt begins where documents begin: behind the separator. */
static plx_status encode_prompt(const generation *all, writing *made, const plx_prompt *prompt)
{
    int32_t *tokens = NULL;
    size_t count = 0;
    if (prompt->bytes > 0) PLX_TRY(plx_tokenizer_encode(all->tokenizer, prompt->text, prompt->bytes, &tokens, &count));
    plx_status status = PLX_OK;
    int32_t before = plx_tokenizer_before_text(all->tokenizer);
    if (before >= 0 && count > 0 && tokens[0] != before) status = add_token(all->context, made, before);
    for (size_t i = 0; i < count && status == PLX_OK; i++) status = add_token(all->context, made, tokens[i]);
    if (tokens) plx_tokens_free(all->tokenizer, tokens);
    if (status == PLX_OK && count == 0) {
        if (all->separator < 0)
            return plx_fail(all->context, PLX_ERROR_VALUE, "this model needs a prompt: its tokenizer has no separator");
        status = add_token(all->context, made, all->separator);
    }
    made->prompt = made->count;
    return status;
}

static plx_status prepare(generation *all, const plx_prompt *prompts, size_t together)
{
    plx_context *context = all->context;
    size_t vocab = all->model->config.vocab_size, longest = 0, capacity;
    all->choices = plx_tokenizer_vocab_size(all->tokenizer);
    if (all->choices > vocab)
        return plx_fail(context, PLX_ERROR_VALUE, "the tokenizer has %zu ids, but the model only %zu", all->choices,
                        vocab);
    all->separator = plx_tokenizer_separator(all->tokenizer);
    all->end = plx_tokenizer_eos(all->tokenizer);
    all->own_end = (int32_t)all->model->config.eos_token_id;
    all->list = plx_alloc_array(context, all->count, sizeof *all->list);
    if (!all->list) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < all->count; i++) {
        writing *made = &all->list[i];
        made->index = i;
        made->begun = made->read = plx_seconds();
        PLX_TRY(encode_prompt(all, made, &prompts[i]));
        if (made->count > longest) longest = made->count;
        if (!(made->written.text = plx_alloc(context, made->written.room = 64))) return PLX_ERROR_MEMORY;
    }
    const size_t positions = all->model->config.max_position_embeddings;
    if (longest > positions)
        plx_log(
            context, PLX_LOG_WARNING,
            "a prompt of %zu tokens is longer than the %zu positions that the model is meant for: it may read badly",
            longest, positions);
    if (!plx_add_sizes(longest, all->options->max_tokens, &capacity)) capacity = SIZE_MAX;
    all->slots = together < all->count ? together : all->count;
    plx_session_options options = {.slots = all->slots,
                                   .capacity = capacity,
                                   .chunk = longest < PROMPT_CHUNK ? longest : PROMPT_CHUNK,
                                   .rollback = 1,
                                   .state = all->options->state};
    PLX_TRY(plx_session_create(all->model, &options, &all->session));
    size_t numbers;
    if (!plx_multiply_sizes(all->slots, vocab, &numbers))
        return plx_fail(context, PLX_ERROR_MEMORY, "the logits of %zu prompts need more memory than there is",
                        all->slots);
    all->held = plx_alloc_array(context, all->slots, sizeof *all->held);
    all->rows = plx_alloc_array(context, all->slots, sizeof *all->rows);
    all->starts = plx_alloc_array(context, all->slots * PROMPT_CHUNK, sizeof *all->starts);
    all->logits = plx_alloc_array(context, numbers, sizeof *all->logits);
    return all->held && all->rows && all->starts && all->logits ? PLX_OK : PLX_ERROR_MEMORY;
}

static plx_generated result_of(const writing *made)
{
    return (plx_generated){.text = made->written.text,
                           .bytes = made->written.bytes,
                           .tokens = made->count - made->prompt,
                           .seconds = plx_seconds() - made->read,
                           .read = made->prompt,
                           .read_seconds = made->read - made->begun};
}

/* Free slots go to prompts that wait. False: nothing is left to do. */
static bool fill_slots(generation *all)
{
    bool any = false;
    for (size_t i = 0; i < all->slots; i++) {
        if (!all->held[i] && all->waiting < all->count) {
            all->held[i] = &all->list[all->waiting++];
            all->held[i]->begun = plx_seconds();
        }
        any = any || all->held[i];
    }
    return any;
}

static size_t unseen(const writing *made)
{
    size_t count = made->count - made->seen;
    return count < PROMPT_CHUNK ? count : PROMPT_CHUNK;
}

/* The rows of the next step, at most one a slot: those with nearly as many tokens as the longest, because all take as
 * long as that, or all of them where that costs nothing. */
static size_t choose_rows(generation *all)
{
    size_t longest = 0, held = 0, count = 0;
    for (size_t i = 0; i < all->slots; i++) {
        if (!all->held[i]) continue;
        held++;
        if (unseen(all->held[i]) > longest) longest = unseen(all->held[i]);
    }
    for (size_t i = 0; i < all->slots; i++) {
        writing *made = all->held[i];
        if (!made || (4 * unseen(made) < 3 * longest && held * longest > STEP_CHEAP)) continue;
        if (count > 0 && longest > 1 && (count + 1) * longest > STEP_MOST) break;
        bool *starts = all->starts + count * PROMPT_CHUNK;
        const int32_t *tokens = made->tokens + made->seen;
        all->rows[count] = (plx_session_row){i, tokens, unseen(made), starts};
        for (size_t t = 0; t < all->rows[count].count; t++) /* a prompt is one document, whatever is in it */
            starts[t] = tokens[t] == all->separator && made->seen + t >= made->prompt;
        count++;
    }
    return count;
}

/* One more token for the prompt, or its end. */
static plx_status choose_token(const generation *all, writing *made, const float *logits)
{
    const plx_generate_options *options = all->options;
    size_t number = made->count - made->prompt;
    int32_t token;
    if (number == 0) made->read = plx_seconds();
    plx_sampling sampling = options->sampling;
    sampling.seed += made->index;
    PLX_TRY(plx_sample(all->context, &sampling, logits, all->choices, made->tokens, made->count, number, &token));
    const bool ends = token == all->separator || token == all->end || token == all->own_end;
    made->finished = ends && options->stop_at_separator;
    if (made->finished) return PLX_OK;
    PLX_TRY(add_token(all->context, made, token));
    made->finished = number + 1 == options->max_tokens;
    PLX_TRY(plx_written_add(all->context, &made->written, all->tokenizer, token));
    if (all->alone) plx_written_show(&made->written, made->written.bytes, all->options->piece, all->options->user);
    return PLX_OK;
}

static void finish(const generation *all, writing *made, plx_generated *results)
{
    results[made->index] = result_of(made);
    made->written.text = NULL; /* it is the result's now */
    if (!all->alone && all->options->finished)
        all->options->finished(all->options->user, made->index, &results[made->index]);
}

static plx_status step(generation *all, plx_generated *results)
{
    size_t count = choose_rows(all), vocab = all->model->config.vocab_size;
    bool wanted = false;
    for (size_t b = 0; b < count; b++) {
        writing *made = all->held[all->rows[b].slot];
        made->seen += all->rows[b].count;
        wanted = wanted || made->seen == made->count;
    }
    PLX_TRY(plx_session_step(all->session, all->rows, count, wanted ? all->logits : NULL, NULL));
    for (size_t b = 0; b < count; b++) {
        size_t slot = all->rows[b].slot;
        writing *made = all->held[slot];
        if (made->seen < made->count) continue;
        PLX_TRY(choose_token(all, made, all->logits + b * vocab));
        if (!made->finished) continue;
        finish(all, made, results);
        all->held[slot] = NULL;
        PLX_TRY(plx_session_reset(all->session, slot));
    }
    return PLX_OK;
}

/* Of one prompt what is read of it, and what is written where nobody sees it come; of several how much of all. */
static void tell_progress(const generation *all)
{
    double done = (double)all->waiting;
    if (all->alone) {
        const writing *made = &all->list[0];
        const size_t written = made->count - made->prompt;
        if (written == 0 && made->prompt > PROMPT_CHUNK)
            plx_progress(all->context, "reading the prompt", (double)made->seen, (double)made->prompt);
        else if (written > 0 && all->options->piece == NULL)
            plx_progress(all->context, "writing", (double)written, (double)all->options->max_tokens);
        return;
    }
    for (size_t i = 0; i < all->slots; i++) {
        const writing *made = all->held[i];
        if (made == NULL) continue;
        done -= 1 - (double)made->seen / ((double)made->prompt + (double)all->options->max_tokens);
    }
    plx_progress(all->context, "writing", done, (double)all->count);
}

static plx_status write_all(generation *all, plx_generated *results)
{
    if (all->options->max_tokens == 0) {
        for (size_t i = 0; i < all->count; i++) finish(all, &all->list[i], results);
        return PLX_OK;
    }
    while (fill_slots(all)) {
        PLX_TRY(plx_check_cancel(all->context));
        tell_progress(all);
        PLX_TRY(step(all, results));
    }
    return PLX_OK;
}

static void release(generation *all)
{
    plx_context *context = all->context;
    plx_session_free(all->session);
    for (size_t i = 0; all->list && i < all->count; i++) {
        plx_free(context, all->list[i].tokens);
        plx_free(context, all->list[i].written.text);
    }
    plx_free(context, all->list);
    plx_free(context, all->held);
    plx_free(context, all->rows);
    plx_free(context, all->starts);
    plx_free(context, all->logits);
}

static plx_status generate(plx_model *model, plx_tokenizer *tokenizer, const plx_prompt *prompts, size_t count,
                           const plx_generate_options *options, bool alone, plx_generated *results)
{
    plx_generate_options defaults = plx_generate_defaults();
    generation all = {.context = model->context,
                      .model = model,
                      .tokenizer = tokenizer,
                      .options = options ? options : &defaults,
                      .alone = alone,
                      .count = count};
    size_t together = all.options->together ? all.options->together : TOGETHER_USUAL;
    plx_status status = prepare(&all, prompts, together);
    if (status == PLX_OK) status = write_all(&all, results);
    release(&all);
    return status;
}

plx_status plx_generate(plx_model *model, plx_tokenizer *tokenizer, const char *prompt, size_t prompt_bytes,
                        const plx_generate_options *options, plx_generated *result)
{
    plx_generated made = {0};
    plx_prompt only = {prompt, prompt_bytes};
    PLX_TRY(generate(model, tokenizer, &only, 1, options, true, &made));
    *result = made;
    return PLX_OK;
}

plx_status plx_generate_batch(plx_model *model, plx_tokenizer *tokenizer, const plx_prompt *prompts, size_t count,
                              const plx_generate_options *options, plx_generated *results)
{
    for (size_t i = 0; i < count; i++) results[i] = (plx_generated){0};
    if (count == 0) return PLX_OK;
    plx_status status = generate(model, tokenizer, prompts, count, options, false, results);
    for (size_t i = 0; i < count && status != PLX_OK; i++) plx_generated_free(model, &results[i]);
    return status;
}

void plx_generated_free(plx_model *model, plx_generated *result)
{
    if (!result) return;
    plx_free(model->context, result->text);
    *result = (plx_generated){0};
}
