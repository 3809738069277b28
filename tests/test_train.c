/* test_train.c - whole runs: logs, checkpoints, resuming, stopping.
 *
 * Started as `test_train --child RECIPE EVENTS RESUME` it is the program that the kill test kills: it trains and takes
 * SIGKILL at its EVENTSth event. */
#include "support/files.h"
#include "support/recipes.h"
#include "io/files.h"
#include "train/rundir.h"
#include "train/tensorboard.h"
#include "train/train.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- files ---- */

static bool is_there(const char *format, const char *out, size_t step)
{
    char path[512];
    struct stat about;
    snprintf(path, sizeof path, format, out, step);
    return stat(path, &about) == 0;
}

static void replace_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) fail_msg("cannot write %s", path);
    fputs(text, file);
    fclose(file);
}

static void assert_same_file(const char *out_a, const char *out_b, const char *name)
{
    char path_a[512], path_b[512];
    size_t bytes_a = 0, bytes_b = 0;
    snprintf(path_a, sizeof path_a, "%s/%s", out_a, name);
    snprintf(path_b, sizeof path_b, "%s/%s", out_b, name);
    char *a = test_read(path_a, &bytes_a), *b = test_read(path_b, &bytes_b);
    if (a == NULL || b == NULL) fail_msg("%s or %s is missing", path_a, path_b);
    if (bytes_a != bytes_b || memcmp(a, b, bytes_a) != 0) fail_msg("%s and %s differ", path_a, path_b);
    free(a);
    free(b);
}

static void assert_same_checkpoint(const char *out_a, const char *out_b, size_t step)
{
    char name[128];
    snprintf(name, sizeof name, "checkpoints/step-%08zu/model.safetensors", step);
    assert_same_file(out_a, out_b, name);
    snprintf(name, sizeof name, "checkpoints/step-%08zu/optimizer.safetensors", step);
    assert_same_file(out_a, out_b, name);
}

/* ---- runs ---- */

/* What the callbacks of a run see and do. */
typedef struct watch {
    plx_context *context;
    const char *device;
    size_t warnings, steps, evaluations, saves, samples, started;
    double losses[64];
    size_t cancel_after;      /* step; 0: never */
    size_t last_step;
    const char *break_saving; /* checkpoints directory to put a file in place of, after the first save */
    size_t mend_after;        /* step after which it is put back; 0: never */
    size_t kill_at, events;   /* child: SIGKILL at this event */
} watch;

static void on_log(void *user, plx_log_level level, const char *message)
{
    watch *seen = user;
    (void)message;
    if (level == PLX_LOG_WARNING) seen->warnings++;
}

static bool on_cancel(void *user)
{
    const watch *seen = user;
    return seen->cancel_after > 0 && seen->last_step >= seen->cancel_after;
}

static void swap_checkpoints(const char *path, bool away)
{
    char aside[300];
    snprintf(aside, sizeof aside, "%s-aside", path);
    if (away) {
        assert_int_equal(rename(path, aside), 0);
        replace_text(path, "in the way");
    } else {
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(aside, path), 0);
    }
}

static void on_event(void *user, const plx_run_event *event)
{
    watch *seen = user;
    if (seen->kill_at > 0 && ++seen->events == seen->kill_at) raise(SIGKILL);
    seen->last_step = event->step;
    switch (event->kind) {
    case PLX_RUN_STARTED: seen->started++; break;
    case PLX_RUN_STEP:
        if (event->step < 64) seen->losses[event->step] = event->loss;
        seen->steps++;
        if (seen->break_saving != NULL && event->step == seen->mend_after) swap_checkpoints(seen->break_saving, false);
        break;
    case PLX_RUN_EVALUATED: seen->evaluations++; break;
    case PLX_RUN_SAVED:
        if (seen->break_saving != NULL && seen->saves++ == 0) swap_checkpoints(seen->break_saving, true);
        break;
    case PLX_RUN_SAMPLE: seen->samples++; break;
    }
}

