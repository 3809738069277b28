/* options.c - options of commands: their tables, reading them, help, and what is said of a wrong one. */
#include "cli/cli.h"
#include "core/distance.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *argument, *help;
} shared_help[] = {
    {"json", NULL, "one JSON object a line on stdout, and nothing else there"},
    {"threads", "N", "processors to use (all); results do not depend on it"},
    {"quiet", NULL, "only warnings and errors on stderr"},
    {"device", "NAME", "cpu, or fenced for tests (cpu)"},
    {"help", NULL, "this text"},
};

static void print_option(FILE *out, const char *name, const char *argument, const char *help)
{
    char left[64];
    snprintf(left, sizeof left, "--%s%s%s", name, argument ? " " : "", argument ? argument : "");
    fprintf(out, "  %-26s %s\n", left, help);
}

void cli_print_shared_options(FILE *out)
{
    for (size_t i = 0; i < sizeof shared_help / sizeof shared_help[0]; i++)
        print_option(out, shared_help[i].name, shared_help[i].argument, shared_help[i].help);
}

typedef struct command_row {
    const char *name, *arguments, *help;
} command_row;

static const command_row *find_row(const char *command)
{
    static const command_row rows[] = {
#define HELP_ROW(name, arguments, help) {#name, arguments, help},
        CLI_COMMANDS(HELP_ROW)
#undef HELP_ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].name, command) == 0) return &rows[i];
    return NULL;
}

static void print_command_help(const char *command, const cli_option *options)
{
    const command_row *row = find_row(command);
    if (row != NULL)
        printf("usage: plexus %s %s%s[OPTION]...\n%s\n\n", command, row->arguments, *row->arguments ? " " : "", row->help);
    for (; options->name; options++) print_option(stdout, options->name, options->argument, options->help);
    cli_print_shared_options(stdout);
}

const char *cli_nearest(const char *name, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    int least = (int)(strlen(name) / 3) + 2; /* farther is no misspelling */
    for (size_t i = 0; i < count; i++) {
        int distance = plx_edit_distance(name, names[i]);
        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

static int unknown_option(const char *command, const cli_option *const *tables, const char *word)
{
    char given[64]; /* without =VALUE */
    snprintf(given, sizeof given, "%.*s", (int)strcspn(word, "="), word);
    const char *names[96];
    size_t count = 0;
    for (; *tables; tables++)
        for (const cli_option *option = *tables; option->name && count < 95; option++) names[count++] = option->name;
    names[count++] = "help";
    const char *nearest = cli_nearest(given, names, count);
    if (nearest)
        return cli_usage_error(command, "%s: unknown option '--%s'; did you mean '--%s'?", command, given, nearest);
    return cli_usage_error(command, "%s: unknown option '--%s'", command, given);
}

static bool read_size(const char *text, size_t *value)
{
    if (!isdigit((unsigned char)*text)) return false;
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || *end || number > SIZE_MAX) return false;
    *value = (size_t)number;
    return true;
}

static bool read_real(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == 0 && isfinite(*value);
}

static bool add_text(cli_texts *texts, const char *text)
{
    const char **items = realloc(texts->items, (texts->count + 1) * sizeof *items);
    if (!items) return false;
    texts->items = items;
    texts->items[texts->count++] = text;
    return true;
}

void cli_texts_free(cli_texts *texts)
{
    free(texts->items);
    *texts = (cli_texts){0};
}

/* Returns CLI_GO_ON or an exit status. */
static int store(const char *command, const cli_option *option, const char *text)
{
    double number;
    size_t whole;
    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)option->value = true;
        return CLI_GO_ON;
    case CLI_TEXT:
        *(const char **)option->value = text;
        return CLI_GO_ON;
    case CLI_TEXTS:
        return add_text(option->value, text) ? CLI_GO_ON : cli_error("out of memory");
    case CLI_SIZE:
        if (!read_size(text, &whole))
            return cli_usage_error(command, "%s: --%s wants a whole number, not '%s'", command, option->name, text);
        number = (double)whole;
        *(size_t *)option->value = whole;
        break;
    default:
        if (!read_real(text, &number))
            return cli_usage_error(command, "%s: --%s wants a number, not '%s'", command, option->name, text);
        *(double *)option->value = number;
        break;
    }
    const int digits = option->kind == CLI_SIZE ? 15 : 6;
    bool any = option->kind == CLI_REAL && option->least == 0 && option->most == 0;
    if (!any && number < option->least)
        return cli_usage_error(command, "%s: --%s must be at least %.*g, not %s", command, option->name, digits,
                               option->least, text);
    if (option->most != 0 && number > option->most)
        return cli_usage_error(command, "%s: --%s must be at most %.*g, not %s", command, option->name, digits,
                               option->most, text);
    return CLI_GO_ON;
}

