/* html.c - see html.h. */
#include "lab/html.h"

static const char style[] =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "h1,h2{line-height:1.2}table{border-collapse:collapse;margin:1em 0}th,td{padding:.3em .8em;border-bottom:1px solid "
    "#ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}td.best{font-weight:700}pre{background:#f5f5f2;padding:1em;white-"
    "space:pre-wrap;"
    "overflow-wrap:anywhere}svg{max-width:100%;height:auto}.note{color:#666}";

void plx_html_begin(FILE *out, const char *title)
{
    fprintf(out,
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
            "content=\"width=device-width\"><title>%s</title><style>%s</style>\n<h1>%s</h1>\n",
            title, style, title);
}

void plx_html_text(FILE *out, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        size_t length = *p < 0x80 ? 1 : *p >= 0xf0 && *p < 0xf5 ? 4 : *p >= 0xe0 ? 3 : *p >= 0xc2 ? 2 : 0, i = 1;
        while (i < length && (p[i] & 0xc0) == 0x80) i++;
        if (length == 0 || *p >= 0xf5 || i < length || (*p < 0x20 && *p != '\n' && *p != '\t')) {
            fputs("&#xFFFD;", out);
            p++;
            continue;
        }
        if (*p == '<')
            fputs("&lt;", out);
        else if (*p == '>')
            fputs("&gt;", out);
        else if (*p == '&')
            fputs("&amp;", out);
        else if (*p == '"')
            fputs("&quot;", out);
        else
            fwrite(p, 1, length, out);
        p += length;
    }
}
