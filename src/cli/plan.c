/* plan.c - plexus plan: what training a recipe or a model takes, without running it. */
#include "cli/cli.h"

#include <string.h>
#include <sys/stat.h>

static json_t *layers_json(const plx_plan *plan)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < plan->layer_count; i++) {
        const plx_plan_layer *layer = &plan->layers[i];
        json_t *item = json_pack("{s:s,s:I,s:I,s:I,s:f}", "mixer", layer->mixer, "parameters",
                                 (json_int_t)layer->parameters, "activation_bytes", (json_int_t)layer->activation_bytes,
                                 "state_bytes", (json_int_t)layer->state_bytes, "flops_per_token",
                                 layer->flops_per_token);
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static int show_json(plx_cli *cli, const plx_plan *plan)
{
    json_t *layers = layers_json(plan);
    if (!layers) return cli_json(cli, NULL);
    return cli_json(
        cli, json_pack("{s:I,s:f,s:{s:I,s:I,s:I,s:I,s:I,s:I},s:I,s:I,s:I,s:I,s:o}", "parameters",
                       (json_int_t)plan->parameters, "flops_per_token", plan->flops_per_token, "bytes", "weights",
                       (json_int_t)plan->bytes.weights, "gradients", (json_int_t)plan->bytes.gradients, "optimizer",
                       (json_int_t)plan->bytes.optimizer, "activations", (json_int_t)plan->bytes.activations, "scratch",
                       (json_int_t)plan->bytes.scratch, "state", (json_int_t)plan->bytes.state, "total_bytes",
                       (json_int_t)plan->total_bytes, "available_bytes", (json_int_t)plan->available_bytes, "rows",
                       (json_int_t)plan->rows, "length", (json_int_t)plan->length, "layers", layers));
}

static void print_bytes(plx_cli *cli, const char *name, size_t bytes, const char *note)
{
    char text[32];
    cli_print(cli, "  %-12s %10s%s%s\n", name, cli_bytes_text((double)bytes, text), *note ? "  " : "", note);
}

static int show(plx_cli *cli, const plx_plan *plan)
{
    char count[32], flops[32], activations[32], state[32];
    cli_print(cli, "layer  %-12s %11s %12s %12s %11s\n", "mixer", "parameters", "flops/token", "activations", "state");
    for (size_t i = 0; i < plan->layer_count; i++) {
        const plx_plan_layer *layer = &plan->layers[i];
        cli_print(cli, "%5zu  %-12s %11s %12s %12s %11s\n", i, layer->mixer,
                  cli_count_text((double)layer->parameters, count), cli_count_text(layer->flops_per_token, flops),
                  cli_bytes_text((double)layer->activation_bytes, activations),
                  cli_bytes_text((double)layer->state_bytes, state));
    }
    cli_print(cli, "\nparameters       %s\n", cli_count_text((double)plan->parameters, count));
    cli_print(cli, "flops per token  %s forward\n", cli_count_text(plan->flops_per_token, flops));
    cli_print(cli, "\nmemory for training with %zu x %zu tokens a batch\n", plan->rows, plan->length);
    print_bytes(cli, "weights", plan->bytes.weights, "");
    print_bytes(cli, "gradients", plan->bytes.gradients, "");
    print_bytes(cli, "optimizer", plan->bytes.optimizer, "");
    print_bytes(cli, "activations", plan->bytes.activations, "kept from forward for backward");
    print_bytes(cli, "scratch", plan->bytes.scratch, "");
    print_bytes(cli, "sum", plan->total_bytes,
                plan->total_bytes > plan->available_bytes ? "MORE than this machine has to give" : "");
    print_bytes(cli, "available", plan->available_bytes, "");
    cli_print(cli, "decoding keeps %s for each sequence of %zu tokens\n",
              cli_bytes_text((double)plan->bytes.state, state), plan->length);
    return cli_finish(cli);
}

static plx_status plan_recipe(plx_cli *cli, const cli_texts *settings, plx_plan *plan)
{
    plx_recipe *recipe = NULL;
    plx_status status = plx_recipe_load(cli->context, cli->arguments[0], settings->items, settings->count, &recipe);
    if (status == PLX_OK) status = plx_plan_recipe(recipe, plan);
    plx_recipe_free(recipe);
    return status;
}

/* A model is a directory or a GGUF, a recipe any other file; a pipe is not looked into, as it is read only once. */
static bool is_model(const char *path)
{
    struct stat found;
    char first[4] = "";
    if (stat(path, &found) != 0) return false;
    if (S_ISDIR(found.st_mode)) return true;
    if (!S_ISREG(found.st_mode)) return false;
    FILE *file = fopen(path, "rb");
    bool model = file && fread(first, 1, 4, file) == 4 && memcmp(first, "GGUF", 4) == 0;
    if (file) fclose(file);
    return model;
}

int cli_plan(plx_cli *cli, int argc, char **argv)
{
    cli_texts settings = {0};
    size_t rows = 0, length = 0;
    const cli_option table[] = {
        {"set", CLI_TEXTS, &settings, "KEY=VALUE", "change a key of the recipe; may be given again", 0, 0},
        {"rows", CLI_SIZE, &rows, "N", "of a model: rows a batch (1)", 1, 1 << 30},
        {"length", CLI_SIZE, &length, "N", "of a model: tokens a row (its max_position_embeddings)", 1, 1 << 30},
        {0},
    };
    plx_plan plan = {0};
    int result = cli_parse(cli, "plan", table, 1, 1, argc, argv);
    const bool model = result == CLI_GO_ON && is_model(cli->arguments[0]);
    if (model && settings.count > 0)
        result = cli_usage_error("plan", "plan: --set changes recipes, and %s is a model", cli->arguments[0]);
    else if (result == CLI_GO_ON && !model && (rows > 0 || length > 0))
        result = cli_usage_error("plan", "plan: --rows and --length are of models; of a recipe they are "
                                         "--set train.batch_size=N and --set data.sequence_length=N");
    if (result == CLI_GO_ON) {
        plx_status status = model ? plx_plan_model(cli->context, cli->arguments[0], rows, length, &plan)
                                  : plan_recipe(cli, &settings, &plan);
        if (status != PLX_OK)
            result = cli_fail(cli, status);
        else
            result = cli->json ? show_json(cli, &plan) : show(cli, &plan);
        plx_plan_free(cli->context, &plan);
    }
    cli_texts_free(&settings);
    return result;
}
