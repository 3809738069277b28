/* run.c - a training run from recipe to final checkpoint: the loop round plx_trainer_step.
 *
 * Nothing in a run depends on when it was interrupted: the rows of step s are (s-1) * batch_size * accumulate and on,
 * the learning rate and dropout are functions of s, and a checkpoint holds the weights, the moments and s. So a
 * killed run resumed from `latest` takes the same steps again, bit for bit. Order within a step: train, log,
 * evaluate, sample, save. */
#include "io/files.h"
#include "train/run.h"
#include "train/rundir.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

plx_run_event plx_training_event(const plx_training *run, plx_run_event_kind kind)
{
    return (plx_run_event){.kind = kind, .step = run->trainer->step, .steps = run->recipe->options.steps,
                           .tokens = run->result->tokens};
}

void plx_training_tell(const plx_training *run, const plx_run_event *event)
{
    if (run->options->event != NULL) run->options->event(run->options->user, event);
}

/* Whether something due every `every` steps (0: only at the end) is due now. */
static bool is_due(const plx_training *run, size_t every)
{
    size_t step = run->trainer->step;
    return step == run->recipe->options.steps || (every > 0 && step > 0 && step % every == 0);
}

/* A save in the middle of a run that fails for want of space or permission does not end the run. */
static plx_status save_if_possible(plx_training *run)
{
    plx_status status = plx_training_save(run);
    if (status != PLX_ERROR_FILE) return status;
    plx_log(run->context, PLX_LOG_WARNING, "step %zu was not saved, training goes on: %s", run->trainer->step,
            plx_context_error(run->context)->message);
    return PLX_OK;
}

/* ---- the parts of a step ---- */

static plx_status train_step(plx_training *run, plx_step_report *report)
{
    const plx_recipe *recipe = run->recipe;
    const double before = plx_seconds();
    const size_t rows = recipe->batch_size * recipe->accumulate;
    plx_batch batch;

    if (run->options->profile) PLX_TRY(plx_profile_enable(run->context, true));
    PLX_TRY(plx_data_train(run->data, (uint64_t)run->trainer->step * rows, rows, &batch));
    for (size_t i = 0; i < recipe->accumulate; i++) {
        const size_t from = i * recipe->batch_size * batch.length;
        run->parts[i] = (plx_batch){
            .rows = recipe->batch_size, .length = batch.length,
            .inputs = batch.inputs + from, .targets = batch.targets + from,
            .mask = batch.mask == NULL ? NULL : batch.mask + from,
            .start = batch.start == NULL ? NULL : batch.start + from,
        };
    }
    PLX_TRY(plx_trainer_step(run->trainer, run->parts, recipe->accumulate, report));
    if (run->options->profile) PLX_TRY(plx_profile_enable(run->context, false));
    run->step_seconds += plx_seconds() - before;
    run->result->steps_taken++;
    run->result->step_seconds = run->step_seconds;
    run->step_tokens += report->tokens;
    run->result->step = run->trainer->step;
    run->result->tokens += report->tokens;
    run->result->train_loss = report->loss;
    if (run->step_seconds > 0) run->result->tokens_per_second = (double)run->step_tokens / run->step_seconds;
    return PLX_OK;
}

/* What this run's products are held to, a second: the rate of what multiplies them. f32 on tiles takes six products of bf16. */
static double product_rate(const plx_training *run, const plx_machine *machine)
{
    if (run->recipe->options.precision == PLX_PRECISION_BF16 && machine->tile_gflops > 0) return machine->tile_gflops * 1e9;
    const double on_tiles = run->context->level == PLX_LEVEL_AMX ? machine->tile_gflops / 6 : 0;
    return fmax(machine->peak_gflops, on_tiles) * 1e9;
}

/* Once, after the first second of training: short runs are not kept waiting for it. */
static void measure_peak(plx_training *run)
{
    plx_machine machine;
    if (run->peak_flops != 0 || run->options->event == NULL || run->step_seconds < 1) return;
    const bool measured = plx_machine_measure_products(run->context, &machine) == PLX_OK;
    run->peak_flops = measured ? product_rate(run, &machine) : -1;
}

