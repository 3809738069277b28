/* layer.h - what a nexus layer holds: its options and parameters, and what forward keeps for backward.
 *
 * Words used here. A branch is the query side or the key side. Its role at level i (0: the plain projection, up to
 * order - 1) goes through: refined -> gate -> raw -> QK norm, RoPE -> turned. Only turned roles meet in an attention.
 *     reproject   level i of both branches is made from the whole layer's output at level i - 1
 *     self, own   each refined branch has inner attentions of its own; one outer attention closes the layer
 * The values of the outer attentions are those of x at every level. The step is the forward with keys and values
 * appended to the state, in the order of `state`. */
#ifndef PLX_MIXERS_NEXUS_LAYER_H
#define PLX_MIXERS_NEXUS_LAYER_H

#include "mixers/attention/attend.h"
#include "mixers/nexus/nexus_ops.h"

#define LEVELS PLX_STATE_PARTS_MAX /* every level keeps at least one part, or shares all of them */

enum { QUERY, KEY };
enum { REPROJECT, SELF, OWN };

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

/* As plx_mixer's. */
plx_status plx_nexus_forward(plx_run *run, void *own, const void *x, void *y);
plx_status plx_nexus_backward(plx_run *run, void *own, const void *x, const void *dy, void *dx);

#endif
