/* read.c - reading the normalizer, pre_tokenizer and post_processor of a tokenizer.json into steps. */
#include "text/pretrained.h"

/* The string of a pattern {"String": ...} or {"Regex": ...}. */
static plx_status read_pattern(const plx_place *place, json_t *object, const char **text, bool *literal)
{
    json_t *pattern = NULL;
    const char *string = NULL, *regex = NULL;
    PLX_TRY(plx_field_object(place, object, "pattern", &pattern));
    plx_place inside = plx_place_in(place, ".pattern");
    if (pattern == NULL) return plx_place_fail(&inside, PLX_ERROR_FORMAT, NULL, "is missing");
    PLX_TRY(plx_field_known(&inside, pattern, "String|Regex"));
    PLX_TRY(plx_field_string(&inside, pattern, "String", &string));
    PLX_TRY(plx_field_string(&inside, pattern, "Regex", &regex));
    if ((string == NULL) == (regex == NULL))
        return plx_place_fail(&inside, PLX_ERROR_FORMAT, NULL, "must have either String or Regex");
    *literal = string != NULL;
    *text = string != NULL ? string : regex;
    return PLX_OK;
}

/* ---- normalizer ---- */

static plx_status add_normalizer(plx_pretrained *self, const plx_place *place, plx_normalizer **step)
{
    if (self->normalizer_count == PLX_STEPS_MOST)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, NULL, "more than %d steps", PLX_STEPS_MOST);
    *step = &self->normalizers[self->normalizer_count++];
    return PLX_OK;
}

static plx_status read_replace(plx_pretrained *self, const plx_place *place, json_t *object, plx_normalizer *step)
{
    const char *pattern, *content = NULL;
    bool literal;
    step->kind = PLX_NORMALIZE_REPLACE;
    PLX_TRY(read_pattern(place, object, &pattern, &literal));
    PLX_TRY(plx_field_string(place, object, "content", &content));
    if (content == NULL) return plx_place_fail(place, PLX_ERROR_FORMAT, "content", "is missing");
    if ((step->text = plx_strdup(self->context, content)) == NULL) return PLX_ERROR_MEMORY;
    if (literal && (unsigned char)pattern[0] < 0x80 && pattern[0] != '\0' && pattern[1] == '\0') {
        step->byte = pattern[0];
        return PLX_OK;
    }
    return plx_regex_open(place, "pattern", pattern, literal, &step->pattern);
}

static plx_status read_bert(const plx_place *place, json_t *object, plx_normalizer *step)
{
    *step = (plx_normalizer){.kind = PLX_NORMALIZE_BERT, .clean = true, .chinese = true, .lowercase = true};
    PLX_TRY(plx_field_known(place, object, "type|clean_text|handle_chinese_chars|strip_accents|lowercase"));
    PLX_TRY(plx_field_bool(place, object, "clean_text", &step->clean));
    PLX_TRY(plx_field_bool(place, object, "handle_chinese_chars", &step->chinese));
    PLX_TRY(plx_field_bool(place, object, "lowercase", &step->lowercase));
    step->strip_accents = step->lowercase;
    return plx_field_bool(place, object, "strip_accents", &step->strip_accents);
}

static plx_status read_normalizer(void *user, const plx_place *place, json_t *object, int depth)
{
    plx_pretrained *self = user;
    enum { SEQUENCE = PLX_NORMALIZE_BERT + 1 };
    int type;
    plx_normalizer *step = NULL;
    PLX_TRY(plx_field_type(place, object,
                           "NFC|NFD|NFKC|NFKD|Lowercase|StripAccents|Strip|Prepend|Replace|BertNormalizer|Sequence",
                           &type));
    if (type == SEQUENCE) return plx_field_sequence(place, object, "normalizers", read_normalizer, self, depth);
    PLX_TRY(add_normalizer(self, place, &step));
    step->kind = (plx_normalizer_kind)type;
    if (type == PLX_NORMALIZE_BERT) return read_bert(place, object, step);
    if (type == PLX_NORMALIZE_STRIP) {
        step->left = step->right = true;
        PLX_TRY(plx_field_known(place, object, "type|strip_left|strip_right"));
        PLX_TRY(plx_field_bool(place, object, "strip_left", &step->left));
        return plx_field_bool(place, object, "strip_right", &step->right);
    }
    if (type == PLX_NORMALIZE_PREPEND) {
        const char *text = NULL;
        PLX_TRY(plx_field_known(place, object, "type|prepend"));
        PLX_TRY(plx_field_string(place, object, "prepend", &text));
        if (text == NULL) return plx_place_fail(place, PLX_ERROR_FORMAT, "prepend", "is missing");
        return (step->text = plx_strdup(self->context, text)) != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    }
    if (type == PLX_NORMALIZE_REPLACE) {
        PLX_TRY(plx_field_known(place, object, "type|pattern|content"));
        return read_replace(self, place, object, step);
    }
    return plx_field_known(place, object, "type");
}

