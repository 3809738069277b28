/* read_model.c - reading the model of a tokenizer.json: the vocabulary, merges and what belongs to them. */
#include "text/pretrained.h"

#include <stdio.h>

#define WORDPIECE_MOST 512 /* bytes of a WordPiece token: wordpiece.c looks for no longer ones */

plx_status plx_take_id(const plx_place *place, const char *key, json_t *value, size_t *ids)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= (json_int_t)PLX_VOCAB_MOST)
        return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "the id of '%.60s' must be a whole number below %zu", key,
                              PLX_VOCAB_MOST);
    if ((size_t)json_integer_value(value) >= *ids) *ids = (size_t)json_integer_value(value) + 1;
    return PLX_OK;
}

/* Each id's string, as the file writes it. */
static plx_status read_strings(const plx_place *place, json_t *vocab, const char **strings)
{
    const char *text;
    json_t *value;
    json_object_foreach(vocab, text, value)
    {
        json_int_t id = json_integer_value(value);
        if (text[0] == '\0') return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "token %d is empty", (int)id);
        if (strings[id] != NULL)
            return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "'%.60s' and '%.60s' have the same id, %d",
                                  strings[id], text, (int)id);
        strings[id] = text;
    }
    return PLX_OK;
}

/* The vocabulary that words are looked up in. */
static plx_status make_vocab(plx_pretrained *self, const char *const *strings, size_t ids)
{
    size_t total = 0;
    plx_text_buffer bytes = {0};
    for (size_t id = 0; id < ids; id++) total += strings[id] != NULL ? strlen(strings[id]) : 0;
    PLX_TRY(plx_vocab_open(self->context, ids, total, &self->vocab));
    plx_status status = PLX_OK;
    for (size_t id = 0; id < ids && status == PLX_OK; id++) {
        if (strings[id] == NULL) continue;
        const char *text = strings[id];
        size_t count = strlen(text), used;
        bool known = true;
        bytes.count = 0;
        if (self->byte_level && (status = plx_text_reserve(self->context, &bytes, count)) == PLX_OK) {
            /* A string with other characters is never met in text, but still stands for itself. */
            known = plx_byte_level_bytes(text, count, bytes.bytes, &used);
            if (known) text = bytes.bytes, count = used;
        }
        if (status == PLX_OK) status = plx_vocab_put(&self->vocab, (int32_t)id, text, count, known);
    }
    plx_free(self->context, bytes.bytes);
    return status;
}

static bool has_metaspace_inside(const char *text, size_t count)
{
    for (size_t i = 1; i + 2 < count; i++)
        if (memcmp(text + i, "\xE2\x96\x81", 3) == 0 && (i < 3 || memcmp(text + i - 3, "\xE2\x96\x81", 3) != 0))
            return true;
    return false;
}

/* What the model knows about single bytes and about U+2581. */
static void find_bytes(plx_pretrained *self)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = {(char)byte};
        self->byte_ids[byte] = plx_vocab_find(&self->vocab, text, 1);
        snprintf(text, sizeof text, "<0x%02X>", byte);
        self->fallback_ids[byte] = plx_vocab_find(&self->vocab, text, 6);
    }
    bool apart =
        self->model == PLX_MODEL_BPE && !self->byte_level && plx_vocab_find(&self->vocab, "\xE2\x96\x81", 3) >= 0;
    for (size_t id = 0; id < self->vocab.ids && apart; id++)
        apart = !has_metaspace_inside(self->vocab.bytes + self->vocab.begin[id], self->vocab.size[id]);
    self->words_at_metaspace = apart;
}

/* The two parts of a merge: "a b" or ["a", "b"]. Where tokens themselves have spaces, "a b" may be cut in several
 * places: the one with tokens on both sides counts. */
