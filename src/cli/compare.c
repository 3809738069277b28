/* compare.c - `plexus compare`: trains recipes side by side, prints tables, writes report.html. */
#include "cli/progress.h"
#include "lab/compare.h"

#include <stdlib.h>
#include <string.h>

enum { LRS_MOST = 16 };

typedef struct compare_view {
    plx_cli *cli;
    cli_run_view view;
    bool open;
    char label[128];
} compare_view;

static void begin_run(void *user, size_t index, size_t count, const char *label)
{
    compare_view *view = user;
    if (view->open) cli_run_view_end(&view->view);
    snprintf(view->label, sizeof view->label, "%zu/%zu %s", index + 1, count, label);
    cli_run_view_begin(&view->view, view->cli, view->label);
    view->open = true;
}
static void on_event(void *user, const plx_run_event *event)
{
    compare_view *view = user;
    if (view->open && !view->cli->json) cli_run_view_event(&view->view, event);
}

/* "1e-3,3e-3" into numbers; -1 when it is no such list. */
static int read_lrs(const char *text, double *lrs)
{
    int count = 0;
    for (const char *p = text; ; p++) {
        char *end;
        if (count == LRS_MOST) return -1;
        lrs[count] = strtod(p, &end);
        if (end == p || !(lrs[count] > 0) || lrs[count] > 1e3) return -1;
        count++;
        p = end;
        if (*p == '\0') return count;
        if (*p != ',') return -1;
    }
}

static const char *metric_text(double mean, double spread, size_t runs, char buffer[48])
{
    if (mean < 0) snprintf(buffer, 48, "-");
    else if (runs > 1) snprintf(buffer, 48, "%.3f +- %.3f", mean, spread);
    else snprintf(buffer, 48, "%.3f", mean);
    return buffer;
}

static const char *rate_text(double rate, char buffer[32])
{
    if (rate < 0) snprintf(buffer, 32, "-");
    else snprintf(buffer, 32, "%.0f", rate);
    return buffer;
}

static void print_group(plx_cli *cli, const plx_comparison *comparison, size_t group)
{
    const plx_compare_group *about = &comparison->groups[group];
    int width = 5;
    for (size_t i = 0; i < comparison->row_count; i++)
        if ((int)strlen(comparison->rows[i].name) > width) width = (int)strlen(comparison->rows[i].name);
    if (about->task) cli_print(cli, "\nTask %s (chance %.3f)\n", about->title, about->chance);
    else cli_print(cli, "\n%s\n", about->title);
    cli_print(cli, "%-*s  %10s  %11s  %8s  %7s  %6s  %16s  %16s\n", width, "model", "parameters", "flops/token",
              "tokens/s", "lr", "steps", "valid loss", about->task ? "accuracy" : "bits per byte");
    for (size_t i = 0; i < comparison->row_count; i++) {
        const plx_compare_row *row = &comparison->rows[i];
        char flops[32], rate[32], loss[48], last[48];
        if (row->group != group) continue;
        cli_print(cli, "%-*s  %10zu  %11s  %8s  %7g  %6zu  %16s  %16s\n", width, row->name, row->parameters,
                  cli_count_text(row->flops_per_token, flops), rate_text(row->tokens_per_second, rate), row->lr, row->steps,
                  metric_text(row->loss, row->loss_spread, row->runs, loss),
                  about->task ? metric_text(row->accuracy, row->accuracy_spread, row->runs, last)
                              : metric_text(row->bits, row->bits_spread, row->runs, last));
    }
}

/* A recipe "mqar-nexus" of the task mqar is the model "nexus" in a table of several tasks. */
static const char *model_of(const plx_comparison *comparison, const plx_compare_row *row)
{
    const char *title = comparison->groups[row->group].title;
    size_t length = strlen(title);
    return strncmp(row->name, title, length) == 0 && row->name[length] == '-' ? row->name + length + 1 : row->name;
}
static bool several_tasks(const plx_comparison *comparison)
{
    for (size_t group = 0; group < comparison->group_count; group++)
        if (!comparison->groups[group].task) return false;
    return comparison->group_count > 1;
}
static const plx_compare_row *row_of(const plx_comparison *comparison, size_t group, const char *model)
{
    for (size_t i = 0; i < comparison->row_count; i++)
        if (comparison->rows[i].group == group && strcmp(model_of(comparison, &comparison->rows[i]), model) == 0)
            return &comparison->rows[i];
    return NULL;
}

/* Accuracies on several tasks: a row a model, a column a task. */
static void print_tasks(plx_cli *cli, const plx_comparison *comparison)
{
    char text[48];
    int width = 6;
    for (size_t i = 0; i < comparison->row_count; i++)
        if ((int)strlen(model_of(comparison, &comparison->rows[i])) > width)
            width = (int)strlen(model_of(comparison, &comparison->rows[i]));
    cli_print(cli, "\nAccuracy\n%-*s", width, "model");
    for (size_t group = 0; group < comparison->group_count; group++)
        cli_print(cli, "  %16s", comparison->groups[group].title);
    cli_print(cli, "\n%-*s", width, "chance");
    for (size_t group = 0; group < comparison->group_count; group++)
        cli_print(cli, "  %16.3f", comparison->groups[group].chance);
    cli_print(cli, "\n");
    for (size_t i = 0; i < comparison->row_count; i++) {
        const char *model = model_of(comparison, &comparison->rows[i]);
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++) seen = strcmp(model_of(comparison, &comparison->rows[j]), model) == 0;
        if (seen) continue;
        cli_print(cli, "%-*s", width, model);
        for (size_t group = 0; group < comparison->group_count; group++) {
            const plx_compare_row *row = row_of(comparison, group, model);
            cli_print(cli, "  %16s",
                      row == NULL ? "" : metric_text(row->accuracy, row->accuracy_spread, row->runs, text));
        }
        cli_print(cli, "\n");
    }
}