static plx_context *watched_context(watch *seen, int threads)
{
    plx_context_options options = {.threads = threads, .device = seen->device, .log = on_log, .cancel = on_cancel,
                                   .user = seen};
    if (plx_context_create(&options, &seen->context) != PLX_OK) fail_msg("no context");
    return seen->context;
}

/* Runs a recipe in a context of its own and checks the status; `wanted` (may be NULL) must be in the message. */
static plx_run_result train(watch *seen, int threads, plx_status expected, const char *wanted, bool resume,
                            const char *path, const char *out, const char *a, const char *b, const char *c)
{
    plx_run_result result;
    plx_context *context = watched_context(seen, threads);
    plx_recipe *recipe = test_recipe(context, path, out, a, b, c);
    plx_run_options options = {.resume = resume, .event = on_event, .user = seen};
    plx_status status = plx_recipe_train(recipe, &options, &result);
    const char *message = plx_context_error(context)->message;
    if (status != expected) fail_msg("%s: %s", plx_status_name(status), message);
    if (wanted != NULL && strstr(message, wanted) == NULL) fail_msg("'%s' lacks '%s'", message, wanted);
    plx_recipe_free(recipe);
    plx_context_free(context);
    return result;
}

static double metric(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static size_t count_lines(const char *out, const char *key, size_t beyond)
{
    char path[512];
    size_t bytes, count = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", out);
    char *text = test_read(path, &bytes);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, 0, NULL);
        if (object == NULL) fail_msg("not JSON: %s", line);
        if (json_object_get(object, key) != NULL && metric(object, "step") > (double)beyond) count++;
        json_decref(object);
    }
    free(text);
    return count;
}

static void test_run_leaves(void **state)
{
    char recipe[256], out[256], path[300];
    size_t bytes;
    watch seen = {0};
    (void)state;
    test_recipe_file(recipe, "leaves", TINY_TASK);
    plx_run_result result = train(&seen, 1, PLX_OK, NULL, false, recipe, test_path_in(out, "leaves"), NULL, NULL, NULL);
    assert_int_equal(result.step, 7);
    assert_int_equal(result.tokens, 7 * 4 * 32);
    assert_true(result.parameters > 0 && result.flops_per_token > 0 && result.tokens_per_second > 0);
    assert_true(result.valid_accuracy >= 0 && result.valid_accuracy <= 1 && result.valid_bits_per_byte < 0);
    assert_int_equal(seen.started, 1);
    assert_int_equal(seen.steps, 7);
    assert_int_equal(seen.evaluations, 3); /* 3, 6, 7 */
    assert_int_equal(seen.warnings, 0);

    /* keep: 2, of 2, 4, 6 and the end's 7 */
    assert_false(is_there("%s/checkpoints/step-%08zu", out, 2));
    assert_false(is_there("%s/checkpoints/step-%08zu", out, 4));
    assert_true(is_there("%s/checkpoints/step-%08zu", out, 6));
    assert_true(is_there("%s/checkpoints/step-%08zu/config.json", out, 7));
    snprintf(path, sizeof path, "%s/latest", out);
    char *latest = test_read(path, &bytes);
    assert_string_equal(latest, "step-00000007\n");
    free(latest);

    snprintf(path, sizeof path, "%s/metrics.jsonl", out);
    char *metrics = test_read(path, &bytes);
    json_t *first = json_loads(strtok(metrics, "\n"), 0, NULL);
    static const char *const keys[] = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "seconds"};
    assert_int_equal(json_object_size(first), 7);
    for (size_t i = 0; i < 7; i++) assert_true(isfinite(metric(first, keys[i])));
    assert_int_equal((int)metric(first, "tokens"), 4 * 32);
    assert_true(metric(first, "loss") == seen.losses[1]);
    assert_true(metric(first, "lr") == 1.5e-3);
    json_decref(first);
    free(metrics);
    assert_int_equal(count_lines(out, "loss", 0), 7);
    assert_int_equal(count_lines(out, "valid_loss", 0), 3);
    assert_int_equal(count_lines(out, "valid_accuracy", 0), 3);
    assert_int_equal(count_lines(out, "valid_bits_per_byte", 0), 0);

    /* The run's directory opens as a model, and the resolved recipe as a recipe. */
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = NULL;
    plx_recipe *again = NULL;
    expect_ok(context, plx_model_load(context, out, NULL, &model));
    plx_model_free(model);
    snprintf(path, sizeof path, "%s/recipe.yaml", out);
    expect_ok(context, plx_recipe_load(context, path, NULL, 0, &again));
    assert_int_equal(again->options.steps, 7);
    plx_recipe_free(again);
    plx_context_free(context);

    /* Never overwritten; finished already; another process's. */
    train(&seen, 1, PLX_ERROR_EXISTS, "--resume", false, recipe, out, NULL, NULL, NULL);
    plx_run_result finished = train(&seen, 1, PLX_OK, NULL, true, recipe, out, NULL, NULL, NULL);
    assert_int_equal(finished.step, 7);
    assert_true(finished.valid_loss == result.valid_loss && finished.train_loss == result.train_loss);
    train(&seen, 1, PLX_ERROR_VALUE, "beyond", true, recipe, out, "train.steps=5", NULL, NULL);
    train(&seen, 1, PLX_ERROR_VALUE, "model", true, recipe, out, "model.rope_theta=5000", NULL, NULL);
    train(&seen, 1, PLX_ERROR_VALUE, "batch_size", true, recipe, out, "train.batch_size=2", NULL, NULL);
    int lock = -1;
    context = test_context(1, NULL, NULL);
    expect_ok(context, plx_rundir_lock(context, out, &lock));
    train(&seen, 1, PLX_ERROR_EXISTS, "another process", true, recipe, out, NULL, NULL, NULL);
    close(lock);
    snprintf(path, sizeof path, "%s/latest", out);
    replace_text(path, "../../etc\n");
    train(&seen, 1, PLX_ERROR_FORMAT, "latest", true, recipe, out, NULL, NULL, NULL);
    replace_text(path, "step-00000005\n");
    train(&seen, 1, PLX_ERROR_FILE, "step-00000005", true, recipe, out, NULL, NULL, NULL);
    plx_context_free(context);
}

