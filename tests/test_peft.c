/* test_peft.c - adapters in the peft package's files: what it wrote, against its own logits
 * (tests/golden/make_adapters.py); what Plexus writes, read again; and what is refused, by name.
 * (tests/checks/peft_equal.py has peft read what Plexus writes.) */
#include "support/files.h"

#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/"
enum { VOCAB = 40, LENGTH = 44 };

static const struct {
    const char *name, *base, *family;
} cases[] = {{"llama", "llama-grouped", "llama"},
             {"llama-patterns", "llama-biases", "llama"},
             {"qwen2", "qwen2", "qwen2"},
             {"gpt_neox", "gpt_neox", "gpt_neox"}};
enum { CASES = sizeof cases / sizeof *cases };

static plx_model *load(const char *path, const char *adapter, plx_type type)
{
    plx_model *model;
    plx_model_options options = {.type = type, .adapter = adapter};
    expect_ok(context, plx_model_load(context, path, &options, &model));
    return model;
}

static plx_model *load_case(int index, plx_type type)
{
    char base[96], adapter[96];
    snprintf(base, sizeof base, GOLDEN "families/%s", cases[index].base);
    snprintf(adapter, sizeof adapter, GOLDEN "adapters/%s", cases[index].name);
    return load(base, adapter, type);
}

static double *logits_of(plx_model *model)
{
    int32_t tokens[LENGTH];
    for (int i = 0; i < LENGTH; i++) tokens[i] = (i * i * 7 + i * 3 + 5) % VOCAB;
    plx_batch batch = {.rows = 1, .length = LENGTH, .inputs = tokens};
    return test_logits(model, &batch);
}

/* Largest difference, as a share of b's range. */
static double difference(const double *a, const double *b)
{
    double least = b[0], most = b[0], worst = 0;
    for (int i = 0; i < LENGTH * VOCAB; i++) {
        least = fmin(least, b[i]);
        most = fmax(most, b[i]);
        if (!(fabs(a[i] - b[i]) <= worst)) worst = fabs(a[i] - b[i]);
    }
    return worst / (most - least);
}

static void golden_logits(const char *name, double *expected)
{
    plx_safetensors *file;
    float values[LENGTH * VOCAB];
    expect_ok(context, plx_safetensors_open(context, GOLDEN "adapters/logits.safetensors", &file));
    const plx_safetensor *found = plx_safetensors_find(file, name);
    assert_non_null(found);
    expect_ok(context, plx_safetensors_read(file, found, values, sizeof values));
    for (int i = 0; i < LENGTH * VOCAB; i++) expected[i] = values[i];
    plx_safetensors_close(file);
}

/* The adapter beside the weights, and merged into them, gives peft's logits: within what transformers itself rounds. */
static void test_theirs(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        for (int type = PLX_F32; type <= PLX_F64; type++) {
            static double expected[LENGTH * VOCAB];
            plx_model *merged, *model = load_case(i, (plx_type)type);
            golden_logits(cases[i].name, expected);
            expect_ok(context, plx_model_merge(model, &merged));
            double *beside = logits_of(model), *inside = logits_of(merged);
            double apart[] = {difference(beside, expected), difference(inside, expected)};
            if (!(apart[0] <= 1e-5 && apart[1] <= 1e-5))
                fail_msg("%s: logits differ by %.2g of their range, %.2g merged", cases[i].name, apart[0], apart[1]);
            free(beside);
            free(inside);
            plx_model_free(merged);
            plx_model_free(model);
        }
}

