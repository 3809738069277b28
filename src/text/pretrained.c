/* pretrained.c - opening a tokenizer.json: its parts, its added tokens, and what stands beside it in
 * tokenizer_config.json. */
#include "text/pretrained.h"

#include "core/random.h"
#include "io/files.h"

#include <stdlib.h>

#define END_OF_TEXT "<|endoftext|>"

#define FILE_MOST ((size_t)256 << 20)
#define CACHE_BITS 15

/* ---- added tokens ---- */

static plx_status read_added_token(const plx_place *place, json_t *object, plx_added_token *token)
{
    json_t *id = json_object_get(object, "id");
    size_t ids = 0;
    PLX_TRY(plx_field_known(place, object, "id|content|single_word|lstrip|rstrip|normalized|special"));
    PLX_TRY(plx_field_string(place, object, "content", &token->text));
    if (token->text == NULL || token->text[0] == '\0')
        return plx_place_fail(place, PLX_ERROR_FORMAT, "content", "must be a string that is not empty");
    PLX_TRY(plx_take_id(place, token->text, id, &ids));
    token->id = (int32_t)(ids - 1);
    PLX_TRY(plx_field_bool(place, object, "single_word", &token->single_word));
    PLX_TRY(plx_field_bool(place, object, "lstrip", &token->lstrip));
    PLX_TRY(plx_field_bool(place, object, "rstrip", &token->rstrip));
    PLX_TRY(plx_field_bool(place, object, "special", &token->special));
    token->normalized = !token->special;
    return plx_field_bool(place, object, "normalized", &token->normalized);
}

static plx_status read_added(plx_pretrained *self, const plx_place *top, json_t *list, size_t *ids)
{
    json_t *item;
    size_t index;
    size_t count = json_array_size(list);
    if (count == 0) return PLX_OK;
    self->added = plx_alloc_array(self->context, count, sizeof *self->added);
    if (self->added == NULL) return PLX_ERROR_MEMORY;
    json_array_foreach(list, index, item)
    {
        plx_place place = plx_place_in(top, ".added_tokens[%zu]", index);
        plx_added_token token = {0};
        PLX_TRY(read_added_token(&place, item, &token));
        if ((size_t)token.id >= *ids) *ids = (size_t)token.id + 1;
        if ((token.text = plx_strdup(self->context, token.text)) == NULL) return PLX_ERROR_MEMORY;
        self->added[self->added_count++] = token;
    }
    return PLX_OK;
}

/* Checks the added tokens' ids against the vocabulary's, and gives each its string. */
static plx_status place_added(plx_pretrained *self, const plx_place *top, json_t *vocab, const char **strings)
{
    for (size_t i = 0; i < self->added_count; i++) {
        const plx_added_token *token = &self->added[i];
        plx_place place = plx_place_in(top, ".added_tokens[%zu]", i);
        json_t *given = json_object_get(vocab, token->text);
        if (given != NULL && json_integer_value(given) != token->id)
            return plx_place_fail(&place, PLX_ERROR_FORMAT, "id", "'%.60s' is %d here and %d in model.vocab",
                                  token->text, (int)token->id, (int)json_integer_value(given));
        if (strings[token->id] != NULL && strcmp(strings[token->id], token->text) != 0)
            return plx_place_fail(&place, PLX_ERROR_FORMAT, "id", "%d belongs to '%.60s' already", (int)token->id,
                                  strings[token->id]);
        strings[token->id] = token->text;
    }
    return PLX_OK;
}

/* A token that is found in normalised text also decodes to its normalised form. */
static plx_status make_added_sets(plx_pretrained *self, const char **strings)
{
    for (size_t i = 0; i < self->added_count; i++) {
        plx_added_token *token = &self->added[i];
        plx_added_set *set = token->normalized ? &self->normalised : &self->as_written;
        plx_text text = {token->text, strlen(token->text)};
        if (token->normalized)
            PLX_TRY(plx_normalize(self->context, self->normalizers, self->normalizer_count, text, false, self->normal,
                                  &text));
        PLX_TRY(plx_added_set_put(self->context, set, text.bytes, text.count, (int32_t)i));
        if (!token->normalized || text.count == 0) continue;
        token->normal = plx_format(self->context, "%.*s", (int)text.count, text.bytes);
        if (token->normal == NULL) return PLX_ERROR_MEMORY;
        strings[token->id] = token->normal;
    }
    return PLX_OK;
}

