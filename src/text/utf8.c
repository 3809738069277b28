/* utf8.c - the well-formed byte sequences of the Unicode standard, table 3-7. */
#include "text/utf8.h"

int plx_utf8_next(const char *text, size_t bytes)
{
    const unsigned char *b = (const unsigned char *)text;
    if (b[0] < 0x80) return 1;
    if (b[0] < 0xC2 || b[0] > 0xF4) return -1;
    int length = b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    /* The second byte is what rules out overlong forms, surrogates and what lies beyond U+10FFFF. */
    unsigned char least = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char most = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= bytes) return 0;
        if (b[i] < (i == 1 ? least : 0x80) || b[i] > (i == 1 ? most : 0xBF)) return -i;
    }
    return length;
}
