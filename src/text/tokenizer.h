/* tokenizer.h - what a tokenizer is inside the library; the public calls are in plexus.h.
 *
 * A kind of tokenizer is one file and one line in tokenizer.c. Text is encoded as a stream: a document may come in
 * pieces of any size, and the tokens do not depend on how it was cut. A kind that needs to see further than a piece's
 * end (byte pairs, words) keeps the tail in its encoder until more comes or the document ends. */
#ifndef PLX_TEXT_TOKENIZER_H
#define PLX_TEXT_TOKENIZER_H

#include "core/context.h"

#define PLX_TOKEN_BYTES_MOST 1024 /* of one token */

typedef struct plx_tokenizer_kind plx_tokenizer_kind;

struct plx_tokenizer {
    plx_context *context;
    const plx_tokenizer_kind *kind;
    void *state; /* kind->state_size bytes, the kind's own */
    size_t vocab_size;
    int32_t separator; /* begins each document */
};

/* One stream of text on its way to tokens. */
typedef struct plx_encoder {
    plx_tokenizer *tokenizer;
    char *tail; /* bytes of the document not encoded yet; the kind's */
    size_t tail_bytes, tail_capacity;
    bool plain;      /* the text holds no markers: what looks like an added token is text */
    int32_t *tokens; /* made since the last plx_encoder_clear */
    size_t count, capacity;
} plx_encoder;

struct plx_tokenizer_kind {
    const char *name;
    size_t state_size;
    /* Sets vocab_size, separator and the state. */
    plx_status (*open)(plx_tokenizer *tokenizer);
    void (*close)(plx_tokenizer *tokenizer); /* may be NULL */
    /* Appends the tokens of the next bytes of a document (plx_encoder_append); `last`: the document ends with them. */
    plx_status (*encode)(plx_encoder *encoder, const char *text, size_t bytes, bool last);
    /* The bytes of a token inside the vocabulary, at most PLX_TOKEN_BYTES_MOST of them; 0 for a separator. */
    size_t (*decode)(const plx_tokenizer *tokenizer, int32_t token, char *text);
    /* The added token that is written so, or -1. NULL: there are no added tokens. */
    int32_t (*find)(const plx_tokenizer *tokenizer, const char *text, size_t bytes);
    /* The chat template (a Jinja program) that came with it, or NULL. NULL: none can. */
    const char *(*chat_template)(const plx_tokenizer *tokenizer);
};

plx_encoder plx_encoder_make(plx_tokenizer *tokenizer);
void plx_encoder_release(plx_encoder *encoder);
/* Encodes a piece of a document into encoder->tokens. */
plx_status plx_encoder_feed(plx_encoder *encoder, const char *text, size_t bytes, bool last);
/* Appends one token, the separator for one. */
plx_status plx_encoder_append(plx_encoder *encoder, int32_t token);
/* Makes room for `count` more tokens. */
plx_status plx_encoder_reserve(plx_encoder *encoder, size_t count);
static inline void plx_encoder_clear(plx_encoder *encoder) { encoder->count = 0; }
/* The added token that is written so ("<|im_end|>"), or -1. */
int32_t plx_tokenizer_token(const plx_tokenizer *tokenizer, const char *text, size_t bytes);
/* The chat template that came with the tokenizer, its own; NULL: none. */
const char *plx_tokenizer_chat_template(const plx_tokenizer *tokenizer);
/* Number of bytes that a token stands for; 0 outside the vocabulary. */
size_t plx_token_byte_count(const plx_tokenizer *tokenizer, int32_t token);

#endif
