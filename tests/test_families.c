/* test_families.c - models of other programs' families against logits that transformers computed
 * (tests/golden/make_families.py): every option that their configurations can turn on, from directories and GGUFs,
 * forward and step; packed weights against the gguf package's numbers; and what is refused, by name. */
#include "support/files.h"

#include "io/files.h"
#include "io/safetensors.h"
#include "model/families/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/families/"
enum { VOCAB = 40, LENGTH = 44 };

static void golden_tokens(int32_t *tokens)
{
    for (int i = 0; i < LENGTH; i++) tokens[i] = (i * i * 7 + i * 3 + 5) % VOCAB;
}

static void golden_logits(const char *name, float *expected)
{
    plx_safetensors *file;
    expect_ok(context, plx_safetensors_open(context, GOLDEN "logits.safetensors", &file));
    const plx_safetensor *found = plx_safetensors_find(file, name);
    if (found == NULL || found->elements != LENGTH * VOCAB) fail_msg("there are no golden logits of %s", name);
    expect_ok(context, plx_safetensors_read(file, found, expected, LENGTH * VOCAB * sizeof *expected));
    plx_safetensors_close(file);
}

/* Largest difference, as a share of the expected logits' range. */
static double largest_difference(const double *found, const float *expected)
{
    double least = expected[0], most = expected[0], worst = 0;
    for (int i = 0; i < LENGTH * VOCAB; i++) {
        least = fmin(least, expected[i]);
        most = fmax(most, expected[i]);
        double difference = fabs(found[i] - expected[i]);
        if (!(difference <= worst)) worst = difference; /* a NaN stays */
    }
    return worst / (most - least);
}

static void forward_logits(plx_model *model, double *logits)
{
    int32_t tokens[LENGTH];
    golden_tokens(tokens);
    plx_batch batch = {.rows = 1, .length = LENGTH, .inputs = tokens};
    expect_ok(context, plx_model_logits(model, &batch, logits));
}

/* Some tokens at once, then one by one. */
static void step_logits(plx_model *model, double *logits)
{
    int32_t tokens[LENGTH];
    float some[LENGTH * VOCAB];
    plx_session *session;
    plx_session_options options = {.capacity = LENGTH};
    golden_tokens(tokens);
    expect_ok(context, plx_session_create(model, &options, &session));
    for (size_t done = 0, count = 13; done < LENGTH; done += count, count = 1) {
        plx_session_row row = {.tokens = tokens + done, .count = count};
        expect_ok(context, plx_session_step(session, &row, 1, NULL, some));
        for (size_t i = 0; i < count * VOCAB; i++) logits[done * VOCAB + i] = some[i];
    }
    plx_session_free(session);
}

/* The bound of what transformers itself rounds: 1e-4 of the range; ours is checked to be far below. */
static void check_golden(const char *path, const char *name)
{
    static double found[LENGTH * VOCAB];
    static float expected[LENGTH * VOCAB];
    golden_logits(name, expected);
    for (int type = PLX_F32; type <= PLX_F64; type++) {
        plx_model *model;
        plx_model_options options = {.type = (plx_type)type, .keep_stored_types = type == PLX_F64};
        expect_ok(context, plx_model_load(context, path, &options, &model));
        forward_logits(model, found);
        double forward = largest_difference(found, expected);
        step_logits(model, found);
        double step = largest_difference(found, expected);
        if (!(forward <= 1e-5 && step <= 1e-5))
            fail_msg("%s in %s: logits differ by %.2g of their range forward, %.2g step by step", name,
                     plx_type_name((plx_type)type), forward, step);
        plx_model_free(model);
    }
}

static const char *const directories[] = {"llama",        "llama-grouped",  "llama-biases", "llama-linear",
                                          "llama-llama3", "llama-yarn",     "qwen2",        "qwen2-window",
                                          "gpt_neox",     "gpt_neox-serial"};
static const char *const ggufs[] = {"llama.gguf", "llama3.gguf", "qwen2.gguf", "gpt_neox.gguf"};

static void check_all(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char path[128];
        snprintf(path, sizeof path, GOLDEN "%s", names[i]);
        check_golden(path, names[i]);
    }
}
static void test_directories(void **state)
{
    (void)state;
    check_all(directories, sizeof directories / sizeof *directories);
}
static void test_ggufs(void **state)
{
    (void)state;
    check_all(ggufs, sizeof ggufs / sizeof *ggufs);
}

