/* test_generate.c - choosing tokens, writing text, scoring text. */
#include "core/random.h"
#include "text/utf8.h"
#include "support/models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- UTF-8 ---- */

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
        int wanted;
    } cases[] = {
        {"a", 1, 1},
        {"\0", 1, 1},
        {"\xC3\xA9", 2, 2},
        {"\xE2\x82\xAC", 3, 3},
        {"\xF0\x9F\x98\x80", 4, 4},
        {"\xC3", 1, 0},
        {"\xE2\x82", 2, 0},
        {"\xF0\x9F\x98", 3, 0}, /* more may come */
        {"\x80", 1, -1},
        {"\xC0\x80", 2, -1},
        {"\xC1\xBF", 2, -1},
        {"\xFF", 1, -1},
        {"\xF5\x80\x80\x80", 4, -1},
        {"\xE0\x80\x80", 3, -1},
        {"\xED\xA0\x80", 3, -1},
        {"\xF4\x90\x80\x80", 4, -1},
        {"\xF0\x8F\xBF\xBF", 4, -1},
        {"\xE2\x41", 2, -1},
        {"\xE2\x82\x41", 3, -2},
        {"\xF0\x9F\x98\x41", 4, -3},
        {"\xED\x9F\xBF", 3, 3},
        {"\xEE\x80\x80", 3, 3},
        {"\xF4\x8F\xBF\xBF", 4, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(plx_utf8_next(cases[i].text, cases[i].bytes), cases[i].wanted);
}

/* ---- sampling ---- */

#define IDS 6
static const float logits[IDS] = {1.0f, 3.0f, 2.0f, -INFINITY, 3.0f, 0.5f}; /* ids 1 and 4 tie */

static int32_t sample_one(plx_context *context, plx_sampling sampling, const int32_t *history, size_t count,
                          uint64_t index)
{
    int32_t token = -1;
    expect_ok(context, plx_sample(context, &sampling, logits, IDS, history, count, index, &token));
    return token;
}

/* Draws many and compares with the probabilities that are expected: chi squared. */
static void expect_distribution(plx_context *context, plx_sampling sampling, const int32_t *history, size_t count,
                                const double *wanted)
{
    size_t seen[IDS] = {0}, draws = 20000;
    double total = 0, chi = 0;
    for (size_t i = 0; i < draws; i++) seen[sample_one(context, sampling, history, count, i)]++;
    for (int i = 0; i < IDS; i++) total += wanted[i];
    for (int i = 0; i < IDS; i++) {
        double expected = (double)draws * wanted[i] / total;
        if (wanted[i] == 0)
            assert_int_equal(seen[i], 0);
        else
            chi += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
    }
    assert_true(chi < 25); /* at most 5 degrees of freedom: one in 5,000 by chance, and the draws are fixed */
}

static void test_sampling_greedy(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_sampling sampling = plx_sampling_defaults();
    sampling.temperature = 0;
    for (uint64_t i = 0; i < 20; i++) assert_int_equal(sample_one(context, sampling, NULL, 0, i), 1);
    static const int32_t history[] = {1, 1, -5, 99}; /* ids beyond the logits do not count */
    sampling.repetition_penalty = 1.2;
    assert_int_equal(sample_one(context, sampling, history, 4, 0), 4);
    sampling.temperature = 1;
    sampling.top_k = 1;
    assert_int_equal(sample_one(context, sampling, history, 4, 0), 4);
    plx_context_free(context);
}

static void test_sampling_distribution(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_sampling sampling = plx_sampling_defaults();
    const double e = exp(1);
    const double plain[IDS] = {e, e * e * e, e * e, 0, e * e * e, sqrt(e)};
    expect_distribution(context, sampling, NULL, 0, plain);
    sampling.temperature = 0.5;
    const double sharp[IDS] = {e * e, pow(e, 6), pow(e, 4), 0, pow(e, 6), e};
    expect_distribution(context, sampling, NULL, 0, sharp);
    sampling.temperature = 1;
    sampling.top_k = 3;
    const double three[IDS] = {0, e * e * e, e * e, 0, e * e * e, 0};
    expect_distribution(context, sampling, NULL, 0, three);
    sampling.top_k = 1; /* of a tie the lower id */
    const double one[IDS] = {0, 1, 0, 0, 0, 0};
    expect_distribution(context, sampling, NULL, 0, one);
    sampling.top_k = 0;
    sampling.top_p = 0.75; /* the ties have .407 each: both are needed, no more */
    const double two[IDS] = {0, 1, 0, 0, 1, 0};
    expect_distribution(context, sampling, NULL, 0, two);
    sampling.top_p = 0.85;
    expect_distribution(context, sampling, NULL, 0, three);
    sampling.top_p = 1;
    sampling.min_p = exp(-2.1); /* id 0 is e^-2 of the largest, id 5 less */
    const double four[IDS] = {e, e * e * e, e * e, 0, e * e * e, 0};
    expect_distribution(context, sampling, NULL, 0, four);
    sampling.min_p = 0;
    sampling.repetition_penalty = 2; /* id 1: 3 -> 1.5; id 2: 2 -> 1 */
    static const int32_t history[] = {2, 1, 2};
    const double penalised[IDS] = {e, exp(1.5), e, 0, e * e * e, sqrt(e)};
    expect_distribution(context, sampling, history, 3, penalised);
    plx_context_free(context);
}

static void test_sampling_seed_and_errors(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_sampling sampling = plx_sampling_defaults(), other = sampling;
    other.seed = 1;
    size_t same = 0;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = sample_one(context, sampling, NULL, 0, i);
        assert_int_equal(token, sample_one(context, sampling, NULL, 0, i));
        same += token == sample_one(context, other, NULL, 0, i);
    }
    assert_true(same < 150);
    const plx_sampling wrong[] = {
        {.temperature = -1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = NAN, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 0, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 2, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 0},
        {.temperature = 1, .top_p = 1, .min_p = 2, .repetition_penalty = 1},
    };
    int32_t token;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(plx_sample(context, &wrong[i], logits, IDS, NULL, 0, 0, &token), PLX_ERROR_VALUE);
    const float broken[2] = {0, NAN}, none[2] = {-INFINITY, -INFINITY};
    assert_int_equal(plx_sample(context, &sampling, broken, 2, NULL, 0, 0, &token), PLX_ERROR_NUMERIC);
    assert_int_equal(plx_sample(context, &sampling, none, 2, NULL, 0, 0, &token), PLX_ERROR_NUMERIC);
    plx_context_free(context);
}

