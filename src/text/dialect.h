/* dialect.h - Oniguruma's expressions, with the syntax tokenizer.json files have (Ruby's), written for PCRE2. */
#ifndef PLX_TEXT_DIALECT_H
#define PLX_TEXT_DIALECT_H

#include "text/chars.h"
#include "text/fields.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define PLX_PCRE2_NO_MEMORY 121 /* what compiling gives when its memory could not be allocated */

/* Appends to *out what means to PCRE2 (10.42, UTF, UCP, MULTILINE) what the pattern means to Oniguruma.
 * ERROR_UNSUPPORTED, placed at the key, for what can be said in one dialect only; what is no expression in either is
 * left to PCRE2. One difference stays: without regard to case, one letter stands for one letter ("ss" is not found in
 * U+00DF). `memory` is what PCRE2 allocates from. */
plx_status plx_dialect_translate(const plx_place *place, const char *key, const char *pattern,
                                 pcre2_general_context *memory, plx_text_buffer *out);

#endif
