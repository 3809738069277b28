/* peak.c - the most that one thread can multiply and read, at one level. The chains of multiply-adds are many enough to
 * cover their latency and few enough for the registers (16, or 32 with AVX-512). */
#include "core/cpu/peak.h"

#include "kernels/cpu/vec.h"

enum { CHAINS = 12 };

plx_status PLX_CPU(plx_peak_multiply)(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_peak_multiply_args *args = arguments;
    vf chain[CHAINS];
    const vf x = vf_set(0.999f), y = vf_set(0.001f); /* all chains go towards 1: no infinities, no tiny numbers */
    for (int i = 0; i < CHAINS; i++) chain[i] = vf_set(0.03f * (float)i); /* none begins at 1, where it would stay */
    for (size_t round = 0; round < args->rounds; round++)
        for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * x + y;
    vf sum = chain[0];
    for (int i = 1; i < CHAINS; i++) sum = sum + chain[i];
    *args->sum = vf_sum(sum);
    *args->flops = 2.0 * CHAINS * PLX_VW * (double)args->rounds;
    return PLX_OK;
}

plx_status PLX_CPU(plx_peak_read)(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_peak_read_args *args = arguments;
    vf sum[8] = {{0}};
    size_t i = 0;
    for (; i + 8 * PLX_VW <= args->count; i += 8 * PLX_VW)
        for (size_t k = 0; k < 8; k++) sum[k] = sum[k] + vf_load(args->data + i + k * PLX_VW);
    float total = 0.0f;
    for (size_t k = 0; k < 8; k++) total += vf_sum(sum[k]);
    for (; i < args->count; i++) total += args->data[i];
    *args->sum = total;
    return PLX_OK;
}