static void test_threads_and_cancel(void **state)
{
    char recipe[256], one[256], two[256], cut[256];
    watch seen = {0}, stopped = {.cancel_after = 3}, resumed = {0};
    (void)state;
    test_recipe_file(recipe, "cut", TINY_TASK);
    train(&seen, 1, PLX_OK, NULL, false, recipe, test_path_in(one, "one"), NULL, NULL, NULL);
    train(&seen, 2, PLX_OK, NULL, false, recipe, test_path_in(two, "two"), NULL, NULL, NULL);
    assert_same_checkpoint(one, two, 7);
    watch fenced = {.device = "fenced"};
    train(&fenced, 2, PLX_OK, NULL, false, recipe, test_path_in(two, "fenced"), NULL, NULL, NULL);
    assert_same_checkpoint(one, two, 7);

    plx_run_result result = train(&stopped, 1, PLX_CANCELLED, "step 3 of 7", false, recipe, test_path_in(cut, "cut"),
                                  NULL, NULL, NULL);
    assert_int_equal(result.step, 3);
    assert_true(is_there("%s/checkpoints/step-%08zu/trainer.json", cut, 3));
    train(&resumed, 1, PLX_OK, NULL, true, recipe, cut, NULL, NULL, NULL);
    assert_int_equal(resumed.steps, 4);
    assert_same_checkpoint(one, cut, 7);
    assert_same_checkpoint(one, cut, 6);
    for (size_t step = 4; step <= 7; step++) assert_true(resumed.losses[step] == seen.losses[step]);
    assert_int_equal(count_lines(cut, "loss", 0), 7);
    assert_int_equal(count_lines(cut, "valid_loss", 0), 3);
}

/* Starts the program on a recipe. kill_at: it kills itself at that event; after: it is killed after so many
 * microseconds; both 0: it runs to its end. True when it ended by itself, as it should. */
