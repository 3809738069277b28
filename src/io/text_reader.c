/* text_reader.c - documents out of plain text and JSON lines, compressed or not. Two layers: bytes (a file or a zstd
 * stream, one buffer at a time), and above them the cutting into documents. */
#include "io/text_reader.h"

#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#define PLX_TEXT_BUFFER ((size_t)1 << 17)

struct plx_text_reader {
    plx_context *context;
    char *path, *field, *separator;
    bool json;
    /* bytes */
    int file;
    uint64_t position, size; /* bytes read, and of the whole file */
    ZSTD_DStream *zstd;
    char *packed; /* zstd: what was read from the file */
    ZSTD_inBuffer packed_left;
    bool frame_open; /* zstd: a frame has begun and not ended */
    char *buffer;    /* text not handed out yet: buffer[at .. filled) */
    size_t at, filled;
    /* documents */
    bool inside;      /* bytes of the document have been handed out */
    bool any;         /* some document has been */
    char *output;     /* plain text with separators: the piece being put together */
    bool within_line; /* the next byte goes on with a line that is no separator */
    char *line;       /* JSON: one line */
    size_t line_capacity;
    uint64_t line_number;
    json_t *value; /* JSON: the line handed out */
};

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);
    return length >= n && strncasecmp(text + length - n, end, n) == 0;
}

static plx_status open_file(plx_text_reader *self, bool zstd)
{
    plx_context *context = self->context;
    struct stat about;
    self->file = open(self->path, O_RDONLY | O_CLOEXEC);
    if (self->file < 0) return plx_file_fail(context, errno, "open", self->path);
    if (fstat(self->file, &about) != 0) return plx_file_fail(context, errno, "open", self->path);
    if (S_ISDIR(about.st_mode)) return plx_file_fail(context, EISDIR, "read", self->path);
    if (S_ISREG(about.st_mode)) self->size = (uint64_t)about.st_size;
    self->buffer = plx_alloc(context, PLX_TEXT_BUFFER);
    if (self->buffer == NULL) return PLX_ERROR_MEMORY;
    if (self->separator != NULL && (self->output = plx_alloc(context, PLX_TEXT_BUFFER)) == NULL)
        return PLX_ERROR_MEMORY;
    if (!zstd) return PLX_OK;
    self->packed = plx_alloc(context, PLX_TEXT_BUFFER);
    if (self->packed == NULL) return PLX_ERROR_MEMORY;
    self->zstd = ZSTD_createDStream();
    if (self->zstd == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "no memory to unpack '%s'", self->path);
    self->packed_left = (ZSTD_inBuffer){self->packed, 0, 0};
    return PLX_OK;
}

plx_status plx_text_open(plx_context *context, const char *path, const plx_text_options *options,
                         plx_text_reader **reader)
{
    *reader = NULL;
    plx_text_reader *self = plx_alloc(context, sizeof *self);
    if (self == NULL) return PLX_ERROR_MEMORY;
    self->context = context;
    self->file = -1;
    plx_status status = PLX_ERROR_MEMORY;
    size_t length = strlen(path);
    bool zstd = ends_with(path, length, ".zst");
    if (zstd) length -= 4;
    self->json = ends_with(path, length, ".jsonl") || ends_with(path, length, ".ndjson");
    const char *separator = options != NULL && !self->json ? options->separator : NULL;
    self->path = plx_strdup(context, path);
    self->field = plx_strdup(context, options != NULL && options->field != NULL ? options->field : "text");
    if (separator != NULL) self->separator = plx_strdup(context, separator);
    if (self->path == NULL || self->field == NULL || (separator != NULL && self->separator == NULL)) goto failed;
    if (separator != NULL &&
        (separator[0] == '\0' || strpbrk(separator, "\r\n") || strlen(separator) > PLX_TEXT_BUFFER / 4)) {
        status = plx_fail(context, PLX_ERROR_VALUE,
                          "a document separator must be one line of text, neither empty nor very long");
        goto failed;
    }
    PLX_TRY_GOTO(status, failed, open_file(self, zstd));
    *reader = self;
    return PLX_OK;
failed:
    plx_text_close(self);
    return status;
}

void plx_text_close(plx_text_reader *reader)
{
    if (reader == NULL) return;
    plx_context *context = reader->context;
    if (reader->file >= 0) close(reader->file);
    ZSTD_freeDStream(reader->zstd);
    json_decref(reader->value);
    char *owned[] = {reader->path,   reader->field,  reader->separator, reader->packed,
                     reader->buffer, reader->output, reader->line};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) plx_free(context, owned[i]);
    plx_free(context, reader);
}