static bool merge_parts(json_t *vocab, json_t *merge, plx_text parts[2])
{
    const char *text = json_string_value(merge);
    size_t count = json_string_length(merge), cuts = 0;
    for (size_t at = 1; text != NULL && at + 1 < count; at++) {
        if (text[at] != ' ') continue;
        plx_text cut[2] = {{text, at}, {text + at + 1, count - at - 1}};
        bool only = memchr(text, ' ', count) == text + at && memchr(cut[1].bytes, ' ', cut[1].count) == NULL;
        if (!only && (json_object_getn(vocab, cut[0].bytes, cut[0].count) == NULL ||
                      json_object_getn(vocab, cut[1].bytes, cut[1].count) == NULL))
            continue;
        memcpy(parts, cut, sizeof cut);
        cuts++;
    }
    for (size_t i = 0; i < 2 && text == NULL; i++) {
        json_t *part = json_array_size(merge) == 2 ? json_array_get(merge, i) : NULL;
        if (!json_is_string(part) || json_string_length(part) == 0) return false;
        parts[i] = (plx_text){json_string_value(part), json_string_length(part)};
    }
    return text == NULL || cuts == 1;
}

/* One merge into the table. Its parts and what they make must be tokens. */
static plx_status add_merge(plx_pretrained *self, const plx_place *place, json_t *vocab, json_t *merge, size_t rank,
                            plx_text_buffer *work)
{
    plx_text parts[2];
    int32_t ids[3];
    size_t used = 0;
    if (!merge_parts(vocab, merge, parts))
        return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "a merge must be two tokens with one space between");
    work->count = 0;
    PLX_TRY(plx_text_reserve(self->context, work, (parts[0].count + parts[1].count) * 2 + 2));
    char *joined = work->bytes, *bytes = joined + parts[0].count + parts[1].count + 1;
    memcpy(joined, parts[0].bytes, parts[0].count);
    memcpy(joined + parts[0].count, parts[1].bytes, parts[1].count);
    const plx_text tokens[3] = {parts[0], parts[1], {joined, parts[0].count + parts[1].count}};
    bool met = true; /* in text: false where a character stands for no byte */
    for (size_t i = 0; i < 3; i++) {
        const char *text = tokens[i].bytes;
        size_t count = tokens[i].count;
        bool whole = !self->byte_level || plx_byte_level_bytes(text, count, bytes, &used);
        met = met && whole;
        ids[i] =
            whole ? plx_vocab_find(&self->vocab, self->byte_level ? bytes : text, self->byte_level ? used : count) : -1;
        if (ids[i] < 0 && (whole || json_object_getn(vocab, text, count) == NULL))
            return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "'%.*s' is not in model.vocab",
                                  (int)(count < 60 ? count : 60), text);
    }
    plx_merge entry = {ids[0], ids[1], ids[2], (uint32_t)rank};
    if (met && !plx_merges_put(&self->merges, entry))
        return plx_place_fail(place, PLX_ERROR_FORMAT, NULL, "the same merge stands there twice");
    return PLX_OK;
}

static plx_status read_merges(plx_pretrained *self, const plx_place *place, json_t *vocab, json_t *list)
{
    json_t *merge;
    size_t rank;
    plx_text_buffer work = {0};
    plx_status status = PLX_OK;
    if (json_array_size(list) >= PLX_VOCAB_MOST)
        return plx_place_fail(place, PLX_ERROR_FORMAT, "merges", "more than %zu", PLX_VOCAB_MOST);
    PLX_TRY(plx_merges_open(self->context, json_array_size(list), &self->merges));
    json_array_foreach(list, rank, merge)
    {
        plx_place inside = plx_place_in(place, ".merges[%zu]", rank);
        if (status == PLX_OK) status = add_merge(self, &inside, vocab, merge, rank, &work);
    }
    plx_free(self->context, work.bytes);
    return status;
}

/* A field that may only be absent, null or "". */
static plx_status refuse_string(const plx_place *place, json_t *object, const char *key)
{
    const char *text = "";
    PLX_TRY(plx_field_string(place, object, key, &text));
    return text[0] == '\0' ? PLX_OK
                           : plx_place_fail(place, PLX_ERROR_UNSUPPORTED, key, "'%.60s' is not supported", text);
}

