/* test_tokenizer.c - tokenizer.json against ids that the tokenizers package gave (tests/golden/make_tokenizers.py),
 * text in pieces against text at once, vocabularies as arrays, and files that are refused. */
#include "support/files.h"

#include "core/random.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"gpt2",  "llama3",    "qwen2", "smollm", "neox",
                                    "llama", "metaspace", "bert",  "parts",  "whitespace"};
enum { NAMES = sizeof names / sizeof names[0] };

static json_t *cases; /* cases.json */

static plx_tokenizer *open_golden(plx_context *context, const char *name)
{
    char path[128];
    plx_tokenizer *tokenizer;
    snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", name);
    expect_ok(context, plx_tokenizer_open(context, path, &tokenizer));
    return tokenizer;
}

static json_t *expected_of(const char *name, const char *key)
{
    json_t *value = json_object_get(json_object_get(json_object_get(cases, "expected"), name), key);
    assert_non_null(value);
    return value;
}

static int open_cases(void **state)
{
    (void)state;
    json_error_t error;
    cases = json_load_file("tests/golden/tokenizers/cases.json", JSON_ALLOW_NUL, &error);
    return cases == NULL;
}

static int close_cases(void **state)
{
    (void)state;
    json_decref(cases);
    return 0;
}

static void expect_ids(const char *name, size_t text, const int32_t *tokens, size_t count, json_t *ids)
{
    bool same = count == json_array_size(ids);
    size_t at = 0;
    while (same && at < count && tokens[at] == json_integer_value(json_array_get(ids, at))) at++;
    if (!same || at < count)
        fail_msg("%s, text %zu: %zu tokens, expected %zu; the first difference is at %zu", name, text, count,
                 json_array_size(ids), at);
}

static void test_golden_ids(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    for (size_t n = 0; n < NAMES; n++) {
        plx_tokenizer *tokenizer = open_golden(context, names[n]);
        for (size_t i = 0; i < json_array_size(json_object_get(cases, "texts")); i++) {
            json_t *text = json_array_get(json_object_get(cases, "texts"), i);
            json_t *decoded = json_array_get(expected_of(names[n], "decoded"), i);
            int32_t *tokens;
            char *back;
            size_t count, bytes;
            expect_ok(context, plx_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                                    &tokens, &count));
            expect_ids(names[n], i, tokens, count, json_array_get(expected_of(names[n], "ids"), i));
            expect_ok(context, plx_tokenizer_decode_text(tokenizer, tokens, count, &back, &bytes));
            /* What is no character alone is U+FFFD there and bytes here. */
            if (memmem(json_string_value(decoded), json_string_length(decoded), "\xEF\xBF\xBD", 3) == NULL &&
                (bytes != json_string_length(decoded) || memcmp(back, json_string_value(decoded), bytes) != 0))
                fail_msg("%s, text %zu: decoded '%s', expected '%s'", names[n], i, back, json_string_value(decoded));
            plx_text_free(tokenizer, back);
            plx_tokens_free(tokenizer, tokens);
        }
        plx_tokenizer_free(tokenizer);
    }
    plx_context_free(context);
}

/* The texts joined, again and again: long enough to be cut inside. Freed with free. */
static char *long_text(size_t *bytes)
{
    json_t *texts = json_object_get(cases, "texts"), *text;
    size_t i, used = 0, repeat = (size_t)json_integer_value(json_object_get(cases, "repeat"));
    char *made = malloc((size_t)1 << 20);
    assert_non_null(made);
    for (size_t round = 0; round < repeat; round++)
        for (int joint = 0; joint < 2; joint++) json_array_foreach(texts, i, text)
            {
                if (i > 0 || joint > 0) made[used++] = joint == 0 ? ' ' : '\n';
                memcpy(made + used, json_string_value(text), json_string_length(text));
                used += json_string_length(text);
                assert_true(used < ((size_t)1 << 20) - 4096);
            }
    *bytes = used;
    return made;
}

static void expect_long(const char *name, const int32_t *tokens, size_t count)
{
    char hex[20];
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < count; i++) hash = (hash ^ (uint32_t)tokens[i]) * 0x100000001B3u;
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash);
    if ((json_int_t)count != json_integer_value(expected_of(name, "long_count")))
        fail_msg("%s: %zu tokens of the long text, expected %d", name, count,
                 (int)json_integer_value(expected_of(name, "long_count")));
    assert_string_equal(hex, json_string_value(expected_of(name, "long_hash")));
}

