/* test_model.c - the model beyond its mixers: dropout, loss in chunks, weights stored in 16 bits, plans, refusals. */
#include "core/random.h"
#include "io/files.h"
#include "model/passes.h"
#include "support/models.h"
#include "train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VOCAB 11
#define PAPER "{\"rank\": 4, \"offsets\": [1, 3], \"block\": \"paper\"}"

static double training_loss(plx_model *model, const plx_batch *batch, int flags)
{
    plx_arena arena;
    plx_loss_pass pass;
    plx_score score = {0};
    expect_ok(model->context, plx_loss_pass_create(model->context, batch->rows * batch->length, &pass));
    pass.scale = 1.0 / plx_batch_weight(batch);
    plx_arena_init(&arena, model);
    expect_ok(model->context,
              plx_arena_run(&arena, batch, NULL, NULL, flags | PLX_PASS_TRAINING, 3, 9, plx_pass_loss, &pass));
    plx_loss_pass_score(&pass, batch, &score);
    plx_arena_release(&arena);
    plx_loss_pass_release(model->context, &pass);
    return score.loss_sum / score.weight;
}

/* Backward drops what forward dropped: gradients with dropout on against central differences with the same stream. */
static void dropout_backward_matches_its_forward(void **state)
{
    (void)state;
    plx_context *context = test_context(2, NULL, NULL);
    char *config = test_config("grassmann", PAPER, 2, "\"dropout\": 0.4");
    plx_model *model = test_model(context, config, PLX_F64, 5);
    test_batch batch = make_batch(2, 9, VOCAB, 0, 3);
    for (size_t i = 0; i < 18; i++)
        batch.inputs[i] = (int32_t)(i * 5 % VOCAB); /* no repeats: their planes have kinks */
    for (int recompute = 0; recompute < 2; recompute++) {
        model->config.layers[0].recompute = recompute == 1;
        plx_model_free_gradients(model);
        expect_ok(context, plx_model_allocate_gradients(model, false));
        training_loss(model, &batch.batch, PLX_PASS_KEEP);
        const char *name = "model.layers.0.ffn.up_proj.weight";
        size_t n = plx_model_find_param(model, name)->elements;
        double *w = malloc(n * 8), *g = malloc(n * 8), slope = 0, moved[2];
        expect_ok(context, plx_model_read_tensor(model, name, false, w, n));
        expect_ok(context, plx_model_read_tensor(model, name, true, g, n));
        for (int side = 0; side < 2; side++) {
            for (size_t j = 0; j < n; j++) w[j] += (side == 0 ? 1e-5 : -2e-5) * (j % 3 + 1.0);
            expect_ok(context, plx_model_write_tensor(model, name, w, n));
            moved[side] = training_loss(model, &batch.batch, 0);
        }
        for (size_t j = 0; j < n; j++) {
            slope += g[j] * (j % 3 + 1.0);
            w[j] += 1e-5 * (j % 3 + 1.0);
        }
        expect_ok(context, plx_model_write_tensor(model, name, w, n));
        double measured = (moved[0] - moved[1]) / 2e-5;
        if (!(fabs(measured - slope) < 1e-6 * fabs(slope) + 1e-9))
            fail_msg("slope %.10g, measured %.10g", slope, measured);
        free(w);
        free(g);
    }
    /* and it does drop: without it the loss differs */
    plx_score score = {0};
    expect_ok(context, plx_model_score(model, &batch.batch, &score));
    assert_true(fabs(score.loss_sum / score.weight - training_loss(model, &batch.batch, 0)) > 1e-6);
    free_batch(&batch);
    plx_model_free(model);
    free(config);
    plx_context_free(context);
}

static void dropout_without_a_block_for_it_is_refused(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config("attention", "{}", 1, "\"dropout\": 0.1");
    plx_model *model;
    assert_int_equal(plx_model_create(context, config, NULL, &model), PLX_ERROR_VALUE);
    assert_non_null(strstr(plx_context_error(context)->message, "dropout"));
    free(config);
    plx_context_free(context);
}

