/* test_gguf.c - GGUF files that were damaged on the way or made to harm: each is refused by an error that names the
 * file and the field. */
#include "support/files.h"

#include "io/gguf.h"
#include "model/families/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a file being made ---- */

typedef struct draft {
    unsigned char bytes[8192];
    size_t count;
} draft;

static void put(draft *d, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) d->bytes[d->count++] = (unsigned char)(value >> 8 * i);
}
static void put_text(draft *d, const char *text)
{
    put(d, strlen(text), 8);
    memcpy(d->bytes + d->count, text, strlen(text));
    d->count += strlen(text);
}
static draft begin(uint32_t version, uint64_t tensors, uint64_t values)
{
    draft d = {.count = 0};
    put(&d, 0x46554747, 4);
    put(&d, version, 4);
    put(&d, tensors, 8);
    put(&d, values, 8);
    return d;
}
static void put_number(draft *d, const char *key, uint32_t number)
{
    put_text(d, key);
    put(d, PLX_GGUF_U32, 4);
    put(d, number, 4);
}
/* rows of columns; rank 1 where rows is 0. */
static void put_tensor(draft *d, const char *name, uint64_t rows, uint64_t columns, uint32_t type, uint64_t offset)
{
    put_text(d, name);
    put(d, rows > 0 ? 2 : 1, 4);
    put(d, columns, 8);
    if (rows > 0) put(d, rows, 8);
    put(d, type, 4);
    put(d, offset, 8);
}
static void pad(draft *d, size_t data)
{
    while (d->count % 32 != 0) put(d, 0, 1);
    for (size_t i = 0; i < data; i++) put(d, i, 1);
}

static plx_status open_draft(const draft *d, plx_gguf **file)
{
    return plx_gguf_open(context, test_file("draft.gguf", d->bytes, d->count), file);
}
static void refuse(const draft *d, plx_status code, const char *message)
{
    plx_gguf *file;
    expect_error(context, code, message, open_draft(d, &file));
    assert_non_null(strstr(plx_context_error(context)->message, "draft.gguf"));
}

static draft good(void)
{
    draft d = begin(3, 2, 4);
    put_number(&d, "general.alignment", 32);
    put_text(&d, "llama.list");
    put(&d, PLX_GGUF_ARRAY, 4);
    put(&d, PLX_GGUF_I16, 4);
    put(&d, 3, 8);
    put(&d, 1, 2);
    put(&d, 0xfffe, 2);
    put(&d, 3, 2);
    put_text(&d, "llama.words");
    put(&d, PLX_GGUF_ARRAY, 4);
    put(&d, PLX_GGUF_STRING, 4);
    put(&d, 2, 8);
    put_text(&d, "one");
    put_text(&d, "");
    put_text(&d, "llama.on");
    put(&d, PLX_GGUF_BOOL, 4);
    put(&d, 1, 1);
    put_tensor(&d, "b", 2, 32, 8, 32);
    put_tensor(&d, "a", 0, 8, 0, 0);
    pad(&d, 32 + 68);
    return d;
}

static void test_good(void **state)
{
    (void)state;
    draft d = good();
    plx_gguf *file;
    plx_node *map;
    unsigned char data[68];
    const unsigned char *cursor = NULL;
    const char *text;
    size_t bytes;
    for (int version = 2; version <= 3; version++) {
        d.bytes[4] = (unsigned char)version;
        expect_ok(context, open_draft(&d, &file));
        assert_int_equal(plx_gguf_tensor_count(file), 2);
        const plx_gguf_tensor *a = plx_gguf_tensor_at(file, 0), *b = plx_gguf_tensor_at(file, 1);
        assert_string_equal(a->name, "a");
        assert_int_equal(a->rank, 1);
        assert_int_equal(b->shape[0], 2);
        assert_int_equal(b->shape[1], 32);
        assert_int_equal(b->packing, PLX_PACKED_Q8_0);
        assert_int_equal(b->bytes, 68);
        expect_ok(context, plx_gguf_read(file, b, 0, data, 68));
        assert_int_equal(data[1], 33);
        expect_ok(context, plx_gguf_read(file, b, 67, data, 1));
        assert_int_equal(data[0], 99);
        expect_error(context, PLX_ERROR_VALUE, "has 68 bytes", plx_gguf_read(file, b, 67, data, 2));
        const plx_gguf_value *words = plx_gguf_find(file, "llama.words"), *list = plx_gguf_find(file, "llama.list");
        assert_int_equal(words->count, 2);
        cursor = NULL;
        plx_gguf_string_next(words, &cursor, &text, &bytes);
        assert_int_equal(bytes, 3);
        assert_memory_equal(text, "one", 3);
        plx_gguf_string_next(words, &cursor, &text, &bytes);
        assert_int_equal(bytes, 0);
        assert_true(plx_gguf_number(list, 1) == -2);
        assert_null(plx_gguf_find(file, "llama.lis"));
        expect_ok(context, plx_gguf_section(context, file, "llama.", &map));
        assert_int_equal(map->count, 3);
        assert_int_equal(plx_node_find(map, "list")->count, 3);
        assert_true(plx_node_find(map, "on")->truth);
        plx_node_free(context, map);
        plx_gguf_close(file);
    }
}