/* ---- the file ---- */

static plx_status read_root(plx_pretrained *self, const plx_place *top, json_t *root)
{
    plx_context *context = self->context;
    json_t *added = NULL, *model = NULL, *vocab = NULL, *value;
    const char *key;
    size_t ids = 0;
    PLX_TRY(plx_field_known(top, root,
                            "version|truncation|padding|added_tokens|normalizer|pre_tokenizer|post_processor|decoder|"
                            "model"));
    PLX_TRY(plx_field_list(top, root, "added_tokens", &added));
    PLX_TRY(plx_field_object(top, root, "model", &model));
    if (model == NULL) return plx_place_fail(top, PLX_ERROR_FORMAT, "model", "is missing");
    plx_place place = plx_place_in(top, ".model"), inside = plx_place_in(&place, ".vocab");
    int type;
    PLX_TRY(plx_field_choice(&place, model, "type", "BPE|WordPiece", &type));
    PLX_TRY(plx_field_object(&place, model, "vocab", &vocab));
    if (json_object_size(vocab) == 0) return plx_place_fail(&inside, PLX_ERROR_FORMAT, NULL, "is missing or empty");
    json_object_foreach(vocab, key, value) PLX_TRY(plx_take_id(&inside, key, value, &ids));

    plx_place step = plx_place_in(top, ".normalizer");
    PLX_TRY(plx_read_normalizer(self, &step, json_object_get(root, "normalizer")));
    step = plx_place_in(top, ".pre_tokenizer");
    PLX_TRY(plx_read_splitter(self, &step, json_object_get(root, "pre_tokenizer")));
    step = plx_place_in(top, ".post_processor");
    PLX_TRY(plx_read_post_processor(self, &step, json_object_get(root, "post_processor")));

    size_t model_ids = ids;
    PLX_TRY(read_added(self, top, added, &ids));
    const char **strings = plx_alloc_array(context, ids, sizeof *strings);
    if (strings == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_read_model(self, &place, model, vocab, strings, model_ids);
    if (status == PLX_OK) status = place_added(self, top, vocab, strings);
    if (status == PLX_OK) status = make_added_sets(self, strings);
    if (status == PLX_OK) status = plx_vocab_open(context, ids, self->vocab.used * 2, &self->decoded);
    if (status == PLX_OK) status = plx_read_decoder(self, top, json_object_get(root, "decoder"), strings);
    plx_free(context, strings);
    if (status != PLX_OK) return status;
    plx_pretrained_find_cuts(self);
    self->cache_bits = CACHE_BITS;
    self->cache = plx_alloc_array(context, (size_t)1 << CACHE_BITS, sizeof *self->cache);
    return self->cache != NULL ? PLX_OK : PLX_ERROR_MEMORY;
}

int32_t plx_pretrained_id(const plx_pretrained *self, const char *text, size_t bytes)
{
    for (size_t i = 0; i < self->added_count; i++)
        if (strlen(self->added[i].text) == bytes && memcmp(self->added[i].text, text, bytes) == 0)
            return self->added[i].id;
    return plx_vocab_find(&self->vocab, text, bytes);
}

/* The id of the token that tokenizer_config.json names: a string, or an object with one. */
static int32_t named_token(const plx_pretrained *self, json_t *config, const char *key)
{
    json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_is_string(value) ? plx_pretrained_id(self, json_string_value(value), json_string_length(value)) : -1;
}

/* chat_template: a string, or a list of them with names, of which "default" counts. */
static plx_status take_chat_template(plx_pretrained *self, json_t *config)
{
    json_t *value = json_object_get(config, "chat_template"), *item;
    size_t index;
    if (json_is_array(value)) {
        json_t *list = value;
        value = NULL;
        json_array_foreach(list, index, item)
        {
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name != NULL && strcmp(name, "default") == 0) value = json_object_get(item, "template");
        }
    }
    if (!json_is_string(value)) return PLX_OK;
    self->chat_template = plx_strdup(self->context, json_string_value(value));
    return self->chat_template != NULL ? PLX_OK : PLX_ERROR_MEMORY;
}

