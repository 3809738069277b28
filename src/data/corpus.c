/* corpus.c - token files (format: corpus.h). */
#include "data/corpus.h"

#include "core/random.h"
#include "data/token_stream.h"
#include "io/files.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLX_CORPUS_VERSION 2
#define PLX_CORPUS_CHUNK 4096 /* tokens converted at a time */

typedef struct corpus_header {
    char magic[8];
    uint32_t version, width;
    uint64_t tokens, key, vocab_size, content, reserved[2];
} corpus_header;
_Static_assert(sizeof(corpus_header) == 64, "the header's layout is the file's");

struct plx_corpus {
    plx_context *context;
    char *path;
    int file;
    size_t width, vocab_size;
    uint64_t tokens, content;
};

static const char magic[8] = {'P', 'L', 'X', 'T', 'O', 'K', 'E', 'N'};

static corpus_header make_header(const plx_tokenizer *tokenizer, uint64_t key, uint64_t tokens, uint64_t content)
{
    corpus_header header = {.version = htole32(PLX_CORPUS_VERSION),
                            .width = htole32(tokenizer->vocab_size <= 65536 ? 2 : 4)};
    memcpy(header.magic, magic, sizeof magic);
    header.tokens = htole64(tokens);
    header.key = htole64(key);
    header.vocab_size = htole64(tokenizer->vocab_size);
    header.content = htole64(content);
    return header;
}

/* Adds the text and its end to a running hash, so that ("ab", "c") and ("a", "bc") differ. */
static uint64_t mix(uint64_t hash, const char *text)
{
    size_t n = strlen(text) + 1;
    for (size_t i = 0; i < n; i++) hash = plx_hash_add(hash, (unsigned char)text[i]);
    return hash;
}

/* The key of what the token file is made of; *bytes: the texts' sizes together. */
static plx_status make_key(plx_context *context, const plx_tokenizer *tokenizer, const char *const *texts, size_t count,
                           const plx_text_options *options, uint64_t *key, uint64_t *bytes)
{
    uint64_t hash = mix(PLX_HASH_START, tokenizer->kind->name);
    hash = mix(hash, options->field != NULL ? options->field : "text");
    hash = mix(hash, options->separator != NULL ? options->separator : "");
    hash = plx_hash_add(hash, tokenizer->identity);
    hash = plx_hash_add(hash, (uint64_t)tokenizer->separator);
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        struct stat about;
        if (stat(texts[i], &about) != 0) return plx_file_fail(context, errno, "open", texts[i]);
        char *facts = plx_format(context, "%s|%lld|%lld.%09ld", texts[i], (long long)about.st_size,
                                 (long long)about.st_mtim.tv_sec, about.st_mtim.tv_nsec);
        if (facts == NULL) return PLX_ERROR_MEMORY;
        hash = mix(hash, facts);
        plx_free(context, facts);
        *bytes += (uint64_t)about.st_size;
    }
    *key = hash;
    return PLX_OK;
}

static plx_status put_tokens(plx_writer *writer, const int32_t *tokens, size_t count, size_t width)
{
    union {
        uint16_t narrow[PLX_CORPUS_CHUNK];
        uint32_t wide[PLX_CORPUS_CHUNK];
    } chunk;
    for (size_t first = 0; first < count; first += PLX_CORPUS_CHUNK) {
        size_t n = count - first < PLX_CORPUS_CHUNK ? count - first : PLX_CORPUS_CHUNK;
        for (size_t i = 0; i < n; i++) {
            if (width == 2)
                chunk.narrow[i] = htole16((uint16_t)tokens[first + i]);
            else
                chunk.wide[i] = htole32((uint32_t)tokens[first + i]);
        }
        PLX_TRY(plx_writer_put(writer, &chunk, n * width));
    }
    return PLX_OK;
}

/* Tokenises into an open writer and puts the final header. */
static plx_status write_tokens(plx_context *context, plx_writer *writer, plx_token_stream *stream,
                               plx_tokenizer *tokenizer, uint64_t key, uint64_t text_bytes)
{
    corpus_header header = make_header(tokenizer, key, 0, 0);
    size_t width = le32toh(header.width);
    uint64_t total = 0, content = PLX_HASH_START;
    PLX_TRY(plx_writer_put(writer, &header, sizeof header));
    for (;;) {
        const int32_t *tokens;
        size_t count = 0;
        PLX_TRY(plx_check_cancel(context));
        PLX_TRY(plx_token_stream_next(stream, &tokens, &count));
        if (count == 0) break;
        PLX_TRY(put_tokens(writer, tokens, count, width));
        for (size_t i = 0; i < count; i++) content = plx_hash_add(content, (uint64_t)tokens[i]);
        total += count;
        plx_progress(context, "reading text", (double)plx_token_stream_position(stream), (double)text_bytes);
    }
    header = make_header(tokenizer, key, total, content);
    PLX_TRY(plx_writer_patch(writer, 0, &header, sizeof header));
    return plx_writer_finish(writer);
}

