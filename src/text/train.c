/* train.c - a byte-level BPE vocabulary from text.
 *
 * Words (GPT-2's) are counted once, in a table; then the most frequent pair of neighbours in them becomes a token,
 * again and again, until there are enough. A pair knows the words that it stands in, so that a step touches only those.
 * Of pairs of the same frequency the one with the lower first id is taken, then the lower second id: the result depends
 * on the text alone. When the table is full, words met once so far are forgotten. */
#include "io/files.h"
#include "io/text_reader.h"
#include "text/pretrained.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

extern const plx_tokenizer_kind plx_tokenizer_pretrained;

#define WORDS_MOST ((size_t)1 << 22)
#define WORD_MOST 4096 /* bytes; longer ones are not counted */
#define SEPARATOR "<|endoftext|>"

typedef struct word {
    size_t begin;
    uint32_t size;
    uint64_t count;
} word; /* begin: in bytes, then symbols */
typedef struct pair {
    int32_t left, right; /* left -1: an empty slot */
    int64_t count;
    uint32_t *words; /* that it stands in, or stood in */
    size_t used, room;
    bool touched;
} pair;
typedef struct waiting {
    int64_t count;
    int32_t left, right;
} waiting;

typedef struct training {
    plx_context *context;
    plx_tokenizer *splitter; /* a tokenizer of single bytes, which hands over its words */
    char *bytes;
    size_t bytes_used, bytes_room;
    word *words;
    size_t word_count, word_room;
    uint32_t *slots; /* of words: index + 1; 0: empty */
    size_t slot_mask;
    int32_t *symbols;
    pair *pairs;
    size_t pair_count, pair_mask;
    waiting *heap;
    size_t heap_used, heap_room;
    waiting *touched;
    size_t touched_used, touched_room;
    plx_vocab vocab;
    int32_t (*merges)[2];
    size_t merge_count, tokens;
} training;

/* Makes room for one more item of `size` bytes. */
static plx_status grow(plx_context *context, void **items, size_t used, size_t *room, size_t size)
{
    if (used < *room) return PLX_OK;
    size_t more = *room * 2 + 64;
    void *grown = plx_grow(context, *items, *room * size, more * size);
    if (grown == NULL) return PLX_ERROR_MEMORY;
    *items = grown;
    *room = more;
    return PLX_OK;
}

/* ---- words ---- */

static uint64_t hash_of(const char *text, size_t bytes)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return hash ^ hash >> 29;
}

static void index_words(training *self)
{
    memset(self->slots, 0, (self->slot_mask + 1) * sizeof *self->slots);
    for (size_t i = 0; i < self->word_count; i++) {
        size_t at = hash_of(self->bytes + self->words[i].begin, self->words[i].size) & self->slot_mask;
        while (self->slots[at] != 0) at = (at + 1) & self->slot_mask;
        self->slots[at] = (uint32_t)i + 1;
    }
}

/* Forgets the words with the lowest count, at least those met once, until a quarter of the table is free. */
static void forget_rare(training *self)
{
    for (uint64_t least = 2; self->word_count > WORDS_MOST / 4 * 3; least *= 2) {
        size_t kept = 0, used = 0;
        for (size_t i = 0; i < self->word_count; i++) {
            word one = self->words[i];
            if (one.count < least) continue;
            memmove(self->bytes + used, self->bytes + one.begin, one.size);
            one.begin = used;
            used += one.size;
            self->words[kept++] = one;
        }
        self->word_count = kept;
        self->bytes_used = used;
    }
    index_words(self);
}

