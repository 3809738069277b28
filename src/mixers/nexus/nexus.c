/* nexus.c - higher-order attention: queries and keys are made from what an inner attention has gathered.
 *
 * Words used here. A branch is the query side or the key side. Its role at level i (0: the plain projection, up to
 * order - 1) goes through: refined -> gate -> raw -> QK norm, RoPE -> turned. Only turned roles meet in an attention.
 *     reproject   level i of both branches is made from the whole layer's output at level i - 1
 *     self, own   each refined branch has inner attentions of its own; one outer attention closes the layer
 * The values of the outer attentions are those of x at every level. The step is the forward with keys and values
 * appended to the state, in the order of `state`. */
#include "mixers/attention/attend.h"
#include "mixers/nexus/nexus_ops.h"

#include <stdio.h>
#include <string.h>

#define LEVELS PLX_STATE_PARTS_MAX /* every level keeps at least one part, or shares all of them */

enum { QUERY, KEY };
enum { REPROJECT, SELF, OWN };
static const char *const inner_names[] = {"reproject", "self", "own"}, *const branch_names[] = {"qk", "q", "k"};

typedef struct role {
    void *refined; /* before the gate */
    void *raw;     /* after it, before the norm */
    void *turned;
    plx_norm_saved norm;
} role;

typedef struct branch {
    size_t heads;
    bool refined;
    bool projected;      /* has q_proj or k_proj */
    plx_linear linear;
    plx_linear inner[3]; /* own: query, key, value */
    plx_param *gate;     /* NULL: none */
    plx_turn turn;
    /* kept by forward */
    role roles[LEVELS];
    role inner_roles[2];       /* own: query and key of its attention */
    plx_attend attends[LEVELS]; /* self: that of level i makes level i + 1 */
} branch;

typedef struct nexus_layer {
    size_t hidden, heads, kv_heads, head_dim, window, order;
    int branches, inner;
    bool gated;
    branch branch[2];
    plx_linear v, o;
    /* kept by forward */
    void *values;
    plx_attend attends[LEVELS];  /* outer: reproject, one a level; else the first alone */
    void *outputs[LEVELS];       /* reproject: of the levels before the last */
} nexus_layer;

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
    if (part_count(layer) > PLX_STATE_PARTS_MAX)
        return plx_keys_fail(
            keys, "order", "order %zu needs %zu tensors of decoding state a layer, more than the %d that there may be",
            layer->order, part_count(layer), PLX_STATE_PARTS_MAX);
    return PLX_OK;
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

/* ---- forward ---- */

static plx_attend attend_of(const nexus_layer *layer, size_t heads, size_t kv_heads, const void *q, const void *k,
                            const void *v)
{
    return (plx_attend){.heads = heads, .kv_heads = kv_heads, .head_dim = layer->head_dim, .window = layer->window,
                        .q = q, .k = k, .v = v};
}

/* From r->refined on: gate (level > 0 of a gated branch), norm, RoPE. With keep_raw, raw is needed unturned. */
static plx_status make_role(plx_run *run, const plx_turn *turn, size_t heads, const plx_param *gate, const void *base,
                            bool keep_raw, role *r)
{
    const size_t count = run->tokens * heads * turn->head_dim;
    r->raw = r->refined;
    if (gate != NULL) {
        PLX_TRY(plx_kept(run, count, &r->raw));
        plx_nexus_gate_args args = {.type = run->type, .gate_type = gate->type, .count = count, .base = base,
                                    .refined = r->refined, .gate = gate->data, .out = r->raw};
        PLX_TRY(plx_run_op(run, &plx_op_nexus_gate_forward, &args));
    }
    r->turned = r->raw;
    if (keep_raw || turn->normed) PLX_TRY(plx_kept(run, count, &r->turned));
    return plx_turn_forward(run, turn, heads, r->raw, r->turned, &r->norm);
}