static void log_step(plx_training *run, const plx_step_report *report)
{
    measure_peak(run);
    const double now = plx_seconds() - run->began;
    const double seconds = run->step_seconds - run->logged_seconds;
    const size_t tokens = run->step_tokens - run->logged_tokens, here = run->trainer->step - run->first;
    plx_run_event event = plx_training_event(run, PLX_RUN_STEP);
    event.loss = report->loss;
    event.lr = report->lr;
    event.grad_norm = report->grad_norm;
    event.tokens_per_second = seconds > 0 ? (double)tokens / seconds : 0;
    /* Backward multiplies twice for each product of forward. */
    if (run->peak_flops > 0) {
        event.peak_fraction = event.tokens_per_second * 3 * run->result->flops_per_token / run->peak_flops;
    }
    event.seconds = run->seconds_before + now;
    event.seconds_left = now / (double)here * (double)(event.steps - event.step);
    run->logged_seconds = run->step_seconds;
    run->logged_tokens = run->step_tokens;
    plx_logs_step(run->logs, &event);
    plx_training_tell(run, &event);
}

/* Scores the held-out rows, or the first eval_rows of them. CANCELLED leaves the last evaluation as it was. */
static plx_status evaluate(plx_training *run)
{
    const plx_recipe *recipe = run->recipe;
    uint64_t rows = plx_data_valid_rows(run->data);
    if (recipe->eval_rows > 0 && recipe->eval_rows < rows) rows = recipe->eval_rows;
    if (rows == 0 || run->evaluated == run->trainer->step) return PLX_OK;

    plx_score score = {0};
    size_t bytes = 0;
    for (uint64_t first = 0; first < rows; first += recipe->batch_size) {
        const size_t count = rows - first < recipe->batch_size ? (size_t)(rows - first) : recipe->batch_size;
        plx_batch batch;
        size_t batch_bytes = 0;
        PLX_TRY(plx_check_cancel(run->context));
        PLX_TRY(plx_data_valid(run->data, first, count, &batch, &batch_bytes));
        if (batch.rows == 0) break;
        PLX_TRY(plx_model_score(run->model, &batch, &score));
        bytes += batch_bytes;
        plx_progress(run->context, "evaluating", (double)(first + count), (double)rows);
    }
    if (!(score.weight > 0)) return PLX_OK;
    if (!isfinite(score.loss_sum)) {
        return plx_fail(run->context, PLX_ERROR_NUMERIC,
                        "step %zu: the validation loss is not finite: the model has diverged; lower the learning rate",
                        run->trainer->step);
    }
    plx_run_event event = plx_training_event(run, PLX_RUN_EVALUATED);
    event.valid_loss = score.loss_sum / score.weight;
    event.valid_bits_per_byte = bytes > 0 ? score.loss_sum / M_LN2 / (double)bytes : -1;
    event.valid_accuracy = recipe->data.task && score.tokens > 0 ? (double)score.correct / (double)score.tokens : -1;
    run->evaluated = run->trainer->step;
    run->result->valid_loss = event.valid_loss;
    run->result->valid_bits_per_byte = event.valid_bits_per_byte;
    run->result->valid_accuracy = event.valid_accuracy;
    plx_logs_evaluation(run->logs, &event);
    plx_training_tell(run, &event);
    return PLX_OK;
}

static plx_status sample(plx_training *run)
{
    const plx_recipe *recipe = run->recipe;
    plx_generated generated;
    if (run->tokenizer == NULL || run->options->event == NULL || run->sampled == run->trainer->step) return PLX_OK;
    PLX_TRY(plx_generate(run->model, run->tokenizer, recipe->sample_prompt, strlen(recipe->sample_prompt),
                         &recipe->sample, &generated));
    run->sampled = run->trainer->step;
    plx_status status = PLX_ERROR_MEMORY;
    char *text = plx_alloc(run->context, strlen(recipe->sample_prompt) + generated.bytes + 1);
    if (text != NULL) {
        size_t prompt = strlen(recipe->sample_prompt);
        memcpy(text, recipe->sample_prompt, prompt);
        memcpy(text + prompt, generated.text, generated.bytes);
        plx_run_event event = plx_training_event(run, PLX_RUN_SAMPLE);
        event.text = text; /* cut at its first zero byte, should the model write one */
        plx_training_tell(run, &event);
        status = PLX_OK;
    }
    plx_free(run->context, text);
    plx_generated_free(run->model, &generated);
    return status;
}

/* What is due after a step, but for saving. */
static plx_status look(plx_training *run)
{
    if (is_due(run, run->recipe->eval_every)) PLX_TRY(evaluate(run));
    if (run->recipe->sample_every > 0 && is_due(run, run->recipe->sample_every)) PLX_TRY(sample(run));
    return PLX_OK;
}

