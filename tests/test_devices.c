/* test_devices.c - whole runs give the same bits on the fenced device as on the CPU, for every number of threads, and
 * beside another run in the same process.
 *
 * The model that trains on text has a layer for each case of each mixer in the registry. What is compared: the
 * checkpoint's files, metrics.jsonl but for its times, samples, evaluation, generated text, and a session's logits. */
#include "support/files.h"
#include "support/recipes.h"

#include "io/files.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 3, VOCAB = 257, CHUNK = 9 };

#define TRAIN \
    "train: {steps: 3, batch_size: 3, accumulate: 2, recompute: 4, warmup_steps: 1, eval_every: 2, eval_rows: 5,\n" \
    "        save_every: 2, sample_every: 2, sample_prompt: the, z_loss: 1.0e-4}\nsample: {max_tokens: 12}\n"

static char text_recipe[256], task_recipe[256], text_file[256];

/* ---- what a run gives ---- */

typedef struct run {
    /* set by the caller */
    const char *device, *recipe;
    int threads;
    char out[256];
    /* set by train */
    plx_status status;
    plx_error error;
    char samples[512];
} run;

static void note_sample(void *user, const plx_run_event *event)
{
    run *self = user;
    size_t used = strlen(self->samples);
    if (event->kind == PLX_RUN_SAMPLE)
        snprintf(self->samples + used, sizeof self->samples - used, "%s|", event->text);
}

static plx_context *context_of(const run *self)
{
    plx_context_options options = {.threads = self->threads, .device = self->device};
    plx_context *context = NULL;
    plx_context_create(&options, &context);
    return context;
}

/* Trains; made for pthread_create, so it asserts nothing. */
static void *train(void *argument)
{
    run *self = argument;
    char override[300];
    const char *overrides[] = {override};
    plx_recipe *recipe = NULL;
    plx_run_options options = {.event = note_sample, .user = self};
    plx_context *context = context_of(self);
    self->status = PLX_ERROR_MEMORY;
    if (context == NULL) return NULL;
    plx_context_poison(context, true);
    snprintf(override, sizeof override, "out=%s", self->out);
    self->status = plx_recipe_load(context, self->recipe, overrides, 1, &recipe);
    if (self->status == PLX_OK) self->status = plx_recipe_train(recipe, &options, NULL);
    self->error = *plx_context_error(context);
    plx_recipe_free(recipe);
    plx_context_free(context);
    return NULL;
}

static run make_run(const char *name, const char *recipe, const char *device, int threads)
{
    run made = {.device = device, .recipe = recipe, .threads = threads};
    test_path_in(made.out, name);
    return made;
}

static void expect_trained(const run *self)
{
    if (self->status != PLX_OK) fail_msg("%s: %s: %s", self->out, plx_status_name(self->status), self->error.message);
}

static run trained(const char *name, const char *recipe, const char *device, int threads)
{
    run made = make_run(name, recipe, device, threads);
    train(&made);
    expect_trained(&made);
    return made;
}

/* ---- comparing runs ---- */

static char *read_of(const run *self, const char *name, size_t *bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", self->out, name);
    char *text = test_read(path, bytes);
    if (text == NULL) fail_msg("%s is missing", path);
    return text;
}

static void expect_same_file(const run *a, const run *b, const char *name)
{
    char path[128];
    size_t bytes_a, bytes_b;
    snprintf(path, sizeof path, "checkpoints/step-%08d/%s", STEPS, name);
    char *of_a = read_of(a, path, &bytes_a), *of_b = read_of(b, path, &bytes_b);
    if (bytes_a != bytes_b || memcmp(of_a, of_b, bytes_a) != 0)
        fail_msg("%s of %s and %s differ", path, a->out, b->out);
    free(of_a);
    free(of_b);
}

/* A file of JSON, one object a line or all one, without times. */
static json_t *without_times(const run *self, const char *name)
{
    size_t bytes;
    char *text = read_of(self, name, &bytes);
    json_t *all = json_array();
    for (size_t at = 0; at < bytes;) {
        json_error_t end;
        json_t *object = json_loadb(text + at, bytes - at, JSON_DISABLE_EOF_CHECK, &end);
        if (object == NULL) fail_msg("%s/%s: %s", self->out, name, end.text);
        json_t *times[] = {object, json_object_get(object, "run")};
        for (int i = 0; i < 2; i++) {
            json_object_del(times[i], "seconds");
            json_object_del(times[i], "tokens_per_second");
        }
        json_array_append_new(all, object);
        at += (size_t)end.position;
        while (at < bytes && text[at] == '\n') at++;
    }
    free(text);
    return all;
}