/* The branch's role at a level from the input of its projection (x at level 0, else the layer's output). */
static plx_status project_role(plx_run *run, branch *b, size_t level, const void *input)
{
    role *r = &b->roles[level];
    PLX_TRY(plx_kept(run, run->tokens * b->linear.out, &r->refined));
    PLX_TRY(plx_linear_forward(run, &b->linear, input, run->tokens, r->refined));
    bool is_base = level == 0 && b->gate != NULL; /* of the gates to come, which take it unturned */
    return make_role(run, &b->turn, b->heads, level > 0 ? b->gate : NULL, b->roles[0].raw, is_base, r);
}

static plx_status reproject_forward(plx_run *run, nexus_layer *layer, const void *x, const plx_history *values,
                                    size_t *part, void *y)
{
    const size_t last = layer->order - 1, width = layer->kv_heads * layer->head_dim;
    plx_history keys;
    const role *roles[2] = {NULL, NULL};
    for (size_t level = 0; level <= last; level++) {
        for (int i = QUERY; i <= KEY; i++) {
            branch *b = &layer->branch[i];
            if (level > 0 && !b->refined) continue;
            PLX_TRY(project_role(run, b, level, level == 0 ? x : layer->outputs[level - 1]));
            roles[i] = &b->roles[level];
            if (i == KEY) PLX_TRY(plx_attend_history(run, roles[i]->turned, width, part, &keys));
        }
        plx_attend *attend = &layer->attends[level];
        const void *q = roles[QUERY]->turned, *k = roles[KEY]->turned;
        *attend = attend_of(layer, layer->heads, layer->kv_heads, q, k, layer->values);
        PLX_TRY(plx_attend_forward(run, attend, &keys, values));
        if (level < last) PLX_TRY(plx_kept(run, run->tokens * layer->hidden, &layer->outputs[level]));
        PLX_TRY(plx_linear_forward(run, &layer->o, attend->out, run->tokens, level < last ? layer->outputs[level] : y));
    }
    return PLX_OK;
}

/* Levels 1 .. order - 1 of a branch that attends over itself: level 0 are the values of all of them. */
static plx_status self_forward(plx_run *run, const nexus_layer *layer, branch *b, const void *x, size_t *part)
{
    const size_t width = b->heads * layer->head_dim;
    plx_history keys, values;
    role *first = &b->roles[0];
    PLX_TRY(plx_kept(run, run->tokens * width, &first->refined));
    PLX_TRY(plx_linear_forward(run, &b->linear, x, run->tokens, first->refined));
    PLX_TRY(make_role(run, &b->turn, b->heads, NULL, NULL, true, first));
    PLX_TRY(plx_attend_history(run, first->raw, width, part, &values));
    for (size_t level = 1; level < layer->order; level++) {
        const void *turned = b->roles[level - 1].turned;
        plx_attend *attend = &b->attends[level - 1];
        PLX_TRY(plx_attend_history(run, turned, width, part, &keys));
        *attend = attend_of(layer, b->heads, b->heads, turned, turned, first->raw);
        PLX_TRY(plx_attend_forward(run, attend, &keys, &values));
        b->roles[level].refined = attend->out; /* which backward needs as it is, so it is not turned in place */
        PLX_TRY(make_role(run, &b->turn, b->heads, b->gate, first->raw, b->gate == NULL, &b->roles[level]));
    }
    return PLX_OK;
}

