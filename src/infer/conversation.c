/* conversation.c - a conversation with a model: one session that grows with every question and answer.
 *
 * What has been said is in the session; the chat's encoder holds tokens that stand in it next (the end of the last answer,
 * then a question with what opens the answer). When the session is full the oldest questions and answers are forgotten and the
 * rest is read again. */
#include "infer/state.h"
#include "infer/written.h"
#include "text/chat.h"

#include <string.h>

#define READ_TOGETHER 256 /* tokens a step of reading */
#define CONTEXT_USUAL 4096

typedef struct answer {
    const plx_conversation_options *options;
    plx_written written;
    const char *stop; /* text that ends it; "" when a token does */
    bool cut;         /* at that text, whose first tokens are in the session */
} answer;

struct plx_conversation {
    plx_context *context;
    plx_model *model;
    plx_tokenizer *tokenizer;
    plx_conversation_options options;
    char *system; /* or NULL */
    plx_session *session;
    size_t capacity;
    plx_chat chat;
    int32_t stop, end;          /* tokens that end an answer; -1 */
    plx_chat_message *messages; /* texts owned */
    size_t count, room;
    int32_t *heard; /* ids in the session and those waiting, for the repetition penalty */
    size_t heard_count, heard_room;
    float *logits;
    size_t choices;
    uint64_t draws;
    bool stale; /* an answer was cut short or off at its stop: the session is read anew from the messages */
};

plx_conversation_options plx_conversation_defaults(void)
{
    plx_sampling sampling = plx_sampling_defaults();
    sampling.temperature = 0.7;
    sampling.top_p = 0.95;
    return (plx_conversation_options){.max_tokens = 512, .sampling = sampling};
}

/* ---- messages ---- */

static plx_status remember(plx_conversation *made, plx_chat_role role, const char *text, size_t bytes)
{
    plx_context *context = made->context;
    if (made->count == made->room) {
        size_t room = 2 * made->room + 16;
        plx_chat_message *grown = plx_grow(context, made->messages, made->room * sizeof *grown, room * sizeof *grown);
        if (grown == NULL) return PLX_ERROR_MEMORY;
        made->messages = grown;
        made->room = room;
    }
    char *copy = plx_alloc(context, bytes + 1);
    if (copy == NULL) return PLX_ERROR_MEMORY;
    memcpy(copy, text, bytes);
    made->messages[made->count++] = (plx_chat_message){role, copy, bytes};
    return PLX_OK;
}

static void forget(plx_conversation *made, size_t first, size_t count)
{
    if (count == 0) return;
    for (size_t i = first; i < first + count; i++) plx_free(made->context, (char *)(uintptr_t)made->messages[i].text);
    memmove(made->messages + first, made->messages + first + count,
            (made->count - first - count) * sizeof *made->messages);
    made->count -= count;
}

/* The system's message stays. */
static size_t kept_first(const plx_conversation *made)
{
    return made->count > 0 && made->messages[0].role == PLX_CHAT_SYSTEM;
}

plx_status plx_conversation_reset(plx_conversation *conversation)
{
    forget(conversation, 0, conversation->count);
    plx_chat_clear(&conversation->chat);
    conversation->heard_count = 0;
    conversation->stale = false;
    PLX_TRY(plx_session_reset(conversation->session, 0));
    if (conversation->system == NULL) return PLX_OK;
    PLX_TRY(remember(conversation, PLX_CHAT_SYSTEM, conversation->system, strlen(conversation->system)));
    return plx_chat_add(&conversation->chat, &conversation->messages[0]);
}

plx_status plx_conversation_set_system(plx_conversation *conversation, const char *system)
{
    char *copy = system != NULL && system[0] != '\0' ? plx_strdup(conversation->context, system) : NULL;
    if (copy == NULL && system != NULL && system[0] != '\0') return PLX_ERROR_MEMORY;
    plx_free(conversation->context, conversation->system);
    conversation->system = copy;
    return plx_conversation_reset(conversation);
}

size_t plx_conversation_count(const plx_conversation *conversation) { return conversation->count; }

void plx_conversation_message(const plx_conversation *conversation, size_t index, const char **role, const char **text,
                              size_t *bytes)
{
    const plx_chat_message *message = &conversation->messages[index];
    *role = plx_chat_role_name(message->role);
    *text = message->text;
    *bytes = message->bytes;
}

const char *plx_conversation_template(const plx_conversation *conversation)
{
    return plx_chat_name(conversation->chat.form);
}

/* ---- making ---- */

static plx_status choose_form(plx_conversation *made, const plx_chat_template **form)
{
    const char *name = made->options.chat_template;
    char *own = NULL;
    if (name != NULL) {
        *form = plx_chat_find(name);
        if (*form == NULL)
            return plx_fail(made->context, PLX_ERROR_VALUE, "there is no chat template '%.40s'; there are %s", name,
                            plx_chat_names());
    } else {
        PLX_TRY(plx_chat_recognise(made->context, plx_tokenizer_chat_template(made->tokenizer), form, &own));
    }
    if (made->options.system != NULL) {
        plx_free(made->context, own);
        own = plx_strdup(made->context, made->options.system);
        if (own == NULL) return PLX_ERROR_MEMORY;
    }
    made->system = own;
    return PLX_OK;
}

