/* pretrained.h - the tokenizers of real models: what a tokenizer.json describes. Private to src/text.
 *
 * Text goes through the parts that the file names, in this order:
 *
 *     bytes -> UTF-8             encode.c      what is not UTF-8 becomes U+FFFD
 *     added tokens, as written   added.c       "<|endoftext|>": found in the text as it is
 *     normalizer                 normalize.c   NFC, lower case, spaces to U+2581, ...
 *     added tokens, normalised   added.c
 *     pre_tokenizer              split.c       words
 *     model                      bpe.c, wordpiece.c: a word's tokens, kept in a cache (encode.c)
 *
 * A byte-level model's tokens are kept as the bytes they stand for, not as the characters that the file writes for
 * bytes, so that text needs no rewriting. read.c reads the normalizer, pre_tokenizer and post_processor,
 * read_model.c the model, pretrained.c the rest; decode.c makes the bytes of each token, once, when the file is opened. */
#ifndef PLX_TEXT_PRETRAINED_H
#define PLX_TEXT_PRETRAINED_H

#include "text/chars.h"
#include "text/fields.h"
#include "text/regex.h"
#include "text/tokenizer.h"

#define PLX_VOCAB_MOST ((size_t)1 << 22) /* ids */
#define PLX_STEPS_MOST 32                /* of a normalizer, pre_tokenizer or decoder */

/* ---- the vocabulary: strings of bytes and their ids (vocab.c) ---- */

typedef struct plx_vocab {
    plx_context *context;
    char *bytes; /* all strings, one after the other */
    size_t used, room;
    uint32_t *begin, *size; /* [ids]: where id's string is; size 0: no such id */
    size_t ids;
    int32_t *slots; /* hash table of ids; -1: empty */
    size_t slot_mask;
} plx_vocab;

/* For ids below `ids` and strings of about `bytes` bytes altogether. */
plx_status plx_vocab_open(plx_context *context, size_t ids, size_t bytes, plx_vocab *vocab);
void plx_vocab_close(plx_vocab *vocab);
/* Sets id's string. `known`: it can be found by it, if no other id has the same string. */
plx_status plx_vocab_put(plx_vocab *vocab, int32_t id, const char *text, size_t count, bool known);
/* The id of a string, or -1. */
int32_t plx_vocab_find(const plx_vocab *vocab, const char *text, size_t count);

/* ---- merges of byte pair encoding (vocab.c) ---- */

typedef struct plx_merge {
    int32_t left, right, token;
    uint32_t rank;
} plx_merge; /* left -1: an empty slot */
#define PLX_NO_RANK UINT32_MAX
typedef struct plx_merges {
    plx_merge *slots;
    size_t mask;
    unsigned shift;
} plx_merges;