/* Every packed type, bit for bit. */
static void test_packed_types(void **state)
{
    (void)state;
    plx_store *store;
    int checked = 0;
    expect_ok(context, plx_store_open_gguf(context, GOLDEN "packed.gguf", &store));
    for (size_t i = 0; i < plx_store_count(store); i++) {
        const plx_stored *packed = plx_store_at(store, i);
        char name[64];
        float expected[1024], numbers[1024];
        unsigned char blocks[2048];
        if (strstr(packed->name, ".expected") != NULL) continue;
        snprintf(name, sizeof name, "%s.expected", packed->name);
        const plx_stored *wanted = plx_store_find(store, name);
        assert_non_null(wanted);
        assert_true(packed->readable);
        assert_string_equal(packed->type_name, packed->name);
        assert_int_equal(packed->elements, wanted->elements);
        size_t count = packed->elements / plx_packing_numbers(packed->packing);
        expect_ok(context, plx_store_read(store, wanted, 0, expected, wanted->elements * sizeof *expected));
        expect_ok(context, plx_store_read(store, packed, 0, blocks, count * plx_packing_bytes(packed->packing)));
        plx_packing_unpack(packed->packing, blocks, count, numbers);
        for (size_t j = 0; j < packed->elements; j++)
            if (memcmp(&numbers[j], &expected[j], sizeof(float)) != 0 && !(isnan(numbers[j]) && isnan(expected[j])))
                fail_msg("%s: number %zu is %.9g, not %.9g", packed->name, j, (double)numbers[j], (double)expected[j]);
        checked++;
    }
    assert_int_equal(checked, PLX_PACKING_COUNT - 1); /* all but F32 */
    plx_store_close(store);
}

/* ---- writing ---- */

/* Every family writes what it reads: the same logits, and the family's names and keys, which the committed directories
 * have too. */
static void test_written_back(void **state)
{
    (void)state;
    static double before[LENGTH * VOCAB], after[LENGTH * VOCAB];
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        char path[128], name[64];
        plx_model *model;
        plx_model_options options = {.keep_stored_types = true};
        plx_source source, written;
        snprintf(path, sizeof path, GOLDEN "%s", directories[i]);
        snprintf(name, sizeof name, "written-%zu", i);
        const char *out = test_path(name);
        plx_layout layout = {.family = strncmp(directories[i], "gpt", 3) == 0 ? "gpt_neox"
                                       : directories[i][0] == 'q'             ? "qwen2"
                                                                              : "llama"};
        expect_ok(context, plx_model_load(context, path, &options, &model));
        forward_logits(model, before);
        expect_ok(context, plx_model_save_as(model, out, &layout));
        plx_model_free(model);
        expect_ok(context, plx_model_load(context, out, &options, &model));
        forward_logits(model, after);
        plx_model_free(model);
        assert_memory_equal(before, after, sizeof before);
        expect_ok(context, plx_source_open(context, path, &source));
        expect_ok(context, plx_source_open(context, out, &written));
        expect_ok(context, plx_source_open_tensors(&source));
        expect_ok(context, plx_source_open_tensors(&written));
        assert_int_equal(plx_store_count(source.store), plx_store_count(written.store));
        for (size_t j = 0; j < plx_store_count(source.store); j++)
            assert_string_equal(plx_store_at(source.store, j)->name, plx_store_at(written.store, j)->name);
        plx_source_close(&source);
        plx_source_close(&written);
    }
}

/* To our own layout and other types. */
static void test_converted_types(void **state)
{
    (void)state;
    static double before[LENGTH * VOCAB], after[LENGTH * VOCAB];
    static const plx_type kept[] = {PLX_F32, PLX_BF16, PLX_F16};
    plx_model *model, *again;
    expect_ok(context, plx_model_load(context, GOLDEN "gpt_neox", NULL, &model)); /* stored in f16 */
    forward_logits(model, before);
    for (size_t i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "converted-%zu", i);
        plx_layout layout = {.family = i == 1 ? "gpt_neox" : NULL, .convert = true, .type = kept[i]};
        expect_ok(context, plx_model_save_as(model, test_path(name), &layout));
        expect_ok(context, plx_model_load(context, test_path(name), NULL, &again));
        forward_logits(again, after);
        double worst = 0;
        for (size_t j = 0; j < LENGTH * VOCAB; j++) worst = fmax(worst, fabs(before[j] - after[j]));
        assert_true(kept[i] == PLX_BF16 ? worst > 1e-4 && worst < 0.3 : worst == 0);
        plx_model_free(again);
    }
    plx_model_free(model);
}

