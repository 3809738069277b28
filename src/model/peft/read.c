/* read.c - a model with an adapter of the peft package's. */
#include "io/safetensors.h"
#include "model/peft/peft.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct reading {
    plx_model *base;
    const char *path; /* of the tensors */
    plx_safetensors *file;
    plx_peft_modules modules;
    double alpha, scale; /* scale: of the model that is made */
    bool root;           /* use_rslora */
    plx_node *config;
    size_t rank;
} reading;

/* Keys that change nothing that is computed from the tensors. Any other that says something is refused. */
static const char *const of_no_effect[] = {"task_type",
                                           "base_model_name_or_path",
                                           "revision",
                                           "inference_mode",
                                           "lora_dropout",
                                           "target_modules",
                                           "rank_pattern",
                                           "peft_version",
                                           "auto_mapping",
                                           "megatron_core",
                                           "exclude_modules",
                                           "layers_pattern",
                                           "layers_to_transform",
                                           "eva_config",
                                           "qalora_group_size",
                                           "ensure_weight_tying"};

static bool says_nothing(const plx_node *node)
{
    return node->kind == PLX_NODE_NULL || (node->kind == PLX_NODE_BOOL && !node->truth) ||
           ((node->kind == PLX_NODE_MAP || node->kind == PLX_NODE_LIST) && node->count == 0) ||
           (node->kind == PLX_NODE_STRING && strcmp(node->text, "none") == 0);
}

static plx_status refuse_others(plx_keys *keys)
{
    for (const plx_node *node = keys->map->child; node != NULL; node = node->next) {
        bool known = says_nothing(node);
        for (int i = 0; i < keys->asked_count && !known; i++) known = strcmp(keys->asked[i], node->key) == 0;
        for (size_t i = 0; i < sizeof of_no_effect / sizeof *of_no_effect && !known; i++)
            known = strcmp(of_no_effect[i], node->key) == 0;
        if (!known) return plx_keys_fail(keys, node->key, "Plexus has no adapters with this set (plain LoRA alone)");
    }
    return PLX_OK;
}

/* Some initialisations of A and B change the weights under them as well. */
static plx_status check_initial(plx_keys *keys)
{
    static const char *const names[] = {"gaussian", "eva", "orthogonal"};
    const plx_node *initial = plx_keys_node(keys, "init_lora_weights");
    bool known = initial == NULL || initial->kind == PLX_NODE_BOOL || initial->kind == PLX_NODE_NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !known; i++)
        known = initial->kind == PLX_NODE_STRING && strcmp(initial->text, names[i]) == 0;
    if (known) return PLX_OK;
    return plx_keys_fail(keys, "init_lora_weights", "an adapter that began so stands on other weights than the base's");
}

static plx_status read_config(reading *now, const char *directory)
{
    plx_context *context = now->base->context;
    char *path = plx_format(context, "%s/adapter_config.json", directory);
    const char *kind = "none";
    plx_keys keys;
    if (path == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_node_read_json(context, path, &now->config);
    plx_free(context, path);
    PLX_TRY(status);
    PLX_TRY(plx_keys_open(&keys, context, now->config, ""));
    PLX_TRY(plx_keys_string(&keys, "peft_type", &kind));
    if (strcmp(kind, "LORA") != 0) return plx_keys_fail(&keys, "peft_type", "'%.40s' is not supported; LORA is", kind);
    now->alpha = 8;
    now->rank = 8;
    PLX_TRY(plx_keys_size(&keys, "r", &now->rank, 1, 4096));
    PLX_TRY(plx_keys_real(&keys, "lora_alpha", &now->alpha, 1e-6, 1e6));
    PLX_TRY(plx_keys_bool(&keys, "use_rslora", &now->root));
    PLX_TRY(check_initial(&keys));
    const plx_node *alphas = plx_keys_node(&keys, "alpha_pattern");
    for (const plx_node *node = alphas != NULL ? alphas->child : NULL; node != NULL; node = node->next) {
        bool plain =
            node->key != NULL && node->key[strspn(node->key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                             "0123456789_.-")] == '\0';
        if (!plain || node->kind != PLX_NODE_NUMBER || !(node->number >= 1e-6 && node->number <= 1e6))
            return plx_keys_fail(&keys, "alpha_pattern",
                                 "names of modules with numbers are expected; other patterns are not supported");
    }
    return refuse_others(&keys);
}

/* lora_alpha of a module: the first pattern that is its name or the end of it. */
static double alpha_of(const reading *now, const char *name)
{
    const plx_node *alphas = plx_node_find(now->config, "alpha_pattern");
    size_t length = strlen(name);
    for (const plx_node *node = alphas != NULL ? alphas->child : NULL; node != NULL; node = node->next) {
        size_t end = strlen(node->key);
        if (end > length || strcmp(name + length - end, node->key) != 0) continue;
        if (end == length || name[length - end - 1] == '.') return node->number;
    }
    return now->alpha;
}

static double scale_of(const reading *now, const char *name, size_t rank)
{
    return alpha_of(now, name) / (now->root ? sqrt((double)rank) : (double)rank);
}

static const plx_safetensor *find_half(const reading *now, const plx_peft_module *at, char which)
{
    char name[192];
    snprintf(name, sizeof name, "base_model.model.%s.lora_%c.weight", at->theirs, which);
    return at->theirs[0] != '\0' ? plx_safetensors_find(now->file, name) : NULL;
}

static plx_status check_half(const reading *now, const plx_safetensor *tensor, size_t rows, size_t columns)
{
    plx_context *context = now->base->context;
    if (!tensor->readable)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED, "%s: tensor %.100s is of type %s, which is not read", now->path,
                        tensor->name, tensor->dtype);
    if (tensor->rank == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns) return PLX_OK;
    return plx_fail(context, PLX_ERROR_FORMAT, "%s: tensor %.100s must have the shape [%zu, %zu] to fit the model",
                    now->path, tensor->name, rows, columns);
}