/* The same tokens for a document at once and in pieces of any size. */
static void test_pieces(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    size_t bytes;
    char *text = long_text(&bytes);
    for (size_t n = 0; n < NAMES; n++) {
        plx_tokenizer *tokenizer = open_golden(context, names[n]);
        for (uint64_t round = 0; round < 4; round++) {
            plx_encoder encoder = plx_encoder_make(tokenizer);
            size_t most = round == 0 ? bytes : round == 1 ? 7 : round == 2 ? 400 : 30000;
            for (int document = 0; document < 2; document++) { /* an encoder starts anew after the last piece */
                plx_encoder_clear(&encoder);
                for (size_t at = 0, piece = 0; at < bytes; at += piece) {
                    uint32_t random[4];
                    plx_philox(round, at, 7, random);
                    piece = round == 0 ? bytes : 1 + random[0] % most;
                    if (piece > bytes - at) piece = bytes - at;
                    expect_ok(context, plx_encoder_feed(&encoder, text + at, piece, at + piece == bytes));
                }
                expect_long(names[n], encoder.tokens, encoder.count);
            }
            plx_encoder_release(&encoder);
        }
        plx_tokenizer_free(tokenizer);
    }
    free(text);
    plx_context_free(context);
}

/* Special tokens, and text that only looks like them. */
static void test_ids(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_tokenizer *tokenizer = open_golden(context, "llama3");
    char piece[PLX_TOKEN_BYTES_MOST];
    size_t bytes = sizeof piece;
    assert_int_equal(plx_tokenizer_find(tokenizer, "<|endoftext|>"), 0);
    assert_int_equal(plx_tokenizer_find(tokenizer, "<s>"), 1);
    assert_int_equal(plx_tokenizer_find(tokenizer, "no such"), -1);
    assert_int_equal(plx_tokenizer_before_text(tokenizer), 1);
    assert_int_equal(plx_tokenizer_bos(tokenizer), 1);
    assert_int_equal(plx_tokenizer_separator(tokenizer), 1);
    assert_int_equal(plx_tokenizer_eos(tokenizer), 0);
    expect_ok(context, plx_tokenizer_decode(tokenizer, 0, piece, &bytes)); /* a special one is no text */
    assert_int_equal(bytes, 0);
    bytes = sizeof piece;
    expect_error(context, PLX_ERROR_VALUE, "vocabulary", plx_tokenizer_decode(tokenizer, 100000, piece, &bytes));
    plx_encoder encoder = plx_encoder_make(tokenizer);
    expect_ok(context, plx_encoder_feed(&encoder, "<s>", 3, true));
    assert_int_equal(encoder.count, 1);
    encoder.plain = true;
    expect_ok(context, plx_encoder_feed(&encoder, "<s>", 3, true));
    assert_true(encoder.count > 2 && encoder.tokens[1] != 1);
    plx_encoder_release(&encoder);
    plx_tokenizer_free(tokenizer);
    plx_context_free(context);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    static const char text[] = "a\xFFz \xE4\xB8 b\xC3", same[] = "a\xEF\xBF\xBDz \xEF\xBF\xBD b\xEF\xBF\xBD";
    plx_context *context = test_context(1, NULL, NULL);
    plx_tokenizer *tokenizer = open_golden(context, "qwen2");
    int32_t *tokens, *expected;
    size_t count, expected_count;
    expect_ok(context, plx_tokenizer_encode(tokenizer, text, sizeof text - 1, &tokens, &count));
    expect_ok(context, plx_tokenizer_encode(tokenizer, same, sizeof same - 1, &expected, &expected_count));
    assert_int_equal(count, expected_count);
    assert_memory_equal(tokens, expected, count * sizeof *tokens);
    plx_tokens_free(tokenizer, tokens);
    plx_tokens_free(tokenizer, expected);
    plx_tokenizer_free(tokenizer);
    plx_context_free(context);
}

/* A tokenizer goes along with a model: what is saved opens as the same. */
static void test_saved(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_tokenizer *tokenizer = open_golden(context, "bert"), *again;
    char path[256];
    snprintf(path, sizeof path, "%s",
             test_file("tokenizer_config.json", "{\"eos_token\": {\"content\": \"[SEP]\"}}", 35));
    *strrchr(path, '/') = '\0';
    expect_ok(context, plx_tokenizer_save(tokenizer, path));
    expect_ok(context, plx_tokenizer_open(context, path, &again));
    assert_true(again->identity == tokenizer->identity);
    assert_int_equal(plx_tokenizer_eos(again), plx_tokenizer_find(again, "[SEP]"));
    plx_tokenizer_free(again);
    plx_tokenizer_free(tokenizer);
    plx_context_free(context);
}

