/* compare.c - see compare.h */
#include "lab/compare.h"

#include "data/section.h"
#include "io/files.h"
#include "train/rundir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a comparison knows of a recipe before anything runs. */
typedef struct subject {
    size_t group, steps, batch_size, accumulate, tokens_per_step;
    uint64_t seed;
    double lr, flops_per_token;
    char *data;     /* the data section as text */
} subject;

/* "recipes/demo/nexus.yaml" -> "nexus" */
static char *name_of(plx_context *context, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *name = plx_strdup(context, slash != NULL ? slash + 1 : path);
    char *dot = name != NULL ? strrchr(name, '.') : NULL;
    if (dot != NULL && dot != name) *dot = '\0';
    return name;
}

/* A group's title: the task, or the training files. */
static char *title_of(plx_context *context, const plx_recipe *recipe)
{
    const plx_node *data = plx_recipe_section(recipe, "data");
    const plx_node *task = plx_node_find(data, "task"), *train = plx_node_find(data, "train");
    if (task != NULL && task->text != NULL) return plx_strdup(context, task->text);
    if (train != NULL && train->kind == PLX_NODE_STRING) return plx_strdup(context, train->text);
    if (train != NULL && train->kind == PLX_NODE_LIST && train->count > 0 && train->child->text != NULL)
        return train->count == 1 ? plx_strdup(context, train->child->text)
                                 : plx_format(context, "%s and %zu more", train->child->text, train->count - 1);
    return plx_strdup(context, "text");
}

static plx_status load(plx_context *context, const plx_compare_options *options, size_t index, const char *const *more,
                       size_t more_count, plx_recipe **recipe)
{
    size_t count = options->override_count + more_count;
    const char **overrides = plx_alloc_array(context, count + 1, sizeof *overrides);
    if (overrides == NULL) return plx_context_error(context)->code;
    for (size_t i = 0; i < count; i++)
        overrides[i] = i < options->override_count ? options->overrides[i] : more[i - options->override_count];
    plx_status status = plx_recipe_load(context, options->recipes[index], overrides, count, recipe);
    plx_free(context, overrides);
    return status;
}

/* The data section of a recipe as text: equal texts are equal data. */
static plx_status data_text(plx_context *context, const plx_recipe *recipe, char **text)
{
    const plx_node *data = plx_recipe_section(recipe, "data");
    json_t *json = data != NULL ? plx_node_to_json(data) : json_object();
    char *dumped = json != NULL ? json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(json);
    *text = dumped != NULL ? plx_strdup(context, dumped) : NULL;
    free(dumped);
    if (*text != NULL) return PLX_OK;
    return plx_fail(context, PLX_ERROR_MEMORY, "no memory left to compare data sections");
}

/* The directory of one run, freed with plx_free; NULL when memory is short. */
static char *directory_of(const plx_comparison *comparison, const plx_compare_options *options, size_t recipe, double lr,
                          uint64_t seed)
{
    return plx_format(comparison->context, "%s/%s-lr%g-seed%llu", options->out, comparison->names[recipe], lr,
                      (unsigned long long)seed);
}

/* train.epochs in steps, by data whose tokens are made where the recipe's first run looks for them. */
static plx_status resolve_epochs(const plx_comparison *comparison, const plx_compare_options *options, size_t index,
                                 plx_recipe *recipe)
{
    plx_context *context = comparison->context;
    plx_data *data = NULL;
    const double lr = options->lr_count > 0 ? options->lrs[0] : recipe->options.lr;
    char *run = directory_of(comparison, options, index, lr, recipe->seed);
    char *cache = run != NULL ? plx_format(context, "%s/data", run) : NULL;
    plx_status status =
        cache != NULL ? plx_data_open(context, plx_recipe_section(recipe, "data"), recipe->seed, cache, &data)
                      : plx_context_error(context)->code;
    if (status == PLX_OK) status = plx_recipe_count_epochs(recipe, data);
    plx_data_free(data);
    plx_free(context, cache);
    plx_free(context, run);
    return status;
}

