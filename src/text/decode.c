/* decode.c - the bytes that each token stands for, made once by the steps of the decoder. */
#include "text/pretrained.h"

#include <stdio.h>

/* ---- characters for bytes ---- */

/* ByteLevel writes every byte as a character that can be seen: bytes that are printable characters of Latin-1 as
 * themselves, the others as U+0100 and on. */
static uint32_t byte_character(unsigned byte)
{
    unsigned hidden = 0;
    if ((byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD)) return byte;
    for (unsigned b = 0; b < byte; b++) hidden += !((b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD));
    return 0x100 + hidden;
}

/* The byte of a character, or -1. */
static int character_byte(uint32_t c)
{
    if (c < 0x100) return byte_character(c) == c ? (int)c : -1;
    if (c < 0x121) return (int)(c - 0x100);
    if (c < 0x143) return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

bool plx_byte_level_bytes(const char *text, size_t count, char *bytes, size_t *used)
{
    *used = 0;
    for (size_t i = 0; i < count;) {
        int size, byte = character_byte(plx_char_at(text + i, &size));
        if (byte < 0) return false;
        bytes[(*used)++] = (char)byte;
        i += (size_t)size;
    }
    return true;
}

size_t plx_byte_level_character(unsigned char byte, char *text) { return plx_char_put(text, byte_character(byte)); }

/* ---- steps ---- */

typedef enum step_kind { BYTE_LEVEL, REPLACE, BYTE_FALLBACK, FUSE, STRIP, METASPACE, WORDPIECE, SEQUENCE } step_kind;
typedef struct decoder_step {
    step_kind kind;
    plx_normalizer replace; /* REPLACE, METASPACE */
    const char *prefix;     /* WORDPIECE; the tree's */
    bool cleanup;
} decoder_step;
typedef struct decoder {
    plx_pretrained *self;
    decoder_step steps[PLX_STEPS_MOST];
    size_t count;
    bool fused;
} decoder;

static plx_status read_replacement(decoder *made, const plx_place *place, json_t *object, decoder_step *step)
{
    json_t *pattern = NULL;
    const char *content = NULL, *string = NULL;
    PLX_TRY(plx_field_known(place, object, "type|pattern|content"));
    PLX_TRY(plx_field_object(place, object, "pattern", &pattern));
    PLX_TRY(plx_field_string(place, pattern, "String", &string));
    PLX_TRY(plx_field_string(place, object, "content", &content));
    if (string == NULL || string[0] == '\0' || content == NULL)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, "pattern",
                              "must be a String with a content to put in place");
    step->replace = (plx_normalizer){.kind = PLX_NORMALIZE_REPLACE, .text = plx_strdup(made->self->context, content)};
    if (step->replace.text == NULL) return PLX_ERROR_MEMORY;
    return plx_regex_open(place, "pattern", string, true, &step->replace.pattern);
}

static plx_status read_strip(decoder *made, const plx_place *place, json_t *object)
{
    const char *content = NULL;
    size_t start = 0, stop = 0;
    PLX_TRY(plx_field_known(place, object, "type|content|start|stop"));
    PLX_TRY(plx_field_string(place, object, "content", &content));
    PLX_TRY(plx_field_size(place, object, "start", &start));
    PLX_TRY(plx_field_size(place, object, "stop", &stop));
    if (start == 0 && stop == 0) return PLX_OK;
    if (!made->fused || content == NULL || strcmp(content, " ") != 0 || start != 1 || stop != 0)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, NULL,
                              "anything but one space at the beginning, after Fuse, is not supported");
    made->self->first_spaces = PLX_FIRST_SPACE_DROPPED;
    return PLX_OK;
}

static plx_status read_metaspace(decoder *made, const plx_place *place, json_t *object, decoder_step *step)
{
    plx_metaspace found;
    PLX_TRY(plx_metaspace_read(place, object, &found));
    if (found.prepend != PLX_PREPEND_NEVER) made->self->first_spaces = PLX_FIRST_SPACES_DROPPED;
    step->replace = (plx_normalizer){.kind = PLX_NORMALIZE_REPLACE, .text = plx_strdup(made->self->context, " ")};
    if (step->replace.text == NULL) return PLX_ERROR_MEMORY;
    return plx_regex_open(place, "replacement", found.replacement, true, &step->replace.pattern);
}

static plx_status read_steps(void *user, const plx_place *place, json_t *object, int depth)
{
    decoder *made = user;
    int type;
    if (made->count == PLX_STEPS_MOST) return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, NULL, "too many steps");
    PLX_TRY(
        plx_field_type(place, object, "ByteLevel|Replace|ByteFallback|Fuse|Strip|Metaspace|WordPiece|Sequence", &type));
    decoder_step *step = &made->steps[made->count];
    step->kind = (step_kind)type;
    switch (step->kind) {
    case STRIP: return read_strip(made, place, object);
    case FUSE: made->fused = true; return plx_field_known(place, object, "type");
    case BYTE_LEVEL: PLX_TRY(plx_field_known(place, object, "type|add_prefix_space|trim_offsets|use_regex")); break;
    case BYTE_FALLBACK: PLX_TRY(plx_field_known(place, object, "type")); break;
    case WORDPIECE:
        step->prefix = "##";
        step->cleanup = true;
        made->self->first_as_written = true;
        PLX_TRY(plx_field_known(place, object, "type|prefix|cleanup"));
        PLX_TRY(plx_field_string(place, object, "prefix", &step->prefix));
        PLX_TRY(plx_field_bool(place, object, "cleanup", &step->cleanup));
        break;
    case REPLACE:
    case METASPACE: {
        made->count++; /* before it may fail: what it holds is freed with the steps */
        return type == REPLACE ? read_replacement(made, place, object, step)
                               : read_metaspace(made, place, object, step);
    }
    case SEQUENCE: return plx_field_sequence(place, object, "decoders", read_steps, made, depth);
    }
    made->count++;
    return PLX_OK;
}