static bool run_child(const char *recipe, const char *out, bool resume, size_t kill_at, unsigned after)
{
    char events[24];
    int status = 0;
    snprintf(events, sizeof events, "%zu", kill_at);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "test_train", "--child", recipe, out, events, resume ? "1" : "0", (char *)NULL);
        _exit(9);
    }
    if (after > 0) {
        usleep(after);
        kill(child, SIGKILL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) return false;
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}

/* Killed at many moments and resumed each time, a run ends as one that was never interrupted. It saves every step, so
 * that many of the moments are in the middle of that. */
static void test_killed(void **state)
{
    char recipe[256], whole[256], killed[256];
    watch seen = {0};
    bool done = false;
    (void)state;
    test_recipe_file(recipe, "killed", TINY_MODEL "data: {task: mqar, valid_rows: 6}\n"
                     "train: {steps: 7, batch_size: 4, eval_every: 3, save_every: 1, keep: 2}\n");
    train(&seen, 1, PLX_OK, NULL, false, recipe, test_path_in(whole, "whole"), NULL, NULL, NULL);
    test_path_in(killed, "killed");
    for (size_t round = 0; round < 8 && !done; round++) {
        done = run_child(recipe, killed, round > 0, 1 + round * 3 % 5, 0);
    }
    srand((unsigned)time(NULL));
    for (size_t round = 0; round < 20 && !done; round++) {
        done = run_child(recipe, killed, true, 0, 1000 + (unsigned)rand() % 60000);
    }
    if (!done) assert_true(run_child(recipe, killed, true, 0, 0));
    assert_same_checkpoint(whole, killed, 7);
    assert_int_equal(count_lines(killed, "loss", 0), 7);
    assert_int_equal(count_lines(killed, "valid_loss", 0), 3);
}

static int child_main(char **argv)
{
    char out[300];
    const char *overrides[] = {out};
    watch seen = {.kill_at = (size_t)atoi(argv[4])};
    plx_context *context = watched_context(&seen, 1);
    plx_recipe *recipe = NULL;
    snprintf(out, sizeof out, "out=%s", argv[3]);
    plx_run_options options = {.resume = argv[5][0] == '1', .event = on_event, .user = &seen};
    plx_status status = plx_recipe_load(context, argv[2], overrides, 1, &recipe);
    if (status == PLX_OK) status = plx_recipe_train(recipe, &options, NULL);
    if (status != PLX_OK) fprintf(stderr, "%s\n", plx_context_error(context)->message);
    plx_recipe_free(recipe);
    plx_context_free(context);
    return status != PLX_OK;
}

/* What a killed process may leave is cleared away on resuming: half a checkpoint, a whole one that `latest` does not
 * name, lines beyond the checkpoint and half a line. */
static void test_leftovers(void **state)
{
    char recipe[256], out[256], path[300];
    watch stopped = {.cancel_after = 4}, seen = {0};
    (void)state;
    test_recipe_file(recipe, "leftovers", TINY_TASK);
    train(&stopped, 1, PLX_CANCELLED, NULL, false, recipe, test_path_in(out, "leftovers"), NULL, NULL, NULL);
    snprintf(path, sizeof path, "%s/checkpoints/step-00000006.tmp-123", out);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/checkpoints/step-00000006", out);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/checkpoints/mine", out);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/metrics.jsonl", out);
    FILE *file = fopen(path, "a");
    fputs("{\"step\":5,\"loss\":1}\n{\"step\":6,\"lo", file);
    fclose(file);
    train(&seen, 1, PLX_OK, NULL, true, recipe, out, NULL, NULL, NULL);
    assert_false(is_there("%s/checkpoints/step-%08zu.tmp-123", out, 6));
    assert_true(is_there("%s/checkpoints/step-%08zu/model.safetensors", out, 6));
    assert_true(is_there("%s/checkpoints/mine", out, 0));
    assert_int_equal(count_lines(out, "loss", 0), 7);
}