static plx_status nothing_to_choose_by(const plx_comparison *comparison, const char *path)
{
    return plx_fail(comparison->context, PLX_ERROR_VALUE,
                    "%s: nothing is held out to choose one of several learning rates by: set data.valid or "
                    "data.valid_fraction, or try one rate",
                    path);
}

/* Whether rows are held out, as far as the data section says. */
static plx_status check_held_out(const plx_comparison *comparison, const plx_recipe *recipe)
{
    plx_data_section section;
    plx_status status = plx_data_section_read(comparison->context, plx_recipe_section(recipe, "data"), &section);
    bool held_out = section.task != NULL ? section.valid_rows > 0 : section.valid_count > 0 || section.valid_fraction > 0;
    plx_data_section_release(&section);
    return status == PLX_OK && !held_out ? nothing_to_choose_by(comparison, recipe->path) : status;
}

static plx_status check_rates(plx_context *context, const plx_compare_options *options)
{
    for (size_t i = 0; i < options->lr_count; i++)
        for (size_t j = 0; j < i; j++) {
            char one[32], other[32];
            snprintf(one, sizeof one, "%g", options->lrs[i]);
            snprintf(other, sizeof other, "%g", options->lrs[j]);
            if (strcmp(one, other) == 0)
                return plx_fail(context, PLX_ERROR_VALUE,
                                "two learning rates are %s: give each once, since their runs share a directory's name", one);
        }
    return PLX_OK;
}

static plx_status inspect(plx_comparison *comparison, const plx_compare_options *options, subject *subjects,
                          size_t index)
{
    plx_context *context = comparison->context;
    plx_recipe *recipe;
    plx_plan plan = {0};
    subject *one = &subjects[index];
    PLX_TRY(load(context, options, index, NULL, 0, &recipe));
    plx_status status = plx_plan_recipe(recipe, &plan);
    if (status == PLX_OK && options->lr_count > 1) status = check_held_out(comparison, recipe);
    if (status == PLX_OK && recipe->epochs > 0) status = resolve_epochs(comparison, options, index, recipe);
    one->batch_size = recipe->batch_size;
    one->accumulate = recipe->accumulate;
    one->steps = recipe->options.steps;
    one->lr = recipe->options.lr;
    one->seed = recipe->seed;
    one->tokens_per_step = recipe->batch_size * recipe->accumulate * recipe->data.sequence_length;
    one->flops_per_token = plan.flops_per_token;
    plx_plan_free(context, &plan);
    if (status == PLX_OK) status = data_text(context, recipe, &one->data);
    for (one->group = 0; status == PLX_OK && one->group < comparison->group_count; one->group++) {
        size_t first = 0;
        while (subjects[first].group != one->group || subjects[first].data == NULL) first++;
        if (strcmp(subjects[first].data, one->data) == 0) break;
    }
    if (status == PLX_OK && one->group == comparison->group_count) {
        plx_compare_group *group = &comparison->groups[comparison->group_count];
        *group = (plx_compare_group){
            .task = recipe->data.task, .chance = recipe->data.chance, .title = title_of(context, recipe)};
        if (group->title == NULL) status = plx_context_error(context)->code;
        else comparison->group_count++;
    }
    plx_recipe_free(recipe);
    return status;
}

/* Says what makes recipes of a group train on as many tokens as its first. What --set gives is for all recipes, so that
 * their batches must be alike too. */
static plx_status unequal_tokens(plx_comparison *comparison, const plx_compare_options *options, const subject *subjects,
                                 size_t first, size_t other)
{
    const subject *lead = &subjects[first], *one = &subjects[other];
    char batch[128] = "";
    bool alike = true;
    for (size_t i = 0; i < options->recipe_count; i++)
        if (subjects[i].group == lead->group) alike = alike && subjects[i].tokens_per_step == lead->tokens_per_step;
    if (!alike)
        snprintf(batch, sizeof batch, " --set train.batch_size=%zu --set train.accumulate=%zu", lead->batch_size,
                 lead->accumulate);
    return plx_fail(comparison->context, PLX_ERROR_VALUE,
                    "%s trains on %zu tokens and %s on %zu: make them equal by%s --set train.steps=%zu, or compare by "
                    "--equal flops",
                    options->recipes[first], lead->steps * lead->tokens_per_step, options->recipes[other],
                    one->steps * one->tokens_per_step, batch, lead->steps);
}