/* ---- generation ---- */

/* A model whose likeliest next byte is a function of the last: the separator begins the cycle
 * euro sign, a, a byte that is no UTF-8, e acute, a smiley, b, and again. Its one layer adds nothing. */
static const unsigned char cycle[] = {0xE2, 0x82, 0xAC, 'a', 0xFF, 0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80, 'b'};

static void zero_tensor(plx_model *model, const char *name)
{
    size_t count = 260 * 8;
    double *values = calloc(count, sizeof *values);
    expect_ok(model->context, plx_model_write_tensor(model, name, values, count));
    free(values);
}

static plx_model *cycle_model(plx_context *context)
{
    static const char config[] =
        "{\"model_type\": \"plexus\", \"vocab_size\": 257, \"hidden_size\": 260, \"intermediate_size\": 0, \"rope\": "
        "false,"
        "\"num_attention_heads\": 4, \"head_dim\": 2, \"max_position_embeddings\": 8, \"tie_word_embeddings\": false,"
        "\"tokenizer\": \"bytes\", \"layers\": [{\"mixer\": \"attention\"}]}";
    plx_model *model;
    expect_ok(context, plx_model_create(context, config, NULL, &model));
    zero_tensor(model, "model.layers.0.mixer.o_proj.weight");
    double *embed = calloc(257 * 260, sizeof *embed), *head = calloc(257 * 260, sizeof *head);
    for (size_t i = 0; i < 257; i++) embed[i * 260 + i] = 1;
    for (size_t i = 0; i < sizeof cycle; i++) head[cycle[(i + 1) % sizeof cycle] * 260 + cycle[i]] = 1;
    head[cycle[0] * 260 + 256] = 1;
    expect_ok(context, plx_model_write_tensor(model, "model.embed_tokens.weight", embed, 257 * 260));
    expect_ok(context, plx_model_write_tensor(model, "lm_head.weight", head, 257 * 260));
    free(embed);
    free(head);
    return model;
}

typedef struct pieces {
    char text[4096];
    size_t bytes, count;
} pieces;

static void on_piece(void *user, const char *text, size_t bytes)
{
    pieces *to = user;
    assert_true(bytes > 0 && to->bytes + bytes <= sizeof to->text);
    memcpy(to->text + to->bytes, text, bytes);
    to->bytes += bytes;
    to->count++;
    /* No piece ends inside a character. */
    for (size_t at = 0; at < bytes;) {
        int length = plx_utf8_next(text + at, bytes - at);
        assert_int_not_equal(length, 0);
        at += (size_t)(length > 0 ? length : -length);
    }
}

