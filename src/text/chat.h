/* chat.h - conversations as tokens: the few templates that real models were tuned with.
 *
 * A template is a table row, not a language: models carry theirs as a Jinja program, which is recognised by what it
 * contains and never run. A message's text is never read as markers: "<|im_end|>" in a question stays text. */
#ifndef PLX_TEXT_CHAT_H
#define PLX_TEXT_CHAT_H

#include "text/tokenizer.h"

typedef struct plx_chat_template plx_chat_template;

/* By name: "chatml", "llama3", "zephyr", "plain". NULL when there is none. */
const plx_chat_template *plx_chat_find(const char *name);
const char *plx_chat_name(const plx_chat_template *form);
/* "chatml, llama3, zephyr, plain" */
const char *plx_chat_names(void);
/* By the text of a model's own template; an empty one means plain. *system: the text of the message that the template
 * puts first where a conversation has none of that role, or NULL; freed with plx_free. ERROR_UNSUPPORTED for one that
 * is none of these. */
plx_status plx_chat_recognise(plx_context *context, const char *jinja, const plx_chat_template **form, char **system);

typedef enum plx_chat_role { PLX_CHAT_SYSTEM, PLX_CHAT_USER, PLX_CHAT_ASSISTANT } plx_chat_role;
typedef struct plx_chat_message {
    plx_chat_role role;
    const char *text;
    size_t bytes;
} plx_chat_message;
/* "system", "user", "assistant" (and what data sets call them: "human", "gpt"); false for another. */
bool plx_chat_role_of(const char *name, plx_chat_role *role);

const char *plx_chat_role_name(plx_chat_role role);

/* A conversation on its way to tokens. */
typedef struct plx_chat {
    const plx_chat_template *form;
    plx_tokenizer *tokenizer;
    int32_t end;         /* the model's end-of-sequence id, or -1 */
    plx_encoder encoder; /* the tokens so far */
    uint8_t *answer;     /* [encoder.capacity]: 1 where the token is one that the assistant has to say */
    size_t answer_room;
    bool begun;
    /* text that waits for the next marker, and which of its bytes are the assistant's */
    char *text;
    uint8_t *said;
    size_t count, room;
} plx_chat;
plx_chat plx_chat_make(const plx_chat_template *form, plx_tokenizer *tokenizer, int32_t end);
void plx_chat_release(plx_chat *chat);
/* Forgets all messages. */
void plx_chat_clear(plx_chat *chat);
/* Appends a whole message. Its last bytes may wait for what follows: plx_chat_flush, or plx_chat_open_answer. */
plx_status plx_chat_add(plx_chat *chat, const plx_chat_message *message);
/* A prompt and its completion as they are, without a template, closed by the model's end. */
plx_status plx_chat_add_pair(plx_chat *chat, const char *prompt, size_t prompt_bytes, const char *completion,
                             size_t completion_bytes);
/* Appends what stands before the assistant's answer. All tokens are in the encoder then. */
plx_status plx_chat_open_answer(plx_chat *chat);
/* Appends what stands behind an answer that is in the model's sequence already. */
plx_status plx_chat_close_answer(plx_chat *chat);
/* Encodes what waits. */
plx_status plx_chat_flush(plx_chat *chat);
/* The token that ends an answer, or -1; and the text that does (a question's beginning, or the marker where the
 * vocabulary has it only as text). The model's end ends one too, in every form. */
int32_t plx_chat_stop_token(const plx_chat *chat);
const char *plx_chat_stop_text(const plx_chat *chat);

#endif
