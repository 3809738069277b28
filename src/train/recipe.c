/* recipe.c - reads a recipe: one YAML file that says everything about a run (docs/recipes.md). The model section is
 * recipe_model.c's. */
#include "train/recipe_model.h"

#include "io/files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MOST = 1 << 20 };
static const size_t STEPS_MOST = (size_t)1 << 40;
static const double LR_MOST = 1e6;

/* parameters: all, or new, adapter, or a list of the last two. */
static plx_status read_parameters(plx_recipe *recipe, plx_keys *keys)
{
    static const char *const words[] = {"all", "new", "adapter"};
    static const unsigned meanings[] = {0, PLX_TRAIN_NEW, PLX_TRAIN_ADAPTER};
    const plx_node *node = plx_keys_node(keys, "parameters");
    recipe->parameters_given = node != NULL && node->kind != PLX_NODE_NULL;
    bool list = recipe->parameters_given && node->kind == PLX_NODE_LIST;
    for (const plx_node *item = list ? node->child : recipe->parameters_given ? node : NULL; item != NULL;
         item = list ? item->next : NULL) {
        size_t i = list; /* "all" stands alone */
        while (i < 3 && (item->kind != PLX_NODE_STRING || strcmp(item->text, words[i]) != 0)) i++;
        if (i == 3) return plx_keys_fail(keys, "parameters", "is one of all, new, adapter, or [new, adapter]");
        recipe->parameters |= meanings[i];
    }
    return PLX_OK;
}

/* freeze: one shell pattern of tensor names, or a list of them. */
static plx_status read_freeze(plx_recipe *recipe, plx_keys *keys)
{
    const plx_node *node = plx_keys_node(keys, "freeze");
    bool ok = node == NULL || node->kind == PLX_NODE_STRING || node->kind == PLX_NODE_LIST
        || node->kind == PLX_NODE_NULL;
    for (const plx_node *item = ok && node != NULL ? node->child : NULL; item != NULL; item = item->next) {
        ok = ok && item->kind == PLX_NODE_STRING;
    }
    if (!ok) return plx_keys_fail(keys, "freeze", "a list of patterns of tensor names is expected, as [\"*.ffn.*\"]");
    recipe->freeze = node != NULL && node->kind != PLX_NODE_NULL ? node : NULL;
    return PLX_OK;
}

/* recompute: none, all, or the number of layers. */
static plx_status read_recompute(plx_recipe *recipe, plx_keys *keys)
{
    const plx_node *node = plx_keys_node(keys, "recompute");
    int which = 0;
    if (node == NULL || node->kind != PLX_NODE_STRING) {
        return plx_keys_size(keys, "recompute", &recipe->options.recompute, 0, PLX_RECIPE_LAYERS_MOST);
    }
    PLX_TRY(plx_keys_choice(keys, "recompute", "none|all", &which));
    /* lowered to the number of layers by plx_recipe_read_model */
    recipe->options.recompute = which == 1 ? PLX_RECIPE_LAYERS_MOST : 0;
    return PLX_OK;
}

