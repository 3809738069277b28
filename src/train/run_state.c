/* run_state.c - what a checkpoint holds of a run beside weights and moments: what the run is (so that only the same one goes
 * on from it) and how far it has come. */
#include "io/files.h"
#include "train/run.h"
#include "train/rundir.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What of the recipe a resumed run must share with the run it goes on from. */
static json_t *identity(const plx_recipe *recipe)
{
    json_t *model = json_loads(recipe->config_text, 0, NULL);
    json_t *data = plx_node_to_json(plx_recipe_section(recipe, "data"));
    if (recipe->tokenizer_of_from) json_object_del(data, "tokenizer");
    return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I}", "model", model, "data", data, "weights", (json_int_t)recipe->weights,
                     "seed", (json_int_t)recipe->seed, "batch_size", (json_int_t)recipe->batch_size, "accumulate",
                     (json_int_t)recipe->accumulate);
}

static json_t *number_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *run_state(const plx_training *run)
{
    const plx_run_result *result = run->result;
    double seconds = run->seconds_before + plx_seconds() - run->began;
    char content[24];
    snprintf(content, sizeof content, "%016" PRIx64, plx_data_content(run->data));
    return json_pack("{s:o, s:s, s:I, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "recipe", identity(run->recipe), "data_content",
                     content, "tokens", (json_int_t)result->tokens, "seconds", seconds,
                     "evaluated", (json_int_t)run->evaluated, "sampled", (json_int_t)run->sampled, "train_loss",
                     number_or_null(result->train_loss), "valid_loss", number_or_null(result->valid_loss),
                     "valid_bits_per_byte", number_or_null(result->valid_bits_per_byte), "valid_accuracy",
                     number_or_null(result->valid_accuracy), "tokens_per_second",
                     number_or_null(result->tokens_per_second));
}

static double real_of(const json_t *state, const char *key)
{
    const json_t *value = json_object_get(state, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static size_t size_of(const json_t *state, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(state, key));
    return value > 0 ? (size_t)value : 0;
}

/* "data.sequence_length", "train.seed": what of a section two recipes differ in. */
static void name_difference(const char *section, const json_t *ours, const json_t *theirs, char name[96])
{
    const char *key;
    json_t *value;
    const bool inside = json_is_object(ours);
    snprintf(name, 96, "%s%s", inside ? "" : strcmp(section, "weights") == 0 ? "model." : "train.", section);
    if (!inside) return;
    json_object_foreach((json_t *)ours, key, value) {
        if (json_equal(value, json_object_get(theirs, key))) continue;
        snprintf(name, 96, "%s.%.60s", section, key);
        return;
    }
}

/* The files of the recipe's data may hold something else by now, which nobody may have meant. Checkpoints written before
 * Plexus kept this say nothing. */
static void compare_data(const plx_training *run, const json_t *state, const char *directory)
{
    const char *before = json_string_value(json_object_get(state, "data_content"));
    if (before == NULL || strtoull(before, NULL, 16) == plx_data_content(run->data)) return;
    plx_log(run->context, PLX_LOG_WARNING,
            "the data's files have changed since %s was written: the run goes on with other rows than it would have",
            directory);
}

/* Refuses to go on from a checkpoint of another model, data or order of rows. */
static plx_status check_identity(const plx_training *run, const json_t *state, const char *directory)
{
    static const char *const keys[] = {"model", "data", "weights", "seed", "batch_size", "accumulate"};
    plx_status status = PLX_OK;
    const json_t *theirs = json_object_get(state, "recipe");
    json_t *ours = identity(run->recipe);
    if (ours == NULL) return plx_fail(run->context, PLX_ERROR_MEMORY, "out of memory for the state of the run");
    if (run->recipe->tokenizer_of_from) json_object_del(json_object_get(theirs, "data"), "tokenizer"); /* as it had been kept */
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && status == PLX_OK; i++) {
        const json_t *our = json_object_get(ours, keys[i]), *their = json_object_get(theirs, keys[i]);
        char name[96];
        if (json_equal(our, their)) continue;
        if (their == NULL && strcmp(keys[i], "weights") == 0) continue; /* written before Plexus kept it */
        name_difference(keys[i], our, their, name);
        status = plx_fail(run->context, PLX_ERROR_VALUE,
                          "%s: %s is not what it was when %s was written: a resumed run needs the"
                          " same; for another, choose another out", run->recipe->path, name, directory);
    }
    json_decref(ours);
    return status;
}