/* Which modules the file has adapters for, by the names of one family; all its tensors must have a place. */
static plx_status match_family(reading *now, const plx_family *family, size_t *matched)
{
    plx_context *context = now->base->context;
    plx_free(context, now->modules.items);
    PLX_TRY(plx_peft_list(now->base, family, &now->modules));
    *matched = now->rank = 0;
    for (size_t i = 0; i < now->modules.count; i++) {
        plx_peft_module *at = &now->modules.items[i];
        const plx_safetensor *a = find_half(now, at, 'A'), *b = find_half(now, at, 'B');
        if (a == NULL && b == NULL) continue;
        if (a == NULL || b == NULL)
            return plx_fail(context, PLX_ERROR_FORMAT, "%s: the adapter of %s has lora_%c and no lora_%c", now->path,
                            at->theirs, a != NULL ? 'A' : 'B', a != NULL ? 'B' : 'A');
        size_t rank = a->rank == 2 ? a->shape[0] : 0;
        if (rank == 0 || rank > 4096)
            return plx_fail(context, PLX_ERROR_FORMAT, "%s: tensor %.100s has no rank from 1 to 4096", now->path,
                            a->name);
        PLX_TRY(check_half(now, a, rank, at->weight->shape[1]));
        PLX_TRY(check_half(now, b, plx_peft_rows(at), rank));
        bool seen = false; /* a fused module is met once for each of its parts */
        for (size_t j = 0; j < i && !seen; j++) seen = strcmp(now->modules.items[j].theirs, at->theirs) == 0;
        if (!seen) *matched += 2;
        if (rank > now->rank) now->rank = rank;
        at->adapted = true;
    }
    return PLX_OK;
}

static plx_status match(reading *now)
{
    size_t matched = 0, count = plx_safetensors_count(now->file);
    for (size_t i = 0; plx_families[i] != NULL && matched == 0; i++)
        PLX_TRY(match_family(now, plx_families[i], &matched));
    if (matched == count && count > 0) return PLX_OK;
    for (size_t i = 0; i < count; i++) {
        const plx_safetensor *tensor = plx_safetensors_at(now->file, i);
        bool taken = false;
        for (size_t j = 0; j < now->modules.count && !taken; j++)
            taken = find_half(now, &now->modules.items[j], 'A') == tensor ||
                    find_half(now, &now->modules.items[j], 'B') == tensor;
        if (!taken)
            return plx_fail(now->base->context, PLX_ERROR_UNSUPPORTED,
                            "%s: tensor %.120s has no place in the model: an adapter is read for the projections of "
                            "its layers, by the names of llama, qwen2 or gpt_neox",
                            now->path, tensor->name);
    }
    return plx_fail(now->base->context, PLX_ERROR_FORMAT, "%s: there are no tensors", now->path);
}

