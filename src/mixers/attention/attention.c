/* attention.c - softmax attention, the baseline mixer: y = attention(rope(norm(x Wq)), rope(norm(x Wk)), x Wv) Wo.
 *
 * The options (window, grouped heads, partial RoPE, biases, QK norm) are in README.md. The step is the forward with
 * keys and values appended to the state. */
#include "mixers/attention/attend.h"

typedef struct attention_layer {
    size_t hidden, heads, kv_heads, head_dim, window;
    plx_linear q, k, v, o;
    plx_turn q_turn, k_turn;
    /* kept by forward */
    void *q_raw, *k_raw; /* before the norm */
    plx_norm_saved q_norm, k_norm;
    plx_attend attend;
} attention_layer;

static plx_status parse(plx_keys *keys, const plx_layer_shape *shape, void *own)
{
    attention_layer *layer = own;
    layer->hidden = shape->hidden;
    layer->heads = shape->heads;
    layer->kv_heads = shape->kv_heads;
    layer->head_dim = shape->head_dim;
    return plx_attend_parse_window(keys, &layer->window);
}

static int describe(const void *own, json_t *object)
{
    return plx_attend_describe_window(((const attention_layer *)own)->window, object);
}

static plx_status params(plx_params *list, const plx_layer_shape *shape, void *own)
{
    attention_layer *layer = own;
    const size_t D = shape->hidden, queries = shape->heads * shape->head_dim, keys = shape->kv_heads * shape->head_dim;
    plx_init in = plx_init_matrix(shape, D, false), out = plx_init_matrix(shape, queries, true);
    PLX_TRY(plx_linear_define(list, &layer->q, "mixer.q_proj", D, queries, shape->attention_bias, in));
    PLX_TRY(plx_linear_define(list, &layer->k, "mixer.k_proj", D, keys, shape->attention_bias, in));
    PLX_TRY(plx_linear_define(list, &layer->v, "mixer.v_proj", D, keys, shape->attention_bias, in));
    PLX_TRY(plx_linear_define(list, &layer->o, "mixer.o_proj", queries, D, shape->attention_out_bias, out));
    PLX_TRY(plx_turn_define(list, shape, &layer->q_turn, "mixer.q_norm"));
    return plx_turn_define(list, shape, &layer->k_turn, "mixer.k_norm");
}

/* *turned = rope(norm(raw)), in raw's place when no norm needs it again. */
static plx_status turn(plx_run *run, const plx_linear *linear, const plx_turn *turn, void *raw, void **turned,
                       plx_norm_saved *norm)
{
    *turned = raw;
    if (turn->normed) PLX_TRY(plx_kept(run, run->tokens * linear->out, turned));
    return plx_turn_forward(run, turn, linear->out / turn->head_dim, raw, *turned, norm);
}

static plx_status forward(plx_run *run, void *own, const void *x, void *y)
{
    attention_layer *layer = own;
    const size_t width = layer->kv_heads * layer->head_dim;
    size_t mark = plx_mark(run), part = 0;
    void *q, *k, *v;
    plx_history keys, values;
    PLX_TRY(plx_kept(run, run->tokens * layer->q.out, &layer->q_raw));
    PLX_TRY(plx_kept(run, run->tokens * width, &layer->k_raw));
    PLX_TRY(plx_kept(run, run->tokens * width, &v));
    const plx_linear *const linears[] = {&layer->q, &layer->k, &layer->v};
    PLX_TRY(plx_linears_forward(run, linears, 3, x, run->tokens, (void *const[]){layer->q_raw, layer->k_raw, v}));
    PLX_TRY(turn(run, &layer->q, &layer->q_turn, layer->q_raw, &q, &layer->q_norm));
    PLX_TRY(turn(run, &layer->k, &layer->k_turn, layer->k_raw, &k, &layer->k_norm));
    PLX_TRY(plx_attend_history(run, k, width, &part, &keys));
    PLX_TRY(plx_attend_history(run, v, width, &part, &values));
    layer->attend = (plx_attend){.heads = layer->heads, .kv_heads = layer->kv_heads, .head_dim = layer->head_dim,
                                 .window = layer->window, .q = q, .k = k, .v = v};
    PLX_TRY(plx_attend_forward(run, &layer->attend, &keys, &values));
    PLX_TRY(plx_linear_forward(run, &layer->o, layer->attend.out, run->tokens, y));
    plx_release(run, mark);
    return PLX_OK;
}

static plx_status backward(plx_run *run, void *own, const void *x, const void *dy, void *dx)
{
    attention_layer *layer = own;
    const size_t n = run->tokens, queries = layer->heads * layer->head_dim, width = layer->kv_heads * layer->head_dim;
    size_t mark = plx_mark(run);
    void *dout, *dq, *dk, *dv;
    PLX_TRY(plx_scratch(run, n * queries, &dout));
    PLX_TRY(plx_scratch(run, n * queries, &dq));
    PLX_TRY(plx_scratch(run, n * width, &dk));
    PLX_TRY(plx_scratch(run, n * width, &dv));
    PLX_TRY(plx_linear_backward(run, &layer->o, layer->attend.out, dy, n, dout, false));
    PLX_TRY(plx_attend_backward(run, &layer->attend, dout, dq, dk, dv));
    PLX_TRY(plx_turn_backward(run, &layer->q_turn, layer->heads, &layer->q_norm, layer->q_raw, dq));
    PLX_TRY(plx_turn_backward(run, &layer->k_turn, layer->kv_heads, &layer->k_norm, layer->k_raw, dk));
    const plx_linear *const linears[] = {&layer->q, &layer->k, &layer->v};
    PLX_TRY(plx_linears_backward(run, linears, 3, x, (const void *const[]){dq, dk, dv}, n, dx, false));
    plx_release(run, mark);
    return PLX_OK;
}

static size_t state(const void *own, plx_state_part *parts)
{
    const attention_layer *layer = own;
    parts[0] = parts[1] = plx_attend_state(layer->kv_heads * layer->head_dim, layer->window);
    return 2;
}

static int begin_as(json_t *object, const json_t *old, const plx_layer_shape *shape, const char **why)
{
    (void)shape;
    int same = plx_attend_begin_window(object, old);
    *why = same > 0 ? NULL : "texts longer than the window, or the layer's kind, make a difference";
    return same < 0 ? -1 : 0;
}

static const plx_op *const ops[] = {&plx_op_attention_forward, &plx_op_attention_backward, NULL};

static const char *const cases[] = {
    "{\"mixer\": \"attention\"}",
    "{\"mixer\": \"attention\", \"window\": 5}",
    "{\"mixer\": \"attention\", \"window\": 1, \"rope\": false}",
    "{\"mixer\": \"attention\", \"num_key_value_heads\": 2, \"attention_bias\": true, \"attention_out_bias\": true}",
    "{\"mixer\": \"attention\", \"num_key_value_heads\": 1, \"qk_norm\": true, \"window\": 7}",
    "{\"mixer\": \"attention\", \"num_attention_heads\": 3, \"head_dim\": 9, \"qk_norm\": true}",
    NULL};

extern const struct plx_bench_case *const plx_attention_bench[]; /* bench.c */

const plx_mixer plx_mixer_attention = {
    .name = "attention",
    .summary = "softmax attention: each token takes an average of the values of earlier tokens",
    .layer_size = sizeof(attention_layer),
    .parse = parse,
    .describe = describe,
    .params = params,
    .forward = forward,
    .backward = backward,
    .step = forward,
    .state = state,
    .begin_as = begin_as,
    .ops = ops,
    .cases = cases,
    .bench = plx_attention_bench,
};