static plx_status make(plx_conversation *made)
{
    const plx_config *config = &made->model->config;
    const plx_chat_template *form = NULL;
    made->choices = plx_tokenizer_vocab_size(made->tokenizer);
    if (made->choices > config->vocab_size)
        return plx_fail(made->context, PLX_ERROR_VALUE, "the tokenizer has %zu ids, but the model only %zu",
                        made->choices, config->vocab_size);
    PLX_TRY(choose_form(made, &form));
    made->end = config->eos_token_id >= 0 ? (int32_t)config->eos_token_id : plx_tokenizer_eos(made->tokenizer);
    made->chat = plx_chat_make(form, made->tokenizer, made->end);
    made->stop = plx_chat_stop_token(&made->chat);
    made->capacity = made->options.capacity;
    if (made->capacity == 0)
        made->capacity =
            config->max_position_embeddings < CONTEXT_USUAL ? config->max_position_embeddings : CONTEXT_USUAL;
    made->logits = plx_alloc_array(made->context, config->vocab_size, sizeof *made->logits);
    if (made->logits == NULL) return PLX_ERROR_MEMORY;
    plx_session_options options = {.slots = 1, .capacity = made->capacity, .chunk = READ_TOGETHER, .rollback = 1, .state = made->options.state};
    PLX_TRY(plx_session_create(made->model, &options, &made->session));
    return plx_conversation_reset(made);
}

plx_status plx_conversation_create(plx_model *model, plx_tokenizer *tokenizer, const plx_conversation_options *options,
                                   plx_conversation **conversation)
{
    *conversation = NULL;
    plx_conversation *made = plx_alloc(model->context, sizeof *made);
    if (made == NULL) return PLX_ERROR_MEMORY;
    made->context = model->context;
    made->model = model;
    made->tokenizer = tokenizer;
    made->options = options != NULL ? *options : plx_conversation_defaults();
    plx_status status = make(made);
    if (status == PLX_OK)
        *conversation = made;
    else
        plx_conversation_free(made);
    return status;
}

void plx_conversation_free(plx_conversation *conversation)
{
    if (conversation == NULL) return;
    plx_context *context = conversation->context;
    forget(conversation, 0, conversation->count);
    if (conversation->chat.tokenizer != NULL) plx_chat_release(&conversation->chat);
    plx_session_free(conversation->session);
    plx_free(context, conversation->messages);
    plx_free(context, conversation->heard);
    plx_free(context, conversation->logits);
    plx_free(context, conversation->system);
    plx_free(context, conversation);
}

/* ---- reading ---- */

static plx_status hear(plx_conversation *made, const int32_t *tokens, size_t count, float *logits)
{
    if (made->heard_count + count > made->heard_room) {
        size_t room = 2 * (made->heard_count + count);
        int32_t *grown = plx_grow(made->context, made->heard, made->heard_room * sizeof *grown, room * sizeof *grown);
        if (grown == NULL) return PLX_ERROR_MEMORY;
        made->heard = grown;
        made->heard_room = room;
    }
    for (size_t done = 0; done < count;) {
        size_t some = count - done < READ_TOGETHER ? count - done : READ_TOGETHER;
        plx_session_row row = {.slot = 0, .tokens = tokens + done, .count = some};
        PLX_TRY(plx_check_cancel(made->context));
        if (count > READ_TOGETHER) plx_progress(made->context, "reading", (double)done, (double)count);
        PLX_TRY(plx_session_step(made->session, &row, 1, done + some == count ? logits : NULL, NULL));
        memcpy(made->heard + made->heard_count, tokens + done, some * sizeof *tokens);
        made->heard_count += some;
        done += some;
    }
    return PLX_OK;
}

/* Everything from the beginning, but for `skipped` messages behind the system's, as tokens that wait. */
static plx_status begin_again(plx_conversation *made, size_t skipped)
{
    const size_t first = kept_first(made);
    plx_chat_clear(&made->chat);
    made->heard_count = 0;
    made->stale = false;
    PLX_TRY(plx_session_reset(made->session, 0));
    for (size_t i = 0; i < made->count; i++)
        if (i < first || i >= first + skipped) PLX_TRY(plx_chat_add(&made->chat, &made->messages[i]));
    return plx_chat_open_answer(&made->chat);
}

/* The question's tokens wait. Where they and a word of answer find no room, the oldest messages go. */
static plx_status make_room(plx_conversation *made, size_t *forgotten)
{
    const size_t first = kept_first(made), most = made->count - 1 - first; /* messages that can go */
    const size_t wanted = made->capacity - made->capacity / 4;             /* so that not every question forgets something */
    size_t skipped = 0;
    if (plx_session_length(made->session, 0) + made->chat.encoder.count < made->capacity) return PLX_OK;
    PLX_TRY(begin_again(made, most)); /* before anything is forgotten for it */
    if (made->chat.encoder.count >= made->capacity)
        return plx_fail(made->context, PLX_ERROR_VALUE,
                        "the question alone has %zu tokens with what belongs to it, and the conversation may hold %zu: ask "
                        "less at once, or give the conversation more context",
                        made->chat.encoder.count, made->capacity);
    while (skipped < most && (skipped == 0 || made->chat.encoder.count > wanted)) {
        do skipped++;
        while (skipped < most && made->messages[first + skipped].role != PLX_CHAT_USER);
        PLX_TRY(begin_again(made, skipped));
    }
    forget(made, first, skipped);
    *forgotten += skipped;
    return PLX_OK;
}

