/* cli.c - interruption, the context, errors and output, for all commands. */
#include "cli/live.h"
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

/* ---- the context ---- */

static void on_log(void *user, plx_log_level level, const char *message)
{
    plx_cli *cli = user;
    if (level == PLX_LOG_DEBUG || (cli->quiet && level < PLX_LOG_WARNING)) return;
    cli_live_wipe(cli);
    fprintf(stderr, "plexus: %s%s\n", level == PLX_LOG_WARNING ? "warning: " : "", message);
}

static bool on_cancel(void *user)
{
    const plx_cli *cli = user;
    return interrupted || cli->output_failed;
}

int cli_open_context(plx_cli *cli, const char *command)
{
    plx_context_options options = {.threads = (int)cli->threads,
                                   .device = cli->device,
                                   .log = on_log,
                                   .progress = cli_live_progress,
                                   .cancel = on_cancel,
                                   .user = cli};
    plx_status status = plx_context_create(&options, &cli->context);
    if (status == PLX_ERROR_VALUE)
        return cli->device != NULL && strcmp(cli->device, "cpu") != 0 && strcmp(cli->device, "fenced") != 0
                   ? cli_usage_error(command, "%s: --device is cpu or fenced, not '%.40s'", command, cli->device)
                   : cli_usage_error(command,
                                     "%s: the environment variable PLX_LEVEL is portable, avx2, avx512, vnni, bf16 "
                                     "or amx, not '%.40s'",
                                     command, getenv("PLX_LEVEL"));
    return status == PLX_OK ? CLI_GO_ON : cli_error("cannot start: %s", plx_status_name(status));
}

void cli_release(plx_cli *cli)
{
    free(cli->arguments);
    cli->arguments = NULL;
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
    cli_live_wipe(cli);
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
    cli_live_wipe(cli);
    va_start(list, format);
    check_output(cli, vprintf(format, list) < 0);
    va_end(list);
}

void cli_write(plx_cli *cli, const char *text, size_t bytes)
{
    cli_live_wipe(cli);
    check_output(cli, fwrite(text, 1, bytes, stdout) != bytes);
}

void cli_flush(plx_cli *cli)
{
    check_output(cli, fflush(stdout) != 0);
}

int cli_finish(plx_cli *cli)
{
    cli_live_wipe(cli);
    cli_flush(cli);
    return cli->output_failed && !cli->output_closed ? 1 : 0;
}

int cli_json(plx_cli *cli, json_t *object)
{
    if (!object)
        return cli_error("the result cannot be written as JSON: it holds a number that is not finite or a text that is not "
                         "UTF-8, or memory is short");
    char *line = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!line) return cli_error("out of memory while writing JSON");
    cli_print(cli, "%s\n", line);
    free(line);
    return cli_finish(cli);
}

json_t *cli_json_number(double value)
{
    return isfinite(value) && value >= 0 ? json_real(value) : json_null();
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

/* A word as the shell takes it back. */
static void put_word(FILE *out, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') {
        fputs(word, out);
        return;
    }
    fputc('\'', out);
    for (; *word != '\0'; word++) {
        if (*word == '\'') fputs("'\\''", out);
        else fputc(*word, out);
    }
    fputc('\'', out);
}

/* --resume stands first: behind a "--" it would be no option. */
static void put_command(FILE *out, const char *command, bool add_resume, int argc, char **argv)
{
    fprintf(out, "plexus %s%s", command, add_resume ? " --resume" : "");
    for (int i = 0; i < argc; i++) {
        fputc(' ', out);
        put_word(out, argv[i]);
    }
}

char *cli_command_text(const char *command, int argc, char **argv)
{
    size_t bytes;
    char *text = NULL;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) return NULL;
    put_command(out, command, false, argc, argv);
    fclose(out);
    return text;
}

void cli_say_how_to_go_on(const plx_cli *cli, const char *command, bool resumed, int argc, char **argv)
{
    if (cli->quiet) return;
    fputs("to go on: ", stderr);
    put_command(stderr, command, !resumed, argc, argv);
    fputs("\n", stderr);
}