/* ---- one token ---- */

/* Takes the spaces out that English does not write: "do n't ." becomes "don't.". */
static void clean_up(char *text, size_t *count)
{
    static const char *const pairs[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    text[*count] = '\0';
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        size_t from = strlen(pairs[i][0]), to = strlen(pairs[i][1]);
        for (char *at = text; (at = strstr(at, pairs[i][0])) != NULL; at += to) {
            memmove(at + to, at + from, strlen(at + from) + 1);
            memcpy(at, pairs[i][1], to);
        }
    }
    *count = strlen(text);
}

/* Text of a token through one step; `text` has room for a few bytes more than it may grow by. */
static plx_status run_step(plx_context *context, const decoder_step *step, plx_text_buffer *text,
                           plx_text_buffer work[2])
{
    plx_text result;
    unsigned byte;
    PLX_TRY(plx_text_reserve(context, text, 8));
    text->bytes[text->count] = '\0';
    switch (step->kind) {
    case BYTE_LEVEL: {
        size_t used;
        work[0].count = 0;
        PLX_TRY(plx_text_reserve(context, &work[0], text->count));
        if (!plx_byte_level_bytes(text->bytes, text->count, work[0].bytes, &used)) return PLX_OK;
        memcpy(text->bytes, work[0].bytes, used);
        text->count = used;
        return PLX_OK;
    }
    case BYTE_FALLBACK: {
        int end = 0;
        if (text->count == 6 && sscanf(text->bytes, "<0x%2x>%n", &byte, &end) == 1 && end == 6) {
            text->bytes[0] = (char)byte;
            text->count = 1;
        }
        return PLX_OK;
    }
    case REPLACE:
    case METASPACE:
        PLX_TRY(plx_normalize(context, &step->replace, 1, (plx_text){text->bytes, text->count}, false, work, &result));
        text->count = 0;
        return plx_text_append(context, text, result.bytes, result.count);
    case WORDPIECE: {
        size_t size = strlen(step->prefix);
        bool goes_on = text->count >= size && memcmp(text->bytes, step->prefix, size) == 0;
        memmove(text->bytes + !goes_on, text->bytes + (goes_on ? size : 0), text->count - (goes_on ? size : 0));
        if (!goes_on) text->bytes[0] = ' ';
        text->count = goes_on ? text->count - size : text->count + 1;
        if (step->cleanup) clean_up(text->bytes, &text->count);
        return PLX_OK;
    }
    default: return PLX_OK;
    }
}

static plx_status decode_token(decoder *made, const plx_place *place, int32_t id, const char *string, bool joined,
                               plx_text_buffer *text, plx_text_buffer work[2])
{
    plx_pretrained *self = made->self;
    size_t length = strlen(string);
    text->count = 0;
    if (!joined) PLX_TRY(plx_text_append(self->context, text, " ", 1));
    PLX_TRY(plx_text_append(self->context, text, string, length));
    for (size_t i = 0; i < made->count; i++) PLX_TRY(run_step(self->context, &made->steps[i], text, work));
    if (text->count > PLX_TOKEN_BYTES_MOST || length > PLX_TOKEN_BYTES_MOST)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, "model.vocab",
                              "token %d has %zu bytes; at most %d are supported", (int)id, text->count,
                              PLX_TOKEN_BYTES_MOST);
    return plx_vocab_put(&self->decoded, id, text->bytes, text->count, false);
}

plx_status plx_read_decoder(plx_pretrained *self, const plx_place *place, json_t *object, const char *const *strings)
{
    decoder made = {.self = self};
    plx_text_buffer text = {0}, work[2] = {{0}};
    plx_status status = PLX_OK;
    bool joined = object != NULL && !json_is_null(object);
    plx_place inside = plx_place_in(place, ".decoder");
    if (joined)
        status = read_steps(&made, &inside, object, 0);
    else
        self->first_as_written = true; /* without a decoder, tokens are joined by spaces */
    for (size_t id = 0; id < self->decoded.ids && status == PLX_OK; id++)
        if (strings[id] != NULL) status = decode_token(&made, place, (int32_t)id, strings[id], joined, &text, work);
    for (size_t i = 0; i < self->added_count && status == PLX_OK; i++) /* what is special is no text */
        if (self->added[i].special) self->decoded.size[self->added[i].id] = 0;
    for (size_t i = 0; i < made.count; i++) {
        plx_regex_close(made.steps[i].replace.pattern);
        plx_free(self->context, made.steps[i].replace.text);
    }
    plx_free(self->context, text.bytes);
    plx_free(self->context, work[0].bytes);
    plx_free(self->context, work[1].bytes);
    return status;
}

size_t plx_pretrained_decode(const plx_tokenizer *tokenizer, int32_t token, bool first, char *text)
{
    const plx_pretrained *self = tokenizer->state;
    const plx_vocab *from = &self->decoded;
    size_t size = from->size[token], skip = 0;
    if (size == 0) return 0;
    if (first && self->first_as_written && (size_t)token < self->vocab.ids && self->vocab.size[token] > 0) {
        from = &self->vocab;
        size = from->size[token];
    } else if (first && self->first_as_written) {
        skip = 1; /* an added token: the space before it */
    }
    const char *bytes = from->bytes + from->begin[token];
    if (first && self->first_spaces != PLX_FIRST_SPACES_KEPT)
        while (skip < size && bytes[skip] == ' ' && (skip == 0 || self->first_spaces == PLX_FIRST_SPACES_DROPPED))
            skip++;
    memcpy(text, bytes + skip, size - skip);
    return size - skip;
}
