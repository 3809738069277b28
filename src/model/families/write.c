/* write.c - a model's config as a family says it. */
#include "model/families/family.h"

#include <stdlib.h>
#include <string.h>

static json_t *say(const plx_family *family, const plx_config *config, const json_t *ours)
{
    json_t *made =
        json_pack("{s:s, s:[s], s:s, s:I}", "model_type", family->name, "architectures", family->architecture,
                  "hidden_act", family->activation, "num_hidden_layers", (json_int_t)config->layer_count);
    static const char *const shared[] = {"rope_theta", "rope_scaling", "bos_token_id", "eos_token_id"};
    int failed = made == NULL;
    for (const plx_family_key *key = family->keys; key->theirs != NULL && !failed; key++)
        failed = json_object_set(made, key->theirs, json_object_get(ours, key->ours));
    for (size_t i = 0; i < sizeof shared / sizeof *shared && !failed; i++)
        failed = json_object_set(made, shared[i], json_object_get(ours, shared[i]));
    if (!failed && family->write != NULL) failed = family->write(ours, made);
    if (failed) json_decref(made);
    return failed ? NULL : made;
}

/* A config.json of ours, every key resolved, from one of theirs. */
static plx_status read_back(plx_context *context, const plx_family *family, const json_t *theirs, json_t **ours)
{
    char *text = json_dumps(theirs, JSON_REAL_PRECISION(17));
    plx_node *root = NULL;
    plx_config config;
    plx_status status = text != NULL ? plx_node_parse_json(context, "config.json", text, strlen(text), &root)
                                     : plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the model's config");
    free(text);
    *ours = NULL;
    if (status == PLX_OK) status = plx_family_parse(context, family, root, &config);
    plx_node_free(context, root);
    PLX_TRY(status);
    *ours = plx_config_describe(&config);
    plx_config_release(context, &config);
    return *ours != NULL ? PLX_OK : plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the model's config");
}

plx_status plx_family_write_config(plx_context *context, const plx_family *family, const plx_config *config,
                                   json_t **made)
{
    /* Of no meaning for what is computed. */
    static const char *const apart[] = {"init", "tokenizer"};
    json_t *ours = plx_config_describe(config), *again = NULL, *theirs = NULL;
    plx_status status = PLX_OK;
    const char *key;
    json_t *value;
    *made = NULL;
    for (size_t i = 0; i < config->layer_count && status == PLX_OK; i++)
        if (strcmp(config->layers[i].mixer->name, "attention") != 0)
            status = plx_fail(context, PLX_ERROR_UNSUPPORTED,
                              "layer %zu is of the mixer %s, which the family %s does not have; write a Plexus "
                              "directory instead",
                              i, config->layers[i].mixer->name, family->name);
    if (status == PLX_OK && (ours == NULL || (theirs = say(family, config, ours)) == NULL))
        status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the model's config");
    if (status == PLX_OK) status = read_back(context, family, theirs, &again);
    for (size_t i = 0; i < 2; i++) {
        json_object_del(ours, apart[i]);
        json_object_del(again, apart[i]);
    }
    if (status == PLX_OK) json_object_foreach(ours, key, value)
        {
            if (json_equal(value, json_object_get(again, key))) continue;
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
            status = plx_fail(context, PLX_ERROR_UNSUPPORTED,
                              "the family %s cannot say %s: %.80s; write a Plexus directory "
                              "instead",
                              family->name, key, text != NULL ? text : "");
            free(text);
            break;
        }
    json_decref(ours);
    json_decref(again);
    if (status == PLX_OK)
        *made = theirs;
    else
        json_decref(theirs);
    return status;
}
