/* retrofit.c - plexus retrofit: a model with some layers replaced, and how far it is from the one it was made of. */
#include "cli/cli.h"
#include "core/context.h"
#include "lab/retrofit.h"

#include <string.h>

/* A change below this part of the logits' range is rounding: sums of a few thousand f32 products, in another order. */
#define ROUNDING 1e-5

typedef struct outcome {
    plx_model_info before, after;
    plx_difference difference;
    size_t probe;
} outcome;

static int show(plx_cli *cli, const outcome *found, const char *out)
{
    const plx_difference *difference = &found->difference;
    double added = (double)found->after.parameters - (double)found->before.parameters;
    bool equal = difference->largest_change <= ROUNDING * difference->range;
    if (cli->json)
        return cli_json(cli,
                        json_pack("{s:o,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:b}", "out", cli_json_text(out, strlen(out)), "parameters",
                                  (json_int_t)found->after.parameters, "parameters_added", (json_int_t)added,
                                  "probe_tokens", (json_int_t)found->probe, "largest_logit_change",
                                  difference->largest_change, "logit_range", difference->range, "probe_loss_before",
                                  difference->loss[0], "probe_loss_after", difference->loss[1], "equal", equal));
    char count[32], more[32];
    cli_print(cli, "parameters      %s, %s more than before\n", cli_count_text((double)found->after.parameters, count),
              cli_count_text(added, more));
    cli_print(cli, "largest change  %.3g of a logit over %zu tokens, of a range of %.3g: %s\n",
              difference->largest_change, found->probe, difference->range,
              equal ? "the same up to rounding" : "another model from the start");
    cli_print(cli, "probe's loss    %.6f before, %.6f after, nats a token\n", difference->loss[0], difference->loss[1]);
    cli_print(cli, "written to      %s\n", out);
    return cli_finish(cli);
}

static plx_status retrofit(plx_cli *cli, const cli_texts *layers, size_t seed, const char *out, outcome *found)
{
    plx_model *old = NULL, *new = NULL;
    int32_t *tokens = NULL;
    plx_status status = plx_model_load(cli->context, cli->arguments[0], NULL, &old);
    if (status == PLX_OK) status = plx_model_retrofit(old, layers->items, layers->count, seed, &new);
    if (status == PLX_OK) status = plx_model_describe(old, &found->before);
    if (status == PLX_OK) status = plx_model_describe(new, &found->after);
    if (status == PLX_OK) status = plx_retrofit_probe(old, &tokens, &found->probe);
    if (status == PLX_OK) status = plx_model_difference(old, new, tokens, found->probe, &found->difference);
    if (status == PLX_OK) status = plx_model_save(new, out);
    plx_free(cli->context, tokens);
    plx_model_free(new);
    plx_model_free(old);
    return status;
}

int cli_retrofit(plx_cli *cli, int argc, char **argv)
{
    cli_texts layers = {0};
    const char *out = NULL;
    size_t seed = 0;
    const cli_option table[] = {
        {"layers", CLI_TEXTS, &layers, "WHICH:MIXER,KEY=VALUE..",
         "3,7,11 or 0-5 or 'every 4' or all, and the new layers' mixer and keys; may be given again", 0, 0},
        {"out", CLI_TEXT, &out, "DIR", "directory of the new model", 0, 0},
        {"seed", CLI_SIZE, &seed, "N", "of the weights that are new (0)", 0, 0},
        {0},
    };
    outcome found = {0};
    int result = cli_parse(cli, "retrofit", table, 1, 1, argc, argv);
    if (result == CLI_GO_ON && layers.count == 0)
        result = cli_usage_error("retrofit", "retrofit: --layers WHICH:MIXER,KEY=VALUE.. is missing");
    else if (result == CLI_GO_ON && out == NULL)
        result = cli_usage_error("retrofit", "retrofit: --out DIR is missing");
    else if (result == CLI_GO_ON) {
        plx_status status = retrofit(cli, &layers, seed, out, &found);
        result = status == PLX_OK ? show(cli, &found, out) : cli_fail(cli, status);
    }
    cli_texts_free(&layers);
    return result;
}
