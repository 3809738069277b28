/* cli.c - options, output, errors and interruption, for all commands. */
#include "cli/cli.h"
#include "core/context.h"
#include "text/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- interruption ---- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

void cli_catch_signals(void)
{
    /* RESETHAND: the first Ctrl-C asks to stop, the second kills as usual. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away shows as a failed write */
}

void cli_forget_interruption(void)
{
    interrupted = 0;
    cli_catch_signals();
}

ssize_t cli_read_line(char **line, size_t *room)
{
    struct sigaction plain = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND}; /* no SA_RESTART: read returns */
    sigemptyset(&plain.sa_mask);
    sigaction(SIGINT, &plain, NULL);
    ssize_t length = getline(line, room, stdin);
    if (!interrupted) cli_catch_signals();
    return length;
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

/* ---- callbacks of the context ---- */

static void on_log(void *user, plx_log_level level, const char *message)
{
    plx_cli *cli = user;
    if (level == PLX_LOG_DEBUG || (cli->quiet && level < PLX_LOG_WARNING)) return;
    fprintf(stderr, "%splexus: %s%s\n", cli->live_line ? "\r\033[K" : "", level == PLX_LOG_WARNING ? "warning: " : "",
            message);
    cli->live_line = false;
}

static void on_progress(void *user, const char *what, double done, double total)
{
    plx_cli *cli = user;
    if (cli->progress) cli->progress(cli->progress_user, what, done, total);
}

static bool on_cancel(void *user)
{
    const plx_cli *cli = user;
    return interrupted || cli->output_failed;
}

/* ---- errors ---- */

/* Messages may quote a file's bytes: control characters would disturb the terminal. */
static void print_line(const char *format, va_list list)
{
    char line[2048];
    vsnprintf(line, sizeof line, format, list);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    fprintf(stderr, "plexus: %s\n", line);
}

int cli_error(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    print_line(format, list);
    va_end(list);
    return 1;
}

int cli_usage_error(const char *command, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    print_line(format, list);
    va_end(list);
    if (command)
        fprintf(stderr, "'plexus %s --help' shows its options\n", command);
    else
        fprintf(stderr, "'plexus help' lists the commands\n");
    return 2;
}

int cli_fail(plx_cli *cli, plx_status status)
{
    if (cli->live_line) fputs("\r\033[K", stderr);
    cli->live_line = false;
    if (status == PLX_CANCELLED && cli->output_failed) return cli_finish(cli);
    const char *message = plx_context_error(cli->context)->message;
    cli_error("%s", status == PLX_CANCELLED && !*message ? "interrupted"
                    : *message                           ? message
                                                         : plx_status_name(status));
    return status == PLX_CANCELLED ? 130 : 1;
}

/* ---- output ---- */

static void check_output(plx_cli *cli, bool failed)
{
    if (!failed || cli->output_failed) return;
    cli->output_failed = true;
    cli->output_closed = errno == EPIPE;
    if (!cli->output_closed) cli_error("standard output: %s", strerror(errno));
}

void cli_print(plx_cli *cli, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    check_output(cli, vprintf(format, list) < 0);
    va_end(list);
}

void cli_write(plx_cli *cli, const char *text, size_t bytes)
{
    check_output(cli, fwrite(text, 1, bytes, stdout) != bytes);
}

void cli_flush(plx_cli *cli)
{
    check_output(cli, fflush(stdout) != 0);
}

int cli_finish(plx_cli *cli)
{
    cli_flush(cli);
    return cli->output_failed && !cli->output_closed ? 1 : 0;
}

int cli_json(plx_cli *cli, json_t *object)
{
    char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!line) return cli_error("out of memory while writing JSON");
    cli_print(cli, "%s\n", line);
    free(line);
    return cli_finish(cli);
}