/* ---- begin, loop, end ---- */

/* Writes what to do next behind a message about a run that stopped by itself. */
static plx_status stopped(plx_training *run, plx_status status)
{
    char message[sizeof run->context->error.message];
    snprintf(message, sizeof message, "%s", plx_context_error(run->context)->message);
    if (run->saved == 0) return plx_fail(run->context, status, "%s; no checkpoint has been saved", message);
    return plx_fail(run->context, status, "%s; the last good checkpoint is %s/checkpoints/step-%08zu", message,
                    run->recipe->out, run->saved);
}

static plx_status loop(plx_training *run)
{
    const plx_recipe *recipe = run->recipe;
    run->began = plx_seconds();
    /* A run interrupted between a step and its evaluation has it still to do. */
    plx_status status = run->trainer->step > 0 ? look(run) : PLX_OK;
    while (status == PLX_OK && run->trainer->step < recipe->options.steps) {
        plx_step_report report;
        status = train_step(run, &report);
        if (status != PLX_OK) break;
        if (is_due(run, recipe->log_every)) log_step(run, &report);
        status = look(run);
        if (status == PLX_OK && run->trainer->step < recipe->options.steps) {
            if (is_due(run, recipe->save_every)) status = save_if_possible(run);
            if (status == PLX_OK) status = plx_check_cancel(run->context);
        }
    }
    if (status == PLX_ERROR_NUMERIC) return stopped(run, status);
    if (status != PLX_OK && status != PLX_CANCELLED) return status;
    plx_status saved = plx_training_save(run);
    if (saved != PLX_OK) return run->saved == 0 ? saved : stopped(run, saved);
    if (status == PLX_CANCELLED) {
        return plx_fail(run->context, PLX_CANCELLED, "stopped after step %zu of %zu, saved in %s", run->trainer->step,
                        recipe->options.steps, recipe->out);
    }
    return PLX_OK;
}

/* Makes model and trainer; saved: a checkpoint's weights follow. */
static plx_status make_trainer(plx_training *run, bool saved)
{
    const plx_recipe *recipe = run->recipe;
    plx_model_info info;
    PLX_TRY(plx_recipe_model(recipe, saved, &run->model));
    PLX_TRY(plx_model_describe(run->model, &info));
    run->result->parameters = info.parameters;
    PLX_TRY(plx_model_flops(run->model, recipe->data.sequence_length, &run->result->flops_per_token));
    if (recipe->options.precision == PLX_PRECISION_BF16 && run->context->level < PLX_LEVEL_BF16)
        plx_log(run->context, PLX_LOG_WARNING,
                "train.precision bf16: this processor (or PLX_LEVEL) has no fast products of bf16, so training runs in f32");
    return plx_trainer_create(run->model, &recipe->options, recipe->batch_size, recipe->data.sequence_length,
                              &run->trainer);
}

static plx_status tell_start(plx_training *run)
{
    if (run->options->event == NULL) return PLX_OK;
    plx_run_event event = plx_training_event(run, PLX_RUN_STARTED);
    char *text = plx_format(run->context, "%zu parameters, %zu rows of %zu tokens a step, %s step %zu of %zu, in %s",
                            run->result->parameters, run->recipe->batch_size * run->recipe->accumulate,
                            run->recipe->data.sequence_length, run->first > 0 ? "going on after" : "from", run->first,
                            event.steps, run->recipe->out);
    if (text == NULL) return PLX_ERROR_MEMORY;
    event.text = text;
    plx_training_tell(run, &event);
    plx_free(run->context, text);
    return PLX_OK;
}

plx_status plx_recipe_count_epochs(plx_recipe *recipe, const plx_data *data)
{
    uint64_t rows = plx_data_train_rows(data);
    if (recipe->epochs == 0) return PLX_OK;
    if (rows == 0)
        return plx_fail(recipe->context, PLX_ERROR_VALUE, "%s: train.epochs: a task has no end: give train.steps",
                        recipe->path);
    double steps = ceil(recipe->epochs * (double)rows / (double)(recipe->batch_size * recipe->accumulate));
    recipe->options.steps = steps < 1 ? 1 : (size_t)steps;
    return PLX_OK;
}

