/* convert.c - plexus convert: any model that opens, as a directory of Plexus's own or of a family's layout. */
#include "cli/cli.h"

#include <string.h>

static const struct {
    const char *name;
    plx_type type;
} types[] = {{"f32", PLX_F32}, {"bf16", PLX_BF16}, {"f16", PLX_F16}};

static int show(plx_cli *cli, const char *out, const plx_layout *layout, const plx_model_info *info)
{
    char count[32];
    const char *family = layout->family ? layout->family : "plexus";
    if (cli->json)
        return cli_json(
            cli, json_pack("{s:s,s:s,s:I}", "out", out, "family", family, "parameters", (json_int_t)info->parameters));
    cli_print(cli, "%s parameters in the layout of %s, written to %s\n",
              cli_count_text((double)info->parameters, count), family, out);
    return cli_finish(cli);
}

static int convert(plx_cli *cli, const char *out, const plx_layout *layout)
{
    plx_model *model = NULL;
    plx_model_info info;
    plx_model_options options = {.keep_stored_types = true};
    plx_status status = plx_model_load(cli->context, cli->arguments[0], &options, &model);
    if (status == PLX_OK) status = plx_model_describe(model, &info);
    if (status == PLX_OK) status = plx_model_save_as(model, out, layout);
    plx_model_free(model);
    return status == PLX_OK ? show(cli, out, layout, &info) : cli_fail(cli, status);
}

int cli_convert(plx_cli *cli, int argc, char **argv)
{
    const char *out = NULL, *type = NULL;
    plx_layout layout = {0};
    const cli_option table[] = {
        {"out", CLI_TEXT, &out, "DIR", "directory of the new model", 0, 0},
        {"family", CLI_TEXT, &layout.family, "NAME",
         "llama, qwen2 or gpt_neox: the layout that other programs open (Plexus's own)", 0, 0},
        {"type", CLI_TEXT, &type, "TYPE", "f32, bf16 or f16: of all weights (as stored; packed ones as f32)", 0, 0},
        {0},
    };
    int go_on = cli_parse(cli, "convert", table, 1, 1, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    if (!out) return cli_usage_error("convert", "convert: --out DIR is missing");
    if (layout.family && strcmp(layout.family, "plexus") == 0) layout.family = NULL;
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, type) == 0) {
            layout.convert = true;
            layout.type = types[i].type;
        }
    if (type && !layout.convert) return cli_usage_error("convert", "convert: --type is f32, bf16 or f16, not %s", type);
    return convert(cli, out, &layout);
}
