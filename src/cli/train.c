/* train.c - plexus train RECIPE: from scratch, or on from the latest checkpoint. */
#include "cli/run.h"

#include <stdio.h>
#include <string.h>

/* A word as the shell takes it back. */
static void print_word(const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') {
        fputs(word, stderr);
        return;
    }
    fputc('\'', stderr);
    for (; *word != '\0'; word++) {
        if (*word == '\'') fputs("'\\''", stderr);
        else fputc(*word, stderr);
    }
    fputc('\'', stderr);
}

static void say_how_to_go_on(const char *recipe, const cli_texts *overrides)
{
    fputs("to go on: plexus train ", stderr);
    print_word(recipe);
    for (size_t i = 0; i < overrides->count; i++) {
        fputs(" --set ", stderr);
        print_word(overrides->items[i]);
    }
    fputs(" --resume\n", stderr);
}

int cli_train(plx_cli *cli, int argc, char **argv)
{
    cli_texts overrides = {0};
    bool resume = false, profile = false;
    const cli_option options[] = {
        {"set", CLI_TEXTS, &overrides, "KEY=VALUE",
         "change a key of the recipe, as train.steps=100; may be repeated", 0, 0},
        {"resume", CLI_FLAG, &resume, NULL, "go on from the run's latest checkpoint", 0, 0},
        {"profile", CLI_FLAG, &profile, NULL, "show at the end what each operation of the training steps took", 0, 0},
        {0},
    };
    plx_recipe *recipe = NULL;
    bool interrupted = false;
    int exit_status = cli_parse(cli, "train", options, 1, 1, argc, argv);
    if (exit_status != CLI_GO_ON) goto done;

    plx_status status = plx_recipe_load(cli->context, cli->arguments[0], overrides.items, overrides.count, &recipe);
    exit_status = status != PLX_OK ? cli_fail(cli, status) : cli_run_recipe(cli, recipe, resume, profile, &interrupted);
    if (interrupted && !cli->quiet) say_how_to_go_on(cli->arguments[0], &overrides);
done:
    plx_recipe_free(recipe);
    cli_texts_free(&overrides);
    return exit_status;
}
