/* gate.c - the gate of nexus layers, compiled for each level. Work is cut into parts of a fixed size; the gate's
 * gradient is summed within each part and then over the parts in order. */
#include "kernels/cpu/parts.h"
#include "mixers/nexus/nexus_ops.h"

#include <math.h>

typedef struct forward_work { const plx_nexus_gate_args *a; float share; } forward_work;

static void forward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const forward_work *w = argument;
    const float *base = w->a->base, *refined = w->a->refined;
    float *out = w->a->out;
    size_t end = plx_part_end(w->a->count, PLX_PART_ELEMENTS, index);
    for (size_t i = index * PLX_PART_ELEMENTS; i < end; i += PLX_VW) {
        vf b = vf_next(base + i, end - i), r = vf_next(refined + i, end - i);
        vf_put(out + i, b + vf_set(w->share) * (r - b), end - i);
    }
}

plx_status PLX_CPU(plx_nexus_gate_forward)(plx_context *context, const void *arguments)
{
    const plx_nexus_gate_args *a = arguments;
    forward_work w = {a, (float)tanh(plx_get(a->gate, a->gate_type, 0))};
    plx_parallel_for(context, plx_parts(a->count, PLX_PART_ELEMENTS), forward_part, &w);
    return PLX_OK;
}

typedef struct backward_work { const plx_nexus_gate_backward_args *a; float share, rest; double *sums; } backward_work;

static void backward_part(void *argument, size_t index, int thread)
{
    (void)thread;
    const backward_work *w = argument;
    const float *base = w->a->base, *refined = w->a->refined, *dout = w->a->dout;
    float *drefined = w->a->drefined, *dbase = w->a->dbase;
    size_t end = plx_part_end(w->a->count, PLX_PART_ELEMENTS, index);
    double sum = 0;
    for (size_t i = index * PLX_PART_ELEMENTS; i < end;) {
        vf total = vf_set(0.0f);
        size_t stop = end - i > 64 * PLX_VW ? i + 64 * PLX_VW : end; /* lanes in float, stretches in double */
        for (; i < stop; i += PLX_VW) {
            vf d = vf_next(dout + i, end - i);
            total += d * (vf_next(refined + i, end - i) - vf_next(base + i, end - i));
            vf_put(dbase + i, vf_next(dbase + i, end - i) + vf_set(w->rest) * d, end - i);
            vf_put(drefined + i, vf_set(w->share) * d, end - i);
        }
        sum += vf_sum(total);
    }
    w->sums[index] = sum;
}

plx_status PLX_CPU(plx_nexus_gate_backward)(plx_context *context, const void *arguments)
{
    const plx_nexus_gate_backward_args *a = arguments;
    double share = tanh(plx_get(a->gate, a->gate_type, 0)), sum = 0;
    size_t parts = plx_parts(a->count, PLX_PART_ELEMENTS);
    backward_work w = {a, (float)share, (float)(1 - share), plx_kernel_scratch(context, parts * sizeof(double))};
    if (w.sums == NULL) return PLX_ERROR_MEMORY;
    plx_parallel_for(context, parts, backward_part, &w);
    for (size_t i = 0; i < parts; i++) sum += w.sums[i];
    if (a->dgate != NULL) *(float *)a->dgate += (float)((1 - share * share) * sum);
    return PLX_OK;
}
