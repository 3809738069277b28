/* convert.c - plexus convert: any model that opens, as a directory of Plexus's own or of a family's layout, with an
 * adapter put on it or merged; or its adapter alone. */
#include "cli/cli.h"

#include <string.h>

static const struct {
    const char *name;
    plx_type type;
} types[] = {{"f32", PLX_F32}, {"bf16", PLX_BF16}, {"f16", PLX_F16}};

typedef struct choices {
    const char *out, *base;
    plx_layout layout;
    plx_model_options load;
    bool merge, adapter_only;
} choices;

static int show(plx_cli *cli, const choices *made, const plx_model_info *info)
{
    char count[32];
    const char *family = made->adapter_only ? "peft" : made->layout.family ? made->layout.family : "plexus";
    if (cli->json)
        return cli_json(cli, json_pack("{s:o,s:s,s:I}", "out", cli_json_text(made->out, strlen(made->out)), "family", family, "parameters",
                                       (json_int_t)info->parameters));
    if (made->adapter_only)
        cli_print(cli, "the adapter, in the layout of %s, written to %s\n", family, made->out);
    else
        cli_print(cli, "%s parameters in the layout of %s, written to %s\n",
                  cli_count_text((double)info->parameters, count), family, made->out);
    return cli_finish(cli);
}

static int convert(plx_cli *cli, const choices *made)
{
    plx_model *model = NULL, *merged = NULL;
    plx_model_info info;
    plx_status status = plx_model_load(cli->context, cli->arguments[0], &made->load, &model);
    if (status == PLX_OK && made->merge) {
        status = plx_model_merge(model, &merged);
        plx_model_free(model);
        model = merged;
    }
    if (status == PLX_OK) status = plx_model_describe(model, &info);
    if (status == PLX_OK)
        status = made->adapter_only ? plx_model_save_adapter(model, made->out, made->layout.family, made->base)
                                    : plx_model_save_as(model, made->out, &made->layout);
    plx_model_free(model);
    return status == PLX_OK ? show(cli, made, &info) : cli_fail(cli, status);
}

int cli_convert(plx_cli *cli, int argc, char **argv)
{
    const char *type = NULL;
    choices made = {0};
    plx_layout *layout = &made.layout;
    const cli_option table[] = {
        {"out", CLI_TEXT, &made.out, "DIR", "directory of the new model", 0, 0},
        {"family", CLI_TEXT, &layout->family, "NAME",
         "llama, qwen2 or gpt_neox: the layout that other programs open (Plexus's own)", 0, 0},
        {"type", CLI_TEXT, &type, "TYPE", "f32, bf16 or f16: of all weights (as stored; packed ones as f32)", 0, 0},
        {"adapter", CLI_TEXT, &made.load.adapter, "DIR", "put this adapter (of the peft package) on the model", 0, 0},
        {"merge", CLI_FLAG, &made.merge, NULL, "add the adapter into the weights; they become f32, or TYPE", 0, 0},
        {"adapter-only", CLI_FLAG, &made.adapter_only, NULL,
         "write the model's adapter alone, in the layout of the peft package", 0, 0},
        {"base", CLI_TEXT, &made.base, "NAME", "with --adapter-only: the model that its config names as its base", 0,
         0},
        {0},
    };
    int go_on = cli_parse(cli, "convert", table, 1, 1, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    if (!made.out) return cli_usage_error("convert", "convert: --out DIR is missing");
    if (layout->family && strcmp(layout->family, "plexus") == 0) layout->family = NULL;
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, type) == 0) {
            layout->convert = true;
            layout->type = types[i].type;
        }
    if (type && !layout->convert)
        return cli_usage_error("convert", "convert: --type is f32, bf16 or f16, not %s", type);
    if (made.adapter_only && (made.merge || type))
        return cli_usage_error("convert", "convert: --adapter-only goes with neither --merge nor --type");
    if (made.base && !made.adapter_only) return cli_usage_error("convert", "convert: --base needs --adapter-only");
    made.load.keep_stored_types = !made.merge; /* merged weights are rounded once, when they are written */
    return convert(cli, &made);
}