static int32_t common_token(const plx_pretrained *self)
{
    static const char *const names[] = {END_OF_TEXT, "<|begin_of_text|>", "<s>", "</s>"};
    int32_t found = -1;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && found < 0; i++)
        found = plx_pretrained_id(self, names[i], strlen(names[i]));
    return found;
}

/* The token between documents. bos_token comes last but for guesses: models tuned for conversations have the beginning of
 * a message there. */
static int32_t separating_token(const plx_pretrained *self, int32_t bos, int32_t eos)
{
    const int32_t common = common_token(self), end = plx_pretrained_id(self, END_OF_TEXT, strlen(END_OF_TEXT));
    const int32_t choices[] = {self->template_first, end, bos, common, eos};
    size_t i = 0;
    while (i + 1 < sizeof choices / sizeof choices[0] && choices[i] < 0) i++;
    return choices[i];
}

static plx_status finish(plx_tokenizer *tokenizer, plx_pretrained *self, json_t *config)
{
    tokenizer->vocab_size = self->decoded.ids;
    const int32_t ends[] = {self->template_first, self->template_last};
    for (size_t i = 0; i < 2; i++)
        if (ends[i] >= (int32_t)tokenizer->vocab_size)
            return plx_fail(self->context, PLX_ERROR_FORMAT,
                            "%s: post_processor: id %d is not in the vocabulary of %zu", self->file, (int)ends[i],
                            tokenizer->vocab_size);
    tokenizer->bos = self->template_first >= 0 ? self->template_first : named_token(self, config, "bos_token");
    tokenizer->eos = named_token(self, config, "eos_token");
    int32_t common = common_token(self);
    tokenizer->separator = separating_token(self, tokenizer->bos, tokenizer->eos);
    if (tokenizer->eos < 0) tokenizer->eos = self->template_last >= 0 ? self->template_last : common;
    tokenizer->before_text = self->template_first;
    PLX_TRY(take_chat_template(self, config));
    tokenizer->identity = PLX_HASH_START;
    for (size_t i = 0; i < self->json_bytes; i++)
        tokenizer->identity = plx_hash_add(tokenizer->identity, (unsigned char)self->json[i]);
    return PLX_OK;
}

static plx_status parse(plx_context *context, const char *file, const char *text, size_t bytes, size_t flags,
                        json_t **root)
{
    json_error_t error;
    const size_t mark = plx_byte_order_mark(text, bytes);
    *root = json_loadb(text + mark, bytes - mark, JSON_REJECT_DUPLICATES | flags, &error);
    if (*root != NULL) return PLX_OK;
    bool memory = json_error_code(&error) == json_error_out_of_memory;
    return plx_fail(context, memory ? PLX_ERROR_MEMORY : PLX_ERROR_FORMAT, "%s:%d: %s", file, error.line, error.text);
}

plx_status plx_pretrained_read(plx_tokenizer *tokenizer, const char *file, char *json, size_t bytes, char *config,
                               size_t config_bytes)
{
    plx_pretrained *self = tokenizer->state;
    plx_context *context = tokenizer->context;
    json_t *root = NULL, *settings = NULL;
    *self = (plx_pretrained){.context = context,
                             .json = json,
                             .json_bytes = bytes,
                             .config = config,
                             .config_bytes = config_bytes,
                             .unk = -1,
                             .template_first = -1,
                             .template_last = -1};
    plx_place top = {.context = context, .file = file};
    if ((self->file = plx_strdup(context, file)) == NULL) return PLX_ERROR_MEMORY;
    plx_status status = parse(context, file, json, bytes, 0, &root);
    if (status == PLX_OK) status = read_root(self, &top, root);
    if (status == PLX_OK && config != NULL) /* model_max_length may be 10^30 */
        status = parse(context, "tokenizer_config.json", config, config_bytes, JSON_DECODE_INT_AS_REAL, &settings);
    if (status == PLX_OK) status = finish(tokenizer, self, settings);
    json_decref(root);
    json_decref(settings);
    return status;
}

