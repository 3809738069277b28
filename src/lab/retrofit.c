/* retrofit.c - a model with some layers replaced by layers of other kinds.
 *
 * The new model has the old one's config with the layers' objects exchanged; every tensor that both have under one name
 * and shape is taken over, the others are initialised. A mixer that can begin as exactly an attention layer says which
 * options and which zeros that takes (begin_as, begin_zero in mixers/mixer.h). */
#include "lab/retrofit.h"

#include "model/model.h"

#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- "3,7,11:nexus,order=2,gate=scalar" ---- */

/* The layers that `text` names, as marks; every N: layers N-1, 2N-1, ... */
static plx_status read_which(plx_context *context, const char *whole, const char *text, size_t layers, bool *marks)
{
    size_t step = strcmp(text, "all") == 0 ? 1 : 0;
    if (strncmp(text, "every", 5) == 0) {
        char *end;
        step = strtoul(text + 5, &end, 10);
        if (*end != '\0' || step == 0) step = SIZE_MAX;
        if (step > layers)
            return plx_fail(context, PLX_ERROR_VALUE, "'%s': 'every N' takes a number from 1 to %zu", whole, layers);
    }
    for (size_t i = step; step > 0 && i <= layers; i += step) marks[i - 1] = true;
    for (const char *p = text; step == 0;) {
        char *end;
        errno = 0;
        size_t first = strtoul(p, &end, 10), last = first;
        if (end == p || *p == '-' || *p == '+')
            last = SIZE_MAX;
        else if (*end == '-') {
            p = end + 1;
            last = strtoul(p, &end, 10);
            if (end == p) last = SIZE_MAX;
        }
        if (errno != 0 || last == SIZE_MAX || last < first || (*end != '\0' && *end != ','))
            return plx_fail(context, PLX_ERROR_VALUE,
                            "'%s': before the colon stand layers like 3,7,11 or 0-5, 'every N', or 'all'", whole);
        if (last >= layers)
            return plx_fail(context, PLX_ERROR_VALUE, "'%s': there is no layer %zu; the model's are 0 to %zu", whole,
                            last, layers - 1);
        for (size_t i = first; i <= last; i++) marks[i] = true;
        if (*end == '\0') break;
        p = end + 1;
    }
    return PLX_OK;
}

/* "nexus,order=2,window=[4, 2]" as a YAML mapping: a new string, or NULL. */
static char *as_yaml(plx_context *context, const char *text)
{
    char *yaml = plx_alloc(context, 3 * strlen(text) + 16), *to = yaml; /* '=' takes three more, at most */
    if (yaml == NULL) return NULL;
    to += sprintf(to, "{mixer: ");
    int depth = 0;
    bool key = false; /* between a comma and its '=' */
    for (const char *p = text; *p != '\0'; p++) {
        depth += (*p == '[' || *p == '{') - (*p == ']' || *p == '}');
        if (key && *p == '=')
            to += sprintf(to, ": ");
        else
            *to++ = *p;
        if (*p == ',' && depth == 0)
            key = true;
        else if (*p == '=')
            key = false;
    }
    strcpy(to, "}");
    return yaml;
}

plx_status plx_retrofit_read(plx_context *context, const char *text, size_t layers, json_t **objects)
{
    const char *colon = strchr(text, ':');
    if (colon == NULL || colon[1] == '\0')
        return plx_fail(context, PLX_ERROR_VALUE,
                        "'%s': LAYERS:MIXER,KEY=VALUE.. is expected, as in 3,7,11:nexus,order=2", text);
    plx_status status = PLX_OK;
    plx_node *root = NULL;
    json_t *object = NULL;
    bool *marks = plx_alloc_array(context, layers, sizeof *marks);
    char *which = plx_strdup(context, text), *yaml = as_yaml(context, colon + 1);
    if (marks == NULL || which == NULL || yaml == NULL) status = PLX_ERROR_MEMORY;
    if (status == PLX_OK) {
        which[colon - text] = '\0';
        status = read_which(context, text, which, layers, marks);
    }
    if (status == PLX_OK) status = plx_node_parse_yaml(context, text, yaml, strlen(yaml), &root);
    if (status == PLX_OK && (root->kind != PLX_NODE_MAP || (object = plx_node_to_json(root)) == NULL))
        status = plx_fail(context, PLX_ERROR_VALUE, "'%s': the mixer and its options cannot be read", text);
    for (size_t i = 0; i < layers && status == PLX_OK; i++) {
        if (!marks[i]) continue;
        if (objects[i] != NULL)
            status = plx_fail(context, PLX_ERROR_VALUE, "'%s': layer %zu is replaced twice", text, i);
        else if ((objects[i] = json_deep_copy(object)) == NULL)
            status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left to read '%s'", text);
    }
    json_decref(object);
    plx_node_free(context, root);
    plx_free(context, yaml);
    plx_free(context, which);
    plx_free(context, marks);
    return status;
}

/* ---- the new model ---- */

