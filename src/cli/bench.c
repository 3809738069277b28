/* bench.c - plexus bench: the speed of every operation and implementation, next to its error. */
#include "cli/cli.h"
#include "lab/bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct view {
    plx_cli *cli;
    char op[64], shape[128];  /* of the last line */
    int failed;               /* exit status of the output */
    size_t shown;             /* results */
    plx_bench_report *report; /* or NULL */
    plx_status status;        /* of adding to it */
} view;

static json_t *shape_json(const plx_bench_shape *shape)
{
    json_t *object = json_object();
#define SIZE_JSON(name)                                                                                                \
    if (shape->name != 0) json_object_set_new(object, #name, json_integer((json_int_t)shape->name));
    PLX_BENCH_SIZES(SIZE_JSON)
#undef SIZE_JSON
    return object;
}

/* A number where there is one: what is wrong has no speed, and JSON no infinity. */
static json_t *number(bool there, double value) { return there && isfinite(value) ? json_real(value) : json_null(); }

static void print_json(view *show, const plx_bench_result *r)
{
    json_t *line = json_pack(
        "{s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:b,s:f,s:o,s:o,s:o,s:s?,s:s?}", "op", r->op, "impl", r->impl, "shape",
        shape_json(&r->shape), "ms", number(r->timed, 1e3 * r->best), "gflops", number(r->timed, r->gflops),
        "peak_fraction", number(r->timed, r->peak_fraction), "max_error", number(true, r->error), "ok", r->ok,
        "tolerance", isfinite(r->tolerance) ? r->tolerance : 0.0, "median_ms", number(r->timed, 1e3 * r->median), "gbs",
        number(r->timed, r->gbs), "bandwidth_fraction", number(r->timed, r->bandwidth_fraction), "limit",
        r->timed ? r->limit : NULL, "convention", r->convention);
    if (line != NULL && r->reduced) json_object_set_new(line, "checked", shape_json(&r->checked));
    if (line != NULL && r->timed && r->tokens_per_second > 0)
        json_object_set_new(line, "tokens_per_second", json_real(r->tokens_per_second));
    if (cli_json(show->cli, line) != 0) show->failed = 1;
}

static void print_row(view *show, const plx_bench_result *r)
{
    char shape[128], rate[32] = "";
    plx_bench_shape_text(&r->shape, shape, sizeof shape);
    if (strcmp(show->op, r->op) != 0)
        cli_print(show->cli, "\n%s%s%s\n", r->op,
                  r->convention != NULL ? ": flops are " : ": bytes are each array once",
                  r->convention != NULL ? r->convention : "");
    if (strcmp(show->op, r->op) != 0 || strcmp(show->shape, shape) != 0) {
        char checked[128];
        plx_bench_shape_text(&r->checked, checked, sizeof checked);
        cli_print(show->cli, "  %s%s%s\n", shape, r->reduced ? "; reference at " : "", r->reduced ? checked : "");
    }
    snprintf(show->op, sizeof show->op, "%s", r->op);
    snprintf(show->shape, sizeof show->shape, "%s", shape);
    if (r->timed) {
        if (r->tokens_per_second > 0) snprintf(rate, sizeof rate, "  %.0f tokens/s", r->tokens_per_second);
        cli_print(show->cli, "    %-9s %10.3f %10.3f ms %9.1f GFLOP/s %4.0f%% %8.1f GB/s %4.0f%%  %-8s error %.1e%s\n",
                  r->impl, 1e3 * r->best, 1e3 * r->median, r->gflops, 100 * r->peak_fraction, r->gbs,
                  100 * r->bandwidth_fraction, r->limit, r->error, rate);
    } else
        cli_print(show->cli, "    %-9s %s error %.1e%s\n", r->impl, r->ok ? "right, not timed:" : "WRONG:", r->error,
                  r->ok ? "" : ", so no speed");
    cli_flush(show->cli);
}

static void show_result(void *user, const plx_bench_result *result)
{
    view *show = user;
    show->shown++;
    if (show->report != NULL && show->status == PLX_OK) show->status = plx_bench_report_add(show->report, result);
    if (show->cli->json)
        print_json(show, result);
    else
        print_row(show, result);
}

/* CLI_GO_ON, or the exit status with everything said. */
static int check_pattern(plx_cli *cli, const char *pattern)
{
    plx_bench_list list;
    const char *names[256];
    size_t count = 0;
    bool known = false;
    plx_status status = plx_bench_list_make(cli->context, NULL, &list);
    if (status != PLX_OK) return cli_fail(cli, status);
    for (size_t i = 0; i < list.count && count < 256; i++) {
        names[count++] = list.cases[i]->name;
        known |= plx_bench_matches(pattern, list.cases[i]->name);
    }
    int result = CLI_GO_ON;
    if (!known) {
        const char *nearest = cli_nearest(pattern, names, count);
        result = nearest != NULL
                     ? cli_usage_error("bench", "bench: nothing matches '%s'; did you mean '%s'?", pattern, nearest)
                     : cli_usage_error("bench", "bench: nothing matches '%s'; 'plexus info' lists the operations", pattern);
    }
    plx_bench_list_free(cli->context, &list);
    return result;
}

/* A report that cannot be written is said before the time for it is spent. CLI_GO_ON, or the exit status. */
static int check_report(const char *path)
{
    struct stat about;
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
    int result = CLI_GO_ON;
    if (folder == NULL)
        result = cli_error("out of memory");
    else if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        result = cli_error("'%s' is a directory: name the file that the report goes to", path);
    else if (access(folder, W_OK) != 0)
        result = cli_error("no report can be written to '%s': %s", path, strerror(errno));
    free(folder);
    return result;
}

static int measure(plx_cli *cli, plx_bench_options *options, const char *html, const char *command)
{
    plx_bench_report report = {.context = cli->context};
    view show = {.cli = cli, .report = html != NULL ? &report : NULL};
    size_t wrong = 0;
    options->result = show_result;
    options->user = &show;
    if (!cli->json)
        cli_print(cli,
                  "best and median time, flops and their part of the measured peak of the implementation's level "
                  "(amx_f32: a sixth\nof the bf16 tiles' rate), bytes and their part of the measured memory rate (more "
                  "where caches hold them), which of the\ntwo limits, and the largest error\n");
    plx_status status = plx_bench_measure(cli->context, options, &wrong);
    if (status == PLX_OK) status = show.status;
    if (status == PLX_OK && html != NULL) status = plx_bench_report_write(&report, html, command);
    plx_bench_report_free(&report);
    if (status != PLX_OK) return cli_fail(cli, status);
    if (show.shown == 0)
        return cli_usage_error("bench", "bench: no implementation here is named %s; without --impl all are shown",
                               options->impl);
    if (wrong > 0) {
        cli_flush(cli);
        return cli_error("%zu result%s wrong: no speed is shown for %s", wrong, wrong == 1 ? " is" : "s are",
                         wrong == 1 ? "it" : "them");
    }
    return show.failed ? 1 : cli_finish(cli);
}

int cli_bench(plx_cli *cli, int argc, char **argv)
{
    plx_bench_options options = {0};
    const char *html = NULL;
#define SIZE_OPTION(name)                                                                                              \
    {#name, CLI_SIZE, &options.given.name, "N", "size " #name " instead of the default shapes'", 1, 1 << 24},
    const cli_option table[] = {
        {"html", CLI_TEXT, &html, "FILE", "also write a report with a roofline", 0, 0},
        {"impl", CLI_TEXT, &options.impl, "PATTERN", "only implementations of such names: ref,avx*", 0, 0},
        {"mixer", CLI_TEXT, &options.mixer, "NAME", "of the models of train and generate (the first)", 0, 0},
        {"seconds", CLI_REAL, &options.seconds, "S", "of timing each shape (1)", 0, 3600},
        {"rounds", CLI_SIZE, &options.rounds, "N", "instead of as many as fit into --seconds", 1, 200},
        PLX_BENCH_SIZES(SIZE_OPTION){0},
    };
#undef SIZE_OPTION
    int result = cli_parse(cli, "bench", table, 0, 1, argc, argv);
    if (result != CLI_GO_ON) return result;
    if (cli->argument_count > 0) {
        options.pattern = cli->arguments[0];
        result = check_pattern(cli, options.pattern);
    }
    if (result == CLI_GO_ON && html != NULL) result = check_report(html);
    if (result != CLI_GO_ON) return result;
    char *command = cli_command_text("bench", argc, argv);
    result = measure(cli, &options, html, command != NULL ? command : "plexus bench");
    free(command);
    return result;
}
