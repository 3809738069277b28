/* test_data.c - tokenizers, the data section, token files, windows. The tasks are in test_tasks.c. */
#include "support/files.h"

#include "core/random.h"
#include "data/corpus.h"
#include "data/data.h"
#include "io/files.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEPARATOR 256

/* ---- tokenizers ---- */

static void test_tokenizer_bytes(void **state)
{
    (void)state;
    plx_tokenizer *tokenizer;
    char text[256], back[4];
    int32_t *tokens;
    size_t count, bytes;
    for (int i = 0; i < 256; i++) text[i] = (char)i;
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    assert_int_equal(plx_tokenizer_vocab_size(tokenizer), 257);
    assert_int_equal(plx_tokenizer_separator(tokenizer), SEPARATOR);
    expect_ok(context, plx_tokenizer_encode(tokenizer, text, 256, &tokens, &count));
    assert_int_equal(count, 256);
    for (int i = 0; i < 256; i++) {
        assert_int_equal(tokens[i], i);
        bytes = sizeof back;
        expect_ok(context, plx_tokenizer_decode(tokenizer, tokens[i], back, &bytes));
        assert_true(bytes == 1 && back[0] == text[i]);
    }
    plx_tokens_free(tokenizer, tokens);
    expect_ok(context, plx_tokenizer_encode(tokenizer, "", 0, &tokens, &count));
    assert_true(tokens != NULL && count == 0);
    plx_tokens_free(tokenizer, tokens);
    bytes = 0;
    expect_ok(context, plx_tokenizer_decode(tokenizer, SEPARATOR, back, &bytes));
    assert_int_equal(bytes, 0);
    expect_error(context, PLX_ERROR_VALUE, "has 1 bytes", plx_tokenizer_decode(tokenizer, 65, back, &bytes));
    expect_error(context, PLX_ERROR_VALUE, "vocabulary", plx_tokenizer_decode(tokenizer, 257, back, &bytes));
    expect_error(context, PLX_ERROR_VALUE, "vocabulary", plx_tokenizer_decode(tokenizer, -1, back, &bytes));
    plx_tokenizer_free(tokenizer);
    expect_error(context, PLX_ERROR_VALUE, "'words'", plx_tokenizer_open(context, "words", &tokenizer));
    assert_null(tokenizer);
}

/* ---- the section ---- */

static plx_node *parse(const char *yaml)
{
    plx_node *node;
    expect_ok(context, plx_node_parse_yaml(context, "r.yaml", yaml, strlen(yaml), &node));
    return node;
}

static plx_status describe(const char *yaml, plx_data_description *about)
{
    plx_node *node = parse(yaml);
    plx_status status = plx_data_describe(context, node, about);
    plx_node_free(context, node);
    return status;
}

