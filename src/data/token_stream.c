/* token_stream.c - text files as one stream of tokens. */
#include "data/token_stream.h"

#define PLX_FEED_BYTES ((size_t)1 << 16) /* a document in one huge piece (a JSON line) is still encoded in small ones */

struct plx_token_stream {
    plx_context *context;
    plx_encoder encoder;
    const char *const *paths;
    size_t count, next; /* files; the next to open */
    plx_text_options options;
    plx_text_reader *reader;
    plx_text_piece piece; /* what is left of it */
    bool pending;         /* piece is not used up */
    uint64_t finished;    /* bytes of the files before the open one */
};

plx_status plx_token_stream_open(plx_context *context, plx_tokenizer *tokenizer, const char *const *paths, size_t count,
                                 const plx_text_options *options, plx_token_stream **stream)
{
    *stream = plx_alloc(context, sizeof **stream);
    if (*stream == NULL) return PLX_ERROR_MEMORY;
    **stream = (plx_token_stream){.context = context, .paths = paths, .count = count};
    if (options != NULL) (*stream)->options = *options;
    (*stream)->encoder = plx_encoder_make(tokenizer);
    return PLX_OK;
}

/* Encodes the next part of the piece at hand. */
static plx_status feed(plx_token_stream *self)
{
    plx_text_piece *piece = &self->piece;
    size_t count = piece->count < PLX_FEED_BYTES ? piece->count : PLX_FEED_BYTES;
    bool whole = count == piece->count;
    if (piece->starts) PLX_TRY(plx_encoder_append(&self->encoder, self->encoder.tokenizer->separator));
    PLX_TRY(plx_encoder_feed(&self->encoder, piece->bytes, count, whole && piece->ends));
    piece->starts = false;
    piece->bytes += count;
    piece->count -= count;
    self->pending = !whole;
    return PLX_OK;
}

plx_status plx_token_stream_next(plx_token_stream *stream, const int32_t **tokens, size_t *count)
{
    plx_encoder_clear(&stream->encoder);
    while (stream->encoder.count == 0) {
        if (stream->pending) {
            PLX_TRY(feed(stream));
        } else if (stream->reader != NULL) {
            PLX_TRY(plx_text_next(stream->reader, &stream->piece, &stream->pending));
            if (stream->pending) continue;
            stream->finished += plx_text_position(stream->reader);
            plx_text_close(stream->reader);
            stream->reader = NULL;
        } else if (stream->next < stream->count) {
            PLX_TRY(plx_text_open(stream->context, stream->paths[stream->next], &stream->options, &stream->reader));
            stream->next++;
        } else {
            break;
        }
    }
    *tokens = stream->encoder.tokens;
    *count = stream->encoder.count;
    return PLX_OK;
}

uint64_t plx_token_stream_position(const plx_token_stream *stream)
{
    return stream->finished + (stream->reader != NULL ? plx_text_position(stream->reader) : 0);
}

void plx_token_stream_close(plx_token_stream *stream)
{
    if (stream == NULL) return;
    plx_text_close(stream->reader);
    plx_encoder_release(&stream->encoder);
    plx_free(stream->context, stream);
}