/* What is written reads back as the same model, to the last bit of the logits in double where no module is fused. */
static void test_ours(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        char base[96], name[32];
        snprintf(base, sizeof base, GOLDEN "families/%s", cases[i].base);
        snprintf(name, sizeof name, "ours-%s", cases[i].name);
        plx_model *model = load_case(i, PLX_F64);
        expect_ok(context,
                  plx_model_save_adapter(model, test_path(name), i % 2 ? cases[i].family : NULL, "somebody/base"));
        plx_model *again = load(base, test_path(name), PLX_F64);
        double *before = logits_of(model), *after = logits_of(again);
        double apart = difference(after, before);
        /* f32 in the file: B of a module with another scale was scaled in double */
        if (!(apart <= 1e-7)) fail_msg("%s: logits differ by %.2g of their range", cases[i].name, apart);
        char path[128];
        size_t bytes;
        snprintf(path, sizeof path, "%s/adapter_config.json", test_path(name));
        char *text = test_read(path, &bytes);
        assert_non_null(strstr(text, "\"base_model_name_or_path\": \"somebody/base\""));
        assert_true((strstr(text, "query_key_value") != NULL) == (i == 3));
        free(text);
        free(before);
        free(after);
        plx_model_free(model);
        plx_model_free(again);
    }
}

/* An adapter made on the plain model stands on a retrofitted one too: the projections have the names they had. */
static void test_own_layout(void **state)
{
    (void)state;
    plx_model *model = load(GOLDEN "families/llama-grouped", NULL, PLX_F32), *again;
    expect_ok(context, plx_model_save(model, test_path("own")));
    again = load(test_path("own"), GOLDEN "adapters/llama", PLX_F32);
    assert_non_null(plx_model_find_param(again, "model.layers.1.ffn.down_proj.lora_B.weight"));
    assert_null(plx_model_find_param(again, "model.layers.1.ffn.up_proj.lora_B.weight"));
    plx_model_free(again);
    plx_model_free(model);
}

/* ---- what is not written ---- */

static void test_not_writable(void **state)
{
    (void)state;
    plx_model *model = load(GOLDEN "families/llama-grouped", NULL, PLX_F32);
    expect_error(context, PLX_ERROR_VALUE, "no adapter", plx_model_save_adapter(model, test_path("x"), NULL, NULL));
    plx_model_free(model);
    model = load_case(0, PLX_F32);
    expect_error(context, PLX_ERROR_VALUE, "no family 'gpt2'",
                 plx_model_save_adapter(model, test_path("x"), "gpt2", NULL));
    expect_error(context, PLX_ERROR_UNSUPPORTED, "gpt_neox",
                 plx_model_save_adapter(model, test_path("x"), "gpt_neox", NULL));
    plx_model *again = NULL;
    expect_error(context, PLX_ERROR_VALUE, "merge it first",
                 plx_model_with_adapter(model, GOLDEN "adapters/llama", &again));
    assert_null(again);
    plx_model_free(model);
    char *config = test_config("nexus", "{}", 1, "\"adapter\": {\"rank\": 2}");
    model = test_model(context, config, PLX_F32, 1);
    expect_error(context, PLX_ERROR_UNSUPPORTED, "no family",
                 plx_model_save_adapter(model, test_path("x"), NULL, NULL));
    expect_error(context, PLX_ERROR_UNSUPPORTED, "nexus", plx_model_save_adapter(model, test_path("x"), "llama", NULL));
    plx_model_free(model);
    free(config);
}

/* ---- what is not read ---- */

typedef struct tensor {
    const char *name;
    size_t rows, columns;
} tensor;

static plx_status fetch_ones(void *user, size_t first, size_t count, void *data)
{
    (void)user, (void)first;
    for (size_t i = 0; i < count; i++) ((float *)data)[i] = 1;
    return PLX_OK;
}

