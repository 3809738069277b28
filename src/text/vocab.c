/* vocab.c - strings and ids both ways, and the table of merges. */
#include "text/pretrained.h"

static uint64_t hash_bytes(const char *text, size_t count)
{
    uint64_t hash = 0xCBF29CE484222325u ^ count, word;
    for (; count >= 8; text += 8, count -= 8) {
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    word = 0;
    if (count > 0) memcpy(&word, text, count);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

plx_status plx_vocab_open(plx_context *context, size_t ids, size_t bytes, plx_vocab *vocab)
{
    size_t slots = 64;
    while (slots < ids * 2) slots *= 2;
    *vocab = (plx_vocab){.context = context, .ids = ids, .room = bytes + 64, .slot_mask = slots - 1};
    vocab->bytes = plx_alloc(context, vocab->room);
    vocab->begin = plx_alloc_array(context, ids + 1, sizeof *vocab->begin);
    vocab->size = plx_alloc_array(context, ids + 1, sizeof *vocab->size);
    vocab->slots = plx_alloc_array(context, slots, sizeof *vocab->slots);
    if (!vocab->bytes || !vocab->begin || !vocab->size || !vocab->slots) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < slots; i++) vocab->slots[i] = -1;
    return PLX_OK;
}

void plx_vocab_close(plx_vocab *vocab)
{
    if (vocab->context == NULL) return;
    plx_free(vocab->context, vocab->bytes);
    plx_free(vocab->context, vocab->begin);
    plx_free(vocab->context, vocab->size);
    plx_free(vocab->context, vocab->slots);
    *vocab = (plx_vocab){0};
}

static bool is_text(const plx_vocab *vocab, int32_t id, const char *text, size_t count)
{
    return vocab->size[id] == count && memcmp(vocab->bytes + vocab->begin[id], text, count) == 0;
}

/* The slot where the string is or would be. */
static size_t find_slot(const plx_vocab *vocab, const char *text, size_t count)
{
    size_t i = hash_bytes(text, count) & vocab->slot_mask;
    while (vocab->slots[i] >= 0 && !is_text(vocab, vocab->slots[i], text, count)) i = (i + 1) & vocab->slot_mask;
    return i;
}

plx_status plx_vocab_put(plx_vocab *vocab, int32_t id, const char *text, size_t count, bool known)
{
    if (count > vocab->room - vocab->used) {
        size_t room = (vocab->room + count) * 2;
        char *bytes = room < UINT32_MAX ? plx_grow(vocab->context, vocab->bytes, vocab->room, room) : NULL;
        if (bytes == NULL) return plx_fail(vocab->context, PLX_ERROR_MEMORY, "the tokens' text is too long to hold");
        vocab->bytes = bytes;
        vocab->room = room;
    }
    vocab->begin[id] = (uint32_t)vocab->used;
    vocab->size[id] = (uint32_t)count;
    if (count > 0) memcpy(vocab->bytes + vocab->used, text, count);
    vocab->used += count;
    if (!known || count == 0) return PLX_OK;
    size_t slot = find_slot(vocab, text, count);
    if (vocab->slots[slot] < 0) vocab->slots[slot] = id;
    return PLX_OK;
}

int32_t plx_vocab_find(const plx_vocab *vocab, const char *text, size_t count)
{
    return vocab->slots[find_slot(vocab, text, count)];
}

plx_status plx_merges_open(plx_context *context, size_t count, plx_merges *merges)
{
    size_t slots = 64;
    unsigned bits = 6;
    while (slots < count * 2) slots *= 2, bits++;
    merges->slots = plx_alloc_array(context, slots, sizeof *merges->slots);
    if (merges->slots == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < slots; i++) merges->slots[i].left = -1;
    merges->mask = slots - 1;
    merges->shift = 64 - bits;
    return PLX_OK;
}

bool plx_merges_put(plx_merges *merges, plx_merge merge)
{
    size_t i = plx_merges_slot(merges, merge.left, merge.right);
    for (; merges->slots[i].left >= 0; i = (i + 1) & merges->mask)
        if (merges->slots[i].left == merge.left && merges->slots[i].right == merge.right) return false;
    merges->slots[i] = merge;
    return true;
}