static void test_not_writable(void **state)
{
    (void)state;
    plx_model *model;
    plx_layout llama = {.family = "llama"}, unknown = {.family = "mamba"};
    const char *out = test_path("not-written");
    expect_ok(context, plx_model_load(context, GOLDEN "gpt_neox", NULL, &model));
    expect_error(context, PLX_ERROR_UNSUPPORTED, "the family llama cannot say", plx_model_save_as(model, out, &llama));
    expect_error(context, PLX_ERROR_VALUE, "no family 'mamba'; there are llama, qwen2, gpt_neox",
                 plx_model_save_as(model, out, &unknown));
    plx_model_free(model);
    expect_ok(context, plx_model_load(context, GOLDEN "qwen2", NULL, &model));
    expect_error(context, PLX_ERROR_UNSUPPORTED, "the family llama cannot say attention_",
                 plx_model_save_as(model, out, &llama));
    plx_model_free(model);
    char *config = test_config("nexus", "{}", 2, NULL);
    expect_ok(context, plx_model_create(context, config, NULL, &model));
    free(config);
    expect_error(context, PLX_ERROR_UNSUPPORTED, "layer 0 is of the mixer nexus",
                 plx_model_save_as(model, out, &llama));
    plx_model_free(model);
    assert_false(plx_file_exists(out));
}

/* ---- configurations ---- */

/* A directory of a family with this config.json and no weights. */
static plx_status open_config(const char *text, plx_plan *plan)
{
    static int number;
    char name[64];
    snprintf(name, sizeof name, "family%d", number++);
    const char *path = test_path(name);
    expect_ok(context, plx_directory_make(context, path));
    snprintf(name + strlen(name), sizeof name - strlen(name), "/config.json");
    test_file(name, text, strlen(text));
    return plx_plan_model(context, path, 1, 8, plan);
}

#define LLAMA(more)                                                                                                    \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 16, "                     \
    "\"intermediate_size\": 24, \"num_attention_heads\": 2, \"num_hidden_layers\": 2, \"vocab_size\": 11" more "}"
#define NEOX(more)                                                                                                     \
    "{\"model_type\": \"gpt_neox\", \"hidden_size\": 16, \"intermediate_size\": 24, \"num_attention_heads\": 2, "      \
    "\"num_hidden_layers\": 2, \"vocab_size\": 11" more "}"

static void accept(const char *text)
{
    plx_plan plan;
    expect_ok(context, open_config(text, &plan));
    assert_int_equal(plan.layer_count, 2);
    plx_plan_free(context, &plan);
}
static void refuse(const char *text, plx_status code, const char *message)
{
    plx_plan plan;
    expect_error(context, code, message, open_config(text, &plan));
}

/* What older and newer programs write, and SmolLM2's own additions. */
static void test_configs_accepted(void **state)
{
    (void)state;
    accept(LLAMA(""));
    accept(LLAMA(
        ", \"rope_theta\": 500000, \"rope_scaling\": null, \"pretraining_tp\": 1, \"torch_dtype\": \"bfloat16\""));
    accept(LLAMA(
        ", \"eos_token_id\": [3, 4, 5], \"is_llama_config\": true, \"rope_interleaved\": false, \"use_mrope\": false"));
    accept(LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"some_new_thing\": null"));
    accept(LLAMA(", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32.0, \"low_freq_factor\": 1.0, "
                 "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}"));
    accept(NEOX(", \"rotary_pct\": 0.25, \"partial_rotary_factor\": 0.25, \"rotary_emb_base\": 10000, "
                "\"rope_theta\": 10000, \"hidden_dropout\": 0.0"));
}

