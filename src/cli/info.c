/* info.c - plexus info: this machine, and which implementation each operation takes on it. */
#include "cli/cli.h"

typedef struct listing {
    plx_cli *cli;
    json_t *kernels;
    bool failed;
} listing;

static void add_kernel(void *user, const char *op, const char *kernel)
{
    listing *list = user;
    if (json_object_set_new(list->kernels, op, json_string(kernel)) != 0) list->failed = true;
}

static void print_kernel(void *user, const char *op, const char *kernel)
{
    listing *list = user;
    cli_print(list->cli, "  %-28s %s\n", op, kernel);
}

static int show_json(plx_cli *cli, const plx_machine *machine)
{
    listing list = {cli, json_object(), false};
    if (!list.kernels) return cli_json(cli, NULL);
    plx_kernels_visit(cli->context, add_kernel, &list);
    if (list.failed) {
        json_decref(list.kernels);
        return cli_json(cli, NULL);
    }
    return cli_json(cli,
                    json_pack("{s:s,s:s,s:s,s:i,s:f,s:f,s:f,s:I,s:o}", "version", PLX_VERSION, "cpu", machine->cpu,
                              "level", machine->level, "threads", machine->threads, "peak_gflops", machine->peak_gflops,
                              "read_gbs", machine->read_gbs, "tile_gflops", machine->tile_gflops, "memory_bytes",
                              (json_int_t)machine->memory_bytes, "kernels", list.kernels));
}

static int show(plx_cli *cli, const plx_machine *machine)
{
    char memory[32];
    cli_print(cli, "plexus %s\n\n", PLX_VERSION);
    cli_print(cli, "processor     %s\n", machine->cpu);
    cli_print(cli, "level         %s\n", machine->level);
    cli_print(cli, "threads       %d\n", machine->threads);
    cli_print(cli, "f32 peak      %.0f GFLOP/s measured\n", machine->peak_gflops);
    if (machine->tile_gflops > 0)
        cli_print(cli, "bf16 tiles    %.0f GFLOP/s measured, operands in L1\n", machine->tile_gflops);
    cli_print(cli, "memory read   %.1f GB/s measured\n", machine->read_gbs);
    cli_print(cli, "memory free   %s\n\n", cli_bytes_text((double)machine->memory_bytes, memory));
    cli_print(cli, "operation and the implementation that it takes here:\n");
    listing list = {cli, NULL, false};
    plx_kernels_visit(cli->context, print_kernel, &list);
    return cli_finish(cli);
}

int cli_info(plx_cli *cli, int argc, char **argv)
{
    const cli_option table[] = {{0}};
    int go_on = cli_parse(cli, "info", table, 0, 0, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    plx_machine machine;
    plx_status status = plx_machine_measure(cli->context, &machine);
    if (status != PLX_OK) return cli_fail(cli, status);
    return cli->json ? show_json(cli, &machine) : show(cli, &machine);
}