/* A resume where no run is begins one, with a warning. */
static void test_resume_nothing(void **state)
{
    char recipe[256], out[256];
    watch seen = {0};
    (void)state;
    test_recipe_file(recipe, "fresh", TINY_TASK);
    train(&seen, 1, PLX_OK, NULL, true, recipe, test_path_in(out, "fresh"), "train.steps=2", NULL, NULL);
    assert_int_equal(seen.warnings, 1);
}

static void test_saving_fails(void **state)
{
    char recipe[256], out[256], checkpoints[300];
    (void)state;
    test_recipe_file(recipe, "full", TINY_TASK);
    test_path_in(out, "full");
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", out);
    watch mended = {.break_saving = checkpoints, .mend_after = 5};
    train(&mended, 1, PLX_OK, NULL, false, recipe, out, NULL, NULL, NULL);
    assert_int_equal(mended.warnings, 1); /* step 4 could not be saved */
    assert_true(is_there("%s/checkpoints/step-%08zu", out, 7));

    test_path_in(out, "full2");
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", out);
    watch broken = {.break_saving = checkpoints};
    train(&broken, 1, PLX_ERROR_FILE, "step-00000002", false, recipe, out, NULL, NULL, NULL);
    assert_int_equal(broken.warnings, 2); /* steps 4 and 6 */
    assert_true(is_there("%s/checkpoints-aside/step-%08zu", out, 2));
}

/* Weights that overflow stop the run with step and tensor; what was saved stays. */
static void test_not_finite(void **state)
{
    char recipe[256], out[256];
    watch seen = {0};
    (void)state;
    test_recipe_file(recipe, "nan", TINY_TASK);
    train(&seen, 1, PLX_OK, NULL, false, recipe, test_path_in(out, "nan"), "train.steps=2", NULL, NULL);
    char path[300];
    snprintf(path, sizeof path, "%s/checkpoints/step-00000002/model.safetensors", out);
    /* Infinity in place of some weights, by hand: the file's last bytes are a tensor's last numbers. */
    FILE *file = fopen(path, "r+b");
    const float infinity = INFINITY;
    assert_int_equal(fseek(file, -4, SEEK_END), 0);
    assert_int_equal(fwrite(&infinity, 4, 1, file), 1);
    fclose(file);
    train(&seen, 1, PLX_ERROR_NUMERIC, "step-00000002", true, recipe, out, NULL, NULL, NULL);
    train(&seen, 1, PLX_ERROR_NUMERIC, "step 3", true, recipe, out, NULL, NULL, NULL);
    assert_true(is_there("%s/checkpoints/step-%08zu", out, 2));
    assert_false(is_there("%s/checkpoints/step-%08zu", out, 3));
}

static void read_weights(const char *out, const char *tensor, double *values, size_t count)
{
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model = NULL;
    expect_ok(context, plx_model_load(context, out, NULL, &model));
    expect_ok(context, plx_model_read_tensor(model, tensor, false, values, count));
    plx_model_free(model);
    plx_context_free(context);
}

