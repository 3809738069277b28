/* normalize.c - the steps of a normalizer, each from one text to another. */
#include "text/pretrained.h"

#include <stdlib.h>

static bool is_ascii(plx_text text)
{
    unsigned char all = 0;
    for (size_t i = 0; i < text.count; i++) all |= (unsigned char)text.bytes[i];
    return all < 0x80;
}

/* ---- Unicode's normal forms ---- */

/* Characters below U+0300 neither compose with one another nor move. Whether a text without others is in the form: */
static bool is_normal_already(plx_normalizer_kind form, plx_text text)
{
    if (form != PLX_NORMALIZE_NFC) return is_ascii(text);
    for (size_t i = 0; i < text.count; i++)
        if ((unsigned char)text.bytes[i] >= 0xCC) return false;
    return true;
}

/* A character that is the same in every form and that nothing before it composes with or moves over. */
static bool is_inert(unsigned char byte) { return byte < 0x80; }

/* [from, to) of the text in the form, appended. utf8proc works on 32-bit characters: `work` holds them. */
static plx_status append_form(plx_context *context, utf8proc_option_t options, plx_text text, plx_text_buffer *work,
                              plx_text_buffer *to)
{
    size_t room = text.count * 4; /* most characters become one to four */
    for (;;) {
        work->count = 0;
        PLX_TRY(plx_text_reserve(context, work, (room + 1) * sizeof(utf8proc_int32_t)));
        utf8proc_int32_t *characters = (utf8proc_int32_t *)(void *)work->bytes;
        utf8proc_ssize_t count = utf8proc_decompose((const utf8proc_uint8_t *)text.bytes, (utf8proc_ssize_t)text.count,
                                                    characters, (utf8proc_ssize_t)room, options);
        if (count < 0) return plx_fail(context, PLX_ERROR_INTERNAL, "utf8proc: %s", utf8proc_errmsg(count));
        if ((size_t)count > room) {
            room = (size_t)count;
            continue;
        }
        count = utf8proc_normalize_utf32(characters, count, options);
        PLX_TRY(plx_text_reserve(context, to, (size_t)count * 4));
        for (utf8proc_ssize_t i = 0; i < count; i++)
            to->count += plx_char_put(to->bytes + to->count, (uint32_t)characters[i]);
        return PLX_OK;
    }
}

/* ASCII is copied; what lies between goes through utf8proc together with the ASCII character before it, which it may
 * compose with. */
static plx_status to_form(plx_context *context, plx_normalizer_kind form, plx_text text, plx_text_buffer *to)
{
    static const int options[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE, UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    plx_text_buffer work = {0};
    plx_status status = PLX_OK;
    size_t done = 0;
    for (size_t i = 0; i < text.count && status == PLX_OK;) {
        while (i < text.count && is_inert((unsigned char)text.bytes[i])) i++;
        size_t begin = i > done && i < text.count ? i - 1 : i;
        while (i < text.count && !is_inert((unsigned char)text.bytes[i])) i++;
        status = plx_text_append(context, to, text.bytes + done, begin - done);
        if (status == PLX_OK && i > begin) {
            plx_text part = {text.bytes + begin, i - begin};
            status = append_form(context, (utf8proc_option_t)(UTF8PROC_STABLE | options[form]), part, &work, to);
        }
        done = i;
    }
    plx_free(context, work.bytes);
    return status;
}

/* ---- character by character ---- */

/* Upper case letters in lower case; U+0130 is the only one that becomes two characters. */
static size_t put_lowercase(char *to, uint32_t c)
{
    if (c < 0x80) return *to = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c), 1;
    if (c == 0x130) return memcpy(to, "i\xCC\x87", 3), 3;
    return plx_char_put(to, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

static size_t put_without_accents(char *to, uint32_t c) { return plx_char_is_mark(c) ? 0 : plx_char_put(to, c); }

static size_t put_without_nonspacing(char *to, uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN ? 0 : plx_char_put(to, c);
}

/* BERT: control characters vanish, every space is a plain one. */
static size_t put_clean(char *to, uint32_t c)
{
    if (c >= 0x20 && c < 0x7F) return *to = (char)c, 1;
    if (c == '\t' || c == '\n' || c == '\r') return *to = ' ', 1;
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)c);
    bool other = kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_CO;
    if (c == 0xFFFD || other) return 0;
    return plx_char_is_space(c) ? *to = ' ', 1 : plx_char_put(to, c);
}