/* A default, or a number that once fitted a longer run: nothing is wrong, but nobody means it. */
static void check_warmup(const plx_training *run)
{
    const plx_train_options *options = &run->recipe->options;
    if (options->warmup_steps <= options->steps) return;
    plx_log(run->context, PLX_LOG_WARNING,
            "train.warmup_steps, %zu, is more than the run has steps, %zu: the learning rate rises to its end, to %g, and "
            "never reaches train.lr, %g; give fewer",
            options->warmup_steps, options->steps, plx_schedule_lr(options, options->steps), options->lr);
}

/* The checkpoint to go on from, 0 without one. A run killed as it first saved, or a copy of a run, may have checkpoints
 * but no `latest`: then it is the newest. */
static plx_status find_latest(plx_training *run, size_t *latest)
{
    plx_context *context = run->context;
    const char *out = run->recipe->out;
    PLX_TRY(plx_rundir_latest(context, out, latest));
    if (*latest > 0) return PLX_OK;
    PLX_TRY(plx_rundir_newest(context, out, latest));
    if (*latest == 0) return PLX_OK;
    plx_log(context, PLX_LOG_WARNING, "%s/latest is missing: going on from the newest checkpoint, step-%08zu", out, *latest);
    return plx_rundir_set_latest(context, out, *latest);
}

static plx_status begin(plx_training *run)
{
    plx_context *context = run->context;
    plx_recipe *recipe = run->recipe;
    size_t latest = 0;
    bool exists;
    PLX_TRY(plx_rundir_exists(context, recipe->out, &exists));
    run->begun = exists;
    if (exists && !run->options->resume) {
        return plx_fail(context, PLX_ERROR_EXISTS,
                        "%s holds a run already, which is not overwritten: go on with --resume, or choose"
                        " another out", recipe->out);
    }
    if (!exists && run->options->resume) {
        plx_log(context, PLX_LOG_WARNING, "there is no run in %s to go on with: it begins now", recipe->out);
    }
    run->made = !plx_file_exists(recipe->out);
    PLX_TRY(plx_rundir_lock(context, recipe->out, &run->lock));
    PLX_TRY(find_latest(run, &latest));

    char *cache = plx_format(context, "%s/data", recipe->out);
    if (cache == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_data_open(context, plx_recipe_section(recipe, "data"), recipe->seed, cache, &run->data);
    plx_free(context, cache);
    PLX_TRY(status);
    PLX_TRY(plx_recipe_count_epochs(recipe, run->data));
    if (recipe->sample_every > 0 && recipe->data.tokenizer[0] != '\0') {
        PLX_TRY(plx_tokenizer_open(context, recipe->data.tokenizer, &run->tokenizer));
    }
    run->parts = plx_alloc_array(context, recipe->accumulate, sizeof *run->parts);
    if (run->parts == NULL) return PLX_ERROR_MEMORY;
    PLX_TRY(make_trainer(run, latest > 0));
    if (latest > 0) PLX_TRY(plx_training_restore(run, latest));
    if (run->trainer->step > recipe->options.steps) {
        return plx_fail(context, PLX_ERROR_VALUE, "%s is at step %zu already, beyond train.steps, %zu", recipe->out,
                        latest, recipe->options.steps);
    }
    check_warmup(run);
    if (exists) PLX_TRY(plx_rundir_clean(context, recipe->out, latest));
    PLX_TRY(plx_recipe_write(recipe));
    run->begun = true;
    PLX_TRY(plx_logs_open(context, recipe->out, latest, &run->logs));
    return tell_start(run);
}

plx_status plx_recipe_train(plx_recipe *recipe, const plx_run_options *options, plx_run_result *result)
{
    static const plx_run_options defaults = {0};
    plx_training run = {.context = recipe->context, .recipe = recipe, .options = options != NULL ? options : &defaults,
                    .result = result, .lock = -1};
    plx_run_result ignored;
    if (result == NULL) run.result = &ignored;
    *run.result = (plx_run_result){
        .tokens_per_second = -1, .valid_loss = -1, .valid_bits_per_byte = -1, .valid_accuracy = -1};

    plx_status status = begin(&run);
    if (status == PLX_OK) status = loop(&run);

    plx_logs_close(run.logs);
    plx_trainer_free(run.trainer);
    plx_model_free(run.model);
    plx_data_free(run.data);
    plx_tokenizer_free(run.tokenizer);
    plx_free(run.context, run.parts);
    if (run.lock >= 0) {
        if (!run.begun) plx_rundir_leave(run.context, recipe->out, run.made);
        close(run.lock);
    }
    return status;
}