static plx_status count_word(void *user, const char *text, size_t bytes)
{
    training *self = user;
    if (bytes > WORD_MOST) return PLX_OK;
    size_t at = hash_of(text, bytes) & self->slot_mask;
    for (; self->slots[at] != 0; at = (at + 1) & self->slot_mask) {
        word *one = &self->words[self->slots[at] - 1];
        if (one->size != bytes || memcmp(self->bytes + one->begin, text, bytes) != 0) continue;
        one->count++;
        return PLX_OK;
    }
    if (self->bytes_used + bytes > self->bytes_room) {
        size_t room = (self->bytes_room + bytes) * 2;
        char *grown = plx_grow(self->context, self->bytes, self->bytes_room, room);
        if (grown == NULL) return PLX_ERROR_MEMORY;
        self->bytes = grown;
        self->bytes_room = room;
    }
    PLX_TRY(grow(self->context, (void **)&self->words, self->word_count, &self->word_room, sizeof *self->words));
    memcpy(self->bytes + self->bytes_used, text, bytes);
    self->words[self->word_count++] = (word){self->bytes_used, (uint32_t)bytes, 1};
    self->bytes_used += bytes;
    self->slots[at] = (uint32_t)self->word_count;
    if (self->word_count == WORDS_MOST) forget_rare(self);
    return PLX_OK;
}

static plx_status count_file(training *self, const char *path, const plx_text_options *options, double done,
                             double total)
{
    plx_text_reader *reader = NULL;
    plx_text_piece piece;
    bool more = true;
    PLX_TRY(plx_text_open(self->context, path, options, &reader));
    plx_encoder encoder = plx_encoder_make(self->splitter);
    encoder.plain = true;
    plx_status status = plx_text_next(reader, &piece, &more);
    while (status == PLX_OK && more) {
        plx_encoder_clear(&encoder);
        status = plx_encoder_feed(&encoder, piece.bytes, piece.count, piece.ends);
        plx_progress(self->context, "reading text", done + (double)plx_text_position(reader), total);
        if (status == PLX_OK) status = plx_check_cancel(self->context);
        if (status == PLX_OK) status = plx_text_next(reader, &piece, &more);
    }
    plx_encoder_release(&encoder);
    plx_text_close(reader);
    return status;
}

/* ---- pairs ---- */

static pair *find_pair(const training *self, int32_t left, int32_t right)
{
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    size_t at = (hash >> 20) & self->pair_mask;
    while (self->pairs[at].left >= 0 && (self->pairs[at].left != left || self->pairs[at].right != right))
        at = (at + 1) & self->pair_mask;
    return &self->pairs[at];
}

static plx_status make_pairs(training *self, size_t slots)
{
    pair *old = self->pairs;
    size_t old_slots = old != NULL ? self->pair_mask + 1 : 0;
    pair *made = plx_alloc_array(self->context, slots, sizeof *made);
    if (made == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < slots; i++) made[i].left = -1;
    self->pairs = made;
    self->pair_mask = slots - 1;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].left >= 0) *find_pair(self, old[i].left, old[i].right) = old[i];
    plx_free(self->context, old);
    return PLX_OK;
}

/* The pair stands `count` times more in the word. */
static plx_status add_pair(training *self, int32_t left, int32_t right, int64_t count, uint32_t in)
{
    if (self->pair_count * 2 > self->pair_mask) PLX_TRY(make_pairs(self, (self->pair_mask + 1) * 2));
    pair *one = find_pair(self, left, right);
    if (one->left < 0) {
        *one = (pair){.left = left, .right = right};
        self->pair_count++;
    }
    one->count += count;
    if (count > 0 && (one->used == 0 || one->words[one->used - 1] != in)) {
        PLX_TRY(grow(self->context, (void **)&one->words, one->used, &one->room, sizeof *one->words));
        one->words[one->used++] = in;
    }
    if (one->touched || count < 0) return PLX_OK; /* one that became rarer is found out when its turn comes */
    PLX_TRY(
        grow(self->context, (void **)&self->touched, self->touched_used, &self->touched_room, sizeof *self->touched));
    self->touched[self->touched_used++] = (waiting){0, left, right};
    one->touched = true;
    return PLX_OK;
}