/* ---- answering ---- */

/* Bytes of the answer's end that may be the beginning of the text that ends it. */
static size_t held_back(const answer *said)
{
    const plx_written *written = &said->written;
    size_t most = strlen(said->stop);
    for (size_t n = most < written->bytes ? most : written->bytes; n > 0; n--)
        if (memcmp(written->text + written->bytes - n, said->stop, n) == 0) return n;
    return 0;
}

/* Hands out new text: no space at the beginning, nothing that may yet be the stop. */
static void show(answer *said, bool last)
{
    plx_written *written = &said->written;
    size_t until = written->bytes - (last ? 0 : held_back(said));
    if (written->shown == 0 && until > 0 && written->text[0] == ' ') written->shown = 1;
    plx_written_show(written, until, said->options->piece, said->options->user);
}

/* Whether the answer's text has come to the text that ends it, which is cut off. */
static bool stopped(answer *said)
{
    plx_written *written = &said->written;
    const char *at = said->stop[0] != '\0' && written->text != NULL ? strstr(written->text, said->stop) : NULL;
    if (at == NULL) return false;
    written->bytes = (size_t)(at - written->text);
    if (written->shown > written->bytes) written->shown = written->bytes;
    said->cut = true;
    return true;
}

static plx_status speak(plx_conversation *made, answer *said, plx_answer *result)
{
    const plx_conversation_options *options = &made->options;
    while (result->tokens < options->max_tokens) {
        int32_t token;
        PLX_TRY(plx_check_cancel(made->context));
        PLX_TRY(plx_sample(made->context, &options->sampling, made->logits, made->choices, made->heard,
                           made->heard_count, made->draws++, &token));
        result->complete = token == made->stop || token == made->end;
        if (result->complete) return PLX_OK;
        PLX_TRY(plx_written_add(made->context, &said->written, made->tokenizer, token));
        result->tokens++;
        result->complete = stopped(said);
        show(said, result->complete);
        if (result->complete || plx_session_length(made->session, 0) + 1 >= made->capacity) return PLX_OK;
        PLX_TRY(hear(made, &token, 1, made->logits));
    }
    return PLX_OK;
}

/* The question's tokens wait, with what opens the answer. */
static plx_status wait_for_answer(plx_conversation *made, size_t *forgotten)
{
    if (made->stale) {
        PLX_TRY(begin_again(made, 0));
    } else {
        PLX_TRY(plx_chat_add(&made->chat, &made->messages[made->count - 1]));
        PLX_TRY(plx_chat_open_answer(&made->chat));
    }
    return make_room(made, forgotten);
}

/* What was said stays said, also when it was cut short. */
static plx_status keep_answer(plx_conversation *made, const answer *said, plx_answer *result)
{
    const plx_written *written = &said->written;
    size_t space = written->bytes > 0 && written->text[0] == ' ' ? 1 : 0;
    PLX_TRY(remember(made, PLX_CHAT_ASSISTANT, written->bytes > 0 ? written->text + space : "", written->bytes - space));
    result->text = made->messages[made->count - 1].text;
    result->bytes = made->messages[made->count - 1].bytes;
    return PLX_OK;
}

plx_status plx_conversation_ask(plx_conversation *conversation, const char *question, size_t bytes, plx_answer *result)
{
    plx_conversation *made = conversation;
    answer said = {.options = &made->options, .stop = made->stop >= 0 ? "" : plx_chat_stop_text(&made->chat)};
    *result = (plx_answer){0};
    PLX_TRY(remember(made, PLX_CHAT_USER, question, bytes));
    plx_status status = wait_for_answer(made, &result->forgotten);
    if (status != PLX_OK) { /* it was not asked */
        forget(made, made->count - 1, 1);
        plx_encoder_clear(&made->chat.encoder);
        made->stale = true;
        return status;
    }
    double begun = plx_seconds();
    result->read = made->chat.encoder.count;
    status = hear(made, made->chat.encoder.tokens, made->chat.encoder.count, made->logits);
    plx_encoder_clear(&made->chat.encoder);
    result->read_seconds = plx_seconds() - begun;
    if (status == PLX_OK) status = speak(made, &said, result);
    result->seconds = plx_seconds() - begun - result->read_seconds;
    if (said.written.text != NULL) show(&said, true);
    plx_status kept = keep_answer(made, &said, result);
    if (status == PLX_OK) status = kept;
    if (status == PLX_OK) status = plx_chat_close_answer(&made->chat);
    made->stale = status != PLX_OK || said.cut;
    plx_free(made->context, said.written.text);
    return status;
}
