/* backward.c - the gradients of a nexus layer. */
#include "mixers/nexus/layer.h"

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

plx_status plx_nexus_backward(plx_run *run, void *own, const void *x, const void *dy, void *dx)
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
