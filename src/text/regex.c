/* regex.c - PCRE2 behind the patterns of tokenizer.json, after dialect.c. Steps are limited, so that a hostile pattern
 * gives an error instead of running for ever. */
#include "text/regex.h"

#include "text/dialect.h"

#include <stdio.h>
#include <string.h>

#define STEPS_MOST 1000000           /* of one match */
#define STACK_MOST ((size_t)1 << 20) /* bytes of the compiled matcher's stack */
#define PATTERN_MOST ((size_t)1 << 16)

struct plx_regex {
    plx_context *context;
    char *place; /* "FILE: FIELD" for messages */
    pcre2_general_context *memory;
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    bool compiled; /* to machine code */
};

static void *allocate(PCRE2_SIZE bytes, void *context) { return plx_alloc_uncleared(context, bytes); }
static void release(void *memory, void *context)
{
    if (memory != NULL) plx_free(context, memory);
}

static plx_status compile(const plx_place *place, const char *key, plx_regex *self, const char *pattern, size_t bytes,
                          bool literal)
{
    int code;
    PCRE2_SIZE at;
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    pcre2_compile_context *setting = pcre2_compile_context_create(self->memory);
    if (setting == NULL) return PLX_ERROR_MEMORY;
    pcre2_set_newline(setting, PCRE2_NEWLINE_LF);
    self->code = pcre2_compile((PCRE2_SPTR)pattern, bytes, options, &code, &at, setting);
    pcre2_compile_context_free(setting);
    if (self->code == NULL) {
        char message[160] = "";
        if (code == PCRE2_ERROR_NOMEMORY || code == PLX_PCRE2_NO_MEMORY) return plx_context_error(self->context)->code;
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        return plx_place_fail(place, PLX_ERROR_FORMAT, key, "not a regular expression that can be used: %s", message);
    }
    self->match = pcre2_match_data_create(1, self->memory);
    self->limits = pcre2_match_context_create(self->memory);
    if (self->match == NULL || self->limits == NULL) return PLX_ERROR_MEMORY;
    pcre2_set_match_limit(self->limits, STEPS_MOST);
    pcre2_set_heap_limit(self->limits, (uint32_t)(STACK_MOST >> 10));
    self->compiled = pcre2_jit_compile(self->code, PCRE2_JIT_COMPLETE) == 0;
    if (self->compiled) {
        self->stack = pcre2_jit_stack_create(32 << 10, STACK_MOST, self->memory);
        if (self->stack == NULL) return PLX_ERROR_MEMORY;
        pcre2_jit_stack_assign(self->limits, NULL, self->stack);
    }
    return PLX_OK;
}

plx_status plx_regex_open(const plx_place *place, const char *key, const char *pattern, bool literal, plx_regex **regex)
{
    plx_context *context = place->context;
    *regex = NULL;
    if (strlen(pattern) > PATTERN_MOST)
        return plx_place_fail(place, PLX_ERROR_FORMAT, key, "longer than %zu bytes", PATTERN_MOST);
    plx_regex *self = plx_alloc(context, sizeof *self);
    if (self == NULL) return PLX_ERROR_MEMORY;
    self->context = context;
    plx_text_buffer text = {0};
    self->place = plx_format(context, "%s: %s%s%s", place->file, place->path, place->path[0] ? "." : "", key);
    self->memory = pcre2_general_context_create(allocate, release, context);
    plx_status status = self->place != NULL && self->memory != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    if (status == PLX_OK)
        status = literal ? plx_text_append(context, &text, pattern, strlen(pattern))
                         : plx_dialect_translate(place, key, pattern, self->memory, &text);
    if (status == PLX_OK) status = plx_text_reserve(context, &text, 1);
    if (status == PLX_OK) status = compile(place, key, self, text.bytes, text.count, literal);
    plx_free(context, text.bytes);
    if (status == PLX_OK)
        *regex = self;
    else
        plx_regex_close(self);
    return status;
}

void plx_regex_close(plx_regex *regex)
{
    if (regex == NULL) return;
    pcre2_jit_stack_free(regex->stack);
    pcre2_match_context_free(regex->limits);
    pcre2_match_data_free(regex->match);
    pcre2_code_free(regex->code);
    pcre2_general_context_free(regex->memory);
    plx_free(regex->context, regex->place);
    plx_free(regex->context, regex);
}

plx_status plx_regex_find(plx_regex *regex, const char *text, size_t count, size_t from, bool *found, size_t *begin,
                          size_t *end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int got = regex->compiled
                  ? pcre2_jit_match(regex->code, subject, count, from, 0, regex->match, regex->limits)
                  : pcre2_match(regex->code, subject, count, from, PCRE2_NO_UTF_CHECK, regex->match, regex->limits);
    *found = got >= 0;
    if (got == PCRE2_ERROR_NOMATCH) return PLX_OK;
    if (got < 0)
        return plx_fail(regex->context, PLX_ERROR_FORMAT,
                        "%s: this expression takes more than %d steps or %zu bytes of stack on this text: it cannot be "
                        "used",
                        regex->place, STEPS_MOST, STACK_MOST);
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(regex->match);
    *begin = ends[0];
    *end = ends[1];
    return PLX_OK;
}
