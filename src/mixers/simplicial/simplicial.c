/* simplicial.c - the 2-simplicial mixer: attention over pairs of earlier tokens.
 *
 *     q, k, v, k2, v2 = x W^T [+ b]      q, k: [RMSNorm a head]      [RoPE]
 *     o = sum over pairs (i,j) of softmax(A) (v_i * v2'_j)           simplicial_ops.h
 *     y = o Wo^T [+ bo]
 * Options are explained in README.md. */
#include "mixers/attention/attend.h"
#include "mixers/simplicial/simplicial_ops.h"

#include <math.h>
#include <string.h>

enum { Q, K, V, K2, V2, ROLES };

/* One projection of x and what is done to it. */
typedef struct role {
    plx_linear linear;
    size_t heads;
    plx_turn turn;          /* norm and RoPE, where it has them */
    /* kept by forward */
    void *raw;              /* before the norm; where there is none, value itself */
    void *value;            /* [tokens, heads, head_dim] */
    plx_norm_saved norm_saved;
} role;

typedef struct simplicial {
    size_t window1, window2; /* window1 0: no limit */
    double bias_k, bias_v;
    int form, position;      /* indices in the choices below */
    size_t head_dim;
    role roles[ROLES];
    plx_linear output;
    void *mixed, *lse;       /* kept by forward */
} simplicial;

static const char *const form_names[] = {"trilinear", "det"};
static const char *const position_names[] = {"none", "rope"};
enum { POSITION_NONE, POSITION_ROPE };
/* A window is stored with 32-bit token indices; anything beyond a sequence is the same as no limit. */
#define WINDOW_MOST ((size_t)1 << 30)
#define BIAS_MOST 1e6

/* 0 where the node is no window. */
static size_t window_of(const plx_node *node)
{
    bool whole = node->kind == PLX_NODE_NUMBER && node->number >= 1 && node->number <= (double)WINDOW_MOST &&
                 node->number == floor(node->number);
    return whole ? (size_t)node->number : 0;
}

static plx_status parse_window(plx_keys *keys, simplicial *layer)
{
    const plx_node *node = plx_keys_node(keys, "window");
    if (node == NULL) return PLX_OK;
    if (node->kind != PLX_NODE_LIST || node->count != 2)
        return plx_keys_fail(keys, "window", "must be a list of two windows, [w1, w2]");
    const plx_node *first = node->child, *second = first->next;
    layer->window1 = first->kind == PLX_NODE_NULL ? 0 : window_of(first);
    layer->window2 = window_of(second);
    if (first->kind != PLX_NODE_NULL && layer->window1 == 0)
        return plx_keys_fail(keys, "window", "w1 must be a whole number from 1 to %zu, or null for no limit",
                             WINDOW_MOST);
    if (layer->window2 == 0)
        return plx_keys_fail(keys, "window", "w2 must be a whole number from 1 to %zu", WINDOW_MOST);
    return PLX_OK;
}

static plx_status parse_bias(plx_keys *keys, simplicial *layer)
{
    const plx_node *node = plx_keys_node(keys, "bias");
    if (node == NULL) return PLX_OK;
    bool pair = node->kind == PLX_NODE_LIST && node->count == 2;
    for (const plx_node *n = pair ? node->child : NULL; n != NULL; n = n->next)
        pair &= n->kind == PLX_NODE_NUMBER && fabs(n->number) <= BIAS_MOST;
    if (!pair) return plx_keys_fail(keys, "bias", "must be a list of two numbers, [of k2, of v2]");
    layer->bias_k = node->child->number;
    layer->bias_v = node->child->next->number;
    return PLX_OK;
}

static plx_status parse(plx_keys *keys, const plx_layer_shape *shape, void *own)
{
    simplicial *layer = own;
    layer->window1 = 512;
    layer->window2 = 32;
    PLX_TRY(parse_window(keys, layer));
    PLX_TRY(parse_bias(keys, layer));
    PLX_TRY(plx_keys_choice(keys, "form", "trilinear|det", &layer->form));
    PLX_TRY(plx_keys_choice(keys, "position", "none|rope", &layer->position));
    if (layer->form == PLX_SIMPLICIAL_DET && shape->head_dim < 3)
        return plx_keys_fail(keys, "form", "det needs a head_dim of 3 or more, not %zu", shape->head_dim);
    return PLX_OK;
}

