/* ref.c - the gate in plain loops and double precision. */
#include "mixers/nexus/nexus_ops.h"

#include <math.h>

plx_status plx_nexus_gate_forward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_nexus_gate_args *a = arguments;
    double share = tanh(plx_get(a->gate, a->gate_type, 0));
    for (size_t i = 0; i < a->count; i++) {
        double base = plx_get(a->base, a->type, i);
        plx_put(a->out, a->type, i, base + share * (plx_get(a->refined, a->type, i) - base));
    }
    return PLX_OK;
}

plx_status plx_nexus_gate_backward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_nexus_gate_backward_args *a = arguments;
    double share = tanh(plx_get(a->gate, a->gate_type, 0)), sum = 0;
    for (size_t i = 0; i < a->count; i++) {
        double dout = plx_get(a->dout, a->type, i);
        sum += dout * (plx_get(a->refined, a->type, i) - plx_get(a->base, a->type, i));
        plx_put(a->dbase, a->type, i, plx_get(a->dbase, a->type, i) + (1 - share) * dout);
        plx_put(a->drefined, a->type, i, share * dout);
    }
    if (a->dgate != NULL) plx_put(a->dgate, a->type, 0, plx_get(a->dgate, a->type, 0) + (1 - share * share) * sum);
    return PLX_OK;
}