static plx_status read_train(plx_recipe *recipe)
{
    plx_train_options *options = &recipe->options;
    int schedule = PLX_SCHEDULE_COSINE, precision = 0;
    size_t seed = 0;
    plx_keys keys;
    *options = plx_train_defaults();
    recipe->batch_size = 16;
    recipe->accumulate = 1;
    recipe->eval_every = recipe->save_every = 200;
    recipe->log_every = 1;
    recipe->keep = 3;
    recipe->sample_prompt = "";

    PLX_TRY(plx_keys_open(&keys, recipe->context, plx_recipe_section(recipe, "train"), "train"));
    const struct { const char *key; size_t *value, least, most; } sizes[] = {
        {"steps", &options->steps, 1, STEPS_MOST},
        {"batch_size", &recipe->batch_size, 1, ROWS_MOST},
        {"accumulate", &recipe->accumulate, 1, ROWS_MOST},
        {"warmup_steps", &options->warmup_steps, 0, STEPS_MOST},
        {"decay_steps", &options->decay_steps, 0, STEPS_MOST},
        {"seed", &seed, 0, INT64_MAX},
        {"eval_every", &recipe->eval_every, 0, STEPS_MOST},
        {"eval_rows", &recipe->eval_rows, 0, STEPS_MOST},
        {"save_every", &recipe->save_every, 0, STEPS_MOST},
        {"sample_every", &recipe->sample_every, 0, STEPS_MOST},
        {"log_every", &recipe->log_every, 1, STEPS_MOST},
        {"keep", &recipe->keep, 0, STEPS_MOST},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        PLX_TRY(plx_keys_size(&keys, sizes[i].key, sizes[i].value, sizes[i].least, sizes[i].most));
    }
    const double below_one = nextafter(1.0, 0.0);
    const struct { const char *key; double *value, least, most; } reals[] = {
        {"lr", &options->lr, 0, LR_MOST},
        {"min_lr_ratio", &options->min_lr_ratio, 0, 1},
        {"weight_decay", &options->weight_decay, 0, LR_MOST},
        {"beta1", &options->beta1, 0, below_one},
        {"beta2", &options->beta2, 0, below_one},
        {"epsilon", &options->epsilon, 1e-30, 1},
        {"grad_clip", &options->grad_clip, 0, 1e30},
        {"z_loss", &options->z_loss, 0, LR_MOST},
    };
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        PLX_TRY(plx_keys_real(&keys, reals[i].key, reals[i].value, reals[i].least, reals[i].most));
    }
    PLX_TRY(plx_keys_choice(&keys, "schedule", "cosine|wsd|constant", &schedule));
    PLX_TRY(plx_keys_choice(&keys, "precision", "f32|bf16", &precision));
    PLX_TRY(plx_keys_string(&keys, "sample_prompt", &recipe->sample_prompt));
    recipe->lr_given = plx_keys_has(&keys, "lr");
    PLX_TRY(read_recompute(recipe, &keys));
    PLX_TRY(read_freeze(recipe, &keys));
    PLX_TRY(read_parameters(recipe, &keys));
    PLX_TRY(plx_keys_real(&keys, "epochs", &recipe->epochs, 0, 1e9));
    if (recipe->epochs > 0 && plx_keys_has(&keys, "steps")) {
        return plx_keys_fail(&keys, "epochs", "give epochs or steps, not both");
    }
    if (recipe->batch_size * recipe->accumulate > ROWS_MOST) {
        return plx_keys_fail(&keys, "accumulate", "batch_size times accumulate is more than %d rows a step", ROWS_MOST);
    }
    options->schedule = (plx_schedule)schedule;
    options->precision = (plx_precision)precision;
    options->seed = recipe->seed = seed;
    return plx_keys_close(&keys);
}

static plx_status read_sample(plx_recipe *recipe)
{
    plx_sampling *sampling = &recipe->sample.sampling;
    size_t seed = 0;
    plx_keys keys;
    recipe->sample = plx_generate_defaults();
    recipe->sample.max_tokens = 200;
    sampling->temperature = 0.8;
    PLX_TRY(plx_keys_open(&keys, recipe->context, plx_recipe_section(recipe, "sample"), "sample"));
    PLX_TRY(plx_keys_size(&keys, "max_tokens", &recipe->sample.max_tokens, 1, 1 << 20));
    PLX_TRY(plx_keys_size(&keys, "top_k", &sampling->top_k, 0, INT32_MAX));
    PLX_TRY(plx_keys_size(&keys, "seed", &seed, 0, INT64_MAX));
    PLX_TRY(plx_keys_real(&keys, "temperature", &sampling->temperature, 0, 1e6));
    PLX_TRY(plx_keys_real(&keys, "top_p", &sampling->top_p, 1e-9, 1));
    PLX_TRY(plx_keys_real(&keys, "min_p", &sampling->min_p, 0, 1));
    PLX_TRY(plx_keys_real(&keys, "repetition_penalty", &sampling->repetition_penalty, 1e-3, 1e3));
    sampling->seed = seed;
    return plx_keys_close(&keys);
}