static int describe(const void *own, json_t *object)
{
    const simplicial *layer = own;
    json_t *window = layer->window1 == 0 ? json_pack("[nI]", (json_int_t)layer->window2)
                                         : json_pack("[II]", (json_int_t)layer->window1, (json_int_t)layer->window2);
    int failed = json_object_set_new(object, "window", window);
    failed |= json_object_set_new(object, "bias", json_pack("[ff]", layer->bias_k, layer->bias_v));
    failed |= json_object_set_new(object, "form", json_string(form_names[layer->form]));
    failed |= json_object_set_new(object, "position", json_string(position_names[layer->position]));
    return failed;
}

/* Norm and RoPE of q, k and k2: q and k as in attention; det turns whole chunks of three, in k2 too, so that its
 * logit stays a determinant. */
static plx_status define_turns(plx_params *params, const plx_layer_shape *shape, simplicial *layer)
{
    bool rope = layer->position == POSITION_ROPE, det = layer->form == PLX_SIMPLICIAL_DET;
    plx_layer_shape own = *shape;
    own.rope = rope && !det;
    for (int i = 0; i < ROLES; i++) layer->roles[i].turn = (plx_turn){.head_dim = shape->head_dim};
    PLX_TRY(plx_turn_define(params, &own, &layer->roles[Q].turn, "mixer.q_norm"));
    PLX_TRY(plx_turn_define(params, &own, &layer->roles[K].turn, "mixer.k_norm"));
    if (!rope || !det) return PLX_OK;
    const plx_rope *chunks;
    PLX_TRY(plx_params_rope(params, shape, PLX_ROPE_CHUNKS, shape->head_dim / 3, &chunks));
    layer->roles[Q].turn.rope = layer->roles[K].turn.rope = layer->roles[K2].turn.rope = chunks;
    return PLX_OK;
}

static plx_status define(plx_params *params, const plx_layer_shape *shape, void *own)
{
    static const char *const names[ROLES] = {"mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.k2_proj",
                                             "mixer.v2_proj"};
    simplicial *layer = own;
    /* The logit is a product of three: from normal(0, .02) it starts too small to learn, whatever the model's init. */
    const plx_init init = {PLX_INIT_NORMAL, 1 / sqrt((double)shape->hidden)};
    layer->head_dim = shape->head_dim;
    for (int i = 0; i < ROLES; i++) {
        role *r = &layer->roles[i];
        r->heads = i == Q ? shape->heads : shape->kv_heads;
        PLX_TRY(plx_linear_define(params, &r->linear, names[i], shape->hidden, r->heads * shape->head_dim,
                                  shape->attention_bias, init));
    }
    size_t width = shape->heads * shape->head_dim;
    PLX_TRY(plx_linear_define(params, &layer->output, "mixer.o_proj", width, shape->hidden, shape->attention_out_bias,
                              plx_init_matrix(shape, width, true)));
    return define_turns(params, shape, layer);
}

/* The roles' values from x. */
static plx_status roles_forward(plx_run *run, simplicial *layer, const void *x)
{
    const plx_linear *linears[ROLES];
    void *raw[ROLES];
    for (int i = 0; i < ROLES; i++) {
        role *r = &layer->roles[i];
        PLX_TRY(plx_kept(run, run->tokens * r->linear.out, &r->raw));
        linears[i] = &r->linear;
        raw[i] = r->raw;
    }
    PLX_TRY(plx_linears_forward(run, linears, ROLES, x, run->tokens, raw));
    for (int i = 0; i < ROLES; i++) {
        role *r = &layer->roles[i];
        r->value = r->raw;
        if (r->turn.normed) PLX_TRY(plx_kept(run, run->tokens * r->linear.out, &r->value));
        PLX_TRY(plx_turn_forward(run, &r->turn, r->heads, r->raw, r->value, &r->norm_saved));
    }
    return PLX_OK;
}

/* dvalues: the gradients for the values; overwritten. */
static plx_status roles_backward(plx_run *run, simplicial *layer, const void *x, void *const dvalues[ROLES], void *dx)
{
    const plx_linear *linears[ROLES];
    const void *draw[ROLES];
    for (int i = 0; i < ROLES; i++) {
        role *r = &layer->roles[i];
        PLX_TRY(plx_turn_backward(run, &r->turn, r->heads, &r->norm_saved, r->raw, dvalues[i]));
        linears[i] = &r->linear;
        draw[i] = dvalues[i];
    }
    return plx_linears_backward(run, linears, ROLES, x, draw, run->tokens, dx, false);
}

