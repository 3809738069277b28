/* text_reader.h - documents out of text files, in pieces, in bounded memory.
 *
 * The name's end tells the format: .jsonl or .ndjson has one JSON object a line, whose text field is a document;
 * anything else is plain text, one document, or several where a line equal to `separator` stands between them. A
 * further .zst means zstd, of one or several frames. Plain text may hold any bytes; JSON must be UTF-8. Documents
 * without a single byte are skipped. */
#ifndef PLX_IO_TEXT_READER_H
#define PLX_IO_TEXT_READER_H

#include "core/context.h"

#include <jansson.h>

#define PLX_JSON_LINE_MOST ((size_t)64 << 20) /* bytes of the longest line read */

typedef struct plx_text_options {
    const char *field;     /* NULL: "text". JSON lines only */
    const char *separator; /* NULL: none. Plain text only; compared without the line's end (\n or \r\n) */
} plx_text_options;

typedef struct plx_text_piece {
    const char *bytes; /* the reader's, valid until the next call; may hold NUL */
    size_t count;
    bool starts, ends; /* the first, the last piece of its document; a last piece may be empty */
} plx_text_piece;

typedef struct plx_text_reader plx_text_reader;
/* options may be NULL; its strings are copied. Errors: ERROR_FILE. */
plx_status plx_text_open(plx_context *context, const char *path, const plx_text_options *options,
                         plx_text_reader **reader);
/* *more is false, and the piece empty, after the last document. Errors: ERROR_FORMAT for a file without any text, a
 * .zst that is damaged or cut off, a JSON line that is malformed, too long or has no text field (naming file and
 * line). After an error only plx_text_close may follow. */
plx_status plx_text_next(plx_text_reader *reader, plx_text_piece *piece, bool *more);
/* Of JSON lines instead of plx_text_next: the next line's value, the reader's until the next call, and the line's number;
 * NULL after the last. */
plx_status plx_text_next_record(plx_text_reader *reader, const json_t **record, uint64_t *line);
/* Bytes of the file read so far (compressed ones in a .zst), for progress. */
uint64_t plx_text_position(const plx_text_reader *reader);
/* Bytes of the whole file, as it was when it was opened; 0 where that is not known (a pipe). */
uint64_t plx_text_size(const plx_text_reader *reader);
void plx_text_close(plx_text_reader *reader);

#endif