/* ---- vocabularies as arrays ---- */

static json_t *load_golden(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", name);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    return root;
}

static void expect_arrays(const char *name, const char *model, const char *pre)
{
    plx_context *context = test_context(1, NULL, NULL);
    json_t *root = load_golden(name), *value, *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    size_t count = json_object_size(vocab), index;
    const char *tokens[1024], *joined[1024], *key;
    float scores[1024];
    int32_t types[1024];
    assert_true(count < 1024 && json_array_size(merges) < 1024);
    for (size_t i = 0; i < count; i++) scores[i] = 0, types[i] = PLX_TOKEN_NORMAL;
    json_object_foreach(vocab, key, value) tokens[json_integer_value(value)] = key;
    json_array_foreach(json_object_get(root, "added_tokens"), index, value)
        types[json_integer_value(json_object_get(value, "id"))] = PLX_TOKEN_CONTROL;
    for (size_t i = 0; i < count; i++)
        if (strlen(tokens[i]) == 6 && memcmp(tokens[i], "<0x", 3) == 0) types[i] = PLX_TOKEN_BYTE;
    json_array_foreach(merges, index, value) joined[index] = json_string_value(value);
    /* Trained in this order: a later token has a lower score. */
    for (size_t i = 0; i < count; i++) scores[i] = -(float)i;
    plx_token_arrays arrays = {.file = "test.gguf",
                               .model = model,
                               .pre = pre,
                               .count = count,
                               .tokens = tokens,
                               .scores = scores,
                               .types = types,
                               .merge_count = json_array_size(merges),
                               .merges = joined,
                               .bos = 1,
                               .eos = 2,
                               .unk = strcmp(model, "llama") == 0 ? 0 : -1,
                               .add_bos = -1,
                               .add_space_prefix = -1};
    plx_tokenizer *tokenizer;
    expect_ok(context, plx_tokenizer_from_arrays(context, &arrays, &tokenizer));
    assert_int_equal(plx_tokenizer_bos(tokenizer), 1);
    assert_int_equal(plx_tokenizer_before_text(tokenizer), strcmp(model, "llama") == 0 ? 1 : -1);
    json_array_foreach(json_object_get(cases, "texts"), index, value)
    {
        int32_t *ids;
        size_t made;
        if (strstr(json_string_value(value), "<") != NULL) continue; /* control tokens are not normalised here */
        expect_ok(context,
                  plx_tokenizer_encode(tokenizer, json_string_value(value), json_string_length(value), &ids, &made));
        expect_ids(name, index, ids, made, json_array_get(expected_of(name, "ids"), index));
        plx_tokens_free(tokenizer, ids);
    }
    plx_tokenizer_free(tokenizer);
    arrays.model = "rwkv";
    expect_error(context, PLX_ERROR_UNSUPPORTED, "test.gguf: tokenizer.ggml.model: 'rwkv'",
                 plx_tokenizer_from_arrays(context, &arrays, &tokenizer));
    arrays.model = "gpt2", arrays.pre = "nonesuch";
    expect_error(context, PLX_ERROR_UNSUPPORTED, "tokenizer.ggml.pre: 'nonesuch'",
                 plx_tokenizer_from_arrays(context, &arrays, &tokenizer));
    arrays.eos = (int64_t)count;
    expect_error(context, PLX_ERROR_FORMAT, "eos_token_id", plx_tokenizer_from_arrays(context, &arrays, &tokenizer));
    arrays.eos = -1, tokens[7] = tokens[8];
    expect_error(context, PLX_ERROR_FORMAT, "stands there twice",
                 plx_tokenizer_from_arrays(context, &arrays, &tokenizer));
    tokens[7] = "\xFF";
    expect_error(context, PLX_ERROR_FORMAT, "tokens[7]: not UTF-8",
                 plx_tokenizer_from_arrays(context, &arrays, &tokenizer));
    json_decref(root);
    plx_context_free(context);
}

static void test_arrays(void **state)
{
    (void)state;
    expect_arrays("smollm", "gpt2", "smollm");
    expect_arrays("qwen2", "gpt2", "qwen2");
    expect_arrays("llama", "llama", NULL);
}