uint64_t plx_text_position(const plx_text_reader *reader) { return reader->position; }
uint64_t plx_text_size(const plx_text_reader *reader) { return reader->size; }

/* ---- bytes ---- */

static plx_status read_some(plx_text_reader *self, char *data, size_t *count)
{
    ssize_t got;
    do got = read(self->file, data, PLX_TEXT_BUFFER);
    while (got < 0 && errno == EINTR);
    if (got < 0) return plx_file_fail(self->context, errno, "read", self->path);
    self->position += (uint64_t)got;
    *count = (size_t)got;
    return PLX_OK;
}

static plx_status unpack_some(plx_text_reader *self, size_t *count)
{
    ZSTD_outBuffer out = {self->buffer, PLX_TEXT_BUFFER, 0};
    while (out.pos == 0) {
        if (self->packed_left.pos == self->packed_left.size) {
            size_t got = 0;
            PLX_TRY(read_some(self, self->packed, &got));
            self->packed_left = (ZSTD_inBuffer){self->packed, got, 0};
            if (got == 0 && !self->frame_open) break;
        }
        bool end_of_file = self->packed_left.size == 0;
        size_t left = ZSTD_decompressStream(self->zstd, &out, &self->packed_left);
        if (ZSTD_getErrorCode(left) == ZSTD_error_frameParameter_windowTooLarge)
            return plx_fail(self->context, PLX_ERROR_UNSUPPORTED,
                            "'%s' needs more than 128 MB to be unpacked (it was packed with a long window): pack it anew "
                            "without --long or --ultra",
                            self->path);
        if (ZSTD_isError(left))
            return plx_fail(self->context, PLX_ERROR_FORMAT, "'%s' is no zstd file or is damaged: %s", self->path,
                            ZSTD_getErrorName(left));
        self->frame_open = left != 0;
        if (end_of_file && self->frame_open && out.pos == 0)
            return plx_fail(self->context, PLX_ERROR_FORMAT, "'%s' is cut off: its last zstd frame has no end",
                            self->path);
    }
    *count = out.pos;
    return PLX_OK;
}

/* Makes buffer[at .. filled) non-empty unless the file has ended. */
static plx_status fill(plx_text_reader *self)
{
    if (self->at < self->filled) return PLX_OK;
    self->at = self->filled = 0;
    return self->zstd != NULL ? unpack_some(self, &self->filled) : read_some(self, self->buffer, &self->filled);
}

/* ---- documents ---- */

/* Hands out bytes of the document; it is the reader that keeps book of where documents begin. */
static void hand_out(plx_text_reader *self, plx_text_piece *piece, const char *bytes, size_t count, bool ends)
{
    *piece = (plx_text_piece){.bytes = bytes, .count = count, .starts = !self->inside, .ends = ends};
    self->inside = !ends;
    self->any = true;
}

static plx_status next_plain(plx_text_reader *self, plx_text_piece *piece, bool *more)
{
    PLX_TRY(fill(self));
    *more = self->at < self->filled || self->inside;
    if (!*more) return PLX_OK;
    hand_out(self, piece, self->buffer + self->at, self->filled - self->at, self->at == self->filled);
    self->at = self->filled;
    return PLX_OK;
}

/* Is the line the separator, but for its end? */
static bool is_separator(const plx_text_reader *self, const char *line, size_t n)
{
    if (n > 0 && line[n - 1] == '\n') n--;
    if (n > 0 && line[n - 1] == '\r') n--;
    return n == strlen(self->separator) && memcmp(line, self->separator, n) == 0;
}

/* Text goes through `output` byte by byte. Only the beginning of a line is held back, while it may still turn out to
 * be a separator: `held` is where it begins, SIZE_MAX when nothing is held. */
static plx_status next_separated(plx_text_reader *self, plx_text_piece *piece, bool *more)
{
    size_t length = strlen(self->separator), used = 0, held = self->within_line ? SIZE_MAX : 0;
    for (;;) {
        PLX_TRY(fill(self));
        bool end_of_file = self->at == self->filled;
        if (!end_of_file) self->output[used++] = self->buffer[self->at++];
        bool line_ends = end_of_file || self->output[used - 1] == '\n';
        if (line_ends && held != SIZE_MAX && is_separator(self, self->output + held, used - held)) {
            used = held;
            if (self->inside || used > 0) break; /* the document is complete; else nothing was before it */
        }
        if (end_of_file) break;
        if (line_ends)
            held = used;
        else if (held != SIZE_MAX && used - held > length + 1)
            held = SIZE_MAX;
        /* At most length + 2 bytes are held, a quarter of the buffer: it cannot overflow. */
        if (used >= PLX_TEXT_BUFFER / 2 && (held == SIZE_MAX || held == used)) {
            self->within_line = held == SIZE_MAX;
            *more = true;
            hand_out(self, piece, self->output, used, false);
            return PLX_OK;
        }
    }
    self->within_line = false;
    *more = used > 0 || self->inside;
    if (*more) hand_out(self, piece, self->output, used, true);
    return PLX_OK;
}

