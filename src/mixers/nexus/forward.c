/* forward.c - the layer's output, and the step, which is the forward with keys and values appended to the state. */
#include "mixers/nexus/layer.h"

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

plx_status plx_nexus_forward(plx_run *run, void *own, const void *x, void *y)
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
