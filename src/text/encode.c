/* encode.c - text through all parts of a tokenizer, in pieces.
 *
 * Text that comes in pieces is cut where the tokens of both sides are the same as uncut: before a space between a
 * letter or punctuation mark and a letter ("end.| of"), and behind a newline likewise ("end.\n|Of"). Every pattern of
 * `known_patterns` ends a word there, and no normal form, added token or merge reaches across, which
 * plx_pretrained_find_cuts makes sure of; a tokenizer whose parts say nothing about that gets the document whole. */
#include "text/utf8.h"
#include "text/pretrained.h"

#define CHUNK_BYTES ((size_t)1 << 14) /* encoded at a time, where it may be cut */
#define CHUNK_MOST ((size_t)1 << 30)
#define HASH_A 0x9E3779B97F4A7C15u
#define HASH_B 0xC2B2AE3D27D4EB4Fu

/* ---- words ---- */

/* The word's bytes and length as four numbers; the text is padded. */
static inline void make_key(uint64_t key[4], const char *word, size_t bytes)
{
    memcpy(key, word, 32);
    for (size_t i = 0; i < 4; i++) {
        size_t have = bytes > i * 8 ? bytes - i * 8 : 0;
        if (have < 8) key[i] &= ((uint64_t)1 << have * 8) - 1;
    }
    key[3] |= (uint64_t)bytes << 56;
}

static plx_status compute_word(plx_pretrained *self, const char *word, size_t bytes, int32_t *tokens, size_t *count)
{
    return self->model == PLX_MODEL_BPE ? plx_bpe_word(self, word, bytes, tokens, count)
                                        : plx_wordpiece_word(self, word, bytes, tokens, count);
}

/* Appends a word's tokens; there is room for one per byte, and for PLX_CACHED_TOKENS beyond. */
static inline plx_status add_word(plx_pretrained *self, const char *word, size_t bytes, plx_encoder *to)
{
    int32_t *tokens = to->tokens + to->count;
    size_t count;
    if (bytes > PLX_CACHED_BYTES) {
        PLX_TRY(compute_word(self, word, bytes, tokens, &count));
        to->count += count;
        return PLX_OK;
    }
    uint64_t key[4];
    make_key(key, word, bytes);
    uint64_t hash = (key[0] * HASH_A ^ key[1] * HASH_B) + (key[2] ^ key[3] * HASH_A) * HASH_B;
    plx_cached_word *cached = &self->cache[(hash ^ hash >> 31) * HASH_A >> (64 - self->cache_bits)];
    if (((cached->key[0] ^ key[0]) | (cached->key[1] ^ key[1]) | (cached->key[2] ^ key[2]) |
         (cached->key[3] ^ key[3])) == 0) {
        memcpy(tokens, cached->tokens, sizeof cached->tokens);
        to->count += cached->count;
        return PLX_OK;
    }
    PLX_TRY(compute_word(self, word, bytes, tokens, &count));
    to->count += count;
    if (count > PLX_CACHED_TOKENS) return PLX_OK;
    memcpy(cached->key, key, sizeof key);
    cached->count = (uint32_t)count;
    memcpy(cached->tokens, tokens, count * sizeof *tokens);
    return PLX_OK;
}

/* A word of a model whose merges never reach into a U+2581 from before: what lies between falls apart there. */
static plx_status add_metaspace_words(plx_pretrained *self, const char *text, size_t bytes, plx_encoder *to)
{
    size_t done = 0;
    bool marked = true; /* the character before is U+2581, or none */
    for (size_t i = 0; i < bytes;) {
        bool mark = (unsigned char)text[i] == 0xE2 && i + 2 < bytes && (unsigned char)text[i + 1] == 0x96 &&
                    (unsigned char)text[i + 2] == 0x81;
        if (mark && !marked) {
            PLX_TRY(add_word(self, text + done, i - done, to));
            done = i;
        }
        marked = mark;
        i += mark ? 3 : 1;
    }
    return done < bytes ? add_word(self, text + done, bytes - done, to) : PLX_OK;
}

/* ---- a chunk ---- */

static plx_status add_words(plx_pretrained *self, plx_text text, bool first, plx_encoder *to)
{
    if (text.count == 0) return PLX_OK;
    PLX_TRY(plx_split(self->context, self->splitters, self->splitter_count, text, first, self->splitted, self->spans,
                      &text));
    PLX_TRY(plx_encoder_reserve(to, text.count + PLX_CACHED_TOKENS));
    const plx_spans *words = &self->spans[0];
    for (size_t i = 0; i < words->count; i++) {
        const char *word = text.bytes + words->items[i].begin;
        size_t bytes = words->items[i].end - words->items[i].begin;
        if (self->on_word != NULL)
            PLX_TRY(self->on_word(self->on_word_user, word, bytes));
        else if (self->words_at_metaspace)
            PLX_TRY(add_metaspace_words(self, word, bytes, to));
        else
            PLX_TRY(add_word(self, word, bytes, to));
    }
    return PLX_OK;
}

