/* ref.c - the grassmann operations in plain loops and double precision: every wedge is formed, normalised and
 * averaged as mixers write it down. Products of two f32 numbers are exact in double, so on f32 inputs each component
 * of a wedge is right to one rounding, however nearly parallel the vectors are. Never tuned. */
#include "mixers/grassmann/grassmann_ops.h"

#include <math.h>

plx_status plx_grassmann_reduce_forward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_grassmann_reduce_args *a = arguments;
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t r = 0; r < a->rank; r++) {
            double sum = plx_get(a->bias, a->weight_type, r);
            for (size_t d = 0; d < a->width; d++)
                sum += plx_get(a->x, a->type, t * a->width + d) * plx_get(a->weight, a->weight_type, r * a->width + d);
            plx_put(a->z, a->type, t * a->rank + r, sum);
        }
    return PLX_OK;
}

/* array[i] += value */
static void add_to(void *array, plx_type type, size_t i, double value)
{
    plx_put(array, type, i, plx_get(array, type, i) + value);
}

plx_status plx_grassmann_reduce_backward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_grassmann_reduce_backward_args *a = arguments;
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t d = 0; d < a->width; d++) {
            double sum = 0;
            for (size_t r = 0; r < a->rank; r++)
                sum += a->dz[t * a->rank + r] * plx_get(a->weight, a->weight_type, r * a->width + d);
            add_to(a->dx, a->type, t * a->width + d, sum);
        }
    for (size_t r = 0; r < a->rank; r++) {
        double total = 0;
        for (size_t t = 0; t < a->tokens; t++) total += a->dz[t * a->rank + r];
        if (a->dbias != NULL) add_to(a->dbias, a->type, r, total);
        if (a->dweight == NULL) continue;
        for (size_t d = 0; d < a->width; d++) {
            double sum = 0;
            for (size_t t = 0; t < a->tokens; t++)
                sum += a->dz[t * a->rank + r] * plx_get(a->x, a->type, t * a->width + d);
            add_to(a->dweight, a->type, r * a->width + d, sum);
        }
    }
    return PLX_OK;
}

/* How many offsets token `index`, whose document begins at start, can look back by. */
static size_t count_valid(const plx_grassmann_offsets *offsets, int64_t index, int64_t start)
{
    size_t valid = 0;
    for (size_t o = 0; o < offsets->count; o++) valid += index - offsets->value[o] >= start;
    return valid;
}

/* p = z[now] ^ z[before] (element offsets); returns |p|. */
static double wedge(const void *z, plx_type type, size_t now, size_t before, size_t rank, double *p)
{
    double squares = 0;
    size_t c = 0;
    for (size_t i = 0; i < rank; i++)
        for (size_t j = i + 1; j < rank; j++, c++) {
            p[c] = plx_get(z, type, now + i) * plx_get(z, type, before + j) -
                   plx_get(z, type, now + j) * plx_get(z, type, before + i);
            squares += p[c] * p[c];
        }
    return sqrt(squares);
}

plx_status plx_grassmann_encode_forward_ref(plx_context *context, const void *arguments)
{
    const plx_grassmann_encode_args *a = arguments;
    size_t rank = a->z.width, components = plx_grassmann_components(rank);
    double *p = plx_kernel_scratch(context, 2 * components * sizeof(double));
    if (p == NULL) return PLX_ERROR_MEMORY;
    double *sum = p + components;
    for (size_t n = 0; n < a->count; n++) {
            size_t token = a->first + n, b = token / a->sequence.length, t = token % a->sequence.length;
            int64_t index = (int64_t)t + (a->sequence.past != NULL ? a->sequence.past[b] : 0);
            int64_t start = a->sequence.start[token];
            size_t valid = count_valid(&a->offsets, index, start);
            for (size_t c = 0; c < components; c++) sum[c] = 0;
            for (size_t o = 0; o < a->offsets.count; o++) {
                int64_t before = index - a->offsets.value[o];
                if (before < start) continue;
                double length = wedge(a->z.data, a->type, plx_grassmann_element(&a->z, b, index),
                                      plx_grassmann_element(&a->z, b, before), rank, p);
                for (size_t c = 0; c < components; c++) sum[c] += p[c] / fmax(length, PLX_GRASSMANN_EPSILON);
            }
            for (size_t c = 0; c < components; c++)
                plx_put(a->w, a->type, n * components + c, valid > 0 ? sum[c] / (double)valid : 0);
    }
    return PLX_OK;
}

