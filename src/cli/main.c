/* main.c - the program: finds the command by its name and runs it. */
#include "cli/cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* OpenBLAS chooses its kernels when it is loaded, before main: where PLX_LEVEL asks for a lower level than the
 * processor's, it is told to take the like. */
static bool set_blas_level(void)
{
    static const char *const core[][2] = {{"portable", "Nehalem"}, {"avx2", "Haswell"}};
    const char *level = getenv("PLX_LEVEL");
    for (size_t i = 0; level != NULL && i < sizeof core / sizeof core[0]; i++)
        if (strcmp(level, core[i][0]) == 0 && getenv("OPENBLAS_CORETYPE") == NULL)
            return setenv("OPENBLAS_CORETYPE", core[i][1], 0) == 0;
    return false;
}

/* Threads that wait spin for a moment and then sleep: by default they spin for milliseconds, which on a machine with
 * anything else to do costs most of the speed (two runs on two cores: several times slower). The OpenMP runtime reads
 * this when it is loaded. What the user has set is left alone. */
static bool set_waiting(void)
{
    if (getenv("OMP_WAIT_POLICY") != NULL || getenv("GOMP_SPINCOUNT") != NULL) return false;
    return setenv("GOMP_SPINCOUNT", "20000", 0) == 0;
}

/* Libraries read their environment before main: when it must change, the program starts itself once more. */
static void prepare_environment(char **argv)
{
    bool waiting = set_waiting(), level = set_blas_level();
    if (waiting || level) execv("/proc/self/exe", argv);
}

/* A standard stream that comes closed must not be the next file that is opened: what is printed would land in that.
 * Writing to what is put there fails, as it did. */
static void hold_standard_streams(void)
{
    int file;
    do file = open("/dev/null", O_RDONLY);
    while (file >= 0 && file <= STDERR_FILENO);
    if (file >= 0) close(file);
}

static const struct command {
    const char *name, *arguments, *help;
    int (*run)(plx_cli *cli, int argc, char **argv);
} commands[] = {
#define COMMAND_ROW(name, arguments, help) {#name, arguments, help, cli_##name},
    CLI_COMMANDS(COMMAND_ROW)
#undef COMMAND_ROW
};
static const size_t command_count = sizeof commands / sizeof commands[0];

static void print_help(FILE *out)
{
    fprintf(out, "plexus %s: language models with attention, nexus, simplicial and grassmann mixers\n\n", PLX_VERSION);
    fprintf(out, "usage: plexus COMMAND [OPTION]... [ARGUMENT]...\n\ncommands:\n");
    for (size_t i = 0; i < command_count; i++)
        fprintf(out, "  %-9s %-13s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    fprintf(out, "\n'plexus COMMAND --help' describes a command and its options; all share\n");
    cli_print_shared_options(out);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < command_count; i++)
        if (strcmp(name, commands[i].name) == 0) return &commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[sizeof commands / sizeof commands[0]];
    for (size_t i = 0; i < command_count; i++) names[i] = commands[i].name;
    const char *nearest = cli_nearest(name, names, command_count);
    if (nearest) return cli_usage_error(NULL, "unknown command '%s'; did you mean '%s'?", name, nearest);
    return cli_usage_error(NULL, "unknown command '%s'", name);
}

static bool is_any(const char *text, const char *a, const char *b, const char *c)
{
    return strcmp(text, a) == 0 || strcmp(text, b) == 0 || strcmp(text, c) == 0;
}

/* The command is the first argument that is not a shared option, so that `plexus --json eval ...` works too; the
 * options before it are handed on behind it. Returns its index, or argc. */
static int command_index(int argc, char **argv)
{
    int i = 1;
    while (i < argc && argv[i][0] == '-' && !is_any(argv[i], "--help", "-h", "--version"))
        i += strcmp(argv[i], "--threads") == 0 || strcmp(argv[i], "--device") == 0 ? 2 : 1;
    return i < argc ? i : argc;
}

int main(int argc, char **argv)
{
    prepare_environment(argv);
    hold_standard_streams();
    cli_catch_signals();
    plx_cli cli = {0};
    int at = command_index(argc, argv);
    if (at == argc) {
        if (argc > 1) return cli_usage_error(NULL, "no command given");
        print_help(stderr);
        return 2;
    }
    const char *name = argv[at];
    bool help = is_any(name, "help", "--help", "-h");
    if (strcmp(name, "--version") == 0) cli_print(&cli, "plexus %s\n", PLX_VERSION);
    if (help && at + 1 == argc) print_help(stdout);
    if (strcmp(name, "--version") == 0 || (help && at + 1 == argc)) return cli_finish(&cli);

    const struct command *command = find_command(help ? argv[at + 1] : name);
    if (!command) return unknown_command(help ? argv[at + 1] : name);
    char *ask[] = {"--help"};
    for (int i = at; i > 1; i--) argv[i] = argv[i - 1]; /* argv[2..] are now the arguments without the command */
    int status = help ? command->run(&cli, 1, ask) : command->run(&cli, argc - 2, argv + 2);
    plx_context_free(cli.context);
    cli_release(&cli);
    return status;
}
