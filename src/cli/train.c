/* train.c - plexus train RECIPE: from scratch, or on from the latest checkpoint. */
#include "cli/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *number_or_null(double value)
{
    return isfinite(value) && value >= 0 ? json_real(value) : json_null();
}

static int show_result(plx_cli *cli, const plx_recipe *recipe, const plx_run_result *result)
{
    char tokens[32];
    if (cli->json) {
        return cli_json(cli, json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:o, s:o}", "event", "finished",
            "out", plx_recipe_out(recipe), "step", (json_int_t)result->step, "tokens", (json_int_t)result->tokens,
            "parameters", (json_int_t)result->parameters, "flops_per_token", result->flops_per_token,
            "tokens_per_second", result->tokens_per_second, "train_loss", number_or_null(result->train_loss),
            "valid_loss", number_or_null(result->valid_loss),
            "valid_bits_per_byte", number_or_null(result->valid_bits_per_byte),
            "valid_accuracy", number_or_null(result->valid_accuracy)));
    }
    if (cli->quiet) return cli_finish(cli);
    cli_print(cli, "done: step %zu, %s tokens, training loss %.4f", result->step,
              cli_count_text((double)result->tokens, tokens), result->train_loss);
    if (result->valid_bits_per_byte >= 0) {
        cli_print(cli, ", %.4f bits per byte on held-out text", result->valid_bits_per_byte);
    }
    else if (result->valid_accuracy >= 0) cli_print(cli, ", accuracy %.4f on held-out rows", result->valid_accuracy);
    else if (result->valid_loss >= 0) cli_print(cli, ", validation loss %.4f", result->valid_loss);
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
    plx_profile_row outside = {.op = "outside of operations", .kernel = "",
                               .seconds = result->step_seconds - view.seconds};
    show_profile_row(&view, &outside);
    if (!cli->json)
        cli_print(cli, "%-28s %-9s %8s %9.3f %6.1f%%\n", "a step", "", "",
                  result->step_seconds / (double)result->steps_taken * 1e3, 100.0);
}

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
    plx_run_result result;
    cli_run_view view;
    int exit_status = cli_parse(cli, "train", options, 1, 1, argc, argv);
    if (exit_status != CLI_GO_ON) goto done;

    plx_status status = plx_recipe_load(cli->context, cli->arguments[0], overrides.items, overrides.count, &recipe);
    if (status == PLX_OK) {
        cli_run_view_begin(&view, cli, NULL);
        plx_run_options run = {.resume = resume, .profile = profile, .event = cli_run_view_event, .user = &view};
        status = plx_recipe_train(recipe, &run, &result);
        cli_run_view_end(&view);
    }
    if (status == PLX_OK) {
        if (profile) show_profile(cli, &result);
        exit_status = show_result(cli, recipe, &result);
    } else {
        exit_status = cli_fail(cli, status);
        if (status == PLX_CANCELLED && cli_interrupted() && !cli->quiet) {
            say_how_to_go_on(cli->arguments[0], &overrides);
        }
    }
done:
    plx_recipe_free(recipe);
    cli_texts_free(&overrides);
    return exit_status;
}