static const cli_option *find_option(const cli_option *const *tables, const char *name, size_t length)
{
    for (; *tables; tables++)
        for (const cli_option *option = *tables; option->name; option++)
            if (strlen(option->name) == length && strncmp(option->name, name, length) == 0) return option;
    return NULL;
}

int cli_parse(plx_cli *cli, const char *command, const cli_option *options, int least, int most, int argc, char **argv)
{
    const cli_option shared[] = {
        {"json", CLI_FLAG, &cli->json, NULL, NULL, 0, 0},
        {"quiet", CLI_FLAG, &cli->quiet, NULL, NULL, 0, 0},
        {"threads", CLI_SIZE, &cli->threads, "N", NULL, 1, 1024},
        {"device", CLI_TEXT, &cli->device, "NAME", NULL, 0, 0},
        {0},
    };
    const cli_option *const tables[] = {options, shared, NULL};
    cli->arguments = calloc((size_t)argc + 1, sizeof *cli->arguments);
    if (!cli->arguments) return cli_error("out of memory");
    bool only_arguments = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (only_arguments || word[0] != '-' || word[1] == 0) {
            cli->arguments[cli->argument_count++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_arguments = true;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            print_command_help(command, options);
            return cli_finish(cli);
        }
        if (word[1] != '-')
            return cli_usage_error(command, "%s: unknown option '%s'; options begin with --", command, word);
        const char *name = word + 2, *value = strchr(name, '=');
        const cli_option *option = find_option(tables, name, value ? (size_t)(value - name) : strlen(name));
        if (!option) return unknown_option(command, tables, name);
        if (value) value++;
        if (option->kind == CLI_FLAG && value)
            return cli_usage_error(command, "%s: --%s takes no value", command, option->name);
        if (option->kind != CLI_FLAG && !value) {
            if (i + 1 == argc) return cli_usage_error(command, "%s: --%s wants a value", command, option->name);
            value = argv[++i];
        }
        int go_on = store(command, option, value);
        if (go_on != CLI_GO_ON) return go_on;
    }
    if (cli->argument_count < least) {
        const command_row *row = find_row(command);
        return cli_usage_error(command, "%s: too few arguments; it is plexus %s %s", command, command,
                               row != NULL ? row->arguments : "");
    }
    if (most >= 0 && cli->argument_count > most)
        return cli_usage_error(command, "%s: unexpected argument '%s'", command, cli->arguments[most]);
    return cli_open_context(cli, command);
}

/* ---- values that several commands take ---- */

bool cli_weights(const char *name, plx_model_options *options)
{
    static const struct {
        const char *name;
        plx_weights weights;
    } ways[] = {{"stored", PLX_WEIGHTS_STORED}, {"q8_0", PLX_WEIGHTS_Q8_0}, {"q4_0", PLX_WEIGHTS_Q4_0},
                {"bf16", PLX_WEIGHTS_BF16},     {"f32", PLX_WEIGHTS_TYPE}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (name == NULL || strcmp(name, ways[i].name) == 0) {
            options->weights = ways[i].weights;
            return true;
        }
    return false;
}

int cli_state_form(const char *command, const char *name, plx_state_form *form)
{
    static const char *const names[] = {[PLX_STATE_WHOLE] = "f32", [PLX_STATE_F16] = "f16", [PLX_STATE_Q8] = "q8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (name == NULL || strcmp(name, names[i]) == 0) {
            *form = (plx_state_form)i;
            return 0;
        }
    return cli_usage_error(command, "%s: --state is f32, f16 or q8, not '%.40s'", command, name);
}