static void test_options_of_training(void **state)
{
    char recipe[256], plain[256], other[256];
    watch seen = {0}, parts = {0};
    static double a[24 * 16], b[24 * 16];
    (void)state;
    test_recipe_file(recipe, "options", TINY_TASK);
    train(&seen, 1, PLX_OK, NULL, false, recipe, test_path_in(plain, "plain"), NULL, NULL, NULL);

    /* Recomputing changes nothing. */
    train(&parts, 1, PLX_OK, NULL, false, recipe, test_path_in(other, "recomputed"), "train.recompute=all", NULL, NULL);
    assert_same_checkpoint(plain, other, 7);

    /* Two halves make the whole batch, but for rounding; the same rows, so the first loss is the same. */
    train(&parts, 1, PLX_OK, NULL, false, recipe, test_path_in(other, "halves"), "train.batch_size=2",
          "train.accumulate=2", NULL);
    read_weights(plain, "model.layers.0.ffn.up_proj.weight", a, 24 * 16);
    read_weights(other, "model.layers.0.ffn.up_proj.weight", b, 24 * 16);
    assert_true(relative_error(a, b, 24 * 16) < 1e-3);
    for (size_t step = 1; step <= 7; step++) assert_true(fabs(parts.losses[step] - seen.losses[step]) < 1e-4);

    /* Frozen tensors stay as they began, and have no moments. */
    train(&parts, 1, PLX_OK, NULL, false, recipe, test_path_in(other, "frozen"), "train.freeze=[\"*.ffn.*\"]", NULL,
          NULL);
    read_weights(other, "model.layers.0.ffn.up_proj.weight", b, 24 * 16);
    assert_true(relative_error(a, b, 24 * 16) > 1e-3);
    train(&parts, 1, PLX_OK, NULL, false, recipe, test_path_in(plain, "short"), "train.freeze=[\"*.ffn.*\"]",
          "train.steps=1", NULL);
    read_weights(plain, "model.layers.0.ffn.up_proj.weight", a, 24 * 16);
    assert_true(relative_error(a, b, 24 * 16) == 0);
    train(&parts, 1, PLX_ERROR_FORMAT, "frozen", true, recipe, other, "train.steps=9", NULL, NULL);
    train(&parts, 1, PLX_ERROR_VALUE, "freeze", false, recipe, test_path_in(other, "f"),
          "train.freeze=[\"nothing*\"]", NULL, NULL);
    assert_false(is_there("%s/recipe.yaml", other, 0)); /* no run has begun */
}

static void test_text_run(void **state)
{
    char recipe[256], out[256], text[256], data[300];
    watch seen = {0};
    (void)state;
    FILE *file = fopen(test_path_in(text, "text.txt"), "w");
    for (int i = 0; i < 400; i++) fprintf(file, "line %d of a text \xff\xfe to learn.\n", i);
    fclose(file);
    test_recipe_file(recipe, "text",
                     TINY_MODEL "data: {train: [missing.txt], sequence_length: 24, valid_fraction: 0.1}\n" TINY_TRAIN);
    snprintf(data, sizeof data, "data.train=[%s]", text);
    plx_run_result result = train(&seen, 1, PLX_OK, NULL, false, recipe, test_path_in(out, "text"), data,
                                  "train.sample_every=4",
                                  "sample.max_tokens=5");
    assert_true(result.valid_bits_per_byte > 0 && result.valid_accuracy < 0);
    assert_true(result.valid_bits_per_byte < 16);
    assert_int_equal(seen.samples, 2); /* 4, 7 */
    assert_int_equal(count_lines(out, "valid_bits_per_byte", 0), 3);
    train(&seen, 1, PLX_ERROR_FILE, "missing.txt", false, recipe, test_path_in(out, "missing"), NULL, NULL, NULL);
    assert_false(is_there("%s/recipe.yaml", out, 0));
}

/* Every allocation of a run fails once: always an error, nothing leaked, and the run can be resumed after it. */
static void test_allocation_failures(void **state)
{
    char path[256], out[256], override[300], text[256];
    const char *overrides[] = {override, NULL};
    bool done = false;
    (void)state;
    test_recipe_file(path, "memory",
                     "model: {hidden_size: 4, intermediate_size: 4, num_attention_heads: 1,\n"
                     "        layers: [{mixer: attention}]}\n"
                     "data: {train: none, sequence_length: 4, valid_fraction: 0.2}\n"
                     "train: {steps: 2, batch_size: 1, save_every: 1, eval_rows: 1,\n"
                     "        freeze: \"*.norm.*\", accumulate: 2}\n");
    FILE *file = fopen(test_path_in(text, "memory.txt"), "w");
    fputs("A text that is long enough for a few windows of four bytes each.", file);
    fclose(file);
    char data[300];
    snprintf(data, sizeof data, "data.train=%s", text);
    /* Hundreds of runs: where there is a file system in memory, synced files cost nothing. */
    const char *place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    overrides[1] = data;
    for (long fail_at = 1; !done; fail_at++) {
        snprintf(out, sizeof out, "%s/plexus-memory-%ld", place, (long)getpid());
        snprintf(override, sizeof override, "out=%s", out);
        test_allocator allocator = {0};
        plx_context *context = test_counting_context(&allocator);
        plx_recipe *recipe = NULL;
        long before = allocator.held;
        allocator.fail_at = allocator.calls + fail_at;
        plx_status status = plx_recipe_load(context, path, overrides, 2, &recipe);
        if (status == PLX_OK) status = plx_recipe_train(recipe, NULL, NULL);
        done = allocator.calls < allocator.fail_at;
        if (done && status != PLX_OK) fail_msg("without failure: %s", plx_context_error(context)->message);
        if (!done && status != PLX_ERROR_MEMORY) {
            fail_msg("allocation %ld: %s: %s", fail_at, plx_status_name(status), plx_context_error(context)->message);
        }
        plx_recipe_free(recipe);
        allocator.fail_at = 0;
        plx_directory_remove(context, out);
        if (allocator.held > before + 1) {
            fail_msg("allocation %ld: %ld blocks are left", fail_at, allocator.held - before);
        }
        plx_context_free(context);
        assert_int_equal(allocator.held, 0);
    }
}

