/* written.h - text that a model writes, token by token. */
#ifndef PLX_INFER_WRITTEN_H
#define PLX_INFER_WRITTEN_H

#include "text/tokenizer.h"

typedef struct plx_written {
    char *text; /* NULL before the first token; ends with a NUL beyond `bytes`; freed with plx_free */
    size_t bytes, room;
    size_t shown; /* handed to whoever listens */
} plx_written;

/* Adds what the token stands for. */
plx_status plx_written_add(plx_context *context, plx_written *written, plx_tokenizer *tokenizer, int32_t token);
/* Hands out what is new before `until`, up to the last whole character; bytes that can become none pass as they are.
 * piece may be NULL. */
void plx_written_show(plx_written *written, size_t until, void (*piece)(void *user, const char *text, size_t bytes),
                      void *user);

#endif
