/* run.h - for the commands that train a recipe. */
#ifndef PLX_CLI_RUN_H
#define PLX_CLI_RUN_H

#include "cli/cli.h"

/* Trains it with progress on the terminal and shows the result; returns the exit status. *interrupted: the user
 * stopped it, and it can go on. */
int cli_run_recipe(plx_cli *cli, plx_recipe *recipe, bool resume, bool profile, bool *interrupted);

#endif
