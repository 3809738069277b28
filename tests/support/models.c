/* models.c - see models.h */
#include "support/models.h"

#include "core/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

plx_context *test_context(int threads, const char *device, const char *level)
{
    plx_context_options options = {.threads = threads, .device = device, .level = level};
    plx_context *context = NULL;
    plx_status status = plx_context_create(&options, &context);
    if (status != PLX_OK) fail_msg("no context: %s", plx_status_name(status));
    return context;
}

char *test_config(const char *mixer, const char *layer_case, size_t layers, const char *extra)
{
    char members[512];
    snprintf(members, sizeof members, "{%s}", extra != NULL ? extra : "");
    json_t *config =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", "plexus", "vocab_size", 11, "hidden_size", 24,
                  "intermediate_size", 16, "num_attention_heads", 4, "head_dim", 6, "max_position_embeddings", 64);
    json_t *more = json_loads(members, 0, NULL), *list = json_array(), *layer = json_loads(layer_case, 0, NULL);
    if (more == NULL || layer == NULL) fail_msg("bad test JSON: %s %s", members, layer_case);
    json_object_update(config, more);
    json_object_set_new(layer, "mixer", json_string(mixer));
    for (size_t i = 0; i < layers; i++) json_array_append(list, layer);
    json_object_set_new(config, "layers", list);
    char *text = json_dumps(config, 0);
    json_decref(config);
    json_decref(more);
    json_decref(layer);
    return text;
}

plx_model *test_model(plx_context *context, const char *config, plx_type type, uint64_t seed)
{
    plx_model *model = NULL;
    plx_model_options options = {.seed = seed, .type = type};
    expect_ok(context, plx_model_create(context, config, &options, &model));
    for (size_t i = 0; i < plx_model_tensor_count(model); i++) {
        plx_tensor_info info;
        plx_random random;
        expect_ok(context, plx_model_tensor(model, i, &info));
        double *values = malloc(info.elements * sizeof *values);
        bool norm = strstr(info.name, "norm") != NULL && strstr(info.name, ".weight") != NULL;
        plx_random_init(&random, seed, plx_hash(info.name));
        for (size_t j = 0; j < info.elements; j++) {
            double x = plx_random_normal(&random);
            /* rounded to f32, so that models of every type have the same weights */
            values[j] = (float)(norm ? 1.0 + 0.2 * x : info.rank == 2 ? 0.3 * x : 0.1 * x);
        }
        expect_ok(context, plx_model_write_tensor(model, info.name, values, info.elements));
        free(values);
    }
    return model;
}

test_batch make_batch(size_t rows, size_t length, size_t vocab, size_t document, uint64_t seed)
{
    size_t count = rows * length;
    plx_random random;
    test_batch made = {.inputs = malloc(count * 4),
                       .targets = malloc(count * 4),
                       .start = malloc(count * 4),
                       .mask = malloc(count * 4)};
    plx_random_init(&random, seed, 77);
    for (size_t i = 0; i < count; i++) {
        size_t t = i % length;
        made.inputs[i] = (int32_t)plx_random_below(&random, vocab);
        made.targets[i] = (int32_t)plx_random_below(&random, vocab);
        made.mask[i] = plx_random_below(&random, 5) == 0 ? 0.0f : 1.0f;
        bool begins = t == 0 || (document > 0 && plx_random_below(&random, document) == 0);
        made.start[i] = begins ? (int32_t)t : made.start[i - 1];
    }
    made.mask[0] = 1.0f;
    made.batch = (plx_batch){.rows = rows,
                             .length = length,
                             .inputs = made.inputs,
                             .targets = made.targets,
                             .mask = made.mask,
                             .start = made.start};
    return made;
}

void free_batch(test_batch *batch)
{
    free(batch->inputs);
    free(batch->targets);
    free(batch->start);
    free(batch->mask);
}

double *test_logits(plx_model *model, const plx_batch *batch)
{
    plx_model_info info;
    expect_ok(model->context, plx_model_describe(model, &info));
    double *logits = malloc(batch->rows * batch->length * info.vocab_size * sizeof *logits);
    expect_ok(model->context, plx_model_logits(model, batch, logits));
    return logits;
}

double *test_gradients(plx_model *model, const plx_batch *batch, size_t *count)
{
    double loss, *all = malloc(plx_model_parameter_count(model) * sizeof *all);
    *count = 0;
    expect_ok(model->context, plx_model_gradients(model, batch, &loss));
    for (size_t i = 0; i < plx_model_tensor_count(model); i++) {
        plx_tensor_info info;
        plx_model_tensor(model, i, &info);
        if (!info.trainable) continue;
        expect_ok(model->context, plx_model_read_tensor(model, info.name, true, all + *count, info.elements));
        *count += info.elements;
    }
    return all;
}

double relative_error(const double *a, const double *b, size_t count)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (difference == 0) return 0;
    return sqrt(difference / norm); /* NaN and Inf come through */
}

bool mixer_is_tested(const char *mixer)
{
    const char *only = getenv("PLX_TEST_MIXER");
    if (only == NULL || only[0] == '\0') return true;
    if (plx_mixer_find(only) == NULL) fail_msg("PLX_TEST_MIXER: there is no mixer '%s'", only);
    return strcmp(only, mixer) == 0;
}

void each_case(void (*body)(const char *mixer, const char *layer_case))
{
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        for (size_t c = 0; plx_mixers[m]->cases[c] != NULL && mixer_is_tested(plx_mixers[m]->name); c++)
            body(plx_mixers[m]->name, plx_mixers[m]->cases[c]);
}