static void test_generate_text(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = cycle_model(context);
    plx_tokenizer *tokenizer;
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    for (size_t tokens = 0; tokens < 40; tokens++) {
        pieces shown = {.count = 0};
        plx_generated made;
        plx_generate_options options = plx_generate_defaults();
        options.max_tokens = tokens;
        options.sampling.temperature = 0;
        options.piece = on_piece;
        options.user = &shown;
        expect_ok(context, plx_generate(model, tokenizer, NULL, 0, &options, &made));
        assert_int_equal(made.tokens, tokens);
        assert_int_equal(made.bytes, tokens);
        for (size_t i = 0; i < tokens; i++) assert_int_equal((unsigned char)made.text[i], cycle[i % sizeof cycle]);
        /* What was shown is the text but for a character that is not finished yet. */
        assert_true(shown.bytes <= made.bytes && made.bytes - shown.bytes < 4);
        assert_memory_equal(shown.text, made.text, shown.bytes);
        if (shown.bytes < made.bytes)
            assert_int_equal(plx_utf8_next(made.text + shown.bytes, made.bytes - shown.bytes), 0);
        plx_generated_free(model, &made);
    }
    plx_generate_options options = plx_generate_defaults();
    plx_generated made;
    options.max_tokens = 3;
    options.sampling.temperature = 0;
    static const char prompt[] = "a prompt ends in its last byte: a";
    expect_ok(context, plx_generate(model, tokenizer, prompt, sizeof prompt - 1, &options, &made));
    assert_memory_equal(made.text, "\xFF\xC3\xA9", 3);
    plx_generated_free(model, &made);
    expect_ok(context, plx_generate(model, tokenizer, "\xC3", 1, &options, &made));
    assert_memory_equal(made.text, "\xA9\xF0\x9F", 3);
    plx_generated_free(model, &made);
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    plx_context_free(context);
}