/* Goes over a text from one added token of the set to the next; what lies between goes to `between`. */
typedef plx_status (*add_part)(plx_pretrained *self, plx_text text, bool first, plx_encoder *to);
static plx_status add_between(plx_pretrained *self, const plx_added_set *set, plx_text text, bool first,
                              add_part between, plx_encoder *to)
{
    size_t done = 0, begin, end, from = 0;
    int32_t index;
    while ((index = plx_added_set_find(set, text.bytes, text.count, from, &begin, &end)) >= 0) {
        const plx_added_token *token = &self->added[index];
        int size;
        size_t before;
        from = end;
        if (to->plain && token->special) continue;
        if (token->single_word && ((begin > 0 && plx_char_is_word(plx_char_before(text.bytes, begin, &before))) ||
                                   (end < text.count && plx_char_is_word(plx_char_at(text.bytes + end, &size)))))
            continue;
        while (token->lstrip && begin > done && plx_char_is_space(plx_char_before(text.bytes, begin, &before)))
            begin = before;
        while (token->rstrip && end < text.count && plx_char_is_space(plx_char_at(text.bytes + end, &size)))
            end += (size_t)size;
        if (done < begin) PLX_TRY(between(self, (plx_text){text.bytes + done, begin - done}, first && done == 0, to));
        PLX_TRY(plx_encoder_append(to, token->id));
        done = end;
    }
    if (done == text.count) return PLX_OK;
    return between(self, (plx_text){text.bytes + done, text.count - done}, first && done == 0, to);
}

static plx_status add_normalised(plx_pretrained *self, plx_text text, bool first, plx_encoder *to)
{
    /* What goes on from a cut begins with a space or stands behind a newline: only there `first` is false although no
     * added token stands before. */
    bool continued = text.bytes == self->utf8.bytes && !first;
    PLX_TRY(
        plx_normalize(self->context, self->normalizers, self->normalizer_count, text, continued, self->normal, &text));
    return add_between(self, &self->normalised, text, first, add_words, to);
}

/* Copies text to self->utf8, what is not UTF-8 as U+FFFD. */
static plx_status make_utf8(plx_pretrained *self, const char *text, size_t bytes)
{
    plx_text_buffer *to = &self->utf8;
    to->count = 0;
    PLX_TRY(plx_text_reserve(self->context, to, bytes * 3));
    char *out = to->bytes;
    for (size_t i = 0; i < bytes;) {
        uint64_t eight;
        while (i + 8 <= bytes && (memcpy(&eight, text + i, 8), (eight & 0x8080808080808080u) == 0)) {
            memcpy(out, &eight, 8);
            out += 8;
            i += 8;
        }
        if (i == bytes) break;
        int size = plx_utf8_next(text + i, bytes - i);
        if (size > 0) {
            for (int j = 0; j < size; j++) *out++ = text[i + (size_t)j];
            i += (size_t)size;
            continue;
        }
        memcpy(out, "\xEF\xBF\xBD", 3);
        out += 3;
        i += size < 0 ? (size_t)-size : bytes - i; /* what the end cuts off is one character, too */
    }
    to->count = (size_t)(out - to->bytes);
    memset(out, 0, PLX_TEXT_PADDING);
    return PLX_OK;
}

static plx_status encode_chunk(plx_pretrained *self, const char *text, size_t bytes, bool first, plx_encoder *to)
{
    if (bytes > CHUNK_MOST)
        return plx_fail(self->context, PLX_ERROR_UNSUPPORTED,
                        "%s: a document of more than %zu bytes cannot be cut for this tokenizer: split it", self->file,
                        CHUNK_MOST);
    PLX_TRY(make_utf8(self, text, bytes));
    return add_between(self, &self->as_written, (plx_text){self->utf8.bytes, self->utf8.count}, first, add_normalised,
                       to);
}

/* ---- cuts ---- */

#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
static const char *const known_patterns[] = {
    /* GPT-2, and ByteLevel where it splits */
    GPT2_PATTERN,
    /* Llama 3 */
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    /* Qwen 2 */
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
};

const char *const plx_byte_level_pattern = GPT2_PATTERN;

bool plx_pattern_is_known(const char *pattern)
{
    for (size_t i = 0; i < sizeof known_patterns / sizeof known_patterns[0]; i++)
        if (strcmp(pattern, known_patterns[i]) == 0) return true;
    return false;
}

static bool is_space_mark(uint32_t c) { return plx_char_is_space(c) || c == 0x2581; }
static bool is_text(uint32_t c) { return plx_char_is_letter(c) || plx_char_is_punctuation(c); }

