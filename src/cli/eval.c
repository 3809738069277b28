/* eval.c - plexus eval: how well a model predicts a text. */
#include "cli/cli.h"

#include <float.h>
#include <math.h>

static int show(plx_cli *cli, const plx_evaluation *found)
{
    if (cli->json)
        return cli_json(
            cli, json_pack("{s:I,s:f,s:f,s:f}", "tokens", (json_int_t)found->tokens, "nll", found->nll, "perplexity",
                           isfinite(found->perplexity) ? found->perplexity : DBL_MAX, /* JSON has no infinity */
                           "bits_per_byte", found->bits_per_byte));
    cli_print(cli, "tokens scored   %zu\n", found->tokens);
    cli_print(cli, "loss            %.6f nats a token\n", found->nll);
    cli_print(cli, "perplexity      %.6g\n", found->perplexity);
    cli_print(cli, "bits per byte   %.6f\n", found->bits_per_byte);
    return cli_finish(cli);
}

int cli_eval(plx_cli *cli, int argc, char **argv)
{
    const char *text = NULL, *weights = NULL;
    size_t window = 0;
    plx_model_options load = {0};
    const cli_option table[] = {
        {"text", CLI_TEXT, &text, "FILE", "the text: plain, .zst, .jsonl or .jsonl.zst", 0, 0},
        {"window", CLI_SIZE, &window, "N", "tokens a window (the model's max_position_embeddings)", 2, 0},
        {"adapter", CLI_TEXT, &load.adapter, "DIR", "put this adapter (of the peft package) on the model", 0, 0},
        CLI_WEIGHTS_OPTION(weights),
        {0},
    };
    int go_on = cli_parse(cli, "eval", table, 1, 1, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    if (!text) return cli_usage_error("eval", "eval: --text FILE is missing");
    if (!cli_weights(weights, &load)) return cli_usage_error("eval", "eval: " CLI_WEIGHTS_WRONG, weights);
    plx_model *model = NULL;
    plx_evaluation found;
    plx_status status = plx_model_load(cli->context, cli->arguments[0], &load, &model);
    if (status == PLX_OK) status = plx_evaluate_file(model, text, window, &found);
    plx_model_free(model);
    return status == PLX_OK ? show(cli, &found) : cli_fail(cli, status);
}
