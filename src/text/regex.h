/* regex.h - regular expressions as tokenizer.json files write them (Oniguruma's dialect), run by PCRE2. */
#ifndef PLX_TEXT_REGEX_H
#define PLX_TEXT_REGEX_H

#include "text/fields.h"

typedef struct plx_regex plx_regex;
/* Compiles the pattern; literal: its characters stand for themselves. Errors are placed at the key: ERROR_FORMAT for
 * what is no expression, ERROR_UNSUPPORTED for what the two dialects mean differently. */
plx_status plx_regex_open(const plx_place *place, const char *key, const char *pattern, bool literal,
                          plx_regex **regex);
void plx_regex_close(plx_regex *regex);
/* The first match in text[from, count), which must be UTF-8 with `from` at a character: *found, and where it is (it may
 * be empty). ERROR_FORMAT when the expression takes too many steps on this text. */
plx_status plx_regex_find(plx_regex *regex, const char *text, size_t count, size_t from, bool *found, size_t *begin,
                          size_t *end);

#endif
