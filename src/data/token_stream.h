/* token_stream.h - text files as one stream of tokens: the separator, the first document's tokens, the separator, the
 * second's, ... over all files in order, in bounded memory. */
#ifndef PLX_DATA_TOKEN_STREAM_H
#define PLX_DATA_TOKEN_STREAM_H

#include "io/text_reader.h"
#include "text/tokenizer.h"

typedef struct plx_token_stream plx_token_stream;
/* Everything given must outlive the stream. */
plx_status plx_token_stream_open(plx_context *context, plx_tokenizer *tokenizer, const char *const *paths, size_t count,
                                 const plx_text_options *options, plx_token_stream **stream);
/* The next tokens (the stream's, valid until the next call); *count is 0 at the end. */
plx_status plx_token_stream_next(plx_token_stream *stream, const int32_t **tokens, size_t *count);
/* Bytes of the files read so far. */
uint64_t plx_token_stream_position(const plx_token_stream *stream);
void plx_token_stream_close(plx_token_stream *stream);

#endif