/* Cut off at every byte. */
static void test_cut_off(void **state)
{
    (void)state;
    draft whole = good();
    for (size_t length = 0; length < whole.count; length++) {
        draft d = whole;
        d.count = length;
        plx_gguf *file;
        assert_int_equal(open_draft(&d, &file), PLX_ERROR_FORMAT);
        assert_null(file);
    }
}

/* Each byte of the head changed to each of some values: an error or a file, never a crash. */
static void test_changed_bytes(void **state)
{
    (void)state;
    static const unsigned char values[] = {0, 1, 8, 9, 0x7f, 0x80, 0xff};
    draft whole = good();
    for (size_t i = 0; i < whole.count - 100; i++)
        for (size_t j = 0; j < sizeof values; j++) {
            draft d = whole;
            plx_gguf *file;
            plx_node *map;
            d.bytes[i] = values[j];
            if (open_draft(&d, &file) != PLX_OK) continue;
            if (plx_gguf_section(context, file, "llama.", &map) == PLX_OK) plx_node_free(context, map);
            plx_gguf_close(file);
        }
}

static void test_head(void **state)
{
    (void)state;
    draft d = good();
    d.bytes[0] = 'X';
    refuse(&d, PLX_ERROR_FORMAT, "does not begin with GGUF");
    d = good();
    d.bytes[4] = 1;
    refuse(&d, PLX_ERROR_UNSUPPORTED, "version 1");
    d.bytes[4] = 0, d.bytes[7] = 3;
    refuse(&d, PLX_ERROR_UNSUPPORTED, "big-endian");
    d = begin(3, (uint64_t)1 << 63, 0);
    refuse(&d, PLX_ERROR_FORMAT, "9223372036854775808 tensors");
    d = begin(3, 0, UINT64_MAX);
    refuse(&d, PLX_ERROR_FORMAT, "values are more than");
}

static void test_values(void **state)
{
    (void)state;
    draft d = begin(3, 0, 1);
    put(&d, UINT64_MAX, 8);
    refuse(&d, PLX_ERROR_FORMAT, "ends inside the key of a value");
    d = begin(3, 0, 1);
    put_text(&d, "key");
    put(&d, 13, 4);
    refuse(&d, PLX_ERROR_FORMAT, "key is of kind 13");
    d = begin(3, 0, 1);
    put_text(&d, "key");
    put(&d, PLX_GGUF_ARRAY, 4);
    put(&d, PLX_GGUF_ARRAY, 4);
    put(&d, 1, 8);
    refuse(&d, PLX_ERROR_FORMAT, "key is an array of arrays");
    d = begin(3, 0, 1);
    put_text(&d, "key");
    put(&d, PLX_GGUF_ARRAY, 4);
    put(&d, PLX_GGUF_U64, 4);
    put(&d, (uint64_t)1 << 61, 8);
    refuse(&d, PLX_ERROR_FORMAT, "key should have 2305843009213693952 items");
    d = begin(3, 0, 1);
    put_text(&d, "key");
    put(&d, PLX_GGUF_STRING, 4);
    put(&d, (uint64_t)1 << 63, 8);
    refuse(&d, PLX_ERROR_FORMAT, "ends inside key");
    d = begin(3, 0, 1);
    put_text(&d, "key");
    put(&d, PLX_GGUF_BOOL, 4);
    put(&d, 2, 1);
    refuse(&d, PLX_ERROR_FORMAT, "key holds 2 where 0 or 1 must be");
    d = begin(3, 0, 2);
    put_number(&d, "key", 1);
    put_number(&d, "key", 2);
    refuse(&d, PLX_ERROR_FORMAT, "key key is given twice");
    d = begin(3, 0, 1);
    put_number(&d, "general.alignment", 24);
    refuse(&d, PLX_ERROR_FORMAT, "general.alignment");
}

