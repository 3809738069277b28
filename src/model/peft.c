/* peft.c - adapters in files that the peft package opens and writes: adapter_config.json and adapter_model.safetensors.
 *
 * Their tensors are named after the modules of the family, base_model.model.MODULE.lora_A.weight [r, in] and
 * .lora_B.weight [out, r]; W + scale B A with scale = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora. Ours
 * have one rank and one scale: a smaller rank is filled up with zeros, another scale is taken into B. Where a family
 * keeps q, k and v in one module, ours are written as one adapter whose rank is the sum of theirs (A one below the
 * other, B in blocks), and read by taking the rows of B apart; both are exact. */
#include "io/files.h"
#include "io/safetensors.h"
#include "model/families/family.h"
#include "model/params_list.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A projection of a model, and the module of the family that holds it. */
typedef struct module {
    const plx_param *weight;
    char ours[128], theirs[160]; /* without ".weight"; theirs "" where the family has none */
    plx_rows rows;
    int part;
    const plx_layer_shape *shape;
    bool adapted;
} module;

typedef struct module_list {
    module *items;
    size_t count;
} module_list;

static bool is_projection(const plx_param *param)
{
    static const char end[] = "_proj.weight";
    size_t length = strlen(param->name);
    return param->rank == 2 && length >= sizeof end && strcmp(param->name + length - (sizeof end - 1), end) == 0;
}

static plx_status list_modules(plx_model *model, const plx_family *family, module_list *list)
{
    *list = (module_list){.items = plx_alloc_array(model->context, model->param_count, sizeof *list->items)};
    if (list->items == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < model->param_count; i++) {
        const plx_param *param = model->params[i];
        size_t layer;
        if (!is_projection(param) || sscanf(param->name, "model.layers.%zu.", &layer) != 1) continue;
        module *made = &list->items[list->count++];
        *made = (module){.weight = param, .shape = &model->config.layers[layer].shape};
        snprintf(made->ours, sizeof made->ours, "%.*s", (int)(strlen(param->name) - strlen(".weight")), param->name);
        if (plx_family_tensor(family, false, param->name, made->theirs, &made->rows, &made->part))
            made->theirs[strlen(made->theirs) - strlen(".weight")] = '\0';
        else
            made->theirs[0] = '\0';
    }
    return PLX_OK;
}

static size_t module_rows(const module *at)
{
    return at->weight->shape[0] * (at->rows == PLX_ROWS_FUSED_BY_HEAD || at->rows == PLX_ROWS_FUSED_BY_PART ? 3 : 1);
}

static const char *last_part(const char *name) { return strrchr(name, '.') != NULL ? strrchr(name, '.') + 1 : name; }

static bool contains(const json_t *list, const char *text)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item) if (strcmp(json_string_value(item), text) == 0) return true;
    return false;
}

/* The names that pick out the adapted modules: that of a kind of projection where all of it are, else whole names. NULL
 * when memory is short. */
static json_t *targets_of(const module_list *list, bool theirs)
{
    json_t *targets = json_array();
    for (size_t i = 0; i < list->count; i++) {
        const char *name = theirs ? list->items[i].theirs : list->items[i].ours, *kind = last_part(name);
        bool all = true;
        if (!list->items[i].adapted) continue;
        for (size_t j = 0; j < list->count && all; j++)
            all = list->items[j].adapted ||
                  strcmp(last_part(theirs ? list->items[j].theirs : list->items[j].ours), kind) != 0;
        const char *target = all ? kind : name;
        if (!contains(targets, target) && json_array_append_new(targets, json_string(target)) != 0) {
            json_decref(targets);
            return NULL;
        }
    }
    return targets;
}

static const plx_param *half_of(const plx_model *model, const module *at, char which)
{
    char name[160];
    snprintf(name, sizeof name, "%s.lora_%c.weight", at->ours, which);
    return plx_model_find_param(model, name);
}

/* ---- writing ---- */

/* Half an adapter in memory. */
typedef struct half {
    char name[192];
    size_t rows, columns;
    float *values;
} half;

typedef struct half_list {
    half *items;
    size_t count;
} half_list;

static plx_status fetch_half(void *user, size_t first, size_t count, void *data)
{
    memcpy(data, ((const half *)user)->values + first, count * sizeof(float));
    return PLX_OK;
}

static half *add_half(plx_context *context, half_list *list, const char *module_name, char which, size_t rows,
                      size_t columns)
{
    half *made = &list->items[list->count];
    *made = (half){.rows = rows, .columns = columns};
    snprintf(made->name, sizeof made->name, "base_model.model.%s.lora_%c.weight", module_name, which);
    made->values = plx_alloc_array(context, rows * columns, sizeof *made->values);
    if (made->values == NULL) return NULL;
    list->count++;
    return made;
}

