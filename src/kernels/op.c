/* op.c - which implementation of an operation runs, and numbers of any type for the references. */
#include "kernels/kernels.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

bool plx_kernel_rounds(const plx_kernel *kernel)
{
    return strcmp(kernel->name, "amx") == 0 || strcmp(kernel->name, "bf16") == 0;
}

static bool usable(const plx_context *context, const plx_kernel *kernel, const void *arguments)
{
    if (kernel->level > context->level) return false;
    if (arguments == NULL) return !plx_kernel_rounds(kernel);
    return kernel->accepts == NULL || kernel->accepts(arguments);
}

const plx_kernel *plx_op_choose(const plx_context *context, const plx_op *op, const void *arguments)
{
    for (int i = context->choice_count - 1; i >= 0; i--) { /* the latest choice first */
        if (fnmatch(context->choices[i].op, op->name, 0) != 0) continue;
        for (const plx_kernel *kernel = op->kernels; kernel->run != NULL; kernel++)
            if (strcmp(kernel->name, context->choices[i].kernel) == 0 && usable(context, kernel, arguments))
                return kernel;
    }
    for (const plx_kernel *kernel = op->kernels; kernel->run != NULL; kernel++)
        if (usable(context, kernel, arguments)) return kernel;
    return NULL;
}

plx_status plx_op_run(plx_context *context, const plx_op *op, const void *arguments)
{
    const plx_kernel *kernel = plx_op_choose(context, op, arguments);
    if (kernel == NULL)
        return plx_fail(context, PLX_ERROR_INTERNAL, "operation %s has no implementation for its arguments", op->name);
    context->device->enter(context);
    plx_status status = plx_profile_run(context, op, kernel, arguments);
    context->device->leave(context);
    return status;
}

/* ---- 16-bit numbers: a sign, `exponent` bits and `mantissa` bits ---- */

static double decode16(uint16_t bits, int mantissa, int exponent)
{
    int bias = (1 << (exponent - 1)) - 1, top = (1 << exponent) - 1;
    int field = bits >> mantissa & top, fraction = bits & ((1 << mantissa) - 1);
    double value;
    if (field == top) value = fraction != 0 ? NAN : INFINITY;
    else if (field == 0) value = ldexp(fraction, 1 - bias - mantissa);
    else value = ldexp(fraction + (1 << mantissa), field - bias - mantissa);
    return bits >> 15 ? -value : value;
}

/* Rounds once, to nearest, ties to even. */
static uint16_t encode16(double value, int mantissa, int exponent)
{
    int least = 2 - (1 << (exponent - 1)); /* exponent of the smallest normal number */
    uint32_t infinity = (uint32_t)((1 << exponent) - 1) << mantissa;
    uint32_t sign = signbit(value) ? 0x8000u : 0u, code;
    double magnitude = fabs(value);
    if (isnan(value)) code = infinity | 1u << (mantissa - 1);
    else if (isinf(value)) code = infinity;
    else {
        int power = magnitude > 0.0 ? ilogb(magnitude) : least;
        if (power < least) power = least;
        if (power > 1 - least) power = 1 - least; /* beyond the largest: the code below passes infinity's */
        double steps = nearbyint(fmin(ldexp(magnitude, mantissa - power), 0x1p30));
        code = (uint32_t)steps + ((uint32_t)(power - least) << mantissa); /* a carry moves on to the next power */
        if (code > infinity) code = infinity;
    }
    return (uint16_t)(sign | code);
}

double plx_get(const void *data, plx_type type, size_t i)
{
    switch (type) {
    case PLX_F32: return ((const float *)data)[i];
    case PLX_F64: return ((const double *)data)[i];
    case PLX_BF16: return decode16(((const uint16_t *)data)[i], 7, 8);
    case PLX_F16: return decode16(((const uint16_t *)data)[i], 10, 5);
    }
    return NAN;
}

void plx_put(void *data, plx_type type, size_t i, double value)
{
    switch (type) {
    case PLX_F32: ((float *)data)[i] = (float)value; break;
    case PLX_F64: ((double *)data)[i] = value; break;
    case PLX_BF16: ((uint16_t *)data)[i] = encode16(value, 7, 8); break;
    case PLX_F16: ((uint16_t *)data)[i] = encode16(value, 10, 5); break;
    }
}