static void expect_same_json(const run *a, const run *b, const char *name)
{
    json_t *of_a = without_times(a, name), *of_b = without_times(b, name);
    assert_true(json_array_size(of_a) > 0);
    if (!json_equal(of_a, of_b)) fail_msg("%s of %s and %s differ", name, a->out, b->out);
    json_decref(of_a);
    json_decref(of_b);
}

static void expect_same_run(const run *a, const run *b)
{
    char trainer[64];
    snprintf(trainer, sizeof trainer, "checkpoints/step-%08d/trainer.json", STEPS);
    expect_same_file(a, b, "config.json");
    expect_same_file(a, b, "model.safetensors");
    expect_same_file(a, b, "optimizer.safetensors");
    expect_same_json(a, b, trainer);
    expect_same_json(a, b, "metrics.jsonl");
    assert_string_equal(a->samples, b->samples);
}

/* ---- use of a run's model ---- */

typedef struct use {
    plx_evaluation evaluation;
    char text[512];
    size_t bytes;
    float logits[3][VOCAB];
} use;

static void use_session(plx_model *model, use *made)
{
    static const int32_t tokens[CHUNK] = {256, 't', 'h', 'e', ' ', 'c', 'a', 't', ' '};
    static const bool begins[CHUNK] = {true};
    const plx_session_options options = {.slots = 3, .capacity = 80, .chunk = CHUNK, .rollback = 6};
    plx_session_row rows[3] = {{0, tokens, CHUNK, begins}, {1, tokens + 1, 3, NULL}, {2, tokens, 2, NULL}};
    plx_context *context = model->context;
    plx_session *session = NULL;
    void *saved = NULL;
    size_t bytes;
    expect_ok(context, plx_session_create(model, &options, &session));
    for (int i = 0; i < 3; i++) expect_ok(context, plx_session_step(session, rows, 2, NULL, NULL));
    expect_ok(context, plx_session_fork(session, 0, 2));
    expect_ok(context, plx_session_cut(session, 2, 24));
    expect_ok(context, plx_session_save(session, 2, &saved, &bytes));
    expect_ok(context, plx_session_restore(session, 1, saved, bytes));
    plx_session_state_free(session, saved);
    expect_ok(context, plx_session_step(session, rows, 3, made->logits[0], NULL));
    plx_session_free(session);
}

static use *use_model(const run *of, const char *device, int threads)
{
    plx_context *context = test_context(threads, device, NULL);
    plx_model *model = NULL;
    plx_tokenizer *tokenizer = NULL;
    plx_generated text;
    plx_generate_options options = plx_generate_defaults();
    use *made = calloc(1, sizeof *made);
    plx_context_poison(context, true);
    options.max_tokens = 40; /* beyond the trained length */
    expect_ok(context, plx_model_load(context, of->out, NULL, &model));
    expect_ok(context, plx_tokenizer_open(context, "bytes", &tokenizer));
    expect_ok(context, plx_evaluate_file(model, text_file, 0, &made->evaluation));
    expect_ok(context, plx_generate(model, tokenizer, "the", 3, &options, &text));
    made->bytes = text.bytes;
    assert_true(text.bytes <= sizeof made->text);
    memcpy(made->text, text.text, text.bytes);
    plx_generated_free(model, &text);
    use_session(model, made);
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    plx_context_free(context);
    return made;
}

static void expect_same_use(const use *a, const use *b)
{
    assert_memory_equal(&a->evaluation, &b->evaluation, sizeof a->evaluation);
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->text, b->text, a->bytes);
    assert_memory_equal(a->logits, b->logits, sizeof a->logits);
}

/* ---- tests ---- */

static run text_on_cpu, task_on_cpu;

static void test_fenced_text(void **state)
{
    (void)state;
    run fenced = trained("text-fenced", text_recipe, "fenced", 2);
    assert_true(strlen(text_on_cpu.samples) > 10);
    expect_same_run(&text_on_cpu, &fenced);
}

static void test_fenced_task(void **state)
{
    (void)state;
    run fenced = trained("task-fenced", task_recipe, "fenced", 2);
    expect_same_run(&task_on_cpu, &fenced);
}