static void test_configs_refused(void **state)
{
    (void)state;
    refuse("{\"model_type\": \"mamba\"}", PLX_ERROR_UNSUPPORTED, "model_type 'mamba' is not supported");
    refuse("{\"model_type\": 3}", PLX_ERROR_VALUE, "model_type");
    refuse(LLAMA(", \"logit_scale\": 0.5"), PLX_ERROR_UNSUPPORTED,
           "'logit_scale' (0.5) is not known for the family llama");
    refuse(LLAMA(", \"quantization_config\": {\"bits\": 4}"), PLX_ERROR_UNSUPPORTED, "quantization_config");
    refuse(LLAMA(", \"hidden_act\": \"gelu\""), PLX_ERROR_VALUE, "llama.hidden_act: 'gelu' is not supported");
    refuse(LLAMA(", \"hidden_act\": 3"), PLX_ERROR_VALUE, "hidden_act");
    refuse(LLAMA(", \"rope_interleaved\": true"), PLX_ERROR_VALUE, "rope_interleaved");
    refuse(LLAMA(", \"partial_rotary_factor\": 0.5"), PLX_ERROR_VALUE, "partial_rotary_factor");
    refuse(LLAMA(", \"rope_scaling\": {\"rope_type\": \"longrope\"}"), PLX_ERROR_VALUE, "'longrope'");
    refuse(LLAMA(", \"rope_scaling\": {\"factor\": 2}"), PLX_ERROR_VALUE, "rope_scaling");
    refuse(LLAMA(", \"rope_scaling\": {\"type\": \"linear\"}"), PLX_ERROR_VALUE, "needs the key 'factor'");
    refuse(LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2, \"alpha\": 1}"), PLX_ERROR_VALUE,
           "'alpha'");
    refuse(LLAMA(", \"rope_scaling\": 2"), PLX_ERROR_VALUE, "rope_scaling");
    refuse(LLAMA(", \"rope_scaling\": {}, \"rope_parameters\": {}"), PLX_ERROR_VALUE, "rope_parameters");
    refuse(LLAMA(", \"num_key_value_heads\": [1, 2]"), PLX_ERROR_VALUE, "num_key_value_heads");
    refuse(LLAMA(", \"layer_types\": [\"full_attention\", \"sliding_attention\"]"), PLX_ERROR_VALUE, "layer_types");
    refuse(NEOX(", \"rotary_pct\": 0.25, \"partial_rotary_factor\": 0.5"), PLX_ERROR_VALUE, "rotary_pct");
    refuse(NEOX(", \"num_key_value_heads\": 1"), PLX_ERROR_UNSUPPORTED, "num_key_value_heads");
    refuse("{\"model_type\": \"llama\", \"architectures\": [\"LlamaForSequenceClassification\"]}", PLX_ERROR_VALUE,
           "LlamaForSequenceClassification");
    refuse("{\"model_type\": \"llama\"}", PLX_ERROR_VALUE, "'vocab_size' is missing");
    refuse("{\"model_type\": \"llama\", \"vocab_size\": 11, \"hidden_size\": 8, \"intermediate_size\": 8, "
           "\"num_attention_heads\": 2, \"num_hidden_layers\": 9999999999}",
           PLX_ERROR_VALUE, "num_hidden_layers");
}

/* Rows of packed tensors come in our order without being unpacked. */
static void test_packed_rows(void **state)
{
    (void)state;
    plx_source source;
    plx_model *model, *loaded;
    plx_config config;
    expect_ok(context, plx_source_open(context, GOLDEN "gpt_neox.gguf", &source));
    expect_ok(context, plx_config_parse(context, source.config, &config));
    expect_ok(context, plx_model_outline(context, &config, PLX_F32, &model));
    expect_ok(context, plx_model_load(context, GOLDEN "gpt_neox.gguf", NULL, &loaded));
    const char *name = "model.layers.1.mixer.k_proj.weight";
    plx_source_tensor tensor;
    expect_ok(context, plx_source_find(&source, model, plx_model_find_param(model, name), &tensor));
    assert_int_equal(tensor.count, 32);
    assert_int_equal(tensor.row_bytes,
                     plx_packing_bytes(tensor.stored->packing) * 32 / plx_packing_numbers(tensor.stored->packing));
    double expected[32 * 32];
    expect_ok(context, plx_model_read_tensor(loaded, name, false, expected, 32 * 32));
    for (size_t first = 0; first < 32; first += 5) {
        unsigned char rows[5 * 128];
        float numbers[5 * 32];
        size_t count = 32 - first < 5 ? 32 - first : 5;
        expect_ok(context, plx_source_read_rows(&source, &tensor, first, count, rows));
        plx_packing_unpack(tensor.stored->packing, rows, count * 32 / plx_packing_numbers(tensor.stored->packing),
                           numbers);
        for (size_t i = 0; i < count * 32; i++) assert_true((double)numbers[i] == expected[first * 32 + i]);
    }
    plx_model_free(model);
    plx_model_free(loaded);
    plx_source_close(&source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directories),     cmocka_unit_test(test_ggufs),
        cmocka_unit_test(test_packed_types),    cmocka_unit_test(test_packed_rows),
        cmocka_unit_test(test_written_back),    cmocka_unit_test(test_converted_types),
        cmocka_unit_test(test_not_writable),    cmocka_unit_test(test_configs_accepted),
        cmocka_unit_test(test_configs_refused),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
