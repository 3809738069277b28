/* arrays.c - the tokenizer inside a GGUF file: its arrays become a tokenizer.json, which is then opened as any other,
 * and goes along when the model is saved. */
#include "text/pretrained.h"

#include <stdlib.h>

extern const plx_tokenizer_kind plx_tokenizer_pretrained;

#define SPLIT(pattern)                                                                                                 \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTES(regex) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":" regex "}"
#define SEQUENCE(first, second) "{\"type\":\"Sequence\",\"pretokenizers\":[" first "," second "]}"
#define WORDS(numbers)                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" numbers                                    \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

/* tokenizer.ggml.pre and the pre_tokenizer, normalizer and ignore_merges that it stands for. */
static const struct pre {
    const char *names, *splitter, *normalizer;
    bool ignore_merges;
} pres[] = {
    {"gpt-2|gpt2|default|olmo", BYTES("true"), "null", false},
    {"llama-bpe|llama3|llama-v3", SEQUENCE(SPLIT(WORDS("\\\\p{N}{1,3}")), BYTES("false")), "null", true},
    {"qwen2|deepseek-r1-qwen", SEQUENCE(SPLIT(WORDS("\\\\p{N}")), BYTES("false")), "{\"type\":\"NFC\"}", false},
    {"smollm", SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}", BYTES("true")), "null", false},
};

static plx_status array_fail(plx_context *context, const plx_token_arrays *arrays, plx_status code, const char *key,
                             const char *text)
{
    return plx_fail(context, code, "%s: tokenizer.ggml.%s: %s", arrays->file, key, text);
}

static bool is_named(const char *names, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = names; *at != '\0'; at += strcspn(at, "|"), at += *at == '|')
        if (strcspn(at, "|") == length && memcmp(at, name, length) == 0) return true;
    return false;
}

static plx_status check(plx_context *context, const plx_token_arrays *arrays)
{
    const int64_t ids[] = {arrays->bos, arrays->eos, arrays->unk};
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "unknown_token_id"};
    if (arrays->count == 0 || arrays->count > PLX_VOCAB_MOST)
        return array_fail(context, arrays, PLX_ERROR_FORMAT, "tokens", "must be a list of 1 to 4194304");
    for (size_t i = 0; i < 3; i++)
        if (ids[i] < -1 || ids[i] >= (int64_t)arrays->count)
            return array_fail(context, arrays, PLX_ERROR_FORMAT, keys[i], "is not in the vocabulary");
    return PLX_OK;
}

static bool is_special(const plx_token_arrays *arrays, size_t id)
{
    return arrays->types != NULL && (arrays->types[id] == PLX_TOKEN_CONTROL || arrays->types[id] == PLX_TOKEN_UNKNOWN);
}

static bool is_added(const plx_token_arrays *arrays, size_t id)
{
    return is_special(arrays, id) || (arrays->types != NULL && arrays->types[id] == PLX_TOKEN_USER_DEFINED);
}