/* The config of the model with the adapter. */
static plx_status outline(const reading *now, json_t **made)
{
    plx_context *context = now->base->context;
    json_t *targets = plx_peft_targets(&now->modules, false), *config = plx_config_describe(&now->base->config);
    *made = NULL;
    size_t count = json_array_size(targets);
    json_t *adapter = json_pack("{s:I, s:f, s:o}", "rank", (json_int_t)now->rank, "alpha",
                                now->scale * (double)now->rank, "targets", targets);
    if (config != NULL && json_object_set_new(config, "adapter", adapter) == 0 && count <= PLX_ADAPTER_TARGETS) {
        *made = config;
        return PLX_OK;
    }
    json_decref(config);
    if (count <= PLX_ADAPTER_TARGETS)
        return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the model's config");
    return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                    "%s: adapters on %zu single modules; whole kinds of projections and up to %d others can have them",
                    now->path, count, PLX_ADAPTER_TARGETS);
}

/* `values` of the module's half, as stored in the file, as numbers. */
static plx_status read_half(const reading *now, const plx_safetensor *tensor, double **values)
{
    plx_context *context = now->base->context;
    void *stored = plx_alloc_uncleared(context, tensor->bytes);
    *values = plx_alloc_array(context, tensor->elements, sizeof **values);
    plx_status status = stored != NULL && *values != NULL
                            ? plx_safetensors_read(now->file, tensor, stored, (size_t)tensor->bytes)
                            : PLX_ERROR_MEMORY;
    for (size_t i = 0; status == PLX_OK && i < tensor->elements; i++) (*values)[i] = plx_get(stored, tensor->type, i);
    plx_free(context, stored);
    return status;
}

static plx_status fill_module(const reading *now, const plx_peft_module *from, plx_model *made)
{
    plx_context *context = made->context;
    const plx_param *a = plx_peft_half(made, from, 'A'), *b = plx_peft_half(made, from, 'B');
    const plx_safetensor *theirs_a = find_half(now, from, 'A'), *theirs_b = find_half(now, from, 'B');
    size_t rank = theirs_a->shape[0];
    double factor = scale_of(now, from->theirs, rank) / now->scale;
    double *read_a = NULL, *read_b = NULL, *values_a = plx_alloc_array(context, a->elements, sizeof *values_a),
           *values_b = plx_alloc_array(context, b->elements, sizeof *values_b);
    plx_status status = values_a != NULL && values_b != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    if (status == PLX_OK) status = read_half(now, theirs_a, &read_a);
    if (status == PLX_OK) status = read_half(now, theirs_b, &read_b);
    if (status == PLX_OK) {
        memcpy(values_a, read_a, theirs_a->elements * sizeof *values_a);
        for (size_t row = 0; row < b->shape[0]; row++)
            for (size_t j = 0; j < rank; j++)
                values_b[row * now->rank + j] =
                    factor * read_b[plx_rows_place(from->rows, from->part, from->shape, row) * rank + j];
        status = plx_model_write_tensor(made, a->name, values_a, a->elements);
    }
    if (status == PLX_OK) status = plx_model_write_tensor(made, b->name, values_b, b->elements);
    plx_free(context, read_a);
    plx_free(context, read_b);
    plx_free(context, values_a);
    plx_free(context, values_b);
    return status;
}

static plx_status read_adapter(reading *now, plx_model **made)
{
    json_t *config;
    PLX_TRY(plx_safetensors_open(now->base->context, now->path, &now->file));
    PLX_TRY(match(now));
    const plx_peft_module *first = NULL;
    for (size_t i = 0; i < now->modules.count && first == NULL; i++)
        if (now->modules.items[i].adapted) first = &now->modules.items[i];
    now->scale = scale_of(now, first->theirs, find_half(now, first, 'A')->shape[0]);
    PLX_TRY(outline(now, &config));
    plx_status status = plx_model_rebuild(now->base, config, 0, made);
    json_decref(config);
    for (size_t i = 0; i < now->modules.count && status == PLX_OK; i++)
        if (now->modules.items[i].adapted) status = fill_module(now, &now->modules.items[i], *made);
    return status;
}

plx_status plx_model_with_adapter(plx_model *model, const char *directory, plx_model **made)
{
    plx_context *context = model->context;
    reading now = {.base = model};
    *made = NULL;
    if (model->config.adapter.rank > 0)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "the model has an adapter already: merge it first (plexus convert "
                        "MODEL --merge --out DIR)");
    char *path = plx_format(context, "%s/adapter_model.safetensors", directory);
    plx_status status = path != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    now.path = path;
    if (status == PLX_OK) status = read_config(&now, directory);
    if (status == PLX_OK) status = read_adapter(&now, made);
    plx_safetensors_close(now.file);
    plx_free(context, now.modules.items);
    plx_node_free(context, now.config);
    plx_free(context, path);
    if (status == PLX_OK) return PLX_OK;
    plx_model_free(*made);
    *made = NULL;
    return status;
}
