/* test_mixers.c - what every mixer of the registry must satisfy, for each of its cases. A new mixer is tested here
 * by its line in registry.def and its `cases`; nothing in this file names a mixer. (Steps against forward:
 * test_infer.c.) */
#include "core/random.h"
#include "support/models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VOCAB 11

/* Of a model made from the config. */
static void check_gradients(const char *config, const char *name)
{
    plx_context *context = test_context(2, NULL, NULL);
    plx_model *model = test_model(context, config, PLX_F64, 5);
    check_model_gradients(model, name);
    plx_model_free(model);
    plx_context_free(context);
}

static void gradient_case(const char *mixer, const char *layer_case)
{
    char name[600], *config = test_config(mixer, layer_case, 1, NULL);
    snprintf(name, sizeof name, "%s %s", mixer, layer_case);
    check_gradients(config, name);
    free(config);
}
static void gradients_match_central_differences(void **state)
{
    (void)state;
    each_case(gradient_case);
}

/* The other parts of the model: norms, activations, biases, untied head, parallel residual, no FFN, two layers. */
static void model_options_match_central_differences(void **state)
{
    (void)state;
    static const char *const extras[] = {
        "\"norm\": \"layer\", \"hidden_act\": \"gelu\", \"mlp_bias\": true",
        "\"tie_word_embeddings\": false, \"parallel_residual\": true",
        "\"parallel_residual\": true, \"norm\": \"layer\", \"intermediate_size\": 0",
        "\"intermediate_size\": 0",
        "\"partial_rotary_factor\": 0.5, \"rope_theta\": 100",
        "\"rope\": false",
        "\"adapter\": {\"rank\": 3, \"alpha\": 0.6}",
        "\"adapter\": {\"rank\": 2, \"alpha\": 1, \"targets\": [\"down_proj\", \"*.1.ffn.up_*\"]}",
    };
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        for (size_t i = 0; i < sizeof extras / sizeof *extras && mixer_is_tested(plx_mixers[m]->name); i++) {
            char *config = test_config(plx_mixers[m]->name, plx_mixers[m]->cases[0], 2, extras[i]);
            check_gradients(config, extras[i]);
            free(config);
        }
}

/* The fast model's logits and gradients against the double reference's. An operation may err by 2e-6 forward and 1e-5
 * backward (its own tests); a layer chains about six, in quadrature. */
static void check_precision(plx_model *fast, plx_model *exact, const plx_batch *batch, const char *mixer,
                            const char *layer_case, const char *level)
{
    size_t count;
    double *a = test_logits(fast, batch), *b = test_logits(exact, batch);
    double *ga = test_gradients(fast, batch, &count), *gb = test_gradients(exact, batch, &count);
    double forward = relative_error(a, b, batch->rows * batch->length * VOCAB),
           backward = relative_error(ga, gb, count);
    if (!(forward < 5e-6) || !(backward < 2.5e-5))
        fail_msg("%s %s, %s, %zux%zu: forward error %.2g, backward %.2g", mixer, layer_case, level, batch->rows,
                 batch->length, forward, backward);
    free(a);
    free(b);
    free(ga);
    free(gb);
}

/* f32 kernels of every level, over odd sizes. */
static void precision_case(const char *mixer, const char *layer_case)
{
    static const size_t sizes[][2] = {{1, 1}, {3, 7}, {2, 17}, {1, 64}};
    static const char *const levels[] = {"portable", "avx2", "avx512"};
    char *config = test_config(mixer, layer_case, 1, NULL);
    for (size_t l = 0; l < 3; l++) {
        plx_context *context = test_context(2, NULL, levels[l]);
        if (strcmp(plx_context_level(context), levels[l]) != 0) { /* the processor has less */
            plx_context_free(context);
            continue;
        }
        plx_model *fast = test_model(context, config, PLX_F32, 5), *exact = test_model(context, config, PLX_F64, 5);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            test_batch batch = make_batch(sizes[s][0], sizes[s][1], VOCAB, s % 2 ? 9 : 0, s);
            check_precision(fast, exact, &batch.batch, mixer, layer_case, levels[l]);
            free_batch(&batch);
        }
        plx_model_free(fast);
        plx_model_free(exact);
        plx_context_free(context);
    }
    free(config);
}
static void fast_kernels_agree_with_the_reference(void **state)
{
    (void)state;
    each_case(precision_case);
}