/* Within a group all runs train on the same number of tokens, or spend the same number of flops. */
static plx_status settle_steps(plx_comparison *comparison, const plx_compare_options *options, subject *subjects)
{
    for (size_t i = 0; i < options->recipe_count; i++) {
        size_t first = 0;
        while (subjects[first].group != subjects[i].group) first++;
        const subject *lead = &subjects[first];
        double tokens = (double)lead->steps * (double)lead->tokens_per_step;
        if (options->equal == PLX_EQUAL_FLOPS) tokens *= lead->flops_per_token / subjects[i].flops_per_token;
        double steps = tokens / (double)subjects[i].tokens_per_step;
        if (options->equal == PLX_EQUAL_TOKENS && steps != (double)subjects[i].steps)
            return unequal_tokens(comparison, options, subjects, first, i);
        subjects[i].steps = steps < 1 ? 1 : (size_t)llround(steps);
    }
    return PLX_OK;
}

static plx_status write_sample(plx_context *context, const plx_compare_options *options, plx_compare_run *run)
{
    plx_model *model;
    plx_tokenizer *tokenizer = NULL;
    plx_generated text = {0};
    plx_generate_options generate = plx_generate_defaults();
    generate.max_tokens = options->sample_tokens;
    generate.sampling.temperature = 0.8;
    generate.sampling.seed = run->seed;
    PLX_TRY(plx_model_load(context, run->directory, NULL, &model));
    plx_status status = plx_model_tokenizer(model, &tokenizer);
    if (status == PLX_OK)
        status =
            plx_generate(model, tokenizer, options->sample_prompt, strlen(options->sample_prompt), &generate, &text);
    if (status == PLX_OK) {
        run->sample = plx_format(context, "%s%.*s", options->sample_prompt, (int)text.bytes, text.text);
        if (run->sample == NULL) status = plx_context_error(context)->code;
        plx_generated_free(model, &text);
    }
    plx_model_free(model);
    return status;
}

/* "out=DIRECTORY", quoted: a name may look like a number or a list. */
static char *set_out(plx_context *context, const char *directory)
{
    json_t *name = json_string(directory);
    char *quoted = name != NULL ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    char *made = NULL;
    if (quoted != NULL)
        made = plx_format(context, "out=%s", quoted);
    else
        plx_fail(context, PLX_ERROR_VALUE, "'%.200s' is not UTF-8, as a recipe's out must be", directory);
    free(quoted);
    json_decref(name);
    return made;
}

static plx_status train_one(plx_comparison *comparison, const plx_compare_options *options, const subject *subjects,
                            size_t index)
{
    plx_context *context = comparison->context;
    plx_compare_run *run = &comparison->runs[index];
    const subject *one = &subjects[run->recipe];
    plx_recipe *recipe = NULL;
    char seed[48], lr[64], steps[64];
    run->directory = directory_of(comparison, options, run->recipe, run->lr, run->seed);
    char *out = run->directory != NULL ? set_out(context, run->directory) : NULL;
    if (out == NULL) return plx_context_error(context)->code;
    snprintf(seed, sizeof seed, "train.seed=%llu", (unsigned long long)run->seed);
    snprintf(lr, sizeof lr, "train.lr=%.17g", run->lr);
    snprintf(steps, sizeof steps, "train.steps=%zu", one->steps);
    const char *more[] = {seed, lr, steps, out};
    bool there = false;
    plx_status status = load(context, options, run->recipe, more, sizeof more / sizeof more[0], &recipe);
    if (status == PLX_OK) status = plx_rundir_exists(context, run->directory, &there);
    if (status == PLX_OK) {
        char *label = plx_format(context, "%s seed %llu lr %g", comparison->names[run->recipe],
                                 (unsigned long long)run->seed, run->lr);
        if (options->begin != NULL && label != NULL) options->begin(options->user, index, comparison->run_count, label);
        plx_run_options run_options = {
            .resume = options->resume && there, .event = options->event, .user = options->user};
        status = plx_recipe_train(recipe, &run_options, &run->result);
        plx_free(context, label);
    }
    if (status == PLX_OK && options->lr_count > 1 && !(run->result.valid_loss >= 0))
        status = nothing_to_choose_by(comparison, recipe->path);
    if (status == PLX_OK && options->sample_prompt != NULL && !recipe->data.task)
        status = write_sample(context, options, run);
    plx_recipe_free(recipe);
    plx_free(context, out);
    return status;
}

