/* dialect.c - what Oniguruma and PCRE2 mean differently by the same characters. tests/checks/regex_equal.py compares
 * the two over all of Unicode. */
#include "text/dialect.h"

#include <ctype.h>
#include <stdio.h>

#define NAME_MOST 40   /* characters of a property's name */
#define GROUPS_MOST 64 /* inside each other */

#define SPACES "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORDS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of classes the digits and fractions of Latin-1 are parts of words too. */
#define WORD "[" WORDS "\\xb2\\xb3\\xb9\\xbc-\\xbe]"
#define NOT_WORD "[^" WORDS "\\xb2\\xb3\\xb9\\xbc-\\xbe]"

typedef struct translator {
    const plx_place *place;
    const char *key;
    const char *p; /* what is read next */
    pcre2_compile_context *setting;
    plx_text_buffer *out;
    size_t atom; /* where, in out, what a quantifier would repeat begins; SIZE_MAX: nothing to repeat */
    size_t groups[GROUPS_MOST];
    int depth;
    bool begins; /* an alternative begins here */
} translator;

static plx_status put(translator *self, const char *text, size_t count)
{
    return plx_text_append(self->place->context, self->out, text, count);
}

static plx_status put_string(translator *self, const char *text) { return put(self, text, strlen(text)); }

static plx_status refuse(const translator *self, const char *what, size_t count)
{
    return plx_place_fail(self->place, PLX_ERROR_UNSUPPORTED, self->key, "'%.*s' is not supported here", (int)count,
                          what);
}

/* Sets that have names in Oniguruma, as the contents of a class. */
static const struct {
    const char *name, *set;
    bool posix, property; /* [:name:], \p{name} */
} sets[] = {
    {"alnum", "\\p{Alphabetic}\\p{Nd}", true, true},
    {"alpha", "\\p{Alphabetic}", true, true},
    {"ascii", "\\x{0}-\\x{7f}", true, true},
    {"blank", "\\p{Zs}\\t", true, true},
    {"cntrl", "\\p{Cc}", true, true},
    {"digit", "\\p{Nd}", true, true},
    {"lower", "\\p{Lowercase}", true, true},
    {"punct", "\\p{P}\\p{S}", true, false},
    {"punct", "\\p{P}", false, true},
    {"space", SPACES, true, true},
    {"upper", "\\p{Uppercase}", true, true},
    {"word", WORDS, true, true},
    {"xdigit", "0-9a-fA-F", true, true},
};

static const char *set_named(const char *name, bool posix)
{
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (strcmp(sets[i].name, name) == 0 && (posix ? sets[i].posix : sets[i].property)) return sets[i].set;
    return NULL;
}

/* Scripts are asked of PCRE2 itself: it knows "sc:NAME" for these only. */
static plx_status ask_script(translator *self, const char *name, bool *is_script)
{
    char pattern[NAME_MOST + 16];
    int code;
    PCRE2_SIZE at;
    int count = snprintf(pattern, sizeof pattern, "\\p{sc:%s}", name);
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, (size_t)count, PCRE2_UTF, &code, &at, self->setting);
    pcre2_code_free(compiled);
    *is_script = compiled != NULL;
    return !*is_script && code == PLX_PCRE2_NO_MEMORY ? PLX_ERROR_MEMORY : PLX_OK;
}

/* \p{NAME}, \P{NAME}, \p{^NAME}. To Oniguruma a script is the letters of that script alone, to PCRE2 by default also
 * what it shares with others. */
static plx_status property(translator *self, bool inside)
{
    const char *begin = self->p, *close = self->p[2] == '{' ? strchr(self->p, '}') : NULL;
    if (close == NULL) return refuse(self, begin, 2);
    const char *from = begin + 3;
    bool negated = begin[1] == 'P';
    if (*from == '^') negated = !negated, from++;
    char name[NAME_MOST + 1];
    size_t count = 0;
    for (const char *p = from; p < close; p++) {
        if (*p == ' ' || *p == '_' || *p == '-') continue;
        if (!isalnum((unsigned char)*p) || count == NAME_MOST) return refuse(self, begin, (size_t)(close + 1 - begin));
        name[count++] = (char)tolower((unsigned char)*p);
    }
    name[count] = '\0';
    const char *set = set_named(name, false);
    self->p = close + 1;
    if (!inside && strcmp(name, "word") == 0) return put_string(self, negated ? NOT_WORD : WORD);
    if (set != NULL) {
        if (negated && inside) return refuse(self, begin, (size_t)(close + 1 - begin));
        if (!inside) PLX_TRY(put_string(self, negated ? "[^" : "["));
        PLX_TRY(put_string(self, set));
        return inside ? PLX_OK : put(self, "]", 1);
    }
    bool is_script = false;
    if (count > 2) PLX_TRY(ask_script(self, name, &is_script));
    PLX_TRY(put_string(self, negated ? "\\P{" : "\\p{"));
    if (is_script) PLX_TRY(put_string(self, "sc:"));
    PLX_TRY(put(self, name, count));
    return put(self, "}", 1);
}