json_t *cli_json_text(const char *text, size_t bytes)
{
    char *clean = malloc(bytes * 3 + 1); /* one bad byte becomes three */
    if (!clean) return NULL;
    size_t used = 0;
    while (bytes > 0) {
        int length = plx_utf8_next(text, bytes);
        size_t taken = length > 0 ? (size_t)length : length < 0 ? (size_t)-length : bytes;
        memcpy(clean + used, length > 0 ? text : "\xEF\xBF\xBD", length > 0 ? taken : 3);
        used += length > 0 ? taken : 3;
        text += taken;
        bytes -= taken;
    }
    json_t *string = json_stringn(clean, used);
    free(clean);
    return string;
}

static const char *scaled(double value, double step, const char *const *units, char buffer[32])
{
    int unit = 0;
    while (fabs(value) >= step * 0.9995 && units[unit + 1]) {
        value /= step;
        unit++;
    }
    snprintf(buffer, 32, unit == 0 ? "%.0f%s" : "%.4g%s", value, units[unit]);
    return buffer;
}

const char *cli_count_text(double count, char buffer[32])
{
    static const char *const units[] = {"", " k", " M", " G", " T", " P", NULL};
    return scaled(count, 1000, units, buffer);
}

const char *cli_bytes_text(double bytes, char buffer[32])
{
    static const char *const units[] = {" B", " KB", " MB", " GB", " TB", " PB", NULL};
    return scaled(bytes, 1000, units, buffer);
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

char *cli_command_text(const char *command, int argc, char **argv)
{
    size_t bytes;
    char *text = NULL;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) return NULL;
    fprintf(out, "plexus %s", command);
    for (int i = 0; i < argc; i++) fprintf(out, strchr(argv[i], ' ') != NULL ? " '%s'" : " %s", argv[i]);
    fclose(out);
    return text;
}

/* ---- options ---- */

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

/* Least number of letters to insert, remove, replace or swap with the next. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t rows[3][64], n = strlen(b);
    if (n > 62 || strlen(a) > 62) return SIZE_MAX;
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= n; j++) last[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        now[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t least = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < least) least = last[j] + 1;
            if (now[j - 1] + 1 < least) least = now[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < least) least = before[j - 2] + 1;
            now[j] = least;
        }
        size_t *reuse = before;
        before = last;
        last = now;
        now = reuse;
    }
    return last[n];
}

const char *cli_nearest(const char *name, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    size_t least = strlen(name) / 3 + 2; /* farther is no misspelling */
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(name, names[i]);
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
    bool any = option->kind == CLI_REAL && option->least == 0 && option->most == 0;
    if (!any && number < option->least)
        return cli_usage_error(command, "%s: --%s must be at least %g, not %s", command, option->name, option->least,
                               text);
    if (option->most != 0 && number > option->most)
        return cli_usage_error(command, "%s: --%s must be at most %g, not %s", command, option->name, option->most,
                               text);
    return CLI_GO_ON;
}

static const cli_option *find_option(const cli_option *const *tables, const char *name, size_t length)
{
    for (; *tables; tables++)
        for (const cli_option *option = *tables; option->name; option++)
            if (strlen(option->name) == length && strncmp(option->name, name, length) == 0) return option;
    return NULL;
}

static int open_context(plx_cli *cli, const char *command)
{
    plx_context_options options = {.threads = (int)cli->threads,
                                   .device = cli->device,
                                   .log = on_log,
                                   .progress = on_progress,
                                   .cancel = on_cancel,
                                   .user = cli};
    plx_status status = plx_context_create(&options, &cli->context);
    if (status == PLX_ERROR_VALUE)
        return cli_usage_error(command, "%s: unknown device '%s' or level '%s'", command,
                               cli->device ? cli->device : "cpu", getenv("PLX_LEVEL") ? getenv("PLX_LEVEL") : "");
    return status == PLX_OK ? CLI_GO_ON : cli_error("cannot start: %s", plx_status_name(status));
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
    return open_context(cli, command);
}

void cli_release(plx_cli *cli)
{
    free(cli->arguments);
    cli->arguments = NULL;
}

/* ---- --weights ---- */

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