/* The same seed writes the same text, and the text is what single forwards would choose: prompts of several chunks. */
static void generation_of_case(const char *mixer, const char *layer_case)
{
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config(mixer, layer_case, 1, "\"vocab_size\": 257, \"tokenizer\": \"bytes\"");
    plx_model *model = test_model(context, config, PLX_F32, 3);
    plx_tokenizer *tokenizer;
    char prompt[300];
    plx_generated made, again;
    plx_generate_options options = plx_generate_defaults();
    for (size_t i = 0; i < sizeof prompt; i++) prompt[i] = (char)(i * 37 + i / 7);
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    options.max_tokens = 6;
    options.sampling.seed = 5;
    expect_ok(context, plx_generate(model, tokenizer, prompt, sizeof prompt, &options, &made));
    expect_ok(context, plx_generate(model, tokenizer, prompt, sizeof prompt, &options, &again));
    assert_int_equal(made.bytes, again.bytes);
    assert_memory_equal(made.text, again.text, made.bytes);
    plx_generated_free(model, &again);
    options.max_tokens = 1;
    options.sampling.temperature = 0;
    expect_ok(context, plx_generate(model, tokenizer, prompt, sizeof prompt, &options, &again));
    int32_t inputs[sizeof prompt];
    for (size_t i = 0; i < sizeof prompt; i++) inputs[i] = (unsigned char)prompt[i];
    plx_batch batch = {.rows = 1, .length = sizeof prompt, .inputs = inputs};
    double *all = test_logits(model, &batch), *last = all + (sizeof prompt - 1) * 257;
    size_t best = 0;
    for (size_t i = 1; i < 257; i++)
        if (last[i] > last[best]) best = i;
    if (best < 256) assert_int_equal((unsigned char)again.text[0], best);
    free(all);
    plx_generated_free(model, &made);
    plx_generated_free(model, &again);
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void test_generate_cases(void **state)
{
    (void)state;
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        if (mixer_is_tested(plx_mixers[m]->name)) generation_of_case(plx_mixers[m]->name, plx_mixers[m]->cases[0]);
}

/* ---- several prompts ---- */

#define PROMPTS 11

typedef struct finishings {
    size_t count;
    bool seen[PROMPTS];
} finishings;

static void on_finished(void *user, size_t index, const plx_generated *result)
{
    finishings *to = user;
    assert_true(index < PROMPTS && !to->seen[index] && result->text != NULL);
    to->seen[index] = true;
    to->count++;
}

/* Prompts of unequal length, an empty one and one of several chunks among them, write together what each writes alone. */
static void batch_of_case(const char *mixer, const char *layer_case)
{
    static const size_t lengths[PROMPTS] = {5, 0, 1, 290, 17, 16, 3, 40, 41, 2, 5};
    static char text[PROMPTS][300];
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config(mixer, layer_case, 2, "\"vocab_size\": 257, \"tokenizer\": \"bytes\"");
    plx_model *model = test_model(context, config, PLX_F32, 3);
    plx_tokenizer *tokenizer;
    plx_prompt prompts[PROMPTS];
    plx_generated alone, together[PROMPTS];
    plx_random random;
    plx_random_init(&random, 5, 1);
    for (size_t i = 0; i < PROMPTS; i++) {
        for (size_t t = 0; t < lengths[i]; t++) text[i][t] = (char)plx_random_below(&random, 256);
        prompts[i] = (plx_prompt){text[i], lengths[i]};
    }
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    plx_generate_options options = plx_generate_defaults();
    options.max_tokens = 7;
    for (int greedy = 0; greedy < 2; greedy++) {
        options.sampling.temperature = greedy ? 0 : 1;
        options.together = greedy ? 4 : 3;
        finishings done = {0};
        options.sampling.seed = 20;
        options.finished = on_finished;
        options.user = &done;
        expect_ok(context, plx_generate_batch(model, tokenizer, prompts, PROMPTS, &options, together));
        assert_int_equal(done.count, PROMPTS);
        for (size_t i = 0; i < PROMPTS; i++) {
            options.sampling.seed = 20 + i;
            expect_ok(context, plx_generate(model, tokenizer, text[i], lengths[i], &options, &alone));
            assert_int_equal(together[i].tokens, alone.tokens);
            assert_int_equal(together[i].read, alone.read);
            assert_int_equal(together[i].bytes, alone.bytes);
            if (memcmp(together[i].text, alone.text, alone.bytes) != 0)
                fail_msg("%s %s: prompt %zu, %s, differs in a batch", mixer, layer_case, i, greedy ? "greedy" : "drawn");
            plx_generated_free(model, &alone);
            plx_generated_free(model, &together[i]);
        }
    }
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void test_batch_cases(void **state)
{
    (void)state;
    each_case(batch_of_case);
}

/* Known texts, no tokens at all, no prompts at all. */
static void test_batch_ends(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = cycle_model(context);
    plx_tokenizer *tokenizer;
    plx_generated made[4];
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    static const plx_prompt prompts[4] = {{"a", 1}, {"b", 1}, {NULL, 0}, {"xyza", 4}};
    plx_generate_options options = plx_generate_defaults();
    options.sampling.temperature = 0;
    options.max_tokens = 3;
    expect_ok(context, plx_generate_batch(model, tokenizer, prompts, 4, &options, made));
    static const char *const wanted[4] = {"\xFF\xC3\xA9", "\xE2\x82\xAC", "\xE2\x82\xAC", "\xFF\xC3\xA9"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(made[i].bytes, 3);
        assert_string_equal(made[i].text, wanted[i]);
        plx_generated_free(model, &made[i]);
    }
    options.max_tokens = 0;
    expect_ok(context, plx_generate_batch(model, tokenizer, prompts, 4, &options, made));
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(made[i].bytes, 0);
        plx_generated_free(model, &made[i]);
    }
    expect_ok(context, plx_generate_batch(model, tokenizer, NULL, 0, &options, NULL));
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    plx_context_free(context);
}

static bool cancel_soon(void *user)
{
    return ++*(int *)user > 5;
}

static void test_generate_cancelled(void **state)
{
    (void)state;
    int asked = 0;
    plx_context *context;
    plx_context_options options = {.threads = 1, .cancel = cancel_soon, .user = &asked};
    assert_int_equal(plx_context_create(&options, &context), PLX_OK);
    plx_model *model = cycle_model(context);
    plx_tokenizer *tokenizer;
    plx_generated made = {.bytes = 77};
    asked = 0;
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    assert_int_equal(plx_generate(model, tokenizer, "a", 1, NULL, &made), PLX_CANCELLED);
    assert_int_equal(made.bytes, 77);
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    plx_context_free(context);
}

/* ---- every allocation may fail ---- */

typedef struct failing {
    long left, live;
} failing;

static void *failing_resize(void *user, void *pointer, size_t bytes)
{
    failing *on = user;
    if (on->left == 0) return NULL;
    if (on->left > 0) on->left--;
    void *made = realloc(pointer, bytes);
    if (made && !pointer) on->live++;
    return made;
}
static void failing_release(void *user, void *pointer)
{
    failing *on = user;
    if (pointer) on->live--;
    free(pointer);
}

static plx_status generate_once(plx_context *context, const char *config)
{
    plx_model *model = NULL;
    plx_tokenizer *tokenizer = NULL;
    plx_generated made = {0};
    plx_generate_options options = plx_generate_defaults();
    options.max_tokens = 8;
    options.sampling.repetition_penalty = 1.1;
    plx_status status = plx_model_create(context, config, NULL, &model);
    if (status == PLX_OK) status = plx_tokenizer_open(context, "bytes", &tokenizer);
    if (status == PLX_OK) status = plx_generate(model, tokenizer, "In the", 6, &options, &made);
    static const plx_prompt prompts[3] = {{"In the", 6}, {"a", 1}, {"of all", 6}};
    plx_generated several[3] = {0};
    options.together = 2;
    if (status == PLX_OK) status = plx_generate_batch(model, tokenizer, prompts, 3, &options, several);
    for (size_t i = 0; i < 3 && model; i++) plx_generated_free(model, &several[i]);
    if (model) plx_generated_free(model, &made);
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    return status;
}

static void failures_of_case(const char *mixer, const char *layer_case)
{
    char *config = test_config(mixer, layer_case, 1, "\"vocab_size\": 257, \"tokenizer\": \"bytes\"");
    bool done = false;
    for (long allowed = 0; !done; allowed++) {
        failing on = {.left = allowed};
        plx_context *context = NULL;
        plx_context_options options = {.threads = 1, .allocator = {failing_resize, failing_release, &on}};
        plx_status status = plx_context_create(&options, &context);
        if (status == PLX_OK) status = generate_once(context, config);
        plx_context_free(context);
        done = status == PLX_OK;
        if (!done) assert_int_equal(status, PLX_ERROR_MEMORY);
        assert_int_equal(on.live, 0);
        assert_true(allowed < 5000);
    }
    free(config);
}
static void test_allocation_failures(void **state)
{
    (void)state;
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        if (mixer_is_tested(plx_mixers[m]->name)) failures_of_case(plx_mixers[m]->name, plx_mixers[m]->cases[0]);
}

/* ---- evaluation ---- */

static void write_text(char *path, const char *suffix, const char *text, size_t bytes)
{
    const char *folder = getenv("TMPDIR");
    sprintf(path, "%s/plexus-eval-XXXXXX%s", folder ? folder : "/tmp", suffix);
    int file = mkstemps(path, (int)strlen(suffix));
    assert_true(file >= 0);
    assert_int_equal(write(file, text, bytes), (ssize_t)bytes);
    close(file);
}

/* The sum of the losses of a stream of tokens, each window by a forward of its own. */
static double loss_by_windows(plx_model *model, const int32_t *tokens, size_t count, size_t window)
{
    double sum = 0;
    for (size_t first = 0; first + 1 < count; first += window - 1) {
        size_t length = count - first - 1 < window - 1 ? count - first - 1 : window - 1;
        int32_t *start = calloc(length, sizeof *start);
        for (size_t t = 1; t < length; t++) start[t] = tokens[first + t] == 256 ? (int32_t)t : start[t - 1];
        plx_batch batch = {.rows = 1, .length = length, .inputs = tokens + first, .start = start};
        double *all = test_logits(model, &batch);
        for (size_t t = 0; t < length; t++) {
            double total = 0;
            for (size_t v = 0; v < 257; v++) total += exp(all[t * 257 + v]);
            sum += log(total) - all[t * 257 + tokens[first + t + 1]];
        }
        free(all);
        free(start);
    }
    return sum;
}

static void expect_evaluation(plx_model *model, const char *path, const int32_t *tokens, size_t count, size_t window)
{
    plx_evaluation found;
    expect_ok(model->context, plx_evaluate_file(model, path, window, &found));
    double sum = loss_by_windows(model, tokens, count, window ? window : 64);
    size_t bytes = 0;
    for (size_t i = 1; i < count; i++) bytes += tokens[i] < 256;
    assert_int_equal(found.tokens, count - 1);
    assert_true(fabs(found.nll - sum / (double)(count - 1)) < 1e-5 * found.nll);
    assert_true(fabs(found.perplexity - exp(found.nll)) < 1e-9 * found.perplexity);
    assert_true(fabs(found.bits_per_byte - sum / log(2) / (double)bytes) < 1e-5 * found.bits_per_byte);
}

static void test_evaluate(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config(plx_mixers[0]->name, plx_mixers[0]->cases[0], 1,
                               "\"vocab_size\": 257, \"tokenizer\": \"bytes\"");
    plx_model *model = test_model(context, config, PLX_F32, 3);
    static char text[5000];
    static int32_t tokens[5000];
    char path[512];
    plx_random random;
    plx_random_init(&random, 3, 3);
    for (size_t i = 0; i < sizeof text; i++)
        tokens[i] = (unsigned char)(text[i] = (char)plx_random_below(&random, 256));
    write_text(path, ".txt", text, sizeof text);
    static const size_t windows[] = {0, 7, 650, 4500, 4999, 5000, 5001, 9000};
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
        expect_evaluation(model, path, tokens, 5000, windows[i]);
    plx_evaluation found;
    assert_int_equal(plx_evaluate_file(model, path, 1, &found), PLX_ERROR_VALUE);
    assert_int_equal(plx_evaluate_file(model, path, (size_t)1 << 40, &found), PLX_ERROR_VALUE);
    unlink(path);
    assert_int_equal(plx_evaluate_file(model, path, 0, &found), PLX_ERROR_FILE);

    static const char lines[] = "{\"text\": \"first one\"}\n{\"text\": \"b\"}\n{\"text\": \"and the third\"}\n";
    static const char stream[] = "first one\x01"
                                 "b\x01"
                                 "and the third"; /* \x01 stands for the separator here */
    for (size_t i = 0; i + 1 < sizeof stream; i++) tokens[i] = stream[i] == 1 ? 256 : stream[i];
    write_text(path, ".jsonl", lines, sizeof lines - 1);
    expect_evaluation(model, path, tokens, sizeof stream - 1, 0);
    expect_evaluation(model, path, tokens, sizeof stream - 1, 5);
    expect_evaluation(model, path, tokens, sizeof stream - 1, 2);
    unlink(path);

    write_text(path, ".txt", "x", 1);
    assert_int_equal(plx_evaluate_file(model, path, 0, &found), PLX_ERROR_VALUE);
    unlink(path);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}

/* ---- progress inside a window ---- */

typedef struct seen_progress {
    size_t inside, whole; /* calls before the window's end, and at it */
    double last, total;
    bool stop;
} seen_progress;
static void see_progress(void *user, const char *what, double done, double total)
{
    seen_progress *seen = user;
    if (strcmp(what, "scoring text") != 0) return;
    assert_true(done >= seen->last && total == seen->total);
    seen->inside += done > 0 && done < total;
    seen->whole += done == total;
    seen->last = done;
}
static bool stop_when_asked(void *user) { return ((seen_progress *)user)->stop; }

static void test_evaluate_moves(void **state)
{
    (void)state;
    static char text[300];
    char path[512];
    memset(text, 'a', sizeof text);
    write_text(path, ".txt", text, sizeof text);
    char *config =
        test_config(plx_mixers[0]->name, plx_mixers[0]->cases[0], 3, "\"vocab_size\": 257, \"tokenizer\": \"bytes\"");
    for (int stop = 0; stop < 2; stop++) {
        seen_progress seen = {.total = sizeof text, .stop = stop};
        plx_context_options options = {
            .threads = 1, .progress = see_progress, .cancel = stop_when_asked, .user = &seen};
        plx_context *context;
        assert_int_equal(plx_context_create(&options, &context), PLX_OK);
        plx_model *model = test_model(context, config, PLX_F32, 3);
        plx_evaluation found;
        assert_int_equal(plx_evaluate_file(model, path, sizeof text, &found), stop ? PLX_CANCELLED : PLX_OK);
        assert_true(stop ? seen.inside == 1 && seen.whole == 0
                         : seen.inside >= model->config.layer_count && seen.whole == 1);
        plx_model_free(model);
        plx_context_free(context);
    }
    free(config);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_sampling_greedy),
        cmocka_unit_test(test_sampling_distribution),
        cmocka_unit_test(test_sampling_seed_and_errors),
        cmocka_unit_test(test_generate_text),
        cmocka_unit_test(test_generate_cases),
        cmocka_unit_test(test_batch_cases),
        cmocka_unit_test(test_batch_ends),
        cmocka_unit_test(test_generate_cancelled),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_evaluate),
        cmocka_unit_test(test_evaluate_moves),
    };
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
