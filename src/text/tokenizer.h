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
    int32_t separator;   /* begins each document in training; -1: none */
    int32_t bos, eos;    /* the tokens that begin and end a text, as far as the files say; -1 */
    int32_t before_text; /* the token that a model wants before every text (a post_processor's), or -1; not added by
                            plx_tokenizer_encode */
    uint64_t identity;   /* tells tokenizers of one kind apart */
};

/* One stream of text on its way to tokens. */
typedef struct plx_encoder {
    plx_tokenizer *tokenizer;
    char *tail; /* bytes of the document not encoded yet; the kind's */
    size_t tail_bytes, tail_capacity;
    bool plain;      /* the text holds no markers: what looks like a special token is text */
    bool continued;  /* something of the document is encoded already; the kind's */
    int32_t *tokens; /* made since the last plx_encoder_clear */
    size_t count, capacity;
} plx_encoder;

struct plx_tokenizer_kind {
    const char *name;
    size_t state_size;
    /* Sets vocab_size, separator, the other ids and the state; name is plx_tokenizer_open's. */
    plx_status (*open)(plx_tokenizer *tokenizer, const char *name);
    void (*close)(plx_tokenizer *tokenizer); /* may be NULL */
    /* Appends the tokens of the next bytes of a document (plx_encoder_append); `last`: the document ends with them. */
    plx_status (*encode)(plx_encoder *encoder, const char *text, size_t bytes, bool last);
    /* The bytes of a token inside the vocabulary, at most PLX_TOKEN_BYTES_MOST of them; 0 for a special one. `first`:
     * the first of a text. */
    size_t (*decode)(const plx_tokenizer *tokenizer, int32_t token, bool first, char *text);
    /* The id of the token that is written so, or -1; NULL: there are none. */
    int32_t (*find)(const plx_tokenizer *tokenizer, const char *text, size_t bytes);
    /* The chat template (a Jinja program) that came with it, or NULL. NULL: none can. */
    const char *(*chat_template)(const plx_tokenizer *tokenizer);
    /* Writes the tokenizer's files into a directory; NULL: it needs none. */
    plx_status (*save)(const plx_tokenizer *tokenizer, const char *directory);
};

/* A vocabulary as arrays, as GGUF files hold one. Strings are UTF-8 as a tokenizer.json would write them (byte-level
 * models: with characters for bytes). Everything is read during the call only, and checked: ERROR_FORMAT or
 * ERROR_UNSUPPORTED naming `file` and the GGUF key. */
typedef enum plx_token_type {
    PLX_TOKEN_NORMAL = 1, /* GGUF's numbers */
    PLX_TOKEN_UNKNOWN = 2,
    PLX_TOKEN_CONTROL = 3,
    PLX_TOKEN_USER_DEFINED = 4,
    PLX_TOKEN_UNUSED = 5,
    PLX_TOKEN_BYTE = 6
} plx_token_type;
typedef struct plx_token_arrays {
    const char *file;  /* for messages */
    const char *model; /* tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece's BPE) */
    const char *pre;   /* tokenizer.ggml.pre: "gpt-2", "llama-bpe", "qwen2", "smollm", ...; NULL: absent. "gpt2" only */
    size_t count;
    const char *const *tokens; /* [count], NUL-terminated */
    const float *scores;       /* [count] or NULL; "llama" needs them */
    const int32_t *types;      /* [count] or NULL */
    size_t merge_count;
    const char *const *merges;     /* [merge_count] "a b"; "gpt2" needs them */
    int64_t bos, eos, unk;         /* ids; -1: absent */
    int add_bos, add_space_prefix; /* 0, 1, or -1: absent */
    const char *chat_template;     /* or NULL */
} plx_token_arrays;
plx_status plx_tokenizer_from_arrays(plx_context *context, const plx_token_arrays *arrays, plx_tokenizer **tokenizer);
/* The tokenizer inside a GGUF file. */
plx_status plx_tokenizer_from_gguf(plx_context *context, const char *path, plx_tokenizer **tokenizer);
/* A tokenizer of this kind with a cleared state, to be opened; for the kinds. Freed with plx_tokenizer_free. */
plx_status plx_tokenizer_make(plx_context *context, const plx_tokenizer_kind *kind, plx_tokenizer **tokenizer);

plx_encoder plx_encoder_make(plx_tokenizer *tokenizer);
void plx_encoder_release(plx_encoder *encoder);
/* Encodes a piece of a document into encoder->tokens. */
plx_status plx_encoder_feed(plx_encoder *encoder, const char *text, size_t bytes, bool last);
/* Appends one token, the separator for one. */
plx_status plx_encoder_append(plx_encoder *encoder, int32_t token);
/* Makes room for `count` more tokens. */
plx_status plx_encoder_reserve(plx_encoder *encoder, size_t count);
static inline void plx_encoder_clear(plx_encoder *encoder) { encoder->count = 0; }
/* The token that the files write so ("<|im_end|>"), or -1. */
int32_t plx_tokenizer_token(const plx_tokenizer *tokenizer, const char *text, size_t bytes);
/* The chat template that came with the tokenizer, its own; NULL: none. */
const char *plx_tokenizer_chat_template(const plx_tokenizer *tokenizer);
/* Number of bytes that a token stands for; 0 outside the vocabulary. */
size_t plx_token_byte_count(const plx_tokenizer *tokenizer, int32_t token);

#endif
