/* test_gradients.c - the gradients of models of other programs' families, as they are, with adapters, and retrofitted,
 * against central differences of the loss in double. (Those of every mixer and option: test_mixers.) */
#include "lab/retrofit.h"
#include "support/files.h"

#include "core/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/"

static plx_model *load(const char *base, const char *adapter)
{
    char path[96], adapted[96];
    plx_model *model;
    snprintf(path, sizeof path, GOLDEN "families/%s", base);
    snprintf(adapted, sizeof adapted, GOLDEN "adapters/%s", adapter != NULL ? adapter : "");
    plx_model_options options = {.type = PLX_F64, .adapter = adapter != NULL ? adapted : NULL};
    expect_ok(context, plx_model_load(context, path, &options, &model));
    return model;
}

static void families(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",        "llama-grouped",   "llama-biases", "llama-linear",
                                        "llama-llama3", "llama-yarn",      "qwen2",        "qwen2-window",
                                        "gpt_neox",     "gpt_neox-serial", "llama3.gguf",  "gpt_neox.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        plx_model *model = load(names[i], NULL);
        check_model_gradients(model, names[i]);
        plx_model_free(model);
    }
}

static const struct {
    const char *base, *adapter;
} adapted[] = {
    {"llama-grouped", "llama"}, {"llama-biases", "llama-patterns"}, {"qwen2", "qwen2"}, {"gpt_neox", "gpt_neox"}};

static void adapters(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof adapted / sizeof *adapted; i++) {
        plx_model *model = load(adapted[i].base, adapted[i].adapter);
        check_model_gradients(model, adapted[i].adapter);
        plx_model_free(model);
    }
}

/* Away from the exact beginning, where the derivatives of much that is new are 0. */
static void disturb(plx_model *model)
{
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *param = model->params[i];
        plx_random random;
        double *values = malloc(param->elements * sizeof *values);
        plx_random_init(&random, 4, i);
        expect_ok(context, plx_model_read_tensor(model, param->name, false, values, param->elements));
        for (size_t j = 0; j < param->elements; j++) values[j] += 0.1 * plx_random_normal(&random);
        expect_ok(context, plx_model_write_tensor(model, param->name, values, param->elements));
        free(values);
    }
}

/* Layers replaced, and the adapter that was made for the plain model on what has its names. */
static void retrofitted(void **state)
{
    (void)state;
    static const char *const layers[] = {"1:nexus,gate=scalar", "all:simplicial", "0:attention,window=5"};
    for (size_t i = 0; i < sizeof adapted / sizeof *adapted; i++)
        for (size_t l = 0; l < sizeof layers / sizeof *layers; l++) {
            char name[96], adapter[96];
            plx_model *plain = load(adapted[i].base, NULL), *changed, *model;
            snprintf(name, sizeof name, "%s with %s", adapted[i].adapter, layers[l]);
            snprintf(adapter, sizeof adapter, GOLDEN "adapters/%s", adapted[i].adapter);
            expect_ok(context, plx_model_retrofit(plain, &layers[l], 1, 3, &changed));
            expect_ok(context, plx_model_with_adapter(changed, adapter, &model));
            disturb(model);
            check_model_gradients(model, name);
            plx_model_free(plain);
            plx_model_free(changed);
            plx_model_free(model);
        }
}

/* The same adapter on the model and on one of the same numbers; B is 0 no more. */
static plx_model *with_fresh_adapter(plx_model *old)
{
    plx_model *made;
    json_t *config = json_loads(plx_model_config(old), 0, NULL);
    json_object_set_new(config, "adapter", json_pack("{s:i, s:f}", "rank", 3, "alpha", 4.0));
    expect_ok(context, plx_model_rebuild(old, config, 1, &made));
    json_decref(config);
    for (size_t i = 0; i < made->param_count; i++) {
        const plx_param *param = made->params[i];
        bool lora = strstr(param->name, ".lora_") != NULL;
        made->params[i]->trainable = lora;
        if (!lora) continue;
        double values[1024];
        plx_random random;
        plx_random_init(&random, 6, i);
        assert_true(param->elements <= 1024);
        for (size_t j = 0; j < param->elements; j++) values[j] = 0.3 * plx_random_normal(&random);
        expect_ok(context, plx_model_write_tensor(made, param->name, values, param->elements));
    }
    plx_model_free(old);
    return made;
}

/* Adapters on weights that are held packed: loss and gradients of the same weights as plain numbers. */
static void packed_below(void **state)
{
    (void)state;
    static const plx_weights ways[] = {PLX_WEIGHTS_STORED, PLX_WEIGHTS_Q8_0, PLX_WEIGHTS_Q4_0, PLX_WEIGHTS_BF16};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
        for (int type = PLX_F32; type <= PLX_F64; type++) {
            char name[32];
            double loss[2];
            size_t count[2], packed = 0;
            plx_model *held, *plain;
            plx_model_options options = {.type = (plx_type)type, .weights = ways[w]};
            expect_ok(context, plx_model_load(context, GOLDEN "families/llama.gguf", &options, &held));
            for (size_t i = 0; i < held->param_count; i++) packed += held->params[i]->form != PLX_FORM_PLAIN;
            assert_true((packed > 0) == (ways[w] != PLX_WEIGHTS_BF16));
            snprintf(name, sizeof name, "held-%zu-%d", w, type);
            expect_ok(context, plx_model_save(held, test_path(name))); /* the numbers that the packed form says */
            options.weights = PLX_WEIGHTS_TYPE;
            expect_ok(context, plx_model_load(context, test_path(name), &options, &plain));
            held = with_fresh_adapter(held);
            plain = with_fresh_adapter(plain);
            test_batch batch = make_batch(2, 13, held->config.vocab_size, 6, 3);
            expect_ok(context, plx_model_gradients(held, &batch.batch, &loss[0]));
            expect_ok(context, plx_model_gradients(plain, &batch.batch, &loss[1]));
            double *a = test_gradients(held, &batch.batch, &count[0]),
                   *b = test_gradients(plain, &batch.batch, &count[1]);
            assert_int_equal(count[0], count[1]);
            double bound = type == PLX_F64 ? 1e-12 : 1e-5, error = relative_error(a, b, count[0]);
            if (!(error <= bound && loss[0] - loss[1] <= bound * loss[1] && loss[1] - loss[0] <= bound * loss[1]))
                fail_msg("weights %zu in %s: loss %.12g and %.12g, gradients differ by %.2g", w,
                         plx_type_name((plx_type)type), loss[0], loss[1], error);
            free(a);
            free(b);
            free_batch(&batch);
            plx_model_free(held);
            plx_model_free(plain);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(families), cmocka_unit_test(adapters),
                                       cmocka_unit_test(retrofitted), cmocka_unit_test(packed_below)};
    return cmocka_run_group_tests(tests, open_context, close_context);
}