static plx_simplicial_problem problem_of(const plx_run *run, const simplicial *layer,
                                         const plx_history histories[ROLES])
{
    return (plx_simplicial_problem){
        .type = run->type, .sequence = plx_run_sequence(run),
        .heads = layer->roles[Q].heads, .kv_heads = layer->roles[K].heads, .head_dim = layer->head_dim,
        .window1 = layer->window1, .window2 = layer->window2, .form = (plx_simplicial_form)layer->form,
        .scale = 1 / sqrt((double)layer->head_dim), .bias_k = layer->bias_k, .bias_v = layer->bias_v,
        .bf16 = run->bf16,
        .q = layer->roles[Q].value,
        .k = histories[K], .v = histories[V], .k2 = histories[K2], .v2 = histories[V2],
    };
}

/* Forward over whole rows, and step: they differ only in where keys and values lie. */
static plx_status forward(plx_run *run, void *own, const void *x, void *y)
{
    simplicial *layer = own;
    plx_history histories[ROLES] = {0};
    size_t mark = plx_mark(run);
    PLX_TRY(plx_kept(run, run->tokens * layer->output.in, &layer->mixed));
    layer->lse = NULL;
    if (run->keep) PLX_TRY(plx_saved(run, run->tokens * layer->roles[Q].heads, &layer->lse));
    size_t part = 0;
    PLX_TRY(roles_forward(run, layer, x));
    for (int i = K; i < ROLES; i++) {
        const role *r = &layer->roles[i];
        PLX_TRY(plx_attend_history(run, r->value, r->linear.out, &part, &histories[i]));
    }
    plx_simplicial_forward_args args = {
        .problem = problem_of(run, layer, histories), .out = layer->mixed, .lse = layer->lse};
    PLX_TRY(plx_run_op(run, &plx_op_simplicial_forward, &args));
    PLX_TRY(plx_linear_forward(run, &layer->output, layer->mixed, run->tokens, y));
    plx_release(run, mark);
    return PLX_OK;
}

static plx_status backward(plx_run *run, void *own, const void *x, const void *dy, void *dx)
{
    simplicial *layer = own;
    plx_history histories[ROLES] = {0};
    void *dmixed, *dvalues[ROLES];
    size_t mark = plx_mark(run);
    PLX_TRY(plx_scratch(run, run->tokens * layer->output.in, &dmixed));
    PLX_TRY(plx_linear_backward(run, &layer->output, layer->mixed, dy, run->tokens, dmixed, false));
    for (int i = 0; i < ROLES; i++) {
        role *r = &layer->roles[i];
        PLX_TRY(plx_scratch(run, run->tokens * r->linear.out, &dvalues[i]));
        if (i != Q) histories[i] = plx_run_history(run, r->value, r->linear.out);
    }
    plx_simplicial_backward_args args = {
        .problem = problem_of(run, layer, histories), .out = layer->mixed, .lse = layer->lse, .dout = dmixed,
        .dq = dvalues[Q], .dk = dvalues[K], .dv = dvalues[V], .dk2 = dvalues[K2], .dv2 = dvalues[V2],
    };
    PLX_TRY(plx_run_op(run, &plx_op_simplicial_backward, &args));
    PLX_TRY(roles_backward(run, layer, x, dvalues, dx));
    plx_release(run, mark);
    return PLX_OK;
}

static size_t state(const void *own, plx_state_part *parts)
{
    const simplicial *layer = own;
    for (int i = K; i < ROLES; i++) {
        parts[i - K] = plx_attend_state(layer->roles[i].heads * layer->head_dim,
                                        i == K || i == V ? layer->window1 : layer->window2);
        parts[i - K].packable = false;
    }
    return ROLES - K;
}

/* The value of a key, set to `open` (taken over) when it is left open; NULL when memory is short. */
static const json_t *given_or(json_t *object, const char *key, json_t *open)
{
    if (json_object_get(object, key) == NULL && json_object_set(object, key, open) != 0) open = NULL;
    const json_t *value = open != NULL ? json_object_get(object, key) : NULL;
    json_decref(open);
    return value;
}