typedef struct retrofit {
    plx_context *context;
    plx_model *old, *new;
    json_t *config;   /* the new model's */
    json_t **objects; /* asked for; NULL: the layer stays */
    bool *exact;      /* the layer begins as the one that it replaces */
} retrofit;

static plx_status out_of_memory(const retrofit *made)
{
    return plx_fail(made->context, PLX_ERROR_MEMORY, "no memory left to describe the retrofitted model");
}

/* The keys of a layer's shape that the old object gives and the new one does not. */
static int keep_shape(json_t *object, const json_t *old)
{
    int bad = 0;
    for (const char *const *key = plx_layer_shape_keys; *key != NULL; key++) {
        json_t *value = json_object_get(old, *key);
        if (value != NULL && json_object_get(object, *key) == NULL) bad |= json_object_set(object, *key, value);
    }
    return bad;
}

static plx_status replace_layer(retrofit *made, json_t *layers, size_t index)
{
    const plx_layer *layer = &made->old->config.layers[index];
    json_t *object = made->objects[index], *old = json_array_get(layers, index);
    const char *name = json_string_value(json_object_get(object, "mixer"));
    const plx_mixer *mixer = name != NULL ? plx_mixer_find(name) : NULL;
    const char *why = "a layer of this kind computes something else from the start";
    if (mixer == NULL) {
        char names[PLX_MIXER_NAMES];
        plx_mixer_names(names);
        return plx_fail(made->context, PLX_ERROR_VALUE, "layer %zu: there is no mixer '%.60s'; there are %s", index,
                        name != NULL ? name : "", names);
    }
    if (keep_shape(object, old) != 0) return out_of_memory(made);
    if (mixer->begin_as != NULL && mixer->begin_as(object, old, &layer->shape, &why) != 0) return out_of_memory(made);
    made->exact[index] = why == NULL;
    if (why != NULL)
        plx_log(made->context, PLX_LOG_WARNING, "layer %zu (%s) does not begin as the %s layer that it replaces: %s",
                index, mixer->name, layer->mixer->name, why);
    return json_array_set(layers, index, object) == 0 ? PLX_OK : out_of_memory(made);
}

/* The zeros of exact beginnings. */
static void zero_layer(retrofit *made, size_t index)
{
    char pattern[128];
    const char *const *names = made->new->config.layers[index].mixer->begin_zero;
    for (; names != NULL && *names != NULL; names++) {
        snprintf(pattern, sizeof pattern, "model.layers.%zu.%s", index, *names);
        for (size_t i = 0; i < made->new->param_count; i++) {
            plx_param *param = made->new->params[i];
            if (fnmatch(pattern, param->name, 0) == 0)
                plx_device_fill(made->context, param->data, 0, param->elements * plx_type_size(param->type));
        }
    }
}

/* Whether a layer is left that dropout acts in. */
static bool has_paper_block(const retrofit *made)
{
    for (size_t i = 0; i < made->old->config.layer_count; i++) {
        const char *block = json_string_value(json_object_get(made->objects[i], "block"));
        if (made->objects[i] == NULL ? made->old->config.layers[i].form == PLX_BLOCK_PAPER
                                     : block != NULL && strcmp(block, "paper") == 0)
            return true;
    }
    return false;
}

static plx_status build(retrofit *made, uint64_t seed)
{
    const size_t count = made->old->config.layer_count;
    made->config = json_loads(plx_model_config(made->old), 0, NULL);
    json_t *layers = json_object_get(made->config, "layers");
    if (layers == NULL) return out_of_memory(made);
    for (size_t i = 0; i < count; i++)
        if (made->objects[i] != NULL) PLX_TRY(replace_layer(made, layers, i));
    if (!has_paper_block(made) && json_object_set_new(made->config, "dropout", json_real(0)) != 0) return out_of_memory(made);
    PLX_TRY(plx_model_rebuild(made->old, made->config, seed, &made->new));
    for (size_t i = 0; i < count; i++)
        if (made->objects[i] != NULL && made->exact[i]) zero_layer(made, i);
    return PLX_OK;
}

plx_status plx_model_retrofit(plx_model *model, const char *const *layers, size_t count, uint64_t seed,
                              plx_model **made)
{
    plx_context *context = model->context;
    const size_t layer_count = model->config.layer_count;
    retrofit one = {.context = context, .old = model};
    plx_status status = PLX_OK;
    *made = NULL;
    one.objects = plx_alloc_array(context, layer_count, sizeof *one.objects);
    one.exact = plx_alloc_array(context, layer_count, sizeof *one.exact);
    if (one.objects == NULL || one.exact == NULL) status = PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count && status == PLX_OK; i++)
        status = plx_retrofit_read(context, layers[i], layer_count, one.objects);
    if (status == PLX_OK) status = build(&one, seed);
    if (status == PLX_OK)
        *made = one.new;
    else
        plx_model_free(one.new);
    for (size_t i = 0; one.objects != NULL && i < layer_count; i++) json_decref(one.objects[i]);
    json_decref(one.config);
    plx_free(context, one.objects);
    plx_free(context, one.exact);
    return status;
}