/* dp from p and dn, in place of p. n = p / max(|p|, eps), so dp = (dn - n (n . dn)) / |p|, or dn / eps. */
static void normalise_backward(double *p, double length, const double *dn, size_t components)
{
    if (length <= PLX_GRASSMANN_EPSILON) {
        for (size_t c = 0; c < components; c++) p[c] = dn[c] / PLX_GRASSMANN_EPSILON;
        return;
    }
    double along = 0;
    for (size_t c = 0; c < components; c++) along += p[c] / length * dn[c];
    for (size_t c = 0; c < components; c++) p[c] = (dn[c] - p[c] / length * along) / length;
}

plx_status plx_grassmann_encode_backward_ref(plx_context *context, const void *arguments)
{
    const plx_grassmann_encode_backward_args *a = arguments;
    size_t rank = a->rank, components = plx_grassmann_components(rank);
    double *p = plx_kernel_scratch(context, 2 * components * sizeof(double));
    if (p == NULL) return PLX_ERROR_MEMORY;
    double *dn = p + components, *dz = a->dz;
    for (size_t i = 0; i < a->count * rank; i++) dz[a->first * rank + i] = 0;
    for (size_t n = 0; n < a->count; n++) {
        size_t token = a->first + n;
        int64_t t = (int64_t)(token % a->sequence.length), start = a->sequence.start[token];
        size_t valid = count_valid(&a->offsets, t, start), now = token * rank;
        if (valid == 0) continue;
        for (size_t c = 0; c < components; c++) dn[c] = plx_get(a->dw, a->type, n * components + c) / (double)valid;
        for (size_t o = 0; o < a->offsets.count; o++) {
            if (!plx_grassmann_has_gradient(a, token, t, a->offsets.value[o])) continue;
            size_t before = (token - (size_t)a->offsets.value[o]) * rank, c = 0;
            double length = wedge(a->z, a->type, now, before, rank, p);
            normalise_backward(p, length, dn, components);
            for (size_t i = 0; i < rank; i++) /* p_ij = x_i y_j - x_j y_i */
                for (size_t j = i + 1; j < rank; j++, c++) {
                    dz[now + i] += p[c] * plx_get(a->z, a->type, before + j);
                    dz[now + j] -= p[c] * plx_get(a->z, a->type, before + i);
                    dz[before + j] += p[c] * plx_get(a->z, a->type, now + i);
                    dz[before + i] -= p[c] * plx_get(a->z, a->type, now + j);
                }
        }
    }
    return PLX_OK;
}

plx_status plx_grassmann_fuse_forward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_grassmann_fuse_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double gate = 1 / (1 + exp(-plx_get(a->gate, a->type, i)));
        plx_put(a->gate, a->type, i, gate);
        plx_put(a->y, a->type, i, gate * plx_get(a->h, a->type, i) + (1 - gate) * plx_get(a->g, a->type, i));
    }
    return PLX_OK;
}

plx_status plx_grassmann_fuse_backward_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_grassmann_fuse_backward_args *a = arguments;
    for (size_t i = 0; i < a->count; i++) {
        double gate = plx_get(a->gate, a->type, i), dy = plx_get(a->dy, a->type, i);
        double difference = plx_get(a->h, a->type, i) - plx_get(a->g, a->type, i);
        plx_put(a->dgate, a->type, i, dy * difference * gate * (1 - gate));
        plx_put(a->dh, a->type, i, dy * gate);
        plx_put(a->dg, a->type, i, dy * (1 - gate));
    }
    return PLX_OK;
}