plx_status plx_read_normalizer(plx_pretrained *self, const plx_place *place, json_t *object)
{
    return object == NULL || json_is_null(object) ? PLX_OK : read_normalizer(self, place, object, 0);
}

/* ---- pre_tokenizer ---- */

static plx_status add_splitter(plx_pretrained *self, const plx_place *place, plx_splitter step, plx_splitter **added)
{
    if (self->splitter_count == PLX_STEPS_MOST)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, NULL, "more than %d steps", PLX_STEPS_MOST);
    plx_splitter *to = &self->splitters[self->splitter_count++];
    *to = step;
    if (added != NULL) *added = to;
    return PLX_OK;
}

static plx_status add_pattern(plx_pretrained *self, const plx_place *place, const char *pattern, bool literal,
                              plx_splitter **added)
{
    plx_splitter *step = NULL;
    PLX_TRY(
        add_splitter(self, place, (plx_splitter){.kind = PLX_SPLIT_PATTERN, .behavior = PLX_SPLIT_ISOLATED}, &step));
    step->known = !literal && plx_pattern_is_known(pattern);
    if (added != NULL) *added = step;
    return plx_regex_open(place, "pattern", pattern, literal, &step->pattern);
}

static bool is_punctuation(uint32_t c)
{
    if (c < 0x80) return c > ' ' && c < 0x7F && !plx_char_is_letter(c) && !plx_char_is_number(c);
    return plx_char_is_punctuation(c);
}

#define BEHAVIORS "Removed|Isolated|MergedWithPrevious|MergedWithNext|Contiguous"

static plx_status read_behavior(const plx_place *place, json_t *object, plx_split_behavior *behavior)
{
    int index = (int)*behavior;
    PLX_TRY(plx_field_choice(place, object, "behavior", BEHAVIORS, &index));
    *behavior = (plx_split_behavior)index;
    return PLX_OK;
}

static plx_status read_split(plx_pretrained *self, const plx_place *place, json_t *object)
{
    const char *pattern;
    bool literal;
    plx_splitter *step = NULL;
    PLX_TRY(plx_field_known(place, object, "type|pattern|behavior|invert"));
    PLX_TRY(read_pattern(place, object, &pattern, &literal));
    PLX_TRY(add_pattern(self, place, pattern, literal, &step));
    PLX_TRY(plx_field_bool(place, object, "invert", &step->invert));
    if (json_object_get(object, "behavior") == NULL)
        return plx_place_fail(place, PLX_ERROR_FORMAT, "behavior", "is missing");
    PLX_TRY(read_behavior(place, object, &step->behavior));
    /* Isolated words, or words by the inverted expression with what is between them dropped: the same where the
     * expression leaves nothing out, as the known ones do. */
    bool isolated = step->behavior == PLX_SPLIT_ISOLATED || (step->behavior == PLX_SPLIT_REMOVED && step->invert);
    step->known = step->known && isolated;
    return PLX_OK;
}

static plx_status read_byte_level(plx_pretrained *self, const plx_place *place, json_t *object)
{
    bool prefix = true, regex = true, trim;
    PLX_TRY(plx_field_known(place, object, "type|add_prefix_space|trim_offsets|use_regex"));
    PLX_TRY(plx_field_bool(place, object, "add_prefix_space", &prefix));
    PLX_TRY(plx_field_bool(place, object, "use_regex", &regex));
    PLX_TRY(plx_field_bool(place, object, "trim_offsets", &trim)); /* positions in the text, which are not kept */
    self->byte_level = true;
    if (prefix) PLX_TRY(add_splitter(self, place, (plx_splitter){.kind = PLX_SPLIT_PREFIX_SPACE}, NULL));
    return regex ? add_pattern(self, place, plx_byte_level_pattern, false, NULL) : PLX_OK;
}