/* Changing a token changes no earlier output and nothing in another document, to the last bit. */
static void causality_case(const char *mixer, const char *layer_case)
{
    char *config = test_config(mixer, layer_case, 2, NULL);
    plx_context *context = test_context(2, NULL, NULL);
    plx_model *model = test_model(context, config, PLX_F32, 5);
    size_t T = 37;
    test_batch batch = make_batch(1, T, VOCAB, 0, 8);
    for (size_t t = 20; t < T; t++) batch.start[t] = 20; /* two documents */
    double *before = test_logits(model, &batch.batch);
    for (size_t at = 0; at < T; at += 6) {
        int32_t old = batch.inputs[at];
        batch.inputs[at] = (old + 1) % VOCAB;
        double *after = test_logits(model, &batch.batch);
        batch.inputs[at] = old;
        for (size_t t = 0; t < T; t++) {
            bool may = t >= at && batch.start[t] == batch.start[at];
            if (may) continue;
            for (size_t v = 0; v < VOCAB; v++)
                if (after[t * VOCAB + v] != before[t * VOCAB + v])
                    fail_msg("%s %s: token %zu changed the output at %zu", mixer, layer_case, at, t);
        }
        free(after);
    }
    free(before);
    free_batch(&batch);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void later_tokens_and_other_documents_change_nothing(void **state)
{
    (void)state;
    each_case(causality_case);
}

/* Packed documents give the logits that each gives alone. */
static void packing_case(const char *mixer, const char *layer_case)
{
    char *config = test_config(mixer, layer_case, 2, NULL);
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = test_model(context, config, PLX_F32, 5);
    size_t T = 41;
    test_batch batch = make_batch(1, T, VOCAB, 12, 4);
    double *packed = test_logits(model, &batch.batch);
    for (size_t first = 0; first < T;) {
        size_t end = first;
        while (end < T && (size_t)batch.start[end] == first) end++;
        plx_batch alone = {.rows = 1, .length = end - first, .inputs = batch.inputs + first};
        double *logits = test_logits(model, &alone);
        double error = relative_error(logits, packed + first * VOCAB, (end - first) * VOCAB);
        if (!(error < 1e-5)) fail_msg("%s %s: document at %zu: error %.2g", mixer, layer_case, first, error);
        free(logits);
        first = end;
    }
    free(packed);
    free_batch(&batch);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void packed_documents_are_as_alone(void **state)
{
    (void)state;
    each_case(packing_case);
}

typedef struct outcome { double *logits, *gradients; size_t logit_count, gradient_count; } outcome;
static outcome run_case(const char *config, int threads, const char *device, bool poison, size_t recompute)
{
    plx_context *context = test_context(threads, device, NULL);
    plx_context_poison(context, poison);
    plx_model *model = test_model(context, config, PLX_F32, 5);
    for (size_t i = 0; i < recompute; i++) model->config.layers[i].recompute = true;
    test_batch batch = make_batch(3, 29, VOCAB, 11, 2);
    outcome made = {.logit_count = 3 * 29 * VOCAB};
    made.logits = test_logits(model, &batch.batch);
    made.gradients = test_gradients(model, &batch.batch, &made.gradient_count);
    free_batch(&batch);
    plx_model_free(model);
    plx_context_free(context);
    return made;
}
static void expect_same(const outcome *a, const outcome *b, const char *mixer, const char *layer_case, const char *what)
{
    if (memcmp(a->logits, b->logits, a->logit_count * sizeof(double)) != 0)
        fail_msg("%s %s: logits differ with %s (error %.2g)", mixer, layer_case, what,
                 relative_error(b->logits, a->logits, a->logit_count));
    if (memcmp(a->gradients, b->gradients, a->gradient_count * sizeof(double)) != 0)
        fail_msg("%s %s: gradients differ with %s (error %.2g)", mixer, layer_case, what,
                 relative_error(b->gradients, a->gradients, a->gradient_count));
}
static void free_outcome(outcome *made)
{
    free(made->logits);
    free(made->gradients);
}

/* The same bits with any number of threads, with NaN in all memory that nobody wrote, on the fenced device, and with
 * layers recomputed. */
static void same_bits_case(const char *mixer, const char *layer_case)
{
    char *config = test_config(mixer, layer_case, 2, NULL);
    static const struct { int threads; const char *device; bool poison; size_t recompute; const char *what;
    } ways[] = {
        {2, "cpu", false, 0, "2 threads"},           {3, "cpu", false, 0, "3 threads"},
        {1, "cpu", true, 0, "NaN-filled memory"},    {2, "fenced", false, 0, "the fenced device"},
        {1, "cpu", true, 1, "one layer recomputed"}, {2, "cpu", false, 2, "both layers recomputed"},
    };
    outcome plain = run_case(config, 1, "cpu", false, 0);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        outcome other = run_case(config, ways[i].threads, ways[i].device, ways[i].poison, ways[i].recompute);
        expect_same(&plain, &other, mixer, layer_case, ways[i].what);
        free_outcome(&other);
    }
    free_outcome(&plain);
    free(config);
}
static void threads_poison_fence_and_recomputation_change_no_bit(void **state)
{
    (void)state;
    each_case(same_bits_case);
}

/* Saved and loaded: the same config, tensors and logits. */
static void round_trip_case(const char *mixer, const char *layer_case)
{
    char directory[] = "/tmp/plexus-test-XXXXXX", path[128], *config = test_config(mixer, layer_case, 2, NULL);
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = test_model(context, config, PLX_F32, 5), *again = NULL;
    test_batch batch = make_batch(2, 15, VOCAB, 0, 1);
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/model", directory);
    expect_ok(context, plx_model_save(model, path));
    assert_int_equal(plx_model_save(model, path), PLX_ERROR_EXISTS);
    expect_ok(context, plx_model_load(context, path, NULL, &again));
    if (strcmp(plx_model_config(model), plx_model_config(again)) != 0)
        fail_msg("%s %s: the config changed:\n%s\n%s", mixer, layer_case, plx_model_config(model),
                 plx_model_config(again));
    double *a = test_logits(model, &batch.batch), *b = test_logits(again, &batch.batch);
    if (memcmp(a, b, 2 * 15 * VOCAB * sizeof *a) != 0) fail_msg("%s %s: the logits changed", mixer, layer_case);
    free(a);
    free(b);
    free_batch(&batch);
    plx_model_free(model);
    plx_model_free(again);
    plx_context_free(context);
    free(config);
    snprintf(path, sizeof path, "rm -rf %s", directory);
    assert_int_equal(system(path), 0);
}
static void checkpoints_round_trip(void **state)
{
    (void)state;
    each_case(round_trip_case);
}

/* Keys that no mixer reads are refused by all. */
static void unknown_keys_are_refused(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    for (size_t m = 0; plx_mixers[m] != NULL; m++) {
        plx_model *model;
        char *config = test_config(plx_mixers[m]->name, "{\"no_such_key\": 1}", 1, NULL);
        assert_int_not_equal(plx_model_create(context, config, NULL, &model), PLX_OK);
        assert_non_null(strstr(plx_context_error(context)->message, "no_such_key"));
        free(config);
    }
    plx_context_free(context);
}

static size_t planned_bytes(plx_model *model, size_t length)
{
    plx_plan plan;
    expect_ok(model->context, plx_plan_outline(model, 1, length, PLX_PASS_KEEP | PLX_PASS_TRAINING, &plan));
    size_t bytes = plan.total_bytes;
    plx_plan_free(model->context, &plan);
    return bytes;
}

/* Training on one row: twice the length adds twice the bytes that the doubling before added, and what kernels take
 * beside the plan (sums of their own for a bounded number of tasks) is less than 8 times the plan. One float for each
 * pair of tokens and head would be 15 times. */
static void memory_case(const char *mixer, const char *layer_case)
{
    plx_context *context = test_context(2, NULL, NULL);
    char *config = test_config(mixer, layer_case, 1, NULL);
    plx_model *model = test_model(context, config, PLX_F32, 5);
    size_t half = planned_bytes(model, 4096), whole = planned_bytes(model, 8192), twice = planned_bytes(model, 16384);
    if (!(whole > half && (double)(twice - whole) < 2.01 * (double)(whole - half)))
        fail_msg("%s %s: %zu, %zu and %zu bytes for 4096, 8192, 16384 tokens", mixer, layer_case, half, whole, twice);
    test_batch batch = make_batch(1, 2048, VOCAB, 0, 3);
    double loss;
    expect_ok(context, plx_model_gradients(model, &batch.batch, &loss));
    if (!(context->scratch_bytes < 8 * planned_bytes(model, 2048)))
        fail_msg("%s %s: kernels took %zu bytes, the plan %zu", mixer, layer_case, context->scratch_bytes,
                 planned_bytes(model, 2048));
    free_batch(&batch);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void memory_grows_linearly_with_length(void **state)
{
    (void)state;
    each_case(memory_case);
}

/* Grids of dimensions at which kernels have edges. */
static void edges_agree_with_the_reference(void **state)
{
    (void)state;
    static const struct { size_t heads, kv, dim, length; } shapes[] = {
        {3, 1, 16, 65}, {2, 2, 24, 63}, {1, 1, 80, 33}, {4, 2, 64, 130}, {6, 2, 8, 129}, {1, 1, 128, 15},
    };
    plx_context *context = test_context(2, NULL, NULL);
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && mixer_is_tested(plx_mixers[m]->name); s++) {
            char layer[128];
            snprintf(layer, sizeof layer,
                     "{\"num_attention_heads\": %zu, \"num_key_value_heads\": %zu, \"head_dim\": %zu}", shapes[s].heads,
                     shapes[s].kv, shapes[s].dim);
            /* deviation 0.3 would push the logits of wide heads far beyond 10: the embedding is normalised, so width
             * alone does it */
            char *config = test_config(plx_mixers[m]->name, layer, 1, "\"hidden_size\": 8");
            plx_model *fast = test_model(context, config, PLX_F32, 5), *exact = test_model(context, config, PLX_F64, 5);
            test_batch batch = make_batch(2, shapes[s].length, VOCAB, 50, s);
            check_precision(fast, exact, &batch.batch, plx_mixers[m]->name, layer, "the best level");
            free_batch(&batch);
            plx_model_free(fast);
            plx_model_free(exact);
            free(config);
        }
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_central_differences),
        cmocka_unit_test(model_options_match_central_differences),
        cmocka_unit_test(fast_kernels_agree_with_the_reference),
        cmocka_unit_test(later_tokens_and_other_documents_change_nothing),
        cmocka_unit_test(packed_documents_are_as_alone),
        cmocka_unit_test(threads_poison_fence_and_recomputation_change_no_bit),
        cmocka_unit_test(checkpoints_round_trip),
        cmocka_unit_test(unknown_keys_are_refused),
        cmocka_unit_test(memory_grows_linearly_with_length),
        cmocka_unit_test(edges_agree_with_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