typedef double (*metric)(const plx_run_result *result);
static double metric_loss(const plx_run_result *result) { return result->valid_loss; }
static double metric_bits(const plx_run_result *result) { return result->valid_bits_per_byte; }
static double metric_accuracy(const plx_run_result *result) { return result->valid_accuracy; }
static double metric_speed(const plx_run_result *result) { return result->tokens_per_second; }

/* Over the runs of which the number is known, which are those that have it at 0 or above; -1 where there are none. */
static double mean_of(const plx_compare_run *runs, size_t count, metric value, double *spread)
{
    double sum = 0, squares = 0;
    size_t known = 0;
    for (size_t i = 0; i < count; i++) {
        double one = value(&runs[i].result);
        if (!(one >= 0)) continue;
        sum += one;
        known++;
    }
    double mean = known > 0 ? sum / (double)known : -1;
    for (size_t i = 0; i < count; i++) {
        double one = value(&runs[i].result);
        if (one >= 0) squares += (one - mean) * (one - mean);
    }
    if (spread != NULL) *spread = known > 1 ? sqrt(squares / (double)(known - 1)) : 0;
    return mean;
}

/* Runs of one recipe at one learning rate lie together; the learning rate with the best mean wins. */
static void fill_row(plx_comparison *comparison, const plx_compare_options *options, const subject *subjects,
                     size_t recipe)
{
    size_t lrs = options->lr_count > 0 ? options->lr_count : 1, best = 0;
    double best_loss = INFINITY;
    for (size_t l = 0; l < lrs; l++) {
        const plx_compare_run *runs = &comparison->runs[(recipe * lrs + l) * options->seeds];
        bool task = comparison->groups[subjects[recipe].group].task;
        double loss = task ? -mean_of(runs, options->seeds, metric_accuracy, NULL)
                           : mean_of(runs, options->seeds, metric_loss, NULL);
        if (loss < best_loss) {
            best_loss = loss;
            best = l;
        }
    }
    plx_compare_row *row = &comparison->rows[recipe];
    row->first_run = (recipe * lrs + best) * options->seeds;
    const plx_compare_run *runs = &comparison->runs[row->first_run];
    row->recipe = recipe;
    row->group = subjects[recipe].group;
    row->name = comparison->names[recipe];
    row->lr = runs->lr;
    row->runs = options->seeds;
    row->parameters = runs->result.parameters;
    row->steps = subjects[recipe].steps;
    row->flops_per_token = runs->result.flops_per_token;
    row->tokens_per_second = mean_of(runs, row->runs, metric_speed, NULL);
    row->loss = mean_of(runs, row->runs, metric_loss, &row->loss_spread);
    row->bits = mean_of(runs, row->runs, metric_bits, &row->bits_spread);
    row->accuracy = mean_of(runs, row->runs, metric_accuracy, &row->accuracy_spread);
}