/* The vocabulary as an object, added tokens included. */
static plx_status make_vocab(plx_context *context, const plx_token_arrays *arrays, json_t *vocab, json_t *added)
{
    for (size_t id = 0; id < arrays->count; id++) {
        const char *text = arrays->tokens[id];
        if (arrays->types != NULL && arrays->types[id] == PLX_TOKEN_UNUSED) continue;
        if (json_object_get(vocab, text) != NULL)
            return plx_fail(context, PLX_ERROR_FORMAT, "%s: tokenizer.ggml.tokens: '%.60s' stands there twice",
                            arrays->file, text);
        if (json_object_set_new(vocab, text, json_integer((json_int_t)id)) != 0)
            return plx_fail(context, PLX_ERROR_FORMAT, "%s: tokenizer.ggml.tokens[%zu]: not UTF-8", arrays->file, id);
        if (!is_added(arrays, id)) continue;
        json_t *token = json_pack("{s:I,s:s,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)id, "content", text, "single_word",
                                  0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", is_special(arrays, id));
        if (json_array_append_new(added, token) != 0)
            return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the tokens of %s", arrays->file);
    }
    return PLX_OK;
}

/* ---- merges out of scores ---- */

typedef struct scored {
    float score;
    uint32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *left = a, *right = b;
    if (left->score != right->score) return left->score > right->score ? -1 : 1;
    return left->id < right->id ? -1 : 1;
}

typedef struct cut {
    json_int_t left, right;
    size_t at;
} cut;

static int by_ids(const void *a, const void *b)
{
    const cut *first = a, *second = b;
    if (first->left != second->left) return first->left < second->left ? -1 : 1;
    return first->right < second->right ? -1 : first->right > second->right;
}

/* Every way to cut a token into two, by their ids. */
static plx_status merges_of_token(plx_context *context, const plx_token_arrays *arrays, const char *text, json_t *vocab,
                                  json_t *merges)
{
    cut cuts[PLX_TOKEN_BYTES_MOST];
    size_t length = strlen(text), count = 0;
    for (size_t at = 1; at < length && length <= PLX_TOKEN_BYTES_MOST; at++) {
        if (((unsigned char)text[at] & 0xC0) == 0x80) continue;
        json_t *left = json_object_getn(vocab, text, at), *right = json_object_getn(vocab, text + at, length - at);
        if (left != NULL && right != NULL)
            cuts[count++] = (cut){json_integer_value(left), json_integer_value(right), at};
    }
    qsort(cuts, count, sizeof *cuts, by_ids);
    for (size_t i = 0; i < count; i++)
        if (json_array_append_new(merges, json_pack("[s%s]", text, (int)cuts[i].at, text + cuts[i].at)) != 0)
            return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the merges of %s", arrays->file);
    return PLX_OK;
}

/* SentencePiece joins the neighbours that make the token with the highest score: every way to cut a token into two is a
 * merge, in the order of the scores. */
static plx_status merges_of_scores(plx_context *context, const plx_token_arrays *arrays, json_t *vocab, json_t *merges)
{
    scored *order = plx_alloc_array(context, arrays->count, sizeof *order);
    if (order == NULL) return PLX_ERROR_MEMORY;
    plx_status status = PLX_OK;
    size_t count = 0;
    for (size_t id = 0; id < arrays->count; id++)
        if (arrays->types == NULL || arrays->types[id] == PLX_TOKEN_NORMAL)
            order[count++] = (scored){arrays->scores[id] == arrays->scores[id] ? arrays->scores[id] : 0, (uint32_t)id};
    qsort(order, count, sizeof *order, by_score);
    for (size_t i = 0; i < count && status == PLX_OK; i++)
        status = merges_of_token(context, arrays, arrays->tokens[order[i].id], vocab, merges);
    plx_free(context, order);
    return status;
}

/* ---- the two kinds ---- */

static plx_status make_byte_level(plx_context *context, const plx_token_arrays *arrays, json_t *root, json_t *model,
                                  json_t *merges)
{
    const struct pre *pre = NULL;
    for (size_t i = 0; i < sizeof pres / sizeof pres[0]; i++)
        if (is_named(pres[i].names, arrays->pre != NULL ? arrays->pre : "default")) pre = &pres[i];
    if (pre == NULL)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "%s: tokenizer.ggml.pre: '%.60s' is not supported; there are: gpt-2, llama-bpe, qwen2, smollm",
                        arrays->file, arrays->pre);
    if (arrays->merge_count == 0) return array_fail(context, arrays, PLX_ERROR_FORMAT, "merges", "is missing");
    for (size_t i = 0; i < arrays->merge_count; i++)
        if (json_array_append_new(merges, json_string(arrays->merges[i])) != 0)
            return array_fail(context, arrays, PLX_ERROR_FORMAT, "merges", "has a string that is not UTF-8");
    json_object_set_new(root, "normalizer", json_loads(pre->normalizer, JSON_DECODE_ANY, NULL));
    json_object_set_new(root, "pre_tokenizer", json_loads(pre->splitter, 0, NULL));
    json_object_set_new(root, "decoder", json_loads(BYTES("true"), 0, NULL));
    json_object_set_new(model, "ignore_merges", json_boolean(pre->ignore_merges));
    return PLX_OK;
}

static plx_status make_sentencepiece(plx_context *context, const plx_token_arrays *arrays, json_t *root, json_t *model,
                                     json_t *vocab, json_t *merges)
{
    static const char prefixed[] =
        "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]}";
    static const char plain[] = "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}";
    static const char decoder[] =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":"
        "\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}";
    static const char decoder_plain[] =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}";
    bool prefix = arrays->add_space_prefix != 0;
    if (arrays->scores == NULL) return array_fail(context, arrays, PLX_ERROR_FORMAT, "scores", "is missing");
    PLX_TRY(merges_of_scores(context, arrays, vocab, merges));
    json_object_set_new(root, "normalizer", json_loads(prefix ? prefixed : plain, 0, NULL));
    json_object_set_new(root, "decoder", json_loads(prefix ? decoder : decoder_plain, 0, NULL));
    json_object_set_new(model, "byte_fallback", json_true());
    json_object_set_new(model, "fuse_unk", json_true());
    if (arrays->unk >= 0) json_object_set_new(model, "unk_token", json_string(arrays->tokens[arrays->unk]));
    return PLX_OK;
}

