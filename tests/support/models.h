/* models.h - small models and batches for tests, made from the mixers' own list of cases. */
#ifndef PLX_TESTS_MODELS_H
#define PLX_TESTS_MODELS_H

#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* Fails the test with the context's message unless the status is PLX_OK. */
#define expect_ok(context, expression)                                                                       \
    do {                                                                                                     \
        plx_status expect_status_ = (expression);                                                            \
        if (expect_status_ != PLX_OK)                                                                        \
            fail_msg("%s: %s: %s", #expression, plx_status_name(expect_status_), plx_context_error(context)->message); \
    } while (0)

plx_context *test_context(int threads, const char *device, const char *level);

/* config.json text of a model with `layers` layers of this case (JSON object without or with "mixer"), hidden 24, 4
 * heads, head_dim 6, FFN 16, vocabulary 11, 64 positions; extra: more top-level keys as JSON members ("\"norm\":
 * \"layer\""), or NULL. Freed with free. */
char *test_config(const char *mixer, const char *layer_case, size_t layers, const char *extra);

/* A model from such a config, its weights scaled so that mixers matter (normal with deviation 0.3 for matrices, 1 +-
 * 0.2 for norms, 0.1 for biases and gates), the same for every type and device. */
plx_model *test_model(plx_context *context, const char *config, plx_type type, uint64_t seed);

typedef struct test_batch {
    plx_batch batch;
    int32_t *inputs, *targets, *start;
    float *mask;
} test_batch;
/* Random tokens; documents begin at random places (about every `document` tokens; 0: one document a row); some masked
 * out. */
test_batch make_batch(size_t rows, size_t length, size_t vocab, size_t document, uint64_t seed);
void free_batch(test_batch *batch);

/* Logits of a batch, [rows * length * vocab], freed with free. */
double *test_logits(plx_model *model, const plx_batch *batch);
/* All trainable gradients one after the other, freed with free. */
double *test_gradients(plx_model *model, const plx_batch *batch, size_t *count);

/* Fails unless the gradient of every tensor of a model in double is what central differences of its loss say, to 1e-6. */
void check_model_gradients(plx_model *model, const char *name);

/* |a - b| / |b| in the Euclidean norm (0 when both are 0). */
double relative_error(const double *a, const double *b, size_t count);

/* With PLX_TEST_MIXER=name in the environment, tests that loop over the registry take this mixer alone (for work on
 * one); an unknown name fails. */
bool mixer_is_tested(const char *mixer);
/* Calls body for every mixer of the registry that is tested, and each of its cases. */
void each_case(void (*body)(const char *mixer, const char *layer_case));

#endif