/* Level 1 of a branch whose inner attention has projections of its own, turned as the layer's queries and keys are. */
static plx_status own_forward(plx_run *run, nexus_layer *layer, branch *b, const void *x, size_t *part)
{
    const size_t width = b->heads * layer->head_dim;
    plx_history keys, values;
    void *v;
    for (int i = QUERY; i <= KEY; i++) {
        PLX_TRY(plx_kept(run, run->tokens * width, &b->inner_roles[i].refined));
        PLX_TRY(plx_linear_forward(run, &b->inner[i], x, run->tokens, b->inner_roles[i].refined));
        PLX_TRY(make_role(run, &layer->branch[i].turn, b->heads, NULL, NULL, false, &b->inner_roles[i]));
    }
    PLX_TRY(plx_kept(run, run->tokens * width, &v));
    PLX_TRY(plx_linear_forward(run, &b->inner[2], x, run->tokens, v));
    PLX_TRY(plx_attend_history(run, b->inner_roles[KEY].turned, width, part, &keys));
    PLX_TRY(plx_attend_history(run, v, width, part, &values));
    const void *q = b->inner_roles[QUERY].turned, *k = b->inner_roles[KEY].turned;
    b->attends[0] = attend_of(layer, b->heads, b->heads, q, k, v);
    PLX_TRY(plx_attend_forward(run, &b->attends[0], &keys, &values));
    if (b->gate != NULL) { /* level 0 is only the base of the gate: never turned */
        PLX_TRY(plx_kept(run, run->tokens * width, &b->roles[0].raw));
        PLX_TRY(plx_linear_forward(run, &b->linear, x, run->tokens, b->roles[0].raw));
    }
    b->roles[1].refined = b->attends[0].out;
    return make_role(run, &b->turn, b->heads, b->gate, b->roles[0].raw, b->gate == NULL, &b->roles[1]);
}

static plx_status branches_forward(plx_run *run, nexus_layer *layer, const void *x, const plx_history *values,
                                   size_t *part, void *y)
{
    const void *turned[2];
    plx_history keys;
    for (int i = QUERY; i <= KEY; i++) {
        branch *b = &layer->branch[i];
        if (!b->refined) PLX_TRY(project_role(run, b, 0, x));
        else if (layer->inner == SELF) PLX_TRY(self_forward(run, layer, b, x, part));
        else PLX_TRY(own_forward(run, layer, b, x, part));
        turned[i] = b->roles[b->refined ? layer->order - 1 : 0].turned;
    }
    plx_attend *attend = &layer->attends[0];
    PLX_TRY(plx_attend_history(run, turned[KEY], layer->kv_heads * layer->head_dim, part, &keys));
    *attend = attend_of(layer, layer->heads, layer->kv_heads, turned[QUERY], turned[KEY], layer->values);
    PLX_TRY(plx_attend_forward(run, attend, &keys, values));
    return plx_linear_forward(run, &layer->o, attend->out, run->tokens, y);
}

static plx_status forward(plx_run *run, void *own, const void *x, void *y)
{
    nexus_layer *layer = own;
    size_t mark = plx_mark(run), part = 0;
    plx_history values;
    PLX_TRY(plx_kept(run, run->tokens * layer->v.out, &layer->values));
    PLX_TRY(plx_linear_forward(run, &layer->v, x, run->tokens, layer->values));
    PLX_TRY(plx_attend_history(run, layer->values, layer->v.out, &part, &values));
    if (layer->inner == REPROJECT) PLX_TRY(reproject_forward(run, layer, x, &values, &part, y));
    else PLX_TRY(branches_forward(run, layer, x, &values, &part, y));
    plx_release(run, mark);
    return PLX_OK;
}

/* ---- backward ---- */

/* A gradient that several uses add to; the first one writes. */
typedef struct total { void *data; size_t count; bool begun; } total;

static plx_status total_open(plx_run *run, size_t count, total *sum)
{
    *sum = (total){.count = count};
    return plx_scratch(run, count, &sum->data);
}
static plx_status total_add(plx_run *run, total *sum, const void *d)
{
    if (sum->begun) return plx_run_add(run, sum->data, 1, d, 1, sum->data, sum->count);
    sum->begun = true;
    plx_run_copy(run, sum->data, d, sum->count);
    return PLX_OK;
}
/* dx of a linear, written by the first of the layer's projections and added to by the others. */
static plx_status into_x(plx_run *run, const plx_linear *linear, const void *x, const void *dy, total *dx)
{
    PLX_TRY(plx_linear_backward(run, linear, x, dy, run->tokens, dx->data, dx->begun));
    dx->begun = true;
    return PLX_OK;
}