plx_status plx_metaspace_read(const plx_place *place, json_t *object, plx_metaspace *found)
{
    const char *text;
    bool prefix = true;
    *found = (plx_metaspace){.replacement = "\xE2\x96\x81", .prepend = PLX_PREPEND_ALWAYS, .split = true};
    PLX_TRY(plx_field_known(place, object, "type|replacement|prepend_scheme|split|add_prefix_space|str_rep"));
    PLX_TRY(plx_field_string(place, object, "replacement", &found->replacement));
    PLX_TRY(plx_field_string(place, object, "str_rep", &text));
    PLX_TRY(plx_field_choice(place, object, "prepend_scheme", "always|first|never", &found->prepend));
    PLX_TRY(plx_field_bool(place, object, "add_prefix_space", &prefix));
    PLX_TRY(plx_field_bool(place, object, "split", &found->split));
    if (!prefix) found->prepend = PLX_PREPEND_NEVER;
    return PLX_OK;
}

static plx_status read_metaspace(plx_pretrained *self, const plx_place *place, json_t *object)
{
    plx_metaspace found;
    int size;
    PLX_TRY(plx_metaspace_read(place, object, &found));
    uint32_t character = found.replacement[0] != '\0' ? plx_char_at(found.replacement, &size) : 0;
    if (character == 0 || found.replacement[size] != '\0')
        return plx_place_fail(place, PLX_ERROR_FORMAT, "replacement", "must be one character");
    plx_splitter step = {.kind = PLX_SPLIT_METASPACE,
                         .behavior = PLX_SPLIT_MERGED_WITH_NEXT,
                         .character = character,
                         .prepend = found.prepend,
                         .split = found.split};
    return add_splitter(self, place, step, NULL);
}

static plx_status read_chars(plx_pretrained *self, const plx_place *place, bool (*is)(uint32_t c),
                             plx_split_behavior behavior)
{
    plx_splitter step = {.kind = PLX_SPLIT_CHARS, .behavior = behavior, .is = is};
    return add_splitter(self, place, step, NULL);
}

static plx_status read_whitespace(plx_pretrained *self, const plx_place *place, json_t *object)
{
    plx_splitter *step = NULL;
    PLX_TRY(plx_field_known(place, object, "type"));
    PLX_TRY(add_pattern(self, place, "[\\w\\p{Join_Control}]+|[^\\w\\p{Join_Control}\\s]+", false, &step));
    step->behavior = PLX_SPLIT_REMOVED;
    step->invert = step->known = true;
    return PLX_OK;
}

static plx_status read_delimiter(plx_pretrained *self, const plx_place *place, json_t *object)
{
    const char *text = "";
    int size;
    PLX_TRY(plx_field_known(place, object, "type|delimiter"));
    PLX_TRY(plx_field_string(place, object, "delimiter", &text));
    uint32_t character = text[0] != '\0' ? plx_char_at(text, &size) : 0;
    if (character == 0 || text[size] != '\0')
        return plx_place_fail(place, PLX_ERROR_FORMAT, "delimiter", "must be one character");
    plx_splitter step = {.kind = PLX_SPLIT_CHARS, .behavior = PLX_SPLIT_REMOVED, .character = character};
    return add_splitter(self, place, step, NULL);
}

static plx_status read_splitter(void *user, const plx_place *place, json_t *object, int depth)
{
    plx_pretrained *self = user;
    enum { BYTE_LEVEL, SPLIT, DIGITS, WHITESPACE, WHITESPACE_SPLIT, PUNCTUATION, BERT, METASPACE, DELIMITER, SEQUENCE };
    int type;
    PLX_TRY(plx_field_type(place, object,
                           "ByteLevel|Split|Digits|Whitespace|WhitespaceSplit|Punctuation|BertPreTokenizer|Metaspace|"
                           "CharDelimiterSplit|Sequence",
                           &type));
    if (self->byte_level)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, NULL, "a step after ByteLevel is not supported");
    switch (type) {
    case BYTE_LEVEL: return read_byte_level(self, place, object);
    case SPLIT: return read_split(self, place, object);
    case WHITESPACE: return read_whitespace(self, place, object);
    case METASPACE: return read_metaspace(self, place, object);
    case DELIMITER: return read_delimiter(self, place, object);
    case WHITESPACE_SPLIT:
        PLX_TRY(plx_field_known(place, object, "type"));
        return read_chars(self, place, plx_char_is_space, PLX_SPLIT_REMOVED);
    case BERT:
        PLX_TRY(plx_field_known(place, object, "type"));
        PLX_TRY(read_chars(self, place, plx_char_is_space, PLX_SPLIT_REMOVED));
        return read_chars(self, place, is_punctuation, PLX_SPLIT_ISOLATED);
    case DIGITS: {
        bool individual = false;
        PLX_TRY(plx_field_known(place, object, "type|individual_digits"));
        PLX_TRY(plx_field_bool(place, object, "individual_digits", &individual));
        return read_chars(self, place, plx_char_is_number, individual ? PLX_SPLIT_ISOLATED : PLX_SPLIT_CONTIGUOUS);
    }
    case PUNCTUATION: {
        plx_split_behavior behavior = PLX_SPLIT_ISOLATED;
        PLX_TRY(plx_field_known(place, object, "type|behavior"));
        PLX_TRY(read_behavior(place, object, &behavior));
        return read_chars(self, place, is_punctuation, behavior);
    }
    }
    return plx_field_sequence(place, object, "pretokenizers", read_splitter, self, depth);
}

