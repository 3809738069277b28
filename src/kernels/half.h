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
/* To nearest, ties to even; NaN stays NaN. */
static inline uint16_t plx_f16_of_float(float value)
{
    uint32_t bits, small;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x47800000) return sign | 0x7c00; /* from 2^16 */
    if (bits < 0x38800000) {                      /* below 2^-14: in steps of 2^-24, which are those of numbers at 1/2 */
        float moved = plx_float_of_bits(bits) + 0.5f;
        memcpy(&small, &moved, sizeof small);
        return sign | (uint16_t)(small - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits - (112u << 23)) >> 13);
}

#endif
