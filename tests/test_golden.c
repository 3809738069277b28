/* test_golden.c - Plexus against values that PyTorch computed (tests/golden/make_golden.py, which says how to make them
 * again): logits, loss and every gradient of each mixer and option, and the losses of 20 training steps. The values
 * were stored in 32 bits, so the double reference must agree to about 1e-7, the fast kernels to the f32 tolerances. */
#include "io/safetensors.h"
#include "support/models.h"
#include "train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIRECTORY "tests/golden/"

/* ---- the numbers that both sides make alike (see make_golden.py) ---- */

static uint64_t fnv(const char *text)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *text != '\0'; text++) h = (h ^ (unsigned char)*text) * 0x100000001B3u;
    return h;
}
static uint64_t bits(uint64_t stream, uint64_t index)
{
    uint64_t z = (index + 1) * 0x9E3779B97F4A7C15u + stream;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static double unit(uint64_t stream, uint64_t index) { return (double)(bits(stream, index) >> 40) / 8388608.0 - 1.0; }
static uint64_t integer(const char *name, const char *part, uint64_t index, uint64_t below)
{
    char full[64];
    snprintf(full, sizeof full, "%s/%s", name, part);
    return (bits(fnv(full), index) >> 33) % below;
}

static test_batch golden_batch(const char *name, size_t vocab, size_t rows, size_t length)
{
    test_batch made = make_batch(rows, length, vocab, 0, 0);
    for (size_t i = 0; i < rows * length; i++) {
        size_t t = i % length;
        made.inputs[i] = (int32_t)integer(name, "inputs", i, vocab);
        made.targets[i] = (int32_t)integer(name, "targets", i, vocab);
        made.mask[i] = integer(name, "mask", i, 4) != 0;
        bool begins = t == 0 || integer(name, "start", i, 6) == 0;
        made.start[i] = begins ? (int32_t)t : made.start[i - 1];
    }
    return made;
}

static plx_model *golden_model(plx_context *context, const json_t *config, plx_type type, double scale)
{
    char *text = json_dumps(config, 0);
    plx_model *model;
    plx_model_options options = {.type = type};
    expect_ok(context, plx_model_create(context, text, &options, &model));
    free(text);
    for (size_t i = 0; i < plx_model_tensor_count(model); i++) {
        plx_tensor_info info;
        plx_model_tensor(model, i, &info);
        size_t length = strlen(info.name);
        bool norm = strstr(info.name, "norm") != NULL && strcmp(info.name + length - 7, ".weight") == 0;
        double *values = malloc(info.elements * sizeof *values);
        for (size_t j = 0; j < info.elements; j++) {
            double u = unit(fnv(info.name), j);
            values[j] = norm ? 1.0 + 0.25 * u : info.rank == 2 ? scale * u : 0.25 * u;
        }
        expect_ok(context, plx_model_write_tensor(model, info.name, values, info.elements));
        free(values);
    }
    return model;
}

static json_t *read_cases(void)
{
    json_error_t error;
    json_t *root = json_load_file(DIRECTORY "cases.json", 0, &error);
    if (root == NULL) fail_msg("%s: %s (run the tests from the repository's root)", DIRECTORY "cases.json", error.text);
    return root;
}

static double *stored(plx_context *context, plx_safetensors *file, const char *name, const char *tensor, size_t count)
{
    char full[160];
    snprintf(full, sizeof full, "%s/%s", name, tensor);
    const plx_safetensor *found = plx_safetensors_find(file, full);
    if (found == NULL || found->elements != count) fail_msg("%s is not among the golden values in that size", full);
    float *raw = malloc(count * sizeof *raw);
    double *values = malloc(count * sizeof *values);
    expect_ok(context, plx_safetensors_read(file, found, raw, count * sizeof *raw));
    for (size_t i = 0; i < count; i++) values[i] = raw[i];
    free(raw);
    return values;
}

/* Largest of the errors of logits, and of all gradients together. */
static void check_case(plx_context *context, plx_safetensors *file, const json_t *one, plx_type type, double forward,
                       double backward)
{
    const char *name = json_string_value(json_object_get(one, "name"));
    size_t rows = (size_t)json_integer_value(json_object_get(one, "rows")),
           length = (size_t)json_integer_value(json_object_get(one, "length"));
    const json_t *config = json_object_get(one, "config");
    size_t vocab = (size_t)json_integer_value(json_object_get(config, "vocab_size")), tensors = 0;
    char *text = json_dumps(json_object_get(config, "layers"), 0);
    plx_model *model = golden_model(context, config, type, 0.5);
    test_batch batch = golden_batch(name, vocab, rows, length);
    double loss, *logits = test_logits(model, &batch.batch),
                 *expected = stored(context, file, name, "logits", rows * length * vocab);
    double error = relative_error(logits, expected, rows * length * vocab);
    if (!(error < forward)) fail_msg("%s %s %s: logits differ by %.2g", name, plx_type_name(type), text, error);
    free(logits);
    free(expected);
    expect_ok(context, plx_model_gradients(model, &batch.batch, &loss));
    if (!(fabs(loss - json_real_value(json_object_get(one, "loss"))) < forward * 10))
        fail_msg("%s %s: the loss is %.9g", name, text, loss);
    double difference = 0, norm = 0;
    char worst[128] = "";
    double worst_part = 0;
    for (size_t i = 0; i < plx_model_tensor_count(model); i++) {
        plx_tensor_info info;
        plx_model_tensor(model, i, &info);
        double *mine = malloc(info.elements * sizeof *mine),
               *theirs = stored(context, file, name, info.name, info.elements), part = 0;
        expect_ok(context, plx_model_read_tensor(model, info.name, true, mine, info.elements));
        for (size_t j = 0; j < info.elements; j++) {
            part += (mine[j] - theirs[j]) * (mine[j] - theirs[j]);
            norm += theirs[j] * theirs[j];
        }
        if (part > worst_part) {
            worst_part = part;
            snprintf(worst, sizeof worst, "%s", info.name);
        }
        difference += part;
        tensors++;
        free(mine);
        free(theirs);
    }
    error = sqrt(difference / norm);
    if (!(error < backward))
        fail_msg("%s %s %s: gradients differ by %.2g, most in %s", name, plx_type_name(type), text, error, worst);
    if (tensors != (size_t)json_integer_value(json_object_get(one, "tensors")))
        fail_msg("%s %s: %zu tensors", name, text, tensors);
    free_batch(&batch);
    plx_model_free(model);
    free(text);
}

static void check_all(plx_type type, double forward, double backward)
{
    plx_context *context = test_context(2, NULL, NULL);
    plx_safetensors *file;
    json_t *root = read_cases(), *cases = json_object_get(root, "cases");
    expect_ok(context, plx_safetensors_open(context, DIRECTORY "golden.safetensors", &file));
    assert_true(json_array_size(cases) >= 51);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(context, file, json_array_get(cases, i), type, forward, backward);
    plx_safetensors_close(file);
    json_decref(root);
    plx_context_free(context);
}

static void reference_agrees_with_pytorch(void **state)
{
    (void)state;
    check_all(PLX_F64, 2e-7, 2e-7);
}
static void fast_kernels_agree_with_pytorch(void **state)
{
    (void)state;
    check_all(PLX_F32, 5e-6, 2.5e-5);
}

static void twenty_steps_agree_with_pytorch(void **state)
{
    (void)state;
    plx_context *context = test_context(2, NULL, NULL);
    json_t *root = read_cases(), *runs = json_object_get(root, "trained"), *t = json_object_get(root, "train");
    plx_train_options options = plx_train_defaults();
    options.steps = (size_t)json_integer_value(json_object_get(t, "steps"));
    options.lr = json_number_value(json_object_get(t, "lr"));
    options.warmup_steps = (size_t)json_integer_value(json_object_get(t, "warmup_steps"));
    options.min_lr_ratio = json_number_value(json_object_get(t, "min_lr_ratio"));
    options.weight_decay = json_number_value(json_object_get(t, "weight_decay"));
    options.beta1 = json_number_value(json_object_get(t, "beta1"));
    options.beta2 = json_number_value(json_object_get(t, "beta2"));
    options.epsilon = json_number_value(json_object_get(t, "epsilon"));
    options.grad_clip = json_number_value(json_object_get(t, "grad_clip"));
    for (size_t i = 0; i < json_array_size(runs); i++) {
        const json_t *run = json_array_get(runs, i), *config = json_object_get(run, "config"),
                     *losses = json_object_get(run, "losses");
        const char *name = json_string_value(json_object_get(run, "name"));
        size_t rows = (size_t)json_integer_value(json_object_get(run, "rows")),
               length = (size_t)json_integer_value(json_object_get(run, "length"));
        plx_model *model = golden_model(context, config, PLX_F32, 0.25);
        plx_trainer *trainer;
        expect_ok(context, plx_trainer_create(model, &options, rows, length, &trainer));
        for (size_t step = 1; step <= options.steps; step++) {
            char part[32];
            plx_step_report report;
            snprintf(part, sizeof part, "%s/%zu", name, step);
            test_batch batch =
                golden_batch(part, (size_t)json_integer_value(json_object_get(config, "vocab_size")), rows, length);
            expect_ok(context, plx_trainer_step(trainer, &batch.batch, 1, &report));
            double expected = json_real_value(json_array_get(losses, step - 1));
            if (!(fabs(report.loss - expected) < 1e-4))
                fail_msg("%s, step %zu: the loss is %.7f, PyTorch's %.7f", name, step, report.loss, expected);
            free_batch(&batch);
        }
        plx_trainer_free(trainer);
        plx_model_free(model);
    }
    json_decref(root);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_agrees_with_pytorch),
        cmocka_unit_test(fast_kernels_agree_with_pytorch),
        cmocka_unit_test(twenty_steps_agree_with_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
