/* half.h - numbers of 16 bits as f32, for kernels that convert as they go. */
#ifndef PLX_KERNELS_HALF_H
#define PLX_KERNELS_HALF_H

#include "plexus.h"

#include <string.h>

static inline float plx_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline float plx_float_of_bf16(uint16_t half) { return plx_float_of_bits((uint32_t)half << 16); }
/* Shifts the exponent into f32's place and multiplies by the difference of the biases, 2^112: also for subnormals. */
static inline float plx_float_of_f16(uint16_t half)
{
    uint32_t rest = (uint32_t)(half & 0x7fff) << 13;
    float magnitude = rest >= 0x7c00u << 13 ? plx_float_of_bits(0x7f800000u | rest) /* Inf, NaN */
                                            : plx_float_of_bits(rest) * 0x1p112f;
    return half & 0x8000 ? -magnitude : magnitude;
}

#endif
