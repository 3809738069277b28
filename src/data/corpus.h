/* corpus.h - token files: text tokenised once, read by window.
 *
 *   byte 0    "PLXTOKEN"
 *   byte 8    u32 version, 2
 *   byte 12   u32 bytes of a token, 2 or 4
 *   byte 16   u64 number of tokens
 *   byte 24   u64 key: what the file was made of (names, sizes and times of the texts, tokenizer, options)
 *   byte 32   u64 size of the vocabulary
 *   byte 40   u64 content: changes with the tokens
 *   byte 48   16 bytes of zeros
 *   byte 64   the tokens
 * Everything little-endian. A file is written aside and renamed when complete; what is read is checked. */
#ifndef PLX_DATA_CORPUS_H
#define PLX_DATA_CORPUS_H

#include "io/text_reader.h"
#include "text/tokenizer.h"

typedef struct plx_corpus plx_corpus;

/* Opens the token file of these texts at `path`, making it first when it is missing, damaged or was made of something
 * else. Errors: those of reading the texts and of writing the file. */
plx_status plx_corpus_open(plx_context *context, const char *path, plx_tokenizer *tokenizer, const char *const *texts,
                           size_t count, const plx_text_options *options, plx_corpus **corpus);
void plx_corpus_close(plx_corpus *corpus);
uint64_t plx_corpus_tokens(const plx_corpus *corpus);
uint64_t plx_corpus_content(const plx_corpus *corpus); /* a number that changes with the tokens */
/* Tokens first .. first + count - 1. ERROR_FORMAT for a token outside the vocabulary or a file that shrank. */
plx_status plx_corpus_read(plx_corpus *corpus, uint64_t first, size_t count, int32_t *tokens);

#endif