static void print_samples(plx_cli *cli, const plx_comparison *comparison)
{
    for (size_t i = 0; i < comparison->row_count; i++) {
        const char *sample = comparison->runs[comparison->rows[i].first_run].sample;
        if (sample == NULL) continue;
        cli_print(cli, "\n%s writes:\n", comparison->rows[i].name);
        cli_write(cli, sample, strlen(sample));
        cli_print(cli, "\n");
    }
}

static int print_json(plx_cli *cli, const plx_comparison *comparison, const char *const *recipes)
{
    int result = 0;
    for (size_t i = 0; i < comparison->run_count && result == 0; i++) {
        const plx_compare_run *run = &comparison->runs[i];
        const char *recipe = recipes[run->recipe];
        result = cli_json(
            cli, json_pack("{s:o, s:I, s:f, s:I, s:I, s:f, s:o, s:o, s:o, s:o}", "recipe",
                           cli_json_text(recipe, strlen(recipe)), "seed", (json_int_t)run->seed, "lr", run->lr,
                           "steps", (json_int_t)run->steps, "parameters", (json_int_t)run->result.parameters,
                           "flops_per_token", run->result.flops_per_token,
                           "tokens_per_second", cli_json_number(run->result.tokens_per_second),
                           "valid_loss", cli_json_number(run->result.valid_loss),
                           "valid_bits_per_byte", cli_json_number(run->result.valid_bits_per_byte),
                           "accuracy", cli_json_number(run->result.valid_accuracy)));
    }
    return result;
}

int cli_compare(plx_cli *cli, int argc, char **argv)
{
    cli_texts sets = {0};
    const char *equal = "tokens", *out = "runs/compare", *lr_list = NULL, *prompt = NULL;
    size_t seeds = 1, sample_tokens = 200;
    bool resume = false;
    const cli_option options[] = {
        {"seeds", CLI_SIZE, &seeds, "N", "runs a recipe, with seeds one apart (1)", 1, 1000},
        {"lr", CLI_TEXT, &lr_list, "A,B,...", "try these peak learning rates; each recipe counts at its best", 0, 0},
        {"equal", CLI_TEXT, &equal, "tokens|flops", "what all runs of the same data have in common (tokens)", 0, 0},
        {"out", CLI_TEXT, &out, "DIR", "where runs and report.html go (runs/compare)", 0, 0},
        {"set", CLI_TEXTS, &sets, "KEY=VALUE", "override a key of every recipe; may be repeated", 0, 0},
        {"sample", CLI_TEXT, &prompt, "TEXT", "let each text model go on from TEXT", 0, 0},
        {"sample-tokens", CLI_SIZE, &sample_tokens, "N", "for so many tokens (200)", 1, 1e6},
        {"resume", CLI_FLAG, &resume, NULL, "go on with the runs in DIR, and keep the finished ones", 0, 0},
        {0},
    };
    double lrs[LRS_MOST];
    int lr_count = 0, result = cli_parse(cli, "compare", options, 1, -1, argc, argv);
    if (result != CLI_GO_ON) return result;
    if (strcmp(equal, "tokens") != 0 && strcmp(equal, "flops") != 0)
        result = cli_usage_error("compare", "compare: --equal is tokens or flops, not %s", equal);
    if (lr_list != NULL && (lr_count = read_lrs(lr_list, lrs)) < 0)
        result = cli_usage_error("compare", "compare: --lr takes up to %d numbers above 0 separated by commas, not %s",
                                 LRS_MOST, lr_list);
    if (result != CLI_GO_ON) {
        cli_texts_free(&sets);
        return result;
    }

    compare_view view = {.cli = cli};
    plx_comparison *comparison = NULL;
    plx_compare_options compare = {
        .recipes = cli->arguments,
        .recipe_count = (size_t)cli->argument_count,
        .overrides = sets.items,
        .override_count = sets.count,
        .seeds = seeds,
        .lrs = lrs,
        .lr_count = (size_t)lr_count,
        .equal = strcmp(equal, "flops") == 0 ? PLX_EQUAL_FLOPS : PLX_EQUAL_TOKENS,
        .out = out,
        .sample_prompt = prompt,
        .sample_tokens = sample_tokens,
        .resume = resume,
        .begin = begin_run,
        .event = on_event,
        .user = &view,
    };
    plx_status status = plx_compare(cli->context, &compare, &comparison);
    if (view.open) cli_run_view_end(&view.view);
    char *report = plx_format(cli->context, "%s/report.html", out), *command = cli_command_text("compare", argc, argv);
    if (status == PLX_OK)
        status = plx_report_write(comparison, report != NULL ? report : "report.html",
                                  command != NULL ? command : "plexus compare");
    if (status != PLX_OK) {
        result = cli_fail(cli, status);
        if (status == PLX_CANCELLED && cli_interrupted()) cli_say_how_to_go_on(cli, "compare", resume, argc, argv);
    } else if (cli->json) {
        result = print_json(cli, comparison, cli->arguments);
    } else {
        for (size_t group = 0; group < comparison->group_count && !several_tasks(comparison); group++)
            print_group(cli, comparison, group);
        if (several_tasks(comparison)) print_tasks(cli, comparison);
        print_samples(cli, comparison);
        cli_print(cli, "\nReport with loss curves: %s\n", report);
        result = cli_finish(cli);
    }
    plx_free(cli->context, report);
    free(command);
    plx_comparison_free(comparison);
    cli_texts_free(&sets);
    return result;
}