static plx_status take_values(plx_model *model, const plx_param *param, double **values)
{
    *values = plx_alloc_array(model->context, param->elements, sizeof **values);
    if (*values == NULL) return PLX_ERROR_MEMORY;
    return plx_model_read_tensor(model, param->name, false, *values, param->elements);
}

/* The adapter of one of our projections into its module's: A into rows from `at`, B into columns from there. */
static plx_status put_part(plx_model *model, const module *from, size_t at, half *a, half *b)
{
    const plx_param *ours_a = half_of(model, from, 'A'), *ours_b = half_of(model, from, 'B');
    double *values_a = NULL, *values_b = NULL;
    plx_status status = take_values(model, ours_a, &values_a);
    if (status == PLX_OK) status = take_values(model, ours_b, &values_b);
    size_t rank = ours_a->shape[0];
    for (size_t i = 0; status == PLX_OK && i < ours_a->elements; i++)
        a->values[at * a->columns + i] = (float)values_a[i];
    for (size_t row = 0; status == PLX_OK && row < ours_b->shape[0]; row++) {
        float *to = b->values + plx_rows_place(from->rows, from->part, from->shape, row) * b->columns + at;
        for (size_t j = 0; j < rank; j++) to[j] = (float)values_b[row * rank + j];
    }
    plx_free(model->context, values_a);
    plx_free(model->context, values_b);
    return status;
}

/* The module's adapter, made of those of all our projections in it; *parts is their number. */
static plx_status put_module(plx_model *model, const module_list *modules, size_t first, half_list *halves,
                             size_t *parts)
{
    const module *begin = &modules->items[first];
    size_t rank = model->config.adapter.rank, done = 0;
    *parts = 0;
    for (size_t i = first; i < modules->count; i++)
        *parts += modules->items[i].adapted && strcmp(modules->items[i].theirs, begin->theirs) == 0;
    half *a = add_half(model->context, halves, begin->theirs, 'A', *parts * rank, begin->weight->shape[1]);
    half *b =
        a != NULL ? add_half(model->context, halves, begin->theirs, 'B', module_rows(begin), *parts * rank) : NULL;
    if (b == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = first; i < modules->count; i++)
        if (modules->items[i].adapted && strcmp(modules->items[i].theirs, begin->theirs) == 0)
            PLX_TRY(put_part(model, &modules->items[i], rank * done++, a, b));
    return PLX_OK;
}

/* Integers stay integers in the file. */
static json_t *number(double value)
{
    return value == floor(value) ? json_integer((json_int_t)value) : json_real(value);
}

/* All halves, and what the config says of modules whose rank is not r. */
static plx_status gather(plx_model *model, module_list *modules, half_list *halves, json_t *ranks, json_t *alphas)
{
    const plx_adapter_config *adapter = &model->config.adapter;
    for (size_t i = 0; i < modules->count; i++) {
        module *at = &modules->items[i];
        at->adapted = half_of(model, at, 'A') != NULL;
        if (at->adapted && at->theirs[0] == '\0')
            return plx_fail(model->context, PLX_ERROR_UNSUPPORTED,
                            "%s has an adapter, and the family has no module for it", at->ours);
    }
    for (size_t i = 0; i < modules->count; i++) {
        size_t parts;
        bool seen = !modules->items[i].adapted;
        for (size_t j = 0; j < i && !seen; j++)
            seen = modules->items[j].adapted && strcmp(modules->items[j].theirs, modules->items[i].theirs) == 0;
        if (seen) continue;
        PLX_TRY(put_module(model, modules, i, halves, &parts));
        if (parts == 1) continue;
        const char *name = modules->items[i].theirs;
        if (json_object_set_new(ranks, name, json_integer((json_int_t)(parts * adapter->rank))) != 0 ||
            json_object_set_new(alphas, name, number((double)parts * adapter->alpha)) != 0)
            return plx_fail(model->context, PLX_ERROR_MEMORY, "no memory left for the adapter's config");
    }
    return PLX_OK;
}

static plx_status write_halves(plx_context *context, half_list *halves, const char *directory)
{
    plx_safetensors_entry *entries = plx_alloc_array(context, halves->count, sizeof *entries);
    char *path = plx_format(context, "%s/adapter_model.safetensors", directory);
    plx_status status = entries != NULL && path != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    for (size_t i = 0; i < halves->count && status == PLX_OK; i++)
        entries[i] = (plx_safetensors_entry){.name = halves->items[i].name,
                                             .type = PLX_F32,
                                             .rank = 2,
                                             .shape = {halves->items[i].rows, halves->items[i].columns},
                                             .fetch = fetch_half,
                                             .user = &halves->items[i]};
    if (status == PLX_OK) status = plx_safetensors_write(context, path, entries, halves->count, "format", "pt");
    plx_free(context, path);
    plx_free(context, entries);
    return status;
}

