/* nexus_ops.h - the gate of nexus layers, which blends refined queries or keys with the plain ones. */
#ifndef PLX_MIXERS_NEXUS_OPS_H
#define PLX_MIXERS_NEXUS_OPS_H

#include "kernels/kernels.h"

/* out = base + tanh(g) (refined - base) */
typedef struct plx_nexus_gate_args {
    plx_type type, gate_type;
    size_t count;
    const void *base, *refined; /* [count] */
    const void *gate;           /* g, one number of gate_type */
    void *out;                  /* [count]; may be base or refined */
} plx_nexus_gate_args;
extern const plx_op plx_op_nexus_gate_forward;

/* drefined = tanh(g) dout,  dbase += (1 - tanh(g)) dout,  dgate += (1 - tanh(g)^2) sum of dout (refined - base) */
typedef struct plx_nexus_gate_backward_args {
    plx_type type, gate_type;
    size_t count;
    const void *base, *refined, *gate, *dout;
    void *drefined; /* may be dout */
    void *dbase;    /* += */
    void *dgate;    /* one number of `type`, +=; NULL when frozen */
} plx_nexus_gate_backward_args;
extern const plx_op plx_op_nexus_gate_backward;

plx_status plx_nexus_gate_forward_ref(plx_context *context, const void *arguments);
plx_status plx_nexus_gate_backward_ref(plx_context *context, const void *arguments);

#endif
