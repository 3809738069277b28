/* test_retrofit.c - layers replaced: what begins as the old layer does, what says that it does not, what is refused. */
#include "lab/retrofit.h"
#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 11

static plx_difference difference_of(plx_model *a, plx_model *b)
{
    int32_t *tokens;
    size_t count;
    plx_difference found;
    expect_ok(a->context, plx_retrofit_probe(a, &tokens, &count));
    assert_int_equal(count, 64); /* the config's positions */
    expect_ok(a->context, plx_model_difference(a, b, tokens, count, &found));
    plx_free(a->context, tokens);
    return found;
}

static size_t warnings;
static void count_warnings(void *user, plx_log_level level, const char *message)
{
    (void)user;
    if (level == PLX_LOG_WARNING && strstr(message, "does not begin as") != NULL) warnings++;
}
static plx_context *counting_context(void)
{
    plx_context_options options = {.threads = 2, .log = count_warnings};
    plx_context *context = NULL;
    assert_int_equal(plx_context_create(&options, &context), PLX_OK);
    warnings = 0;
    return context;
}

/* Whether every tensor that only the new model has gets a gradient. */
static bool new_tensors_learn(plx_model *old, plx_model *new)
{
    test_batch batch = make_batch(2, 17, VOCAB, 0, 4);
    double loss;
    bool all = true;
    expect_ok(new->context, plx_model_gradients(new, &batch.batch, &loss));
    for (size_t i = 0; i < new->param_count; i++) {
        const plx_param *param = new->params[i];
        if (plx_model_find_param(old, param->name) != NULL) continue;
        if (strstr(param->name, ".inner_") != NULL) continue; /* behind a gate at 0, which opens first */
        double *values = malloc(param->elements * sizeof *values), sum = 0;
        expect_ok(new->context, plx_model_read_tensor(new, param->name, true, values, param->elements));
        for (size_t j = 0; j < param->elements; j++) sum += fabs(values[j]);
        all &= sum > 0;
        free(values);
    }
    free_batch(&batch);
    return all;
}

static void exact_beginnings(void **state)
{
    (void)state;
    static const char *const olds[] = {
        "{}", "{\"window\": 9, \"num_key_value_heads\": 2, \"attention_bias\": true, \"attention_out_bias\": true}",
        "{\"qk_norm\": true, \"partial_rotary_factor\": 0.7, \"num_attention_heads\": 3, \"head_dim\": 9}",
        "{\"rope\": false}"};
    static const char *const layers[] = {
        "1:nexus,order=2,gate=scalar", "all:nexus",      "0,2:nexus,order=3,inner=self",
        "every 2:nexus,inner=own",     "0-1:simplicial", "2:simplicial,window=%w"};
    for (size_t o = 0; o < sizeof olds / sizeof *olds; o++)
        for (size_t l = 0; l < sizeof layers / sizeof *layers; l++) {
            plx_context *context = counting_context();
            char *config = test_config("attention", olds[o], 3, NULL), text[64];
            const char *given = text;
            snprintf(text, sizeof text, "%s", layers[l]);
            char *window = strstr(text, "%w");
            if (window != NULL) strcpy(window, o == 1 ? "[9, 4]" : "[null, 4]");
            plx_model *old = test_model(context, config, PLX_F64, 5), *new;
            expect_ok(context, plx_model_retrofit(old, &given, 1, 3, &new));
            plx_difference found = difference_of(old, new);
            assert_true(found.range > 0.1);
            if (!(found.largest_change <= 1e-12 * found.range))
                fail_msg("%s onto %s: %g of %g", text, olds[o], found.largest_change, found.range);
            assert_int_equal(warnings, 0);
            assert_true(new_tensors_learn(old, new));
            plx_model_free(new);
            plx_model_free(old);
            plx_context_free(context);
            free(config);
        }
}

/* Each says so, computes something else, and keeps what has a place in the new model. */
static void unequal_beginnings(void **state)
{
    (void)state;
    static const char *const layers[] = {"1:nexus,gate=none",          "1:grassmann,rank=4,offsets=[1, 2]",
                                         "1:attention,window=3",       "1:simplicial,form=det",
                                         "1:simplicial,bias=[0, 1]",   "1:nexus,window=3",
                                         "1:simplicial,position=none", "1:simplicial,window=[5, 4]"};
    for (size_t l = 0; l < sizeof layers / sizeof *layers; l++) {
        plx_context *context = counting_context();
        char *config = test_config("attention", "{}", 2, NULL);
        plx_model *old = test_model(context, config, PLX_F64, 5), *new;
        expect_ok(context, plx_model_retrofit(old, &layers[l], 1, 3, &new));
        plx_difference found = difference_of(old, new);
        assert_true(found.largest_change > 1e-6 * found.range);
        assert_int_equal(warnings, 1);
        double before[24 * 16], after[24 * 16];
        const char *name = "model.layers.1.ffn.up_proj.weight";
        expect_ok(context, plx_model_read_tensor(old, name, false, before, 24 * 16));
        expect_ok(context, plx_model_read_tensor(new, name, false, after, 24 * 16));
        assert_memory_equal(before, after, sizeof before);
        plx_model_free(new);
        plx_model_free(old);
        plx_context_free(context);
        free(config);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *layers, *says;
    } cases[] = {
        {"", "LAYERS:MIXER"},
        {"1", "LAYERS:MIXER"},
        {"1:", "LAYERS:MIXER"},
        {"3:nexus", "no layer 3"},
        {"2-1:nexus", "before the colon"},
        {"-1:nexus", "before the colon"},
        {"1,:nexus", "before the colon"},
        {"x:nexus", "before the colon"},
        {"every 0:nexus", "every N"},
        {"every 9:nexus", "every N"},
        {"every:nexus", "every N"},
        {"99999999999999999999999:nexus", "before the colon"},
        {"1:nexuss", "nexuss"},
        {"1:nexus,ordr=2", "ordr"},
        {"1:nexus,order=two", "order"},
        {"1:nexus,order=", "order"},
        {"1:nexus,[", "1:nexus"},
        {"1:nexus,gate=3", "gate"},
        {"1:simplicial,window=3", "window"},
        {"1:simplicial,position=[1]", "position"},
        {"1,1:nexus", NULL},
    };
    plx_context *context = counting_context();
    char *config = test_config("attention", "{}", 3, NULL);
    plx_model *old = test_model(context, config, PLX_F32, 5), *new;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        plx_status status = plx_model_retrofit(old, &cases[i].layers, 1, 0, &new);
        if (cases[i].says == NULL) {
            assert_int_equal(status, PLX_OK);
            plx_model_free(new);
            continue;
        }
        assert_int_not_equal(status, PLX_OK);
        assert_null(new);
        if (strstr(plx_context_error(context)->message, cases[i].says) == NULL)
            fail_msg("%s: says '%s'", cases[i].layers, plx_context_error(context)->message);
    }
    const char *twice[] = {"0-1:nexus", "every 2:simplicial"};
    assert_int_equal(plx_model_retrofit(old, twice, 2, 0, &new), PLX_ERROR_VALUE);
    assert_non_null(strstr(plx_context_error(context)->message, "twice"));
    plx_model_free(old);
    plx_context_free(context);
    free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(exact_beginnings), cmocka_unit_test(unequal_beginnings),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
