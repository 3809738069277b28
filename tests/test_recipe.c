/* test_recipe.c - the learning rate's schedules, and recipes: what is wrong is named, what is left out is filled in. */
#include "support/recipes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- schedule ---- */

static void assert_near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-12 * fabs(expected))) fail_msg("%.17g is not %.17g", value, expected);
}

static void test_schedule(void **state)
{
    plx_train_options options = plx_train_defaults();
    (void)state;
    options.steps = 100;
    options.warmup_steps = 10;
    options.lr = 1.0;
    assert_near(plx_schedule_lr(&options, 1), 0.1);
    assert_near(plx_schedule_lr(&options, 10), 1.0);
    assert_near(plx_schedule_lr(&options, 55), 0.55); /* half way from 10 to 100: the mean of 1 and .1 */
    assert_near(plx_schedule_lr(&options, 100), 0.1);
    assert_true(plx_schedule_lr(&options, 11) < 1.0 && plx_schedule_lr(&options, 11) > 0.99);
    options.schedule = PLX_SCHEDULE_WSD;
    options.decay_steps = 20;
    assert_near(plx_schedule_lr(&options, 5), 0.5);
    assert_near(plx_schedule_lr(&options, 80), 1.0);
    assert_near(plx_schedule_lr(&options, 90), 0.55);
    assert_near(plx_schedule_lr(&options, 100), 0.1);
    options.decay_steps = 0;
    assert_near(plx_schedule_lr(&options, 100), 1.0);
    options.decay_steps = 95; /* more than what follows the warm-up: from its end on, without a jump */
    assert_near(plx_schedule_lr(&options, 10), 1.0);
    assert_near(plx_schedule_lr(&options, 55), 0.55);
    assert_near(plx_schedule_lr(&options, 100), 0.1);
    options.schedule = PLX_SCHEDULE_CONSTANT;
    assert_near(plx_schedule_lr(&options, 3), 0.3);
    assert_near(plx_schedule_lr(&options, 100), 1.0);
    options.warmup_steps = 0;
    assert_near(plx_schedule_lr(&options, 1), 1.0);
    options.schedule = PLX_SCHEDULE_COSINE;
    options.warmup_steps = 200; /* longer than the run */
    assert_near(plx_schedule_lr(&options, 100), 0.5);
}

/* ---- recipe errors ---- */

