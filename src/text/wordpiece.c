/* wordpiece.c - WordPiece: from the word's beginning, again and again the longest piece that is a token; pieces but the
 * first are looked up with a prefix ("##"). A word with a part that is no token is unknown as a whole. */
#include "text/pretrained.h"

#define PIECE_MOST 512 /* bytes of a piece with its prefix; longer ones are no tokens (the file's are checked) */

static int32_t longest_piece(const plx_pretrained *self, const char *word, size_t bytes, bool first, size_t *size)
{
    char piece[PIECE_MOST];
    size_t prefix = first ? 0 : strlen(self->continuing_prefix), end = bytes, begin;
    while (prefix + end > sizeof piece) plx_char_before(word, end, &begin), end = begin;
    memcpy(piece, self->continuing_prefix, prefix);
    memcpy(piece + prefix, word, end);
    for (; end > 0; plx_char_before(word, end, &begin), end = begin) {
        int32_t token = plx_vocab_find(&self->vocab, piece, prefix + end);
        if (token < 0) continue;
        *size = end;
        return token;
    }
    return -1;
}

plx_status plx_wordpiece_word(plx_pretrained *self, const char *word, size_t bytes, int32_t *tokens, size_t *count)
{
    size_t characters = 0, size = 0;
    for (size_t i = 0; i < bytes; i++) characters += ((unsigned char)word[i] & 0xC0) != 0x80;
    *count = 0;
    for (size_t at = 0; at < bytes; at += size) {
        int32_t token =
            characters > self->longest_word ? -1 : longest_piece(self, word + at, bytes - at, at == 0, &size);
        if (token < 0) {
            *count = 1;
            tokens[0] = self->unk;
            return PLX_OK;
        }
        tokens[(*count)++] = token;
    }
    return PLX_OK;
}
