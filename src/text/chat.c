/* chat.c - see chat.h. */
#include "text/chat.h"

#include <ctype.h>
#include <string.h>

/* In the texts, %r is the role's name, %R the same with a capital, %b the beginning-of-sequence token, %e the model's
 * end-of-sequence token. */
struct plx_chat_template {
    const char *name;
    const char *begin, *before, *after; /* the conversation; each message */
    bool trim;                          /* a message's text loses the spaces around it, */
    bool space;                         /* and gets one before it, a part of its first word's token */
    const char *stop;                   /* text that ends an answer */
    const char *sign, *other;           /* in a Jinja program of this form; in one that does more than this form */
};

static const plx_chat_template forms[] = {
    {"chatml", "", "<|im_start|>%r\n", "<|im_end|>\n", false, false, "<|im_end|>", "<|im_start|>", "bos_token"},
    {"chatml", "%b", "<|im_start|>%r\n", "<|im_end|>\n", false, false, "<|im_end|>", "<|im_start|>", NULL},
    {"llama3", "<|begin_of_text|>", "<|start_header_id|>%r<|end_header_id|>\n\n", "<|eot_id|>", true, false,
     "<|eot_id|>", "<|start_header_id|>", "Cutting Knowledge Date"},
    {"zephyr", "", "<|%r|>\n", "%e\n", false, false, "<|user|>", "<|assistant|>", NULL},
    {"plain", "", "%R:", "%e\n\n", true, true, "\nUser:", NULL, NULL},
};
enum { FORMS = sizeof forms / sizeof forms[0], PLAIN = FORMS - 1 };

static const char *const role_names[] = {"system", "user", "assistant"};
static const struct {
    const char *name;
    plx_chat_role role;
} roles[] = {{"system", PLX_CHAT_SYSTEM},
             {"user", PLX_CHAT_USER},
             {"assistant", PLX_CHAT_ASSISTANT},
             {"human", PLX_CHAT_USER},
             {"gpt", PLX_CHAT_ASSISTANT}};

const char *plx_chat_role_name(plx_chat_role role) { return role_names[role]; }
const char *plx_chat_name(const plx_chat_template *form) { return form->name; }
const char *plx_chat_names(void) { return "chatml, llama3, zephyr, plain"; }

const plx_chat_template *plx_chat_find(const char *name)
{
    for (size_t i = 0; i < FORMS; i++)
        if (strcmp(name, forms[i].name) == 0) return &forms[i];
    return NULL;
}

bool plx_chat_role_of(const char *name, plx_chat_role *role)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(name, roles[i].name) != 0) continue;
        *role = roles[i].role;
        return true;
    }
    return false;
}

/* ---- recognising ---- */

/* The text of a literal '<|im_start|>system\nTEXT<|im_end|>' in the program, its escapes undone; an empty string when
 * there is none. The last one: templates with tools have others before it. */
static char *literal_system(plx_context *context, const char *jinja)
{
    static const char before[] = "<|im_start|>system", after[] = "<|im_end|>";
    char *made = plx_alloc(context, strlen(jinja) + 1);
    if (made == NULL) return NULL;
    const char *q;
    for (const char *p = strstr(jinja, before); p != NULL; p = strstr(q, before)) {
        char *to = made;
        q = p + sizeof before - 1;
        const size_t line_end = *q == '\n' ? 1 : strncmp(q, "\\n", 2) == 0 ? 2 : 0;
        if (line_end == 0) continue;
        q += line_end;
        for (; *q != '\0' && *q != '\'' && *q != '"' && strncmp(q, after, sizeof after - 1) != 0; q++) {
            if (*q == '\\' && q[1] != '\0') {
                q++;
                *to++ = *q == 'n' ? '\n' : *q == 't' ? '\t' : *q;
            } else {
                *to++ = *q;
            }
        }
        if (strncmp(q, after, sizeof after - 1) == 0)
            *to = '\0';
        else
            *made = '\0';
    }
    return made;
}

/* Whether a program ends a user's message with the end-of-sequence token, if the form does. */
static bool ends_alike(const plx_chat_template *form, const char *jinja)
{
    if (strstr(form->after, "%e") == NULL) return true;
    const char *user = strstr(jinja, form->stop), *end = user != NULL ? strstr(user, "}}") : NULL;
    const char *token = user != NULL ? strstr(user, "eos_token") : NULL;
    return token != NULL && end != NULL && token < end;
}

