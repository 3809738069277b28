/* utf8.h - where characters end, so that text made piece by piece is never cut inside one. */
#ifndef PLX_TEXT_UTF8_H
#define PLX_TEXT_UTF8_H

#include <stddef.h>

/* Looks at the beginning of text (bytes >= 1). Returns n > 0: the first n bytes are a character; 0: they begin one
 * whose rest is missing; -n: they can never become one, and the next character may begin after n bytes (what Unicode
 * calls a maximal subpart: shown as one U+FFFD). */
int plx_utf8_next(const char *text, size_t bytes);

#endif