static plx_status make_file(plx_context *context, const char *path, plx_tokenizer *tokenizer, const char *const *texts,
                            size_t count, const plx_text_options *options, uint64_t key, uint64_t text_bytes)
{
    plx_token_stream *stream = NULL;
    plx_writer writer = {.file = -1};
    bool made = false;
    plx_status status = PLX_ERROR_MEMORY;
    /* Always the same name, so that what a killed process left is written over: the run's lock keeps others away. */
    char *aside = plx_format(context, "%s.tmp", path);
    if (aside == NULL) return status;
    PLX_TRY_GOTO(status, done, plx_token_stream_open(context, tokenizer, texts, count, options, &stream));
    PLX_TRY_GOTO(status, done, plx_writer_open(context, aside, &writer));
    made = true;
    PLX_TRY_GOTO(status, done, write_tokens(context, &writer, stream, tokenizer, key, text_bytes));
    status = plx_file_rename(context, aside, path);
done:
    plx_writer_abandon(&writer);
    plx_token_stream_close(stream);
    if (status != PLX_OK && made) unlink(aside);
    plx_free(context, aside);
    return status;
}

/* Opens an existing file; ERROR_FORMAT when it is no token file, damaged, or made of something else. */
static plx_status open_file(plx_corpus *self, const plx_tokenizer *tokenizer, uint64_t key)
{
    uint64_t size;
    corpus_header header, expected;
    PLX_TRY(plx_file_open(self->context, self->path, &self->file, &size));
    PLX_TRY(plx_file_read_at(self->context, self->file, self->path, 0, &header, sizeof header));
    expected = make_header(tokenizer, key, le64toh(header.tokens), le64toh(header.content));
    self->tokens = le64toh(header.tokens);
    self->content = le64toh(header.content);
    self->width = le32toh(expected.width);
    self->vocab_size = tokenizer->vocab_size;
    uint64_t data = size - sizeof header;
    if (memcmp(&header, &expected, sizeof header) != 0 || data % self->width != 0 || data / self->width != self->tokens)
        return plx_fail(self->context, PLX_ERROR_FORMAT, "'%s' is not the token file of these texts: remove it",
                        self->path);
    return PLX_OK;
}

plx_status plx_corpus_open(plx_context *context, const char *path, plx_tokenizer *tokenizer, const char *const *texts,
                           size_t count, const plx_text_options *options, plx_corpus **corpus)
{
    static const plx_text_options none = {NULL, NULL};
    if (options == NULL) options = &none;
    uint64_t key = 0, text_bytes = 0;
    *corpus = NULL;
    PLX_TRY(make_key(context, tokenizer, texts, count, options, &key, &text_bytes));
    plx_corpus *self = plx_alloc(context, sizeof *self);
    if (self == NULL) return PLX_ERROR_MEMORY;
    self->context = context;
    self->file = -1;
    plx_status status = PLX_ERROR_MEMORY;
    self->path = plx_strdup(context, path);
    if (self->path != NULL) status = plx_file_exists(path) ? open_file(self, tokenizer, key) : PLX_ERROR_FORMAT;
    if (status == PLX_ERROR_FORMAT) {
        if (self->file >= 0) close(self->file);
        self->file = -1;
        status = make_file(context, path, tokenizer, texts, count, options, key, text_bytes);
        if (status == PLX_OK) status = open_file(self, tokenizer, key);
    }
    if (status == PLX_OK)
        *corpus = self;
    else
        plx_corpus_close(self);
    return status;
}

void plx_corpus_close(plx_corpus *corpus)
{
    if (corpus == NULL) return;
    if (corpus->file >= 0) close(corpus->file);
    plx_free(corpus->context, corpus->path);
    plx_free(corpus->context, corpus);
}

uint64_t plx_corpus_tokens(const plx_corpus *corpus) { return corpus->tokens; }

uint64_t plx_corpus_content(const plx_corpus *corpus) { return corpus->content; }

plx_status plx_corpus_read(plx_corpus *corpus, uint64_t first, size_t count, int32_t *tokens)
{
    if (first > corpus->tokens || count > corpus->tokens - first)
        return plx_fail(corpus->context, PLX_ERROR_INTERNAL, "tokens beyond the end of '%s'", corpus->path);
    union {
        uint16_t narrow[PLX_CORPUS_CHUNK];
        uint32_t wide[PLX_CORPUS_CHUNK];
    } chunk;
    for (size_t done = 0; done < count; done += PLX_CORPUS_CHUNK) {
        size_t n = count - done < PLX_CORPUS_CHUNK ? count - done : PLX_CORPUS_CHUNK;
        PLX_TRY(plx_file_read_at(corpus->context, corpus->file, corpus->path,
                                 sizeof(corpus_header) + (first + done) * corpus->width, &chunk, n * corpus->width));
        for (size_t i = 0; i < n; i++) {
            uint32_t token = corpus->width == 2 ? le16toh(chunk.narrow[i]) : le32toh(chunk.wide[i]);
            if (token >= corpus->vocab_size)
                return plx_fail(corpus->context, PLX_ERROR_FORMAT,
                                "'%s' is damaged: token %u at %llu is not in the vocabulary; remove it and run again",
                                corpus->path, token, (unsigned long long)(first + done + i));
            tokens[done + i] = (int32_t)token;
        }
    }
    return PLX_OK;
}