plx_status plx_chat_recognise(plx_context *context, const char *jinja, const plx_chat_template **form, char **system)
{
    *system = NULL;
    *form = jinja == NULL || jinja[0] == '\0' ? &forms[PLAIN] : NULL;
    for (size_t i = 0; *form == NULL && i < PLAIN; i++)
        if (strstr(jinja, forms[i].sign) != NULL && (forms[i].other == NULL || strstr(jinja, forms[i].other) == NULL) &&
            ends_alike(&forms[i], jinja))
            *form = &forms[i];
    if (*form == NULL)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "the model's chat template is none of %s; --chat-template NAME takes one of them all the same",
                        plx_chat_names());
    if (strcmp((*form)->name, "chatml") != 0) return PLX_OK;
    *system = literal_system(context, jinja);
    if (*system == NULL) return PLX_ERROR_MEMORY;
    if (**system == '\0') {
        plx_free(context, *system);
        *system = NULL;
    }
    return PLX_OK;
}

/* ---- encoding ---- */

plx_chat plx_chat_make(const plx_chat_template *form, plx_tokenizer *tokenizer, int32_t end)
{
    plx_chat chat = {.form = form, .tokenizer = tokenizer, .end = end, .encoder = plx_encoder_make(tokenizer)};
    chat.encoder.plain = true;
    return chat;
}

void plx_chat_release(plx_chat *chat)
{
    plx_context *context = chat->tokenizer->context;
    plx_encoder_release(&chat->encoder);
    plx_free(context, chat->answer);
    plx_free(context, chat->text);
    plx_free(context, chat->said);
}

void plx_chat_clear(plx_chat *chat)
{
    plx_encoder_clear(&chat->encoder);
    chat->count = 0;
    chat->begun = false;
}

static plx_status wait(plx_chat *chat, const char *text, size_t bytes, bool said)
{
    plx_context *context = chat->tokenizer->context;
    if (bytes > chat->room - chat->count) {
        size_t room = 2 * (chat->count + bytes) + 256;
        char *grown = plx_grow(context, chat->text, chat->room, room);
        if (grown == NULL) return PLX_ERROR_MEMORY;
        chat->text = grown;
        uint8_t *marks = plx_grow(context, chat->said, chat->room, room);
        if (marks == NULL) return PLX_ERROR_MEMORY;
        chat->said = marks;
        chat->room = room;
    }
    memcpy(chat->text + chat->count, text, bytes);
    memset(chat->said + chat->count, said, bytes);
    chat->count += bytes;
    return PLX_OK;
}

static plx_status answer_room(plx_chat *chat)
{
    if (chat->answer_room >= chat->encoder.capacity) return PLX_OK;
    uint8_t *grown = plx_grow(chat->tokenizer->context, chat->answer, chat->answer_room, chat->encoder.capacity);
    if (grown == NULL) return PLX_ERROR_MEMORY;
    chat->answer = grown;
    chat->answer_room = chat->encoder.capacity;
    return PLX_OK;
}

/* The first byte from `at` on that somebody else says; chat->count where there is none. */
static size_t turn_after(const plx_chat *chat, size_t at)
{
    while (at + 1 < chat->count && chat->said[at + 1] == chat->said[at]) at++;
    return at + 1;
}

/* Where the text's byte `at` is among the bytes that its tokens stand for: a tokenizer may change a text before it cuts
 * it. The encoder is left as it was. */
static plx_status place_of(plx_chat *chat, size_t at, size_t *place)
{
    const size_t first = chat->encoder.count;
    *place = 0;
    PLX_TRY(plx_encoder_feed(&chat->encoder, chat->text, at, true));
    for (size_t i = first; i < chat->encoder.count; i++)
        *place += plx_token_byte_count(chat->tokenizer, chat->encoder.tokens[i]);
    chat->encoder.count = first;
    return PLX_OK;
}

/* Encodes what waits and marks its tokens; places: room for the place of each turn's first byte. */
static plx_status mark_tokens(plx_chat *chat, size_t *places)
{
    const size_t first = chat->encoder.count;
    size_t count = 0, at = 0, turn = 0;
    for (size_t byte = turn_after(chat, 0); byte < chat->count; byte = turn_after(chat, byte))
        PLX_TRY(place_of(chat, byte, &places[count++]));
    PLX_TRY(plx_encoder_feed(&chat->encoder, chat->text, chat->count, true));
    PLX_TRY(answer_room(chat));
    for (size_t i = first; i < chat->encoder.count; i++) {
        while (turn < count && at >= places[turn]) turn++;
        chat->answer[i] = chat->said[0] ^ (turn & 1);
        at += plx_token_byte_count(chat->tokenizer, chat->encoder.tokens[i]);
    }
    return PLX_OK;
}

/* A token is the assistant's when the byte that it begins with is. */
plx_status plx_chat_flush(plx_chat *chat)
{
    plx_context *context = chat->tokenizer->context;
    size_t turns = 0;
    if (chat->count == 0) return PLX_OK;
    for (size_t byte = turn_after(chat, 0); byte < chat->count; byte = turn_after(chat, byte)) turns++;
    size_t *places = plx_alloc_array(context, turns + 1, sizeof *places);
    if (places == NULL) return PLX_ERROR_MEMORY;
    plx_status status = mark_tokens(chat, places);
    plx_free(context, places);
    if (status == PLX_OK) chat->count = 0;
    return status;
}

