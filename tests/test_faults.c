/* test_faults.c - what happens when memory or the disk fails: an error with its message, nothing leaked, nothing lost.
 *
 * A scenario runs again and again; in round n its nth allocation through the context's allocator fails, in one series
 * alone, in another with all that follow, until a round needs fewer. The same is done to the nth write, sync and rename
 * of training runs: this program's own versions of those functions stand before the C library's. */
#include "support/files.h"
#include "support/recipes.h"

#include "io/files.h"
#include "lab/compare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_ROUNDS = 20000 };

/* ---- a disk that fails ---- */

static struct { long calls, fail_at; bool once; } disk; /* fail_at 0: never */

static bool disk_fails(int number)
{
    long call = ++disk.calls;
    bool fails = disk.fail_at > 0 && (disk.once ? call == disk.fail_at : call >= disk.fail_at);
    if (fails) errno = number;
    return fails;
}

/* Nothing here has to outlive a power failure, and thousands of real ones would take minutes. */
int fsync(int file)
{
    (void)file;
    return disk_fails(EIO) ? -1 : 0;
}

int rename(const char *from, const char *to)
{
    return disk_fails(EIO) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* Like a disk that fills up, it takes half of what it has no room for, and then nothing. */
ssize_t write(int file, const void *data, size_t bytes)
{
    static bool full;
    bool fails = file > STDERR_FILENO && (full || disk_fails(ENOSPC));
    full = fails && !full && bytes > 1;
    if (!fails || full) return syscall(SYS_write, file, data, full ? bytes / 2 : bytes);
    errno = ENOSPC;
    return -1;
}

/* ---- rounds ---- */

typedef struct scenario {
    const char *name;
    plx_status (*run)(plx_context *context);          /* frees what it makes, whatever happens */
    void (*after)(const char *name, plx_status status); /* looks at what is left; may be NULL */
} scenario;

/* Some failures do not matter, but an error must be the expected one, in one line. */
static void expect_told(const plx_context *context, const char *name, long round, plx_status status,
                        plx_status expected)
{
    const plx_error *error = plx_context_error(context);
    if (status == PLX_OK) return;
    bool one_line = error->message[0] != '\0' && strchr(error->message, '\n') == NULL;
    if (status != expected || error->code != status || !one_line)
        fail_msg("%s, failure %ld: %s, recorded %s: '%s' (%s)", name, round, plx_status_name(status),
                 plx_status_name(error->code), error->message, error->where);
}

/* False once the scenario needs fewer than `round` allocations. */
static bool fail_allocation(const scenario *tested, long round, bool once)
{
    test_allocator allocator = {.fail_at = round, .once = once};
    plx_context_options options = {.threads = 1, .allocator = test_allocation(&allocator)};
    plx_context *context = NULL;
    plx_status status = plx_context_create(&options, &context);
    if (status == PLX_OK) {
        status = tested->run(context);
        expect_told(context, tested->name, round, status, PLX_ERROR_MEMORY);
    } else if (status != PLX_ERROR_MEMORY || context != NULL) {
        fail_msg("%s, failure %ld: making a context ends with %s", tested->name, round, plx_status_name(status));
    }
    plx_context_free(context);
    if (allocator.held != 0) fail_msg("%s, failure %ld: %ld blocks are left", tested->name, round, allocator.held);
    if (tested->after != NULL) tested->after(tested->name, status);
    bool failed = allocator.calls >= round;
    if (!failed && status != PLX_OK) fail_msg("%s, no failure: %s", tested->name, plx_status_name(status));
    return failed;
}

static void fail_each_allocation(const scenario *tested)
{
    for (int once = 0; once < 2; once++) {
        long round = 1;
        while (fail_allocation(tested, round, once)) assert_true(++round < MOST_ROUNDS);
        print_message("%s: %ld allocations\n", tested->name, round - 1);
    }
}

/* The same with the disk; false once the scenario needs fewer than `round` writes, syncs and renames. */
static bool fail_disk(const scenario *tested, long round, bool once)
{
    test_allocator allocator = {0};
    plx_context *context = test_counting_context(&allocator);
    disk.calls = 0;
    disk.fail_at = round;
    disk.once = once;
    plx_status status = tested->run(context);
    disk.fail_at = 0;
    bool failed = disk.calls >= round;
    expect_told(context, tested->name, round, status, PLX_ERROR_FILE);
    plx_context_free(context);
    if (allocator.held != 0) fail_msg("%s, failure %ld: %ld blocks are left", tested->name, round, allocator.held);
    if (tested->after != NULL) tested->after(tested->name, status);
    return failed;
}

static void fail_each_disk_call(const scenario *tested)
{
    for (int once = 0; once < 2; once++) {
        long round = 1;
        while (fail_disk(tested, round, once)) assert_true(++round < MOST_ROUNDS);
        print_message("%s: %ld writes, syncs and renames\n", tested->name, round - 1);
    }
}

/* ---- training ---- */

#define HYBRID \
    "model:\n  hidden_size: 8\n  intermediate_size: 4\n  num_attention_heads: 1\n  dropout: 0.1\n" \
    "  layers: [{mixer: attention, window: 3}, {mixer: nexus}, {mixer: simplicial, window: [4, 2]},\n" \
    "           {mixer: grassmann, rank: 3, offsets: [1, 2], block: paper}]\n"
#define TRAIN \
    "train: {steps: 2, batch_size: 1, accumulate: 2, recompute: 1, warmup_steps: 1, eval_every: 1, eval_rows: 1,\n" \
    "        save_every: 1, keep: 1, sample_every: 2, sample_prompt: a}\nsample: {max_tokens: 2}\n"

static struct { char text[256], task[256], compared[2][256]; } recipes;
static char out[256], reference[256], text_file[256], report[256];

static void ignore_event(void *user, const plx_run_event *event)
{
    (void)user;
    (void)event;
}

static plx_status train(plx_context *context, const char *path, const char *directory, bool resume)
{
    char override[300];
    const char *overrides[] = {override};
    plx_recipe *recipe = NULL;
    plx_run_options options = {.resume = resume, .event = ignore_event}; /* samples are made for somebody who listens */
    snprintf(override, sizeof override, "out=%s", directory);
    PLX_TRY(plx_recipe_load(context, path, overrides, 1, &recipe));
    plx_status status = plx_recipe_train(recipe, &options, NULL);
    plx_recipe_free(recipe);
    return status;
}

static plx_status train_on_text(plx_context *context) { return train(context, recipes.text, out, false); }
static plx_status train_on_task(plx_context *context) { return train(context, recipes.task, out, false); }

static void expect_same_file(const char *name, const char *file)
{
    char path[2][400];
    size_t bytes[2];
    snprintf(path[0], sizeof path[0], "%s/checkpoints/step-00000002/%s", reference, file);
    snprintf(path[1], sizeof path[1], "%s/checkpoints/step-00000002/%s", out, file);
    char *a = test_read(path[0], &bytes[0]), *b = test_read(path[1], &bytes[1]);
    if (a == NULL || b == NULL || bytes[0] != bytes[1] || memcmp(a, b, bytes[0]) != 0)
        fail_msg("%s: %s is not %s", name, path[1], path[0]);
    free(a);
    free(b);
}

/* What a failure leaves can be loaded if `latest` is there, and gone on with: to the weights of the run without it. */
static void expect_resumable(const char *name, plx_status status)
{
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = NULL;
    char latest[300];
    snprintf(latest, sizeof latest, "%s/latest", out);
    if (plx_file_exists(latest)) expect_ok(context, plx_model_load(context, out, NULL, &model));
    else if (status == PLX_OK) fail_msg("%s: a run that ended well left no checkpoint", name);
    plx_model_free(model);
    expect_ok(context, train(context, recipes.text, out, true));
    expect_same_file(name, "model.safetensors");
    expect_same_file(name, "optimizer.safetensors");
    expect_ok(context, plx_directory_remove(context, out));
    plx_context_free(context);
}

static void remove_out(const char *name, plx_status status)
{
    plx_context *context = test_context(1, NULL, NULL);
    (void)name;
    (void)status;
    expect_ok(context, plx_directory_remove(context, out));
    plx_context_free(context);
}

static const scenario text_run = {"training on text", train_on_text, expect_resumable};
static const scenario task_run = {"training on a task", train_on_task, remove_out};

static void test_memory_of_training(void **state)
{
    (void)state;
    fail_each_allocation(&text_run);
    fail_each_allocation(&task_run);
}

static void test_disk_of_training(void **state)
{
    (void)state;
    fail_each_disk_call(&text_run);
}

/* ---- use of a model ---- */

static plx_status generate(plx_context *context)
{
    plx_model *model = NULL;
    plx_tokenizer *tokenizer = NULL;
    plx_generated text;
    plx_generate_options options = plx_generate_defaults();
    options.max_tokens = 12;
    options.sampling = (plx_sampling){.temperature = 1, .top_k = 9, .top_p = 0.9, .min_p = 0.01,
                                      .repetition_penalty = 1.1};
    PLX_TRY(plx_model_load(context, reference, NULL, &model));
    plx_status status = plx_tokenizer_open(context, "bytes", &tokenizer);
    if (status == PLX_OK) status = plx_generate(model, tokenizer, "the", 3, &options, &text);
    if (status == PLX_OK) plx_generated_free(model, &text);
    plx_tokenizer_free(tokenizer);
    plx_model_free(model);
    return status;
}

static plx_status evaluate(plx_context *context)
{
    plx_model *model = NULL;
    plx_evaluation evaluation;
    PLX_TRY(plx_model_load(context, reference, NULL, &model));
    plx_status status = plx_evaluate_file(model, text_file, 0, &evaluation);
    plx_model_free(model);
    return status;
}

static plx_status use_session(plx_session *session)
{
    static const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    plx_session_row rows[2] = {{.slot = 0, .tokens = tokens, .count = 8},
                               {.slot = 1, .tokens = tokens + 3, .count = 2}};
    float logits[2 * 257];
    void *saved = NULL;
    size_t bytes;
    PLX_TRY(plx_session_step(session, rows, 2, logits, NULL));
    PLX_TRY(plx_session_fork(session, 0, 2));
    PLX_TRY(plx_session_cut(session, 2, 6));
    PLX_TRY(plx_session_reset(session, 1));
    PLX_TRY(plx_session_save(session, 2, &saved, &bytes));
    plx_status status = plx_session_restore(session, 1, saved, bytes);
    plx_session_state_free(session, saved);
    rows[1].slot = 2;
    if (status == PLX_OK) status = plx_session_step(session, rows, 2, logits, NULL);
    return status;
}

static plx_status open_session(plx_context *context)
{
    plx_model *model = NULL;
    plx_session *session = NULL;
    const plx_session_options options = {.slots = 3, .capacity = 40, .chunk = 8, .rollback = 4};
    PLX_TRY(plx_model_load(context, reference, NULL, &model));
    plx_status status = plx_session_create(model, &options, &session);
    if (status == PLX_OK) status = use_session(session);
    plx_session_free(session);
    plx_model_free(model);
    return status;
}

static void test_memory_of_use(void **state)
{
    static const scenario uses[] = {
        {"generation", generate, NULL}, {"evaluation", evaluate, NULL}, {"a session", open_session, NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof uses / sizeof uses[0]; i++) fail_each_allocation(&uses[i]);
}

/* A step that fails for want of memory changes nothing: done again, it gives what it would have given. */
static void test_session_goes_on(void **state)
{
    static const int32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    const plx_session_row row = {.slot = 0, .tokens = tokens, .count = 6};
    const plx_session_options options = {.slots = 1, .capacity = 40, .chunk = 8, .rollback = 4};
    float expected[257], logits[257];
    bool failed = true;
    (void)state;
    for (long round = 0; failed; round++) {
        test_allocator allocator = {.once = true};
        plx_context *context = test_counting_context(&allocator);
        plx_model *model = NULL;
        plx_session *session = NULL;
        expect_ok(context, plx_model_load(context, reference, NULL, &model));
        expect_ok(context, plx_session_create(model, &options, &session));
        if (round > 0) {
            allocator.fail_at = allocator.calls + round;
            plx_status status = plx_session_step(session, &row, 1, logits, NULL);
            failed = status != PLX_OK;
            if (failed) assert_int_equal(plx_session_length(session, 0), 0);
        }
        if (failed) expect_ok(context, plx_session_step(session, &row, 1, logits, NULL));
        if (round == 0) memcpy(expected, logits, sizeof expected);
        assert_memory_equal(logits, expected, sizeof expected);
        plx_session_free(session);
        plx_model_free(model);
        plx_context_free(context);
        assert_int_equal(allocator.held, 0);
    }
}

/* ---- comparison ---- */

static plx_status compare(plx_context *context, plx_comparison **comparison)
{
    const char *const paths[] = {recipes.compared[0], recipes.compared[1]};
    const plx_compare_options options = {.recipes = paths, .recipe_count = 2, .seeds = 1, .out = out,
                                         .sample_prompt = "a", .sample_tokens = 2};
    return plx_compare(context, &options, comparison);
}

static plx_status compare_only(plx_context *context)
{
    plx_comparison *comparison = NULL;
    plx_status status = compare(context, &comparison);
    plx_comparison_free(comparison);
    return status;
}

static void test_memory_of_comparison(void **state)
{
    static const scenario comparing = {"comparison", compare_only, remove_out};
    (void)state;
    /* Both series at once, since a comparison is long and made of what is tested above. */
    for (long round = 1; fail_allocation(&comparing, round, round % 2); round++) assert_true(round < MOST_ROUNDS);
}

static void test_memory_of_report(void **state)
{
    test_allocator allocator = {0};
    plx_context *context = test_counting_context(&allocator);
    plx_comparison *comparison = NULL;
    bool failed = true;
    (void)state;
    expect_ok(context, compare(context, &comparison));
    for (long round = 1; failed; round++) {
        long held = allocator.held;
        allocator.fail_at = allocator.calls + round;
        plx_status status = plx_report_write(comparison, report, "plexus compare");
        failed = allocator.calls >= allocator.fail_at;
        expect_told(context, "report", round, status, PLX_ERROR_MEMORY);
        assert_int_equal(allocator.held, held);
        assert_int_equal(plx_file_exists(report), status == PLX_OK);
    }
    allocator.fail_at = 0;
    plx_comparison_free(comparison);
    plx_context_free(context);
    assert_int_equal(allocator.held, 0);
}

/* ---- */

static int prepare(void **state)
{
    static const char text[] = "the cat sat on the mat, and the dog sat on the log.";
    static const char lines[] = "{\"text\": \"a first document\"}\n{\"text\": \"and another\"}\n";
    char json_file[256], yaml[2048];
    plx_context *context = test_context(1, NULL, NULL);
    (void)state;
    snprintf(text_file, sizeof text_file, "%s", test_file("text.txt", text, sizeof text - 1));
    snprintf(json_file, sizeof json_file, "%s", test_file("lines.jsonl", lines, sizeof lines - 1));
    /* Thousands of runs: a file system in memory, where there is one, makes their files faster. */
    if (access("/dev/shm", W_OK) == 0) snprintf(out, sizeof out, "/dev/shm/plexus-faults-%ld", (long)getpid());
    else test_path_in(out, "run");
    test_path_in(reference, "reference");
    test_path_in(report, "report.html");
    snprintf(yaml, sizeof yaml, HYBRID "data: {train: [%s, %s], sequence_length: 6, valid_fraction: 0.2}\n" TRAIN,
             text_file, json_file);
    test_recipe_file(recipes.text, "text", yaml);
    test_recipe_file(recipes.task, "task", HYBRID "data: {task: pairtable, valid_rows: 1}\n" TRAIN);
    for (int i = 0; i < 2; i++) {
        snprintf(yaml, sizeof yaml,
                 "model: {hidden_size: 4, intermediate_size: 4, num_attention_heads: 1, layers: [{mixer: %s}]}\n"
                 "data: {train: %s, sequence_length: 6, valid_fraction: 0.2}\n"
                 "train: {steps: 1, batch_size: 1}\nout: unused\n", i == 0 ? "attention" : "nexus", text_file);
        test_recipe_file(recipes.compared[i], i == 0 ? "one" : "other", yaml);
    }
    expect_ok(context, train(context, recipes.text, reference, false));
    plx_context_free(context);
    return 0;
}

static int clean_up(void **state)
{
    (void)state;
    remove_out(NULL, PLX_OK);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_memory_of_training, clean_up),
        cmocka_unit_test_teardown(test_disk_of_training, clean_up),
        cmocka_unit_test_teardown(test_memory_of_use, clean_up),
        cmocka_unit_test_teardown(test_session_goes_on, clean_up),
        cmocka_unit_test_teardown(test_memory_of_comparison, clean_up),
        cmocka_unit_test_teardown(test_memory_of_report, clean_up),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