/* ---- files that are refused ---- */

#define HEAD "{\"added_tokens\":[],"
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3}"
#define MODEL(rest) "\"model\":{\"type\":\"BPE\"," rest "}}"
#define GOOD MODEL(VOCAB ",\"merges\":[\"a b\"]")

static const struct refused {
    const char *text, *message;
    plx_status code;
} refused[] = {
    {"", "t.json:1:", PLX_ERROR_FORMAT},
    {"[]", "must be an object", PLX_ERROR_FORMAT},
    {"{}", "model: is missing", PLX_ERROR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\"}}", "model.vocab: is missing or empty", PLX_ERROR_FORMAT},
    {"{\"model\":7}", "model: must be an object", PLX_ERROR_FORMAT},
    {"{\"models\":{}," GOOD, "'models' is not known", PLX_ERROR_UNSUPPORTED},
    {"{\"model\":{\"type\":\"Unigram\"}}", "model.type: 'Unigram'", PLX_ERROR_UNSUPPORTED},
    {HEAD MODEL("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), "t.json:1: duplicate", PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), "model.vocab: 'a' and 'b' have the same id, 0",
     PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), "the id of 'a'", PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"a\":2147483648},\"merges\":[]"), "the id of 'a'", PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"a\":99999999999999999999},\"merges\":[]"), "too big integer", PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), "the id of 'a'", PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"\":0},\"merges\":[]"), "token 0 is empty", PLX_ERROR_FORMAT},
    {HEAD MODEL("\"vocab\":{\"a\\u0000\":0},\"merges\":[]"), "t.json:1:", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB), "model.merges: is missing", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[\"ab\"]"), "model.merges[0]: a merge must be two tokens", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[\"a b\",[\"a\"]]"), "model.merges[1]: a merge must be two tokens",
     PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[\"a b\",\"a b\"]"), "model.merges[1]: the same merge stands there twice",
     PLX_ERROR_FORMAT},
    /* A merge that gives one of its parts again would go in circles. */
    {HEAD MODEL(VOCAB ",\"merges\":[[\"\",\"a\"]]"), "model.merges[0]: a merge must be two tokens", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[[\"a\",\"b\"],[\"ab\",\"\"]]"), "model.merges[1]: a merge must be two tokens",
     PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[\"a x\"]"), "model.merges[0]: 'x' is not in model.vocab", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[\"b c\"]"), "model.merges[0]: 'bc' is not in model.vocab", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[],\"dropout\":0.1"), "model.dropout", PLX_ERROR_UNSUPPORTED},
    {HEAD MODEL(VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\""), "model.end_of_word_suffix: '</w>'",
     PLX_ERROR_UNSUPPORTED},
    {HEAD MODEL(VOCAB ",\"merges\":[],\"unk_token\":\"?\""), "model.unk_token: '?'", PLX_ERROR_FORMAT},
    {HEAD MODEL(VOCAB ",\"merges\":[],\"fuse_unk\":1"), "model.fuse_unk: must be true or false", PLX_ERROR_FORMAT},
    {"{\"model\":{\"type\":\"WordPiece\"," VOCAB "}}", "model.unk_token: is missing", PLX_ERROR_FORMAT},
    {"{\"normalizer\":{\"type\":\"Precompiled\"}," GOOD, "normalizer.type: 'Precompiled'", PLX_ERROR_UNSUPPORTED},
    {"{\"normalizer\":{\"type\":\"NFC\",\"more\":1}," GOOD, "normalizer: the key 'more'", PLX_ERROR_UNSUPPORTED},
    {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\"}]}," GOOD,
     "normalizer.normalizers[1].prepend: is missing", PLX_ERROR_FORMAT},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}," GOOD,
     "pre_tokenizer.pattern: not a regular expression", PLX_ERROR_FORMAT},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&[b]]\"},\"behavior\":\"Isolated\"}," GOOD,
     "operations on character classes", PLX_ERROR_UNSUPPORTED},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\"}," GOOD,
     "pre_tokenizer.pattern: must have either String or Regex", PLX_ERROR_FORMAT},
    {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," GOOD, "pre_tokenizer.type: 'UnicodeScripts'",
     PLX_ERROR_UNSUPPORTED},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}"
     "," GOOD,
     "pretokenizers[1]: a step after ByteLevel", PLX_ERROR_UNSUPPORTED},
    {"{\"decoder\":{\"type\":\"CTC\"}," GOOD, "decoder.type: 'CTC'", PLX_ERROR_UNSUPPORTED},
    {"{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":2,\"stop\":0}," GOOD,
     "decoder:", PLX_ERROR_UNSUPPORTED},
    {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
     "\"special_tokens\":{}}," GOOD,
     "post_processor.special_tokens: 'x'", PLX_ERROR_FORMAT},
    {"{\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",9]}," GOOD,
     "post_processor: id 9", PLX_ERROR_FORMAT},
    {"{\"added_tokens\":[{\"id\":2,\"content\":\"x\"}]," GOOD, "added_tokens[0].id: 2 belongs to 'ab'",
     PLX_ERROR_FORMAT},
    {"{\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]," GOOD, "added_tokens[0].id: 'a' is 7 here and 0",
     PLX_ERROR_FORMAT},
    {"{\"added_tokens\":[{\"content\":\"x\"}]," GOOD, "added_tokens[0]: the id of 'x'", PLX_ERROR_FORMAT},
    {"{\"added_tokens\":[{\"id\":4}]," GOOD, "added_tokens[0].content", PLX_ERROR_FORMAT},
};

