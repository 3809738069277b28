/* run.c - a recipe's run as a command shows it: progress, the profile, the result. */
#include "cli/run.h"

#include "cli/progress.h"

#include <stdio.h>
#include <string.h>

static int show_result(plx_cli *cli, const plx_recipe *recipe, const plx_run_result *result)
{
    char tokens[32];
    if (cli->json) {
        return cli_json(cli, json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o}", "event", "finished",
                                       "out", plx_recipe_out(recipe), "step", (json_int_t)result->step, "tokens",
                                       (json_int_t)result->tokens, "parameters", (json_int_t)result->parameters,
                                       "flops_per_token", result->flops_per_token, "tokens_per_second",
                                       cli_json_number(result->tokens_per_second),
                                       "train_loss", cli_json_number(result->train_loss),
                                       "valid_loss", cli_json_number(result->valid_loss), "valid_bits_per_byte",
                                       cli_json_number(result->valid_bits_per_byte), "valid_accuracy",
                                       cli_json_number(result->valid_accuracy)));
    }
    if (cli->quiet) return cli_finish(cli);
    cli_print(cli, "done: step %zu, %s tokens, training loss %.4f", result->step,
              cli_count_text((double)result->tokens, tokens), result->train_loss);
    if (result->valid_bits_per_byte >= 0) {
        cli_print(cli, ", %.4f bits per byte on held-out text", result->valid_bits_per_byte);
    } else if (result->valid_accuracy >= 0)
        cli_print(cli, ", accuracy %.4f on held-out rows", result->valid_accuracy);
    else if (result->valid_loss >= 0)
        cli_print(cli, ", validation loss %.4f", result->valid_loss);
    cli_print(cli, "\nthe model is in %s\n", plx_recipe_out(recipe));
    return cli_finish(cli);
}

/* ---- the profile ---- */

typedef struct profile_view {
    plx_cli *cli;
    const plx_run_result *result;
    double seconds; /* of the rows shown so far */
} profile_view;

static void show_profile_row(void *user, const plx_profile_row *row)
{
    profile_view *view = user;
    plx_cli *cli = view->cli;
    double steps = (double)view->result->steps_taken, total = view->result->step_seconds;
    double gflops = row->seconds > 0 ? row->flops / row->seconds * 1e-9 : 0;
    view->seconds += row->seconds;
    if (cli->json) {
        cli_json(cli, json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "event", "profile", "op", row->op, "impl",
                                row->kernel, "calls", (double)row->calls / steps, "ms", row->seconds / steps * 1e3,
                                "share", row->seconds / total, "gflops", gflops));
        return;
    }
    cli_print(cli, "%-28s %-9s %8.1f %9.3f %6.1f%%", row->op, row->kernel, (double)row->calls / steps,
              row->seconds / steps * 1e3, 100 * row->seconds / total);
    if (row->flops > 0) cli_print(cli, " %9.1f", gflops);
    cli_print(cli, "\n");
}

/* A row for each operation, then what the steps took outside of operations: together the step. */
static void show_profile(plx_cli *cli, const plx_run_result *result)
{
    profile_view view = {.cli = cli, .result = result};
    if (result->steps_taken == 0 || cli->quiet) return;
    if (!cli->json)
        cli_print(cli, "%-28s %-9s %8s %9s %7s %9s\n", "operation", "by", "calls", "ms", "share", "GFLOP/s");
    plx_profile_visit(cli->context, show_profile_row, &view);
    plx_profile_row outside = {
        .op = "outside of operations", .kernel = "", .seconds = result->step_seconds - view.seconds};
    show_profile_row(&view, &outside);
    if (!cli->json)
        cli_print(cli, "%-28s %-9s %8s %9.3f %6.1f%%\n", "a step", "", "",
                  result->step_seconds / (double)result->steps_taken * 1e3, 100.0);
}

int cli_run_recipe(plx_cli *cli, plx_recipe *recipe, bool resume, bool profile, bool *interrupted)
{
    plx_run_result result;
    cli_run_view view;
    cli_run_view_begin(&view, cli, NULL);
    plx_run_options options = {.resume = resume, .profile = profile, .event = cli_run_view_event, .user = &view};
    plx_status status = plx_recipe_train(recipe, &options, &result);
    cli_run_view_end(&view);
    *interrupted = status == PLX_CANCELLED && cli_interrupted();
    if (status != PLX_OK) return cli_fail(cli, status);
    if (profile) show_profile(cli, &result);
    return show_result(cli, recipe, &result);
}