/* With k2 and v2 projections of 0 and biases of 1, k' and v' are 1: each pair's logit is the attention logit of its j, the
 * softmax over pairs that of attention times a uniform one over k. */
static int begin_as(json_t *object, const json_t *old, const plx_layer_shape *shape, const char **why)
{
    json_t *window1 = json_object_get(old, "window"), *wanted_bias = json_pack("[ff]", 1.0, 1.0);
    const char *kind = json_string_value(json_object_get(old, "mixer")),
               *wanted_position = position_names[shape->rope ? POSITION_ROPE : POSITION_NONE];
    const json_t *window = given_or(object, "window", json_pack("[O?I]", window1, (json_int_t)32));
    const json_t *position = given_or(object, "position", json_string(wanted_position));
    const json_t *form = given_or(object, "form", json_string(form_names[PLX_SIMPLICIAL_TRILINEAR]));
    const json_t *bias = given_or(object, "bias", json_incref(wanted_bias));
    if (window == NULL || position == NULL || form == NULL || bias == NULL) {
        json_decref(wanted_bias);
        return -1;
    }
    *why = NULL;
    if (kind == NULL || strcmp(kind, "attention") != 0) *why = "the old layer is no attention";
    else if (!json_equal(json_array_get(window, 0), window1)) *why = "its first window is another";
    else if (!json_is_string(form) || strcmp(json_string_value(form), form_names[PLX_SIMPLICIAL_TRILINEAR]) != 0)
        *why = "only the form trilinear can";
    else if (!json_is_string(position) || strcmp(json_string_value(position), wanted_position) != 0)
        *why = "its positions are another's";
    else if (json_array_size(bias) != 2 || json_number_value(json_array_get(bias, 0)) != 1 ||
             json_number_value(json_array_get(bias, 1)) != 1)
        *why = "only the bias [1, 1] can";
    json_decref(wanted_bias);
    return 0;
}
static const char *const begin_zero[] = {"mixer.k2_proj.*", "mixer.v2_proj.*", NULL};

static const plx_op *const ops[] = {&plx_op_simplicial_forward, &plx_op_simplicial_backward, NULL};

#define CASE(keys) "{\"mixer\": \"simplicial\"" keys "}"
static const char *const cases[] = {
    CASE(""),
    CASE(", \"window\": [5, 3], \"bias\": [0.25, 1.0]"),
    CASE(", \"window\": [null, 2], \"position\": \"rope\""),
    CASE(", \"window\": [1, 1], \"bias\": [-0.5, 0.5]"),
    CASE(", \"window\": [1, 4], \"num_key_value_heads\": 2"),
    CASE(", \"window\": [6, 1], \"num_key_value_heads\": 1"),
    CASE(", \"window\": [1000, 1000], \"num_key_value_heads\": 2, \"bias\": [1.0, 1.0], \"position\": \"rope\""),
    CASE(", \"window\": [7, 4], \"qk_norm\": true, \"attention_bias\": true, \"attention_out_bias\": true"),
    CASE(", \"window\": [7, 4], \"position\": \"rope\", \"qk_norm\": true, \"attention_bias\": true, "
         "\"num_key_value_heads\": 2"),
    CASE(", \"window\": [6, 3], \"form\": \"det\""),
    CASE(", \"window\": [6, 3], \"form\": \"det\", \"position\": \"rope\", \"num_key_value_heads\": 2"),
    CASE(", \"window\": [null, 5], \"form\": \"det\", \"bias\": [0.5, -0.25], \"position\": \"rope\", "
         "\"head_dim\": 8, \"num_attention_heads\": 3, \"num_key_value_heads\": 1, \"qk_norm\": true, "
         "\"attention_bias\": true"),
    NULL,
};

extern const struct plx_bench_case *const plx_simplicial_bench[]; /* bench.c */

const plx_mixer plx_mixer_simplicial = {
    .name = "simplicial",
    .summary = "2-simplicial attention: one softmax over pairs of earlier tokens",
    .layer_size = sizeof(simplicial),
    .parse = parse,
    .describe = describe,
    .params = define,
    .forward = forward,
    .backward = backward,
    .step = forward,
    .state = state,
    .begin_as = begin_as,
    .begin_zero = begin_zero,
    .ops = ops,
    .cases = cases,
    .bench = plx_simplicial_bench,
};