static bool goes_before(const waiting *a, const waiting *b)
{
    if (a->count != b->count) return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static plx_status push(training *self, waiting entry)
{
    PLX_TRY(grow(self->context, (void **)&self->heap, self->heap_used, &self->heap_room, sizeof *self->heap));
    size_t at = self->heap_used++;
    for (; at > 0 && goes_before(&entry, &self->heap[(at - 1) / 2]); at = (at - 1) / 2)
        self->heap[at] = self->heap[(at - 1) / 2];
    self->heap[at] = entry;
    return PLX_OK;
}

static waiting pop(training *self)
{
    waiting top = self->heap[0], last = self->heap[--self->heap_used];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < self->heap_used; at = child) {
        if (child + 1 < self->heap_used && goes_before(&self->heap[child + 1], &self->heap[child])) child++;
        if (!goes_before(&self->heap[child], &last)) break;
        self->heap[at] = self->heap[child];
    }
    self->heap[at] = last;
    return top;
}

/* Puts the pairs that became more frequent into the queue. */
static plx_status push_touched(training *self)
{
    for (size_t i = 0; i < self->touched_used; i++) {
        pair *one = find_pair(self, self->touched[i].left, self->touched[i].right);
        one->touched = false;
        if (one->count > 1) PLX_TRY(push(self, (waiting){one->count, one->left, one->right}));
    }
    self->touched_used = 0;
    return PLX_OK;
}

static plx_status count_pairs(training *self)
{
    size_t total = 0;
    for (size_t i = 0; i < self->word_count; i++) total += self->words[i].size;
    self->symbols = plx_alloc_array(self->context, total + 1, sizeof *self->symbols);
    if (self->symbols == NULL) return PLX_ERROR_MEMORY;
    PLX_TRY(make_pairs(self, (size_t)1 << 16));
    size_t used = 0;
    for (size_t i = 0; i < self->word_count; i++) {
        word *one = &self->words[i];
        for (size_t j = 0; j < one->size; j++)
            self->symbols[used + j] = plx_vocab_find(&self->vocab, self->bytes + one->begin + j, 1);
        one->begin = used;
        used += one->size;
        for (size_t j = one->begin; j + 1 < used; j++)
            PLX_TRY(add_pair(self, self->symbols[j], self->symbols[j + 1], (int64_t)one->count, (uint32_t)i));
    }
    return push_touched(self);
}

/* The word with `made` for each left, right. */
static plx_status merge_in(training *self, uint32_t index, int32_t left, int32_t right, int32_t made)
{
    word *one = &self->words[index];
    int32_t *symbols = self->symbols + one->begin;
    int64_t count = (int64_t)one->count;
    size_t kept = 0;
    for (size_t i = 0; i < one->size; i++) {
        if (i + 1 == one->size || symbols[i] != left || symbols[i + 1] != right) {
            symbols[kept++] = symbols[i];
            continue;
        }
        if (kept > 0) {
            PLX_TRY(add_pair(self, symbols[kept - 1], left, -count, index));
            PLX_TRY(add_pair(self, symbols[kept - 1], made, count, index));
        }
        if (i + 2 < one->size) {
            PLX_TRY(add_pair(self, right, symbols[i + 2], -count, index));
            PLX_TRY(add_pair(self, made, symbols[i + 2], count, index));
        }
        symbols[kept++] = made;
        i++;
    }
    one->size = (uint32_t)kept;
    return PLX_OK;
}

/* The token of two: a new one, or one that other two make already. */
static plx_status make_token(training *self, int32_t left, int32_t right, int32_t *made)
{
    char text[WORD_MOST];
    const plx_vocab *vocab = &self->vocab;
    size_t size = vocab->size[left] + vocab->size[right];
    memcpy(text, vocab->bytes + vocab->begin[left], vocab->size[left]);
    memcpy(text + vocab->size[left], vocab->bytes + vocab->begin[right], vocab->size[right]);
    *made = plx_vocab_find(vocab, text, size);
    if (*made >= 0) return PLX_OK;
    *made = (int32_t)self->tokens++;
    return plx_vocab_put(&self->vocab, *made, text, size, true);
}