/* \uHHHH */
static plx_status code_point(translator *self)
{
    for (int i = 2; i < 6; i++)
        if (!isxdigit((unsigned char)self->p[i])) return refuse(self, self->p, 2);
    PLX_TRY(put_string(self, "\\x{"));
    PLX_TRY(put(self, self->p + 2, 4));
    self->p += 6;
    return put(self, "}", 1);
}

/* What stands for the escape \c, inside a class or outside; NULL when both mean the same. */
static const char *rewritten(char c, bool inside)
{
    switch (c) {
    case 's': return inside ? SPACES : "[" SPACES "]";
    case 'S': return inside ? "\\P{White_Space}" : "[^" SPACES "]";
    case 'w': return inside ? WORDS : WORD;
    case 'W': return inside ? NULL : NOT_WORD;
    case 'b': return inside ? NULL : "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))";
    case 'B': return inside ? NULL : "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))";
    case 'h': return inside ? "0-9a-fA-F" : "[0-9a-fA-F]";
    case 'H': return inside ? NULL : "[^0-9a-fA-F]";
    case 'v': return "\\x0b";
    case 'O': return inside ? NULL : "(?s:.)";
    }
    return NULL;
}

static plx_status escape(translator *self, bool inside)
{
    char c = self->p[1];
    if (c == 'p' || c == 'P') return property(self, inside);
    if (c == 'u') return code_point(self);
    const char *other = rewritten(c, inside);
    if (other == NULL && c != '\0' && strchr(inside ? "WHRXKNOBQEG" : "KGQE", c) != NULL)
        return refuse(self, self->p, 2);
    if (c == 'N' && self->p[2] == '{') return refuse(self, self->p, 3);
    size_t size = c == '\0' ? 1 : 2;
    if (other != NULL)
        PLX_TRY(put_string(self, other));
    else
        PLX_TRY(put(self, self->p, size));
    self->p += size;
    return PLX_OK;
}

/* [:name:] or [:^name:] inside a class. */
static plx_status posix(translator *self)
{
    const char *begin = self->p, *name = begin + 2, *close = strstr(begin, ":]");
    bool negated = *name == '^';
    char copy[NAME_MOST + 1] = "";
    if (negated) name++;
    if (close != NULL && close - name <= NAME_MOST) memcpy(copy, name, (size_t)(close - name));
    const char *set = set_named(copy, true);
    /* The complement of a set of one property can be said inside a class. */
    if (set == NULL || (negated && (set[1] != 'p' || set[strlen(set) - 1] != '}' || strchr(set + 1, '\\') != NULL)))
        return refuse(self, begin, close != NULL ? (size_t)(close + 2 - begin) : 2);
    self->p = close + 2;
    if (!negated) return put_string(self, set);
    PLX_TRY(put_string(self, "\\P"));
    return put_string(self, set + 2);
}

static plx_status class(translator *self)
{
    PLX_TRY(put(self, self->p++, 1));
    if (*self->p == '^') PLX_TRY(put(self, self->p++, 1));
    if (*self->p == ']') PLX_TRY(put(self, self->p++, 1)); /* a bracket that comes first stands for itself */
    while (*self->p != '\0' && *self->p != ']') {
        if (*self->p == '\\')
            PLX_TRY(escape(self, true));
        else if (self->p[0] == '[' && self->p[1] == ':')
            PLX_TRY(posix(self));
        else if (*self->p == '[' || (self->p[0] == '&' && self->p[1] == '&'))
            return plx_place_fail(self->place, PLX_ERROR_UNSUPPORTED, self->key, "operations on character classes");
        else
            PLX_TRY(put(self, self->p++, 1));
    }
    return *self->p == ']' ? put(self, self->p++, 1) : PLX_OK;
}