static plx_status fail_line(plx_text_reader *self, const char *what)
{
    return plx_fail(self->context, PLX_ERROR_FORMAT, "%s:%" PRIu64 ": %s", self->path, self->line_number, what);
}

/* Reads one line without its end into self->line; *length is SIZE_MAX at the end of the file. */
static plx_status read_line(plx_text_reader *self, size_t *length)
{
    size_t used = 0;
    self->line_number++;
    for (;;) {
        PLX_TRY(fill(self));
        if (self->at == self->filled) {
            *length = used > 0 ? used : SIZE_MAX;
            return PLX_OK;
        }
        const char *from = self->buffer + self->at, *newline = memchr(from, '\n', self->filled - self->at);
        size_t count = newline != NULL ? (size_t)(newline - from) : self->filled - self->at;
        if (count > PLX_JSON_LINE_MOST - used)
            return fail_line(self, "the line is longer than 64 MB, the most that is read");
        if (used + count > self->line_capacity) {
            size_t capacity = (used + count) * 2;
            char *grown = plx_grow(self->context, self->line, self->line_capacity, capacity);
            if (grown == NULL) return PLX_ERROR_MEMORY;
            self->line = grown;
            self->line_capacity = capacity;
        }
        if (count > 0) memcpy(self->line + used, from, count);
        used += count;
        self->at += count;
        if (newline != NULL) {
            self->at++;
            *length = used;
            return PLX_OK;
        }
    }
}

static bool is_blank(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    return true;
}

/* The next line's value into self->value. */
static plx_status next_value(plx_text_reader *self, bool *more)
{
    size_t length = 0;
    do {
        PLX_TRY(read_line(self, &length));
        *more = length != SIZE_MAX;
        if (!*more) return PLX_OK;
    } while (is_blank(self->line, length));
    json_error_t error;
    const size_t mark = self->line_number == 1 ? plx_byte_order_mark(self->line, length) : 0;
    json_decref(self->value);
    self->value = json_loadb(self->line + mark, length - mark, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL,
                              &error); /* ids may have more than 63 bits, and no number is read */
    if (self->value != NULL) return PLX_OK;
    return plx_fail(self->context, PLX_ERROR_FORMAT, "%s:%" PRIu64 ": no JSON: %s (byte %d of the line)", self->path,
                    self->line_number, error.text, error.position);
}

plx_status plx_text_next_record(plx_text_reader *reader, const json_t **record, uint64_t *line)
{
    bool more = false;
    *record = NULL;
    if (!reader->json)
        return plx_fail(
            reader->context, PLX_ERROR_FORMAT,
            "'%s' is not named as JSON is: .jsonl or .ndjson (with .zst behind it or not) for an object a line, .json "
            "for one list of objects",
            reader->path);
    PLX_TRY(next_value(reader, &more));
    if (more) *record = reader->value;
    *line = reader->line_number;
    return PLX_OK;
}

static plx_status next_json(plx_text_reader *self, plx_text_piece *piece, bool *more)
{
    for (;;) {
        PLX_TRY(next_value(self, more));
        if (!*more) return PLX_OK;
        const json_t *text = json_object_get(self->value, self->field);
        if (!json_is_string(text))
            return plx_fail(self->context, PLX_ERROR_FORMAT,
                            "%s:%" PRIu64 ": no text under '%s': set text_field to the key that holds it", self->path,
                            self->line_number, self->field);
        if (json_string_length(text) == 0) continue;
        hand_out(self, piece, json_string_value(text), json_string_length(text), true);
        return PLX_OK;
    }
}

plx_status plx_text_next(plx_text_reader *reader, plx_text_piece *piece, bool *more)
{
    *piece = (plx_text_piece){.bytes = ""};
    if (reader->json)
        PLX_TRY(next_json(reader, piece, more));
    else if (reader->separator != NULL)
        PLX_TRY(next_separated(reader, piece, more));
    else
        PLX_TRY(next_plain(reader, piece, more));
    if (!*more && !reader->any) return plx_fail(reader->context, PLX_ERROR_FORMAT, "'%s' is empty", reader->path);
    return PLX_OK;
}