plx_status plx_read_splitter(plx_pretrained *self, const plx_place *place, json_t *object)
{
    return object == NULL || json_is_null(object) ? PLX_OK : read_splitter(self, place, object, 0);
}

/* ---- post_processor: which token stands before a text, which behind ---- */

/* The one id of a special token that a template names. */
static plx_status template_id(const plx_place *place, json_t *tokens, const char *name, int32_t *id)
{
    json_t *entry = name != NULL ? json_object_get(tokens, name) : NULL;
    json_t *ids = json_is_object(entry) ? json_object_get(entry, "ids") : NULL;
    json_t *first = json_array_size(ids) == 1 ? json_array_get(ids, 0) : NULL;
    if (!json_is_integer(first) || json_integer_value(first) < 0 ||
        json_integer_value(first) >= (json_int_t)PLX_VOCAB_MOST)
        return plx_place_fail(place, PLX_ERROR_FORMAT, "special_tokens", "'%.60s' must have one id",
                              name != NULL ? name : "");
    *id = (int32_t)json_integer_value(first);
    return PLX_OK;
}

static plx_status read_template(plx_pretrained *self, const plx_place *place, json_t *object)
{
    json_t *single = NULL, *tokens = NULL, *item;
    size_t index;
    bool behind = false;
    PLX_TRY(plx_field_known(place, object, "type|single|pair|special_tokens"));
    PLX_TRY(plx_field_list(place, object, "single", &single));
    PLX_TRY(plx_field_object(place, object, "special_tokens", &tokens));
    json_array_foreach(single, index, item)
    {
        plx_place inside = plx_place_in(place, ".single[%zu]", index);
        json_t *special = NULL;
        const char *name = NULL;
        PLX_TRY(plx_field_known(&inside, item, "SpecialToken|Sequence"));
        PLX_TRY(plx_field_object(&inside, item, "SpecialToken", &special));
        if (special == NULL) {
            behind = true;
            continue;
        }
        PLX_TRY(plx_field_string(&inside, special, "id", &name));
        int32_t *to = behind ? &self->template_last : &self->template_first;
        if (*to >= 0)
            return plx_place_fail(&inside, PLX_ERROR_UNSUPPORTED, NULL, "several tokens on one side of a text");
        PLX_TRY(template_id(place, tokens, name, to));
    }
    return PLX_OK;
}

/* RobertaProcessing and BertProcessing: a token before and one behind. */
static plx_status read_pair(plx_pretrained *self, const plx_place *place, json_t *object)
{
    const char *const keys[] = {"cls", "sep"};
    int32_t *const to[] = {&self->template_first, &self->template_last};
    for (size_t i = 0; i < 2; i++) {
        json_t *pair = NULL;
        PLX_TRY(plx_field_list(place, object, keys[i], &pair));
        json_t *id = json_array_get(pair, 1);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= (json_int_t)PLX_VOCAB_MOST)
            return plx_place_fail(place, PLX_ERROR_FORMAT, keys[i], "must be a token and its id");
        *to[i] = (int32_t)json_integer_value(id);
    }
    return PLX_OK;
}

static plx_status read_post_processor(void *user, const plx_place *place, json_t *object, int depth)
{
    plx_pretrained *self = user;
    enum { BYTE_LEVEL, TEMPLATE, ROBERTA, BERT, SEQUENCE };
    int type;
    PLX_TRY(
        plx_field_type(place, object, "ByteLevel|TemplateProcessing|RobertaProcessing|BertProcessing|Sequence", &type));
    if (type == BYTE_LEVEL) return plx_field_known(place, object, "type|add_prefix_space|trim_offsets|use_regex");
    if (type == TEMPLATE) return read_template(self, place, object);
    if (type != SEQUENCE) return read_pair(self, place, object);
    return plx_field_sequence(place, object, "processors", read_post_processor, self, depth);
}

plx_status plx_read_post_processor(plx_pretrained *self, const plx_place *place, json_t *object)
{
    return object == NULL || json_is_null(object) ? PLX_OK : read_post_processor(self, place, object, 0);
}