/* (, and what may follow it: ?: ?= ?! ?> ?<= ?<! ?<name> ?i ?m. */
static plx_status open_group(translator *self)
{
    const char *begin = self->p;
    size_t size = 1;
    if (begin[1] == '*') return refuse(self, begin, 2);
    if (begin[1] == '?') {
        const char *p = begin + 2;
        if (*p == '#') {
            const char *close = strchr(p, ')');
            if (close == NULL) return refuse(self, begin, 3);
            self->p = close + 1;
            return PLX_OK;
        }
        size = 3;
        if (*p == '\0' || strchr(":=!><im-", *p) == NULL) return refuse(self, begin, *p == '\0' ? 2 : 3);
        if (strchr("im-", *p) != NULL) {
            while (*p == 'i' || *p == 'm' || *p == '-') p++;
            /* Oniguruma takes a(?i)b|c for a(?i:b|c); where an alternative begins both mean the same. */
            if (*p != ':' && (*p != ')' || !self->begins)) return refuse(self, begin, (size_t)(p + 1 - begin));
            size = (size_t)(p + 1 - begin);
        }
    }
    size_t at = self->out->count;
    bool setting = size > 3 && begin[size - 1] == ')';
    for (size_t i = 0; i < size; i++) /* Oniguruma's m is what others call s */
        PLX_TRY(put(self, i >= 2 && begin[i] == 'm' ? "s" : begin + i, 1));
    self->p += size;
    if (setting) return PLX_OK;
    if (self->depth == GROUPS_MOST)
        return plx_place_fail(self->place, PLX_ERROR_UNSUPPORTED, self->key, "more than %d groups inside each other",
                              GROUPS_MOST);
    self->groups[self->depth++] = at;
    self->begins = true;
    self->atom = SIZE_MAX;
    return PLX_OK;
}

/* {n}, {n,}, {,m}, {n,m}; anything else is text. Ruby's {n,m}+ repeats what was repeated, and {n}? may leave it out. */
static plx_status interval(translator *self, bool *is_interval)
{
    const char *p = self->p + 1, *least = p, *most = NULL;
    while (isdigit((unsigned char)*p)) p++;
    size_t least_count = (size_t)(p - least), most_count = 0;
    if (*p == ',') {
        most = ++p;
        while (isdigit((unsigned char)*p)) p++;
        most_count = (size_t)(p - most);
    }
    *is_interval = *p == '}' && (least_count > 0 || most_count > 0) && self->atom != SIZE_MAX;
    if (!*is_interval) return PLX_OK;
    p++;
    bool again = *p == '+' || (*p == '?' && most == NULL);
    size_t atom = self->atom;
    if (again) {
        PLX_TRY(put_string(self, "(?:"));
        memmove(self->out->bytes + atom + 3, self->out->bytes + atom, self->out->count - atom - 3);
        memcpy(self->out->bytes + atom, "(?:", 3);
    }
    PLX_TRY(put_string(self, least_count == 0 ? "{0" : "{"));
    PLX_TRY(put(self, least, (size_t)(p - least)));
    self->p = p;
    return again ? put(self, ")", 1) : PLX_OK; /* + or ? follow */
}

static plx_status next(translator *self)
{
    const char *p = self->p;
    size_t at = self->out->count;
    bool is_interval = false;
    if (*p == '(') return open_group(self);
    if (*p == ')') {
        self->atom = self->depth > 0 ? self->groups[--self->depth] : SIZE_MAX;
        self->begins = false;
        return put(self, self->p++, 1);
    }
    if (*p == '|') {
        self->atom = SIZE_MAX;
        self->begins = true;
        return put(self, self->p++, 1);
    }
    self->begins = false;
    if (*p == '{') PLX_TRY(interval(self, &is_interval));
    if (is_interval) return PLX_OK;
    if (*p == '*' || *p == '+' || *p == '?') return put(self, self->p++, 1);
    self->atom = at;
    if (*p == '\\') return escape(self, false);
    if (*p == '[') return class(self);
    int size;
    plx_char_at(p, &size);
    self->p += size;
    return put(self, p, (size_t)size);
}

plx_status plx_dialect_translate(const plx_place *place, const char *key, const char *pattern,
                                 pcre2_general_context *memory, plx_text_buffer *out)
{
    translator self = {.place = place, .key = key, .p = pattern, .out = out, .atom = SIZE_MAX, .begins = true};
    self.setting = pcre2_compile_context_create(memory);
    plx_status status = self.setting != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    while (status == PLX_OK && *self.p != '\0') status = next(&self);
    pcre2_compile_context_free(self.setting);
    return status;
}