/* post_processor: the token before every text. */
static json_t *make_template(const char *name, int64_t id)
{
    return json_pack("{s:s,s:[{s:{s:s,s:i}},{s:{s:s,s:i}}],s:[],s:{s:{s:s,s:[I],s:[s]}}}", "type", "TemplateProcessing",
                     "single", "SpecialToken", "id", name, "type_id", 0, "Sequence", "id", "A", "type_id", 0, "pair",
                     "special_tokens", name, "id", name, "ids", (json_int_t)id, "tokens", name);
}

static plx_status fill(plx_context *context, const plx_token_arrays *arrays, json_t *root)
{
    json_t *model = json_object(), *vocab = json_object(), *merges = json_array(), *added = json_array();
    json_object_set_new(root, "version", json_string("1.0"));
    json_object_set_new(root, "added_tokens", added);
    json_object_set_new(root, "model", model);
    json_object_set_new(model, "type", json_string("BPE"));
    json_object_set_new(model, "vocab", vocab);
    json_object_set_new(model, "merges", merges);
    PLX_TRY(check(context, arrays));
    PLX_TRY(make_vocab(context, arrays, vocab, added));
    bool sentencepiece = arrays->model != NULL && strcmp(arrays->model, "llama") == 0;
    if (!sentencepiece && (arrays->model == NULL || strcmp(arrays->model, "gpt2") != 0))
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "%s: tokenizer.ggml.model: '%.60s' is not supported; there are: gpt2, llama", arrays->file,
                        arrays->model != NULL ? arrays->model : "");
    if (sentencepiece)
        PLX_TRY(make_sentencepiece(context, arrays, root, model, vocab, merges));
    else
        PLX_TRY(make_byte_level(context, arrays, root, model, merges));
    bool before = arrays->add_bos == 1 || (arrays->add_bos < 0 && sentencepiece);
    if (before && arrays->bos >= 0)
        json_object_set_new(root, "post_processor", make_template(arrays->tokens[arrays->bos], arrays->bos));
    return PLX_OK;
}

/* An object's JSON text in the context's memory. */
static plx_status dump(plx_context *context, json_t *object, char **text, size_t *bytes)
{
    char *made = json_dumps(object, JSON_COMPACT);
    *bytes = made != NULL ? strlen(made) : 0;
    *text = made != NULL ? plx_strdup(context, made) : NULL;
    free(made);
    return *text != NULL ? PLX_OK : plx_fail(context, PLX_ERROR_MEMORY, "no memory left for a tokenizer");
}

plx_status plx_tokenizer_from_arrays(plx_context *context, const plx_token_arrays *arrays, plx_tokenizer **tokenizer)
{
    char *json = NULL, *config = NULL;
    size_t bytes = 0, config_bytes = 0;
    plx_tokenizer *made = NULL;
    json_t *root = json_object(), *settings = json_object();
    *tokenizer = NULL;
    plx_status status = root != NULL && settings != NULL ? fill(context, arrays, root) : PLX_ERROR_MEMORY;
    if (status == PLX_OK) {
        if (arrays->bos >= 0) json_object_set_new(settings, "bos_token", json_string(arrays->tokens[arrays->bos]));
        if (arrays->eos >= 0) json_object_set_new(settings, "eos_token", json_string(arrays->tokens[arrays->eos]));
        if (arrays->chat_template != NULL)
            json_object_set_new(settings, "chat_template", json_string(arrays->chat_template));
        status = dump(context, root, &json, &bytes);
        if (status == PLX_OK) status = dump(context, settings, &config, &config_bytes);
    }
    json_decref(root);
    json_decref(settings);
    if (status == PLX_OK) status = plx_tokenizer_make(context, &plx_tokenizer_pretrained, &made);
    if (status == PLX_OK) {
        status = plx_pretrained_read(made, arrays->file, json, bytes, config, config_bytes);
        json = config = NULL;
    }
    plx_free(context, json);
    plx_free(context, config);
    if (status == PLX_OK)
        *tokenizer = made;
    else
        plx_tokenizer_free(made);
    return status;
}
