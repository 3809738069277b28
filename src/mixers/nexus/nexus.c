/* nexus.c - higher-order attention: queries and keys are made from what an inner attention has gathered. The mixer: its
 * options, parameters and state. */
#include "mixers/nexus/layer.h"

#include <stdio.h>
#include <string.h>

static const char *const inner_names[] = {"reproject", "self", "own"}, *const branch_names[] = {"qk", "q", "k"};

/* ---- options ---- */

/* The parts of a layer's state, counted without room for them. */
static size_t part_count(const nexus_layer *layer)
{
    if (layer->inner == REPROJECT) return 1 + (layer->branch[KEY].refined ? layer->order : 1);
    size_t each = layer->inner == SELF ? layer->order : 2; /* self: order - 1 keys and the unturned values */
    return 2 + each * ((size_t)layer->branch[QUERY].refined + layer->branch[KEY].refined);
}

static plx_status parse(plx_keys *keys, const plx_layer_shape *shape, void *own)
{
    nexus_layer *layer = own;
    int gate = 0;
    layer->hidden = shape->hidden;
    layer->heads = shape->heads;
    layer->kv_heads = shape->kv_heads;
    layer->head_dim = shape->head_dim;
    layer->order = 2;
    PLX_TRY(plx_keys_size(keys, "order", &layer->order, 1, LEVELS));
    PLX_TRY(plx_keys_choice(keys, "branches", "qk|q|k", &layer->branches));
    PLX_TRY(plx_keys_choice(keys, "inner", "reproject|self|own", &layer->inner));
    PLX_TRY(plx_keys_choice(keys, "gate", "none|scalar", &gate));
    PLX_TRY(plx_attend_parse_window(keys, &layer->window));
    layer->gated = gate == 1;
    if (layer->inner == OWN && layer->order != 2)
        return plx_keys_fail(keys, "order", "inner \"own\" has projections of one inner attention: its order is 2");
    for (int i = QUERY; i <= KEY; i++) {
        layer->branch[i].heads = i == QUERY ? layer->heads : layer->kv_heads;
        layer->branch[i].refined = layer->order > 1 && (layer->branches == 0 || layer->branches == 1 + i);
        layer->branch[i].projected = layer->inner != OWN || layer->gated || !layer->branch[i].refined;
    }
    if (part_count(layer) <= PLX_STATE_PARTS_MAX) return PLX_OK;
    nexus_layer most = *layer;
    while (part_count(&most) > PLX_STATE_PARTS_MAX) most.order--;
    return plx_keys_fail(keys, "order",
                         "order %zu needs %zu tensors of decoding state a layer, more than the %d that there may be: "
                         "with these branches and this inner the order is at most %zu",
                         layer->order, part_count(layer), PLX_STATE_PARTS_MAX, most.order);
}

static int describe(const void *own, json_t *object)
{
    const nexus_layer *layer = own;
    int bad = json_object_set_new(object, "order", json_integer((json_int_t)layer->order));
    bad |= json_object_set_new(object, "branches", json_string(branch_names[layer->branches]));
    bad |= json_object_set_new(object, "inner", json_string(inner_names[layer->inner]));
    bad |= json_object_set_new(object, "gate", json_string(layer->gated ? "scalar" : "none"));
    return bad | plx_attend_describe_window(layer->window, object);
}

static plx_status define_branch(plx_params *list, const plx_layer_shape *shape, const nexus_layer *layer, branch *b,
                                const char *name)
{
    static const char *const inner[] = {"q", "k", "v"};
    const size_t D = shape->hidden, width = b->heads * shape->head_dim;
    plx_init init = plx_init_matrix(shape, D, false);
    char full[64];
    if (b->projected) {
        snprintf(full, sizeof full, "mixer.%s_proj", name);
        PLX_TRY(plx_linear_define(list, &b->linear, full, D, width, shape->attention_bias, init));
    }
    snprintf(full, sizeof full, "mixer.%s_norm", name);
    PLX_TRY(plx_turn_define(list, shape, &b->turn, full));
    if (b->refined && layer->gated) {
        snprintf(full, sizeof full, "mixer.gate_%s", name);
        PLX_TRY(plx_params_add(list, full, 1, 1, 0, (plx_init){PLX_INIT_CONSTANT, 0}, false, &b->gate));
    }
    for (int i = 0; i < 3 && b->refined && layer->inner == OWN; i++) {
        snprintf(full, sizeof full, "mixer.inner_%s.%s_proj", name, inner[i]);
        PLX_TRY(plx_linear_define(list, &b->inner[i], full, D, width, shape->attention_bias, init));
    }
    return PLX_OK;
}

