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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(families), cmocka_unit_test(adapters),
                                       cmocka_unit_test(retrofitted)};
    return cmocka_run_group_tests(tests, open_context, close_context);
}