/* A directory with this config and these tensors. */
static const char *write_adapter(const char *config, const tensor *tensors, size_t count)
{
    static int number;
    char name[32], path[128];
    plx_safetensors_entry entries[8] = {0};
    snprintf(name, sizeof name, "adapter-%d", number++);
    const char *directory = test_path(name);
    snprintf(path, sizeof path, "mkdir -p %s", directory);
    assert_int_equal(system(path), 0);
    snprintf(path, sizeof path, "%s/adapter_config.json", name);
    test_file(path, config, strlen(config));
    for (size_t i = 0; i < count; i++)
        entries[i] = (plx_safetensors_entry){.name = tensors[i].name,
                                             .type = PLX_F32,
                                             .rank = 2,
                                             .shape = {tensors[i].rows, tensors[i].columns},
                                             .fetch = fetch_ones};
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", directory);
    expect_ok(context, plx_safetensors_write(context, path, entries, count, NULL, NULL));
    return directory;
}

#define Q "base_model.model.model.layers.0.self_attn.q_proj"
static plx_model *base;

static void refuse(const char *config, const tensor *tensors, size_t count, plx_status code, const char *message)
{
    plx_model *made;
    expect_error(context, code, message, plx_model_with_adapter(base, write_adapter(config, tensors, count), &made));
    assert_null(made);
}

static void test_refused_configs(void **state)
{
    (void)state;
    static const struct {
        const char *more;
        plx_status code;
        const char *message;
    } bad[] = {
        {"\"use_dora\": true", PLX_ERROR_VALUE, "use_dora"},
        {"\"bias\": \"all\"", PLX_ERROR_VALUE, "bias"},
        {"\"lora_bias\": true", PLX_ERROR_VALUE, "lora_bias"},
        {"\"fan_in_fan_out\": true", PLX_ERROR_VALUE, "fan_in_fan_out"},
        {"\"modules_to_save\": [\"lm_head\"]", PLX_ERROR_VALUE, "modules_to_save"},
        {"\"layer_replication\": [[0, 1]]", PLX_ERROR_VALUE, "layer_replication"},
        {"\"init_lora_weights\": \"pissa\"", PLX_ERROR_VALUE, "init_lora_weights"},
        {"\"something_new\": 3", PLX_ERROR_VALUE, "something_new"},
        {"\"r\": 0", PLX_ERROR_VALUE, "r: must be"},
        {"\"r\": 2e9", PLX_ERROR_VALUE, "r: must be"},
        {"\"lora_alpha\": -1", PLX_ERROR_VALUE, "lora_alpha"},
        {"\"lora_alpha\": \"8\"", PLX_ERROR_VALUE, "lora_alpha"},
        {"\"alpha_pattern\": {\"q_.*\": 4}", PLX_ERROR_VALUE, "alpha_pattern"},
        {"\"alpha_pattern\": {\"q_proj\": true}", PLX_ERROR_VALUE, "alpha_pattern"},
        {"\"peft_type\": \"IA3\"", PLX_ERROR_VALUE, "duplicate"},
    };
    static const tensor good[] = {{Q ".lora_A.weight", 2, 32}, {Q ".lora_B.weight", 32, 2}};
    plx_model *made;
    const char *fine =
        write_adapter("{\"peft_type\": \"LORA\", \"bias\": \"none\", \"use_dora\": false, \"loftq_config\": {}, "
                      "\"modules_to_save\": null, \"init_lora_weights\": \"gaussian\"}",
                      good, 2);
    expect_ok(context, plx_model_with_adapter(base, fine, &made));
    plx_model_free(made);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char config[160];
        snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", %s}", bad[i].more);
        plx_status code = i + 1 < sizeof bad / sizeof *bad ? bad[i].code : PLX_ERROR_FORMAT;
        refuse(config, good, 2, code, bad[i].message);
    }
    refuse("{\"peft_type\": \"IA3\"}", good, 2, PLX_ERROR_VALUE, "IA3");
    refuse("{}", good, 2, PLX_ERROR_VALUE, "peft_type");
    refuse("[]", good, 2, PLX_ERROR_VALUE, "mapping");
    expect_error(context, PLX_ERROR_FILE, "adapter_config.json",
                 plx_model_with_adapter(base, test_path("nowhere"), &made));
}