static plx_status params(plx_params *list, const plx_layer_shape *shape, void *own)
{
    nexus_layer *layer = own;
    const size_t D = shape->hidden, queries = shape->heads * shape->head_dim, keys = shape->kv_heads * shape->head_dim;
    plx_init in = plx_init_matrix(shape, D, false), out = plx_init_matrix(shape, queries, true);
    PLX_TRY(define_branch(list, shape, layer, &layer->branch[QUERY], "q"));
    PLX_TRY(define_branch(list, shape, layer, &layer->branch[KEY], "k"));
    PLX_TRY(plx_linear_define(list, &layer->v, "mixer.v_proj", D, keys, shape->attention_bias, in));
    return plx_linear_define(list, &layer->o, "mixer.o_proj", queries, D, shape->attention_out_bias, out);
}

static size_t state(const void *own, plx_state_part *parts)
{
    const nexus_layer *layer = own;
    size_t count = part_count(layer), n = 0, width = layer->kv_heads * layer->head_dim;
    parts[n++] = plx_attend_state(width, layer->window); /* values */
    for (int i = QUERY; i <= KEY && layer->inner != REPROJECT; i++) {
        size_t each = !layer->branch[i].refined ? 0 : layer->inner == SELF ? layer->order : 2;
        for (size_t j = 0; j < each; j++)
            parts[n++] = plx_attend_state(layer->branch[i].heads * layer->head_dim, layer->window);
    }
    while (n < count) parts[n++] = plx_attend_state(width, layer->window); /* keys of the outer attentions */
    return n;
}

/* ---- the mixer ---- */

/* A gate at 0 leaves queries and keys as they were projected. */
static int begin_as(json_t *object, const json_t *old, const plx_layer_shape *shape, const char **why)
{
    (void)shape;
    int same = plx_attend_begin_window(object, old);
    if (same < 0) return -1;
    if (json_object_get(object, "gate") == NULL && json_object_set_new(object, "gate", json_string("scalar")) != 0)
        return -1;
    const char *gate = json_string_value(json_object_get(object, "gate"));
    *why = !same                                         ? "its window, or the old layer's kind, is another"
           : gate == NULL || strcmp(gate, "scalar") != 0 ? "without a gate its queries and keys are refined at once"
                                                         : NULL;
    return 0;
}

static const plx_op *const ops[] = {&plx_op_nexus_gate_forward, &plx_op_nexus_gate_backward, NULL};

#define NEXUS(keys) "{\"mixer\": \"nexus\"" keys "}"
#define SELF_CASE ", \"inner\": \"self\""
#define OWN_CASE ", \"inner\": \"own\""
#define GATED ", \"gate\": \"scalar\""
#define NORMED ", \"qk_norm\": true"
#define BIASED ", \"attention_bias\": true"
#define GROUPS(n) ", \"num_key_value_heads\": " #n
#define ORDER(n) ", \"order\": " #n
#define WINDOW(n) ", \"window\": " #n
#define ONLY(branch) ", \"branches\": \"" #branch "\""
static const char *const cases[] = {
    NEXUS(""),
    NEXUS(ORDER(1) GATED),
    NEXUS(ORDER(3) GATED NORMED GROUPS(2) WINDOW(5) BIASED),
    NEXUS(ORDER(3) GROUPS(1) ", \"attention_out_bias\": true, \"rope\": false"),
    NEXUS(ORDER(3) ONLY(q) GATED WINDOW(1)),
    NEXUS(ORDER(3) ONLY(q) NORMED GROUPS(2)),
    NEXUS(ORDER(3) ONLY(k) GATED BIASED ", \"attention_out_bias\": true"),
    NEXUS(ONLY(k) NORMED WINDOW(7)),
    NEXUS(SELF_CASE),
    NEXUS(SELF_CASE ORDER(1)),
    NEXUS(SELF_CASE ORDER(3) GATED NORMED GROUPS(2) WINDOW(5)),
    NEXUS(SELF_CASE ORDER(4) ONLY(q) NORMED BIASED),
    NEXUS(SELF_CASE ORDER(3) ONLY(k) GATED GROUPS(1)),
    NEXUS(OWN_CASE),
    NEXUS(OWN_CASE GATED NORMED GROUPS(2) WINDOW(5) BIASED),
    NEXUS(OWN_CASE ONLY(q) NORMED GROUPS(1)),
    NEXUS(OWN_CASE ONLY(k) GATED ", \"num_attention_heads\": 3, \"head_dim\": 9"),
    NULL};

extern const struct plx_bench_case *const plx_nexus_bench[]; /* bench.c */

const plx_mixer plx_mixer_nexus = {
    .name = "nexus",
    .summary = "higher-order attention: queries and keys are made from what an inner attention has gathered",
    .layer_size = sizeof(nexus_layer),
    .parse = parse,
    .describe = describe,
    .params = params,
    .forward = plx_nexus_forward,
    .backward = plx_nexus_backward,
    .step = plx_nexus_forward,
    .state = state,
    .begin_as = begin_as,
    .ops = ops,
    .cases = cases,
    .bench = plx_nexus_bench,
};