/* ---- TensorBoard: reads the file back record by record ---- */

static uint32_t crc_by_table(const unsigned char *data, size_t count)
{
    static uint32_t table[256];
    uint32_t crc = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = table[i] & 1 ? table[i] >> 1 ^ 0x82f63b78u : table[i] >> 1;
    }
    while (count-- > 0) crc = table[(crc ^ *data++) & 255] ^ crc >> 8;
    return ~crc;
}

static uint32_t stored(const unsigned char *at)
{
    uint32_t masked = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    masked -= 0xa282ead8u;
    return masked >> 17 | masked << 15;
}

static void test_tensorboard(void **state)
{
    plx_context *context = test_context(1, NULL, NULL);
    char directory[256], path[600] = "";
    plx_tensorboard *board = NULL;
    const plx_scalar scalars[] = {{"loss", 0.5}, {"valid/loss", -2.0}};
    size_t bytes = 0, records = 0;
    (void)state;
    assert_int_equal(crc_by_table((const unsigned char *)"123456789", 9), 0xe3069283u); /* the published check value */
    assert_int_equal(mkdir(test_path_in(directory, "board"), 0777), 0);
    expect_ok(context, plx_tensorboard_open(context, directory, 300, &board));
    expect_ok(context, plx_tensorboard_scalars(board, 300, scalars, 2));
    plx_tensorboard_close(board);
    DIR *list = opendir(directory);
    for (struct dirent *entry; (entry = readdir(list)) != NULL;) {
        if (strstr(entry->d_name, ".tfevents.") != NULL) snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    }
    closedir(list);
    unsigned char *data = (unsigned char *)test_read(path, &bytes);
    assert_non_null(data);
    for (size_t at = 0; at < bytes; records++) {
        size_t length = data[at] | (size_t)data[at + 1] << 8;
        assert_true(at + 16 + length <= bytes);
        assert_int_equal(crc_by_table(data + at, 8), stored(data + at + 8));
        assert_int_equal(crc_by_table(data + at + 12, length), stored(data + at + 12 + length));
        if (records == 2) { /* 1: double, 2: varint 300, 5: the summary with both values */
            static const unsigned char step[] = {0x10, 0xac, 0x02, 0x2a},
                value[] = {0x0a, 4, 'l', 'o', 's', 's', 0x15, 0, 0, 0, 0x3f};
            assert_int_equal(data[at + 12], 0x09);
            assert_memory_equal(data + at + 21, step, sizeof step);
            assert_non_null(memmem(data + at, length + 12, value, sizeof value));
        }
        at += 16 + length;
    }
    assert_int_equal(records, 3); /* version, start of a resumed session, scalars */
    free(data);
    plx_context_free(context);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_leaves),
        cmocka_unit_test(test_threads_and_cancel),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_leftovers),
        cmocka_unit_test(test_resume_nothing),
        cmocka_unit_test(test_saving_fails),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_options_of_training),
        cmocka_unit_test(test_text_run),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_tensorboard),
    };
    if (argc == 6 && strcmp(argv[1], "--child") == 0) return child_main(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
