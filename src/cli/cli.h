/* cli.h - what the commands of the program share: options, output, errors, interruption.
 *
 * A command is one file with one function `int cli_NAME(plx_cli *cli, int argc, char **argv)` that returns the exit
 * status, and one line of CLI_COMMANDS. The pattern of all of them:
 *
 *     int cli_eval(plx_cli *cli, int argc, char **argv)
 *     {
 *         const char *text = NULL;
 *         const cli_option options[] = {
 *             {"text", CLI_TEXT, &text, "FILE", "the text to score"},
 *             {0},
 *         };
 *         int go_on = cli_parse(cli, "eval", options, 1, 1, argc, argv);     (one argument: MODEL)
 *         if (go_on != CLI_GO_ON) return go_on;                              (--help, or wrong usage)
 *         ... cli->context is open, cli->arguments[0] is MODEL ...
 *         if (status != PLX_OK) return cli_fail(cli, status);
 *         return cli_json(cli, object);                                      (or text by cli_print, then cli_finish)
 *     }
 *
 * Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. With --json stdout carries one JSON object a line and
 * nothing else; logs and errors go to stderr. */
#ifndef PLX_CLI_CLI_H
#define PLX_CLI_CLI_H

#include "plexus.h"

#include <jansson.h>
#include <stdio.h>
#include <sys/types.h>

/* name, what stands after it on the command line, one line of help */
#define CLI_COMMANDS(X)                                                                                      \
    X(train, "RECIPE", "train a model from scratch, or go on with --resume")                                 \
    X(generate, "MODEL", "write text with a model")                                                          \
    X(chat, "MODEL", "talk with a model that was tuned for it")                                               \
    X(eval, "MODEL", "score a text: loss, perplexity, bits per byte")                                        \
    X(compare, "RECIPE...", "train several recipes on the same data; table and report.html")                \
    X(sft, "MODEL", "fine-tune a model on questions and answers")                                            \
    X(retrofit, "MODEL", "replace layers of a model by layers of other kinds")                               \
    X(convert, "MODEL", "write a model in Plexus's layout, or in one that other programs open")              \
    X(plan, "RECIPE|MODEL", "parameters, flops and memory, without running anything")                        \
    X(bench, "[PATTERN]", "speed of every operation and implementation, beside its error")                   \
    X(data, "tokenizer FILE...", "make a vocabulary from text")                                              \
    X(info, "", "this machine, its measured speed, and the kernels in use")

/* Something slow that the library tells the progress of, as far as it came. */
typedef struct cli_work {
    char what[64];
    double first, done, total; /* first: what was done when it began to be told of */
    double begun, drawn;       /* seconds; drawn: when it was last shown */
} cli_work;

typedef struct plx_cli {
    plx_context *context;   /* open after cli_parse; closed by main */
    bool json, quiet;
    size_t threads;         /* 0: all */
    const char *device;
    const char **arguments; /* what is left beside the options */
    int argument_count;
    bool live_line;         /* an unfinished progress line is on the terminal: whatever is written wipes it first */
    cli_work work;
    bool output_failed;     /* stdout took no more; no need to go on */
    bool output_closed;     /* because its reader went away, which is no error */
} plx_cli;

#define CLI_DECLARE(name, arguments, help) int cli_##name(plx_cli *cli, int argc, char **argv);
CLI_COMMANDS(CLI_DECLARE)
#undef CLI_DECLARE

typedef enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_TEXTS, CLI_SIZE, CLI_REAL } cli_kind;

/* For CLI_TEXTS, an option that may be given again and again. Items are owned by argv, the array by cli_texts_free. */
typedef struct cli_texts { const char **items; size_t count; } cli_texts;
void cli_texts_free(cli_texts *texts);

/* A table of these ends with {0}. */
typedef struct cli_option {
    const char *name;       /* without the dashes */
    cli_kind kind;
    void *value;            /* bool, const char *, cli_texts, size_t or double; keeps its value when not given */
    const char *argument;   /* "N"; NULL for a flag */
    const char *help;
    double least, most;     /* CLI_SIZE and CLI_REAL; most 0: no limit (CLI_REAL with both 0: any finite number) */
} cli_option;

