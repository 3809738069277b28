/* sft.c - plexus sft MODEL: fine-tuning on questions and answers. It writes a recipe that begins with the model and
 * trains it as plexus train does. */
#include "cli/run.h"
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

typedef struct choices {
    cli_texts data, valid, overrides;
    const char *out, *parameters, *targets, *form, *system, *weights;
    size_t steps, rank, batch, length, seed;
    double epochs, lr, alpha;
    bool resume, profile;
} choices;

static json_t *list_of(const cli_texts *texts)
{
    json_t *list = json_array();
    for (size_t i = 0; i < texts->count; i++)
        if (json_array_append_new(list, json_string(texts->items[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* "a,b" as a list; NULL, which leaves a key out, for none. */
static json_t *words_of(const char *text)
{
    if (text == NULL) return NULL;
    json_t *list = json_array();
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        if (json_array_append_new(list, json_stringn(text, length)) != 0) break;
        text += length + (text[length] == ',');
    }
    return list;
}

/* The first argument that no recipe can hold; NULL where all are UTF-8. */
static const char *no_text(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        json_t *probe = json_string(argv[i]);
        if (probe == NULL) return argv[i];
        json_decref(probe);
    }
    return NULL;
}

/* The recipe as JSON, which is YAML too; freed with free. NULL when memory is short. */
static char *recipe_of(const char *model, const choices *made)
{
    json_t *adapter = made->rank == 0 ? json_null()
                                      : json_pack("{s:I,s:f,s:o*}", "rank", (json_int_t)made->rank, "alpha",
                                                  made->alpha > 0 ? made->alpha : 2.0 * (double)made->rank, "targets",
                                                  words_of(made->targets));
    json_t *data = json_pack("{s:s,s:o,s:s*,s:s*}", "format", "conversations", "train", list_of(&made->data), "chat_template", made->form,
                             "system", made->system);
    if (made->length > 0 && data != NULL)
        json_object_set_new(data, "sequence_length", json_integer((json_int_t)made->length));
    if (made->valid.count > 0 && data != NULL) json_object_set_new(data, "valid", list_of(&made->valid));
    const bool one = made->parameters != NULL && strchr(made->parameters, ',') == NULL; /* "all" is no list */
    json_t *train =
        json_pack("{s:I,s:I,s:f,s:I,s:o*}", "batch_size", (json_int_t)made->batch, "warmup_steps", (json_int_t)10,
                  "weight_decay", 0.0, "seed", (json_int_t)made->seed, "parameters",
                  one ? json_string(made->parameters) : words_of(made->parameters));
    if (train != NULL && made->lr > 0) json_object_set_new(train, "lr", json_real(made->lr));
    if (train != NULL && made->steps > 0)
        json_object_set_new(train, "steps", json_integer((json_int_t)made->steps));
    if (train != NULL && made->steps == 0)
        json_object_set_new(train, "epochs", json_real(made->epochs > 0 ? made->epochs : 1));
    json_t *config = json_pack("{s:s,s:s}", "from", model, "weights", made->weights);
    if (config != NULL && made->rank > 0) json_object_set(config, "adapter", adapter);
    json_decref(adapter);
    json_t *recipe = json_pack("{s:o,s:o,s:o,s:s}", "model", config, "data", data, "train", train, "out", made->out);
    char *text = recipe != NULL ? plx_json_text(recipe) : NULL;
    json_decref(recipe);
    return text;
}

static int run(plx_cli *cli, choices *made, bool *interrupted)
{
    plx_recipe *recipe = NULL;
    char *text = recipe_of(cli->arguments[0], made);
    if (text == NULL) return cli_error("out of memory for the recipe");
    plx_status status =
        plx_recipe_parse(cli->context, "plexus sft", text, made->overrides.items, made->overrides.count, &recipe);
    free(text);
    int result =
        status != PLX_OK ? cli_fail(cli, status) : cli_run_recipe(cli, recipe, made->resume, made->profile, interrupted);
    plx_recipe_free(recipe);
    return result;
}

int cli_sft(plx_cli *cli, int argc, char **argv)
{
    choices made = {.batch = 8, .weights = "f32"};
    const cli_option options[] = {
        {"data", CLI_TEXTS, &made.data, "FILE",
         "questions and answers: .jsonl, .json (docs/data.md); may be given again", 0, 0},
        {"valid", CLI_TEXTS, &made.valid, "FILE", "held out instead of the last twentieth of the data", 0, 0},
        {"out", CLI_TEXT, &made.out, "DIR", "the run's directory", 0, 0},
        {"epochs", CLI_REAL, &made.epochs, "N", "passes over the data (1)", 1e-6, 1e6},
        {"steps", CLI_SIZE, &made.steps, "N", "optimiser steps, instead of epochs", 1, 0},
        {"train", CLI_TEXT, &made.parameters, "WHAT",
         "all weights, the new ones of retrofitted layers, the adapter's, or new,adapter (all; adapter with "
         "--lora-rank)",
         0, 0},
        {"lora-rank", CLI_SIZE, &made.rank, "N", "adapters of this rank on the projections", 1, 4096},
        {"lora-alpha", CLI_REAL, &made.alpha, "X", "their scale times rank (2 * rank)", 1e-6, 1e6},
        {"lora-targets", CLI_TEXT, &made.targets, "NAME,..", "which projections: q_proj,v_proj (all)", 0, 0},
        {"weights", CLI_TEXT, &made.weights, "FORM",
         "how weights that are not trained are held: f32, stored (as in the file), q8_0, q4_0 or bf16 (f32)", 0, 0},
        {"lr", CLI_REAL, &made.lr, "X", "learning rate (2e-5 for all weights, 2e-4 for few)", 1e-12, 1e3},
        {"batch-size", CLI_SIZE, &made.batch, "N", "rows a step (8)", 1, 1 << 20},
        {"sequence-length", CLI_SIZE, &made.length, "N", "tokens a row (512, or the model's positions)", 1, 1 << 20},
        {"chat-template", CLI_TEXT, &made.form, "NAME", "chatml, llama3, zephyr or plain (the model's own)", 0, 0},
        {"system", CLI_TEXT, &made.system, "TEXT", "message put before conversations that have none of the system", 0,
         0},
        {"seed", CLI_SIZE, &made.seed, "N", "of new weights and the data's order (0)", 0, 0},
        {"set", CLI_TEXTS, &made.overrides, "KEY=VALUE", "change a key of the recipe, as train.recompute=all", 0, 0},
        {"resume", CLI_FLAG, &made.resume, NULL, "go on from the run's latest checkpoint", 0, 0},
        {"profile", CLI_FLAG, &made.profile, NULL, "show at the end what each operation took", 0, 0},
        {0},
    };
    bool interrupted = false;
    int result = cli_parse(cli, "sft", options, 1, 1, argc, argv);
    if (result == CLI_GO_ON && made.data.count == 0)
        result = cli_usage_error("sft", "sft: --data FILE is missing");
    else if (result == CLI_GO_ON && made.out == NULL)
        result = cli_usage_error("sft", "sft: --out DIR is missing");
    else if (result == CLI_GO_ON && made.steps > 0 && made.epochs > 0)
        result = cli_usage_error("sft", "sft: --steps and --epochs exclude each other");
    else if (result == CLI_GO_ON && made.rank == 0 && (made.targets != NULL || made.alpha > 0))
        result = cli_usage_error("sft", "sft: --lora-targets and --lora-alpha need --lora-rank");
    else if (result == CLI_GO_ON && no_text(argc, argv) != NULL)
        result = cli_usage_error("sft", "sft: '%s' is not UTF-8, as a recipe must be", no_text(argc, argv));
    else if (result == CLI_GO_ON)
        result = run(cli, &made, &interrupted);
    if (interrupted) cli_say_how_to_go_on(cli, "sft", made.resume, argc, argv);
    cli_texts_free(&made.data);
    cli_texts_free(&made.valid);
    cli_texts_free(&made.overrides);
    return result;
}