static void test_refused_tensors(void **state)
{
    (void)state;
    static const char config[] = "{\"peft_type\": \"LORA\"}";
    static const struct {
        tensor tensors[3];
        size_t count;
        plx_status code;
        const char *message;
    } bad[] = {
        {{{Q ".lora_A.weight", 2, 32}}, 1, PLX_ERROR_FORMAT, "no lora_B"},
        {{{Q ".lora_B.weight", 32, 2}}, 1, PLX_ERROR_FORMAT, "no lora_A"},
        {{{Q ".lora_A.weight", 2, 31}, {Q ".lora_B.weight", 32, 2}}, 2, PLX_ERROR_FORMAT, "[2, 32]"},
        {{{Q ".lora_A.weight", 2, 32}, {Q ".lora_B.weight", 32, 3}}, 2, PLX_ERROR_FORMAT, "[32, 2]"},
        {{{Q ".lora_A.weight", 0, 32}, {Q ".lora_B.weight", 32, 0}}, 2, PLX_ERROR_FORMAT, "rank"},
        {{{Q ".lora_A.weight", 5000, 32}, {Q ".lora_B.weight", 32, 5000}}, 2, PLX_ERROR_FORMAT, "rank"},
        {{{Q ".lora_A.weight", 2, 32}, {Q ".lora_B.weight", 32, 2}, {"base_model.model.lm_head.weight", 1, 1}},
         3,
         PLX_ERROR_UNSUPPORTED,
         "lm_head.weight"},
        {{{"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", 2, 32}},
         1,
         PLX_ERROR_UNSUPPORTED,
         "layers.9"},
        {{{"", 0, 0}}, 0, PLX_ERROR_FORMAT, "no tensors"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(config, bad[i].tensors, bad[i].count, bad[i].code, bad[i].message);
}

/* Memory that runs out at any point is an error, and nothing is left behind. */
static void test_allocation_failures(void **state)
{
    (void)state;
    test_allocator counting = {0};
    plx_context *failing = test_counting_context(&counting);
    plx_model *model, *made;
    expect_ok(failing, plx_model_load(failing, GOLDEN "families/gpt_neox", NULL, &model));
    long held = counting.held, before = counting.calls;
    expect_ok(failing, plx_model_with_adapter(model, GOLDEN "adapters/gpt_neox", &made));
    long calls = counting.calls - before;
    for (long i = 1; i <= calls; i += i < 40 ? 1 : 7) {
        plx_model *none;
        counting.fail_at = counting.calls + i;
        assert_int_equal(plx_model_with_adapter(model, GOLDEN "adapters/gpt_neox", &none), PLX_ERROR_MEMORY);
        counting.fail_at = 0;
        assert_null(none);
    }
    before = counting.calls;
    expect_ok(failing, plx_model_save_adapter(made, test_path("whole"), NULL, NULL));
    calls = counting.calls - before;
    for (long i = 1; i < calls; i += i < 40 ? 1 : 7) {
        counting.fail_at = counting.calls + i;
        assert_int_not_equal(plx_model_save_adapter(made, test_path("part"), NULL, NULL), PLX_OK);
        counting.fail_at = 0;
        assert_null(test_read(test_path("part/adapter_config.json"), &(size_t){0}));
    }
    plx_model_free(made);
    assert_int_equal(counting.held, held);
    plx_model_free(model);
    plx_context_free(failing);
    assert_int_equal(counting.held, 0);
}

static int open_all(void **state)
{
    int failed = open_context(state);
    if (!failed) base = load(GOLDEN "families/llama", NULL, PLX_F32);
    return failed;
}
static int close_all(void **state)
{
    plx_model_free(base);
    return close_context(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_theirs),
        cmocka_unit_test(test_ours),
        cmocka_unit_test(test_own_layout),
        cmocka_unit_test(test_not_writable),
        cmocka_unit_test(test_refused_configs),
        cmocka_unit_test(test_refused_tensors),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