static plx_status add_token(plx_chat *chat, int32_t token, bool said)
{
    PLX_TRY(plx_chat_flush(chat));
    PLX_TRY(plx_encoder_append(&chat->encoder, token));
    PLX_TRY(answer_room(chat));
    chat->answer[chat->encoder.count - 1] = said;
    return PLX_OK;
}

/* Length of the marker "<|..|>" that a text begins with, after its role is filled in; 0: none. */
static size_t marker_length(const char *text)
{
    const char *end = strncmp(text, "<|", 2) == 0 ? strstr(text, "|>") : NULL;
    return end != NULL ? (size_t)(end + 2 - text) : 0;
}

/* One of the template's texts. Markers that the vocabulary has become their tokens, the rest is text. Line ends behind
 * an answer are not the assistant's. */
static plx_status add_form(plx_chat *chat, const char *form, plx_chat_role role, bool said)
{
    char filled[128];
    size_t used = 0;
    for (const char *p = form; *p != '\0'; p++) {
        if (p[0] == '%' && (p[1] == 'r' || p[1] == 'R')) {
            strcpy(filled + used, role_names[role]);
            if (p[1] == 'R') filled[used] = (char)toupper(filled[used]);
            used += strlen(role_names[role]);
            p++;
        } else {
            filled[used++] = *p;
        }
    }
    filled[used] = '\0';
    for (const char *p = filled; *p != '\0';) {
        size_t length = marker_length(p);
        int32_t token = length > 0 ? plx_tokenizer_token(chat->tokenizer, p, length) : -1;
        if (strncmp(p, "%e", 2) == 0) {
            if (chat->end >= 0) PLX_TRY(add_token(chat, chat->end, said));
            p += 2;
        } else if (strncmp(p, "%b", 2) == 0) {
            if (chat->tokenizer->bos >= 0) PLX_TRY(add_token(chat, chat->tokenizer->bos, said));
            p += 2;
        } else if (token >= 0) {
            PLX_TRY(add_token(chat, token, said));
            p += length;
        } else {
            PLX_TRY(wait(chat, p, 1, said && *p != '\n'));
            p++;
        }
    }
    return PLX_OK;
}

static plx_status begin(plx_chat *chat)
{
    if (chat->begun) return PLX_OK;
    chat->begun = true;
    return add_form(chat, chat->form->begin, PLX_CHAT_SYSTEM, false);
}

plx_status plx_chat_add(plx_chat *chat, const plx_chat_message *message)
{
    const bool said = message->role == PLX_CHAT_ASSISTANT;
    const char *text = message->text;
    size_t bytes = message->bytes;
    while (chat->form->trim && bytes > 0 && isspace((unsigned char)text[bytes - 1])) bytes--;
    while (chat->form->trim && bytes > 0 && isspace((unsigned char)*text)) text++, bytes--;
    PLX_TRY(begin(chat));
    PLX_TRY(add_form(chat, chat->form->before, message->role, false));
    if (chat->form->space) PLX_TRY(wait(chat, " ", 1, said));
    PLX_TRY(wait(chat, text, bytes, said));
    return add_form(chat, chat->form->after, message->role, said);
}

plx_status plx_chat_add_pair(plx_chat *chat, const char *prompt, size_t prompt_bytes, const char *completion,
                             size_t completion_bytes)
{
    PLX_TRY(wait(chat, prompt, prompt_bytes, false));
    PLX_TRY(wait(chat, completion, completion_bytes, true));
    return chat->end >= 0 ? add_token(chat, chat->end, true) : plx_chat_flush(chat);
}

plx_status plx_chat_open_answer(plx_chat *chat)
{
    PLX_TRY(begin(chat));
    PLX_TRY(add_form(chat, chat->form->before, PLX_CHAT_ASSISTANT, false));
    return plx_chat_flush(chat);
}

plx_status plx_chat_close_answer(plx_chat *chat)
{
    return add_form(chat, chat->form->after, PLX_CHAT_ASSISTANT, true);
}

int32_t plx_chat_stop_token(const plx_chat *chat)
{
    size_t length = marker_length(chat->form->after);
    int32_t token = length > 0 ? plx_tokenizer_token(chat->tokenizer, chat->form->after, length) : -1;
    if (token >= 0) return token;
    return strstr(chat->form->after, "%e") != NULL ? chat->end : -1;
}
const char *plx_chat_stop_text(const plx_chat *chat) { return chat->form->stop; }
