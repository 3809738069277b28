/* test_llama2c.c - a model in llama2.c's first format, as its file lies, made a model of Plexus: the logits that the
 * program has (tests/golden/make_llama2c.py). The command-line program does not read the format; whoever has such a
 * file takes tests/checks/stories.py. */
#include "support/files.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct stories {
    int32_t width, ffn, layers, heads, kv_heads, vocab, positions;
} stories;

/* The next rows x columns numbers of the file into a tensor; heads > 0: each head's rows from neighbours, which RoPE
 * turns together there, to halves. */
static void take(FILE *file, plx_model *model, const char *name, size_t rows, size_t columns, size_t heads)
{
    size_t count = rows * columns, head = heads > 0 ? rows / heads : 0;
    float *stored = malloc(count * sizeof *stored);
    double *values = malloc(count * sizeof *values);
    assert_int_equal(fread(stored, sizeof *stored, count, file), count);
    for (size_t row = 0; row < rows; row++) {
        size_t i = heads > 0 ? row % head : 0, from = heads > 0 ? row - i + i % (head / 2) * 2 + i / (head / 2) : row;
        for (size_t j = 0; j < columns; j++) values[row * columns + j] = stored[from * columns + j];
    }
    expect_ok(context, plx_model_write_tensor(model, name, values, count));
    free(stored);
    free(values);
}

static plx_model *read_stories(const char *path, plx_type type)
{
    stories about;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(&about, sizeof about, 1, file), 1);
    size_t width = (size_t)about.width, ffn = (size_t)about.ffn, layers = (size_t)about.layers,
           heads = (size_t)about.heads, kv_heads = (size_t)about.kv_heads, head = width / heads,
           vocab = (size_t)abs(about.vocab);
    char config[500], name[80];
    snprintf(
        config, sizeof config,
        "{\"hidden_size\": %zu, \"intermediate_size\": %zu, \"num_attention_heads\": %zu, \"num_key_value_heads\": "
        "%zu, \"vocab_size\": %zu, \"max_position_embeddings\": %d, \"norm_eps\": 1e-5, \"tie_word_embeddings\": %s, "
        "\"layers\": [{\"mixer\": \"attention\"}, {\"mixer\": \"attention\"}]}",
        width, ffn, heads, kv_heads, vocab, about.positions, about.vocab > 0 ? "true" : "false");
    assert_int_equal(layers, 2);
    plx_model *model;
    plx_model_options options = {.type = type};
    expect_ok(context, plx_model_create(context, config, &options, &model));
    const struct {
        const char *name;
        size_t rows, columns, heads;
    } kinds[] = {{"mixer_norm", width, 1, 0},
                 {"mixer.q_proj", width, width, heads},
                 {"mixer.k_proj", kv_heads * head, width, kv_heads},
                 {"mixer.v_proj", kv_heads * head, width, 0},
                 {"mixer.o_proj", width, width, 0},
                 {"ffn_norm", width, 1, 0},
                 {"ffn.gate_proj", ffn, width, 0},
                 {"ffn.down_proj", width, ffn, 0},
                 {"ffn.up_proj", ffn, width, 0}};
    take(file, model, "model.embed_tokens.weight", vocab, width, 0);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t i = 0; i < layers; i++) {
            snprintf(name, sizeof name, "model.layers.%zu.%s.weight", i, kinds[k].name);
            take(file, model, name, kinds[k].rows, kinds[k].columns, kinds[k].heads);
        }
    take(file, model, "model.norm.weight", width, 1, 0);
    assert_int_equal(fseek(file, (long)((size_t)about.positions * head * sizeof(float)), SEEK_CUR), 0);
    if (about.vocab < 0) take(file, model, "lm_head.weight", vocab, width, 0);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
    return model;
}

static void golden(void **state)
{
    (void)state;
    json_t *expected = json_load_file("tests/golden/llama2c.json", 0, NULL);
    const json_t *list = json_object_get(expected, "tokens"), *rows = json_object_get(expected, "logits");
    size_t length = json_array_size(list), vocab = json_array_size(json_array_get(rows, 0));
    int32_t tokens[16];
    assert_true(length > 8 && length <= 16);
    for (size_t i = 0; i < length; i++) tokens[i] = (int32_t)json_integer_value(json_array_get(list, i));
    for (int type = PLX_F32; type <= PLX_F64; type++) {
        plx_model *model = read_stories("tests/golden/llama2c.bin", (plx_type)type);
        plx_batch batch = {.rows = 1, .length = length, .inputs = tokens};
        double *found = test_logits(model, &batch), worst = 0, most = 0;
        for (size_t i = 0; i < length * vocab; i++) {
            double wanted = json_real_value(json_array_get(json_array_get(rows, i / vocab), i % vocab));
            worst = fmax(worst, fabs(found[i] - wanted));
            most = fmax(most, fabs(wanted));
        }
        if (!(worst <= (type == PLX_F64 ? 1e-10 : 1e-5) * most))
            fail_msg("%s: logits differ by %g of %g", plx_type_name((plx_type)type), worst, most);
        free(found);
        plx_model_free(model);
    }
    json_decref(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden)};
    return cmocka_run_group_tests(tests, open_context, close_context);
}