/* The sections themselves and `out`. */
static plx_status read_top(plx_recipe *recipe)
{
    static const char *const needed[] = {"model", "data"};
    const char *out = NULL;
    plx_keys keys;
    PLX_TRY(plx_keys_open(&keys, recipe->context, recipe->root, "the recipe"));
    keys.section = NULL; /* whose keys these are goes without saying */
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        const plx_node *section = plx_keys_node(&keys, needed[i]);
        if (section == NULL || section->kind != PLX_NODE_MAP) {
            return plx_fail(recipe->context, PLX_ERROR_VALUE,
                            "%s: a section '%s' is needed, with keys below it (docs/recipes.md)",
                            recipe->path, needed[i]);
        }
    }
    plx_keys_node(&keys, "train");
    plx_keys_node(&keys, "sample");
    if (plx_keys_has(&keys, "out")) PLX_TRY(plx_keys_string(&keys, "out", &out));
    if (out == NULL || out[0] == '\0') {
        return plx_fail(recipe->context, PLX_ERROR_VALUE, "%s: 'out' is needed: the directory of the run",
                        recipe->path);
    }
    PLX_TRY(plx_keys_close(&keys));
    recipe->out = plx_strdup(recipe->context, out);
    return recipe->out == NULL ? PLX_ERROR_MEMORY : PLX_OK;
}

/* One --set. Steps and epochs say the same in two ways: setting one takes out the other. */
static plx_status override(plx_recipe *recipe, const char *assignment)
{
    PLX_TRY(plx_node_set(recipe->context, recipe->root, assignment));
    plx_node *train = (plx_node *)plx_recipe_section(recipe, "train");
    if (strncmp(assignment, "train.steps=", 12) == 0) plx_node_remove(recipe->context, train, "epochs");
    if (strncmp(assignment, "train.epochs=", 13) == 0) plx_node_remove(recipe->context, train, "steps");
    return PLX_OK;
}

/* ---- public ---- */

plx_status plx_recipe_parse(plx_context *context, const char *path, const char *text, const char *const *overrides,
                            size_t count, plx_recipe **result)
{
    plx_status status = PLX_OK;
    plx_recipe *recipe = plx_alloc(context, sizeof *recipe);
    if (recipe == NULL) return PLX_ERROR_MEMORY;
    recipe->context = context;
    recipe->path = plx_strdup(context, path);
    if (recipe->path == NULL) { status = PLX_ERROR_MEMORY; goto done; }
    if (text != NULL)
        PLX_TRY_GOTO(status, done, plx_node_parse_json(context, path, text, strlen(text), &recipe->root));
    else
        PLX_TRY_GOTO(status, done, plx_node_read_yaml(context, path, &recipe->root));
    for (size_t i = 0; i < count; i++) PLX_TRY_GOTO(status, done, override(recipe, overrides[i]));
    PLX_TRY_GOTO(status, done, read_top(recipe));
    PLX_TRY_GOTO(status, done, plx_recipe_read_from(recipe));
    PLX_TRY_GOTO(status, done, read_train(recipe));
    PLX_TRY_GOTO(status, done, read_sample(recipe));
    PLX_TRY_GOTO(status, done, plx_data_describe(context, plx_recipe_section(recipe, "data"), &recipe->data));
    PLX_TRY_GOTO(status, done, plx_recipe_read_model(recipe));
    *result = recipe;
    recipe = NULL;
done:
    plx_recipe_free(recipe);
    return status;
}

plx_status plx_recipe_load(plx_context *context, const char *path, const char *const *overrides, size_t count,
                           plx_recipe **recipe)
{
    return plx_recipe_parse(context, path, NULL, overrides, count, recipe);
}

void plx_recipe_free(plx_recipe *recipe)
{
    if (recipe == NULL) return;
    plx_context *context = recipe->context;
    plx_node_free(context, recipe->root);
    plx_node_free(context, recipe->from_config);
    plx_free(context, recipe->config_text);
    plx_free(context, recipe->out);
    plx_free(context, recipe->path);
    plx_free(context, recipe);
}

const char *plx_recipe_out(const plx_recipe *recipe)
{
    return recipe->out;
}

const char *plx_recipe_config(const plx_recipe *recipe)
{
    return recipe->config_text;
}

const plx_node *plx_recipe_section(const plx_recipe *recipe, const char *name)
{
    const plx_node *section = plx_node_find(recipe->root, name);
    return section != NULL && section->kind == PLX_NODE_NULL ? NULL : section;
}

/* Of plx_weights, as the choices of model.weights. */
static const char *const weights_names[] = {"f32", "stored", "q8_0", "q4_0", "bf16"};

static json_t *parameters_json(unsigned parameters)
{
    if (parameters == 0) return json_string("all");
    if (parameters == (PLX_TRAIN_NEW | PLX_TRAIN_ADAPTER)) return json_pack("[ss]", "new", "adapter");
    return json_string(parameters == PLX_TRAIN_NEW ? "new" : "adapter");
}