static void test_refused(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_tokenizer *tokenizer;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const char *path = test_file("t.json", refused[i].text, strlen(refused[i].text));
        expect_error(context, refused[i].code, refused[i].message, plx_tokenizer_open(context, path, &tokenizer));
        assert_null(tokenizer);
    }
    expect_error(context, PLX_ERROR_VALUE, "unknown tokenizer 'words'",
                 plx_tokenizer_open(context, "words", &tokenizer));
    expect_error(context, PLX_ERROR_FILE, "no/such", plx_tokenizer_open(context, "no/such", &tokenizer));
    plx_context_free(context);
}

/* Nested deeper than any real file: refused, not a crash. */
static void test_deep(void **state)
{
    (void)state;
    static const char open[] = "{\"type\":\"Sequence\",\"normalizers\":[";
    plx_context *context = test_context(1, NULL, NULL);
    plx_tokenizer *tokenizer;
    for (size_t depth = 100; depth <= 100000; depth *= 1000) {
        char *text = malloc(depth * 40 + 200), *at = text;
        assert_non_null(text);
        at += sprintf(at, "{\"normalizer\":");
        for (size_t i = 0; i < depth; i++) at += sprintf(at, "%s", open);
        for (size_t i = 0; i < depth; i++) at += sprintf(at, "]}");
        at += sprintf(at, "," GOOD);
        const char *path = test_file("t.json", text, (size_t)(at - text));
        expect_error(context, PLX_ERROR_FORMAT, depth == 100 ? "nested too deeply" : "maximum parsing depth",
                     plx_tokenizer_open(context, path, &tokenizer));
        free(text);
    }
    plx_context_free(context);
}

/* A pattern that takes exponential time is an error of the text, and the tokenizer still works. */
static void test_exploding_pattern(void **state)
{
    (void)state;
    static const char file[] =
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+$|b\"},\"behavior\":"
        "\"Isolated\"}," GOOD;
    plx_context *context = test_context(1, NULL, NULL);
    plx_tokenizer *tokenizer;
    int32_t *tokens;
    size_t count;
    char text[64];
    expect_ok(context, plx_tokenizer_open(context, test_file("t.json", file, sizeof file - 1), &tokenizer));
    memset(text, 'a', sizeof text);
    text[63] = 'c';
    expect_error(context, PLX_ERROR_FORMAT, "t.json: pre_tokenizer.pattern: this expression takes more than",
                 plx_tokenizer_encode(tokenizer, text, sizeof text, &tokens, &count));
    expect_ok(context, plx_tokenizer_encode(tokenizer, "ab", 2, &tokens, &count));
    assert_int_equal(count, 2);
    plx_tokens_free(tokenizer, tokens);
    plx_tokenizer_free(tokenizer);
    plx_context_free(context);
}