/* ---- how far two models are apart ---- */

static const char probe_text[] =
    "The lighthouse keeper wrote one line a day for thirty-one years. Most of them speak of wind and of ships: on "
    "4 March 1887 a barque from Bergen, loaded with timber, lay off the point until the fog had lifted. \"She "
    "waited,\" "
    "he wrote, \"and so did I.\" Nobody asked him to keep the book, and nobody read it while he lived; but the "
    "numbers in it (temperature, pressure, the hour of each sunset) agree to within a minute with what can be "
    "computed today.\n\n    for day in book:\n        print(day.wind, day.ships)\n";

plx_status plx_retrofit_probe(plx_model *model, int32_t **tokens, size_t *count)
{
    plx_context *context = model->context;
    const plx_config *config = &model->config;
    size_t most = config->max_position_embeddings < 256 ? config->max_position_embeddings : 256, made = 0;
    plx_tokenizer *tokenizer = NULL;
    int32_t *encoded = NULL;
    *tokens = plx_alloc_array(context, most, sizeof **tokens);
    if (*tokens == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_model_tokenizer(model, &tokenizer);
    if (status == PLX_OK)
        status = plx_tokenizer_encode(tokenizer, probe_text, sizeof probe_text - 1, &encoded, &made);
    else if (status == PLX_ERROR_UNSUPPORTED)
        status = PLX_OK; /* none: the ids are made up */
    *count = made > 0 && made < most ? made : most;
    for (size_t i = 0; i < *count; i++)
        (*tokens)[i] = i < made ? encoded[i] : (int32_t)((i * 2654435761u + i / 7) % config->vocab_size);
    if (encoded != NULL) plx_tokens_free(tokenizer, encoded);
    if (status != PLX_OK) {
        plx_free(context, *tokens);
        *tokens = NULL;
    }
    return status;
}

/* False where a logit is no number. */
static bool measure(const double *a, const double *b, const int32_t *tokens, size_t count, size_t vocab,
                    plx_difference *difference)
{
    double least = INFINITY, most = -INFINITY, loss[2] = {0, 0};
    bool finite = true;
    for (size_t t = 0; t < count; t++) {
        double top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        for (size_t i = t * vocab; i < (t + 1) * vocab; i++) {
            finite = finite && isfinite(a[i]) && isfinite(b[i]);
            difference->largest_change = fmax(difference->largest_change, fabs(a[i] - b[i]));
            least = fmin(least, a[i]);
            most = fmax(most, a[i]);
            top[0] = fmax(top[0], a[i]);
            top[1] = fmax(top[1], b[i]);
        }
        if (t + 1 == count) break;
        for (size_t i = t * vocab; i < (t + 1) * vocab; i++) {
            sum[0] += exp(a[i] - top[0]);
            sum[1] += exp(b[i] - top[1]);
        }
        size_t next = t * vocab + (size_t)tokens[t + 1];
        loss[0] += top[0] + log(sum[0]) - a[next];
        loss[1] += top[1] + log(sum[1]) - b[next];
    }
    difference->range = most - least;
    difference->loss[0] = count > 1 ? loss[0] / (double)(count - 1) : 0;
    difference->loss[1] = count > 1 ? loss[1] / (double)(count - 1) : 0;
    return finite;
}

plx_status plx_model_difference(plx_model *a, plx_model *b, const int32_t *tokens, size_t count,
                                plx_difference *difference)
{
    plx_context *context = a->context;
    size_t vocab = a->config.vocab_size, numbers;
    *difference = (plx_difference){0};
    if (b->config.vocab_size != vocab)
        return plx_fail(context, PLX_ERROR_VALUE, "models of %zu and %zu tokens cannot be compared", vocab,
                        b->config.vocab_size);
    if (!plx_multiply_sizes(count, vocab, &numbers))
        return plx_fail(context, PLX_ERROR_VALUE, "%zu tokens are too many to compare the logits of", count);
    double *first = plx_alloc_array(context, numbers, sizeof *first),
           *second = plx_alloc_array(context, numbers, sizeof *second);
    plx_batch batch = {.rows = 1, .length = count, .inputs = tokens};
    plx_status status = first != NULL && second != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    plx_progress(context, "comparing with the old model", 0, 2);
    if (status == PLX_OK) status = plx_model_logits(a, &batch, first);
    plx_progress(context, "comparing with the old model", 1, 2);
    if (status == PLX_OK) status = plx_model_logits(b, &batch, second);
    if (status == PLX_OK && !measure(first, second, tokens, count, vocab, difference))
        status = plx_fail(context, PLX_ERROR_NUMERIC,
                          "the model's logits are not finite: its weights are damaged or diverged");
    plx_free(context, first);
    plx_free(context, second);
    return status;
}
