/* written.c - text that a model writes, token by token. */
#include "infer/written.h"

#include "text/utf8.h"

#include <string.h>

plx_status plx_written_add(plx_context *context, plx_written *written, plx_tokenizer *tokenizer, int32_t token)
{
    char piece[PLX_TOKEN_BYTES_MOST];
    size_t bytes = sizeof piece;
    PLX_TRY(plx_tokenizer_decode(tokenizer, token, piece, &bytes));
    if (written->bytes + bytes + 1 > written->room) {
        size_t room = (written->room + bytes) * 2 + 64;
        char *text = plx_grow(context, written->text, written->room, room);
        if (text == NULL) return PLX_ERROR_MEMORY;
        written->text = text;
        written->room = room;
    }
    memcpy(written->text + written->bytes, piece, bytes);
    written->bytes += bytes;
    written->text[written->bytes] = '\0';
    return PLX_OK;
}

void plx_written_show(plx_written *written, size_t until, void (*piece)(void *user, const char *text, size_t bytes),
                      void *user)
{
    size_t end = written->shown;
    while (end < until) {
        int length = plx_utf8_next(written->text + end, until - end);
        if (length == 0) break;
        end += (size_t)(length > 0 ? length : -length);
    }
    if (end > written->shown && piece != NULL) piece(user, written->text + written->shown, end - written->shown);
    written->shown = end;
}