static void refuse_tensor(const char *name, uint64_t rows, uint64_t columns, uint32_t type, uint64_t offset,
                          const char *message)
{
    draft d = begin(3, 1, 0);
    put_tensor(&d, name, rows, columns, type, offset);
    pad(&d, 64);
    refuse(&d, PLX_ERROR_FORMAT, message);
}

static void test_tensors(void **state)
{
    (void)state;
    const uint64_t huge = (uint64_t)1 << 63;
    char name[200];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    refuse_tensor("t", 1, huge, 0, 0, "dimension 0 of tensor t, 9223372036854775808");
    refuse_tensor("t", (uint64_t)1 << 33, (uint64_t)1 << 33, 0, 0, "dimension 1 of tensor t");
    refuse_tensor("t", (uint64_t)1 << 31, (uint64_t)1 << 31, 28, 0, "tensor t is larger than any memory");
    refuse_tensor("t", (uint64_t)1 << 31, (uint64_t)1 << 28, 28, 0, "tensor t lies beyond the end");
    refuse_tensor("t", 2, 33, 8, 0, "rows of 33 numbers, not whole blocks of 32");
    refuse_tensor("t", 0, 17, 0, 0, "tensor t lies beyond the end");
    refuse_tensor("t", 0, 4, 0, 16, "no multiple of 32");
    refuse_tensor("t", 0, 4, 0, UINT64_MAX - 31, "tensor t lies beyond the end");
    refuse_tensor("", 0, 4, 0, 0, "name of 0 bytes");
    refuse_tensor(name, 0, 4, 0, 0, "name of 199 bytes");
    draft d = begin(3, 1, 0);
    put_text(&d, "t");
    put(&d, 5, 4);
    refuse(&d, PLX_ERROR_FORMAT, "tensor t has 5 dimensions");
    d = begin(3, 2, 0);
    put_tensor(&d, "t", 0, 4, 0, 0);
    put_tensor(&d, "t", 0, 4, 0, 32);
    pad(&d, 64);
    refuse(&d, PLX_ERROR_FORMAT, "two tensors t");
    d = begin(3, 2, 0);
    put_tensor(&d, "t", 0, 9, 0, 0);
    put_tensor(&d, "u", 0, 4, 0, 32);
    pad(&d, 64);
    refuse(&d, PLX_ERROR_FORMAT, "tensor u begins at 32, inside of the tensor before it");
}

/* Types that are not read are refused where such a tensor is wanted, by their names. */
static void test_other_types(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        const char *name;
    } types[] = {{10, "Q2_K (10)"}, {20, "IQ4_NL (20)"}, {4, "? (4)"}, {99, "? (99)"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        draft d = begin(3, 1, 0);
        plx_gguf *file;
        char byte;
        put_tensor(&d, "t", 2, 256, types[i].type, 0);
        pad(&d, 64);
        expect_ok(context, open_draft(&d, &file));
        expect_error(context, PLX_ERROR_UNSUPPORTED, types[i].name,
                     plx_gguf_read(file, plx_gguf_tensor_at(file, 0), 0, &byte, 1));
        plx_gguf_close(file);
    }
}

/* A file that shrinks after it was opened. */
static void test_shortened(void **state)
{
    (void)state;
    draft d = good();
    plx_gguf *file;
    unsigned char data[68];
    const char *path = test_file("draft.gguf", d.bytes, d.count);
    expect_ok(context, plx_gguf_open(context, path, &file));
    assert_int_equal(truncate(path, (off_t)d.count - 10), 0);
    expect_error(context, PLX_ERROR_FORMAT, "draft.gguf",
                 plx_gguf_read(file, plx_gguf_tensor_at(file, 1), 0, data, 68));
    plx_gguf_close(file);
    expect_error(context, PLX_ERROR_FILE, "missing.gguf", plx_gguf_open(context, test_path("missing.gguf"), &file));
    expect_error(context, PLX_ERROR_FILE, "directory", plx_gguf_open(context, "/tmp", &file));
}

/* ---- what a model asks for ---- */

static draft model_head(uint64_t tensors, uint64_t more)
{
    draft d = begin(3, tensors, 7 + more);
    put_text(&d, "general.architecture");
    put(&d, PLX_GGUF_STRING, 4);
    put_text(&d, "llama");
    put_number(&d, "llama.embedding_length", 8);
    put_number(&d, "llama.feed_forward_length", 8);
    put_number(&d, "llama.attention.head_count", 2);
    put_number(&d, "llama.context_length", 16);
    put_number(&d, "llama.block_count", 1);
    put_text(&d, "llama.attention.layer_norm_rms_epsilon");
    put(&d, PLX_GGUF_F32, 4);
    put(&d, 0x3727c5ac, 4); /* 1e-5 */
    return d;
}
static void refuse_model(draft *d, bool embedding, plx_status code, const char *message)
{
    plx_source source;
    if (embedding) put_tensor(d, "token_embd.weight", 4, 8, 0, 0);
    pad(d, 128);
    expect_error(context, code, message,
                 plx_source_open(context, test_file("draft.gguf", d->bytes, d->count), &source));
    plx_source_close(&source);
}