static plx_status write_adapter(plx_model *model, const plx_family *family, const char *base, const char *directory)
{
    plx_context *context = model->context;
    const plx_adapter_config *adapter = &model->config.adapter;
    module_list modules = {0};
    half_list halves = {0};
    json_t *ranks = json_object(), *alphas = json_object();
    plx_status status = list_modules(model, family, &modules);
    halves.items = plx_alloc_array(context, 2 * modules.count + 1, sizeof *halves.items);
    if (status == PLX_OK && (halves.items == NULL || ranks == NULL || alphas == NULL)) status = PLX_ERROR_MEMORY;
    if (status == PLX_OK) status = gather(model, &modules, &halves, ranks, alphas);
    if (status == PLX_OK)
        status =
            plx_json_write(context, directory, "adapter_config.json",
                           json_pack("{s:s, s:s, s:s?, s:I, s:o, s:O, s:O, s:o, s:f, s:s, s:b, s:b}", "peft_type",
                                     "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r",
                                     (json_int_t)adapter->rank, "lora_alpha", number(adapter->alpha), "rank_pattern",
                                     ranks, "alpha_pattern", alphas, "target_modules", targets_of(&modules, true),
                                     "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1));
    if (status == PLX_OK) status = write_halves(context, &halves, directory);
    for (size_t i = 0; i < halves.count; i++) plx_free(context, halves.items[i].values);
    plx_free(context, halves.items);
    plx_free(context, modules.items);
    json_decref(ranks);
    json_decref(alphas);
    return status;
}

/* The family of this name, or the first that can say what the model is without its adapter. */
static plx_status family_of(plx_model *model, const char *name, const plx_family **family)
{
    char names[256];
    plx_config plain = model->config;
    plain.adapter = (plx_adapter_config){0};
    plx_status status = PLX_ERROR_UNSUPPORTED;
    *family = name != NULL ? plx_family_find(name) : NULL;
    if (name != NULL && *family == NULL)
        return plx_fail(model->context, PLX_ERROR_VALUE, "there is no family '%.40s'; there are %s", name,
                        plx_family_list(names, sizeof names, false));
    for (size_t i = 0; plx_families[i] != NULL && status == PLX_ERROR_UNSUPPORTED; i++) {
        json_t *config = NULL;
        if (name != NULL && plx_families[i] != *family) continue;
        *family = plx_families[i];
        status = plx_family_write_config(model->context, *family, &plain, &config);
        json_decref(config);
    }
    if (status != PLX_ERROR_UNSUPPORTED || name != NULL) return status;
    return plx_fail(model->context, PLX_ERROR_UNSUPPORTED,
                    "no family (%s) has a model like this one, so that no other program could use its adapter; a "
                    "checkpoint of Plexus holds both",
                    plx_family_list(names, sizeof names, false));
}

plx_status plx_model_save_adapter(plx_model *model, const char *directory, const char *family_name, const char *base)
{
    const plx_family *family;
    char *aside;
    if (model->config.adapter.rank == 0)
        return plx_fail(model->context, PLX_ERROR_VALUE, "the model has no adapter to write");
    PLX_TRY(family_of(model, family_name, &family));
    PLX_TRY(plx_directory_begin(model->context, directory, &aside));
    plx_status status = write_adapter(model, family, base, aside);
    if (status == PLX_OK) return plx_directory_commit(model->context, aside, directory);
    plx_directory_abandon(model->context, aside);
    return status;
}

/* ---- reading ---- */

typedef struct reading {
    plx_model *base;
    const char *path; /* of the tensors */
    plx_safetensors *file;
    module_list modules;
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

static const plx_safetensor *find_half(const reading *now, const module *at, char which)
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
    PLX_TRY(list_modules(now->base, family, &now->modules));
    *matched = now->rank = 0;
    for (size_t i = 0; i < now->modules.count; i++) {
        module *at = &now->modules.items[i];
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
        PLX_TRY(check_half(now, b, module_rows(at), rank));
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
    json_t *targets = targets_of(&now->modules, false), *config = plx_config_describe(&now->base->config);
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

static plx_status fill_module(const reading *now, const module *from, plx_model *made)
{
    plx_context *context = made->context;
    const plx_param *a = half_of(made, from, 'A'), *b = half_of(made, from, 'B');
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
    const module *first = NULL;
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
