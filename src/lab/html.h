/* html.h - what the reports have in common: one file each, without script, link or font that is fetched. */
#ifndef PLX_LAB_HTML_H
#define PLX_LAB_HTML_H

#include <stdio.h>

/* The head, up to and with the heading; title is plain text without markup. */
void plx_html_begin(FILE *out, const char *title);
/* Text with what HTML would read as markup escaped, and what is not printable UTF-8 shown as U+FFFD. */
void plx_html_text(FILE *out, const char *text);

#endif