/* A vocabulary so large that the loss works through the rows in several chunks, against the loss of the whole logits.
 */
static void loss_in_chunks_is_the_loss_of_the_logits(void **state)
{
    (void)state;
    enum { LARGE = 5003, T = 200 };
    plx_context *context = test_context(2, NULL, NULL);
    char *config = test_config("attention", "{}", 1, "\"vocab_size\": 5003, \"tie_word_embeddings\": false");
    plx_model *model = test_model(context, config, PLX_F32, 5);
    test_batch batch = make_batch(2, T, LARGE, 0, 3);
    double *logits = test_logits(model, &batch.batch), expected = 0;
    plx_score score = {0};
    plx_run run;
    plx_loss_pass pass = {.scale = 1};
    for (size_t i = 0; i < 2 * T; i++) {
        double sum = 0, top = logits[i * LARGE];
        for (size_t v = 0; v < LARGE; v++) top = fmax(top, logits[i * LARGE + v]);
        for (size_t v = 0; v < LARGE; v++) sum += exp(logits[i * LARGE + v] - top);
        expected += batch.mask[i] * (top + log(sum) - logits[i * LARGE + (size_t)batch.targets[i]]);
    }
    expect_ok(context, plx_model_score(model, &batch.batch, &score));
    assert_true(fabs(score.loss_sum - expected) < 1e-5 * expected);
    /* all logits would be 8 MB; a chunk of 256 rows is 5.1 */
    expect_ok(context, plx_pass_measure(model, 2, T, PLX_PASS_KEEP, NULL, plx_pass_loss, &pass, &run));
    assert_true(run.scratch.peak < (size_t)6 << 20);
    free(logits);
    free_batch(&batch);
    plx_model_free(model);
    free(config);
    plx_context_free(context);
}

/* Matrices stored in 16 bits: kept so they give the bits of their conversion to f32; they do not train, and save as
 * they are. */
static void weights_of_16_bits(void **state)
{
    (void)state;
    static const plx_type types[] = {PLX_BF16, PLX_F16};
    plx_context *context = test_context(2, NULL, NULL);
    for (size_t i = 0; i < 2; i++) {
        char directory[] = "/tmp/plexus-test-XXXXXX", path[128], again[128], command[512];
        char *text = test_config("nexus", "{\"attention_bias\": true}", 1, NULL);
        plx_node *root;
        plx_config config;
        plx_model *model, *kept, *wide;
        plx_trainer *trainer;
        plx_train_options options = plx_train_defaults();
        plx_model_options keep = {.keep_stored_types = true};
        assert_non_null(mkdtemp(directory));
        snprintf(path, sizeof path, "%s/model", directory);
        snprintf(again, sizeof again, "%s/again", directory);
        snprintf(command, sizeof command, "cmp -s %s/model.safetensors %s/model.safetensors && rm -r %s", path, again,
                 directory);
        expect_ok(context, plx_node_parse_json(context, "test", text, strlen(text), &root));
        expect_ok(context, plx_config_parse(context, root, &config));
        expect_ok(context, plx_model_outline(context, &config, PLX_F32, &model));
        for (size_t p = 0; p < model->param_count; p++)
            if (model->params[p]->rank == 2) model->params[p]->type = types[i];
        expect_ok(context, plx_model_allocate(model));
        expect_ok(context, plx_model_initialise(model, 7));
        expect_ok(context, plx_model_save(model, path));
        expect_ok(context, plx_model_load(context, path, &keep, &kept));
        expect_ok(context, plx_model_load(context, path, NULL, &wide));
        assert_int_equal(plx_model_find_param(kept, "model.embed_tokens.weight")->type, types[i]);
        assert_int_equal(plx_model_find_param(wide, "model.embed_tokens.weight")->type, PLX_F32);
        test_batch batch = make_batch(2, 9, VOCAB, 4, 3);
        double *a = test_logits(kept, &batch.batch), *b = test_logits(wide, &batch.batch);
        assert_memory_equal(a, b, 2 * 9 * VOCAB * sizeof *a);
        assert_int_equal(plx_trainer_create(kept, &options, 2, 9, &trainer), PLX_ERROR_VALUE);
        expect_ok(context, plx_model_set_trainable(kept, "*", false)); /* frozen, it may stand in a trainer */
        expect_ok(context, plx_model_set_trainable(kept, "*norm*", true));
        expect_ok(context, plx_trainer_create(kept, &options, 2, 9, &trainer));
        plx_step_report report;
        expect_ok(context, plx_trainer_step(trainer, &batch.batch, 1, &report));
        plx_trainer_free(trainer);
        expect_ok(context, plx_model_save(model, again));
        assert_int_equal(system(command), 0);
        free(a);
        free(b);
        free_batch(&batch);
        plx_node_free(context, root);
        plx_model_free(model);
        plx_model_free(kept);
        plx_model_free(wide);
        free(text);
    }
    plx_context_free(context);
}