static plx_status lay_out(plx_comparison *comparison, const plx_compare_options *options, const subject *subjects)
{
    size_t lrs = options->lr_count > 0 ? options->lr_count : 1, at = 0;
    comparison->runs =
        plx_alloc_array(comparison->context, options->recipe_count * lrs * options->seeds, sizeof *comparison->runs);
    if (comparison->runs == NULL) return plx_context_error(comparison->context)->code;
    comparison->run_count = options->recipe_count * lrs * options->seeds;
    for (size_t r = 0; r < options->recipe_count; r++)
        for (size_t l = 0; l < lrs; l++)
            for (size_t s = 0; s < options->seeds; s++)
                comparison->runs[at++] =
                    (plx_compare_run){.recipe = r,
                                      .seed = subjects[r].seed + s,
                                      .steps = subjects[r].steps,
                                      .lr = options->lr_count > 0 ? options->lrs[l] : subjects[r].lr};
    return PLX_OK;
}

plx_status plx_compare(plx_context *context, const plx_compare_options *options, plx_comparison **made)
{
    plx_status status = PLX_OK;
    size_t count = options->recipe_count;
    *made = NULL;
    if (count == 0 || options->seeds == 0)
        return plx_fail(context, PLX_ERROR_VALUE, "nothing to compare: give at least one recipe and one seed");
    plx_comparison *comparison = plx_alloc(context, sizeof *comparison);
    subject *subjects = plx_alloc_array(context, count, sizeof *subjects);
    if (comparison == NULL || subjects == NULL) {
        plx_free(context, comparison);
        plx_free(context, subjects);
        return plx_context_error(context)->code;
    }
    comparison->context = context;
    comparison->names = plx_alloc_array(context, count, sizeof *comparison->names);
    comparison->rows = plx_alloc_array(context, count, sizeof *comparison->rows);
    comparison->groups = plx_alloc_array(context, count, sizeof *comparison->groups);
    if (comparison->names == NULL || comparison->rows == NULL || comparison->groups == NULL)
        status = plx_context_error(context)->code;
    if (status == PLX_OK) status = check_rates(context, options);
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        comparison->row_count = i + 1;
        comparison->names[i] = name_of(context, options->recipes[i]);
        if (comparison->names[i] == NULL) status = plx_context_error(context)->code;
        for (size_t j = 0; j < i && status == PLX_OK; j++)
            if (strcmp(comparison->names[i], comparison->names[j]) == 0)
                status = plx_fail(context, PLX_ERROR_VALUE,
                                  "two recipes are named %s: rename one, since their runs share a directory's name",
                                  comparison->names[i]);
        if (status == PLX_OK) status = inspect(comparison, options, subjects, i);
    }
    if (status == PLX_OK) status = settle_steps(comparison, options, subjects);
    if (status == PLX_OK) status = lay_out(comparison, options, subjects);
    if (status == PLX_OK) status = plx_directory_make(context, options->out);
    for (size_t i = 0; i < comparison->run_count && status == PLX_OK; i++)
        status = train_one(comparison, options, subjects, i);
    for (size_t i = 0; i < count && status == PLX_OK; i++) fill_row(comparison, options, subjects, i);
    for (size_t i = 0; i < count; i++) plx_free(context, subjects[i].data);
    plx_free(context, subjects);
    if (status != PLX_OK) {
        plx_comparison_free(comparison);
        return status;
    }
    *made = comparison;
    return PLX_OK;
}

void plx_comparison_free(plx_comparison *comparison)
{
    if (comparison == NULL) return;
    plx_context *context = comparison->context;
    for (size_t i = 0; comparison->runs != NULL && i < comparison->run_count; i++) {
        plx_free(context, comparison->runs[i].directory);
        plx_free(context, comparison->runs[i].sample);
    }
    for (size_t i = 0; i < comparison->group_count; i++) plx_free(context, comparison->groups[i].title);
    for (size_t i = 0; comparison->names != NULL && i < comparison->row_count; i++)
        plx_free(context, comparison->names[i]);
    plx_free(context, comparison->runs);
    plx_free(context, comparison->rows);
    plx_free(context, comparison->groups);
    plx_free(context, comparison->names);
    plx_free(context, comparison);
}