static void test_threads(void **state)
{
    (void)state;
    for (int threads = 2; threads <= 3; threads++) {
        char name[32];
        snprintf(name, sizeof name, "text-%d", threads);
        run more = trained(name, text_recipe, "cpu", threads);
        expect_same_run(&text_on_cpu, &more);
        snprintf(name, sizeof name, "task-%d", threads);
        more = trained(name, task_recipe, "cpu", threads);
        expect_same_run(&task_on_cpu, &more);
    }
}

static void test_use(void **state)
{
    static const struct { const char *device; int threads; } others[] = {{"fenced", 2}, {"cpu", 2}, {"cpu", 3}};
    (void)state;
    use *first = use_model(&text_on_cpu, "cpu", 1);
    assert_true(first->evaluation.tokens > 100 && first->bytes > 0);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        use *other = use_model(&text_on_cpu, others[i].device, others[i].threads);
        expect_same_use(first, other);
        free(other);
    }
    free(first);
}

/* Two runs at once on threads of their own, each with more threads inside, do not notice each other. */
static void test_side_by_side(void **state)
{
    pthread_t threads[2];
    run both[2] = {make_run("text-beside", text_recipe, "cpu", 2), make_run("task-beside", task_recipe, "fenced", 2)};
    (void)state;
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, train, &both[i]), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 2; i++) expect_trained(&both[i]);
    expect_same_run(&text_on_cpu, &both[0]);
    expect_same_run(&task_on_cpu, &both[1]);
}

/* Two models in use in turn in one thread. */
static void test_in_turn(void **state)
{
    test_batch batch = make_batch(2, 12, 17, 5, 3);
    plx_context *contexts[2] = {test_context(2, "cpu", NULL), test_context(1, "fenced", NULL)};
    plx_model *models[2] = {NULL, NULL};
    double *alone = NULL;
    (void)state;
    for (int i = 0; i < 2; i++) expect_ok(contexts[i], plx_model_load(contexts[i], text_on_cpu.out, NULL, &models[i]));
    for (int turn = 0; turn < 4; turn++) {
        double *logits = test_logits(models[turn % 2], &batch.batch);
        if (alone == NULL) {
            alone = logits;
            continue;
        }
        assert_memory_equal(logits, alone, 2 * 12 * VOCAB * sizeof *logits);
        free(logits);
    }
    free(alone);
    for (int i = 0; i < 2; i++) {
        plx_model_free(models[i]);
        plx_context_free(contexts[i]);
    }
    free_batch(&batch);
}

/* ---- */

/* A layer for each mixer's first `most` cases, as a recipe's list. */
static char *make_layers(size_t most)
{
    json_t *list = json_array();
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        for (size_t c = 0; c < most && plx_mixers[m]->cases[c] != NULL; c++) {
            json_t *layer = json_loads(plx_mixers[m]->cases[c], 0, NULL);
            json_object_set_new(layer, "mixer", json_string(plx_mixers[m]->name));
            json_array_append_new(list, layer);
        }
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

static void write_recipe(char path[256], const char *name, const char *layers, const char *data)
{
    size_t size = strlen(layers) + 2048;
    char *yaml = malloc(size);
    snprintf(yaml, size,
             "model: {hidden_size: 24, intermediate_size: 16, num_attention_heads: 4, head_dim: 6, dropout: 0.1,\n"
             "        layers: %s}\ndata: %s\n" TRAIN, layers, data);
    test_recipe_file(path, name, yaml);
    free(yaml);
}

static int prepare(void **state)
{
    char text[2048] = "", data[512];
    (void)state;
    while (strlen(text) < 1500) strcat(text, "the cat sat on the mat and the dog sat on the log.\n==\n");
    snprintf(text_file, sizeof text_file, "%s", test_file("text.txt", text, strlen(text)));
    snprintf(data, sizeof data, "{train: %s, document_separator: \"==\", sequence_length: 33, valid_fraction: 0.2}",
             text_file);
    /* The fenced device is slow with many tensors, so only one of the two has all. */
    char *all = make_layers(SIZE_MAX), *some = make_layers(3);
    write_recipe(text_recipe, "text", all, data);
    write_recipe(task_recipe, "task", some, "{task: mqar, valid_rows: 5}");
    free(all);
    free(some);
    text_on_cpu = trained("text-cpu", text_recipe, "cpu", 1);
    task_on_cpu = trained("task-cpu", task_recipe, "cpu", 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fenced_text), cmocka_unit_test(test_fenced_task),  cmocka_unit_test(test_threads),
        cmocka_unit_test(test_use),         cmocka_unit_test(test_side_by_side), cmocka_unit_test(test_in_turn),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