/* d: in, the gradient for turned; out, that for refined. base gets what the gate lets through to level 0. */
static plx_status role_backward(plx_run *run, const branch *b, size_t level, void *d, total *base)
{
    const role *r = &b->roles[level];
    PLX_TRY(plx_turn_backward(run, &b->turn, b->heads, &r->norm, r->raw, d));
    if (level == 0 || b->gate == NULL) return PLX_OK;
    if (!base->begun) plx_run_zero(run, base->data, base->count);
    base->begun = true;
    plx_nexus_gate_backward_args args = {
        .type = run->type, .gate_type = b->gate->type, .count = base->count,
        .base = b->roles[0].raw, .refined = r->refined, .gate = b->gate->data, .dout = d,
        .drefined = d, .dbase = base->data, .dgate = b->gate->trainable ? b->gate->gradient : NULL};
    return plx_run_op(run, &plx_op_nexus_gate_backward, &args);
}

/* What backward works with: gradients of one outer attention (d[QUERY], d[KEY], dv) and sums over all of them. */
typedef struct gradients {
    void *dout, *d[2], *dv;
    total base[2];   /* of level 0: raw from gates and values of self, turned where the branch is not refined */
    total values, dx;
} gradients;

static plx_status reproject_backward(plx_run *run, nexus_layer *layer, const void *x, const void *dy, gradients *g)
{
    const size_t n = run->tokens;
    void *doutput = NULL; /* for the output of the level before */
    if (layer->order > 1) PLX_TRY(plx_scratch(run, n * layer->hidden, &doutput));
    for (size_t level = layer->order; level-- > 0;) {
        const plx_attend *attend = &layer->attends[level];
        const void *dlevel = level == layer->order - 1 ? dy : doutput;
        PLX_TRY(plx_linear_backward(run, &layer->o, attend->out, dlevel, n, g->dout, false));
        PLX_TRY(plx_attend_backward(run, attend, g->dout, g->d[QUERY], g->d[KEY], g->dv));
        PLX_TRY(total_add(run, &g->values, g->dv));
        bool begun = false;
        for (int i = QUERY; i <= KEY; i++) {
            branch *b = &layer->branch[i];
            total *base = &g->base[i];
            if (b->refined && level > 0) {
                PLX_TRY(role_backward(run, b, level, g->d[i], base));
                PLX_TRY(plx_linear_backward(run, &b->linear, layer->outputs[level - 1], g->d[i], n, doutput, begun));
                begun = true;
                continue;
            }
            /* base gathers raw gradients of a refined branch, turned ones of the other, whose role serves all levels */
            if (b->refined) PLX_TRY(role_backward(run, b, 0, g->d[i], base));
            PLX_TRY(total_add(run, base, g->d[i]));
            if (level > 0) continue;
            if (!b->refined) PLX_TRY(role_backward(run, b, 0, base->data, base));
            PLX_TRY(into_x(run, &b->linear, x, base->data, &g->dx));
        }
    }
    return PLX_OK;
}

/* d: the gradient for the last level's turned role, overwritten. */
static plx_status self_backward(plx_run *run, const nexus_layer *layer, const branch *b, const void *x, void *d,
                                gradients *g, total *base)
{
    size_t mark = plx_mark(run);
    void *dq, *dk, *dv;
    PLX_TRY(plx_scratch(run, base->count, &dq));
    PLX_TRY(plx_scratch(run, base->count, &dk));
    PLX_TRY(plx_scratch(run, base->count, &dv));
    for (size_t level = layer->order - 1; level > 0; level--) {
        PLX_TRY(role_backward(run, b, level, d, base));
        PLX_TRY(plx_attend_backward(run, &b->attends[level - 1], d, dq, dk, dv));
        PLX_TRY(total_add(run, base, dv));
        PLX_TRY(plx_run_add(run, dq, 1, dk, 1, d, base->count));
    }
    PLX_TRY(role_backward(run, b, 0, d, base));
    PLX_TRY(total_add(run, base, d));
    PLX_TRY(into_x(run, &b->linear, x, base->data, &g->dx));
    plx_release(run, mark);
    return PLX_OK;
}