static plx_status merge_pairs(training *self, size_t vocab_size)
{
    while (self->tokens < vocab_size && self->heap_used > 0) {
        waiting top = pop(self);
        pair *best = find_pair(self, top.left, top.right);
        if (best->count != top.count) { /* it became rarer since */
            if (best->count > 1 && best->count < top.count)
                PLX_TRY(push(self, (waiting){best->count, top.left, top.right}));
            continue;
        }
        int32_t made;
        if (self->vocab.size[top.left] + self->vocab.size[top.right] > PLX_TOKEN_BYTES_MOST / 4) continue;
        PLX_TRY(make_token(self, top.left, top.right, &made));
        self->merges[self->merge_count][0] = top.left;
        self->merges[self->merge_count++][1] = top.right;
        uint32_t *in = best->words;
        size_t used = best->used;
        best->words = NULL;
        best->used = best->room = 0;
        best->count = 0;
        plx_status status = PLX_OK;
        for (size_t i = 0; i < used && status == PLX_OK; i++) status = merge_in(self, in[i], top.left, top.right, made);
        plx_free(self->context, in);
        PLX_TRY(status);
        find_pair(self, top.left, top.right)->count = 0; /* of pairs that overlap, as in "aaa" */
        PLX_TRY(push_touched(self));
        plx_progress(self->context, "merging pairs", (double)self->tokens, (double)vocab_size);
        PLX_TRY(plx_check_cancel(self->context));
    }
    return PLX_OK;
}

/* ---- the files ---- */

/* A token as tokenizer.json writes it. */
static size_t write_token(const training *self, int32_t token, char text[2 * PLX_TOKEN_BYTES_MOST])
{
    const char *bytes = self->vocab.bytes + self->vocab.begin[token];
    size_t used = 0;
    for (size_t i = 0; i < self->vocab.size[token]; i++)
        used += plx_byte_level_character((unsigned char)bytes[i], text + used);
    return used;
}

static json_t *describe(const training *self)
{
    char left[2 * PLX_TOKEN_BYTES_MOST], right[2 * PLX_TOKEN_BYTES_MOST];
    json_t *vocab = json_pack("{s:i}", SEPARATOR, 0), *merges = json_array();
    for (size_t i = 1; i < self->tokens; i++) {
        size_t size = write_token(self, (int32_t)i, left);
        json_object_setn_new(vocab, left, size, json_integer((json_int_t)i));
    }
    for (size_t i = 0; i < self->merge_count; i++) {
        int sizes[2] = {(int)write_token(self, self->merges[i][0], left),
                        (int)write_token(self, self->merges[i][1], right)};
        json_array_append_new(merges, json_pack("[s%s%]", left, sizes[0], right, sizes[1]));
    }
    const char *byte_level = "ByteLevel";
    return json_pack("{s:s,s:n,s:n,s:[{s:i,s:s,s:b,s:b,s:b,s:b,s:b}],s:n,s:{s:s,s:b,s:b,s:b},s:n,s:{s:s,s:b,s:b,s:b},"
                     "s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}}",
                     "version", "1.0", "truncation", "padding", "added_tokens", "id", 0, "content", SEPARATOR,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1, "normalizer",
                     "pre_tokenizer", "type", byte_level, "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1,
                     "post_processor", "decoder", "type", byte_level, "add_prefix_space", 1, "trim_offsets", 1,
                     "use_regex", 1, "model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab,
                     "merges", merges);
}

static plx_status write_json(plx_context *context, const char *directory, const char *name, json_t *object)
{
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL,
         *path = plx_format(context, "%s/%s", directory, name);
    plx_status status = PLX_ERROR_MEMORY;
    if (text == NULL)
        plx_fail(context, status, "no memory left to write %s", name);
    else if (path != NULL)
        status = plx_file_write(context, path, text, strlen(text));
    json_decref(object);
    plx_free(context, path);
    free(text);
    return status;
}

static plx_status write_files(training *self, const char *directory)
{
    char *aside;
    json_t *config = json_pack("{s:s,s:s,s:s}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token", SEPARATOR,
                               "eos_token", SEPARATOR);
    plx_status status = plx_directory_begin(self->context, directory, &aside);
    if (status != PLX_OK) {
        json_decref(config);
        return status;
    }
    status = write_json(self->context, aside, "tokenizer_config.json", config);
    if (status == PLX_OK) status = write_json(self->context, aside, "tokenizer.json", describe(self));
    if (status == PLX_OK) return plx_directory_commit(self->context, aside, directory);
    plx_directory_abandon(self->context, aside);
    return status;
}