plx_status plx_training_restore(plx_training *run, size_t step)
{
    plx_run_result *result = run->result;
    json_t *state = NULL;
    char *directory = plx_rundir_checkpoint(run->context, run->recipe->out, step);
    if (directory == NULL) return PLX_ERROR_MEMORY;
    plx_status status = PLX_OK;
    if (!plx_file_exists(directory)) {
        status = plx_fail(run->context, PLX_ERROR_FILE,
                          "%s/latest names %s, which is not there: put another checkpoint's name"
                          " into it", run->recipe->out, directory);
    }
    /* Before the tensors: a change of the model should be called that, not a missing tensor. */
    if (status == PLX_OK) status = plx_checkpoint_read_state(run->context, directory, &state);
    if (status == PLX_OK) status = check_identity(run, state, directory);
    json_decref(state);
    state = NULL;
    if (status == PLX_OK) status = plx_checkpoint_load(run->trainer, directory, &state);
    if (status == PLX_OK && run->trainer->step != step) {
        status = plx_fail(run->context, PLX_ERROR_FORMAT, "%s says that it is step %zu", directory, run->trainer->step);
    }
    if (status == PLX_OK) {
        compare_data(run, state, directory);
        run->saved = run->first = step;
        run->evaluated = size_of(state, "evaluated");
        run->sampled = size_of(state, "sampled");
        run->seconds_before = fmax(real_of(state, "seconds"), 0);
        result->step = step;
        result->tokens = size_of(state, "tokens");
        result->train_loss = real_of(state, "train_loss");
        result->valid_loss = real_of(state, "valid_loss");
        result->valid_bits_per_byte = real_of(state, "valid_bits_per_byte");
        result->valid_accuracy = real_of(state, "valid_accuracy");
        const double rate = real_of(state, "tokens_per_second");
        result->tokens_per_second = rate >= 0 ? rate : -1; /* written before Plexus kept it */
    }
    json_decref(state);
    plx_free(run->context, directory);
    return status;
}

plx_status plx_training_save(plx_training *run)
{
    plx_context *context = run->context;
    const plx_recipe *recipe = run->recipe;
    const size_t step = run->trainer->step;
    plx_status status = PLX_OK;
    if (run->saved == step) return PLX_OK;
    json_t *state = run_state(run);
    char *directory = plx_rundir_checkpoint(context, recipe->out, step);
    if (state == NULL || directory == NULL) {
        status = plx_fail(context, PLX_ERROR_MEMORY, "out of memory for the state of the run");
        goto done;
    }
    PLX_TRY_GOTO(status, done, plx_checkpoint_save(run->trainer, directory, state));
    status = plx_rundir_set_latest(context, recipe->out, step);
    if (status != PLX_OK) {
        /* Without `latest` naming it, it would stand in the way of a later attempt. But `latest` may: when all that
         * failed is the sync after its renaming. */
        plx_error first = context->error;
        size_t named = step;
        if (plx_rundir_latest(context, recipe->out, &named) == PLX_OK && named != step)
            plx_directory_remove(context, directory);
        context->error = first;
        goto done;
    }
    run->saved = step;
    if (recipe->keep > 0) status = plx_rundir_prune(context, recipe->out, step, recipe->keep);
    if (status == PLX_ERROR_FILE) {
        plx_log(context, PLX_LOG_WARNING, "an old checkpoint stays: %s", plx_context_error(context)->message);
        status = PLX_OK;
    }
    plx_run_event event = plx_training_event(run, PLX_RUN_SAVED);
    event.text = directory;
    plx_training_tell(run, &event);
done:
    json_decref(state);
    plx_free(context, directory);
    return status;
}