static void test_recipe_errors(void **state)
{
    static const struct { const char *text, *override, *wanted[3];
    } cases[] = {
        {TINY_TASK "out: x\nmodell: 1\n", NULL, {"r.yaml:", "modell", "'model'"}},
        {TINY_TASK, NULL, {"r.yaml", "'out'"}},
        {"train: {steps: 3}\nout: x\n", NULL, {"r.yaml", "'model'"}},
        {"", NULL, {"r.yaml"}},
        {TINY_TASK "out: x\n", "train.stepz=4", {"stepz", "'steps'"}},
        {TINY_TASK "out: x\n", "train.steps=0", {"train.steps", "0"}},
        {TINY_TASK "out: x\n", "train.steps=-3", {"train.steps", "-3"}},
        {TINY_TASK "out: x\n", "train.lr=.nan", {"finite number"}},
        {TINY_TASK "out: x\n", "train.lr=-1e-3", {"train.lr"}},
        {TINY_TASK "out: x\n", "train.beta2=1.0", {"train.beta2"}},
        {TINY_TASK "out: x\n", "train.log_every=0", {"train.log_every"}},
        {TINY_TASK "out: x\n", "train.accumulate=1000000", {"train.accumulate", "rows"}},
        {TINY_TASK "out: x\n", "train.schedule=linear", {"train.schedule", "linear"}},
        {TINY_TASK "out: x\n", "train.precision=f16", {"train.precision", "bf16"}},
        {TINY_TASK "out: x\n", "train.recompute=some", {"train.recompute"}},
        {TINY_TASK "out: x\n", "train.freeze={a: 1}", {"train.freeze"}},
        {TINY_TASK "out: x\n", "sample.temp=1", {"temp", "temperature"}},
        {TINY_TASK "out: x\n", "data.task=mqra", {"mqra"}},
        {TINY_TASK "out: x\n", "model.vocab_size=99", {"model.vocab_size", "99", "32"}},
        {TINY_TASK "out: x\n", "model.max_position_embeddings=8", {"model.max_position_embeddings", "32"}},
        {TINY_TASK "out: x\n", "model.num_attention_heads=3", {"num_attention_heads", "3", "16"}},
        {TINY_TASK "out: x\n", "model.layers=[]", {"layers"}},
        {TINY_TASK "out: x\n", "model.hidden_size=-1", {"model.hidden_size"}},
        {TINY_TASK "out: x\n", "model.layers=[{mixer: attention, repeat: 0}]", {"repeat"}},
        {TINY_TASK "out: x\n",
         "model.layers=[{mixer: attention, repeat: 4000}, {mixer: attention, repeat: 4000}]",
         {"repeat", "4096"}},
        {TINY_TASK "out: x\n", "model.layers=[7]", {"mapping"}},
        /* lines: the model's section begins the file */
        {"model:\n  hidden_size: 16\n  intermediate_sise: 3\n  num_attention_heads: 2\n  layers: [{mixer: attention}]\n"
         "data: {task: mqar}\nout: x\n",
         NULL,
         {"r.yaml", "intermediate_si"}},
        {"model:\n  hidden_size: 16\n  intermediate_size: 8\n  num_attention_heads: 2\n  layers:\n    - mixer: nexus\n"
         "    - mixer: attention\n      repeat: 2\n      window: 0\ndata: {task: mqar}\nout: x\n",
         NULL,
         {"r.yaml:9", "window", "0"}},
        {"model:\n  hidden_size: 16\n  intermediate_size: 8\n  num_attention_heads: 2\n  layers:\n    - mixer: "
         "attention\n"
         "      windw: 4\n      repeat: 2\ndata: {task: mqar}\nout: x\n",
         NULL,
         {"r.yaml:7", "windw", "'window'"}},
        {"model:\n  hidden_size: 16\n  intermediate_size: 8\n  num_attention_heads: 2\n  layers:\n    - mixer: "
         "atention\n"
         "data: {task: mqar}\nout: x\n",
         NULL,
         {"r.yaml:6", "atention"}},
        {"a: [1, 2\n", NULL, {"r.yaml"}},
    };
    plx_context *context = test_context(1, NULL, NULL);
    char path[256];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        plx_recipe *recipe = NULL;
        test_recipe_file(path, "r", cases[i].text);
        plx_status status = plx_recipe_load(context, path, &cases[i].override, cases[i].override != NULL, &recipe);
        const char *message = plx_context_error(context)->message;
        if (status == PLX_OK) fail_msg("case %zu was taken", i);
        assert_null(recipe);
        assert_null(strchr(message, '\n'));
        for (size_t j = 0; j < 3 && cases[i].wanted[j] != NULL; j++) {
            if (strstr(message, cases[i].wanted[j]) == NULL) {
                fail_msg("case %zu: '%s' lacks '%s'", i, message, cases[i].wanted[j]);
            }
        }
    }
    plx_recipe *recipe = NULL;
    assert_int_equal(plx_recipe_load(context, "/nowhere/r.yaml", NULL, 0, &recipe), PLX_ERROR_FILE);
    plx_context_free(context);
}

static void test_recipe_resolved(void **state)
{
    plx_context *context = test_context(1, NULL, NULL);
    char path[256], again[256], out[256];
    (void)state;
    test_recipe_file(path, "resolved", TINY_MODEL "data: {train: nothing.txt, sequence_length: 48}\n" TINY_TRAIN);
    plx_recipe *recipe = test_recipe(context, path, test_path_in(out, "resolved"),
                                     "model.layers=[{mixer: nexus, order: 3, repeat: 2}, {mixer: attention}]",
                              "train.lr=0.1234567890123456", "train.recompute=all");
    json_t *config = json_loads(plx_recipe_config(recipe), 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(config, "vocab_size")), 257);
    assert_int_equal(json_integer_value(json_object_get(config, "max_position_embeddings")), 48);
    assert_int_equal(json_integer_value(json_object_get(config, "bos_token_id")), 256);
    assert_string_equal(json_string_value(json_object_get(config, "tokenizer")), "bytes");
    const json_t *layers = json_object_get(config, "layers");
    assert_int_equal(json_array_size(layers), 3);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(layers, 1), "order")), 3);
    assert_null(json_object_get(json_array_get(layers, 1), "repeat"));
    assert_int_equal(recipe->options.recompute, 3);
    assert_string_equal(plx_recipe_out(recipe), out);
    json_decref(config);

    /* The description is a recipe, and the same one. */
    json_t *described = plx_recipe_describe(recipe);
    char *text = plx_json_text(described);
    test_recipe_file(again, "again", text);
    plx_recipe *other = NULL;
    expect_ok(context, plx_recipe_load(context, again, NULL, 0, &other));
    json_t *described_again = plx_recipe_describe(other);
    assert_true(json_equal(described, described_again));
    assert_string_equal(plx_recipe_config(recipe), plx_recipe_config(other));
    assert_true(other->options.lr == 0.1234567890123456);
    json_decref(described);
    json_decref(described_again);
    free(text);
    plx_recipe_free(other);
    plx_recipe_free(recipe);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_recipe_errors),
        cmocka_unit_test(test_recipe_resolved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