plx_status plx_merges_open(plx_context *context, size_t count, plx_merges *merges);
/* False, and nothing changes, when the pair is there already. */
bool plx_merges_put(plx_merges *merges, plx_merge merge);
static inline size_t plx_merges_slot(const plx_merges *merges, int32_t left, int32_t right)
{
    return (((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u) >> merges->shift;
}
/* The merge of a pair, or NULL. */
static inline const plx_merge *plx_merges_find(const plx_merges *merges, int32_t left, int32_t right)
{
    for (size_t i = plx_merges_slot(merges, left, right);; i = (i + 1) & merges->mask) {
        const plx_merge *slot = &merges->slots[i];
        if (slot->left == left && slot->right == right) return slot;
        if (slot->left < 0) return NULL;
    }
}

/* ---- added tokens (added.c) ---- */

typedef struct plx_added_token {
    const char *text; /* the JSON tree's while reading; then owned */
    char *normal;     /* normalised, where `normalized` */
    int32_t id;
    bool lstrip, rstrip, single_word, normalized, special;
} plx_added_token;

/* A set of strings to be found in text: the leftmost, and of those the longest. A tree of bytes. */
typedef struct plx_added_set {
    struct plx_added_node *nodes;
    size_t count, capacity;
    uint64_t pairs[1024]; /* bit of each pair of bytes that a string begins with */
    bool any;
} plx_added_set;
plx_status plx_added_set_put(plx_context *context, plx_added_set *set, const char *text, size_t bytes, int32_t token);
/* The first match in text[from, count): the index of its token, or -1; where it is. text is padded. */
int32_t plx_added_set_find(const plx_added_set *set, const char *text, size_t count, size_t from, size_t *begin,
                           size_t *end);

/* ---- normalizer (normalize.c) ---- */

typedef enum plx_normalizer_kind {
    PLX_NORMALIZE_NFC,
    PLX_NORMALIZE_NFD,
    PLX_NORMALIZE_NFKC,
    PLX_NORMALIZE_NFKD,
    PLX_NORMALIZE_LOWERCASE,
    PLX_NORMALIZE_STRIP_ACCENTS,
    PLX_NORMALIZE_STRIP,
    PLX_NORMALIZE_PREPEND,
    PLX_NORMALIZE_REPLACE,
    PLX_NORMALIZE_BERT
} plx_normalizer_kind;
typedef struct plx_normalizer {
    plx_normalizer_kind kind;
    char *text; /* prepended, or put in place */
    plx_regex *pattern;
    char byte;                                     /* REPLACE: of this one byte, where not 0 */
    bool left, right;                              /* STRIP */
    bool clean, chinese, strip_accents, lowercase; /* BERT */
} plx_normalizer;
/* Text through all steps: *result is `text` itself or one of the two buffers. `continued`: more of the same text stood
 * before, so that nothing is prepended. */
typedef struct plx_text {
    const char *bytes;
    size_t count;
} plx_text;
plx_status plx_normalize(plx_context *context, const plx_normalizer *steps, size_t count, plx_text text, bool continued,
                         plx_text_buffer buffers[2], plx_text *result);

/* ---- pre_tokenizer (split.c) ---- */

typedef enum plx_split_kind {
    PLX_SPLIT_PATTERN,
    PLX_SPLIT_CHARS, /* each character that `is` says */
    PLX_SPLIT_PREFIX_SPACE,
    PLX_SPLIT_METASPACE
} plx_split_kind;
typedef enum plx_split_behavior { /* what becomes of a match */
                                  PLX_SPLIT_REMOVED,
                                  PLX_SPLIT_ISOLATED,
                                  PLX_SPLIT_MERGED_WITH_PREVIOUS,
                                  PLX_SPLIT_MERGED_WITH_NEXT,
                                  PLX_SPLIT_CONTIGUOUS
} plx_split_behavior;
typedef struct plx_splitter {
    plx_split_kind kind;
    plx_split_behavior behavior;
    plx_regex *pattern;
    bool invert, known; /* known: its words end at every cut (encode.c) */
    bool (*is)(uint32_t c);
    uint32_t character; /* with is NULL: this one; METASPACE: what a space becomes */
    enum { PLX_PREPEND_ALWAYS, PLX_PREPEND_FIRST, PLX_PREPEND_NEVER } prepend;
    bool split; /* METASPACE */
} plx_splitter;
typedef struct plx_span {
    uint32_t begin, end;
} plx_span;
typedef struct plx_spans {
    plx_span *items;
    size_t count, capacity;
} plx_spans;
/* Words of a text: spans of *result, which is `text` or one of the two buffers. `first`: the text begins a document.
 * The spans are in lists[0] afterwards. */
plx_status plx_split(plx_context *context, const plx_splitter *steps, size_t count, plx_text text, bool first,
                     plx_text_buffer buffers[2], plx_spans lists[2], plx_text *result);

/* ---- models ---- */

typedef struct plx_pretrained plx_pretrained;

/* The tokens of one word of 1 or more bytes, appended at tokens[0..]: at most one for each byte. `count` is set. */
plx_status plx_bpe_word(plx_pretrained *self, const char *word, size_t bytes, int32_t *tokens, size_t *count);
plx_status plx_wordpiece_word(plx_pretrained *self, const char *word, size_t bytes, int32_t *tokens, size_t *count);

/* Words seen before: one cache line each. */
#define PLX_CACHED_BYTES 31
#define PLX_CACHED_TOKENS 7
typedef struct plx_cached_word {
    uint64_t key[4]; /* the word's bytes, 0 beyond; its length in the last byte */
    uint32_t count;
    int32_t tokens[PLX_CACHED_TOKENS];
} plx_cached_word;

struct plx_pretrained {
    plx_context *context;
    char *file;          /* for messages */
    char *json, *config; /* tokenizer.json and tokenizer_config.json as read; config may be NULL */
    size_t json_bytes, config_bytes;
    char *chat_template; /* tokenizer_config.json's; may be NULL */

    plx_vocab vocab;   /* the model's */
    plx_vocab decoded; /* every id's bytes, added tokens' too */
    plx_added_token *added;
    size_t added_count;
    plx_added_set as_written, normalised;

    plx_normalizer normalizers[PLX_STEPS_MOST];
    size_t normalizer_count;
    plx_splitter splitters[PLX_STEPS_MOST];
    size_t splitter_count;
    bool byte_level; /* the model's strings are bytes */

    enum { PLX_MODEL_BPE, PLX_MODEL_WORDPIECE } model;
    plx_merges merges;
    int32_t byte_ids[256];     /* byte-level: of each byte; -1 */
    int32_t fallback_ids[256]; /* of "<0x00>" ..., where byte_fallback */
    int32_t unk;               /* -1: none */
    bool byte_fallback, fuse_unk, ignore_merges;
    char *continuing_prefix; /* WordPiece: "##" */
    size_t longest_word;     /* WordPiece, in characters */
    bool words_at_metaspace; /* no token goes on with U+2581 after another character: text falls apart there */

    bool cut_at_space, cut_at_newline; /* where text may be cut without changing its tokens (encode.c) */
    enum {
        PLX_FIRST_SPACES_KEPT,
        PLX_FIRST_SPACE_DROPPED,
        PLX_FIRST_SPACES_DROPPED
    } first_spaces;         /* of a text's first token */
    bool first_as_written;  /* a text's first token is the model's string */
    int32_t template_first; /* the post-processor's token before a text; -1 */
    int32_t template_last;

    plx_cached_word *cache; /* 1 << cache_bits */
    unsigned cache_bits;

    /* Instead of encoding, hands each word over; may be NULL. For training a vocabulary. */
    plx_status (*on_word)(void *user, const char *word, size_t bytes);
    void *on_word_user;

    /* working memory */
    plx_text_buffer utf8, normal[2], splitted[2];
    plx_spans spans[2];
    int32_t *symbols; /* BPE of a long word: [long_capacity] */
    uint32_t *next, *previous, *rank;
    uint64_t *heap;
    size_t long_capacity, heap_capacity;
};

/* ---- the file (pretrained.c) ---- */
/* Makes tokenizer->state of a tokenizer.json's text and, unless NULL, of a tokenizer_config.json's. Both were allocated
 * by plx_alloc and belong to the state from here on, whatever happens. `file` is for messages. */
plx_status plx_pretrained_read(plx_tokenizer *tokenizer, const char *file, char *json, size_t bytes, char *config,
                               size_t config_bytes);
/* The id of a token as the file writes it, or -1. */
int32_t plx_pretrained_id(const plx_pretrained *self, const char *text, size_t bytes);

/* ---- reading (read.c) ---- */
/* The fields of a Metaspace, in a pre_tokenizer or a decoder; replacement is the object's. */
typedef struct plx_metaspace {
    const char *replacement;
    int prepend; /* as plx_splitter's */
    bool split;
} plx_metaspace;
plx_status plx_metaspace_read(const plx_place *place, json_t *object, plx_metaspace *found);
plx_status plx_read_normalizer(plx_pretrained *self, const plx_place *place, json_t *object);
plx_status plx_read_splitter(plx_pretrained *self, const plx_place *place, json_t *object);
plx_status plx_read_post_processor(plx_pretrained *self, const plx_place *place, json_t *object);

/* The model, read_model.c: vocab is model's; strings: [ids or more], becomes each id's string as the file writes it. */
plx_status plx_read_model(plx_pretrained *self, const plx_place *place, json_t *model, json_t *vocab, const char **strings,
                          size_t ids);
/* Checks an id and raises *ids, the number of ids, to one more than it. */
plx_status plx_take_id(const plx_place *place, const char *key, json_t *value, size_t *ids);

/* ---- decoding (decode.c) ---- */
/* Fills self->decoded from every id's string as the file writes it; NULL where there is no such id. Special tokens get
 * no bytes. `place` is the file's top. */
plx_status plx_read_decoder(plx_pretrained *self, const plx_place *place, json_t *decoder, const char *const *strings);
/* A kind's decode (tokenizer.h). */
size_t plx_pretrained_decode(const plx_tokenizer *tokenizer, int32_t token, bool first, char *text);
/* The character that ByteLevel writes for a byte; returns its length, at most 2. */
size_t plx_byte_level_character(unsigned char byte, char *text);
/* The bytes that a byte-level string stands for; false where a character stands for none. */
bool plx_byte_level_bytes(const char *text, size_t count, char *bytes, size_t *used);

/* ---- encoding (encode.c) ---- */
bool plx_pattern_is_known(const char *pattern);
extern const char *const plx_byte_level_pattern; /* GPT-2's, which ByteLevel splits by */
/* Decides where text may be cut. */
void plx_pretrained_find_cuts(plx_pretrained *self);
plx_status plx_pretrained_encode(plx_encoder *encoder, const char *text, size_t bytes, bool last);

#endif