/* The plan's sums are what a trainer takes, and recomputation takes less. */
static void plans_agree_with_what_runs(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config("nexus", "{}", 3, NULL);
    plx_model *model = test_model(context, config, PLX_F32, 5);
    plx_node *root;
    plx_plan plan, less;
    plx_trainer *trainer;
    plx_train_options options = plx_train_defaults();
    expect_ok(context, plx_node_parse_json(context, "test", config, strlen(config), &root));
    expect_ok(context, plx_plan_config(context, root, 4, 16, 0, &plan));
    expect_ok(context, plx_plan_config(context, root, 4, 16, 3, &less));
    expect_ok(context, plx_trainer_create(model, &options, 4, 16, &trainer));
    assert_int_equal(trainer->arena.bytes, plan.bytes.activations + plan.bytes.scratch);
    assert_int_equal(plan.layers[0].parameters + plan.layers[1].parameters + plan.layers[2].parameters +
                         (VOCAB + 1) * 24,
                     plan.parameters);
    assert_true(less.bytes.activations < plan.bytes.activations);
    plx_trainer_free(trainer);
    options.recompute = 3;
    expect_ok(context, plx_trainer_create(model, &options, 4, 16, &trainer));
    assert_int_equal(trainer->arena.bytes, less.bytes.activations + less.bytes.scratch);
    plx_trainer_free(trainer);
    plx_plan_free(context, &plan);
    plx_plan_free(context, &less);
    plx_node_free(context, root);
    plx_model_free(model);
    free(config);
    plx_context_free(context);
}

static void bad_batches_are_refused(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config("attention", "{}", 1, NULL);
    plx_model *model = test_model(context, config, PLX_F32, 5);
    double loss;
    for (int fault = 0; fault < 6; fault++) {
        test_batch batch = make_batch(2, 5, VOCAB, 0, 3);
        if (fault == 0) batch.inputs[3] = VOCAB;
        if (fault == 1) batch.targets[7] = -1;
        if (fault == 2) batch.mask[2] = NAN;
        if (fault == 3) batch.start[4] = 2;
        if (fault == 4) batch.batch.rows = 0;
        if (fault == 5) memset(batch.mask, 0, 10 * sizeof(float));
        assert_int_equal(plx_model_gradients(model, &batch.batch, &loss), PLX_ERROR_VALUE);
        free_batch(&batch);
    }
    plx_model_free(model);
    free(config);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropout_backward_matches_its_forward),
        cmocka_unit_test(dropout_without_a_block_for_it_is_refused),
        cmocka_unit_test(loss_in_chunks_is_the_loss_of_the_logits),
        cmocka_unit_test(weights_of_16_bits),
        cmocka_unit_test(plans_agree_with_what_runs),
        cmocka_unit_test(bad_batches_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