/* Whether an added token could lie across a cut. */
static bool reaches_over_cut(const char *text, size_t count)
{
    uint32_t before = 0;
    for (size_t i = 0; i < count;) {
        int size;
        uint32_t c = plx_char_at(text + i, &size);
        if (i > 0 && ((is_space_mark(c) && is_text(before)) || (is_space_mark(before) && plx_char_is_letter(c))))
            return true;
        before = c;
        i += (size_t)size;
    }
    return false;
}

void plx_pretrained_find_cuts(plx_pretrained *self)
{
    bool space = true, newline = true;
    for (size_t i = 0; i < self->added_count; i++) {
        const plx_added_token *token = &self->added[i];
        if (token->lstrip || token->rstrip || token->single_word || reaches_over_cut(token->text, strlen(token->text)))
            space = false;
    }
    for (size_t i = 0; i < self->normalizer_count; i++) {
        const plx_normalizer *step = &self->normalizers[i];
        if (step->kind == PLX_NORMALIZE_STRIP || (step->kind == PLX_NORMALIZE_REPLACE && step->byte != ' '))
            space = false;
        if (step->kind == PLX_NORMALIZE_PREPEND) newline = false;
    }
    bool apart = self->words_at_metaspace;
    for (size_t i = 0; i < self->splitter_count; i++) {
        const plx_splitter *step = &self->splitters[i];
        if (step->kind == PLX_SPLIT_PATTERN) {
            if (!step->known) space = false;
            apart = true;
        }
        if (step->kind == PLX_SPLIT_CHARS && step->is == plx_char_is_space) apart = true;
        if (step->is != NULL && step->is != plx_char_is_space && step->is != plx_char_is_number &&
            step->behavior != PLX_SPLIT_ISOLATED)
            space = false;
        if (step->kind == PLX_SPLIT_PREFIX_SPACE || step->kind == PLX_SPLIT_METASPACE) newline = false;
        if (step->kind == PLX_SPLIT_METASPACE && step->split) apart = true;
    }
    if (self->words_at_metaspace) newline = false;
    self->cut_at_space = space && apart;
    self->cut_at_newline = self->cut_at_space && newline;
}

/* The last place in text[from, count) before which text may be cut, or 0. */
static size_t find_cut(const plx_pretrained *self, const char *text, size_t from, size_t count)
{
    for (size_t i = count; self->cut_at_space && i-- > from + 1;) {
        if (text[i] != ' ' && !(text[i] == '\n' && self->cut_at_newline)) continue;
        size_t begin, left = i < 4 ? 0 : i - 4, right = count - i - 1 < 4 ? count - i - 1 : 4;
        while (left < i && ((unsigned char)text[left] & 0xC0) == 0x80) left++;
        while (left < i && plx_utf8_next(text + left, i - left) != (int)(i - left)) {
            int size = plx_utf8_next(text + left, i - left);
            left += size > 0 ? (size_t)size : size < 0 ? (size_t)-size : i - left;
        }
        if (left == i || right == 0 || plx_utf8_next(text + i + 1, right) <= 0) continue;
        int size;
        uint32_t before = plx_char_before(text, i, &begin), after = plx_char_at(text + i + 1, &size);
        if (is_text(before) && plx_char_is_letter(after)) return text[i] == ' ' ? i : i + 1;
    }
    return 0;
}

/* Encodes text whose end is the document's or a cut. */
static plx_status encode_whole(plx_encoder *encoder, plx_pretrained *self, const char *text, size_t bytes)
{
    while (bytes > 0) {
        size_t count = bytes;
        for (size_t window = CHUNK_BYTES; window < bytes && count == bytes; window *= 2) {
            size_t cut = find_cut(self, text, window == CHUNK_BYTES ? 0 : window / 2, window);
            if (cut > 0) count = cut;
        }
        PLX_TRY(encode_chunk(self, text, count, !encoder->continued, encoder));
        encoder->continued = true;
        text += count;
        bytes -= count;
    }
    return PLX_OK;
}

plx_status plx_pretrained_encode(plx_encoder *encoder, const char *text, size_t bytes, bool last)
{
    plx_pretrained *self = encoder->tokenizer->state;
    plx_status status = PLX_OK;
    if (encoder->tail_bytes == 0 && last) {
        status = encode_whole(encoder, self, text, bytes);
    } else {
        plx_text_buffer tail = {encoder->tail, encoder->tail_bytes, encoder->tail_capacity};
        size_t searched = tail.count > 8 ? tail.count - 8 : 0;
        status = plx_text_append(self->context, &tail, text, bytes);
        encoder->tail = tail.bytes;
        encoder->tail_bytes = tail.count;
        encoder->tail_capacity = tail.capacity;
        size_t cut = last ? tail.count : find_cut(self, tail.bytes, searched, tail.count);
        if (status == PLX_OK && cut > 0) {
            status = encode_whole(encoder, self, tail.bytes, cut);
            memmove(tail.bytes, tail.bytes + cut, tail.count - cut);
            encoder->tail_bytes = tail.count - cut;
        }
    }
    if (last) encoder->continued = false;
    return status;
}