static void test_models(void **state)
{
    (void)state;
    plx_model *model;
    draft d = model_head(1, 0);
    put_tensor(&d, "token_embd.weight", 4, 8, 0, 0);
    pad(&d, 128);
    expect_error(context, PLX_ERROR_FORMAT, "tensor blk.0.attn_norm.weight is missing from the file",
                 plx_model_load(context, test_file("draft.gguf", d.bytes, d.count), NULL, &model));
    d = begin(3, 0, 0);
    refuse_model(&d, false, PLX_ERROR_UNSUPPORTED, "general.architecture ''");
    d = begin(3, 0, 1);
    put_text(&d, "general.architecture");
    put(&d, PLX_GGUF_STRING, 4);
    put_text(&d, "mamba");
    refuse_model(&d, false, PLX_ERROR_UNSUPPORTED, "'mamba' is not supported; there are llama, qwen2, gptneox");
    d = model_head(0, 0);
    refuse_model(&d, false, PLX_ERROR_FORMAT, "no matrix token_embd.weight");
    d = model_head(1, 1);
    put_number(&d, "llama.expert_count", 8);
    refuse_model(&d, true, PLX_ERROR_VALUE, "llama.expert_count: 8 is not supported");
    d = model_head(1, 1);
    put_number(&d, "llama.logit_scale", 3);
    refuse_model(&d, true, PLX_ERROR_UNSUPPORTED, "'logit_scale' (3) is not known for the family llama");
    d = model_head(1, 1);
    put_number(&d, "llama.rope.dimension_count", 5);
    refuse_model(&d, true, PLX_ERROR_VALUE, "rope.dimension_count");
    d = model_head(1, 1);
    put_text(&d, "llama.rope.scaling.type");
    put(&d, PLX_GGUF_STRING, 4);
    put_text(&d, "longrope");
    refuse_model(&d, true, PLX_ERROR_VALUE, "'longrope' is not supported");
    d = model_head(1, 1);
    put_number(&d, "split.count", 3);
    refuse_model(&d, true, PLX_ERROR_UNSUPPORTED, "split into 3 files");
    d = model_head(2, 0);
    put_tensor(&d, "rope_freqs.weight", 0, 2, 0, 0);
    put_tensor(&d, "token_embd.weight", 4, 8, 0, 32);
    refuse_model(&d, false, PLX_ERROR_FORMAT, "beyond the end");
    d = model_head(2, 0);
    put_tensor(&d, "rope_freqs.weight", 0, 2, 0, 128);
    put_tensor(&d, "token_embd.weight", 4, 8, 0, 0);
    pad(&d, 160);
    refuse_model(&d, false, PLX_ERROR_UNSUPPORTED, "rope_freqs.weight are not those of Llama 3");
}

/* Opens models while call number `at` of the allocator fails (0: none); returns the number of calls. */
static long try_open(long at)
{
    static const char *const paths[] = {"tests/golden/families/llama.gguf", "tests/golden/families/gpt_neox",
                                        "tests/golden/families/llama-biases"};
    test_allocator allocator = {.once = true};
    plx_context *counting = test_counting_context(&allocator);
    long before = allocator.calls;
    if (at > 0) allocator.fail_at = before + at;
    for (size_t i = 0; i < 3; i++) {
        plx_model *model = NULL;
        if (plx_model_load(counting, paths[i], NULL, &model) == PLX_OK)
            plx_model_free(model);
        else
            assert_null(model);
    }
    long calls = allocator.calls - before;
    plx_context_free(counting);
    assert_int_equal(allocator.held, 0);
    return calls;
}

/* Every allocation fails once: an error, nothing lost. */
static void test_allocation_failures(void **state)
{
    (void)state;
    long calls = try_open(0);
    for (long at = 1; at <= calls; at += 1 + at / 40) try_open(at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),          cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_changed_bytes), cmocka_unit_test(test_head),
        cmocka_unit_test(test_values),        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_other_types),   cmocka_unit_test(test_shortened),
        cmocka_unit_test(test_models),        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
