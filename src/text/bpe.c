/* bpe.c - byte pair encoding of one word: its characters become tokens, then the pair of neighbours with the lowest
 * rank (the leftmost of equals) becomes one token, until no pair of neighbours can be joined.
 *
 * Short words look for the lowest rank by going over all pairs; long ones keep the pairs in a heap, so that the time is
 * n log n. Both do the same. */
#include "text/pretrained.h"

#define SHORT_WORD 48 /* tokens */

/* ---- characters to tokens ---- */

typedef struct symbols {
    int32_t *tokens;
    size_t count;
    bool unknown; /* an unknown token waits: with fuse_unk it takes the next in */
} symbols;

static void add_unknown(const plx_pretrained *self, symbols *to)
{
    if (self->unk < 0) return;
    if (to->unknown && !self->fuse_unk) to->tokens[to->count++] = self->unk;
    to->unknown = true;
}

static void add_known(const plx_pretrained *self, symbols *to, int32_t token)
{
    if (to->unknown) to->tokens[to->count++] = self->unk;
    to->unknown = false;
    to->tokens[to->count++] = token;
}

/* A character that is no token: its bytes, or the unknown token. */
static void add_fallback(const plx_pretrained *self, symbols *to, const char *text, int size)
{
    bool bytes = self->byte_fallback;
    for (int i = 0; bytes && i < size; i++) bytes = self->fallback_ids[(unsigned char)text[i]] >= 0;
    if (!bytes) {
        add_unknown(self, to);
        return;
    }
    for (int i = 0; i < size; i++) to->tokens[to->count++] = self->fallback_ids[(unsigned char)text[i]];
}

static size_t make_symbols(const plx_pretrained *self, const char *word, size_t bytes, int32_t *tokens)
{
    symbols made = {.tokens = tokens};
    for (size_t i = 0; i < bytes;) {
        int size = 1;
        int32_t token;
        if (self->byte_level || (unsigned char)word[i] < 0x80) {
            token = self->byte_ids[(unsigned char)word[i]];
        } else {
            plx_char_at(word + i, &size);
            token = plx_vocab_find(&self->vocab, word + i, (size_t)size);
        }
        if (token >= 0)
            add_known(self, &made, token);
        else
            add_fallback(self, &made, word + i, size);
        i += (size_t)size;
    }
    if (made.unknown) made.tokens[made.count++] = self->unk;
    return made.count;
}

/* ---- merging ---- */

static inline const plx_merge *find_merge(const plx_pretrained *self, int32_t left, int32_t right)
{
    return plx_merges_find(&self->merges, left, right);
}

static size_t merge_short(const plx_pretrained *self, int32_t *tokens, size_t count)
{
    uint32_t rank[SHORT_WORD];
    int32_t merged[SHORT_WORD];
    for (size_t i = 0; i + 1 < count; i++) {
        const plx_merge *merge = find_merge(self, tokens[i], tokens[i + 1]);
        rank[i] = merge != NULL ? merge->rank : PLX_NO_RANK;
        merged[i] = merge != NULL ? merge->token : -1;
    }
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == PLX_NO_RANK) break;
        tokens[best] = merged[best];
        count--;
        for (size_t i = best + 1; i < count; i++) {
            tokens[i] = tokens[i + 1];
            rank[i - 1] = rank[i];
            merged[i - 1] = merged[i];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < count; i++) {
            const plx_merge *merge = find_merge(self, tokens[i], tokens[i + 1]);
            rank[i] = merge != NULL ? merge->rank : PLX_NO_RANK;
            merged[i] = merge != NULL ? merge->token : -1;
        }
    }
    return count;
}

static plx_status grow_long(plx_pretrained *self, size_t count)
{
    if (count <= self->long_capacity) return PLX_OK;
    plx_context *context = self->context;
    size_t capacity = count * 2;
    plx_free(context, self->next);
    plx_free(context, self->previous);
    plx_free(context, self->rank);
    plx_free(context, self->heap);
    self->long_capacity = 0;
    self->next = plx_alloc_array(context, capacity, sizeof *self->next);
    self->previous = plx_alloc_array(context, capacity, sizeof *self->previous);
    self->rank = plx_alloc_array(context, capacity, sizeof *self->rank);
    /* Every merge takes one token away and may add two pairs: at most 3 per token. */
    self->heap = plx_alloc_array(context, capacity, 3 * sizeof *self->heap);
    if (!self->next || !self->previous || !self->rank || !self->heap) return PLX_ERROR_MEMORY;
    self->long_capacity = capacity;
    return PLX_OK;
}

/* The heap's entries are rank << 32 | position: the smallest is the leftmost of the lowest rank. */
static void heap_add(uint64_t *heap, size_t *size, uint64_t entry)
{
    size_t at = (*size)++;
    for (; at > 0 && heap[(at - 1) / 2] > entry; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = entry;
}

static uint64_t heap_take(uint64_t *heap, size_t *size)
{
    uint64_t top = heap[0], last = heap[--*size];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < *size; at = child) {
        if (child + 1 < *size && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

#define NONE UINT32_MAX

/* The pair that begins at `at` has changed. */
static void consider(plx_pretrained *self, const int32_t *tokens, uint32_t at, size_t *size)
{
    const plx_merge *merge = self->next[at] != NONE ? find_merge(self, tokens[at], tokens[self->next[at]]) : NULL;
    self->rank[at] = merge != NULL ? merge->rank : PLX_NO_RANK;
    if (merge != NULL) heap_add(self->heap, size, (uint64_t)merge->rank << 32 | at);
}

static plx_status merge_long(plx_pretrained *self, int32_t *tokens, size_t *count)
{
    PLX_TRY(grow_long(self, *count));
    size_t size = 0, kept = 0;
    for (size_t i = 0; i < *count; i++) {
        self->next[i] = i + 1 < *count ? (uint32_t)i + 1 : NONE;
        self->previous[i] = i > 0 ? (uint32_t)i - 1 : NONE;
    }
    for (size_t i = 0; i < *count; i++) consider(self, tokens, (uint32_t)i, &size);
    while (size > 0) {
        uint64_t top = heap_take(self->heap, &size);
        uint32_t at = (uint32_t)top, right = self->next[at];
        if (self->rank[at] != top >> 32) continue; /* that pair is gone */
        tokens[at] = find_merge(self, tokens[at], tokens[right])->token;
        self->rank[right] = PLX_NO_RANK;
        self->next[at] = self->next[right];
        if (self->next[at] != NONE) self->previous[self->next[at]] = at;
        consider(self, tokens, at, &size);
        if (self->previous[at] != NONE) consider(self, tokens, self->previous[at], &size);
    }
    for (uint32_t i = 0; i != NONE; i = self->next[i]) tokens[kept++] = tokens[i];
    *count = kept;
    return PLX_OK;
}

plx_status plx_bpe_word(plx_pretrained *self, const char *word, size_t bytes, int32_t *tokens, size_t *count)
{
    if (self->ignore_merges) {
        int32_t whole = plx_vocab_find(&self->vocab, word, bytes);
        if (whole >= 0) {
            tokens[0] = whole;
            *count = 1;
            return PLX_OK;
        }
    }
    *count = make_symbols(self, word, bytes, tokens);
    if (*count > SHORT_WORD) return merge_long(self, tokens, count);
    *count = merge_short(self, tokens, *count);
    return PLX_OK;
}