static plx_status read_unknown(plx_pretrained *self, const plx_place *place, json_t *model, bool needed)
{
    const char *text = NULL;
    PLX_TRY(plx_field_string(place, model, "unk_token", &text));
    self->unk = text != NULL && text[0] != '\0' ? plx_vocab_find(&self->vocab, text, strlen(text)) : -1;
    if (text != NULL && text[0] != '\0' && self->unk < 0)
        return plx_place_fail(place, PLX_ERROR_FORMAT, "unk_token", "'%.60s' is not in model.vocab", text);
    if (needed && self->unk < 0) return plx_place_fail(place, PLX_ERROR_FORMAT, "unk_token", "is missing");
    return PLX_OK;
}

static plx_status read_bpe(plx_pretrained *self, const plx_place *place, json_t *model, json_t *vocab)
{
    json_t *merges = NULL, *dropout = json_object_get(model, "dropout");
    PLX_TRY(
        plx_field_known(place, model,
                        "type|dropout|unk_token|continuing_subword_prefix|end_of_word_suffix|fuse_unk|byte_fallback|"
                        "ignore_merges|vocab|merges"));
    if (dropout != NULL && !json_is_null(dropout) && (!json_is_number(dropout) || json_number_value(dropout) != 0))
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, "dropout", "is not supported: set it to null");
    PLX_TRY(refuse_string(place, model, "continuing_subword_prefix"));
    PLX_TRY(refuse_string(place, model, "end_of_word_suffix"));
    PLX_TRY(plx_field_bool(place, model, "fuse_unk", &self->fuse_unk));
    PLX_TRY(plx_field_bool(place, model, "byte_fallback", &self->byte_fallback));
    PLX_TRY(plx_field_bool(place, model, "ignore_merges", &self->ignore_merges));
    PLX_TRY(plx_field_list(place, model, "merges", &merges));
    if (merges == NULL) return plx_place_fail(place, PLX_ERROR_FORMAT, "merges", "is missing");
    PLX_TRY(read_unknown(self, place, model, false));
    return read_merges(self, place, vocab, merges);
}

static plx_status read_wordpiece(plx_pretrained *self, const plx_place *place, json_t *model)
{
    const char *prefix = "##";
    self->longest_word = 100;
    if (self->byte_level)
        return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, "type", "WordPiece with ByteLevel is not supported");
    PLX_TRY(plx_field_known(place, model, "type|unk_token|continuing_subword_prefix|max_input_chars_per_word|vocab"));
    PLX_TRY(plx_field_string(place, model, "continuing_subword_prefix", &prefix));
    PLX_TRY(plx_field_size(place, model, "max_input_chars_per_word", &self->longest_word));
    for (size_t id = 0; id < self->vocab.ids; id++)
        if (self->vocab.size[id] > WORDPIECE_MOST || strlen(prefix) > WORDPIECE_MOST / 2)
            return plx_place_fail(place, PLX_ERROR_UNSUPPORTED, "vocab", "token %zu is longer than %d bytes", id,
                                  WORDPIECE_MOST);
    if ((self->continuing_prefix = plx_strdup(self->context, prefix)) == NULL) return PLX_ERROR_MEMORY;
    return read_unknown(self, place, model, true);
}

plx_status plx_read_model(plx_pretrained *self, const plx_place *place, json_t *model, json_t *vocab,
                          const char **strings, size_t ids)
{
    plx_place inside = plx_place_in(place, ".vocab");
    PLX_TRY(read_strings(&inside, vocab, strings));
    /* Old files do not say the type: one with merges is BPE. */
    int type = json_object_get(model, "merges") != NULL ? PLX_MODEL_BPE : PLX_MODEL_WORDPIECE;
    PLX_TRY(plx_field_choice(place, model, "type", "BPE|WordPiece", &type));
    self->model = type;
    PLX_TRY(make_vocab(self, strings, ids));
    find_bytes(self);
    return type == PLX_MODEL_BPE ? read_bpe(self, place, model, vocab) : read_wordpiece(self, place, model);
}