static plx_status pretrained_open(plx_tokenizer *tokenizer, const char *name)
{
    plx_context *context = tokenizer->context;
    size_t length = strlen(name), bytes = 0, config_bytes = 0;
    bool named = length > 5 && strcmp(name + length - 5, ".json") == 0;
    const char *slash = strrchr(name, '/');
    char *file = named ? plx_strdup(context, name) : plx_format(context, "%s/tokenizer.json", name), *json = NULL,
         *config = NULL;
    char *beside = !named          ? plx_format(context, "%s/tokenizer_config.json", name)
                   : slash != NULL ? plx_format(context, "%.*s/tokenizer_config.json", (int)(slash - name), name)
                                   : plx_strdup(context, "tokenizer_config.json");
    plx_status status =
        file != NULL && beside != NULL ? plx_file_read(context, file, FILE_MOST, &json, &bytes) : PLX_ERROR_MEMORY;
    if (status == PLX_OK && plx_file_exists(beside)) {
        status = plx_file_read(context, beside, FILE_MOST, &config, &config_bytes);
        if (status != PLX_OK) plx_free(context, json);
    }
    if (status == PLX_OK) status = plx_pretrained_read(tokenizer, file, json, bytes, config, config_bytes);
    plx_free(context, file);
    plx_free(context, beside);
    return status;
}

static void pretrained_close(plx_tokenizer *tokenizer)
{
    plx_pretrained *self = tokenizer->state;
    plx_context *context = tokenizer->context;
    for (size_t i = 0; i < self->normalizer_count; i++) {
        plx_regex_close(self->normalizers[i].pattern);
        plx_free(context, self->normalizers[i].text);
    }
    for (size_t i = 0; i < self->splitter_count; i++) plx_regex_close(self->splitters[i].pattern);
    for (size_t i = 0; i < self->added_count; i++) {
        plx_free(context, (char *)self->added[i].text);
        plx_free(context, self->added[i].normal);
    }
    plx_vocab_close(&self->vocab);
    plx_vocab_close(&self->decoded);
    void *const held[] = {self->file,
                          self->json,
                          self->config,
                          self->added,
                          self->as_written.nodes,
                          self->normalised.nodes,
                          self->merges.slots,
                          self->continuing_prefix,
                          self->cache,
                          self->chat_template,
                          self->utf8.bytes,
                          self->normal[0].bytes,
                          self->normal[1].bytes,
                          self->splitted[0].bytes,
                          self->splitted[1].bytes,
                          self->spans[0].items,
                          self->spans[1].items,
                          self->next,
                          self->previous,
                          self->rank,
                          self->heap};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++) plx_free(context, held[i]);
}

static plx_status pretrained_save(const plx_tokenizer *tokenizer, const char *directory)
{
    const plx_pretrained *self = tokenizer->state;
    const struct {
        const char *name, *text;
        size_t bytes;
    } files[] = {{"tokenizer.json", self->json, self->json_bytes},
                 {"tokenizer_config.json", self->config, self->config_bytes}};
    plx_status status = PLX_OK;
    for (size_t i = 0; i < 2 && status == PLX_OK; i++) {
        if (files[i].text == NULL) continue;
        char *path = plx_format(self->context, "%s/%s", directory, files[i].name);
        status = path != NULL ? plx_file_write(self->context, path, files[i].text, files[i].bytes) : PLX_ERROR_MEMORY;
        plx_free(self->context, path);
    }
    return status;
}

static int32_t find_id(const plx_tokenizer *tokenizer, const char *text, size_t bytes)
{
    return plx_pretrained_id(tokenizer->state, text, bytes);
}

static const char *chat_template(const plx_tokenizer *tokenizer)
{
    const plx_pretrained *self = tokenizer->state;
    return self->chat_template;
}

const plx_tokenizer_kind plx_tokenizer_pretrained = {
    .name = "tokenizer.json",
    .state_size = sizeof(plx_pretrained),
    .open = pretrained_open,
    .close = pretrained_close,
    .encode = plx_pretrained_encode,
    .decode = plx_pretrained_decode,
    .find = find_id,
    .chat_template = chat_template,
    .save = pretrained_save,
};
