/* test_grassmann_shapes.c - whole grassmann layers at sizes where their kernels have edges: lengths and ranks round
 * multiples of vectors and tiles, more tokens than one piece of planes, offsets beyond the sequence, three rows with
 * documents of their own. Every level of the processor against the reference in double, and against itself on other
 * numbers of threads. */
#include "support/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 11
#define ROWS 3

typedef struct shape {
    size_t length, rank;
    const char *offsets;
    bool second; /* after an attention layer: z is then no function of the token alone */
} shape;
static const shape shapes[] = {
    {1, 32, "[1, 2, 4, 8, 12, 16]", false}, {1, 2, "[5]", true},
    {15, 2, "[1, 3]", false},               {15, 3, "[1, 2, 100000]", true},
    {17, 31, "[1, 16, 17]", false},         {17, 32, "[1, 2, 4, 8, 12, 16]", true},
    {63, 33, "[2147483647]", false},        {63, 16, "[1, 62, 63]", true},
    {65, 64, "[1, 2, 4, 8, 12, 16]", true}, {65, 7, "[7, 64]", false},
    {65, 48, "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", true},
    {513, 32, "[1, 2, 4, 8, 12, 16]", true}, /* 1,539 tokens: two pieces */
    {513, 5, "[1, 500, 512]", false},
};

static char *config_of(const shape *s)
{
    char *text = malloc(600);
    snprintf(text, 600,
             "{\"model_type\": \"plexus\", \"vocab_size\": %d, \"hidden_size\": 24, \"intermediate_size\": 0, "
             "\"num_attention_heads\": 4, \"max_position_embeddings\": 64, \"layers\": "
             "[%s{\"mixer\": \"grassmann\", \"rank\": %zu, \"offsets\": %s}]}",
             VOCAB, s->second ? "{\"mixer\": \"attention\"}, " : "", s->rank, s->offsets);
    return text;
}

/* Random, but no token twice in succession: a document that begins so has two equal states, also after an attention
 * layer, and their plane is rounding noise in any f32 (src/mixers/grassmann/README.md, Numbers). */
static test_batch batch_of(const shape *s)
{
    test_batch batch = make_batch(ROWS, s->length, VOCAB, s->length == 513 ? 200 : 20, s->rank);
    for (size_t i = 1; i < ROWS * s->length; i++)
        if (batch.inputs[i] == batch.inputs[i - 1]) batch.inputs[i] = (batch.inputs[i] + 1) % VOCAB;
    return batch;
}

/* Logits, and gradients after them, of one batch; freed with free. */
static double *outcome(int threads, const char *level, plx_type type, const shape *s, size_t *logits, size_t *all)
{
    plx_context *context = test_context(threads, NULL, level);
    char *config = config_of(s);
    plx_model *model = test_model(context, config, type, 5);
    test_batch batch = batch_of(s);
    size_t count;
    *logits = ROWS * s->length * VOCAB;
    double *a = test_logits(model, &batch.batch), *b = test_gradients(model, &batch.batch, &count);
    *all = *logits + count;
    a = realloc(a, *all * sizeof *a);
    memcpy(a + *logits, b, count * sizeof *b);
    free(b);
    free_batch(&batch);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
    return a;
}

/* The bounds are those of test_mixers.c: an operation may err by 2e-6 forward and 1e-5 backward, a layer chains about six,
 * in quadrature. */
static void test_shapes(void **state)
{
    (void)state;
    static const char *const levels[] = {NULL, "avx512", "avx2", "portable"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        size_t logits, all;
        double *exact = outcome(2, NULL, PLX_F64, s, &logits, &all);
        for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
            plx_context_options options = {.level = levels[l]};
            plx_context *context;
            if (plx_context_create(&options, &context) != PLX_OK) continue; /* not on this processor */
            plx_context_free(context);
            double *fast = outcome(2, levels[l], PLX_F32, s, &logits, &all);
            double *again = outcome(3, levels[l], PLX_F32, s, &logits, &all);
            double *alone = outcome(1, levels[l], PLX_F32, s, &logits, &all);
            double forward = relative_error(fast, exact, logits);
            double backward = relative_error(fast + logits, exact + logits, all - logits);
            if (!(forward < 5e-6) || !(backward < 2.5e-5))
                fail_msg("%s: length %zu, rank %zu, offsets %s: forward %.2g, backward %.2g",
                         levels[l] != NULL ? levels[l] : "the best level", s->length, s->rank, s->offsets, forward,
                         backward);
            assert_memory_equal(again, fast, all * sizeof *fast);
            assert_memory_equal(alone, fast, all * sizeof *fast);
            free(fast);
            free(again);
            free(alone);
        }
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
