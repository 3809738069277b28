/* generate.c - plexus generate: writes text as a model makes it. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static void on_piece(void *user, const char *text, size_t bytes)
{
    plx_cli *cli = user;
    cli_write(cli, text, bytes);
    cli_flush(cli);
}

/* The whole of a prompt file, or of stdin for "-". */
static int read_prompt(const char *path, char **text, size_t *bytes)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    size_t room = 0;
    bool failed = !file;
    *bytes = 0;
    while (!failed && !feof(file)) {
        if (*bytes == room) {
            char *grown = realloc(*text, room = room * 2 + 4096);
            if (!grown) break;
            *text = grown;
        }
        *bytes += fread(*text + *bytes, 1, room - *bytes, file);
        failed = ferror(file);
    }
    bool done = !failed && feof(file);
    if (!done) cli_error("%s: cannot read the prompt", path);
    if (file && file != stdin) fclose(file);
    return done ? 0 : 1;
}

static int show(plx_cli *cli, const char *prompt, size_t prompt_bytes, const plx_generated *made)
{
    if (cli->json)
        return cli_json(cli,
                        json_pack("{s:o,s:o,s:I,s:f}", "prompt", cli_json_text(prompt, prompt_bytes), "text",
                                  cli_json_text(made->text, made->bytes), "tokens", (json_int_t)made->tokens,
                                  "tokens_per_second", made->seconds > 0 ? (double)made->tokens / made->seconds : 0.0));
    cli_print(cli, "\n");
    int status = cli_finish(cli);
    if (!cli->quiet && !cli->output_failed)
        fprintf(stderr, "plexus: %zu tokens, %.1f tokens/s\n", made->tokens,
                made->seconds > 0 ? (double)made->tokens / made->seconds : 0.0);
    return status;
}

static int generate(plx_cli *cli, const char *prompt, size_t prompt_bytes, plx_generate_options *options)
{
    plx_model *model = NULL;
    plx_tokenizer *tokenizer = NULL;
    plx_generated made = {0};
    int result;
    plx_status status = plx_model_load(cli->context, cli->arguments[0], NULL, &model);
    if (status == PLX_OK) status = plx_model_tokenizer(model, &tokenizer);
    if (status == PLX_OK && !cli->json) {
        options->piece = on_piece;
        options->user = cli;
        cli_write(cli, prompt, prompt_bytes);
        cli_flush(cli);
    }
    if (status == PLX_OK) status = plx_generate(model, tokenizer, prompt, prompt_bytes, options, &made);
    if (status == PLX_OK) {
        result = show(cli, prompt, prompt_bytes, &made);
    } else {
        if (status == PLX_CANCELLED && !cli->json) cli_print(cli, "\n");
        result = cli_fail(cli, status);
    }
    if (model) plx_generated_free(model, &made);
    plx_model_free(model);
    return result;
}

int cli_generate(plx_cli *cli, int argc, char **argv)
{
    plx_generate_options options = plx_generate_defaults();
    plx_sampling *sampling = &options.sampling;
    const char *prompt = NULL, *prompt_file = NULL;
    size_t seed = 0;
    const cli_option table[] = {
        {"prompt", CLI_TEXT, &prompt, "TEXT", "the text to go on from (empty: the beginning of a document)", 0, 0},
        {"prompt-file", CLI_TEXT, &prompt_file, "FILE", "the same from a file, or from standard input with -", 0, 0},
        {"max-tokens", CLI_SIZE, &options.max_tokens, "N", "most tokens to write (256)", 1, 1 << 30},
        {"temperature", CLI_REAL, &sampling->temperature, "X", "0 always takes the likeliest token (1)", 0, 1e6},
        {"top-k", CLI_SIZE, &sampling->top_k, "N", "only the N likeliest; 0: all (0)", 0, 0},
        {"top-p", CLI_REAL, &sampling->top_p, "X", "only the likeliest that together have this probability (1)", 1e-9,
         1},
        {"min-p", CLI_REAL, &sampling->min_p, "X", "only those at least X times as likely as the likeliest (0)", 0, 1},
        {"repetition-penalty", CLI_REAL, &sampling->repetition_penalty, "X",
         "above 1: tokens seen before become less likely (1)", 1e-6, 1e6},
        {"seed", CLI_SIZE, &seed, "N", "of the random choices: the same seed writes the same text (0)", 0, 0},
        {"stop", CLI_FLAG, &options.stop_at_separator, NULL, "end where the model ends the document", 0, 0},
        {0},
    };
    int go_on = cli_parse(cli, "generate", table, 1, 1, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    if (prompt && prompt_file)
        return cli_usage_error("generate", "generate: --prompt and --prompt-file exclude each other");
    sampling->seed = seed;
    if (!prompt_file) return generate(cli, prompt ? prompt : "", prompt ? strlen(prompt) : 0, &options);
    char *text = NULL;
    size_t bytes;
    int result = read_prompt(prompt_file, &text, &bytes);
    if (result == 0) result = generate(cli, text, bytes, &options);
    free(text);
    return result;
}