#define CLI_GO_ON (-1)
/* Reads the arguments after the command's name: its own options and the shared ones in any order, as --name VALUE or
 * --name=VALUE; "--" ends options. Checks the number of other arguments (most < 0: any), opens cli->context. Returns
 * CLI_GO_ON, or the exit status with everything said (help printed, or one line about the wrong usage). */
int cli_parse(plx_cli *cli, const char *command, const cli_option *options, int least, int most, int argc, char **argv);

/* --weights of the commands that run a model; NULL: as stored. False: no such way. */
#define CLI_WEIGHTS_OPTION(variable)             \
    {"weights", CLI_TEXT, &(variable), "FORM",   \
     "how matrices are held: stored (as in the file), q8_0, q4_0, bf16 or f32 (stored)", 0, 0}
#define CLI_WEIGHTS_WRONG "--weights is stored, q8_0, q4_0, bf16 or f32, not '%.40s'"
bool cli_weights(const char *name, plx_model_options *options);

/* "plexus: MESSAGE" for an error of the library (the context's last); returns the exit status. */
int cli_fail(plx_cli *cli, plx_status status);
/* The same for an error of the command's own; returns 1. */
int cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Wrong usage: the line, and where help is; returns 2. */
int cli_usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Human output to stdout; remembers when stdout takes no more (cli->output_failed). */
void cli_print(plx_cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_write(plx_cli *cli, const char *text, size_t bytes);
void cli_flush(plx_cli *cli);
/* One line of JSON; takes the reference over. NULL (what jansson could not hold) is an error. Returns 0 or 1. */
int cli_json(plx_cli *cli, json_t *object);
/* A number as JSON; null where it is below 0, which stands for "does not apply", or not finite. */
json_t *cli_json_number(double value);
/* Bytes as a JSON string: what is not UTF-8 becomes U+FFFD. NULL when memory is short. */
json_t *cli_json_text(const char *text, size_t bytes);
/* The exit status at the end of output: 0, or 1 with a line on stderr when stdout took no more (a closed pipe is no
 * error). */
int cli_finish(plx_cli *cli);

/* "1.23 M", "512 B", ...: into the caller's buffer, which is returned. */
const char *cli_count_text(double count, char buffer[32]);
const char *cli_bytes_text(double bytes, char buffer[32]);

/* The value of --state, NULL for none given: 0, or the exit status of a name that there is not, with that said. */
int cli_state_form(const char *command, const char *name, plx_state_form *form);
/* Its row in a table of options; `name` is a const char *. */
#define CLI_STATE_OPTION(name) \
    {"state", CLI_TEXT, &(name), "FORM", "keys and values of earlier tokens as f32, f16 or q8 (f32)", 0, 0}

/* "plexus COMMAND ..." so that a shell takes it back, for reports; freed with free, NULL when memory is short. */
char *cli_command_text(const char *command, int argc, char **argv);
/* After an interruption: the command with --resume, which `resumed` says is among the arguments already. Nothing when
 * quiet. */
void cli_say_how_to_go_on(const plx_cli *cli, const char *command, bool resumed, int argc, char **argv);

/* Whether SIGINT or SIGTERM came. The context's cancel callback asks this (and whether stdout is gone). A second one
 * kills. */
bool cli_interrupted(void);

/* After an answer was stopped: as if no signal had come. */
void cli_forget_interruption(void);
/* getline from stdin, which a signal ends as the end of the input does. */
ssize_t cli_read_line(char **line, size_t *room);

/* For cli_parse: CLI_GO_ON, or the exit status with everything said. */
int cli_open_context(plx_cli *cli, const char *command);

/* For main.c. */
void cli_catch_signals(void);
void cli_print_shared_options(FILE *out);
/* The name most like this one, or NULL when none is near. */
const char *cli_nearest(const char *name, const char *const *names, size_t count);
void cli_release(plx_cli *cli);

#endif