/* A vocabulary made from text: the same twice, and one that reads back what it was made of. */
static void test_trained(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    size_t bytes, made = 0, count, length;
    char *text = long_text(&bytes), *first, *second, directory[2][256], *decoded;
    const char *path = test_file("train.txt", text, bytes);
    plx_tokenizer_options options = {.vocab_size = 500};
    for (int i = 0; i < 2; i++) {
        snprintf(directory[i], sizeof directory[i], "%s", test_path(i == 0 ? "first" : "second"));
        expect_ok(context, plx_tokenizer_train(context, &path, 1, &options, directory[i], &made));
        assert_int_equal(made, 500);
    }
    expect_error(context, PLX_ERROR_EXISTS, "there already",
                 plx_tokenizer_train(context, &path, 1, &options, directory[0], &made));
    first = test_read(test_path("first/tokenizer.json"), &count);
    second = test_read(test_path("second/tokenizer.json"), &length);
    assert_true(first != NULL && second != NULL && count == length && memcmp(first, second, count) == 0);
    free(first);
    free(second);
    /* a bos_token that begins messages is not what separates documents */
    plx_tokenizer *tokenizer;
    static const char settings[] = "{\"bos_token\": \"t\"}";
    test_file("first/tokenizer_config.json", settings, sizeof settings - 1);
    expect_ok(context, plx_tokenizer_open(context, directory[0], &tokenizer));
    assert_int_equal(plx_tokenizer_bos(tokenizer), plx_tokenizer_find(tokenizer, "t"));
    assert_int_equal(plx_tokenizer_separator(tokenizer), 0);
    plx_tokenizer_free(tokenizer);
    int32_t *tokens;
    static const char sample[] = "the tokens of the text, don't 12 \xC3\xA9\xE4\xB8\xAD";
    expect_ok(context, plx_tokenizer_open(context, directory[0], &tokenizer));
    assert_int_equal(plx_tokenizer_vocab_size(tokenizer), 500);
    assert_int_equal(plx_tokenizer_separator(tokenizer), 0);
    expect_ok(context, plx_tokenizer_encode(tokenizer, sample, sizeof sample - 1, &tokens, &count));
    assert_true(count < sizeof sample - 1);
    expect_ok(context, plx_tokenizer_decode_text(tokenizer, tokens, count, &decoded, &length));
    assert_string_equal(decoded, sample);
    plx_text_free(tokenizer, decoded);
    plx_tokens_free(tokenizer, tokens);
    plx_tokenizer_free(tokenizer);
    options.vocab_size = 100;
    expect_error(context, PLX_ERROR_VALUE, "a vocabulary of 100 tokens",
                 plx_tokenizer_train(context, &path, 1, &options, test_path("third"), &made));
    /* "aaaa": the most frequent pair, then the pair of those; nothing is left that stands there twice. */
    options.vocab_size = 300;
    path = test_file("a.txt", "aaaa aaaa aaaa", 14);
    expect_ok(context, plx_tokenizer_train(context, &path, 1, &options, test_path("third"), &made));
    assert_int_equal(made, 260);
    free(text);
    plx_context_free(context);
}

/* Every allocation that can fail does, once; nothing is lost and the error is said. */
static void test_memory(void **state)
{
    (void)state;
    static const char *const some[] = {"tests/golden/tokenizers/llama.json", "tests/golden/tokenizers/parts.json"};
    for (size_t n = 0; n < 2; n++)
        for (long fail = 1;; fail++) {
            test_allocator allocator = {.fail_at = fail, .once = true};
            plx_allocator allocation = test_allocation(&allocator);
            plx_context_options options = {.threads = 1, .allocator = allocation};
            plx_context *context;
            plx_tokenizer *tokenizer = NULL;
            int32_t *tokens = NULL;
            size_t count;
            if (plx_context_create(&options, &context) != PLX_OK) continue;
            plx_status status = plx_tokenizer_open(context, some[n], &tokenizer);
            if (status == PLX_OK) status = plx_tokenizer_encode(tokenizer, "a \xC3\xA9 1 b", 8, &tokens, &count);
            if (status == PLX_OK) plx_tokens_free(tokenizer, tokens);
            bool failed = allocator.calls >= fail;
            if (failed && status != PLX_OK) assert_int_equal(plx_context_error(context)->code, PLX_ERROR_MEMORY);
            plx_tokenizer_free(tokenizer);
            plx_context_free(context);
            assert_int_equal(allocator.held, 0);
            if (!failed) {
                assert_int_equal(status, PLX_OK);
                break;
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_ids),   cmocka_unit_test(test_pieces),  cmocka_unit_test(test_ids),
        cmocka_unit_test(test_invalid_utf8), cmocka_unit_test(test_saved),   cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_deep),    cmocka_unit_test(test_exploding_pattern),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_trained),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, open_cases, close_cases);
}