json_t *plx_recipe_describe(const plx_recipe *recipe)
{
    static const char *const schedules[] = {"cosine", "wsd", "constant"};
    const plx_train_options *options = &recipe->options;
    const plx_sampling *sampling = &recipe->sample.sampling;
    json_t *train = json_pack("{s:I, s:I, s:I, s:f, s:I, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
        "steps", (json_int_t)options->steps, "batch_size", (json_int_t)recipe->batch_size,
        "accumulate", (json_int_t)recipe->accumulate, "lr", options->lr,
        "warmup_steps", (json_int_t)options->warmup_steps,
        "schedule", schedules[options->schedule], "decay_steps", (json_int_t)options->decay_steps,
        "min_lr_ratio", options->min_lr_ratio, "weight_decay", options->weight_decay, "beta1", options->beta1,
        "beta2", options->beta2, "epsilon", options->epsilon, "grad_clip", options->grad_clip,
        "z_loss", options->z_loss);
    json_t *more = json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:s, s:I, s:I, s:o, s:o}",
        "seed", (json_int_t)recipe->seed, "eval_every", (json_int_t)recipe->eval_every,
        "eval_rows", (json_int_t)recipe->eval_rows, "save_every", (json_int_t)recipe->save_every,
        "sample_every", (json_int_t)recipe->sample_every, "sample_prompt", recipe->sample_prompt,
        "log_every", (json_int_t)recipe->log_every, "precision",
        recipe->options.precision == PLX_PRECISION_BF16 ? "bf16" : "f32", "keep", (json_int_t)recipe->keep,
        "recompute", (json_int_t)options->recompute,
        "freeze", recipe->freeze != NULL ? plx_node_to_json(recipe->freeze) : json_null(),
        "parameters", parameters_json(recipe->parameters));
    json_t *sample = json_pack("{s:I, s:f, s:I, s:f, s:f, s:f, s:I}",
        "max_tokens", (json_int_t)recipe->sample.max_tokens, "temperature", sampling->temperature,
        "top_k", (json_int_t)sampling->top_k, "top_p", sampling->top_p, "min_p", sampling->min_p,
        "repetition_penalty", sampling->repetition_penalty, "seed", (json_int_t)sampling->seed);
    json_t *model = json_loads(recipe->config_text, 0, NULL);
    if (recipe->from != NULL && model != NULL
        && (json_object_set_new(model, "from", json_string(recipe->from)) != 0
            || json_object_set_new(model, "weights", json_string(weights_names[recipe->weights])) != 0)) {
        json_decref(model);
        model = NULL;
    }
    json_t *data = plx_node_to_json(plx_recipe_section(recipe, "data"));
    if (recipe->tokenizer_of_from) json_object_del(data, "tokenizer");
    bool ok = train != NULL && more != NULL && json_object_update(train, more) == 0;
    json_decref(more);
    if (ok) { /* takes them over, and is NULL when one is NULL */
        return json_pack("{s:o, s:o, s:o, s:o, s:s}", "model", model, "data", data, "train", train, "sample", sample,
                         "out", recipe->out);
    }
    json_decref(model);
    json_decref(data);
    json_decref(train);
    json_decref(sample);
    return NULL;
}

plx_status plx_recipe_write(const plx_recipe *recipe)
{
    plx_context *context = recipe->context;
    plx_node *tree = NULL;
    char *text = NULL, *yaml = NULL, *path = NULL;
    json_t *object = plx_recipe_describe(recipe);
    plx_status status = PLX_OK;
    text = object == NULL ? NULL : plx_json_text(object);
    if (text == NULL) {
        status = plx_fail(context, PLX_ERROR_MEMORY, "out of memory for the resolved recipe");
        goto done;
    }
    PLX_TRY_GOTO(status, done, plx_node_parse_json(context, "recipe.yaml", text, strlen(text), &tree));
    PLX_TRY_GOTO(status, done, plx_node_write_yaml(context, tree, &yaml));
    path = plx_format(context, "%s/recipe.yaml", recipe->out);
    status = path == NULL ? PLX_ERROR_MEMORY : plx_file_write(context, path, yaml, strlen(yaml));
done:
    plx_free(context, path);
    plx_free(context, yaml);
    plx_node_free(context, tree);
    free(text);
    json_decref(object);
    return status;
}