/* ---- all of it ---- */

/* The vocabulary before any merge: the separator and the bytes; and a tokenizer of it that hands its words over. */
static plx_status begin(training *self, size_t vocab_size)
{
    plx_context *context = self->context;
    PLX_TRY(plx_vocab_open(context, vocab_size, vocab_size * 8, &self->vocab));
    PLX_TRY(plx_vocab_put(&self->vocab, 0, SEPARATOR, strlen(SEPARATOR), false));
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        PLX_TRY(plx_vocab_put(&self->vocab, byte + 1, &text, 1, true));
    }
    self->tokens = 257;
    self->merges = plx_alloc_array(context, vocab_size, sizeof *self->merges);
    self->slots = plx_alloc_array(context, WORDS_MOST * 2, sizeof *self->slots);
    self->slot_mask = WORDS_MOST * 2 - 1;
    if (self->merges == NULL || self->slots == NULL) return PLX_ERROR_MEMORY;
    json_t *object = describe(self);
    char *text = object != NULL ? json_dumps(object, 0) : NULL, *json = text != NULL ? plx_strdup(context, text) : NULL;
    plx_status status =
        json != NULL ? PLX_OK : plx_fail(context, PLX_ERROR_MEMORY, "no memory left to train a tokenizer");
    if (status == PLX_OK) status = plx_tokenizer_make(context, &plx_tokenizer_pretrained, &self->splitter);
    if (status == PLX_OK) {
        status = plx_pretrained_read(self->splitter, "tokenizer.json", json, strlen(json), NULL, 0);
        json = NULL;
    }
    if (status == PLX_OK) {
        plx_pretrained *splitter = self->splitter->state;
        splitter->on_word = count_word;
        splitter->on_word_user = self;
    }
    plx_free(context, json);
    free(text);
    json_decref(object);
    return status;
}

static void release(training *self)
{
    plx_context *context = self->context;
    for (size_t i = 0; self->pairs != NULL && i <= self->pair_mask; i++) plx_free(context, self->pairs[i].words);
    void *const held[] = {self->bytes, self->words, self->slots,   self->symbols,
                          self->pairs, self->heap,  self->touched, self->merges};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++) plx_free(context, held[i]);
    plx_vocab_close(&self->vocab);
    plx_tokenizer_free(self->splitter);
}

plx_status plx_tokenizer_train(plx_context *context, const char *const *files, size_t count,
                               const plx_tokenizer_options *options, const char *directory, size_t *made)
{
    training self = {.context = context};
    plx_text_options reading = {.field = options->text_field, .separator = options->document_separator};
    double total = 0, done = 0;
    struct stat about;
    if (options->vocab_size < 257 || options->vocab_size > PLX_VOCAB_MOST)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "a vocabulary of %zu tokens cannot be made: it takes 257 (the bytes and " SEPARATOR ") to %zu",
                        options->vocab_size, PLX_VOCAB_MOST);
    if (plx_file_exists(directory))
        return plx_fail(context, PLX_ERROR_EXISTS, "'%s' is there already: choose another directory or remove it",
                        directory);
    for (size_t i = 0; i < count; i++) {
        if (stat(files[i], &about) != 0) return plx_file_fail(context, errno, "open", files[i]);
        total += (double)about.st_size;
    }
    plx_status status = begin(&self, options->vocab_size);
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        status = count_file(&self, files[i], &reading, done, total);
        if (stat(files[i], &about) == 0) done += (double)about.st_size;
    }
    if (status == PLX_OK) status = count_pairs(&self);
    if (status == PLX_OK) status = merge_pairs(&self, options->vocab_size);
    if (status == PLX_OK) status = write_files(&self, directory);
    if (status == PLX_OK && made != NULL) *made = self.tokens;
    release(&self);
    return status;
}