static void test_section(void **state)
{
    (void)state;
    plx_data_description about;
    expect_ok(context, describe("train: a.txt", &about));
    assert_true(about.vocab_size == 257 && about.sequence_length == 256 && !about.task && about.separator == SEPARATOR);
    assert_string_equal(about.tokenizer, "bytes");
    expect_ok(
        context,
        describe("{train: [a, b], valid: [], valid_fraction: 0.05, tokenizer: bytes, sequence_length: 64}", &about));
    assert_int_equal(about.sequence_length, 64);
    expect_ok(
        context,
        describe("{train: [a], valid: v.txt, valid_fraction: 0, text_field: body, document_separator: '--'}", &about));
    expect_ok(context, describe("{task: mqar, keys: 32, values: 8, pairs: 4, queries: 3, valid_rows: 7}", &about));
    assert_true(about.vocab_size == 40 && about.sequence_length == 14 && about.task && about.separator == -1);
    assert_true(about.chance == 0.125 && about.tokenizer[0] == '\0');

    static const struct {
        const char *yaml, *message;
    } bad[] = {
        {"valid: [a]", "data.train: name at least one text file"},
        {"train: []", "name at least one"},
        {"train: 7", "r.yaml:1: data.train: must be a file's name"},
        {"train: ['']", "must be a file's name"},
        {"train: [a, [b]]", "must be a file's name"},
        {"train: {a: b}", "must be a file's name"},
        {"train: a\ntokenizer: words", "r.yaml:2: data.tokenizer: unknown tokenizer 'words'"},
        {"train: a\nsequence_lenght: 8", "did you mean 'sequence_length'"},
        {"train: a\nsequence_length: 0", "r.yaml:2: data.sequence_length"},
        {"train: a\nvalid_fraction: 1", "data.valid_fraction"},
        {"train: a\nvalid_fraction: -0.1", "data.valid_fraction"},
        {"train: a\nvalid: b\nvalid_fraction: 0.1", "r.yaml:3: data.valid_fraction: the valid files are held out"},
        {"train: a\ndocument_separator: ''", "data.document_separator"},
        {"train: a\ndocument_separator: \"a\\nb\"", "data.document_separator"},
        {"task: sorting", "unknown task 'sorting'; there are: mqar, hop"},
        {"task: mqar\ntrain: a", "unknown key 'train'"},
        {"task: mqar\npairs: 17", "r.yaml:2: data.pairs: 17 pairs need"},
        {"task: mqar\npair: 7", "did you mean 'pairs'"},
        {"task: xor3\nbits: 13", "data.bits"},
        {"task: xor3\nwindow: 2", "data.window"},
        {"task: match3\np: 1", "data.p"},
        {"task: hop\nhops: 0", "data.hops"},
        {"task: hop\nitems: 1", "data.items"},
        {"task: pairsum\npairs: 1", "at least 2 pairs"},
        {"task: pairtable\nsequence_length: 1", "data.sequence_length"},
        {"[1]", "data must be a mapping"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_error(context, PLX_ERROR_VALUE, bad[i].message, describe(bad[i].yaml, &about));
    expect_error(context, PLX_ERROR_VALUE, "data.train", plx_data_describe(context, NULL, &about));
}

/* ---- token files ---- */

/* A tokenizer of many ids: byte b is the two tokens 300 * b and 70000: its token files take 4 bytes a token. */
static plx_status wide_encode(plx_encoder *encoder, const char *text, size_t bytes, bool last)
{
    (void)last;
    for (size_t i = 0; i < bytes; i++) {
        PLX_TRY(plx_encoder_append(encoder, 300 * (unsigned char)text[i]));
        PLX_TRY(plx_encoder_append(encoder, 70000));
    }
    return PLX_OK;
}
static const plx_tokenizer_kind wide_kind = {.name = "wide", .encode = wide_encode};

static void test_corpus_wide(void **state)
{
    (void)state;
    plx_tokenizer tokenizer = {.context = context, .kind = &wide_kind, .vocab_size = 80000, .separator = 79999};
    plx_corpus *corpus;
    int32_t tokens[8];
    const char *texts[] = {test_file("w1", "ab", 2), test_file("w2", "\xff", 1)};
    expect_ok(context, plx_corpus_open(context, test_path("wide.tokens"), &tokenizer, texts, 2, NULL, &corpus));
    assert_int_equal(plx_corpus_tokens(corpus), 8);
    expect_ok(context, plx_corpus_read(corpus, 0, 8, tokens));
    const int32_t wanted[8] = {79999, 300 * 'a', 70000, 300 * 'b', 70000, 79999, 300 * 255, 70000};
    assert_memory_equal(tokens, wanted, sizeof wanted);
    expect_ok(context, plx_corpus_read(corpus, 5, 1, tokens));
    assert_int_equal(tokens[0], 79999);
    expect_error(context, PLX_ERROR_INTERNAL, "beyond", plx_corpus_read(corpus, 5, 4, tokens));
    plx_corpus_close(corpus);
}

static ino_t file_number(const char *path)
{
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    return about.st_ino;
}

/* Overwrites bytes of a file. */
static void damage(const char *path, size_t offset, const char *bytes, size_t count)
{
    FILE *file = fopen(path, "r+b");
    fseek(file, (long)offset, SEEK_SET);
    fwrite(bytes, 1, count, file);
    fclose(file);
}

static void test_corpus_reuse(void **state)
{
    (void)state;
    plx_tokenizer *tokenizer;
    plx_corpus *corpus;
    int32_t tokens[16];
    char path[200];
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    strcpy(path, test_path("cache.tokens"));
    const char *texts[] = {test_file("t1", "hello", 5)};
#define OPEN() expect_ok(context, plx_corpus_open(context, path, tokenizer, texts, 1, NULL, &corpus))
    OPEN();
    plx_corpus_close(corpus);
    ino_t made = file_number(path);
    OPEN();
    plx_corpus_close(corpus);
    assert_true(file_number(path) == made); /* used again */
    test_file("t1", "hallo!", 6);
    OPEN();
    assert_int_equal(plx_corpus_tokens(corpus), 7); /* the text changed */
    expect_ok(context, plx_corpus_read(corpus, 0, 7, tokens));
    assert_int_equal(tokens[2], 'a');
    /* a token outside the vocabulary, in a file that is open and in one that is found again */
    damage(path, 64 + 2 * 3, "\x01\x01", 2);
    expect_error(context, PLX_ERROR_FORMAT, "damaged", plx_corpus_read(corpus, 0, 7, tokens));
    expect_ok(context, plx_corpus_read(corpus, 0, 3, tokens));
    assert_int_equal(truncate(path, 70), 0);
    expect_error(context, PLX_ERROR_FORMAT, "cut off", plx_corpus_read(corpus, 0, 7, tokens));
    plx_corpus_close(corpus);
    /* files that are not the token file: made anew */
    for (int i = 0; i < 5; i++) {
        if (i == 0) assert_int_equal(truncate(path, 70), 0);
        if (i == 1) assert_int_equal(truncate(path, 10), 0);
        if (i == 2) damage(path, 0, "x", 1);
        if (i == 3) damage(path, 16, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
        if (i == 4) damage(path, 12, "\0", 1);
        OPEN();
        expect_ok(context, plx_corpus_read(corpus, 0, 7, tokens));
        assert_int_equal(tokens[3], 'l');
        plx_corpus_close(corpus);
    }
    /* one that is too short by a text that cannot be read: nothing is left behind */
    texts[0] = test_file("t2", "", 0);
    unlink(path);
    expect_error(context, PLX_ERROR_FORMAT, "is empty",
                 plx_corpus_open(context, path, tokenizer, texts, 1, NULL, &corpus));
    assert_null(corpus);
    char *aside = plx_format(context, "%s.tmp", path);
    assert_false(plx_file_exists(path) || plx_file_exists(aside));
    plx_free(context, aside);
    texts[0] = test_path("missing");
    expect_error(context, PLX_ERROR_FILE, "missing",
                 plx_corpus_open(context, path, tokenizer, texts, 1, NULL, &corpus));
    plx_tokenizer_free(tokenizer);
}

/* ---- batches ---- */

static plx_data *open_data(const char *yaml, uint64_t seed)
{
    plx_data *data;
    plx_node *node = parse(yaml);
    expect_ok(context, plx_data_open(context, node, seed, test_path("cache"), &data));
    plx_node_free(context, node);
    return data;
}

static plx_status try_open(const char *yaml)
{
    plx_data *data;
    plx_node *node = parse(yaml);
    plx_status status = plx_data_open(context, node, 0, test_path("cache"), &data);
    if (status != PLX_OK) assert_null(data);
    plx_data_free(data);
    plx_node_free(context, node);
    return status;
}

/* A recipe's data section about the named files of the test's directory. */
static const char *section_of(const char *name, const char *rest)
{
    static char yaml[1024];
    snprintf(yaml, sizeof yaml, "{train: '%s', %s}", test_path(name), rest);
    return yaml;
}

/* Bytes that do not repeat. */
static void make_noise(char *noise, size_t bytes)
{
    plx_random random;
    plx_random_init(&random, 3, 4);
    for (size_t i = 0; i < bytes; i++) noise[i] = (char)plx_random_below(&random, 256);
}

enum { NOISE = 4003, LENGTH = 16 };

/* Each pass visits each whole window once, in an order that depends on seed and pass. */
static void test_windows_cover(void **state)
{
    (void)state;
    static char noise[NOISE];
    static int32_t tokens[NOISE + 1];
    make_noise(noise, NOISE);
    test_file("noise", noise, NOISE);
    tokens[0] = SEPARATOR;
    for (size_t i = 0; i < NOISE; i++) tokens[i + 1] = (unsigned char)noise[i];
    size_t windows = NOISE / LENGTH, *order[3];
    for (int n = 0; n < 3; n++) {
        plx_data *data = open_data(section_of("noise", "valid_fraction: 0, sequence_length: 16"), n == 2 ? 9 : 8);
        assert_int_equal(plx_data_train_rows(data), windows);
        assert_int_equal(plx_data_valid_rows(data), 0);
        order[n] = malloc(windows * sizeof **order);
        char *seen = calloc(windows, 1);
        for (size_t first = 0; first < windows; first += 10) {
            plx_batch batch;
            size_t rows = windows - first < 10 ? windows - first : 10;
            expect_ok(context, plx_data_train(data, first + (n == 1 ? windows : 0), rows, &batch));
            assert_true(batch.rows == rows && batch.length == LENGTH);
            for (size_t r = 0; r < rows; r++) {
                size_t w = 0;
                while (w < windows &&
                       memcmp(batch.inputs + r * LENGTH, tokens + w * LENGTH, LENGTH * sizeof *tokens) != 0)
                    w++;
                assert_true(w < windows && !seen[w]);
                seen[w] = 1;
                order[n][first + r] = w;
                assert_memory_equal(batch.targets + r * LENGTH, tokens + w * LENGTH + 1, LENGTH * sizeof *tokens);
                for (size_t t = 0; t < LENGTH; t++)
                    assert_true(batch.mask[r * LENGTH + t] == 1.0f && batch.start[r * LENGTH + t] == 0);
            }
        }
        free(seen);
        plx_data_free(data);
    }
    assert_memory_not_equal(order[0], order[1], windows * sizeof **order); /* another pass */
    assert_memory_not_equal(order[0], order[2], windows * sizeof **order); /* another seed */
    for (int n = 0; n < 3; n++) free(order[n]);
}

static int32_t *copy_inputs(const plx_batch *batch)
{
    size_t bytes = batch->rows * batch->length * sizeof(int32_t);
    return memcpy(malloc(bytes), batch->inputs, bytes);
}

/* A row depends on its number alone: in any batch, in any order, after opening again. */
static void expect_resumable(const char *yaml, size_t length)
{
    plx_batch batch;
    plx_data *data = open_data(yaml, 5);
    expect_ok(context, plx_data_train(data, 0, 600, &batch));
    int32_t *all = copy_inputs(&batch);
    expect_ok(context, plx_data_train(data, 123, 7, &batch));
    assert_memory_equal(batch.inputs, all + 123 * length, 7 * length * sizeof *all);
    plx_data_free(data);
    data = open_data(yaml, 5);
    expect_ok(context, plx_data_train(data, 593, 7, &batch));
    assert_memory_equal(batch.inputs, all + 593 * length, 7 * length * sizeof *all);
    expect_ok(context, plx_data_train(data, 0, 1, &batch));
    assert_memory_equal(batch.inputs, all, length * sizeof *all);
    expect_ok(context, plx_data_train(data, UINT64_MAX - 1, 1, &batch));
    expect_error(context, PLX_ERROR_VALUE, "cannot be made", plx_data_train(data, 0, 0, &batch));
    expect_error(context, PLX_ERROR_VALUE, "cannot be made", plx_data_train(data, 0, SIZE_MAX / 2, &batch));
    plx_data_free(data);
    free(all);
}

static void test_resumable(void **state)
{
    (void)state;
    char noise[NOISE];
    make_noise(noise, NOISE);
    test_file("noise", noise, NOISE);
    expect_resumable(section_of("noise", "sequence_length: 16"), 16); /* 600 rows are more than two passes */
    expect_resumable("{task: mqar}", 32);
}

/* Documents begin at separators; the segments say so. */
static void test_packing(void **state)
{
    (void)state;
    plx_batch batch;
    size_t bytes, separators = 0;
    char lines[4000], *at = lines;
    for (int i = 0; i < 60; i++)
        at += sprintf(at, "{\"body\":\"%.*s\"}\n", 1 + i * 7 % 20, "abcdefghijklmnopqrstuvwxyz");
    test_file("docs.jsonl", lines, (size_t)(at - lines));
    plx_data *data =
        open_data(section_of("docs.jsonl", "text_field: body, sequence_length: 16, valid_fraction: 0.5"), 1);
    for (int part = 0; part < 2; part++) {
        if (part == 0)
            expect_ok(context, plx_data_train(data, 0, plx_data_train_rows(data), &batch));
        else
            expect_ok(context, plx_data_valid(data, 0, plx_data_valid_rows(data), &batch, &bytes));
        assert_true(batch.rows > 10);
        for (size_t r = 0; r < batch.rows; r++) {
            int32_t start = 0;
            for (size_t t = 0; t < batch.length; t++) {
                size_t i = r * batch.length + t;
                if (batch.inputs[i] == SEPARATOR || batch.mask[i] == 0.0f) start = (int32_t)t;
                assert_int_equal(batch.start[i], start);
                separators += batch.inputs[i] == SEPARATOR && batch.mask[i] > 0.0f;
            }
        }
    }
    assert_in_range(separators, 55, 60);
    plx_data_free(data);
}

/* The held-out rows are the end of the stream, each token but the first scored once, none of it in training. */
static void test_held_out(void **state)
{
    (void)state;
    static char text[2000];
    make_noise(text, sizeof text);
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(text[i] & 127);
    memset(text + 1600, 200, 400); /* 2001 tokens, the last 20% held out: 400 */
    test_file("split", text, sizeof text);
    plx_data *data = open_data(section_of("split", "valid_fraction: 0.2, sequence_length: 64"), 1);
    plx_batch batch;
    size_t bytes = 0, scored = 0, total = 0;
    assert_int_equal(plx_data_valid_rows(data), 7); /* 399 targets */
    for (uint64_t first = 0;; first += 4) {
        expect_ok(context, plx_data_valid(data, first, 4, &batch, &bytes));
        if (batch.rows == 0) break;
        assert_int_equal(batch.rows, 4);
        total += bytes;
        for (size_t i = 0; i < 4 * 64; i++) {
            scored += batch.mask[i] == 1.0f;
            assert_true(batch.mask[i] == 1.0f ? batch.targets[i] == 200 : batch.mask[i] == 0.0f);
            assert_true(batch.inputs[i] >= 0 && batch.inputs[i] < 257 && batch.targets[i] >= 0 &&
                        batch.targets[i] < 257);
            if (batch.mask[i] == 0.0f) assert_int_equal(batch.start[i], i % 64);
        }
    }
    assert_true(scored == 399 && total == 399);
    expect_ok(context, plx_data_train(data, 0, plx_data_train_rows(data), &batch));
    assert_int_equal(batch.rows, 25);
    for (size_t i = 0; i < batch.rows * 64; i++) assert_true(batch.targets[i] < 128);
    plx_data_free(data);

    /* valid files; the separator of the second counts no bytes */
    char yaml[512];
    test_file("v1", "abc", 3);
    test_file("v2", "de", 2);
    snprintf(yaml, sizeof yaml, "{train: '%s', valid: ['%s', '%s'], sequence_length: 4}", test_path("split"),
             test_path("v1"), test_path("v2"));
    data = open_data(yaml, 1);
    assert_int_equal(plx_data_train_rows(data), 2000 / 4);
    assert_int_equal(plx_data_valid_rows(data), 2);
    expect_ok(context, plx_data_valid(data, 0, 2, &batch, &bytes));
    const int32_t targets[] = {'a', 'b', 'c', SEPARATOR, 'd', 'e', SEPARATOR, SEPARATOR},
                  start[] = {0, 0, 0, 0, 0, 0, 2, 3};
    const float mask[] = {1, 1, 1, 1, 1, 1, 0, 0};
    assert_memory_equal(batch.targets, targets, sizeof targets);
    assert_memory_equal(batch.start, start, sizeof start);
    assert_memory_equal(batch.mask, mask, sizeof mask);
    assert_int_equal(bytes, 5);
    plx_data_free(data);
}

static void test_short_texts(void **state)
{
    (void)state;
    char text[300] = {0};
    test_file("short", text, sizeof text);
    expect_ok(context, try_open(section_of("short", "sequence_length: 200")));
    expect_error(context, PLX_ERROR_VALUE,
                 "286 tokens besides what is held out; a window of sequence_length 286 needs 287: give more text or a "
                 "sequence_length of at most 285",
                 try_open(section_of("short", "sequence_length: 286")));
    expect_ok(context, try_open(section_of("short", "sequence_length: 300, valid_fraction: 0")));
    expect_error(context, PLX_ERROR_VALUE, "at most 300",
                 try_open(section_of("short", "sequence_length: 301, valid_fraction: 0")));
    expect_error(context, PLX_ERROR_VALUE, "1 tokens of 301, at least 2",
                 try_open(section_of("short", "sequence_length: 8, valid_fraction: 0.005")));
    test_file("short", text, 1);
    expect_error(context, PLX_ERROR_VALUE, "give more text", try_open(section_of("short", "sequence_length: 256")));
    expect_error(context, PLX_ERROR_FILE, "nowhere", try_open(section_of("nowhere", "sequence_length: 8")));
    test_file("cache.file", "", 0);
    plx_node *node = parse(section_of("short", "sequence_length: 1"));
    plx_data *data;
    expect_error(context, PLX_ERROR_FILE, "cache.file",
                 plx_data_open(context, node, 0, test_path("cache.file"), &data));
    plx_node_free(context, node);
}

static void test_allocation_failures(void **state)
{
    (void)state;
    char text[300] = {0};
    test_file("short", text, sizeof text);
    plx_node *nodes[] = {parse(section_of("short", "sequence_length: 8")), parse("task: hop")};
    for (long fail_at = 1, finished = 0; !finished; fail_at++) {
        test_allocator allocator = {0};
        plx_context *own = test_counting_context(&allocator);
        long before = allocator.held;
        plx_status status = PLX_OK;
        allocator.fail_at = allocator.calls + fail_at;
        expect_ok(context, plx_directory_remove(context, test_path("cache")));
        for (int i = 0; i < 2 && status == PLX_OK; i++) {
            plx_data *data;
            plx_batch batch;
            size_t bytes;
            status = plx_data_open(own, nodes[i], 0, test_path("cache"), &data);
            if (status == PLX_OK) status = plx_data_train(data, 0, 2, &batch);
            if (status == PLX_OK) status = plx_data_valid(data, 0, 4, &batch, &bytes);
            plx_data_free(data);
        }
        finished = status == PLX_OK;
        if (!finished && status != PLX_ERROR_MEMORY)
            fail_msg("allocation %ld: %s", fail_at, plx_context_error(own)->message);
        assert_int_equal(allocator.held, before);
        plx_context_free(own);
        assert_true(fail_at < 200);
    }
    for (int i = 0; i < 2; i++) plx_node_free(context, nodes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_bytes), cmocka_unit_test(test_section),
        cmocka_unit_test(test_corpus_wide),     cmocka_unit_test(test_corpus_reuse),
        cmocka_unit_test(test_windows_cover),   cmocka_unit_test(test_resumable),
        cmocka_unit_test(test_packing),         cmocka_unit_test(test_held_out),
        cmocka_unit_test(test_short_texts),     cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
