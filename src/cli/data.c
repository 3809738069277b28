/* data.c - plexus data tokenizer FILE...: a vocabulary from text. */
#include "cli/cli.h"

#include <string.h>

int cli_data(plx_cli *cli, int argc, char **argv)
{
    plx_tokenizer_options settings = {.vocab_size = 8192};
    const char *out = NULL;
    size_t made = 0;
    const cli_option options[] = {
        {"vocab", CLI_SIZE, &settings.vocab_size, "N", "tokens in all (default 8192)", 257, 4194304},
        {"out", CLI_TEXT, &out, "DIR", "the directory to make", 0, 0},
        {"text-field", CLI_TEXT, &settings.text_field, "NAME", "the text's key in JSON lines (default text)", 0, 0},
        {"document-separator", CLI_TEXT, &settings.document_separator, "LINE",
         "the line between documents in plain text", 0, 0},
        {0},
    };
    int go_on = cli_parse(cli, "data", options, 2, -1, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    if (strcmp(cli->arguments[0], "tokenizer") != 0)
        return cli_usage_error("data", "data: unknown subject '%s'; there is: tokenizer", cli->arguments[0]);
    if (out == NULL) return cli_usage_error("data", "data: --out DIR is missing");
    plx_status status =
        plx_tokenizer_train(cli->context, cli->arguments + 1, (size_t)cli->argument_count - 1, &settings, out, &made);
    if (status != PLX_OK) return cli_fail(cli, status);
    if (cli->json) return cli_json(cli, json_pack("{s:o,s:I}", "out", cli_json_text(out, strlen(out)), "tokens", (json_int_t)made));
    const bool fewer = made < settings.vocab_size;
    cli_print(cli, "%s: %zu tokens%s\n", out, made, fewer ? ", as the text has no more pairs to join" : "");
    return cli_finish(cli);
}
