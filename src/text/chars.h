/* chars.h - single characters of text that is known to be UTF-8, and a buffer to write them to. Private to src/text. */
#ifndef PLX_TEXT_CHARS_H
#define PLX_TEXT_CHARS_H

#include "core/context.h"

#include <string.h>
#include <utf8proc.h>

#define PLX_TEXT_PADDING 32 /* bytes after a buffer's end that may be read */

/* Text that grows; beyond `count` there are PLX_TEXT_PADDING readable bytes once anything was reserved. */
typedef struct plx_text_buffer {
    char *bytes;
    size_t count, capacity;
} plx_text_buffer;

/* Makes room for `more` bytes. */
static inline plx_status plx_text_reserve(plx_context *context, plx_text_buffer *buffer, size_t more)
{
    if (buffer->bytes != NULL && more <= buffer->capacity - buffer->count) return PLX_OK;
    if (more > SIZE_MAX / 4 || buffer->count > SIZE_MAX / 4)
        return plx_fail(context, PLX_ERROR_MEMORY, "a text of %zu bytes is too long to hold", more);
    size_t capacity = (buffer->count + more) * 2;
    char *bytes = plx_grow(context, buffer->bytes, buffer->capacity + PLX_TEXT_PADDING, capacity + PLX_TEXT_PADDING);
    if (bytes == NULL) return PLX_ERROR_MEMORY;
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return PLX_OK;
}

static inline plx_status plx_text_append(plx_context *context, plx_text_buffer *buffer, const char *bytes, size_t count)
{
    PLX_TRY(plx_text_reserve(context, buffer, count));
    if (count > 0) memcpy(buffer->bytes + buffer->count, bytes, count);
    buffer->count += count;
    return PLX_OK;
}

/* The character at `text`, and its length in bytes. */
static inline uint32_t plx_char_at(const char *text, int *size)
{
    const unsigned char *b = (const unsigned char *)text;
    if (b[0] < 0x80) return *size = 1, b[0];
    if (b[0] < 0xE0) return *size = 2, (uint32_t)(b[0] & 31) << 6 | (b[1] & 63);
    if (b[0] < 0xF0) return *size = 3, (uint32_t)(b[0] & 15) << 12 | (uint32_t)(b[1] & 63) << 6 | (b[2] & 63);
    return *size = 4,
           (uint32_t)(b[0] & 7) << 18 | (uint32_t)(b[1] & 63) << 12 | (uint32_t)(b[2] & 63) << 6 | (b[3] & 63);
}

/* The character that ends at text[end - 1], and where it begins. end > 0. */
static inline uint32_t plx_char_before(const char *text, size_t end, size_t *begin)
{
    int size;
    *begin = end - 1;
    while (*begin > 0 && ((unsigned char)text[*begin] & 0xC0) == 0x80) --*begin;
    return plx_char_at(text + *begin, &size);
}

/* Writes a character (a Unicode scalar value) where there is room for 4 bytes; returns its length. */
static inline size_t plx_char_put(char *text, uint32_t c)
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)text);
}

/* Unicode's White_Space. */
static inline bool plx_char_is_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static inline bool plx_char_is_letter(uint32_t c)
{
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)c);
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

static inline bool plx_char_is_mark(uint32_t c)
{
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)c);
    return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

static inline bool plx_char_is_number(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)c);
    return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

/* Unicode's punctuation (categories P*). */
static inline bool plx_char_is_punctuation(uint32_t c)
{
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)c);
    return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

/* What regular expressions call \w: letters, marks, decimal digits, connectors. */
static inline bool plx_char_is_word(uint32_t c)
{
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)c);
    return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_ND) || kind == UTF8PROC_CATEGORY_NL ||
           kind == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
           (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

#endif