static plx_status own_backward(plx_run *run, const nexus_layer *layer, const branch *b, const void *x, void *d,
                               gradients *g, total *base)
{
    size_t mark = plx_mark(run);
    void *inner[3];
    for (int i = 0; i < 3; i++) PLX_TRY(plx_scratch(run, base->count, &inner[i]));
    PLX_TRY(role_backward(run, b, 1, d, base));
    PLX_TRY(plx_attend_backward(run, &b->attends[0], d, inner[0], inner[1], inner[2]));
    for (int i = QUERY; i <= KEY; i++) {
        const role *r = &b->inner_roles[i];
        PLX_TRY(plx_turn_backward(run, &layer->branch[i].turn, b->heads, &r->norm, r->raw, inner[i]));
    }
    for (int i = 0; i < 3; i++) PLX_TRY(into_x(run, &b->inner[i], x, inner[i], &g->dx));
    if (b->gate != NULL) PLX_TRY(into_x(run, &b->linear, x, base->data, &g->dx));
    plx_release(run, mark);
    return PLX_OK;
}

static plx_status branches_backward(plx_run *run, nexus_layer *layer, const void *x, const void *dy, gradients *g)
{
    const plx_attend *attend = &layer->attends[0];
    PLX_TRY(plx_linear_backward(run, &layer->o, attend->out, dy, run->tokens, g->dout, false));
    PLX_TRY(plx_attend_backward(run, attend, g->dout, g->d[QUERY], g->d[KEY], g->dv));
    PLX_TRY(total_add(run, &g->values, g->dv));
    for (int i = QUERY; i <= KEY; i++) {
        const branch *b = &layer->branch[i];
        if (b->refined && layer->inner == SELF) PLX_TRY(self_backward(run, layer, b, x, g->d[i], g, &g->base[i]));
        else if (b->refined) PLX_TRY(own_backward(run, layer, b, x, g->d[i], g, &g->base[i]));
        else {
            PLX_TRY(role_backward(run, b, 0, g->d[i], &g->base[i]));
            PLX_TRY(into_x(run, &b->linear, x, g->d[i], &g->dx));
        }
    }
    return PLX_OK;
}

static plx_status backward(plx_run *run, void *own, const void *x, const void *dy, void *dx)
{
    nexus_layer *layer = own;
    const size_t queries = run->tokens * layer->o.in, keys = run->tokens * layer->v.out;
    size_t mark = plx_mark(run);
    gradients g = {.dx = {.data = dx, .count = run->tokens * layer->hidden}};
    PLX_TRY(plx_scratch(run, queries, &g.dout));
    PLX_TRY(plx_scratch(run, queries, &g.d[QUERY]));
    PLX_TRY(plx_scratch(run, keys, &g.d[KEY]));
    PLX_TRY(plx_scratch(run, keys, &g.dv));
    PLX_TRY(total_open(run, queries, &g.base[QUERY]));
    PLX_TRY(total_open(run, keys, &g.base[KEY]));
    PLX_TRY(total_open(run, keys, &g.values));
    if (layer->inner == REPROJECT) PLX_TRY(reproject_backward(run, layer, x, dy, &g));
    else PLX_TRY(branches_backward(run, layer, x, dy, &g));
    PLX_TRY(into_x(run, &layer->v, x, g.values.data, &g.dx));
    plx_release(run, mark);
    return PLX_OK;
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
    .forward = forward,
    .backward = backward,
    .step = forward,
    .state = state,
    .begin_as = begin_as,
    .ops = ops,
    .cases = cases,
    .bench = plx_nexus_bench,
};
