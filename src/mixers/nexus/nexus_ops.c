/* nexus_ops.c - the lists of implementations of the gate. */
#include "mixers/nexus/nexus_ops.h"

PLX_CPU_DECLARE(plx_nexus_gate_forward)
PLX_CPU_DECLARE(plx_nexus_gate_backward)

static bool forward_accepts(const void *arguments)
{
    return ((const plx_nexus_gate_args *)arguments)->type == PLX_F32;
}

static bool backward_accepts(const void *arguments)
{
    return ((const plx_nexus_gate_backward_args *)arguments)->type == PLX_F32;
}

const plx_op plx_op_nexus_gate_forward = {
    "nexus.gate_forward", NULL,
    (const plx_kernel[]){PLX_CPU_KERNELS(plx_nexus_gate_forward, forward_accepts)
                         {"ref", PLX_LEVEL_PORTABLE, NULL, plx_nexus_gate_forward_ref}, {0}}};

const plx_op plx_op_nexus_gate_backward = {
    "nexus.gate_backward", NULL,
    (const plx_kernel[]){PLX_CPU_KERNELS(plx_nexus_gate_backward, backward_accepts)
                         {"ref", PLX_LEVEL_PORTABLE, NULL, plx_nexus_gate_backward_ref}, {0}}};