/* BERT: Chinese characters are words of their own. */
static size_t put_apart(char *to, uint32_t c)
{
    bool chinese = (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
                   (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
                   (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
    if (!chinese) return plx_char_put(to, c);
    *to = ' ';
    size_t size = 1 + plx_char_put(to + 1, c);
    to[size] = ' ';
    return size + 1;
}

/* Every character through `put`, which writes at most 6 bytes. */
static plx_status map(plx_context *context, plx_text text, size_t (*put)(char *to, uint32_t c), plx_text_buffer *to)
{
    PLX_TRY(
        plx_text_reserve(context, to, text.count * 3 + 8)); /* a byte becomes at most 3: chinese 3 -> 5, others less */
    for (size_t i = 0; i < text.count;) {
        int size;
        uint32_t c = plx_char_at(text.bytes + i, &size);
        i += (size_t)size;
        to->count += put(to->bytes + to->count, c);
    }
    return PLX_OK;
}

static plx_status replace(plx_context *context, const plx_normalizer *step, plx_text text, plx_text_buffer *to)
{
    size_t done = 0, begin, end, size = strlen(step->text);
    for (size_t from = 0; from <= text.count;) {
        bool found;
        PLX_TRY(plx_regex_find(step->pattern, text.bytes, text.count, from, &found, &begin, &end));
        if (!found) break;
        PLX_TRY(plx_text_append(context, to, text.bytes + done, begin - done));
        PLX_TRY(plx_text_append(context, to, step->text, size));
        done = from = end;
        if (begin == end) { /* an empty match: go on behind the next character */
            int next = 1;
            if (end < text.count) plx_char_at(text.bytes + end, &next);
            from = end + (size_t)next;
        }
    }
    return plx_text_append(context, to, text.bytes + done, text.count - done);
}

/* A single byte in place of another string: spaces, mostly. */
static plx_status replace_byte(plx_context *context, const plx_normalizer *step, plx_text text, plx_text_buffer *to)
{
    size_t size = strlen(step->text);
    PLX_TRY(plx_text_reserve(context, to, text.count * (size + 1)));
    char *out = to->bytes + to->count;
    for (size_t i = 0; i < text.count; i++) {
        if (text.bytes[i] != step->byte) {
            *out++ = text.bytes[i];
            continue;
        }
        memcpy(out, step->text, size);
        out += size;
    }
    to->count = (size_t)(out - to->bytes);
    return PLX_OK;
}

static plx_text strip(plx_text text, bool left, bool right)
{
    int size;
    size_t begin;
    while (left && text.count > 0 && plx_char_is_space(plx_char_at(text.bytes, &size)))
        text = (plx_text){text.bytes + size, text.count - (size_t)size};
    while (right && text.count > 0 && plx_char_is_space(plx_char_before(text.bytes, text.count, &begin)))
        text.count = begin;
    return text;
}

/* ---- the steps ---- */

/* The buffer that the text does not lie in, empty. */
static plx_text_buffer *other_buffer(plx_text_buffer buffers[2], plx_text text)
{
    bool first = buffers[0].bytes != NULL && text.bytes >= buffers[0].bytes &&
                 text.bytes < buffers[0].bytes + buffers[0].capacity + PLX_TEXT_PADDING;
    plx_text_buffer *other = &buffers[first ? 1 : 0];
    other->count = 0;
    return other;
}

static plx_status bert(plx_context *context, const plx_normalizer *step, plx_text_buffer buffers[2], plx_text *text)
{
    plx_text_buffer *to;
    const struct {
        bool wanted;
        size_t (*put)(char *to, uint32_t c);
        bool decompose;
    } parts[] = {{step->clean, put_clean, false},
                 {step->chinese && !is_ascii(*text), put_apart, false},
                 {step->strip_accents && !is_ascii(*text), put_without_nonspacing, true},
                 {step->lowercase, put_lowercase, false}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (!parts[i].wanted) continue;
        if (parts[i].decompose) {
            to = other_buffer(buffers, *text);
            PLX_TRY(plx_text_reserve(context, to, 1));
            PLX_TRY(to_form(context, PLX_NORMALIZE_NFD, *text, to));
            *text = (plx_text){to->bytes, to->count};
        }
        to = other_buffer(buffers, *text);
        PLX_TRY(map(context, *text, parts[i].put, to));
        *text = (plx_text){to->bytes, to->count};
    }
    return PLX_OK;
}

plx_status plx_normalize(plx_context *context, const plx_normalizer *steps, size_t count, plx_text text, bool continued,
                         plx_text_buffer buffers[2], plx_text *result)
{
    for (size_t i = 0; i < count && text.count > 0; i++) {
        const plx_normalizer *step = &steps[i];
        plx_text_buffer *to = other_buffer(buffers, text);
        bool form = step->kind <= PLX_NORMALIZE_NFKD;
        if ((form && is_normal_already(step->kind, text)) || (step->kind == PLX_NORMALIZE_PREPEND && continued))
            continue;
        if (step->kind == PLX_NORMALIZE_STRIP) {
            text = strip(text, step->left, step->right);
            continue;
        }
        if (step->kind == PLX_NORMALIZE_BERT) {
            PLX_TRY(bert(context, step, buffers, &text));
            continue;
        }
        PLX_TRY(plx_text_reserve(context, to, text.count));
        switch (step->kind) {
        case PLX_NORMALIZE_LOWERCASE: PLX_TRY(map(context, text, put_lowercase, to)); break;
        case PLX_NORMALIZE_STRIP_ACCENTS: PLX_TRY(map(context, text, put_without_accents, to)); break;
        case PLX_NORMALIZE_PREPEND:
            PLX_TRY(plx_text_append(context, to, step->text, strlen(step->text)));
            PLX_TRY(plx_text_append(context, to, text.bytes, text.count));
            break;
        case PLX_NORMALIZE_REPLACE:
            if (step->byte != 0)
                PLX_TRY(replace_byte(context, step, text, to));
            else
                PLX_TRY(replace(context, step, text, to));
            break;
        default: PLX_TRY(to_form(context, step->kind, text, to));
        }
        text = (plx_text){to->bytes, to->count};
    }
    *result = text;
    return PLX_OK;
}
