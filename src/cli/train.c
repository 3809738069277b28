/* train.c - plexus train RECIPE: from scratch, or on from the latest checkpoint. */
#include "cli/run.h"

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
    if (interrupted) cli_say_how_to_go_on(cli, "train", resume, argc, argv);
done:
    plx_recipe_free(recipe);
    cli_texts_free(&overrides);
    return exit_status;
}
