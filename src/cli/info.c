/* info.c - plexus info: this machine, which implementation each operation takes on it, and why no faster one. */
#include "cli/cli.h"

typedef struct listing {
    plx_cli *cli;
    json_t *kernels, *passed_over;
    bool failed;
} listing;

static void add_kernel(void *user, const plx_kernel_use *use)
{
    listing *list = user;
    if (json_object_set_new(list->kernels, use->op, json_string(use->kernel)) != 0) list->failed = true;
    if (*use->passed_over && json_object_set_new(list->passed_over, use->op, json_string(use->passed_over)) != 0)
        list->failed = true;
}

static void print_kernel(void *user, const plx_kernel_use *use)
{
    listing *list = user;
    if (*use->passed_over) cli_print(list->cli, "  %-28s %-9s not %s\n", use->op, use->kernel, use->passed_over);
    else cli_print(list->cli, "  %-28s %s\n", use->op, use->kernel);
}

static int show_json(plx_cli *cli, const plx_machine *machine)
{
    listing list = {cli, json_object(), json_object(), false};
    plx_status status = plx_kernels_visit(cli->context, add_kernel, &list);
    if (list.failed || status != PLX_OK) {
        json_decref(list.kernels);
        json_decref(list.passed_over);
        return status != PLX_OK ? cli_fail(cli, status) : cli_json(cli, NULL);
    }
    return cli_json(cli,
                    json_pack("{s:s,s:s,s:s,s:i,s:f,s:f,s:f,s:I,s:o,s:o}", "version", PLX_VERSION, "cpu", machine->cpu,
                              "level", machine->level, "threads", machine->threads, "peak_gflops", machine->peak_gflops,
                              "read_gbs", machine->read_gbs, "tile_gflops", machine->tile_gflops, "memory_bytes",
                              (json_int_t)machine->memory_bytes, "kernels", list.kernels, "passed_over", list.passed_over));
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
        cli_print(cli, "bf16 peak     %.0f GFLOP/s measured, operands in L1\n", machine->tile_gflops);
    cli_print(cli, "memory read   %.1f GB/s measured\n", machine->read_gbs);
    cli_print(cli, "memory free   %s\n\n", cli_bytes_text((double)machine->memory_bytes, memory));
    cli_print(cli, "operation, the implementation that it takes here, and why none of the faster ones:\n");
    listing list = {cli, NULL, NULL, false};
    plx_status status = plx_kernels_visit(cli->context, print_kernel, &list);
    return status != PLX_OK ? cli_fail(cli, status) : cli_finish(cli);
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
