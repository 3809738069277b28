/* test_adapter.c - low-rank adapters: what they are at the start, what they add, merging, targets, decoding. (Their
 * gradients are checked with every mixer by test_mixers.) */
#include "support/models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 11
#define ADAPTER "\"adapter\": {\"rank\": 3, \"alpha\": 5}"

static double largest_difference(const double *a, const double *b, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++) most = fmax(most, fabs(a[i] - b[i]));
    return most;
}

static size_t adapter_tensors(const plx_model *model)
{
    size_t count = 0;
    for (size_t i = 0; i < model->param_count; i++) count += strstr(model->params[i]->name, ".lora_") != NULL;
    return count;
}

/* B begins at 0: the model with adapters is the model without. */
static void nothing_at_the_start(void **state)
{
    (void)state;
    plx_context *context = test_context(2, NULL, NULL);
    char *without = test_config("attention", "{}", 2, NULL), *with = test_config("attention", "{}", 2, ADAPTER);
    plx_model_options options = {.seed = 3, .type = PLX_F64};
    plx_model *plain, *adapted;
    expect_ok(context, plx_model_create(context, without, &options, &plain));
    expect_ok(context, plx_model_create(context, with, &options, &adapted));
    assert_int_equal(adapter_tensors(adapted), 2 * 2 * 7);
    test_batch batch = make_batch(2, 9, VOCAB, 4, 1);
    double *a = test_logits(plain, &batch.batch), *b = test_logits(adapted, &batch.batch);
    assert_true(largest_difference(a, b, 2 * 9 * VOCAB) == 0);
    free(a);
    free(b);
    free_batch(&batch);
    plx_model_free(plain);
    plx_model_free(adapted);
    free(with);
    free(without);
    plx_context_free(context);
}

/* Merged weights give the same logits, for every mixer; and the adapter did matter. */
static void merging(void **state)
{
    (void)state;
    for (size_t m = 0; plx_mixers[m] != NULL; m++) {
        if (!mixer_is_tested(plx_mixers[m]->name)) continue;
        plx_context *context = test_context(2, NULL, NULL);
        char *config = test_config(plx_mixers[m]->name, plx_mixers[m]->cases[0], 2, ADAPTER ", \"mlp_bias\": true");
        plx_model *model = test_model(context, config, PLX_F64, 5), *merged, *again;
        expect_ok(context, plx_model_merge(model, &merged));
        assert_int_equal(adapter_tensors(merged), 0);
        assert_int_equal(merged->param_count + adapter_tensors(model), model->param_count);
        test_batch batch = make_batch(2, 9, VOCAB, 4, 1);
        double *a = test_logits(model, &batch.batch), *b = test_logits(merged, &batch.batch);
        assert_true(largest_difference(a, b, 2 * 9 * VOCAB) < 1e-10);
        const char *name = "model.layers.0.ffn.up_proj.weight";
        double before[24 * 16], after[24 * 16];
        expect_ok(context, plx_model_read_tensor(model, name, false, before, 24 * 16));
        expect_ok(context, plx_model_read_tensor(merged, name, false, after, 24 * 16));
        assert_true(largest_difference(before, after, 24 * 16) > 1e-2);
        assert_int_equal(plx_model_merge(merged, &again), PLX_ERROR_VALUE);
        assert_null(again);
        free(a);
        free(b);
        free_batch(&batch);
        plx_model_free(model);
        plx_model_free(merged);
        free(config);
        plx_context_free(context);
    }
}

/* A step through a session is the forward with adapters too; the config survives a round trip. */
static void decoding(void **state)
{
    (void)state;
    plx_context *context = test_context(2, NULL, NULL);
    char *config = test_config("attention", "{}", 2, ADAPTER);
    plx_model *model = test_model(context, config, PLX_F32, 5), *again;
    assert_non_null(strstr(plx_model_config(model), "\"alpha\": 5.0"));
    expect_ok(context, plx_model_create(context, plx_model_config(model), NULL, &again));
    assert_int_equal(adapter_tensors(again), adapter_tensors(model));
    test_batch batch = make_batch(1, 9, VOCAB, 0, 1);
    double *a = test_logits(model, &batch.batch), b[9 * VOCAB];
    plx_session *session;
    expect_ok(context, plx_session_create(model, NULL, &session));
    for (size_t t = 0; t < 9; t++) {
        float logits[VOCAB];
        plx_session_row row = {.tokens = batch.inputs + t, .count = 1};
        expect_ok(context, plx_session_step(session, &row, 1, logits, NULL));
        for (size_t i = 0; i < VOCAB; i++) b[t * VOCAB + i] = logits[i];
    }
    assert_true(relative_error(b, a, 9 * VOCAB) < 1e-5);
    free(a);
    free_batch(&batch);
    plx_session_free(session);
    plx_model_free(model);
    plx_model_free(again);
    free(config);
    plx_context_free(context);
}

static void targets(void **state)
{
    (void)state;
    static const struct {
        const char *adapter, *says;
        size_t tensors;
    } cases[] = {
        {"{\"targets\": [\"q_proj\", \"v_proj\"]}", NULL, 8},
        {"{\"targets\": [\"model.layers.1.*\"]}", NULL, 14},
        {"{\"targets\": [\"*.0.mixer.?_proj\"], \"rank\": 1, \"alpha\": 0.5}", NULL, 8},
        {"{\"targets\": [\"q_proj\", \"c_attn\"]}", "c_attn", 0},
        {"{\"targets\": []}", "targets", 0},
        {"{\"targets\": [3]}", "targets", 0},
        {"{\"targets\": \"q_proj\"}", "targets", 0},
        {"{\"rank\": 0}", "rank", 0},
        {"{\"rank\": 1e9}", "rank", 0},
        {"{\"alpha\": -1}", "alpha", 0},
        {"{\"dropout\": 0.1}", "dropout", 0},
        {"[]", "adapter", 0},
    };
    plx_context *context = test_context(1, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char extra[200];
        snprintf(extra, sizeof extra, "\"adapter\": %s", cases[i].adapter);
        char *config = test_config("attention", "{}", 2, extra);
        plx_model *model;
        plx_status status = plx_model_create(context, config, NULL, &model);
        if (cases[i].says == NULL) {
            expect_ok(context, status);
            assert_int_equal(adapter_tensors(model), cases[i].tensors);
            plx_model_free(model);
        } else {
            assert_int_not_equal(status, PLX_OK);
            if (strstr(plx_context_error(context)->message, cases[i].says) == NULL)
                fail_msg("%s: says '%s'", cases[i].adapter, plx_context_error(context)->message);
        }
        free(config);
    }
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_at_the_start), cmocka_unit_test(merging),
                                       cmocka_unit_test(decoding), cmocka_unit_test(targets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
